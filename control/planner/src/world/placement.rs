//! Where there is room: what each node gives and what its pods have taken, who is near whom, in which domain each node is. Kept
//! change by change; what a change costs does not depend on the size of the cluster.

mod crowd;
mod images;
#[cfg(test)]
mod tests;
mod topology;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::views::HostPort;
use super::{Key, NodeView, PodView};

pub(crate) use crowd::{Count, Crowd, Term};
pub(crate) use images::Images;
pub(crate) use topology::{HOSTNAME, Topologies, Topology, ZONE};

/// What pods have taken of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) cpu_milli: i64,
    pub(crate) memory: i64,
    pub(crate) storage: i64,
    pub(crate) pods: i64,
    /// CPU and memory, where a container that asks for nothing counts as a little.
    pub(crate) weighed: [i64; 2],
    pub(crate) extended: BTreeMap<Box<str>, i64>,
    pub(crate) ports: Vec<HostPort>,
}

impl Used {
    /// A pod more (`1`) or less (`-1`).
    pub(crate) fn add(&mut self, pod: &PodView, sign: i64) {
        self.cpu_milli += sign * pod.cpu_milli;
        self.memory += sign * pod.memory;
        self.storage += sign * pod.storage;
        self.pods += sign;
        for (sum, of) in self.weighed.iter_mut().zip(pod.weighed) {
            *sum += sign * of;
        }
        for (name, amount) in &pod.extended {
            let sum = self.extended.entry(name.clone()).or_default();
            *sum += sign * amount;
            if *sum == 0 {
                self.extended.remove(name);
            }
        }
        for port in &pod.host_ports {
            if sign > 0 {
                self.ports.push(port.clone());
            } else if let Some(at) = self.ports.iter().position(|p| p == port) {
                self.ports.swap_remove(at);
            }
        }
    }
}

/// A node's place: it may have pods before it is there, or still.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub(crate) node: Option<Arc<NodeView>>,
    pub(crate) used: Used,
    /// Pods that are to come when others have gone.
    pub(crate) nominated: Vec<Key>,
}

/// Where there is room.
#[derive(Debug, Default)]
pub(crate) struct Placement {
    pub(crate) slots: Vec<Slot>,
    by_name: BTreeMap<Box<str>, u32>,
    free: Vec<u32>,
    nodes: usize,
    /// Pods of one controller by slot.
    siblings: BTreeMap<Box<str>, BTreeMap<u32, Count>>,
    pub(crate) topologies: Topologies,
    pub(crate) crowd: Crowd,
    pub(crate) images: Images,
}

impl Placement {
    /// How many nodes there are.
    pub(crate) fn nodes(&self) -> usize {
        self.nodes
    }

    pub(crate) fn slot_of(&self, node: &str) -> Option<u32> {
        self.by_name.get(node).copied()
    }

    pub(crate) fn slot(&self, slot: u32) -> Option<&Slot> {
        self.slots.get(slot as usize)
    }

    /// Where the pods of a controller are.
    pub(crate) fn siblings(&self, controller: &str) -> Option<&BTreeMap<u32, Count>> {
        self.siblings.get(controller)
    }

    fn take_slot(&mut self, name: &str) -> u32 {
        if let Some(slot) = self.by_name.get(name) {
            return *slot;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        self.by_name.insert(name.into(), slot);
        slot
    }

    /// Gives a slot away that nobody needs.
    fn give_back(&mut self, name: &str, slot: u32) {
        let Some(of) = self.slots.get(slot as usize) else { return };
        if of.node.is_none() && of.used.pods == 0 && of.nominated.is_empty() {
            self.by_name.remove(name);
            self.free.push(slot);
        }
    }

    /// A node as it is now.
    pub(super) fn put_node(&mut self, node: &Arc<NodeView>, object: Option<&Value>) {
        let slot = self.take_slot(&node.name);
        if let Some(of) = self.slots.get_mut(slot as usize) {
            self.nodes += usize::from(of.node.is_none());
            of.node = Some(Arc::clone(node));
        }
        self.topologies.set(slot, Some(node));
        if let Some(object) = object {
            self.images.set(slot, &object["status"]["images"]);
        }
    }

    pub(super) fn remove_node(&mut self, name: &str) {
        let Some(slot) = self.slot_of(name) else { return };
        if let Some(of) = self.slots.get_mut(slot as usize) {
            self.nodes -= usize::from(of.node.take().is_some());
        }
        self.topologies.set(slot, None);
        self.images.set(slot, &Value::Null);
        self.give_back(name, slot);
    }

    /// A pod is there; one that has ended takes no place.
    pub(super) fn add(&mut self, key: &Key, pod: &PodView) {
        if pod.has_ended() {
            return;
        }
        let class = self.crowd.join(&key.0, &pod.labels);
        if let Some(rules) = &pod.rules {
            self.crowd.hold(rules);
            for topology in rules.topologies() {
                let slots = self.slots.iter().enumerate();
                let nodes =
                    slots.filter_map(|(i, slot)| Some((u32::try_from(i).ok()?, slot.node.as_deref()?)));
                self.topologies.hold(topology, nodes);
            }
        }
        if let Some(node) = &pod.node {
            let slot = self.take_slot(node);
            self.count(class, slot, pod, 1);
        } else if let Some(node) = &pod.nominated {
            let slot = self.take_slot(node);
            if let Some(of) = self.slots.get_mut(slot as usize) {
                of.nominated.push(key.clone());
            }
        }
    }

    /// A pod, as it was added, is gone.
    pub(super) fn remove(&mut self, key: &Key, pod: &PodView) {
        if pod.has_ended() {
            return;
        }
        let Some((class, _)) = self.crowd.class_of(&key.0, &pod.labels) else { return };
        if let Some(node) = pod.node.as_ref().or(pod.nominated.as_ref())
            && let Some(slot) = self.slot_of(node)
        {
            if pod.node.is_some() {
                self.count(class, slot, pod, -1);
            } else if let Some(of) = self.slots.get_mut(slot as usize) {
                of.nominated.retain(|nominated| nominated != key);
            }
            self.give_back(node, slot);
        }
        if let Some(rules) = &pod.rules {
            self.crowd.release(rules);
            for topology in rules.topologies() {
                self.topologies.release(topology);
            }
        }
        self.crowd.leave(class);
    }

    fn count(&mut self, class: u32, slot: u32, pod: &PodView, sign: i64) {
        if let Some(of) = self.slots.get_mut(slot as usize) {
            of.used.add(pod, sign);
        }
        let count = Count { all: sign, staying: if pod.is_terminating() { 0 } else { sign } };
        self.crowd.place(class, slot, count);
        if let Some(rules) = &pod.rules {
            self.crowd.settle(rules, slot, sign);
        }
        let Some(controller) = &pod.controller else { return };
        let of = self.siblings.entry(controller.clone()).or_default();
        let siblings = of.entry(slot).or_default();
        siblings.all += count.all;
        siblings.staying += count.staying;
        if *siblings == Count::default() {
            of.remove(&slot);
            if of.is_empty() {
                self.siblings.remove(controller);
            }
        }
    }
}
