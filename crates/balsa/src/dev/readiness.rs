//! Whether all of a cluster is really ready now. Pure: what was seen comes in, the first thing that is
//! missing comes out.

use objects::{Value, ValueExt};
use protos::cluster::HealthResponse;
use runtime::process_id::ProcessId;

/// What a member's process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    Running,
    /// Frozen by a signal: it is there, and does nothing.
    Paused,
    Down,
}

impl Activity {
    pub(super) fn of(process: Option<&ProcessId>) -> Activity {
        match process {
            Some(process) if process.is_stopped() => Activity::Paused,
            Some(_) => Activity::Running,
            None => Activity::Down,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Activity::Running => "running",
            Activity::Paused => "paused",
            Activity::Down => "down",
        }
    }
}

/// What keeps a member from ever being ready by itself, whatever it last said.
pub(super) fn hindrance(activity: Activity, is_cut: bool) -> Option<&'static str> {
    match activity {
        Activity::Down => Some("it has ended"),
        Activity::Paused => Some("it is paused; `balsa dev resume` goes on with it"),
        Activity::Running if is_cut => Some("it is cut off; `balsa dev heal` ends that"),
        Activity::Running => None,
    }
}

/// Whether a master votes and serves: `health` is its own answer to a linearizable read.
pub(super) fn master(name: &str, voters: &[String], health: Result<&HealthResponse, String>) -> Result<(), String> {
    if !voters.iter().any(|voter| voter == name) {
        return Err("it does not vote yet".into());
    }
    match health {
        Ok(health) if health.ready => Ok(()),
        Ok(health) => Err(health.reason.clone()),
        Err(why) => Err(why),
    }
}

/// Whether a worker is ready: its Node says so, and says it of this start of the worker (`boot_id`). Of a
/// worker that was killed and started again, the condition alone may still be that of its last life.
pub(super) fn worker(node: Option<&Value>, boot_id: Option<&str>) -> Result<(), String> {
    let node = node.ok_or("it has not joined yet")?;
    if boot_id.is_none() || node.annotation(dispatch::BOOT_ID) != boot_id {
        return Err("it has not reported since it was started".into());
    }
    match node.items("status.conditions").iter().find(|condition| condition.text("type") == "Ready") {
        Some(condition) if condition.text("status") == "True" => Ok(()),
        Some(condition) => Err(condition.text("message").into()),
        None => Err("its node has no Ready condition yet".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use objects::json;

    #[test]
    fn what_cannot_answer_is_not_ready() {
        assert_eq!(hindrance(Activity::Running, false), None);
        assert!(hindrance(Activity::Running, true).unwrap().contains("balsa dev heal"));
        assert!(hindrance(Activity::Paused, false).unwrap().contains("balsa dev resume"));
        assert!(hindrance(Activity::Paused, true).unwrap().contains("paused"));
        assert!(hindrance(Activity::Down, true).unwrap().contains("ended"));
    }

    #[test]
    fn a_master_votes_and_serves() {
        let voters = ["master-1".to_string()];
        let health = |ready, reason: &str| HealthResponse { ready, reason: reason.into(), ..Default::default() };
        assert_eq!(master("master-1", &voters, Ok(&health(true, ""))), Ok(()));
        assert!(master("master-2", &voters, Ok(&health(true, ""))).unwrap_err().contains("vote"));
        assert_eq!(master("master-1", &voters, Ok(&health(false, "no leader"))), Err("no leader".into()));
        assert_eq!(master("master-1", &voters, Err("silent".into())), Err("silent".into()));
    }

    #[test]
    fn a_worker_is_ready_in_this_life() {
        let node = |status: &str| {
            let ready = json!({"type": "Ready", "status": status, "message": format!("told {status}")});
            json!({
                "metadata": {"annotations": {"balsa.dev/boot-id": "two"}},
                "status": {"conditions": [{"type": "DiskPressure", "status": "False"}, ready]},
            })
        };
        assert_eq!(worker(Some(&node("True")), Some("two")), Ok(()));
        assert_eq!(worker(Some(&node("Unknown")), Some("two")), Err("told Unknown".into()));
        for (node, boot_id) in [(Some(node("True")), Some("three")), (Some(node("True")), None), (None, Some("two"))] {
            assert!(worker(node.as_ref(), boot_id).is_err(), "{boot_id:?}");
        }
    }
}
