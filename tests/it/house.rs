//! The house itself: which room may lean on which.

use expect_test::expect_file;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const BRAINS: [&str; 8] = ["state", "authz", "api", "scheduler", "controllers", "podlife", "judge", "chaos"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Our crates, each with those of ours it leans on.
fn graph() -> BTreeMap<String, BTreeSet<String>> {
    let crates = std::fs::read_dir(root().join("crates")).unwrap().flatten();
    let names: BTreeSet<String> = crates.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let edges = |name: &String| {
        let manifest = std::fs::read_to_string(root().join("crates").join(name).join("Cargo.toml")).unwrap();
        let dependencies =
            manifest.split("[dependencies]").nth(1).unwrap_or("").split("\n[").next().unwrap_or("").to_string();
        let named = dependencies.lines().filter_map(|line| line.split(['.', ' ', '=']).next().map(ToString::to_string));
        named.filter(|dependency| names.contains(dependency)).collect()
    };
    names.iter().map(|name| (name.clone(), edges(name))).collect()
}

#[test]
fn the_crate_graph_is_as_written() {
    let mut text =
        String::from("Which crate leans on which of ours. Written by a test: UPDATE_EXPECT=1 renews it.\n\n");
    for (name, edges) in graph() {
        let edges: Vec<String> = edges.into_iter().collect();
        text.push_str(&format!("{name}: {}\n", if edges.is_empty() { "-".into() } else { edges.join(" ") }));
    }
    expect_file![root().join("docs/crate-graph.txt")].assert_eq(&text);
}

#[test]
fn no_brain_reaches_the_world() {
    for brain in BRAINS {
        let mut command = std::process::Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
        command.args(["tree", "--locked", "--offline", "--edges", "normal", "--prefix", "none", "--package", brain]);
        let output = command.current_dir(root()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let tree = String::from_utf8_lossy(&output.stdout).into_owned();
        let reached: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
        assert!(reached.contains(brain), "the tree of {brain} was read");
        for world in ["tokio", "tonic", "rocksdb", "getrandom", "openraft", "hyper"] {
            assert!(!reached.contains(world), "{brain} reaches {world}");
        }
    }
}

/// Every source file opens with what it is.
#[test]
fn every_file_says_what_it_is() {
    let mut pending = vec![root().join("crates"), root().join("tests/it")];
    while let Some(dir) = pending.pop() {
        for path in std::fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                assert!(text.starts_with("//!"), "{} does not open with //!", path.display());
            }
        }
    }
}
