//! Carries a schedule out: waits for each fault's time, harms, waits, heals, and takes all of it down.

use super::target::{Harm, Target};
use super::watchers::damaged_state;
use super::world::World;
use chaos::lines::FaultLine;
use chaos::schedule::resolve;
use chaos::{End, Fault, Planned, Start};
use protos::cluster::StatusResponse;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// A group with a majority elects within this, or something is wrong.
const ELECTION_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
/// Who is taken away is seen to be gone within this: several times what a follower takes to know that it hears nobody.
const FELT_MAX: Duration = Duration::from_secs(5);

pub(super) struct Faults {
    pub(super) world: Arc<World>,
    pub(super) target: Arc<Target>,
    /// True once the run is to end early.
    pub(super) stop: watch::Receiver<bool>,
}

impl Faults {
    /// Returns when every fault is over and healed, also when told to stop.
    pub(super) async fn carry_out(self: Arc<Self>, planned: Vec<Planned>) {
        let together = Arc::new(Semaphore::new(self.world.scenario.together));
        let mut under_way = JoinSet::new();
        for fault in planned {
            // One that must wait for another's end waits longer than planned when that one does.
            let Ok(place) = together.clone().acquire_owned().await else { break };
            if !self.its_time_comes(&fault).await {
                break;
            }
            let faults = self.clone();
            under_way.spawn(async move {
                faults.one(fault).await;
                drop(place);
            });
            while under_way.try_join_next().is_some() {}
        }
        while under_way.join_next().await.is_some() {}
    }

    /// Waits for a fault's start; false when the run is over before.
    async fn its_time_comes(&self, fault: &Planned) -> bool {
        let recorder = &self.world.recorder;
        let over = sleep_until(recorder.at(self.world.scenario.duration.0).into());
        let mut stop = self.stop.clone();
        let comes = async {
            match fault.start {
                Start::At(ms) => sleep_until(recorder.at(ms).into()).await,
                Start::Recovered => self.recovered().await,
            }
        };
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => false,
            () = over => false,
            () = comes => true,
        }
    }

    /// Waits until the cluster is whole; what it is not in time is judged in the end.
    async fn recovered(&self) {
        let patience = Duration::from_millis(self.world.scenario.limits.converges.0);
        if let Err(missing) = self.world.until_whole(patience).await {
            tracing::warn!(missing, "the cluster does not become whole between two faults");
        }
    }

    async fn one(&self, planned: Planned) {
        let world = &self.world;
        let mut line = FaultLine {
            planned: planned.clone(),
            members: Vec::new(),
            leader: None,
            majority: true,
            begun_us: 0,
            held_us: 0,
            ended_us: 0,
            healed_us: 0,
            ended: None,
            error: None,
        };
        match self.choose(&planned).await {
            Ok(Some((leader, members))) => (line.leader, line.members) = (leader, members),
            // The run ends: it is not to come any more.
            Ok(None) => return,
            Err(why) => line.error = Some(why),
        }
        if line.error.is_none() {
            if planned.fault.harms_storage() {
                world.storage_is_harmed(&line.members);
            }
            line.majority = world.n_whole() > world.masters.len() / 2;
            world.recorder.stands(&line, self.target.remedies(planned.fault, &line.members));
            line.begun_us = world.recorder.now_us();
            eprintln!("{}", story(&line));
            match self.harm(&planned, &line.members).await {
                Ok(harm) => {
                    line.held_us = world.recorder.now_us();
                    let ((), felt) = tokio::join!(self.lasts(&line), self.felt(&line));
                    line.ended_us = world.recorder.now_us();
                    if planned.fault == Fault::BitFlip {
                        futures::future::join_all(line.members.iter().map(|name| damaged_state(world, name))).await;
                    }
                    if planned.fault.is_met_by_ending() {
                        line.ended = self.target.ended(&line.members);
                    }
                    let healed = match self.heal(harm).await {
                        Ok(()) => self.back(&line).await,
                        failed => failed,
                    };
                    line.error = healed.err().or(felt.err());
                }
                Err(why) => line.error = Some(why),
            }
            line.healed_us = world.recorder.now_us();
            if line.error.is_some() {
                world.went_wrong(&line.members);
            }
            world.mark(&line.members, false);
        }
        if let Some(error) = &line.error {
            eprintln!("fault {} went wrong: {error}", planned.n);
        }
        world.recorder.fault(&line);
    }

    /// The leader, and whom the fault hits: nobody who is harmed already. They are marked. `None` once the run is to
    /// end. Whoever is emptied joins anew with what the others hold: for that all of them must be whole.
    async fn choose(&self, fault: &Planned) -> Result<Option<(Option<String>, Vec<String>)>, String> {
        let world = &self.world;
        let empties = fault.fault == Fault::BitFlip;
        let patience = match empties {
            true => ELECTION_MAX.max(Duration::from_millis(world.scenario.limits.converges.0)),
            false => ELECTION_MAX,
        };
        let deadline = Instant::now() + patience;
        loop {
            let leader = world.leader().await;
            let missing = if empties { world.missing().await } else { None };
            let choosing = world.choosing.lock().await;
            if *self.stop.borrow() {
                return Ok(None);
            }
            self.start_ended().await?;
            let is_whole = |name: &String| !world.is_harmed(name);
            let resolved = resolve(fault, &world.names(), &world.workers, leader.as_deref(), is_whole);
            let why_not = match (resolved, missing) {
                (Ok(members), None) => {
                    world.mark(&members, true);
                    return Ok(Some((leader, members)));
                }
                (_, Some(missing)) => missing,
                (Err(why), None) => why,
            };
            drop(choosing);
            if Instant::now() > deadline {
                return Err(format!(
                    "nobody to harm: {} was not to be had for {} s: {why_not}",
                    fault.target,
                    patience.as_secs()
                ));
            }
            sleep(POLL).await;
        }
    }

    /// Starts whoever has ended though no fault harms him; that he has is for the verdict.
    pub(super) async fn start_ended(&self) -> Result<(), String> {
        let (target, world) = (self.target.clone(), self.world.clone());
        let start = move || {
            let may_end = |name: &str| world.may_end_of_storage(name);
            target.start_ended(&world.whole(), may_end, |name, why| world.ended_by_itself(name, why))
        };
        let started = tokio::task::spawn_blocking(start).await;
        started.map_err(|error| error.to_string())?.map_err(|error| format!("{error:#}"))
    }

    async fn harm(&self, fault: &Planned, members: &[String]) -> Result<Harm, String> {
        let (target, fault, members) = (self.target.clone(), fault.clone(), members.to_vec());
        let harmed = tokio::task::spawn_blocking(move || target.harm(&fault, &members)).await;
        harmed.map_err(|error| error.to_string())?.map_err(|error| format!("{error:#}"))
    }

    async fn heal(&self, harm: Harm) -> Result<(), String> {
        let (target, world) = (self.target.clone(), self.world.clone());
        let end = move || target.end(harm, |name, why| world.ended_by_itself(name, why));
        let healed = tokio::task::spawn_blocking(end).await;
        healed.map_err(|error| error.to_string())?.map_err(|error| format!("not healed: {error:#}"))
    }

    /// Waits until each master that an operator's command was to take away is seen to be gone: a command that does nothing
    /// succeeds as well. One that is cut off from its peers alone answers, and knows of no leader, or of another.
    async fn felt(&self, line: &FaultLine) -> Result<(), String> {
        let is_gone = |status: Option<StatusResponse>| {
            let leader = status.map(|status| status.leader).filter(|leader| !leader.is_empty());
            leader.is_none() || line.leader.is_some() && leader != line.leader
        };
        let never = self.seen(line, FELT_MAX, is_gone).await;
        never.map_err(|names| format!("{names} went on as before for {}", what_of_it(line, FELT_MAX)))
    }

    /// And until each answers again that another was to give back, or the next fault would take one more.
    async fn back(&self, line: &FaultLine) -> Result<(), String> {
        let patience = Duration::from_millis(self.world.scenario.limits.converges.0);
        let never = self.seen(line, patience, |status| status.is_some()).await;
        never.map_err(|names| format!("not healed: {names} did not answer for {}", what_of_it(line, patience)))
    }

    /// Waits until this has been so of each master that a fault takes away by an operator's command; the names of those
    /// of whom it has not. A development cluster's are ended and started by this process itself, which knows.
    async fn seen(
        &self,
        line: &FaultLine,
        patience: Duration,
        is_so: impl Fn(Option<StatusResponse>) -> bool,
    ) -> Result<(), String> {
        if !line.planned.fault.takes_away() || self.target.sees_for_itself() {
            return Ok(());
        }
        let world = &self.world;
        let mut left: BTreeSet<&String> = line.members.iter().filter(|name| !world.workers.contains(name)).collect();
        let look = async {
            while !left.is_empty() {
                for (master, status) in world.masters.iter().zip(world.statuses().await) {
                    if is_so(status) {
                        left.remove(&master.name);
                    }
                }
                sleep(POLL).await;
            }
        };
        if timeout(patience, look).await.is_ok() {
            return Ok(());
        }
        Err(left.into_iter().map(String::as_str).collect::<Vec<_>>().join(", "))
    }

    /// Waits until the harm has lasted as long as planned, or the run ends.
    async fn lasts(&self, line: &FaultLine) {
        let world = &self.world;
        let mut stop = self.stop.clone();
        let lasts = async {
            match line.planned.end {
                End::After(ms) => sleep(Duration::from_millis(ms)).await,
                End::Recovered => {
                    let serves = async {
                        world.written.since(line.held_us).await;
                        if world.scenario.workload.pods > 0 {
                            world.bound.since(line.held_us).await;
                        }
                    };
                    // A limit that is exceeded is for the verdict to tell.
                    drop(timeout(Duration::from_millis(world.scenario.limits.serves.0), serves).await);
                }
            }
        };
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => {}
            () = lasts => {}
        }
    }
}

fn what_of_it(line: &FaultLine, patience: Duration) -> String {
    let (seconds, fault) = (patience.as_secs(), line.planned.fault.name());
    format!("{seconds} s: do the commands of {fault:?} do what they are for?")
}

fn story(line: &FaultLine) -> String {
    let fault = line.planned.fault.name();
    let was = line.leader.as_ref().filter(|leader| line.members.contains(leader));
    let was = was.map(|leader| format!(" ({leader} leads)")).unwrap_or_default();
    let seconds = line.begun_us as f64 / 1e6;
    format!("{seconds:>8.1} s  fault {}: {fault} {}{was}", line.planned.n, line.members.join(", "))
}
