//! One run from one seed: a group is founded, used and tormented; then everything is healed and must
//! agree; then the history is judged.

use crate::chronicle::{self, Chronicle, Told};
use crate::client::{self, Client};
use crate::cluster::{self, Cluster};
use crate::history::sights;
use crate::invariants::{self, converged, hashes, orphans, running};
use crate::mix::{Fault, Mix, Weather, pick};
use crate::onlookers::Onlooker;
use crate::tenants::Tenant;
use crate::workers::{self, Workers};
use crate::{KINDS, Options, Report};
use judge::{End, History, Shown, What, Write};
use raft_node::Node;
use state::View;
use std::sync::Arc;
use std::time::Duration;
use stdx::Rng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// An empty group of three is complete by then, elections aside.
const FOUND_MAX: Duration = Duration::from_secs(20);
/// Under faults.
const TORMENT: Duration = Duration::from_secs(20);
/// After healing, all must agree by then, elections aside: a snapshot, a rejoin.
pub(crate) const HEAL_MAX: Duration = Duration::from_secs(15);
/// Clients finish what they have begun: five tries of three seconds.
const FINISH_MAX: Duration = Duration::from_secs(30);
/// A write has reached every master by then: some heartbeats.
const SPREAD: Duration = Duration::from_millis(200);
/// What was asked of the orchestrator is done so long after healing: evictions, rollouts, and the
/// back-offs that the torment had driven up.
const CONVERGE_MAX: Duration = Duration::from_secs(90);
/// And then nothing may change any more.
const SETTLE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Torment,
    Settling,
    Over,
}

pub(crate) async fn play(options: Options) -> Report {
    let mut rng = Rng::new(options.seed);
    let mix = Mix::draw(&mut rng);
    let cluster = Cluster::new(mix, Rng::new(rng.next_u64()), options.twin, options.printed);
    drop(std::fs::remove_dir_all(workers::folder()));
    cluster.trace.note(format_args!("{:?}", cluster.mix));
    let mut counts = Counts::default();
    let found_max = cluster.mix.patience(FOUND_MAX);
    if timeout(found_max, cluster.found()).await.is_err() {
        cluster.problem("founded", format!("the group was not founded within {found_max:?}"));
    } else {
        run(&cluster, &mut rng, &mut counts).await;
    }
    for i in 0..cluster.n_masters() {
        cluster.crash(i);
    }
    for worker in 0..cluster.workers.len() {
        cluster.workers.crash(worker);
    }
    drop(std::fs::remove_dir_all(workers::folder()));
    let (history, chronicle) = (cluster.history.lock(), cluster.chronicle.lock());
    let mut wrong = cluster.problems.lock().clone();
    wrong.extend(named("history", history.problems.clone()));
    wrong.extend(named("history", chronicle.problems.clone()));
    wrong.extend(judge::CHECKS.iter().flat_map(|(name, check)| named(name, check(&history))));
    wrong.extend(invariants::check(&chronicle));
    let (passed, fired) = cluster.network.points.story();
    let story = counts.story(&cluster.mix, &history, &chronicle);
    Report { seed: options.seed, trace: cluster.trace.hash(), story, passed, fired, wrong }
}

fn named(invariant: &str, wrong: Vec<String>) -> Vec<String> {
    wrong.into_iter().map(|what| format!("{invariant}: {what}")).collect()
}

#[derive(Default)]
struct Counts {
    n_faults: u64,
    n_crashes: u64,
    n_changes: u64,
    term: u64,
    converged: Duration,
}

impl Counts {
    fn story(&self, mix: &Mix, history: &History, chronicle: &Chronicle) -> String {
        let ended = |wanted: fn(&End) -> bool| {
            let writes = history
                .operations
                .iter()
                .filter(|op| matches!(&op.what, What::Write(Write { end, .. }) if wanted(end)));
            writes.count()
        };
        let n_reads = history.operations.iter().filter(|op| matches!(op.what, What::Read { .. })).count();
        let n_lists = history.watched.values().flatten().filter(|shown| matches!(shown, Shown::Listed { .. })).count();
        format!(
            "{} masters, {} faults, {} crashes, {} changes of members, term {}; {} writes applied, {} refused, {} never, {} unknown, \
             {n_reads} reads, {n_lists} lists; {} workers, {} bindings, {} plans, {} sittings, converged in {:.1} s",
            mix.n_masters,
            self.n_faults,
            self.n_crashes,
            self.n_changes,
            self.term,
            ended(|end| matches!(end, End::Applied(_))),
            ended(|end| matches!(end, End::Refused(_))),
            ended(|end| *end == End::Never),
            ended(|end| *end == End::Unknown),
            mix.n_workers,
            chronicle.events.values().filter(|(_, event)| chronicle::binding(event).is_some()).count(),
            chronicle.plans.iter().filter(|plan| matches!(plan.told, Told::Applied(_))).count(),
            chronicle.sittings.len(),
            self.converged.as_secs_f64(),
        )
    }
}

async fn run(cluster: &Arc<Cluster>, rng: &mut Rng, counts: &mut Counts) {
    let until = Instant::now() + TORMENT;
    let phase = watch::Sender::new(Phase::Torment);
    let (mut users, mut watchers) = (JoinSet::new(), JoinSet::new());
    for i in 0..cluster.mix.n_clients {
        users.spawn(Client::new(cluster, format!("client {i}")).run(until));
    }
    for i in 0..cluster.n_masters() {
        users.spawn(client::manage(cluster.clone(), i, until));
    }
    for (number, kind) in KINDS.iter().enumerate() {
        watchers.spawn(client::watch(cluster.clone(), number as u64, *kind, phase.subscribe()));
    }
    for worker in 0..cluster.workers.len() {
        cluster.workers.start(worker);
    }
    for number in 0..cluster.mix.n_tenants {
        users.spawn(Tenant::new(cluster, number).run(until));
        let app = (number > 0).then(|| format!("app-{}", number - 1));
        watchers.spawn(Onlooker::new(cluster, number, app).run(phase.subscribe()));
    }
    cluster.network.points.arm(true);
    let repairs = torment(cluster, rng, until, counts).await;
    heal(cluster, repairs).await;
    phase.send_replace(Phase::Settling);
    if timeout(FINISH_MAX, users.join_all()).await.is_err() {
        cluster.problem("ended", "a client never came to an end".into());
    }
    if cluster.mix.n_workers > 0 {
        counts.converged = converge(cluster).await;
    }
    agree(cluster).await;
    let up = cluster.network.up();
    counts.term = up.iter().map(|(_, host)| host.node.status().term).max().unwrap_or(0);
    // What was written, to the byte: a run that writes something else when it is played again has another trace.
    for (i, host) in &up {
        let view = host.node.store().view();
        let hash = hashes::hash(&view);
        cluster.trace.note(format_args!("{} holds {hash:016x} at revision {}", cluster::label(*i), view.revision()));
    }
    phase.send_replace(Phase::Over);
    if timeout(SETTLE, watchers.join_all()).await.is_err() {
        cluster.problem("ended", "a watcher never came to an end".into());
    }
}

/// Does what the mix holds until the time is over; returns the repairs still under way.
async fn torment(cluster: &Arc<Cluster>, rng: &mut Rng, until: Instant, counts: &mut Counts) -> JoinSet<()> {
    let mut repairs = JoinSet::new();
    cluster.network.set_weather(cluster.mix.weather);
    cluster.set_disk_ms_max(cluster.mix.disk_ms_max);
    loop {
        let calm = Duration::from_millis(50 + rng.below(cluster.mix.calm_ms_max));
        if Instant::now() + calm >= until {
            tokio::time::sleep_until(until).await;
            return repairs;
        }
        sleep(calm).await;
        let Some(fault) = cluster.mix.next_fault(rng) else { continue };
        // Half of what happens happens to the leader, where it matters most.
        let any = rng.below(cluster.n_masters() as u64) as usize;
        let i = if rng.chance(1, 2) { cluster.leader().unwrap_or(any) } else { any };
        let back_in_ms_max = pick(rng, &[100, 1_000, 5_000]);
        let back_in = Duration::from_millis(rng.below(back_in_ms_max));
        cluster.trace.note(format_args!("{fault:?} {i}"));
        counts.n_faults += 1;
        inflict(cluster, rng, (fault, i, back_in), counts, &mut repairs);
    }
}

/// One fault of the master `i`, or of what it needs; what mends it again is one of the `repairs`.
fn inflict(
    cluster: &Arc<Cluster>,
    rng: &mut Rng,
    (fault, i, back_in): (Fault, usize, Duration),
    counts: &mut Counts,
    repairs: &mut JoinSet<()>,
) {
    match fault {
        Fault::Crash => counts.n_crashes += crash(cluster, &[i], back_in, repairs),
        Fault::Blackout => {
            let all: Vec<usize> = (0..cluster.n_masters()).collect();
            counts.n_crashes += crash(cluster, &all, back_in, repairs);
        }
        Fault::Stop => drop(repairs.spawn(stop(cluster.clone(), i, back_in))),
        Fault::HandOver => drop(repairs.spawn(hand_over(cluster.clone(), i))),
        Fault::Cut => {
            let links = links(cluster.n_masters(), rng);
            cluster.trace.note(format_args!("{links:?} for {back_in:?}"));
            cluster.network.cut(&links);
            let network = cluster.network.clone();
            repairs.spawn(async move {
                sleep(back_in).await;
                network.mend(&links);
            });
        }
        Fault::Weather => cluster.network.set_weather(Weather::draw(rng)),
        Fault::BadDisk => cluster.fail_next_write(i, rng.chance(1, 2)),
        Fault::Wipe => {
            // One at a time: two lost disks of three are more than a group can bear.
            if cluster.members().len() == cluster.n_masters() && cluster.crash(i) {
                counts.n_changes += 1;
                repairs.spawn(rejoin(cluster.clone(), i, back_in));
            }
        }
        Fault::Stall => {
            cluster.network.stall(i, Instant::now() + back_in);
        }
        Fault::SlowDisk => {
            cluster.set_slow(i, pick(rng, &[50, 500, 8_000]));
            repairs.spawn(later(cluster.clone(), back_in, move |cluster| cluster.set_slow(i, 0)));
        }
        Fault::FullDisk => {
            cluster.set_full(i, true);
            repairs.spawn(later(cluster.clone(), back_in, move |cluster| cluster.set_full(i, false)));
        }
        Fault::ClockJump => cluster.set_clock(i, rng),
        Fault::Upgrade => drop(repairs.spawn(upgrade(cluster.clone()))),
        Fault::WorkerCrash => end_worker(cluster, rng, Workers::crash, back_in, repairs),
        Fault::WorkerReboot => end_worker(cluster, rng, Workers::reboot, back_in, repairs),
        Fault::WorkerCut => cut_worker(cluster, rng, back_in, repairs),
        Fault::Exit => {
            let worker = any_worker(cluster, rng);
            let ended = cluster.workers.exit_one(worker, rng);
            cluster.trace.note(format_args!("worker-{worker}: {ended:?} ends by itself"));
        }
        Fault::Remove => {
            if cluster.members().len() == cluster.n_masters() {
                counts.n_changes += 1;
                let cluster = cluster.clone();
                repairs.spawn(async move {
                    cluster.remove(i).await;
                    rejoin(cluster, i, back_in).await;
                });
            }
        }
    }
}

fn any_worker(cluster: &Cluster, rng: &mut Rng) -> usize {
    rng.below(cluster.workers.len() as u64) as usize
}

fn end_worker(
    cluster: &Arc<Cluster>,
    rng: &mut Rng,
    end: fn(&Workers, usize) -> bool,
    back_in: Duration,
    repairs: &mut JoinSet<()>,
) {
    let worker = any_worker(cluster, rng);
    if end(&cluster.workers, worker) {
        // Long enough, now and then, for its pods to be taken elsewhere.
        let back_in = back_in * pick(rng, &[1, 1, 3]);
        repairs.spawn(later(cluster.clone(), back_in, move |cluster| cluster.workers.start(worker)));
    }
}

fn cut_worker(cluster: &Arc<Cluster>, rng: &mut Rng, back_in: Duration, repairs: &mut JoinSet<()>) {
    let worker = any_worker(cluster, rng);
    let style = rng.below(3);
    let masters: Vec<usize> = (0..cluster.n_masters()).filter(|_| style == 0 || rng.chance(1, 2)).collect();
    cluster.trace.note(format_args!("worker-{worker} is cut off from {masters:?}"));
    cluster.network.cut_worker(worker, &masters);
    let back_in = back_in * pick(rng, &[1, 1, 3]);
    repairs.spawn(later(cluster.clone(), back_in, move |cluster| {
        cluster.network.mend_worker(worker, &masters);
    }));
}

fn crash(cluster: &Arc<Cluster>, masters: &[usize], back_in: Duration, repairs: &mut JoinSet<()>) -> u64 {
    let mut n_crashed = 0;
    for i in masters {
        if cluster.crash(*i) {
            n_crashed += 1;
            repairs.spawn(start_after(cluster.clone(), *i, back_in));
        }
    }
    n_crashed
}

async fn start_after(cluster: Arc<Cluster>, i: usize, delay: Duration) {
    sleep(delay).await;
    cluster.start(i).await;
}

async fn later(cluster: Arc<Cluster>, delay: Duration, mend: impl FnOnce(&Cluster)) {
    sleep(delay).await;
    mend(&cluster);
}

/// A rolling upgrade: one master after the other is stopped and comes back with the newest build.
async fn upgrade(cluster: Arc<Cluster>) {
    for i in 0..cluster.n_masters() {
        cluster.install(i);
        stop(cluster.clone(), i, Duration::from_millis(300)).await;
        sleep(Duration::from_millis(500)).await;
    }
}

/// A master comes back empty, as a new member.
async fn rejoin(cluster: Arc<Cluster>, i: usize, back_in: Duration) {
    while !cluster.is_down(i) {
        cluster.crash(i);
        sleep(Duration::from_millis(1)).await;
    }
    cluster.wipe(i);
    start_after(cluster.clone(), i, back_in).await;
    cluster.take_in(i).await;
}

async fn hand_over(cluster: Arc<Cluster>, i: usize) {
    let Some(host) = cluster.network.host(i) else { return };
    tokio::select! {
        biased;
        () = host.ended() => {}
        () = host.node.hand_over() => {}
    }
}

async fn stop(cluster: Arc<Cluster>, i: usize, back_in: Duration) {
    let Some(host) = cluster.network.host(i) else { return };
    hand_over(cluster.clone(), i).await;
    if cluster.network.host(i).is_some_and(|now| now.boot == host.boot) && cluster.crash(i) {
        start_after(cluster, i, back_in).await;
    }
}

/// Which links to cut: around a side, one way or both, or any at all.
fn links(n_masters: usize, rng: &mut Rng) -> Vec<(usize, usize)> {
    let side = 1 + rng.below((1 << n_masters) - 2);
    let within = |i: usize| side & (1 << i) != 0;
    let style = pick(rng, &["both ways", "outwards", "any"]);
    let all = (0..n_masters).flat_map(|i| (0..n_masters).map(move |j| (i, j))).filter(|(i, j)| i != j);
    let chosen = all.filter(|(i, j)| match style {
        "both ways" => within(*i) != within(*j),
        "outwards" => within(*i) && !within(*j),
        _ => rng.chance(1, 3),
    });
    chosen.collect()
}

/// Ends every fault and waits for the repairs.
async fn heal(cluster: &Arc<Cluster>, repairs: JoinSet<()>) {
    cluster.trace.note("everything is healed");
    cluster.calm_down();
    let heal_max = cluster.mix.patience(HEAL_MAX);
    if timeout(heal_max, repairs.join_all()).await.is_err() {
        cluster.problem("healed", format!("{heal_max:?} after healing, some master is not back as a member"));
    }
}

/// Waits until what was asked of the orchestrator is done; how long that took.
async fn converge(cluster: &Arc<Cluster>) -> Duration {
    let started = Instant::now();
    loop {
        let leader = cluster.leader().and_then(|i| cluster.network.host(i));
        let left: Vec<(&str, String)> = match leader.map(|host| host.node.store().view()) {
            Some(view) => {
                let worlds = cluster.workers.worlds();
                let missing = converged::missing(&view, cluster.workers.len());
                let (orphans, stopped) = (orphans::check(&worlds, &view), running::check(&worlds, &view));
                let named = [("converged", missing), ("orphans", orphans), ("running", stopped)];
                named.into_iter().flat_map(|(name, left)| left.into_iter().map(move |what| (name, what))).collect()
            }
            None => vec![("converged", "nobody leads".to_string())],
        };
        if left.is_empty() {
            return started.elapsed();
        }
        if started.elapsed() > CONVERGE_MAX {
            for (name, what) in left {
                cluster.problem(name, format!("{CONVERGE_MAX:?} after healing: {what}"));
            }
            return started.elapsed();
        }
        sleep(SPREAD).await;
    }
}

/// Every master answers, and they all hold the same, to the byte; and nothing moves after that.
async fn agree(cluster: &Arc<Cluster>) {
    let heal_max = cluster.mix.patience(HEAL_MAX);
    let deadline = Instant::now() + heal_max;
    let mut client = Client::new(cluster, "last client".into());
    loop {
        let mut n_answered = 0;
        for i in 0..cluster.n_masters() {
            n_answered += usize::from(client.read(i).await);
        }
        let written = client.write().await;
        sleep(SPREAD).await;
        let differ = difference(cluster);
        if written && n_answered == cluster.n_masters() && differ.is_none() {
            break;
        }
        if Instant::now() > deadline {
            let what = format!("written {written}, {n_answered} masters answer reads, {differ:?}");
            return cluster.problem("agreed", format!("no agreement {heal_max:?} after healing: {what}"));
        }
    }
    let revision = cluster.network.up().first().map(|(_, host)| host.node.store().view().revision());
    cluster.chronicle.lock().closing = revision.unwrap_or_default().0;
    sleep(SETTLE).await;
    // The orchestrator's own events may be under way just now, but not all the time.
    let until = Instant::now() + SETTLE;
    while let Some(difference) = difference(cluster) {
        if Instant::now() > until {
            cluster.problem("agreed", format!("the masters agreed, and then no more: {difference}"));
            break;
        }
        sleep(SPREAD / 8).await;
    }
    for i in 0..cluster.n_masters() {
        cluster.tell(i);
    }
    let history = cluster.history.lock();
    let truth = judge::Past::of(&history).objects("", history.last_revision());
    drop(history);
    for (i, host) in cluster.network.up() {
        let mut held = sights(&host.node.store().view());
        held.sort_by(|a, b| a.name.cmp(&b.name));
        if held != truth {
            cluster.problem("history", format!("master-{i} holds {held:?}, where {truth:?} was applied"));
        }
    }
}

/// In what the masters differ, if in anything.
fn difference(cluster: &Cluster) -> Option<String> {
    let nodes: Vec<Node> = cluster.network.up().into_iter().map(|(_, host)| host.node).collect();
    if nodes.len() < cluster.n_masters() {
        return Some(format!("{} masters are up", nodes.len()));
    }
    let views: Vec<View> = nodes.iter().map(|node| node.store().view()).collect();
    let applied: Vec<u64> = nodes.iter().map(|node| node.status().applied_index).collect();
    let voters: Vec<usize> =
        nodes.iter().map(|node| node.status().members.iter().filter(|m| m.voter).count()).collect();
    let members: Vec<usize> = nodes.iter().map(|node| node.status().members.len()).collect();
    let all_know = nodes.iter().map(Node::feature_level).min().unwrap_or_default();
    let levels: Vec<u32> = views.iter().map(|view| view.state().feature_level()).collect();
    let leaders: Vec<Option<u64>> = nodes.iter().map(|node| node.status().leader).collect();
    let same = applied.windows(2).all(|pair| pair[0] == pair[1])
        && leaders.windows(2).all(|pair| pair[0] == pair[1] && pair[0].is_some())
        && voters.iter().chain(&members).all(|n| *n == cluster.n_masters());
    let revisions: Vec<u64> = views.iter().map(|view| view.revision().0).collect();
    if !same {
        return Some(format!(
            "revisions {revisions:?}, applied {applied:?}, leaders {leaders:?}, voters {voters:?} of {members:?}"
        ));
    }
    if levels.iter().any(|level| *level != all_know) {
        return Some(format!("feature levels {levels:?}, where all masters know {all_know}"));
    }
    // Costly, and pointless before.
    let named = views.into_iter().enumerate().map(|(i, view)| (cluster::label(i), view)).collect::<Vec<_>>();
    let wrong = hashes::check(&named);
    (!wrong.is_empty()).then(|| wrong.join("; "))
}
