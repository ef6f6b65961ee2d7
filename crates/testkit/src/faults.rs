//! Files of faults: an object that is well, and what can be done wrong with it. `api` runs them through
//! its pipeline and keeps the answers in the files; the black-box tests run them against the binary.
//!
//! A line of a file is a comment (`#`), the object that the faults start from (`good JSON`), or
//!
//! ```text
//! CLASS VERB[(fieldValidation)] EDIT; EDIT…     e.g.  missing create -spec.containers
//! ```
//!
//! An edit is `PATH = JSON` (or `= bytes(N)`), or `-PATH`; `raw TEXT` stands for the whole body. Lines
//! with four spaces in front are the answer to the line before.

use serde_json::{Value, json};

/// The file of a kind; `group` when it is that of a second group in which the kind is served.
pub fn file_name(kind: &str, group: Option<&str>) -> String {
    let group = group.map(|group| format!(".{group}")).unwrap_or_default();
    format!("{}{group}.txt", kind.to_lowercase())
}

/// One line of faults, and the answer that stands below it.
#[derive(Clone, Debug)]
pub struct Fault {
    pub class: String,
    pub verb: String,
    /// `Strict`, or what stands in parentheses behind the verb.
    pub validation: String,
    pub edits: String,
    pub answer: Vec<String>,
}

/// A line of a file, as it is to be kept.
#[derive(Clone, Debug)]
pub enum Line {
    Text(String),
    Fault(String, Fault),
}

/// A file, taken apart.
#[derive(Clone, Debug, Default)]
pub struct File {
    pub good: Value,
    pub lines: Vec<Line>,
}

impl File {
    pub fn parse(text: &str) -> File {
        let mut file = File::default();
        for line in text.lines() {
            if let Some(answer) = line.strip_prefix("    ") {
                if let Some(Line::Fault(_, fault)) = file.lines.last_mut() {
                    fault.answer.push(answer.to_string());
                }
            } else if line.is_empty() || line.starts_with('#') {
                file.lines.push(Line::Text(line.to_string()));
            } else if let Some(good) = line.strip_prefix("good ") {
                file.good = serde_json::from_str(good).unwrap_or_else(|error| panic!("{good}: {error}"));
                file.lines.push(Line::Text(line.to_string()));
            } else {
                file.lines.push(Line::Fault(line.to_string(), fault(line)));
            }
        }
        file
    }

    pub fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.lines.iter().filter_map(|line| match line {
            Line::Fault(_, fault) => Some(fault),
            Line::Text(_) => None,
        })
    }
}

/// A line, without its answer.
pub fn fault(line: &str) -> Fault {
    let (class, rest) = line.split_once(' ').unwrap_or_else(|| panic!("not a line of faults: {line}"));
    let (verb, edits) = rest.split_once(' ').unwrap_or((rest, ""));
    let (verb, validation) = verb.split_once('(').unwrap_or((verb, "Strict)"));
    Fault {
        class: class.into(),
        verb: verb.into(),
        validation: validation.trim_end_matches(')').into(),
        edits: edits.into(),
        answer: Vec::new(),
    }
}

impl Fault {
    /// The body: `start`, edited, or the raw text.
    pub fn body(&self, start: Value) -> String {
        if let Some(raw) = self.edits.strip_prefix("raw ") {
            return raw.to_string();
        }
        let mut object = start;
        edit(&mut object, &self.edits);
        object.to_string()
    }
}

/// The steps of `spec.containers[0].name` and `metadata.labels["a/b"]`.
fn steps(path: &str) -> Vec<String> {
    let (mut steps, mut step, mut quoted) = (Vec::new(), String::new(), false);
    for c in path.chars() {
        match c {
            '"' => quoted = !quoted,
            '.' | '[' | ']' if !quoted => {
                if !step.is_empty() {
                    steps.push(std::mem::take(&mut step));
                }
            }
            c => step.push(c),
        }
    }
    if !step.is_empty() {
        steps.push(step);
    }
    steps
}

/// Sets (or with `None` removes) what stands at a path.
fn put(object: &mut Value, steps: &[String], value: Option<Value>) {
    let [step, rest @ ..] = steps else { return };
    let here = match (object, step.parse::<usize>()) {
        (Value::Array(items), Ok(i)) => {
            while items.len() <= i {
                items.push(json!({}));
            }
            if rest.is_empty() && value.is_none() {
                items.remove(i);
                return;
            }
            &mut items[i]
        }
        (object, _) => {
            if !object.is_object() {
                *object = json!({});
            }
            let fields = object.as_object_mut().expect("made an object above");
            if rest.is_empty() && value.is_none() {
                fields.remove(step);
                return;
            }
            fields.entry(step.as_str()).or_insert(Value::Null)
        }
    };
    match (rest, value) {
        ([], Some(value)) => *here = value,
        (rest, value) => put(here, rest, value),
    }
}

/// Carries the edits of a line out.
pub fn edit(object: &mut Value, edits: &str) {
    for edit in edits.split("; ").map(str::trim).filter(|edit| !edit.is_empty()) {
        match (edit.strip_prefix('-'), edit.split_once(" = ")) {
            (Some(path), _) => put(object, &steps(path), None),
            (None, Some((path, value))) => {
                let bytes = value.strip_prefix("bytes(").and_then(|rest| rest.strip_suffix(')'));
                let value = match bytes {
                    Some(n) => "x".repeat(n.parse().unwrap_or_else(|error| panic!("{edit}: {error}"))).into(),
                    None => serde_json::from_str(value).unwrap_or_else(|error| panic!("{edit}: {error}")),
                };
                put(object, &steps(path), Some(value));
            }
            (None, None) => panic!("not an edit: {edit}"),
        }
    }
}
