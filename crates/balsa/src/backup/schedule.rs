//! Backups by themselves: the leader writes one into a folder every so often and removes the oldest.
//!
//! What became of the last try stands in the replicated state (ConfigMap kube-system/balsa-backups), so
//! that every master and every leader after this one can tell.

use super::{beside, create_private, manifest, publish};
use crate::config::Backup;
use crate::files::Identity;
use anyhow::{Context, Result};
use front::Front;
use objects::{Key, Timestamp, Value, ValueExt, json, registry};
use protos::cluster as pb;
use raft_node::Node;
use state::backup::{Manifest, Pieces};
use state::{Op, Txn, View};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "balsa-backups";
/// A failed try is repeated after this, or after the interval if that is shorter.
const RETRY: Duration = Duration::from_secs(60);

fn key() -> Key {
    Key::new(registry::CONFIG_MAP, NAMESPACE, NAME)
}

/// What became of the last tries, as stored.
pub(crate) fn told(view: &View) -> Option<pb::BackupStatus> {
    let stored = view.get(&key())?.value();
    let data = stored.at("data");
    Some(pb::BackupStatus {
        by: data.text("by").into(),
        last_at_ms: Timestamp::parse(data.text("lastAt")).map_or(0, |at| at.0),
        last_file: data.text("lastFile").into(),
        failure: data.text("failure").into(),
    })
}

/// `balsa-20261124T120000Z-r1234.backup`: sorts by time.
fn file_name(taken: Timestamp, revision: u64) -> String {
    let time: String = taken.rfc3339().chars().filter(|c| !matches!(c, '-' | ':')).collect();
    format!("balsa-{time}-r{revision}.backup")
}

/// When a file of ours was taken; `None` for any other file.
fn taken_at(name: &str) -> Option<Timestamp> {
    let (time, revision) = name.strip_prefix("balsa-")?.strip_suffix(".backup")?.split_once("-r")?;
    let is_ours = time.len() == 16 && time.is_ascii() && revision.parse::<u64>().is_ok();
    let t = is_ours.then_some(time)?;
    Timestamp::parse(&format!("{}-{}-{}T{}:{}:{}Z", &t[..4], &t[4..6], &t[6..8], &t[9..11], &t[11..13], &t[13..15]))
}

/// How long until the next backup is due. A clock that was set back does not put it off further.
fn wait(newest: Option<Timestamp>, interval: Duration, now: Timestamp) -> Duration {
    let age = newest.map(|newest| u64::try_from(now.since_ms(newest)).unwrap_or(0));
    age.map_or(Duration::ZERO, |age| interval.saturating_sub(Duration::from_millis(age)))
}

/// Of the names in the folder, those to be removed so that the `keep` newest backups are left.
fn surplus(mut names: Vec<String>, keep: usize) -> Vec<String> {
    names.retain(|name| taken_at(name).is_some());
    names.sort();
    names.truncate(names.len().saturating_sub(keep));
    names
}

fn names(directory: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Writes one, under its name only once it is whole and verified, and removes what is too much.
fn write(config: &Backup, view: View, manifest: Manifest) -> Result<PathBuf> {
    let pieces = Pieces::of(view, manifest);
    let told = pieces.manifest();
    let path = config.directory.join(file_name(Timestamp(told.taken_at_ms), told.revision));
    let part = beside(&path);
    let written = (|| -> Result<()> {
        let mut file = create_private(&part)?;
        for piece in pieces {
            file.write_all(&piece).with_context(|| format!("writing {}", part.display()))?;
        }
        file.sync_all().with_context(|| format!("syncing {}", part.display()))?;
        publish(&part, &path).map(drop)
    })();
    if written.is_err() {
        // Half a file is of no use, and the disk may be full.
        drop(std::fs::remove_file(&part));
    }
    written?;
    for name in surplus(names(&config.directory)?, config.keep) {
        let path = config.directory.join(name);
        std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(path)
}

/// Runs for ever; works while this master leads.
pub(crate) async fn keep(config: Backup, front: Front, node: Node, identity: Identity) {
    let Ok(interval) = config.period() else { return };
    let mut leadership = front.store.leadership();
    let mut retry = None;
    loop {
        if leadership.wait_for(|now| now.active.is_some()).await.is_err() {
            return;
        }
        let newest = names(&config.directory).ok().and_then(|names| names.iter().filter_map(|n| taken_at(n)).max());
        let pause = retry.take().unwrap_or_else(|| wait(newest, interval, front.now()));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = async { drop(leadership.wait_for(|now| now.active.is_none()).await) } => continue,
        }
        let outcome = take(&config, &front, &node, &identity).await;
        match &outcome {
            Ok(path) => tracing::info!(path = %path.display(), "backup written"),
            Err(error) => {
                retry = Some(RETRY.min(interval));
                tracing::error!("the scheduled backup failed: {error:#}");
            }
        }
        if let Err(error) = tell(&front, &identity.name, &outcome).await {
            tracing::warn!("what became of the scheduled backup could not be stored: {error:#}");
        }
    }
}

async fn take(config: &Backup, front: &Front, node: &Node, identity: &Identity) -> Result<PathBuf> {
    let view = front.store.read().await?;
    let manifest = manifest(&identity.cluster_id, identity.epoch, node, front.now());
    let config = config.clone();
    tokio::task::spawn_blocking(move || write(&config, view, manifest)).await?
}

/// Stores what became of a try. Of two leaders that tell at once, the later one is right.
async fn tell(front: &Front, by: &str, outcome: &Result<PathBuf>) -> Result<()> {
    let view = front.store.read().await?;
    let stored = view.get(&key());
    let mut data = stored.map_or_else(|| json!({}), |record| record.value().at("data").clone());
    data.set("by", by);
    match outcome {
        Ok(path) => {
            data.set("lastAt", front.now().rfc3339());
            data.set("lastFile", path.display().to_string());
            data.set("failure", "");
        }
        Err(error) => data.set("failure", format!("{}: {error:#}", front.now().rfc3339())),
    }
    let txn = match stored {
        Some(record) => {
            let mut object: Value = record.value();
            object.set("data", data);
            Txn { ops: api::change(record, object).into_iter().collect(), ..Txn::default() }
        }
        None => {
            let mut rng = front.rng();
            let mut context = api::Context { now: front.now(), rng: &mut rng };
            let object = json!({"metadata": {"name": NAME, "namespace": NAMESPACE}, "data": data});
            let kind = registry::must(registry::CONFIG_MAP);
            let (op, checks) =
                api::creation(object, kind, &view, &mut context).map_err(|status| anyhow::anyhow!("{status}"))?;
            Txn { ops: vec![op], checks, ..Txn::default() }
        }
    };
    if txn.ops.iter().any(|op| matches!(op, Op::Create { .. } | Op::Update { .. })) {
        front.store.propose(txn).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn names_tell_when() {
        let at = Timestamp(1_790_000_123_000);
        let name = file_name(at, 42);
        assert_eq!(name, "balsa-20260921T141523Z-r42.backup");
        assert_eq!(taken_at(&name), Some(at));
        for other in
            ["x", "balsa-20260921T141523Z-r42.backup.part", "balsa-2026-r1.backup", "balsa-20260921T141523Z-rx.backup"]
        {
            assert_eq!(taken_at(other), None, "{other}");
        }
    }

    #[test]
    fn the_next_one_is_due_an_interval_after_the_newest() {
        let at = |minutes: i64| Timestamp(minutes * 60_000);
        assert_eq!(wait(None, HOUR, at(0)), Duration::ZERO);
        assert_eq!(wait(Some(at(0)), HOUR, at(20)), Duration::from_secs(40 * 60));
        assert_eq!(wait(Some(at(0)), HOUR, at(90)), Duration::ZERO);
        assert_eq!(wait(Some(at(500)), HOUR, at(0)), HOUR, "a clock set back");
    }

    #[test]
    fn the_newest_are_kept_and_others_files_are_left_alone() {
        let name = |i: i64| file_name(Timestamp(i * 60_000), 9);
        let mut names: Vec<String> = [3, 1, 4, 2].map(name).to_vec();
        names.push("notes.txt".into());
        assert_eq!(surplus(names.clone(), 2), [name(1), name(2)]);
        assert!(surplus(names, 9).is_empty());
    }
}
