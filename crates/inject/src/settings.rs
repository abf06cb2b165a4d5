//! What the platform decides for all pods: the injector's configuration.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::annotations::{self, ANNOTATIONS};
use crate::options::{Options, Origin};
use crate::{sidecar, values};

/// The injector's configuration, as `config.yaml` writes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Values of annotations where neither pod nor namespace has them, by name without prefix. `image` and
    /// `control-plane` must be among them.
    pub defaults: BTreeMap<String, String>,
    /// Reserved annotations that pods may set nevertheless.
    pub allowed: BTreeSet<String>,
    /// Further annotations that pods may not set.
    pub reserved: BTreeSet<String>,
    /// Where the authority that signs the control plane's certificate stands in each namespace.
    pub control_plane_ca: Option<ConfigMapKey>,
    /// Allows `http://` to a control plane beyond the pod: for trials alone.
    pub insecure: bool,
    /// The audience of the token by which a sidecar names itself to the control plane.
    pub token_audience: String,
    /// Life of that token in seconds; the kubelet renews it. At least 600.
    pub token_expiration_seconds: u32,
    /// Whether the nodes run native sidecars (Kubernetes 1.29 and later, by default on from 1.29).
    pub native_sidecar: bool,
    /// How long a plain container goes on answering after the pod's end was asked for: longer than its proxy drains.
    /// Needs Kubernetes 1.30; 0 for older nodes. A native sidecar needs none: the kubelet ends it after the containers.
    pub drain_seconds: u32,
    /// Labels that name a pod's service, the first that it has; none: only the annotation counts.
    pub service_labels: Vec<String>,
    /// Namespaces of which no pod is injected.
    pub ignored_namespaces: BTreeSet<String>,
    /// Secrets with which the image is pulled; they must exist in each namespace.
    pub image_pull_secrets: Vec<String>,
    /// Registries, with a path where there is one, that mirror the image's own: another plugin may have put them in
    /// front. An image with a digest may come from everywhere.
    pub image_mirrors: Vec<String>,
    /// Further variables of the sidecar's process, such as `HTTPS_PROXY`; no other ones are set.
    pub env: BTreeMap<String, String>,
    /// The sidecar's user.
    pub run_as_user: u32,
    /// The sidecar's group where the pod's proxy is not known yet: the one that Istio's proxy runs as, which may open
    /// the socket, and whose traffic Istio does not capture.
    pub run_as_group: u32,
    /// The sidecar's binary in its image.
    pub binary: String,
    /// Whether Istio injects the proxies: its annotations are kept in step.
    pub istio: bool,
    /// Istio's `global.proxy.excludeInboundPorts`, comma-separated, where it has one.
    pub istio_excluded_inbound_ports: String,
}

/// A key of a ConfigMap that each namespace has.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigMapKey {
    /// Of the ConfigMap.
    pub name: String,
    /// In it.
    pub key: String,
}

/// A configuration with which no pod could be injected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

impl Default for Settings {
    fn default() -> Self {
        let ignored = ["kube-system", "kube-public", "kube-node-lease"];
        Self {
            defaults: BTreeMap::new(),
            allowed: BTreeSet::new(),
            reserved: BTreeSet::new(),
            control_plane_ca: None,
            insecure: false,
            token_audience: "jitgate-control-plane".to_owned(),
            token_expiration_seconds: 3_600,
            native_sidecar: true,
            drain_seconds: 10,
            service_labels: vec!["app.kubernetes.io/name".to_owned(), "app".to_owned()],
            ignored_namespaces: ignored.map(str::to_owned).into(),
            image_pull_secrets: Vec::new(),
            image_mirrors: Vec::new(),
            env: BTreeMap::new(),
            run_as_user: 2_102,
            run_as_group: 1_337,
            binary: "/jitgate-sidecar".to_owned(),
            istio: true,
            istio_excluded_inbound_ports: String::new(),
        }
    }
}

impl Settings {
    /// Reads and checks a configuration in YAML.
    ///
    /// # Errors
    /// Names the field and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        let settings: Self = serde_saphyr::from_str(text).map_err(|error| {
            SettingsError(format!("is no configuration of the injector: {error}"))
        })?;
        settings.check()?;
        Ok(settings)
    }

    /// Whether pods can be injected with these settings at all.
    ///
    /// # Errors
    /// Names the field and what is wrong with it.
    pub fn check(&self) -> Result<(), SettingsError> {
        let fail = |message: String| Err(SettingsError(message));
        let listed = [
            ("defaults", self.defaults.keys().collect::<Vec<_>>()),
            ("allowed", self.allowed.iter().collect()),
            ("reserved", self.reserved.iter().collect()),
        ];
        for (field, names) in listed {
            if let Some(name) = names.iter().find(|name| annotations::known(name).is_none()) {
                let near = values::nearest(name, annotations::names());
                let hint = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
                return fail(format!("{field}: {name} is no annotation of jitgate{hint}"));
            }
        }
        for required in ["image", "control-plane"] {
            if !self.defaults.contains_key(required) {
                return fail(format!("defaults: {required} is required"));
            }
        }
        if self.token_expiration_seconds < 600 {
            return fail(
                "tokenExpirationSeconds: Kubernetes issues no token for less than 600".to_owned(),
            );
        }
        if self.token_audience.is_empty() {
            return fail("tokenAudience: must not be empty".to_owned());
        }
        if self.run_as_user == 0 {
            return fail("runAsUser: the sidecar never runs as root".to_owned());
        }
        if !self.binary.starts_with('/') {
            return fail("binary: must be an absolute path".to_owned());
        }
        Options::read(&self.layers())
            .and_then(|options| sidecar::check_control_plane(&options, self))
            .map_err(|refusal| SettingsError(refusal.to_string()))
    }

    /// Every option as it stands where neither namespace nor pod says anything.
    pub(crate) fn layers(&self) -> BTreeMap<&'static str, (String, Origin)> {
        ANNOTATIONS
            .iter()
            .filter_map(|known| {
                let configured = self.defaults.get(known.name).map(String::as_str);
                let value = configured.unwrap_or(known.default);
                (!value.is_empty()).then(|| (known.name, (value.to_owned(), Origin::Configuration)))
            })
            .collect()
    }

    /// Whether a pod may not set this annotation.
    pub(crate) fn reserves(&self, name: &str) -> bool {
        let by_itself = annotations::known(name).is_some_and(|known| known.reserved);
        self.reserved.contains(name) || (by_itself && !self.allowed.contains(name))
    }
}
