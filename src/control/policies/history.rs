//! Every version of every policy that was ever in force, readable for ever.

use crate::control::lifecycle::caller::Caller;
use crate::control::lifecycle::fault::Fault;
use crate::control::lifecycle::plane::Plane;
use crate::control::policy::{Listed, Origin};
use crate::wire::store::{AppliedDocument, PolicyVersion};

const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: i32 = 1000;

/// One version.
#[derive(Debug)]
pub(crate) struct Version {
    /// As the store has it.
    pub row: PolicyVersion,
    /// Whether it decides now.
    pub in_force: bool,
    /// How it was written, when it is in force and was applied.
    pub applied: Option<AppliedDocument>,
    /// The file that declares it, when it is in force and lies in one.
    pub file: Option<String>,
}

impl Plane {
    /// A page of the versions of one policy, newest first, and the token of the next. Administrators only.
    ///
    /// # Errors
    /// NOT_ELIGIBLE, NOT_FOUND, INVALID_ARGUMENT for a page that cannot be meant.
    pub(crate) async fn policy_versions(
        &self,
        caller: &Caller,
        name: &str,
        (size, token): (i32, &str),
    ) -> Result<(Vec<Version>, String), Fault> {
        caller.must_be_admin("read the history of policies")?;
        let size = match size {
            0 => PAGE_DEFAULT,
            1..=PAGE_MAX => usize::try_from(size).unwrap_or(PAGE_DEFAULT),
            _ => {
                return Err(Fault::invalid(
                    "page_size",
                    "must be 1 to 1000, or 0 for 100",
                ));
            }
        };
        let refuse = |_| Fault::invalid("page_token", "is not a next_page_token of this server");
        let below: u64 = if token.is_empty() {
            u64::MAX
        } else {
            token.parse().map_err(refuse)?
        };
        let named = name.to_owned();
        let (rows, current) = self
            .store()
            .read(move |reader| {
                let rows = reader.policy_versions(&named, below, size + 1)?;
                if rows.is_empty() && below == u64::MAX {
                    return Err(Fault::not_found("policy", &named));
                }
                Ok((rows, reader.current_policy(&named)?))
            })
            .await?;
        let more = rows.len() > size;
        let last = rows
            .get(size.saturating_sub(1))
            .map(|row| row.version.to_string())
            .filter(|_| more);
        let version = |row: PolicyVersion| {
            let in_force = current == u64::try_from(row.version).ok();
            Version {
                row,
                in_force,
                applied: None,
                file: None,
            }
        };
        Ok((
            rows.into_iter().take(size).map(version).collect(),
            last.unwrap_or_default(),
        ))
    }

    /// One version of a policy; 0: the one in force. Administrators only.
    ///
    /// # Errors
    /// NOT_ELIGIBLE, NOT_FOUND.
    pub(crate) async fn policy_version(
        &self,
        caller: &Caller,
        name: &str,
        version: i64,
    ) -> Result<Version, Fault> {
        caller.must_be_admin("read the history of policies")?;
        let wanted = u64::try_from(version)
            .map_err(|_| Fault::invalid("version", "must be 1 or more, or 0"))?;
        let named = name.to_owned();
        let mut found = self
            .store()
            .read(move |reader| {
                let current = reader.current_policy(&named)?;
                let wanted = if wanted == 0 {
                    current.unwrap_or_default()
                } else {
                    wanted
                };
                let row = reader
                    .policy(&named, wanted)?
                    .ok_or_else(|| Fault::not_found("policy version", &named))?;
                let in_force = current == Some(wanted);
                let documents = reader.applied_documents()?.into_iter();
                let mut of_policy =
                    documents.filter(|of| of.kind == "AccessPolicy" && of.name == named);
                let applied = of_policy.next().filter(|_| in_force);
                Ok::<_, Fault>(Version {
                    row,
                    in_force,
                    applied,
                    file: None,
                })
            })
            .await?;
        if found.in_force && found.applied.is_none() {
            found.file = self.file_of(name).await;
        }
        Ok(found)
    }

    /// `None` too when the policies cannot be read now: the version is shown all the same, without its file.
    async fn file_of(&self, policy: &str) -> Option<String> {
        let set = self
            .assemble(self.sources().beside.load_full())
            .await
            .ok()?
            .ok()?;
        let is_it =
            |document: &&Listed| document.kind == "AccessPolicy" && *document.name == *policy;
        let document = set.documents().iter().find(is_it)?;
        (document.origin == Origin::Directory).then(|| document.file.display().to_string())
    }
}
