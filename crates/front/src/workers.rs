//! The port to workers: log and exec streams, wherever the worker's session is.

use api::WorkerCall;
use async_trait::async_trait;
use bytes::Bytes;
use objects::Status;
use tokio::sync::mpsc;

/// Frames in flight per direction; a slow reader makes the worker wait, not the master swell.
pub const FRAMES_MAX: usize = 64;

pub const STDIN: u32 = 0;
pub const STDOUT: u32 = 1;
pub const STDERR: u32 = 2;
/// A `Status` that ends an exec.
pub const ERROR: u32 = 3;
pub const RESIZE: u32 = 4;
/// Ends the channel named by its one byte of data.
pub const CLOSE: u32 = 255;

#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    pub channel: u32,
    pub data: Bytes,
}

/// One log or exec stream. Dropping either half ends it.
pub struct WorkerStream {
    pub to_worker: mpsc::Sender<Frame>,
    pub from_worker: mpsc::Receiver<Frame>,
}

#[async_trait]
pub trait Workers: Send + Sync + 'static {
    /// Opens a stream to the worker of `call`, through whichever master holds its session.
    async fn open(&self, call: &WorkerCall) -> Result<WorkerStream, Status>;
}
