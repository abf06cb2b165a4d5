//! What decides how checks are answered: the services, the bound on staleness, the mode. Nothing here has a default that allows.

use std::time::Duration;

use crate::model::identity::Service;
use crate::sidecar::check::input::Services;
use crate::sidecar::check::mode::{Mode, Shadow};
use crate::sidecar::check::respond::{DenyDetail, Responder};
use crate::sidecar::state::skew::OnClockSkew;
use crate::support::duration;

/// How checks are answered.
#[derive(Debug, Clone, clap::Args)]
pub struct CheckArgs {
    /// A service this sidecar protects; repeat it for several, and name one per route (context extension jitgate_service).
    #[arg(long, env = "JITGATE_SERVICE", value_name = "NAME", required = true, value_delimiter = ',', value_parser = Service::parse)]
    pub service: Vec<Service>,
    /// An `aud` that callers' tokens may carry beside those of their issuer; repeatable [default: the services].
    #[arg(
        long,
        env = "JITGATE_AUDIENCE",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub audience: Vec<String>,
    /// Past this silence of the control plane the answer is STALE, not the last one known.
    #[arg(long, env = "JITGATE_MAX_STALENESS", value_name = "TIME", default_value = "30s", value_parser = staleness)]
    pub max_staleness: Duration,
    /// How far this machine's clock and the control plane's may differ, the error of the comparison included, before
    /// it is reported. Grants end by the control plane's time in any case.
    #[arg(long, env = "JITGATE_MAX_CLOCK_SKEW", value_name = "TIME", default_value = "5s", value_parser = skew)]
    pub max_clock_skew: Duration,
    /// What is done beyond --max-clock-skew, besides reporting it.
    #[arg(long, env = "JITGATE_ON_CLOCK_SKEW", value_enum, default_value_t)]
    pub on_clock_skew: OnClockSkew,
    /// Whether denials are enforced.
    #[arg(long, env = "JITGATE_MODE", value_enum, default_value_t = Mode::Enforce)]
    pub mode: Mode,
    /// How much a refused caller is told; telemetry always has everything.
    #[arg(long, env = "JITGATE_DENY_DETAIL", value_enum, default_value_t = DenyDetail::Full)]
    pub deny_detail: DenyDetail,
    /// What the line to ask with begins with, as shown to a refused caller.
    #[arg(
        long,
        env = "JITGATE_ASK_HINT",
        value_name = "COMMAND",
        default_value = "jitgate request"
    )]
    pub ask_hint: String,
}

/// How checks are answered, parsed.
#[derive(Debug)]
pub struct Checking {
    /// The protected services.
    pub services: Services,
    /// The bound on staleness.
    pub max_staleness: Duration,
    /// Set in shadow mode.
    pub shadow: Option<Shadow>,
    /// Builds the answers.
    pub responder: Responder,
}

impl CheckArgs {
    /// What callers' tokens may name as their audience.
    pub fn audiences(&self) -> Vec<String> {
        if self.audience.is_empty() {
            return self.service.iter().map(ToString::to_string).collect();
        }
        self.audience.clone()
    }

    /// Checks what clap could not.
    ///
    /// # Errors
    /// Names the flag and what is wrong with it.
    pub fn parse(self) -> anyhow::Result<Checking> {
        let Self {
            service,
            audience: _,
            max_staleness,
            max_clock_skew: _,
            on_clock_skew: _,
            mode,
            deny_detail,
            ask_hint,
        } = self;
        if ask_hint.is_empty() || ask_hint.len() > 256 || ask_hint.chars().any(char::is_control) {
            anyhow::bail!(
                "--ask-hint must be one line of 1 to 256 bytes, such as `jitgate request`"
            );
        }
        Ok(Checking {
            services: Services::new(service)?,
            max_staleness,
            shadow: mode.shadow(),
            responder: Responder {
                detail: deny_detail,
                ask_hint,
            },
        })
    }
}

/// Less than what a comparison over a network is off by would always be exceeded.
fn skew(text: &str) -> Result<Duration, String> {
    duration::parse_within(text, Duration::from_millis(100)..=Duration::from_hours(24))
}

/// Below a second every pause between two progress messages would count as silence.
fn staleness(text: &str) -> Result<Duration, String> {
    duration::parse_within(text, Duration::from_secs(1)..=Duration::from_hours(24))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        check: CheckArgs,
    }

    fn parse(arguments: &[&str]) -> Result<CheckArgs, String> {
        let line = std::iter::once("jitgate-sidecar").chain(arguments.iter().copied());
        Line::try_parse_from(line)
            .map(|line| line.check)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_enforce() {
        let checking = parse(&["--service", "payments"]).unwrap().parse().unwrap();
        assert!(checking.shadow.is_none());
        assert_eq!(checking.max_staleness, Duration::from_secs(30));
    }

    #[test]
    fn tokens_may_be_meant_for_the_services_unless_other_audiences_are_named() {
        assert_eq!(
            parse(&["--service", "a,b"]).unwrap().audiences(),
            ["a", "b"]
        );
        assert_eq!(
            parse(&["--service", "a", "--audience", "x"])
                .unwrap()
                .audiences(),
            ["x"]
        );
    }

    #[test]
    fn a_service_is_required_and_must_be_a_name() {
        assert!(parse(&[]).is_err());
        assert!(
            parse(&["--service", "Pay ments"])
                .unwrap_err()
                .contains("a-z")
        );
    }

    #[test]
    fn a_bound_on_staleness_that_would_never_or_always_strike_is_refused() {
        for bad in ["0s", "10ms", "25h", "soon"] {
            assert!(
                parse(&["--service", "a", "--max-staleness", bad]).is_err(),
                "{bad}"
            );
        }
    }
}
