//! `balsa backup`: saves the whole state of a cluster to one file, tells of one, restores one.

mod restore;
pub(crate) mod schedule;
pub(crate) mod service;

pub(crate) use restore::{fresh, settle, unchanged};

use crate::output::Format;
use crate::verbs::{self, Where};
use anyhow::{Context, Result, bail};
use clap::Subcommand;
use client::Access;
use objects::{Revision, Timestamp, Value, json, registry};
use protos::cluster as pb;
use protos::cluster::cluster_client::ClusterClient;
use raft_node::Node;
use state::backup::{BEGIN_MAX, Manifest, Reader, revision_after};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Writes the whole state, at one revision, to a file that its owner alone can read: it holds every
    /// secret, and the key of the cluster's authority. Needs an administrator's certificate.
    Save {
        /// - writes to standard output. An older backup of that name is replaced, once the new one is verified.
        file: PathBuf,
        #[command(flatten)]
        at: Where,
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Verifies a backup and tells what it holds.
    Inspect {
        /// - reads standard input.
        file: PathBuf,
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Makes a new group of one master, of a new epoch, from a backup, on this machine's empty data folder;
    /// other masters join it with a token.
    Restore {
        /// - reads standard input.
        file: PathBuf,
        /// The master's configuration.
        #[arg(long)]
        config: PathBuf,
        /// Begins this many revisions later still: for clocks that differ by more than 10 s.
        #[arg(long, default_value_t = 0)]
        skip_revisions: u64,
        /// Is of a greater epoch than this too: of a group that was made from the same backup while a clock was ahead.
        #[arg(long, default_value_t = 0)]
        epoch_above: u64,
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}

pub(crate) fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Save { file, at, output } => save(&file, &at, output),
        Verb::Inspect { file, output } => inspect(&file, output),
        Verb::Restore { file, config, skip_revisions, epoch_above, output } => {
            restore::run(&file, &config, restore::After { skip_revisions, epoch_above }, output)
        }
    }
}

/// What a backup taken now by this master says of itself; the rest is the view's.
pub(crate) fn manifest(cluster_id: &str, epoch: u64, node: &Node, now: Timestamp) -> Manifest {
    let mut members: Vec<String> = node.status().members.into_iter().map(|m| m.member.name).collect();
    members.sort();
    Manifest { cluster_id: cluster_id.into(), epoch, taken_at_ms: now.0, members, ..Manifest::default() }
}

/// Where a group goes on whose newest revision was this one at `as_of`. Warns when this machine's clock is behind that.
pub(crate) fn next_revision(newest: Revision, as_of: Timestamp, skip: u64) -> Result<Revision> {
    let now = crate::now();
    if now < as_of {
        eprintln!(
            "warning: this machine's clock is {} s behind that of the old group; if it is wrong, set it and do this \
             again, or say --skip-revisions",
            as_of.since_ms(now) / 1000
        );
    }
    let begins = revision_after(newest, as_of, now).0.checked_add(skip).filter(|begins| *begins <= BEGIN_MAX);
    begins.map(Revision).with_context(|| {
        format!(
            "revisions would go on beyond {BEGIN_MAX}: --skip-revisions ({skip}) is too many, or this machine's clock is \
             far ahead"
        )
    })
}

/// A new file that only its owner can read.
fn create_private(path: &Path) -> Result<std::fs::File> {
    // One that lies there keeps its mode when it is opened; a fresh one has ours.
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("replacing {}", path.display()));
    }
    let open = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    open.with_context(|| format!("creating {}", path.display()))
}

/// The same, for this process alone until it is closed, as are its clones. What one that was killed has left is taken over.
fn create_alone(path: &Path) -> Result<std::fs::File> {
    let busy = || format!("{} is being written by another `balsa backup save`: wait for it", path.display());
    let told = || format!("creating {}", path.display());
    let left = match std::fs::OpenOptions::new().write(true).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        opened => Some(opened.with_context(told)?),
    };
    // Held until the new one is there, so that nobody else takes it for left.
    if let Some(left) = &left {
        left.try_lock().with_context(busy)?;
    }
    let new = create_private(path)?;
    new.try_lock().with_context(busy)?;
    Ok(new)
}

/// Pieces of a backup that wait to be written.
const WAITING_MAX: usize = 4;

/// How the name of a file in the making ends.
const PART: &str = ".part";

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(PART);
    path.with_file_name(name)
}

/// Verifies a finished file and gives it its name, durably.
fn publish(part: &Path, path: &Path) -> Result<Summary> {
    let summary = read_all(std::io::BufReader::new(std::fs::File::open(part)?))
        .with_context(|| format!("the backup as written to {}", part.display()))?;
    std::fs::rename(part, path).with_context(|| format!("renaming {} to {}", part.display(), path.display()))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder)?.sync_all().with_context(|| format!("syncing {}", folder.display()))?;
    Ok(summary)
}

/// An older backup of that name gives way to the new one, once that is verified, and an empty file; nothing else does.
fn refuse_others(file: &Path) -> Result<()> {
    let what = match std::fs::symlink_metadata(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("looking at {}", file.display())),
        Ok(found) if found.is_file() && found.len() == 0 => return Ok(()),
        Ok(found) if found.is_file() => match open(file).map(Reader::open) {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(_)) => "a file, and no backup",
            Err(error) => return Err(error),
        },
        Ok(found) if found.is_dir() => "a directory",
        Ok(found) if found.is_symlink() => "a symbolic link",
        Ok(_) => "a device, a pipe or a socket",
    };
    bail!("{} is {what}, which a backup would replace: name a file, or - for standard output", file.display())
}

/// Ctrl-C and TERM: what has come of a backup by then holds secrets, and is of no use.
async fn interrupted<T>() -> Result<T> {
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        taken = tokio::signal::ctrl_c() => taken?,
        _ = terminated.recv() => {}
    }
    bail!("interrupted: no backup was made")
}

fn save(file: &Path, at: &Where, output: Format) -> Result<()> {
    let to_stdout = file == Path::new("-");
    if !to_stdout {
        refuse_others(file)?;
    }
    let access = at.access()?;
    let part = beside(file);
    // Held until it has its name.
    let held = if to_stdout { None } else { Some(create_alone(&part)?) };
    let out: Box<dyn Write + Send> = match &held {
        None => Box::new(std::io::stdout()),
        Some(file) => Box::new(file.try_clone().with_context(|| format!("creating {}", part.display()))?),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let saving = async {
        let n_bytes = receive(&access, out).await?;
        if to_stdout {
            return Ok((n_bytes, None));
        }
        let (part, file) = (part.clone(), file.to_path_buf());
        let published = tokio::task::spawn_blocking(move || {
            std::fs::File::open(&part)?.sync_all().context("syncing the backup")?;
            publish(&part, &file)
        });
        Ok((n_bytes, Some(published.await??)))
    };
    let saved = runtime.block_on(async {
        tokio::select! {
            saved = saving => saved,
            interrupted = interrupted() => interrupted,
        }
    });
    // What still writes may wait for long.
    runtime.shutdown_background();
    if saved.is_err() && !to_stdout {
        drop(std::fs::remove_file(&part));
    }
    drop(held);
    match (saved?, output) {
        ((n_bytes, None), _) => eprintln!("{n_bytes} bytes; verify where they end up with `balsa backup inspect`"),
        ((_, Some(summary)), Format::Json) => println!("{}", serde_json::to_string_pretty(&summary.json())?),
        ((_, Some(summary)), Format::Text) => println!("{} holds {}", file.display(), summary.line()),
    }
    Ok(())
}

/// Writes what a master sends, on a thread of its own: where it goes may take its time, and the connection must stay
/// alive meanwhile. Returns how many bytes it was.
async fn receive(access: &Access, mut out: Box<dyn Write + Send>) -> Result<u64> {
    let cluster = verbs::cluster(access);
    let begun = cluster.call(async |channel| {
        let mut client = ClusterClient::new(channel).max_decoding_message_size(service::PIECE_BYTES_MAX * 2);
        client.backup(pb::BackupRequest {}).await
    });
    let mut stream = begun.await?;
    let (pieces, mut received) = mpsc::channel::<Vec<u8>>(WAITING_MAX);
    let writing = tokio::task::spawn_blocking(move || {
        let mut n_bytes = 0;
        while let Some(piece) = received.blocking_recv() {
            out.write_all(&piece)?;
            n_bytes += piece.len() as u64;
        }
        out.flush().map(|()| n_bytes)
    });
    let told = |status: tonic::Status| anyhow::anyhow!("{}", status.message());
    while let Some(piece) = stream.message().await.map_err(told)? {
        if pieces.send(piece.data.into()).await.is_err() {
            // It says below why it ended.
            break;
        }
    }
    drop(pieces);
    writing.await?.context("writing the backup")
}

/// What a backup that was read to its end holds.
struct Summary {
    manifest: Manifest,
    sha256: String,
    n_bytes: u64,
    by_kind: BTreeMap<&'static str, u64>,
}

impl Summary {
    fn line(&self) -> String {
        let m = &self.manifest;
        format!("{} objects at revision {} ({} bytes), verified", m.n_objects, m.revision, self.n_bytes)
    }

    fn json(&self) -> Value {
        json!({"manifest": self.manifest, "sha256": self.sha256, "bytes": self.n_bytes, "objects": self.by_kind})
    }
}

/// Counts what is read through it.
struct Counted<R> {
    source: R,
    n_bytes: u64,
}

impl<R: Read> Read for &mut Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let n = self.source.read(into)?;
        self.n_bytes += n as u64;
        Ok(n)
    }
}

fn read_all(source: impl Read) -> Result<Summary> {
    let mut counted = Counted { source, n_bytes: 0 };
    let mut reader = Reader::open(&mut counted)?;
    // Of a head that a restore would refuse nothing is verified.
    reader.stamp()?;
    let mut by_kind = BTreeMap::new();
    while let Some(row) = reader.next_row()? {
        *by_kind.entry(registry::must(row.record.key.kind).plural).or_insert(0) += 1;
    }
    let sha256 = pki::token::hex(&reader.digest().unwrap_or_default());
    let manifest = reader.manifest().clone();
    Ok(Summary { manifest, sha256, n_bytes: counted.n_bytes, by_kind })
}

fn open(file: &Path) -> Result<Box<dyn Read>> {
    Ok(match file == Path::new("-") {
        true => Box::new(std::io::BufReader::new(std::io::stdin())),
        false => {
            let opened = std::fs::File::open(file).with_context(|| format!("opening {}", file.display()))?;
            Box::new(std::io::BufReader::with_capacity(1 << 20, opened))
        }
    })
}

fn inspect(file: &Path, output: Format) -> Result<()> {
    let summary = read_all(open(file)?).with_context(|| {
        format!("{} cannot be restored from; take another backup, or use an older one", file.display())
    })?;
    let m = &summary.manifest;
    match output {
        Format::Json => println!("{}", serde_json::to_string_pretty(&summary.json())?),
        Format::Text => {
            println!("cluster   {}, epoch {}, masters {}", m.cluster_id, m.epoch, m.members.join(", "));
            println!("taken     {}", Timestamp(m.taken_at_ms).rfc3339());
            println!("holds     {}", summary.line());
            println!("sha256    {}", summary.sha256);
            for (kind, n) in &summary.by_kind {
                println!("{n:>9} {kind}");
            }
        }
    }
    Ok(())
}
