//! What a running agent answers to those who look at its dataplane: what it wants the tables to be, and what
//! happens. Over the admin endpoint,
//! below `/dataplane`, to `oarlock-agent dataplane verify` on the same node.
//!
//! In: a path. Out: JSON, or a refusal. Nothing here changes anything.

mod ask;
mod metrics;
mod recent;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http::StatusCode;
use oarlock_api::k8s::api::discovery::v1::EndpointSlice;
use oarlock_daemon::plain_http::{self, Answer};
use parking_lot::Mutex;

use crate::dataplane::picture::Picture;
use crate::dataplane::{
    self, DataplaneConfig, DataplaneError, Difference, Directory, Fill, Question, ServiceTraffic,
    Surroundings, Trace, Traffic,
};
use crate::desired::Desired;
use crate::dns;
use crate::net::{self, Way};
use crate::services::{Board, LocalPods};

pub(crate) use metrics::Counters;
pub use recent::Events;
use recent::Recent;
pub(crate) use stream::Sources;

/// How often tables are read before something is called a difference, and how long it is between two readings.
const READINGS: usize = 4;
const PAUSE: Duration = Duration::from_millis(750);

/// Why there is no answer: an HTTP status code, and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: StatusCode,
    pub(crate) message: String,
}

impl Refusal {
    fn new(code: StatusCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// What is known of a running agent.
pub(crate) struct Look {
    desired: Arc<Desired>,
    board: Board,
    dns: Vec<Arc<EndpointSlice>>,
    recent: Mutex<Recent>,
}

impl Look {
    /// Of an agent; one that answers the cluster's DNS itself says by which slices pods are led to it.
    pub(crate) fn new(desired: Arc<Desired>, board: Board, dns: Vec<Arc<EndpointSlice>>) -> Self {
        Self { desired, board, dns, recent: Mutex::default() }
    }

    /// The answer to a request of the admin endpoint, if it is for us.
    pub(crate) fn over_http(&self, uri: &http::Uri) -> Option<Answer> {
        let path = uri.path().strip_prefix("/dataplane/")?;
        Some(match self.answer(path, uri.query().unwrap_or_default()) {
            Ok(json) => plain_http::typed(StatusCode::OK, "application/json", json),
            Err(refusal) => plain_http::text(refusal.code, refusal.message + "\n"),
        })
    }

    /// The answer to a question.
    pub(crate) fn answer(&self, path: &str, query: &str) -> Result<String, Refusal> {
        let parameters = Parameters::of(query);
        let answer = match path {
            "wanted" => serde_json::to_string(&self.wanted()?),
            "events" => serde_json::to_string(&self.events(parameters.number("since")?)?),
            "traffic" => serde_json::to_string(&self.traffic()?),
            "maps" => serde_json::to_string(&self.maps()?),
            "trace" => serde_json::to_string(&self.trace(&parameters)?),
            _ => {
                let known = "there are wanted, events, traffic, maps and trace below /dataplane/";
                return Err(Refusal::new(StatusCode::NOT_FOUND, known));
            }
        };
        answer.map_err(|e| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
    }

    /// What happened since a number, and makes the programs tell for some seconds more.
    fn events(&self, since: Option<u64>) -> Result<Events, Refusal> {
        let (config, directory) = self.known()?;
        let (snapshot, _) = self.desired.snapshot();
        let pods = |uid: &str| {
            let mut pods = snapshot.pods.iter();
            let found = pods.find(|(_, pod)| pod.metadata.uid.as_deref() == Some(uid));
            found.map(|((namespace, name), _)| format!("{namespace}/{name}"))
        };
        self.recent.lock().since(since, &config, &directory, pods).map_err(|e| unavailable(&e))
    }

    /// What Services had that were ever used here.
    fn traffic(&self) -> Result<Vec<ServiceTraffic>, Refusal> {
        let (config, directory) = self.known()?;
        let mut all = Traffic::of(&config, &directory).map_err(|e| unavailable(&e))?.of_services();
        all.retain(|one| {
            let counted = one.packets.iter().chain(&one.connections).chain(one.drops.values());
            counted.sum::<u64>() != 0
        });
        Ok(all)
    }

    /// How full the maps are.
    fn maps(&self) -> Result<Vec<Fill>, Refusal> {
        let (config, _) = self.known()?;
        let kernel = dataplane::kernel(&config.bpffs, &config.node_name).map_err(|e| unavailable(&e))?;
        dataplane::fill(&config, &kernel.tables).map_err(|e| unavailable(&e))
    }

    /// The path that a packet would take here, by what the kernel has. Names come from what is wanted.
    fn trace(&self, parameters: &Parameters) -> Result<Trace, Refusal> {
        let question = parameters.question()?;
        let (config, _) = self.known()?;
        let mut kernel = dataplane::kernel(&config.bpffs, &config.node_name).map_err(|e| unavailable(&e))?;
        let wanted = self.wanted()?;
        let isolated = wanted.policies.isolated.into_iter();
        let policies: BTreeMap<Ipv4Addr, Vec<String>> = isolated.map(|i| (i.address, i.policies)).collect();
        for isolated in &mut kernel.tables.policies.isolated {
            isolated.policies = policies.get(&isolated.address).cloned().unwrap_or_default();
        }
        let frontends = wanted.frontends.into_iter();
        let names: BTreeMap<String, Option<String>> = frontends.map(|f| (f.service, f.name)).collect();
        for frontend in &mut kernel.tables.frontends {
            frontend.name = names.get(&frontend.service).cloned().flatten();
        }
        let links = self.links()?;
        for pod in &mut kernel.tables.pods {
            // What goes to a pod by the routes is not known to be at a link; what the pod sends is.
            pod.link = links.get(&pod.address).copied().unwrap_or(pod.link);
        }
        Ok(dataplane::trace(&kernel.tables, &question, config.masquerade))
    }

    /// The node's ends of the links of pods that it has plugged, by the pods' addresses.
    fn links(&self) -> Result<BTreeMap<IpAddr, u32>, Refusal> {
        let board = self.board.lock();
        let told = board.as_ref().ok_or_else(not_yet)?;
        let LocalPods::Linked(pods) = &told.wanted.pods else { return Ok(BTreeMap::new()) };
        let ends = pods.iter().filter_map(|(ip, link)| {
            let number = nix::net::if_::if_nametoindex(link.name.as_str()).ok()?;
            let ips = [Some(IpAddr::V4(*ip)), link.ip6.map(IpAddr::V6)];
            Some(ips.into_iter().flatten().map(move |ip| (ip, number)))
        });
        Ok(ends.flatten().collect())
    }

    /// The dataplane that is written.
    fn known(&self) -> Result<(DataplaneConfig, Arc<Directory>), Refusal> {
        let board = self.board.lock();
        let told = board.as_ref().ok_or_else(not_yet)?;
        Ok((told.config.clone(), Arc::clone(&told.directory)))
    }

    /// The tables that are wanted, compiled anew from the objects as they are now.
    fn wanted(&self) -> Result<Picture, Refusal> {
        let unknown = |what: &str| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, what);
        let (snapshot, complete) = self.desired.snapshot();
        let snapshot = dns::with_endpoints(snapshot, &self.dns);
        if !complete {
            return Err(unknown(
                "the agent has not been told all Services yet: nothing is wanted for certain",
            ));
        }
        let board = self.board.lock();
        let told = board.as_ref().ok_or_else(not_yet)?;
        let namespace = net::own_cookie().map_err(|e| unknown(&e.to_string()))?;
        let nobody = (BTreeMap::new(), BTreeSet::new());
        let pods = match &told.wanted.pods {
            LocalPods::Linked(linked) => (linked, &nobody.1),
            LocalPods::Foreign(foreign) => (&nobody.0, foreign),
        };
        let around = Surroundings {
            cluster_cidrs: &told.wanted.cluster_cidrs,
            overlay: told.wanted.overlay.as_ref(),
            namespace,
            pods,
        };
        let leaving = told.leaving.iter().copied().collect();
        let routes = told.wanted.routes.clone();
        Ok(Picture { leaving, routes, ..dataplane::wanted(&told.config, &snapshot, around) })
    }
}

fn not_yet() -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the agent has not written its tables yet")
}

fn unavailable(error: &DataplaneError) -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

/// What comes after the question mark.
struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn of(query: &str) -> Self {
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    fn text(&self, name: &str) -> Option<&str> {
        let mut named = self.0.iter().filter(|(each, _)| each == name);
        named.next().map(|(_, value)| value.as_str())
    }

    fn question(&self) -> Result<Question, Refusal> {
        let bad = |what: &str| {
            Refusal::new(
                StatusCode::BAD_REQUEST,
                format!("{what}, for example ?from=10.244.0.5&to=10.96.0.10:80&protocol=TCP"),
            )
        };
        let from = self.text("from").and_then(|text| text.parse().ok());
        let to = self.text("to").and_then(|text| text.parse().ok());
        Ok(Question {
            from: from.ok_or_else(|| bad("from has to be an IP address"))?,
            to: to.ok_or_else(|| bad("to has to be an IP address and a port"))?,
            protocol: self.text("protocol").unwrap_or("TCP").to_uppercase(),
        })
    }

    fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let bad = |_| Refusal::new(StatusCode::BAD_REQUEST, format!("{name} has to be a number"));
        self.text(name).map(|text| text.parse().map_err(bad)).transpose()
    }
}

/// What was found by comparing.
#[derive(Debug)]
pub struct Found {
    /// What differs.
    pub differences: Vec<Difference>,
    /// How much was compared.
    pub compared: Counted,
}

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Addresses and ports at which Services are answered.
    pub frontends: usize,
    /// Those who answer.
    pub backends: usize,
    /// Pods of this node.
    pub pods: usize,
    /// Nodes of the cluster.
    pub nodes: usize,
    /// Nodes whose pods are reached directly, and through a tunnel.
    pub routes: [usize; 2],
}

/// Compares the kernel's tables with what the agent at this address wants.
///
/// # Errors
/// The agent does not answer, or the tables cannot be read.
pub async fn verify(agent: SocketAddr, bpffs: &Path, node_name: &str) -> anyhow::Result<Found> {
    let mut readings = Vec::new();
    loop {
        let json = ask::get(agent, "/dataplane/wanted").await?;
        let wanted: Picture = serde_json::from_str(&json).with_context(|| {
            format!("what the agent at {agent} wants cannot be understood: is it of another version?")
        })?;
        let mut kernel = dataplane::kernel(bpffs, node_name)?;
        if wanted.routes.is_some() {
            kernel.tables.routes = Some(net::node_routes().await?);
        }
        readings.push(dataplane::compare(&kernel, &wanted));
        let differences = dataplane::lasting(&readings);
        if differences.is_empty() || readings.len() == READINGS {
            return Ok(Found { differences, compared: counted(&wanted) });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn counted(picture: &Picture) -> Counted {
    let backends: BTreeSet<_> =
        picture.frontends.iter().flat_map(|f| f.inside.iter().chain(&f.outside)).collect();
    Counted {
        frontends: picture.frontends.len(),
        backends: backends.len(),
        pods: picture.pods.len(),
        nodes: picture.nodes.len(),
        routes: [Way::Direct, Way::Vxlan]
            .map(|way| picture.routes.iter().flatten().filter(|route| route.way == way).count()),
    }
}
