//! Debug of the messages that hold a credential: everything but that.

use std::fmt::{Debug, Formatter, Result};

use crate::v1;

impl Debug for v1::IssueTokenResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self {
            id,
            grant,
            workload,
            kid,
            ..
        } = self;
        let mut shown = f.debug_struct("IssueTokenResponse");
        shown
            .field("id", id)
            .field("grant", grant)
            .field("workload", workload)
            .field("kid", kid);
        shown.finish_non_exhaustive()
    }
}

impl Debug for v1::IntrospectTokenRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let mut shown = f.debug_struct("IntrospectTokenRequest");
        shown
            .field("service", &self.service)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl Debug for v1::ValidateAccessRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let mut shown = f.debug_struct("ValidateAccessRequest");
        shown
            .field("service", &self.service)
            .field("target", &self.target)
            .field("peer", &self.peer);
        shown.finish_non_exhaustive()
    }
}

impl Debug for v1::validate_access_request::Target {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Grpc(path) => f.debug_tuple("Grpc").field(path).finish(),
            Self::Http(line) => f.debug_tuple("Http").field(line).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_credential_is_in_debug_output() {
        let secret = || "s3cret".to_owned();
        let shown = [
            format!(
                "{:?}",
                v1::IssueTokenResponse {
                    token: secret(),
                    ..Default::default()
                }
            ),
            format!(
                "{:?}",
                v1::IntrospectTokenRequest {
                    token: secret(),
                    ..Default::default()
                }
            ),
            format!(
                "{:?}",
                v1::ValidateAccessRequest {
                    token: secret(),
                    bearer: secret(),
                    ..Default::default()
                }
            ),
        ];
        assert!(
            shown.iter().all(|shown| !shown.contains("s3cret")),
            "{shown:?}"
        );
    }
}
