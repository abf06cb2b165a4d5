//! Manifests in, manifests out: pods and what makes pods get the sidecar, all else passes byte for byte.
//!
//! A document that changes is written anew, without its comments, as `kubectl get -o yaml` writes one. Its heading, the
//! comments before its first field, stays.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_saphyr::options::DuplicateKeyPolicy;

use crate::fields::{at, text};
use crate::inject::{Context, inject};
use crate::outcome::{Outcome, Refusal, SkipReason};
use crate::settings::Settings;

/// Bytes of manifests that are read at once.
const TEXT_MAX: usize = 64 * 1024 * 1024;

/// The manifests as they should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Injection {
    /// Every document, the changed ones written anew.
    pub text: String,
    /// What became of each object that is or makes pods.
    pub reports: Vec<Report>,
}

/// What became of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// As `Deployment shop/checkout`.
    pub object: String,
    /// Why it has no sidecar; `None` where it has.
    pub skipped: Option<SkipReason>,
    /// For the author.
    pub warnings: Vec<String>,
}

/// Manifests that cannot be injected. Nothing of them is written then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentsError {
    /// Too much to read.
    #[error("the manifests have {0} bytes, more than {TEXT_MAX}")]
    TooLarge(usize),
    /// Counted from 1.
    #[error("document {document} is not usable YAML: {cause}")]
    Syntax {
        /// Which.
        document: usize,
        /// In the parser's words.
        cause: String,
    },
    /// A pod that must not start as it is.
    #[error("{object}: {refusal}")]
    Refused {
        /// As `Deployment shop/checkout`.
        object: String,
        /// Why.
        refusal: Refusal,
    },
}

/// Injects every pod and pod template of `manifests`. Where an object names no namespace, it goes to `namespace`.
///
/// # Errors
/// The first document that is no YAML or holds a pod that must not start as it is.
pub fn inject_documents(
    manifests: &str,
    namespace: &str,
    settings: &Settings,
) -> Result<Injection, DocumentsError> {
    if manifests.len() > TEXT_MAX {
        return Err(DocumentsError::TooLarge(manifests.len()));
    }
    let mut injection = Injection {
        text: String::with_capacity(manifests.len() * 2),
        reports: Vec::new(),
    };
    for (index, part) in split(manifests).into_iter().enumerate() {
        let syntax = |cause: String| DocumentsError::Syntax {
            document: index + 1,
            cause,
        };
        injection.text.push_str(part.marker);
        let object = read(part.body).map_err(syntax)?;
        let mut changed = object.clone();
        let mut objects = Objects {
            namespace,
            settings,
            reports: &mut injection.reports,
        };
        objects.inject(&mut changed)?;
        if changed == object {
            injection.text.push_str(part.body);
        } else {
            let text = write(part.body, &changed).map_err(syntax)?;
            injection.text.push_str(&text);
        }
    }
    Ok(injection)
}

struct Objects<'a> {
    namespace: &'a str,
    settings: &'a Settings,
    reports: &'a mut Vec<Report>,
}

impl Objects<'_> {
    fn inject(&mut self, object: &mut Value) -> Result<(), DocumentsError> {
        let kind = text(object, &["kind"]).unwrap_or_default().to_owned();
        let version = text(object, &["apiVersion"]).unwrap_or_default();
        let template: &[&str] = match (version, kind.as_str()) {
            ("v1", "Pod") => &[],
            ("v1", "ReplicationController")
            | ("apps/v1", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
            | ("batch/v1", "Job") => &["spec", "template"],
            ("batch/v1", "CronJob") => &["spec", "jobTemplate", "spec", "template"],
            (_, list) if list.ends_with("List") => {
                let items = object.get_mut("items").and_then(Value::as_array_mut);
                return items
                    .into_iter()
                    .flatten()
                    .try_for_each(|item| self.inject(item));
            }
            _ => return Ok(()),
        };
        let namespace = text(object, &["metadata", "namespace"]).unwrap_or(self.namespace);
        let own_name = text(object, &["metadata", "name"])
            .or_else(|| text(object, &["metadata", "generateName"]));
        let shown = match (namespace, own_name.unwrap_or("without a name")) {
            ("", own_name) => format!("{kind} {own_name}"),
            (namespace, own_name) => format!("{kind} {namespace}/{own_name}"),
        };
        let Some(pod) = at(object, template) else {
            return Ok(());
        };
        let context = Context {
            namespace,
            namespace_annotations: &BTreeMap::new(),
            template_of: Some(kind.as_str()),
        };
        let outcome =
            inject(pod, &context, self.settings).map_err(|refusal| DocumentsError::Refused {
                object: shown.clone(),
                refusal,
            })?;
        let (skipped, warnings) = match outcome {
            Outcome::Injected { pod, warnings } => {
                put(object, template, pod);
                (None, warnings)
            }
            Outcome::Skipped { reason, warnings } => (Some(reason), warnings),
        };
        self.reports.push(Report {
            object: shown,
            skipped,
            warnings,
        });
        Ok(())
    }
}

fn put(object: &mut Value, template: &[&str], pod: Value) {
    let place = template
        .iter()
        .try_fold(object, |value, key| value.get_mut(key));
    if let Some(place) = place {
        *place = pod;
    }
}

/// One document of a stream.
struct Part<'a> {
    /// The lines that end the document before: `---`, `...`, directives.
    marker: &'a str,
    body: &'a str,
}

/// Cuts a stream into its documents, losing no byte. A marker stands at the start of a line and nowhere inside of a
/// document, not even in a block of text: YAML has it so.
fn split(manifests: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut marker, mut body, mut position) = (0..0, 0, 0);
    for line in manifests.split_inclusive('\n') {
        let end = position + line.len();
        let bare = line.trim_end();
        // A document that begins on its marker's line is not cut off, and so is refused as a second one.
        let separates = ["---", "..."].into_iter().any(|separator| {
            let rest = bare.strip_prefix(separator);
            rest.is_some_and(|rest| rest.is_empty() || rest.trim_start().starts_with('#'))
        });
        let directive = bare.starts_with('%')
            && manifests
                .get(body..position)
                .is_some_and(|text| text.trim().is_empty());
        if separates || directive {
            parts.push(part(manifests, &marker, body..position));
            marker = position..end;
            body = end;
        }
        position = end;
    }
    parts.push(part(manifests, &marker, body..position));
    parts
}

fn part<'a>(
    text: &'a str,
    marker: &std::ops::Range<usize>,
    body: std::ops::Range<usize>,
) -> Part<'a> {
    Part {
        marker: text.get(marker.clone()).unwrap_or_default(),
        body: text.get(body).unwrap_or_default(),
    }
}

fn read(body: &str) -> Result<Value, String> {
    let empty = |line: &str| line.trim().is_empty() || line.starts_with('#');
    if body.lines().all(empty) {
        return Ok(Value::Null);
    }
    // As kubectl reads YAML: 0644 is octal, `yes` is true.
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::Error,
        legacy_octal_numbers: true,
        strict_booleans: false,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(body, options).map_err(|error| error.to_string())
}

fn write(body: &str, object: &Value) -> Result<String, String> {
    if body.trim_start().starts_with('{') {
        let text = serde_json::to_string_pretty(object).map_err(|error| error.to_string())?;
        return Ok(text + "\n");
    }
    let heading = body
        .split_inclusive('\n')
        .take_while(|line| line.trim().is_empty() || line.starts_with('#'));
    let text = serde_saphyr::to_string(object).map_err(|error| error.to_string())?;
    Ok(heading.collect::<String>() + text.trim_end() + "\n")
}
