//! Messages and stubs generated from `proto/`. Nothing here is written by hand.

/// Between masters.
pub mod raft {
    tonic::include_proto!("balsa.raft.v1");
}

/// The compiled descriptors of every package, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
