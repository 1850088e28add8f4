//! This node as the cluster sees it: labels, addresses, capacity, versions, conditions. Pure but for reading /proc and /etc.

use std::collections::BTreeMap;

use jiff::Timestamp;
use oarlock_api::k8s::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus,
    NodeSystemInfo,
};
use oarlock_api::k8s::apimachinery::pkg::api::resource::Quantity;
use oarlock_api::k8s::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use oarlock_api::storage::VOLUMES_DIR;

use crate::dual_ip::DualIp;
use crate::eviction::{Hard, Pressure, Pressures};
use crate::kept_images::Listed;
use crate::net::NorthSouth;

/// What does not change while the agent runs.
#[derive(Debug, Clone)]
pub(crate) struct NodeFacts {
    pub(crate) name: String,
    pub(crate) ip: DualIp,
    pub(crate) max_pods: u32,
    pub(crate) metrics_port: u16,
    pub(crate) cpus: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) kernel: String,
    pub(crate) os_image: String,
    pub(crate) machine_id: String,
    pub(crate) boot_id: String,
    /// How each uplink is served: `eth0=xdp`. Shown as an annotation.
    pub(crate) dataplane_modes: String,
    /// Where directories for claims are; volumes name it.
    pub(crate) volumes_dir: String,
    /// Bytes of memory and of disk that pods do not get.
    pub(crate) kept_free: (u64, u64),
}

/// What may change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NodeState {
    /// Docker's version; empty when it does not answer.
    pub(crate) docker_version: String,
    /// Why the node cannot run pods; empty when it can.
    pub(crate) not_ready: Vec<String>,
    /// How other nodes' pods are reached: `direct,vxlan mtu=1450`. Shown as an annotation.
    pub(crate) routing: String,
    /// Who answers clients outside. Shown as an annotation, which other nodes go by.
    pub(crate) north_south: Option<NorthSouth>,
    /// Images present: names and size in bytes.
    pub(crate) images: Listed,
    /// What it is short of.
    pub(crate) pressures: Pressures,
}

/// The annotation that says who answers clients outside whose pods are on the node.
const NORTH_SOUTH: &str = "dataplane.oarlock.io/north-south";

/// Whether a node says that it answers clients outside itself that have reached another one.
pub(crate) fn answers_itself(node: &Node) -> bool {
    let said = node.metadata.annotations.as_ref().and_then(|all| all.get(NORTH_SOUTH));
    said.and_then(|said| said.split(' ').next()) == Some(NorthSouth::Direct.name())
}

/// Where an agent keeps directories for claims: a full path, as volumes name it.
pub(crate) fn volumes_dir(data_dir: &std::path::Path) -> std::path::PathBuf {
    let path = data_dir.join("volumes");
    std::path::absolute(&path).unwrap_or(path)
}

impl NodeFacts {
    /// Reads the host.
    pub(crate) fn read(
        name: &str,
        ip: DualIp,
        max_pods: u32,
        metrics_port: u16,
        data_dir: &std::path::Path,
    ) -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        Self {
            name: name.to_owned(),
            ip,
            max_pods,
            metrics_port,
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory_bytes(&text("/proc/meminfo")).unwrap_or(0),
            disk_bytes: disk_bytes(data_dir).unwrap_or(0),
            kernel: text("/proc/sys/kernel/osrelease"),
            os_image: os_image(&text("/etc/os-release")).unwrap_or_else(|| "Linux".to_owned()),
            machine_id: text("/etc/machine-id"),
            boot_id: text("/proc/sys/kernel/random/boot_id"),
            dataplane_modes: String::new(),
            volumes_dir: volumes_dir(data_dir).to_string_lossy().into_owned(),
            kept_free: (0, 0),
        }
    }

    /// The same, with how its uplinks are served.
    pub(crate) fn with_modes(mut self, modes: &[crate::dataplane::Mode]) -> Self {
        self.dataplane_modes = modes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        self
    }

    /// The same, with what pods may not use: below that they are evicted.
    pub(crate) fn keeping_free(mut self, hard: &Hard) -> Self {
        self.kept_free = hard.kept_free(self.memory_bytes, self.disk_bytes);
        self
    }

    /// The whole object, for registering.
    pub(crate) fn object(&self, state: &NodeState, now: Timestamp) -> Node {
        let labels = [
            ("kubernetes.io/hostname", self.name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", architecture()),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", architecture()),
        ];
        Node {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(owned(&labels)),
                annotations: Some(self.annotations(state)).filter(|all| !all.is_empty()),
                ..ObjectMeta::default()
            },
            spec: None,
            status: Some(self.status(state, now)),
        }
    }

    /// What the node says of its dataplane and volumes.
    pub(crate) fn annotations(&self, state: &NodeState) -> BTreeMap<String, String> {
        let mut all = owned(&[
            ("dataplane.oarlock.io/modes", self.dataplane_modes.as_str()),
            ("dataplane.oarlock.io/routing", state.routing.as_str()),
            (NORTH_SOUTH, self.north_south(state)),
            (VOLUMES_DIR, self.volumes_dir.as_str()),
        ]);
        all.retain(|_, value| !value.is_empty());
        all
    }

    /// Who answers clients outside that have reached another node, by family where they differ.
    fn north_south(&self, state: &NodeState) -> &'static str {
        match state.north_south {
            Some(NorthSouth::Direct) if self.ip.v6.is_some() => "direct (IPv6: snat)",
            mode => mode.map_or("", NorthSouth::name),
        }
    }

    /// The status alone, for reports.
    pub(crate) fn status(&self, state: &NodeState, now: Timestamp) -> NodeStatus {
        let (memory, disk) = self.kept_free;
        let kib = |bytes: u64, less: u64| Quantity(format!("{}Ki", bytes.saturating_sub(less) / 1024));
        let resources = |memory: u64, disk: u64| {
            BTreeMap::from([
                ("cpu".to_owned(), Quantity(self.cpus.to_string())),
                ("memory".to_owned(), kib(self.memory_bytes, memory)),
                ("ephemeral-storage".to_owned(), kib(self.disk_bytes, disk)),
                ("pods".to_owned(), Quantity(self.max_pods.to_string())),
            ])
        };
        let address = |kind: &str, address: String| NodeAddress { type_: kind.to_owned(), address };
        let images = state
            .images
            .iter()
            .map(|(names, size)| ContainerImage { names: Some(names.clone()), size_bytes: Some(*size) });
        NodeStatus {
            addresses: Some(
                self.ip
                    .all()
                    .map(|ip| address("InternalIP", ip.to_string()))
                    .chain([address("Hostname", self.name.clone())])
                    .collect(),
            ),
            allocatable: Some(resources(memory, disk)),
            capacity: Some(resources(0, 0)),
            conditions: Some(conditions(state, now)),
            daemon_endpoints: Some(NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(self.metrics_port) }),
            }),
            images: Some(images.collect()).filter(|images: &Vec<_>| !images.is_empty()),
            node_info: Some(self.info(state)),
            ..NodeStatus::default()
        }
    }

    fn info(&self, state: &NodeState) -> NodeSystemInfo {
        let version = oarlock_api::SERVER_VERSION.to_owned();
        NodeSystemInfo {
            architecture: architecture().to_owned(),
            boot_id: self.boot_id.clone(),
            container_runtime_version: format!("docker://{}", state.docker_version),
            kernel_version: self.kernel.clone(),
            kube_proxy_version: version.clone(),
            kubelet_version: version,
            machine_id: self.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: self.os_image.clone(),
            system_uuid: self.machine_id.clone(),
            ..NodeSystemInfo::default()
        }
    }
}

fn conditions(state: &NodeState, now: Timestamp) -> Vec<NodeCondition> {
    let condition = |kind: &str, status: bool, reason: &str, message: String| NodeCondition {
        type_: kind.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    let ready = if state.not_ready.is_empty() {
        condition("Ready", true, "KubeletReady", "kubelet is posting ready status".to_owned())
    } else {
        condition("Ready", false, "KubeletNotReady", state.not_ready.join("; "))
    };
    let pressures = Pressure::ALL.map(|pressure| {
        let holds = state.pressures.contains(&pressure);
        let (reason, message) = pressure.words(holds);
        condition(pressure.condition(), holds, reason, message.to_owned())
    });
    pressures.into_iter().chain([ready]).collect()
}

/// The architecture in Go's words, which Kubernetes uses.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn owned(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn memory_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

fn disk_bytes(path: &std::path::Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    Some(stat.blocks() * stat.fragment_size())
}

fn os_image(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_from_the_texts_of_the_host() {
        assert_eq!(memory_bytes("MemTotal:       24041000 kB\nMemFree: 1 kB"), Some(24_041_000 * 1024));
        assert_eq!(
            os_image("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\""),
            Some("Debian GNU/Linux 12".into())
        );
    }

    #[test]
    fn a_node_that_lacks_something_is_not_ready_and_says_what() {
        let facts =
            NodeFacts::read("n1", "10.0.0.1,fd00::1".parse().unwrap(), 110, 10255, std::path::Path::new("/"));
        let state = NodeState { not_ready: vec!["docker does not answer".into()], ..NodeState::default() };
        let status = facts.status(&state, Timestamp::UNIX_EPOCH);
        let addresses = status.addresses.iter().flatten().map(|a| (a.type_.as_str(), a.address.as_str()));
        let expected = [("InternalIP", "10.0.0.1"), ("InternalIP", "fd00::1"), ("Hostname", "n1")];
        assert_eq!(addresses.collect::<Vec<_>>(), expected);
        let ready = status.conditions.unwrap().into_iter().find(|c| c.type_ == "Ready").unwrap();
        assert_eq!(
            (ready.status.as_str(), ready.message.as_deref()),
            ("False", Some("docker does not answer"))
        );
        assert!(facts.disk_bytes > 0 && facts.memory_bytes > 0);
    }

    #[test]
    fn nodes_say_who_answers_clients_and_others_understand_it() {
        for (ip, mode, expected) in [
            ("10.0.0.1", None, None),
            ("10.0.0.1", Some(NorthSouth::Snat), Some("snat")),
            ("10.0.0.1", Some(NorthSouth::Direct), Some("direct")),
            ("10.0.0.1,fd00::1", Some(NorthSouth::Direct), Some("direct (IPv6: snat)")),
        ] {
            let facts = NodeFacts::read("n1", ip.parse().unwrap(), 110, 10255, std::path::Path::new("/"));
            let node =
                facts.object(&NodeState { north_south: mode, ..NodeState::default() }, Timestamp::UNIX_EPOCH);
            let said = node.metadata.annotations.as_ref().and_then(|all| all.get(NORTH_SOUTH));
            assert_eq!(said.map(String::as_str), expected, "before it is known, what was said stays");
            assert_eq!(answers_itself(&node), mode == Some(NorthSouth::Direct));
        }
        assert!(!answers_itself(&Node::default()), "an agent of an earlier version says nothing");
    }

    #[test]
    fn pods_do_not_get_what_they_would_be_evicted_for() {
        let path = std::path::Path::new("/");
        let facts = NodeFacts::read("n1", "10.0.0.1".parse().unwrap(), 110, 10255, path);
        let facts = NodeFacts { memory_bytes: 1 << 30, disk_bytes: 10 << 30, ..facts };
        let facts =
            facts.keeping_free(&Hard::parse("memory.available<100Mi,nodefs.available<10%", "").unwrap());
        let pressures = [Pressure::Disk].into();
        let status = facts.status(&NodeState { pressures, ..NodeState::default() }, Timestamp::UNIX_EPOCH);
        let of =
            |resources: Option<BTreeMap<String, Quantity>>, what: &str| resources.unwrap()[what].0.clone();
        assert_eq!(of(status.capacity.clone(), "memory"), "1048576Ki");
        assert_eq!(of(status.allocatable.clone(), "memory"), "946176Ki");
        assert_eq!(of(status.capacity, "ephemeral-storage"), "10485760Ki");
        assert_eq!(of(status.allocatable, "ephemeral-storage"), "9437184Ki");
        let conditions = status.conditions.unwrap();
        let said: Vec<_> =
            conditions.iter().map(|c| (&*c.type_, &*c.status, c.reason.as_deref().unwrap())).collect();
        let expected = [
            ("MemoryPressure", "False", "KubeletHasSufficientMemory"),
            ("DiskPressure", "True", "KubeletHasDiskPressure"),
            ("PIDPressure", "False", "KubeletHasSufficientPID"),
            ("Ready", "True", "KubeletReady"),
        ];
        assert_eq!(said, expected);
    }
}
