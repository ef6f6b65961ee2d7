//! Per-kind rules: defaulting, validation and table rows, one file per family.

mod container;
pub mod core;
mod handler;
pub mod node;
mod placement;
pub mod pod;
pub mod rbac;
mod security;
mod volume;
pub mod workload;

use crate::{Timestamp, Value, ValueExt, time};

/// The age cell of an object.
pub(crate) fn age(object: &Value, now: Timestamp) -> Value {
    time::age(object.at("metadata.creationTimestamp").as_str(), now).into()
}

/// A cell that is `<none>` when empty.
pub(crate) fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}
