//! The log writer: one queue, one writer, group commit.
//!
//! Votes, appends, truncations and purges reach the disk in the order they were submitted; openraft
//! loses committed entries otherwise. Everything queued while one sync runs shares the next one.

use crate::disk::{Batch, Disk};
use std::io;
use std::sync::{Arc, mpsc};

/// Bytes written under one sync, at most: 4 MiB keeps one group near 10 ms on a 500 MB/s disk.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// One submission and who is to be told. `done` gets the error's text, because one failed sync
/// answers many.
pub(crate) struct Job {
    pub(crate) batch: Batch,
    pub(crate) sync: bool,
    pub(crate) done: Box<dyn FnOnce(io::Result<()>) + Send>,
}

/// Runs the writer: a thread of its own in production, inline in the simulator.
pub type Spawn = Box<dyn FnOnce(Writer) -> WriterHandle + Send>;

pub struct Writer {
    disk: Arc<dyn Disk>,
}

#[derive(Clone)]
pub struct WriterHandle(Inner);

#[derive(Clone)]
enum Inner {
    Queue(mpsc::Sender<Job>),
    Inline(Arc<dyn Disk>),
}

impl Writer {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Writer {
        Writer { disk }
    }
}

impl WriterHandle {
    pub(crate) fn submit(&self, job: Job) {
        match &self.0 {
            Inner::Queue(queue) => {
                if let Err(mpsc::SendError(job)) = queue.send(job) {
                    (job.done)(Err(io::Error::other("the log writer has stopped")));
                }
            }
            Inner::Inline(disk) => write_group(&**disk, vec![job]),
        }
    }
}

fn write_group(disk: &dyn Disk, jobs: Vec<Job>) {
    let mut group = Batch::default();
    let mut sync = false;
    let mut waiting = Vec::with_capacity(jobs.len());
    for mut job in jobs {
        // Range deletions of a batch run before its puts, so a job that deletes ranges starts a
        // group of its own: see `drain`.
        group.delete_ranges.append(&mut job.batch.delete_ranges);
        group.puts.append(&mut job.batch.puts);
        sync |= job.sync;
        waiting.push(job.done);
    }
    let result = disk.write(group, sync);
    if let Err(error) = &result {
        tracing::error!(%error, "writing the Raft log failed; this master must restart");
    }
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
        let mut n_bytes = first.batch.n_bytes();
        let mut group = vec![first];
        while n_bytes < GROUP_BYTES_MAX {
            let Ok(job) = jobs.try_recv() else { break };
            if !job.batch.delete_ranges.is_empty() {
                carried = Some(job);
                break;
            }
            n_bytes += job.batch.n_bytes();
            group.push(job);
        }
        write_group(disk, group);
    }
}

/// Simulation: the write happens before `submit` returns, in the caller's task.
pub fn spawn_inline() -> Spawn {
    Box::new(|writer| WriterHandle(Inner::Inline(writer.disk)))
}
