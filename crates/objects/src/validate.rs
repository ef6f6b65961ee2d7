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
const QUALIFIED_MESSAGE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start \
     and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for \
     validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
     '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', \
     regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// Kubernetes bounds all annotations of an object together.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

pub fn is_dns_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    (1..=63).contains(&bytes.len()) && bytes.iter().all(inner) && bytes[0] != b'-' && bytes[bytes.len() - 1] != b'-'
}

pub fn is_dns_subdomain(text: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_part)
}

/// RBAC names may hold anything that can be one segment of a path.
fn is_path_segment(text: &str) -> bool {
    !text.is_empty() && text != "." && text != ".." && !text.contains(['/', '%'])
}

fn is_name_characters(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    text.chars().all(|c| edge(c) || matches!(c, '-' | '_' | '.'))
        && text.starts_with(edge)
        && text.ends_with(edge)
        && text.len() <= 63
}

pub fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_name_characters(text)
}

/// Which grammar a kind's names follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    Label,
    Subdomain,
    PathSegment,
}

pub fn name(rule: NameRule, value: &Value, path: &str, errors: &mut FieldErrors) {
    let text = value.as_str().unwrap_or("");
    match rule {
        NameRule::Label if !is_dns_label(text) => errors.invalid(path, value, LABEL_MESSAGE),
        NameRule::Subdomain if !is_dns_subdomain(text) => errors.invalid(path, value, SUBDOMAIN_MESSAGE),
        NameRule::PathSegment if !is_path_segment(text) => {
            errors.invalid(path, value, "may not be '.' or '..' and may not contain '/' or '%'");
        }
        _ => {}
    }
}

pub fn dns_label(value: &Value, path: &str, errors: &mut FieldErrors) {
    name(NameRule::Label, value, path, errors);
}

/// `[prefix/]name`, the grammar of label keys, annotation keys, taint keys and resource names.
pub fn qualified_name(text: &str, path: &str, errors: &mut FieldErrors) {
    let (prefix, name) = text.rsplit_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    if !prefix.is_none_or(is_dns_subdomain) || !is_name_characters(name) {
        errors.invalid(path, &json!(text), QUALIFIED_MESSAGE);
    }
}

pub fn labels(labels: &Value, path: &str, errors: &mut FieldErrors) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        qualified_name(key, path, errors);
        if !is_label_value(value.as_str().unwrap_or("")) {
            errors.invalid(path, value, VALUE_MESSAGE);
        }
    }
}

/// The rules for the metadata of every object.
pub fn metadata(object: &Value, rule: NameRule, errors: &mut FieldErrors) {
    if object.text("metadata.name").is_empty() {
        errors.required("metadata.name", "name or generateName is required");
    } else {
        name(rule, object.at("metadata.name"), "metadata.name", errors);
    }
    labels(object.at("metadata.labels"), "metadata.labels", errors);
    let annotations = object.at("metadata.annotations").as_object();
    let mut n_bytes = 0;
    for (key, value) in annotations.into_iter().flatten() {
        qualified_name(&key.to_lowercase(), "metadata.annotations", errors);
        n_bytes += key.len() + value.as_str().unwrap_or("").len();
    }
    if n_bytes > ANNOTATIONS_BYTES_MAX {
        errors.too_long("metadata.annotations", ANNOTATIONS_BYTES_MAX);
    }
    let mut n_controllers = 0;
    for (i, owner) in object.items("metadata.ownerReferences").iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner.text(field).is_empty() {
                errors.required(format!("metadata.ownerReferences[{i}].{field}"), "must not be empty");
            }
        }
        n_controllers += usize::from(owner.at("controller") == true);
    }
    if n_controllers > 1 {
        errors.invalid(
            "metadata.ownerReferences",
            &json!(n_controllers),
            "Only one reference can have Controller set to true",
        );
    }
    for finalizer in object.items("metadata.finalizers") {
        qualified_name(finalizer.as_str().unwrap_or(""), "metadata.finalizers", errors);
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
        let detail = match min {
            0 => "must be greater than or equal to 0".to_string(),
            _ => format!("must be greater than or equal to {min}"),
        };
        errors.invalid(join(base, path), &json!(number), &detail);
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
}
