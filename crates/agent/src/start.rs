//! What the runtime is asked to start: a pod's sandbox and its containers, with everything they are given.

use crate::pod::{Refused, Task, log_dir, log_file};
use crate::sources::{Missing, Sources};
use crate::volumes::Place;
use crate::{environment, last_words, names, node, volumes};
use objects::{Quantity, Value, ValueExt};
use podlife::World;
use runtime::{ContainerSpec, Mount, SandboxSpec};
use std::path::Path;

impl Task<'_> {
    /// Why there can be none is told where one is asked for.
    pub(crate) fn sandbox_spec(&self, attempt: u32) -> Result<SandboxSpec, String> {
        let pod = &self.assignment.pod;
        let privileged = |container: &Value| container.at("securityContext").at("privileged") == true;
        let all = || pod.items("spec.containers").iter().chain(pod.items("spec.initContainers"));
        let sysctl = |item: &Value| (item.text("name").to_string(), item.text("value").to_string());
        Ok(SandboxSpec {
            uid: self.uid.clone(),
            name: pod.text("metadata.name").into(),
            namespace: pod.text("metadata.namespace").into(),
            attempt,
            hostname: names::hostname(pod)?,
            host_network: pod.at("spec.hostNetwork") == true,
            host_pid: pod.at("spec.hostPID") == true,
            host_ipc: pod.at("spec.hostIPC") == true,
            share_pid: pod.at("spec.shareProcessNamespace") == true,
            privileged: all().any(privileged),
            log_dir: log_dir(self.shared, &self.uid),
            dns: names::dns(pod, &std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
            sysctls: pod.items("spec.securityContext.sysctls").iter().map(sysctl).collect(),
        })
    }

    pub(crate) fn place<'a>(&self, dir: &'a Path) -> Place<'a> {
        let options = &self.shared.options;
        Place {
            dir,
            can_mount_memory: nix::unistd::geteuid().is_root(),
            node_memory: options.node.memory_for_pods(),
            now: self.shared.now(),
        }
    }

    /// Everything that is mounted into an attempt at a container.
    fn mounts(&self, sources: &Sources, container: &Value, attempt: u32) -> Result<Vec<Mount>, Missing> {
        let name = container.text("name");
        if !self.shared.options.can_mount {
            if attempt == 0 && !container.items("volumeMounts").is_empty() {
                let why = "the process runtime does not mount volumes; use the containerd runtime for that";
                self.note("Warning", "VolumesNotMounted", why.into(), name);
            }
            return Ok(Vec::new());
        }
        let dir = self.volumes();
        let log = log_dir(self.shared, &self.uid).join(log_file(name, attempt));
        let mut mounts = volumes::mounts(sources, container, &self.place(&dir))?;
        mounts.extend(names::hosts(&self.assignment.pod, container, &dir, sources.pod_ip)?);
        let words = last_words::mount(container, &log);
        mounts.extend(words.map_err(|error| format!("making the file of last words failed: {error}"))?);
        Ok(mounts)
    }

    /// Starts an attempt at a container, once its image is here.
    pub(crate) async fn start(&mut self, name: &str, attempt: u32, world: &World) -> Result<(), Refused> {
        let runtime = self.shared.options.runtime.clone();
        let container = self.container(name);
        let image = container.text("image").to_string();
        let sandbox = world.sandbox.as_ref().ok_or(("RunContainerError", "the sandbox is gone".to_string()))?;
        let ip = sandbox.ips.first().cloned().unwrap_or_default();
        let node = &self.shared.options.node;
        let (address, allocatable) = (node.address.clone(), node::allocatable(node));
        let config = |message: String| ("CreateContainerConfigError", message);
        let sources =
            Sources { assignment: &self.assignment, host_ip: &address, pod_ip: &ip, allocatable: &allocatable };
        let env = environment::variables(&sources, &container).map_err(config)?;
        let mounts = self.mounts(&sources, &container, attempt).map_err(config)?;
        let profiles = self.shared.options.dir.join("seccomp");
        let security = environment::security(&self.assignment.pod, &container, &profiles).map_err(config)?;
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
        let pod = self.sandbox_spec(sandbox.attempt).map_err(config)?;
        let started = runtime.start_container(&sandbox.id, &pod, &spec).await;
        started.map_err(|error| ("RunContainerError", error.to_string()))?;
        self.note("Normal", "Created", "Container created".into(), name);
        self.note("Normal", "Started", "Container started".into(), name);
        Ok(())
    }
}
