//! The control plane: Kubernetes API server, watch cache, reconciler, agent sessions.

#![forbid(unsafe_code)]

mod aggregate;
mod auth;
pub mod cache;
pub mod config;
pub mod control;
pub mod copy;
mod dial;
pub mod http;
pub mod leader;
pub mod metrics;
pub mod nodes;
pub mod patch;
mod quotas;
pub mod reconcile;
pub mod registry;
pub mod usage;
