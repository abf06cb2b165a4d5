//! How a write is to be made, out of its message: the request id, what a retry of it has to repeat, and the state it is meant for.

use prost::Message;

use super::text::reason;
use crate::control::lifecycle::fault::Fault;
use crate::control::lifecycle::write_options::{Transition, WriteOptions};
use crate::model::canonical::Canonical;
use crate::wire::v1;

/// Longest etag that is one.
const ETAG_MAX: usize = 64;
/// Longest request id, in characters.
const REQUEST_ID_MAX: usize = 64;

/// `asked` is the message without its options, nor anything else that changes nothing in what is written: a retry has to
/// repeat it. `domain` keeps different calls apart.
pub(in crate::control::api) fn options(
    domain: &str,
    options: Option<v1::WriteOptions>,
    asked: &impl Message,
) -> Result<WriteOptions, Fault> {
    let v1::WriteOptions {
        request_id,
        validate_only,
        etag,
    } = options.unwrap_or_default();
    if request_id.chars().count() > REQUEST_ID_MAX {
        return Err(Fault::invalid(
            "options.request_id",
            format!("is longer than {REQUEST_ID_MAX} characters"),
        ));
    }
    if etag.len() > ETAG_MAX {
        return Err(Fault::invalid(
            "options.etag",
            "is none; send the etag of what was looked at, or none",
        ));
    }
    let mut canonical = Canonical::new(domain);
    canonical.bytes(&asked.encode_to_vec());
    if !etag.is_empty() {
        canonical.text(&etag);
    }
    Ok(WriteOptions {
        request_id,
        fingerprint: canonical.finish(),
        validate_only,
        etag,
    })
}

/// The same where there is no one state that the write could be meant for.
pub(in crate::control::api) fn options_without_etag(
    domain: &str,
    options: Option<v1::WriteOptions>,
    asked: &impl Message,
) -> Result<WriteOptions, Fault> {
    let options = self::options(domain, options, asked)?;
    if !options.etag.is_empty() {
        return Err(Fault::invalid(
            "options.etag",
            "must be absent: this call changes no one thing that is there",
        ));
    }
    Ok(options)
}

pub(in crate::control::api) fn cancel(
    mut wire: v1::CancelAccessRequestRequest,
) -> Result<Transition, Fault> {
    let options = wire.options.take();
    let options = self::options("jitgate.cancel_access_request.v1", options, &wire)?;
    transition(wire.id, wire.reason, options)
}

pub(in crate::control::api) fn release(
    mut wire: v1::ReleaseGrantRequest,
) -> Result<Transition, Fault> {
    let options = wire.options.take();
    let options = self::options("jitgate.release_grant.v1", options, &wire)?;
    transition(wire.id, wire.reason, options)
}

pub(in crate::control::api) fn revoke(
    mut wire: v1::RevokeGrantRequest,
) -> Result<Transition, Fault> {
    let options = wire.options.take();
    // How long the caller waits for the answer may be another in a retry.
    wire.wait = v1::RevokeWait::Unspecified.into();
    wire.timeout = None;
    let options = self::options("jitgate.revoke_grant.v1", options, &wire)?;
    transition(wire.id, wire.reason, options)
}

pub(in crate::control::api) fn suspend(
    mut wire: v1::SuspendGrantRequest,
) -> Result<Transition, Fault> {
    let options = wire.options.take();
    wire.wait = v1::RevokeWait::Unspecified.into();
    wire.timeout = None;
    let options = self::options("jitgate.suspend_grant.v1", options, &wire)?;
    transition(wire.id, wire.reason, options)
}

pub(in crate::control::api) fn resume(
    mut wire: v1::ResumeGrantRequest,
) -> Result<Transition, Fault> {
    let options = wire.options.take();
    wire.wait = v1::RevokeWait::Unspecified.into();
    wire.timeout = None;
    let options = self::options("jitgate.resume_grant.v1", options, &wire)?;
    transition(wire.id, wire.reason, options)
}

fn transition(id: String, text: String, options: WriteOptions) -> Result<Transition, Fault> {
    Ok(Transition {
        id,
        reason: reason(text)?,
        options,
    })
}
