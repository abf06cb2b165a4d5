//! `policy history` and `policy show`: what was ever in force.

use serde_json::{Value, json};

use crate::cli::connect::{ClientArgs, connect};
use crate::cli::error::{CliError, Exit, printable};
use crate::cli::render::json::time;
use crate::cli::render::text::{block, moment, table};
use crate::cli::render::{TextStyle, View};
use crate::cli::verbs::requests::with_deadline;
use crate::wire::v1;

/// Lists the versions of a policy, newest first.
///
/// # Errors
/// What the control plane refuses, and what keeps it from answering.
pub async fn history(name: String, client: ClientArgs) -> Result<Exit, CliError> {
    let mut connection = connect(client).await?;
    let (mut versions, mut page_token) = (Vec::new(), String::new());
    loop {
        let ask = v1::ListPolicyVersionsRequest {
            name: name.clone(),
            page_size: 1000,
            page_token,
        };
        let page = connection
            .policies
            .list_policy_versions(with_deadline(ask))
            .await
            .map_err(connection.refusal())?;
        let page = page.into_inner();
        versions.extend(page.versions);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            connection.screen.show(&Versions(versions))?;
            return Ok(Exit::Done);
        }
    }
}

/// Shows one version of a policy; 0: the one in force.
///
/// # Errors
/// What the control plane refuses, and what keeps it from answering.
pub async fn show(name: String, version: u32, client: ClientArgs) -> Result<Exit, CliError> {
    let mut connection = connect(client).await?;
    let ask = v1::GetPolicyRequest {
        name,
        version: version.into(),
    };
    let shown = connection
        .policies
        .get_policy(with_deadline(ask))
        .await
        .map_err(connection.refusal())?;
    connection.screen.show(&Version(shown.into_inner()))?;
    Ok(Exit::Done)
}

struct Versions(Vec<v1::PolicyVersion>);

impl View for Versions {
    fn json(&self) -> Value {
        let version = |version: &v1::PolicyVersion| {
            json!({
                "name": version.name, "version": version.version, "digest": version.digest,
                "createTime": time(version.create_time.as_ref()), "inForce": version.in_force,
            })
        };
        json!({ "versions": self.0.iter().map(version).collect::<Vec<_>>() })
    }

    fn text(&self, style: &TextStyle) -> String {
        let row = |version: &v1::PolicyVersion| {
            vec![
                version.version.to_string(),
                if version.in_force {
                    "in force".to_owned()
                } else {
                    String::new()
                },
                moment(version.create_time.as_ref(), style),
                version.digest.clone(),
            ]
        };
        table(
            style,
            &["VERSION", "", "FIRST IN FORCE", "DIGEST"],
            self.0.iter().map(row).collect(),
        )
    }
}

struct Version(v1::PolicyVersion);

impl View for Version {
    fn json(&self) -> Value {
        let Self(version) = self;
        // Canonical text is JSON already; what is not would be damage, and is shown as it is.
        let content = serde_json::from_str(&version.text)
            .unwrap_or_else(|_| Value::from(version.text.as_str()));
        json!({
            "name": version.name, "version": version.version, "digest": version.digest,
            "createTime": time(version.create_time.as_ref()), "inForce": version.in_force,
            "origin": version.origin, "content": content, "text": version.text, "source": version.source,
        })
    }

    fn text(&self, style: &TextStyle) -> String {
        let Self(version) = self;
        let head = block(&[
            ("Policy", version.name.clone()),
            ("Version", version.version.to_string()),
            (
                "In force",
                if version.in_force { "yes" } else { "no" }.to_owned(),
            ),
            ("From", version.origin.clone()),
            ("Since", moment(version.create_time.as_ref(), style)),
            ("Digest", version.digest.clone()),
        ]);
        let content: Option<Value> = serde_json::from_str(&version.text).ok();
        let canonical = content.and_then(|content| serde_saphyr::to_string(&content).ok());
        let body = if version.source.is_empty() {
            canonical.unwrap_or_else(|| version.text.clone())
        } else {
            version.source.clone()
        };
        let body: String = body.lines().map(|line| printable(line) + "\n").collect();
        format!("{head}\n{body}")
    }
}
