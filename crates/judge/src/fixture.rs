//! Small histories written as text: `1 a=x  2-3 a=y b=y  4 a=-` is a create, a txn of two, a deletion.
//! Each event is first applied at the moment of its revision's number.

use crate::history::{Assumed, Change, End, Fact, History, Moment, Operation, Sight, Span, What, Write};

pub(crate) fn history(text: &str) -> History {
    let mut history = History::default();
    let (mut next, mut last) = (0, 0);
    for word in text.split_whitespace() {
        if let Some((name, value)) = word.split_once('=') {
            let value = (value != "-").then(|| value.to_string());
            let fact = Fact { name: format!("1/{name}"), value, txn_end: last };
            history.truth.insert(next, (Span::at(Moment(next)), fact));
            next += 1;
        } else {
            let (from, to) = word.split_once('-').unwrap_or((word, word));
            (next, last) = (from.parse().unwrap(), to.parse().unwrap());
        }
    }
    history
}

/// `a@1=x b@2=y`
pub(crate) fn sights(text: &str) -> Vec<Sight> {
    let sight = |word: &str| {
        let ((name, rest), value) = (word.split_once('@').unwrap(), word.split_once('=').unwrap().1);
        let revision = rest.split_once('=').unwrap().0.parse().unwrap();
        Sight { name: format!("1/{name}"), revision, value: value.into() }
    };
    text.split_whitespace().map(sight).collect()
}

/// A history to which operations are added, each with its moments.
pub(crate) struct Fixture(pub(crate) History);

impl Fixture {
    fn operation(mut self, [invoked, tried, answered]: [u64; 3], what: What) -> Fixture {
        let (invoked, tried, answered) = (Moment(invoked), Moment(tried), Moment(answered));
        self.0.operations.push(Operation { who: "client".into(), invoked, tried, answered, what });
        self
    }

    pub(crate) fn read(self, invoked: u64, answered: u64, at: u64, seen: &str) -> Fixture {
        self.operation([invoked, invoked, answered], What::Read { at, seen: sights(seen) })
    }

    /// An acknowledged write.
    pub(crate) fn wrote(self, value: &str, invoked: u64, answered: u64, at: &[u64]) -> Fixture {
        let end = End::Applied(at.to_vec());
        let write = Write { value: value.into(), changes: Vec::new(), doubtful: false, end };
        self.operation([invoked, invoked, answered], What::Write(write))
    }

    #[expect(clippy::too_many_arguments, reason = "a row of a table")]
    pub(crate) fn write(
        self,
        value: &str,
        invoked: u64,
        tried: u64,
        answered: u64,
        doubtful: bool,
        changes: Vec<Change>,
        end: End,
    ) -> Fixture {
        let write = Write { value: value.into(), changes, doubtful, end };
        self.operation([invoked, tried, answered], What::Write(write))
    }

    /// Somebody wrote `value`, as often as it stands there, and does not know.
    pub(crate) fn tells(self, value: &str, at: u64) -> Fixture {
        let stands = self.0.truth.values().filter(|fact| fact.1.value.as_deref() == Some(value));
        let change = |name: &String| Change { name: name.clone(), assumed: Assumed::Absent, deletes: false };
        let changes = stands.map(|(_, fact)| change(&fact.name)).collect();
        self.write(value, at, at, at, false, changes, End::Unknown)
    }
}
