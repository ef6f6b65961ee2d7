//! Black-box tests: the real binary, real processes, real kills. Those that start clusters run when
//! RUN_SLOW_TESTS is set; `cargo xtask test` sets it.

mod cluster;
mod failover;
mod house;
mod kubectl;
mod workers;
