//! The decision about one pod: left alone, refused, or given its sidecar.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::annotations::STATUS;
use crate::fields::{Object, at, check_shape, list, name, object_mut, text};
use crate::options::{self, Options};
use crate::outcome::{Outcome, Refusal, RefusalReason, SkipReason};
use crate::settings::Settings;
use crate::sidecar::{self, Plan};
use crate::values;
use crate::{claims, istio};

/// Seconds between the asked end of a pod and its forced one, where the pod does not say.
const GRACE_DEFAULT: u64 = 30;

/// Where a pod stands.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Its namespace: a pod's own field is empty while it is made.
    pub namespace: &'a str,
    /// Annotations of the namespace: options for all of its pods, the reserved ones among them.
    pub namespace_annotations: &'a BTreeMap<String, String>,
    /// Kind of the object whose template the pod is, where it is not among the pod's owners yet.
    pub template_of: Option<&'a str>,
}

/// The pod as it should be. Injecting the result again changes nothing.
///
/// # Errors
/// A pod that must not start as it is, in a sentence for its author.
pub fn inject(pod: &Value, context: &Context<'_>, settings: &Settings) -> Result<Outcome, Refusal> {
    check_shape(pod)?;
    let skipped = |reason| {
        Ok(Outcome::Skipped {
            reason,
            warnings: Vec::new(),
        })
    };
    if let Some(reason) = out_of_reach(pod, context, settings) {
        return skipped(reason);
    }
    if !options::wanted(pod, context, settings)? {
        return skipped(SkipReason::OptedOut);
    }
    let options = Options::of(pod, context, settings)?;
    let spec = at(pod, &["spec"]).unwrap_or(&Value::Null);
    let proxy = sidecar::proxy(spec, &options.proxy_container);
    let istio_proxy = settings.istio && options.proxy_container == "istio-proxy";
    match proxy {
        // Gateways and waypoints that istiod makes say no to injection, and have their proxy from the start.
        None if istio_proxy && istio::leaves_alone(pod) => return skipped(SkipReason::NoProxy),
        None if !istio_proxy => return Err(no_such_proxy(spec, &options.proxy_container)),
        _ => {}
    }
    let services = match services(pod, &options, settings) {
        Ok(services) => services,
        Err(warning) => {
            return Ok(Outcome::Skipped {
                reason: SkipReason::NoService,
                warnings: vec![warning],
            });
        }
    };
    sidecar::check_control_plane(&options, settings)?;
    let port = options.metrics_port.unwrap_or(options.admin_port);
    claims::check(spec, &options.proxy_container, port)?;
    let native = options.native_sidecar.unwrap_or(settings.native_sidecar);
    let plan = Plan {
        group: group(spec, proxy, settings),
        drain: if native { 0 } else { drain(spec, settings) },
        options: &options,
        settings,
        services: &services,
        native,
    };
    let mut warnings: Vec<String> = claims::warning(spec).into_iter().collect();
    if !native {
        check_end(pod, spec, context, &mut warnings)?;
    }
    let mut pod = pod.as_object().cloned().unwrap_or_default();
    set(&mut pod, &plan, istio_proxy, &mut warnings)?;
    Ok(Outcome::Injected {
        pod: Value::Object(pod),
        warnings,
    })
}

fn set(
    pod: &mut Object,
    plan: &Plan<'_>,
    istio_proxy: bool,
    warnings: &mut Vec<String>,
) -> Result<(), Refusal> {
    let annotations = object_mut(object_mut(pod, "metadata")?, "annotations")?;
    let status = json!({
        "injector": env!("CARGO_PKG_VERSION"),
        "sidecar": if plan.native { "native" } else { "plain" },
    });
    annotations.insert(STATUS.to_owned(), Value::String(status.to_string()));
    if istio_proxy {
        istio::ask_for_mount(annotations)?;
    }
    let spec = object_mut(pod, "spec")?;
    sidecar::set(spec, plan)?;
    istio::mount_in_proxy(spec, &plan.options.proxy_container)?;
    if let Some(port) = plan.options.metrics_port.filter(|_| istio_proxy)
        && istio::exclude_port(pod, port, &plan.settings.istio_excluded_inbound_ports)?
    {
        warnings.push(format!(
            "istio-init has no list of excluded ports (-d): port {port} of the sidecar may be captured by the mesh"
        ));
    }
    Ok(())
}

/// Pods that no sidecar can stand beside, whatever they ask for.
fn out_of_reach(pod: &Value, context: &Context<'_>, settings: &Settings) -> Option<SkipReason> {
    if settings.ignored_namespaces.contains(context.namespace) {
        return Some(SkipReason::IgnoredNamespace);
    }
    if at(
        pod,
        &["metadata", "annotations", "kubernetes.io/config.mirror"],
    )
    .is_some()
    {
        return Some(SkipReason::MirrorPod);
    }
    if at(pod, &["spec", "hostNetwork"]) == Some(&Value::Bool(true)) {
        return Some(SkipReason::HostNetwork);
    }
    let systems = [
        text(pod, &["spec", "os", "name"]),
        text(pod, &["spec", "nodeSelector", "kubernetes.io/os"]),
    ];
    systems
        .contains(&Some("windows"))
        .then_some(SkipReason::Windows)
}

/// The services that the sidecar answers for, or what the pod's author should know where none is named.
fn services(pod: &Value, options: &Options, settings: &Settings) -> Result<Vec<String>, String> {
    if !options.services.is_empty() {
        return Ok(options.services.clone());
    }
    let labels = &settings.service_labels;
    let labelled = labels
        .iter()
        .find_map(|label| Some((label, text(pod, &["metadata", "labels", label])?)));
    match labelled {
        Some((_, service)) if values::is_service(service) => Ok(vec![service.to_owned()]),
        Some((label, value)) => Err(format!(
            "no jitgate sidecar: label {label} is {value:?}, which is no service name; set annotation jitgate.dev/service"
        )),
        None => {
            Err("no jitgate sidecar: annotation jitgate.dev/service names no service".to_owned())
        }
    }
}

/// The group that may open the socket: the proxy's, where there is one.
fn group(spec: &Value, proxy: Option<&Value>, settings: &Settings) -> u64 {
    const GROUP: [&str; 2] = ["securityContext", "runAsGroup"];
    proxy
        .and_then(|proxy| at(proxy, &GROUP).or_else(|| at(spec, &GROUP)))
        .and_then(Value::as_u64)
        .unwrap_or_else(|| u64::from(settings.run_as_group))
}

/// A hook must end within the pod's grace period, or the API server refuses the pod.
fn drain(spec: &Value, settings: &Settings) -> u64 {
    let grace = at(spec, &["terminationGracePeriodSeconds"])
        .and_then(Value::as_u64)
        .unwrap_or(GRACE_DEFAULT);
    grace.min(u64::from(settings.drain_seconds))
}

/// A plain container never ends by itself, so that a pod that should does not either.
fn check_end(
    pod: &Value,
    spec: &Value,
    context: &Context<'_>,
    warnings: &mut Vec<String>,
) -> Result<(), Refusal> {
    let owners = list(pod, &["metadata", "ownerReferences"]);
    let job = |kind: Option<&str>| matches!(kind, Some("Job" | "CronJob"));
    if job(context.template_of) || owners.iter().any(|owner| job(text(owner, &["kind"]))) {
        return Err(Refusal::conflict(
            "a plain sidecar container would keep this Job running for ever; allow a native one \
             (jitgate.dev/native-sidecar: \"true\", Kubernetes 1.29 and later), or opt out with jitgate.dev/inject: \
             \"false\"",
        ));
    }
    if matches!(text(spec, &["restartPolicy"]), Some("Never" | "OnFailure")) {
        warnings.push("the plain sidecar container keeps this pod running after its own containers have ended".to_owned());
    }
    Ok(())
}

fn no_such_proxy(spec: &Value, proxy: &str) -> Refusal {
    let there: Vec<&str> = list(spec, &["containers"])
        .iter()
        .filter_map(name)
        .collect();
    Refusal::new(
        RefusalReason::BadValue,
        format!(
            "jitgate.dev/proxy-container is {proxy:?}, and the pod has no such container; it has {}",
            there.join(", ")
        ),
    )
}
