//! The Kubernetes object model: keys, records, the registry of kinds, quantities, selectors,
//! schemas, defaulting, validation, patches and `Status` errors.
//!
//! Pure vocabulary. The only crate that names `k8s-openapi`; typed structs reach the others as
//! `objects::k8s`. User objects never round-trip through those structs: they would lose unknown
//! fields. The record of truth is JSON.

pub mod field_error;
pub mod json;
pub mod key;
pub mod kinds;
pub mod needs;
pub mod patch;
pub mod quantity;
pub mod record;
pub mod registry;
pub mod schema;
pub mod selector;
pub mod status;
pub mod time;
pub mod validate;

pub use field_error::{FieldError, FieldErrors};
pub use json::ValueExt;
pub use key::{Key, KindId, Revision};
pub use quantity::Quantity;
pub use record::{Header, OwnerRef, Record};
pub use registry::{Kind, Served, kind, kinds, served};
pub use status::Status;
pub use time::Timestamp;

/// The typed structs of the Kubernetes API, for brains that read objects.
pub mod k8s {
    pub use k8s_openapi::api::apps::v1 as apps;
    pub use k8s_openapi::api::core::v1 as core;
    pub use k8s_openapi::api::rbac::v1 as rbac;
    pub use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    pub use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
    pub use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
}

pub use serde_json::{Map, Value, json};
