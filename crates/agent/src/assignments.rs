//! What this worker is told to run: heard from the masters, admitted, and kept (`kept`) for a restart without them.

use crate::kept::{self, Kept};
use crate::{Shared, epoch, events, node, pod, volumes};
use objects::{Value, ValueExt};
use protos::dispatch as pb;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;
use tokio::sync::watch;

/// What a pod is to be, and what it refers to. Kept on disk under these names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Assignment {
    pub(crate) pod: Value,
    pub(crate) objects: Vec<Value>,
    /// The cluster no longer knows the pod.
    pub(crate) removed: bool,
    /// It was deleted and nothing of it is left here: its place is free.
    pub(crate) stopped: bool,
}

impl Assignment {
    pub(crate) fn uid(&self) -> String {
        self.pod.text("metadata.uid").to_string()
    }

    /// Whether it takes a place that another pod cannot have.
    fn holds_its_place(&self) -> bool {
        !self.removed && !self.stopped && podlife::holds_its_place(&self.pod)
    }
}

impl Shared {
    /// Keeps what is known of a pod, or that nothing is any more.
    pub(crate) fn save(&self, uid: &str) {
        let _saving = self.saving.lock();
        let known = self.pods.lock().get(uid).map(|sender| sender.borrow().clone());
        let dir = &self.options.dir;
        let saved = match known {
            Some(assignment) => kept::put(dir, &assignment),
            None => kept::remove(dir, uid),
        };
        if let Err(error) = saved {
            tracing::warn!(%error, pod = uid, "an assignment could not be kept on disk");
        }
    }
}

/// Goes on with what an earlier worker here was told. Where that cannot be read, what runs is left alone
/// until the masters say what is to run.
pub(crate) fn resume(shared: &Arc<Shared>) {
    let epoch = epoch::kept(&shared.options.dir).unwrap_or_else(|why| {
        tracing::error!(%why, "the epoch kept on disk is damaged; the first master that answers is obeyed");
        None
    });
    shared.newest.lock().0 = epoch.unwrap_or(0);
    let Kept { assignments, damaged } = kept::read(&shared.options.dir);
    if !damaged.is_empty() {
        let why = damaged.join("; ");
        tracing::error!(why, "what was kept of pods is damaged; waiting for the masters' list");
        let message = format!(
            "What was kept of pods on disk is damaged: {why}. What runs of them is left alone until a master tells \
             what is to run here"
        );
        events::about_node(shared, ("Warning", "AssignmentsDamaged", &message));
    }
    for assignment in assignments {
        take(shared, assignment);
    }
}

/// Takes an assignment, and keeps it.
fn assign(shared: &Arc<Shared>, assignment: Assignment) {
    let uid = assignment.uid();
    if take(shared, assignment) {
        shared.save(&uid);
    }
}

/// Starts the task of a pod, or tells it the news; returns whether there was any. A new pod is admitted, or failed,
/// here.
fn take(shared: &Arc<Shared>, mut assignment: Assignment) -> bool {
    let uid = assignment.uid();
    let mut pods = shared.pods.lock();
    if let Some(sender) = pods.get(&uid) {
        return sender.send_if_modified(|known| {
            // What was observed here is newer than what the cluster has of it, and each report makes a revision.
            for field in ["status", "metadata.resourceVersion"] {
                assignment.pod.set(field, known.pod.at(field).clone());
            }
            assignment.stopped = known.stopped;
            let is_news = *known != assignment;
            if is_news {
                *known = assignment;
            }
            is_news
        });
    }
    if !assignment.removed && !podlife::is_admitted(&assignment.pod) {
        let others: Vec<Value> = pods
            .values()
            .filter_map(|sender| {
                let other = sender.borrow();
                other.holds_its_place().then(|| other.pod.clone())
            })
            .collect();
        let here = node::for_admission(&shared.options.node, shared.labels.lock().clone());
        // What runs was admitted by an earlier worker, whose word of it is lost.
        let verdict = match shared.worlds.borrow().iter().any(|sandbox| sandbox.uid == uid) {
            true => Ok(()),
            false => podlife::admit(&assignment.pod, others.iter(), &here),
        };
        podlife::seal(&mut assignment.pod, &verdict, shared.now());
        if let Err(rejection) = verdict {
            tracing::info!(
                pod = assignment.pod.text("metadata.name"),
                why = rejection.message,
                "a pod is not admitted"
            );
            events::about_pod(shared, &assignment.pod, ("Warning", &rejection.reason, &rejection.message), "");
        }
    }
    let (sender, receiver) = watch::channel(assignment);
    pods.insert(uid.clone(), sender);
    let shared = shared.clone();
    tokio::spawn(async move {
        pod::live(&shared, receiver).await;
        shared.pods.lock().remove(&uid);
        shared.save(&uid);
    });
    true
}

/// What a message says, as far as it can be read.
#[derive(Debug, Default)]
struct Heard {
    assignments: Vec<Assignment>,
    /// Every pod that is named, whether all of it could be read or not.
    present: Vec<String>,
    /// What could not be read.
    damaged: Vec<String>,
}

fn hear(changed: &[pb::Assignment]) -> Heard {
    let mut heard = Heard::default();
    for item in changed {
        let pod = match serde_json::from_slice::<Value>(&item.pod) {
            Ok(pod) if !pod.text("metadata.uid").is_empty() => pod,
            Ok(_) => {
                heard.damaged.push("a pod without a uid".into());
                continue;
            }
            Err(error) => {
                heard.damaged.push(format!("a pod: {error}"));
                continue;
            }
        };
        heard.present.push(pod.text("metadata.uid").into());
        match item.objects.iter().map(|bytes| serde_json::from_slice(bytes)).collect() {
            Ok(objects) => heard.assignments.push(Assignment { pod, objects, ..Assignment::default() }),
            Err(error) => heard.damaged.push(format!("what pod {} refers to: {error}", pod.text("metadata.name"))),
        }
    }
    // As they were made: of two that do not both fit, the elder has the place.
    let age = |a: &Assignment| (a.pod.text("metadata.creationTimestamp").to_string(), a.uid());
    heard.assignments.sort_by_key(age);
    heard
}

/// Acts on assignments from a session; older ones than those acted on are ignored.
pub(crate) async fn accept(shared: &Arc<Shared>, message: pb::Assignments) {
    {
        let mut newest = shared.newest.lock();
        let order = (message.epoch, message.revision);
        if order < *newest {
            tracing::warn!(?order, newest = ?*newest, "older assignments ignored");
            return;
        }
        *newest = order;
    }
    // Before anything is done for these masters: those they replaced are not to be obeyed any more. Looked at
    // with each session, as what is on disk may be older than the file, damaged, or was not to be written once.
    let is_kept = || epoch::kept(&shared.options.dir) == Ok(Some(message.epoch));
    if message.complete
        && !is_kept()
        && let Err(error) = epoch::keep(&shared.options.dir, message.epoch)
    {
        tracing::warn!(%error, "the masters' epoch could not be kept on disk");
    }
    if !message.node_labels.is_empty() {
        let labels = message.node_labels.into_iter().map(|(key, value)| (key.into(), value.into()));
        *shared.labels.lock() = Some(labels.collect());
    }
    let Heard { assignments, present, damaged } = hear(&message.changed);
    for what in &damaged {
        tracing::error!(what, "an assignment cannot be read; what runs of it goes on as it is");
        events::about_node(
            shared,
            ("Warning", "AssignmentUnreadable", &format!("An assignment cannot be read: {what}")),
        );
    }
    // A set with an unreadable pod does not say which pods are not in it: nobody is taken to be gone.
    let whole = message.complete && damaged.is_empty();
    let gone: Vec<String> = match message.complete {
        true if !whole => Vec::new(),
        true => shared.pods.lock().keys().filter(|uid| !present.contains(uid)).cloned().collect(),
        false => message.removed,
    };
    // Before anybody new is admitted: their places are free.
    for uid in gone {
        if let Some(sender) = shared.pods.lock().get(&uid) {
            sender.send_modify(|assignment| assignment.removed = true);
        }
        shared.save(&uid);
    }
    assignments.into_iter().for_each(|assignment| assign(shared, assignment));
    if whole {
        remove_strays(shared).await;
        remove_leavings(shared);
    }
}

/// Sandboxes that belong to no assigned pod: left by a pod that went while we were away.
async fn remove_strays(shared: &Arc<Shared>) {
    shared.refresh().await;
    let worlds = shared.worlds.borrow().clone();
    for sandbox in worlds.iter() {
        if shared.pods.lock().contains_key(&sandbox.uid) {
            continue;
        }
        tracing::info!(pod = %sandbox.name, namespace = %sandbox.namespace, "stopping a pod that is no longer assigned");
        let pod = json!({
            "metadata": {"name": sandbox.name, "namespace": sandbox.namespace, "uid": sandbox.uid},
            "spec": {"containers": []},
        });
        assign(shared, Assignment { pod, removed: true, ..Assignment::default() });
    }
}

/// Volumes, logs and files of pods that nobody knows any more: of one whose clean-up was cut short, say.
fn remove_leavings(shared: &Shared) {
    for dir in [pod::volumes_dir(shared), pod::logs_dir(shared), kept::folder(&shared.options.dir)] {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
            // A uid has no dots; a file that is damaged, or half written, has more of them.
            let uid = name.trim_start_matches('.').split('.').next().unwrap_or_default();
            if shared.pods.lock().contains_key(uid) {
                continue;
            }
            let removed = if path.is_dir() { volumes::remove(&path) } else { std::fs::remove_file(&path) };
            if let Err(error) = removed {
                tracing::warn!(%error, path = %path.display(), "what a pod left could not be removed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pod: &str, objects: &[&str]) -> pb::Assignment {
        let objects = objects.iter().map(|text| text.as_bytes().to_vec().into()).collect();
        pb::Assignment { pod: pod.as_bytes().to_vec().into(), objects }
    }

    #[test]
    fn what_cannot_be_read_is_told_and_counts_as_there_where_it_has_a_name() {
        let heard = hear(&[
            told(r#"{"metadata": {"uid": "young", "creationTimestamp": "2026-01-02T00:00:00Z"}}"#, &[]),
            told(r#"{"metadata": {"uid": "old", "creationTimestamp": "2026-01-01T00:00:00Z"}}"#, &["{}"]),
            told(r#"{"metadata": {"uid": "half"}}"#, &["{"]),
            told("{", &[]),
            told("{}", &[]),
        ]);
        assert_eq!(heard.present, ["young", "old", "half"]);
        assert_eq!(heard.assignments.iter().map(Assignment::uid).collect::<Vec<_>>(), ["old", "young"]);
        assert_eq!(heard.damaged.len(), 3, "{:?}", heard.damaged);
    }
}
