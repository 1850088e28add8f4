//! To look at the dataplane: what `dump` and `verify` say of tables on the real kernel. Needs root, a BPF file system and
//! cgroup v2. No packet is sent: addresses are of no link.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests panic, as tests do")]

mod damage;
mod histories;
mod killed;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use oarlock_agent::dataplane::picture::Picture;
use oarlock_agent::dataplane::{
    self, Acceleration, Dataplane, DataplaneConfig, Difference, Surroundings, Tc,
};
use oarlock_agent::desired::Snapshot;
use oarlock_agent::net;
use serde_json::{Value, json};

/// A folder of pins and a cgroup of its own; both are removed at the end.
struct Node {
    config: DataplaneConfig,
}

impl Node {
    fn new(name: &str) -> Self {
        let node_name = format!("look-{name}-{}", std::process::id());
        let config = DataplaneConfig {
            node_ip: Ipv4Addr::new(127, 30, 77, 11),
            node_ip6: None,
            cgroup: format!("/oarlock/{node_name}"),
            bpffs: "/sys/fs/bpf".into(),
            node_name,
            uplinks: Vec::new(),
            xdp: Acceleration::Disabled,
            tc: Tc::of_kernel(),
            accept_external_cluster_ip: false,
            count_backends: false,
            masquerade: true,
        };
        Self { config }
    }

    fn open(&self) -> Dataplane {
        Dataplane::open(self.config.clone()).expect("needs root and `cargo xtask build`")
    }

    fn pins(&self) -> PathBuf {
        let node = self.config.bpffs.join("oarlock").join(&self.config.node_name);
        node.join(format!("v{}", oarlock_ebpf::LAYOUT_VERSION))
    }

    fn wanted(&self, snapshot: &Snapshot) -> Picture {
        let around = Surroundings {
            cluster_cidrs: &[],
            overlay: None,
            namespace: net::own_cookie().unwrap(),
            pods: (&BTreeMap::new(), &BTreeSet::new()),
        };
        dataplane::wanted(&self.config, snapshot, around)
    }

    fn differences(&self, snapshot: &Snapshot) -> BTreeSet<Difference> {
        let kernel = dataplane::kernel(&self.config.bpffs, &self.config.node_name).unwrap();
        dataplane::compare(&kernel, &self.wanted(snapshot))
    }

    fn said(&self, snapshot: &Snapshot) -> Vec<String> {
        self.differences(snapshot).iter().map(ToString::to_string).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = dataplane::remove(&self.config);
    }
}

fn key(name: &str) -> (String, String) {
    ("d".to_owned(), name.to_owned())
}

fn put_service(snapshot: &mut Snapshot, name: &str, spec: Value, ingress: &[&str]) {
    let ingress: Vec<Value> = ingress.iter().map(|ip| json!({"ip": ip})).collect();
    let service = json!({"metadata": {"name": name, "namespace": "d"}, "spec": spec,
        "status": {"loadBalancer": {"ingress": ingress}}});
    snapshot.services.insert(key(name), Arc::new(serde_json::from_value(service).unwrap()));
}

fn put_slice(snapshot: &mut Snapshot, slice: &str, service: &str, endpoints: Vec<Value>) {
    let slice_of = json!({"metadata": {"labels": {"kubernetes.io/service-name": service}}, "addressType": "IPv4",
        "ports": [{"name": "p", "port": 8080, "protocol": "TCP"}, {"name": "u", "port": 53, "protocol": "UDP"}],
        "endpoints": endpoints});
    snapshot.endpoint_slices.insert(key(slice), Arc::new(serde_json::from_value(slice_of).unwrap()));
}

fn put_node(snapshot: &mut Snapshot, name: &str, ip: &str) {
    let range = format!("127.244.{}.0/24", ip.rsplit('.').next().unwrap());
    let node = json!({"metadata": {"name": name}, "spec": {"podCIDR": range},
        "status": {"addresses": [{"type": "InternalIP", "address": ip}]}});
    let key = (String::new(), name.to_owned());
    snapshot.nodes.insert(key, Arc::new(serde_json::from_value(node).unwrap()));
}
