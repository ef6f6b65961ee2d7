//! Retries: what a client's named request did when it was applied before.
//!
//! The replicated state remembers the outcome under the name; `apply` alone makes sure that nothing is
//! applied twice. This finds the words for the retry: the answer that the first attempt was given, or
//! would have been.

use crate::read::{in_served_form, scale_of};
use crate::step::Reply;
use crate::write::{deleted_status, success, success_at};
use crate::{Request, Verb};
use objects::{Key, registry};
use state::{Outcome, View};

/// The answer to a request whose name is known; `None` for a new one, and for those without a name.
pub fn replay(request: &Request, view: &View) -> Option<Reply> {
    let Outcome::Applied(revisions) = view.outcome_of(request.client_request?)? else { return None };
    let kind = request.served.kind;
    let created = request.verb == Verb::Create;
    if matches!(request.subresource.as_str(), "binding" | "eviction") {
        return Some(Reply::Value { value: success(), created, warnings: Vec::new() });
    }
    let written = revisions.first().copied().unwrap_or_default();
    let event = view.event(kind.id, written);
    // Older than the history: the object as it is now, where it is still the one that was written. Another's
    // would be taken for one's own, and its revision assumed by the next write.
    let record = match event {
        Some(event) => event.new.as_ref(),
        None => view
            .get(&Key::new(kind.id, &request.namespace, request.object_name()))
            .filter(|record| record.header.revision == written),
    };
    let removed = event.and_then(|event| event.old.as_ref());
    let object =
        |record| Reply::Object { json: in_served_form(&request.served, record), created, warnings: Vec::new() };
    Some(match (record, removed) {
        (Some(record), _) if request.subresource == "scale" => {
            Reply::Value { value: scale_of(&record.value()), created, warnings: Vec::new() }
        }
        (Some(record), _) => object(record),
        (None, Some(old)) if kind.id == registry::POD => object(old),
        (None, Some(old)) => Reply::Value { value: deleted_status(request, old), created, warnings: Vec::new() },
        (None, None) => Reply::Value { value: success_at(written), created, warnings: Vec::new() },
    })
}
