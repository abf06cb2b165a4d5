//! The admission webhook's conversation: an AdmissionReview (v1) with a question in, one with an answer out.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::claims;
use crate::fields::list;
use crate::inject::{Context, inject};
use crate::outcome::{Outcome, Refusal};
use crate::patch::patch;
use crate::settings::Settings;

/// Bytes of a review. An object of the API server has at most 1.5 MB, and a review may carry it twice.
pub const MAX_REVIEW_BYTES: usize = 8 * 1024 * 1024;
/// Characters of a warning: the API server cuts longer ones, and drops them all beyond 4096.
const WARNING_MAX: usize = 250;

/// An answered review.
#[derive(Debug, Clone)]
pub struct Review {
    /// The AdmissionReview to send back.
    pub body: Vec<u8>,
    /// `injected`, `unchanged`, `skipped`, `refused` or `ignored`: for metrics.
    pub result: &'static str,
    /// Why it was skipped, refused or ignored; else empty.
    pub reason: &'static str,
}

/// A body that cannot be answered, because what it asks is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadReview {
    /// Answer it with 413.
    #[error("the review has {0} bytes, more than {MAX_REVIEW_BYTES}")]
    TooLarge(usize),
    /// Answer it with 400.
    #[error("the body is no AdmissionReview of admission.k8s.io/v1: {0}")]
    NotAReview(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    api_version: String,
    kind: String,
    request: Request,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    kind: Kind,
    #[serde(default)]
    sub_resource: String,
    #[serde(default)]
    namespace: String,
    operation: String,
    #[serde(default)]
    object: Value,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(default)]
    group: String,
    version: String,
    kind: String,
}

/// Answers one review. `annotations_of` gives a namespace's annotations.
///
/// # Errors
/// A body that is no review: there is no answer to it, only an HTTP status.
pub fn review(
    body: &[u8],
    settings: &Settings,
    annotations_of: impl FnOnce(&str) -> BTreeMap<String, String>,
) -> Result<Review, BadReview> {
    if body.len() > MAX_REVIEW_BYTES {
        return Err(BadReview::TooLarge(body.len()));
    }
    let Asked {
        api_version,
        kind,
        request,
    } = serde_json::from_slice(body).map_err(|error| BadReview::NotAReview(error.to_string()))?;
    if api_version != "admission.k8s.io/v1" || kind != "AdmissionReview" {
        return Err(BadReview::NotAReview(format!(
            "it is {kind} of {api_version}"
        )));
    }
    let answer = answer(&request, settings, annotations_of);
    Ok(answer.into_review(&request.uid))
}

/// One answer, before it is written.
struct Answer {
    result: &'static str,
    reason: &'static str,
    refusal: Option<String>,
    patch: Vec<Value>,
    warnings: Vec<String>,
}

impl Answer {
    fn allowed(result: &'static str, reason: &'static str) -> Self {
        Self {
            result,
            reason,
            refusal: None,
            patch: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn into_review(self, uid: &str) -> Review {
        let mut response = json!({
            "uid": uid,
            "allowed": self.refusal.is_none(),
            "auditAnnotations": {"result": self.result},
        });
        let mut set = |path: &str, value: Value| {
            if let Some(response) = response.as_object_mut() {
                response.insert(path.to_owned(), value);
            }
        };
        if !self.reason.is_empty() {
            set(
                "auditAnnotations",
                json!({"result": self.result, "reason": self.reason}),
            );
        }
        if let Some(message) = self.refusal {
            set(
                "status",
                json!({"code": 400, "reason": "BadRequest", "message": message}),
            );
        }
        // An empty patch with a type is an error to the API server; no patch is none.
        if !self.patch.is_empty() {
            set("patchType", json!("JSONPatch"));
            set(
                "patch",
                json!(STANDARD.encode(Value::Array(self.patch).to_string())),
            );
        }
        if !self.warnings.is_empty() {
            let cut = |warning: &String| warning.chars().take(WARNING_MAX).collect::<String>();
            set(
                "warnings",
                json!(self.warnings.iter().map(cut).collect::<Vec<_>>()),
            );
        }
        let review = json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "response": response,
        });
        Review {
            body: review.to_string().into_bytes(),
            result: self.result,
            reason: self.reason,
        }
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal: Some(refusal.to_string()),
            ..Self::allowed("refused", refusal.reason().as_str())
        }
    }
}

fn answer(
    request: &Request,
    settings: &Settings,
    annotations_of: impl FnOnce(&str) -> BTreeMap<String, String>,
) -> Answer {
    let Kind {
        group,
        version,
        kind,
    } = &request.kind;
    if (group.as_str(), version.as_str(), kind.as_str()) != ("", "v1", "Pod") {
        return Answer::allowed("ignored", "not_a_pod");
    }
    match (request.operation.as_str(), request.sub_resource.as_str()) {
        ("CREATE", "") => {}
        (_, "ephemeralcontainers") => return debugging(&request.object),
        // Containers of a pod do not change; refusing a later change of a label would only be in the way.
        _ => return Answer::allowed("ignored", "not_created"),
    }
    let annotations = annotations_of(&request.namespace);
    let context = Context {
        namespace: &request.namespace,
        namespace_annotations: &annotations,
        template_of: None,
    };
    match inject(&request.object, &context, settings) {
        Ok(Outcome::Injected { pod, warnings }) => {
            let patch = patch(&request.object, &pod);
            let result = if patch.is_empty() {
                "unchanged"
            } else {
                "injected"
            };
            Answer {
                patch,
                warnings,
                ..Answer::allowed(result, "")
            }
        }
        Ok(Outcome::Skipped { reason, warnings }) => Answer {
            warnings,
            ..Answer::allowed("skipped", reason.as_str())
        },
        Err(refusal) => refusal.into(),
    }
}

/// `kubectl debug` may add containers to a running pod, but none that could take the sidecar's place.
fn debugging(pod: &Value) -> Answer {
    let added = list(pod, &["spec", "ephemeralContainers"]);
    match added.iter().try_for_each(claims::check_debug) {
        Ok(()) => Answer::allowed("ignored", "not_created"),
        Err(refusal) => refusal.into(),
    }
}
