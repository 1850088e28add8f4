//! In which domain each node is, for each key of a label that some rule is about.

use std::collections::BTreeMap;

use crate::world::NodeView;

/// Keys that every pod's replicas are spread over.
pub(crate) const HOSTNAME: &str = "kubernetes.io/hostname";
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";

/// The domains of one key.
#[derive(Debug, Default)]
pub(crate) struct Topology {
    holders: usize,
    ids: BTreeMap<Box<str>, u32>,
    /// Nodes by domain; a domain without any may be given another value.
    nodes: Vec<u32>,
    names: Vec<Box<str>>,
    free: Vec<u32>,
    /// The domain of each slot.
    pub(crate) of: Vec<Option<u32>>,
}

impl Topology {
    /// How many domains there may be: each has a number below this.
    pub(crate) fn size(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn domain(&self, slot: u32) -> Option<u32> {
        self.of.get(slot as usize).copied().flatten()
    }

    fn set(&mut self, slot: u32, value: Option<&str>) {
        let slot = slot as usize;
        if self.of.len() <= slot {
            self.of.resize(slot + 1, None);
        }
        let before = self.of.get(slot).copied().flatten();
        let same = before.and_then(|id| self.names.get(id as usize)).map(AsRef::as_ref) == value;
        if same {
            return;
        }
        if let Some(id) = before {
            self.leave(id);
        }
        let now = value.map(|value| self.enter(value));
        if let Some(of) = self.of.get_mut(slot) {
            *of = now;
        }
    }

    fn enter(&mut self, value: &str) -> u32 {
        if let Some(id) = self.ids.get(value).copied() {
            if let Some(nodes) = self.nodes.get_mut(id as usize) {
                *nodes += 1;
            }
            return id;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(0);
            self.names.push("".into());
            u32::try_from(self.nodes.len() - 1).unwrap_or(u32::MAX)
        });
        if let (Some(nodes), Some(name)) = (self.nodes.get_mut(id as usize), self.names.get_mut(id as usize))
        {
            *nodes = 1;
            *name = value.into();
        }
        self.ids.insert(value.into(), id);
        id
    }

    fn leave(&mut self, id: u32) {
        let Some(nodes) = self.nodes.get_mut(id as usize) else { return };
        *nodes -= 1;
        if *nodes == 0 {
            self.free.push(id);
            if let Some(name) = self.names.get(id as usize) {
                self.ids.remove(name);
            }
        }
    }
}

/// The topologies that rules are about.
#[derive(Debug)]
pub(crate) struct Topologies(BTreeMap<Box<str>, Topology>);

impl Default for Topologies {
    fn default() -> Self {
        let always = [HOSTNAME, ZONE].map(|key| (key.into(), Topology { holders: 1, ..Topology::default() }));
        Self(always.into_iter().collect())
    }
}

impl Topologies {
    pub(crate) fn get(&self, key: &str) -> Option<&Topology> {
        self.0.get(key)
    }

    /// A rule is about this key; `nodes` are asked for when it is the first.
    pub(super) fn hold<'n>(&mut self, key: &str, nodes: impl Iterator<Item = (u32, &'n NodeView)>) {
        if let Some(topology) = self.0.get_mut(key) {
            topology.holders += 1;
            return;
        }
        let mut topology = Topology { holders: 1, ..Topology::default() };
        for (slot, node) in nodes {
            topology.set(slot, node.labels.get(key).map(AsRef::as_ref));
        }
        self.0.insert(key.into(), topology);
    }

    pub(super) fn release(&mut self, key: &str) {
        let Some(topology) = self.0.get_mut(key) else { return };
        topology.holders -= 1;
        if topology.holders == 0 {
            self.0.remove(key);
        }
    }

    /// A node has a slot, or has it no more.
    pub(super) fn set(&mut self, slot: u32, node: Option<&NodeView>) {
        for (key, topology) in &mut self.0 {
            topology.set(slot, node.and_then(|node| node.labels.get(key)).map(AsRef::as_ref));
        }
    }

    /// As text: the domain's name of each slot.
    #[cfg(test)]
    pub(super) fn text(&self, slots: &BTreeMap<u32, &str>) -> String {
        let line = |key: &str, topology: &Topology| {
            let name = |slot: u32| topology.domain(slot).map(|id| topology.names[id as usize].clone());
            let names: BTreeMap<&str, _> = slots.iter().map(|(slot, node)| (*node, name(*slot))).collect();
            format!("{key} {} {names:?} {}", topology.holders, topology.ids.len())
        };
        self.0.iter().map(|(key, topology)| line(key, topology)).collect::<Vec<_>>().join("\n")
    }
}
