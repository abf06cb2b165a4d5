//! Manifests in, manifests out.

use jitgate_inject::{DocumentsError, Injection, inject_documents};
use serde_json::{Value, json};

use crate::pods::settings;

fn run(manifests: &str) -> Injection {
    inject_documents(manifests, "", &settings()).unwrap()
}

const DEPLOYMENT: &str = "
# Who runs this: the checkout team
apiVersion: apps/v1
kind: Deployment
metadata: {name: checkout, namespace: shop}
spec:
  template:
    metadata: {labels: {app: checkout}}
    spec:
      containers:
      - name: app   # the shop
        image: registry.example/checkout:7
      volumes:
      - name: keys
        secret: {secretName: keys, defaultMode: 0400}
";

#[test]
fn what_makes_no_pods_passes_byte_for_byte() {
    let manifests = "%YAML 1.2\r\n---\r\n# a comment\r\nkind:   Service  \r\napiVersion: v1\r\ndata: {a: \"yes\"} # b\r\n...\r\n---\n\n--- # empty\n\
        apiVersion: v1\nkind: ConfigMap\ndata:\n  script: |\n    #!/bin/sh\n     ---\n    echo";
    let injection = run(manifests);
    assert_eq!(injection.text, manifests);
    assert!(injection.reports.is_empty());
}

#[test]
fn only_the_documents_that_change_are_written_anew() {
    let service = "apiVersion: v1\nkind: Service   # kept\n";
    let injection = run(&format!("{service}---{DEPLOYMENT}---\n{service}"));
    assert!(
        injection
            .text
            .starts_with(&format!("{service}---\n# Who runs this")),
        "{}",
        injection.text
    );
    assert!(injection.text.ends_with(&format!("\n---\n{service}")));
    assert_eq!(injection.reports.len(), 1);
    assert_eq!(injection.reports[0].object, "Deployment shop/checkout");
    assert_eq!(injection.reports[0].skipped, None);
}

#[test]
fn injected_manifests_pass_unchanged_the_second_time() {
    let once = run(DEPLOYMENT).text;
    assert_eq!(run(&once).text, once);
}

#[test]
fn numbers_and_texts_keep_what_kubectl_reads_in_them() {
    let text = DEPLOYMENT.replace("- name: app", "- name: app\n        env: [{name: A, value: \"yes\"}, {name: B, value: '0400'}, {name: C, value: \"1e3\"}, {name: D, value: \"null\"}]");
    let after = run(&text).text;
    assert!(
        after.contains("defaultMode: 256"),
        "0400 is octal to kubectl: {after}"
    );
    for quoted in ["yes", "0400", "1e3", "null"] {
        let found = [format!("value: \"{quoted}\""), format!("value: '{quoted}'")]
            .iter()
            .any(|line| after.contains(line));
        assert!(found, "{quoted} in {after}");
    }
}

#[test]
fn every_kind_that_makes_pods_is_injected_where_its_template_stands() {
    let template =
        json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "app"}]}});
    let cases = [
        ("apps/v1", "Deployment", "/spec/template"),
        ("apps/v1", "StatefulSet", "/spec/template"),
        ("apps/v1", "DaemonSet", "/spec/template"),
        ("apps/v1", "ReplicaSet", "/spec/template"),
        ("v1", "ReplicationController", "/spec/template"),
        ("batch/v1", "Job", "/spec/template"),
        ("batch/v1", "CronJob", "/spec/jobTemplate/spec/template"),
    ];
    let mut items = Vec::new();
    for (version, kind, pointer) in cases {
        let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x"},
            "spec": {"template": null, "jobTemplate": {"spec": {"template": null}}}});
        *object.pointer_mut(pointer).unwrap() = template.clone();
        let after: Value = serde_json::from_str(&run(&object.to_string()).text).unwrap();
        let init = after.pointer(&format!("{pointer}/spec/initContainers/0/name"));
        assert_eq!(init, Some(&json!("jitgate-sidecar")), "{kind}");
        items.push(object);
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    assert_eq!(run(&list.to_string()).reports.len(), cases.len());
}

#[test]
fn a_list_without_pods_is_not_touched() {
    let list = "apiVersion: v1\nkind: List # x\nitems:\n- kind: Service\n  apiVersion: v1\n";
    assert_eq!(run(list).text, list);
}

#[test]
fn a_pod_that_must_not_start_is_named_and_nothing_is_written() {
    let bad = DEPLOYMENT.replace(
        "{labels: {app: checkout}}",
        "{annotations: {jitgate.dev/sevrice: a}}",
    );
    let error = inject_documents(&bad, "", &settings()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Deployment shop/checkout: annotation jitgate.dev/sevrice does not exist; did you mean jitgate.dev/service?"
    );
}

#[test]
fn a_plain_sidecar_in_a_job_is_refused_offline_too() {
    let mut settings = settings();
    settings.native_sidecar = false;
    let job = DEPLOYMENT
        .replace("apps/v1", "batch/v1")
        .replace("Deployment", "Job");
    let error = inject_documents(&job, "", &settings).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("Job shop/checkout: a plain sidecar"),
        "{error}"
    );
}

#[test]
fn a_document_that_is_no_yaml_is_named_by_its_number() {
    for bad in ["a: [", "a: 1\na: 2", "a: &x [*x]", "a: 1\n--- {b: 2}"] {
        let error =
            inject_documents(&format!("kind: A\n---\n{bad}\n"), "", &settings()).unwrap_err();
        assert!(
            matches!(error, DocumentsError::Syntax { document: 2, .. }),
            "{error}"
        );
    }
}

#[test]
fn an_object_without_a_namespace_goes_to_the_given_one() {
    let manifests = DEPLOYMENT.replace(", namespace: shop", "");
    let injection = inject_documents(&manifests, "kube-system", &settings()).unwrap();
    assert_eq!(injection.text, manifests);
    assert_eq!(
        injection.reports[0].object,
        "Deployment kube-system/checkout"
    );
}
