//! Unix socket files: a dead process's file is replaced, a live one's refused, ours is removed at the end. Only the
//! configured mode ever lets anybody in.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::{UnixListener, UnixSocket, UnixStream};

/// A process that does not take a connection for this long has a full backlog, and so is alive.
const PROBE: Duration = Duration::from_millis(500);

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// A socket file of ours. Dropping it removes the file, unless another process has put its own there.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // Gone already, or not ours to remove any more: nothing is left to do about it.
            fs::remove_file(&self.path).unwrap_or_default();
        }
    }
}

/// Binds `path` with `mode`, creating its directory.
pub(super) async fn bind(path: &Path, mode: u32) -> anyhow::Result<(UnixListener, SocketFile)> {
    let flag = format!("--listen unix:{}", path.display());
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        fs::create_dir_all(parent).with_context(|| {
            format!(
                "{flag}: cannot create {}; create it, or choose a directory this user may write",
                parent.display()
            )
        })?;
    }
    clear_stale(path, &flag).await?;
    // Nobody can connect before `listen`, so the mode is in force before the first connection.
    let socket =
        UnixSocket::new_stream().with_context(|| format!("{flag}: cannot make a socket"))?;
    socket
        .bind(path)
        .with_context(|| format!("{flag}: cannot bind; is its directory writable by this user?"))?;
    let file = SocketFile {
        path: path.to_owned(),
        identity: identity(path),
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("{flag}: cannot set mode {mode:04o}"))?;
    let listener = socket
        .listen(BACKLOG)
        .with_context(|| format!("{flag}: cannot listen"))?;
    Ok((listener, file))
}

/// Removes the socket of a process that is gone.
async fn clear_stale(path: &Path, flag: &str) -> anyhow::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            bail!("{flag}: exists and is no socket; remove it or choose another path")
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("{flag}: cannot look at it")),
    }
    let probe = tokio::time::timeout(PROBE, UnixStream::connect(path)).await;
    match probe {
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)
            .with_context(|| format!("{flag}: cannot remove the socket of a dead process")),
        Ok(Err(error)) if error.kind() == ErrorKind::NotFound => Ok(()),
        Ok(Err(error)) => {
            Err(error).with_context(|| format!("{flag}: cannot tell whether its process is alive"))
        }
        Ok(Ok(_)) | Err(_) => {
            bail!("{flag}: another process is listening there; stop it or choose another path")
        }
    }
}

/// Device and inode: which file stands at a path.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path)
        .ok()
        .map(|found| (found.dev(), found.ino()))
}
