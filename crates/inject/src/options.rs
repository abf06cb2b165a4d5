//! The options of one pod: its annotations over its namespace's over the configuration, all read by one set of rules.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::annotations::{self, INJECT, PREFIX, STATUS};
use crate::fields::{at, text};
use crate::inject::Context;
use crate::outcome::{Refusal, RefusalReason};
use crate::settings::Settings;
use crate::values::{self, Read};

/// Where a value comes from, for the words of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Configuration,
    Namespace,
    Pod,
}

impl Origin {
    fn described(self, name: &str) -> String {
        match self {
            Self::Configuration => format!("the injector's configuration, {name}"),
            Self::Namespace => format!("the namespace's annotation {PREFIX}{name}"),
            Self::Pod => format!("the pod's annotation {PREFIX}{name}"),
        }
    }
}

pub(crate) type Layers = BTreeMap<&'static str, (String, Origin)>;

/// The options of one pod, as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    /// Empty where no annotation names one.
    pub(crate) services: Vec<String>,
    pub(crate) mode: String,
    pub(crate) control_plane: String,
    pub(crate) issuers: Option<String>,
    pub(crate) audiences: Vec<String>,
    pub(crate) max_staleness: String,
    pub(crate) deny_detail: String,
    pub(crate) log: String,
    pub(crate) log_format: String,
    pub(crate) otlp_endpoint: Option<String>,
    pub(crate) image: String,
    pub(crate) image_pull_policy: Option<String>,
    pub(crate) cpu_request: Option<String>,
    pub(crate) memory_request: Option<String>,
    pub(crate) cpu_limit: Option<String>,
    pub(crate) memory_limit: Option<String>,
    pub(crate) native_sidecar: Option<bool>,
    pub(crate) readiness_gate: bool,
    pub(crate) admin_port: u16,
    pub(crate) metrics_port: Option<u16>,
    pub(crate) proxy_container: String,
}

impl Options {
    /// Of a pod in its namespace.
    ///
    /// # Errors
    /// An annotation that does not exist, that pods may not set, or whose value cannot be meant.
    pub(crate) fn of(
        pod: &Value,
        context: &Context<'_>,
        settings: &Settings,
    ) -> Result<Self, Refusal> {
        let mut layers = settings.layers();
        for (key, value) in context.namespace_annotations {
            // A namespace carries annotations of other parts of jitgate, too: what is not an option is not for us.
            let name = key.strip_prefix(PREFIX).and_then(annotations::known);
            if let Some(known) = name.filter(|_| key != INJECT) {
                layers.insert(known.name, (value.clone(), Origin::Namespace));
            }
        }
        let own = at(pod, &["metadata", "annotations"]).and_then(Value::as_object);
        for (key, value) in own.into_iter().flatten() {
            let Some(name) = key.strip_prefix(PREFIX).filter(|_| key != STATUS) else {
                continue;
            };
            let value = value.as_str().unwrap_or_default();
            let known = annotations::known(name).ok_or_else(|| unknown(name))?;
            let as_it_stands = layers.get(known.name).is_some_and(|(now, _)| now == value);
            if settings.reserves(name) && !as_it_stands {
                return Err(Refusal::new(
                    RefusalReason::Reserved,
                    format!(
                        "annotation {key} is reserved to the platform: it is set for the namespace or in the \
                         injector's configuration, not on pods; remove it, or ask those who run the cluster"
                    ),
                ));
            }
            layers.insert(known.name, (value.to_owned(), Origin::Pod));
        }
        Self::read(&layers)
    }

    pub(crate) fn read(layers: &Layers) -> Result<Self, Refusal> {
        let layers = Reader(layers);
        Ok(Self {
            services: layers.list("service", values::services)?,
            mode: layers.required("mode", |text| values::one_of(text, &["enforce", "shadow"]))?,
            control_plane: layers.required("control-plane", values::url)?,
            issuers: layers.optional("issuers", values::object_name)?,
            audiences: layers.list("audience", values::audiences)?,
            max_staleness: layers.required("max-staleness", values::staleness)?,
            deny_detail: layers.required("deny-detail", |text| {
                values::one_of(text, &["full", "reason", "none"])
            })?,
            log: layers.required("log", values::log_filter)?,
            log_format: layers
                .required("log-format", |text| values::one_of(text, &["json", "text"]))?,
            otlp_endpoint: layers.optional("otlp-endpoint", values::url)?,
            image: layers.required("image", values::image)?,
            image_pull_policy: layers.optional("image-pull-policy", |text| {
                values::one_of(text, &["Always", "IfNotPresent", "Never"])
            })?,
            cpu_request: layers.optional("cpu-request", values::quantity)?,
            memory_request: layers.optional("memory-request", values::quantity)?,
            cpu_limit: layers.optional("cpu-limit", values::quantity)?,
            memory_limit: layers.optional("memory-limit", values::quantity)?,
            native_sidecar: layers.optional("native-sidecar", values::boolean)?,
            readiness_gate: layers.required("readiness-gate", values::boolean)?,
            admin_port: layers.required("admin-port", values::port)?,
            metrics_port: layers.optional("metrics-port", values::port)?,
            proxy_container: layers.required("proxy-container", values::container_name)?,
        })
    }
}

/// Whether the pod wants a sidecar: its label, else its annotation, else its namespace or the configuration.
///
/// # Errors
/// A value that is neither `true` nor `false`, and an opt-out where pods may not opt out.
pub(crate) fn wanted(
    pod: &Value,
    context: &Context<'_>,
    settings: &Settings,
) -> Result<bool, Refusal> {
    let own = text(pod, &["metadata", "labels", INJECT])
        .or_else(|| text(pod, &["metadata", "annotations", INJECT]));
    let inherited = context
        .namespace_annotations
        .get(INJECT)
        .or_else(|| settings.defaults.get("inject"));
    let Some(value) = own.or(inherited.map(String::as_str)) else {
        return Ok(true);
    };
    let wanted = values::boolean(value).map_err(|way_out| {
        Refusal::new(
            RefusalReason::BadValue,
            format!("{INJECT} is {value:?}: {way_out}"),
        )
    })?;
    if own.is_some() && !wanted && settings.reserves("inject") {
        return Err(Refusal::new(
            RefusalReason::Reserved,
            format!(
                "{INJECT}: \"false\" is not allowed here: every pod of this namespace runs beside a sidecar"
            ),
        ));
    }
    Ok(wanted)
}

fn unknown(name: &str) -> Refusal {
    let way_out = match values::nearest(name, annotations::names()) {
        Some(near) => format!("did you mean {PREFIX}{near}?"),
        None => format!(
            "there are: {}",
            annotations::names().collect::<Vec<_>>().join(", ")
        ),
    };
    Refusal::new(
        RefusalReason::UnknownAnnotation,
        format!("annotation {PREFIX}{name} does not exist; {way_out}"),
    )
}

struct Reader<'a>(&'a Layers);

impl Reader<'_> {
    fn optional<T>(
        &self,
        name: &'static str,
        read: impl Fn(&str) -> Read<T>,
    ) -> Result<Option<T>, Refusal> {
        // An empty value takes back what a lower layer says.
        let Some((value, origin)) = self.0.get(name).filter(|(value, _)| !value.is_empty()) else {
            return Ok(None);
        };
        let bad = |way_out| {
            let origin = origin.described(name);
            let shown: String = value.chars().take(100).collect();
            Refusal::new(
                RefusalReason::BadValue,
                format!("{origin} is {shown:?}: {way_out}"),
            )
        };
        read(value).map(Some).map_err(bad)
    }

    fn required<T>(
        &self,
        name: &'static str,
        read: impl Fn(&str) -> Read<T>,
    ) -> Result<T, Refusal> {
        self.optional(name, read)?.ok_or_else(|| {
            Refusal::new(
                RefusalReason::BadValue,
                format!("{PREFIX}{name} must not be empty"),
            )
        })
    }

    fn list(
        &self,
        name: &'static str,
        read: impl Fn(&str) -> Read<Vec<String>>,
    ) -> Result<Vec<String>, Refusal> {
        Ok(self.optional(name, read)?.unwrap_or_default())
    }
}
