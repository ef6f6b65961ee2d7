//! Messages and stubs generated from `proto/`. Nothing here is written by hand.

mod balsa {
    pub mod raft {
        pub mod v1 {
            tonic::include_proto!("balsa.raft.v1");
        }
    }
    pub mod cluster {
        pub mod v1 {
            tonic::include_proto!("balsa.cluster.v1");
        }
    }
    pub mod dispatch {
        pub mod v1 {
            tonic::include_proto!("balsa.dispatch.v1");
        }
    }
    pub mod relay {
        pub mod v1 {
            tonic::include_proto!("balsa.relay.v1");
        }
    }
    pub mod objects {
        pub mod v1 {
            tonic::include_proto!("balsa.objects.v1");
        }
    }
    pub mod observe {
        pub mod v1 {
            tonic::include_proto!("balsa.observe.v1");
        }
    }
}

/// Between operators, joining machines and a master.
pub use balsa::cluster::v1 as cluster;
/// Between a worker and a master.
pub use balsa::dispatch::v1 as dispatch;
/// Objects, for clients.
pub use balsa::objects::v1 as objects;
/// Container status, for observers.
pub use balsa::observe::v1 as observe;
/// Between masters.
pub use balsa::raft::v1 as raft;
/// Log and exec streams between masters.
pub use balsa::relay::v1 as relay;

/// The deadline of each RPC that states one, in milliseconds, by its path: `/package.Service/Method`. For
/// callers that name none.
pub const DEADLINES: &[(&str, u64)] = include!(concat!(env!("OUT_DIR"), "/deadlines.rs"));

/// The compiled descriptors of every package, comments included, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
