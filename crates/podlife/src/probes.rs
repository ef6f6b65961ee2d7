//! Probes: when to ask, and what a row of answers means.
//!
//! Rules: kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes.

use crate::{Action, Memory, Note, Observed, State, Step, hooks};
use objects::{Timestamp, Value, ValueExt};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    pub fn field(self) -> &'static str {
        match self {
            ProbeKind::Startup => "startupProbe",
            ProbeKind::Liveness => "livenessProbe",
            ProbeKind::Readiness => "readinessProbe",
        }
    }

    fn title(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        }
    }
}

/// One probe of one container attempt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProbeState {
    /// The verdict after enough equal answers; `None` before the first.
    pub passed: Option<bool>,
    in_a_row: u32,
    last: Option<bool>,
    asked_at: Option<Timestamp>,
    in_flight: bool,
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Passed,
    /// It counts as passed, and somebody should know why it nearly did not.
    Warned(String),
    Failed(String),
}

/// An answer that came back.
pub fn answered(container: &Value, id: &str, kind: ProbeKind, answer: Answer, memory: &mut Memory) -> Option<Note> {
    let probe = container.at(kind.field());
    let state = memory.probes.entry((id.to_string(), kind)).or_default();
    state.in_flight = false;
    let ok = !matches!(answer, Answer::Failed(_));
    state.in_a_row = if state.last == Some(ok) { state.in_a_row + 1 } else { 1 };
    state.last = Some(ok);
    let threshold = probe.at(if ok { "successThreshold" } else { "failureThreshold" }).as_u64();
    if u64::from(state.in_a_row) >= threshold.unwrap_or(if ok { 1 } else { 3 }) {
        state.passed = Some(ok);
    }
    let (reason, message) = match answer {
        Answer::Passed => return None,
        Answer::Warned(why) => ("ProbeWarning", format!("{} probe warning: {why}", kind.title())),
        Answer::Failed(why) => ("Unhealthy", format!("{} probe failed: {why}", kind.title())),
    };
    Some(Note { ty: "Warning", reason, message, container: container.text("name").into() })
}

/// Whether a probe lets the container count; `missing` when there is no such probe.
pub(crate) fn passes(container: &Value, id: &str, kind: ProbeKind, memory: &Memory, missing: bool) -> bool {
    if container.at(kind.field()).is_null() {
        return missing;
    }
    memory.probes.get(&(id.to_string(), kind)).is_some_and(|state| state.passed == Some(true))
}

pub(crate) fn is_started(container: &Value, id: &str, memory: &Memory) -> bool {
    passes(container, id, ProbeKind::Startup, memory, true)
}

pub(crate) fn is_ready(container: &Value, id: &str, memory: &Memory) -> bool {
    is_started(container, id, memory) && passes(container, id, ProbeKind::Readiness, memory, true)
}

/// Asks the probes that are due, and condemns a container whose liveness or startup probe failed.
/// `grace_s` is the pod's; a probe may have its own.
pub(crate) fn run(
    container: &Value,
    observed: &Observed,
    grace_s: i64,
    memory: &mut Memory,
    now: Timestamp,
    step: &mut Step,
) {
    let State::Running { started } = observed.state else { return };
    let id = &observed.id;
    for kind in [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness] {
        let probe = container.at(kind.field());
        let started_up = is_started(container, id, memory);
        if probe.is_null() || (kind != ProbeKind::Startup && !started_up) || (kind == ProbeKind::Startup && started_up)
        {
            continue;
        }
        let state = memory.probes.entry((id.clone(), kind)).or_default();
        if kind != ProbeKind::Readiness && state.passed == Some(false) {
            let message = format!(
                "Container {} failed {} probe, will be restarted",
                observed.name,
                kind.field().trim_end_matches("Probe")
            );
            let grace_s = probe.at("terminationGracePeriodSeconds").as_i64().unwrap_or(grace_s);
            // Until it has ended, as a runtime that is down forgets what it was asked.
            hooks::end(container, observed, (grace_s, message), memory, now, step);
            return;
        }
        if state.in_flight {
            continue;
        }
        let first = started.plus_secs(probe.at("initialDelaySeconds").as_i64().unwrap_or(0));
        let period_s = probe.at("periodSeconds").as_i64().unwrap_or(10).max(1);
        let due = state.asked_at.map_or(first, |asked| asked.plus_secs(period_s));
        if now < due {
            step.wake_at(due);
            continue;
        }
        state.asked_at = Some(now);
        state.in_flight = true;
        step.actions.push(Action::Probe { container: observed.name.clone(), id: id.clone(), kind });
        step.wake_at(now.plus_secs(period_s));
    }
}
