//! Lifecycle hooks: when they are due, what waits for them, and how a container is let go of.
//!
//! Rules: kubernetes.io/docs/concepts/containers/container-lifecycle-hooks. A hook runs at least once: a
//! worker that restarts while one runs starts it again.

use crate::{Action, Memory, Note, Observed, State, Step, status};
use objects::{Timestamp, Value, ValueExt};

/// A `postStart` hook that takes longer has failed.
const POST_START_MAX_S: i64 = 3600;
/// However long its `preStop` hook took, a container has this long to end.
const LAST_GRACE_S: i64 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HookKind {
    PostStart,
    PreStop,
}

impl HookKind {
    pub fn field(self) -> &'static str {
        match self {
            HookKind::PostStart => "postStart",
            HookKind::PreStop => "preStop",
        }
    }

    /// The reason of the event when it failed, and what begins the event's message.
    fn failure(self) -> (&'static str, &'static str) {
        match self {
            HookKind::PostStart => ("FailedPostStartHook", "PostStartHook failed"),
            HookKind::PreStop => ("FailedPreStopHook", "PreStopHook failed"),
        }
    }
}

/// One hook of one container attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HookState {
    UnderWay,
    Passed,
    Failed,
}

/// The hook of a container; null when there is none.
pub fn hook(container: &Value, kind: HookKind) -> &Value {
    container.at("lifecycle").at(kind.field())
}

/// A hook that ended, with its words on failure.
pub fn hooked(
    container: &str,
    id: &str,
    kind: HookKind,
    result: Result<(), String>,
    memory: &mut Memory,
) -> Option<Note> {
    let state = memory.hooks.get_mut(&(id.to_string(), kind))?;
    *state = if result.is_ok() { HookState::Passed } else { HookState::Failed };
    let (reason, what) = kind.failure();
    let why = result.err()?;
    Some(Note { ty: "Warning", reason, message: format!("{what}: {why}"), container: container.into() })
}

/// Whether a running container has its `postStart` hook behind it. An earlier worker may have seen to it:
/// it then told that the container runs.
pub(crate) fn is_begun(pod: &Value, container: &Value, observed: &Observed, memory: &Memory) -> bool {
    let told = || {
        let told = status::old_status(pod, &observed.name);
        told.is_some_and(|old| old.text("containerID") == observed.id && !old.at("state.running").is_null())
    };
    hook(container, HookKind::PostStart).is_null()
        || memory.hooks.get(&(observed.id.clone(), HookKind::PostStart)) == Some(&HookState::Passed)
        || told()
}

/// Sees to the `postStart` hook of a running container. `false` while it is not done: nothing else is done
/// with the container until then. One that failed ends it.
pub(crate) fn begin(
    pod: &Value,
    container: &Value,
    observed: &Observed,
    grace_s: i64,
    memory: &mut Memory,
    now: Timestamp,
    step: &mut Step,
) -> bool {
    if is_begun(pod, container, observed, memory) {
        return true;
    }
    let (kind, id) = (HookKind::PostStart, observed.id.clone());
    match memory.hooks.get(&(id.clone(), kind)) {
        Some(HookState::Failed) => {
            end(container, observed, (grace_s, "FailedPostStartHook".into()), memory, now, step);
        }
        Some(_) => {}
        None => {
            memory.hooks.insert((id.clone(), kind), HookState::UnderWay);
            let container = observed.name.clone();
            step.actions.push(Action::Hook { container, id, kind, within_s: POST_START_MAX_S });
        }
    }
    false
}

/// Lets go of a container: its `preStop` hook first, which takes from the grace period, then the rest of
/// it between TERM and KILL. People are told once.
pub(crate) fn end(
    container: &Value,
    observed: &Observed,
    (grace_s, message): (i64, String),
    memory: &mut Memory,
    now: Timestamp,
    step: &mut Step,
) {
    let (id, name) = (observed.id.clone(), observed.name.clone());
    let asked = now.plus_secs(grace_s);
    let known = memory.ending.get(&id).copied();
    if known.is_none() {
        step.notes.push(Note { ty: "Normal", reason: "Killing", message, container: name.clone() });
    }
    // A shorter grace that comes meanwhile counts, a longer one does not.
    let deadline = known.map_or(asked, |known| known.min(asked));
    memory.ending.insert(id.clone(), deadline);
    let kind = HookKind::PreStop;
    if hook(container, kind).is_null() || !matches!(observed.state, State::Running { .. }) || grace_s <= 0 {
        step.actions.push(Action::StopContainer { id, name, grace_s });
        return;
    }
    match memory.hooks.get(&(id.clone(), kind)) {
        None => {
            memory.hooks.insert((id.clone(), kind), HookState::UnderWay);
            step.actions.push(Action::Hook { container: name, id, kind, within_s: grace_s });
            step.wake_at(deadline);
        }
        Some(HookState::UnderWay) if now < deadline => step.wake_at(deadline),
        Some(_) => {
            let left_s = (deadline.since_ms(now) + 999) / 1000;
            step.actions.push(Action::StopContainer { id, name, grace_s: left_s.max(LAST_GRACE_S) });
        }
    }
}
