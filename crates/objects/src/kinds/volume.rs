//! Volumes of a pod spec, and the names and paths of the files in them.
//!
//! Rules: kubernetes.io/docs/reference/kubernetes-api/config-and-storage-resources/volume.

use super::container::{VOLUME_FIELDS, field_reference, resource_reference};
use crate::validate::{dns_label, one_of, too_many_bytes};
use crate::{FieldErrors, Quantity, Value, ValueExt, json};
use std::collections::BTreeSet;

/// The volume sources a worker can realize. Others are refused rather than ignored.
const SOURCES: &[&str] = &["configMap", "secret", "emptyDir", "hostPath", "downwardAPI", "projected"];
const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
const KEY_BYTES_MAX: usize = 253;

/// A key of a ConfigMap or Secret, which becomes the name of a file.
pub(super) fn config_key(key: &str, path: String, errors: &mut FieldErrors) {
    let mut problems = Vec::new();
    if key.len() > KEY_BYTES_MAX {
        problems.push(too_many_bytes(KEY_BYTES_MAX));
    }
    if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) {
        let why = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
                   'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
        problems.push(why.into());
    }
    match key {
        "." | ".." => problems.push(format!("must not be '{key}'")),
        _ if key.starts_with("..") => problems.push("must not start with '..'".into()),
        _ => {}
    }
    for problem in problems {
        errors.invalid(path.clone(), &json!(key), &problem);
    }
}

/// A path that stays below where it starts.
pub(super) fn descending_path(object: &Value, base: &str, field: &str, errors: &mut FieldErrors) {
    let text = object.text(field);
    if text.starts_with('/') {
        errors.invalid(format!("{base}.{field}"), object.at(field), "must be a relative path");
    }
    no_steps_back(object, base, field, errors);
}

fn no_steps_back(object: &Value, base: &str, field: &str, errors: &mut FieldErrors) {
    if object.text(field).split('/').any(|step| step == "..") {
        errors.invalid(format!("{base}.{field}"), object.at(field), "must not contain '..'");
    }
}

fn file_path(item: &Value, path: &str, errors: &mut FieldErrors) {
    if item.text("path").is_empty() {
        errors.required(format!("{path}.path"), "");
    }
    descending_path(item, path, "path", errors);
    let first = item.text("path").split('/').next().unwrap_or("");
    if first.len() > 2 && first.starts_with("..") {
        errors.invalid(format!("{path}.path"), item.at("path"), "must not start with '..'");
    }
    mode(item, path, "mode", errors);
}

fn mode(object: &Value, base: &str, field: &str, errors: &mut FieldErrors) {
    let value = object.at(field);
    if value.as_i64().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        let why = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.invalid(format!("{base}.{field}"), value, why);
    }
}

fn key_items(source: &Value, base: &str, errors: &mut FieldErrors) {
    for (i, item) in source.items("items").iter().enumerate() {
        let path = format!("{base}.items[{i}]");
        match item.text("key") {
            "" => errors.required(format!("{path}.key"), ""),
            key => config_key(key, format!("{path}.key"), errors),
        }
        file_path(item, &path, errors);
    }
}

fn downward_items(source: &Value, base: &str, errors: &mut FieldErrors) {
    for (i, item) in source.items("items").iter().enumerate() {
        let path = format!("{base}.items[{i}]");
        file_path(item, &path, errors);
        match (item.at("fieldRef"), item.at("resourceFieldRef")) {
            (Value::Null, Value::Null) => {
                errors.required(path, "one of fieldRef and resourceFieldRef is required");
            }
            (field, Value::Null) => field_reference(field, &format!("{path}.fieldRef"), VOLUME_FIELDS, errors),
            (Value::Null, resource) => {
                let at = format!("{path}.resourceFieldRef");
                if resource.text("containerName").is_empty() {
                    errors.required(format!("{at}.containerName"), "");
                }
                resource_reference(resource, &at, errors);
            }
            _ => errors.invalid(path, &json!(""), "fieldRef and resourceFieldRef can not be specified simultaneously"),
        }
    }
}

fn projection(projected: &Value, base: &str, errors: &mut FieldErrors) {
    for (i, part) in projected.items("sources").iter().enumerate() {
        let path = format!("{base}.sources[{i}]");
        let present: Vec<(&String, &Value)> =
            part.as_object().into_iter().flatten().filter(|(_, v)| !v.is_null()).collect();
        if present.len() > 1 {
            errors.forbidden(path.clone(), "may not specify more than 1 volume type");
        }
        for (source, inner) in present {
            let at = format!("{path}.{source}");
            match source.as_str() {
                "configMap" | "secret" => {
                    if inner.text("name").is_empty() {
                        errors.required(format!("{at}.name"), "");
                    }
                    key_items(inner, &at, errors);
                }
                "downwardAPI" => downward_items(inner, &at, errors),
                _ => {
                    let why = "this source is not supported here; supported: configMap, downwardAPI, secret";
                    errors.forbidden(at, why);
                }
            }
        }
    }
    mode(projected, base, "defaultMode", errors);
}

fn source(name: &str, inner: &Value, path: &str, errors: &mut FieldErrors) {
    let at = format!("{path}.{name}");
    match name {
        "configMap" | "secret" => {
            let field = if name == "secret" { "secretName" } else { "name" };
            if inner.text(field).is_empty() {
                errors.required(format!("{at}.{field}"), "");
            }
            mode(inner, &at, "defaultMode", errors);
            key_items(inner, &at, errors);
        }
        "emptyDir" => {
            let limit = inner.at("sizeLimit");
            if limit.as_str().and_then(Quantity::parse).is_some_and(Quantity::is_negative) {
                errors.forbidden(format!("{at}.sizeLimit"), "SizeLimit field must be a valid resource quantity");
            }
            one_of(inner, &at, "medium", &["", "Memory"], errors);
        }
        "hostPath" => {
            if inner.text("path").is_empty() {
                errors.required(format!("{at}.path"), "");
            }
            no_steps_back(inner, &at, "path", errors);
            one_of(inner, &at, "type", HOST_PATH_TYPES, errors);
        }
        "downwardAPI" => {
            mode(inner, &at, "defaultMode", errors);
            downward_items(inner, &at, errors);
        }
        "projected" => projection(inner, &at, errors),
        _ => {
            let why = format!("this volume type is not supported here; supported: {}", SOURCES.join(", "));
            errors.forbidden(at, &why);
        }
    }
}

/// Validates the volumes of a spec and returns their names.
pub(super) fn volumes<'a>(spec: &'a Value, base: &str, errors: &mut FieldErrors) -> BTreeSet<&'a str> {
    let mut names = BTreeSet::new();
    for (i, volume) in spec.items("volumes").iter().enumerate() {
        let path = format!("{base}.volumes[{i}]");
        match volume.text("name") {
            "" => errors.required(format!("{path}.name"), ""),
            name => {
                dns_label(volume.at("name"), &format!("{path}.name"), errors);
                if !names.insert(name) {
                    errors.duplicate(format!("{path}.name"), volume.at("name"));
                }
            }
        }
        let sources = volume.as_object().into_iter().flatten().filter(|(field, v)| *field != "name" && !v.is_null());
        for (n, (name, inner)) in sources.enumerate() {
            if n > 0 {
                errors.forbidden(format!("{path}.{name}"), "may not specify more than 1 volume type");
            }
            source(name, inner, &path, errors);
        }
    }
    names
}
