//! The cluster as the scheduler sees it: nodes, and pods in small projections.

use crate::pod::PodTerm;
use crate::{NodeInfo, PodInfo};
use compact_str::CompactString;
use objects::needs::{Resources, add, subtract};
use objects::selector::{Labels, Selector};
use objects::{Key, Record, Revision, ValueExt, registry};
use state::View;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Kept up to date from views; projections are made once per revision of an object.
#[derive(Debug, Default)]
pub struct Model {
    nodes: BTreeMap<CompactString, (Revision, NodeInfo)>,
    pods: BTreeMap<Key, Entry>,
    /// Where pods are, by node; also of nodes that are gone or not known yet.
    places: BTreeMap<CompactString, Place>,
    namespaces: BTreeMap<CompactString, Labels>,
    /// Selectors of ReplicaSets, for the spread that pods get by default.
    sets: BTreeMap<Key, (Revision, Option<Selector>)>,
    /// Grows with every change that could let a waiting pod fit.
    changes: u64,
}

#[derive(Debug)]
struct Entry {
    revision: Revision,
    pod: Arc<PodInfo>,
    /// The node it is bound to, or is taken to be.
    node: Option<CompactString>,
    /// What `changes` was when it was found to fit nowhere, or to be gated.
    tried: Option<u64>,
}

/// The pods of one node and the sums over them.
#[derive(Debug, Default, PartialEq)]
struct Place {
    pods: BTreeMap<Key, Arc<PodInfo>>,
    /// Those that have any say about the pods around them.
    opinionated: BTreeMap<Key, Arc<PodInfo>>,
    used: Resources,
    scored: [i64; 2],
}

impl Place {
    fn add(&mut self, pod: &Arc<PodInfo>) {
        add(&mut self.used, &pod.requests);
        (0..2).for_each(|i| self.scored[i] += pod.scored[i]);
        if pod.has_affinity() {
            self.opinionated.insert(pod.key.clone(), pod.clone());
        }
        self.pods.insert(pod.key.clone(), pod.clone());
    }

    fn remove(&mut self, pod: &Arc<PodInfo>) {
        subtract(&mut self.used, &pod.requests);
        (0..2).for_each(|i| self.scored[i] -= pod.scored[i]);
        self.opinionated.remove(&pod.key);
        self.pods.remove(&pod.key);
    }
}

fn is_finished(pod: &Record) -> bool {
    matches!(pod.header.phase.as_deref(), Some("Succeeded" | "Failed"))
}

impl Model {
    /// Brings the model to `view`. Assumed placements stay until the view shows the pod changed.
    pub fn sync(&mut self, view: &View) {
        self.sync_nodes(view);
        self.sync_pods(view);
        let namespaces = view.list(registry::NAMESPACE, "", None);
        let namespaces = namespaces.map(|r| (r.key.name.clone(), r.header.labels.clone())).collect();
        if self.namespaces != namespaces {
            self.namespaces = namespaces;
            self.changes += 1;
        }
        let mut sets = std::mem::take(&mut self.sets);
        for record in view.list(registry::REPLICA_SET, "", None) {
            let kept = sets.remove(&record.key).filter(|(revision, _)| *revision == record.header.revision);
            let selector = || Selector::from_object(record.value().at("spec.selector"));
            self.sets.insert(record.key.clone(), kept.unwrap_or_else(|| (record.header.revision, selector())));
        }
    }

    fn sync_nodes(&mut self, view: &View) {
        let mut before = std::mem::take(&mut self.nodes);
        for record in view.list(registry::NODE, "", None) {
            let revision = record.header.revision;
            let old = before.remove(&record.key.name);
            let node = match old {
                Some((known, node)) if known == revision => node,
                old => {
                    let node = NodeInfo::of(record);
                    // A heartbeat that changes nothing for placement is no news.
                    self.changes += u64::from(old.is_none_or(|(_, old)| old != node));
                    node
                }
            };
            self.nodes.insert(record.key.name.clone(), (revision, node));
        }
        self.changes += u64::from(!before.is_empty());
    }

    fn sync_pods(&mut self, view: &View) {
        let mut before = std::mem::take(&mut self.pods);
        for record in view.list(registry::POD, "", None).filter(|pod| !is_finished(pod)) {
            let old = before.remove(&record.key);
            let entry = match old {
                Some(entry) if entry.revision == record.header.revision => entry,
                old => self.renew(old, record),
            };
            self.pods.insert(record.key.clone(), entry);
        }
        for entry in before.into_values() {
            self.lift(&entry);
        }
    }

    /// The entry of a pod that is new or has changed.
    fn renew(&mut self, old: Option<Entry>, record: &Record) -> Entry {
        let (revision, node) = (record.header.revision, record.header.node_name.clone());
        let pod = PodInfo::of(record);
        if let Some(old) = old {
            if *old.pod == pod && old.node == node {
                return Entry { revision, ..old };
            }
            self.lift(&old);
        }
        let entry = Entry { revision, pod: Arc::new(pod), node, tried: None };
        self.put(&entry);
        entry
    }

    fn put(&mut self, entry: &Entry) {
        if let Some(node) = &entry.node {
            self.places.entry(node.clone()).or_default().add(&entry.pod);
            self.changes += 1;
        }
    }

    fn lift(&mut self, entry: &Entry) {
        let Some(node) = &entry.node else { return };
        if let Some(place) = self.places.get_mut(node) {
            place.remove(&entry.pod);
            if place.pods.is_empty() {
                self.places.remove(node);
            }
        }
        self.changes += 1;
    }

    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values().map(|(_, node)| node)
    }

    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.places.get(node).into_iter().flat_map(|place| place.pods.values())
    }

    pub fn n_pods_on(&self, node: &str) -> usize {
        self.places.get(node).map_or(0, |place| place.pods.len())
    }

    /// The pods of a node that have any say about the pods around them.
    pub(crate) fn opinionated_on(&self, node: &str) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.places.get(node).into_iter().flat_map(|place| place.opinionated.values())
    }

    /// How much of a resource the pods of a node have asked for.
    pub(crate) fn used(&self, node: &str, resource: &str) -> i64 {
        self.places.get(node).and_then(|place| place.used.get(resource)).copied().unwrap_or(0)
    }

    pub(crate) fn scored(&self, node: &str) -> [i64; 2] {
        self.places.get(node).map_or([0, 0], |place| place.scored)
    }

    /// The pods to place now. A pod that fitted nowhere is among them again once something it could
    /// depend on has changed.
    pub fn waiting(&self) -> impl Iterator<Item = &Arc<PodInfo>> {
        let untried = |entry: &&Entry| entry.tried != Some(self.changes);
        self.pods.values().filter(untried).filter(|entry| entry.waits()).map(|entry| &entry.pod)
    }

    /// Pods held back by scheduling gates, each once for every change of it.
    pub(crate) fn take_gated(&mut self) -> Vec<Key> {
        let is_news = |entry: &Entry| entry.pod.gated && entry.is_unplaced() && entry.tried.is_none();
        let gated = self.pods.iter_mut().filter(|(_, entry)| is_news(entry));
        gated
            .map(|(key, entry)| {
                entry.tried = Some(self.changes);
                key.clone()
            })
            .collect()
    }

    /// Whether a pod has no node yet and wants one from us, whatever the chances.
    pub fn waits(&self, pod: &Key) -> bool {
        self.pods.get(pod).is_some_and(Entry::waits)
    }

    /// Takes a placement for granted until the view says otherwise.
    pub fn assume(&mut self, pod: &Key, node: &str) {
        if let Some(mut entry) = self.pods.remove(pod) {
            self.lift(&entry);
            entry.node = Some(node.into());
            self.put(&entry);
            self.pods.insert(pod.clone(), entry);
        }
    }

    /// A binding was refused: the pod waits again.
    pub fn forget(&mut self, pod: &Key) {
        if let Some(mut entry) = self.pods.remove(pod) {
            self.lift(&entry);
            (entry.node, entry.tried) = (None, None);
            self.pods.insert(pod.clone(), entry);
        }
    }

    pub(crate) fn fits_nowhere(&mut self, pod: &Key) {
        if let Some(entry) = self.pods.get_mut(pod) {
            entry.tried = Some(self.changes);
        }
    }

    pub(crate) fn selector_of_set(&self, set: &Key) -> Option<&Selector> {
        self.sets.get(set).and_then(|(_, selector)| selector.as_ref())
    }

    /// Whether a term is about `other`: its namespace, then its labels.
    pub(crate) fn term_matches(&self, term: &PodTerm, other: &PodInfo) -> bool {
        let namespace = &other.key.namespace;
        let selected =
            |selector: &Selector| self.namespaces.get(namespace).is_some_and(|labels| selector.matches(labels));
        (term.namespaces.contains(namespace) || term.namespace_selector.as_ref().is_some_and(selected))
            && term.selector.as_ref().is_some_and(|selector| selector.matches(&other.labels))
    }

    /// The sums of every place, made anew; for the test that they are kept true.
    #[cfg(test)]
    pub(crate) fn sums_are_true(&self) -> bool {
        let mut places: BTreeMap<CompactString, Place> = BTreeMap::new();
        for entry in self.pods.values() {
            if let Some(node) = &entry.node {
                places.entry(node.clone()).or_default().add(&entry.pod);
            }
        }
        let zeros = |resources: &Resources| -> Resources {
            resources.iter().filter(|(_, n)| **n != 0).map(|(name, n)| (name.clone(), *n)).collect()
        };
        places.len() == self.places.len()
            && places.iter().all(|(node, place)| {
                let kept = &self.places[node];
                let same =
                    (&place.pods, &place.opinionated, place.scored) == (&kept.pods, &kept.opinionated, kept.scored);
                same && zeros(&place.used) == zeros(&kept.used)
            })
    }
}

impl Entry {
    fn waits(&self) -> bool {
        self.is_unplaced() && !self.pod.gated
    }

    fn is_unplaced(&self) -> bool {
        self.node.is_none() && !self.pod.leaving && self.pod.scheduler == crate::NAME
    }
}
