//! Scenarios: what is done to a cluster, what its clients do meanwhile, and what must hold.
//!
//! Read from YAML; every field is described in docs/chaos.md. Unknown fields are refused by name.

use crate::span::{Millis, Pace};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scenario {
    pub name: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub cluster: ClusterSpec,
    /// How long faults begin; healing and judgement come on top.
    pub duration: Millis,
    /// Faults that may be going on at once.
    #[serde(default = "one")]
    pub together: usize,
    /// From the end of one fault to the next one that must wait for it.
    #[serde(default = "rest")]
    pub rest: Millis,
    pub faults: Vec<Rule>,
    #[serde(default)]
    pub workload: Workload,
    /// The invariants judged; all by default.
    #[serde(default, deserialize_with = "at_least_one")]
    pub invariants: Vec<String>,
    #[serde(default)]
    pub limits: Limits,
}

/// The cluster that `balsa dev up` makes when none is named.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClusterSpec {
    pub masters: usize,
    pub workers: usize,
    /// The masters' timing profile.
    pub profile: Profile,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    #[default]
    Lan,
    Wan,
    SlowDisk,
}

impl Profile {
    pub fn name(self) -> &'static str {
        match self {
            Profile::Lan => "lan",
            Profile::Wan => "wan",
            Profile::SlowDisk => "slow-disk",
        }
    }
}

impl Default for ClusterSpec {
    fn default() -> ClusterSpec {
        ClusterSpec { masters: 3, workers: 0, profile: Profile::Lan }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    pub fault: Fault,
    pub target: Target,
    /// From one beginning to the next.
    pub every: Pace,
    /// How long the harm lasts until it is healed.
    #[serde(rename = "for")]
    pub lasts: Pace,
    /// When it first comes; by default after one `every`.
    #[serde(default)]
    pub first: Option<Millis>,
    /// At most so often.
    #[serde(default)]
    pub times: Option<u32>,
    /// `slow-disk`: how long one stall of the disk is.
    #[serde(default)]
    pub stall: Option<Millis>,
    /// `clock-skew`: how far the clock is off, in seconds.
    #[serde(default)]
    pub seconds: Option<i64>,
    /// `bit-flip`: how many bits.
    #[serde(default)]
    pub bits: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// SIGKILL; healed by a start.
    Kill,
    /// SIGTERM: a planned stop, which hands leadership over; healed by a start.
    Stop,
    /// SIGSTOP; healed by SIGCONT.
    Pause,
    /// A network partition: the targets see each other, and nobody else.
    Cut,
    /// The disk stalls again and again.
    SlowDisk,
    /// No byte is left; healed by giving the space back, and a start if the member ended.
    FullDisk,
    /// What was not synced is lost, and the process with it; healed by mounting the disk and a start.
    PowerCut,
    /// The member is started with a clock that is off.
    ClockSkew,
    /// A master is killed, and started with bits of its storage inverted; healed by emptying it, and joining
    /// anew. Whatever it does meanwhile, it must name that remedy before it ends.
    BitFlip,
    /// Every write and every sync fails under the living master, which must end or fall silent; healed by its
    /// end, mounting the disk and a start.
    FailingDisk,
}

impl Fault {
    pub const ALL: [Fault; 10] = [
        Fault::Kill,
        Fault::Stop,
        Fault::Pause,
        Fault::Cut,
        Fault::SlowDisk,
        Fault::FullDisk,
        Fault::PowerCut,
        Fault::ClockSkew,
        Fault::BitFlip,
        Fault::FailingDisk,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Fault::Kill => "kill",
            Fault::Stop => "stop",
            Fault::Pause => "pause",
            Fault::Cut => "cut",
            Fault::SlowDisk => "slow-disk",
            Fault::FullDisk => "full-disk",
            Fault::PowerCut => "power-cut",
            Fault::ClockSkew => "clock-skew",
            Fault::BitFlip => "bit-flip",
            Fault::FailingDisk => "failing-disk",
        }
    }

    /// Whether the member's data must lie on a disk of its own.
    pub fn needs_disk(self) -> bool {
        matches!(self, Fault::SlowDisk | Fault::FullDisk | Fault::PowerCut | Fault::FailingDisk)
    }

    /// Whether a member may end of it by itself, also once it is over.
    pub fn harms_storage(self) -> bool {
        matches!(self, Fault::FullDisk | Fault::PowerCut | Fault::FailingDisk | Fault::BitFlip)
    }

    /// Whether nobody can reach the member while it lasts, or it can reach nobody.
    pub fn takes_away(self) -> bool {
        matches!(self, Fault::Kill | Fault::Stop | Fault::Pause | Fault::Cut | Fault::PowerCut)
    }

    /// Whether a master that meets the harm ends of it. One that does not has not met it.
    pub fn is_met_by_ending(self) -> bool {
        matches!(self, Fault::FullDisk | Fault::FailingDisk | Fault::BitFlip)
    }

    /// Whether a leader under it can no longer lead. (A full disk may go unnoticed: logs reuse their files.)
    pub fn unseats(self) -> bool {
        !matches!(self, Fault::SlowDisk | Fault::FullDisk)
    }
}

/// Who is harmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "a target is leader, follower, master, worker, masters, workers, a member's name, or \
                 {any: 2, of: masters} (followers, workers)"
)]
pub enum Target {
    /// `leader`, `follower`, `master`, `worker`, `masters`, `workers`, or a member's name.
    Word(String),
    #[serde(deserialize_with = "choice")]
    Any(Choice),
}

/// `{any: 2, of: masters}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    pub any: usize,
    pub of: Group,
}

fn choice<'a, D: serde::Deserializer<'a>>(from: D) -> Result<Choice, D::Error> {
    Choice::deserialize(from)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    Masters,
    Followers,
    Workers,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Word(word) => f.write_str(word),
            Target::Any(Choice { any, of }) => {
                let of = match of {
                    Group::Masters => "masters",
                    Group::Followers => "followers",
                    Group::Workers => "workers",
                };
                write!(f, "any {any} of {of}")
            }
        }
    }
}

/// What clients do all the while. Rates are a second, and open loop: they do not wait for answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Workload {
    /// Updates of ConfigMaps a second.
    pub writes: u32,
    /// How many ConfigMaps they are spread over.
    pub keys: u32,
    /// Bytes of each.
    pub size: u32,
    /// Of a hundred writes, those that name the revision they assume.
    pub assuming: u32,
    /// Linearizable reads of all of them a second.
    pub reads: u32,
    /// Watchers of them; at least one, as they tell the truth that all is held against.
    pub watchers: u32,
    /// Pods created a second, and deleted some seconds after they are bound.
    pub pods: u32,
    /// Replicas of a Deployment that is there all the while, and must be complete in the end.
    pub deployment: u32,
    pub through: Through,
}

impl Default for Workload {
    fn default() -> Workload {
        Workload {
            writes: 100,
            keys: 64,
            size: 128,
            assuming: 20,
            reads: 10,
            watchers: 3,
            pods: 0,
            deployment: 0,
            through: Through::Surviving,
        }
    }
}

/// Which masters clients ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Through {
    /// Those not harmed just now.
    Surviving,
    /// Any; a silent one costs the client's patience.
    Any,
}

/// Bounds, which are broken by being exceeded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// With a majority of masters whole, writes are accepted again after a fault within this.
    pub serves: Millis,
    /// After everything is healed, the cluster is whole again within this.
    pub converges: Millis,
    /// Half, and 99 in a hundred, of the times from a fault of the leader until writes are accepted.
    pub failover_p50: Option<Millis>,
    pub failover_p99: Option<Millis>,
    /// The same until a pod asked for after the fault is bound.
    pub bind_p99: Option<Millis>,
    /// Terms that begin from the start of the scenario until the cluster is whole in the end.
    pub leader_changes: Option<u64>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            serves: Millis(10_000),
            converges: Millis(60_000),
            failover_p50: None,
            failover_p99: None,
            bind_p99: None,
            leader_changes: None,
        }
    }
}

fn at_least_one<'a, D: serde::Deserializer<'a>>(from: D) -> Result<Vec<String>, D::Error> {
    let named = Vec::<String>::deserialize(from)?;
    match named.is_empty() {
        true => Err(serde::de::Error::custom("invariants: name at least one, or leave it out, and all are judged")),
        false => Ok(named),
    }
}

fn one() -> usize {
    1
}

fn rest() -> Millis {
    Millis(1_000)
}

/// Invariants besides those of `judge::CHECKS`.
pub const BOUND_ONCE: &str = "bound-once";
pub const BINDS: &str = "binds";
pub const SERVES: &str = "serves";
pub const CONVERGES: &str = "converges";
pub const STAYS_UP: &str = "stays-up";

/// Every invariant that a scenario may name.
pub fn invariants() -> Vec<&'static str> {
    let judged = judge::CHECKS.iter().map(|(name, _)| *name).filter(|name| *name != "fenced");
    judged.chain([BOUND_ONCE, BINDS, SERVES, CONVERGES, STAYS_UP]).collect()
}

impl Scenario {
    /// Errors name the field and the remedy.
    pub fn parse(text: &str) -> Result<Scenario, String> {
        let scenario: Scenario = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        crate::refusals::check(&scenario)?;
        Ok(scenario)
    }

    pub fn judges(&self, invariant: &str) -> bool {
        self.invariants.is_empty() || self.names(invariant)
    }

    /// Whether the workload has what this invariant is judged by.
    pub(crate) fn has_grounds(&self, invariant: &str) -> bool {
        let work = &self.workload;
        match invariant {
            SERVES => work.writes > 0,
            BOUND_ONCE => work.pods + work.deployment > 0,
            BINDS => work.pods > 0,
            _ => true,
        }
    }

    /// Whether it asks for this invariant by its name.
    pub fn names(&self, invariant: &str) -> bool {
        self.invariants.iter().any(|name| name == invariant)
    }
}
