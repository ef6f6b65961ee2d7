//! How the binary is linked.

fn main() {
    // What runs once at the start (RocksDB's static initializers are all over its 6 MB) and what hardly
    // ever runs go into pages of their own. Otherwise these bring nearly all of the program into memory,
    // also of a worker, which never calls RocksDB. GNU ld does so anyway; the linker of Rust is told.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,keep-text-section-prefix");
    println!("cargo::rerun-if-changed=build.rs");
}
