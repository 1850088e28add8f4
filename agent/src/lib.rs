//! The node agent: runs pods through Docker, gives them a network, and compiles Services into eBPF maps.
//!
//! In: the control plane's session. Out: containers, links, BPF maps, statuses. It decides nothing about the cluster.

pub mod agent;
pub mod check;
pub mod config;
pub mod dataplane;
pub mod desired;
mod health_checks;
pub mod image;
pub mod net;
mod node_object;
mod outbox;
mod plan;
pub mod pods;
pub mod runtime;
mod session;
mod status;
mod volumes;
