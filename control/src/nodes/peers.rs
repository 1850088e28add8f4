//! Which NetworkPolicies there are, and which pods their peers name: found once for all nodes, each of which is told only of
//! those that its own pods need.
//!
//! In: the cache's changes. Out: a picture of both as of one revision, whose copies share what they have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use imbl::OrdMap;
use oarlock_api::catalogue::{NAMESPACES, NETWORK_POLICIES, PODS};
use oarlock_api::k8s::api::networking::v1::NetworkPolicy;
use oarlock_api::network_policy::{self, Matcher, Member, PodGroup};
use oarlock_store::Revision;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, Expired, Object, ObjectKey};

/// A policy and the groups that it names.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    pub(super) object: Arc<Object>,
    pub(super) groups: Arc<BTreeSet<String>>,
}

/// The members of a group: `<namespace>/<pod>` to the encoded [`Member`].
pub(super) type Members = OrdMap<String, Bytes>;

/// All policies and groups, as of one revision.
#[derive(Debug, Clone, Default)]
pub(super) struct Picture {
    pub(super) policies: OrdMap<(String, String), Policy>,
    pub(super) groups: OrdMap<String, Members>,
}

/// The present picture. Shared by reference.
#[derive(Debug, Default)]
pub(super) struct Peers {
    picture: watch::Sender<Arc<Picture>>,
    revision: watch::Sender<Revision>,
}

impl Peers {
    /// The present picture; it rings when it has changed.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Picture>> {
        self.picture.subscribe()
    }

    /// Waits until the picture shows what was written up to a revision. False: it took too long.
    pub(super) async fn wait_for(&self, revision: Revision, bound: Duration) -> bool {
        let mut seen = self.revision.subscribe();
        tokio::time::timeout(bound, seen.wait_for(|seen| *seen >= revision)).await.is_ok_and(|r| r.is_ok())
    }

    /// Follows the cache until `stop` is cancelled.
    pub(super) async fn run(self: Arc<Self>, cache: Arc<Cache>, stop: CancellationToken) {
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.follow(&cache) => ended,
            };
            tracing::debug!(?ended, "the peers of policies are found anew");
        }
    }

    async fn follow(&self, cache: &Arc<Cache>) -> Result<(), Expired> {
        let revision = cache.revision();
        let mut watch = cache.watch(None, revision)?;
        let mut index = Index { cache, groups: BTreeMap::new(), picture: Picture::default() };
        for policy in cache.list(&NETWORK_POLICIES, None).0 {
            index.look_at(&policy.key);
        }
        self.publish(index.picture.clone(), revision);
        loop {
            let changes = watch.next().await?;
            let before = index.picture.clone();
            for change in &changes {
                index.look_at(&change.object().key);
            }
            if before.policies.ptr_eq(&index.picture.policies) && before.groups.ptr_eq(&index.picture.groups)
            {
                self.revision.send_replace(watch.seen());
            } else {
                self.publish(index.picture.clone(), watch.seen());
            }
        }
    }

    fn publish(&self, picture: Picture, revision: Revision) {
        self.picture.send_replace(Arc::new(picture));
        self.revision.send_replace(revision);
    }
}

/// What the picture is made with.
struct Index<'c> {
    cache: &'c Cache,
    /// How to find each group's members, and how many policies name it.
    groups: BTreeMap<String, (Matcher, usize)>,
    picture: Picture,
}

impl Index<'_> {
    /// Something may have happened to this object. What it is now is in the cache, which may know more than the change.
    fn look_at(&mut self, key: &ObjectKey) {
        if *key.kind == NETWORK_POLICIES {
            self.policy(&key.namespace, &key.name);
        } else if *key.kind == PODS && !self.groups.is_empty() {
            let groups: Vec<String> = self.groups.keys().cloned().collect();
            let pod = self.cache.get(&PODS, &key.namespace, &key.name);
            for group in groups {
                self.member(&group, &key.namespace, &key.name, pod.as_deref());
            }
        } else if *key.kind == NAMESPACES {
            let groups: Vec<String> = self.groups.keys().cloned().collect();
            for group in groups {
                self.members(&group, Some(&key.name));
            }
        }
    }

    fn policy(&mut self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        let old = self.picture.policies.get(&key).cloned();
        let new = self.cache.get(&NETWORK_POLICIES, namespace, name);
        if old.as_ref().map(|old| old.object.revision) == new.as_ref().map(|new| new.revision) {
            return;
        }
        let groups = new.as_ref().map(|object| groups(object)).unwrap_or_default();
        let ids: BTreeSet<String> = groups.keys().cloned().collect();
        // What comes before what goes: a group that both name is not found anew.
        for (id, group) in groups {
            self.take(id, &group);
        }
        for id in old.iter().flat_map(|old| old.groups.iter()) {
            self.give(id);
        }
        match new {
            Some(object) => drop(self.picture.policies.insert(key, Policy { object, groups: Arc::new(ids) })),
            None => drop(self.picture.policies.remove(&key)),
        }
    }

    fn take(&mut self, id: String, group: &PodGroup) {
        if let Some((_, users)) = self.groups.get_mut(&id) {
            *users += 1;
            return;
        }
        // Validation lets no other in.
        let Ok(matcher) = group.matcher() else { return };
        let only = matcher.namespace().map(str::to_owned);
        self.groups.insert(id.clone(), (matcher, 1));
        self.picture.groups.insert(id.clone(), Members::new());
        self.members(&id, only.as_deref());
    }

    fn give(&mut self, id: &str) {
        let Some((_, users)) = self.groups.get_mut(id) else { return };
        *users -= 1;
        if *users == 0 {
            self.groups.remove(id);
            self.picture.groups.remove(id);
        }
    }

    /// Finds the members of a group, of one namespace or of all.
    fn members(&mut self, group: &str, namespace: Option<&str>) {
        for pod in self.cache.list(&PODS, namespace).0 {
            self.member(group, &pod.key.namespace, &pod.key.name, Some(&pod));
        }
    }

    /// Finds whether a pod is one of a group.
    fn member(&mut self, group: &str, namespace: &str, name: &str, pod: Option<&Object>) {
        let Some((matcher, _)) = self.groups.get(group) else { return };
        let name = format!("{namespace}/{name}");
        let of_namespace = self.cache.get(&NAMESPACES, "", namespace);
        let belongs = pod.filter(|pod| {
            let label = |key: &str| of_namespace.as_ref().and_then(|n| n.label(key));
            matcher.matches(namespace, label, |key| pod.label(key))
        });
        let member = belongs.and_then(|pod| member(&pod.value()));
        let Some(members) = self.picture.groups.get(group) else { return };
        if members.get(&name) == member.as_ref() {
            return;
        }
        let mut members = members.clone();
        match member {
            Some(member) => drop(members.insert(name, member)),
            None => drop(members.remove(&name)),
        }
        self.picture.groups.insert(group.to_owned(), members);
    }
}

fn groups(policy: &Object) -> BTreeMap<String, PodGroup> {
    match serde_json::from_slice::<NetworkPolicy>(&policy.encoded()) {
        Ok(policy) => network_policy::groups(&policy),
        Err(error) => {
            tracing::error!(policy = ?policy.key, %error, "a stored NetworkPolicy does not parse");
            BTreeMap::new()
        }
    }
}

/// A pod as a peer; none while it has no address of its own.
fn member(pod: &Value) -> Option<Bytes> {
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if ended || pod["spec"]["hostNetwork"] == true {
        return None;
    }
    let ip: Ipv4Addr = pod["status"]["podIP"].as_str()?.parse().ok()?;
    let ips = pod["status"]["podIPs"].as_array().into_iter().flatten();
    let ip6 = ips.filter_map(|ip| ip["ip"].as_str()?.parse::<Ipv6Addr>().ok()).next();
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let named = ports.filter_map(|port| {
        let name = port["name"].as_str().filter(|name| !name.is_empty())?;
        let number = u16::try_from(port["containerPort"].as_u64()?).ok()?;
        Some((network_policy::named_port(port["protocol"].as_str().unwrap_or("TCP"), name), number))
    });
    let member = Member { ip, ip6, ports: named.collect() };
    serde_json::to_vec(&member).ok().map(Bytes::from)
}

#[cfg(test)]
mod tests;
