//! A worker's brain: what a pod should be, what was observed of it, and the time; out come actions,
//! the status to report and when to look again.
//!
//! Pure. The states and who may move what stand in docs/design/pod-life.md.

mod admission;
mod hooks;
mod images;
mod probes;
mod status;
#[cfg(test)]
mod tests;

pub use admission::{Node, Rejection, admit, holds_its_place, is_admitted, seal};
pub use hooks::{HookKind, hook, hooked};
pub use images::{Collection, Disk, ImageMemory, StoredImage, Thresholds, collect};
pub use probes::{Answer, ProbeKind, ProbeState, answered};
pub use status::MESSAGE_MAX;

use objects::{Quantity, Timestamp, Value, ValueExt};
use std::collections::BTreeMap;
use stdx::Backoff;

/// Kubernetes' restart and pull back-off: 10 s doubling to 5 min, forgiven after 10 min of running.
pub const BACKOFF: Backoff = Backoff::new(10_000, 300_000);
const FORGIVEN_AFTER_MS: i64 = 600_000;

/// One attempt at a container, as the runtime tells of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    pub name: String,
    pub attempt: u32,
    pub id: String,
    pub image: String,
    /// What the image's name stood for: a digest. Empty where a name is all an image is.
    pub image_id: String,
    pub state: State,
}

#[derive(Clone, Debug, PartialEq)]
pub enum State {
    Created,
    Running {
        started: Timestamp,
    },
    Exited {
        started: Timestamp,
        finished: Timestamp,
        code: i32,
        reason: String,
        /// Its last words, or why it could not be started; empty when there are none.
        message: String,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Sandbox {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
    pub ips: Vec<String>,
}

/// What the runtime has of one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    /// The newest sandbox.
    pub sandbox: Option<Sandbox>,
    /// Every attempt still known, in any order.
    pub containers: Vec<Observed>,
}

impl World {
    /// The newest attempt at a container.
    pub fn latest(&self, name: &str) -> Option<&Observed> {
        self.containers.iter().filter(|c| c.name == name).max_by_key(|c| c.attempt)
    }

    fn previous(&self, name: &str, attempt: u32) -> Option<&Observed> {
        self.containers.iter().filter(|c| c.name == name && c.attempt < attempt).max_by_key(|c| c.attempt)
    }
}

/// Why a container could not be started; kept until the next try.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// `ErrImagePull`, `CreateContainerConfigError`, `RunContainerError`, …
    pub reason: String,
    pub message: String,
    pub n_failures: u32,
    pub at: Timestamp,
}

/// What the brain remembers of a pod between steps. Lost at a restart of the worker, and rebuilt.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// By container name.
    pub failures: BTreeMap<String, Failure>,
    /// By container id and kind.
    pub probes: BTreeMap<(String, ProbeKind), ProbeState>,
    /// By container name: attempts up to here are forgiven.
    forgiven: BTreeMap<String, u32>,
    /// By container id and kind.
    hooks: BTreeMap<(String, HookKind), hooks::HookState>,
    /// Containers that are being let go of, by id: until when they have time.
    ending: BTreeMap<String, Timestamp>,
    started: Option<Timestamp>,
    /// Why the pod must end, when it took more than it was given.
    evicted: Option<String>,
    /// By container name: what people were told last of its being backed off, and which time it was.
    told_back_off: BTreeMap<String, (String, u32)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    StartSandbox {
        attempt: u32,
    },
    /// Ends the sandbox and everything in it, and forgets its containers.
    RemoveSandbox {
        id: String,
    },
    /// Frees what a finished pod holds, keeping its containers for their logs.
    StopSandbox {
        id: String,
    },
    /// Gets the image as the pull policy says, then creates and starts the container.
    StartContainer {
        name: String,
        attempt: u32,
    },
    StopContainer {
        id: String,
        name: String,
        grace_s: i64,
    },
    RemoveContainer {
        id: String,
    },
    Probe {
        container: String,
        id: String,
        kind: ProbeKind,
    },
    /// Runs a lifecycle hook beside the pod's life, for at most so many seconds.
    Hook {
        container: String,
        id: String,
        kind: HookKind,
        within_s: i64,
    },
}

/// Something to tell people: an Event's type, reason and message, and the container it is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    pub ty: &'static str,
    pub reason: &'static str,
    pub message: String,
    pub container: String,
}

#[derive(Clone, Debug, Default)]
pub struct Step {
    pub actions: Vec<Action>,
    /// The whole PodStatus.
    pub status: Value,
    /// Every process has ended and everything is removed: the pod may go.
    pub stopped: bool,
    pub wake: Option<Timestamp>,
    pub notes: Vec<Note>,
}

impl Step {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |sooner| sooner.min(at)));
    }
}

/// The containers of a pod, each with whether it is an init container.
fn containers(pod: &Value) -> impl Iterator<Item = (&Value, bool)> {
    let inits = pod.items("spec.initContainers").iter().map(|container| (container, true));
    inits.chain(pod.items("spec.containers").iter().map(|container| (container, false)))
}

/// Decides. `pod` is as assigned; `removed` when the cluster no longer knows it.
pub fn step(pod: &Value, removed: bool, world: &World, memory: &mut Memory, now: Timestamp, host_ip: &str) -> Step {
    let mut step = Step::default();
    memory.started.get_or_insert_with(|| Timestamp::parse(pod.text("status.startTime")).unwrap_or(now));
    // Of attempts that are gone nothing is remembered.
    let known = |id: &String| world.containers.iter().any(|container| container.id == *id);
    memory.probes.retain(|(id, _), _| known(id));
    memory.hooks.retain(|(id, _), _| known(id));
    memory.ending.retain(|id, _| known(id));
    let deleting = removed || !pod.at("metadata.deletionTimestamp").is_null();
    let phase_was = pod.text("status.phase");
    let terminal = ["Succeeded", "Failed"].contains(&phase_was);
    if deleting {
        stop(pod, removed, world, memory, now, &mut step);
    } else if terminal {
        rest(pod, world, memory, now, &mut step);
    } else if memory.evicted.is_some() {
        // It is not asked to end in its own time: it goes on taking meanwhile.
        stop_all(pod, world, 1, memory, now, &mut step);
    } else if past_deadline(pod, memory, now, &mut step) {
        stop_all(pod, world, grace(pod), memory, now, &mut step);
    } else {
        run(pod, world, memory, now, &mut step);
    }
    step.status = status::status(pod, world, memory, now, host_ip);
    if !deleting && ["Succeeded", "Failed"].contains(&step.status.text("phase")) && step.actions.is_empty() {
        rest(pod, world, memory, now, &mut step);
    }
    step
}

fn grace(pod: &Value) -> i64 {
    pod.at("spec.terminationGracePeriodSeconds").as_i64().unwrap_or(30).max(0)
}

fn is_running(container: &Observed) -> bool {
    matches!(container.state, State::Running { .. } | State::Created)
}

/// One that was created and never started has nothing to stop, and goes with its sandbox.
fn must_be_stopped(container: &Observed) -> bool {
    matches!(container.state, State::Running { .. })
}

fn stop_all(pod: &Value, world: &World, grace_s: i64, memory: &mut Memory, now: Timestamp, step: &mut Step) {
    for running in world.containers.iter().filter(|container| must_be_stopped(container)) {
        let container = containers(pod).map(|(container, _)| container).find(|c| c.text("name") == running.name);
        let message = format!("Stopping container {}", running.name);
        hooks::end(container.unwrap_or(&Value::Null), running, (grace_s, message), memory, now, step);
    }
}

/// The way out: stop what runs, remove what is left, then say so.
fn stop(pod: &Value, removed: bool, world: &World, memory: &mut Memory, now: Timestamp, step: &mut Step) {
    let own = pod.at("metadata.deletionGracePeriodSeconds").as_i64();
    let left = match Timestamp::parse(pod.text("metadata.deletionTimestamp")) {
        // The deadline is absolute: a worker that was away does not start counting again.
        // Its text has whole seconds, rounded down: nobody is cut short by that.
        Some(deadline) if !removed => ((deadline.since_ms(now) + 1998) / 1000).clamp(0, own.unwrap_or(grace(pod))),
        _ => grace(pod),
    };
    if world.containers.iter().any(must_be_stopped) {
        stop_all(pod, world, left.max(1), memory, now, step);
    } else if let Some(sandbox) = &world.sandbox {
        step.actions.push(Action::RemoveSandbox { id: sandbox.id.clone() });
    } else {
        step.stopped = true;
    }
}

/// A finished pod keeps its containers (for logs) and nothing else.
fn rest(pod: &Value, world: &World, memory: &mut Memory, now: Timestamp, step: &mut Step) {
    if let Some(sandbox) = world.sandbox.as_ref().filter(|sandbox| sandbox.ready) {
        if world.containers.iter().any(must_be_stopped) {
            stop_all(pod, world, 1, memory, now, step);
        } else {
            step.actions.push(Action::StopSandbox { id: sandbox.id.clone() });
        }
    }
}

fn past_deadline(pod: &Value, memory: &Memory, now: Timestamp, step: &mut Step) -> bool {
    let (Some(seconds), Some(started)) = (pod.at("spec.activeDeadlineSeconds").as_i64(), memory.started) else {
        return false;
    };
    let deadline = started.plus_secs(seconds);
    if now < deadline {
        step.wake_at(deadline);
    }
    now >= deadline
}

/// Takes in how much of the disk the pod's volumes take, in bytes by name. A pod whose `emptyDir` outgrew
/// its limit is evicted; the note says so.
///
/// Rule: kubernetes.io/docs/concepts/storage/volumes, "emptyDir".
pub fn measured(pod: &Value, usage: &BTreeMap<String, i64>, memory: &mut Memory) -> Option<Note> {
    if memory.evicted.is_some() || ["Succeeded", "Failed"].contains(&pod.text("status.phase")) {
        return None;
    }
    let message = pod.items("spec.volumes").iter().find_map(|volume| {
        let text = volume.text("emptyDir.sizeLimit");
        let limit = Quantity::parse(text).map(Quantity::value).filter(|limit| *limit > 0)?;
        let name = volume.text("name");
        let over = usage.get(name).is_some_and(|bytes| *bytes > limit);
        over.then(|| format!("Usage of EmptyDir volume {name:?} exceeds the limit {text:?}. "))
    })?;
    memory.evicted = Some(message.clone());
    Some(Note { ty: "Warning", reason: "Evicted", message, container: String::new() })
}

/// Keeps a live pod as it should be.
fn run(pod: &Value, world: &World, memory: &mut Memory, now: Timestamp, step: &mut Step) {
    match &world.sandbox {
        Some(sandbox) if sandbox.ready => {}
        Some(lost) if world.containers.iter().any(is_running) && !lost.ready => {
            // The sandbox died under its containers: everything starts over in a new one.
            step.actions.push(Action::RemoveSandbox { id: lost.id.clone() });
            return;
        }
        Some(lost) => {
            if may_still_run(pod, world) {
                step.actions.push(Action::RemoveSandbox { id: lost.id.clone() });
            }
            return;
        }
        // Everything ran, ended or got lost, and nothing runs twice.
        None if containers(pod).all(|(container, _)| first_attempt(pod, container.text("name")).is_none()) => return,
        None => {
            match memory.failures.get("") {
                Some(failure) if now < retry_at(failure) => step.wake_at(retry_at(failure)),
                _ => step.actions.push(Action::StartSandbox { attempt: next_sandbox(pod) }),
            }
            return;
        }
    }
    let mut inits_done = true;
    // A container whose postStart hook is not done holds up those that have yet to start.
    let mut held = false;
    for (container, is_init) in containers(pod) {
        let name = container.text("name");
        if !is_init && !inits_done {
            break;
        }
        let latest = world.latest(name);
        match latest {
            Some(running @ Observed { state: State::Running { .. }, .. }) => {
                // What has begun to end goes on ending, also when its image is taken back meanwhile.
                let ends = running.image != container.text("image") || memory.ending.contains_key(&running.id);
                if !is_init && ends {
                    let message = format!("Container {name} definition changed, will be restarted");
                    hooks::end(container, running, (grace(pod), message), memory, now, step);
                } else if !is_init {
                    match hooks::begin(pod, container, running, grace(pod), memory, now, step) {
                        true => probes::run(container, running, grace(pod), memory, now, step),
                        false => held = true,
                    }
                } else {
                    inits_done = false;
                }
            }
            _ if held => {}
            // Made and not started: the worker ended in between. The runtime goes on with this attempt.
            Some(created @ Observed { state: State::Created, .. }) => {
                inits_done &= !is_init;
                start(container, created.attempt, memory, now, step);
            }
            Some(Observed { state: State::Exited { code: 0, .. }, .. }) if is_init => {}
            Some(ended @ Observed { state: State::Exited { started, finished, code, .. }, .. }) => {
                inits_done &= !is_init;
                if restarts(pod, is_init, *code) {
                    if finished.since_ms(*started) > FORGIVEN_AFTER_MS {
                        memory.forgiven.insert(name.into(), ended.attempt);
                    }
                    restart(pod, container, ended, *finished, memory, now, step);
                }
            }
            None => {
                inits_done &= !is_init;
                if let Some(attempt) = first_attempt(pod, name) {
                    // Those before went with the machine, once in this worker's life: they are no failures of its
                    // own, for which it would be backed off. The kubelet's back-off starts anew with it, too.
                    memory.forgiven.entry(name.into()).or_insert(attempt);
                    start(container, attempt, memory, now, step);
                }
            }
        }
        // A container that is just being started has its hook still before it.
        held |= starts(name, step) && !hook(container, HookKind::PostStart).is_null();
        // Init containers run one after the other.
        if is_init && !inits_done {
            break;
        }
    }
    sweep(world, step);
}

/// Whether a step starts a container.
fn starts(name: &str, step: &Step) -> bool {
    step.actions.iter().any(|action| matches!(action, Action::StartContainer { name: starts, .. } if starts == name))
}

fn next_sandbox(pod: &Value) -> u32 {
    let restarts = containers(pod).filter_map(|(c, _)| status::old_status(pod, c.text("name")));
    restarts.filter_map(|old| old.at("restartCount").as_u64()).max().map_or(0, |n| n as u32 + 1)
}

/// The attempt with which a container starts here: the first, or the one past what the cluster
/// remembers of it. `None` when it ran and vanished, and no policy lets it run again.
fn first_attempt(pod: &Value, name: &str) -> Option<u32> {
    let ran = status::old_status(pod, name).filter(|old| !old.text("containerID").is_empty());
    match ran {
        Some(_) if pod.text("spec.restartPolicy") == "Never" => None,
        ran => Some(ran.and_then(|old| old.at("restartCount").as_u64()).map_or(0, |n| n as u32 + 1)),
    }
}

/// Whether a pod whose sandbox is gone has anything left to do.
fn may_still_run(pod: &Value, world: &World) -> bool {
    containers(pod).any(|(container, is_init)| match world.latest(container.text("name")).map(|latest| &latest.state) {
        Some(State::Exited { code: 0, .. }) if is_init => false,
        Some(State::Exited { code, .. }) => restarts(pod, is_init, *code),
        _ => true,
    })
}

fn restarts(pod: &Value, is_init: bool, code: i32) -> bool {
    match pod.text("spec.restartPolicy") {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => !is_init || code != 0,
    }
}

fn retry_at(failure: &Failure) -> Timestamp {
    // Configuration that is missing may appear any moment: look often. Images are backed off.
    let ms = match failure.reason.as_str() {
        "CreateContainerConfigError" => 2_000,
        "SandboxError" => BACKOFF.delay_ms(failure.n_failures).min(10_000) / 5,
        _ => BACKOFF.delay_ms(failure.n_failures),
    };
    failure.at.plus_ms(ms as i64)
}

/// Starts an attempt, or waits until its last failure is long enough ago.
fn start(container: &Value, attempt: u32, memory: &mut Memory, now: Timestamp, step: &mut Step) {
    let name = container.text("name");
    match memory.failures.get(name) {
        Some(failure) if now < retry_at(failure) => {
            step.wake_at(retry_at(failure));
            if status::is_image_backed_off(failure) {
                let message = format!("Back-off pulling image {:?}", container.text("image"));
                tell_back_off("Normal", message, name, failure.n_failures, memory, step);
            }
        }
        _ => step.actions.push(Action::StartContainer { name: name.into(), attempt }),
    }
}

/// Tells people once that a container is being backed off, `n` saying which time it is.
fn tell_back_off(ty: &'static str, message: String, name: &str, n: u32, memory: &mut Memory, step: &mut Step) {
    let told = Some((message.clone(), n));
    if memory.told_back_off.insert(name.into(), (message.clone(), n)) != told {
        step.notes.push(Note { ty, reason: "BackOff", message, container: name.into() });
    }
}

fn restart(
    pod: &Value,
    container: &Value,
    latest: &Observed,
    finished: Timestamp,
    memory: &mut Memory,
    now: Timestamp,
    step: &mut Step,
) {
    let name = container.text("name");
    let forgiven = memory.forgiven.get(name).copied().unwrap_or(0);
    let due = finished.plus_ms(BACKOFF.delay_ms(latest.attempt.saturating_sub(forgiven)) as i64);
    if now >= due {
        return start(container, latest.attempt + 1, memory, now, step);
    }
    step.wake_at(due);
    let message = format!("Back-off restarting failed container {name} in pod {}", status::full_name(pod));
    tell_back_off("Warning", message, name, latest.attempt, memory, step);
}

/// Attempts older than the previous one are of no use to anybody.
fn sweep(world: &World, step: &mut Step) {
    for container in &world.containers {
        let newest = world.latest(&container.name).map_or(0, |latest| latest.attempt);
        if container.attempt + 1 < newest && !is_running(container) {
            step.actions.push(Action::RemoveContainer { id: container.id.clone() });
        }
    }
}
