//! How plans are shown: one line a document, its difference, and whom it touches.

use serde_json::{Value, json};

use crate::cli::error::printable;
use crate::cli::render::json::time;
use crate::cli::render::text::{relative, short};
use crate::cli::render::{TextStyle, View};
use crate::wire::v1;

/// What applying would change.
pub(super) struct Planned<'a>(pub(super) &'a v1::PolicyPlan);

impl View for Planned<'_> {
    fn json(&self) -> Value {
        plan(self.0)
    }

    fn text(&self, style: &TextStyle) -> String {
        let Self(plan) = self;
        let mut text = changes(plan, style);
        if plan.errors.is_empty() {
            text += &format!("Plan: {}.\n{}", counts(plan), consequence(plan));
            text += &format!("To apply exactly this, add --plan-digest {}\n", plan.etag);
        } else {
            text += "Nothing of it would be in force.\n";
            if plan
                .errors
                .iter()
                .any(|error| error.cause.contains("is declared at"))
            {
                text += "What the control plane reads from its own --policies directory is changed there, not applied.\n";
            }
        }
        text
    }
}

/// What applying has changed.
pub(super) struct Applied<'a> {
    pub(super) response: &'a v1::ApplyPoliciesResponse,
    pub(super) dry_run: bool,
}

impl View for Applied<'_> {
    fn json(&self) -> Value {
        let response = self.response;
        json!({
            "plan": response.plan.as_ref().map(plan),
            "revision": response.revision,
            "etag": response.etag,
            "grantsRevoked": response.grants_revoked,
            "requestsCancelled": response.requests_cancelled,
            "standingIssued": response.standing_issued,
            "standingEnded": response.standing_ended,
            "repeated": response.repeated,
            "dryRun": self.dry_run,
        })
    }

    fn text(&self, style: &TextStyle) -> String {
        let response = self.response;
        let plan = response.plan.clone().unwrap_or_default();
        let listed = changes(&plan, style);
        if self.dry_run {
            return format!(
                "{listed}Dry run, nothing was changed: {}.\n{}",
                counts(&plan),
                consequence(&plan)
            );
        }
        if response.repeated {
            return format!("Applied before, at revision {}.\n", response.revision);
        }
        let mut text = format!(
            "{listed}Applied at revision {}: {}.\n",
            response.revision,
            counts(&plan)
        );
        if response.standing_issued + response.standing_ended > 0 {
            let (issued, ended) = (response.standing_issued, response.standing_ended);
            text += &format!("Standing grants: {issued} issued, {ended} ended.\n");
        }
        if response.grants_revoked + response.requests_cancelled > 0 {
            let (grants, requests) = (response.grants_revoked, response.requests_cancelled);
            text += &format!(
                "Withdrawn: {grants} grants revoked, {requests} pending requests cancelled.\n"
            );
        } else {
            text += &consequence(&plan);
        }
        text
    }
}

fn counts(plan: &v1::PolicyPlan) -> String {
    format!(
        "{} to add, {} to change, {} to remove, {} unchanged",
        plan.added, plan.changed, plan.removed, plan.unchanged
    )
}

/// What is easily overlooked: a policy that goes does not take its grants with it.
fn consequence(plan: &v1::PolicyPlan) -> String {
    match (plan.withdrawn_grants, plan.withdrawn_requests) {
        (0, 0) => String::new(),
        (grants, requests) => format!(
            "Under policies that no longer decide: {grants} live grants, {requests} pending requests. They go on to their \
             end, unless they end now with --revoke-withdrawn.\n"
        ),
    }
}

fn changes(plan: &v1::PolicyPlan, style: &TextStyle) -> String {
    let mut text = String::new();
    for (problem, kind) in plan
        .errors
        .iter()
        .map(|error| (error, ""))
        .chain(plan.warnings.iter().map(|warning| (warning, " warning:")))
    {
        text += &(printable(&problem_line(problem, kind)) + "\n");
    }
    for change in plan
        .changes
        .iter()
        .filter(|change| change.action() != v1::PolicyAction::Keep)
    {
        text += &change_text(change, style);
    }
    text
}

fn problem_line(problem: &v1::PolicyProblem, kind: &str) -> String {
    let place = if problem.line == 0 {
        String::new()
    } else {
        format!("{}:{}:", problem.line, problem.column)
    };
    let field = if problem.field.is_empty() {
        String::new()
    } else {
        format!(" {}:", problem.field)
    };
    format!("{}:{place}{kind}{field} {}", problem.file, problem.cause)
}

fn change_text(change: &v1::PolicyChange, style: &TextStyle) -> String {
    let mark = match change.action() {
        v1::PolicyAction::Add => "+",
        v1::PolicyAction::Change => "~",
        v1::PolicyAction::Remove => "-",
        v1::PolicyAction::Keep | v1::PolicyAction::Unspecified => "=",
    };
    let version = if change.from_version == 0 {
        String::new()
    } else {
        format!(" (version {})", change.from_version)
    };
    let file = if change.file.is_empty() {
        String::new()
    } else {
        format!("  {}", change.file)
    };
    let mut lines = vec![format!(
        "{mark} {} {}{version}{file}",
        change.kind, change.name
    )];
    if change.action() != v1::PolicyAction::Add {
        lines.extend(change.diff.lines().map(|line| format!("    {line}")));
        if change.diff_cut {
            lines.push("    … (the rest is left out)".to_owned());
        }
    }
    if change.withdraws {
        lines.push("  decides nothing after this".to_owned());
    }
    lines.extend(change.grants.iter().map(|grant| grant_line(grant, style)));
    lines.extend(more(
        change.grants.len(),
        change.grants_total,
        "live grants",
    ));
    lines.extend(change.requests.iter().map(|request| {
        format!(
            "  pending request {} of {}, made under version {}",
            request.id,
            short(&request.requester),
            request.policy_version
        )
    }));
    lines.extend(more(
        change.requests.len(),
        change.requests_total,
        "pending requests",
    ));
    lines.iter().map(|line| printable(line) + "\n").collect()
}

fn grant_line(grant: &v1::TouchedGrant, style: &TextStyle) -> String {
    let ends = match &grant.expire_time {
        Some(end) => format!(
            "of version {}, ends {}",
            grant.policy_version,
            relative(Some(end), style)
        ),
        None => "standing".to_owned(),
    };
    format!(
        "  live grant {} of {}, {ends}",
        grant.id,
        short(&grant.subject)
    )
}

fn more(listed: usize, total: i32, what: &str) -> Option<String> {
    let total = usize::try_from(total).unwrap_or_default();
    (total > listed).then(|| format!("  and {} more {what}", total - listed))
}

fn plan(plan: &v1::PolicyPlan) -> Value {
    json!({
        "etag": plan.etag,
        "added": plan.added,
        "changed": plan.changed,
        "removed": plan.removed,
        "unchanged": plan.unchanged,
        "withdrawnGrants": plan.withdrawn_grants,
        "withdrawnRequests": plan.withdrawn_requests,
        "changes": plan.changes.iter().map(change).collect::<Vec<_>>(),
        "errors": plan.errors.iter().map(problem).collect::<Vec<_>>(),
        "warnings": plan.warnings.iter().map(problem).collect::<Vec<_>>(),
    })
}

fn change(change: &v1::PolicyChange) -> Value {
    let grant = |grant: &v1::TouchedGrant| {
        json!({
            "id": grant.id, "subject": grant.subject, "expireTime": time(grant.expire_time.as_ref()),
            "policyVersion": grant.policy_version,
        })
    };
    let request = |request: &v1::TouchedRequest| {
        json!({
            "id": request.id, "requester": request.requester, "subject": request.subject,
            "pendingUntil": time(request.pending_until.as_ref()), "policyVersion": request.policy_version,
        })
    };
    json!({
        "kind": change.kind,
        "name": change.name,
        "action": change.action().as_str_name().trim_start_matches("POLICY_ACTION_"),
        "file": change.file,
        "fromVersion": change.from_version,
        "fromDigest": change.from_digest,
        "toDigest": change.to_digest,
        "diff": change.diff,
        "diffCut": change.diff_cut,
        "withdraws": change.withdraws,
        "grants": change.grants.iter().map(grant).collect::<Vec<_>>(),
        "grantsTotal": change.grants_total,
        "requests": change.requests.iter().map(request).collect::<Vec<_>>(),
        "requestsTotal": change.requests_total,
    })
}

fn problem(problem: &v1::PolicyProblem) -> Value {
    json!({
        "file": problem.file, "line": problem.line, "column": problem.column, "field": problem.field,
        "cause": problem.cause,
    })
}
