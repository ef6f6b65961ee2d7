//! Backups by themselves: the leader writes one into a folder every so often and removes the oldest.
//!
//! What became of the last try stands in the replicated state (ConfigMap kube-system/balsa-backups), so
//! that every master and every leader after this one can tell.

use super::{PART, beside, create_private, manifest, publish};
use crate::config::Backup;
use crate::files::{FIRST_EPOCH, Identity};
use anyhow::{Context, Result, bail};
use front::Front;
use objects::{Key, Timestamp, Value, ValueExt, json, registry};
use protos::cluster as pb;
use raft_node::Node;
use state::backup::{Manifest, Pieces};
use state::{Outcome, Txn, View};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::Semaphore;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "balsa-backups";
/// A failed try is repeated after this, or after the interval if that is shorter.
const RETRY: Duration = Duration::from_secs(60);
/// A folder that is not read by then hangs.
const HANGS_AFTER: Duration = Duration::from_secs(60);
/// Nor is one to which a backup is not written by then: 8 GiB, the largest state a snapshot may have, at 2 MB/s.
const TAKES_MAX: Duration = Duration::from_secs(4096);

/// A file in the making that was not written to for so long has no writer any more.
const WRITING_MAX: Duration = Duration::from_secs(3600);

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
        untidied: data.text("untidied").into(),
        interval_ms: data.text("intervalMs").parse().unwrap_or(0),
    })
}

/// Whose backups belong together: those of one group. What another cluster, or an earlier epoch of this one, has
/// in the same folder is left alone.
fn series_of(identity: &Identity) -> String {
    let cluster: String = identity.cluster_id.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    match identity.epoch {
        FIRST_EPOCH => cluster,
        epoch => format!("{cluster}-{epoch}"),
    }
}

/// A file of a series, which its name tells all of: `balsa-20261124T120000Z-r1234-1a2b3c4d.backup`. In the order of
/// revisions, which rise whatever the clocks say of the masters that wrote them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Taken {
    revision: u64,
    at: Timestamp,
}

fn file_name(series: &str, taken: Taken) -> String {
    let time: String = taken.at.rfc3339().chars().filter(|c| !matches!(c, '-' | ':')).collect();
    format!("balsa-{time}-r{}-{series}.backup", taken.revision)
}

/// `None` for a file that is not of the series.
fn parse(series: &str, name: &str) -> Option<Taken> {
    let (time, rest) = name.strip_prefix("balsa-")?.strip_suffix(".backup")?.split_once("-r")?;
    let (revision, of) = rest.split_once('-')?;
    let t = (of == series && time.len() == 16 && time.is_ascii()).then_some(time)?;
    let at = Timestamp::parse(&format!(
        "{}-{}-{}T{}:{}:{}Z",
        &t[..4],
        &t[4..6],
        &t[6..8],
        &t[9..11],
        &t[11..13],
        &t[13..15]
    ))?;
    Some(Taken { revision: revision.parse().ok()?, at })
}

/// How long until the next backup is due. A clock that was set back does not put it off further.
fn wait(newest: Option<Timestamp>, interval: Duration, now: Timestamp) -> Duration {
    let age = newest.map(|newest| u64::try_from(now.since_ms(newest)).unwrap_or(0));
    age.map_or(Duration::ZERO, |age| interval.saturating_sub(Duration::from_millis(age)))
}

/// Of the names in the folder, those to be removed so that the `keep` newest backups of the series are left.
fn surplus(series: &str, mut names: Vec<String>, keep: usize) -> Vec<String> {
    names.retain(|name| parse(series, name).is_some());
    names.sort_by_key(|name| parse(series, name));
    names.truncate(names.len().saturating_sub(keep));
    names
}

/// Of the names in the folder, what a writer that was killed has left of a backup of the series.
fn unfinished(series: &str, mut names: Vec<String>) -> Vec<String> {
    names.retain(|name| name.strip_suffix(PART).is_some_and(|name| parse(series, name).is_some()));
    names
}

fn names(directory: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Removes what is too much, and what is left of writers that were killed. All of it is tried; tells what stays.
fn tidy(config: &Backup, series: &str) -> Result<()> {
    let all = names(&config.directory)?;
    let mut doomed = surplus(series, all.clone(), config.keep);
    // One that was written to a moment ago may be that of a leader who does not know yet that it is none.
    let is_idle = |name: &String| {
        let changed = std::fs::metadata(config.directory.join(name)).and_then(|found| found.modified());
        changed.is_ok_and(|at| at.elapsed().is_ok_and(|idle| idle > WRITING_MAX))
    };
    doomed.extend(unfinished(series, all).into_iter().filter(is_idle));
    let remove = |name: String| {
        let path = config.directory.join(name);
        std::fs::remove_file(&path).err().map(|error| format!("{}: {error}", path.display()))
    };
    let stay: Vec<String> = doomed.into_iter().filter_map(remove).collect();
    if !stay.is_empty() {
        bail!("old backups could not be removed: {}", stay.join("; "));
    }
    Ok(())
}

/// Writes one, under its name only once it is whole and verified.
fn write(config: &Backup, series: &str, view: View, manifest: Manifest) -> Result<PathBuf> {
    let pieces = Pieces::of(view, manifest);
    let told = pieces.manifest();
    let taken = Taken { revision: told.revision, at: Timestamp(told.taken_at_ms) };
    let path = config.directory.join(file_name(series, taken));
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
    written.map(|()| path)
}

/// Runs for ever; works while this master leads.
pub(crate) async fn keep(config: Backup, front: Front, node: Node, identity: Identity) {
    let Ok(interval) = config.period() else { return };
    let series = series_of(&identity);
    let mut leadership = front.store.leadership();
    let mut retry = None;
    loop {
        if leadership.wait_for(|now| now.active.is_some()).await.is_err() {
            return;
        }
        let folder = config.clone();
        // What cannot be read now is told by the try that follows.
        let known = aside(HANGS_AFTER, move || names(&folder.directory)).await.unwrap_or_default();
        let newest = known.iter().filter_map(|name| parse(&series, name)).max();
        let pause = retry.take().unwrap_or_else(|| wait(newest.map(|newest| newest.at), interval, front.now()));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = async { drop(leadership.wait_for(|now| now.active.is_none()).await) } => continue,
        }
        let outcome = take(&config, &series, &front, &node, &identity).await;
        match &outcome {
            Ok(path) => tracing::info!(path = %path.display(), "backup written"),
            Err(error) => {
                retry = Some(RETRY.min(interval));
                tracing::error!("the scheduled backup failed: {error:#}");
            }
        }
        // Whatever came of it: a folder that fills up takes no more of them.
        let (folder, of) = (config.clone(), series.clone());
        let tidied = aside(HANGS_AFTER, move || tidy(&folder, &of)).await;
        if let Err(error) = &tidied {
            tracing::warn!("{error:#}");
        }
        if let Err(error) = tell(&front, &identity.name, interval, &outcome, &tidied).await {
            tracing::warn!("what became of the scheduled backup could not be stored: {error:#}");
        }
    }
}

async fn take(config: &Backup, series: &str, front: &Front, node: &Node, identity: &Identity) -> Result<PathBuf> {
    let view = front.store.read().await?;
    let manifest = manifest(&identity.cluster_id, identity.epoch, node, front.now());
    let (config, series) = (config.clone(), series.to_string());
    aside(TAKES_MAX, move || write(&config, &series, view, manifest)).await
}

/// Held by who works with the folder: one that is shared may hang, and no more than one thread is to hang with it.
static AT_FOLDER: Semaphore = Semaphore::const_new(1);

/// Works with the folder, on a thread that may wait for it.
async fn aside<T: Send + 'static>(patience: Duration, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = async {
        let held = AT_FOLDER.acquire().await?;
        let work = move || {
            let _held = held;
            work()
        };
        tokio::task::spawn_blocking(work).await?
    };
    let late = || anyhow::anyhow!("backup.directory did not answer within {} s", patience.as_secs());
    tokio::time::timeout(patience, done).await.unwrap_or_else(|_| Err(late()))
}

/// Stores what became of a try. Of two leaders that tell at once, the later one is right.
async fn tell(
    front: &Front,
    by: &str,
    interval: Duration,
    outcome: &Result<PathBuf>,
    tidied: &Result<()>,
) -> Result<()> {
    let view = front.store.read().await?;
    let stored = view.get(&key());
    let mut data = stored.map_or_else(|| json!({}), |record| record.value().at("data").clone());
    data.set("by", by);
    data.set("intervalMs", interval.as_millis().to_string());
    if let Ok(path) = outcome {
        data.set("lastAt", front.now().rfc3339());
        data.set("lastFile", path.display().to_string());
    }
    let told = |failure: Option<&anyhow::Error>| {
        failure.map_or(String::new(), |error| format!("{}: {error:#}", front.now().rfc3339()))
    };
    data.set("failure", told(outcome.as_ref().err()));
    data.set("untidied", told(tidied.as_ref().err()));
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
    if txn.ops.is_empty() {
        return Ok(());
    }
    drop(view);
    match front.store.propose(txn).await? {
        Outcome::Applied(_) => Ok(()),
        // By somebody's hand, or by another leader's, who told something newer.
        Outcome::Refused(refusal) => bail!("{refusal:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn taken(revision: u64, minutes: i64) -> Taken {
        Taken { revision, at: Timestamp(minutes * 60_000) }
    }

    #[test]
    fn names_tell_whose_and_when() {
        let of = |epoch| Identity { cluster_id: "1a2b-3c4d-5e6f".into(), node_id: 1, name: "m".into(), epoch };
        assert_eq!((series_of(&of(1)), series_of(&of(77))), ("1a2b3c4d".into(), "1a2b3c4d-77".into()));
        let one = Taken { revision: 42, at: Timestamp(1_790_000_123_000) };
        assert_eq!(file_name("1a2b3c4d", one), "balsa-20260921T141523Z-r42-1a2b3c4d.backup");
        for series in ["1a2b3c4d", "1a2b3c4d-77"] {
            assert_eq!(parse(series, &file_name(series, one)), Some(one));
        }
        for other in [
            "x",
            "balsa-20260921T141523Z-r42-1a2b3c4d.backup.part",
            "balsa-20260921T141523Z-r42-1a2b3c4d-77.backup",
            "balsa-20260921T141523Z-r42-other.backup",
            "balsa-20260921T141523Z-r42.backup",
            "balsa-2026-r1-1a2b3c4d.backup",
            "balsa-20260921T141523Z-rx-1a2b3c4d.backup",
        ] {
            assert_eq!(parse("1a2b3c4d", other), None, "{other}");
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
        let name = |revision: u64| file_name("c", taken(revision, 60));
        let mut names: Vec<String> = [30, 10, 40, 20].map(name).to_vec();
        names.extend(["notes.txt".into(), file_name("other", taken(1, 1)), format!("{}{PART}", name(5))]);
        assert_eq!(surplus("c", names.clone(), 2), [name(10), name(20)]);
        assert!(surplus("c", names.clone(), 9).is_empty());
        assert_eq!(unfinished("c", names), [format!("{}{PART}", name(5))]);
    }

    #[test]
    fn a_clock_that_was_ahead_makes_no_backup_old() {
        let (ahead, right) = (file_name("c", taken(10, 900_000)), file_name("c", taken(20, 60)));
        assert_eq!(surplus("c", vec![right, ahead.clone()], 1), [ahead]);
    }

    #[test]
    fn what_cannot_be_removed_is_told_and_the_rest_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let config = Backup { directory: folder.path().into(), interval: "1h".into(), keep: 1 };
        let name = |revision| file_name("c", taken(revision, 60));
        // A folder is no file, and stays.
        std::fs::create_dir(folder.path().join(name(1))).unwrap();
        for revision in [2, 3] {
            std::fs::write(folder.path().join(name(revision)), "x").unwrap();
        }
        assert!(tidy(&config, "c").unwrap_err().to_string().contains(&name(1)));
        let mut left = names(folder.path()).unwrap();
        left.sort();
        assert_eq!(left, [name(1), name(3)]);
    }
}
