//! Claims about the validation of a call: whose questions are answered, and what a bad one is told.

use super::*;
use crate::control::testing::*;

fn question(change: impl FnOnce(&mut v1::ValidateAccessRequest)) -> Result<Question, Fault> {
    let mut wire = v1::ValidateAccessRequest {
        service: "payments".into(),
        target: Some(WireTarget::Http("GET /v1/users/7".into())),
        ..Default::default()
    };
    change(&mut wire);
    Question::parse(wire)
}

#[test]
fn bad_input_is_named_by_its_field() {
    let field =
        |change: fn(&mut v1::ValidateAccessRequest)| question(change).unwrap_err().field.unwrap();
    assert_eq!(field(|wire| wire.service.clear()), "service");
    assert_eq!(field(|wire| wire.target = None), "target");
    assert_eq!(
        field(|wire| wire.target = Some(WireTarget::Http("/v1/users/7".into()))),
        "http"
    );
    assert_eq!(
        field(|wire| wire.principals = vec!["alice".into()]),
        "principals[0]"
    );
    assert_eq!(field(|wire| wire.revision = -1), "revision");
}

#[test]
fn only_an_administrator_asks_about_others() {
    let about = |change: fn(&mut v1::ValidateAccessRequest)| question(change).unwrap();
    let of_bob = about(|wire| wire.principals = vec![BOB.into()]);
    assert!(
        may_ask(&alice(), &of_bob).is_err()
            && may_ask(&bob(), &of_bob).is_ok()
            && may_ask(&root(), &of_bob).is_ok()
    );
    let through = about(|wire| wire.peer = "spiffe://td/web".into());
    assert!(may_ask(&alice(), &through).is_err());
    assert!(may_ask(&Caller::stand_in(&["spiffe://td/web"], false), &through).is_ok());
}

#[test]
fn no_debug_output_holds_a_credential() {
    let asked =
        question(|wire| (wire.token, wire.bearer) = ("s3cret".into(), "s3cret".into())).unwrap();
    assert!(!format!("{asked:?}").contains("s3cret"));
}
