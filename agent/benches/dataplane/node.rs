//! A node's dataplane with as many Services as wanted, this process inside its cgroup. Taken away when dropped.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oarlock_agent::dataplane::{Acceleration, Dataplane, DataplaneConfig, Tc};
use oarlock_agent::desired::{Key, Snapshot};
use serde_json::json;

pub(crate) struct Node {
    config: DataplaneConfig,
    cgroup: PathBuf,
    root: PathBuf,
    pub(crate) dataplane: Dataplane,
}

impl Node {
    pub(crate) fn new(name: &str) -> Self {
        let node_name = format!("bench-{name}-{}", std::process::id());
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let root = fields.filter(|f| f.get(2) == Some(&"cgroup2")).find_map(|f| f.get(1).map(PathBuf::from));
        let root = root.expect("a cgroup v2 hierarchy: `cargo xtask setup` says what is missing");
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
        let cgroup = root.join("oarlock").join(&config.node_name);
        let dataplane = Dataplane::open(config.clone()).expect("needs root and `cargo xtask build`");
        Self { config, cgroup, root, dataplane }
    }

    /// From now on this process' sockets are the node's, or no longer.
    pub(crate) fn enter(&self, inside: bool) {
        join(if inside { &self.cgroup } else { &self.root });
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        join(&self.root);
        let _ = std::fs::remove_dir_all(self.config.bpffs.join("oarlock").join(&self.config.node_name));
        let _ = std::fs::remove_dir(&self.cgroup);
        // Others' may be beside it.
        let _ = std::fs::remove_dir(self.root.join("oarlock"));
        let _ = std::fs::remove_dir(self.config.bpffs.join("oarlock"));
    }
}

fn join(cgroup: &Path) {
    std::fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap();
}

/// The address of one of many Services: of the loopback's range, so that nothing leaves that is not translated.
pub(crate) const fn address(service: u32) -> Ipv4Addr {
    let [_, a, b, c] = service.to_be_bytes();
    Ipv4Addr::new(127, 96 + a, b, c)
}

/// The name of one of many Services.
pub(crate) fn key(service: u32) -> Key {
    ("bench".to_owned(), format!("s{service}"))
}

/// One more Service with these endpoints, at port 80.
pub(crate) fn add(snapshot: &mut Snapshot, service: u32, endpoints: &[(Ipv4Addr, u16)]) {
    let (key, address) = (key(service), address(service).to_string());
    let object = json!({"metadata": {"name": key.1, "namespace": key.0},
        "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [{"name": "p", "port": 80, "protocol": "TCP"}]}});
    snapshot.services.insert(key.clone(), Arc::new(serde_json::from_value(object).unwrap()));
    let port = endpoints.first().map_or(80, |(_, port)| *port);
    let list: Vec<_> = endpoints
        .iter()
        .map(|(ip, _)| json!({"addresses": [ip.to_string()], "conditions": {"ready": true}}))
        .collect();
    let slice = json!({"metadata": {"name": key.1, "namespace": key.0, "labels": {"kubernetes.io/service-name": key.1}},
        "addressType": "IPv4", "ports": [{"name": "p", "port": port, "protocol": "TCP"}], "endpoints": list});
    snapshot.endpoint_slices.insert(key, Arc::new(serde_json::from_value(slice).unwrap()));
}
