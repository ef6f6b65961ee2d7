//! The network between the masters: delays, loses, doubles, reorders and cuts.

use crate::connection;
use crate::mix::Weather;
use crate::office::Office;
use crate::points::{Edge, Point, Points, Subject};
use crate::trace::Trace;
use async_trait::async_trait;
use futures::StreamExt;
use futures::channel::mpsc::Receiver;
use futures::stream::{self, BoxStream};
use parking_lot::Mutex;
use protos::raft as pb;
use raft_node::{Changes, Error, Lane, Node, PeerReply, PeerRequest, Transport, TransportError};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use stdx::Rng;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

/// A late message takes up to this: several election timeouts, so that it can arrive in a later term.
pub(crate) const LATE_MS_MAX: u64 = 2_000;

/// Nobody tells a caller of a loss, until its connection's pings stay unanswered (`TonicTransport`
/// pings every second and waits for two).
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(3);

pub(crate) struct Network {
    pub(crate) trace: Arc<Trace>,
    pub(crate) points: Arc<Points>,
    /// Takes a master's power.
    trip: Box<dyn Fn(usize) -> bool + Send + Sync>,
    /// Nothing comes into or out of a master before then.
    stalled: watch::Sender<BTreeMap<usize, Instant>>,
    inner: Mutex<Inner>,
}

struct Inner {
    rng: Rng,
    weather: Weather,
    /// (from, to), one way: how many cuts lie across it.
    cut: BTreeMap<(usize, usize), u32>,
    /// (worker, master): how many cuts lie between them.
    away: BTreeMap<(usize, usize), u32>,
    /// By master; `None` while it is down.
    hosts: Vec<Option<Host>>,
}

/// A master that is up.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) boot: u64,
    pub(crate) node: Node,
    pub(crate) changes: Arc<Changes>,
    /// What runs beside consensus; absent where only the store is played.
    pub(crate) office: Option<Office>,
    /// Turns true when this boot ends.
    life: watch::Receiver<bool>,
}

impl Host {
    pub(crate) fn new(boot: u64, node: Node, office: Option<Office>, life: watch::Receiver<bool>) -> Host {
        let changes = Arc::new(Changes::new(node.clone()));
        Host { boot, node, changes, office, life }
    }

    pub(crate) fn is_over(&self) -> bool {
        *self.life.borrow()
    }

    /// Returns when this boot is over.
    pub(crate) async fn ended(&self) {
        let mut life = self.life.clone();
        // An error says that the sender is gone, which is the same news.
        drop(life.wait_for(|over| *over).await);
    }
}

impl Network {
    pub(crate) fn new(
        n_masters: usize,
        trace: Arc<Trace>,
        rng: Rng,
        points: Arc<Points>,
        trip: impl Fn(usize) -> bool + Send + Sync + 'static,
    ) -> Arc<Network> {
        let hosts = vec![None; n_masters];
        let (cut, away, stalled) = Default::default();
        let inner = Inner { rng, weather: Weather::default(), cut, away, hosts };
        Arc::new(Network { trace, points, trip: Box::new(trip), stalled, inner: Mutex::new(inner) })
    }

    pub(crate) fn join(&self, master: usize, host: Host) {
        self.inner.lock().hosts[master] = Some(host);
    }

    pub(crate) fn leave(&self, master: usize) {
        self.inner.lock().hosts[master] = None;
    }

    pub(crate) fn host(&self, master: usize) -> Option<Host> {
        self.inner.lock().hosts[master].clone()
    }

    /// The masters that are up.
    pub(crate) fn up(&self) -> Vec<(usize, Host)> {
        let inner = self.inner.lock();
        inner.hosts.iter().enumerate().filter_map(|(i, host)| Some((i, host.clone()?))).collect()
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.inner.lock().weather = weather;
    }

    pub(crate) fn cut(&self, links: &[(usize, usize)]) {
        let cut = &mut self.inner.lock().cut;
        links.iter().for_each(|link| *cut.entry(*link).or_default() += 1);
    }

    pub(crate) fn mend(&self, links: &[(usize, usize)]) {
        let cut = &mut self.inner.lock().cut;
        links.iter().for_each(|link| *cut.entry(*link).or_default() -= 1);
    }

    /// Cuts a worker off from masters, or mends that.
    pub(crate) fn cut_worker(&self, worker: usize, masters: &[usize]) {
        let away = &mut self.inner.lock().away;
        masters.iter().for_each(|master| *away.entry((worker, *master)).or_default() += 1);
    }

    pub(crate) fn mend_worker(&self, worker: usize, masters: &[usize]) {
        let away = &mut self.inner.lock().away;
        masters.iter().for_each(|master| *away.entry((worker, *master)).or_default() -= 1);
    }

    pub(crate) fn is_away(&self, worker: usize, master: usize) -> bool {
        self.inner.lock().away.get(&(worker, master)).is_some_and(|n_cuts| *n_cuts > 0)
    }

    /// Holds everything that goes into or out of a master until then.
    pub(crate) fn stall(&self, master: usize, until: Instant) {
        self.stalled.send_modify(|stalled| _ = stalled.insert(master, until));
    }

    /// How long a master is held still.
    pub(crate) fn stalled_for(&self, master: usize) -> Duration {
        let until = self.stalled.borrow().get(&master).copied();
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// Waits until a master is held still no more, also when that is ended before its time.
    pub(crate) async fn thaw(&self, master: usize) {
        let mut stalled = self.stalled.subscribe();
        loop {
            let left = self.stalled_for(master);
            if left.is_zero() {
                return;
            }
            drop(timeout(left, stalled.changed()).await);
        }
    }

    /// Passes a point on a master; true when it has just lost its power.
    pub(crate) fn pass(&self, master: usize, subject: Subject, edge: Edge) -> bool {
        let point = Point(subject, edge);
        if !self.points.pass(point) {
            return false;
        }
        self.trace.note(format_args!("{master} loses power at {point}"));
        (self.trip)(master)
    }

    /// Draws how a message fares: `None` when it is lost.
    pub(crate) fn fate(&self) -> Option<Duration> {
        let inner = &mut *self.inner.lock();
        let (rng, weather) = (&mut inner.rng, inner.weather);
        let delay_ms = match rng.chance(weather.late, 1000) {
            true => rng.below(LATE_MS_MAX),
            // Never none, or two masters that disagree could talk for ever in one instant.
            false => 1 + rng.below(weather.delay_ms_max),
        };
        let lost = rng.chance(weather.lost, 1000);
        (!lost).then(|| Duration::from_millis(delay_ms))
    }

    pub(crate) fn draw(&self, permille: u64) -> bool {
        self.inner.lock().rng.chance(permille, 1000)
    }

    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.inner.lock().cut.get(&(from, to)).is_some_and(|n_cuts| *n_cuts > 0)
    }

    /// One way between a client and a master, which are never cut apart. False when it got lost.
    pub(crate) async fn cross(&self) -> bool {
        match self.fate() {
            Some(delay) => sleep(delay).await,
            None => return false,
        }
        true
    }

    /// One way between two masters. False when the message got lost.
    async fn travel(&self, from: usize, to: usize, what: &str) -> bool {
        let fate = self.fate().filter(|_| !self.is_cut(from, to));
        let Some(delay) = fate else {
            self.trace.note(format_args!("{from}>{to} lost: {what}"));
            return false;
        };
        self.thaw(from).await;
        sleep(delay).await;
        self.thaw(to).await;
        let arrived = !self.is_cut(from, to);
        self.trace.note(format_args!("{from}>{to} {}{what}", if arrived { "" } else { "lost: " }));
        arrived
    }

    async fn deliver(self: Arc<Self>, link: Link, to: usize, request: PeerRequest, answer: Option<Answer>) {
        if !self.travel(link.from, to, &name(&request)).await {
            return;
        }
        let subject = subject(&request);
        if self.pass(to, subject, Edge::Received) {
            return;
        }
        let reply = match self.host(to) {
            // The process is down, or the whole machine, which refuses nothing.
            None if self.draw(500) => return,
            None => Err(TransportError::Unreachable("connection refused".into())),
            Some(host) => tokio::select! {
                biased;
                () = host.ended() => return,
                reply = host.node.handle(request) => reply.map_err(as_status),
            },
        };
        let what = if reply.is_ok() { "reply" } else { "error" };
        if self.pass(to, subject, Edge::After) {
            return;
        }
        // The answer is on its way all the same.
        self.pass(to, subject, Edge::Replied);
        let arrived = self.travel(to, link.from, what).await;
        if let Some(answer) = answer.filter(|_| arrived) {
            // The caller may have given up.
            drop(answer.send(reply));
        }
    }
}

type Answer = oneshot::Sender<Result<PeerReply, TransportError>>;

/// As `RaftService` and the gRPC client's reading of its codes would have it.
pub(crate) fn as_status(error: Error) -> TransportError {
    match error {
        Error::Misdirected { .. } | Error::NotLeader | Error::Changing | Error::LeaseExpired | Error::Undecided => {
            TransportError::Unreachable(error.to_string())
        }
        Error::Storage(_) | Error::Fatal(_) | Error::Refused(_) | Error::Transport(_) => {
            TransportError::Failed(error.to_string())
        }
    }
}

fn subject(request: &PeerRequest) -> Subject {
    match request {
        PeerRequest::Append(_) => Subject::Entries,
        PeerRequest::Vote(_) => Subject::VoteRequest,
        PeerRequest::PreVote(_) => Subject::PreVote,
        PeerRequest::Snapshot { .. } => Subject::Snapshot,
        PeerRequest::TransferLeader(_) => Subject::Transfer,
        PeerRequest::Propose(_) | PeerRequest::ProposeBatch(_) => Subject::Propose,
        PeerRequest::ReadIndex(_) => Subject::ReadIndex,
        PeerRequest::Beats(_) | PeerRequest::Greet(_) => Subject::Beats,
    }
}

pub(crate) fn name_of_append(request: &pb::AppendRequest) -> String {
    let term = request.vote.as_ref().map_or(0, |vote| vote.term);
    let (prev, commit) = (request.prev_log_id.map(|id| id.index), request.leader_commit.map(|id| id.index));
    let what = if request.heartbeat { "heartbeat" } else { "append" };
    format!("{what} t{term} {} after {prev:?}, committed {commit:?}", request.entries.len())
}

fn name(request: &PeerRequest) -> String {
    match request {
        PeerRequest::Append(r) => name_of_append(r),
        PeerRequest::Vote(r) => format!("vote t{}", r.vote.as_ref().map_or(0, |vote| vote.term)),
        PeerRequest::PreVote(r) => format!("pre-vote t{}", r.vote.as_ref().map_or(0, |vote| vote.term)),
        PeerRequest::Snapshot { data, .. } => format!("snapshot of {} bytes", data.len()),
        PeerRequest::TransferLeader(_) => "transfer leadership".into(),
        PeerRequest::Propose(r) => format!("propose {} bytes", r.txn.len()),
        PeerRequest::ProposeBatch(r) => {
            format!("propose {} of {} bytes", r.txns.len(), r.txns.iter().map(|txn| txn.len()).sum::<usize>())
        }
        PeerRequest::ReadIndex(_) => "read index".into(),
        PeerRequest::Beats(_) => "beats".into(),
        PeerRequest::Greet(_) => "greet".into(),
    }
}

/// One boot's end of the network. What it sends after its end goes nowhere.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) network: Arc<Network>,
    pub(crate) from: usize,
    pub(crate) life: watch::Receiver<bool>,
}

impl Link {
    pub(crate) fn is_over(&self) -> bool {
        *self.life.borrow()
    }
}

#[async_trait]
impl Transport for Link {
    async fn call(
        &self,
        _: Lane,
        addr: &str,
        request: PeerRequest,
        patience: Duration,
    ) -> Result<PeerReply, TransportError> {
        let to: usize = addr.parse().map_err(|_| TransportError::Unreachable("no such address".into()))?;
        let (answer, answered) = oneshot::channel();
        let subject = subject(&request);
        if !self.is_over() {
            let network = &self.network;
            let doubled = network.inner.lock().weather.doubled;
            if network.draw(doubled) {
                tokio::spawn(network.clone().deliver(self.clone(), to, request.clone(), None));
            }
            // A task of its own: what has been sent arrives even when the caller has given up.
            tokio::spawn(network.clone().deliver(self.clone(), to, request, Some(answer)));
            network.pass(self.from, subject, Edge::Sent);
        }
        let reply = async {
            match answered.await {
                Ok(reply) if !self.is_over() && !self.network.pass(self.from, subject, Edge::Answered) => reply,
                Ok(_) | Err(_) => {
                    sleep(KEEP_ALIVE).await;
                    Err(TransportError::Failed("the connection broke".into()))
                }
            }
        };
        match timeout(patience, reply).await {
            Ok(reply) => reply,
            Err(_) => Err(TransportError::Failed("no answer in time".into())),
        }
    }

    fn appends<'a>(
        &'a self,
        addr: &'a str,
        requests: Receiver<pb::AppendRequest>,
    ) -> BoxStream<'a, Result<pb::AppendResponse, TransportError>> {
        match addr.parse() {
            Ok(to) => connection::open(self, to, requests),
            Err(_) => stream::iter([Err(TransportError::Unreachable("no such address".into()))]).boxed(),
        }
    }
}
