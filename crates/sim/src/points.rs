//! Failpoints: the named edges at which a machine can lose power, and where a run has armed some.
//!
//! They stand at the ports (`Disk`, `Transport`, `Proposer`, `Masters`, `Runtime`), which the simulator
//! implements, and so cost the product nothing: it has no code for them. Nothing is lost by that. Between
//! two ports a machine's work is in its memory alone, and whoever loses power there is, seen from
//! outside and after a restart, as one that lost it at the next port it would have come to.

use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use stdx::Rng;

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    // Written to a master's disk.
    Vote,
    Append,
    Truncate,
    Purge,
    Checkpoint,
    Install,
    // Asked of another master.
    Entries,
    VoteRequest,
    PreVote,
    Snapshot,
    Transfer,
    Propose,
    ReadIndex,
    Beats,
    /// A client's request.
    Client,
    // A plan of the manager.
    Binding,
    Control,
    // Applied, of objects of any kind.
    Creation,
    Change,
    Deletion,
    // Between worker and master.
    Hello,
    Status,
    Assignments,
    Ack,
    // Asked of a worker's runtime.
    Sandbox,
    Container,
    Stop,
    Remove,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Edge {
    /// Nothing has been done.
    Before,
    /// Written, and perhaps not durable.
    Unsynced,
    /// Done, and nobody has been told.
    After,
    /// By the sender, as the message leaves.
    Sent,
    /// By the receiver, before it is acted on.
    Received,
    /// By the receiver, in the moment after its answer has left: the worst one for a promise that was
    /// not written down.
    Replied,
    /// By the sender, as the answer comes in.
    Answered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point(pub Subject, pub Edge);

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}.{:?}", self.0, self.1)
    }
}

/// Every failpoint there is.
pub fn all() -> Vec<Point> {
    use Edge::{After, Answered, Before, Received, Replied, Sent, Unsynced};
    use Subject as S;
    let table: [(&[Subject], &[Edge]); 8] = [
        (&[S::Vote, S::Append, S::Truncate], &[Before, Unsynced, After]),
        (&[S::Purge, S::Checkpoint, S::Install], &[Before, After]),
        (
            &[S::Entries, S::VoteRequest, S::PreVote, S::Snapshot, S::Transfer, S::Propose, S::ReadIndex, S::Beats],
            &[Sent, Received, After, Replied, Answered],
        ),
        (&[S::Client], &[Received, After, Replied]),
        (&[S::Binding, S::Control], &[Before, After]),
        (&[S::Creation, S::Change, S::Deletion], &[After]),
        (&[S::Hello, S::Status, S::Assignments, S::Ack], &[Sent, Received]),
        (&[S::Sandbox, S::Container, S::Stop, S::Remove], &[Before, After]),
    ];
    let points = table.iter().flat_map(|(subjects, edges)| {
        subjects.iter().flat_map(move |subject| edges.iter().map(move |edge| Point(*subject, *edge)))
    });
    points.collect()
}

/// Power lost at one point, at most: a cluster that does nothing but start proves little.
const FIRES_MAX: u32 = 6;

#[derive(Default)]
pub(crate) struct Points(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// At every so manieth pass; how often it was passed, and fired.
    armed: BTreeMap<Point, (u32, u32, u32)>,
    /// Nothing fires before the group is founded, nor after everything is healed.
    live: bool,
    passed: BTreeSet<Point>,
    fired: BTreeSet<Point>,
}

impl Points {
    pub(crate) fn new(armed: &[(Point, u32)]) -> Points {
        let armed = armed.iter().map(|(point, every)| (*point, (*every, 0, 0))).collect();
        Points(Mutex::new(Inner { armed, ..Inner::default() }))
    }

    /// Tells that a machine is at this point. Whether it loses power now.
    pub(crate) fn pass(&self, point: Point) -> bool {
        let inner = &mut *self.0.lock();
        inner.passed.insert(point);
        if !inner.live {
            return false;
        }
        let Some((every, n_passed, n_fired)) = inner.armed.get_mut(&point) else { return false };
        *n_passed += 1;
        let fires = n_passed.is_multiple_of(*every) && *n_fired < FIRES_MAX;
        if fires {
            *n_fired += 1;
            inner.fired.insert(point);
        }
        fires
    }

    pub(crate) fn arm(&self, live: bool) {
        self.0.lock().live = live;
    }

    /// The points passed, and those at which power was lost.
    pub(crate) fn story(&self) -> (BTreeSet<Point>, BTreeSet<Point>) {
        let inner = self.0.lock();
        (inner.passed.clone(), inner.fired.clone())
    }
}

/// Draws which points a run arms, and at which pass each fires.
pub(crate) fn draw(rng: &mut Rng) -> Vec<(Point, u32)> {
    let mut left = all();
    let n_armed = [0, 0, 2, 6, 12, 20][rng.below(6) as usize];
    let mut armed = Vec::new();
    for _ in 0..n_armed {
        let point = left.swap_remove(rng.below(left.len() as u64) as usize);
        armed.push((point, [1, 2, 7, 50][rng.below(4) as usize]));
    }
    armed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_enough_and_each_has_a_name_of_its_own() {
        let names: BTreeSet<String> = all().iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), all().len());
        assert!(names.len() >= 45, "{}", names.len());
    }

    #[test]
    fn an_armed_point_fires_at_its_pass_and_not_for_ever() {
        let point = Point(Subject::Vote, Edge::Before);
        let points = Points::new(&[(point, 2)]);
        assert!(!points.pass(point), "not yet");
        points.arm(true);
        let fired: Vec<bool> = (0..20).map(|_| points.pass(point)).collect();
        assert_eq!(fired[..4], [false, true, false, true]);
        assert_eq!(fired.iter().filter(|fired| **fired).count() as u32, FIRES_MAX);
        assert!(!points.pass(Point(Subject::Vote, Edge::After)), "it is not armed");
        assert_eq!((points.story().0.len(), points.story().1.len()), (2, 1));
        points.arm(false);
        assert!(!points.pass(point));
    }
}
