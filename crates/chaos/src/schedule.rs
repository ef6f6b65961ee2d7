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
    /// Which of the scenario's rules it is of, from 0 on.
    pub rule: usize,
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

fn planned(i: usize, rule: &Rule, start: Start, rng: &mut Rng) -> Planned {
    let end = rule.lasts.draw(rng).map_or(End::Recovered, End::After);
    Planned {
        n: 0,
        rule: i,
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
    let rules = scenario.faults.iter().enumerate();
    let mut left: Vec<(usize, &Rule, u32)> =
        rules.map(|(i, rule)| (i, rule, rule.times.unwrap_or(u32::MAX))).filter(|(.., times)| *times > 0).collect();
    let mut all = Vec::new();
    while !left.is_empty() && all.len() < PLANNED_MAX {
        let drawn = rng.below(left.len() as u64) as usize;
        let (i, rule, times) = &mut left[drawn];
        all.push(planned(*i, rule, Start::Recovered, rng));
        *times -= 1;
        left.retain(|(.., times)| *times > 0);
    }
    all
}

fn by_the_clock(scenario: &Scenario, rng: &mut Rng) -> Vec<Planned> {
    let mut all: Vec<(u64, Planned)> = Vec::new();
    for (i, rule) in scenario.faults.iter().enumerate() {
        // Its own generator: a rule more does not change the times of those before it.
        let mut rng = Rng::new(rng.next_u64());
        let mut at = rule.first.map_or_else(|| rule.every.draw(&mut rng).unwrap_or(0), |first| first.0);
        let mut times = 0;
        while at < scenario.duration.0 && rule.times.is_none_or(|max| times < max) && all.len() < PLANNED_MAX {
            all.push((at, planned(i, rule, Start::At(at), &mut rng)));
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

/// A sentence for each rule of which no fault comes in time; an error when none comes of any.
pub fn never_come(scenario: &Scenario, planned: &[Planned]) -> Result<Vec<String>, String> {
    let duration = scenario.duration;
    if planned.is_empty() {
        return Err(format!("duration: no fault comes within {duration}; make it longer, or say `first` of a rule"));
    }
    let rules = scenario.faults.iter().enumerate();
    let never = rules.filter(|(i, _)| planned.iter().all(|fault| fault.rule != *i));
    let told = never.map(|(i, rule)| {
        format!("faults[{i}] ({} of {}): does not come within {duration}", rule.fault.name(), rule.target)
    });
    Ok(told.collect())
}

/// Refuses rules that name who is no member, or a worker where only a master has what is damaged.
pub fn check_names(scenario: &Scenario, masters: &[String], workers: &[String]) -> Result<(), String> {
    let words = ["leader", "follower", "master", "worker", "masters", "workers"];
    for (i, rule) in scenario.faults.iter().enumerate() {
        let Target::Word(name) = &rule.target else { continue };
        if words.contains(&name.as_str()) || masters.contains(name) {
            continue;
        }
        if !workers.contains(name) {
            let members = [masters, workers].concat().join(", ");
            return Err(format!(
                "faults[{i}].target: no member is named {name:?}; the members are {members}; or use {}, or \
                 {{any: 2, of: masters}} (followers, workers)",
                words.join(", ")
            ));
        }
        if rule.fault == Fault::BitFlip {
            let masters = masters.join(", ");
            return Err(format!("faults[{i}].target: {name} is a worker, and a bit-flip takes a master: {masters}"));
        }
    }
    Ok(())
}

/// Whom a fault hits, now that the leader is known, of those who are whole. While all are, the draw alone tells of whom.
/// Errors say what is missing.
pub fn resolve(
    fault: &Planned,
    masters: &[String],
    workers: &[String],
    leader: Option<&str>,
    is_whole: impl Fn(&String) -> bool,
) -> Result<Vec<String>, String> {
    let followers = || -> Result<Vec<String>, String> {
        let leader = leader.ok_or("there is no leader, and so no follower")?;
        Ok(masters.iter().filter(|name| *name != leader).cloned().collect())
    };
    let all = |names: Vec<String>| match names.iter().find(|name| !is_whole(name)) {
        None => Ok(names),
        Some(name) => Err(format!("{name} is harmed already")),
    };
    let mut rng = Rng::new(fault.draw);
    let mut pick = |mut from: Vec<String>, k: usize| -> Result<Vec<String>, String> {
        let there = from.len();
        from.retain(&is_whole);
        if from.len() < k {
            return Err(format!("{k} cannot be chosen, as {} of {there} are whole", from.len()));
        }
        let mut chosen: Vec<String> = (0..k).map(|_| from.remove(rng.below(from.len() as u64) as usize)).collect();
        chosen.sort();
        Ok(chosen)
    };
    match &fault.target {
        Target::Word(word) => match word.as_str() {
            "leader" => all(vec![leader.ok_or("there is no leader")?.to_string()]),
            "follower" => pick(followers()?, 1),
            "master" => pick(masters.to_vec(), 1),
            "worker" => pick(workers.to_vec(), 1),
            "masters" => all(masters.to_vec()),
            "workers" => all(workers.to_vec()),
            name if masters.iter().chain(workers).any(|member| member == name) => all(vec![name.to_string()]),
            name => Err(format!("no member is named {name:?}")),
        },
        Target::Any(Choice { any, of: Group::Masters }) => pick(masters.to_vec(), *any),
        Target::Any(Choice { any, of: Group::Followers }) => pick(followers()?, *any),
        Target::Any(Choice { any, of: Group::Workers }) => pick(workers.to_vec(), *any),
    }
}
