//! The `Disk` port on RocksDB. The only crate that links C++.
//!
//! Two databases, which do not hold each other up. The log's takes entries and votes through its write-ahead log,
//! so that a sync of any makes all earlier ones durable. The rows' is only given whole tables, which are written
//! beside it and taken in at once: no write-ahead log, no copy in memory, nothing that a sync of the log
//! would wait for. The settings and their reasons stand at `log_options` and `common_options`.

mod extent;
mod mark;

pub use extent::{Extent, extents};

use bytes::Bytes;
use mark::Mark;
use raft_node::{Batch, Disk, Origin, REMEDY, ROWS_START, Row};
use rocksdb::{
    DB, DBRecoveryMode, Direction, IngestExternalFileOptions, IteratorMode, Options, ReadOptions, SstFileWriter,
    WriteBatch, WriteOptions,
};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

pub struct RocksDisk {
    rows: DB,
    // After the rows: it is its lock that keeps another process out.
    log: DB,
    /// Of the log. None where nothing is written.
    mark: Option<Mark>,
    /// Where a table is written before the rows' database takes it in; one at a time.
    table: Mutex<PathBuf>,
}

/// The folder of the rows' database, in the log's, which leaves alone what it does not know.
const ROWS: &str = "rows";
const TABLE: &str = "rows.new";
/// The file that a folder has once it holds a database.
const EXISTS: &str = "CURRENT";

/// Ends what is left of a table that was being written or taken in. After a crash it may be one file with a table
/// that has been taken in: it must be unlinked, never written to.
fn remove_table(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot open the Raft storage in {path}; if the disk lost data, {REMEDY}")]
    Rocks { path: String, source: rocksdb::Error },
    #[error(
        "the disk of the Raft storage in {path} is full: nothing is lost; free some space (some 100 MB to start with) \
         and start this master again"
    )]
    Full { path: String, source: rocksdb::Error },
    #[error("cannot open the Raft storage in {path}")]
    Io { path: String, source: io::Error },
    #[error(
        "the Raft storage in {path} was written by an earlier build, which kept the applied state elsewhere. Upgrade one \
         master at a time, while the others have a quorum: empty this master's data folder and join again with a token \
         (`balsa token` prints it)"
    )]
    Earlier { path: String },
    #[error(
        "the Raft storage in {path} has lost its newest writes: it was synced up to {synced} and reaches {found}. It \
         must not vote again: {REMEDY}"
    )]
    LostTail { path: String, synced: u64, found: u64 },
}

const LOG_BUFFER_BYTES: usize = 16 << 20;

fn log_options() -> Options {
    let mut options = common_options();
    // Two of them are a large part of a busy master's memory. What dies in them, as purges follow, is never
    // written to a table; the rest is written once more.
    options.set_write_buffer_size(LOG_BUFFER_BYTES);
    options.set_max_write_buffer_number(2);
    options.set_max_total_wal_size(256 << 20);
    // See `lay_out_files`.
    options.set_recycle_log_file_num(FILES_RECYCLED);
    // A torn tail after a crash is expected, and in a file that is written over, what an earlier use has left
    // there looks like one. RocksDB ends at either, and at damage before it, which would drop acknowledged
    // entries: that is what the mark is for.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_use_fsync(false);
    options
}

/// Files of the write-ahead log that are filled: the one that is written over now, and one for when it is full and
/// not let go of yet.
const FILES_RECYCLED: usize = 2;
/// What a file is filled with at once.
const FILLER_BYTES: usize = 1 << 20;
/// Read as the head of a record it has an impossible length, which ends the log. Of zeros RocksDB would skip a block
/// without a word, and a lost write would leave a hole.
const FILLED_WITH: u8 = 0xFF;
/// Of the log's database, and never seen there.
const FILLER: &str = "F";

/// Has the write-ahead log go on in files that are written over, not in ones that grow. Synced bytes where others
/// lay are one write of the disk; those at a file's end wait for a commit of the file system's journal besides,
/// behind everybody else's: 0.3 ms became 1.2 to 2.8 on ext4. RocksDB writes over files that it has filled itself
/// since it was opened, so these are filled here: for the first of a log's many megabytes are all that a small
/// cluster writes in a day.
fn lay_out_files(log: &DB) -> Result<(), rocksdb::Error> {
    let filler = vec![FILLED_WITH; FILLER_BYTES];
    for _ in 0..FILES_RECYCLED {
        for n_bytes in (FILLER_BYTES..=LOG_BUFFER_BYTES).step_by(FILLER_BYTES) {
            let mut batch = WriteBatch::default();
            // Stands in the file only.
            batch.put_log_data(&filler);
            // A file without a change is not let go of.
            batch.delete(FILLER);
            let mut options = WriteOptions::default();
            options.set_sync(n_bytes == LOG_BUFFER_BYTES);
            log.write_opt(batch, &options)?;
        }
        // The next file.
        log.flush()?;
    }
    Ok(())
}

fn common_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_paranoid_checks(true);
    // Merged late: most of what the log's tables hold is purged by then, and each of the rows' spans all keys, so
    // that the whole state is written again. Both are read as a whole, at a start and by the scrub, and hardly else.
    options.set_level_zero_file_num_compaction_trigger(8);
    // Merged tables reach the disk as they are written, not at their end, where a sync of the log would wait.
    options.set_bytes_per_sync(1 << 20);
    options.set_max_background_jobs(2);
    // RocksDB's diary.
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(4 << 20);
    options.set_max_open_files(256);
    options
}

/// What the operating system says of a full disk, which RocksDB passes on as text alone.
const NO_SPACE: &str = "No space left on device";

/// Why RocksDB did not open the files of a folder.
fn unopened(path: &Path, source: rocksdb::Error) -> OpenError {
    let is_full = source.kind() == rocksdb::ErrorKind::IOError && source.to_string().contains(NO_SPACE);
    let path = path.display().to_string();
    if is_full { OpenError::Full { path, source } } else { OpenError::Rocks { path, source } }
}

impl RocksDisk {
    pub fn open(path: &Path) -> Result<RocksDisk, OpenError> {
        let failed = |source| OpenError::Io { path: path.display().to_string(), source };
        // Before anything is changed: an open in earnest removes the files of what it could not recover.
        if path.join(EXISTS).exists() {
            drop(RocksDisk::open_log_read_only(path)?);
        }
        let log = DB::open(&log_options(), path).map_err(|source| unopened(path, source))?;
        lay_out_files(&log).map_err(|source| unopened(path, source))?;
        let rows = DB::open(&common_options(), path.join(ROWS)).map_err(|source| unopened(path, source))?;
        remove_table(&path.join(TABLE)).map_err(failed)?;
        // That there is a folder of rows must outlast a power cut as they do.
        std::fs::File::open(path).and_then(|folder| folder.sync_all()).map_err(failed)?;
        // The last write of laying out was synced, and all before it in the log.
        let mark = Some(Mark::open(path, log.latest_sequence_number()).map_err(failed)?);
        Ok(RocksDisk { rows, log, mark, table: Mutex::new(path.join(TABLE)) })
    }

    /// For looking: nothing is changed, and every write fails.
    pub fn open_read_only(path: &Path) -> Result<RocksDisk, OpenError> {
        let log = RocksDisk::open_log_read_only(path)?;
        let folder = path.join(ROWS);
        // RocksDB would make the folder.
        if !folder.join(EXISTS).exists() {
            let why = format!("{} holds no database", folder.display());
            let source = io::Error::new(io::ErrorKind::NotFound, why);
            return Err(OpenError::Io { path: path.display().to_string(), source });
        }
        let rows = open_read_only(&common_options(), &folder, path)?;
        Ok(RocksDisk { rows, log, mark: None, table: Mutex::new(path.join(TABLE)) })
    }

    /// The log, if it is sound.
    fn open_log_read_only(path: &Path) -> Result<DB, OpenError> {
        let log = open_read_only(&log_options(), path, path)?;
        is_sound(&log, path)?;
        Ok(log)
    }

    /// Writes a table at `path` and has the rows' database take it in, which moves it.
    fn write_table(&self, path: &Path, rows: &mut dyn Iterator<Item = Row>) -> io::Result<()> {
        let options = common_options();
        let mut table = SstFileWriter::create(&options);
        table.open(path).map_err(failed)?;
        for (key, value) in rows {
            match value {
                Some(value) => table.put(key, value),
                None => table.delete(key),
            }
            .map_err(failed)?;
        }
        table.finish().map_err(failed)?;
        let mut taking = IngestExternalFileOptions::default();
        taking.set_move_files(true);
        self.rows.ingest_external_file_opts(&taking, vec![path]).map_err(failed)
    }

    fn of(&self, key: &[u8]) -> &DB {
        if key < ROWS_START { &self.log } else { &self.rows }
    }
}

fn open_read_only(options: &Options, folder: &Path, path: &Path) -> Result<DB, OpenError> {
    DB::open_for_read_only(options, folder, false).map_err(|source| unopened(path, source))
}

/// What was synced of the log is there, and nothing that is no log's.
fn is_sound(log: &DB, folder: &Path) -> Result<(), OpenError> {
    let path = folder.display().to_string();
    let synced = mark::read(folder).map_err(|source| OpenError::Io { path: path.clone(), source })?;
    let found = log.latest_sequence_number();
    if found < synced {
        return Err(OpenError::LostTail { path, synced, found });
    }
    match last_pair(log, ROWS_START, &[0xFF]) {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(OpenError::Earlier { path }),
        Err(source) => Err(OpenError::Io { path, source }),
    }
}

fn failed(error: rocksdb::Error) -> io::Error {
    match error.kind() {
        rocksdb::ErrorKind::Corruption => {
            io::Error::new(io::ErrorKind::InvalidData, format!("the Raft storage is damaged ({error}): {REMEDY}"))
        }
        _ => io::Error::other(error),
    }
}

/// The pairs of one database in `from..to`.
fn pairs<'a>(db: &'a DB, from: &'a [u8], to: &[u8]) -> impl Iterator<Item = io::Result<(Bytes, Bytes)>> + use<'a> {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(to);
    // What is read in a row is not read again soon.
    options.fill_cache(false);
    let pairs = db.iterator_opt(IteratorMode::From(from, Direction::Forward), options);
    pairs.map(|pair| pair.map(|(key, value)| (key.into(), value.into())).map_err(failed))
}

/// The last pair of one database in `from..to`.
fn last_pair(db: &DB, from: &[u8], to: &[u8]) -> io::Result<Option<(Bytes, Bytes)>> {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(to);
    options.set_iterate_lower_bound(from);
    let mut pairs = db.iterator_opt(IteratorMode::End, options);
    pairs.next().map(|pair| pair.map(|(key, value)| (key.into(), value.into())).map_err(failed)).transpose()
}

impl Disk for RocksDisk {
    fn write(&self, batch: Batch, sync: bool) -> io::Result<()> {
        let (puts, cuts) = (batch.puts.iter().map(|(key, _)| key), batch.delete_ranges.iter().map(|(from, _)| from));
        if let Some(key) = puts.chain(cuts).find(|key| key[..] >= *ROWS_START) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{key:?} is a row's key")));
        }
        let mut writes = WriteBatch::default();
        for (from, to) in &batch.delete_ranges {
            writes.delete_range(from, to);
        }
        for (key, value) in &batch.puts {
            match value {
                Some(value) => writes.put(key, value),
                None => writes.delete(key),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        // This batch's last number is at least this: others may get some between. All that is before it in
        // the write-ahead log is synced with it.
        let (before, n_writes) = (self.log.latest_sequence_number(), writes.len() as u64);
        self.log.write_opt(writes, &options).map_err(failed)?;
        match &self.mark {
            Some(mark) if sync && n_writes > 0 => mark.raise(before + n_writes),
            Some(_) | None => Ok(()),
        }
    }

    fn write_rows(&self, _: Origin, rows: &mut dyn Iterator<Item = Row>) -> io::Result<()> {
        if self.mark.is_none() {
            return Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the Raft storage is open for looking"));
        }
        let path = self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        remove_table(&path)?;
        self.write_table(&path, rows).inspect_err(|_| {
            if let Err(error) = remove_table(&path) {
                tracing::warn!(%error, "a table that was not finished takes room until the next start");
            }
        })
    }

    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        Ok(self.of(key).get(key).map_err(failed)?.map(Into::into))
    }

    fn scan(&self, from: &[u8], to: &[u8], max: usize) -> io::Result<Vec<(Bytes, Bytes)>> {
        let of_log = (from < ROWS_START).then(|| pairs(&self.log, from, to.min(ROWS_START)));
        // Not looked for before the log's have ended.
        let of_rows = || (to > ROWS_START).then(|| pairs(&self.rows, from.max(ROWS_START), to));
        let of_rows = std::iter::once_with(of_rows).flatten().flatten();
        of_log.into_iter().flatten().chain(of_rows).take(max).collect()
    }

    fn last(&self, from: &[u8], to: &[u8]) -> io::Result<Option<(Bytes, Bytes)>> {
        let of_rows = (to > ROWS_START).then(|| last_pair(&self.rows, from.max(ROWS_START), to));
        match of_rows.transpose()?.flatten() {
            None if from < ROWS_START => last_pair(&self.log, from, to.min(ROWS_START)),
            found => Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> Batch {
        let mut batch = Batch::default();
        batch.put(key.as_bytes(), value.as_bytes().to_vec());
        batch
    }

    #[test]
    fn keeps_what_was_written_across_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        {
            let disk = RocksDisk::open(dir.path()).unwrap();
            disk.write(put("La", "1"), true).unwrap();
            disk.write(put("Lb", "2"), true).unwrap();
            let mut batch = put("Lc", "3");
            batch.delete_range(b"La".to_vec(), b"Lb".to_vec());
            disk.write(batch, true).unwrap();
        }
        let disk = RocksDisk::open(dir.path()).unwrap();
        let keys: Vec<_> = disk.scan(b"L", b"M", 10).unwrap().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["Lb", "Lc"]);
        assert_eq!(disk.last(b"L", b"M").unwrap().unwrap().1, "3");
        assert_eq!(disk.get(b"La").unwrap(), None);
    }

    fn rows(pairs: &[(&str, Option<&str>)]) -> impl Iterator<Item = Row> {
        let row = |(key, value): &(&str, Option<&str>)| {
            (key.as_bytes().to_vec(), value.map(|value| Bytes::copy_from_slice(value.as_bytes())))
        };
        pairs.iter().map(row).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn a_crash_before_a_table_s_old_name_is_gone_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let write = |disk: &RocksDisk, value: &str| {
            disk.write_rows(Origin::Checkpoint, &mut rows(&[("Oa", Some(value)), ("Ob", None)])).unwrap();
        };
        write(&RocksDisk::open(dir.path()).unwrap(), "1");
        let mut tables = std::fs::read_dir(dir.path().join(ROWS)).unwrap().flatten().map(|entry| entry.path());
        let table = tables.find(|path| path.extension().is_some_and(|kind| kind == "sst")).unwrap();
        std::fs::hard_link(&table, dir.path().join(TABLE)).unwrap();
        let bytes = std::fs::read(&table).unwrap();
        {
            let disk = RocksDisk::open(dir.path()).unwrap();
            assert!(!dir.path().join(TABLE).exists());
            std::fs::hard_link(&table, dir.path().join(TABLE)).unwrap();
            write(&disk, "2, which is longer");
        }
        assert_eq!(std::fs::read(&table).unwrap(), bytes, "it was written over");
        assert_eq!(RocksDisk::open(dir.path()).unwrap().get(b"Oa").unwrap().unwrap(), "2, which is longer");
    }

    #[test]
    fn who_looks_changes_nothing_and_an_earlier_build_s_rows_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(DB::open(&log_options(), dir.path()).unwrap());
        assert!(matches!(RocksDisk::open_read_only(dir.path()), Err(OpenError::Io { .. })));
        assert!(!dir.path().join(ROWS).exists());
        drop(RocksDisk::open(dir.path()).unwrap());
        let disk = RocksDisk::open_read_only(dir.path()).unwrap();
        assert!(disk.write(put("La", "1"), true).is_err());
        assert!(disk.write_rows(Origin::Checkpoint, &mut rows(&[("Oa", None)])).is_err());
        drop(disk);
        DB::open(&log_options(), dir.path()).unwrap().put("Oa", "1").unwrap();
        assert!(matches!(RocksDisk::open(dir.path()), Err(OpenError::Earlier { .. })));
    }

    #[test]
    fn rows_and_log_are_read_as_one() {
        let dir = tempfile::tempdir().unwrap();
        {
            let disk = RocksDisk::open(dir.path()).unwrap();
            disk.write_rows(Origin::Snapshot, &mut rows(&[("N", Some("1")), ("Oa", Some("2")), ("Oc", Some("3"))]))
                .unwrap();
            disk.write(put("La", "4"), true).unwrap();
            disk.write(put("Mb", "5"), true).unwrap();
            disk.write_rows(Origin::Checkpoint, &mut rows(&[("N", Some("6")), ("Oa", None), ("Ob", Some("7"))]))
                .unwrap();
            assert!(disk.write(put("Oz", "8"), true).is_err(), "a row");
            let unordered = disk.write_rows(Origin::Checkpoint, &mut rows(&[("Ob", None), ("Oa", None)]));
            assert!(unordered.is_err());
        }
        let disk = RocksDisk::open(dir.path()).unwrap();
        let scan = |from: &[u8], to: &[u8], max| -> Vec<String> {
            let pairs = disk.scan(from, to, max).unwrap();
            let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
            pairs.iter().map(|(key, value)| format!("{}={}", text(key), text(value))).collect()
        };
        assert_eq!(scan(b"", b"\xff", 9), ["La=4", "Mb=5", "N=6", "Ob=7", "Oc=3"]);
        assert_eq!(scan(b"Mb", b"Oc", 2), ["Mb=5", "N=6"]);
        assert_eq!(disk.last(b"", b"\xff").unwrap().unwrap().0, "Oc");
        assert_eq!(disk.last(b"L", b"N").unwrap().unwrap().0, "Mb");
        assert_eq!(disk.get(b"Oa").unwrap(), None);
    }
}
