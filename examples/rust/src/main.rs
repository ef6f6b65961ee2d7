//! A Balsa client in Rust: create, patch with conflict, retry, observe containers, watch across a leader
//! kill.
//!
//! `cargo run --release -p example-rust -- KUBECONFIG [IMAGE]`. Everything goes through gRPC with the
//! kubeconfig's certificate.

use anyhow::{Context, Result, bail, ensure};
use client::protos::cluster::StatusRequest;
use client::protos::cluster::cluster_client::ClusterClient;
use client::protos::objects as pb;
use client::protos::objects::objects_client::ObjectsClient;
use client::protos::observe::ContainersRequest;
use client::protos::observe::container::State;
use client::protos::observe::observe_client::ObserveClient;
use client::{Access, Client, Server, is_transient};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

/// A cluster, and what marks what this run makes in it.
struct Balsa {
    cluster: Client,
    run: String,
}

impl Balsa {
    fn new(kubeconfig: &str) -> Result<Balsa> {
        let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        Ok(Balsa {
            cluster: Client::new(Access::read(kubeconfig.as_ref())?),
            run: format!("example-{:x}", started.as_nanos()),
        })
    }

    /// A connection to each server, made when it is first used.
    fn channels(&self) -> Result<Vec<(&Server, Channel)>> {
        let access = self.cluster.access();
        access.servers.iter().map(|server| Ok((server, access.endpoint(server)?.connect_lazy()))).collect()
    }

    async fn create(&self, resource: &str, body: &Value, request_id: &str) -> Result<pb::Object, client::Error> {
        let request = pb::WriteRequest {
            key: Some(key(resource, "")),
            json: body.to_string().into(),
            request_id: request_id.into(),
            ..Default::default()
        };
        self.cluster.call(async |channel| ObjectsClient::new(channel).create(within(3000, &request)).await).await
    }

    async fn config_maps(&self) -> Result<pb::ListResponse, client::Error> {
        let request = pb::ListRequest {
            key: Some(key("configmaps", "")),
            label_selector: format!("run={}", self.run),
            ..Default::default()
        };
        self.cluster.call(async |channel| ObjectsClient::new(channel).list(within(3000, &request)).await).await
    }

    fn config_map(&self, name: &str) -> Value {
        json!({"metadata": {"name": name, "labels": {"run": self.run}}, "data": {"colour": "red"}})
    }
}

fn within<T: Clone>(ms: u64, message: &T) -> Request<T> {
    let mut request = Request::new(message.clone());
    request.set_timeout(Duration::from_millis(ms));
    request
}

fn key(resource: &str, name: &str) -> pb::Key {
    pb::Key { resource: resource.into(), namespace: "default".into(), name: name.into(), ..Default::default() }
}

fn name_of(object: &pb::Object) -> String {
    let value: Value = serde_json::from_slice(&object.json).unwrap_or_default();
    value["metadata"]["name"].as_str().unwrap_or("").to_string()
}

async fn create_and_patch_with_conflict(balsa: &Balsa) -> Result<()> {
    let name = &balsa.run;
    let first = balsa.create("configmaps", &balsa.config_map(name), name).await?;
    println!("created configmap/{name} at revision {}", first.revision);
    let patch = async |colour: &str, revision: u64| {
        let change = json!({"metadata": {"resourceVersion": revision.to_string()}, "data": {"colour": colour}});
        let request = pb::PatchRequest {
            key: Some(key("configmaps", name)),
            patch: change.to_string().into(),
            request_id: format!("{name}-{colour}"),
            ..Default::default()
        };
        balsa.cluster.call(async |channel| ObjectsClient::new(channel).patch(within(3000, &request)).await).await
    };
    patch("green", first.revision).await?;
    let Err(error) = patch("blue", first.revision).await else { bail!("a patch of an old revision was accepted") };
    let refused = error.status().context("no server answered")?;
    ensure!(refused.code() == Code::Aborted, "{refused}");
    let reason = refused.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default();
    println!("patch of revision {} refused ({reason}): {}", first.revision, refused.message());
    // The way out of a conflict: read what is there, decide again.
    let get = pb::GetRequest { key: Some(key("configmaps", name)), ..Default::default() };
    let present = balsa.cluster.call(async |channel| ObjectsClient::new(channel).get(within(3000, &get)).await).await?;
    let third = patch("blue", present.revision).await?;
    println!("patched at revision {} after reading again", third.revision);
    Ok(())
}

/// A name is drawn by the server, so that applying twice would show: as a second object.
async fn retry_of_an_unknown_outcome(balsa: &Balsa) -> Result<()> {
    let mut body = balsa.config_map("");
    body["metadata"] = json!({"generateName": format!("{}-drawn-", balsa.run), "labels": {"run": balsa.run}});
    let request_id = format!("{}-retry", balsa.run);
    let request = pb::WriteRequest {
        key: Some(key("configmaps", "")),
        json: body.to_string().into(),
        request_id: request_id.clone(),
        ..Default::default()
    };
    match ObjectsClient::new(balsa.channels()?[0].1.clone()).create(within(1, &request)).await {
        Ok(_) => println!("the first attempt was answered even within a millisecond"),
        Err(status) => println!("the outcome of the first attempt is unknown: {:?}", status.code()),
    }
    let first = balsa.create("configmaps", &body, &request_id).await?;
    let again = balsa.create("configmaps", &body, &request_id).await?;
    ensure!(first == again, "the retry was answered with something else");
    let listed = balsa.config_maps().await?;
    let drawn: Vec<String> = listed.items.iter().map(name_of).filter(|name| name.contains("drawn-")).collect();
    ensure!(drawn.len() == 1, "applied more than once: {drawn:?}");
    println!("applied once: {}", drawn[0]);
    Ok(())
}

async fn observe_containers(balsa: &Balsa, image: &str) -> Result<()> {
    let pod = json!({
        "metadata": {"name": balsa.run, "labels": {"run": balsa.run}},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": image, "command": ["sh", "-c", "sleep 1; exit 3"]}],
        },
    });
    balsa.create("pods", &pod, &balsa.run).await?;
    let mut request = ContainersRequest {
        namespace: "default".into(),
        label_selector: format!("run={}", balsa.run),
        ..Default::default()
    };
    let code = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            match follow_containers(balsa, &mut request).await {
                Err(error) if error.is_transient() => println!("the stream of container status broke; resuming"),
                ended => return ended,
            }
        }
    });
    ensure!(code.await?? == 3, "the command ends with 3");
    Ok(())
}

/// Tells of containers until one has terminated; returns its exit code.
async fn follow_containers(balsa: &Balsa, request: &mut ContainersRequest) -> Result<i32, client::Error> {
    let asked = request.clone();
    let mut events =
        balsa.cluster.call(async |channel| ObserveClient::new(channel).containers(asked.clone()).await).await?;
    while let Some(event) = events.next().await {
        let event = event?;
        for container in event.containers {
            let node = if container.node.is_empty() { "no node yet" } else { &container.node };
            let at = format!("container {}/{} on {node}:", container.pod, container.name);
            match container.state {
                Some(State::Waiting(waiting)) => println!("{}", format!("{at} waiting {}", waiting.reason).trim_end()),
                Some(State::Running(_)) => println!("{at} running"),
                Some(State::Terminated(terminated)) => {
                    println!("{at} terminated with exit code {}", terminated.exit_code);
                    return Ok(terminated.exit_code);
                }
                None => return Err(Status::data_loss("a container without a state").into()),
            }
        }
        // A stream that breaks is resumed here, at any master.
        request.after_revision = event.revision;
    }
    Err(Status::unavailable("the stream ended").into())
}

#[derive(Default)]
struct Seen {
    names: Vec<String>,
    after: u64,
    resumed: u32,
}

/// Watches this run's ConfigMaps; begins at the first of `servers` and resumes by revision at the others.
/// Returns only with a refusal.
async fn keep_watching(run: String, servers: Vec<Channel>, seen: Arc<Mutex<Seen>>) -> Status {
    loop {
        for channel in &servers {
            let request = pb::WatchRequest {
                key: Some(key("configmaps", "")),
                label_selector: format!("run={run}"),
                after_revision: seen.lock().expect("nobody panics with it").after,
                ..Default::default()
            };
            let ended = follow(channel.clone(), request, &seen).await;
            // OUT_OF_RANGE would mean: list, and watch from there.
            if let Err(status) = ended
                && !is_transient(&status)
            {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn follow(channel: Channel, request: pb::WatchRequest, seen: &Mutex<Seen>) -> Result<(), Status> {
    let mut events = ObjectsClient::new(channel).watch(request).await?.into_inner();
    let mut heard = false;
    while let Some(event) = events.next().await {
        let event = event?;
        let added = event.r#type() == pb::watch_event::Type::Added;
        let object = event.object.unwrap_or_default();
        let mut seen = seen.lock().expect("nobody panics with it");
        // The first message says from where: now the watch has really been resumed.
        if !heard && !seen.names.is_empty() {
            seen.resumed += 1;
        }
        heard = true;
        seen.after = object.revision;
        if added {
            seen.names.push(name_of(&object));
        }
    }
    Ok(())
}

async fn watch_across_a_leader_kill(balsa: &Balsa) -> Result<()> {
    let status =
        balsa.cluster.call(async |channel| ClusterClient::new(channel).status(within(2000, &StatusRequest {})).await);
    let status = status.await?;
    let leader = status.members.iter().find(|member| member.leader).context("there is no leader")?;
    let all = balsa.channels()?;
    let at_leader = all.iter().filter(|(server, _)| server.address == leader.api_addr);
    let servers: Vec<Channel> = at_leader.chain(&all).map(|(_, channel)| channel.clone()).collect();
    let after = balsa.config_maps().await?.revision;
    let seen = Arc::new(Mutex::new(Seen { after, ..Seen::default() }));
    let watching = tokio::spawn(keep_watching(balsa.run.clone(), servers, seen.clone()));
    let now = || seen.lock().map(|seen| (seen.names.len(), seen.resumed)).expect("nobody panics with it");
    // `left`: writes after the watch has moved.
    let (mut written, mut asked, mut left) = (Vec::new(), false, 50);
    let ends = Instant::now() + Duration::from_secs(60);
    while left > 0 && Instant::now() < ends && !watching.is_finished() {
        if !asked && now().0 >= 20 {
            println!("writing, and watching at the leader; now kill it: balsa dev kill {}", leader.name);
            asked = true;
        }
        let name = format!("{}-{:05}", balsa.run, written.len());
        balsa.create("configmaps", &balsa.config_map(&name), &name).await?;
        written.push(name);
        left -= i32::from(now().1 > 0);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    while now().0 < written.len() && Instant::now() < ends && !watching.is_finished() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if watching.is_finished() {
        bail!("the watch was refused: {}", watching.await?);
    }
    watching.abort();
    let seen = seen.lock().expect("nobody panics with it");
    ensure!(seen.resumed > 0, "nobody killed the leader");
    ensure!(seen.names == written, "the watch differs from what was written");
    println!("{} writes, each seen once and in order; the watch was resumed {} time(s)", written.len(), seen.resumed);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (kubeconfig, image) = match arguments.as_slice() {
        [kubeconfig] => (kubeconfig, "registry.local/busybox:1"),
        [kubeconfig, image] => (kubeconfig, image.as_str()),
        _ => bail!("usage: example-rust KUBECONFIG [IMAGE]"),
    };
    let balsa = Balsa::new(kubeconfig)?;
    create_and_patch_with_conflict(&balsa).await?;
    retry_of_an_unknown_outcome(&balsa).await?;
    observe_containers(&balsa, image).await?;
    watch_across_a_leader_kill(&balsa).await?;
    println!("done");
    Ok(())
}
