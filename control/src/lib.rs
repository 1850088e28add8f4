//! The control plane: Kubernetes API server, watch cache, reconciler, agent sessions.

#![forbid(unsafe_code)]

pub mod cache;
pub mod http;
pub mod patch;
pub mod registry;
