//! Container status, typed: the watch of pods, told container by container.

use crate::status::to_tonic;
use crate::{identity, request, streams};
use api::Verb;
use api::watch::{Change, Watch};
use front::{Answer, Front};
use objects::{Record, Timestamp, Value, ValueExt};
use protos::objects::Key;
use protos::observe as pb;
use protos::observe::container::{Kind, State};
use protos::observe::container_event::Type;
use protos::observe::observe_server::{Observe, ObserveServer};
use state::View;
use tonic::{Response, Status};

pub struct ObserveService {
    front: Front,
}

impl ObserveService {
    pub fn server(front: Front) -> ObserveServer<ObserveService> {
        ObserveServer::new(ObserveService { front }).max_encoding_message_size(64 << 20)
    }
}

#[tonic::async_trait]
impl Observe for ObserveService {
    type ContainersStream = streams::Outgoing<pb::ContainerEvent>;

    async fn containers(
        &self,
        raw: tonic::Request<pb::ContainersRequest>,
    ) -> Result<Response<Self::ContainersStream>, Status> {
        let identity = identity(&raw)?;
        let raw = raw.into_inner();
        let pods = Key { resource: "pods".into(), namespace: raw.namespace, ..Key::default() };
        let mut request = request(identity, Verb::Watch, Some(pods))?;
        request.options.label_selector = raw.label_selector;
        if !raw.node.is_empty() {
            request.options.field_selector = format!("spec.nodeName={}", raw.node);
        }
        request.options.resource_version = (raw.after_revision > 0).then_some(raw.after_revision);
        let Answer::Watch(watch, _) = self.front.call(&request).await.map_err(|status| to_tonic(&status))? else {
            return Err(Status::internal("not a watch"));
        };
        // Before the first SYNCED of a stream without a past there is no point to resume from.
        let resumes = raw.after_revision > 0;
        let tell = move |change: &Change, first: bool| event(change, resumes || !first);
        let synced = |watch: &Watch| pb::ContainerEvent {
            r#type: Type::Synced.into(),
            revision: watch.position().0,
            containers: Vec::new(),
        };
        let step = |watch: &mut Watch, view: &View| watch.changes(view);
        Ok(Response::new(streams::follow(self.front.clone(), watch, step, tell, synced)))
    }
}

/// What a change of a pod means for its containers; `None` when they stay as they were.
fn event(change: &Change, resumable: bool) -> Option<pb::ContainerEvent> {
    let of = |side: &Option<std::sync::Arc<Record>>| side.as_deref().map(containers);
    let (before, after) = (of(&change.before), of(&change.after));
    let (ty, containers) = match (before, after) {
        (Some(before), Some(after)) => {
            (Type::Status, after.into_iter().filter(|container| !before.contains(container)).collect())
        }
        (None, Some(after)) => (Type::Status, after),
        (before, None) => (Type::Gone, before.unwrap_or_default()),
    };
    let revision = if resumable { change.revision.0 } else { 0 };
    (!containers.is_empty()).then(|| pb::ContainerEvent { r#type: ty.into(), revision, containers })
}

/// The containers of a pod, init containers first, with what their worker last reported of them.
fn containers(pod: &Record) -> Vec<pb::Container> {
    let pod = pod.value();
    let lists = [
        ("spec.initContainers", "status.initContainerStatuses", Kind::Init),
        ("spec.containers", "status.containerStatuses", Kind::Main),
    ];
    let all = lists.into_iter().flat_map(|(specs, statuses, kind)| {
        let (pod, statuses) = (&pod, pod.items(statuses));
        pod.items(specs).iter().map(move |spec| {
            let status = statuses.iter().find(|status| status.text("name") == spec.text("name"));
            container(pod, spec, status.unwrap_or(&Value::Null), kind)
        })
    });
    all.collect()
}

fn container(pod: &Value, spec: &Value, status: &Value, kind: Kind) -> pb::Container {
    let text = |value: &Value, path: &str| value.text(path).to_string();
    let image = if status.text("image").is_empty() { text(spec, "image") } else { text(status, "image") };
    pb::Container {
        namespace: text(pod, "metadata.namespace"),
        pod: text(pod, "metadata.name"),
        pod_uid: text(pod, "metadata.uid"),
        node: text(pod, "spec.nodeName"),
        name: text(spec, "name"),
        kind: kind.into(),
        last_terminated: terminated(status.at("lastState.terminated")),
        ready: status.at("ready") == true,
        started: status.at("started") == true,
        restart_count: number(status.at("restartCount")),
        image,
        image_id: text(status, "imageID"),
        container_id: text(status, "containerID"),
        state: Some(state(status.at("state"))),
    }
}

fn state(state: &Value) -> State {
    let running = state.at("running");
    if let Some(terminated) = terminated(state.at("terminated")) {
        State::Terminated(terminated)
    } else if running.is_object() {
        State::Running(pb::Running { started_at_ms: ms(running.at("startedAt")) })
    } else {
        let waiting = state.at("waiting");
        State::Waiting(pb::Waiting { reason: waiting.text("reason").into(), message: waiting.text("message").into() })
    }
}

fn terminated(state: &Value) -> Option<pb::Terminated> {
    state.is_object().then(|| pb::Terminated {
        exit_code: number(state.at("exitCode")),
        signal: number(state.at("signal")),
        reason: state.text("reason").into(),
        message: state.text("message").into(),
        started_at_ms: ms(state.at("startedAt")),
        finished_at_ms: ms(state.at("finishedAt")),
    })
}

fn number<T: TryFrom<i64> + Default>(value: &Value) -> T {
    value.as_i64().and_then(|number| T::try_from(number).ok()).unwrap_or_default()
}

fn ms(value: &Value) -> i64 {
    value.as_str().and_then(Timestamp::parse).map_or(0, |at| at.0)
}
