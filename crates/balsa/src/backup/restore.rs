//! Restoring: a backup becomes the first checkpoint of a new group of one master.
//!
//! The new state is made in a folder that nothing names; the identity, written last, makes all of it
//! valid at once. An interrupted restore is run again; what it says is to be removed before, when it came that far.

use crate::cluster_service::{authority, secret_key};
use crate::config::MasterConfig;
use crate::files::{DataDir, Identity, UNBORN};
use crate::output::Format;
use crate::{join, master};
use anyhow::{Context, Result, bail};
use objects::{Revision, Timestamp, json};
use raft_disk::{OpenError, RocksDisk};
use raft_node::{Disk, Founding};
use state::backup::{Manifest, Reader, epoch_after};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// Ten years, by which no clock was ahead when a group was made: none would have a greater epoch for as long.
const EPOCH_AHEAD_MAX: u64 = 10 * 365 * 24 * 3_600_000;

/// What the new group is to come after, beyond what the backup tells.
pub(super) struct After {
    pub(super) skip_revisions: u64,
    pub(super) epoch_above: u64,
}

pub(super) fn run(file: &Path, config: &Path, after: After, output: Format) -> Result<()> {
    let config = MasterConfig::load(config)?;
    let dir = DataDir::create(&config.data_dir)?;
    let _held = dir.hold()?;
    clear(&dir)?;
    if after.epoch_above > u64::try_from(crate::now().0).unwrap_or(0).saturating_add(EPOCH_AHEAD_MAX) {
        bail!("--epoch-above {}: an epoch is milliseconds since 1970, and this is years ahead", after.epoch_above);
    }
    let reader = Reader::open(super::open(file)?).with_context(|| format!("{}", file.display()))?;
    let manifest = reader.manifest().clone();
    // The two clocks there are: the master's that took it, and the leaders' that stamped what it holds, of whom one may
    // have been ahead for a while. Too early an instant only skips more revisions.
    let as_of = Timestamp(manifest.taken_at_ms).min(reader.stamp()?);
    let begins = super::next_revision(Revision(manifest.revision), as_of, after.skip_revisions)?;
    let identity = Identity {
        cluster_id: manifest.cluster_id.clone(),
        node_id: stdx::Rng::new(crate::seed()).next_u64() >> 11,
        name: config.name.clone(),
        epoch: epoch_after(manifest.epoch.max(after.epoch_above), crate::now()),
    };
    let told = || format!("{}: nothing was restored", file.display());
    make(&dir, &config, reader, begins, &identity).with_context(told).inspect_err(|_| {
        // What there is of it holds every secret, and is of no use without an identity.
        let removed = dir.remove_unborn().and_then(|()| match dir.identity()? {
            None => dir.remove_all(&identity.raft_dir()).and_then(|()| dir.remove("admin.kubeconfig")),
            Some(_) => Ok(()),
        });
        if let Err(error) = removed {
            eprintln!("warning: {error:#}");
        }
    })?;
    tell(&config.name, &identity, begins, &dir.path("admin.kubeconfig"), &manifest, output)
}

/// Makes the group, and last of all the identity.
fn make(
    dir: &DataDir,
    config: &MasterConfig,
    mut reader: Reader<impl Read>,
    begins: Revision,
    identity: &Identity,
) -> Result<()> {
    let unchanged = || unchanged(dir);
    let disk = Arc::new(fresh(dir)?);
    let mut founding = Founding::on(disk.clone());
    let secret_key = secret_key();
    let mut secret = None;
    while let Some(row) = reader.next_row()? {
        if row.record.key == secret_key {
            secret = Some(row.record.value());
        }
        founding.row(&row.record.key, row.bytes).with_context(unchanged)?;
    }
    let secret = secret.context("the backup lacks the cluster's authority (Secret kube-system/balsa-cluster)")?;
    let own = config.member();
    founding.finish(identity.node_id, own, reader.head_at(begins)?).with_context(unchanged)?;
    settle(dir, disk, identity, || join::first_credentials(dir, config, &authority(&secret)))
}

/// Sees to it that nothing is overwritten; what an interrupted restore left unfinished goes.
fn clear(dir: &DataDir) -> Result<()> {
    if dir.identity()?.is_some() {
        bail!(
            "{} already holds a master; a restore needs an empty data folder (move it away: it may be the last copy \
             of something)",
            dir.0.display()
        );
    }
    if let Some(name) = dir.raft_folders()?.into_iter().find(|name| name != UNBORN) {
        bail!(
            "{} is Raft storage without an identity: move it away (if a restore was interrupted here, remove it)",
            dir.path(&name).display()
        );
    }
    dir.remove_unborn()
}

fn tell(
    name: &str,
    identity: &Identity,
    begins: Revision,
    admin: &Path,
    manifest: &Manifest,
    output: Format,
) -> Result<()> {
    if output == Format::Json {
        let told = json!({
            "name": name, "epoch": identity.epoch, "revision": begins.0, "kubeconfig": admin.display().to_string(),
            "manifest": manifest,
        });
        println!("{}", serde_json::to_string_pretty(&told)?);
        return Ok(());
    }
    println!(
        "{name} holds {} objects as of {} (revision {}).",
        manifest.n_objects,
        Timestamp(manifest.taken_at_ms).rfc3339(),
        manifest.revision
    );
    println!("  of the cluster    {}, masters {}", manifest.cluster_id, manifest.members.join(", "));
    println!("  epoch             {}: masters of the old group (epoch {}) are refused", identity.epoch, manifest.epoch);
    println!("  revisions         go on at {begins}; older watches list again");
    println!("  start it          balsa master --config FILE");
    println!("  administrator     {}", admin.display());
    println!("  more masters      join with the tokens of before (`balsa token`), on empty data folders");
    Ok(())
}

/// Of a storage in the making that could not be finished.
pub(crate) fn unchanged(dir: &DataDir) -> String {
    format!(
        "{} could not be written: nothing was changed; if its disk is full, free some space, and run this again",
        dir.path(UNBORN).display()
    )
}

/// The storage in the making.
pub(crate) fn fresh(dir: &DataDir) -> Result<RocksDisk> {
    RocksDisk::open(&dir.path(UNBORN)).map_err(|error| match error {
        OpenError::Full { source, .. } => anyhow::Error::from(source).context(format!(
            "the disk of {} is full: nothing was changed; free some space and run this again",
            dir.0.display()
        )),
        error => error.into(),
    })
}

/// Makes a founded disk this folder's: closes it, does what else must be there (`rest`), gives it its name,
/// and last of all writes the identity.
pub(crate) fn settle(
    dir: &DataDir,
    disk: Arc<RocksDisk>,
    identity: &Identity,
    rest: impl FnOnce() -> Result<()>,
) -> Result<()> {
    master::mark_joined(&*disk as &dyn Disk)?;
    drop(disk);
    rest()?;
    dir.rename(UNBORN, &identity.raft_dir())?;
    dir.save_identity(identity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::FIRST_EPOCH;

    /// A start reads what the identity names, and refuses the folder when that is not there.
    #[test]
    fn interrupted_at_any_step_the_identity_names_storage_that_is_there() {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::create(home.path()).unwrap();
        let of = |epoch| Identity { cluster_id: "c".into(), node_id: 1, name: "m".into(), epoch };
        let named = || dir.identity().unwrap().unwrap();
        let is_old = |step: &str| {
            assert_eq!(named().epoch, FIRST_EPOCH, "{step}");
            assert!(dir.path(&named().raft_dir()).exists(), "{step}");
        };
        std::fs::create_dir(dir.path(&of(FIRST_EPOCH).raft_dir())).unwrap();
        dir.save_identity(&of(FIRST_EPOCH)).unwrap();
        let settled = |epoch, rest: fn() -> Result<()>| {
            let disk = Arc::new(RocksDisk::open(&dir.path(UNBORN)).unwrap());
            settle(&dir, disk, &of(epoch), rest)
        };
        settled(5, || bail!("no room for a certificate")).unwrap_err();
        is_old("without what else must be there");
        let in_the_way = dir.path(&of(5).raft_dir()).join("in the way");
        std::fs::create_dir_all(&in_the_way).unwrap();
        settled(5, || Ok(())).unwrap_err();
        is_old("without its name");
        let in_the_way = dir.path("identity.json.new");
        std::fs::create_dir(&in_the_way).unwrap();
        settled(6, || Ok(())).unwrap_err();
        is_old("without an identity");
        assert!(dir.path(&of(6).raft_dir()).exists() && !dir.path(UNBORN).exists());
        std::fs::remove_dir(&in_the_way).unwrap();
        settled(7, || Ok(())).unwrap();
        assert_eq!(named().epoch, 7);
        let disk = RocksDisk::open(&dir.path(&named().raft_dir())).unwrap();
        assert!(disk.get(master::JOINED).unwrap().is_some(), "an empty disk is refused");
    }
}
