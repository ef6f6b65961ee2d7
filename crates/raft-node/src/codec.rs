//! Our own bytes: log entries, votes, log ids and membership on disk and between masters.
//!
//! Every stored value starts with a format version. openraft's own serialisation is declared
//! unstable by its authors and is not used.

use crate::types::{Command, Entry, LogId, Member, Membership, SnapshotMeta, StoredMembership, Vote};
use openraft::EntryPayload;
use protos::raft as pb;
use serde::{Deserialize, Serialize};
use state::{Outcome, Txn};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

const VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
struct LogIdImage(u64, u64, u64);

#[derive(Serialize, Deserialize)]
struct MembershipImage {
    configs: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, Member>,
}

#[derive(Serialize, Deserialize)]
enum PayloadImage<T> {
    Blank,
    Txn(T),
    Membership(MembershipImage),
}

#[derive(Serialize, Deserialize)]
struct EntryImage<T> {
    log_id: LogIdImage,
    payload: PayloadImage<T>,
}

#[derive(Serialize, Deserialize)]
struct MetaImage {
    last_log_id: Option<LogIdImage>,
    membership_log_id: Option<LogIdImage>,
    membership: MembershipImage,
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![VERSION]).expect("our own types serialise")
}

fn decode<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> io::Result<T> {
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {why}"));
    match bytes.split_first() {
        Some((&VERSION, body)) => postcard::from_bytes(body).map_err(|error| invalid(error.to_string())),
        Some((version, _)) => Err(invalid(format!("format {version} is unknown to this binary; upgrade it"))),
        None => Err(invalid("empty".into())),
    }
}

fn log_id_image(log_id: &LogId) -> LogIdImage {
    LogIdImage(log_id.leader_id.term, log_id.leader_id.node_id, log_id.index)
}

fn log_id_from(LogIdImage(term, node_id, index): LogIdImage) -> LogId {
    LogId { leader_id: openraft::impls::leader_id_adv::LeaderId { term, node_id }, index }
}

fn membership_image(membership: &Membership) -> MembershipImage {
    MembershipImage {
        configs: membership.get_joint_config().clone(),
        nodes: membership.nodes().map(|(id, member)| (*id, member.clone())).collect(),
    }
}

fn membership_from(image: MembershipImage) -> io::Result<Membership> {
    Membership::new(image.configs, image.nodes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("membership: {error}")))
}

pub(crate) fn entry_to_bytes(entry: &Entry) -> Vec<u8> {
    let payload = match &entry.payload {
        EntryPayload::Blank => PayloadImage::Blank,
        EntryPayload::Normal(command) => PayloadImage::Txn(&*command.0),
        EntryPayload::Membership(membership) => PayloadImage::Membership(membership_image(membership)),
    };
    encode(&EntryImage { log_id: log_id_image(&entry.log_id), payload })
}

pub(crate) fn entry_from_bytes(bytes: &[u8]) -> io::Result<Entry> {
    let image: EntryImage<Txn> = decode("log entry", bytes)?;
    let payload = match image.payload {
        PayloadImage::Blank => EntryPayload::Blank,
        PayloadImage::Txn(txn) => EntryPayload::Normal(Command(Arc::new(txn))),
        PayloadImage::Membership(image) => EntryPayload::Membership(membership_from(image)?),
    };
    Ok(Entry { log_id: log_id_from(image.log_id), payload })
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
    encode(&MetaImage {
        last_log_id: meta.last_log_id.as_ref().map(log_id_image),
        membership_log_id: meta.last_membership.log_id().as_ref().map(log_id_image),
        membership: membership_image(meta.last_membership.membership()),
    })
}

pub(crate) fn meta_from_bytes(bytes: &[u8]) -> io::Result<SnapshotMeta> {
    let image: MetaImage = decode("snapshot meta", bytes)?;
    let membership = membership_from(image.membership)?;
    Ok(SnapshotMeta {
        last_log_id: image.last_log_id.map(log_id_from),
        last_membership: StoredMembership::new(image.membership_log_id.map(log_id_from), membership),
    })
}

/// A transaction as peers forward it.
pub fn txn_to_bytes(txn: &Txn) -> Vec<u8> {
    encode(txn)
}

pub(crate) fn txn_from_bytes(bytes: &[u8]) -> io::Result<Txn> {
    decode("transaction", bytes)
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
