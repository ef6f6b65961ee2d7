//! Our own bytes: log entries, votes, log ids and membership on disk and between masters.
//!
//! Every stored value starts with a format version. openraft's own serialisation is declared
//! unstable by its authors and is not used.

use crate::types::{Command, Entry, LogId, Member, Membership, SnapshotMeta, StoredMembership, Vote};
use bytes::Bytes;
use openraft::EntryPayload;
use protos::raft as pb;
use serde::{Deserialize, Serialize};
use state::{Op, Outcome, Txn};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

const VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
struct LogIdImage(u64, u64, u64);

/// Followed by the members' feature levels, which builds before those neither wrote nor read.
#[derive(Serialize, Deserialize)]
struct MembershipImage {
    configs: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, MemberImage>,
}

#[derive(Serialize, Deserialize)]
struct MemberImage {
    name: String,
    peer_addr: String,
    api_addr: String,
}

/// An entry is its version, its log id, a byte for what it holds, and that.
const BLANK: u8 = 0;
const TXN: u8 = 1;
const MEMBERSHIP: u8 = 2;
/// Version, three numbers of at most ten bytes each, and the byte for what it holds.
const ENTRY_HEAD_BYTES_MAX: usize = 32;

/// The last entry of a snapshot and that of its membership, which follows.
#[derive(Serialize, Deserialize)]
struct MetaImage(Option<LogIdImage>, Option<LogIdImage>);

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    extend(value, vec![VERSION])
}

fn extend<T: Serialize>(value: &T, out: Vec<u8>) -> Vec<u8> {
    postcard::to_extend(value, out).expect("our own types serialise")
}

fn invalid(what: &str, why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {why}"))
}

/// What follows the version.
fn body<'a>(what: &str, bytes: &'a [u8]) -> io::Result<&'a [u8]> {
    match bytes.split_first() {
        Some((&VERSION, body)) => Ok(body),
        Some((version, _)) => Err(invalid(what, format!("format {version} is unknown to this binary; upgrade it"))),
        None => Err(invalid(what, "empty")),
    }
}

fn decode<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> io::Result<T> {
    postcard::from_bytes(body(what, bytes)?).map_err(|error| invalid(what, error))
}

fn log_id_image(log_id: &LogId) -> LogIdImage {
    LogIdImage(log_id.leader_id.term, log_id.leader_id.node_id, log_id.index)
}

fn log_id_from(LogIdImage(term, node_id, index): LogIdImage) -> LogId {
    LogId { leader_id: openraft::impls::leader_id_adv::LeaderId { term, node_id }, index }
}

fn member_image(Member { name, peer_addr, api_addr, feature_level: _ }: &Member) -> MemberImage {
    MemberImage { name: name.clone(), peer_addr: peer_addr.clone(), api_addr: api_addr.clone() }
}

fn extend_membership(membership: &Membership, out: Vec<u8>) -> Vec<u8> {
    let configs = membership.get_joint_config().clone();
    let nodes = membership.nodes().map(|(id, member)| (*id, member_image(member))).collect();
    let levels: BTreeMap<u64, u32> = membership.nodes().map(|(id, member)| (*id, member.feature_level)).collect();
    extend(&levels, extend(&MembershipImage { configs, nodes }, out))
}

/// The membership that ends `bytes`.
fn membership_from(bytes: &[u8]) -> io::Result<Membership> {
    const WHAT: &str = "membership";
    let (image, rest): (MembershipImage, _) = postcard::take_from_bytes(bytes).map_err(|error| invalid(WHAT, error))?;
    let levels: BTreeMap<u64, u32> = match rest {
        [] => BTreeMap::new(),
        rest => postcard::from_bytes(rest).map_err(|error| invalid(WHAT, error))?,
    };
    let member = |(id, MemberImage { name, peer_addr, api_addr }): (u64, MemberImage)| {
        (id, Member { name, peer_addr, api_addr, feature_level: levels.get(&id).copied().unwrap_or(1) })
    };
    let nodes: BTreeMap<u64, Member> = image.nodes.into_iter().map(member).collect();
    Membership::new(image.configs, nodes).map_err(|error| invalid(WHAT, error))
}

pub(crate) fn entry_to_bytes(entry: &Entry) -> Bytes {
    let n_bytes = match &entry.payload {
        EntryPayload::Normal(Command { entry: Some(bytes), .. }) => {
            debug_assert!(entry_from_bytes(bytes).is_ok_and(|same| same.log_id == entry.log_id), "another entry's");
            return bytes.clone();
        }
        EntryPayload::Normal(command) => command.txn.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    };
    let mut out = Vec::with_capacity(ENTRY_HEAD_BYTES_MAX + n_bytes);
    out.push(VERSION);
    let mut out = extend(&log_id_image(&entry.log_id), out);
    match &entry.payload {
        EntryPayload::Blank => out.push(BLANK),
        EntryPayload::Normal(command) => {
            out.push(TXN);
            out.extend_from_slice(&command.txn);
        }
        EntryPayload::Membership(membership) => {
            out.push(MEMBERSHIP);
            out = extend_membership(membership, out);
        }
    }
    out.into()
}

/// The entry in `bytes`, which a transaction stays a part of. Whether that can be read is `Command::txn`'s
/// to say.
pub(crate) fn entry_from_bytes(bytes: &Bytes) -> io::Result<Entry> {
    const WHAT: &str = "log entry";
    let head = postcard::take_from_bytes::<LogIdImage>(body(WHAT, bytes)?);
    let (log_id, rest) = head.map_err(|error| invalid(WHAT, error))?;
    let payload = match rest.split_first() {
        Some((&BLANK, _)) => EntryPayload::Blank,
        Some((&TXN, txn)) => EntryPayload::Normal(Command { txn: bytes.slice_ref(txn), entry: Some(bytes.clone()) }),
        Some((&MEMBERSHIP, image)) => EntryPayload::Membership(membership_from(image)?),
        Some((kind, _)) => return Err(invalid(WHAT, format!("holds {kind}, which is unknown to this binary"))),
        None => return Err(invalid(WHAT, "cut short")),
    };
    Ok(Entry { log_id: log_id_from(log_id), payload })
}

/// As `entry_from_bytes`, of an entry that is not ours yet: what could not be applied is refused before it
/// is written. Bytes for the log are made anew: `bytes` are a part of a message, which would stay in memory with them.
pub(crate) fn entry_from_peer(bytes: &Bytes) -> io::Result<Entry> {
    let mut entry = entry_from_bytes(bytes)?;
    if let EntryPayload::Normal(command) = &mut entry.payload {
        command.entry = None;
        command.txn()?;
    }
    Ok(entry)
}

/// Bytes of one transaction: several times what the faces and the manager put into one, and a quarter of what a peer takes
/// at once (`MESSAGE_BYTES_MAX`).
const TXN_BYTES_MAX: usize = 16 << 20;

impl Command {
    pub(crate) fn new(txn: &Txn) -> Command {
        Command { txn: extend(txn, Vec::with_capacity(n_bytes_about(txn))).into(), entry: None }
    }

    /// A forwarded transaction; refused when it cannot be read.
    pub(crate) fn from_peer(bytes: &Bytes) -> io::Result<Command> {
        let command = Command { txn: bytes.slice_ref(body("transaction", bytes)?), entry: None };
        command.fits()?;
        command.txn()?;
        Ok(command)
    }

    /// Whether it may be appended. One that is too large to be sent would stay in the log, and all later ones behind it.
    pub(crate) fn fits(&self) -> io::Result<()> {
        match self.txn.len() {
            n if n > TXN_BYTES_MAX => {
                Err(invalid("transaction", format!("{n} bytes, and {TXN_BYTES_MAX} are allowed")))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn txn(&self) -> io::Result<Txn> {
        postcard::from_bytes(&self.txn).map_err(|error| invalid("transaction", error))
    }

    /// The bytes that a peer takes: the version, and the transaction.
    pub(crate) fn forwarded(&self) -> Bytes {
        let mut out = Vec::with_capacity(1 + self.txn.len());
        out.push(VERSION);
        out.extend_from_slice(&self.txn);
        out.into()
    }
}

/// Enough for most, so that encoding does not grow its buffer step by step: keys take less than 200 bytes.
fn n_bytes_about(txn: &Txn) -> usize {
    let object = |op: &Op| match op {
        Op::Create { object, .. } | Op::Update { object, .. } => object.len(),
        Op::Delete { .. } => 0,
    };
    64 + txn.ops.iter().map(|op| 200 + object(op)).sum::<usize>() + 200 * txn.checks.len()
}

pub(crate) fn vote_to_bytes(vote: &Vote) -> Vec<u8> {
    encode(&(vote.leader_id.term, vote.leader_id.node_id, vote.committed))
}

pub(crate) fn vote_from_bytes(bytes: &[u8]) -> io::Result<Vote> {
    let (term, node_id, committed): (u64, u64, bool) = decode("vote", bytes)?;
    Ok(Vote { leader_id: openraft::impls::leader_id_adv::LeaderId { term, node_id }, committed })
}

pub(crate) fn log_id_to_bytes(log_id: &LogId) -> Vec<u8> {
    encode(&log_id_image(log_id))
}

pub(crate) fn log_id_from_bytes(bytes: &[u8]) -> io::Result<LogId> {
    decode("log id", bytes).map(log_id_from)
}

pub(crate) fn meta_to_bytes(meta: &SnapshotMeta) -> Vec<u8> {
    let last = meta.last_log_id.as_ref().map(log_id_image);
    let image = MetaImage(last, meta.last_membership.log_id().as_ref().map(log_id_image));
    extend_membership(meta.last_membership.membership(), encode(&image))
}

pub(crate) fn meta_from_bytes(bytes: &[u8]) -> io::Result<SnapshotMeta> {
    const WHAT: &str = "snapshot meta";
    let (MetaImage(last, membership_at), rest) =
        postcard::take_from_bytes(body(WHAT, bytes)?).map_err(|error| invalid(WHAT, error))?;
    let last_membership = StoredMembership::new(membership_at.map(log_id_from), membership_from(rest)?);
    Ok(SnapshotMeta { last_log_id: last.map(log_id_from), last_membership })
}

/// A transaction as peers forward it.
pub fn txn_to_bytes(txn: &Txn) -> Bytes {
    Command::new(txn).forwarded()
}

pub(crate) fn outcome_to_bytes(outcome: &Outcome) -> Vec<u8> {
    encode(outcome)
}

/// The answer to a forwarded transaction.
pub fn outcome_from_bytes(bytes: &[u8]) -> io::Result<Outcome> {
    decode("outcome", bytes)
}

pub(crate) fn vote_to_pb(vote: &Vote) -> pb::Vote {
    pb::Vote { term: vote.leader_id.term, node_id: vote.leader_id.node_id, committed: vote.committed }
}

pub(crate) fn vote_from_pb(vote: Option<pb::Vote>) -> Vote {
    let vote = vote.unwrap_or_default();
    let leader_id = openraft::impls::leader_id_adv::LeaderId { term: vote.term, node_id: vote.node_id };
    Vote { leader_id, committed: vote.committed }
}

pub(crate) fn log_id_to_pb(log_id: &LogId) -> pb::LogId {
    pb::LogId { term: log_id.leader_id.term, node_id: log_id.leader_id.node_id, index: log_id.index }
}

pub(crate) fn log_id_from_pb(log_id: pb::LogId) -> LogId {
    log_id_from(LogIdImage(log_id.term, log_id.node_id, log_id.index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use objects::{Key, KindId, Revision, Timestamp};
    use openraft::impls::leader_id_adv::LeaderId;
    use state::RequestId;

    /// The format of stored logs. Levels came later, behind what there was.
    #[derive(Serialize)]
    enum PayloadImage {
        Blank,
        Txn(Txn),
        Membership(MembershipImage, BTreeMap<u64, u32>),
    }

    fn first_image() -> MembershipImage {
        let member = MemberImage { name: "a".into(), peer_addr: "p".into(), api_addr: String::new() };
        MembershipImage { configs: vec![BTreeSet::from([1])], nodes: BTreeMap::from([(1, member)]) }
    }

    fn membership(feature_level: u32) -> Membership {
        let member = Member { name: "a".into(), peer_addr: "p".into(), feature_level, ..Member::default() };
        Membership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, member)])).unwrap()
    }

    fn txn() -> Txn {
        let key = Key::new(KindId(4), "default", "a");
        Txn {
            ops: vec![Op::Update { key, assumed: Revision(7), object: Bytes::from_static(b"{}") }],
            request: Some(RequestId { incarnation: 1, seq: 300 }),
            stamp: Timestamp(-1),
            ..Txn::default()
        }
    }

    #[test]
    fn entries_keep_their_format_and_are_read_back() {
        let log_id = LogId { leader_id: LeaderId { term: 300, node_id: 2 }, index: 1 << 40 };
        let levels = BTreeMap::from([(1, 7)]);
        let cases = [
            (EntryPayload::Blank, PayloadImage::Blank),
            (EntryPayload::Normal(Command::new(&txn())), PayloadImage::Txn(txn())),
            (EntryPayload::Membership(membership(7)), PayloadImage::Membership(first_image(), levels)),
        ];
        for (payload, image) in cases {
            let entry = Entry { log_id, payload };
            let bytes = entry_to_bytes(&entry);
            assert_eq!(bytes, encode(&(log_id_image(&log_id), image)));
            for again in [entry_from_peer(&bytes).unwrap(), entry_from_bytes(&bytes).unwrap()] {
                assert_eq!((again.log_id, entry_to_bytes(&again)), (log_id, bytes.clone()));
            }
        }
    }

    /// Builds before feature levels wrote none: they knew the first one.
    #[test]
    fn a_membership_without_levels_is_read() {
        let read = membership_from(&postcard::to_stdvec(&first_image()).unwrap()).unwrap();
        assert_eq!(read, membership(1));
        // And those builds read what is written now.
        let read: MembershipImage = postcard::from_bytes(&extend_membership(&membership(7), Vec::new())).unwrap();
        assert_eq!(postcard::to_stdvec(&read).unwrap(), postcard::to_stdvec(&first_image()).unwrap());
        let meta = SnapshotMeta { last_log_id: None, last_membership: StoredMembership::new(None, membership(3)) };
        assert_eq!(meta_from_bytes(&meta_to_bytes(&meta)).unwrap(), meta);
        assert!(membership_from(&[1]).unwrap_err().to_string().contains("membership"));
    }

    #[test]
    fn a_transaction_is_forwarded_whole() {
        let forwarded = txn_to_bytes(&txn());
        assert_eq!(forwarded, encode(&txn()));
        assert_eq!(Command::from_peer(&forwarded).unwrap().txn().unwrap(), txn());
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let refusal = |bytes: Vec<u8>| entry_from_peer(&bytes.into()).unwrap_err().to_string();
        assert!(refusal(vec![]).contains("empty"));
        assert!(refusal(vec![9, 0]).contains("upgrade"));
        assert!(refusal(vec![VERSION, 1, 1, 1]).contains("cut short"));
        assert!(refusal(vec![VERSION, 1, 1, 1, 9]).contains("unknown"));
        assert!(refusal(vec![VERSION, 1, 1, 1, TXN, 200]).contains("transaction"));
        assert!(Command::from_peer(&Bytes::from_static(&[VERSION, 200])).is_err());
        let too_large = Command { txn: vec![0; TXN_BYTES_MAX + 1].into(), entry: None };
        assert!(too_large.fits().unwrap_err().to_string().contains("are allowed"));
        assert!(Command::from_peer(&too_large.forwarded()).unwrap_err().to_string().contains("are allowed"));
    }
}
