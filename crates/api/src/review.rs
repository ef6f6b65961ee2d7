//! Kinds that are asked and answered but never stored: who am I, and what may I do.
//!
//! Rules: kubernetes.io/docs/reference/access-authn-authz/authorization (checking API access).

use crate::accept::{Expected, accept};
use crate::step::{Reply, Step};
use crate::{Request, Verb};
use authz::{Attributes, Identity, Verdict};
use objects::{FieldErrors, Status, Value, ValueExt, json, registry};
use state::View;

/// Answers a question put as the creation of an object.
pub(crate) fn answer(request: &Request, view: &View) -> Result<Step, Status> {
    if request.verb != Verb::Create {
        return Err(Status::method_not_allowed());
    }
    let (mut question, warnings) = accept(request, &Expected::of(&request.served), request.body.value.clone())?;
    question.default_to("metadata", json!({}));
    let status = match request.served.kind.id {
        registry::SELF_SUBJECT_REVIEW => json!({"userInfo": user_info(&request.identity)}),
        registry::SELF_SUBJECT_RULES_REVIEW => rules(view, &request.identity, question.text("spec.namespace")),
        registry::SELF_SUBJECT_ACCESS_REVIEW => verdict(request, view, &request.identity, &question)?,
        _ => verdict(request, view, &subject(request, &question)?, &question)?,
    };
    question.set("status", status);
    Ok(Step::Answer(Reply::Value { value: question, created: true, warnings }))
}

fn user_info(identity: &Identity) -> Value {
    let mut groups = identity.groups.clone();
    groups.push("system:authenticated".into());
    json!({"username": identity.user, "groups": groups})
}

fn rules(view: &View, identity: &Identity, namespace: &str) -> Value {
    let all = authz::rules(view, identity, namespace);
    let (paths, resources): (Vec<Value>, Vec<Value>) =
        all.into_iter().partition(|rule| !rule.items("nonResourceURLs").is_empty());
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}

/// Whom a SubjectAccessReview asks about.
fn subject(request: &Request, question: &Value) -> Result<Identity, Status> {
    let groups = question.items("spec.groups").iter().filter_map(Value::as_str).map(ToString::to_string).collect();
    let identity = Identity { user: question.text("spec.user").into(), groups };
    if identity.user.is_empty() && identity.groups.is_empty() {
        let mut errors = FieldErrors::default();
        errors.invalid("spec.user", &json!(""), "at least one of user or group must be specified");
        return Err(Status::invalid(request.served.kind, "", errors));
    }
    Ok(identity)
}

fn verdict(request: &Request, view: &View, identity: &Identity, question: &Value) -> Result<Value, Status> {
    let (resource, path) = (question.at("spec.resourceAttributes"), question.at("spec.nonResourceAttributes"));
    if resource.is_null() == path.is_null() {
        let mut errors = FieldErrors::default();
        let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.invalid("spec.resourceAttributes", resource, why);
        return Err(Status::invalid(request.served.kind, "", errors));
    }
    let attributes = if path.is_null() {
        Attributes {
            verb: resource.text("verb"),
            group: resource.text("group"),
            resource: match resource.text("subresource") {
                "" => resource.text("resource").into(),
                subresource => format!("{}/{subresource}", resource.text("resource")),
            },
            namespace: resource.text("namespace"),
            name: resource.text("name"),
            path: "",
        }
    } else {
        Attributes { verb: path.text("verb"), path: path.text("path"), ..Attributes::default() }
    };
    Ok(match authz::authorize(view, identity, &attributes) {
        Verdict::Yes(rule) => json!({"allowed": true, "reason": rule}),
        Verdict::No(_) => json!({"allowed": false}),
    })
}
