//! Which endpoints of a Service's port answer: readiness, termination (KEP-1669), zones (KEP-2433), the node's own. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use oarlock_api::k8s::api::core::v1::ServicePort;
use oarlock_api::k8s::api::discovery::v1::{Endpoint, EndpointSlice};

use super::{Peer, Place};

/// The endpoints of one port.
pub(super) struct Endpoints<'s>(Vec<(Peer, &'s Endpoint)>);

impl<'s> Endpoints<'s> {
    /// Of all slices, with the port's number in each.
    pub(super) fn of(port: &ServicePort, slices: &[&'s Arc<EndpointSlice>]) -> Self {
        let targets = slices.iter().copied().filter_map(|slice| Some((slice, target(port, slice)?)));
        let all = targets.flat_map(|(slice, number)| {
            slice.endpoints.iter().filter_map(move |e| Some(((address(e)?, number), e)))
        });
        Self(all.collect())
    }

    /// Those that answer wherever they are, in this node's zone if that is to be preferred.
    pub(super) fn of_cluster(&self, place: Place<'_>) -> Vec<Peer> {
        let ready: Vec<_> = self.0.iter().filter(|(_, e)| is_ready(e)).collect();
        let near = place.zone.and_then(|zone| in_zone(&ready, zone));
        if let Some(near) = near {
            return sorted(near);
        }
        self.or_ending(|_| true)
    }

    /// Those of this node.
    pub(super) fn of_node(&self, place: Place<'_>) -> Vec<Peer> {
        self.or_ending(|e| e.node_name.as_deref() == Some(place.name))
    }

    /// Ready ones; when there is none, those that are ending but still serve.
    fn or_ending(&self, here: impl Fn(&Endpoint) -> bool) -> Vec<Peer> {
        let those = |serves: fn(&Endpoint) -> bool| {
            sorted(self.0.iter().filter(|(_, e)| here(e) && serves(e)).map(|(peer, _)| *peer))
        };
        let ready = those(is_ready);
        if ready.is_empty() { those(is_ending) } else { ready }
    }
}

/// How many ready endpoints a node has: of the family of which it has most, as a pod may be there with an address of each.
pub(super) fn ready_on(slices: &[&Arc<EndpointSlice>], node: &str) -> usize {
    let all = slices.iter().flat_map(|slice| &slice.endpoints);
    let here = all.filter(|e| is_ready(e) && e.node_name.as_deref() == Some(node));
    let (v4, v6): (BTreeSet<_>, BTreeSet<_>) = here.filter_map(address).partition(IpAddr::is_ipv4);
    v4.len().max(v6.len())
}

/// Endpoints with a hint for the zone; nothing where any has no hint, or none is for the zone (kube-proxy's canUseTopology).
fn in_zone<'e>(ready: &[&'e (Peer, &Endpoint)], zone: &str) -> Option<impl Iterator<Item = Peer> + use<'e>> {
    let mut near = Vec::new();
    for (peer, endpoint) in ready {
        let zones = endpoint.hints.as_ref().and_then(|h| h.for_zones.as_ref()).filter(|z| !z.is_empty())?;
        if zones.iter().any(|hint| hint.name == zone) {
            near.push(*peer);
        }
    }
    (!near.is_empty()).then(|| near.into_iter())
}

fn sorted(peers: impl Iterator<Item = Peer>) -> Vec<Peer> {
    peers.collect::<BTreeSet<_>>().into_iter().collect()
}

fn address(endpoint: &Endpoint) -> Option<IpAddr> {
    endpoint.addresses.first()?.parse().ok()
}

/// Not said is ready.
fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)
}

fn is_ending(endpoint: &Endpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    let is = |value: Option<bool>| value.unwrap_or(false);
    conditions.is_some_and(|c| is(c.serving) && is(c.terminating))
}

/// The port's number in a slice, by its name and protocol.
fn target(port: &ServicePort, slice: &EndpointSlice) -> Option<u16> {
    let name = |text: &Option<String>| text.clone().unwrap_or_default();
    let wanted = (name(&port.name), port.protocol.as_deref().unwrap_or("TCP"));
    let found = slice
        .ports
        .iter()
        .flatten()
        .find(|p| (name(&p.name), p.protocol.as_deref().unwrap_or("TCP")) == wanted);
    u16::try_from(found?.port?).ok()
}
