//! What is wrong with a field, worded as Kubernetes words it.

use serde_json::Value;
use std::fmt;

/// One finding. `Display` is the text after the path, as in `Required value: at least one …`.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub path: String,
    /// The `reason` of a Status cause, e.g. `FieldValueInvalid`.
    pub reason: &'static str,
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// The findings of one validation, in the order found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldErrors(pub Vec<FieldError>);

impl FieldErrors {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the findings of `other`.
    pub fn extend(&mut self, other: FieldErrors) {
        self.0.extend(other.0);
    }

    fn push(&mut self, path: impl Into<String>, reason: &'static str, message: String) {
        self.0.push(FieldError { path: path.into(), reason, message });
    }

    /// A finding in words of its own.
    pub fn told(&mut self, path: impl Into<String>, message: String) {
        self.push(path, "FieldValueInvalid", message);
    }

    pub fn required(&mut self, path: impl Into<String>, detail: &str) {
        let colon = if detail.is_empty() { "" } else { ": " };
        self.push(path, "FieldValueRequired", format!("Required value{colon}{detail}"));
    }

    pub fn invalid(&mut self, path: impl Into<String>, value: &Value, detail: &str) {
        self.push(path, "FieldValueInvalid", format!("Invalid value: {}: {detail}", brief(value)));
    }

    pub fn unsupported(&mut self, path: impl Into<String>, value: &Value, supported: &[&str]) {
        let mut names: Vec<String> = supported.iter().map(|name| format!("{name:?}")).collect();
        names.sort();
        let message = format!("Unsupported value: {}: supported values: {}", brief(value), names.join(", "));
        self.push(path, "FieldValueNotSupported", message);
    }

    pub fn duplicate(&mut self, path: impl Into<String>, value: &Value) {
        self.push(path, "FieldValueDuplicate", format!("Duplicate value: {}", brief(value)));
    }

    pub fn forbidden(&mut self, path: impl Into<String>, detail: &str) {
        self.push(path, "FieldValueForbidden", format!("Forbidden: {detail}"));
    }

    pub fn too_long(&mut self, path: impl Into<String>, max_bytes: usize) {
        self.push(path, "FieldValueTooLong", format!("Too long: may not be more than {max_bytes} bytes"));
    }

    pub fn too_many(&mut self, path: impl Into<String>, n_items: usize, max: usize) {
        self.push(path, "FieldValueTooMany", format!("Too many: {n_items}: must have at most {max} items"));
    }

    pub fn type_invalid(&mut self, path: impl Into<String>, value: &Value, detail: &str) {
        self.push(path, "FieldValueTypeInvalid", format!("Invalid value: {}: {detail}", brief(value)));
    }

    pub fn not_found(&mut self, path: impl Into<String>, value: &Value) {
        self.push(path, "FieldValueNotFound", format!("Not found: {}", brief(value)));
    }
}

/// The value as it stands in messages; long ones are cut so that a message stays readable.
fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(256) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text,
    }
}
