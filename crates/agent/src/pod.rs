//! One pod's task: steps `podlife`, performs what it asks, reports what it sees.

use crate::images::{PULLING, Pull};
use crate::sources::Sources;
use crate::stop::Stop;
use crate::{Assignment, Shared, events, hook, last_words, logs, node, probe, usage, volumes};
use objects::{Timestamp, Value, ValueExt};
use podlife::{Action, Answer, Failure, HookKind, Memory, Note, Observed, ProbeKind, Sandbox, State, Step, World};
use protos::dispatch as pb;
use runtime::{ContainerInfo, ContainerState, Error, SandboxInfo};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Volumes that could not be brought up to date are tried again this soon.
const REFRESH_AGAIN_MS: i64 = 10_000;
/// How often volumes with a limit are measured.
const MEASURE_EVERY: Duration = Duration::from_secs(10);
/// After an action the brain looks again this soon: long enough that a failing one does not spin.
pub(crate) const AGAIN: Duration = Duration::from_millis(50);

pub(crate) fn volumes_dir(shared: &Shared) -> PathBuf {
    shared.options.dir.join("volumes")
}

pub(crate) fn logs_dir(shared: &Shared) -> PathBuf {
    shared.options.dir.join("logs")
}

pub(crate) fn log_dir(shared: &Shared, uid: &str) -> PathBuf {
    logs_dir(shared).join(uid)
}

pub(crate) fn log_file(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

/// Everything that can wake a pod's task.
enum Wake {
    Assigned(Box<Assignment>),
    World,
    Timer,
    Answered(Answered),
    Hooked(Hooked),
    /// A container that was asked to stop has, or could not be.
    Stopped(String),
    /// An image, and what became of its pull.
    Pulled(String, Result<(), String>),
    /// It is time to look at the volumes.
    Measure,
    /// Bytes that volumes take.
    Measured(BTreeMap<String, i64>),
}

/// A probe's answer: of which container, by name and id.
type Answered = (String, String, ProbeKind, Answer);

/// A hook that ended: of which container, by name and id, and how.
type Hooked = (String, String, HookKind, Result<(), String>);

/// Why a container was not started: the reason of its waiting, and a sentence.
pub(crate) type Refused = (&'static str, String);

pub(crate) struct Task<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) assignment: Assignment,
    pub(crate) uid: String,
    memory: Memory,
    sequence: u64,
    reported: Option<(Value, bool)>,
    answers: mpsc::Sender<Answered>,
    hooked: mpsc::Sender<Hooked>,
    /// By container id.
    pub(crate) stops: BTreeMap<String, Stop>,
    pub(crate) stopped: mpsc::Sender<String>,
    /// By image. A pull may take minutes, in which the pod must still be probed, and stopped.
    pub(crate) pulls: BTreeMap<String, Pull>,
    pub(crate) pulled: mpsc::Sender<(String, Result<(), String>)>,
    /// What ended containers left to be read, by id.
    last_words: BTreeMap<String, String>,
    measured: mpsc::Sender<BTreeMap<String, i64>>,
    /// A look at the volumes is under way.
    measuring: bool,
    /// When volumes are to be brought up to date: at first too, as the last worker may have been killed
    /// between hearing news and acting on them.
    refresh_at: Option<Timestamp>,
    /// Why some volumes were left as they are.
    left: Vec<String>,
    /// Probes and hooks on their way, ended with this task.
    asked: JoinSet<()>,
}

/// Of all that the runtime has, what is of one pod.
fn own<'a>(uid: &'a str, list: &'a [SandboxInfo]) -> impl Iterator<Item = &'a SandboxInfo> {
    list.iter().filter(move |sandbox| sandbox.uid == uid)
}

/// Returns once the runtime has something else of the pod than what was seen: news of one pod are none to the others.
async fn news(uid: &str, seen: &[SandboxInfo], worlds: &mut watch::Receiver<Arc<Vec<SandboxInfo>>>) {
    let is_news = |list: &Arc<Vec<SandboxInfo>>| !own(uid, list).eq(seen);
    // It cannot be over: who waits holds the sender, in `Shared`.
    drop(worlds.wait_for(is_news).await);
}

/// Lives a pod from its assignment until it is gone.
pub(crate) async fn live(shared: &Arc<Shared>, mut assigned: watch::Receiver<Assignment>) {
    let assignment = assigned.borrow_and_update().clone();
    let uid = assignment.uid();
    let (answers, mut answered) = mpsc::channel(16);
    let (hooked, mut hooks) = mpsc::channel(16);
    let (stopped, mut stops) = mpsc::channel(16);
    let (pulled, mut pulls) = mpsc::channel(16);
    let (measured, mut measures) = mpsc::channel(1);
    let mut measure = tokio::time::interval(MEASURE_EVERY);
    measure.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut task = Task {
        shared,
        assignment,
        uid,
        memory: Memory::default(),
        sequence: 0,
        reported: None,
        answers,
        hooked,
        stops: BTreeMap::new(),
        stopped,
        pulls: BTreeMap::new(),
        pulled,
        last_words: BTreeMap::new(),
        measured,
        measuring: false,
        refresh_at: Some(shared.now()),
        left: Vec::new(),
        asked: JoinSet::new(),
    };
    let mut worlds = shared.worlds.subscribe();
    loop {
        let seen: Vec<SandboxInfo> = own(&task.uid, &worlds.borrow_and_update()).cloned().collect();
        let world = task.world(&seen).await;
        let removed = task.assignment.removed;
        let address = &shared.options.node.address;
        let step = podlife::step(&task.assignment.pod, removed, &world, &mut task.memory, shared.now(), address);
        task.report(&step);
        // The brain reads its own last word back: conditions keep their times, ends stay ended.
        task.assignment.pod.set("status", step.status.clone());
        if step.stopped {
            task.clean();
            if removed {
                return;
            }
        }
        for note in &step.notes {
            task.tell(note);
        }
        let rests = !task.is_alive() && step.actions.is_empty();
        if rests {
            // Of a finished pod the logs stay.
            task.clean_volumes();
        }
        if task.refresh_at.is_some_and(|at| at <= shared.now()) {
            task.refresh_volumes(&world);
        }
        let mut acted = false;
        for action in step.actions {
            if task.perform(action, &world).await {
                acted = true;
                shared.refresh().await;
            }
        }
        let wake_at = step.wake.into_iter().chain(task.refresh_at).min();
        let wake_in = wake_at.map(|at| Duration::from_millis(at.since_ms(shared.now()).max(1) as u64));
        // What was done, or failed, is to be told: look again soon, even if the runtime shows no change.
        let soon = acted.then_some(AGAIN);
        let wake_in = wake_in.into_iter().chain(soon).min();
        let timer = async {
            match wake_in {
                Some(wake_in) => tokio::time::sleep(wake_in).await,
                None => std::future::pending().await,
            }
        };
        let wake = tokio::select! {
            changed = assigned.changed() => match changed {
                Ok(()) => Wake::Assigned(Box::new(assigned.borrow_and_update().clone())),
                // The sender of assignments is gone: the worker is stopping.
                Err(_) => return,
            },
            () = news(&task.uid, &seen, &mut worlds) => Wake::World,
            () = timer => Wake::Timer,
            Some(answered) = answered.recv() => Wake::Answered(answered),
            Some(hooked) = hooks.recv() => Wake::Hooked(hooked),
            Some(id) = stops.recv() => Wake::Stopped(id),
            Some((image, result)) = pulls.recv() => Wake::Pulled(image, result),
            _ = measure.tick(), if !rests && task.has_limits() => Wake::Measure,
            Some(usage) = measures.recv() => Wake::Measured(usage),
        };
        task.hear(wake).await;
    }
}

impl Task<'_> {
    /// Takes up what woke the pod.
    async fn hear(&mut self, wake: Wake) {
        let note = match wake {
            Wake::Assigned(news) => {
                self.assign(*news);
                None
            }
            Wake::Answered((container, id, kind, answer)) => {
                podlife::answered(&self.container(&container), &id, kind, answer, &mut self.memory)
            }
            Wake::Hooked((container, id, kind, result)) => {
                podlife::hooked(&container, &id, kind, result, &mut self.memory)
            }
            Wake::Stopped(id) => {
                self.stops.remove(&id);
                self.shared.refresh().await;
                None
            }
            Wake::Pulled(image, result) => {
                if let Some(pull) = self.pulls.get_mut(&image) {
                    pull.result = Some(result);
                }
                None
            }
            Wake::Measure => {
                self.measure();
                None
            }
            Wake::Measured(usage) => {
                self.measuring = false;
                podlife::measured(&self.assignment.pod, &usage, &mut self.memory)
            }
            Wake::World | Wake::Timer => None,
        };
        if let Some(note) = note {
            self.tell(&note);
        }
    }

    fn assign(&mut self, news: Assignment) {
        let told = |assignment: &Assignment| {
            let metadata = assignment.pod.at("metadata");
            (metadata.at("labels").clone(), metadata.at("annotations").clone())
        };
        let referred = news.objects != self.assignment.objects || told(&news) != told(&self.assignment);
        self.forget_failures_of_other_images(&news);
        self.assignment = news;
        if referred {
            self.refresh_at = Some(self.shared.now());
        }
    }

    /// What the runtime has of this pod, its sandboxes, with what its ended containers said last.
    async fn world(&mut self, sandboxes: &[SandboxInfo]) -> World {
        let newest = sandboxes.iter().max_by_key(|sandbox| sandbox.attempt);
        let containers = newest.map_or(&[][..], |sandbox| sandbox.containers.as_slice());
        let mut world = World {
            sandbox: newest.map(|sandbox| Sandbox {
                id: sandbox.id.clone(),
                attempt: sandbox.attempt,
                ready: sandbox.ready,
                ips: sandbox.ips.clone(),
            }),
            containers: Vec::new(),
        };
        self.last_words.retain(|id, _| containers.iter().any(|container| container.id == *id));
        for info in containers {
            let state = match info.state.clone() {
                ContainerState::Created => State::Created,
                ContainerState::Running { started } => State::Running { started },
                ContainerState::Exited { started, finished, code, reason, message } => {
                    let said = self.last_words(info, code).await;
                    let message = [message, said].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>();
                    State::Exited { started, finished, code, reason, message: message.join(": ") }
                }
            };
            world.containers.push(Observed {
                name: info.name.clone(),
                attempt: info.attempt,
                id: info.id.clone(),
                image: info.image.clone(),
                image_id: info.image_id.clone(),
                state,
            });
        }
        world
    }

    async fn last_words(&mut self, info: &ContainerInfo, code: i32) -> String {
        if let Some(known) = self.last_words.get(&info.id) {
            return known.clone();
        }
        let log = log_dir(self.shared, &self.uid).join(log_file(&info.name, info.attempt));
        let said = last_words::read(&self.container(&info.name), &log, code).await;
        self.last_words.insert(info.id.clone(), said.clone());
        said
    }

    /// Whether the pod is to run, or something of it still does.
    fn is_alive(&self) -> bool {
        !["Succeeded", "Failed"].contains(&self.assignment.pod.text("status.phase"))
    }

    fn has_limits(&self) -> bool {
        self.shared.options.can_mount && !self.measuring && !usage::limited(&self.assignment.pod).is_empty()
    }

    /// Looks at the volumes beside the pod's life: they may be large.
    fn measure(&mut self) {
        self.measuring = true;
        let (dir, names, measured) = (self.volumes(), usage::limited(&self.assignment.pod), self.measured.clone());
        tokio::task::spawn_blocking(move || drop(measured.blocking_send(usage::measure(&dir, &names))));
    }

    /// Another image is another chance.
    fn forget_failures_of_other_images(&mut self, news: &Assignment) {
        let lists = ["spec.containers", "spec.initContainers"];
        for container in lists.iter().flat_map(|list| news.pod.items(list)) {
            let name = container.text("name");
            if self.container(name).text("image") != container.text("image") {
                self.memory.failures.remove(name);
            }
        }
    }

    pub(crate) fn container(&self, name: &str) -> Value {
        let spec = self.assignment.pod.at("spec");
        let all = spec.items("containers").iter().chain(spec.items("initContainers"));
        all.clone().find(|container| container.text("name") == name).cloned().unwrap_or_default()
    }

    fn report(&mut self, step: &Step) {
        if self.assignment.removed {
            return;
        }
        let news = (step.status.clone(), step.stopped);
        if self.reported.as_ref() == Some(&news) {
            return;
        }
        self.sequence += 1;
        // First, as what the masters do next may build on it: a place that is free, above all.
        self.remember(&news.0, step.stopped);
        let pod = &self.assignment.pod;
        self.shared.report(pb::PodStatus {
            namespace: pod.text("metadata.namespace").into(),
            name: pod.text("metadata.name").into(),
            uid: self.uid.clone(),
            sequence: self.sequence,
            status: step.status.to_string().into(),
            stopped: step.stopped,
        });
        self.reported = Some(news);
    }

    /// Keeps the pod's status with its assignment: the next worker goes on from it.
    fn remember(&self, status: &Value, stopped: bool) {
        if let Some(sender) = self.shared.pods.lock().get(&self.uid) {
            // Nobody is woken: this task knows.
            sender.send_if_modified(|assignment| {
                assignment.pod.set("status", status.clone());
                assignment.stopped = stopped;
                false
            });
        }
        self.shared.save(&self.uid);
    }

    /// Brings the files of ConfigMaps, Secrets and the pod's own metadata up to date under running
    /// containers; environment variables stay as they were, as in Kubernetes. What cannot be done now (what is
    /// missing may come back, a full disk be emptied) is tried again, and told once.
    fn refresh_volumes(&mut self, world: &World) {
        // Without a sandbox the runtime may not have told yet what runs.
        let again = self.shared.now().plus_ms(REFRESH_AGAIN_MS);
        self.refresh_at = (self.shared.options.can_mount && self.is_alive()).then_some(again);
        let Some(sandbox) = world.sandbox.as_ref().filter(|_| self.shared.options.can_mount) else { return };
        let node = &self.shared.options.node;
        let (pod_ip, allocatable) = (sandbox.ips.first().map_or("", String::as_str), node::allocatable(node));
        let sources =
            Sources { assignment: &self.assignment, host_ip: &node.address, pod_ip, allocatable: &allocatable };
        let left = volumes::refresh(&sources, &self.place(&self.volumes()));
        for why in left.iter().filter(|why| !self.left.contains(why)) {
            tracing::warn!(pod = %self.uid, why, "a volume is left as it was");
            self.note("Warning", "FailedMount", format!("A volume is left as it was: {why}"), "");
        }
        if left.is_empty() {
            self.refresh_at = None;
        }
        self.left = left;
    }

    /// Removes what the pod leaves on disk.
    fn clean(&self) {
        self.clean_volumes();
        let logs = log_dir(self.shared, &self.uid);
        if let Err(error) = std::fs::remove_dir_all(&logs)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %logs.display(), "removing the logs of a pod failed");
        }
    }

    /// Removes the logs and last words of an attempt that nobody can ask about any more.
    fn forget_attempt(&self, name: &str, attempt: u32) {
        let log = log_dir(self.shared, &self.uid).join(log_file(name, attempt));
        for path in [log.clone(), logs::older(&log), last_words::beside(&log)] {
            if let Err(error) = std::fs::remove_file(&path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(%error, path = %path.display(), "an old log is left");
            }
        }
    }

    fn clean_volumes(&self) {
        let dir = self.volumes();
        if let Err(error) = volumes::remove(&dir) {
            tracing::warn!(%error, path = %dir.display(), "removing the volumes of a pod failed");
        }
    }

    pub(crate) fn volumes(&self) -> PathBuf {
        volumes_dir(self.shared).join(&self.uid)
    }

    fn tell(&self, note: &Note) {
        events::tell(self.shared, &self.assignment.pod, note);
    }

    pub(crate) fn note(&self, ty: &'static str, reason: &'static str, message: String, container: &str) {
        self.tell(&Note { ty, reason, message, container: container.into() });
    }

    fn fail(&mut self, container: &str, reason: &str, message: String) {
        let n_failures = self.memory.failures.get(container).map_or(0, |failure| failure.n_failures) + 1;
        let failure = Failure { reason: reason.into(), message, n_failures, at: self.shared.now() };
        self.memory.failures.insert(container.into(), failure);
    }

    /// Carries an action out; whether it may have changed what the runtime tells.
    async fn perform(&mut self, action: Action, world: &World) -> bool {
        let runtime = self.shared.options.runtime.clone();
        match action {
            Action::StartSandbox { attempt } => {
                let started = match self.sandbox_spec(attempt) {
                    Ok(spec) => runtime.start_sandbox(&spec).await.map_err(|error| error.to_string()),
                    Err(why) => Err(why),
                };
                match started {
                    Ok(_) => drop(self.memory.failures.remove("")),
                    Err(why) => {
                        let message = format!("Failed to create pod sandbox: {why}");
                        self.note("Warning", "FailedCreatePodSandBox", message, "");
                        self.fail("", "SandboxError", why);
                    }
                }
            }
            Action::RemoveSandbox { id } => self.warn("removing a sandbox", runtime.remove_sandbox(&id).await),
            Action::StopSandbox { id } => self.warn("stopping a sandbox", runtime.stop_sandbox(&id).await),
            Action::RemoveContainer { id } => {
                let removed = runtime.remove_container(&id).await;
                if let (Ok(()), Some(gone)) = (&removed, world.containers.iter().find(|container| container.id == id)) {
                    self.forget_attempt(&gone.name, gone.attempt);
                }
                self.warn("removing a container", removed);
            }
            Action::StopContainer { id, grace_s, .. } => {
                self.stop(id, grace_s);
                return false;
            }
            Action::StartContainer { name, attempt } => match self.start(&name, attempt, world).await {
                Ok(()) => drop(self.memory.failures.remove(&name)),
                Err((PULLING, _)) => return false,
                Err((reason, message)) => {
                    self.note("Warning", "Failed", format!("Error: {message}"), &name);
                    self.fail(&name, reason, message);
                }
            },
            Action::Probe { container, id, kind } => {
                let (spec, answers, ip) = (self.container(&container), self.answers.clone(), self.ip(world));
                self.ask(async move {
                    let answer = probe::ask(&*runtime, &spec, &id, kind, &ip).await;
                    drop(answers.send((container, id, kind, answer)).await);
                });
                return false;
            }
            Action::Hook { container, id, kind, within_s } => {
                let (spec, hooked, ip) = (self.container(&container), self.hooked.clone(), self.ip(world));
                let within = Duration::from_secs(u64::try_from(within_s).unwrap_or(0));
                self.ask(async move {
                    let result = hook::carry_out(&*runtime, &spec, &id, (kind, within), &ip).await;
                    drop(hooked.send((container, id, kind, result)).await);
                });
                return false;
            }
        }
        true
    }

    /// Carries a probe or a hook out beside the pod's life.
    fn ask(&mut self, asked: impl Future<Output = ()> + Send + 'static) {
        while self.asked.try_join_next().is_some() {}
        self.asked.spawn(asked);
    }

    /// Where the pod is reached: the node's address, where it has none of its own.
    fn ip(&self, world: &World) -> String {
        let own = world.sandbox.as_ref().and_then(|sandbox| sandbox.ips.first().cloned());
        own.unwrap_or_else(|| self.shared.options.node.address.clone())
    }

    /// A failed clean-up is tried again by the next step, which still sees what is left.
    fn warn(&self, what: &str, result: Result<(), Error>) {
        if let Err(error) = result {
            tracing::warn!(pod = %self.uid, %error, "{what} failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn news_of_another_pod_are_none() {
        let sandbox = |uid: &str, ready| SandboxInfo {
            id: format!("{uid}-0"),
            uid: uid.into(),
            name: uid.into(),
            namespace: "default".into(),
            attempt: 0,
            ready,
            ips: Vec::new(),
            containers: Vec::new(),
        };
        let told = watch::Sender::new(Arc::new(vec![sandbox("a", true), sandbox("b", true)]));
        let mut worlds = told.subscribe();
        let seen: Vec<SandboxInfo> = own("a", &worlds.borrow()).cloned().collect();
        assert_eq!(seen, [sandbox("a", true)]);
        told.send_replace(Arc::new(vec![sandbox("a", true), sandbox("b", false)]));
        assert_eq!(news("a", &seen, &mut worlds).now_or_never(), None);
        // What came between two looks counts, too.
        told.send_replace(Arc::new(vec![sandbox("a", false), sandbox("b", false)]));
        assert_eq!(news("a", &seen, &mut worlds).now_or_never(), Some(()));
        told.send_replace(Arc::new(vec![sandbox("b", false)]));
        assert_eq!(news("a", &seen, &mut worlds).now_or_never(), Some(()));
    }
}
