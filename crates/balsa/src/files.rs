//! What a master or worker keeps in its data folder besides Raft: identity and credentials.

use anyhow::{Context, Result};
use pki::Credential;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A worker's file with the id of its present start (`Hello.boot_id`).
pub(crate) const BOOT_ID: &str = "boot-id";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) cluster_id: String,
    /// A master's Raft id; 0 for workers.
    pub(crate) node_id: u64,
    pub(crate) name: String,
}

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

impl DataDir {
    pub(crate) fn create(path: &Path) -> Result<DataDir> {
        std::fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))?;
        Ok(DataDir(path.to_path_buf()))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
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

    pub(crate) fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.path(name)).ok()
    }

    /// Writes a file as a whole, readable by its owner only.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        let temporary = self.path(&format!("{name}.new"));
        let write = || -> std::io::Result<()> {
            let mut file =
                std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            std::fs::File::open(&self.0)?.sync_all()
        };
        write().with_context(|| format!("writing {}", path.display()))
    }

    pub(crate) fn identity(&self) -> Option<Identity> {
        serde_json::from_str(&self.read("identity.json")?).ok()
    }

    pub(crate) fn save_identity(&self, identity: &Identity) -> Result<()> {
        self.write("identity.json", &serde_json::to_string(identity)?)
    }

    pub(crate) fn ca(&self) -> Result<String> {
        self.read("ca.crt").with_context(|| format!("{} is missing", self.path("ca.crt").display()))
    }

    pub(crate) fn credential(&self, role: &str) -> Result<Credential> {
        let read = |extension: &str| {
            let name = format!("{role}.{extension}");
            self.read(&name).with_context(|| format!("{} is missing", self.path(&name).display()))
        };
        Ok(Credential { certificate: read("crt")?, key: read("key")? })
    }

    pub(crate) fn save_credential(&self, role: &str, credential: &Credential, ca: &str) -> Result<()> {
        self.write("ca.crt", ca)?;
        self.write(&format!("{role}.key"), &credential.key)?;
        self.write(&format!("{role}.crt"), &credential.certificate)
    }
}
