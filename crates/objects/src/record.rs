//! The record of truth: a small typed header and the compact JSON the client will be sent.

use crate::{Key, Revision, Timestamp, ValueExt};
use bytes::Bytes;
use compact_str::CompactString;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// One reference of `metadata.ownerReferences`, as far as the machinery needs it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerRef {
    #[serde(default)]
    pub api_version: CompactString,
    pub kind: CompactString,
    pub name: CompactString,
    pub uid: CompactString,
    #[serde(default)]
    pub controller: bool,
    #[serde(default)]
    pub block_owner_deletion: bool,
}

/// What selectors, indexes and controllers ask of every object, parsed once at apply.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Header {
    pub uid: CompactString,
    pub revision: Revision,
    pub generation: i64,
    pub labels: BTreeMap<CompactString, CompactString>,
    pub owners: Vec<OwnerRef>,
    pub finalizers: Vec<CompactString>,
    pub created: Option<Timestamp>,
    pub deletion: Option<Timestamp>,
    /// `spec.nodeName` of a pod.
    pub node_name: Option<CompactString>,
    /// `status.phase` of a pod or namespace.
    pub phase: Option<CompactString>,
}

impl Header {
    pub fn controller(&self) -> Option<&OwnerRef> {
        self.owners.iter().find(|owner| owner.controller)
    }
}

/// An object as stored. `json` is compact, canonical (sorted keys, metadata first) and complete,
/// resourceVersion included: GET, LIST and WATCH send it verbatim.
#[derive(Clone, Debug)]
pub struct Record {
    pub key: Key,
    pub header: Header,
    pub json: Bytes,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the object's JSON does not start with its metadata")]
    NoMetadata,
    #[error("the object's metadata cannot be read")]
    Metadata(#[from] serde_json::Error),
}

const METADATA_START: &[u8] = b"{\"metadata\":{";
const REVISION_START: &[u8] = b"\"resourceVersion\":\"";

/// The bytes of an object without resourceVersion, metadata first, ready for `Record::seal`.
pub fn encode(object: &Value) -> Bytes {
    let mut metadata = object.at("metadata").as_object().cloned().unwrap_or_default();
    metadata.remove("resourceVersion");
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(b"{\"metadata\":");
    out.extend_from_slice(&serde_json::to_vec(&metadata).expect("a JSON map serialises"));
    for (field, value) in object.as_object().into_iter().flatten().filter(|(field, _)| *field != "metadata") {
        out.push(b',');
        out.extend_from_slice(&serde_json::to_vec(field).expect("a string serialises"));
        out.push(b':');
        out.extend_from_slice(&serde_json::to_vec(value).expect("a JSON value serialises"));
    }
    out.push(b'}');
    out.into()
}

/// The revision in an object's JSON; 0 when it has none. A stored object's stands at its start, where it is
/// found without parsing the rest.
pub fn revision_of(json: &[u8]) -> Revision {
    let spliced = json.strip_prefix(METADATA_START).and_then(|rest| rest.strip_prefix(REVISION_START));
    let digits = spliced.and_then(|rest| rest.split(|byte| *byte == b'"').next());
    let at_start = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    let parsed = || serde_json::from_slice::<Value>(json).ok()?.text("metadata.resourceVersion").parse().ok();
    Revision(at_start.or_else(parsed).unwrap_or(0))
}

impl Record {
    /// Makes the record of `key` at `revision` from `encode`d bytes: parses the header and splices
    /// the resourceVersion in.
    pub fn seal(key: Key, revision: Revision, encoded: &[u8]) -> Result<Record, Error> {
        let rest = encoded.strip_prefix(METADATA_START).ok_or(Error::NoMetadata)?;
        let digits = revision.to_string();
        let end: &[u8] = if rest.first() == Some(&b'}') { b"\"" } else { b"\"," };
        let pieces = [METADATA_START, REVISION_START, digits.as_bytes(), end, rest];
        // To the byte: `Bytes` takes a full buffer as it is.
        Record::restore(key, revision, pieces.concat().into())
    }

    /// The record of `key` from complete bytes, as a snapshot holds them.
    pub fn restore(key: Key, revision: Revision, json: Bytes) -> Result<Record, Error> {
        let parsed: Partial = serde_json::from_slice(&json)?;
        let metadata = parsed.metadata;
        let header = Header {
            uid: metadata.uid,
            revision,
            generation: metadata.generation,
            labels: metadata.labels.unwrap_or_default(),
            owners: metadata.owner_references.unwrap_or_default(),
            finalizers: metadata.finalizers.unwrap_or_default(),
            created: metadata.creation_timestamp.as_deref().and_then(Timestamp::parse),
            deletion: metadata.deletion_timestamp.as_deref().and_then(Timestamp::parse),
            node_name: parsed.spec.and_then(|spec| spec.node_name).filter(|name| !name.is_empty()),
            phase: parsed.status.and_then(|status| status.phase),
        };
        Ok(Record { key, header, json })
    }

    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.json).expect("stored JSON was parsed when it was sealed")
    }

    /// The typed form; fields the struct does not know are dropped, so never write it back.
    pub fn decode<T: serde::de::DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.json)
    }
}

#[derive(Deserialize)]
struct Partial {
    #[serde(default)]
    metadata: PartialMetadata,
    spec: Option<PartialSpec>,
    status: Option<PartialStatus>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PartialMetadata {
    #[serde(default)]
    uid: CompactString,
    #[serde(default)]
    generation: i64,
    labels: Option<BTreeMap<CompactString, CompactString>>,
    owner_references: Option<Vec<OwnerRef>>,
    finalizers: Option<Vec<CompactString>>,
    creation_timestamp: Option<String>,
    deletion_timestamp: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PartialSpec {
    node_name: Option<CompactString>,
}

#[derive(Deserialize)]
struct PartialStatus {
    phase: Option<CompactString>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KindId, json};

    #[test]
    fn seal_splices_the_revision_and_reads_the_header() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "resourceVersion": "old", "labels": {"app": "web"}, "uid": "u1"},
            "spec": {"nodeName": "n1"}, "status": {"phase": "Running"},
        });
        let record = Record::seal(Key::new(KindId(1), "default", "a"), Revision(7), &encode(&pod)).unwrap();
        assert_eq!(record.value().text("metadata.resourceVersion"), "7");
        assert_eq!(record.header.node_name.as_deref(), Some("n1"));
        assert_eq!(record.header.labels["app"], "web");
        let again = Record::restore(record.key.clone(), Revision(7), record.json.clone()).unwrap();
        assert_eq!(again.header, record.header);
        assert!(Record::seal(record.key, Revision(8), b"{}").is_err());
    }

    /// All masters must read the same header from the same bytes, whatever their builds: what is taken and what is refused
    /// here may change under a new feature level alone.
    #[test]
    fn what_is_taken_and_what_is_refused_is_settled() {
        let seal = |text: &str| Record::seal(Key::new(KindId(1), "default", "a"), Revision(7), text.as_bytes());
        for taken in [
            r#"{"metadata":{}}"#,
            r#"{"metadata":{"unknown":[1],"labels":null,"ownerReferences":null,"finalizers":null}}"#,
            r#"{"metadata":{"uid":"u","uid2":1,"deletionTimestamp":"no time"},"spec":null,"status":null}"#,
            r#"{"metadata":{"generation":9223372036854775807},"spec":{"nodeName":null},"status":{"phase":null}}"#,
            r#"{"metadata":{"ownerReferences":[{"kind":"K","name":"n","uid":"u","more":1}]},"data":{"a":[{}]}}"#,
            r#"{"metadata":{},"spec":{"nodeName":"","template":{"spec":{"nodeName":1}}}}"#,
        ] {
            assert!(seal(taken).is_ok(), "{taken}");
        }
        for refused in [
            r#"{"metadata":{"uid":1}}"#,
            r#"{"metadata":{"uid":"u","uid":"v"}}"#,
            r#"{"metadata":{"generation":"3"}}"#,
            r#"{"metadata":{"generation":9223372036854775808}}"#,
            r#"{"metadata":{"labels":{"a":1}}}"#,
            r#"{"metadata":{"finalizers":[null]}}"#,
            r#"{"metadata":{"ownerReferences":[{"name":"n","uid":"u"}]}}"#,
            r#"{"metadata":{},"spec":{"nodeName":1}}"#,
            r#"{"metadata":{},"status":"Running"}"#,
            r#"{"metadata":{}} {}"#,
            r#"{"spec":{},"metadata":{}}"#,
        ] {
            assert!(seal(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn a_revision_is_found_wherever_it_stands() {
        let pod = json!({"metadata": {"name": "a"}});
        let record = Record::seal(Key::new(KindId(1), "default", "a"), Revision(7), &encode(&pod)).unwrap();
        assert_eq!(revision_of(&record.json), Revision(7));
        assert_eq!(revision_of(br#"{"kind": "Pod", "metadata": {"name": "a", "resourceVersion": "8"}}"#), Revision(8));
        assert_eq!(revision_of(br#"{"metadata":{"resourceVersion":"","name":"a"}}"#), Revision(0));
        assert_eq!(revision_of(b"not JSON"), Revision(0));
    }
}
