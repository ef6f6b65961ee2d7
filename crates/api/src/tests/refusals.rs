//! What is refused, kind by kind: each served kind has a file of faults in `test_data/refusals`, and
//! every fault's answer stands below it. After each refusal the state is as it was.
//!
//! `testkit::faults` is the form of the files. Verbs: create, update (a PUT of the stored object, edited),
//! merge, json and strategic (patches), and the subresources and deletions of `request_of`.
//! UPDATE_EXPECT=1 writes the answers.

use super::*;
use expect_test::expect_file;
use objects::Served;
use std::collections::BTreeSet;
use std::path::PathBuf;
use testkit::faults::{self, Fault, File, Line};

/// What every kind must have a fault of.
const CLASSES: [&str; 7] = ["missing", "type", "unknown", "duplicate", "immutable", "conflict", "oversized"];
/// What there is of a kind that is asked and not stored.
const QUESTION_CLASSES: [&str; 3] = ["type", "unknown", "duplicate"];

fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("test_data/refusals")
}

fn file_name(served: &Served) -> String {
    faults::file_name(served.kind.kind, served.convert.map(|_| served.group))
}

fn classes_of(served: &Served) -> &'static [&'static str] {
    match served.kind {
        kind if kind.create_only => &QUESTION_CLASSES,
        kind if kind.read_only.is_some() => &["refused"],
        _ => &CLASSES,
    }
}

/// The object of a kind that a request is about, in a fresh cluster.
struct Stage {
    cluster: Cluster,
    served: Served,
    good: Value,
}

impl Stage {
    fn new(served: Served, good: &Value) -> Stage {
        let mut good = good.clone();
        if !served.kind.create_only {
            good.default_to("metadata.name", "x");
        }
        Stage { cluster: Cluster::new(), served, good }
    }

    fn request(&self, verb: Verb, name: &str, body: &str) -> Result<Request, Status> {
        let mut request = Request::new(Identity::system(), verb, self.served);
        request.name = name.into();
        request.namespace = if self.served.kind.namespaced { "default".into() } else { String::new() };
        request.options.field_validation = "Strict".into();
        request.body = Body::parse(body.as_bytes())?;
        Ok(request)
    }

    fn create_good(&mut self) {
        let mut request = self.request(Verb::Create, "", &self.good.to_string()).unwrap();
        request.identity = Identity::system();
        self.cluster.run(&request).unwrap_or_else(|status| panic!("the good object is refused: {status}"));
    }

    fn name(&self) -> String {
        self.good.text("metadata.name").to_string()
    }

    fn stored(&mut self) -> Value {
        let name = self.name();
        let get = self.request(Verb::Get, &name, "").unwrap();
        self.cluster.object(&get)
    }

    /// The request of a fault.
    fn request_of(&mut self, fault: &Fault) -> Result<Request, Status> {
        let name = self.name();
        let (verb, edits) = (fault.verb.as_str(), fault.edits.as_str());
        let body = |start: Value| fault.body(start);
        if verb != "create" {
            self.create_good();
        }
        let (verb, subresource, patch, body) = match verb {
            "create" => (Verb::Create, "", None, body(self.good.clone())),
            "update" | "status" | "finalize" => {
                (Verb::Update, if verb == "update" { "" } else { verb }, None, body(self.stored()))
            }
            "scale" => {
                (Verb::Update, "scale", None, body(json!({"metadata": {"name": name}, "spec": {"replicas": 2}})))
            }
            "merge" => (Verb::Patch, "", Some(Patch::Merge), edits.to_string()),
            "json" => (Verb::Patch, "", Some(Patch::Json), edits.to_string()),
            "strategic" => (Verb::Patch, "", Some(Patch::Strategic), edits.to_string()),
            "binding" => (Verb::Create, "binding", None, body(json!({"target": {"kind": "Node", "name": "n1"}}))),
            "eviction" => (Verb::Create, "eviction", None, body(json!({}))),
            "delete" => (Verb::Delete, "", None, body(json!({}))),
            other => panic!("no such verb: {other}"),
        };
        let mut request =
            self.request(verb, if verb == Verb::Create && subresource.is_empty() { "" } else { &name }, &body)?;
        (request.subresource, request.patch) = (subresource.into(), patch);
        request.options.field_validation = fault.validation.clone();
        if verb == Verb::Delete {
            let body = std::mem::take(&mut request.body).value;
            request.options.take_delete_options(&body)?;
        }
        Ok(request)
    }

    /// Everything there is: keys, revisions and bytes.
    fn everything(&self) -> Vec<String> {
        let view = self.cluster.view();
        let kinds = registry::kinds().iter().filter(|kind| !kind.create_only);
        let mut all = vec![format!("revision {}", view.revision())];
        for kind in kinds {
            all.extend(view.list(kind.id, "", None).map(|record| String::from_utf8_lossy(&record.json).into_owned()));
        }
        all
    }
}

/// A refusal as it stands in the files.
fn told(status: &Status) -> String {
    let cut = |text: &str| match text.char_indices().nth(400) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_string(),
    };
    let mut out = format!("    {} {}\n", status.code, status.reason);
    if status.causes.is_empty() {
        out.push_str(&format!("    {}\n", cut(&status.message)));
    }
    for cause in &status.causes.0 {
        out.push_str(&format!("    {}: {}\n", cause.path, cut(&cause.message)));
    }
    out
}

/// Runs one case on a fresh cluster and returns its answer.
fn answer(served: Served, good: &Value, fault: &Fault, line: &str) -> String {
    let class = fault.class.as_str();
    let mut stage = Stage::new(served, good);
    let request = stage.request_of(fault);
    let before = stage.everything();
    let result = request.and_then(|request| stage.cluster.run(&request));
    match result {
        Err(status) => {
            assert_eq!(stage.everything(), before, "{line}: a refused write leaves everything as it was");
            let names_fields = class != "conflict" && class != "refused" && class != "syntax";
            assert!(!names_fields || !status.causes.is_empty(), "{line}: no field is named: {status}");
            for cause in status.causes.0.iter().filter(|_| status.code == 422) {
                assert!(status.message.contains(&cause.path), "{line}: {} is not in: {status}", cause.path);
            }
            assert_ne!(class, "allowed", "{line}: {status}");
            told(&status)
        }
        Ok(reply) => {
            assert_eq!(class, "allowed", "{line} is not refused");
            let (Reply::Object { warnings, .. } | Reply::Value { warnings, .. }) = reply else {
                return "    accepted\n".into();
            };
            warnings.iter().fold("    accepted\n".to_string(), |out, warning| out + "    warning: " + warning + "\n")
        }
    }
}

/// Runs a kind's file; returns it with the answers, and the classes it has.
fn run(served: Served, text: &str) -> (String, BTreeSet<String>) {
    let (mut out, mut classes, file) = (String::new(), BTreeSet::new(), File::parse(text));
    for line in &file.lines {
        match line {
            Line::Text(text) => out.push_str(&format!("{text}\n")),
            Line::Fault(text, fault) => {
                classes.insert(fault.class.clone());
                out.push_str(&format!("{text}\n{}", answer(served, &file.good, fault, text)));
            }
        }
    }
    (out, classes)
}

#[test]
fn every_kind_refuses_every_fault_and_says_which_field() {
    let mut files = BTreeSet::new();
    for served in registry::served() {
        let (kind, name) = (served.kind.kind, file_name(&served));
        let text = std::fs::read_to_string(dir().join(&name));
        let text = text.unwrap_or_else(|_| panic!("{kind} is served: give it a test_data/refusals/{name}"));
        let (answered, classes) = run(served, &text);
        for class in classes_of(&served) {
            assert!(classes.contains(*class), "{name} has no fault of the class {class}");
        }
        expect_file![dir().join(&name)].assert_eq(&answered);
        files.insert(name);
    }
    let there: BTreeSet<String> = std::fs::read_dir(dir())
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(there, files, "a file without its kind");
}

/// Faults in what all kinds share: (the line, code, the field named).
const SHARED: [(&str, u16, &str); 26] = [
    ("create -metadata.name", 422, "metadata.name"),
    ("create metadata.name = \"Bad/Name\"", 422, "metadata.name"),
    ("create metadata.name = 7", 400, "metadata.name"),
    ("create metadata = []", 400, "metadata"),
    ("create metadata.generateName = \"Bad%\"; -metadata.name", 422, "metadata.generateName"),
    ("create apiVersion = \"v0\"", 400, "apiVersion"),
    ("create kind = \"Widget\"", 400, "kind"),
    ("create metadata.nam = \"x\"", 400, "metadata.nam"),
    ("create nonsense = {}", 400, "nonsense"),
    ("create metadata.namespace = \"other\"", 400, "metadata.namespace"),
    ("create metadata.labels[\"a b\"] = \"x\"", 422, "metadata.labels"),
    ("create metadata.labels.a = \"b c\"", 422, "metadata.labels[a]"),
    ("create metadata.labels.a = 1", 400, "metadata.labels.a"),
    ("create metadata.annotations[\"a/b/c\"] = \"x\"", 422, "metadata.annotations"),
    ("create metadata.annotations.a = bytes(262144)", 422, "metadata.annotations"),
    ("create metadata.finalizers = [\"mine\"]", 422, "metadata.finalizers[0]"),
    (
        "create metadata.ownerReferences = [{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"name\": \"p\"}]",
        422,
        "metadata.ownerReferences[0].uid",
    ),
    ("create metadata.resourceVersion = \"5\"", 400, "metadata.resourceVersion"),
    ("update metadata.name = \"other\"", 400, "metadata.name"),
    ("update metadata.creationTimestamp = \"2020-01-01T00:00:00Z\"", 422, "metadata.creationTimestamp"),
    ("update metadata.deletionTimestamp = \"2020-01-01T00:00:00Z\"", 422, "metadata.deletionTimestamp"),
    ("update metadata.resourceVersion = \"soon\"", 422, "metadata.resourceVersion"),
    ("update metadata.uid = \"another\"", 409, "metadata.uid"),
    ("delete preconditions.uid = \"another\"", 409, "preconditions.uid"),
    ("delete preconditions.resourceVersion = \"soon\"", 400, "preconditions.resourceVersion"),
    ("delete propagationPolicy = \"Sideways\"", 400, "propagationPolicy"),
];

#[test]
fn all_kinds_share_their_metadata_rules() {
    for served in registry::served().filter(|served| !served.kind.create_only && served.kind.read_only.is_none()) {
        let text = std::fs::read_to_string(dir().join(file_name(&served))).unwrap();
        let good = File::parse(&text).good;
        for (line, code, field) in SHARED {
            // A cluster-scoped object has no namespace to differ.
            let code = if field == "metadata.namespace" && !served.kind.namespaced { 422 } else { code };
            let mut stage = Stage::new(served, &good);
            let request = stage.request_of(&faults::fault(&format!("shared {line}")));
            let before = stage.everything();
            let status = request.and_then(|request| stage.cluster.run(&request)).map(|_| ());
            let status = status.expect_err(&format!("{}: {line}", served.kind.kind));
            let fields: Vec<&str> = status.causes.0.iter().map(|cause| cause.path.as_str()).collect();
            assert_eq!((status.code, fields.contains(&field)), (code, true), "{} {line}: {status}", served.kind.kind);
            assert_eq!(stage.everything(), before, "{line}");
        }
    }
}
