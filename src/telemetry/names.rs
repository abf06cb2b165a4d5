//! Every span, attribute and metric name, in one place. A golden test prints them: a rename is seen in review.

/// Declares constants and lists them, for the golden test and for documentation.
macro_rules! names {
    ($(#[$list_doc:meta])* $list:ident: $($(#[$doc:meta])* $constant:ident = $name:literal;)*) => {
        $($(#[$doc])* pub const $constant: &str = $name;)*

        $(#[$list_doc])*
        pub const $list: &[&str] = &[$($constant,)*];
    };
}

names! {
    /// Spans.
    SPANS:
    /// One decision; child of Envoy's own span of the check.
    SPAN_CHECK = "jitgate.check";
    /// The life of a stream, from its opening to its end by the sidecar; streams that end by themselves have none.
    SPAN_STREAM = "jitgate.stream";
    /// One call of the control plane's API.
    SPAN_CALL = "jitgate.api";
    /// The review of an access request by policy or people.
    SPAN_REVIEW = "jitgate.review";
    /// The issue of a grant; decisions that use the grant link to it.
    SPAN_ISSUE = "jitgate.issue";
    /// The early end of a grant.
    SPAN_REVOKE = "jitgate.revoke";
    /// A grant is suspended or resumed.
    SPAN_HOLD = "jitgate.hold";
}

names! {
    /// Span attributes. None ever holds a credential or a query string.
    ATTRIBUTES:
    /// `allow`, `deny`, `unavailable` or `aborted`.
    DECISION = "jitgate.decision";
    /// The `DenyReason`; absent on an allow.
    REASON = "jitgate.reason";
    /// One sentence about a denial.
    DETAIL = "jitgate.detail";
    /// What the answer's `x-jitgate-decision-id` says.
    DECISION_ID = "jitgate.decision_id";
    /// Why presented credentials proved nothing.
    CREDENTIALS_IGNORED = "jitgate.credentials.ignored";
    /// The grant that allowed, or came nearest.
    GRANT_ID = "jitgate.grant.id";
    /// What was left of it, in milliseconds; absent on a standing grant.
    GRANT_REMAINING_MS = "jitgate.grant.remaining_ms";
    /// The policy that the grant came from.
    POLICY_NAME = "jitgate.policy.name";
    /// And its version.
    POLICY_VERSION = "jitgate.policy.version";
    /// The principal that holds the grant, or that the caller proved to be.
    PRINCIPAL = "jitgate.principal";
    /// The protected service.
    SERVICE = "jitgate.service";
    /// Store revision of the table that decided.
    TABLE_REVISION = "jitgate.table.revision";
    /// How long ago the control plane was heard, in milliseconds.
    TABLE_AGE_MS = "jitgate.table.age_ms";
    /// How far the table could be trusted: `fresh`, `stale` or `never synced`.
    TABLE_FRESHNESS = "jitgate.table.freshness";
    /// True where the refusal was only recorded (`--mode shadow`).
    SHADOW = "jitgate.shadow";
    /// The access request that a call of the API is about, or that a refused call waits for.
    ACCESS_REQUEST_ID = "jitgate.request.id";
    /// Store revision that a change was committed as.
    STORE_REVISION = "jitgate.store.revision";
    /// HTTP method (OpenTelemetry semantic conventions).
    HTTP_METHOD = "http.request.method";
    /// Path template of the rule that matched: bounded, unlike the path.
    HTTP_ROUTE = "http.route";
    /// The path without its query.
    URL_PATH = "url.path";
    /// `grpc`.
    RPC_SYSTEM = "rpc.system";
    /// `pkg.Svc`.
    RPC_SERVICE = "rpc.service";
    /// `Method`.
    RPC_METHOD = "rpc.method";
}

names! {
    /// Metrics as the parts register them. Base units, bounded labels: no subject, no path. The exposition appends
    /// `_total` to counters.
    METRICS:
    /// Counter {outcome, reason}.
    DECISIONS = "jitgate_decisions";
    /// Counter {reason}: refusals that shadow mode recorded and let pass.
    SHADOW_REFUSALS = "jitgate_shadow_refusals";
    /// Histogram: from a check's arrival to its answer.
    DECISION_DURATION = "jitgate_decision_duration_seconds";
    /// Gauge {state}: grants in the table or in the store.
    GRANTS = "jitgate_grants";
    /// Gauge: access requests in a sidecar's table, which wait for approval. They are no grants.
    REQUESTS_PENDING = "jitgate_requests_pending";
    /// Gauge: streams that end with their grant.
    LEASHES_OPEN = "jitgate_leashes_open";
    /// Counter {reason}: streams that were not let open, although the check let them pass.
    LEASHES_REFUSED = "jitgate_leashes_refused";
    /// Counter {reason}: open streams that the sidecar ended.
    STREAMS_CLOSED = "jitgate_streams_closed";
    /// Gauge: revision of the sidecar's table.
    TABLE_REVISION_GAUGE = "jitgate_table_revision";
    /// Gauge: since the control plane was last heard.
    TABLE_AGE = "jitgate_table_age_seconds";
    /// Histogram: from the commit of a change to its enforcement here.
    PROPAGATION_DURATION = "jitgate_propagation_duration_seconds";
    /// Gauge: this machine's wall clock minus the control plane's.
    CLOCK_OFFSET = "jitgate_clock_offset_seconds";
    /// Gauge: how far the estimate of the control plane's time may be off.
    CLOCK_ERROR = "jitgate_clock_error_seconds";
    /// Gauge: 1 while the two clocks disagree beyond the allowed skew, its error bound included.
    CLOCK_SKEWED = "jitgate_clock_skewed";
    /// Gauge {issuer}: how far past `exp` and before `nbf` a token is still taken.
    ISSUER_LEEWAY = "jitgate_issuer_leeway_seconds";
    /// Gauge: 1 in a sidecar that refuses nothing (`--mode shadow`), else 0.
    SHADOW_GAUGE = "jitgate_shadow";
    /// Counter.
    WATCH_RECONNECTS = "jitgate_watch_reconnects";
    /// Counter {cause}.
    WATCH_RESYNCS = "jitgate_watch_resyncs";
    /// Counter: grants that could not be enforced here.
    WATCH_NACKS = "jitgate_watch_nacks";
    /// Counter.
    TOKEN_CACHE_HITS = "jitgate_token_cache_hits";
    /// Counter.
    TOKEN_CACHE_MISSES = "jitgate_token_cache_misses";
    /// Counter {issuer, outcome}.
    ISSUER_REFRESHES = "jitgate_issuer_refreshes";
    /// Counter.
    SPANS_EXPORTED = "jitgate_spans_exported";
    /// Counter.
    SPANS_FAILED = "jitgate_spans_failed";
    /// Counter.
    SPANS_DROPPED = "jitgate_spans_dropped";
    /// Counter {outcome}: access requests.
    REQUESTS = "jitgate_requests";
    /// Histogram: one durable commit.
    STORE_COMMIT_DURATION = "jitgate_store_commit_duration_seconds";
    /// Histogram: from an access request to its approval.
    APPROVAL_DURATION = "jitgate_approval_duration_seconds";
    /// Gauge: the control plane machine's wall clock minus the time that it tells, which no step reaches.
    CLOCK_DRIFT = "jitgate_clock_drift_seconds";
    /// Gauge by state: outstanding, overdue.
    BREAK_GLASS_REVIEWS = "jitgate_break_glass_reviews";
    /// Gauge.
    SIDECARS_CONNECTED = "jitgate_sidecars_connected";
    /// Gauge: those of them that refuse nothing (`--mode shadow`).
    SIDECARS_SHADOW = "jitgate_sidecars_shadow";
    /// Gauge.
    STORE_REVISION_GAUGE = "jitgate_store_revision";
    /// Counter: committed changes, one revision each.
    STORE_CHANGES = "jitgate_store_changes";
    /// Gauge: index of the newest audit event.
    AUDIT_INDEX = "jitgate_audit_index";
    /// Gauge: index of the first audit event that was found not to fit at the start; 0 when the chain is whole.
    AUDIT_BROKEN_AT = "jitgate_audit_broken_at";
    /// Counter: records of decisions that a sidecar handed to the watch stream.
    DECISION_RECORDS_REPORTED = "jitgate_decision_records_reported";
    /// Counter: decisions of a sidecar that it could not report.
    DECISION_RECORDS_LOST = "jitgate_decision_records_lost";
    /// Counter: records of decisions that the control plane keeps.
    DECISION_RECORDS_KEPT = "jitgate_decision_records_kept";
    /// Counter {cause}: decisions that are missing among them.
    DECISION_RECORDS_MISSED = "jitgate_decision_records_missed";
    /// Counter {call, reason}: calls of the API that were refused.
    API_REFUSALS = "jitgate_api_refusals";
    /// Gauge {room}: how many places there are that many share.
    ADMISSION_PLACES = "jitgate_admission_places";
    /// Gauge {room}.
    ADMISSION_HELD = "jitgate_admission_held";
    /// Counter {room}: places that their holder had to give up.
    ADMISSION_DISPLACED = "jitgate_admission_displaced";
    /// Counter {room}: newcomers that found no place.
    ADMISSION_REFUSED = "jitgate_admission_refused";
    /// Info {version, commit}: shown as `jitgate_build_info`, always 1.
    BUILD = "jitgate_build";
    /// Counter: user and system time.
    PROCESS_CPU = "process_cpu_seconds";
    /// Gauge.
    PROCESS_RESIDENT_MEMORY = "process_resident_memory_bytes";
    /// Gauge: seconds since the Unix epoch.
    PROCESS_START_TIME = "process_start_time_seconds";
    /// Gauge.
    PROCESS_OPEN_FDS = "process_open_fds";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fmt::Write;

    /// The names are an interface: dashboards and alerts are written against them.
    #[test]
    fn the_names_are_those_of_the_golden_list() {
        let mut text = String::new();
        for (title, names) in [
            ("spans", super::SPANS),
            ("attributes", super::ATTRIBUTES),
            ("metrics", super::METRICS),
        ] {
            writeln!(text, "# {title}").unwrap();
            names
                .iter()
                .for_each(|name| writeln!(text, "{name}").unwrap());
        }
        assert_eq!(
            text,
            include_str!("names.golden"),
            "if the change is meant, write this into names.golden:\n{text}"
        );
    }

    #[test]
    fn no_name_is_used_twice() {
        let all: Vec<_> = [super::SPANS, super::ATTRIBUTES, super::METRICS].concat();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }

    #[test]
    fn metrics_follow_the_conventions_of_prometheus() {
        for name in super::METRICS {
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{name}"
            );
            assert!(!name.ends_with("_total") && !name.contains("_ms"), "{name}");
        }
    }
}
