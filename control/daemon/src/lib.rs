//! How a process lives: named tasks, shutdown, logs, metrics, health, certificates.
//!
//! Used by `oarlock-control` and `oarlock-agent` alike. Never here: domain words (pod, node, service).

#![forbid(unsafe_code)]

pub mod admin;
pub mod files;
pub mod logging;
pub mod metrics;
pub mod mux;
pub mod pki;
pub mod plain_http;
pub mod service_manager;
pub mod settings;
mod shutdown;
mod tasks;

pub use shutdown::shutdown_signal;
pub use tasks::{TaskFailure, Tasks};
