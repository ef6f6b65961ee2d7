//! The contract, the comments and the document made of them are as `proto/` says.

#[path = "../../build/comments.rs"]
mod comments;
#[path = "../../build/contract.rs"]
mod contract;
mod document;

use comments::{Comments, Facts, METHOD, SERVICE};
use expect_test::{expect, expect_file};
use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn set() -> FileDescriptorSet {
    FileDescriptorSet::decode(protos::DESCRIPTORS).unwrap()
}

fn own(set: &FileDescriptorSet) -> impl Iterator<Item = &FileDescriptorProto> {
    set.file.iter().filter(|file| file.package().starts_with("balsa."))
}

#[test]
fn the_contract_lists_everything() {
    let text = format!("{}\n{}\n", contract::HEAD, contract::lines(&set()).join("\n"));
    expect_file![root().join("proto/contract.txt")].assert_eq(&text);
}

#[test]
fn the_document_is_made_of_the_comments() {
    expect_file![root().join("docs/grpc.md")].assert_eq(&document::text(&set()));
}

#[test]
fn every_rpc_says_who_calls_it_and_how() {
    for file in own(&set()) {
        let comments = Comments::of(file);
        for (i, service) in (0..).zip(&file.service) {
            assert!(!comments.at(&[SERVICE, i]).is_empty(), "{} says nothing of itself", service.name());
            for (j, method) in (0..).zip(&service.method) {
                let facts = Facts::of(comments.at(&[SERVICE, i, METHOD, j]));
                let said = [
                    ("a description", &facts.description),
                    ("Caller:", &facts.caller),
                    ("Roles:", &facts.roles),
                    ("Deadline:", &facts.deadline),
                    ("Retry:", &facts.retry),
                ];
                for (label, fact) in said {
                    assert!(!fact.is_empty(), "{}.{} lacks {label}", service.name(), method.name());
                    assert!(
                        fact.ends_with('.'),
                        "{}.{}: {label} is no sentence: {fact}",
                        service.name(),
                        method.name()
                    );
                }
                let streams = method.client_streaming() || method.server_streaming();
                let others = facts.deadline.starts_with("none") || facts.deadline.starts_with("the caller's");
                assert!(
                    others || (facts.deadline_ms().is_some() && !streams),
                    "{}.{}: Deadline: {}: say `N s.`, `none` or `the caller's`; a stream has none of its own",
                    service.name(),
                    method.name(),
                    facts.deadline
                );
            }
        }
    }
}

#[test]
fn the_deadlines_of_the_comments_are_the_masters_own() {
    let of = |path: &str| protos::DEADLINES.iter().find(|(name, _)| *name == path).map(|(_, ms)| *ms);
    assert_eq!(of("/balsa.objects.v1.Objects/Get"), Some(5000));
    assert_eq!(of("/balsa.objects.v1.Objects/List"), Some(30_000));
    assert_eq!(of("/balsa.objects.v1.Objects/Watch"), None);
    assert_eq!(of("/balsa.raft.v1.Raft/Append"), None, "masters bring their own");
}

/// One change of each kind, and what the build says of it.
#[test]
fn breaking_changes_are_named() {
    let committed = "# head\n\
        p.S: rpc Get (p.A) returns (p.B)\n\
        p.S: rpc Watch (p.A) returns (stream p.B)\n\
        p.S: rpc Gone (p.A) returns (p.B)\n\
        p.A: message\n\
        p.A: field 1 name string\n\
        p.A: field 2 size uint64\n\
        p.A: field 3 note string\n\
        p.E: value 1 ADDED\n";
    let now = [
        "p.S: rpc Get (p.A) returns (p.B)",
        "p.S: rpc Watch (p.A) returns (p.B)",
        "p.S: rpc New (p.A) returns (p.B)",
        "p.A: message",
        "p.A: field 1 title string",
        "p.A: field 2 size int64",
        "p.A: field 4 note string",
        "p.E: value 1 CREATED",
    ];
    let now: Vec<String> = now.iter().map(ToString::to_string).collect();
    expect![[r#"
        p.S: rpc Watch (p.A) returns (stream p.B)
              is now rpc Watch (p.A) returns (p.B)
        p.S: rpc Gone (p.A) returns (p.B)
              is gone
        p.A: field 1 name string
              is now field 1 title string
        p.A: field 2 size uint64
              is now field 2 size int64
        p.A: field 3 note string
              is gone
        p.E: value 1 ADDED
              is now value 1 CREATED"#]]
    .assert_eq(&contract::broken(committed, &now).join("\n"));
    assert!(contract::broken(&now.join("\n"), &now).is_empty());
    assert!(contract::explain(&["x".into()]).contains("new package"));
}
