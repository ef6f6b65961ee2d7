//! The table of rules and the tests that show them say the same.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The text between the first two backticks.
fn quoted(text: &str) -> Option<&str> {
    text.split('`').nth(1)
}

/// The functions of a file that are tests.
fn tests_of(path: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut names = BTreeSet::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line == "#[test]" {
            is_test = true;
        } else if let Some(rest) = line.strip_prefix("fn ").filter(|_| is_test) {
            names.insert(rest.split('(').next().unwrap_or("").to_string());
            is_test = false;
        }
    }
    names
}

/// Every file of tests below a room that tells rules, so that a new one is not forgotten.
fn files_of_rules() -> BTreeSet<String> {
    let mut files: BTreeSet<String> = ["crates/dispatch/src/liveness.rs".to_string()].into();
    for room in ["scheduler", "controllers", "manager", "podlife"] {
        let source = format!("crates/{room}/src");
        let more = std::fs::read_dir(root().join(&source).join("tests")).into_iter().flatten().flatten();
        let paths = more.map(|entry| format!("{source}/tests/{}", entry.file_name().to_string_lossy()));
        files.extend(paths.chain([format!("{source}/tests.rs")]).filter(|path| !tests_of(path).is_empty()));
    }
    files
}

#[test]
fn every_rule_has_its_test_and_every_test_its_rule() {
    let table = std::fs::read_to_string(root().join("docs/rules.md")).unwrap();
    let mut wrong = Vec::new();
    let mut files = BTreeSet::new();
    for section in table.split("\n## ").skip(1) {
        let path = section.lines().next().and_then(quoted).expect("a section names its file");
        files.insert(path.to_string());
        let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
        let mut listed = BTreeSet::new();
        for row in rows {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            match cells[..] {
                [rule, source, test] if !rule.is_empty() && !source.is_empty() => {
                    let name = quoted(test).unwrap_or("").to_string();
                    if !listed.insert(name) {
                        wrong.push(format!("{path}: listed twice: {test}"));
                    }
                }
                _ => wrong.push(format!("{path}: a row needs a rule, a source and a test: {row}")),
            }
        }
        let tests = tests_of(path);
        wrong.extend(listed.difference(&tests).map(|name| format!("{path}: no such test: {name}")));
        wrong.extend(tests.difference(&listed).map(|name| format!("{path}: not in docs/rules.md: {name}")));
    }
    wrong.extend(files_of_rules().difference(&files).map(|path| format!("{path}: not in docs/rules.md")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
