//! What is written: ConfigMaps of an exact size that say when they were sent. etcd gets the same bytes.

use objects::{Value, json};
use std::sync::OnceLock;
use std::time::Instant;

/// The namespace that every cluster has.
pub(crate) const NAMESPACE: &str = "default";
const SENT: &[u8] = b"\"sent\":\"";
/// Digits of a stamp: nanoseconds for 30 years.
const DIGITS: usize = 18;

/// Nanoseconds since the bench started: the clock that events are timed with.
pub(crate) fn nanos() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// A ConfigMap of `n_bytes` as compact JSON, or of the least that holds its parts.
pub(crate) fn object(namespace: &str, name: &str, n_bytes: usize) -> Value {
    let with = |pad: usize| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": namespace},
            "data": {"sent": format!("{:0DIGITS$}", nanos()), "pad": "x".repeat(pad)},
        })
    };
    let least = with(0).to_string().len();
    with(n_bytes.saturating_sub(least))
}

/// The stamp in a message, found without parsing it.
pub(crate) fn stamp(bytes: &[u8]) -> Option<u64> {
    let start = bytes.windows(SENT.len()).position(|window| window == SENT)? + SENT.len();
    std::str::from_utf8(bytes.get(start..start + DIGITS)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_the_size_asked_for_and_its_stamp_is_found() {
        for size in [256, 2048] {
            let text = object(NAMESPACE, "b-0001", size).to_string();
            assert_eq!(text.len(), size);
            assert!(stamp(text.as_bytes()).unwrap() <= nanos());
        }
        assert_eq!(stamp(b"{}"), None);
    }
}
