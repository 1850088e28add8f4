//! What things are: the resource catalogue, schemas, selectors, quantities, and the protocol between control plane and
//! agents. No I/O, no clock, no async functions of our own.

#![forbid(unsafe_code)]

pub mod aggregation;
pub mod catalogue;
pub mod certificates;
pub mod codec;
pub mod convert;
pub mod defaults;
pub mod disruption;
pub mod fields;
#[cfg(test)]
mod fuzz;
pub mod limits;
pub mod managed;
pub mod meta;
pub mod network_policy;
pub mod node_selector;
pub mod openapi;
pub mod pod_security;
pub mod pod_token;
pub mod quantity;
pub mod quota;
pub mod ranges;
pub mod schedule;
pub mod schema;
pub mod selector;
pub mod service;
pub mod static_pod;
pub mod status;
pub mod storage;
pub mod table;
pub mod validate;

pub use k8s_openapi as k8s;

/// What `/version` and the nodes say (`gitVersion`).
pub const SERVER_VERSION: &str = concat!("v1.33.0+oarlock.", env!("CARGO_PKG_VERSION"));

/// The protocol between control plane and agents, generated from `proto/node.proto`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code; the .proto file documents it"
)]
pub mod node {
    include!("gen/oarlock.node.v1.rs");
}
