//! `kubectl --as`: a request made in another's name, by those who may.
//!
//! Rules: kubernetes.io/docs/reference/access-authn-authz/authentication (user impersonation).

use authz::{Attributes, Identity, Verdict};
use http::HeaderMap;
use objects::Status;
use state::View;

/// In whose name the request is to be carried out: the caller's own, unless headers ask for another's.
pub(crate) fn identity(view: &View, caller: Identity, headers: &HeaderMap) -> Result<Identity, Status> {
    let all = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
    };
    let (users, mut groups) = (all("impersonate-user"), all("impersonate-group"));
    // What is not understood must not be ignored: the request would have the caller's own rights.
    let other = |name: &&http::HeaderName| {
        name.as_str() == "impersonate-uid" || name.as_str().starts_with("impersonate-extra-")
    };
    if let Some(name) = headers.keys().find(other) {
        return Err(Status::bad_request(format!(
            "the header {name} is not supported here; impersonate users and groups"
        )));
    }
    let user = match users.as_slice() {
        [] if groups.is_empty() => return Ok(caller),
        [user] if !user.is_empty() => user.clone(),
        _ => return Err(Status::bad_request("requested impersonation without a user: name one in Impersonate-User")),
    };
    let account = match user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
        Some((namespace, name)) => ("serviceaccounts", namespace, name),
        None => ("users", "", user.as_str()),
    };
    let mut wanted = vec![account];
    wanted.extend(groups.iter().map(|group| ("groups", "", group.as_str())));
    for (resource, namespace, name) in wanted {
        let attributes =
            Attributes { verb: "impersonate", group: "", resource: resource.into(), namespace, name, path: "" };
        if let Verdict::No(why) = authz::authorize(view, &caller, &attributes) {
            return Err(Status::new(403, "Forbidden", format!("{resource} {name:?} is forbidden: {why}")));
        }
    }
    // Whoever is a service account is in its groups, whether named or not.
    if let ("serviceaccounts", namespace, _) = account {
        groups.extend(["system:serviceaccounts".to_string(), format!("system:serviceaccounts:{namespace}")]);
    }
    Ok(Identity { user, groups })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(groups: &[&str], headers: &[(&'static str, &str)]) -> Result<Identity, u16> {
        let caller = Identity { user: "me".into(), groups: groups.iter().map(ToString::to_string).collect() };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        identity(&View::new(state::State::new()), caller, &map).map_err(|status| status.code)
    }

    #[test]
    fn only_those_who_may_speak_for_others() {
        let bob = [("impersonate-user", "bob"), ("impersonate-group", "team")];
        let told = asked(&["system:masters"], &bob).unwrap();
        assert_eq!((told.user.as_str(), told.groups.as_slice()), ("bob", ["team".to_string()].as_slice()));
        assert_eq!(asked(&["balsa:readers"], &bob), Err(403));
        assert_eq!(asked(&["balsa:readers"], &[]).unwrap().user, "me");
        assert_eq!(asked(&["system:masters"], &[("impersonate-group", "team")]), Err(400));
        assert_eq!(asked(&["system:masters"], &[("impersonate-user", "bob"), ("impersonate-extra-x", "y")]), Err(400));
    }
}
