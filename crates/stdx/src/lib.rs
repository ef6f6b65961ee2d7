//! What std lacks and the domain does not know: seeded randomness and back-off arithmetic.
//!
//! Pure ground: nothing here reads a clock or an operating-system random source.

pub mod backoff;
pub mod rng;

pub use backoff::Backoff;
pub use rng::Rng;
