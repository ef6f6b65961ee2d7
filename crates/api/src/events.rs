//! Events for people: the same word about the same thing is one object that counts.

use objects::{Key, Record, Timestamp, Value, ValueExt, registry};
use state::View;
use std::sync::Arc;

/// What makes two events the same word about the same thing.
const SAME: [&str; 8] = [
    "involvedObject.kind",
    "involvedObject.uid",
    "involvedObject.fieldPath",
    "source.component",
    "source.host",
    "type",
    "reason",
    "message",
];

/// FNV-1a: eight digits tell the events of one object apart.
fn mark(event: &Value) -> String {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let bytes = SAME.iter().flat_map(|path| event.text(path).bytes().chain([0]));
    format!("{:08x}", bytes.fold(0xcbf2_9ce4_8422_2325, step) >> 32)
}

/// Finds the stored event that says the same as `event` and turns `event` into it, counted once more;
/// otherwise gives `event` a name. Names sort by time, and end with what they say.
pub fn fold(view: &View, event: &mut Value, now: Timestamp) -> Option<Arc<Record>> {
    let namespace = event.text("metadata.namespace").to_string();
    // 233 characters, a dot, 11 digits of time and 8 of the mark make a name of 253.
    let about: String = event.text("involvedObject.name").chars().take(233).collect();
    let (prefix, mark) = (format!("{about}."), mark(event));
    let start = Key::new(registry::EVENT, &namespace, &prefix);
    let of_it = view.list(registry::EVENT, &namespace, Some(&start));
    let mut of_it = of_it.take_while(|record| record.key.name.starts_with(&prefix));
    if let Some(record) = of_it.find(|record| record.key.name.ends_with(&mark)) {
        let mut stored = record.value();
        stored.set("count", stored.at("count").as_i64().unwrap_or(1) + 1);
        stored.set("lastTimestamp", now.rfc3339());
        *event = stored;
        return Some(record.clone());
    }
    event.set("metadata.name", format!("{prefix}{:011x}{mark}", now.0.max(0)));
    None
}
