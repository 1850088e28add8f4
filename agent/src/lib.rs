//! The node agent: runs pods through Docker, gives them a network, and compiles Services into eBPF maps.
//!
//! In: the control plane's session, or any Kubernetes API (`proxy`). Out: containers, links, BPF maps, statuses. It decides nothing about the cluster.

pub mod agent;
mod backoff;
pub mod check;
pub mod config;
pub mod dataplane;
pub mod desired;
mod disk;
mod dns;
pub mod dual_ip;
mod eviction;
mod health_checks;
mod holding;
pub mod image;
mod kept_images;
pub mod look;
pub mod net;
mod node_object;
mod outbox;
mod plan;
mod plugged;
pub mod plugin;
pub mod pods;
pub mod proxy;
mod released;
pub mod reset;
pub mod rolling_update;
pub mod runtime;
mod services;
mod session;
mod static_pods;
mod stats;
mod status;
mod volumes;
