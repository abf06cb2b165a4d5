//! How a write is to be made, out of its message: the request id, what a retry of it has to repeat, and the rest.

use prost::Message;

use super::text::reason;
use crate::control::lifecycle::fault::Fault;
use crate::control::lifecycle::write_options::{Transition, WriteOptions};
use crate::model::canonical::{Canonical, Hash};
use crate::wire::v1;

/// Longest request id, in characters.
const REQUEST_ID_MAX: usize = 64;

/// A message that asks for a write.
pub(in crate::control::api) trait Write: Message + Clone {
    /// Keeps the fingerprints of different calls apart.
    const DOMAIN: &'static str;

    /// Takes out how the write is to be made; what is left is what is asked, and has to be the same in a retry.
    fn take_options(&mut self) -> (String, bool);
}

/// The fields after the domain change nothing in what is written either.
macro_rules! writes {
    ($($message:ident $domain:literal $(, $field:ident)*;)*) => {
        $(impl Write for v1::$message {
            const DOMAIN: &'static str = $domain;

            fn take_options(&mut self) -> (String, bool) {
                $(self.$field = Default::default();)*
                (std::mem::take(&mut self.request_id), std::mem::take(&mut self.validate_only))
            }
        })*
    };
}

writes! {
    RequestAccessRequest "jitgate.request_access.v1";
    CancelAccessRequestRequest "jitgate.cancel_access_request.v1";
    ApproveRequestRequest "jitgate.approve_request.v1";
    DenyRequestRequest "jitgate.deny_request.v1";
    ReviewBreakGlassRequest "jitgate.review_break_glass.v1";
    RevokeGrantRequest "jitgate.revoke_grant.v1", wait, timeout;
    RevokeGrantsRequest "jitgate.revoke_grants.v1", wait, timeout;
    ReleaseGrantRequest "jitgate.release_grant.v1";
    ExtendGrantRequest "jitgate.extend_grant.v1";
    SuspendGrantRequest "jitgate.suspend_grant.v1", wait, timeout;
    ResumeGrantRequest "jitgate.resume_grant.v1", wait, timeout;
}

/// How the write of a message is to be made, on the state that `etag` names.
pub(in crate::control::api) fn options<W: Write>(
    wire: &W,
    etag: &str,
) -> Result<WriteOptions, Fault> {
    let mut asked = wire.clone();
    let (request_id, validate_only) = asked.take_options();
    if request_id.chars().count() > REQUEST_ID_MAX {
        return Err(Fault::invalid(
            "request_id",
            format!("is longer than {REQUEST_ID_MAX} characters"),
        ));
    }
    Ok(WriteOptions {
        request_id,
        fingerprint: fingerprint(W::DOMAIN, &asked),
        validate_only,
        etag: etag.to_owned(),
    })
}

fn fingerprint(domain: &str, asked: &impl Message) -> Hash {
    let mut canonical = Canonical::new(domain);
    canonical.bytes(&asked.encode_to_vec());
    canonical.finish()
}

macro_rules! transitions {
    ($($name:ident $message:ident;)*) => {
        $(pub(in crate::control::api) fn $name(wire: v1::$message) -> Result<Transition, Fault> {
            let options = options(&wire, &wire.etag)?;
            Ok(Transition { id: wire.id, reason: reason(wire.reason)?, options })
        })*
    };
}

transitions! {
    cancel CancelAccessRequestRequest;
    revoke RevokeGrantRequest;
    release ReleaseGrantRequest;
    suspend SuspendGrantRequest;
    resume ResumeGrantRequest;
}
