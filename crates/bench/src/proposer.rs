//! Proposers: clients that hand transactions to the leader at its peer port, as followers hand on theirs.

use crate::body;
use crate::load::{Client, Fill};
use crate::wire::Connection;
use anyhow::{Result, bail};
use objects::{Key, Revision, registry};
use protos::raft;
use protos::raft::raft_client::RaftClient;
use raft_node::{outcome_from_bytes, txn_to_bytes};
use state::{Op, Outcome, RequestId, Txn};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A proposal that is refused is repeated for this long, as a master's is; then the leader has most likely changed.
const REPEATED_FOR: Duration = Duration::from_secs(2);
const REPEATED_EVERY: Duration = Duration::from_millis(20);

/// Request ids, so that a proposal is applied once, as a master's own are.
struct Ids {
    incarnation: u64,
    next: AtomicU64,
}

/// A client's keys in turn, each with the revision it was last given.
pub(crate) struct Keys {
    keys: Vec<(Key, Option<Revision>)>,
    next: usize,
}

impl Keys {
    pub(crate) fn new(namespace: &str, names: Vec<String>) -> Keys {
        let key = |name: &String| (Key::new(registry::CONFIG_MAP, namespace, name), None);
        Keys { keys: names.iter().map(key).collect(), next: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The write of the next key: a creation, or a replacement of exactly the revision known.
    fn op(&mut self, n_bytes: usize) -> (usize, Op) {
        let at = self.next % self.keys.len();
        self.next += 1;
        let (key, known) = &self.keys[at];
        let (key, object) = (key.clone(), body::object(&key.namespace, &key.name, n_bytes));
        (
            at,
            match known {
                None => Op::Create { key, object },
                Some(assumed) => Op::Update { key, assumed: *assumed, object },
            },
        )
    }

    fn learn(&mut self, written: &[usize], outcome: Outcome) -> Result<()> {
        match outcome {
            Outcome::Applied(revisions) => {
                for (at, revision) in written.iter().zip(revisions) {
                    self.keys[*at].1 = Some(revision);
                }
                Ok(())
            }
            Outcome::Refused(refusal) => bail!("refused: {refusal:?}"),
        }
    }
}

fn is_refused(answer: &raft::ProposeResponse) -> bool {
    !answer.not_leader.is_empty()
}

/// Of one client, one transaction to a request.
pub(crate) struct Raw {
    client: RaftClient<Connection>,
    to: raft::To,
    ids: Arc<Ids>,
    keys: Keys,
    n_bytes: usize,
    n_ops: usize,
    n_repeated: u64,
}

impl Raw {
    /// One for each set of keys, with `n_ops` writes in a transaction.
    pub(crate) fn all(pool: &[Connection], to: &raft::To, keys: Vec<Keys>, n_bytes: usize, n_ops: usize) -> Vec<Raw> {
        let ids = Arc::new(Ids { incarnation: body::nanos(), next: AtomicU64::new(1) });
        let raw = |(i, keys): (usize, Keys)| Raw {
            client: RaftClient::new(pool[i % pool.len()].clone()),
            to: to.clone(),
            ids: ids.clone(),
            keys,
            n_bytes,
            n_ops,
            n_repeated: 0,
        };
        keys.into_iter().enumerate().map(raw).collect()
    }

    /// From now on with one write in a transaction, and nothing repeated so far.
    pub(crate) fn one_at_a_time(self) -> Raw {
        Raw { n_ops: 1, n_repeated: 0, ..self }
    }

    pub(crate) fn batched(self, size: usize) -> Batched {
        Batched { raw: self, size }
    }

    /// The next transaction, encoded, and the places of its keys. No key twice in one: each operation
    /// assumes the revision before it.
    fn txn(&mut self) -> (Vec<usize>, prost::bytes::Bytes) {
        let n_ops = self.n_ops.min(self.keys.keys.len());
        let (places, ops) = (0..n_ops).map(|_| self.keys.op(self.n_bytes)).unzip();
        let seq = self.ids.next.fetch_add(1, Ordering::Relaxed);
        let request = Some(RequestId { incarnation: self.ids.incarnation, seq });
        (places, txn_to_bytes(&Txn { ops, request, ..Txn::default() }))
    }

    /// Whether the same is to be proposed again, as masters do: a leader that is out of breath, or has not heard from
    /// the others for a moment, refuses, appends nothing, and goes on.
    async fn repeats(&mut self, n_refused: usize, since: Instant) -> bool {
        let repeats = n_refused > 0 && since.elapsed() < REPEATED_FOR;
        if repeats {
            self.n_repeated += n_refused as u64;
            tokio::time::sleep(REPEATED_EVERY).await;
        }
        repeats
    }

    fn learn(&mut self, places: &[usize], answer: &raft::ProposeResponse) -> Result<()> {
        if answer.outcome.is_empty() {
            bail!("not committed: {}{}", answer.not_leader, answer.unknown);
        }
        self.keys.learn(places, outcome_from_bytes(&answer.outcome)?)
    }
}

impl Fill for Raw {
    async fn fill(&mut self) -> Result<()> {
        while self.keys.next < self.keys.keys.len() {
            self.once().await?;
        }
        Ok(())
    }
}

impl Client for Raw {
    async fn once(&mut self) -> Result<u64> {
        let (places, txn) = self.txn();
        let request = raft::ProposeRequest { to: Some(self.to.clone()), txn };
        let started = Instant::now();
        loop {
            let answer = self.client.propose(request.clone()).await?.into_inner();
            if !self.repeats(is_refused(&answer).into(), started).await {
                self.learn(&places, &answer)?;
                return Ok(places.len() as u64);
            }
        }
    }

    fn n_repeated(&self) -> u64 {
        self.n_repeated
    }
}

/// Of one client, `size` transactions to a request. Those that the leader refuses are proposed again.
pub(crate) struct Batched {
    raw: Raw,
    size: usize,
}

impl Client for Batched {
    async fn once(&mut self) -> Result<u64> {
        let (mut places, mut txns): (Vec<Vec<usize>>, Vec<_>) = (0..self.size).map(|_| self.raw.txn()).unzip();
        let started = Instant::now();
        loop {
            let request = raft::ProposeBatchRequest { to: Some(self.raw.to.clone()), txns: txns.clone() };
            let answers = self.raw.client.propose_batch(request).await?.into_inner().answers;
            if answers.len() != places.len() {
                bail!("{} answers to {} transactions", answers.len(), places.len());
            }
            let repeats = self.raw.repeats(answers.iter().filter(|answer| is_refused(answer)).count(), started).await;
            let mut refused = (Vec::new(), Vec::new());
            for ((at, txn), answer) in places.into_iter().zip(txns).zip(&answers) {
                match repeats && is_refused(answer) {
                    true => {
                        refused.0.push(at);
                        refused.1.push(txn);
                    }
                    false => self.raw.learn(&at, answer)?,
                }
            }
            (places, txns) = refused;
            if places.is_empty() {
                return Ok(self.size as u64);
            }
        }
    }

    fn n_repeated(&self) -> u64 {
        self.raw.n_repeated
    }
}
