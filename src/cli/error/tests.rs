use std::collections::HashMap;

use tonic_types::{ErrorDetails, StatusExt as _};

use super::*;

const SERVER: &str = "http://127.0.0.1:7400";

fn lines(status: &Status) -> Vec<String> {
    CliError::from_status(status, SERVER).lines()
}

#[test]
fn bad_input_names_each_field_and_its_cause() {
    let mut details =
        ErrorDetails::with_error_info("INVALID_ARGUMENT", "jitgate.dev", HashMap::new());
    details.add_bad_request_violation("scope.http[0]", "path template \"users\" must begin with /");
    details.add_bad_request_violation("duration", "must be at most 1h");
    let status = Status::with_error_details(Code::InvalidArgument, "2 fields are wrong", details);
    assert_eq!(
        lines(&status),
        [
            "error: scope.http[0]: path template \"users\" must begin with /",
            "error: duration: must be at most 1h"
        ]
    );
}

#[test]
fn a_refusal_names_its_reason_and_a_way_out() {
    let details = ErrorDetails::with_error_info("NOT_ELIGIBLE", "jitgate.dev", HashMap::new());
    let status =
        Status::with_error_details(Code::PermissionDenied, "only an administrator may", details);
    let lines = lines(&status);
    assert_eq!(lines[0], "error: NOT_ELIGIBLE: only an administrator may");
    assert!(lines[1].contains("an identity that may"), "{lines:?}");
}

#[test]
fn a_refusal_over_a_field_names_both() {
    let mut details =
        ErrorDetails::with_error_info("LIMIT_EXCEEDED", "jitgate.dev", HashMap::new());
    details.add_bad_request_violation("duration", "is over the policy's 1h");
    let status = Status::with_error_details(Code::InvalidArgument, "too long", details);
    assert_eq!(
        lines(&status),
        ["error: LIMIT_EXCEEDED: duration: is over the policy's 1h"]
    );
}

#[test]
fn a_field_is_named_as_it_was_typed() {
    let mut details =
        ErrorDetails::with_error_info("INVALID_ARGUMENT", "jitgate.dev", HashMap::new());
    details.add_bad_request_violation(
        "narrowed_duration",
        "must be from 1s to the 5m that are left to approve",
    );
    let status = Status::with_error_details(Code::InvalidArgument, "a field is wrong", details);
    assert_eq!(
        lines(&status),
        ["error: --for: must be from 1s to the 5m that are left to approve"]
    );
}

#[test]
fn the_servers_own_hint_comes_first() {
    let metadata = HashMap::from([("hint".to_owned(), "ask for at most 1h".to_owned())]);
    let details = ErrorDetails::with_error_info("POLICY_DENIED", "jitgate.dev", metadata);
    let status = Status::with_error_details(Code::PermissionDenied, "too long", details);
    assert_eq!(lines(&status)[1], "hint: ask for at most 1h");
}

#[test]
fn a_status_without_details_still_says_what_it_is() {
    assert_eq!(lines(&Status::internal("oops")), ["error: INTERNAL: oops"]);
    assert_eq!(lines(&Status::new(Code::Aborted, "")), ["error: ABORTED"]);
}

#[test]
fn a_server_that_does_not_answer_is_named_with_what_to_start() {
    let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    let lines = lines(&Status::from_error(Box::new(refused)));
    assert!(
        lines[0].starts_with("error: no answer from http://127.0.0.1:7400: "),
        "{lines:?}"
    );
    assert!(lines[1].contains("jitgate dev"), "{lines:?}");
}

#[test]
fn what_a_server_writes_cannot_steer_the_terminal() {
    let text = lines(&Status::internal("a\u{1b}[2Jb\r\nc")).join("");
    assert!(!text.contains(['\u{1b}', '\r', '\n']), "{text:?}");
}

#[test]
fn a_reader_that_left_is_no_failure() {
    let error = CliError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
    assert_eq!((error.exit(), error.lines().len()), (Exit::Done, 0));
}

#[test]
fn an_error_of_several_lines_is_told_line_by_line() {
    let error = CliError::from(anyhow::anyhow!("cannot be used:\na.yaml:1:1: is wrong"));
    assert_eq!(
        error.lines(),
        ["error: cannot be used:", "error: a.yaml:1:1: is wrong"]
    );
}
