//! Reading and writing parts of a Kubernetes object held as JSON, where absent and null mean the same.

use serde_json::{Map, Value};

use crate::outcome::{Refusal, RefusalReason};

pub(crate) type Object = Map<String, Value>;

/// The lists of a pod that hold containers, in the order in which they start.
pub(crate) const CONTAINER_LISTS: [&str; 3] =
    ["initContainers", "containers", "ephemeralContainers"];

/// What stands at `path`; `None` for absent and null.
pub(crate) fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter()
        .try_fold(value, |value, key| value.get(key))
        .filter(|value| !value.is_null())
}

pub(crate) fn text<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    at(value, path)?.as_str()
}

/// The elements of the list at `path`; none where it is absent.
pub(crate) fn list<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    at(value, path)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

pub(crate) fn name(value: &Value) -> Option<&str> {
    text(value, &["name"])
}

/// The containers of a pod's `spec`, of every kind.
pub(crate) fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    CONTAINER_LISTS
        .iter()
        .flat_map(|key| list(spec, &[key]).iter())
}

/// The object at `key`, made where it is absent.
pub(crate) fn object_mut<'a>(parent: &'a mut Object, key: &str) -> Result<&'a mut Object, Refusal> {
    made(parent, key, Value::Object(Object::new()))
        .as_object_mut()
        .ok_or_else(|| misshapen(key, "an object"))
}

/// The list at `key`, made where it is absent.
pub(crate) fn list_mut<'a>(
    parent: &'a mut Object,
    key: &str,
) -> Result<&'a mut Vec<Value>, Refusal> {
    made(parent, key, Value::Array(Vec::new()))
        .as_array_mut()
        .ok_or_else(|| misshapen(key, "a list"))
}

fn made<'a>(parent: &'a mut Object, key: &str, empty: Value) -> &'a mut Value {
    let value = parent.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = empty;
    }
    value
}

/// Sets the one element of `list` with this `name`, or adds it at the end.
pub(crate) fn set_named(list: &mut Vec<Value>, element: Value) {
    let same = |other: &&mut Value| name(other).is_some() && name(other) == name(&element);
    match list.iter_mut().find(same) {
        Some(place) => *place = element,
        None => list.push(element),
    }
}

/// Refuses what is not shaped like a pod, so that no later step has to ask.
pub(crate) fn check_shape(pod: &Value) -> Result<(), Refusal> {
    let object = |path: &[&str]| match at(pod, path) {
        Some(value) if !value.is_object() => Err(misshapen(&path.join("."), "an object")),
        _ => Ok(()),
    };
    let spec = at(pod, &["spec"]).ok_or_else(|| misshapen("spec", "present"))?;
    for path in [&["metadata"][..], &["spec"]] {
        object(path)?;
    }
    for key in ["annotations", "labels"] {
        object(&["metadata", key])?;
        let entries = at(pod, &["metadata", key]).and_then(Value::as_object);
        if entries.is_some_and(|entries| entries.values().any(|value| !value.is_string())) {
            return Err(misshapen(&format!("metadata.{key}"), "a map of text"));
        }
    }
    for key in CONTAINER_LISTS.iter().chain(&["volumes"]) {
        let path = format!("spec.{key}");
        match at(spec, &[key]) {
            None => {}
            Some(Value::Array(elements)) if elements.iter().all(|one| name(one).is_some()) => {}
            Some(_) => return Err(misshapen(&path, "a list of named objects")),
        }
    }
    Ok(())
}

fn misshapen(path: &str, shape: &str) -> Refusal {
    Refusal::new(
        RefusalReason::NotAPod,
        format!("this is not a pod that could run: {path} must be {shape}"),
    )
}
