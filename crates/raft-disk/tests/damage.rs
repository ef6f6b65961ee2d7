//! Bytes of a master's files flip or are cut off: what is read afterwards is the truth, or an error that
//! says what to do. Never something else.

use async_trait::async_trait;
use objects::{Key, Timestamp, json, record, registry};
use raft_disk::RocksDisk;
use raft_node::{
    Checkpoints, Lane, Member, Node, Options, PeerReply, PeerRequest, Profile, REMEDY, Reach, Transport,
    TransportError, read_remains, spawn_thread,
};
use state::{Op, Txn, snapshot};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

struct Nobody;

#[async_trait]
impl Transport for Nobody {
    async fn call(&self, _: Lane, _: &str, _: PeerRequest, _: Duration) -> Result<PeerReply, TransportError> {
        Err(TransportError::Unreachable("there is nobody else".into()))
    }
}

async fn start(folder: &Path) -> Node {
    let options = Options {
        cluster_id: "test".into(),
        node_id: 1,
        name: "m1".into(),
        profile: Profile::Lan,
        checkpoints: Checkpoints { every: 100, kept: 50, every_bytes: 1 << 20, kept_bytes: 8 << 10 },
        seed: 1,
        disk: Arc::new(RocksDisk::open(folder).unwrap()),
        transport: Arc::new(Nobody),
        spawn_writer: spawn_thread(),
        feature_level: 1,
        clock: Arc::new(|| Timestamp(0)),
    };
    Node::start(options).await.unwrap()
}

async fn write(node: &Node, from: usize, to: usize) {
    let store = node.store();
    drop(store.leadership().wait_for(|now| now.active.is_some()).await.unwrap());
    for i in from..to {
        let name = format!("c{i:04}");
        let object = json!({"metadata": {"name": name, "namespace": "default"}, "data": {"x": "y".repeat(300)}});
        let op = Op::Create { key: Key::new(registry::CONFIG_MAP, "default", &name), object: record::encode(&object) };
        store.propose(Txn { ops: vec![op], ..Txn::default() }).await.unwrap();
    }
}

/// The files of a folder and its parts, by their paths in it. An error when one goes meanwhile.
fn read_all(folder: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        match path.is_dir() {
            true => files.extend(read_all(&path)?.into_iter().map(|(part, bytes)| (format!("{name}/{part}"), bytes))),
            false => drop(files.insert(name, std::fs::read(path)?)),
        }
    }
    Ok(files)
}

/// The files of a folder as they are at one moment: read again until none changes meanwhile, as RocksDB moves its
/// tables and ends those that are empty by and by.
async fn read_at_once(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let at_rest = async {
        loop {
            match (read_all(folder), read_all(folder)) {
                (Ok(files), Ok(again)) if files == again => break files,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), at_rest).await.unwrap()
}

/// The files of a master that has run, ended, run again if it is to, and been killed: tables, a log, and all the rest.
async fn files(home: &Path, runs_again: bool) -> BTreeMap<String, Vec<u8>> {
    let lived = home.join("lived");
    let mut node = start(&lived).await;
    node.initialize(Member::default()).await.unwrap();
    write(&node, 0, 250).await;
    if runs_again {
        node.shutdown().await;
        drop(node);
        // The log's writer lets go of the files once it has ended.
        let opened = async {
            while RocksDisk::open(&lived).is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), opened).await.unwrap();
        node = start(&lived).await;
        write(&node, 250, 400).await;
    }
    // As it is on the disk at this moment: a kill.
    let mut files = read_at_once(&lived).await;
    node.shutdown().await;
    files.retain(|name, _| !name.ends_with("LOCK"));
    files
}

/// What a master would be after a start on these files: how far its log reaches, and its state.
fn read(folder: &Path) -> Result<(Reach, Vec<u8>), String> {
    let disk = RocksDisk::open_read_only(folder).map_err(|error| chain(&error))?;
    let remains = read_remains(Arc::new(disk)).map_err(|error| chain(&error))?;
    Ok((remains.last, snapshot::encode(&remains.state)))
}

fn chain(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|source| format!(": {}", chain(source)));
    format!("{error}{}", source.unwrap_or_default())
}

/// What happens to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Flipped { at: usize, bit: u8 },
    CutTo(usize),
}

struct Damaged {
    files: BTreeMap<String, Vec<u8>>,
    folder: PathBuf,
    truth: (Reach, Vec<u8>),
    n_told: usize,
    n_harmless: usize,
}

impl Damaged {
    /// Puts the files into the folder.
    fn lay_out(&self) {
        for (name, bytes) in &self.files {
            let path = self.folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }

    /// Reads them with one damaged, and mends it.
    fn try_with(&mut self, name: &str, damage: Damage) {
        let (bytes, path) = (&self.files[name], self.folder.join(name));
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        let from = match damage {
            Damage::Flipped { at, bit } => {
                file.write_all_at(&[bytes[at] ^ (1 << bit)], at as u64).unwrap();
                at
            }
            Damage::CutTo(left) => {
                file.set_len(left as u64).unwrap();
                left
            }
        };
        match read(&self.folder) {
            Ok(found) if found == self.truth => self.n_harmless += 1,
            Ok((reach, _)) => panic!("{name} {damage:?}: went unnoticed; reaches {reach:?}, not {:?}", self.truth.0),
            Err(why) => {
                assert!(why.contains(REMEDY), "{name} {damage:?}: {why:?} does not say what to do");
                self.n_told += 1;
            }
        }
        file.write_all_at(&bytes[from..], from as u64).unwrap();
    }
}

/// Where the records of a manifest begin.
fn heads(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let length = |at: usize| Some(usize::from(u16::from_le_bytes([*bytes.get(at + 4)?, *bytes.get(at + 5)?])));
    std::iter::successors(Some(0), move |at| Some(at + 7 + length(*at)?)).take_while(|at| at + 7 <= bytes.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_told_or_does_no_harm() {
    told_or_harmless(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_first_run_too() {
    told_or_harmless(false).await;
}

async fn told_or_harmless(runs_again: bool) {
    let home = tempfile::tempdir().unwrap();
    let files = files(home.path(), runs_again).await;
    let kinds: Vec<&str> = files.keys().filter_map(|name| name.rsplit_once('.').map(|(_, kind)| kind)).collect();
    assert!(kinds.contains(&"sst") && kinds.contains(&"log"), "{:?}", files.keys());
    let folder = home.path().join("damaged");
    let truth = (Reach::default(), Vec::new());
    let mut damaged = Damaged { files: files.clone(), folder, truth, n_told: 0, n_harmless: 0 };
    damaged.lay_out();
    damaged.truth = read(&damaged.folder).unwrap();
    assert!(files.keys().any(|name| name.starts_with("rows/") && name.ends_with(".sst")), "{:?}", files.keys());
    let extents = raft_disk::extents(&damaged.folder).unwrap();
    let said: BTreeMap<_, _> = extents.into_iter().map(|extent| (extent.path, extent.n_bytes as usize)).collect();
    // RocksDB's own diary and settings hold nothing of ours; a damaged mark claims nothing.
    let diary = |name: &str| ["LOG", "OPTIONS"].iter().any(|diary| name.trim_start_matches("rows/").starts_with(diary));
    let ours = files.iter().filter(|(name, _)| !diary(name));
    for (name, bytes) in ours.filter(|(name, bytes)| *name != "SYNCED" && !bytes.is_empty()) {
        let n_said = said.get(&damaged.folder.join(name)).copied().unwrap_or(bytes.len());
        for i in 0..24 {
            damaged.try_with(name, Damage::Flipped { at: n_said * i / 24, bit: (i % 8) as u8 });
        }
        for at in heads(bytes).filter(|_| name.contains("MANIFEST")) {
            // A length of more than there is; one that is only wrong; and the kind of a record in a recycled file.
            for (at, bit) in [(at + 5, 7), (at + 4, 1), (at + 6, 2)] {
                damaged.try_with(name, Damage::Flipped { at, bit });
            }
        }
        // The last record is the one that a crash could have torn.
        damaged.try_with(name, Damage::Flipped { at: n_said - 1, bit: 4 });
        damaged.try_with(name, Damage::CutTo(bytes.len() - 1));
        for cut in [1, n_said / 3, n_said - n_said / 5, n_said] {
            damaged.try_with(name, Damage::CutTo(n_said - cut.min(n_said)));
        }
    }
    println!("{} damages told, {} did no harm", damaged.n_told, damaged.n_harmless);
    assert!(damaged.n_told > damaged.n_harmless);
}
