//! How a verb that writes is to be carried out: the flags that all of them share, each with variables of its own verb, so
//! that nothing left in a shell aims another one.

use ulid::Ulid;

use super::error::say;

/// How a write is to be made.
#[derive(Debug, Clone)]
pub(super) struct WriteOptions {
    /// Everything but the writing.
    pub(super) dry_run: bool,
    /// The ID given, or a new one.
    pub(super) request_id: String,
    /// The state that it is meant for; empty: whatever it is now.
    pub(super) etag: String,
}

impl WriteOptions {
    fn new(dry_run: bool, request_id: Option<String>, etag: String) -> Self {
        Self {
            dry_run,
            request_id: request_id.unwrap_or_else(|| Ulid::generate().to_string()),
            etag,
        }
    }

    /// Says that nothing was written, if so.
    pub(super) fn tell(&self) {
        if self.dry_run {
            say("dry run: nothing was changed; this is what would be");
        }
    }
}

/// One set of flags for a verb; with a condition in brackets for the one that names a state.
macro_rules! write_options {
    ($($(#[$doc:meta])* $name:ident $verb:literal $([$($condition:tt)*])?;)*) => {
        $($(#[$doc])*
        #[derive(Debug, Clone, Default, clap::Args)]
        pub(crate) struct $name {
            /// Do everything but write, and show what would be
            #[arg(long, env = concat!("JITGATE_", $verb, "_DRY_RUN"))]
            dry_run: bool,
            /// Makes a repetition safe: the same ID gets the first answer again
            #[arg(long, env = concat!("JITGATE_", $verb, "_REQUEST_ID"), value_name = "ID")]
            request_id: Option<String>,
            /// Only if its etag is still this one, as `show -o json` prints it
            #[arg(long, env = concat!("JITGATE_", $verb, "_IF_MATCH"), value_name = "ETAG", $($($condition)*)?)]
            if_match: Option<String>,
        }

        impl $name {
            pub(super) fn settle(self) -> WriteOptions {
                let Self { dry_run, request_id, if_match } = self;
                WriteOptions::new(dry_run, request_id, if_match.unwrap_or_default())
            }
        })*
    };
}

write_options! {
    /// Of `jitgate cancel`.
    CancelManner "CANCEL";
    /// Of `jitgate approve`.
    ApproveManner "APPROVE";
    /// Of `jitgate deny`.
    DenyManner "DENY";
    /// Of `jitgate review`.
    ReviewManner "REVIEW";
    /// Of `jitgate revoke`.
    RevokeManner "REVOKE" [conflicts_with_all = ["subject", "service"]];
    /// Of `jitgate release`.
    ReleaseManner "RELEASE";
    /// Of `jitgate extend`.
    ExtendManner "EXTEND";
    /// Of `jitgate suspend`.
    SuspendManner "SUSPEND";
    /// Of `jitgate resume`.
    ResumeManner "RESUME";
}

/// Of `jitgate request`: there is no state yet that it could be meant for.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct RequestManner {
    /// Do everything but write, and show what would be
    #[arg(long, env = "JITGATE_REQUEST_DRY_RUN")]
    dry_run: bool,
    /// Makes a repetition safe: the same ID gets the first answer again
    #[arg(long, env = "JITGATE_REQUEST_REQUEST_ID", value_name = "ID")]
    request_id: Option<String>,
}

impl RequestManner {
    pub(super) fn settle(self) -> WriteOptions {
        let Self {
            dry_run,
            request_id,
        } = self;
        WriteOptions::new(dry_run, request_id, String::new())
    }
}
