//! All masters hold the same state, to the byte.
//!
//! Source: ARCHITECTURE.md, "nothing changes the state except `State::apply`", which is deterministic.

use crate::trace::Fnv;
use state::{View, snapshot};

/// Of everything a snapshot holds.
pub(crate) fn hash(view: &View) -> u64 {
    let mut hash = Fnv::default();
    hash.add(&snapshot::encode(view.state()));
    hash.value()
}

/// Which masters hold something else than the first one.
pub(crate) fn check(views: &[(String, View)]) -> Vec<String> {
    let Some((first, hashed)) = views.first().map(|(name, view)| (name, hash(view))) else { return Vec::new() };
    let others = views.iter().skip(1).filter(|(_, view)| hash(view) != hashed);
    others
        .map(|(name, view)| format!("{name} at revision {} holds another state than {first}", view.revision()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::check;
    use objects::{Key, json, record, registry};
    use state::{LeaderId, Op, State, Txn, View};

    #[test]
    fn a_state_that_differs_is_found() {
        let view = |text: &str| {
            let mut state = State::new();
            let object = record::encode(&json!({"metadata": {"name": "a"}, "data": {"v": text}}));
            let key = Key::new(registry::CONFIG_MAP, "default", "a");
            state.apply(LeaderId::default(), &Txn { ops: vec![Op::Create { key, object }], ..Txn::default() });
            View::new(state)
        };
        let views = |texts: &[&str]| texts.iter().map(|text| (text.to_string(), view(text))).collect::<Vec<_>>();
        assert_eq!(check(&views(&["x", "x", "x"])), [""; 0]);
        assert_eq!(check(&views(&["x", "y", "x"])), ["y at revision 1 holds another state than x"]);
    }
}
