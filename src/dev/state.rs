//! The directory that `jitgate dev` keeps everything in. Private: the directory is 0700, keys and tokens are 0600.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::super::cli::error::CliError;

/// Longest path of a Unix socket: 108 bytes on Linux and 104 elsewhere, with a closing zero.
const SOCKET_PATH_MAX: usize = 103;

/// Where things are, by absolute path.
#[derive(Debug, Clone)]
pub(crate) struct StateDir(PathBuf);

/// Held for as long as a `jitgate dev` uses the directory.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl StateDir {
    /// Creates the directory if need be and closes it to others.
    ///
    /// # Errors
    /// Names the path and the cause.
    pub(crate) fn create(path: &Path) -> Result<Self, CliError> {
        let refuse = |error: std::io::Error| {
            CliError::new(format!("--state-dir: {}: {error}", path.display()))
                .hint("name a directory that you may write to (JITGATE_STATE_DIR)")
        };
        let builder = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path);
        builder(path).map_err(refuse)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(refuse)?;
        let state = Self(path.canonicalize().map_err(refuse)?);
        for part in ["logs", "policies", "data"] {
            builder(&state.at(part)).map_err(refuse)?;
        }
        let socket = state.socket();
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            let cause = format!(
                "--state-dir: {} is too long a path for a Unix socket",
                socket.display()
            );
            return Err(CliError::new(cause)
                .hint("name a directory nearer to the root: --state-dir /tmp/jitgate"));
        }
        Ok(state)
    }

    /// Opens a directory that a `jitgate dev` has made.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn open(path: &Path) -> Result<Self, CliError> {
        let cause = |error| {
            CliError::new(format!("--state-dir: {}: {error}", path.display()))
                .hint("run `jitgate dev` first")
        };
        path.canonicalize().map(Self).map_err(cause)
    }

    /// Takes the directory for this process.
    ///
    /// # Errors
    /// When another `jitgate dev` has it.
    pub(crate) fn lock(&self) -> Result<Lock, CliError> {
        let file = self.options(0o600).truncate(false).open(self.at("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(CliError::new(format!(
                "--state-dir: {} is in use by another `jitgate dev`",
                self.0.display()
            ))
            .hint("end that one, or start this one with another --state-dir and other ports")),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }

    /// Something in it.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Where Envoy asks the sidecar.
    pub(crate) fn socket(&self) -> PathBuf {
        self.at("authz.sock")
    }

    /// Writes a file that only its owner may read, in one step.
    ///
    /// # Errors
    /// Names the path and the cause.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf, CliError> {
        let path = self.at(name);
        let next = self.at(&format!("{name}.new"));
        let write = || {
            drop(fs::remove_file(&next));
            let mut file = self.options(0o600).create_new(true).open(&next)?;
            file.write_all(text.as_bytes())?;
            fs::rename(&next, &path)
        };
        write().map_err(|error| CliError::new(format!("{}: {error}", path.display())))?;
        Ok(path)
    }

    /// Reads a file that an earlier start has written.
    ///
    /// # Errors
    /// Names the path and the cause.
    pub(crate) fn read(&self, name: &str) -> Result<String, CliError> {
        let path = self.at(name);
        fs::read_to_string(&path).map_err(|error| {
            CliError::new(format!("{}: {error}", path.display()))
                .hint("run `jitgate dev` first, or name its --state-dir")
        })
    }

    fn options(&self, mode: u32) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.write(true).create(true).mode(mode);
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn nobody_else_can_look_into_it() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/.jitgate");
        let state = StateDir::create(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        let file = state.write("secret", "x").unwrap();
        assert_eq!(mode(&file), 0o600);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        state.write("secret", "y").unwrap();
        assert_eq!(
            (mode(&file), state.read("secret").unwrap().as_str()),
            (0o600, "y")
        );
    }

    #[test]
    fn a_second_dev_in_the_same_directory_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir::create(parent.path()).unwrap();
        let held = state.lock().unwrap();
        assert!(state.lock().unwrap_err().lines()[0].contains("in use by another"));
        drop(held);
        assert!(state.lock().is_ok());
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_refused_at_once() {
        let parent = tempfile::tempdir().unwrap();
        let error = StateDir::create(&parent.path().join("d".repeat(120))).unwrap_err();
        assert!(error.lines()[0].contains("too long"), "{:?}", error.lines());
    }
}
