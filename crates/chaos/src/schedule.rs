//! The schedule of faults: fixed by the scenario, the seed and the members' names, before anything starts.

use crate::scenario::{Choice, Fault, Group, Rule, Scenario, Target};
use crate::span::Pace;
use serde::{Deserialize, Serialize};
use stdx::Rng;

/// Faults planned at most; at one a second, half a day.
pub const PLANNED_MAX: usize = 50_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// Milliseconds into the run.
    At(u64),
    Recovered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// Milliseconds after its start.
    After(u64),
    Recovered,
}

/// One fault to come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Planned {
    pub n: usize,
    pub fault: Fault,
    pub target: Target,
    /// Chooses among the candidates, when they are known.
    pub draw: u64,
    pub start: Start,
    pub end: End,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<u32>,
}

/// The same scenario and seed give the same schedule.
pub fn plan(scenario: &Scenario, seed: u64) -> Vec<Planned> {
    let mut rng = Rng::new(seed);
    let mut planned = match scenario.faults[0].every {
        Pace::Recovered => paced_by_recovery(scenario, &mut rng),
        Pace::Between(..) => by_the_clock(scenario, &mut rng),
    };
    planned.iter_mut().enumerate().for_each(|(i, fault)| fault.n = i + 1);
    planned
}

fn planned(rule: &Rule, start: Start, rng: &mut Rng) -> Planned {
    let end = rule.lasts.draw(rng).map_or(End::Recovered, End::After);
    Planned {
        n: 0,
        fault: rule.fault,
        target: rule.target.clone(),
        draw: rng.next_u64(),
        start,
        end,
        stall_ms: rule.stall.map(|stall| stall.0),
        seconds: rule.seconds,
        bits: rule.bits,
    }
}

/// One after the other, in an order drawn from the seed, until the rules are used up or time is.
fn paced_by_recovery(scenario: &Scenario, rng: &mut Rng) -> Vec<Planned> {
    let mut left: Vec<(&Rule, u32)> =
        scenario.faults.iter().map(|rule| (rule, rule.times.unwrap_or(u32::MAX))).collect();
    let mut all = Vec::new();
    while !left.is_empty() && all.len() < PLANNED_MAX {
        let i = rng.below(left.len() as u64) as usize;
        all.push(planned(left[i].0, Start::Recovered, rng));
        left[i].1 -= 1;
        left.retain(|(_, times)| *times > 0);
    }
    all
}

fn by_the_clock(scenario: &Scenario, rng: &mut Rng) -> Vec<Planned> {
    let mut all: Vec<(u64, Planned)> = Vec::new();
    for rule in &scenario.faults {
        // Its own generator: a rule more does not change the times of those before it.
        let mut rng = Rng::new(rng.next_u64());
        let mut at = rule.first.map_or_else(|| rule.every.draw(&mut rng).unwrap_or(0), |first| first.0);
        let mut times = 0;
        while at < scenario.duration.0 && rule.times.is_none_or(|max| times < max) && all.len() < PLANNED_MAX {
            all.push((at, planned(rule, Start::At(at), &mut rng)));
            at += rule.every.draw(&mut rng).unwrap_or(0).max(1);
            times += 1;
        }
    }
    all.sort_by_key(|(at, _)| *at);
    apart(all, scenario)
}

/// Puts off what would be one fault too many; what would then come too late is left out.
fn apart(all: Vec<(u64, Planned)>, scenario: &Scenario) -> Vec<Planned> {
    let mut kept: Vec<Planned> = Vec::new();
    // When each place for a fault is free again.
    let mut free = vec![0; scenario.together];
    for (wanted, mut fault) in all {
        let Some(place) = free.iter_mut().min() else { break };
        let at = wanted.max(*place);
        if at >= scenario.duration.0 {
            continue;
        }
        let lasts = match fault.end {
            End::After(ms) => ms,
            End::Recovered => scenario.limits.serves.0,
        };
        *place = at + lasts + scenario.rest.0;
        fault.start = Start::At(at);
        kept.push(fault);
    }
    kept.sort_by_key(|fault| match fault.start {
        Start::At(at) => at,
        Start::Recovered => 0,
    });
    kept
}

/// Whom a fault hits, now that the leader is known. Errors say what is missing.
pub fn resolve(
    fault: &Planned,
    masters: &[String],
    workers: &[String],
    leader: Option<&str>,
) -> Result<Vec<String>, String> {
    let followers = || -> Result<Vec<String>, String> {
        let leader = leader.ok_or("there is no leader, and so no follower")?;
        Ok(masters.iter().filter(|name| *name != leader).cloned().collect())
    };
    let mut rng = Rng::new(fault.draw);
    let mut pick = |mut from: Vec<String>, k: usize| -> Result<Vec<String>, String> {
        if from.len() < k {
            return Err(format!("{k} of {} cannot be chosen", from.len()));
        }
        let mut chosen: Vec<String> = (0..k).map(|_| from.remove(rng.below(from.len() as u64) as usize)).collect();
        chosen.sort();
        Ok(chosen)
    };
    match &fault.target {
        Target::Word(word) => match word.as_str() {
            "leader" => Ok(vec![leader.ok_or("there is no leader")?.to_string()]),
            "follower" => pick(followers()?, 1),
            "master" => pick(masters.to_vec(), 1),
            "worker" => pick(workers.to_vec(), 1),
            "masters" => Ok(masters.to_vec()),
            "workers" => Ok(workers.to_vec()),
            name if masters.iter().chain(workers).any(|member| member == name) => Ok(vec![name.to_string()]),
            name => Err(format!("no member is named {name:?}")),
        },
        Target::Any(Choice { any, of: Group::Masters }) => pick(masters.to_vec(), *any),
        Target::Any(Choice { any, of: Group::Followers }) => pick(followers()?, *any),
        Target::Any(Choice { any, of: Group::Workers }) => pick(workers.to_vec(), *any),
    }
}
