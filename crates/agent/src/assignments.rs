//! What this worker is told to run: heard from the masters, admitted, and kept on disk for a restart
//! without them.

use crate::{Shared, epoch, events, node, pod, volumes};
use objects::{Value, ValueExt};
use protos::dispatch as pb;
use serde_json::json;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// What a pod is to be, and what it refers to.
#[derive(Clone, Debug, Default, PartialEq)]
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
    fn assignments_path(&self) -> PathBuf {
        self.options.dir.join("assignments.json")
    }

    /// Keeps the assignments for a restart without masters.
    pub(crate) fn save(&self) {
        let _saving = self.saving.lock();
        let pods: Vec<Value> = self
            .pods
            .lock()
            .values()
            .map(|sender| {
                let a = sender.borrow();
                json!({"pod": a.pod, "objects": a.objects, "removed": a.removed, "stopped": a.stopped})
            })
            .collect();
        let (epoch, revision) = *self.newest.lock();
        let text = json!({"epoch": epoch, "revision": revision, "pods": pods}).to_string();
        // Of pods' Secrets, too.
        let own = runtime::files::Owned { mode: 0o600, group: None };
        if let Err(error) = runtime::files::replace_as(&self.assignments_path(), text, own) {
            tracing::warn!(%error, "the assignments could not be kept on disk");
        }
    }
}

/// Reads what `save` wrote: (epoch, revision), and the assignments.
fn parse_saved(bytes: &[u8]) -> Result<((u64, u64), Vec<Assignment>), String> {
    let saved: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let number = |field: &str| saved.at(field).as_u64().ok_or_else(|| format!("{field} is missing"));
    let newest = (number("epoch")?, number("revision")?);
    let pods = saved.at("pods").as_array().ok_or("pods are missing")?;
    let assignment = |item: &Value| {
        let assignment = Assignment {
            pod: item.at("pod").clone(),
            objects: item.items("objects").to_vec(),
            removed: item.at("removed") == true,
            stopped: item.at("stopped") == true,
        };
        if assignment.uid().is_empty() { Err("a pod has no uid".to_string()) } else { Ok(assignment) }
    };
    Ok((newest, pods.iter().map(assignment).collect::<Result<_, _>>()?))
}

/// Goes on with what an earlier worker here was told. Where that cannot be read, what runs is left alone
/// until the masters say what is to run, and the file is put aside for a look.
pub(crate) fn resume(shared: &Arc<Shared>) {
    let kept = epoch::kept(&shared.options.dir).unwrap_or_else(|why| {
        tracing::error!(%why, "the epoch kept on disk is damaged; going by that of the assignments");
        None
    });
    *shared.newest.lock() = epoch::newest(kept, (0, 0));
    let path = shared.assignments_path();
    let read = match std::fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        read => read.map_err(|error| error.to_string()),
    };
    match read.and_then(|bytes| parse_saved(&bytes)) {
        Ok((saved, assignments)) => {
            *shared.newest.lock() = epoch::newest(kept, saved);
            assignments.into_iter().for_each(|assignment| assign(shared, assignment));
        }
        Err(why) => {
            let aside = path.with_extension("json.damaged");
            let kept = match std::fs::rename(&path, &aside) {
                Ok(()) => format!("it is kept as {}", aside.display()),
                Err(error) => format!("it could not be put aside: {error}"),
            };
            tracing::error!(%why, kept, "the assignments on disk are damaged; waiting for the masters' list");
            let message = format!(
                "The list of pods kept on disk is damaged ({why}); {kept}. Pods that run are left alone until a \
                 master tells what is to run here"
            );
            events::about_node(shared, ("Warning", "AssignmentsDamaged", &message));
        }
    }
}

/// Starts the task of a pod, or tells it the news. A new pod is admitted, or failed, here.
fn assign(shared: &Arc<Shared>, mut assignment: Assignment) {
    let uid = assignment.uid();
    let mut pods = shared.pods.lock();
    if let Some(sender) = pods.get(&uid) {
        sender.send_modify(|known| {
            // What was observed here is newer than what the cluster has of it.
            assignment.pod.set("status", known.pod.at("status").clone());
            assignment.stopped = known.stopped;
            *known = assignment;
        });
        return;
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
        shared.save();
    });
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
    }
    assignments.into_iter().for_each(|assignment| assign(shared, assignment));
    if whole {
        remove_strays(shared).await;
        remove_leavings(shared);
    }
    shared.save();
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

/// Volumes and logs of pods that nobody knows any more: of one whose clean-up was cut short, say.
fn remove_leavings(shared: &Shared) {
    for dir in [pod::volumes_dir(shared), pod::logs_dir(shared)] {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            if shared.pods.lock().contains_key(&uid) {
                continue;
            }
            if let Err(error) = volumes::remove(&entry.path()) {
                tracing::warn!(%error, path = %entry.path().display(), "what a pod left could not be removed");
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

    #[test]
    fn a_damaged_file_is_not_an_empty_one() {
        for damaged in ["", "{", "[]", r#"{"pods": []}"#, r#"{"epoch": 1, "revision": 2, "pods": [{"pod": {}}]}"#] {
            assert!(parse_saved(damaged.as_bytes()).is_err(), "{damaged}");
        }
        let (newest, pods) = parse_saved(br#"{"epoch": 1, "revision": 2, "pods": []}"#).unwrap();
        assert_eq!((newest, pods.len()), ((1, 2), 0));
    }
}
