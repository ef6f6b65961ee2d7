//! What a scenario must not say: each refusal names the field and the remedy.

use crate::scenario::{BINDS, BOUND_ONCE, Choice, Fault, Group, Rule, SERVES, Scenario, Target, Workload, invariants};
use crate::span::{Millis, Pace};

/// A client waits for its answers in so many places at most; beyond, the open loop is closed.
const RATE_MAX: u32 = 5_000;
/// Every read lists all keys, and every watcher is shown them all.
const KEYS_MAX: u32 = 10_000;
/// Bytes; an object may have 1 MiB with all it says of itself.
const SIZE_MAX: u32 = 262_144;
/// Writes that are begun within `limits.serves`, at least: it is one of them that tells of service.
const WRITES_WITHIN_MIN: u64 = 4;
const WATCHERS_MAX: u32 = 100;
const DEPLOYMENT_MAX: u32 = 1_000;
const BITS_MAX: u32 = 1_000_000;
/// Bytes of all keys together: each read and each list shows them all.
const SHOWN_MAX: u64 = 64 << 20;
/// Ten years.
const SECONDS_MAX: u64 = 315_360_000;
const MASTERS_MAX: usize = 7;
const WORKERS_MAX: usize = 100;

pub(crate) fn check(scenario: &Scenario) -> Result<(), String> {
    let spec = &scenario.cluster;
    if spec.masters == 0 || spec.masters > MASTERS_MAX {
        return Err(format!("cluster.masters: {} is not in 1..={MASTERS_MAX}", spec.masters));
    }
    if spec.workers > WORKERS_MAX {
        return Err(format!("cluster.workers: {} is more than {WORKERS_MAX}", spec.workers));
    }
    if scenario.duration.0 == 0 {
        return Err("duration: a run of no length finds nothing".into());
    }
    if scenario.faults.is_empty() {
        return Err("faults: name at least one".into());
    }
    if scenario.together == 0 {
        return Err("together: at least 1 fault must be allowed at once".into());
    }
    let together_max = MASTERS_MAX + WORKERS_MAX;
    if scenario.together > together_max {
        return Err(format!("together: {} is more than {together_max}, all members there can be", scenario.together));
    }
    check_workload(&scenario.workload)?;
    let n_pods = scenario.workload.pods + scenario.workload.deployment;
    if n_pods > 0 && spec.workers == 0 {
        return Err("workload: pods need cluster.workers".into());
    }
    if n_pods > 0 && spec.workers == 1 && scenario.judges(BOUND_ONCE) {
        return Err(format!(
            "cluster.workers: where there is one, no pod can be bound twice, which {BOUND_ONCE} judges; have 2 at least, \
             or name `invariants` without it"
        ));
    }
    check_invariants(scenario)?;
    let (serves, writes) = (scenario.limits.serves, scenario.workload.writes);
    if scenario.judges(SERVES) && writes > 0 && serves.0 * u64::from(writes) < WRITES_WITHIN_MIN * 1_000 {
        return Err(format!(
            "limits.serves: within {serves} hardly one of {writes} writes a second is begun; allow {} at least",
            Millis((WRITES_WITHIN_MIN * 1_000).div_ceil(u64::from(writes)))
        ));
    }
    check_limits(scenario)?;
    let paced = scenario.faults.iter().filter(|rule| rule.every == Pace::Recovered).count();
    if paced != 0 && paced != scenario.faults.len() {
        return Err("faults: `every: recovered` must be said of all of them or of none".into());
    }
    scenario.faults.iter().enumerate().try_for_each(|(i, rule)| check_rule(scenario, i, rule))
}

fn check_workload(work: &Workload) -> Result<(), String> {
    let bounds = [
        ("writes", work.writes, RATE_MAX),
        ("reads", work.reads, RATE_MAX),
        ("pods", work.pods, RATE_MAX),
        ("keys", work.keys, KEYS_MAX),
        ("size", work.size, SIZE_MAX),
        ("watchers", work.watchers, WATCHERS_MAX),
        ("deployment", work.deployment, DEPLOYMENT_MAX),
        ("assuming", work.assuming, 100),
    ];
    if let Some((field, value, max)) = bounds.iter().find(|(_, value, max)| value > max) {
        return Err(format!("workload.{field}: {value} is more than {max}"));
    }
    let shown = u64::from(work.keys) * u64::from(work.size);
    if shown > SHOWN_MAX {
        return Err(format!(
            "workload.keys: {} of {} bytes are {} MiB, and every read shows them all: no more than {}",
            work.keys,
            work.size,
            shown >> 20,
            SHOWN_MAX >> 20
        ));
    }
    if work.writes + work.reads + work.pods + work.deployment == 0 {
        return Err("workload: nothing is asked of the cluster; name writes, reads, pods or deployment".into());
    }
    if work.keys == 0 {
        return Err("workload.keys: at least 1 is needed: a write after all others ends the history".into());
    }
    if work.watchers == 0 {
        return Err("workload.watchers: at least 1 is needed: what it is shown is the truth".into());
    }
    Ok(())
}

fn check_invariants(scenario: &Scenario) -> Result<(), String> {
    let known = invariants();
    let lacks = |name: &str| scenario.names(name) && !scenario.has_grounds(name);
    if let Some(name) = scenario.invariants.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(format!("invariants: {name:?} is not known; use {}", known.join(", ")));
    }
    if lacks(SERVES) {
        return Err(format!("invariants: {SERVES} is judged by writes; see workload.writes"));
    }
    if lacks(BOUND_ONCE) {
        return Err(format!("invariants: {BOUND_ONCE} is judged by pods; see workload.pods"));
    }
    if lacks(BINDS) {
        return Err(format!("invariants: {BINDS} is judged by pods made one by one; see workload.pods"));
    }
    Ok(())
}

/// Whether a fault of this rule may take the leader away.
fn may_unseat(rule: &Rule) -> bool {
    let spares = match &rule.target {
        Target::Word(word) => ["follower", "worker", "workers"].contains(&word.as_str()),
        Target::Any(Choice { of, .. }) => *of != Group::Masters,
    };
    rule.fault.unseats() && !spares
}

/// Limits of what would never be measured.
fn check_limits(scenario: &Scenario) -> Result<(), String> {
    let (limits, work) = (&scenario.limits, &scenario.workload);
    let has_failovers = scenario.faults.iter().any(may_unseat);
    let named = [
        ("failoverP50", limits.failover_p50, work.writes, "writes"),
        ("failoverP99", limits.failover_p99, work.writes, "writes"),
        ("bindP99", limits.bind_p99, work.pods, "pods"),
    ];
    for (name, _, rate, field) in named.iter().filter(|(_, limit, ..)| limit.is_some()) {
        if *rate == 0 {
            return Err(format!("limits.{name}: is judged by {field}; see workload.{field}"));
        }
        if !has_failovers {
            return Err(format!("limits.{name}: no fault takes a leader away; name one in faults, or leave it out"));
        }
    }
    Ok(())
}

fn check_rule(scenario: &Scenario, i: usize, rule: &Rule) -> Result<(), String> {
    check_target(scenario, i, &rule.target)?;
    if rule.every == Pace::Between(0, 0) {
        return Err(format!("faults[{i}].every: 0s would never end"));
    }
    if rule.times == Some(0) {
        return Err(format!("faults[{i}].times: 0 is never; leave the rule out"));
    }
    if rule.first.is_some() && rule.every == Pace::Recovered {
        return Err(format!("faults[{i}].first: with `every: recovered` no fault comes by the clock; leave it out"));
    }
    if rule.lasts == Pace::Recovered && !rule.fault.unseats() {
        return Err(format!("faults[{i}].for: {} unseats no leader; say how long", rule.fault.name()));
    }
    if rule.lasts == Pace::Recovered && scenario.workload.writes == 0 {
        return Err(format!("faults[{i}].for: without workload.writes nobody sees a recovery; say how long"));
    }
    if (rule.fault == Fault::SlowDisk) != rule.stall.is_some() {
        return Err(format!("faults[{i}].stall: a slow-disk, and nothing else, says how long a stall is"));
    }
    if let (Some(stall), Pace::Between(shortest, _)) = (rule.stall, rule.lasts)
        && (stall.0 == 0 || stall.0 > shortest)
    {
        let shortest = Millis(shortest);
        return Err(format!("faults[{i}].stall: a stall of {stall} is not in 1ms..{shortest}, the shortest `for`"));
    }
    if (rule.fault == Fault::ClockSkew) != rule.seconds.is_some() {
        return Err(format!("faults[{i}].seconds: a clock-skew, and nothing else, says by how many"));
    }
    if rule.seconds.is_some_and(|seconds| seconds == 0 || seconds.unsigned_abs() > SECONDS_MAX) {
        return Err(format!("faults[{i}].seconds: not 0, and at most ten years ({SECONDS_MAX}), either way"));
    }
    if (rule.fault == Fault::BitFlip) != rule.bits.is_some_and(|bits| bits > 0) {
        return Err(format!("faults[{i}].bits: a bit-flip, and nothing else, says how many, at least 1"));
    }
    if rule.bits.is_some_and(|bits| bits > BITS_MAX) {
        return Err(format!("faults[{i}].bits: more than {BITS_MAX}"));
    }
    if rule.fault == Fault::BitFlip { check_bit_flip(scenario, i, &rule.target) } else { Ok(()) }
}

/// A master that is damaged joins anew, with what the others hold: a majority of them must be whole.
fn check_bit_flip(scenario: &Scenario, i: usize, target: &Target) -> Result<(), String> {
    let is_one_master =
        matches!(target, Target::Word(word) if !["masters", "worker", "workers"].contains(&word.as_str()));
    if !is_one_master {
        return Err(format!(
            "faults[{i}].target: a bit-flip takes one master: those that are damaged at once are lost"
        ));
    }
    if scenario.cluster.masters < 3 {
        return Err(format!("faults[{i}]: a bit-flip needs 3 masters, as one joins anew; see cluster.masters"));
    }
    if scenario.together > 1 {
        return Err(format!("faults[{i}]: beside a bit-flip no other fault may go on; leave `together` at 1"));
    }
    Ok(())
}

fn check_target(scenario: &Scenario, i: usize, target: &Target) -> Result<(), String> {
    let (masters, workers) = (scenario.cluster.masters, scenario.cluster.workers);
    match target {
        Target::Word(word) if ["leader", "master", "masters"].contains(&word.as_str()) => {}
        Target::Word(word) if word == "follower" => {
            if masters < 2 {
                return Err(format!("faults[{i}].target: a group of {masters} has no follower"));
            }
        }
        Target::Word(word) if ["worker", "workers"].contains(&word.as_str()) => {
            if workers == 0 {
                return Err(format!("faults[{i}].target: there are no workers; see cluster.workers"));
            }
        }
        // A member's name, as `schedule::check_names` finds out.
        Target::Word(_) => {}
        Target::Any(Choice { any, of }) => {
            let there = match of {
                Group::Masters => masters,
                Group::Followers => masters.saturating_sub(1),
                Group::Workers => workers,
            };
            if *any == 0 || *any > there {
                return Err(format!(
                    "faults[{i}].target.any: {any} of {there}; at least 1, and no more than there are"
                ));
            }
        }
    }
    Ok(())
}
