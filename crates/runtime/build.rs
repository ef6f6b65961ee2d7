//! Generates the clients of CRI and of containerd's task service from `proto/`.

use std::{env, path::PathBuf};

fn main() {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let files = ["cri.proto", "tasks.proto", "containers.proto"].map(|name| root.join(name));
    let descriptors = protox::compile(&files, [&root]).unwrap_or_else(|error| panic!("{error:?}"));
    tonic_prost_build::configure().build_server(false).compile_fds(descriptors).expect("the descriptors compile");
}
