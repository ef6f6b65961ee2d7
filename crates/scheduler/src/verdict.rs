//! Why a pod fits nowhere, in Kubernetes' words, and how often people are told.

use objects::{Key, Timestamp};
use std::collections::BTreeMap;
use std::fmt;
use stdx::Backoff;

/// Why one node refuses a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    Unschedulable,
    Taint {
        key: String,
        value: String,
    },
    NodeAffinity,
    Ports,
    TooManyPods,
    Insufficient(String),
    Spread,
    SpreadLabel,
    Affinity,
    AntiAffinity,
    /// A pod that is already there does not want this one.
    ExistingAntiAffinity,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Unschedulable => f.write_str("node(s) were unschedulable"),
            Reason::Taint { key, value } => write!(f, "node(s) had untolerated taint {{{key}: {value}}}"),
            Reason::NodeAffinity => f.write_str("node(s) didn't match Pod's node affinity/selector"),
            Reason::Ports => f.write_str("node(s) didn't have free ports for the requested pod ports"),
            Reason::TooManyPods => f.write_str("Too many pods"),
            Reason::Insufficient(resource) => write!(f, "Insufficient {resource}"),
            Reason::Spread => f.write_str("node(s) didn't match pod topology spread constraints"),
            Reason::SpreadLabel => {
                f.write_str("node(s) didn't match pod topology spread constraints (missing required label)")
            }
            Reason::Affinity => f.write_str("node(s) didn't match pod affinity rules"),
            Reason::AntiAffinity => f.write_str("node(s) didn't match pod anti-affinity rules"),
            Reason::ExistingAntiAffinity => f.write_str("node(s) didn't satisfy existing pods anti-affinity rules"),
        }
    }
}

/// The reasons of all nodes, counted.
#[derive(Default)]
pub(crate) struct Explanation {
    n_nodes: usize,
    reasons: BTreeMap<Reason, usize>,
}

impl Explanation {
    /// Adds one node's reasons.
    pub(crate) fn add(&mut self, reasons: Vec<Reason>) {
        self.n_nodes += 1;
        reasons.into_iter().for_each(|reason| *self.reasons.entry(reason).or_default() += 1);
    }
}

impl fmt::Display for Explanation {
    /// `0/5 nodes are available: 2 Insufficient cpu, 3 node(s) had untolerated taint {gpu: yes}.`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.n_nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let mut parts: Vec<String> = self.reasons.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        parts.sort();
        write!(f, "0/{} nodes are available: {}.", self.n_nodes, parts.join(", "))
    }
}

/// A changed verdict is told at once, then after 1 s, 2 s, … at most every 30 s: counts that move
/// with every pod of a busy cluster must not become a write each.
const BACKOFF: Backoff = Backoff::new(1_000, 30_000);

/// What to do with a verdict.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum News {
    Tell,
    /// It is what has been said already.
    Old,
    /// Too soon after the last word; ask again then.
    After {
        ms: i64,
    },
}

/// When each waiting pod was last told why it waits.
#[derive(Debug, Default)]
pub struct Verdicts {
    told: BTreeMap<Key, Told>,
}

#[derive(Debug)]
struct Told {
    at: Timestamp,
    n_times: u32,
}

impl Verdicts {
    /// `said` is the message of the pod's present PodScheduled condition.
    pub fn judge(&self, pod: &Key, said: &str, message: &str, now: Timestamp) -> News {
        if said == message {
            return News::Old;
        }
        let Some(told) = self.told.get(pod) else { return News::Tell };
        let due = told.at.plus_ms(BACKOFF.delay_ms(told.n_times) as i64);
        if now >= due { News::Tell } else { News::After { ms: due.since_ms(now) } }
    }

    pub fn told(&mut self, pod: &Key, now: Timestamp) {
        let told = self.told.entry(pod.clone()).or_insert(Told { at: now, n_times: 0 });
        told.at = now;
        told.n_times += 1;
    }

    /// Forgets the pods that no longer wait.
    pub fn retain(&mut self, waits: impl Fn(&Key) -> bool) {
        self.told.retain(|pod, _| waits(pod));
    }
}
