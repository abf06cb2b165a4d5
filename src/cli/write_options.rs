//! How a verb that writes is to be carried out: the flags that all of them share, each with variables of its own verb, so
//! that nothing left in a shell aims another one.

use clap::builder::OsStr;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use ulid::Ulid;

use super::error::note;
use crate::wire::v1;

/// The flags of the verb that they stand in; with `--if-match` where there is one state that the write can be meant for.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriteArgs<const IF_MATCH: bool = true> {
    dry_run: bool,
    request_id: Option<String>,
    if_match: Option<String>,
}

impl<const IF_MATCH: bool> WriteArgs<IF_MATCH> {
    /// As the API takes them; with a request id in every case, so that the connection can retry.
    pub(super) fn settle(self) -> v1::WriteOptions {
        let Self {
            dry_run,
            request_id,
            if_match,
        } = self;
        v1::WriteOptions {
            request_id: request_id.unwrap_or_else(|| Ulid::generate().to_string()),
            validate_only: dry_run,
            etag: if_match.unwrap_or_default(),
        }
    }
}

/// Says that nothing was written, if so.
pub(super) fn note_dry_run(options: &v1::WriteOptions) {
    if options.validate_only {
        note("dry run: nothing was changed; this is what would be");
    }
}

// By hand, because a derived flag cannot take the name of its variable from the verb.
impl<const IF_MATCH: bool> clap::Args for WriteArgs<IF_MATCH> {
    fn augment_args(command: Command) -> Command {
        let verb = command.get_name().to_ascii_uppercase().replace('-', "_");
        let variable = |flag: &str| OsStr::from(format!("JITGATE_{verb}_{flag}"));
        let command = command
            .arg(
                Arg::new("dry_run")
                    .long("dry-run")
                    .env(variable("DRY_RUN"))
                    .action(ArgAction::SetTrue)
                    .help("Do everything but write, and show what would be"),
            )
            .arg(
                Arg::new("request_id")
                    .long("request-id")
                    .env(variable("REQUEST_ID"))
                    .value_name("ID")
                    .help("Makes a repetition safe: the same ID gets the first answer again"),
            );
        if !IF_MATCH {
            return command;
        }
        command.arg(
            Arg::new("if_match")
                .long("if-match")
                .env(variable("IF_MATCH"))
                .value_name("ETAG")
                .help("Only if its etag is still this one, as `show -o json` prints it"),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<const IF_MATCH: bool> FromArgMatches for WriteArgs<IF_MATCH> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.dry_run = matches.get_flag("dry_run");
        self.request_id = matches.get_one("request_id").cloned();
        self.if_match = if IF_MATCH {
            matches.get_one("if_match").cloned()
        } else {
            None
        };
        Ok(())
    }
}
