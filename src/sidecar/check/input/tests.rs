//! Claims about reading checks as Envoy sends them.

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use prost::Message;

use super::*;
use crate::sidecar::fixtures::{CAPTURED, CHECKOUT, Sent, services};

/// A call in one line: `DIALECT service target <- peer, bearer`.
fn line(check: &CheckRequest) -> String {
    let services = services(&["shop"]);
    let inbound = read(check, &services);
    let call = inbound.call.as_ref().unwrap();
    let target = call
        .target
        .as_ref()
        .map_or_else(|why| format!("!{why}"), ToString::to_string);
    format!(
        "{:?} {} {target} <- {:?} {:?}",
        inbound.dialect, call.service, call.peer, call.bearer
    )
}

fn decode(name: &str) -> CheckRequest {
    let (_, bytes) = CAPTURED
        .iter()
        .find(|(captured, _)| captured.starts_with(name))
        .unwrap();
    CheckRequest::decode(*bytes).unwrap()
}

fn reason(sent: &Sent, configured: &[&str]) -> Option<DenyReason> {
    read(&sent.0, &services(configured))
        .call
        .err()
        .map(|denial| denial.reason)
}

#[test]
fn every_captured_check_parses_to_its_call() {
    let alice = "\"spiffe://lab.local/ns/default/sa/alice\"";
    for (name, expected) in [
        ("01", "Http shop GET /orders/42 <- \"\" Token(…)".to_owned()),
        ("02", "Http shop POST /orders <- \"\" Nothing".to_owned()),
        ("03", "Http shop GET /bin <- \"\" Nothing".to_owned()),
        ("04", "Http shop GET /h2/x <- \"\" Nothing".to_owned()),
        (
            "05",
            "Grpc shop /echo.Echo/Unary <- \"\" Token(…)".to_owned(),
        ),
        ("06", "Grpc shop /echo.Echo/Bidi <- \"\" Nothing".to_owned()),
        ("07", "Http shop GET /ws <- \"\" Nothing".to_owned()),
        ("08", "Http shop GET /ws <- \"\" Nothing".to_owned()),
        ("09", format!("Http shop GET /m <- {alice} Nothing")),
        (
            "10",
            format!("Grpc shop /echo.Echo/Unary <- {alice} Nothing"),
        ),
        ("11", format!("Http shop GET /m <- {alice} Nothing")),
    ] {
        assert_eq!(line(&decode(name)), expected, "{name}");
    }
}

#[test]
fn the_query_is_not_kept() {
    let sent = Sent::http("GET", "/v1/users/7?token=hunter2&x=%2f");
    let services = services(&["payments"]);
    let inbound = read(&sent.0, &services);
    assert_eq!(inbound.call.as_ref().unwrap().path, "/v1/users/7");
    assert!(!format!("{inbound:?}").contains("hunter2"));
}

#[test]
fn a_check_that_lacks_a_part_is_a_bad_check() {
    let empty = CheckRequest::default();
    let services = services(&["payments"]);
    assert_eq!(
        read(&empty, &services).call.unwrap_err().reason,
        DenyReason::BadCheck
    );
    for part in ["request", "http", "method", "path"] {
        let mut sent = Sent::http("GET", "/");
        let request = sent
            .0
            .attributes
            .as_mut()
            .unwrap()
            .request
            .as_mut()
            .unwrap();
        match part {
            "request" => sent.0.attributes.as_mut().unwrap().request = None,
            "http" => request.http = None,
            "method" => request.http.as_mut().unwrap().method.clear(),
            _ => request.http.as_mut().unwrap().path.clear(),
        }
        assert_eq!(
            reason(&sent, &["payments"]),
            Some(DenyReason::BadCheck),
            "{part}"
        );
    }
}

#[test]
fn a_route_names_the_service_where_there_are_several() {
    let sent = Sent::http("GET", "/");
    assert_eq!(reason(&sent, &["payments"]), None);
    assert_eq!(
        reason(&sent, &["payments", "orders"]),
        Some(DenyReason::BadCheck)
    );
    let named = sent.clone().extension(SERVICE_KEY, "orders");
    assert_eq!(reason(&named, &["payments", "orders"]), None);
    assert_eq!(
        read(&named.0, &services(&["payments", "orders"]))
            .call
            .unwrap()
            .service
            .as_str(),
        "orders"
    );
    assert_eq!(
        reason(&named, &["payments"]),
        Some(DenyReason::BadCheck),
        "a route of another service"
    );
    assert_eq!(
        reason(&sent.extension(SERVICE_KEY, ""), &["payments"]),
        Some(DenyReason::BadCheck)
    );
}

#[test]
fn only_a_whole_grpc_call_is_judged_as_grpc() {
    let target = |sent: &Sent| {
        let services = services(&["payments"]);
        let call = read(&sent.0, &services).call.unwrap();
        call.target.map(|target| matches!(target, Target::Grpc(_)))
    };
    let typed = |method: &str, path: &str, kind: &str| {
        Sent::http(method, path).header("content-type", kind)
    };
    assert_eq!(
        target(&typed("POST", "/a.B/C", "application/grpc")),
        Ok(true)
    );
    assert_eq!(
        target(&typed("POST", "/a.B/C", "application/grpc+proto")),
        Ok(true)
    );
    for (method, path, kind) in [
        ("GET", "/a.B/C", "application/grpc"),
        ("POST", "/a.B/C", "application/grpc-web"),
        ("POST", "/a.B/C", "application/grpcx"),
        ("POST", "/a.B/C", "application/grpc,application/grpc"),
        ("POST", "/a.B/C", "application/json"),
        ("POST", "/v1/users/7", "application/grpc"),
    ] {
        assert_eq!(
            target(&typed(method, path, kind)),
            Ok(false),
            "{method} {path} {kind}"
        );
    }
}

#[test]
fn targets_without_a_path_of_their_own_are_not_canonical() {
    for (method, path) in [
        ("CONNECT", ""),
        ("CONNECT", "db:5432"),
        ("CONNECT", "/"),
        ("OPTIONS", "*"),
        ("GET", "http://h/v1"),
    ] {
        let sent = Sent::http(method, path);
        let services = services(&["payments"]);
        assert_eq!(
            read(&sent.0, &services).call.unwrap().target,
            Err(TargetError::NotAbsolute),
            "{method} {path}"
        );
    }
}

#[test]
fn a_bearer_token_beside_anything_else_is_malformed() {
    let of = |values: &[&'static str]| {
        bearer(
            &values
                .iter()
                .map(|value| value.as_bytes())
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(of(&[]), Presented::Nothing);
    assert_eq!(of(&["Bearer abc"]), Presented::Token("abc"));
    assert_eq!(of(&["bEARER   abc "]), Presented::Token("abc"));
    assert_eq!(of(&["Basic YTpi"]), Presented::Elsewhere);
    assert_eq!(of(&["Digest a=1, b=2"]), Presented::Elsewhere);
    assert_eq!(of(&["Bearerabc"]), Presented::Elsewhere);
    assert_eq!(of(&[""]), Presented::Elsewhere);
    for values in [
        &["Bearer"][..],
        &["Bearer "],
        &["Bearer a b"],
        &["Bearer a,Bearer b"],
        &["Bearer a,"],
        &[",Bearer a"],
        &["Basic YTpi,Bearer a"],
        &["Bearer a", "Bearer a"],
        &["Basic YTpi", "Bearer a"],
        &["Bearer \u{e9}"],
    ] {
        assert!(matches!(of(values), Presented::Malformed(_)), "{values:?}");
    }
}

#[test]
fn our_own_token_is_exactly_one() {
    assert_eq!(own_token(&[]), Presented::Nothing);
    assert_eq!(own_token(&[b"abc"]), Presented::Token("abc"));
    for values in [
        &[&b""[..]][..],
        &[b"a,b"],
        &[b"a b"],
        &[b"a\xff"],
        &[b"a", b"b"],
    ] {
        assert!(
            matches!(own_token(values), Presented::Malformed(_)),
            "{values:?}"
        );
    }
}

#[test]
fn raw_headers_are_read_and_repetitions_seen() {
    let raw = |key: &str, value: &[u8]| HeaderValue {
        key: key.into(),
        raw_value: value.to_vec(),
        ..Default::default()
    };
    let mut sent = Sent::http("POST", "/pay.v1.Ledger/Get");
    sent.http_mut().header_map = Some(HeaderMap {
        headers: vec![
            raw("content-type", b"application/grpc"),
            raw("authorization", b"Bearer a"),
            raw("authorization", b"Bearer b"),
            raw("x-jitgate-grant", b"\xff"),
        ],
    });
    let services = services(&["payments"]);
    let inbound = read(&sent.0, &services);
    assert_eq!(
        (inbound.dialect, inbound.ours.as_slice()),
        (Dialect::Grpc, &["x-jitgate-grant"][..])
    );
    assert!(matches!(
        inbound.call.unwrap().bearer,
        Presented::Malformed(_)
    ));
}

#[test]
fn our_headers_are_found_however_they_are_spelled() {
    let sent = Sent::http("GET", "/")
        .header("x-jitgate-grant", "forged")
        .header("X-Jitgate-Subject", "forged")
        .header("x_jitgate_expires", "never")
        .header("x-jitgat", "not ours");
    let services = services(&["payments"]);
    let mut ours = read(&sent.0, &services).ours;
    ours.sort_unstable();
    assert_eq!(
        ours,
        ["X-Jitgate-Subject", "x-jitgate-grant", "x_jitgate_expires"]
    );
}

#[test]
fn a_check_with_too_many_headers_is_a_bad_check() {
    let many = (0..=HEADERS_MAX).fold(Sent::http("GET", "/"), |sent, n| {
        sent.header(&format!("h{n}"), "")
    });
    assert_eq!(reason(&many, &["payments"]), Some(DenyReason::BadCheck));
}

#[test]
fn no_credential_is_ever_printed() {
    let sent = Sent::http("GET", "/")
        .header("authorization", "Bearer hunter2")
        .header(TOKEN_HEADER, "hunter2");
    let services = services(&["payments"]);
    let inbound = read(&sent.0, &services);
    assert!(!format!("{inbound:?}").contains("hunter2"));
    assert_eq!(inbound.call.unwrap().peer, CHECKOUT);
}
