//! A master's own disk: an ext4 file system in a file, on a loop device, so that it can be full, slow, and
//! lose what was not synced, without harm to this machine's own.

use super::cluster::{Cluster, wait_for};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::FallocateFlags;
use runtime::containerd::mount_points;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const IMAGE: &str = "disk.img";
/// What fills a disk; in its root, beside the member's files.
pub(crate) const FILLER: &str = "filler";

mod ioctl {
    nix::ioctl_readwrite!(freeze, b'X', 119, i32);
    nix::ioctl_readwrite!(thaw, b'X', 120, i32);
    nix::ioctl_read!(shutdown, b'X', 125, u32);
}

/// EXT4_GOING_FLAGS_NOLOGFLUSH: not even the journal is written any more.
const NO_LOG_FLUSH: u32 = 2;

fn run(program: &str, words: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(words)
        .output()
        .with_context(|| format!("starting {program} (Debian: apt-get install e2fsprogs mount)"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn is_mounted(path: &Path) -> bool {
    mount_points().iter().any(|mounted| Path::new(mounted) == path)
}

/// Makes the disk of a member that has none yet, and mounts it where its data will be.
pub(super) fn make(cluster: &Cluster, name: &str, mib: u64) -> Result<()> {
    let (image, data) = (cluster.node_dir(name).join(IMAGE), cluster.data(name).0);
    if !image.exists() {
        if !nix::unistd::geteuid().is_root() {
            bail!("--master-disk: file systems are mounted by root only");
        }
        std::fs::create_dir_all(cluster.node_dir(name))?;
        let unfinished = cluster.node_dir(name).join("disk.new");
        File::create(&unfinished)?.set_len(mib << 20)?;
        // No blocks are kept back for root, who the masters are.
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &unfinished.display().to_string()])?;
        std::fs::rename(&unfinished, &image)?;
    }
    std::fs::create_dir_all(&data)?;
    mount(cluster, name)
}

pub(crate) fn has(cluster: &Cluster, name: &str) -> bool {
    cluster.node_dir(name).join(IMAGE).exists()
}

/// Mounts a member's disk if it has one that is not.
pub(super) fn mount(cluster: &Cluster, name: &str) -> Result<()> {
    let data = cluster.data(name).0;
    if !has(cluster, name) || is_mounted(&data) {
        return Ok(());
    }
    let image = cluster.node_dir(name).join(IMAGE);
    run("mount", &["-o", "loop,nosuid,nodev", &image.display().to_string(), &data.display().to_string()])
}

/// Lets go of what a stalled disk holds up, so that it can be unmounted.
pub(super) fn release(cluster: &Cluster) {
    for name in cluster.names().iter().filter(|name| has(cluster, name)) {
        if let Err(error) = Disk::of(cluster, name).and_then(|disk| disk.thaw()) {
            tracing::debug!(name, "was not frozen: {error:#}");
        }
    }
}

/// A member's mounted disk.
pub(crate) struct Disk {
    mount: PathBuf,
    /// Opened before any harm: a frozen or dead file system opens nothing.
    root: File,
}

impl Disk {
    pub(crate) fn of(cluster: &Cluster, name: &str) -> Result<Disk> {
        if !has(cluster, name) {
            bail!("{name} has no disk of its own; make the cluster with `balsa dev up --master-disk 512`");
        }
        let mount = cluster.data(name).0;
        let root = File::open(&mount).with_context(|| format!("opening {}", mount.display()))?;
        Ok(Disk { mount, root })
    }

    /// Every write waits from now on. Waits itself until what is under way has been written.
    pub(crate) fn freeze(&self) -> Result<()> {
        let mut unused = 0;
        // SAFETY: the kernel reads and writes nothing through the pointer of FIFREEZE.
        #[expect(unsafe_code, reason = "an ioctl on a descriptor that we hold")]
        unsafe { ioctl::freeze(self.root.as_raw_fd(), &mut unused) }.context("freezing the disk")?;
        Ok(())
    }

    pub(crate) fn thaw(&self) -> Result<()> {
        let mut unused = 0;
        // SAFETY: as above, for FITHAW.
        #[expect(unsafe_code, reason = "an ioctl on a descriptor that we hold")]
        unsafe { ioctl::thaw(self.root.as_raw_fd(), &mut unused) }.context("thawing the disk")?;
        Ok(())
    }

    /// Takes every byte that is left.
    pub(crate) fn fill(&self) -> Result<()> {
        let filler = File::create(self.mount.join(FILLER)).context("creating what fills the disk")?;
        let mut at = 0;
        for size in [1 << 20, 4096] {
            // Given out without being written, so that it is over before its victim has given up of slowness.
            loop {
                match nix::fcntl::fallocate(&filler, FallocateFlags::empty(), at, size) {
                    Ok(()) => at += size,
                    Err(Errno::ENOSPC) => break,
                    Err(error) => return Err(error).context("filling the disk"),
                }
            }
        }
        filler.sync_all().context("filling the disk")
    }

    /// Gives the space back, for good: a removal that is not synced, a power cut would undo.
    pub(crate) fn free(&self) -> Result<()> {
        std::fs::remove_file(self.mount.join(FILLER)).context("giving the disk's space back")?;
        self.root.sync_all().context("giving the disk's space back")
    }

    /// From now on nothing reaches the disk, the journal included: what a power cut leaves is there.
    pub(crate) fn cut_power(&self) -> Result<()> {
        let mut flags = NO_LOG_FLUSH;
        // SAFETY: the kernel reads one u32 through the pointer.
        #[expect(unsafe_code, reason = "an ioctl on a descriptor that we hold")]
        unsafe { ioctl::shutdown(self.root.as_raw_fd(), &mut flags) }.context("cutting the disk's power")?;
        Ok(())
    }
}

/// Mounts a disk anew, which recovers its journal as a start after a power cut does. Its member has ended.
pub(crate) fn remount(cluster: &Cluster, name: &str) -> Result<()> {
    let data = cluster.data(name).0;
    let unmounted = || Ok(!is_mounted(&data) || run("umount", &[&data.display().to_string()]).is_ok());
    wait_for(&format!("{}'s disk to be let go", name), Duration::from_secs(10), unmounted)?;
    mount(cluster, name)
}
