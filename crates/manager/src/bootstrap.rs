//! What a new cluster starts with: its system namespaces.

use crate::proposals::{Failure, propose};
use api::Context;
use front::Front;
use objects::{Key, json, registry};
use state::{LeaderId, Refusal, Txn};

pub(crate) async fn ensure(front: &Front, leader: LeaderId) -> Result<(), Failure> {
    for name in api::admission::SYSTEM_NAMESPACES {
        let view = front.store.view();
        if view.get(&Key::new(registry::NAMESPACE, "", name)).is_some() {
            continue;
        }
        let mut rng = front.rng();
        let mut context = Context { now: front.now(), rng: &mut rng };
        let object = json!({"metadata": {"name": name}});
        let (op, checks) = api::creation(object, registry::must(registry::NAMESPACE), &view, &mut context)?;
        match propose(front, leader, Txn { ops: vec![op], checks, ..Txn::default() }).await {
            Ok(()) | Err(Failure::Refused(Refusal::AlreadyExists(_))) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
