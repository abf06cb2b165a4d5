//! The caller's token on each call of the control plane. A token in a file is read for each call, so that a rotated one
//! is used at once and none outlives its file.

use std::fmt;
use std::path::{Path, PathBuf};

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::error::{FileSetting, SettingError};
use crate::tls::read_small;

/// Puts `authorization: Bearer` on each call, if there is a token. Its Debug does not show it.
#[derive(Clone, Default)]
pub struct Bearer(Source);

#[derive(Clone, Default)]
enum Source {
    #[default]
    None,
    Token(MetadataValue<Ascii>),
    File(PathBuf),
}

impl Bearer {
    /// This token, until the end.
    ///
    /// # Errors
    /// When it is empty, or has characters that no header can carry.
    pub fn token(token: &str) -> Result<Self, SettingError> {
        value(token).map(|value| Self(Source::Token(value)))
    }

    /// Whatever token the file then holds.
    ///
    /// # Errors
    /// When it holds none now.
    pub fn file(path: impl Into<PathBuf>) -> Result<Self, SettingError> {
        let path = path.into();
        read(&path)?;
        Ok(Self(Source::File(path)))
    }
}

fn value(token: &str) -> Result<MetadataValue<Ascii>, SettingError> {
    let token = token.trim();
    if token.is_empty() {
        return Err(SettingError::Token);
    }
    let mut value =
        MetadataValue::try_from(format!("Bearer {token}")).map_err(|_| SettingError::Token)?;
    value.set_sensitive(true);
    Ok(value)
}

fn read(path: &Path) -> Result<MetadataValue<Ascii>, SettingError> {
    let refuse = |problem: &str| SettingError::File {
        setting: FileSetting::Token,
        file: path.to_owned(),
        problem: problem.to_owned(),
    };
    let bytes = read_small(FileSetting::Token, path)?;
    let text = str::from_utf8(&bytes).map_err(|_| refuse("holds no text"))?;
    value(text).map_err(|_| refuse("must hold one token and nothing else"))
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value = match &self.0 {
            Source::None => return Ok(request),
            Source::Token(value) => value.clone(),
            // A few kilobytes from a local disk, for calls that are rare.
            Source::File(path) => read(path)
                .map_err(|error| Status::unauthenticated(format!("token file {error}")))?,
        };
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(bearer: &mut Bearer) -> Result<Option<String>, Status> {
        let request = bearer.call(Request::new(()))?;
        let value = request.metadata().get("authorization");
        Ok(value.map(|value| value.to_str().unwrap().to_owned()))
    }

    #[test]
    fn a_credential_is_never_in_debug_output() {
        let bearer = Bearer::token("secret").unwrap();
        assert!(!format!("{bearer:?}").contains("secret"));
        let request = bearer.clone().call(Request::new(())).unwrap();
        assert!(!format!("{:?}", request.metadata()).contains("secret"));
    }

    #[test]
    fn what_no_header_can_carry_is_no_token() {
        for text in ["", " \n", "two\nlines"] {
            assert_eq!(
                Bearer::token(text).unwrap_err(),
                SettingError::Token,
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_rotated_file_is_used_at_once_and_a_lost_one_sends_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        assert!(Bearer::file(&path).is_err());
        std::fs::write(&path, "first\n").unwrap();
        let mut bearer = Bearer::file(&path).unwrap();
        assert_eq!(sent(&mut bearer).unwrap().unwrap(), "Bearer first");
        std::fs::write(&path, "second\n").unwrap();
        assert_eq!(sent(&mut bearer).unwrap().unwrap(), "Bearer second");
        std::fs::write(&path, "").unwrap();
        assert_eq!(
            sent(&mut bearer).unwrap_err().code(),
            tonic::Code::Unauthenticated
        );
    }
}
