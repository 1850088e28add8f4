//! What the tests of the whole share: a cluster that `cargo xtask up` made, requests from inside and outside, and what a
//! machine holds before and after.
//!
//! They need root, Docker and `cargo xtask`; names and addresses are the fixed ones of `cargo xtask up`, so that one cluster
//! runs at a time.

#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::disallowed_methods,
    reason = "helpers of tests: a failure is a panic, waiting is a sleep"
)]

pub mod cluster;
pub mod inventory;
pub mod load;
