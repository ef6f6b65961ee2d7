//! Stopping containers: side by side, and beside the pod's life, which goes on meanwhile.

use crate::pod::{AGAIN, Task};
use objects::Timestamp;
use std::time::Duration;
use tokio::task::AbortHandle;

/// The brain counts grace in whole seconds: ends that are so near each other are the same.
const ROUNDING_S: i64 = 1;

/// A stop that the runtime was asked for.
pub(crate) struct Stop {
    /// When the container is killed.
    until: Timestamp,
    task: AbortHandle,
}

impl Task<'_> {
    /// Asks the runtime to stop a container, unless it was asked already and is to have no less time now.
    /// The task is woken when it has stopped.
    pub(crate) fn stop(&mut self, id: String, grace_s: i64) {
        let until = self.shared.now().plus_secs(grace_s);
        if let Some(stop) = self.stops.get(&id) {
            if stop.until <= until.plus_secs(ROUNDING_S) {
                return;
            }
            stop.task.abort();
        }
        let (runtime, stopped, uid) = (self.shared.options.runtime.clone(), self.stopped.clone(), self.uid.clone());
        let (of, grace) = (id.clone(), Duration::from_secs(u64::try_from(grace_s).unwrap_or(0)));
        let task = tokio::spawn(async move {
            if let Err(error) = runtime.stop_container(&of, grace).await {
                tracing::warn!(pod = %uid, %error, "stopping a container failed");
                // The next step asks again: a runtime that is down must not be asked without a pause.
                tokio::time::sleep(AGAIN).await;
            }
            drop(stopped.send(of).await);
        });
        self.stops.insert(id, Stop { until, task: task.abort_handle() });
    }
}
