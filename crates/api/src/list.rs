//! Lists: selectors, pages, and what a resourceVersion asks for.
//!
//! Rules: kubernetes.io/docs/reference/using-api/api-concepts (resource versions, retrieving large
//! results in chunks).

use crate::read::in_served_form;
use crate::{Context, Request};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use objects::selector::{FieldSelector, Selector};
use objects::{Key, Record, Revision, Served, Status};
use state::{ListError, View};
use std::sync::Arc;

/// A page of objects. Items are the stored bytes, never re-encoded.
#[derive(Debug, Clone)]
pub struct ListReply {
    pub served: Served,
    pub revision: Revision,
    pub items: Vec<Bytes>,
    pub continue_token: String,
    pub remaining: Option<u64>,
}

/// Which objects of a kind a list or watch is about.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    pub(crate) namespace: String,
    pub(crate) labels: Selector,
    pub(crate) fields: FieldSelector,
}

impl Filter {
    pub(crate) fn of(request: &Request) -> Result<Filter, Status> {
        let wrong = |option: &'static str| move |why: String| Status::bad_request(why).at(option);
        let labels = Selector::parse(&request.options.label_selector).map_err(wrong("labelSelector"))?;
        let fields = FieldSelector::parse(&request.options.field_selector, request.served.kind.selectable)
            .map_err(wrong("fieldSelector"))?;
        Ok(Filter { namespace: request.namespace.clone(), labels, fields })
    }

    pub(crate) fn matches(&self, record: &Record) -> bool {
        (self.namespace.is_empty() || record.key.namespace == self.namespace)
            && self.labels.matches(&record.header.labels)
            && self.fields.matches(record)
    }
}

pub(crate) fn expired(error: ListError) -> Status {
    match error {
        ListError::Compacted { asked, oldest } => Status::expired(asked.0, oldest.0),
        ListError::Future { asked, current } => Status {
            retry_after_s: Some(1),
            ..Status::timeout(format!("Too large resource version: {asked}, current: {current}"))
        },
    }
}

fn parse_token(token: &str, request: &Request) -> Result<(Revision, Key), Status> {
    let invalid = || Status::bad_request("continue key is not valid: it was not given by this server").at("continue");
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| invalid())?;
    let text = String::from_utf8(bytes).map_err(|_| invalid())?;
    let mut parts = text.splitn(3, '\n');
    let (Some(revision), Some(namespace), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(invalid());
    };
    let revision = revision.parse().map_err(|_| invalid())?;
    Ok((Revision(revision), Key::new(request.served.kind.id, namespace, name)))
}

pub(crate) fn list(request: &Request, view: &View, _: &mut Context) -> Result<ListReply, Status> {
    let (kind, options) = (request.served.kind, &request.options);
    let filter = Filter::of(request)?;
    let (view, start) = if options.continue_token.is_empty() {
        match (options.resource_version, options.resource_version_match.as_str()) {
            (Some(revision), "Exact") if revision > 0 => (view.at(kind.id, Revision(revision)).map_err(expired)?, None),
            (None, "Exact" | "NotOlderThan") => {
                let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
                return Err(Status::bad_request(why).at("resourceVersionMatch"));
            }
            (Some(0), "Exact") => {
                let why = "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"";
                return Err(Status::bad_request(why).at("resourceVersionMatch"));
            }
            _ => (view.clone(), None),
        }
    } else {
        let (revision, key) = parse_token(&options.continue_token, request)?;
        (view.at(kind.id, revision).map_err(expired)?, Some(key))
    };
    let limit = if options.limit == 0 { usize::MAX } else { options.limit };
    let mut matching = candidates(&view, request, &filter, start.clone()).filter(|record| filter.matches(record));
    let page: Vec<&Arc<Record>> = matching.by_ref().take(limit).collect();
    let remaining = if page.len() == limit { matching.count() as u64 } else { 0 };
    let continue_token = match page.last() {
        Some(last) if remaining > 0 => {
            let text = format!("{}\n{}\n{}", view.revision(), last.key.namespace, last.key.name);
            URL_SAFE_NO_PAD.encode(text)
        }
        _ => String::new(),
    };
    // With a selector the rest is not counted, as in Kubernetes.
    let counted = remaining > 0 && filter.labels.0.is_empty() && filter.fields.is_empty();
    Ok(ListReply {
        served: request.served,
        revision: view.revision(),
        items: page.iter().map(|record| in_served_form(&request.served, record)).collect(),
        continue_token,
        remaining: counted.then_some(remaining),
    })
}

/// The records worth filtering: one by name, a node's pods by index, or a whole range.
fn candidates<'a>(
    view: &'a View,
    request: &'a Request,
    filter: &'a Filter,
    start: Option<Key>,
) -> Box<dyn Iterator<Item = &'a Arc<Record>> + 'a> {
    let kind = request.served.kind;
    let after = start.clone();
    let is_after = move |record: &&Arc<Record>| after.as_ref().is_none_or(|start| record.key > *start);
    match (filter.fields.name(), filter.fields.node_name()) {
        (Some(name), _) if !kind.namespaced || !filter.namespace.is_empty() => {
            let key = Key::new(kind.id, &filter.namespace, name);
            Box::new(view.get(&key).into_iter().filter(is_after))
        }
        (_, Some(node)) if kind.id == objects::registry::POD && !node.is_empty() => {
            Box::new(view.pods_of_node(node).filter(is_after))
        }
        _ => Box::new(view.list(kind.id, &filter.namespace, start.as_ref())),
    }
}

/// Bytes of a list that are sent together, at least: enough that a chunk's own cost does not show.
const CHUNK_BYTES: usize = 64 << 10;

impl ListReply {
    /// The list as JSON, piece by piece: the items' bytes with an envelope around them. What a list of a
    /// hundred thousand objects takes beside the stored bytes is one piece.
    pub fn chunks(self) -> impl Iterator<Item = Bytes> {
        let mut metadata = objects::json!({"resourceVersion": self.revision.to_string()});
        if !self.continue_token.is_empty() {
            metadata["continue"] = self.continue_token.into();
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        let head = format!(
            "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
            self.served.kind.kind,
            self.served.api_version()
        );
        let (mut items, mut pending, mut first) = (self.items.into_iter(), Some(head.into_bytes()), true);
        std::iter::from_fn(move || {
            let mut out = pending.take()?;
            for item in items.by_ref() {
                if !std::mem::take(&mut first) {
                    out.push(b',');
                }
                out.extend_from_slice(&item);
                if out.len() >= CHUNK_BYTES {
                    pending = Some(Vec::with_capacity(CHUNK_BYTES));
                    return Some(out.into());
                }
            }
            out.extend_from_slice(b"]}");
            Some(out.into())
        })
    }

    /// All of it.
    pub fn to_json(self) -> Bytes {
        self.chunks()
            .fold(Vec::new(), |mut all, chunk| {
                all.extend_from_slice(&chunk);
                all
            })
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use objects::registry;

    fn of(items: Vec<Bytes>) -> ListReply {
        let served = registry::find_served("", "v1", "configmaps").expect("a kind of the core group");
        ListReply { served, revision: Revision(7), items, continue_token: String::new(), remaining: Some(3) }
    }

    #[test]
    fn a_list_is_the_same_in_one_piece_and_in_many() {
        for n in [0, 1, 2, 200] {
            let item = Bytes::from(format!("{{\"data\":\"{}\"}}", "x".repeat(1000)));
            let list = of(vec![item; n]);
            let chunks: Vec<Bytes> = list.clone().chunks().collect();
            assert_eq!(chunks.len(), 1 + n * 1011 / CHUNK_BYTES, "{n} items");
            let value: objects::Value = serde_json::from_slice(&chunks.concat()).expect("the pieces make JSON");
            assert_eq!(value["items"].as_array().map(Vec::len), Some(n));
            assert_eq!(value["metadata"], objects::json!({"resourceVersion": "7", "remainingItemCount": 3}));
            assert_eq!(list.to_json(), chunks.concat());
        }
    }
}
