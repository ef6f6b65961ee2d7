//! Rules shared by all kinds: names, labels, annotations, metadata.
//!
//! Sources: RFC 1123, RFC 1035, and kubernetes.io/docs/concepts/overview/working-with-objects/names.

use crate::{FieldErrors, ValueExt};
use serde_json::{Value, json};

const LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
     and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for \
     validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
     '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for \
     validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const NAME_PART_MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
     with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
     '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
     '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', \
     regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

const LABEL_BYTES_MAX: usize = 63;
const SUBDOMAIN_BYTES_MAX: usize = 253;
/// Kubernetes bounds all annotations of an object together.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// Finalizers that need no domain in front.
const STANDARD_FINALIZERS: &[&str] = &["orphan", "foregroundDeletion", "kubernetes"];

pub fn too_many_bytes(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn is_label_text(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// What keeps `text` from being a DNS label (RFC 1123).
pub fn dns_label_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > LABEL_BYTES_MAX {
        problems.push(too_many_bytes(LABEL_BYTES_MAX));
    }
    if !is_label_text(text) {
        problems.push(LABEL_MESSAGE.into());
    }
    problems
}

/// What keeps `text` from being a DNS subdomain (RFC 1123).
pub fn dns_subdomain_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > SUBDOMAIN_BYTES_MAX {
        problems.push(too_many_bytes(SUBDOMAIN_BYTES_MAX));
    }
    if !text.split('.').all(is_label_text) {
        problems.push(SUBDOMAIN_MESSAGE.into());
    }
    problems
}

pub fn is_dns_label(text: &str) -> bool {
    dns_label_problems(text).is_empty()
}

pub fn is_dns_subdomain(text: &str) -> bool {
    dns_subdomain_problems(text).is_empty()
}

/// RBAC names may hold anything that can be one segment of a path.
fn path_segment_problems(text: &str) -> Vec<String> {
    match text {
        "." | ".." => return vec![format!("may not be '{text}'")],
        _ => {}
    }
    ["/", "%"].iter().filter(|c| text.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

fn is_name_text(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    text.chars().all(|c| edge(c) || matches!(c, '-' | '_' | '.')) && text.starts_with(edge) && text.ends_with(edge)
}

fn label_value_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > LABEL_BYTES_MAX {
        problems.push(too_many_bytes(LABEL_BYTES_MAX));
    }
    if !text.is_empty() && !is_name_text(text) {
        problems.push(VALUE_MESSAGE.into());
    }
    problems
}

pub fn is_label_value(text: &str) -> bool {
    label_value_problems(text).is_empty()
}

/// Which grammar a kind's names follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    Label,
    Subdomain,
    PathSegment,
}

impl NameRule {
    pub fn problems(self, text: &str) -> Vec<String> {
        match self {
            NameRule::Label => dns_label_problems(text),
            NameRule::Subdomain => dns_subdomain_problems(text),
            NameRule::PathSegment => path_segment_problems(text),
        }
    }
}

pub fn name(rule: NameRule, value: &Value, path: &str, errors: &mut FieldErrors) {
    for problem in rule.problems(value.as_str().unwrap_or("")) {
        errors.invalid(path, value, &problem);
    }
}

pub fn dns_label(value: &Value, path: &str, errors: &mut FieldErrors) {
    name(NameRule::Label, value, path, errors);
}

/// What keeps `text` from being `[prefix/]name`.
pub fn qualified_name_problems(text: &str) -> Vec<String> {
    let parts: Vec<&str> = text.split('/').collect();
    let (prefix, name) = match parts.as_slice() {
        [name] => (None, *name),
        [prefix, name] => (Some(*prefix), *name),
        _ => {
            let with = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a qualified name {NAME_PART_MESSAGE} {with}")];
        }
    };
    let mut problems = Vec::new();
    match prefix {
        None => {}
        Some("") => problems.push("prefix part must be non-empty".into()),
        Some(prefix) => problems.extend(dns_subdomain_problems(prefix).iter().map(|why| format!("prefix part {why}"))),
    }
    if name.is_empty() {
        problems.push("name part must be non-empty".into());
    } else if name.len() > LABEL_BYTES_MAX {
        problems.push(format!("name part {}", too_many_bytes(LABEL_BYTES_MAX)));
    }
    if !is_name_text(name) {
        problems.push(format!("name part {NAME_PART_MESSAGE}"));
    }
    problems
}

/// `[prefix/]name`, the grammar of label keys, annotation keys, taint keys and resource names.
pub fn qualified_name(text: &str, path: &str, errors: &mut FieldErrors) {
    for problem in qualified_name_problems(text) {
        errors.invalid(path, &json!(text), &problem);
    }
}

pub fn label_value(value: &Value, path: &str, errors: &mut FieldErrors) {
    for problem in label_value_problems(value.as_str().unwrap_or("")) {
        errors.invalid(path, value, &problem);
    }
}

pub fn labels(labels: &Value, path: &str, errors: &mut FieldErrors) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        qualified_name(key, path, errors);
        label_value(value, &format!("{path}[{key}]"), errors);
    }
}

pub fn annotations(annotations: &Value, path: &str, errors: &mut FieldErrors) {
    let mut n_bytes = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        // Upper case is allowed in an annotation's prefix, for old times' sake.
        for problem in qualified_name_problems(&key.to_lowercase()) {
            errors.invalid(path, &json!(key), &problem);
        }
        n_bytes += key.len() + value.as_str().unwrap_or("").len();
    }
    if n_bytes > ANNOTATIONS_BYTES_MAX {
        errors.too_long(path, ANNOTATIONS_BYTES_MAX);
    }
}

pub fn finalizers(list: &Value, path: &str, errors: &mut FieldErrors) {
    let names: Vec<&str> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (i, finalizer) in names.iter().enumerate() {
        let at = format!("{path}[{i}]");
        qualified_name(finalizer, &at, errors);
        if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(finalizer) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(at, &json!(finalizer), why);
        }
    }
    if names.contains(&"orphan") && names.contains(&"foregroundDeletion") {
        errors.invalid(path, list, "finalizer orphan and foregroundDeletion cannot be both set");
    }
}

fn owner_references(object: &Value, errors: &mut FieldErrors) {
    let path = "metadata.ownerReferences";
    let owners = object.items(path);
    for (i, owner) in owners.iter().enumerate() {
        let at = |field: &str| format!("{path}[{i}].{field}");
        let (group, version) = owner.text("apiVersion").split_once('/').unwrap_or(("", owner.text("apiVersion")));
        if version.is_empty() {
            errors.invalid(at("apiVersion"), &json!(owner.text("apiVersion")), "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            if owner.text(field).is_empty() {
                errors.invalid(at(field), &json!(""), "must not be empty");
            }
        }
        if owner.text("kind") == "Event" && ["", "events.k8s.io"].contains(&group) {
            let why = format!("{} is disallowed from being an owner", owner.text("apiVersion"));
            errors.invalid(at("kind"), &json!("Event"), &why);
        }
    }
    let controllers: Vec<&str> =
        owners.iter().filter(|owner| owner.at("controller") == true).map(|owner| owner.text("name")).collect();
    if let [first, .., last] = controllers.as_slice() {
        let why = format!(
            "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {last}"
        );
        errors.invalid(path, object.at(path), &why);
    }
}

/// The rules for the metadata of every object.
pub fn metadata(object: &Value, rule: NameRule, errors: &mut FieldErrors) {
    let generated_from = object.text("metadata.generateName");
    if !generated_from.is_empty() {
        // What is drawn follows, so a dash at the end will not be at the end.
        let tried = match generated_from.strip_suffix('-') {
            Some(before) if !before.is_empty() => format!("{generated_from}a"),
            _ => generated_from.to_string(),
        };
        for problem in rule.problems(&tried) {
            errors.invalid("metadata.generateName", object.at("metadata.generateName"), &problem);
        }
    }
    if object.text("metadata.name").is_empty() {
        errors.required("metadata.name", "name or generateName is required");
    } else {
        name(rule, object.at("metadata.name"), "metadata.name", errors);
    }
    labels(object.at("metadata.labels"), "metadata.labels", errors);
    annotations(object.at("metadata.annotations"), "metadata.annotations", errors);
    owner_references(object, errors);
    finalizers(object.at("metadata.finalizers"), "metadata.finalizers", errors);
}

/// What an update may do to metadata: the system's fields stay as they are.
pub fn metadata_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        immutable(new, old, &format!("metadata.{field}"), errors);
    }
    if old.at("metadata.deletionTimestamp").is_null() {
        return;
    }
    let kept = old.items("metadata.finalizers");
    let added: Vec<&str> = new
        .items("metadata.finalizers")
        .iter()
        .filter(|finalizer| !kept.contains(finalizer))
        .filter_map(Value::as_str)
        .collect();
    if !added.is_empty() {
        let why =
            format!("no new finalizers can be added if the object is being deleted, found new finalizers {added:?}");
        errors.forbidden("metadata.finalizers", &why);
    }
}

/// The value at `path` must be one of `supported`; an absent one is left to defaulting.
pub fn one_of(object: &Value, base: &str, path: &str, supported: &[&str], errors: &mut FieldErrors) {
    let value = object.at(path);
    if !value.is_null() && !value.as_str().is_some_and(|text| supported.contains(&text)) {
        errors.unsupported(join(base, path), value, supported);
    }
}

pub fn non_negative(object: &Value, base: &str, path: &str, errors: &mut FieldErrors) {
    at_least(object, base, path, 0, errors);
}

pub fn at_least(object: &Value, base: &str, path: &str, min: i64, errors: &mut FieldErrors) {
    if let Some(number) = object.at(path).as_i64().filter(|number| *number < min) {
        errors.invalid(join(base, path), &json!(number), &format!("must be greater than or equal to {min}"));
    }
}

pub fn in_range(object: &Value, base: &str, path: &str, (min, max): (i64, i64), errors: &mut FieldErrors) {
    if let Some(number) = object.at(path).as_i64().filter(|number| !(min..=max).contains(number)) {
        errors.invalid(join(base, path), &json!(number), &format!("must be between {min} and {max}, inclusive"));
    }
}

pub fn immutable(new: &Value, old: &Value, path: &str, errors: &mut FieldErrors) {
    if new.at(path) != old.at(path) {
        errors.invalid(path, new.at(path), "field is immutable");
    }
}

pub fn join(base: &str, path: &str) -> String {
    if base.is_empty() { path.into() } else { format!("{base}.{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(is_dns_label("web-1") && !is_dns_label("Web") && !is_dns_label("-a") && !is_dns_label(&"a".repeat(64)));
        assert!(is_dns_subdomain("a.b-c.d") && !is_dns_subdomain("a..b") && !is_dns_subdomain("a_b"));
        assert!(is_label_value("") && is_label_value("A.b_c-1") && !is_label_value("a/b") && !is_label_value("a-"));
        let qualified = |text| {
            let mut errors = FieldErrors::default();
            qualified_name(text, "x", &mut errors);
            errors.is_empty()
        };
        assert!(qualified("app") && qualified("example.com/app") && !qualified("/app") && !qualified("a/b/c/d"));
    }

    #[test]
    fn a_generated_name_may_end_in_a_dash() {
        let problems = |prefix: &str| {
            let mut errors = FieldErrors::default();
            let object = json!({"metadata": {"name": "x", "generateName": prefix}});
            metadata(&object, NameRule::Subdomain, &mut errors);
            errors.0.len()
        };
        assert_eq!([problems("web-"), problems("web."), problems("Web-"), problems("-")], [0, 1, 1, 1]);
    }
}
