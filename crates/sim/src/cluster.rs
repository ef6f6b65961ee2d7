//! The masters of a run: started, crashed, wiped, and asked by clients.

mod members;

use crate::chronicle::Chronicle;
use crate::disk::{Mount, Trip};
use crate::mix::{FEATURE_LEVEL, Mix, Weather};
use crate::network::{Host, Link, Network};
use crate::office::Office;
use crate::points::{Edge, Points, Subject};
use crate::trace::Trace;
use crate::workers::Workers;
use crate::{Twin, history};
use judge::{History, Span};
use objects::{KindId, Revision, Timestamp};
use parking_lot::Mutex;
use raft_node::{MemoryDisk, Node, Options, spawn_task};
use state::{Event, EventKind, ListError, Op, Txn, View};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;
use stdx::Rng;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// A client gives a request up after this; longer than the product's own deadline of 1.8 s.
const CLIENT_PATIENCE: Duration = Duration::from_secs(3);
/// The product must have answered by then: its deadline and a little.
const ANSWER_MAX: Duration = Duration::from_millis(2_000);
/// 2025-01-01, so that stamps look like stamps.
pub(crate) const EPOCH_MS: i64 = 1_735_689_600_000;

pub(crate) struct Cluster {
    pub(crate) mix: Mix,
    pub(crate) trace: Arc<Trace>,
    pub(crate) network: Arc<Network>,
    pub(crate) history: Mutex<History>,
    pub(crate) chronicle: Mutex<Chronicle>,
    pub(crate) workers: Workers,
    pub(crate) twin: Option<Twin>,
    /// What was found wrong on the way.
    pub(crate) problems: Mutex<Vec<String>>,
    started: Instant,
    disk_ms_max: Arc<AtomicU64>,
    /// Everything has been healed.
    calm: watch::Sender<bool>,
    rng: Mutex<Rng>,
    masters: Vec<Mutex<Master>>,
}

struct Master {
    id: u64,
    disk: Arc<MemoryDisk>,
    /// Its disk has no room.
    full: Arc<AtomicBool>,
    /// Half of a sync takes so long, at most; on top of what all disks take.
    slow_ms_max: Arc<AtomicU64>,
    skew_ms: Arc<AtomicI64>,
    /// What the build knows that it starts with next.
    feature_level: u32,
    n_boots: u64,
    /// Taken in as a member; a wiped master is not, until it has joined again.
    member: bool,
    state: State,
}

enum State {
    Down,
    Starting,
    Up(Up),
}

struct Up {
    boot: u64,
    node: Node,
    mount: Arc<Mount>,
    life: watch::Sender<bool>,
    /// Events up to here have been told to the history.
    told: Revision,
}

/// What a client learns of a request.
pub(crate) enum Asked<T> {
    Answered(T),
    /// It may have been carried out.
    Lost,
    /// Nothing was delivered.
    Down,
}

/// A short loss of power.
fn trip(cluster: Weak<Cluster>) -> impl Fn(usize) -> bool {
    move |i| {
        let Some(cluster) = cluster.upgrade() else { return false };
        let crashed = cluster.crash(i);
        if crashed {
            let back_in = Duration::from_millis(cluster.fork_rng().below(300));
            tokio::spawn(async move {
                sleep(back_in).await;
                cluster.start(i).await;
            });
        }
        crashed
    }
}

/// The events of a kind after `told`, or those that are left of them: a snapshot may have come in between, or more
/// entries at once than the history keeps. Others know the rest, or `dense` finds that nobody has told of it.
fn newest_events(view: &View, kind: KindId, told: Revision) -> Vec<Arc<Event>> {
    match view.events_after(kind, told) {
        Err(ListError::Compacted { oldest, .. }) => view.events_after(kind, oldest).unwrap_or_default(),
        events => events.unwrap_or_default(),
    }
}

/// A part of a sync, as drawn now. One that hangs when everything is healed ends then: seconds later its master would
/// hand over, in the midst of what is judged.
fn on_disk(pause: Duration, mut calm: watch::Receiver<bool>) -> impl Future<Output = ()> + Send {
    let is_calm = *calm.borrow();
    async move {
        match is_calm {
            true => sleep(pause).await,
            false => drop(timeout(pause, calm.wait_for(|calm| *calm)).await),
        }
    }
}

pub(crate) fn label(i: usize) -> String {
    format!("master-{i}")
}

impl Cluster {
    pub(crate) fn new(mix: Mix, mut rng: Rng, twin: Option<Twin>, printed: bool) -> Arc<Cluster> {
        let trace = Arc::new(Trace::new(printed));
        let master = |i: usize| Master {
            id: i as u64 + 1,
            disk: Arc::default(),
            full: Arc::default(),
            slow_ms_max: Arc::default(),
            skew_ms: Arc::new(AtomicI64::new(rng.below(mix.skew_ms_max + 1) as i64)),
            feature_level: mix.feature_level,
            n_boots: 0,
            member: false,
            state: State::Down,
        };
        let masters = (0..mix.n_masters).map(master).map(Mutex::new).collect();
        Arc::new_cyclic(|cluster: &Weak<Cluster>| Cluster {
            network: Network::new(
                mix.n_masters,
                trace.clone(),
                Rng::new(rng.next_u64()),
                Arc::new(Points::new(&mix.armed)),
                trip(cluster.clone()),
            ),
            workers: Workers::new(&mix, cluster.clone()),
            chronicle: Mutex::default(),
            mix,
            trace,
            history: Mutex::default(),
            twin,
            problems: Mutex::default(),
            started: Instant::now(),
            disk_ms_max: Arc::default(),
            calm: watch::Sender::new(false),
            rng: Mutex::new(rng),
            masters,
        })
    }

    pub(crate) fn n_masters(&self) -> usize {
        self.masters.len()
    }

    pub(crate) fn fork_rng(&self) -> Rng {
        Rng::new(self.rng.lock().next_u64())
    }

    /// How many of a thousand calls of a runtime fail, and how many ms one takes, at most.
    pub(crate) fn runtime_luck(&self) -> (u64, u64) {
        match *self.calm.borrow() {
            true => (0, 20),
            false => (self.mix.runtime_fails, self.mix.runtime_ms_max),
        }
    }

    /// No fault from here on: weather, disks, points and runtimes. Syncs that hang end.
    pub(crate) fn calm_down(&self) {
        self.calm.send_replace(true);
        self.network.points.arm(false);
        self.network.set_weather(Weather { delay_ms_max: 2, ..Weather::default() });
        self.set_disk_ms_max(2);
        for i in 0..self.n_masters() {
            self.set_full(i, false);
            self.set_slow(i, 0);
            self.network.stall(i, Instant::now());
        }
    }

    /// How long a disk takes for half a sync, at most.
    pub(crate) fn set_disk_ms_max(&self, ms: u64) {
        self.disk_ms_max.store(ms, Relaxed);
    }

    /// Something is wrong with the run; `invariant` names what does not hold.
    pub(crate) fn problem(&self, invariant: &str, what: String) {
        self.trace.note(format_args!("WRONG: {invariant}: {what}"));
        self.problems.lock().push(format!("{invariant}: {what}"));
    }

    /// A master that believes it leads.
    pub(crate) fn leader(&self) -> Option<usize> {
        let leads = |host: &Host| host.node.store().leadership().borrow().active.is_some();
        self.network.up().iter().find(|(_, host)| leads(host)).map(|(i, _)| *i)
    }

    pub(crate) fn is_down(&self, i: usize) -> bool {
        matches!(self.masters[i].lock().state, State::Down)
    }

    /// Starts a master that is down.
    pub(crate) async fn start(self: &Arc<Self>, i: usize) {
        let (options, mount, boot) = {
            let mut master = self.masters[i].lock();
            if !matches!(master.state, State::Down) {
                return;
            }
            master.state = State::Starting;
            master.n_boots += 1;
            let trip: Trip = {
                let network = self.network.clone();
                Box::new(move |point| network.pass(i, point.0, point.1))
            };
            let mount = Mount::new(master.disk.clone(), self.twin, master.full.clone(), trip);
            let boot = master.n_boots;
            (self.options(&master, i, mount.clone()), mount, boot)
        };
        let (options, life) = options;
        let clock = options.clock.clone();
        self.trace.note(format_args!("{} starts, id {}, boot {boot}", label(i), options.node_id));
        let node = match Node::start(options).await {
            Ok(node) => node,
            Err(error) => {
                // It has a full disk, as was ordered, or is wrong.
                if !mount.was_failed() {
                    self.problem("start", format!("{} cannot start: {error:?}", label(i)));
                }
                self.masters[i].lock().state = State::Down;
                let cluster = self.clone();
                tokio::spawn(async move {
                    sleep(Duration::from_millis(500)).await;
                    cluster.start_again(i).await;
                });
                return;
            }
        };
        // Entries may have been applied already: only what the checkpoint held is known from before.
        let view = node.store().view();
        let told = match view.events_after(crate::KINDS[0], Revision(0)) {
            Ok(_) => Revision(0),
            Err(ListError::Compacted { oldest, .. }) => oldest,
            Err(ListError::Future { .. }) => view.revision(),
        };
        let office = (self.mix.n_workers > 0).then(|| Office::open(self, i, &node, clock));
        node.serve();
        let host = Host::new(boot, node.clone(), office.clone(), life.subscribe());
        self.network.join(i, host.clone());
        self.masters[i].lock().state = State::Up(Up { boot, node, mount, life, told });
        if let Some(office) = office {
            tokio::spawn(office.keep(host.clone()));
        }
        tokio::spawn(members::end_changes(host.clone()));
        tokio::spawn(self.clone().record(i, host.clone()));
        tokio::spawn(self.clone().supervise(i, host));
    }

    fn options(self: &Arc<Self>, master: &Master, i: usize, mount: Arc<Mount>) -> (Options, watch::Sender<bool>) {
        let (started, skew_ms) = (self.started, master.skew_ms.clone());
        let life = watch::Sender::new(false);
        let (mut rng, pause_ms_max, slow_ms_max) =
            (self.fork_rng(), self.disk_ms_max.clone(), master.slow_ms_max.clone());
        let (network, calm) = (self.network.clone(), self.calm.subscribe());
        let pauses = move || {
            let most = pause_ms_max.load(Relaxed) + slow_ms_max.load(Relaxed);
            let [before, after] = [(); 2].map(|()| Duration::from_millis(rng.below(most + 1)));
            [before + network.stalled_for(i), after].map(|pause| on_disk(pause, calm.clone()))
        };
        let options = Options {
            cluster_id: "sim".into(),
            node_id: master.id,
            name: label(i),
            profile: self.mix.profile,
            checkpoints: self.mix.checkpoints,
            seed: self.fork_rng().next_u64(),
            disk: mount,
            transport: Arc::new(Link { network: self.network.clone(), from: i, life: life.subscribe() }),
            spawn_writer: spawn_task(pauses),
            feature_level: master.feature_level,
            clock: Arc::new(move || Timestamp(EPOCH_MS + skew_ms.load(Relaxed) + started.elapsed().as_millis() as i64)),
        };
        (options, life)
    }

    /// Power loss, at once: nothing more is sent, answered or written. Returns whether it was up.
    pub(crate) fn crash(&self, i: usize) -> bool {
        self.tell(i);
        let mut master = self.masters[i].lock();
        let up = match std::mem::replace(&mut master.state, State::Down) {
            State::Up(up) => up,
            other => {
                master.state = other;
                return false;
            }
        };
        self.network.leave(i);
        up.life.send_replace(true);
        let mut rng = self.fork_rng();
        up.mount.cut_power(|n_unsynced| rng.below(n_unsynced as u64 + 1) as usize);
        if self.twin == Some(Twin::Amnesia) {
            master.disk = Arc::default();
        }
        self.trace.note(format_args!("{} is gone", label(i)));
        // What is left of the boot reaches neither network nor disk; this only frees its tasks.
        tokio::spawn(async move { up.node.shutdown().await });
        true
    }

    /// Takes the disk of a master that is down, and its id with it: the next boot is a new member.
    pub(crate) fn wipe(&self, i: usize) {
        let mut master = self.masters[i].lock();
        master.disk = Arc::default();
        master.id += 100;
        master.member = false;
        self.trace.note(format_args!("{} has lost its disk", label(i)));
    }

    /// Installs the newest build, which runs from the next start on.
    pub(crate) fn install(&self, i: usize) {
        self.trace.note(format_args!("{} gets the newest build", label(i)));
        self.masters[i].lock().feature_level = FEATURE_LEVEL;
    }

    pub(crate) fn fail_next_write(&self, i: usize, reached: bool) {
        if let State::Up(up) = &self.masters[i].lock().state {
            up.mount.fail_next_write(reached);
        }
    }

    /// Tells the history what a master has applied since the last time.
    pub(crate) fn tell(&self, i: usize) {
        let mut master = self.masters[i].lock();
        let State::Up(up) = &mut master.state else { return };
        let view = up.node.store().view();
        if view.revision() < up.told {
            let (told, now) = (up.told, view.revision());
            self.problem("history", format!("{} went back from revision {told} to {now}", label(i)));
        }
        let mut events = Vec::new();
        for kind in objects::kinds() {
            events.extend(newest_events(&view, kind.id, up.told));
        }
        events.sort_by_key(|event| event.revision);
        for event in &events {
            let now = self.trace.note(format_args!("{} applied {} {}", label(i), event.revision, event.key));
            self.chronicle.lock().learn(&label(i), event, self.trace.now_ms());
            if history::is_clients(&event.key) {
                let span = Span::at(now);
                self.history.lock().learn(&label(i), event.revision.0, history::fact(event), span);
            }
        }
        up.told = view.revision();
        drop(master);
        for event in events {
            let subject = match event.kind() {
                EventKind::Added => Subject::Creation,
                EventKind::Modified => Subject::Change,
                EventKind::Deleted => Subject::Deletion,
            };
            if self.network.pass(i, subject, Edge::After) {
                return;
            }
        }
    }

    /// Sets a master's clock, ahead or back.
    pub(crate) fn set_clock(&self, i: usize, rng: &mut Rng) {
        let skew_ms = rng.below(self.mix.jump_ms_max) as i64;
        self.trace.note(format_args!("{} has its clock {skew_ms} ms ahead", label(i)));
        self.masters[i].lock().skew_ms.store(skew_ms, Relaxed);
    }

    /// The planted fault `LostUpdate`: updates assume whatever stands there.
    pub(crate) fn assume_the_present(&self, i: usize, txn: &mut Txn) {
        let Some(host) = self.network.host(i) else { return };
        let view = host.node.store().view();
        for op in &mut txn.ops {
            if let Op::Update { key, assumed, .. } = op {
                *assumed = view.get(key).map_or(*assumed, |record| record.header.revision);
            }
        }
    }

    pub(crate) fn set_full(&self, i: usize, full: bool) {
        self.masters[i].lock().full.store(full, Relaxed);
    }

    pub(crate) fn set_slow(&self, i: usize, ms_max: u64) {
        self.masters[i].lock().slow_ms_max.store(ms_max, Relaxed);
    }

    async fn record(self: Arc<Self>, i: usize, host: Host) {
        let mut revisions = host.node.store().revisions();
        loop {
            tokio::select! {
                biased;
                () = host.ended() => return,
                news = revisions.changed() => if news.is_err() { return },
            }
            self.tell(i);
        }
    }

    /// A master whose consensus has stopped ends and is started again, as its service manager would.
    async fn supervise(self: Arc<Self>, i: usize, host: Host) {
        let why = tokio::select! {
            biased;
            () = host.ended() => return,
            why = host.node.failed() => why,
        };
        let expected = {
            let master = self.masters[i].lock();
            // Of who is taken out, those that stay do not ask what its build knows.
            let is_outgrown = !master.member && why.to_string().contains("is of feature level");
            match &master.state {
                State::Up(up) if up.boot == host.boot => up.mount.was_failed() || is_outgrown,
                State::Up(_) | State::Starting | State::Down => return,
            }
        };
        self.trace.note(format_args!("{} stopped: {why}", label(i)));
        if !expected {
            self.problem("stopped", format!("{} stopped by itself: {why}", label(i)));
        }
        self.crash(i);
        sleep(Duration::from_millis(500)).await;
        self.start_again(i).await;
    }

    /// `start`, which supervises, which starts: the compiler needs a type with a name in between.
    fn start_again(self: Arc<Self>, i: usize) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move { self.start(i).await })
    }

    /// Asks a master over a client's link, which delays and loses but is never cut.
    pub(crate) async fn ask<T, F>(
        self: &Arc<Self>,
        i: usize,
        patience: Duration,
        question: impl FnOnce(Host) -> F + Send + 'static,
    ) -> Asked<T>
    where
        F: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        if self.network.host(i).is_none() {
            return Asked::Down;
        }
        let asked = timeout(patience.min(CLIENT_PATIENCE), async {
            if !self.network.cross().await {
                std::future::pending::<()>().await;
            }
            self.network.thaw(i).await;
            if self.network.pass(i, Subject::Client, Edge::Received) {
                return None;
            }
            let host = self.network.host(i)?;
            // A task of its own: the master works on when the client has given up.
            let answering = tokio::spawn(self.clone().answer(i, host, question));
            let answer = answering.await.ok()??;
            if self.network.pass(i, Subject::Client, Edge::After) {
                return None;
            }
            self.network.pass(i, Subject::Client, Edge::Replied);
            self.network.thaw(i).await;
            if !self.network.cross().await {
                std::future::pending::<()>().await;
            }
            Some(answer)
        });
        match asked.await {
            Ok(Some(answer)) => Asked::Answered(answer),
            Ok(None) | Err(_) => Asked::Lost,
        }
    }

    async fn answer<T, F: Future<Output = T>>(
        self: Arc<Self>,
        i: usize,
        host: Host,
        question: impl FnOnce(Host) -> F,
    ) -> Option<T> {
        let asked = Instant::now();
        let answer = tokio::select! {
            biased;
            () = host.ended() => return None,
            answer = question(host.clone()) => answer,
        };
        // What the front does may take several of the store's answers.
        if host.office.is_none() && asked.elapsed() > ANSWER_MAX {
            self.problem("deadline", format!("{} took {:?} to answer", label(i), asked.elapsed()));
        }
        self.tell(i);
        Some(answer)
    }
}
