//! Bodies in Kubernetes' protobuf form, which Go clients send by default: decoded to the JSON they
//! stand for.
//!
//! The wire numbers are facts of the API, kept in `protobuf_fields.txt`: a message a line, each field
//! as NUMBER:JSON-NAME:TYPE. Types: s string, b bytes, i integer, t boolean, d double, Q Quantity,
//! T Time, M MicroTime, I IntOrString, F raw JSON, or a message; `*` repeats, `%` is a map from
//! strings, and the name `^` puts a message's fields into its parent.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use objects::{Map, Value, ValueExt, json};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// What such a body starts with.
const MAGIC: &[u8] = b"k8s\0";
/// Messages nest at most this deep in the API; more is an attack on the stack.
const DEPTH_MAX: usize = 64;

type Message = BTreeMap<u64, (&'static str, &'static str)>;

fn messages() -> &'static BTreeMap<&'static str, Message> {
    static MESSAGES: OnceLock<BTreeMap<&'static str, Message>> = OnceLock::new();
    MESSAGES.get_or_init(|| {
        let field = |text: &'static str| {
            let mut parts = text.splitn(3, ':');
            let number = parts.next()?.parse().ok()?;
            Some((number, (parts.next()?, parts.next()?)))
        };
        let message = |line: &'static str| {
            let (name, fields) = line.split_once(' ').unwrap_or((line, ""));
            (name, fields.split(' ').filter_map(field).collect())
        };
        include_str!("protobuf_fields.txt").lines().filter(|line| !line.is_empty()).map(message).collect()
    })
}

/// Numbers that Go always writes; zero means that the client left them out. Other zeros are meant.
const ZERO_IS_UNSET: [&str; 11] = [
    "initialDelaySeconds",
    "timeoutSeconds",
    "periodSeconds",
    "successThreshold",
    "failureThreshold",
    "hostPort",
    "generation",
    "observedGeneration",
    "minReadySeconds",
    "count",
    "collisionCount",
];

enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Reads one field; `None` at the end.
fn next<'a>(rest: &mut &'a [u8]) -> Result<Option<(u64, Wire<'a>)>, String> {
    if rest.is_empty() {
        return Ok(None);
    }
    let tag = varint(rest)?;
    let mut take = |n: usize| -> Result<&'a [u8], String> {
        let (head, tail) = rest.split_at_checked(n).ok_or("the message ends early")?;
        *rest = tail;
        Ok(head)
    };
    let wire = match tag & 7 {
        0 => Wire::Number(varint(rest)?),
        1 => Wire::Number(u64::from_le_bytes(take(8)?.try_into().map_err(|_| "the message ends early")?)),
        5 => Wire::Number(u64::from(u32::from_le_bytes(take(4)?.try_into().map_err(|_| "the message ends early")?))),
        2 => {
            let n = varint(rest)?;
            let n = usize::try_from(n).map_err(|_| "a length is too large")?;
            let (head, tail) = rest.split_at_checked(n).ok_or("the message ends early")?;
            *rest = tail;
            Wire::Bytes(head)
        }
        other => return Err(format!("wire type {other} is not used by the API")),
    };
    Ok(Some((tag >> 3, wire)))
}

fn varint(rest: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, tail) = rest.split_first().ok_or("the message ends early")?;
        *rest = tail;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number is too long".into())
}

fn text(bytes: &[u8]) -> Result<Value, String> {
    std::str::from_utf8(bytes).map(Value::from).map_err(|_| "a string is not UTF-8".into())
}

/// The value of a small message of numbered parts.
fn parts(bytes: &[u8]) -> Result<BTreeMap<u64, Wire<'_>>, String> {
    let mut rest = bytes;
    let mut parts = BTreeMap::new();
    while let Some((number, wire)) = next(&mut rest)? {
        parts.insert(number, wire);
    }
    Ok(parts)
}

fn number(parts: &BTreeMap<u64, Wire>, field: u64) -> i64 {
    match parts.get(&field) {
        Some(Wire::Number(number)) => *number as i64,
        _ => 0,
    }
}

fn string(parts: &BTreeMap<u64, Wire>, field: u64) -> Result<Value, String> {
    match parts.get(&field) {
        Some(Wire::Bytes(bytes)) => text(bytes),
        _ => Ok("".into()),
    }
}

fn value(ty: &str, wire: &Wire, depth: usize) -> Result<Value, String> {
    Ok(match (ty, wire) {
        ("i", Wire::Number(number)) => (*number as i64).into(),
        ("t", Wire::Number(number)) => (*number != 0).into(),
        ("d", Wire::Number(number)) => f64::from_bits(*number).into(),
        ("s", Wire::Bytes(bytes)) => text(bytes)?,
        ("b", Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        ("Q", Wire::Bytes(bytes)) => string(&parts(bytes)?, 1)?,
        ("T" | "M", Wire::Bytes(bytes)) => {
            let parts = parts(bytes)?;
            let ms = number(&parts, 1).saturating_mul(1000) + number(&parts, 2) / 1_000_000;
            let at = objects::Timestamp(ms);
            if ms == 0 && parts.is_empty() {
                Value::Null
            } else if ty == "T" {
                at.rfc3339().into()
            } else {
                at.rfc3339_micro().into()
            }
        }
        ("I", Wire::Bytes(bytes)) => {
            let parts = parts(bytes)?;
            if number(&parts, 1) == 0 { number(&parts, 2).into() } else { string(&parts, 3)? }
        }
        ("F", Wire::Bytes(bytes)) => match parts(bytes)?.get(&1) {
            Some(Wire::Bytes(raw)) => serde_json::from_slice(raw).map_err(|error| error.to_string())?,
            _ => Value::Null,
        },
        (name, Wire::Bytes(bytes)) => Value::Object(message(name, bytes, depth + 1)?),
        (ty, Wire::Number(_)) => return Err(format!("a number stands where {ty} is expected")),
    })
}

fn message(name: &str, bytes: &[u8], depth: usize) -> Result<Map<String, Value>, String> {
    if depth > DEPTH_MAX {
        return Err("the message nests too deep".into());
    }
    let fields =
        messages().get(name).ok_or_else(|| format!("the type {name} is not known in protobuf form; send JSON"))?;
    let mut object = Map::new();
    let mut rest = bytes;
    while let Some((number, wire)) = next(&mut rest)? {
        // A field this version does not know is dropped, as the API's own decoder does.
        let Some((field, ty)) = fields.get(&number) else { continue };
        if let Some(item) = ty.strip_prefix('*') {
            let list = object.entry(*field).or_insert_with(|| json!([]));
            let item = value(item, &wire, depth)?;
            list.as_array_mut().into_iter().for_each(|list| list.push(item.clone()));
        } else if let Some(item) = ty.strip_prefix('%') {
            let Wire::Bytes(entry) = wire else { return Err(format!("{field} is not a map")) };
            let entry = parts(entry)?;
            let Value::String(key) = string(&entry, 1)? else { return Err(format!("{field} has a nameless entry")) };
            let inner = match entry.get(&2) {
                Some(wire) => value(item, wire, depth)?,
                None => "".into(),
            };
            let map = object.entry(*field).or_insert_with(|| json!({}));
            map.as_object_mut().into_iter().for_each(|map| drop(map.insert(key.clone(), inner.clone())));
        } else {
            let inner = value(ty, &wire, depth)?;
            match (*field, inner) {
                ("^", Value::Object(inner)) => object.extend(inner),
                (_, Value::Null) => {}
                // Go writes every field of the older messages: an empty string means "not set".
                (_, Value::String(text)) if text.is_empty() => {}
                (field, Value::Number(number)) if number.as_i64() == Some(0) && ZERO_IS_UNSET.contains(&field) => {}
                (field, inner) => drop(object.insert(field.into(), inner)),
            }
        }
    }
    Ok(object)
}

/// The name of a kind's message: its group's first word and its kind.
fn message_name(api_version: &str, kind: &str) -> String {
    if kind == "DeleteOptions" {
        return "meta.DeleteOptions".into();
    }
    let group = api_version.split_once('/').map_or("core", |(group, _)| group);
    format!("{}.{kind}", group.split('.').next().unwrap_or(group))
}

/// Decodes a body: the envelope names the type, the rest is the object.
pub(crate) fn decode(body: &[u8]) -> Result<Value, String> {
    let body = body.strip_prefix(MAGIC).ok_or("the body does not start with k8s\\0")?;
    let envelope = parts(body)?;
    let Some(Wire::Bytes(types)) = envelope.get(&1) else { return Err("the envelope names no type".into()) };
    let types = parts(types)?;
    let (api_version, kind) = (string(&types, 1)?, string(&types, 2)?);
    let (api_version, kind) = (api_version.as_str().unwrap_or(""), kind.as_str().unwrap_or(""));
    let raw = match envelope.get(&2) {
        Some(Wire::Bytes(raw)) => *raw,
        _ => &[],
    };
    let mut object = Value::Object(message(&message_name(api_version, kind), raw, 0)?);
    object.set("apiVersion", api_version);
    object.set("kind", kind);
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, bytes.len() as u8];
        out.extend_from_slice(bytes);
        out
    }

    fn config_map() -> Vec<u8> {
        let types = [field(1, b"v1"), field(2, b"ConfigMap")].concat();
        let metadata = field(1, b"x");
        let entry = [field(1, b"k"), field(2, b"v")].concat();
        let object = [field(1, &metadata), field(2, &entry)].concat();
        [MAGIC.to_vec(), field(1, &types), field(2, &object)].concat()
    }

    #[test]
    fn a_config_map() {
        let object = decode(&config_map()).unwrap();
        let want = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"k": "v"}});
        assert_eq!(object, want);
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let body = config_map();
        for len in 0..body.len() {
            drop(decode(&body[..len]));
        }
        for i in 0..body.len() {
            let mut damaged = body.clone();
            damaged[i] ^= 0xFF;
            drop(decode(&damaged));
        }
        assert!(decode(b"{}").is_err());
    }
}
