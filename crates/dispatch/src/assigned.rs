//! What a worker has been sent of its pods, and what is due to it: a function of what the masters hold, without a
//! channel. A change that is not the worker's costs one look at its event; of the worker's pods only those that changed
//! are parsed.

use crate::intake;
use objects::{Key, Record, Revision, Value, ValueExt, registry};
use protos::dispatch as pb;
use state::{Event, View};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(crate) struct Assigned {
    node: String,
    /// By uid.
    pods: BTreeMap<String, Known>,
    /// The ConfigMaps and Secrets that any of the pods refers to.
    references: BTreeSet<Key>,
    /// The newest revision that was looked at; `None` before the first.
    as_of: Option<Revision>,
}

/// A pod when it was last looked at. The worker has been sent what the last two tell of.
struct Known {
    revision: Revision,
    /// What it refers to, there or not, and the revision of what is there.
    references: Vec<(Key, Option<Revision>)>,
    fingerprint: String,
}

/// What the worker has to be told.
#[derive(Debug, Default)]
pub(crate) struct Due {
    pub(crate) changed: Vec<pb::Assignment>,
    /// Uids of pods that are not the node's any more.
    pub(crate) removed: Vec<String>,
}

impl Assigned {
    /// Of a worker that has been sent nothing.
    pub(crate) fn new(node: &str) -> Assigned {
        Assigned { node: node.into(), pods: BTreeMap::new(), references: BTreeSet::new(), as_of: None }
    }

    /// What has changed for the worker since the last call, which counts as sent.
    pub(crate) fn due(&mut self, view: &View) -> Due {
        let concerned = self.as_of.is_none_or(|as_of| self.is_concerned(view, as_of));
        self.as_of = Some(view.revision());
        match concerned {
            true => self.look(view),
            false => Due::default(),
        }
    }

    /// Whether anything after `as_of` is of a pod of the node or of what one refers to. What the history has dropped may
    /// have been.
    fn is_concerned(&self, view: &View, as_of: Revision) -> bool {
        let is_own = |record: &Arc<Record>| record.header.node_name.as_deref() == Some(&*self.node);
        let is_of_own = |event: &Event| [&event.old, &event.new].into_iter().flatten().any(is_own);
        let is_referred_to = |event: &Event| self.references.contains(&event.key);
        view.any_after(registry::POD, as_of, is_of_own).unwrap_or(true)
            || !self.references.is_empty()
                && [registry::CONFIG_MAP, registry::SECRET]
                    .into_iter()
                    .any(|kind| view.any_after(kind, as_of, is_referred_to).unwrap_or(true))
    }

    fn look(&mut self, view: &View) -> Due {
        let mut before = std::mem::take(&mut self.pods);
        let mut changed = Vec::new();
        for record in view.pods_of_node(&self.node) {
            let known = match before.remove(record.header.uid.as_str()) {
                Some(known) if known.is_as_in(view, record) => known,
                known => {
                    let pod = record.value();
                    let objects: Vec<(Key, Option<&Arc<Record>>)> =
                        references(&pod).into_iter().map(|key| (key.clone(), view.get(&key))).collect();
                    let now = Known {
                        revision: record.header.revision,
                        references: objects.iter().map(|(key, object)| (key.clone(), revision_of(*object))).collect(),
                        fingerprint: fingerprint(&pod),
                    };
                    if known.is_none_or(|known| !known.is_sent_as(&now)) {
                        let objects = objects.iter().filter_map(|(_, object)| Some((*object)?.json.clone()));
                        changed.push(pb::Assignment { pod: record.json.clone(), objects: objects.collect() });
                    }
                    now
                }
            };
            self.pods.insert(record.header.uid.to_string(), known);
        }
        self.references = self.pods.values().flat_map(|known| &known.references).map(|(key, _)| key.clone()).collect();
        Due { changed, removed: before.into_keys().collect() }
    }
}

impl Known {
    fn is_as_in(&self, view: &View, record: &Record) -> bool {
        self.revision == record.header.revision
            && self.references.iter().all(|(key, known)| *known == revision_of(view.get(key)))
    }

    fn is_sent_as(&self, now: &Known) -> bool {
        (&self.fingerprint, &self.references) == (&now.fingerprint, &now.references)
    }
}

fn revision_of(record: Option<&Arc<Record>>) -> Option<Revision> {
    record.map(|record| record.header.revision)
}

/// The ConfigMaps and Secrets a pod refers to.
fn references(pod: &Value) -> BTreeSet<Key> {
    let namespace = pod.text("metadata.namespace");
    let mut keys = BTreeSet::new();
    let mut add = |kind, name: &str| {
        if !name.is_empty() {
            keys.insert(Key::new(kind, namespace, name));
        }
    };
    let spec = pod.at("spec");
    for container in spec.items("containers").iter().chain(spec.items("initContainers")) {
        for variable in container.items("env") {
            add(registry::CONFIG_MAP, variable.text("valueFrom.configMapKeyRef.name"));
            add(registry::SECRET, variable.text("valueFrom.secretKeyRef.name"));
        }
        for from in container.items("envFrom") {
            add(registry::CONFIG_MAP, from.text("configMapRef.name"));
            add(registry::SECRET, from.text("secretRef.name"));
        }
    }
    for volume in spec.items("volumes") {
        for source in std::iter::once(volume).chain(volume.items("projected.sources")) {
            add(registry::CONFIG_MAP, source.text("configMap.name"));
            add(registry::SECRET, source.text("secret.secretName"));
            add(registry::SECRET, source.text("secret.name"));
        }
    }
    keys
}

/// What the worker depends on of a pod: everything but its status, which is the worker's own, and the number of the
/// report that the status is from.
fn fingerprint(pod: &Value) -> String {
    let metadata = pod.at("metadata");
    let annotations = metadata.at("annotations").as_object().into_iter().flatten();
    let annotations: Vec<(&String, &Value)> = annotations.filter(|(key, _)| *key != intake::OBSERVATION).collect();
    let ending = ["deletionTimestamp", "deletionGracePeriodSeconds"].map(|field| metadata.at(field));
    format!("{}{}{}{}{annotations:?}", pod.at("spec"), ending[0], ending[1], metadata.at("labels"))
}
