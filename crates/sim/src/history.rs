//! What clients did and saw, as the judgement takes it: our keys, records and refusals in its words.

use judge::{Fact, Refusal, Sight};
use objects::{Key, Record, ValueExt};
use state::{Event, View};

/// `kind/name`, e.g. `1/a`.
pub(crate) fn name_of(key: &Key) -> String {
    format!("{}/{}", key.kind.0, key.name)
}

pub(crate) fn sight(record: &Record) -> Sight {
    Sight {
        name: name_of(&record.key),
        revision: record.header.revision.0,
        value: record.value().text("data.v").to_string(),
    }
}

/// Whether an object is one of those that the clients of the store write.
pub(crate) fn is_clients(key: &Key) -> bool {
    crate::KINDS.contains(&key.kind) && key.namespace == crate::NAMESPACE
}

/// Everything that the clients of the store write.
pub(crate) fn sights(view: &View) -> Vec<Sight> {
    crate::KINDS.iter().flat_map(|kind| view.list(*kind, crate::NAMESPACE, None)).map(|record| sight(record)).collect()
}

pub(crate) fn fact(event: &Event) -> Fact {
    Fact {
        name: name_of(&event.key),
        value: event.new.as_ref().map(|record| sight(record).value),
        txn_end: event.txn_end.0,
    }
}

pub(crate) fn refusal(refusal: &state::Refusal) -> Refusal {
    match refusal {
        state::Refusal::AlreadyExists(key) => Refusal::AlreadyExists(name_of(key)),
        state::Refusal::NotFound(key) => Refusal::NotFound(name_of(key)),
        state::Refusal::Conflict(key) => Refusal::Conflict(name_of(key)),
        state::Refusal::Fenced => Refusal::Fenced,
        // Nothing the simulator sends earns one of these.
        state::Refusal::NamespaceTerminating(_)
        | state::Refusal::NamespaceMissing(_)
        | state::Refusal::Forgotten
        | state::Refusal::Malformed(_) => Refusal::Unearned(format!("{refusal:?}")),
    }
}
