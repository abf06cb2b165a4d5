use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use prost::Message;
use serde_json::Value as Json;
use tonic_types::pb;

use super::*;
use crate::model::caller::Caller;
use crate::model::decide::{Check, Freshness, decide};
use crate::model::decision::{Decision, DenyReason};
use crate::model::grant::{End, Grant, Revision};
use crate::model::identity::Principal;
use crate::sidecar::check::decision_id::DecisionId;
use crate::sidecar::check::input::{Inbound, read};
use crate::sidecar::check::mode::Mode;
use crate::sidecar::fixtures::{CHECKOUT, Sent, at, grant, services, table};

fn responder(detail: DenyDetail) -> Responder {
    Responder {
        detail,
        ask_hint: "jitgate request".to_owned(),
    }
}

/// Runs `answer` on the check as read.
fn answered(sent: &Sent, answer: impl FnOnce(&To<'_>) -> Answer) -> CheckResponse {
    let services = services(&["payments"]);
    let inbound = read(&sent.0, &services);
    answer(&to(&inbound, None)).into_message()
}

fn to<'a>(inbound: &'a Inbound<'a>, caller: Option<&'a Caller>) -> To<'a> {
    let age = Some(Duration::from_millis(1500));
    To {
        inbound,
        id: DecisionId::generate(),
        revision: Revision(9),
        age,
        freshness: Freshness::Fresh,
        caller,
    }
}

fn denied(sent: &Sent, denial: &Denial, detail: DenyDetail) -> CheckResponse {
    answered(sent, |to| responder(detail).deny(denial, to))
}

fn permit(grant: Grant, now: u64) -> Permit {
    let principal = grant.subject.clone();
    let service = grant.scope.service().clone();
    let check = Check {
        service: &service,
        target: crate::model::target::Target::http("GET", "/v1/users/7"),
        caller: Ok(Caller {
            peer: None,
            principals: vec![principal],
            tokened: None,
        }),
    };
    let grants = table([grant], now).current().unwrap();
    match decide(&*grants, Freshness::Fresh, &check, at(now)) {
        Decision::Permit(permit) => permit,
        Decision::Deny(denial) => panic!("{denial:?}"),
    }
}

fn code(response: &CheckResponse) -> i32 {
    response.status.as_ref().unwrap().code
}

fn denied_part(response: &CheckResponse) -> &DeniedHttpResponse {
    match response.http_response.as_ref().unwrap() {
        HttpResponse::DeniedResponse(denied) | HttpResponse::ErrorResponse(denied) => denied,
        HttpResponse::OkResponse(_) => panic!("an OK"),
    }
}

fn ok_part(response: &CheckResponse) -> &OkHttpResponse {
    match response.http_response.as_ref().unwrap() {
        HttpResponse::OkResponse(ok) => ok,
        HttpResponse::DeniedResponse(denied) | HttpResponse::ErrorResponse(denied) => {
            panic!("{denied:?}")
        }
    }
}

fn header<'a>(headers: &'a [HeaderValueOption], name: &str) -> Option<&'a str> {
    let mut found = headers
        .iter()
        .filter_map(|set| set.header.as_ref())
        .filter(|header| header.key == name);
    let value = found.next().map(|header| header.value.as_str());
    assert!(found.next().is_none(), "{name} twice");
    value
}

fn details(denied: &DeniedHttpResponse) -> (pb::Status, pb::ErrorInfo) {
    let encoded = header(&denied.headers, "grpc-status-details-bin").unwrap();
    let status = pb::Status::decode(STANDARD_NO_PAD.decode(encoded).unwrap().as_slice()).unwrap();
    let info = status
        .details
        .iter()
        .find(|any| any.type_url.ends_with("/google.rpc.ErrorInfo"))
        .unwrap();
    let info = pb::ErrorInfo::decode(info.value.as_slice()).unwrap();
    (status, info)
}

#[test]
fn the_default_answer_is_a_denial() {
    let response = Answer::default().into_message();
    assert_eq!(code(&response), 7);
    assert_eq!(denied_part(&response).status.as_ref().unwrap().code, 403);
}

#[test]
fn every_reason_has_its_status_and_says_its_name_to_http_callers() {
    let sent = Sent::http("GET", "/v1/users/7");
    for reason in DenyReason::ALL {
        let response = denied(&sent, &Denial::new(*reason, "because"), DenyDetail::Full);
        let class = reason.class();
        assert_eq!(code(&response), class.grpc_code(), "{reason:?}");
        let part = denied_part(&response);
        let is_error = matches!(response.http_response, Some(HttpResponse::ErrorResponse(_)));
        assert_eq!(is_error, class == DenyClass::Unavailable, "{reason:?}");
        assert_eq!(
            part.status.as_ref().unwrap().code,
            i32::from(class.http_status())
        );
        assert_eq!(
            header(&part.headers, "x-jitgate-reason"),
            Some(reason.as_str())
        );
        assert_eq!(
            header(&part.headers, "content-type"),
            Some("application/problem+json")
        );
        assert_eq!(header(&part.headers, "retry-after").is_some(), is_error);
        assert_eq!(
            header(&part.headers, "www-authenticate").is_some(),
            class == DenyClass::Unauthenticated
        );
        let problem: Json = serde_json::from_str(&part.body).unwrap();
        assert_eq!(problem["reason"], reason.as_str());
        assert_eq!(problem["status"], class.http_status());
        assert_eq!(problem["detail"], "because");
        assert_eq!(problem["service"], "payments");
        assert_eq!(
            problem["instance"].as_str(),
            header(&part.headers, "x-jitgate-decision-id")
        );
        assert!(problem["type"].as_str().unwrap().ends_with(reason.as_str()));
        assert!(!problem["title"].as_str().unwrap().is_empty());
    }
}

#[test]
fn every_reason_reaches_grpc_callers_as_a_status_with_error_info() {
    let sent = Sent::grpc("/pay.v1.Ledger/Get");
    for reason in DenyReason::ALL {
        let response = denied(&sent, &Denial::new(*reason, "because"), DenyDetail::Full);
        let (part, class) = (denied_part(&response), reason.class());
        assert_eq!(
            header(&part.headers, "grpc-status"),
            Some(class.grpc_code().to_string().as_str())
        );
        assert_eq!(part.body, "because");
        let (status, info) = details(part);
        assert_eq!(
            (status.code, status.message.as_str()),
            (class.grpc_code(), "because")
        );
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            (reason.as_str(), "jitgate.dev")
        );
        assert_eq!(info.metadata["service"], "payments");
        assert_eq!(
            info.metadata.get("decision_id").map(String::as_str),
            header(&part.headers, DECISION_ID)
        );
        let retry = status
            .details
            .iter()
            .any(|any| any.type_url.ends_with("RetryInfo"));
        assert_eq!(retry, class == DenyClass::Unavailable, "{reason:?}");
        let encoded = header(&part.headers, "grpc-status-details-bin").unwrap();
        assert!(!encoded.contains('='), "gRPC metadata has no padding");
    }
}

#[test]
fn a_denial_says_how_to_ask() {
    let no_grant = Denial::new(DenyReason::NoGrant, "");
    let of = |sent: &Sent| {
        let body = denied_part(&denied(sent, &no_grant, DenyDetail::Full))
            .body
            .clone();
        serde_json::from_str::<Json>(&body).unwrap()["request"]["command"]
            .as_str()
            .map(str::to_owned)
    };
    assert_eq!(
        of(&Sent::http("GET", "/v1/users/7?secret=1")).unwrap(),
        "jitgate request --service payments --http 'GET /v1/users/7' --for 15m --reason '…'"
    );
    let part = denied(
        &Sent::grpc("/pay.v1.Ledger/Get"),
        &no_grant,
        DenyDetail::Full,
    );
    let (_, info) = details(denied_part(&part));
    assert_eq!(
        info.metadata["request"],
        "jitgate request --service payments --grpc '/pay.v1.Ledger/Get' --for 15m --reason '…'"
    );
}

#[test]
fn a_workload_is_asked_for_by_name_and_a_person_asks_for_themselves() {
    let (sent, services) = (Sent::http("GET", "/v1/users/7"), services(&["payments"]));
    let inbound = read(&sent.0, &services);
    let no_grant = Denial::new(DenyReason::NoGrant, "");
    let of = |caller: &Caller| {
        let to = to(&inbound, Some(caller));
        let response = responder(DenyDetail::Full)
            .deny(&no_grant, &to)
            .into_message();
        let problem: Json = serde_json::from_str(&denied_part(&response).body).unwrap();
        problem["request"]["command"].as_str().unwrap().to_owned()
    };
    let peer = Principal::parse(CHECKOUT).unwrap();
    let mut caller = Caller {
        peer: Some(peer.clone()),
        principals: vec![peer],
        tokened: None,
    };
    assert_eq!(
        of(&caller),
        format!(
            "jitgate request --service payments --http 'GET /v1/users/7' --subject '{CHECKOUT}' --for 15m --reason '…'"
        )
    );
    caller
        .principals
        .push(Principal::parse("user:https://idp.example|alice").unwrap());
    assert!(!of(&caller).contains("--subject"));
}

#[test]
fn a_denial_says_how_to_ask_in_the_fields_of_an_access_request() {
    let no_grant = Denial::new(DenyReason::NoGrant, "");
    let body = denied_part(&denied(
        &Sent::http("GET", "/v1/users/7?secret=1"),
        &no_grant,
        DenyDetail::Full,
    ))
    .body
    .clone();
    let problem: Json = serde_json::from_str(&body).unwrap();
    let scope = serde_json::json!({ "service": "payments", "http": [{ "methods": ["GET"], "path": "/v1/users/7" }] });
    assert_eq!(problem["request"]["scope"], scope);
    let part = denied(
        &Sent::grpc("/pay.v1.Ledger/Get"),
        &no_grant,
        DenyDetail::Full,
    );
    let (status, info) = details(denied_part(&part));
    assert_eq!(info.metadata["request_grpc"], "/pay.v1.Ledger/Get");
    let help = status
        .details
        .iter()
        .find(|any| any.type_url.ends_with("/google.rpc.Help"))
        .unwrap();
    let help = pb::Help::decode(help.value.as_slice()).unwrap();
    assert_eq!(help.links[0].description, info.metadata["request"]);
    assert_eq!(help.links[0].url, "https://jitgate.dev/reasons/NO_GRANT");
}

#[test]
fn help_is_only_where_asking_helps_and_only_as_far_as_the_operator_lets_it_be_told() {
    let sent = Sent::grpc("/pay.v1.Ledger/Get");
    let has_help = |denial: &Denial, level| {
        let response = denied(&sent, denial, level);
        let part = denied_part(&response);
        header(&part.headers, "grpc-status-details-bin").is_some() && {
            details(part)
                .0
                .details
                .iter()
                .any(|any| any.type_url.ends_with("/google.rpc.Help"))
        }
    };
    let no_grant = Denial::new(DenyReason::NoGrant, "");
    assert!(has_help(&no_grant, DenyDetail::Full));
    assert!(!has_help(&no_grant, DenyDetail::Reason) && !has_help(&no_grant, DenyDetail::None));
    for reason in [
        DenyReason::TokenExpired,
        DenyReason::GrantSuspended,
        DenyReason::Stale,
    ] {
        assert!(
            !has_help(&Denial::new(reason, ""), DenyDetail::Full),
            "{reason:?}"
        );
    }
}

#[test]
fn the_details_for_a_grpc_caller_fit_into_its_trailers_whatever_was_called() {
    let no_grant = Denial::new(DenyReason::NoGrant, "é".repeat(2000));
    for length in [10, 400, 700, 900, 5000] {
        let sent = Sent::grpc(&format!("/pay.v1.Ledger/{}", "G".repeat(length)));
        let response = denied(&sent, &no_grant, DenyDetail::Full);
        let encoded = header(&denied_part(&response).headers, "grpc-status-details-bin").unwrap();
        assert!(encoded.len() <= 4096, "{length}: {}", encoded.len());
    }
}

#[test]
fn what_speaks_in_our_name_is_removed_even_where_envoy_does_not_show_it() {
    let shadow = Mode::Shadow.shadow().unwrap();
    let sent = Sent::http("GET", "/v1/users/7");
    let denial = Denial::new(DenyReason::NoGrant, "");
    let permit = permit(grant("g1"), 150);
    for response in [
        answered(&sent, |to| responder(DenyDetail::Full).permit(&permit, to)),
        answered(&sent, |to| {
            responder(DenyDetail::Full).shadow(shadow, &denial, to)
        }),
    ] {
        let ok = ok_part(&response);
        for name in SPOKEN {
            let removed = ok.headers_to_remove.iter().any(|removed| removed == name);
            assert_ne!(
                removed,
                header(&ok.headers, name).is_some(),
                "{name} is either set or removed"
            );
        }
    }
}

/// Envoy answers 500 where we remove a header that its rules do not let us touch: then any client header of that
/// spelling would fail its request.
#[test]
fn the_shipped_envoy_lets_every_header_be_removed_that_counts_as_ours() {
    let shipped = include_str!("../../../../envoy/jitgate.yaml");
    let rule = shipped
        .lines()
        .find(|line| line.contains("allow_expression"))
        .unwrap();
    assert!(
        rule.contains("|x-jitgate-[a-z0-9._-]+\"") && rule.contains(STREAM_DURATION),
        "{rule}"
    );
}

#[test]
fn the_line_to_ask_with_never_asks_for_more_and_never_runs_anything_else() {
    let no_grant = Denial::new(DenyReason::NoGrant, "");
    let of = |path: &str| {
        let body = denied_part(&denied(
            &Sent::http("GET", path),
            &no_grant,
            DenyDetail::Full,
        ))
        .body
        .clone();
        serde_json::from_str::<Json>(&body).unwrap()["request"]["command"]
            .as_str()
            .map(str::to_owned)
    };
    assert_eq!(of("/v1/*"), None, "a star would be a wildcard in a rule");
    assert_eq!(of("/**"), None);
    assert_eq!(
        of("/%7Bid%7D").unwrap().split('\'').nth(1),
        Some("GET /%7Bid%7D"),
        "an encoded brace stays encoded"
    );
    assert_eq!(
        of("/a'$(id)'").unwrap().split(" --http ").nth(1).unwrap(),
        r"'GET /a'\''$(id)'\''' --for 15m --reason '…'"
    );
    assert_eq!(of(&format!("/{}", "a".repeat(2000))), None);
    let expired = Denial::new(DenyReason::TokenExpired, "");
    assert!(
        !denied_part(&denied(&Sent::http("GET", "/"), &expired, DenyDetail::Full))
            .body
            .contains("command")
    );
}

#[test]
fn how_much_a_stranger_is_told_is_the_operators_choice() {
    let denial = Denial::new(DenyReason::GrantRevoked, "grant secret-grant was revoked")
        .nearest(grant("secret-grant").into(), None);
    for sent in [
        Sent::http("GET", "/v1/users/7"),
        Sent::grpc("/pay.v1.Ledger/Get"),
    ] {
        let told = |detail| {
            let response = denied(&sent, &denial, detail);
            let mut visible = CheckResponse {
                dynamic_metadata: None,
                ..response.clone()
            };
            visible.status.as_mut().unwrap().message.clear();
            let logged = format!("{:?}", response.dynamic_metadata.unwrap());
            assert!(
                logged.contains("secret-grant") && logged.contains("GRANT_REVOKED"),
                "the access log has everything"
            );
            let binary =
                header(&denied_part(&visible).headers, "grpc-status-details-bin").map(|text| {
                    String::from_utf8_lossy(&STANDARD_NO_PAD.decode(text).unwrap()).into_owned()
                });
            format!("{visible:?} {}", binary.unwrap_or_default())
        };
        assert!(told(DenyDetail::Full).contains("secret-grant"));
        let reason = told(DenyDetail::Reason);
        assert!(
            reason.contains("GRANT_REVOKED")
                && !reason.contains("secret-grant")
                && !reason.contains("payments")
        );
        let none = told(DenyDetail::None);
        assert!(
            !none.contains("REVOKED")
                && !none.contains("secret-grant")
                && !none.contains("payments"),
            "{none}"
        );
        assert!(none.contains("PERMISSION_DENIED") && none.contains("x-jitgate-decision-id"));
    }
}

#[test]
fn a_caller_that_showed_nothing_is_challenged_without_an_error() {
    let challenge = |reason, detail: &'static str, level| {
        let response = denied(&Sent::http("GET", "/"), &Denial::new(reason, detail), level);
        header(&denied_part(&response).headers, "www-authenticate")
            .unwrap()
            .to_owned()
    };
    use DenyDetail::{Full, None};
    assert_eq!(
        challenge(DenyReason::CredentialMissing, "", Full),
        "Bearer realm=\"jitgate\""
    );
    assert_eq!(
        challenge(DenyReason::TokenExpired, "it \"ended\"\r\nx: y \\ é", Full),
        "Bearer realm=\"jitgate\", error=\"invalid_token\", error_description=\"it endedx: y  \""
    );
    assert_eq!(challenge(DenyReason::TokenExpired, "", None), "Bearer");
}

#[test]
fn a_body_never_grows_past_what_envoy_passes_on() {
    for text in ["\u{1}".repeat(600), "é".repeat(5000), "\"".repeat(5000)] {
        let denial = Denial::new(DenyReason::NoGrant, text);
        for sent in [
            Sent::http("GET", &format!("/{}", "'".repeat(900))),
            Sent::grpc("/pay.v1.Ledger/Get"),
        ] {
            let response = denied(&sent, &denial, DenyDetail::Full);
            let part = denied_part(&response);
            assert!(part.body.len() <= 4096, "{}", part.body.len());
            if sent
                .0
                .attributes
                .as_ref()
                .unwrap()
                .request
                .as_ref()
                .unwrap()
                .http
                .as_ref()
                .unwrap()
                .method
                == "GET"
            {
                let problem: Json = serde_json::from_str(&part.body).unwrap();
                assert_eq!(problem["reason"], "NO_GRANT");
            }
        }
    }
}

#[test]
fn an_allow_bounds_the_stream_and_names_its_grant() {
    let permit = permit(grant("g1"), 150);
    let response = answered(&Sent::http("GET", "/v1/users/7"), |to| {
        responder(DenyDetail::Full).permit(&permit, to)
    });
    assert_eq!(code(&response), 0);
    let ok = ok_part(&response);
    assert_eq!(header(&ok.headers, STREAM_DURATION), Some("50000"));
    assert_eq!(header(&ok.headers, "x-jitgate-grant"), Some("g1"));
    assert_eq!(header(&ok.headers, "x-jitgate-subject"), Some(CHECKOUT));
    assert_eq!(
        header(&ok.headers, "x-jitgate-expires"),
        Some("1970-01-01T00:03:20.000Z")
    );
    assert_eq!(header(&ok.headers, DECISION_ID).map(str::len), Some(26));
    assert!(
        ok.headers
            .iter()
            .all(|set| set.header.as_ref().unwrap().raw_value.is_empty()),
        "Envoy ignores raw_value"
    );
    let fields = &response.dynamic_metadata.as_ref().unwrap().fields;
    let mut keys: Vec<_> = fields.keys().map(String::as_str).collect();
    keys.sort_unstable();
    let expected = "decision_id expires grant grants grpc policy policy_version reason revision service shadow stale \
                    subject table_age_ms";
    assert_eq!(keys.join(" "), expected);
    assert_eq!(fields["policy_version"].kind, Some(Kind::NumberValue(3.0)));
}

#[test]
fn in_shadow_mode_an_allow_cuts_nothing_off() {
    let (permit, witness) = (permit(grant("g1"), 150), Mode::Shadow.shadow().unwrap());
    let sent = Sent::grpc("/pay.v1.Ledger/Get");
    let response = answered(&sent, |to| {
        responder(DenyDetail::Full).permit_unbounded(witness, &permit, to)
    });
    let ok = ok_part(&response);
    assert_eq!(
        (code(&response), header(&ok.headers, "x-jitgate-grant")),
        (0, Some("g1"))
    );
    assert_eq!(
        (
            header(&ok.headers, STREAM_DURATION),
            header(&ok.headers, "grpc-timeout")
        ),
        (None, None)
    );
}

#[test]
fn a_standing_grant_has_the_longest_bound_and_leaves_the_callers_deadline_alone() {
    let standing = permit(
        Grant {
            end: End::Standing,
            ..grant("mesh")
        },
        150,
    );
    let response = answered(&Sent::grpc("/a.B/C"), |to| {
        responder(DenyDetail::Full).permit(&standing, to)
    });
    let ok = ok_part(&response);
    assert_eq!(header(&ok.headers, "x-jitgate-expires"), Some("never"));
    assert_eq!(header(&ok.headers, STREAM_DURATION), Some("86400000"));
    assert_eq!(header(&ok.headers, "grpc-timeout"), None);
}

#[test]
fn a_grpc_upstream_is_told_to_end_before_the_grant_does_whatever_the_caller_says() {
    let permit = permit(grant("g1"), 150);
    let timeout = |sent: Sent| {
        let response = answered(&sent, |to| responder(DenyDetail::Full).permit(&permit, to));
        let ok = ok_part(&response);
        assert!(!ok.headers_to_remove.contains(&"grpc-timeout".to_owned()));
        assert_eq!(header(&ok.headers, STREAM_DURATION), Some("50000"));
        header(&ok.headers, "grpc-timeout").map(str::to_owned)
    };
    let grpc = || Sent::grpc("/pay.v1.Ledger/Get");
    assert_eq!(timeout(grpc()).as_deref(), Some("49950m"));
    assert_eq!(
        timeout(grpc().header("grpc-timeout", "1H")).as_deref(),
        Some("49950m")
    );
    assert_eq!(
        timeout(grpc().header("grpc-timeout", "1S,1H")).as_deref(),
        Some("49950m"),
        "malformed is absent"
    );
    assert_eq!(
        timeout(grpc().header("grpc-timeout", "49S")),
        None,
        "the caller's own is shorter and stays"
    );
    assert_eq!(
        timeout(Sent::http("GET", "/v1/users/7").header("grpc-timeout", "1H")),
        None
    );
}

#[test]
fn every_live_grant_that_covers_the_call_is_named_to_the_leash_the_last_to_end_first() {
    let longer = Grant {
        end: End::At(at(300)),
        ..grant("longer")
    };
    let standing = Grant {
        end: End::Standing,
        ..grant("standing")
    };
    let ended = Grant {
        end: End::At(at(120)),
        ..grant("ended")
    };
    let check = Check {
        service: &crate::sidecar::fixtures::service("payments"),
        target: crate::model::target::Target::http("GET", "/v1/users/7"),
        caller: Ok(Caller {
            peer: None,
            principals: vec![Principal::parse(CHECKOUT).unwrap()],
            tokened: None,
        }),
    };
    let named = |grants: Vec<Grant>| {
        let grants = table(grants, 150).current().unwrap();
        let Decision::Permit(permit) = decide(&*grants, Freshness::Fresh, &check, at(150)) else {
            panic!()
        };
        let response = answered(&Sent::http("GET", "/v1/users/7"), |to| {
            responder(DenyDetail::Full).permit(&permit, to)
        });
        match &response.dynamic_metadata.unwrap().fields["grants"].kind {
            Some(Kind::ListValue(list)) => list
                .values
                .iter()
                .map(|v| v.kind.clone().unwrap())
                .collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    let ids = |ids: &[&str]| {
        ids.iter()
            .map(|id| Kind::StringValue((*id).to_owned()))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        named(vec![grant("g1"), longer, ended, standing]),
        ids(&["standing@7", "longer", "g1"])
    );
    let many = (0..20)
        .map(|i| Grant {
            end: End::At(at(200 + i)),
            ..grant(&format!("g{i}"))
        })
        .collect();
    assert_eq!(
        named(many),
        ids(&["g19", "g18", "g17", "g16", "g15", "g14", "g13", "g12"]),
        "bounded"
    );
}

#[test]
fn what_a_client_sends_in_our_name_never_reaches_the_upstream() {
    let permit = permit(grant("g1"), 150);
    let sent = Sent::http("GET", "/v1/users/7")
        .header("x-jitgate-grant", "forged")
        .header("x-jitgate-shadow", "forged")
        .header("x_jitgate_grant", "forged")
        .header("X-Jitgate-Anything", "forged");
    let response = answered(&sent, |to| responder(DenyDetail::Full).permit(&permit, to));
    let ok = ok_part(&response);
    assert_eq!(
        ok.headers_to_remove,
        [
            "x-jitgate-anything",
            "x-jitgate-reason",
            "x-jitgate-shadow",
            "x-jitgate-token",
            "x_jitgate_grant"
        ]
    );
    // Envoy removes after it has set.
    assert!(ok.headers.iter().all(|set| {
        !ok.headers_to_remove
            .contains(&set.header.as_ref().unwrap().key)
    }));
}

#[test]
fn a_subject_outside_ascii_travels_encoded() {
    let subject = Principal::user("https://idp.example", "zoë 100%\u{fffd}").unwrap();
    let permit = permit(
        Grant {
            subject,
            ..grant("g1")
        },
        150,
    );
    let response = answered(&Sent::http("GET", "/"), |to| {
        responder(DenyDetail::Full).permit(&permit, to)
    });
    let value = header(&ok_part(&response).headers, "x-jitgate-subject").unwrap();
    assert_eq!(value, "user:https://idp.example|zo%C3%AB%20100%25%EF%BF%BD");
}

#[test]
fn shadow_lets_pass_and_says_what_it_would_have_refused() {
    let witness = Mode::Shadow.shadow().unwrap();
    assert!(Mode::Enforce.shadow().is_none());
    let denial = Denial::new(DenyReason::NoGrant, "");
    let sent = Sent::http("GET", "/")
        .header("x-jitgate-grant", "forged")
        .header("x-jitgate-shadow", "forged");
    let response = answered(&sent, |to| {
        responder(DenyDetail::Full).shadow(witness, &denial, to)
    });
    let ok = ok_part(&response);
    assert_eq!(code(&response), 0);
    assert_eq!(header(&ok.headers, "x-jitgate-shadow"), Some("NO_GRANT"));
    assert_eq!(header(&ok.headers, STREAM_DURATION), None);
    let never_told = [
        "x-jitgate-expires",
        "x-jitgate-grant",
        "x-jitgate-reason",
        "x-jitgate-subject",
        TOKEN_HEADER,
    ];
    assert_eq!(ok.headers_to_remove, never_told);
    assert_eq!(
        response.dynamic_metadata.unwrap().fields["shadow"].kind,
        Some(Kind::BoolValue(true))
    );
}

/// What the types cannot forbid: that another file of the sidecar writes the message itself.
#[test]
fn no_other_file_writes_a_check_response() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sidecar");
    let mut folders = vec![root.clone()];
    let mut writers = vec![];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("tests.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                if text.contains("CheckResponse {") || text.contains("CheckResponse::") {
                    writers.push(path.strip_prefix(&root).unwrap().to_owned());
                }
            }
        }
    }
    assert_eq!(writers, [std::path::Path::new("check/respond.rs")]);
}
