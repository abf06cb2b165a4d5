//! How a verb that writes is to be carried out: the flags that all of them share.

use ulid::Ulid;

use super::trouble::say;

/// The flags of every verb that writes.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct OnceArgs {
    /// Do everything but write, and show what would be
    #[arg(long, env = "JITGATE_DRY_RUN")]
    pub dry_run: bool,
    /// Makes a repetition safe: the same ID gets the first answer again
    #[arg(long, env = "JITGATE_REQUEST_ID", value_name = "ID")]
    pub request_id: Option<String>,
}

impl OnceArgs {
    /// The ID given, or a new one.
    pub(super) fn id(&self) -> String {
        self.request_id.clone().unwrap_or_else(|| Ulid::generate().to_string())
    }

    /// Says that nothing was written, if so.
    pub(super) fn tell(&self) {
        if self.dry_run {
            say("dry run: nothing was changed; this is what would be");
        }
    }
}

/// The flags of every verb that changes one thing.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct MannerArgs {
    /// Whether and under which ID.
    #[command(flatten)]
    pub once: OnceArgs,
    /// Only if its etag is still this one, as `show -o json` prints it
    #[arg(long, env = "JITGATE_IF_MATCH", value_name = "ETAG", default_value = "")]
    pub if_match: String,
}
