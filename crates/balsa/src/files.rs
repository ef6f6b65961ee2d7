//! What a master or worker keeps in its data folder besides Raft: identity and credentials.

use anyhow::{Context, Result, bail};
use pki::Credential;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A master's file that `init` hands to its first start.
pub(crate) const BOOTSTRAP: &str = "bootstrap.json";
/// A master's file while it has not been taken in: that its disk is empty is as it should be.
pub(crate) const JOINING: &str = "joining";
/// A worker's file with the id of its present start (`Hello.boot_id`).
pub(crate) const BOOT_ID: &str = "boot-id";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) cluster_id: String,
    /// A master's Raft id; 0 for workers.
    pub(crate) node_id: u64,
    pub(crate) name: String,
    /// Which of the groups that this cluster had, one after the other: a restore and a quorum repair
    /// begin another.
    #[serde(default = "first_epoch")]
    pub(crate) epoch: u64,
}

/// Those of identity.json, in their order: also of builds that know more of them.
type Fields = BTreeMap<String, serde_json::Value>;

/// The field with the checksum of the others. An identity that is changed a little would name another master, or another
/// group's storage.
const CRC: &str = "crc32c";

fn crc32c_of(fields: &Fields) -> Result<u32> {
    Ok(crc32c::crc32c(&serde_json::to_vec(fields)?))
}

/// What identity.json says, if that is what was written. One of a build that wrote no checksum is taken as it is.
fn sound(text: &str) -> Result<Identity> {
    let mut fields: Fields = serde_json::from_str(text)?;
    if let Some(crc) = fields.remove(CRC)
        && crc != crc32c_of(&fields)?
    {
        bail!("its checksum is of something else");
    }
    Ok(serde_json::from_value(serde_json::to_value(fields)?)?)
}

/// The epoch of the group that `init` makes.
pub(crate) const FIRST_EPOCH: u64 = 1;

fn first_epoch() -> u64 {
    FIRST_EPOCH
}

impl Identity {
    /// What masters call their group between themselves: calls that name another are refused.
    pub(crate) fn group(&self) -> String {
        match self.epoch {
            FIRST_EPOCH => self.cluster_id.clone(),
            epoch => format!("{}/{epoch}", self.cluster_id),
        }
    }

    /// The epoch of a group of the same cluster that came after this one.
    pub(crate) fn superseded_by(&self, group: &str) -> Option<u64> {
        let epoch = match group.strip_prefix(&self.cluster_id)? {
            "" => FIRST_EPOCH,
            rest => rest.strip_prefix('/')?.parse().ok()?,
        };
        (epoch > self.epoch).then_some(epoch)
    }

    /// The folder of its log and state. Each epoch has its own: that the identity names another is what
    /// makes a restore or a repair valid, at once and as a whole.
    pub(crate) fn raft_dir(&self) -> String {
        match self.epoch {
            FIRST_EPOCH => "raft".into(),
            epoch => format!("raft-{epoch}"),
        }
    }
}

/// Of a folder that `Identity::raft_dir` names.
fn epoch_of(raft_folder: &str) -> Option<u64> {
    match raft_folder.strip_prefix("raft-") {
        Some(epoch) => epoch.parse().ok(),
        None => (raft_folder == "raft").then_some(FIRST_EPOCH),
    }
}

/// Of a folder whose certificates are not what they were. The last copy of a state may lie beside them.
pub(crate) const JOIN_ANEW: &str = "or, of a worker, or while the other masters have a quorum, remove the folder and join \
                                    anew with a token; of a master that is the last one, run `balsa recover`";
/// Of an identity.
const OR_ANEW: &str = "from a copy, or, of a worker, or while the other masters have a quorum, move the folder away and \
                       join anew with a token; of a master that is the last one, run `balsa recover`";
/// The Raft folder in the making.
pub(crate) const UNBORN: &str = "raft-new";

/// What `init` hands to the first start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Bootstrap {
    pub(crate) ca_key: String,
    pub(crate) master_token: String,
    pub(crate) worker_token: String,
    /// The networks of all pods.
    pub(crate) pod_cidrs: String,
}

#[derive(Clone, Debug)]
pub(crate) struct DataDir(pub(crate) PathBuf);

/// Held while a process works with a data folder; the kernel lets go of it when that ends, however it does.
#[derive(Debug)]
pub(crate) struct Held {
    _file: std::fs::File,
}

impl DataDir {
    /// Makes it, for its owner alone, unless it is there: then whoever made it has said who may enter it.
    pub(crate) fn create(path: &Path) -> Result<DataDir> {
        let create = || -> std::io::Result<()> {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            match std::fs::DirBuilder::new().mode(0o700).create(path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
                made => made,
            }
        };
        create().with_context(|| format!("creating {}", path.display()))?;
        Ok(DataDir(path.to_path_buf()))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Keeps others away. Refused while another process holds the folder.
    pub(crate) fn hold(&self) -> Result<Held> {
        let path = self.path("lock");
        let open = std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = open.with_context(|| format!("opening {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Held { _file: file }),
            Err(std::fs::TryLockError::WouldBlock) => {
                bail!("{} is in use: a balsa process runs on it; stop that first", self.0.display())
            }
            Err(std::fs::TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("locking {}", path.display()))
            }
        }
    }

    /// The folders of Raft storage, of all epochs.
    pub(crate) fn raft_folders(&self) -> Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.0).with_context(|| format!("reading {}", self.0.display()))?;
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        // Those, and one in the making: what an operator has put beside them stays.
        let is_ours = |name: &str| name == UNBORN || epoch_of(name).is_some();
        Ok(names.filter(|name| is_ours(name)).collect())
    }

    /// Refuses a folder whose Raft storage no identity names.
    pub(crate) fn refuse_unnamed(&self) -> Result<()> {
        match self.raft_folders()?.into_iter().find(|folder| folder != UNBORN) {
            None => Ok(()),
            Some(folder) => bail!(
                "{} holds Raft storage ({folder}) and no identity.json: if a restore was interrupted here, remove {folder} \
                 and run it again; else put identity.json back {OR_ANEW}",
                self.0.display(),
            ),
        }
    }

    /// The Raft storage of the newest epoch, and that.
    pub(crate) fn newest_raft_folder(&self) -> Result<Option<(String, u64)>> {
        let with_epoch = |name: String| epoch_of(&name).map(|epoch| (name, epoch));
        Ok(self.raft_folders()?.into_iter().filter_map(with_epoch).max_by_key(|(_, epoch)| *epoch))
    }

    /// Removes what a restore or a repair left that did not come to its end.
    pub(crate) fn remove_unborn(&self) -> Result<()> {
        self.remove_all(UNBORN)
    }

    /// Removes a folder, if there is one.
    pub(crate) fn remove_all(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", path.display()))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Removes the Raft folders that are not to be kept: what an interrupted repair left, and those of
    /// epochs long gone.
    pub(crate) fn sweep(&self, keep: &str) -> Result<()> {
        for name in self.raft_folders()?.into_iter().filter(|name| name != keep) {
            self.remove_all(&name)?;
        }
        Ok(())
    }

    /// Removes a file, durably. Does nothing where there is none.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let remove = || -> std::io::Result<()> {
            match std::fs::remove_file(self.path(name)) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
                Ok(()) => std::fs::File::open(&self.0)?.sync_all(),
            }
        };
        remove().with_context(|| format!("removing {}", self.path(name).display()))
    }

    /// Gives a finished file or folder its name, durably.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<()> {
        let rename = || -> std::io::Result<()> {
            std::fs::rename(self.path(from), self.path(to))?;
            std::fs::File::open(&self.0)?.sync_all()
        };
        rename().with_context(|| format!("renaming {} to {to}", self.path(from).display()))
    }

    /// A short name for this folder, the same at each start, and after it is gone.
    fn tag(&self) -> Result<String> {
        let path = match self.0.canonicalize() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => std::path::absolute(&self.0),
            found => found,
        };
        let path = path.with_context(|| format!("finding {}", self.0.display()))?;
        let digest = Sha256::digest(path.to_string_lossy().as_bytes());
        Ok(digest[..6].iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Where what must not survive a reboot lies: sockets and mounts. Short, as a socket's path is
    /// limited to 107 bytes.
    pub(crate) fn run_dir(&self) -> Result<PathBuf> {
        Ok(Path::new("/run/balsa").join(self.tag()?))
    }

    /// The control group under which this worker's pods are.
    pub(crate) fn cgroup(&self) -> Result<String> {
        Ok(format!("/balsa/{}", self.tag()?))
    }

    /// None where there is none. One that cannot be read is not one that is missing.
    pub(crate) fn read(&self, name: &str) -> Result<Option<String>> {
        let path = self.path(name);
        match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Writes a file as a whole, readable by its owner only.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        self.prepare(name, text)?;
        self.rename(&unfinished(name), name)
    }

    /// Puts what a file is to hold beside it.
    fn prepare(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(&unfinished(name));
        let write = || -> std::io::Result<()> {
            let mut file =
                std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().with_context(|| format!("writing {}", path.display()))
    }

    /// None in a folder that holds nobody's. One that cannot be read is no reason to take the folder for empty.
    pub(crate) fn identity(&self) -> Result<Option<Identity>> {
        let Some(text) = self.read("identity.json")? else { return Ok(None) };
        sound(&text)
            .map(Some)
            .with_context(|| format!("{} is damaged: put it back {OR_ANEW}", self.path("identity.json").display()))
    }

    /// The same for a configuration of that name: refused when the folder is another's.
    pub(crate) fn identity_of(&self, name: &str) -> Result<Option<Identity>> {
        let identity = self.identity()?;
        match &identity {
            Some(other) if other.name != name => {
                bail!(
                    "{} belongs to {}, and the configuration says {name}: set name: {}, or dataDir to an empty folder",
                    self.0.display(),
                    other.name,
                    other.name
                )
            }
            Some(_) | None => Ok(identity),
        }
    }

    pub(crate) fn save_identity(&self, identity: &Identity) -> Result<()> {
        let mut fields: Fields = serde_json::from_value(serde_json::to_value(identity)?)?;
        fields.insert(CRC.into(), crc32c_of(&fields)?.into());
        self.write("identity.json", &serde_json::to_string(&fields)?)
    }

    fn needed(&self, name: &str) -> Result<String> {
        let missing = || format!("{} is missing: put it back from a copy, {JOIN_ANEW}", self.path(name).display());
        self.read(name)?.with_context(missing)
    }

    pub(crate) fn ca(&self) -> Result<String> {
        self.needed("ca.crt")
    }

    pub(crate) fn credential(&self, role: &str) -> Result<Credential> {
        let read = |extension: &str| self.needed(&format!("{role}.{extension}"));
        Ok(Credential { certificate: read("crt")?, key: read("key")? })
    }

    /// A key and its certificate come together or not at all, as far as `complete` is called before they are read next.
    pub(crate) fn save_credential(&self, role: &str, credential: &Credential, ca: &str) -> Result<()> {
        let [key, certificate] = ["key", "crt"].map(|extension| format!("{role}.{extension}"));
        if self.read("ca.crt").ok().flatten().as_deref() != Some(ca) {
            self.write("ca.crt", ca)?;
        }
        self.prepare(&key, &credential.key)?;
        self.prepare(&certificate, &credential.certificate)?;
        self.rename(&unfinished(&key), &key)?;
        self.rename(&unfinished(&certificate), &certificate)
    }

    /// Ends a `save_credential` that was interrupted between the key and its certificate, which lies there alone then. Not
    /// while one is under way.
    pub(crate) fn complete(&self, role: &str) -> Result<()> {
        let [key, certificate] = ["key", "crt"].map(|extension| format!("{role}.{extension}"));
        let waits = |name: &str| self.path(&unfinished(name)).exists();
        match waits(&certificate) && !waits(&key) {
            true => self.rename(&unfinished(&certificate), &certificate),
            false => Ok(()),
        }
    }
}

/// The name of what a file is to hold.
fn unfinished(name: &str) -> String {
    format!("{name}.new")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_group_of_the_same_cluster_is_known() {
        let identity = |epoch| Identity { cluster_id: "c1".into(), node_id: 1, name: "m".into(), epoch };
        assert_eq!((identity(1).group(), identity(7).group()), ("c1".into(), "c1/7".into()));
        assert_eq!(identity(1).superseded_by("c1/7"), Some(7));
        assert_eq!(identity(7).superseded_by("c1"), None);
        assert_eq!(identity(7).superseded_by("c1/7"), None);
        assert_eq!(identity(1).superseded_by("c2/7"), None);
        assert_eq!(identity(1).superseded_by("c1x/7"), None);
        let old: Identity = serde_json::from_str(r#"{"cluster_id": "c1", "node_id": 1, "name": "m"}"#).unwrap();
        assert_eq!((old.epoch, old.raft_dir()), (1, "raft".into()));
    }

    #[test]
    fn only_a_folder_without_identity_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::create(folder.path()).unwrap();
        assert!(dir.identity().unwrap().is_none());
        dir.save_identity(&Identity { cluster_id: "c".into(), node_id: 1, name: "m1".into(), epoch: 1 }).unwrap();
        assert_eq!(dir.identity_of("m1").unwrap().unwrap().node_id, 1);
        assert!(format!("{:#}", dir.identity_of("m2").unwrap_err()).contains("belongs to m1"));
        dir.write("identity.json", "{\"cluster_id\": \"c").unwrap();
        assert!(format!("{:#}", dir.identity().unwrap_err()).contains("is damaged"));
    }

    #[test]
    fn a_key_and_its_certificate_come_together() {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::create(folder.path()).unwrap();
        let of = |text: &str| Credential { certificate: format!("crt {text}"), key: format!("key {text}") };
        dir.save_credential("worker", &of("old"), "ca").unwrap();
        // Interrupted before the key, and before the certificate.
        dir.prepare("worker.key", "key new").unwrap();
        dir.prepare("worker.crt", "crt new").unwrap();
        dir.complete("worker").unwrap();
        assert_eq!(dir.credential("worker").unwrap(), of("old"));
        dir.rename("worker.key.new", "worker.key").unwrap();
        dir.complete("worker").unwrap();
        assert_eq!(dir.credential("worker").unwrap(), of("new"));
        // A disk without room for both has neither.
        std::fs::create_dir(dir.path("worker.crt.new")).unwrap();
        dir.save_credential("worker", &of("newer"), "ca").unwrap_err();
        assert_eq!(dir.credential("worker").unwrap(), of("new"));
    }

    #[test]
    fn a_folder_has_one_user() {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::create(folder.path()).unwrap();
        let held = dir.hold().unwrap();
        assert!(format!("{:#}", dir.hold().unwrap_err()).contains("in use"));
        drop(held);
        dir.hold().unwrap();
    }

    #[test]
    fn a_changed_identity_is_damage() {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::create(home.path()).unwrap();
        let identity = Identity { cluster_id: "c1".into(), node_id: 7, name: "m".into(), epoch: FIRST_EPOCH };
        dir.save_identity(&identity).unwrap();
        let written = dir.read("identity.json").unwrap().unwrap();
        let told = |text: &str| {
            dir.write("identity.json", text).unwrap();
            dir.identity().map(|found| found.unwrap().node_id).map_err(|error| format!("{error:#}"))
        };
        assert_eq!(told(&written), Ok(7));
        assert!(told(&written.replace("\"node_id\":7", "\"node_id\":8")).unwrap_err().contains("is damaged"));
        assert!(told(&written.replace("c1", "c3")).unwrap_err().contains("put it back from a copy"));
        let of_an_older_build = serde_json::to_string(&identity).unwrap();
        assert_eq!(told(&of_an_older_build), Ok(7));
        let mut newer: Fields = serde_json::from_str(&of_an_older_build).unwrap();
        newer.insert("zone".into(), "a".into());
        newer.insert(CRC.into(), crc32c_of(&newer).unwrap().into());
        assert_eq!(told(&serde_json::to_string(&newer).unwrap()), Ok(7));
    }
}
