//! Label and field selectors: the query-string grammar and the `LabelSelector` object.
//!
//! Rules: kubernetes.io/docs/concepts/overview/working-with-objects/labels.

use crate::{FieldErrors, Header, Record, ValueExt, validate};
use compact_str::CompactString;
use serde_json::Value;
use std::collections::BTreeMap;

pub type Labels = BTreeMap<CompactString, CompactString>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    NotExists(String),
    /// The label is an integer above (`Gt`) or below (`Lt`) the bound; node affinity only.
    Gt(String, i64),
    Lt(String, i64),
}

/// All requirements must hold; the empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector(pub Vec<Requirement>);

impl Requirement {
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = |key: &String| labels.get(key.as_str());
        let number = |key: &String| value(key)?.parse::<i64>().ok();
        match self {
            Requirement::In(key, values) => value(key).is_some_and(|v| values.iter().any(|want| *want == **v)),
            Requirement::NotIn(key, values) => value(key).is_none_or(|v| values.iter().all(|want| *want != **v)),
            Requirement::Exists(key) => value(key).is_some(),
            Requirement::NotExists(key) => value(key).is_none(),
            Requirement::Gt(key, bound) => number(key).is_some_and(|n| n > *bound),
            Requirement::Lt(key, bound) => number(key).is_some_and(|n| n < *bound),
        }
    }
}

impl Selector {
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.matches(labels))
    }

    /// Parses `a=b,c!=d,e in (f,g),h,!i`.
    pub fn parse(text: &str) -> Result<Selector, String> {
        let mut requirements = Vec::new();
        for term in split_outside_parentheses(text) {
            let term = term.trim();
            if term.is_empty() {
                if text.trim().is_empty() {
                    break;
                }
                return Err(format!("unable to parse requirement: found an empty term in {text:?}"));
            }
            requirements.push(parse_term(term)?);
        }
        Ok(Selector(requirements))
    }

    /// The selector of a `LabelSelector` object; `None` (JSON null) matches nothing.
    pub fn from_object(selector: &Value) -> Option<Selector> {
        let selector = selector.as_object()?;
        let mut requirements = Vec::new();
        for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            requirements.push(Requirement::In(key.clone(), vec![value.as_str().unwrap_or("").into()]));
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            requirements.push(from_expression(expression)?);
        }
        Some(Selector(requirements))
    }
}

/// One `{key, operator, values}`; `None` for an unknown operator.
pub fn from_expression(expression: &Value) -> Option<Requirement> {
    let key = expression.text("key").to_string();
    let values: Vec<String> =
        expression.items("values").iter().map(|value| value.as_str().unwrap_or("").to_string()).collect();
    let bound = || values.first()?.parse().ok();
    match expression.text("operator") {
        "In" => Some(Requirement::In(key, values)),
        "NotIn" => Some(Requirement::NotIn(key, values)),
        "Exists" => Some(Requirement::Exists(key)),
        "DoesNotExist" => Some(Requirement::NotExists(key)),
        "Gt" => Some(Requirement::Gt(key, bound()?)),
        "Lt" => Some(Requirement::Lt(key, bound()?)),
        _ => None,
    }
}

/// Validates a `LabelSelector` object found at `path`.
pub fn validate_label_selector(selector: &Value, path: &str, errors: &mut FieldErrors) {
    validate::labels(selector.at("matchLabels"), &format!("{path}.matchLabels"), errors);
    for (i, expression) in selector.items("matchExpressions").iter().enumerate() {
        let at = format!("{path}.matchExpressions[{i}]");
        let n_values = expression.items("values").len();
        match expression.text("operator") {
            "In" | "NotIn" if n_values == 0 => {
                errors.required(format!("{at}.values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if n_values > 0 => {
                errors.forbidden(
                    format!("{at}.values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                );
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.invalid(format!("{at}.operator"), expression.at("operator"), "not a valid selector operator"),
        }
        validate::qualified_name(expression.text("key"), &format!("{at}.key"), errors);
        for (v, value) in expression.items("values").iter().enumerate() {
            validate::label_value(value, &format!("{at}.values[{v}]"), errors);
        }
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut terms) = (0, 0, Vec::new());
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                terms.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn parse_term(term: &str) -> Result<Requirement, String> {
    let checked_key = |key: &str| {
        let mut errors = FieldErrors::default();
        validate::qualified_name(key, "key", &mut errors);
        match errors.0.first() {
            None => Ok(key.to_string()),
            Some(error) => Err(format!("unable to parse requirement: {error}")),
        }
    };
    if let Some(key) = term.strip_prefix('!') {
        return Ok(Requirement::NotExists(checked_key(key.trim())?));
    }
    if let Some((key, set)) = term.split_once('(') {
        let values = set.strip_suffix(')').ok_or_else(|| format!("unable to parse requirement: {term:?} lacks ')'"))?;
        let values = values.split(',').map(|value| value.trim().to_string()).collect();
        let mut words = key.split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(key), Some("in"), None) => Ok(Requirement::In(checked_key(key)?, values)),
            (Some(key), Some("notin"), None) => Ok(Requirement::NotIn(checked_key(key)?, values)),
            _ => Err(format!("unable to parse requirement: {term:?}, expected 'key in (…)' or 'key notin (…)'")),
        };
    }
    for (operator, negated) in [("!=", true), ("==", false), ("=", false)] {
        if let Some((key, value)) = term.split_once(operator) {
            let (key, value) = (checked_key(key.trim())?, value.trim().to_string());
            if !validate::is_label_value(&value) {
                return Err(format!("unable to parse requirement: values[0][{key}]: Invalid value: {value:?}"));
            }
            return Ok(match negated {
                true => Requirement::NotIn(key, vec![value]),
                false => Requirement::In(key, vec![value]),
            });
        }
    }
    Ok(Requirement::Exists(checked_key(term)?))
}

/// `path=value` and `path!=value` terms over the kind's selectable fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldSelector(Vec<(String, String, bool)>);

impl FieldSelector {
    /// Parses; refuses paths outside `selectable` (`metadata.name` and `.namespace` always are).
    pub fn parse(text: &str, selectable: &[&str]) -> Result<FieldSelector, String> {
        let mut terms = Vec::new();
        for term in text.split(',').map(str::trim).filter(|term| !term.is_empty()) {
            let (path, value, equal) = match (term.split_once("!="), term.split_once("=")) {
                (Some((path, value)), _) => (path, value, false),
                (None, Some((path, value))) => (path, value.trim_start_matches('='), true),
                (None, None) => return Err(format!("invalid selector: {term:?}; can't understand {term:?}")),
            };
            let path = path.trim();
            if !["metadata.name", "metadata.namespace"].contains(&path) && !selectable.contains(&path) {
                return Err(format!("field label not supported: {path}"));
            }
            terms.push((path.to_string(), value.trim().to_string(), equal));
        }
        Ok(FieldSelector(terms))
    }

    /// The same, and of this name alone.
    pub fn and_name(mut self, name: &str) -> FieldSelector {
        self.0.push(("metadata.name".into(), name.into(), true));
        self
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one name asked for, so that a list of it is a lookup.
    pub fn name(&self) -> Option<&str> {
        self.0.iter().find(|(path, _, equal)| *equal && path == "metadata.name").map(|(_, value, _)| value.as_str())
    }

    /// The one node asked for, so that a list of its pods uses the index.
    pub fn node_name(&self) -> Option<&str> {
        self.0.iter().find(|(path, _, equal)| *equal && path == "spec.nodeName").map(|(_, value, _)| value.as_str())
    }

    pub fn matches(&self, record: &Record) -> bool {
        let Header { node_name, phase, .. } = &record.header;
        let mut parsed: Option<Value> = None;
        self.0.iter().all(|(path, want, equal)| {
            let found = match path.as_str() {
                "metadata.name" => record.key.name.to_string(),
                "metadata.namespace" => record.key.namespace.to_string(),
                "spec.nodeName" => node_name.as_deref().unwrap_or("").to_string(),
                "status.phase" => phase.as_deref().unwrap_or("").to_string(),
                path => match parsed.get_or_insert_with(|| record.value()).at(path) {
                    Value::String(text) => text.clone(),
                    Value::Null => String::new(),
                    other => other.to_string(),
                },
            };
            (found == *want) == *equal
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(selector: &str, labels: &str) -> Result<bool, String> {
        let labels = labels.split_whitespace().map(|pair| {
            let (key, value) = pair.split_once('=').unwrap();
            (key.into(), value.into())
        });
        Ok(Selector::parse(selector)?.matches(&labels.collect()))
    }

    #[test]
    fn grammar() {
        for (selector, labels, want) in [
            ("", "a=1", true),
            ("a=1", "a=1", true),
            ("a==1,b!=2", "a=1", true),
            ("a=1,b!=2", "a=1 b=2", false),
            ("a in (1, 2),b notin (3)", "a=2", true),
            ("a in (1,2)", "a=3", false),
            ("a", "b=1", false),
            ("!a", "b=1", true),
            ("example.com/role = x", "example.com/role=x", true),
        ] {
            assert_eq!(matches(selector, labels), Ok(want), "{selector} on {labels}");
        }
        for bad in ["a in 1", "a in (1", "=x", "a=b c", ",", "a,,b", "-x=1"] {
            assert!(Selector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fields_outside_the_list_are_refused() {
        assert!(FieldSelector::parse("spec.nodeName=a,metadata.name!=b", &["spec.nodeName"]).is_ok());
        assert_eq!(FieldSelector::parse("spec.x=a", &[]).unwrap_err(), "field label not supported: spec.x");
        assert!(FieldSelector::parse("nonsense", &[]).is_err());
    }
}
