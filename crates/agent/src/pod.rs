//! One pod's task: steps `podlife`, performs what it asks, reports what it sees.

use crate::{Assignment, Shared, environment, events, probe};
use objects::{Quantity, Timestamp, Value, ValueExt};
use podlife::{Action, Failure, Memory, Note, Observed, ProbeKind, Sandbox, State, Step, World};
use protos::dispatch as pb;
use runtime::{ContainerSpec, ContainerState, Error, Image, SandboxInfo, SandboxSpec};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// A pull that takes longer fails and is tried again.
const PULL_MAX: Duration = Duration::from_secs(600);
/// After an action the brain looks again this soon: long enough that a failing one does not spin.
const AGAIN: Duration = Duration::from_millis(50);

pub(crate) fn log_dir(shared: &Shared, uid: &str) -> PathBuf {
    shared.options.dir.join("logs").join(uid)
}

pub(crate) fn log_file(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

/// Everything that can wake a pod's task.
enum Wake {
    Assigned,
    World,
    Timer,
    Answered(String, String, ProbeKind, Result<(), String>),
    /// An image, and what became of its pull.
    Pulled(String, Result<(), String>),
    /// The sender of assignments is gone: the worker is stopping.
    Ended,
}

fn world_of(list: &[SandboxInfo], uid: &str) -> World {
    let mine = || list.iter().filter(|sandbox| sandbox.uid == uid);
    let newest = mine().max_by_key(|sandbox| sandbox.attempt);
    let observed = |info: &runtime::ContainerInfo| Observed {
        name: info.name.clone(),
        attempt: info.attempt,
        id: info.id.clone(),
        image: info.image.clone(),
        state: match &info.state {
            ContainerState::Created => State::Created,
            ContainerState::Running { started } => State::Running { started: *started },
            ContainerState::Exited { started, finished, code, reason } => {
                State::Exited { started: *started, finished: *finished, code: *code, reason: reason.clone() }
            }
        },
    };
    World {
        sandbox: newest.map(|sandbox| Sandbox {
            id: sandbox.id.clone(),
            attempt: sandbox.attempt,
            ready: sandbox.ready,
            ips: sandbox.ips.clone(),
        }),
        containers: newest.into_iter().flat_map(|sandbox| &sandbox.containers).map(observed).collect(),
    }
}

/// A pull that was asked for: since when, and its result once it is over.
struct Pull {
    since: Timestamp,
    result: Option<Result<(), String>>,
}

/// Why a container does not start yet: no failure, its image is on its way.
const PULLING: &str = "Pulling";

struct Task<'a> {
    shared: &'a Arc<Shared>,
    assignment: Assignment,
    uid: String,
    memory: Memory,
    sequence: u64,
    reported: Option<(Value, bool)>,
    answers: mpsc::Sender<(String, String, ProbeKind, Result<(), String>)>,
    /// By image. A pull may take minutes, in which the pod must still be probed, and stopped.
    pulls: BTreeMap<String, Pull>,
    pulled: mpsc::Sender<(String, Result<(), String>)>,
}

/// Lives a pod from its assignment until it is gone.
pub(crate) async fn live(shared: &Arc<Shared>, mut assigned: watch::Receiver<Assignment>) {
    let assignment = assigned.borrow_and_update().clone();
    let uid = assignment.uid();
    let (answers, mut answered) = mpsc::channel(16);
    let (pulled, mut pulls) = mpsc::channel(16);
    let mut task = Task {
        shared,
        assignment,
        uid,
        memory: Memory::default(),
        sequence: 0,
        reported: None,
        answers,
        pulls: BTreeMap::new(),
        pulled,
    };
    let mut worlds = shared.worlds.subscribe();
    loop {
        let list = worlds.borrow_and_update().clone();
        let world = world_of(&list, &task.uid);
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
        let mut acted = false;
        // Containers are stopped together; a shorter grace that comes meanwhile is decided on anew.
        let (stops, rest): (Vec<Action>, Vec<Action>) =
            step.actions.into_iter().partition(|action| matches!(action, Action::StopContainer { .. }));
        if !stops.is_empty() {
            acted = true;
            tokio::select! {
                () = task.stop(stops) => {}
                changed = assigned.changed() => if changed.is_ok() { assigned.mark_changed() },
            }
            shared.refresh().await;
        }
        for action in rest {
            if task.perform(action, &world).await {
                acted = true;
                shared.refresh().await;
            }
        }
        let wake_in = step.wake.map(|at| Duration::from_millis(at.since_ms(shared.now()).max(1) as u64));
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
            changed = assigned.changed() => if changed.is_ok() { Wake::Assigned } else { Wake::Ended },
            _ = worlds.changed() => Wake::World,
            () = timer => Wake::Timer,
            Some((container, id, kind, answer)) = answered.recv() => Wake::Answered(container, id, kind, answer),
            Some((image, result)) = pulls.recv() => Wake::Pulled(image, result),
        };
        match wake {
            Wake::Assigned => {
                let news = assigned.borrow_and_update().clone();
                let referred = news.objects != task.assignment.objects;
                task.assignment = news;
                if referred {
                    task.refresh_volumes(&world);
                }
            }
            Wake::Answered(container, id, kind, answer) => {
                let spec = task.container(&container);
                if let Some(note) = podlife::answered(&spec, &id, kind, answer, &mut task.memory) {
                    task.tell(&note);
                }
            }
            Wake::Pulled(image, result) => {
                if let Some(pull) = task.pulls.get_mut(&image) {
                    pull.result = Some(result);
                }
            }
            Wake::World | Wake::Timer => {}
            Wake::Ended => return,
        }
    }
}

impl Task<'_> {
    fn container(&self, name: &str) -> Value {
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
        self.shared.save();
    }

    /// Brings the files of ConfigMaps and Secrets up to date under running containers; environment
    /// variables stay as they were, as in Kubernetes.
    fn refresh_volumes(&self, world: &World) {
        let Some(sandbox) = world.sandbox.as_ref().filter(|_| self.shared.options.can_mount) else { return };
        let (address, ip) = (&self.shared.options.node.address, sandbox.ips.first().cloned().unwrap_or_default());
        for container in self.assignment.pod.items("spec.containers") {
            let made = environment::mounts(&self.assignment, container, &self.volumes(), address, &ip);
            if let Err(why) = made {
                // What is missing now was there when the container started: it keeps what it has.
                tracing::debug!(pod = %self.uid, why, "a volume is left as it was");
            }
        }
    }

    /// Removes what the pod leaves on disk.
    fn clean(&self) {
        for dir in [log_dir(self.shared, &self.uid), self.volumes()] {
            if let Err(error) = std::fs::remove_dir_all(&dir)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(%error, path = %dir.display(), "cleaning up after a pod failed");
            }
        }
    }

    fn volumes(&self) -> PathBuf {
        self.shared.options.dir.join("volumes").join(&self.uid)
    }

    fn tell(&self, note: &Note) {
        events::tell(self.shared, &self.assignment.pod, note);
    }

    fn note(&self, ty: &'static str, reason: &'static str, message: String, container: &str) {
        self.tell(&Note { ty, reason, message, container: container.into() });
    }

    fn sandbox_spec(&self, attempt: u32) -> SandboxSpec {
        let pod = &self.assignment.pod;
        let privileged = |container: &Value| container.at("securityContext").at("privileged") == true;
        let all = || pod.items("spec.containers").iter().chain(pod.items("spec.initContainers"));
        let sysctl = |item: &Value| (item.text("name").to_string(), item.text("value").to_string());
        let hostname = match pod.text("spec.hostname") {
            "" => pod.text("metadata.name"),
            hostname => hostname,
        };
        SandboxSpec {
            uid: self.uid.clone(),
            name: pod.text("metadata.name").into(),
            namespace: pod.text("metadata.namespace").into(),
            attempt,
            hostname: hostname.chars().take(63).collect(),
            host_network: pod.at("spec.hostNetwork") == true,
            host_pid: pod.at("spec.hostPID") == true,
            host_ipc: pod.at("spec.hostIPC") == true,
            share_pid: pod.at("spec.shareProcessNamespace") == true,
            privileged: all().any(privileged),
            log_dir: log_dir(self.shared, &self.uid),
            dns: environment::dns(pod, &std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
            sysctls: pod.items("spec.securityContext.sysctls").iter().map(sysctl).collect(),
        }
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
            Action::StartSandbox { attempt } => match runtime.start_sandbox(&self.sandbox_spec(attempt)).await {
                Ok(_) => drop(self.memory.failures.remove("")),
                Err(error) => {
                    self.note(
                        "Warning",
                        "FailedCreatePodSandBox",
                        format!("Failed to create pod sandbox: {error}"),
                        "",
                    );
                    self.fail("", "SandboxError", error.to_string());
                }
            },
            Action::RemoveSandbox { id } => self.warn("removing a sandbox", runtime.remove_sandbox(&id).await),
            Action::StopSandbox { id } => self.warn("stopping a sandbox", runtime.stop_sandbox(&id).await),
            Action::RemoveContainer { id } => self.warn("removing a container", runtime.remove_container(&id).await),
            Action::StopContainer { .. } => self.stop(vec![action]).await,
            Action::StartContainer { name, attempt } => match self.start(&name, attempt, world).await {
                Ok(()) => drop(self.memory.failures.remove(&name)),
                Err((PULLING, _)) => return false,
                Err((reason, message)) => {
                    self.note("Warning", "Failed", format!("Error: {message}"), &name);
                    self.fail(&name, reason, message);
                }
            },
            Action::Probe { container, id, kind } => {
                let (spec, answers) = (self.container(&container), self.answers.clone());
                let ip = world.sandbox.as_ref().and_then(|s| s.ips.first().cloned());
                let ip = ip.unwrap_or_else(|| self.shared.options.node.address.clone());
                tokio::spawn(async move {
                    let answer = probe::ask(&*runtime, &spec, &id, kind, &ip).await;
                    drop(answers.send((container, id, kind, answer)).await);
                });
                return false;
            }
        }
        true
    }

    /// Stops containers side by side.
    async fn stop(&self, stops: Vec<Action>) {
        let runtime = &self.shared.options.runtime;
        let one = async |action: Action| {
            let Action::StopContainer { id, grace_s, .. } = action else { return };
            let grace = Duration::from_secs(u64::try_from(grace_s).unwrap_or(0));
            self.warn("stopping a container", runtime.stop_container(&id, grace).await);
        };
        futures::future::join_all(stops.into_iter().map(one)).await;
    }

    /// A failed clean-up is tried again by the next step, which still sees what is left.
    fn warn(&self, what: &str, result: Result<(), Error>) {
        if let Err(error) = result {
            tracing::warn!(pod = %self.uid, %error, "{what} failed");
        }
    }

    async fn start(&mut self, name: &str, attempt: u32, world: &World) -> Result<(), (&'static str, String)> {
        let runtime = self.shared.options.runtime.clone();
        let container = self.container(name);
        let image = container.text("image").to_string();
        let sandbox = world.sandbox.as_ref().ok_or(("RunContainerError", "the sandbox is gone".to_string()))?;
        let ip = sandbox.ips.first().cloned().unwrap_or_default();
        let address = self.shared.options.node.address.clone();
        let config = |message: String| ("CreateContainerConfigError", message);
        let env = environment::variables(&self.assignment, &container, &address, &ip).map_err(config)?;
        let mounts = match self.shared.options.can_mount {
            true => {
                let volumes = self.volumes();
                let mut mounts =
                    environment::mounts(&self.assignment, &container, &volumes, &address, &ip).map_err(config)?;
                let hosts = environment::hosts(&self.assignment.pod, &container, &volumes, &ip);
                mounts.extend(hosts.map_err(config)?);
                mounts
            }
            false => {
                if attempt == 0 && !container.items("volumeMounts").is_empty() {
                    let why = "the process runtime does not mount volumes; use the containerd runtime for that";
                    self.note("Warning", "VolumesNotMounted", why.into(), name);
                }
                Vec::new()
            }
        };
        let security = environment::security(&self.assignment.pod, &container).map_err(config)?;
        self.image(name, &image, container.text("imagePullPolicy")).await?;
        if environment::must_not_be_root(&self.assignment.pod, &container) && security.run_as_user.is_none() {
            let user = self.inspect(&image).await?.unwrap_or_default().user;
            environment::check_not_root(&user).map_err(config)?;
        }
        let words = |field: &str| -> Vec<String> {
            container.items(field).iter().map(|word| environment::expand(word.as_str().unwrap_or(""), &env)).collect()
        };
        let amount = |path: &str| Quantity::parse(container.text(path));
        let spec = ContainerSpec {
            name: name.into(),
            attempt,
            image: image.clone(),
            command: words("command"),
            args: words("args"),
            working_dir: container.text("workingDir").into(),
            mounts,
            log_file: log_file(name, attempt),
            cpu_request_milli: amount("resources.requests.cpu").map(Quantity::milli),
            cpu_limit_milli: amount("resources.limits.cpu").map(Quantity::milli),
            memory_limit: amount("resources.limits.memory").map(Quantity::value),
            oom_score_adj: environment::oom_score(
                &self.assignment.pod,
                &container,
                self.shared.options.node.machine.memory_bytes,
            ),
            tty: container.at("tty") == true,
            stdin: container.at("stdin") == true,
            stdin_once: container.at("stdinOnce") == true,
            env,
            ..security
        };
        let pod = self.sandbox_spec(sandbox.attempt);
        let started = runtime.start_container(&sandbox.id, &pod, &spec).await;
        started.map_err(|error| ("RunContainerError", error.to_string()))?;
        self.note("Normal", "Created", "Container created".into(), name);
        self.note("Normal", "Started", "Container started".into(), name);
        Ok(())
    }

    async fn inspect(&self, image: &str) -> Result<Option<Image>, (&'static str, String)> {
        let told = self.shared.options.runtime.image(image).await;
        told.map_err(|error| ("ImageInspectError", error.to_string()))
    }

    /// Starts pulling an image; the task is woken with the result.
    fn pull(&mut self, image: &str) {
        self.pulls.insert(image.into(), Pull { since: self.shared.now(), result: None });
        let (runtime, pulled) = (self.shared.options.runtime.clone(), self.pulled.clone());
        let image = image.to_string();
        tokio::spawn(async move {
            let result = match tokio::time::timeout(PULL_MAX, runtime.pull_image(&image)).await {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(_) => Err(format!("not pulled within {} s", PULL_MAX.as_secs())),
            };
            drop(pulled.send((image, result)).await);
        });
    }

    async fn image(&mut self, name: &str, image: &str, policy: &str) -> Result<(), (&'static str, String)> {
        let present = self.inspect(image).await?.is_some();
        match (policy, present) {
            ("Never", false) => {
                let message = format!("Container image {image:?} is not present with pull policy of Never");
                Err(("ErrImageNeverPull", message))
            }
            ("Never", true) | ("IfNotPresent", true) => {
                self.note("Normal", "Pulled", format!("Container image {image:?} already present on machine"), name);
                Ok(())
            }
            (_, present) => {
                let (since, pulled) = match self.pulls.remove(image) {
                    Some(Pull { since, result: Some(result) }) => (since, result),
                    Some(under_way) => {
                        self.pulls.insert(image.into(), under_way);
                        return Err((PULLING, String::new()));
                    }
                    None => {
                        self.note("Normal", "Pulling", format!("Pulling image {image:?}"), name);
                        self.pull(image);
                        return Err((PULLING, String::new()));
                    }
                };
                let took = self.shared.now().since_ms(since);
                match pulled {
                    Ok(()) => {
                        let message = format!("Successfully pulled image {image:?} in {took}ms");
                        self.note("Normal", "Pulled", message, name);
                        Ok(())
                    }
                    // `Always` means "ask for news"; an image that is here and cannot be asked about runs.
                    Err(error) if present => {
                        let message = format!(
                            "Container image {image:?} already present on machine; asking for a newer one failed: {error}"
                        );
                        self.note("Warning", "Pulled", message, name);
                        Ok(())
                    }
                    Err(error) => {
                        self.note("Warning", "Failed", format!("Failed to pull image {image:?}: {error}"), name);
                        Err(("ErrImagePull", error))
                    }
                }
            }
        }
    }
}
