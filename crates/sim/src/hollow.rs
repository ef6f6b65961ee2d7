//! A container runtime without containers: it keeps the books of a machine, takes its time and fails.

use crate::Twin;
use crate::cluster::Cluster;
use crate::points::{Edge, Subject};
use async_trait::async_trait;
use objects::Timestamp;
use parking_lot::Mutex;
use runtime::{
    ContainerInfo, ContainerSpec, ContainerState, Error, ExecOutput, ExecStream, Image, Runtime, SandboxInfo,
    SandboxSpec, Terminal,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use stdx::Rng;
use tokio::sync::watch;

/// The code of a container that ends unasked.
const BY_ITSELF: i32 = 1;

/// What runs on a machine; outlives the worker's process, not the machine's power.
#[derive(Default)]
pub(crate) struct Machine {
    sandboxes: Mutex<BTreeMap<String, SandboxInfo>>,
    n_made: Mutex<u64>,
}

impl Machine {
    pub(crate) fn sandboxes(&self) -> Vec<SandboxInfo> {
        self.sandboxes.lock().values().cloned().collect()
    }

    /// The machine starts again: nothing runs.
    pub(crate) fn reboot(&self) {
        self.sandboxes.lock().clear();
    }

    /// A container that has ended by itself runs again.
    fn revive(&self, id: &str) {
        let mut sandboxes = self.sandboxes.lock();
        let containers = sandboxes.values_mut().flat_map(|sandbox| &mut sandbox.containers);
        containers.filter(|container| container.id == id).for_each(mask);
    }

    fn name(&self, what: &str) -> String {
        let mut n_made = self.n_made.lock();
        *n_made += 1;
        format!("{what}-{n_made}")
    }

    fn running(&self) -> Vec<String> {
        let sandboxes = self.sandboxes.lock();
        let containers = sandboxes.values().flat_map(|sandbox| &sandbox.containers);
        let running = containers.filter(|c| matches!(c.state, ContainerState::Running { .. }));
        running.map(|c| c.id.clone()).collect()
    }

    /// One of the running containers ends by itself.
    pub(crate) fn exit_one(&self, rng: &mut Rng, now: Timestamp) -> Option<String> {
        let running = self.running();
        let id = running.get(rng.below(running.len().max(1) as u64) as usize)?.clone();
        self.end(&id, now, BY_ITSELF);
        Some(id)
    }

    fn end(&self, id: &str, now: Timestamp, code: i32) {
        let mut sandboxes = self.sandboxes.lock();
        let mut containers = sandboxes.values_mut().flat_map(|sandbox| &mut sandbox.containers);
        let Some(container) = containers.find(|container| container.id == id) else { return };
        if let ContainerState::Running { started } = container.state {
            let reason = if code == 0 { "Completed" } else { "Error" };
            let (reason, message) = (reason.into(), String::new());
            container.state = ContainerState::Exited { started, finished: now, code, reason, message };
        }
    }
}

/// Shows a container that has ended by itself as one that runs.
fn mask(container: &mut ContainerInfo) {
    if let ContainerState::Exited { started, code: BY_ITSELF, .. } = container.state {
        container.state = ContainerState::Running { started };
    }
}

/// One boot of a worker's hold on its machine. Once that boot is over nothing comes back from it, so that
/// what is left of the worker stands still.
pub(crate) struct Hollow {
    pub(crate) machine: Arc<Machine>,
    pub(crate) cluster: Weak<Cluster>,
    pub(crate) worker: usize,
    pub(crate) life: watch::Receiver<bool>,
    pub(crate) rng: Mutex<Rng>,
    pub(crate) twin: Option<Twin>,
}

impl Hollow {
    async fn frozen<T>(&self) -> T {
        std::future::pending().await
    }

    fn is_over(&self) -> bool {
        *self.life.borrow()
    }

    fn now(&self) -> Timestamp {
        self.cluster.upgrade().map(|cluster| cluster.workers.now()).unwrap_or_default()
    }

    /// A call's time and luck.
    async fn call(&self, subject: Subject) -> Result<Arc<Cluster>, Error> {
        let Some(cluster) = self.cluster.upgrade().filter(|_| !self.is_over()) else { return self.frozen().await };
        if cluster.workers.pass(self.worker, subject, Edge::Before) {
            return self.frozen().await;
        }
        let (fails, ms_max) = cluster.runtime_luck();
        let (delay, failed) = {
            let mut rng = self.rng.lock();
            (1 + rng.below(ms_max), rng.chance(fails, 1000))
        };
        tokio::time::sleep(Duration::from_millis(delay)).await;
        match failed {
            _ if self.is_over() => self.frozen().await,
            true => Err(Error::Failed("the hollow runtime failed, as it was told to".into())),
            false => Ok(cluster),
        }
    }

    async fn done<T>(&self, cluster: &Arc<Cluster>, subject: Subject, result: T) -> T {
        if cluster.workers.pass(self.worker, subject, Edge::After) {
            return self.frozen().await;
        }
        result
    }

    fn problem(&self, invariant: &str, what: String) {
        if let Some(cluster) = self.cluster.upgrade() {
            cluster.problem(invariant, format!("worker-{}: {what}", self.worker));
        }
    }
}

#[async_trait]
impl Runtime for Hollow {
    fn version(&self) -> String {
        "hollow://1".into()
    }

    async fn healthy(&self) -> Result<(), Error> {
        if self.is_over() { self.frozen().await } else { Ok(()) }
    }

    async fn list(&self) -> Result<Vec<SandboxInfo>, Error> {
        if self.is_over() {
            return self.frozen().await;
        }
        let mut sandboxes = self.machine.sandboxes();
        if self.twin == Some(Twin::Blind) && self.rng.lock().chance(1, 20) {
            sandboxes.iter_mut().for_each(|sandbox| sandbox.containers.clear());
        }
        if self.twin == Some(Twin::Masking) {
            let standing = sandboxes.iter_mut().filter(|sandbox| sandbox.ready);
            standing.flat_map(|sandbox| &mut sandbox.containers).for_each(mask);
        }
        Ok(sandboxes)
    }

    async fn start_sandbox(&self, spec: &SandboxSpec) -> Result<String, Error> {
        let cluster = self.call(Subject::Sandbox).await?;
        let id = self.machine.name(&format!("sandbox-{}", self.worker));
        let sandbox = SandboxInfo {
            id: id.clone(),
            uid: spec.uid.clone(),
            name: spec.name.clone(),
            namespace: spec.namespace.clone(),
            attempt: spec.attempt,
            ready: true,
            ips: vec![format!("10.244.{}.{}", self.worker, spec.attempt + 2)],
            containers: Vec::new(),
        };
        self.machine.sandboxes.lock().insert(id.clone(), sandbox);
        cluster.trace.note(format_args!("worker-{} starts {id} of {}", self.worker, spec.name));
        Ok(self.done(&cluster, Subject::Sandbox, id).await)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        let cluster = self.call(Subject::Stop).await?;
        if self.twin == Some(Twin::Undead) {
            return Ok(());
        }
        let now = self.now();
        let containers = self.machine.sandboxes.lock().get_mut(id).map(|sandbox| {
            sandbox.ready = false;
            sandbox.containers.iter().map(|c| c.id.clone()).collect::<Vec<_>>()
        });
        containers.into_iter().flatten().for_each(|container| self.machine.end(&container, now, 137));
        Ok(self.done(&cluster, Subject::Stop, ()).await)
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        let cluster = self.call(Subject::Remove).await?;
        if self.twin == Some(Twin::Undead) {
            return Ok(());
        }
        self.machine.sandboxes.lock().remove(id);
        cluster.trace.note(format_args!("worker-{} removes {id}", self.worker));
        Ok(self.done(&cluster, Subject::Remove, ()).await)
    }

    async fn image(&self, _: &str) -> Result<Option<Image>, Error> {
        if self.is_over() { self.frozen().await } else { Ok(Some(Image::default())) }
    }

    async fn pull_image(&self, _: &str) -> Result<(), Error> {
        self.call(Subject::Container).await.map(drop)
    }

    async fn start_container(&self, sandbox: &str, pod: &SandboxSpec, spec: &ContainerSpec) -> Result<String, Error> {
        let cluster = self.call(Subject::Container).await?;
        let id = self.machine.name(&format!("container-{}", self.worker));
        let (again, elsewhere) = {
            let mut sandboxes = self.machine.sandboxes.lock();
            let running = |c: &ContainerInfo| c.name == spec.name && matches!(c.state, ContainerState::Running { .. });
            let again = sandboxes.values().any(|s| s.uid == pod.uid && s.containers.iter().any(running));
            let Some(sandbox) = sandboxes.get_mut(sandbox) else {
                return Err(Error::NotFound(format!("there is no sandbox {sandbox}")));
            };
            sandbox.containers.push(ContainerInfo {
                id: id.clone(),
                name: spec.name.clone(),
                attempt: spec.attempt,
                image: spec.image.clone(),
                image_id: String::new(),
                state: ContainerState::Running { started: self.now() },
            });
            drop(sandboxes);
            (again, cluster.workers.runs_elsewhere(self.worker, &pod.uid))
        };
        if again || elsewhere {
            self.problem("once", format!("{} of {} was started while it ran", spec.name, pod.name));
        }
        cluster.trace.note(format_args!("worker-{} starts {id} of {}", self.worker, pod.name));
        Ok(self.done(&cluster, Subject::Container, id).await)
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        let cluster = self.call(Subject::Stop).await?;
        let ends_in = grace.min(Duration::from_millis(self.rng.lock().below(1_500)));
        tokio::time::sleep(ends_in).await;
        if self.is_over() {
            return self.frozen().await;
        }
        if self.twin == Some(Twin::Masking) {
            // What is stopped is seen to have ended.
            self.machine.revive(id);
        }
        if self.twin != Some(Twin::Undead) {
            self.machine.end(id, self.now(), 143);
        }
        Ok(self.done(&cluster, Subject::Stop, ()).await)
    }

    async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let cluster = self.call(Subject::Remove).await?;
        for sandbox in self.machine.sandboxes.lock().values_mut() {
            sandbox.containers.retain(|container| container.id != id);
        }
        Ok(self.done(&cluster, Subject::Remove, ()).await)
    }

    async fn exec_sync(&self, id: &str, _: &[String], _: Duration) -> Result<ExecOutput, Error> {
        if self.is_over() {
            return self.frozen().await;
        }
        match self.machine.running().iter().any(|running| running == id) {
            true => Ok(ExecOutput::default()),
            false => Err(Error::NotFound(format!("{id} does not run"))),
        }
    }

    async fn exec(&self, id: &str, _: &[String], _: Option<Terminal>, _: bool) -> Result<ExecStream, Error> {
        Err(Error::Failed(format!("{id} runs nothing: the runtime is hollow")))
    }

    async fn reopen_log(&self, _: &str) -> Result<(), Error> {
        Ok(())
    }
}
