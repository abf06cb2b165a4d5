//! Policies as they are enforced: who may ask for what, for how long, and what decides it. Whether an access request
//! is approved is ruled elsewhere; nothing here evaluates a condition or reads a file.

use std::sync::Arc;
use std::time::Duration;

use regex::{Regex, RegexBuilder};

use super::approval::Stage;
use super::grant::Staleness;
use super::identity::Principal;
use super::scope::Scope;
use super::time::Timestamp;
use super::window::Window;

mod break_glass;
mod decision;
mod digest;
mod matcher;
mod person;

pub(crate) use break_glass::{BREAK_GLASS_OPEN_MAX, BREAK_GLASS_REASON_MIN, BreakGlass};
pub(crate) use decision::{Ask, Outcome, PolicyDecision, PolicyPin, Refusal, RefusalReason, Would};
pub(crate) use digest::PolicyDigest;
pub(crate) use matcher::{Matcher, Subjects};
pub(crate) use person::{ACCOUNTS_MAX, Person, Persons};

/// Longest reason that any policy accepts, in characters.
pub(crate) const REASON_MAX: usize = 1000;
/// Most tickets in one access request.
pub(crate) const TICKETS_MAX: usize = 16;
/// Longest ticket, in characters.
pub(crate) const TICKET_MAX: usize = 128;
/// Most entries in a policy's list of requesters, subjects or workloads, and most principals of a caller.
pub(crate) const LIST_MAX: usize = 256;
/// Most workloads that a grant, and hence an access request, can name as `via`. Every sidecar holds them.
pub(crate) const VIA_MAX: usize = 32;
/// Shortest time that can be asked for.
pub(crate) const DURATION_MIN: Duration = Duration::from_secs(1);
/// How far ahead access can be asked for to begin.
pub(crate) const START_AHEAD_MAX: Duration = Duration::from_secs(90 * 24 * 3600);
/// How often a grant can be extended when its policy does not say.
pub(crate) const EXTENSIONS_DEFAULT: u32 = 1;
/// Most extensions that a policy can allow.
pub(crate) const EXTENSIONS_MAX: u32 = 100;
/// Longest time that a policy can allow.
pub(crate) const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Who may ask for what, for how long, and what decides it. Immutable; its digest names exactly this content.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessPolicy {
    /// Unique within a set.
    pub name: Arc<str>,
    /// SHA-256 of [`AccessPolicy::canonical`].
    pub digest: PolicyDigest,
    /// The content as canonical JSON: the same for every spelling of the same policy.
    pub canonical: Arc<str>,
    /// Whether it decides.
    pub mode: Mode,
    /// The highest applicable one decides.
    pub priority: i32,
    /// Who may ask: any one principal of the caller suffices.
    pub requesters: Vec<Matcher>,
    /// For whom.
    pub subjects: Subjects,
    /// When not empty, a request must name its workloads and each must match.
    pub via: Vec<Matcher>,
    /// A request's scope must lie within.
    pub scope: Scope,
    /// What its owner calls the place: `production`. For conditions; empty when it has no name.
    pub environment: Arc<str>,
    /// Whether a request's scope may itself hold a wildcard.
    pub allow_wildcard: bool,
    /// How long.
    pub duration: DurationRule,
    /// When access under it can exist; empty: always.
    pub windows: Vec<Window>,
    /// How long a request may wait for people.
    pub pending_ttl: Duration,
    /// What the reason must look like.
    pub reason: ReasonRule,
    /// What the tickets must look like.
    pub tickets: TicketRule,
    /// What is decided without people, in order.
    pub auto: Vec<AutoRule>,
    /// Which people decide the rest; empty: nobody can, and the request waits until its time is up.
    pub approval: Vec<Stage>,
    /// Who may have access at once, without these people; absent: nobody.
    pub break_glass: Option<BreakGlass>,
    /// What its grants count for while a sidecar is cut off.
    pub staleness: Staleness,
}

impl AccessPolicy {
    /// How long a grant may lie unused before it ends by itself; `None`: as long as it lasts.
    pub const fn unused_ttl(&self) -> Option<Duration> {
        self.duration.unused_ttl
    }
}

/// Whether a policy decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// It does.
    #[default]
    Enforce,
    /// It is evaluated and reported, and decides nothing.
    Shadow,
    /// It is not even evaluated.
    Disabled,
}

impl Mode {
    /// As written in a policy file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
            Self::Disabled => "disabled",
        }
    }
}

/// How long a grant lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurationRule {
    /// When the request does not say.
    pub default: Duration,
    /// At most.
    pub max: Duration,
    /// How long a grant may lie unused; absent: as long as it lasts.
    pub unused_ttl: Option<Duration>,
    /// How often a grant can be extended.
    pub max_extensions: u32,
    /// How long a grant and its extensions can last together, counted from where the first one began.
    pub max_total: Duration,
}

impl DurationRule {
    /// As a policy has it that says no more than this: one extension, and no longer than `max` in all.
    pub const fn new(default: Duration, max: Duration) -> Self {
        Self {
            default,
            max,
            unused_ttl: None,
            max_extensions: EXTENSIONS_DEFAULT,
            max_total: max,
        }
    }
}

/// What the reason must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReasonRule {
    /// Whether there must be one.
    pub required: bool,
    /// Fewest characters, blanks around it not counted.
    pub min_length: usize,
    /// Found somewhere in it.
    pub pattern: Option<Pattern>,
    /// Shown to whoever is refused for it.
    pub help: Option<Arc<str>>,
}

/// What the tickets must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TicketRule {
    /// Whether there must be at least one.
    pub required: bool,
    /// What each must match from its first character to its last.
    pub pattern: Option<Pattern>,
    /// Shown to whoever is refused for it.
    pub help: Option<Arc<str>>,
}

/// A decision without people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutoRule {
    /// Unique within its policy.
    pub name: Arc<str>,
    /// A CEL expression.
    pub when: Arc<str>,
    /// What it does when the expression is true.
    pub effect: Effect,
    /// An approving rule does not match a longer request.
    pub max_duration: Option<Duration>,
    /// For whoever asked.
    pub message: Option<Arc<str>>,
}

/// What an automatic rule does. A denial beats every approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Issues the grant.
    Approve,
    /// Refuses it.
    Deny,
}

impl Effect {
    /// As written in a policy file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approve => "APPROVE",
            Self::Deny => "DENY",
        }
    }
}

/// Access that does not end by itself, declared by an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandingGrant {
    /// Unique within a set; the grant's id.
    pub name: Arc<str>,
    /// SHA-256 of [`StandingGrant::canonical`].
    pub digest: PolicyDigest,
    /// The content as canonical JSON.
    pub canonical: Arc<str>,
    /// Who holds it.
    pub subject: Principal,
    /// Only through these workloads; empty: through any.
    pub via: Vec<Principal>,
    /// What it allows.
    pub scope: Scope,
    /// What it counts for while a sidecar is cut off.
    pub staleness: Staleness,
    /// Start of validity; the epoch when the document does not say.
    pub not_before: Timestamp,
}

/// A regular expression of bounded size. Matching takes time linear in the text.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: Arc<str>,
    somewhere: Regex,
    whole: Regex,
}

impl Pattern {
    /// Longest pattern, in bytes.
    pub const BYTES_MAX: usize = 512;
    const PROGRAM_MAX: usize = 1 << 20;

    /// Parses a pattern.
    ///
    /// # Errors
    /// One line that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > Self::BYTES_MAX {
            return Err(format!("is longer than {} bytes", Self::BYTES_MAX));
        }
        let build = |text: &str| {
            RegexBuilder::new(text)
                .size_limit(Self::PROGRAM_MAX)
                .build()
                .map_err(|e| explain(&e))
        };
        let somewhere = build(text)?;
        let whole = build(&format!("\\A(?:{text})\\z"))
            .map_err(|_| "ends in a comment, which would swallow its anchor".to_owned())?;
        Ok(Self {
            text: text.into(),
            somewhere,
            whole,
        })
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it occurs in the text.
    pub fn occurs_in(&self, text: &str) -> bool {
        self.somewhere.is_match(text)
    }

    /// Whether the text is nothing but one match.
    pub fn matches_whole(&self, text: &str) -> bool {
        self.whole.is_match(text)
    }
}

/// The last line of the library's message: the others draw the pattern.
fn explain(error: &regex::Error) -> String {
    if matches!(error, regex::Error::CompiledTooBig(_)) {
        return "is too large once compiled".to_owned();
    }
    let text = error.to_string();
    let cause = text.lines().last().unwrap_or_default().trim();
    format!(
        "is no regular expression: {}",
        cause.strip_prefix("error: ").unwrap_or(cause)
    )
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_tells_somewhere_from_whole() {
        let pattern = Pattern::parse("OPS-\\d+|INC-\\d+").unwrap();
        assert!(pattern.occurs_in("see OPS-12") && !pattern.matches_whole("see OPS-12"));
        assert!(pattern.matches_whole("OPS-12") && pattern.matches_whole("INC-3"));
        assert!(!pattern.matches_whole("OPS-12\n"));
    }

    #[test]
    fn a_pattern_cannot_step_out_of_its_anchors() {
        assert!(
            Pattern::parse("(?x) a # comment")
                .unwrap_err()
                .contains("comment")
        );
        assert!(Pattern::parse("a)|(b").is_err());
    }

    #[test]
    fn a_bad_pattern_says_why_on_one_line() {
        assert_eq!(
            Pattern::parse("(").unwrap_err(),
            "is no regular expression: unclosed group"
        );
        assert!(
            Pattern::parse("(\\w{900}){900}")
                .unwrap_err()
                .contains("too large")
        );
        assert!(
            Pattern::parse(&"a".repeat(513))
                .unwrap_err()
                .contains("longer")
        );
    }
}
