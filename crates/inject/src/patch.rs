//! The JSONPatch (RFC 6902) that leads from one document to another. It touches nothing that is equal in both.

use serde_json::{Value, json};

/// The operations that turn `before` into `after`; none where they are equal.
pub fn patch(before: &Value, after: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    diff("", before, after, &mut operations);
    operations
}

fn diff(path: &str, before: &Value, after: &Value, operations: &mut Vec<Value>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for key in before.keys().filter(|key| !after.contains_key(*key)) {
                operations.push(json!({"op": "remove", "path": step(path, key)}));
            }
            for (key, value) in after {
                match before.get(key) {
                    Some(old) => diff(&step(path, key), old, value, operations),
                    None => operations
                        .push(json!({"op": "add", "path": step(path, key), "value": value})),
                }
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            diff_lists(path, before, after, operations);
        }
        _ if before == after => {}
        _ => operations.push(json!({"op": "replace", "path": path, "value": after})),
    }
}

/// Everything in front of place `index` is already as in `after`, so that one number serves both lists.
fn diff_lists(path: &str, before: &[Value], after: &[Value], operations: &mut Vec<Value>) {
    let mut left = before.iter().peekable();
    for (index, value) in after.iter().enumerate() {
        let place = step(path, &index.to_string());
        let kept = |old: &Value| after.iter().skip(index).any(|new| same(old, new));
        while left
            .next_if(|old| !same(old, value) && !kept(old))
            .is_some()
        {
            operations.push(json!({"op": "remove", "path": place}));
        }
        match left.next_if(|old| same(old, value)) {
            Some(old) => diff(&place, old, value, operations),
            None => operations.push(json!({"op": "add", "path": place, "value": value})),
        }
    }
    for _ in left {
        let place = step(path, &after.len().to_string());
        operations.push(json!({"op": "remove", "path": place}));
    }
}

/// Whether two elements are versions of one: containers and volumes are known by their names.
fn same(before: &Value, after: &Value) -> bool {
    match (before.get("name"), after.get("name")) {
        (Some(before), Some(after)) => before == after,
        _ => before == after,
    }
}

fn step(path: &str, key: &str) -> String {
    format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_documents_need_no_patch() {
        let pod = json!({"spec": {"containers": [{"name": "app"}]}});
        assert!(patch(&pod, &pod).is_empty());
    }

    #[test]
    fn a_container_put_in_between_leaves_its_neighbours_alone() {
        let before = json!({"c": [{"name": "a", "x": 1}, {"name": "b"}]});
        let after = json!({"c": [{"name": "a", "x": 2}, {"name": "n"}, {"name": "b"}]});
        assert_eq!(
            patch(&before, &after),
            [
                json!({"op": "replace", "path": "/c/0/x", "value": 2}),
                json!({"op": "add", "path": "/c/1", "value": {"name": "n"}}),
            ]
        );
    }

    #[test]
    fn slashes_and_tildes_of_a_key_are_escaped() {
        let after = json!({"a/b~c": 1});
        assert_eq!(
            patch(&json!({}), &after),
            [json!({"op": "add", "path": "/a~1b~0c", "value": 1})]
        );
    }

    #[test]
    fn elements_that_are_gone_are_removed_from_where_they_stand_by_then() {
        let before = json!([{"name": "a"}, {"name": "b"}, {"name": "c"}, {"name": "d"}]);
        let after = json!([{"name": "b"}]);
        assert_eq!(
            patch(&before, &after),
            [
                json!({"op": "remove", "path": "/0"}),
                json!({"op": "remove", "path": "/1"}),
                json!({"op": "remove", "path": "/1"}),
            ]
        );
    }
}
