//! The webhook's conversation.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jitgate_inject::{BadReview, MAX_REVIEW_BYTES, Review, review};
use serde_json::{Value, json};

use crate::cluster::applied;
use crate::pods::{annotated, pod, settings};

fn asked(change: impl FnOnce(&mut Value)) -> Value {
    let mut review = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "shop",
            "operation": "CREATE",
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
            "object": pod(|pod| {
                pod["metadata"] = json!({"generateName": "checkout-", "labels": {"app": "checkout"}});
            }),
            "oldObject": null,
            "dryRun": true,
        },
    });
    change(&mut review["request"]);
    review
}

fn answered(asked: &Value) -> (Review, Value) {
    let review = review(asked.to_string().as_bytes(), &settings(), |_| {
        BTreeMap::new()
    })
    .unwrap();
    let body: Value = serde_json::from_slice(&review.body).unwrap();
    assert_eq!(body["apiVersion"], json!("admission.k8s.io/v1"));
    assert_eq!(body["kind"], json!("AdmissionReview"));
    assert_eq!(body["response"]["uid"], asked["request"]["uid"]);
    (review, body["response"].clone())
}

#[test]
fn a_new_pod_is_answered_with_a_patch_that_injects_it() {
    let first = asked(|_| {});
    let (review, response) = answered(&first);
    assert_eq!((review.result, review.reason), ("injected", ""));
    assert_eq!(response["allowed"], json!(true));
    assert_eq!(response["patchType"], json!("JSONPatch"));
    assert_eq!(response["auditAnnotations"], json!({"result": "injected"}));
    let operations = STANDARD
        .decode(response["patch"].as_str().unwrap())
        .unwrap();
    let pod = applied(
        &first["request"]["object"],
        serde_json::from_slice(&operations).unwrap(),
    );
    assert_eq!(
        pod["spec"]["initContainers"][0]["name"],
        json!("jitgate-sidecar")
    );

    let again = asked(|request| request["object"] = pod);
    let (review, response) = answered(&again);
    assert_eq!(review.result, "unchanged");
    assert!(response.get("patch").is_none() && response.get("patchType").is_none());
}

#[test]
fn a_refusal_reaches_the_author_as_a_sentence() {
    let (review, response) = answered(&asked(|request| {
        request["object"] = annotated(&[("jitgate.dev/deny-detail", "evrything")]);
    }));
    assert_eq!((review.result, review.reason), ("refused", "bad_value"));
    assert_eq!(response["allowed"], json!(false));
    let message = response["status"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("the pod's annotation jitgate.dev/deny-detail is \"evrything\""),
        "{message}"
    );
    assert!(response.get("patch").is_none());
}

#[test]
fn a_skip_is_audited_with_its_reason_and_explained_to_the_author() {
    let (review, response) = answered(&asked(|request| {
        request["object"]["metadata"]["labels"] = json!({})
    }));
    assert_eq!((review.result, review.reason), ("skipped", "no_service"));
    assert_eq!(response["auditAnnotations"]["reason"], json!("no_service"));
    assert!(
        response["warnings"][0]
            .as_str()
            .unwrap()
            .contains("jitgate.dev/service")
    );
}

#[test]
fn what_is_no_new_pod_is_none_of_our_business() {
    let changes: [fn(&mut Value); 5] = [
        |request| request["operation"] = json!("UPDATE"),
        |request| request["operation"] = json!("DELETE"),
        |request| request["subResource"] = json!("binding"),
        |request| request["kind"] = json!({"group": "apps", "version": "v1", "kind": "Deployment"}),
        |request| {
            request["operation"] = json!("DELETE");
            request["object"] = Value::Null;
        },
    ];
    for change in changes {
        let (review, response) = answered(&asked(change));
        assert_eq!(review.result, "ignored");
        assert_eq!(response["allowed"], json!(true));
        assert!(response.get("patch").is_none());
    }
}

#[test]
fn a_debug_container_may_join_but_not_take_the_sidecars_place() {
    let debug = |container: Value| {
        answered(&asked(|request| {
            request["operation"] = json!("UPDATE");
            request["subResource"] = json!("ephemeralcontainers");
            request["object"]["spec"]["ephemeralContainers"] = json!([container]);
        }))
    };
    let (_, response) = debug(json!({"name": "debugger", "targetContainerName": "app"}));
    assert_eq!(response["allowed"], json!(true));
    for container in [
        json!({"name": "debugger", "targetContainerName": "jitgate-sidecar"}),
        json!({"name": "debugger", "volumeMounts": [{"name": "jitgate-socket", "mountPath": "/s"}]}),
    ] {
        let (review, response) = debug(container);
        assert_eq!(response["allowed"], json!(false));
        assert_eq!(review.reason, "conflict");
    }
}

#[test]
fn a_pod_without_an_object_is_refused_not_let_through() {
    let (_, response) = answered(&asked(|request| request["object"] = Value::Null));
    assert_eq!(response["allowed"], json!(false));
}

#[test]
fn a_body_that_is_no_review_has_no_answer() {
    let ask = |body: &[u8]| review(body, &settings(), |_| BTreeMap::new()).unwrap_err();
    assert!(matches!(ask(b"{"), BadReview::NotAReview(_)));
    assert!(matches!(ask(b"{}"), BadReview::NotAReview(_)));
    let old = asked(|_| {})
        .to_string()
        .replace("admission.k8s.io/v1", "admission.k8s.io/v1beta1");
    assert!(matches!(ask(old.as_bytes()), BadReview::NotAReview(_)));
    assert!(matches!(
        ask(&vec![b' '; MAX_REVIEW_BYTES + 1]),
        BadReview::TooLarge(_)
    ));
    let deep = "[".repeat(100_000);
    assert!(matches!(ask(deep.as_bytes()), BadReview::NotAReview(_)));
}

#[test]
fn the_namespaces_annotations_are_asked_for_by_its_name() {
    let body = asked(|_| {}).to_string();
    let answered = review(body.as_bytes(), &settings(), |namespace| {
        assert_eq!(namespace, "shop");
        BTreeMap::from([("jitgate.dev/inject".to_owned(), "false".to_owned())])
    });
    assert_eq!(answered.unwrap().reason, "opted_out");
}
