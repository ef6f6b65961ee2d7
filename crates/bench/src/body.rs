//! What is written: ConfigMaps of an exact size that say when they were sent. etcd gets the same bytes.

use prost::bytes::Bytes;
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

/// A ConfigMap of `n_bytes` as compact JSON, or of the least that holds its parts, its fields in the order in which the
/// state keeps them. Written as text, not made as a value: what a driver takes, a server lacks.
pub(crate) fn object(namespace: &str, name: &str, n_bytes: usize) -> Bytes {
    let head =
        format!(r#"{{"metadata":{{"name":"{name}","namespace":"{namespace}"}},"apiVersion":"v1","data":{{"pad":""#);
    let tail = format!(r#"","sent":"{:0DIGITS$}"}},"kind":"ConfigMap"}}"#, nanos());
    let n_pad = n_bytes.saturating_sub(head.len() + tail.len());
    let mut json = Vec::with_capacity(head.len() + n_pad + tail.len());
    json.extend_from_slice(head.as_bytes());
    json.resize(head.len() + n_pad, b'x');
    json.extend_from_slice(tail.as_bytes());
    json.into()
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
    fn a_body_has_the_size_asked_for_its_stamp_is_found_and_the_state_would_keep_these_bytes() {
        for size in [256, 2048] {
            let json = object(NAMESPACE, "b-0001", size);
            assert_eq!(json.len(), size);
            assert!(stamp(&json).unwrap() <= nanos());
            assert_eq!(objects::record::encode(&serde_json::from_slice(&json).unwrap()), json);
        }
        assert_eq!(stamp(b"{}"), None);
    }
}
