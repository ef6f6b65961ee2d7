//! The sizes of a Deployment's ReplicaSets, step by step, and what is told of the progress.
//!
//! Rules: kubernetes.io/docs/concepts/workloads/controllers/deployment (rolling update, proportional
//! scaling, deployment status).

use crate::deployment::{DESIRED, MAX, Rollout, Set};
use crate::{Context, Plan};
use objects::{Timestamp, Value, ValueExt, json};

/// `progressDeadlineSeconds` of this value means that there is none.
const NO_DEADLINE: i64 = i32::MAX as i64;

impl Rollout {
    /// Every set but the newest, oldest first.
    pub(crate) fn olds(&self) -> impl Iterator<Item = usize> + use<> {
        let newest = self.newest;
        (0..self.sets.len()).filter(move |i| Some(*i) != newest)
    }

    fn total(&self) -> i64 {
        self.sets.iter().map(|set| set.replicas).sum()
    }

    fn sum(&self, field: &str) -> i64 {
        self.sets.iter().map(|set| set.status(field)).sum()
    }

    fn n_updated(&self) -> i64 {
        self.newest.map_or(0, |newest| self.sets[newest].status("replicas"))
    }

    /// Every pod is of the new template and available, and no other is left.
    pub(crate) fn is_complete(&self) -> bool {
        [self.n_updated(), self.sum("replicas"), self.sum("availableReplicas")] == [self.replicas; 3]
    }

    /// Whether `replicas` was changed since the sets were last sized.
    pub(crate) fn is_scaled_elsewhere(&self) -> bool {
        let differs = |set: &Set| set.number(DESIRED).is_some_and(|desired| desired != self.replicas);
        self.sets.iter().any(|set| set.spec_replicas() > 0 && differs(set))
    }

    /// How many pods a new set may start with.
    pub(crate) fn room_for_new(&self) -> i64 {
        let current = self.newest.map_or(0, |newest| self.sets[newest].replicas);
        let room = (self.replicas + self.surge - self.total()).max(0);
        room.min(self.replicas - current).max(0)
    }

    /// Recreate: the old sets go to nothing; true when that changes something.
    pub(crate) fn retire(&mut self) -> bool {
        let mut changed = false;
        for i in self.olds() {
            changed |= self.sets[i].replicas > 0;
            self.sets[i].replicas = 0;
        }
        changed
    }

    /// One step of a rolling update: up within the surge, down within what may be unavailable.
    pub(crate) fn roll(&mut self) {
        let Some(newest) = self.newest else { return };
        let total = self.total();
        let grown = self.sets[newest].replicas + self.room_for_new();
        self.sets[newest].replicas = grown.min(self.replicas);
        let min_available = self.replicas - self.unavailable;
        // A set that has just been made smaller still tells of pods that are about to go: nobody counts on them.
        let serving = |set: &Set| set.status("availableReplicas").min(set.spec_replicas());
        let available: i64 = self.sets.iter().map(serving).sum();
        let new = &self.sets[newest];
        let new_unavailable = new.spec_replicas() - serving(new);
        let mut may_go = (total - min_available - new_unavailable).max(0);
        let olds: Vec<usize> = self.olds().collect();
        // Pods that serve nobody go first.
        for i in &olds {
            let set = &mut self.sets[*i];
            let unhealthy = (set.replicas - set.status("availableReplicas")).max(0);
            let gone = unhealthy.min(may_go);
            set.replicas -= gone;
            may_go -= gone;
        }
        let mut spare = (available - min_available).min(may_go).max(0);
        for i in olds {
            let gone = self.sets[i].replicas.min(spare);
            self.sets[i].replicas -= gone;
            spare -= gone;
        }
    }

    /// A change of `replicas` outside a rollout goes to the one set that is active; in the middle of
    /// a rollout it is shared out in proportion to the sets' sizes.
    pub(crate) fn scale_in_proportion(&mut self) {
        let mut active: Vec<usize> = (0..self.sets.len()).filter(|i| self.sets[*i].replicas > 0).collect();
        if active.len() <= 1 {
            let only = active.first().copied().or(self.newest).or(self.sets.len().checked_sub(1));
            if let Some(only) = only {
                self.sets[only].replicas = self.replicas;
            }
            return;
        }
        if self.newest.is_some_and(|newest| self.is_saturated(newest)) {
            self.olds().for_each(|i| self.sets[i].replicas = 0);
            return;
        }
        if self.recreates {
            return;
        }
        let allowed = if self.replicas > 0 { self.replicas + self.surge } else { 0 };
        let to_add = allowed - self.total();
        // The largest first; among equals the newest grows first and the oldest shrinks first.
        let age = |i: usize| if to_add > 0 { -(i as i64) } else { i as i64 };
        active.sort_by_key(|i| (-self.sets[*i].replicas, age(*i)));
        let mut left = to_add;
        for i in &active {
            let set = &self.sets[*i];
            let before = set.number(MAX).filter(|max| *max > 0).unwrap_or(self.sum("replicas")).max(1);
            let share = match self.replicas {
                0 => -set.replicas,
                _ => (set.replicas as f64 * allowed as f64 / before as f64).round() as i64 - set.replicas,
            };
            let change = if left >= 0 { share.clamp(0, left) } else { share.clamp(left, 0) };
            self.sets[*i].replicas += change;
            left -= change;
        }
        let first = active[0];
        self.sets[first].replicas = (self.sets[first].replicas + left).max(0);
    }

    /// The newest set has everything that was asked for: the others are left-overs.
    fn is_saturated(&self, newest: usize) -> bool {
        let set = &self.sets[newest];
        set.spec_replicas() == self.replicas
            && set.number(DESIRED) == Some(self.replicas)
            && set.status("availableReplicas") == self.replicas
    }
}

/// `created` names the set that this plan makes.
pub(crate) fn write_status(
    rollout: &Rollout,
    mut next: Value,
    created: Option<String>,
    context: &Context,
    plan: &mut Plan,
) {
    let old = &rollout.value;
    let available = rollout.sum("availableReplicas");
    let wanted: i64 = rollout.sets.iter().map(|set| set.replicas).sum();
    let counts = [
        ("replicas", rollout.sum("replicas")),
        ("updatedReplicas", rollout.n_updated()),
        ("readyReplicas", rollout.sum("readyReplicas")),
        ("availableReplicas", available),
        ("unavailableReplicas", (wanted - available).max(0)),
    ];
    for (field, count) in counts {
        match count {
            0 => drop(next.remove_at(&format!("status.{field}"))),
            count => next.set(&format!("status.{field}"), count),
        }
    }
    next.set("status.observedGeneration", rollout.record.header.generation);
    let find = |ty: &str| old.items("status.conditions").iter().find(|c| c.text("type") == ty);
    let enough = match available >= rollout.replicas - rollout.unavailable {
        true => ("True", "MinimumReplicasAvailable", "Deployment has minimum availability."),
        false => ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability."),
    };
    let mut conditions = vec![said("Available", enough, find("Available"), context.now)];
    conditions.extend(progressing(rollout, &next, created.as_deref(), find("Progressing"), context.now, plan));
    conditions.extend(failure(rollout, find("ReplicaFailure"), context.now));
    next.set("status.conditions", conditions);
    if &next != old {
        plan.update(&rollout.record, next);
    }
}

/// A condition as of now; one whose status stays keeps its transition time.
fn fresh(ty: &str, (status, reason, message): (&str, &str, &str), old: Option<&Value>, now: Timestamp) -> Value {
    let transition = match old.filter(|old| old.text("status") == status) {
        Some(old) => old.text("lastTransitionTime").to_string(),
        None => now.rfc3339(),
    };
    json!({
        "type": ty, "status": status, "reason": reason, "message": message,
        "lastUpdateTime": now.rfc3339(), "lastTransitionTime": transition,
    })
}

/// The same, except that one which says the same keeps all its times.
fn said(ty: &str, what: (&str, &str, &str), old: Option<&Value>, now: Timestamp) -> Value {
    match old {
        Some(old) if (old.text("status"), old.text("reason"), old.text("message")) == what => old.clone(),
        _ => fresh(ty, what, old, now),
    }
}

fn progressing(
    rollout: &Rollout,
    next: &Value,
    created: Option<&str>,
    was: Option<&Value>,
    now: Timestamp,
    plan: &mut Plan,
) -> Option<Value> {
    let ty = "Progressing";
    let deadline_s = next.at("spec.progressDeadlineSeconds").as_i64().filter(|s| *s != NO_DEADLINE)?;
    let reason = was.map_or("", |was| was.text("reason"));
    if rollout.record.header.deletion.is_some() {
        return was.cloned();
    }
    if rollout.paused {
        // That it had timed out before is not overwritten.
        let keeps = reason == "ProgressDeadlineExceeded";
        return match was.filter(|_| keeps) {
            Some(was) => Some(was.clone()),
            None => Some(said(ty, ("Unknown", "DeploymentPaused", "Deployment is paused"), was, now)),
        };
    }
    if reason == "DeploymentPaused" {
        return Some(fresh(ty, ("Unknown", "DeploymentResumed", "Deployment is resumed"), was, now));
    }
    if let Some(name) = created {
        let message = format!("Created new replica set {name:?}");
        return Some(fresh(ty, ("True", "NewReplicaSetCreated", &message), was, now));
    }
    let Some(newest) = rollout.newest else { return was.cloned() };
    let name = rollout.sets[newest].record.key.name.as_str();
    let number = |object: &Value, field: &str| object.at("status").at(field).as_i64().unwrap_or(0);
    let n_old = |object: &Value| number(object, "replicas") - number(object, "updatedReplicas");
    if reason == "NewReplicaSetAvailable" && n_old(next) == 0 {
        return was.cloned();
    }
    if rollout.is_complete() {
        let message = format!("ReplicaSet {name:?} has successfully progressed.");
        return Some(fresh(ty, ("True", "NewReplicaSetAvailable", &message), was, now));
    }
    let Some(was) = was else {
        let message = format!("Found new replica set {name:?}");
        plan.wake_after(deadline_s * 1000 + 1000);
        return Some(fresh(ty, ("True", "FoundNewReplicaSet", &message), None, now));
    };
    let old = &rollout.value;
    let grew = |field: &str| number(next, field) > number(old, field);
    let grows = ["updatedReplicas", "readyReplicas", "availableReplicas"].iter().any(|field| grew(field));
    if grows || n_old(next) < n_old(old) {
        plan.wake_after(deadline_s * 1000 + 1000);
        let message = format!("ReplicaSet {name:?} is progressing.");
        return Some(fresh(ty, ("True", "ReplicaSetUpdated", &message), Some(was), now));
    }
    if ["NewReplicaSetAvailable", "ProgressDeadlineExceeded"].contains(&reason) {
        return Some(was.clone());
    }
    let last = Timestamp::parse(was.text("lastUpdateTime")).unwrap_or(now);
    let left_ms = deadline_s * 1000 - now.since_ms(last);
    if left_ms < 0 {
        let message = format!("ReplicaSet {name:?} has timed out progressing.");
        return Some(fresh(ty, ("False", "ProgressDeadlineExceeded", &message), Some(was), now));
    }
    plan.wake_after(left_ms + 1000);
    Some(was.clone())
}

/// Why pods cannot be created, as the newest set tells, or else any.
fn failure(rollout: &Rollout, was: Option<&Value>, now: Timestamp) -> Option<Value> {
    let sets = rollout.newest.map(|newest| &rollout.sets[newest]).into_iter().chain(&rollout.sets);
    let mut failures = sets.flat_map(|set| set.value.items("status.conditions"));
    let found = failures.find(|c| c.text("type") == "ReplicaFailure")?;
    Some(said("ReplicaFailure", (found.text("status"), found.text("reason"), found.text("message")), was, now))
}
