//! Looking at grants, and ending them early.

use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use jitgate_client::DEADLINE;

use crate::wire::grant::duration_to;
use crate::wire::v1;

use super::requests::with_deadline;
use crate::cli::connect::{ClientArgs, Connection, connect};
use crate::cli::error::{CliError, Exit, say};
use crate::cli::render::grants::{Grant, Grants};
use crate::cli::render::receipts::{Enforced, Receipts, Revoked};
use crate::cli::values;
use crate::cli::write_options::{WriteArgs, tell};

/// `jitgate grants`.
#[derive(Debug, clap::Args)]
pub struct GrantsArgs {
    #[command(subcommand)]
    verb: Option<GrantsVerb>,
    #[command(flatten)]
    client: ClientArgs,
}

/// What to do with grants; without one of these the live ones are listed.
#[derive(Debug, Subcommand)]
pub(crate) enum GrantsVerb {
    /// List those you may see, newest first
    List(ListArgs),
    /// Show one
    Show {
        /// Its ID
        id: String,
    },
}

/// Which grants to list.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct ListArgs {
    /// Only those of this subject
    #[arg(long, env = "JITGATE_GRANTS_SUBJECT", value_name = "PRINCIPAL", value_parser = values::principal)]
    subject: Option<String>,
    /// Only those of this service
    #[arg(long, env = "JITGATE_GRANTS_SERVICE", value_parser = values::service)]
    service: Option<String>,
    /// Ended ones, too
    #[arg(long, env = "JITGATE_GRANTS_ALL")]
    all: bool,
}

/// Lists or shows grants.
///
/// # Errors
/// What the control plane refuses, and what keeps it from answering.
pub(crate) async fn grants(args: GrantsArgs) -> Result<Exit, CliError> {
    let GrantsArgs { verb, client } = args;
    let mut connection = connect(client).await?;
    match verb.unwrap_or_else(|| GrantsVerb::List(ListArgs::default())) {
        GrantsVerb::List(which) => {
            let listed = list(&mut connection, which).await?;
            connection.screen.show(&listed)?;
        }
        GrantsVerb::Show { id } => {
            let shown = connection
                .access
                .get_grant(with_deadline(v1::GetGrantRequest { id }))
                .await;
            connection
                .screen
                .show(&Grant(&shown.map_err(connection.refusal())?.into_inner()))?;
        }
    }
    Ok(Exit::Done)
}

async fn list(connection: &mut Connection, which: ListArgs) -> Result<Grants, CliError> {
    let ListArgs {
        subject,
        service,
        all,
    } = which;
    let refusal = connection.refusal();
    let (subject, service) = (subject.unwrap_or_default(), service.unwrap_or_default());
    let mut grants = Vec::new();
    let mut page_token = String::new();
    loop {
        let ask = v1::ListGrantsRequest {
            page_size: 1000,
            page_token,
            subject: subject.clone(),
            service: service.clone(),
            include_ended: all,
        };
        let page = connection
            .access
            .list_grants(with_deadline(ask))
            .await
            .map_err(&refusal)?
            .into_inner();
        grants.extend(page.grants);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(Grants {
                grants,
                revision: page.revision,
            });
        }
    }
}

/// `jitgate revoke`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("which").args(["id", "subject", "service"]).required(true).multiple(true)))]
pub struct RevokeArgs {
    /// The grant's ID
    #[arg(conflicts_with_all = ["subject", "service"])]
    id: Option<String>,
    /// Every live grant of this subject, standing ones left out; with --service, only those there
    #[arg(long, env = "JITGATE_REVOKE_SUBJECT", value_name = "PRINCIPAL", value_parser = values::principal, conflicts_with = "if_match")]
    subject: Option<String>,
    /// Every live grant of this service, standing ones left out
    #[arg(long, env = "JITGATE_REVOKE_SERVICE", value_parser = values::service, conflicts_with = "if_match")]
    service: Option<String>,
    /// With --subject or --service: end standing grants, too; each comes back once its declaration changes
    #[arg(long, env = "JITGATE_REVOKE_INCLUDE_STANDING", conflicts_with = "id")]
    include_standing: bool,
    /// What to wait for; the revoke is durable in every case
    #[arg(long, env = "JITGATE_REVOKE_WAIT", value_enum, default_value_t)]
    wait: Wait,
    /// How long to wait for the sidecars, at most 60s
    #[arg(long, env = "JITGATE_REVOKE_TIMEOUT", value_name = "TIME", value_parser = values::span, default_value = "5s")]
    timeout: Duration,
    /// Why, for the record
    #[arg(
        long,
        env = "JITGATE_REVOKE_REASON",
        value_name = "TEXT",
        default_value = ""
    )]
    reason: String,
    #[command(flatten)]
    options: WriteArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// What a revoke waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Wait {
    /// That it is durable and on its way
    #[default]
    Committed,
    /// That every sidecar of the service enforces it, or has been silent for so long that it refuses by itself
    All,
}

/// Ends grants early. Exit code 1 when it was to wait for every sidecar and one has not confirmed.
///
/// # Errors
/// What the control plane refuses, and what keeps it from answering.
pub(crate) async fn revoke(args: RevokeArgs) -> Result<Exit, CliError> {
    let RevokeArgs {
        id,
        subject,
        service,
        include_standing,
        wait,
        timeout,
        reason,
        options,
        client,
    } = args;
    let options = options.settle();
    let mut connection = connect(client).await?;
    let refusal = connection.refusal();
    let (until, limit) = (wait.to_wire(), Some(duration_to(timeout)));
    let response = if let Some(id) = id {
        let ask = v1::RevokeGrantRequest {
            id,
            reason,
            wait: until,
            timeout: limit,
            options: Some(options.clone()),
        };
        connection.access.revoke_grant(deadline(ask, timeout)).await
    } else {
        let (subject, service) = (subject.unwrap_or_default(), service.unwrap_or_default());
        let ask = v1::RevokeGrantsRequest {
            subject,
            service,
            reason,
            wait: until,
            timeout: limit,
            include_standing,
            options: Some(options.clone()),
        };
        connection
            .access
            .revoke_grants(deadline(ask, timeout))
            .await
    };
    let response = response.map_err(refusal)?.into_inner();
    tell(&options);
    going_on(&response.grants).iter().for_each(|line| say(line));
    let enforced = Enforced::of(response.enforcement.as_ref());
    if wait == Wait::Committed || enforced.0.revision == 0 {
        connection.screen.show(&Revoked(&response))?;
        return Ok(Exit::Done);
    }
    connection.screen.show(&Receipts(&response))?;
    Ok(wait.verdict("revoked", &enforced))
}

impl Wait {
    pub(in crate::cli) fn to_wire(self) -> i32 {
        match self {
            Self::Committed => v1::RevokeWait::Committed.into(),
            Self::All => v1::RevokeWait::All.into(),
        }
    }

    /// Says who has not confirmed, if that was waited for.
    pub(in crate::cli) fn verdict(self, done: &str, enforced: &Enforced<'_>) -> Exit {
        match enforced.outstanding().filter(|_| self == Self::All) {
            None => Exit::Done,
            Some(outstanding) => {
                say(&format!("{done}, but {outstanding}"));
                Exit::Refused
            }
        }
    }
}

pub(in crate::cli) fn deadline<T>(message: T, wait: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(wait + DEADLINE);
    request
}

/// `jitgate release`.
#[derive(Debug, clap::Args)]
pub struct ReleaseArgs {
    /// The grant's ID
    id: String,
    /// What came of it, for the record
    #[arg(
        long,
        env = "JITGATE_RELEASE_REASON",
        value_name = "TEXT",
        default_value = ""
    )]
    reason: String,
    #[command(flatten)]
    options: WriteArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// Ends one's own grant.
///
/// # Errors
/// What the control plane refuses, and what keeps it from answering.
pub(crate) async fn release(args: ReleaseArgs) -> Result<Exit, CliError> {
    let ReleaseArgs {
        id,
        reason,
        options,
        client,
    } = args;
    let options = options.settle();
    let mut connection = connect(client).await?;
    let ask = v1::ReleaseGrantRequest {
        id,
        reason,
        options: Some(options.clone()),
    };
    let released = connection
        .access
        .release_grant(with_deadline(ask))
        .await
        .map_err(connection.refusal())?
        .into_inner();
    tell(&options);
    connection.screen.show(&Grant(&released))?;
    going_on(std::slice::from_ref(&released))
        .iter()
        .for_each(|line| say(line));
    Ok(Exit::Done)
}

/// What is left to somebody whose grants have ended: each grant that extends one of them, unless it has ended with it.
fn going_on(ended: &[v1::Grant]) -> Vec<String> {
    let extended = ended.iter().filter(|grant| !grant.extended_by.is_empty());
    let alive = extended.filter(|grant| ended.iter().all(|other| other.id != grant.extended_by));
    alive
        .map(|grant| {
            format!(
                "hint: grant {} extends {} and does not end with it",
                grant.extended_by, grant.id
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_extends_an_ended_grant_is_named_unless_it_has_ended_too() {
        let extended = v1::Grant {
            id: "01A".into(),
            extended_by: "01B".into(),
            ..Default::default()
        };
        let extension = v1::Grant {
            id: "01B".into(),
            extends: "01A".into(),
            ..Default::default()
        };
        assert_eq!(
            going_on(std::slice::from_ref(&extended)),
            ["hint: grant 01B extends 01A and does not end with it"]
        );
        assert!(going_on(&[extended, extension.clone()]).is_empty());
        assert!(going_on(&[extension]).is_empty());
    }
}
