//! The patch types of the API: JSON Patch, JSON merge patch, strategic merge patch.
//!
//! Strategic merge: kubernetes/community `sig-api-machinery/strategic-merge-patch.md`. Which lists
//! merge, and by which key, is a fact of the API, kept in `MERGE_KEYS`.

use serde_json::{Map, Value};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the patch is not valid JSON Patch: {0}")]
    NotJsonPatch(String),
    #[error("{0}")]
    Refused(String),
    #[error("the patch must be a JSON object")]
    NotObject,
}

/// Applies RFC 6902 operations; a failed `test` or a missing path refuses the whole patch.
pub fn json_patch(object: &mut Value, patch: &Value) -> Result<(), Error> {
    let patch: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|error| Error::NotJsonPatch(error.to_string()))?;
    json_patch::patch(object, &patch).map_err(|error| {
        Error::Refused(format!("the server rejected our request due to an error in our request: {error}"))
    })
}

/// Applies RFC 7386.
pub fn merge_patch(object: &mut Value, patch: &Value) -> Result<(), Error> {
    if !patch.is_object() {
        return Err(Error::NotObject);
    }
    json_patch::merge(object, patch);
    Ok(())
}

/// List fields that merge by key. The second column names the field; a field name means the same
/// list wherever it occurs, except `ports`, whose key tells the parent apart.
const MERGE_KEYS: &[(&str, &[&str])] = &[
    ("containers", &["name"]),
    ("initContainers", &["name"]),
    ("ephemeralContainers", &["name"]),
    ("env", &["name"]),
    ("volumes", &["name"]),
    ("volumeMounts", &["mountPath"]),
    ("volumeDevices", &["devicePath"]),
    ("imagePullSecrets", &["name"]),
    ("secrets", &["name"]),
    ("hostAliases", &["ip"]),
    ("topologySpreadConstraints", &["topologyKey"]),
    ("resourceClaims", &["name"]),
    ("schedulingGates", &["name"]),
    ("readinessGates", &["conditionType"]),
    ("conditions", &["type"]),
    ("addresses", &["type"]),
    ("ownerReferences", &["uid"]),
    // A container's ports merge by containerPort, a service's by port.
    ("ports", &["containerPort", "port"]),
    ("podIPs", &["ip"]),
];

/// Lists of primitives that merge as sets.
const MERGE_SETS: &[&str] = &["finalizers", "podCIDRs"];

/// Objects that are replaced as a whole even though they are maps (`retainKeys` and atomic structs).
const RETAIN_KEYS: &[&str] = &["strategy", "volumes"];

fn merge_key(field: &str, items: &[Value]) -> Option<&'static str> {
    let keys = MERGE_KEYS.iter().find(|(name, _)| *name == field)?.1;
    keys.iter().copied().find(|key| items.iter().all(|item| item.get(key).is_some() || item.get("$patch").is_some()))
}

/// Applies a strategic merge patch.
pub fn strategic_merge(object: &mut Value, patch: &Value) -> Result<(), Error> {
    let patch = patch.as_object().ok_or(Error::NotObject)?;
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    merge_map(object.as_object_mut().expect("made an object above"), patch)
}

fn merge_map(object: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), Error> {
    match patch.get("$patch").and_then(Value::as_str) {
        None | Some("merge") => {}
        Some("delete") => {
            object.clear();
            return Ok(());
        }
        Some("replace") => {
            *object = patch.iter().filter(|(k, _)| *k != "$patch").map(|(k, v)| (k.clone(), v.clone())).collect();
            return Ok(());
        }
        Some(other) => return Err(Error::Refused(format!("unknown $patch directive {other:?}"))),
    }
    if let Some(retain) = patch.get("$retainKeys").and_then(Value::as_array) {
        object.retain(|key, _| retain.iter().any(|kept| kept == key));
    }
    for (field, change) in patch {
        if field == "$patch" || field == "$retainKeys" || field.starts_with("$setElementOrder/") {
            continue;
        }
        if let Some(list) = field.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = change.as_array().map_or(&[][..], Vec::as_slice);
            if let Some(items) = object.get_mut(list).and_then(Value::as_array_mut) {
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        match change {
            Value::Null => {
                object.remove(field);
            }
            Value::Object(change) => match object.get_mut(field) {
                Some(Value::Object(inner)) => merge_map(inner, change)?,
                _ => {
                    let mut inner = Map::new();
                    merge_map(&mut inner, change)?;
                    object.insert(field.clone(), Value::Object(inner));
                }
            },
            Value::Array(change) => {
                let existing = object.entry(field.as_str()).or_insert_with(|| Value::Array(Vec::new()));
                if !existing.is_array() {
                    *existing = Value::Array(Vec::new());
                }
                let items = existing.as_array_mut().expect("made an array above");
                let order = patch.get(&format!("$setElementOrder/{field}")).and_then(Value::as_array);
                merge_list(field, items, change, order)?;
            }
            scalar => {
                object.insert(field.clone(), scalar.clone());
            }
        }
    }
    // An order without a list of changes still reorders.
    for (field, order) in patch {
        let Some(list) = field.strip_prefix("$setElementOrder/").filter(|list| !patch.contains_key(*list)) else {
            continue;
        };
        if let (Some(items), Some(order)) = (object.get_mut(list).and_then(Value::as_array_mut), order.as_array()) {
            reorder(list, items, order);
        }
    }
    Ok(())
}

fn merge_list(field: &str, items: &mut Vec<Value>, change: &[Value], order: Option<&Vec<Value>>) -> Result<(), Error> {
    if MERGE_SETS.contains(&field) {
        for item in change {
            if !items.contains(item) {
                items.push(item.clone());
            }
        }
    } else if change.iter().any(|item| item.get("$patch").and_then(Value::as_str) == Some("replace")) {
        *items = change.iter().filter(|item| item.get("$patch").is_none()).cloned().collect();
    } else if let Some(key) = merge_key(field, change).filter(|_| change.iter().all(Value::is_object)) {
        for item in change {
            let same =
                items.iter().position(|existing| existing.get(key).is_some() && existing.get(key) == item.get(key));
            let change = item.as_object().expect("checked above");
            match (same, item.get("$patch").and_then(Value::as_str)) {
                (Some(i), Some("delete")) => {
                    items.remove(i);
                }
                (None, Some("delete")) => {}
                (Some(i), _) => merge_map(items[i].as_object_mut().expect("it has a key field"), change)?,
                (None, _) => {
                    let mut fresh = Map::new();
                    merge_map(&mut fresh, change)?;
                    items.push(Value::Object(fresh));
                }
            }
        }
    } else {
        *items = change.to_vec();
    }
    if let Some(order) = order {
        reorder(field, items, order);
    }
    Ok(())
}

/// Puts `items` in the order listed; those not listed keep their place at the end.
fn reorder(field: &str, items: &mut [Value], order: &[Value]) {
    let key = merge_key(field, items);
    let place = |item: &Value| {
        let same = |listed: &Value| match key {
            Some(key) => listed.get(key) == item.get(key),
            None => listed == item,
        };
        order.iter().position(same).unwrap_or(order.len())
    };
    items.sort_by_key(place);
}

/// The merge key of a list field, for the `x-kubernetes-patch-merge-key` of published schemas.
pub fn published_merge_key(field: &str) -> Option<&'static str> {
    MERGE_KEYS.iter().find(|(name, _)| *name == field).map(|(_, keys)| keys[0])
}

/// True for fields whose published patch strategy includes `retainKeys`.
pub fn retains_keys(field: &str) -> bool {
    RETAIN_KEYS.contains(&field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn strategic(object: Value, patch: Value) -> Value {
        let mut object = object;
        strategic_merge(&mut object, &patch).unwrap();
        object
    }

    #[test]
    fn containers_merge_by_name() {
        let pod = json!({"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]});
        assert_eq!(
            strategic(pod, json!({"containers": [{"name": "b", "image": "z"}, {"name": "c"}]})),
            json!({"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "z"}, {"name": "c"}]})
        );
    }

    #[test]
    fn a_list_item_is_deleted_by_directive() {
        let pod = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        let patch = json!({"containers": [{"name": "a", "$patch": "delete"}]});
        assert_eq!(strategic(pod, patch), json!({"containers": [{"name": "b"}]}));
    }

    #[test]
    fn null_removes_and_replace_replaces() {
        let object = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"x": 1}});
        let patch = json!({"metadata": {"labels": {"a": null}}, "spec": {"$patch": "replace", "y": 2}});
        assert_eq!(strategic(object, patch), json!({"metadata": {"labels": {"b": "2"}}, "spec": {"y": 2}}));
    }

    #[test]
    fn order_and_primitive_lists() {
        let pod = json!({"env": [{"name": "a"}, {"name": "b"}], "finalizers": ["x", "y"], "command": ["p", "q"]});
        let patch = json!({
            "$setElementOrder/env": [{"name": "b"}, {"name": "a"}],
            "$deleteFromPrimitiveList/finalizers": ["x"], "command": ["r"],
        });
        assert_eq!(
            strategic(pod, patch),
            json!({"env": [{"name": "b"}, {"name": "a"}], "finalizers": ["y"], "command": ["r"]})
        );
    }

    #[test]
    fn retain_keys_drops_the_others() {
        let object = json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}});
        let patch = json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}});
        assert_eq!(strategic(object, patch), json!({"strategy": {"type": "Recreate"}}));
    }

    #[test]
    fn unknown_directives_and_non_objects_are_refused() {
        assert!(strategic_merge(&mut json!({}), &json!({"a": {"$patch": "explode"}})).is_err());
        assert!(strategic_merge(&mut json!({}), &json!([])).is_err());
        assert!(json_patch(&mut json!({}), &json!([{"op": "remove", "path": "/a"}])).is_err());
        assert!(json_patch(&mut json!({}), &json!({"op": "add"})).is_err());
    }
}
