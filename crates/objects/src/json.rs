//! Reading and changing JSON by dotted path, and a parser that notices duplicate keys.

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// Dotted-path access: `pod.at("spec.nodeName")`. Paths never hold label or annotation keys,
/// which contain dots themselves; use `label` and `annotation` for those.
pub trait ValueExt {
    /// The value at `path`, or `Null`.
    fn at(&self, path: &str) -> &Value;
    /// The string at `path`, or `""`.
    fn text(&self, path: &str) -> &str;
    /// The array at `path`, or an empty slice.
    fn items(&self, path: &str) -> &[Value];
    /// Sets `path`, making the objects on the way.
    fn set(&mut self, path: &str, value: impl Into<Value>);
    /// Removes `path` and returns what stood there.
    fn remove_at(&mut self, path: &str) -> Option<Value>;
    /// The object at `path`, made when missing.
    fn object(&mut self, path: &str) -> &mut Map<String, Value>;
    /// Sets `path` only when nothing (or null) stands there.
    fn default_to(&mut self, path: &str, value: impl Into<Value>);
    fn label(&self, key: &str) -> Option<&str>;
    fn annotation(&self, key: &str) -> Option<&str>;
}

static NULL: Value = Value::Null;

impl ValueExt for Value {
    fn at(&self, path: &str) -> &Value {
        path.split('.').try_fold(self, |value, field| value.get(field)).unwrap_or(&NULL)
    }

    fn text(&self, path: &str) -> &str {
        self.at(path).as_str().unwrap_or("")
    }

    fn items(&self, path: &str) -> &[Value] {
        self.at(path).as_array().map_or(&[], Vec::as_slice)
    }

    fn set(&mut self, path: &str, value: impl Into<Value>) {
        let (parent, field) = path.rsplit_once('.').unwrap_or(("", path));
        self.object(parent).insert(field.into(), value.into());
    }

    fn remove_at(&mut self, path: &str) -> Option<Value> {
        let (parent, field) = path.rsplit_once('.').unwrap_or(("", path));
        let mut here = self;
        for step in parent.split('.').filter(|step| !step.is_empty()) {
            here = here.get_mut(step)?;
        }
        here.as_object_mut()?.remove(field)
    }

    fn object(&mut self, path: &str) -> &mut Map<String, Value> {
        let mut here = self;
        for step in path.split('.').filter(|step| !step.is_empty()) {
            here = as_object(here).entry(step).or_insert(Value::Null);
        }
        as_object(here)
    }

    fn default_to(&mut self, path: &str, value: impl Into<Value>) {
        if self.at(path).is_null() {
            self.set(path, value);
        }
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.at("metadata.labels").get(key)?.as_str()
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.at("metadata.annotations").get(key)?.as_str()
    }
}

fn as_object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("just made an object")
}

/// The dotted paths at which two values differ, in order, down to the smallest parts that do.
pub fn differences(old: &Value, new: &Value) -> Vec<String> {
    let mut found = Vec::new();
    differ(old, new, String::new(), &mut found);
    found
}

fn differ(old: &Value, new: &Value, path: String, found: &mut Vec<String>) {
    match (old, new) {
        _ if old == new => {}
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                differ(a.get(key).unwrap_or(&NULL), b.get(key).unwrap_or(&NULL), inner, found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                differ(a, b, format!("{path}[{i}]"), found);
            }
        }
        _ => found.push(path),
    }
}

/// Parses JSON and lists the dotted paths of keys that appear twice in one object (the last wins).
pub fn parse_noting_duplicates(bytes: &[u8]) -> Result<(Value, Vec<String>), serde_json::Error> {
    let mut duplicates = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let seed = NotingSeed { path: String::new(), duplicates: &mut duplicates };
    let value = seed.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok((value, duplicates))
}

struct NotingSeed<'a> {
    path: String,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for NotingSeed<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NotingSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, items.len());
            match seq.next_element_seed(NotingSeed { path, duplicates: self.duplicates })? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = if self.path.is_empty() { key.clone() } else { format!("{}.{key}", self.path) };
            if object.contains_key(&key) {
                self.duplicates.push(path.clone());
            }
            let value = map.next_value_seed(NotingSeed { path, duplicates: self.duplicates })?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths() {
        let mut pod = json!({"spec": {"nodeName": "a"}});
        assert_eq!(pod.text("spec.nodeName"), "a");
        assert!(pod.at("spec.missing.deep").is_null());
        pod.set("status.phase", "Pending");
        pod.default_to("status.phase", "Running");
        assert_eq!(pod.text("status.phase"), "Pending");
        assert_eq!(pod.remove_at("spec.nodeName"), Some(json!("a")));
        assert_eq!(pod.remove_at("no.such"), None);
    }

    #[test]
    fn differences_are_named() {
        let old = json!({"a": 1, "list": [{"x": 1}, {"x": 2}], "gone": true, "short": [1]});
        let new = json!({"a": 1, "list": [{"x": 1}, {"x": 3}], "fresh": {"y": 1}, "short": [1, 2]});
        assert_eq!(differences(&old, &new), ["fresh", "gone", "list[1].x", "short"]);
    }

    #[test]
    fn duplicates_are_named() {
        let text = br#"{"a": 1, "spec": {"containers": [{"name": "x", "name": "y"}]}, "a": 2}"#;
        let (value, duplicates) = parse_noting_duplicates(text).unwrap();
        assert_eq!(duplicates, ["spec.containers[0].name", "a"]);
        assert_eq!(value["a"], 2);
        assert!(parse_noting_duplicates(b"{} trailing").is_err());
    }
}
