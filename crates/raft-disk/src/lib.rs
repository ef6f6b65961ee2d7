//! The `Disk` port on RocksDB. The only crate that links C++.
//!
//! Two databases, which do not hold each other up. The log's takes entries and votes through its write-ahead log,
//! so that a sync of any makes all earlier ones durable. The rows' is only given whole tables, which are written
//! beside it and taken in at once: no write-ahead log, no copy in memory, nothing that a sync of the log
//! would wait for. In the log's, entries have a column family to themselves: each of its tables then holds a stretch
//! of the log that no other does, so that hardly one is ever merged, and a purge unlinks those it covers. The settings
//! and their reasons stand at `log_options`, `singles_options`, `entries_options` and `common_options`.

mod extent;
mod manifest;
mod mark;
#[cfg(test)]
mod tests;
mod unlink;

pub use extent::{Extent, extents};

use bytes::Bytes;
use mark::Mark;
use raft_node::{Batch, Disk, Origin, REMEDY, ROWS_START, Row, SINGLES_START};
use rocksdb::{
    BlockBasedOptions, ColumnFamily, DB, DBIterator, DBRecoveryMode, DEFAULT_COLUMN_FAMILY_NAME, Direction,
    IngestExternalFileOptions, IteratorMode, Options, ReadOptions, SstFileWriter, WriteBatch, WriteOptions,
};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use unlink::Unlinker;

pub struct RocksDisk {
    rows: DB,
    /// Of the log. None where nothing is written.
    unlinker: Option<Unlinker>,
    // After what else uses it, and the rows: it is its lock that keeps another process out.
    log: Arc<DB>,
    /// Of the log. None where nothing is written.
    mark: Option<Mark>,
    /// Where a table is written before the rows' database takes it in; one at a time.
    table: Mutex<PathBuf>,
    /// Up to which entry the log was forgotten by a write that may not be synced yet.
    forgotten: Mutex<Option<Vec<u8>>>,
}

/// The column family of what the log's part has one of: written over and over, it would lie in every table of
/// entries. Those have the one that every database has.
const SINGLES: &str = "singles";

/// A stretch of the keys, and where it lies.
struct Part<'a> {
    from: &'static [u8],
    to: &'static [u8],
    db: &'a DB,
    family: Option<&'a ColumnFamily>,
}

impl<'a> Part<'a> {
    fn iterate(&self, mode: IteratorMode, options: ReadOptions) -> DBIterator<'a> {
        match self.family {
            Some(family) => self.db.iterator_cf_opt(family, options, mode),
            None => self.db.iterator_opt(mode, options),
        }
    }

    /// The part of `from..to` that lies here, if any.
    fn share<'k>(&self, from: &'k [u8], to: &'k [u8]) -> Option<(&'k [u8], &'k [u8])> {
        let (from, to) = (from.max(self.from), to.min(self.to));
        (from < to).then_some((from, to))
    }

    /// The pairs in `from..to`.
    fn pairs(&self, from: &[u8], to: &[u8]) -> impl Iterator<Item = io::Result<(Bytes, Bytes)>> + use<'a> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(to);
        // What is read in a row is not read again soon.
        options.fill_cache(false);
        let pairs = self.iterate(IteratorMode::From(from, Direction::Forward), options);
        pairs.map(|pair| pair.map(|(key, value)| (key.into(), value.into())).map_err(failed))
    }

    /// The last pair in `from..to`.
    fn last(&self, from: &[u8], to: &[u8]) -> io::Result<Option<(Bytes, Bytes)>> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(to);
        options.set_iterate_lower_bound(from);
        let mut pairs = self.iterate(IteratorMode::End, options);
        pairs.next().map(|pair| pair.map(|(key, value)| (key.into(), value.into())).map_err(failed)).transpose()
    }
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
    #[error("the Raft storage in {path} is damaged ({why}): {REMEDY}")]
    Damaged { path: String, why: String },
    #[error(
        "the disk of the Raft storage in {path} is full: nothing is lost; free some space (some 100 MB to start with) \
         and start this master again"
    )]
    Full { path: String, source: rocksdb::Error },
    #[error("cannot open the Raft storage in {path}")]
    Io { path: String, source: io::Error },
    #[error(
        "the Raft storage in {path} was written by an earlier build, which laid it out differently. Upgrade one master \
         at a time, while the others have a quorum: empty this master's data folder and join again with a token \
         (`balsa token` prints it)"
    )]
    Earlier { path: String },
    #[error(
        "the Raft storage in {path} has lost its newest writes: it was synced up to {synced} and reaches {found}. It \
         must not vote again: {REMEDY}"
    )]
    LostTail { path: String, synced: u64, found: u64 },
    #[error(
        "this processor lacks what the Raft storage is compiled for (x86-64-v2: SSE4.2 and POPCNT, as all since 2009 \
         have): run the master on one that has it; of a virtual machine, choose a processor model that does"
    )]
    Processor,
}

/// RocksDB is compiled for what any server has (`cargo xtask build`): on less it would end at some instruction.
fn processor() -> Result<(), OpenError> {
    #[cfg(target_arch = "x86_64")]
    if !(std::is_x86_feature_detected!("sse4.2") && std::is_x86_feature_detected!("popcnt")) {
        return Err(OpenError::Processor);
    }
    Ok(())
}

const LOG_BUFFER_BYTES: usize = 16 << 20;

/// Some 120 bytes for each group of entries: full no sooner than the entries' buffer when each is a group of its own.
const SINGLES_BUFFER_BYTES: usize = 4 << 20;

fn log_options() -> Options {
    let mut options = common_options();
    options.create_missing_column_families(true);
    // A file of the write-ahead log is let go of when neither family needs it.
    options.set_atomic_flush(true);
    options.set_max_total_wal_size(256 << 20);
    // See `lay_out_files`. What it fills must reach the disk as it is written: at the sync of a whole file,
    // everybody else's on this disk would wait behind it.
    options.set_recycle_log_file_num(FILES_RECYCLED);
    options.set_wal_bytes_per_sync(FILLER_BYTES as u64);
    // A torn tail after a crash is expected, and in a file that is written over, what an earlier use has left
    // there looks like one. RocksDB ends at either, and at damage before it, which would drop acknowledged
    // entries: that is what the mark is for.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_use_fsync(false);
    options
}

fn singles_options() -> Options {
    let mut options = common_options();
    options.set_write_buffer_size(SINGLES_BUFFER_BYTES);
    options
}

fn entries_options() -> Options {
    let mut options = common_options();
    // Two of them are a large part of a busy master's memory.
    options.set_write_buffer_size(LOG_BUFFER_BYTES);
    options.set_max_write_buffer_number(2);
    // Only tables below the first level can be unlinked, and to move one there costs nothing.
    options.set_level_zero_file_num_compaction_trigger(1);
    options
}

/// Files of the write-ahead log that are filled: the one that is written over now, and one for when it is full and
/// not let go of yet.
const FILES_RECYCLED: usize = 2;
/// What is written to one before the buffers are full.
const FILE_BYTES: usize = LOG_BUFFER_BYTES + SINGLES_BUFFER_BYTES;
/// What a file is filled with at once.
const FILLER_BYTES: usize = 1 << 20;
/// What of it is synced at once, with the metadata of a file that grows: others' syncs on the same disk wait behind
/// no more. Its data is on its way before, see `log_options`.
const FILLED_AT_ONCE_BYTES: usize = 4 << 20;
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
        for n_bytes in (FILLER_BYTES..=FILE_BYTES).step_by(FILLER_BYTES) {
            let mut batch = WriteBatch::default();
            // Stands in the file only.
            batch.put_log_data(&filler);
            // A file without a change is not let go of.
            batch.delete(FILLER);
            let mut options = WriteOptions::default();
            options.set_sync(n_bytes % FILLED_AT_ONCE_BYTES == 0 || n_bytes == FILE_BYTES);
            log.write_opt(batch, &options)?;
        }
        // The next file.
        log.flush()?;
    }
    Ok(())
}

/// What a write batch has of each put beside its key and value: its kind, its family, and two lengths.
const RECORD_HEAD_BYTES_MAX: usize = 16;

const TABLE_BLOCK_BYTES: usize = 64 << 10;

fn common_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_paranoid_checks(true);
    // Merged late: each of the rows' tables spans all keys, so that the whole state is written again.
    options.set_level_zero_file_num_compaction_trigger(8);
    // Tables are read as a whole, at a start, by the scrub and to be merged, and hardly else.
    let mut tables = BlockBasedOptions::default();
    tables.set_block_size(TABLE_BLOCK_BYTES);
    options.set_block_based_table_factory(&tables);
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
    let is_full = source.to_string().contains(NO_SPACE);
    let path = path.display().to_string();
    if is_full { OpenError::Full { path, source } } else { OpenError::Rocks { path, source } }
}

/// A folder that its owner alone can enter, also where an earlier build or an operator made it: it holds every secret of
/// the cluster, in files that RocksDB makes for everybody to read.
fn make_private(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
}

impl RocksDisk {
    pub fn open(path: &Path) -> Result<RocksDisk, OpenError> {
        processor()?;
        let failed = |source| OpenError::Io { path: path.display().to_string(), source };
        make_private(path).map_err(failed)?;
        // Before anything is changed: an open in earnest removes the files of what it could not recover.
        if path.join(EXISTS).exists() {
            drop(RocksDisk::open_log_read_only(path)?);
        }
        let families = [(DEFAULT_COLUMN_FAMILY_NAME, entries_options()), (SINGLES, singles_options())];
        let log = DB::open_cf_with_opts(&log_options(), path, families).map_err(|source| unopened(path, source))?;
        let log = Arc::new(log);
        take_over(&log).map_err(failed)?;
        lay_out_files(&log).map_err(|source| unopened(path, source))?;
        manifest::check(&path.join(ROWS))?;
        let rows = DB::open(&common_options(), path.join(ROWS)).map_err(|source| unopened(path, source))?;
        remove_table(&path.join(TABLE)).map_err(failed)?;
        // That there is a folder of rows must outlast a power cut as they do.
        std::fs::File::open(path).and_then(|folder| folder.sync_all()).map_err(failed)?;
        // The last write of laying out was synced, and all before it in the log.
        let mark = Some(Mark::open(path, log.latest_sequence_number()).map_err(failed)?);
        let unlinker = Some(Unlinker::start(log.clone()).map_err(failed)?);
        Ok(RocksDisk { rows, unlinker, log, mark, table: Mutex::new(path.join(TABLE)), forgotten: Mutex::default() })
    }

    /// When a process last worked on the disk in this folder, to a second, by its machine's clock.
    pub fn last_used(path: &Path) -> io::Result<SystemTime> {
        std::fs::metadata(path.join(mark::NAME))?.modified()
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
        manifest::check(&folder)?;
        let rows =
            DB::open_for_read_only(&common_options(), &folder, false).map_err(|source| unopened(path, source))?;
        let (table, forgotten) = (Mutex::new(path.join(TABLE)), Mutex::default());
        Ok(RocksDisk { rows, unlinker: None, log: Arc::new(log), mark: None, table, forgotten })
    }

    /// The log, if it is sound.
    fn open_log_read_only(path: &Path) -> Result<DB, OpenError> {
        processor()?;
        manifest::check(path)?;
        // That of what there is one of is missing when a first start was cut short, or an earlier build wrote this.
        let families = DB::list_cf(&log_options(), path).map_err(|source| unopened(path, source))?;
        let log = DB::open_cf_for_read_only(&log_options(), path, families, false);
        let log = log.map_err(|source| unopened(path, source))?;
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

    /// In the order of their keys.
    fn parts(&self) -> [Part<'_>; 3] {
        let (db, family) = (&*self.log, self.log.cf_handle(SINGLES));
        let singles = Part { from: SINGLES_START, to: ROWS_START, db, family };
        [entries(db), singles, Part { from: ROWS_START, to: &[0xFF], db: &self.rows, family: None }]
    }
}

fn entries(log: &DB) -> Part<'_> {
    Part { from: b"", to: SINGLES_START, db: log, family: None }
}

/// Earlier builds had one family for all of the log.
fn take_over(log: &DB) -> io::Result<()> {
    let (singles, mut writes) = (singles_of(log)?, WriteBatch::default());
    for pair in entries(log).pairs(SINGLES_START, ROWS_START) {
        let (key, value) = pair?;
        writes.put_cf(singles, &key, value);
        writes.delete(key);
    }
    let mut options = WriteOptions::default();
    options.set_sync(true);
    if writes.is_empty() { Ok(()) } else { log.write_opt(writes, &options).map_err(failed) }
}

/// There in every log that was opened to write to it.
fn singles_of(log: &DB) -> io::Result<&ColumnFamily> {
    log.cf_handle(SINGLES).ok_or_else(read_only)
}

/// What was synced of the log is there, and nothing that is no log's.
fn is_sound(log: &DB, folder: &Path) -> Result<(), OpenError> {
    let path = folder.display().to_string();
    let synced = mark::read(folder).map_err(|source| OpenError::Io { path: path.clone(), source })?;
    let found = log.latest_sequence_number();
    if synced.is_none() && found > 0 {
        tracing::warn!(
            path,
            "the mark {} is missing or damaged: that the log's end is there cannot be told",
            mark::NAME
        );
    }
    let synced = synced.unwrap_or(0);
    if found < synced {
        return Err(OpenError::LostTail { path, synced, found });
    }
    match entries(log).last(ROWS_START, &[0xFF]) {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(OpenError::Earlier { path }),
        Err(source) => Err(OpenError::Io { path, source }),
    }
}

fn read_only() -> io::Error {
    io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the Raft storage is open for looking")
}

fn failed(error: rocksdb::Error) -> io::Error {
    match error.kind() {
        rocksdb::ErrorKind::Corruption => {
            io::Error::new(io::ErrorKind::InvalidData, format!("the Raft storage is damaged ({error}): {REMEDY}"))
        }
        _ if error.to_string().contains(NO_SPACE) => io::Error::new(io::ErrorKind::StorageFull, error),
        // A sector that cannot be read any more, for one.
        rocksdb::ErrorKind::IOError => io::Error::other(format!(
            "the Raft storage cannot be read or written ({error}); if it is its disk that fails: {REMEDY}"
        )),
        _ => io::Error::other(error),
    }
}

impl Disk for RocksDisk {
    fn write(&self, batch: Batch, sync: bool) -> io::Result<()> {
        let (puts, cuts) = (batch.puts.iter().map(|(key, _)| key), batch.delete_ranges.iter().map(|(_, to)| to));
        if let Some(key) = puts.clone().find(|key| key[..] >= *ROWS_START) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{key:?} is a row's key")));
        }
        if let Some(key) = cuts.chain(&batch.forgotten).find(|key| key[..] > *SINGLES_START) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{key:?} is behind the entries' keys")));
        }
        let singles = singles_of(&self.log)?;
        let mut writes = WriteBatch::with_capacity_bytes(batch.n_bytes() + RECORD_HEAD_BYTES_MAX * batch.puts.len());
        for (from, to) in &batch.delete_ranges {
            writes.delete_range(from, to);
        }
        for (key, value) in &batch.puts {
            match (value, key[..] >= *SINGLES_START) {
                (Some(value), false) => writes.put(key, value),
                (Some(value), true) => writes.put_cf(singles, key, value),
                (None, false) => writes.delete(key),
                (None, true) => writes.delete_cf(singles, key),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        // This batch's last number is at least this: others may get some between. All that is before it in
        // the write-ahead log is synced with it.
        let (before, n_writes) = (self.log.latest_sequence_number(), writes.len() as u64);
        // What this sync covers, and not what another's batch says meanwhile.
        let mut durable = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner).take();
        let written = self.log.write_opt(writes, &options).map_err(failed);
        durable = batch.forgotten.max(durable);
        if !sync || written.is_err() {
            let mut forgotten = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
            *forgotten = durable.max(forgotten.take());
            return written;
        }
        if let Some(mark) = self.mark.as_ref().filter(|_| n_writes > 0) {
            mark.raise(before + n_writes)?;
        }
        // Not before it is durable that they are of no use: what is unlinked does not come back.
        if let (Some(unlinker), Some(last)) = (&self.unlinker, durable) {
            unlinker.unlink(last);
        }
        Ok(())
    }

    fn write_rows(&self, _: Origin, rows: &mut dyn Iterator<Item = Row>) -> io::Result<()> {
        if self.mark.is_none() {
            return Err(read_only());
        }
        let path = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        remove_table(&path)?;
        self.write_table(&path, rows).inspect_err(|_| {
            if let Err(error) = remove_table(&path) {
                tracing::warn!(%error, "a table that was not finished takes room until the next start");
            }
        })
    }

    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        let parts = self.parts();
        let Some(part) = parts.iter().find(|part| part.from <= key && key < part.to) else { return Ok(None) };
        let value = match part.family {
            Some(family) => part.db.get_cf(family, key),
            None => part.db.get(key),
        };
        Ok(value.map_err(failed)?.map(Into::into))
    }

    fn scan(&self, from: &[u8], to: &[u8], max: usize) -> io::Result<Vec<(Bytes, Bytes)>> {
        // One part after the other: a later one is not looked at before the one before it has ended.
        let pairs =
            self.parts().into_iter().filter_map(|part| part.share(from, to).map(|(from, to)| part.pairs(from, to)));
        pairs.flatten().take(max).collect()
    }

    fn last(&self, from: &[u8], to: &[u8]) -> io::Result<Option<(Bytes, Bytes)>> {
        let mut pairs = self.parts().into_iter().rev().filter_map(|part| {
            let (from, to) = part.share(from, to)?;
            part.last(from, to).transpose()
        });
        pairs.next().transpose()
    }

    fn flush(&self) -> io::Result<()> {
        self.log.flush().map_err(failed)
    }
}
