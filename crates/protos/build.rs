//! Generates messages and stubs from `proto/`, the descriptor set that reflection serves, and the table of
//! deadlines that the comments state. Fails when the wire contract is broken.

#[path = "build/comments.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod comments;
#[path = "build/contract.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod contract;

use comments::{Comments, Facts, METHOD, SERVICE};
use prost::Message;
use prost_types::FileDescriptorSet;
use std::{env, fs, path::PathBuf};

fn main() {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    println!("cargo:rerun-if-changed=build");
    let mut files: Vec<PathBuf> = fs::read_dir(&root)
        .expect("proto/ exists")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "proto"))
        .collect();
    files.sort();
    let descriptors = protox::compile(&files, [&root]).unwrap_or_else(|error| panic!("{error:?}"));
    let committed = fs::read_to_string(root.join("contract.txt")).expect("proto/contract.txt is committed");
    let broken = contract::broken(&committed, &contract::lines(&descriptors));
    if !broken.is_empty() {
        eprintln!("error: {}", contract::explain(&broken));
        std::process::exit(1);
    }
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec()).expect("OUT_DIR is writable");
    fs::write(out.join("deadlines.rs"), deadlines(&descriptors)).expect("OUT_DIR is writable");
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors).expect("the descriptors compile");
}

/// `("/balsa.objects.v1.Objects/Get", 5000)` for each RPC whose comment names a deadline.
fn deadlines(set: &FileDescriptorSet) -> String {
    let mut rows = String::new();
    for file in &set.file {
        let comments = Comments::of(file);
        for (i, service) in (0..).zip(&file.service) {
            for (j, method) in (0..).zip(&service.method) {
                let facts = Facts::of(comments.at(&[SERVICE, i, METHOD, j]));
                let Some(ms) = facts.deadline_ms() else { continue };
                rows.push_str(&format!("(\"/{}.{}/{}\", {ms}),", file.package(), service.name(), method.name()));
            }
        }
    }
    format!("&[{rows}]")
}
