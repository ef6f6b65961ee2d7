//! `apply`, views, history and the snapshot codec, by small fixtures.

use super::*;
use objects::{Key, KindId, Revision, Timestamp, ValueExt, json, registry};

fn object(name: &str, extra: &str) -> bytes::Bytes {
    let mut value = json!({"metadata": {"name": name, "uid": format!("uid-{name}")}});
    for pair in extra.split_whitespace() {
        let (path, text) = pair.split_once('=').unwrap();
        match path {
            "owner" => value.set(
                "metadata.ownerReferences",
                json!([{"apiVersion": "v1", "kind": "X", "name": "x", "uid": text, "controller": true}]),
            ),
            path => value.set(path, text),
        }
    }
    objects::record::encode(&value)
}

fn key(name: &str) -> Key {
    Key::new(registry::POD, "default", name)
}

fn create(name: &str, extra: &str) -> Op {
    Op::Create { key: key(name), object: object(name, extra) }
}

fn txn(ops: Vec<Op>) -> Txn {
    Txn { ops, ..Txn::default() }
}

const LEADER: LeaderId = LeaderId { term: 1, node: 1 };

#[test]
fn a_txn_is_all_or_nothing() {
    let mut state = State::new();
    let outcome = state.apply(LEADER, &txn(vec![create("a", ""), create("b", "")])).outcome;
    assert_eq!(outcome, Outcome::Applied(vec![Revision(1), Revision(2)]));
    let outcome = state.apply(LEADER, &txn(vec![create("c", ""), create("a", "")])).outcome;
    assert_eq!(outcome, Outcome::Refused(Refusal::AlreadyExists(key("a"))));
    let view = View::new(state);
    assert_eq!(view.list(registry::POD, "default", None).count(), 2);
    assert_eq!(view.revision(), Revision(2));
}

#[test]
fn updates_and_deletes_hold_only_at_the_assumed_revision() {
    let mut state = State::new();
    state.apply(LEADER, &txn(vec![create("a", "")]));
    let update = |assumed| Op::Update { key: key("a"), assumed: Revision(assumed), object: object("a", "") };
    assert!(matches!(state.apply(LEADER, &txn(vec![update(1)])).outcome, Outcome::Applied(_)));
    assert_eq!(state.apply(LEADER, &txn(vec![update(1)])).outcome, Outcome::Refused(Refusal::Conflict(key("a"))));
    let delete = |assumed| Op::Delete { key: key("a"), assumed: Revision(assumed) };
    assert_eq!(state.apply(LEADER, &txn(vec![delete(1)])).outcome, Outcome::Refused(Refusal::Conflict(key("a"))));
    assert!(matches!(state.apply(LEADER, &txn(vec![delete(2)])).outcome, Outcome::Applied(_)));
    assert_eq!(state.apply(LEADER, &txn(vec![delete(2)])).outcome, Outcome::Refused(Refusal::NotFound(key("a"))));
}

#[test]
fn a_retry_gets_the_first_outcome_and_changes_nothing() {
    let mut state = State::new();
    let request = Some(RequestId { incarnation: 9, seq: 1 });
    let first = Txn { request, ..txn(vec![create("a", "")]) };
    let outcome = state.apply(LEADER, &first).outcome;
    let again = state.apply(LEADER, &first);
    assert_eq!((again.outcome, again.events.len()), (outcome, 0));
    assert_eq!(state.revision(), Revision(1));

    let named = Txn { client_request: Some(7), ..txn(vec![create("b", "")]) };
    let outcome = state.apply(LEADER, &named).outcome;
    assert_eq!(state.apply(LEADER, &named).outcome, outcome);
    assert_eq!(state.revision(), Revision(2));
}

/// Of two names the later applied is remembered longer, whatever the clocks of leaders say meanwhile.
#[test]
fn names_are_forgotten_in_their_order_whatever_the_time() {
    let mut state = State::new();
    let named = |name: u128, stamp| Txn { client_request: Some(name), stamp: Timestamp(stamp), ..Txn::default() };
    let day = 86_400_000;
    // The ids fall, so that no order but that of the turns keeps the newest.
    let names = (0..=dedup::CLIENTS_MAX as u128).rev();
    for (i, name) in names.enumerate() {
        state.apply(LEADER, &named(name, if i % 3 == 0 { day } else { 0 }));
    }
    let state = snapshot::decode(&snapshot::encode(&state), 1).unwrap();
    let is_known = |name: usize| View::new(state.clone()).outcome_of(name as u128).is_some();
    assert_eq!((is_known(dedup::CLIENTS_MAX), is_known(dedup::CLIENTS_MAX - 1), is_known(0)), (false, true, true));
    let mut after = state.clone();
    after.apply(LEADER, &named(u128::MAX, 2 * day));
    let view = View::new(after);
    let forgotten = view.outcome_of(dedup::CLIENTS_MAX as u128 - 1);
    assert_eq!((forgotten, view.outcome_of(0).is_some()), (None, true));
}

#[test]
fn a_request_below_the_window_is_never_applied_again() {
    let mut state = State::new();
    for seq in 0..=dedup::WINDOW_MAX as u64 {
        let request = Some(RequestId { incarnation: 9, seq });
        state.apply(LEADER, &Txn { request, ..Txn::default() });
    }
    let late = Txn { request: Some(RequestId { incarnation: 9, seq: 0 }), ..txn(vec![create("a", "")]) };
    assert_eq!(state.apply(LEADER, &late).outcome, Outcome::Refused(Refusal::Forgotten));
}

/// Those of masters as they were before they started again: their outcomes go, and no more than that.
#[test]
fn of_many_proposers_the_last_have_their_outcomes() {
    let mut state = State::new();
    let of = |incarnation: u64| Txn {
        request: Some(RequestId { incarnation, seq: 3 }),
        ..txn(vec![create(&format!("of-{incarnation}"), "")])
    };
    // The ids fall, so that no order but that of their use keeps the last.
    let ids: Vec<u64> = (0..=dedup::REMEMBERED_MAX as u64).rev().collect();
    let outcomes: Vec<Outcome> = ids.iter().map(|id| state.apply(LEADER, &of(*id)).outcome).collect();
    let mut state = snapshot::decode(&snapshot::encode(&state), 1).unwrap();
    let again: Vec<Outcome> = ids.iter().map(|id| state.apply(LEADER, &of(*id)).outcome).collect();
    assert_eq!(again[0], Outcome::Refused(Refusal::Forgotten));
    assert_eq!(again[1..], outcomes[1..]);
    let newer = Txn { request: Some(RequestId { incarnation: ids[0], seq: 4 }), ..txn(vec![create("newer", "")]) };
    assert!(matches!(state.apply(LEADER, &newer).outcome, Outcome::Applied(_)));
}

#[test]
fn a_fenced_txn_dies_with_its_leader() {
    let mut state = State::new();
    let fenced = Txn { fence: Some(LEADER), ..txn(vec![create("a", "")]) };
    let other = LeaderId { term: 2, node: 1 };
    assert_eq!(state.apply(other, &fenced).outcome, Outcome::Refused(Refusal::Fenced));
    assert!(matches!(state.apply(LEADER, &fenced).outcome, Outcome::Applied(_)));
}

#[test]
fn namespaces_gate_creation() {
    let mut state = State::new();
    let namespace = Key::new(registry::NAMESPACE, "", "default");
    let gated = Txn { checks: vec![Check::NamespaceActive("default".into())], ..txn(vec![create("a", "")]) };
    let missing = Refusal::NamespaceMissing("default".into());
    assert_eq!(state.apply(LEADER, &gated).outcome, Outcome::Refused(missing));
    state.apply(LEADER, &txn(vec![Op::Create { key: namespace.clone(), object: object("default", "") }]));
    assert!(matches!(state.apply(LEADER, &gated).outcome, Outcome::Applied(_)));
    let leaving = object("default", "metadata.deletionTimestamp=2026-01-01T00:00:00Z");
    state.apply(LEADER, &txn(vec![Op::Update { key: namespace, assumed: Revision(1), object: leaving }]));
    let terminating = Refusal::NamespaceTerminating("default".into());
    assert_eq!(state.apply(LEADER, &gated).outcome, Outcome::Refused(terminating));
}

#[test]
fn indexes_follow_the_objects() {
    let mut state = State::new();
    state.apply(LEADER, &txn(vec![create("a", "spec.nodeName=n1 owner=o1"), create("b", "")]));
    let names = |view: &View, node: &str| view.pods_of_node(node).map(|r| r.key.name.to_string()).collect::<Vec<_>>();
    let view = View::new(state.clone());
    assert_eq!(names(&view, "n1"), ["a"]);
    assert_eq!(view.owned_by("o1").count(), 1);
    let moved = Op::Update { key: key("a"), assumed: Revision(1), object: object("a", "spec.nodeName=n2") };
    state.apply(LEADER, &txn(vec![moved]));
    let moved = View::new(state);
    assert_eq!((names(&moved, "n1"), names(&moved, "n2")), (vec![], vec!["a".to_string()]));
    assert_eq!(moved.owned_by("o1").count(), 0);
    assert_eq!(names(&view, "n1"), ["a"], "an older view does not change");
}

#[test]
fn history_resumes_and_rewinds() {
    let mut state = State::new();
    state.apply(LEADER, &txn(vec![create("a", ""), create("b", "")]));
    state.apply(LEADER, &txn(vec![Op::Delete { key: key("a"), assumed: Revision(1) }]));
    let view = View::new(state);
    let kinds: Vec<EventKind> =
        view.events_after(registry::POD, Revision(1)).unwrap().iter().map(|event| event.kind()).collect();
    assert_eq!(kinds, [EventKind::Added, EventKind::Deleted]);
    assert_eq!(view.at(registry::POD, Revision(2)).unwrap().list(registry::POD, "", None).count(), 2);
    assert_eq!(view.at(registry::POD, Revision(0)).unwrap().list(registry::POD, "", None).count(), 0);
    assert!(view.events_after(KindId(99), Revision(0)).unwrap().is_empty());
    assert!(matches!(view.events_after(registry::POD, Revision(9)), Err(ListError::Future { .. })));
}

#[test]
fn old_events_are_dropped_and_said_so() {
    let mut state = State::new();
    let all: Vec<Op> = (0..1_500).map(|i| create(&format!("p{i}"), "")).collect();
    state.apply(LEADER, &txn(all));
    assert!(View::new(state.clone()).events_after(registry::POD, Revision(0)).is_ok());
    let later = Txn { stamp: Timestamp(3_600_000), ..txn(vec![create("b", "")]) };
    state.apply(LEADER, &later);
    let view = View::new(state);
    let error = view.events_after(registry::POD, Revision(0)).unwrap_err();
    assert_eq!(error, ListError::Compacted { asked: Revision(0), oldest: Revision(1_500) });
    assert!(view.events_after(KindId(99), Revision(0)).is_ok(), "what others do pushes out nobody who watches this");
}

#[test]
fn the_newest_events_stay_however_old() {
    let mut state = State::new();
    state.apply(LEADER, &txn(vec![create("a", "")]));
    state.apply(LEADER, &Txn { stamp: Timestamp(3_600_000), ..txn(vec![create("b", "")]) });
    assert_eq!(View::new(state).events_after(registry::POD, Revision(0)).unwrap().len(), 2);
}

#[test]
fn lists_continue_after_a_key() {
    let mut state = State::new();
    state.apply(LEADER, &txn(vec![create("a", ""), create("b", ""), create("c", "")]));
    let view = View::new(state);
    let names: Vec<&str> =
        view.list(registry::POD, "default", Some(&key("a"))).map(|record| record.key.name.as_str()).collect();
    assert_eq!(names, ["b", "c"]);
}

#[test]
fn a_snapshot_restores_the_same_state() {
    let mut state = State::new();
    let request = Some(RequestId { incarnation: 1, seq: 5 });
    state.apply(LEADER, &Txn { request, ..txn(vec![create("a", "spec.nodeName=n1"), create("b", "owner=o")]) });
    let bytes = snapshot::encode(&state);
    let restored = snapshot::decode(&bytes, 1).unwrap();
    assert_eq!(snapshot::encode(&restored), bytes);
    assert_eq!(View::new(restored.clone()).pods_of_node("n1").count(), 1);
    let mut restored = restored;
    let again = Txn { request, ..txn(vec![create("a", "")]) };
    assert_eq!(restored.apply(LEADER, &again).outcome, Outcome::Applied(vec![Revision(1), Revision(2)]));
}

#[test]
fn a_damaged_snapshot_is_refused() {
    let mut state = State::new();
    state.apply(LEADER, &txn(vec![create("a", "")]));
    let bytes = snapshot::encode(&state);
    for i in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[i] ^= 0x40;
        assert!(snapshot::decode(&damaged, 1).is_err(), "flipping byte {i} went unnoticed");
    }
    for len in 0..bytes.len() {
        assert!(snapshot::decode(&bytes[..len], 1).is_err(), "cutting at {len} went unnoticed");
    }
}
