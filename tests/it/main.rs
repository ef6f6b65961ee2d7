//! Black-box tests: the real binary, real processes, real kills. Those that start clusters run when
//! RUN_SLOW_TESTS is set; `cargo xtask test` sets it.

mod access;
mod chaos;
mod client;
mod cluster;
mod dev;
mod failover;
mod group;
mod grpc;
mod house;
mod kills;
mod kubectl;
mod ops;
mod placing;
mod pods;
mod refusals;
mod rules;
mod vip6;
mod wire;
mod workers;
