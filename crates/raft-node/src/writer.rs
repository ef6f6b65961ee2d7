//! The log writer: one queue, one writer, group commit.
//!
//! Votes, appends, truncations and purges reach the disk in the order they were submitted; openraft
//! loses committed entries otherwise. Everything queued while one sync runs shares the next one.

use crate::disk::{Batch, Disk};
use std::io;
use std::sync::{Arc, mpsc};
use tokio::sync::mpsc as task_mpsc;

/// Bytes written under one sync, at most: 4 MiB keeps one group near 10 ms on a 500 MB/s disk.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// One submission and who is to be told. `done` gets the error's text, because one failed sync
/// answers many.
pub(crate) struct Job {
    pub(crate) batch: Batch,
    pub(crate) sync: bool,
    pub(crate) done: Done,
}

type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Runs the writer: a thread of its own in production, a task in the simulator, inline in small tests.
pub type Spawn = Box<dyn FnOnce(Writer) -> WriterHandle + Send>;

pub struct Writer {
    disk: Arc<dyn Disk>,
}

#[derive(Clone)]
pub struct WriterHandle(Inner);

#[derive(Clone)]
enum Inner {
    Queue(mpsc::Sender<Job>),
    Task(task_mpsc::UnboundedSender<Job>),
    Inline(Arc<dyn Disk>),
}

impl Writer {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Writer {
        Writer { disk }
    }
}

impl WriterHandle {
    pub(crate) fn submit(&self, job: Job) {
        let rejected = match &self.0 {
            Inner::Queue(queue) => queue.send(job).err().map(|mpsc::SendError(job)| job),
            Inner::Task(queue) => queue.send(job).err().map(|task_mpsc::error::SendError(job)| job),
            Inner::Inline(disk) => {
                write_group(&**disk, vec![job]);
                None
            }
        };
        if let Some(job) = rejected {
            (job.done)(Err(io::Error::other("the log writer has stopped")));
        }
    }
}

/// The group that starts with `first`: what waits in the queue, up to the next job that deletes
/// ranges, which is carried over.
fn gather(first: Job, carried: &mut Option<Job>, mut waiting: impl FnMut() -> Option<Job>) -> Vec<Job> {
    let mut n_bytes = first.batch.n_bytes();
    let mut group = vec![first];
    while n_bytes < GROUP_BYTES_MAX {
        let Some(job) = waiting() else { break };
        if !job.batch.delete_ranges.is_empty() {
            *carried = Some(job);
            break;
        }
        n_bytes += job.batch.n_bytes();
        group.push(job);
    }
    group
}

fn write_group(disk: &dyn Disk, jobs: Vec<Job>) {
    let (waiting, result) = write(disk, jobs);
    answer(waiting, &result);
}

fn write(disk: &dyn Disk, jobs: Vec<Job>) -> (Vec<Done>, io::Result<()>) {
    let mut group = Batch::default();
    let mut sync = false;
    let mut waiting = Vec::with_capacity(jobs.len());
    for mut job in jobs {
        // Range deletions of a batch run before its puts, so a job that deletes ranges starts a
        // group of its own: see `gather`.
        group.delete_ranges.append(&mut job.batch.delete_ranges);
        group.puts.append(&mut job.batch.puts);
        group.forgotten = job.batch.forgotten.max(group.forgotten);
        sync |= job.sync;
        waiting.push(job.done);
    }
    let result = disk.write(group, sync);
    if let Err(error) = &result {
        tracing::error!(%error, "writing the Raft log failed; this master must restart");
    }
    (waiting, result)
}

fn answer(waiting: Vec<Done>, result: &io::Result<()>) {
    for done in waiting {
        done(result.as_ref().copied().map_err(|error| io::Error::new(error.kind(), error.to_string())));
    }
}

/// Production: an operating-system thread that blocks on the disk.
pub fn spawn_thread() -> Spawn {
    Box::new(|writer| {
        let (queue, jobs) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("raft-log".into())
            .spawn(move || drain(&*writer.disk, &jobs))
            .expect("the operating system can start a thread");
        WriterHandle(Inner::Queue(queue))
    })
}

fn drain(disk: &dyn Disk, jobs: &mpsc::Receiver<Job>) {
    let mut carried: Option<Job> = None;
    while let Some(first) = carried.take().or_else(|| jobs.recv().ok()) {
        write_group(disk, gather(first, &mut carried, || jobs.try_recv().ok()));
    }
}

/// Simulation: a task that groups as the thread does. `pauses` draws, for each group, what is waited for before it is
/// written, and what before its submitters are told.
pub fn spawn_task<F: Future<Output = ()> + Send>(mut pauses: impl FnMut() -> [F; 2] + Send + 'static) -> Spawn {
    Box::new(|writer| {
        let (queue, mut jobs) = task_mpsc::unbounded_channel::<Job>();
        tokio::spawn(async move {
            let mut carried: Option<Job> = None;
            loop {
                let first = match carried.take() {
                    Some(job) => Some(job),
                    None => jobs.recv().await,
                };
                let Some(first) = first else { return };
                let [before, after] = pauses();
                let group = gather(first, &mut carried, || jobs.try_recv().ok());
                before.await;
                let (waiting, result) = write(&*writer.disk, group);
                after.await;
                answer(waiting, &result);
            }
        });
        WriterHandle(Inner::Task(queue))
    })
}

/// Small tests: the write happens before `submit` returns, in the caller's task.
pub fn spawn_inline() -> Spawn {
    Box::new(|writer| WriterHandle(Inner::Inline(writer.disk)))
}
