//! The workers of a run: the agent as it ships, over a hollow runtime, with sessions that are carried by
//! hand: delayed, cut, and late.

use crate::Twin;
use crate::cluster::Cluster;
use crate::hollow::{Hollow, Machine};
use crate::mix::Mix;
use crate::network::{Host, KEEP_ALIVE};
use crate::points::{Edge, Subject};
use agent::{Incoming, Masters, NodeOptions};
use async_trait::async_trait;
use futures::StreamExt;
use objects::{Key, Timestamp, registry};
use parking_lot::Mutex;
use protos::dispatch as pb;
use protos::dispatch::{from_worker, to_worker};
use runtime::SandboxInfo;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;
use stdx::Rng;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// What was on its way when the worker gave a connection up comes up to so much later, or never.
const LATE_MS_MAX: u64 = 8_000;
/// Thousandths of a CPU that each node offers to pods.
pub(crate) const CPU_MILLI: i64 = 2_500;
/// Where a node lies; every second one lies elsewhere.
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";
pub(crate) const ZONES: [&str; 2] = ["a", "b"];
/// Keeps those away that do not tolerate it, in runs with rules about places.
pub(crate) const DEDICATED: &str = "sim/dedicated";
/// The node with that taint, where there are so many: three are left for everybody, in both zones.
const DEDICATED_WORKER: usize = 3;
/// What a worker keeps for its next boot: a file that is synced, and a folder of files that are not.
const KEPT_FILE: &str = "epoch";
const KEPT_FOLDER: &str = "assignments";
/// Messages in each direction of a session.
const MESSAGES_MAX: usize = 64;

pub(crate) struct Workers {
    cluster: Weak<Cluster>,
    workers: Vec<Mutex<Worker>>,
    started: Instant,
}

struct Worker {
    machine: Arc<Machine>,
    n_boots: u64,
    /// Its machine started again since its last boot.
    lost_power: bool,
    /// Sends true when the boot ends; `None` while it is down.
    life: Option<watch::Sender<bool>>,
}

pub(crate) fn label(worker: usize) -> String {
    format!("worker-{worker}")
}

/// Files of this run. The process is the run's own.
pub(crate) fn folder() -> PathBuf {
    std::env::temp_dir().join(format!("balsa-sim-{}", std::process::id()))
}

/// Copies what a worker kept to the folder of its next boot. A power loss leaves some of what was not synced empty.
fn carry_over(from: &Path, to: &Path, mut power_loss: Option<&mut Rng>) -> io::Result<()> {
    std::fs::create_dir_all(to.join(KEPT_FOLDER))?;
    if from.join(KEPT_FILE).exists() {
        std::fs::copy(from.join(KEPT_FILE), to.join(KEPT_FILE))?;
    }
    let mut names = match from.join(KEPT_FOLDER).exists() {
        true => std::fs::read_dir(from.join(KEPT_FOLDER))?.collect::<io::Result<Vec<_>>>()?,
        false => Vec::new(),
    };
    names.sort_by_key(|entry| entry.file_name());
    for entry in names {
        let to = to.join(KEPT_FOLDER).join(entry.file_name());
        match power_loss.as_mut().is_some_and(|rng| rng.chance(3, 10)) {
            true => std::fs::write(to, "")?,
            false => drop(std::fs::copy(entry.path(), to)?),
        }
    }
    Ok(())
}

impl Workers {
    pub(crate) fn new(mix: &Mix, cluster: Weak<Cluster>) -> Workers {
        let worker = |_| Mutex::new(Worker { machine: Arc::default(), n_boots: 0, lost_power: false, life: None });
        Workers { cluster, workers: (0..mix.n_workers).map(worker).collect(), started: Instant::now() }
    }

    pub(crate) fn len(&self) -> usize {
        self.workers.len()
    }

    /// The workers' clocks are right.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(crate::cluster::EPOCH_MS + self.started.elapsed().as_millis() as i64)
    }

    /// What each machine runs.
    pub(crate) fn worlds(&self) -> Vec<(String, Vec<SandboxInfo>)> {
        let world = |(i, worker): (usize, &Mutex<Worker>)| (label(i), worker.lock().machine.sandboxes());
        self.workers.iter().enumerate().map(world).collect()
    }

    /// Whether a pod runs on another machine than this.
    pub(crate) fn runs_elsewhere(&self, worker: usize, uid: &str) -> bool {
        let here = label(worker);
        let running = |c: &runtime::ContainerInfo| matches!(c.state, runtime::ContainerState::Running { .. });
        let worlds = self.worlds();
        let others = worlds.iter().filter(|(name, _)| *name != here).flat_map(|(_, sandboxes)| sandboxes);
        others.filter(|sandbox| sandbox.uid == uid).any(|sandbox| sandbox.containers.iter().any(running))
    }

    /// Passes a point on a worker; true when its process has just ended.
    pub(crate) fn pass(&self, worker: usize, subject: Subject, edge: Edge) -> bool {
        let Some(cluster) = self.cluster.upgrade() else { return false };
        let fires = cluster.network.points.pass(crate::points::Point(subject, edge));
        if fires && self.crash(worker) {
            cluster.trace.note(format_args!("{} ends at {subject:?}.{edge:?}", label(worker)));
            let back_in = Duration::from_millis(cluster.fork_rng().below(1_000));
            tokio::spawn(async move {
                sleep(back_in).await;
                cluster.workers.start(worker);
            });
            return true;
        }
        false
    }

    /// The worker's process ends; its containers go on. Returns whether it was up.
    pub(crate) fn crash(&self, worker: usize) -> bool {
        let life = self.workers[worker].lock().life.take();
        life.is_some_and(|life| {
            life.send_replace(true);
            true
        })
    }

    /// The machine starts again; its worker is down until `start`.
    pub(crate) fn reboot(&self, worker: usize) -> bool {
        let was_up = self.crash(worker);
        let mut worker = self.workers[worker].lock();
        worker.machine.reboot();
        worker.lost_power = true;
        was_up
    }

    pub(crate) fn exit_one(&self, worker: usize, rng: &mut Rng) -> Option<String> {
        let machine = self.workers[worker].lock().machine.clone();
        machine.exit_one(rng, self.now())
    }

    /// Starts a worker that is down.
    pub(crate) fn start(&self, worker: usize) {
        let Some(cluster) = self.cluster.upgrade() else { return };
        let (life, boot, lost_power, machine) = {
            let mut state = self.workers[worker].lock();
            if state.life.is_some() {
                return;
            }
            let life = watch::Sender::new(false);
            let ended = life.subscribe();
            state.life = Some(life);
            state.n_boots += 1;
            (ended, state.n_boots, std::mem::take(&mut state.lost_power), state.machine.clone())
        };
        // What is left of an earlier boot still holds its folder: each has its own, and begins with what the
        // last one kept of its masters.
        let dir = |boot: u64| folder().join(label(worker)).join(boot.to_string());
        let mut rng = cluster.fork_rng();
        if let Err(error) = carry_over(&dir(boot - 1), &dir(boot), lost_power.then_some(&mut rng)) {
            return cluster.problem("folder", format!("{} has no folder: {error}", label(worker)));
        }
        cluster.trace.note(format_args!("{} starts, boot {boot}", label(worker)));
        let hollow = Hollow {
            machine,
            cluster: self.cluster.clone(),
            worker,
            life: life.clone(),
            rng: Mutex::new(Rng::new(rng.next_u64())),
            twin: cluster.twin,
        };
        let node = NodeOptions {
            name: label(worker),
            address: format!("10.0.0.{}", worker + 1),
            labels: [(ZONE.to_string(), ZONES[worker % ZONES.len()].to_string())].into(),
            taints: match cluster.mix.has_places && worker == DEDICATED_WORKER {
                true => vec![(DEDICATED.into(), "yes".into(), "NoSchedule".into())],
                false => Vec::new(),
            },
            reserved_cpu_milli: 3_000 - CPU_MILLI,
            pods_max: 20,
            machine: agent::Machine { n_cpus: 3, memory_bytes: 8 << 30, ..agent::Machine::default() },
            ..NodeOptions::default()
        };
        let wires = Wires { cluster: self.cluster.clone(), worker, life: life.clone() };
        let weak = self.cluster.clone();
        let options = agent::Options {
            node,
            addresses: (0..cluster.n_masters()).map(|i| i.to_string()).collect(),
            masters: Arc::new(wires),
            dir: dir(boot),
            runtime: Arc::new(hollow),
            images: podlife::Thresholds::default(),
            can_mount: false,
            network: None,
            clock: Arc::new(move || weak.upgrade().map(|cluster| cluster.workers.now()).unwrap_or_default()),
            boot_id: rng.uuid(),
        };
        let mut ended = life.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = async { drop(ended.wait_for(|over| *over).await) } => {}
                () = agent::run(options, life) => {}
            }
        });
    }
}

/// One boot's way to the masters.
struct Wires {
    cluster: Weak<Cluster>,
    worker: usize,
    life: watch::Receiver<bool>,
}

/// Both ends of a session and what lies between.
#[derive(Clone)]
struct Wire {
    cluster: Arc<Cluster>,
    worker: usize,
    master: usize,
    host: Host,
    life: watch::Receiver<bool>,
    line: watch::Sender<Line>,
}

/// What is left of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Whole,
    /// The worker has given it up. The master does not know: something is still on its way up.
    Half,
    Broken,
}

/// What comes up to a master.
struct Up {
    message: pb::FromWorker,
    /// The worker has given the connection up meanwhile.
    is_late: bool,
}

#[async_trait]
impl Masters for Wires {
    async fn session(
        &self,
        address: &str,
        outgoing: mpsc::Receiver<pb::FromWorker>,
    ) -> Result<Incoming<pb::ToWorker>, Status> {
        let Some(cluster) = self.cluster.upgrade().filter(|_| !*self.life.borrow()) else {
            return std::future::pending().await;
        };
        let master: usize = address.parse().map_err(|_| Status::unavailable("no such master"))?;
        if cluster.network.is_away(self.worker, master) || !cluster.network.cross().await {
            sleep(Duration::from_secs(1)).await;
            return Err(Status::unavailable("the connection timed out"));
        }
        let refused = || Status::unavailable("connection refused");
        let host = cluster.network.host(master).ok_or_else(refused)?;
        let dispatch = host.office.as_ref().map(|office| office.dispatch.clone()).ok_or_else(refused)?;
        let (to_master, at_master) = mpsc::channel(MESSAGES_MAX);
        let (to_worker, at_worker) = mpsc::channel(MESSAGES_MAX);
        let line = watch::Sender::new(Line::Whole);
        let wire = Wire { cluster, worker: self.worker, master, host, life: self.life.clone(), line };
        tokio::spawn(wire.clone().carry_up(outgoing, to_master));
        let (answer, answered) = tokio::sync::oneshot::channel();
        let taken = {
            let wire = wire.clone();
            ReceiverStream::new(at_master).map(move |up| Ok(wire.taken(up)))
        };
        // The master's side is a task of its own: it goes on when the worker is gone.
        tokio::spawn(async move {
            let opened = tokio::select! {
                biased;
                () = wire.host.ended() => return,
                opened = dispatch.open(label(wire.worker), taken) => opened,
            };
            match opened {
                Ok(down) => {
                    drop(answer.send(Ok(())));
                    wire.carry_down(down, to_worker).await;
                }
                Err(status) => drop(answer.send(Err(status))),
            }
        });
        match answered.await {
            Ok(Ok(())) => Ok(Box::pin(ReceiverStream::new(at_worker))),
            Ok(Err(status)) => Err(status),
            Err(_) => Err(Status::unavailable("the connection broke")),
        }
    }

    async fn stream(&self, _: &str, _: mpsc::Receiver<pb::Frame>) -> Result<Incoming<pb::Frame>, Status> {
        Err(Status::unavailable("the simulator has no streams"))
    }
}

impl Wire {
    /// Waits until either machine is no more.
    async fn machine_ended(&self) {
        let mut life = self.life.clone();
        tokio::select! {
            biased;
            () = self.host.ended() => {}
            _ = async { drop(life.wait_for(|over| *over).await) } => {}
        }
    }

    /// Waits until either machine, or the connection, is no more.
    async fn ended(&self) {
        let mut line = self.line.subscribe();
        tokio::select! {
            biased;
            () = self.machine_ended() => {}
            _ = async { drop(line.wait_for(|line| *line != Line::Whole).await) } => {}
        }
    }

    /// One message's way; false when the connection broke under it.
    async fn travel(&self, what: &str, up: bool) -> bool {
        let network = &self.cluster.network;
        let arrived = network.cross().await && !network.is_away(self.worker, self.master);
        network.thaw(self.master).await;
        let arrow = if up { '>' } else { '<' };
        let lost = if arrived { "" } else { " lost" };
        self.cluster.trace.note(format_args!("{}{arrow}{}{lost} {what}", label(self.worker), self.master));
        arrived
    }

    /// The worker gives the connection up, and the master too unless half of it is left. What the other direction
    /// made of it meanwhile stays: a master whose answers got lost too does not know any sooner.
    async fn give_up(&self, left: Line) {
        sleep(KEEP_ALIVE).await;
        self.line.send_if_modified(|line| {
            let was_whole = *line == Line::Whole;
            if was_whole {
                *line = left;
            }
            was_whole
        });
    }

    /// A master's session takes a message in.
    fn taken(&self, up: Up) -> pb::FromWorker {
        if up.is_late {
            let (what, _) = up_name(&up.message);
            self.cluster.trace.note(format_args!("{}>{} late {what}", label(self.worker), self.master));
        }
        let mut message = up.message;
        if self.cluster.twin == Some(Twin::Namesake)
            && let Some(from_worker::Message::PodStatus(status)) = &mut message.message
            && let view = self.host.node.store().view()
            && let Some(pod) = view.get(&Key::new(registry::POD, &status.namespace, &status.name))
        {
            status.uid = pod.header.uid.to_string();
        }
        message
    }

    async fn carry_up(self, mut outgoing: mpsc::Receiver<pb::FromWorker>, to_master: mpsc::Sender<Up>) {
        loop {
            let next = tokio::select! {
                biased;
                () = self.ended() => None,
                message = outgoing.recv() => message,
            };
            let Some(message) = next else { return };
            let (what, subject) = up_name(&message);
            if self.loses_power_sending(subject) {
                return;
            }
            if !self.travel(what, true).await {
                return self.come_late(message, outgoing, to_master).await;
            }
            if let Some(subject) = subject
                && self.cluster.network.pass(self.master, subject, Edge::Received)
            {
                return;
            }
            if self.cluster.twin == Some(Twin::Forgotten)
                && let Some(from_worker::Message::PodStatus(status)) = &message.message
                && status.sequence > 1
            {
                continue;
            }
            if to_master.send(Up { message, is_late: false }).await.is_err() {
                self.line.send_replace(Line::Broken);
                return;
            }
        }
    }

    fn loses_power_sending(&self, subject: Option<Subject>) -> bool {
        subject.is_some_and(|subject| self.cluster.workers.pass(self.worker, subject, Edge::Sent))
    }

    /// Nothing goes up any more. What the worker sends until it gives up, `first` before all, may still come, all of
    /// it and in its order, after the worker has gone elsewhere.
    async fn come_late(
        self,
        first: pb::FromWorker,
        mut outgoing: mpsc::Receiver<pb::FromWorker>,
        to_master: mpsc::Sender<Up>,
    ) {
        let late_ms = { self.cluster.fork_rng().below(2 * LATE_MS_MAX) };
        let comes = late_ms < LATE_MS_MAX;
        let mut under_way = vec![first];
        {
            let mut given_up = pin!(self.give_up(if comes { Line::Half } else { Line::Broken }));
            loop {
                let next = tokio::select! {
                    biased;
                    () = self.machine_ended() => return,
                    () = &mut given_up => break,
                    next = outgoing.recv(), if under_way.len() < MESSAGES_MAX => next,
                };
                let Some(message) = next else { break given_up.await };
                if self.loses_power_sending(up_name(&message).1) {
                    return;
                }
                under_way.push(message);
            }
        }
        if !comes {
            return;
        }
        tokio::select! {
            biased;
            () = self.machine_ended() => return,
            () = sleep(Duration::from_millis(late_ms)) => {}
        }
        // A master that has ended the session meanwhile takes nothing in. Otherwise this is the last that it takes:
        // the end of the stream follows.
        for message in under_way {
            if to_master.send(Up { message, is_late: true }).await.is_err() {
                return;
            }
        }
    }

    async fn carry_down(
        self,
        mut down: mpsc::Receiver<Result<pb::ToWorker, Status>>,
        to_worker: mpsc::Sender<Result<pb::ToWorker, Status>>,
    ) {
        loop {
            let next = tokio::select! {
                biased;
                () = self.ended() => None,
                message = down.recv() => message,
            };
            let Some(message) = next else { break };
            let (what, subject) = down_name(&message);
            if let Some(subject) = subject
                && self.cluster.network.pass(self.master, subject, Edge::Sent)
            {
                return;
            }
            if !self.travel(what, false).await {
                self.give_up(Line::Broken).await;
                break;
            }
            if let Some(subject) = subject
                && self.cluster.workers.pass(self.worker, subject, Edge::Received)
            {
                return;
            }
            if to_worker.send(self.planted(message)).await.is_err() {
                self.line.send_replace(Line::Broken);
                break;
            }
        }
        // This ends the worker's side.
        drop(to_worker);
        // The master's side ends with `down`: not before it has taken in what is late, or has given the worker up.
        if *self.line.borrow() == Line::Half {
            tokio::select! {
                biased;
                () = self.machine_ended() => {}
                () = async { while down.recv().await.is_some() {} } => {}
            }
        }
    }

    fn planted(&self, mut message: Result<pb::ToWorker, Status>) -> Result<pb::ToWorker, Status> {
        if self.cluster.twin == Some(Twin::Silent)
            && let Ok(pb::ToWorker { message: Some(to_worker::Message::Assignments(assignments)) }) = &mut message
        {
            assignments.removed.clear();
            assignments.complete = false;
        }
        message
    }
}

fn up_name(message: &pb::FromWorker) -> (&'static str, Option<Subject>) {
    match &message.message {
        Some(from_worker::Message::Hello(_)) => ("hello", Some(Subject::Hello)),
        Some(from_worker::Message::PodStatus(_)) => ("pod status", Some(Subject::Status)),
        Some(from_worker::Message::NodeStatus(_)) => ("node status", None),
        Some(from_worker::Message::Event(_)) => ("event", None),
        Some(from_worker::Message::Heartbeat(_)) => ("beat", None),
        None => ("nothing", None),
    }
}

fn down_name(message: &Result<pb::ToWorker, Status>) -> (&'static str, Option<Subject>) {
    match message.as_ref().map(|message| &message.message) {
        Ok(Some(to_worker::Message::Assignments(_))) => ("assignments", Some(Subject::Assignments)),
        Ok(Some(to_worker::Message::Ack(_))) => ("ack", Some(Subject::Ack)),
        Ok(Some(to_worker::Message::Peers(_))) => ("peers", None),
        Ok(Some(to_worker::Message::OpenStream(_))) => ("stream", None),
        Ok(None) | Err(_) => ("nothing", None),
    }
}
