//! `Table` renderings, which kubectl asks for.

use crate::ListReply;
use objects::{Kind, Timestamp, Value, ValueExt, json};

/// What of each object a row carries along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    None,
    Metadata,
    Object,
}

fn definitions(kind: &Kind) -> Value {
    let definition = |name: &str, ty: &str, format: &str, priority: u8| json!({"name": name, "type": ty, "format": format, "description": "", "priority": priority});
    let mut all: Vec<Value> =
        kind.columns.iter().map(|column| definition(column.name, column.ty, "", column.priority)).collect();
    // Events are told by what happened; their own names matter to nobody.
    match kind.id == objects::registry::EVENT {
        true => all.push(definition("Name", "string", "name", 1)),
        false => all.insert(0, definition("Name", "string", "name", 0)),
    }
    all.into()
}

fn row(kind: &Kind, object: &Value, include: Include, now: Timestamp) -> Value {
    let mut stored = object.clone();
    // Rows are computed on the stored form; only Event has another, with other field names.
    if kind.id == objects::registry::EVENT && stored.get("regarding").is_some() {
        objects::kinds::core::event_from_events_group(&mut stored);
    }
    let mut cells = (kind.row)(&stored, now);
    let name = object.at("metadata.name").clone();
    let place = if kind.id == objects::registry::EVENT { cells.len() } else { 0 };
    cells.insert(place, name);
    json!({"cells": cells, "object": carried(object, include)})
}

/// What of an object its row carries along.
fn carried(object: &Value, include: Include) -> Value {
    match include {
        Include::None => Value::Null,
        Include::Object => object.clone(),
        Include::Metadata => json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.at("metadata"),
        }),
    }
}

/// A table of objects. `with_columns` is false in all but the first event of a watch.
pub fn table(
    kind: &Kind,
    objects: &[Value],
    metadata: Value,
    include: Include,
    with_columns: bool,
    now: Timestamp,
) -> Value {
    let rows: Vec<Value> = objects.iter().map(|object| row(kind, object, include, now)).collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": if with_columns { definitions(kind) } else { json!([]) },
        "rows": rows,
    })
}

/// The table of one Scale, as autoscaling/v1 shapes it.
pub fn of_scale(scale: &Value, include: Include, now: Timestamp) -> Value {
    let column =
        |name: &str, ty: &str| json!({"name": name, "type": ty, "format": "", "description": "", "priority": 0});
    let mut name = column("Name", "string");
    name["format"] = "name".into();
    let cells = json!([
        scale.at("metadata.name"),
        scale.at("spec.replicas"),
        scale.at("status.replicas"),
        objects::time::age(scale.at("metadata.creationTimestamp").as_str(), now),
    ]);
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": scale.at("metadata.resourceVersion")},
        "columnDefinitions":
            [name, column("Desired", "integer"), column("Available", "integer"), column("Age", "string")],
        "rows": [{"cells": cells, "object": carried(scale, include)}],
    })
}

pub fn of_list(list: &ListReply, include: Include, now: Timestamp) -> Value {
    let parse = |json: &bytes::Bytes| serde_json::from_slice(json).expect("stored objects are JSON");
    let objects: Vec<Value> = list.items.iter().map(parse).collect();
    let mut metadata = json!({"resourceVersion": list.revision.to_string()});
    if !list.continue_token.is_empty() {
        metadata["continue"] = list.continue_token.as_str().into();
    }
    if let Some(remaining) = list.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    table(list.served.kind, &objects, metadata, include, true, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_told_in_its_own_columns() {
        let scale = json!({
            "kind": "Scale", "metadata": {"name": "web", "resourceVersion": "7", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {"replicas": 3}, "status": {"replicas": 2},
        });
        let table = of_scale(&scale, Include::Metadata, Timestamp(60_000));
        assert_eq!(table.at("metadata.resourceVersion"), "7");
        assert_eq!(table["rows"][0]["cells"], json!(["web", 3, 2, "60s"]));
        let names: Vec<&str> = table.items("columnDefinitions").iter().map(|column| column.text("name")).collect();
        assert_eq!(names, ["Name", "Desired", "Available", "Age"]);
    }
}
