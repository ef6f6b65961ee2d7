//! The comments of `proto/`, by what they stand above, and the facts every RPC's comment states.

use prost_types::{FileDescriptorProto, SourceCodeInfo};
use std::collections::BTreeMap;

/// Comments by descriptor path: field numbers and indexes, as in `SourceCodeInfo`.
pub struct Comments(BTreeMap<Vec<i32>, String>);

/// Field numbers of descriptors, for the paths.
pub const SYNTAX: i32 = 12;
pub const MESSAGE: i32 = 4;
pub const ENUM: i32 = 5;
pub const SERVICE: i32 = 6;
/// Of a service; of a message: its fields, and the messages and enums nested in it; of an enum.
pub const METHOD: i32 = 2;
pub const FIELD: i32 = 2;
pub const NESTED_MESSAGE: i32 = 3;
pub const NESTED_ENUM: i32 = 4;
pub const VALUE: i32 = 2;

impl Comments {
    pub fn of(file: &FileDescriptorProto) -> Comments {
        let info: &[_] = file.source_code_info.as_ref().map_or(&[], |SourceCodeInfo { location }| location);
        let trimmed = |text: &str| {
            let lines: Vec<&str> = text.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end()).collect();
            lines.join("\n").trim_matches('\n').to_string()
        };
        let all = info.iter().map(|at| (at.path.clone(), trimmed(at.leading_comments())));
        Comments(all.filter(|(_, text)| !text.is_empty()).collect())
    }

    /// Empty when nothing is said.
    pub fn at(&self, path: &[i32]) -> &str {
        self.0.get(path).map_or("", String::as_str)
    }
}

/// What each RPC says of itself, below its description.
#[derive(Debug, Default, PartialEq)]
pub struct Facts {
    pub description: String,
    pub caller: String,
    pub roles: String,
    pub deadline: String,
    pub retry: String,
}

impl Facts {
    /// Splits an RPC's comment; what is missing stays empty. A fact may go on over several lines.
    pub fn of(comment: &str) -> Facts {
        const LABELS: [&str; 5] = ["", "Caller", "Roles", "Deadline", "Retry"];
        let mut parts: [String; 5] = Default::default();
        let mut part = 0;
        for line in comment.lines() {
            let (label, rest) = line.split_once(": ").unwrap_or(("", line));
            match LABELS.iter().position(|known| !label.is_empty() && *known == label) {
                Some(labelled) => {
                    part = labelled;
                    parts[part] = rest.into();
                }
                None => {
                    parts[part].push_str(if parts[part].is_empty() { "" } else { "\n" });
                    parts[part].push_str(line);
                }
            }
        }
        let [description, caller, roles, deadline, retry] = parts;
        Facts { description: description.trim().into(), caller, roles, deadline, retry }
    }

    /// The deadline that the master itself keeps for callers who name none, in milliseconds.
    pub fn deadline_ms(&self) -> Option<u64> {
        let text = self.deadline.trim_end_matches('.');
        let (number, unit) = text.split_once(' ')?;
        let number: u64 = number.parse().ok()?;
        match unit {
            "s" => Some(number * 1000),
            "ms" => Some(number),
            _ => None,
        }
    }
}
