//! The controllers, one a file: each says which keys a change touches and what should happen for a key.

mod autoscaler;
mod cluster_role_aggregation;
mod cron_job;
mod daemon_set;
mod deployment;
mod disruption;
mod endpoints;
mod ephemeral_volume;
mod event_ttl;
mod garbage;
mod history;
mod job;
mod namespace;
mod node_cidr;
mod node_lifecycle;
mod pod_gc;
mod pods;
mod replica_set;
mod rollout;
mod scheduler;
mod service_account;
mod service_ports;
mod stateful_set;
mod template;
mod volume_binder;
mod volume_protection;

use jiff::Timestamp;
use oarlock_api::catalogue::Kind;
use oarlock_api::ranges::AddressRanges;

use crate::change::Plan;
use crate::world::{Key, World};

/// What controllers need to know beside the world.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The ranges of which every node gets a /24 of IPv4 and a /64 of IPv6 (or the whole of a smaller one).
    pub cluster_cidr: AddressRanges,
    /// The cluster's CA, for the ConfigMap `kube-root-ca.crt`.
    pub ca_pem: String,
}

/// One controller.
pub struct Controller {
    /// Its name, for logs and metrics.
    pub name: &'static str,
    /// The keys that have to be looked at when an object changes. Asked before and after the change is applied.
    pub affected: fn(&World, &'static Kind, &Key) -> Vec<Key>,
    /// What should happen for a key.
    pub plan: fn(&World, &Settings, &Key, Timestamp) -> Plan,
}

impl Controller {
    /// Whether it asks for what pods use ([`World::set_usage`]).
    #[must_use]
    pub fn weighs_usage(&self) -> bool {
        self.name == AUTOSCALING
    }
}

/// The name of the one that scales by what pods use.
const AUTOSCALING: &str = "horizontalpodautoscaling";

/// All controllers, in the order in which work that waits is done.
pub static CONTROLLERS: &[Controller] = &[
    Controller { name: "nodeipam", affected: node_cidr::affected, plan: node_cidr::plan },
    Controller { name: "scheduler", affected: scheduler::affected, plan: scheduler::plan },
    Controller { name: "endpoint", affected: endpoints::affected, plan: endpoints::plan },
    Controller { name: "service", affected: service_ports::affected, plan: service_ports::plan },
    Controller { name: "deployment", affected: deployment::affected, plan: deployment::plan },
    Controller { name: "replicaset", affected: replica_set::affected, plan: replica_set::plan },
    Controller {
        name: "replicationcontroller",
        affected: replica_set::affected_controllers,
        plan: replica_set::plan_controller,
    },
    Controller { name: "daemonset", affected: daemon_set::affected, plan: daemon_set::plan },
    Controller { name: "statefulset", affected: stateful_set::affected, plan: stateful_set::plan },
    Controller { name: "job", affected: job::affected, plan: job::plan },
    Controller { name: "cronjob", affected: cron_job::affected, plan: cron_job::plan },
    Controller { name: AUTOSCALING, affected: autoscaler::affected, plan: autoscaler::plan },
    Controller { name: "disruption", affected: disruption::affected, plan: disruption::plan },
    Controller { name: "nodelifecycle", affected: node_lifecycle::affected, plan: node_lifecycle::plan },
    Controller { name: "podgc", affected: pod_gc::affected, plan: pod_gc::plan },
    Controller {
        name: "ephemeral-volume",
        affected: ephemeral_volume::affected,
        plan: ephemeral_volume::plan,
    },
    Controller {
        name: "persistentvolume-binder",
        affected: volume_binder::affected,
        plan: volume_binder::plan,
    },
    Controller {
        name: "pvc-protection",
        affected: volume_protection::affected_claims,
        plan: volume_protection::plan_claim,
    },
    Controller {
        name: "pv-protection",
        affected: volume_protection::affected_volumes,
        plan: volume_protection::plan_volume,
    },
    Controller { name: "namespace", affected: namespace::affected, plan: namespace::plan },
    Controller { name: "serviceaccount", affected: service_account::affected, plan: service_account::plan },
    Controller {
        name: "clusterroleaggregation",
        affected: cluster_role_aggregation::affected,
        plan: cluster_role_aggregation::plan,
    },
    Controller { name: "garbagecollector", affected: garbage::affected, plan: garbage::plan },
    Controller { name: "event-ttl", affected: event_ttl::affected, plan: event_ttl::plan },
];

pub(crate) use ephemeral_volume::is_made_for;

/// How urgent a key is: of a controller's keys that wait, the most urgent are planned first.
#[must_use]
pub fn urgency(controller: &Controller, world: &World, key: &Key) -> i64 {
    if controller.name == "scheduler" { scheduler::urgency(world, key) } else { 0 }
}

/// The key itself when the kind is the controller's own.
fn own(kind: &'static Kind, wanted: &'static Kind, key: &Key) -> Vec<Key> {
    if *kind == *wanted { vec![key.clone()] } else { Vec::new() }
}
