//! Reads a master's whole Raft storage every so often, so that damage is found while the others are well,
//! and not at a start when it is one too many.

use raft_node::Disk;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Between two passes.
const EVERY: Duration = Duration::from_secs(3600);
/// Pairs read at once, and the pause after them: at most some 30 MB/s of small objects.
const PAGE: usize = 64;
const PAUSE: Duration = Duration::from_millis(2);

/// Of the disk, for the table that a flush writes: four times the log's buffers.
const FREE_BYTES_MIN: u64 = 80 << 20;

/// Reads one page from `from` on; where the next begins, or the end. Every block is verified against its
/// checksum as it is read.
fn page(disk: &dyn Disk, from: &[u8]) -> io::Result<ControlFlow<(), Vec<u8>>> {
    let pairs = disk.scan(from, &[0xFF], PAGE)?;
    Ok(match pairs.last() {
        Some((key, _)) => ControlFlow::Continue([key, &[0][..]].concat()),
        None => ControlFlow::Break(()),
    })
}

/// Has the newest part of the log, which is read from memory, put where a pass reads it: on the disk it is read at a
/// start only, when it is too late. Not on a disk that is nearly full: a log that goes on in the files it has needs no
/// room, and a table does.
fn flush(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    let found = nix::sys::statvfs::statvfs(folder)?;
    let free = found.blocks_available() as u64 * found.fragment_size() as u64;
    if free < FREE_BYTES_MIN {
        tracing::warn!(free, "the disk is nearly full: the newest part of the log is not looked at for damage");
        return Ok(());
    }
    disk.flush()
}

/// Runs until damage is found, and says which. `folder` is where the disk lies.
pub(crate) async fn run(disk: Arc<dyn Disk>, folder: PathBuf) -> String {
    loop {
        tokio::time::sleep(EVERY).await;
        let mut from = Vec::new();
        let (flushed, place) = (disk.clone(), folder.clone());
        match tokio::task::spawn_blocking(move || flush(&*flushed, &place)).await {
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => return error.to_string(),
            Ok(Err(error)) => tracing::warn!(%error, "the newest part of the log is not looked at for damage"),
            Ok(Ok(())) | Err(_) => {}
        }
        loop {
            let disk = disk.clone();
            let read = tokio::task::spawn_blocking(move || page(&*disk, &from)).await;
            from = match read {
                Ok(Ok(ControlFlow::Continue(next))) => next,
                Ok(Ok(ControlFlow::Break(()))) => break,
                Ok(Err(error)) => return error.to_string(),
                // This process is ending.
                Err(_) => return std::future::pending().await,
            };
            tokio::time::sleep(PAUSE).await;
        }
        tracing::debug!("the Raft storage was read as a whole and is sound");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_disk::RocksDisk;
    use raft_node::Origin;

    fn pass(disk: &dyn Disk) -> io::Result<usize> {
        let (mut from, mut n_pages) = (Vec::new(), 0);
        while let ControlFlow::Continue(next) = page(disk, &from)? {
            (from, n_pages) = (next, n_pages + 1);
        }
        Ok(n_pages)
    }

    fn tables(folder: &Path) -> Vec<std::path::PathBuf> {
        let all = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
        all.filter(|path| path.extension().is_some_and(|extension| extension == "sst")).collect()
    }

    #[test]
    fn a_flipped_bit_in_a_running_master_s_files_is_found() {
        let folder = tempfile::tempdir().unwrap();
        {
            let disk = RocksDisk::open(folder.path()).unwrap();
            let row = |i: u32| ([b"O", &i.to_be_bytes()[..]].concat(), Some(vec![7; 1000].into()));
            disk.write_rows(Origin::Checkpoint, &mut (0..200).map(row)).unwrap();
        }
        let disk = RocksDisk::open(folder.path()).unwrap();
        for table in tables(&folder.path().join("rows")) {
            let mut bytes = std::fs::read(&table).unwrap();
            for at in (0..bytes.len() / 2).step_by(500) {
                bytes[at] ^= 1;
            }
            std::fs::write(&table, bytes).unwrap();
        }
        let told = pass(&disk).unwrap_err().to_string();
        assert!(told.contains("damaged") && told.contains("join again with a token"), "{told}");
    }

    #[test]
    fn what_is_sound_is_read_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let disk = RocksDisk::open(folder.path()).unwrap();
        let row = |i: u32| ([b"O", &i.to_be_bytes()[..]].concat(), Some(vec![7; 10].into()));
        disk.write_rows(Origin::Checkpoint, &mut (0..150).map(row)).unwrap();
        assert_eq!(pass(&disk).unwrap(), 3);
    }
}
