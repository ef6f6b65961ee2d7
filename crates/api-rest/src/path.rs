//! Paths of the Kubernetes API, and query strings.

use objects::Served;
use objects::registry::find_served;

pub(crate) struct ResourceTarget {
    pub(crate) served: Served,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
    /// The deprecated `/watch/` form.
    pub(crate) watch_prefix: bool,
}

pub(crate) enum Target<'a> {
    Resource(ResourceTarget),
    /// Discovery, schemas, version.
    Document(Vec<&'a str>),
    Unknown,
}

pub(crate) fn parse(path: &str) -> Target<'_> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        ["api" | "apis" | "version" | "openapi", ..] => return Target::Document(parts),
        _ => return Target::Unknown,
    };
    let (watch_prefix, rest) = match rest {
        ["watch", rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let (namespace, resource, name, subresource) = match rest {
        // A namespace's own subresources look like a namespaced collection.
        ["namespaces", name, sub @ ("status" | "finalize")] => ("", "namespaces", *name, *sub),
        ["namespaces", namespace, resource] => (*namespace, *resource, "", ""),
        ["namespaces", namespace, resource, name] => (*namespace, *resource, *name, ""),
        ["namespaces", namespace, resource, name, sub] => (*namespace, *resource, *name, *sub),
        [resource] => ("", *resource, "", ""),
        [resource, name] => ("", *resource, *name, ""),
        [resource, name, sub] => ("", *resource, *name, *sub),
        _ => return Target::Unknown,
    };
    let Some(served) = find_served(group, version, resource) else { return Target::Unknown };
    // One object of a namespaced kind needs its namespace; a cluster kind has none.
    if served.kind.namespaced == namespace.is_empty() && !(served.kind.namespaced && name.is_empty()) {
        return Target::Unknown;
    }
    Target::Resource(ResourceTarget {
        served,
        namespace: decode(namespace),
        name: decode(name),
        subresource: subresource.into(),
        watch_prefix,
    })
}

/// What to answer where nothing is: names the resource that a client asked for, as this version may lack it.
pub(crate) fn not_found(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let (group, rest) = match parts.as_slice() {
        ["api", _, rest @ ..] => ("", rest),
        ["apis", group, _, rest @ ..] => (*group, rest),
        _ => ("", &[][..]),
    };
    let resource = match rest {
        ["namespaces", _, resource, ..] | [resource, ..] => *resource,
        [] => "",
    };
    let known = "the server could not find the requested resource";
    let is_name = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase());
    match (is_name(resource), group) {
        (false, _) => known.into(),
        (true, "") => format!("{known}: this version serves no {resource} at this path"),
        (true, group) => format!("{known}: this version serves no {resource}.{group} at this path"),
    }
}

pub(crate) fn query(text: &str) -> Vec<(String, String)> {
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(&key.replace('+', " ")), decode(&value.replace('+', " ")))
    };
    text.split('&').filter(|part| !part.is_empty()).map(pair).collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = (*first == b'%').then(|| after.get(..2)).flatten();
        let byte = escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str) -> String {
        match parse(path) {
            Target::Resource(t) => {
                format!("{} ns={} name={} sub={}", t.served.kind.plural, t.namespace, t.name, t.subresource)
            }
            Target::Document(parts) => format!("document {}", parts.join("/")),
            Target::Unknown => "unknown".into(),
        }
    }

    #[test]
    fn paths() {
        for (path, want) in [
            ("/api/v1/pods", "pods ns= name= sub="),
            ("/api/v1/namespaces/a/pods/b/log", "pods ns=a name=b sub=log"),
            ("/api/v1/namespaces/a", "namespaces ns= name=a sub="),
            ("/api/v1/namespaces/a/finalize", "namespaces ns= name=a sub=finalize"),
            ("/api/v1/nodes/n/status", "nodes ns= name=n sub=status"),
            ("/apis/apps/v1/namespaces/a/deployments/d/scale", "deployments ns=a name=d sub=scale"),
            ("/apis/apps/v1", "document apis/apps/v1"),
            ("/api/v1/pods/b", "unknown"),
            ("/api/v1/namespaces/a/nodes", "unknown"),
            ("/api/v1/widgets", "unknown"),
            ("/metrics", "unknown"),
        ] {
            assert_eq!(read(path), want, "{path}");
        }
    }

    #[test]
    fn what_is_not_served_is_named() {
        for (path, named) in [
            ("/apis/batch/v1/namespaces/a/jobs", Some("no jobs.batch at")),
            ("/apis/batch/v1/namespaces/a/jobs/b/status", Some("no jobs.batch at")),
            (
                "/apis/autoscaling/v2/namespaces/a/horizontalpodautoscalers",
                Some("horizontalpodautoscalers.autoscaling"),
            ),
            ("/api/v1/endpoints", Some("no endpoints at")),
            ("/api/v1/<b>", None),
            ("/metrics", None),
        ] {
            let told = not_found(path);
            assert!(told.starts_with("the server could not find the requested resource"), "{told}");
            assert_eq!(told.contains(':'), named.is_some(), "{told}");
            assert!(named.is_none_or(|named| told.contains(named)), "{told}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        assert_eq!(
            query("a=b%2Cc&d=x+y&e"),
            [("a", "b,c"), ("d", "x y"), ("e", "")].map(|(k, v)| (k.into(), v.into()))
        );
    }
}
