//! What one node has been told of NetworkPolicies, and what it still has to hear. Pure.
//!
//! Those of the namespaces that have pods there, with the pods that their peers name. Who is allowed comes before the policy that
//! isolates, and goes after it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use imbl::ordmap::DiffItem;
use oarlock_api::catalogue::NETWORK_POLICIES;
use oarlock_api::network_policy::MEMBERS;
use oarlock_api::node::control_message::Message;
use oarlock_api::node::{ObjectDelete, ObjectUpdate};

use super::peers::{Members, Picture, Policy};

/// What a node has been told.
#[derive(Debug, Default)]
pub(super) struct Policies {
    told: BTreeMap<(String, String), Policy>,
    groups: BTreeMap<String, Members>,
    last: Arc<Picture>,
    namespaces: BTreeSet<String>,
}

impl Policies {
    /// What to say so that a node with pods in these namespaces knows of the picture what it needs.
    pub(super) fn follow(&mut self, picture: Arc<Picture>, namespaces: &BTreeSet<&str>) -> Vec<Message> {
        let is_same = Arc::ptr_eq(&picture, &self.last)
            && self.namespaces.iter().map(String::as_str).eq(namespaces.iter().copied());
        if is_same {
            return Vec::new();
        }
        let wanted = wanted(&picture, namespaces);
        let groups: BTreeSet<&String> = wanted.values().flat_map(|policy| policy.groups.iter()).collect();
        let (mut messages, mut last) = (Vec::new(), Vec::new());
        for group in groups.iter().copied() {
            let members = picture.groups.get(group).cloned().unwrap_or_default();
            let before = self.groups.remove(group).unwrap_or_default();
            if !before.ptr_eq(&members) {
                differences(group, &before, &members, &mut messages, &mut last);
            }
            self.groups.insert(group.clone(), members);
        }
        for (key, policy) in &wanted {
            if self.told.get(key).is_none_or(|told| told.object.revision != policy.object.revision) {
                messages.push(update_policy(policy));
            }
        }
        for ((namespace, name), _) in self.told.iter().filter(|(key, _)| !wanted.contains_key(*key)) {
            messages.push(delete(NETWORK_POLICIES.plural, namespace, name));
        }
        for (group, members) in self.groups.extract_if(.., |group, _| !groups.contains(group)) {
            differences(&group, &members, &Members::new(), &mut Vec::new(), &mut last);
        }
        messages.append(&mut last);
        self.told = wanted;
        self.last = picture;
        self.namespaces = namespaces.iter().map(|namespace| (*namespace).to_owned()).collect();
        messages
    }
}

fn wanted(picture: &Picture, namespaces: &BTreeSet<&str>) -> BTreeMap<(String, String), Policy> {
    let mut wanted = BTreeMap::new();
    for namespace in namespaces {
        let first = ((*namespace).to_owned(), String::new());
        let policies = picture.policies.range(first..).take_while(|((of, _), _)| of == namespace);
        wanted.extend(policies.map(|(key, policy)| (key.clone(), policy.clone())));
    }
    wanted
}

fn differences(
    group: &str,
    before: &Members,
    now: &Members,
    comes: &mut Vec<Message>,
    goes: &mut Vec<Message>,
) {
    for change in before.diff(now) {
        match change {
            DiffItem::Add(name, member) | DiffItem::Update { new: (name, member), .. } => {
                comes.push(update(MEMBERS, group, name, 0, member.clone()));
            }
            DiffItem::Remove(name, _) => goes.push(delete(MEMBERS, group, name)),
        }
    }
}

fn update_policy(policy: &Policy) -> Message {
    let (key, object) = (&policy.object.key, policy.object.encoded());
    update(NETWORK_POLICIES.plural, &key.namespace, &key.name, policy.object.revision.0, object)
}

fn update(resource: &str, namespace: &str, name: &str, revision: u64, object: Bytes) -> Message {
    Message::Update(ObjectUpdate {
        resource: resource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        revision,
        object,
    })
}

fn delete(resource: &str, namespace: &str, name: &str) -> Message {
    Message::Delete(ObjectDelete {
        resource: resource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        revision: 0,
    })
}
