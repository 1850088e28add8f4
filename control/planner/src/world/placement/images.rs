//! Which images nodes have.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

#[derive(Debug, Default)]
pub(crate) struct Images {
    /// By name: sizes by slot.
    by_name: BTreeMap<Arc<str>, BTreeMap<u32, i64>>,
    /// What each slot has.
    of: BTreeMap<u32, Box<[Arc<str>]>>,
}

impl Images {
    /// What a node's status says now.
    pub(super) fn set(&mut self, slot: u32, images: &Value) {
        let listed = images.as_array().into_iter().flatten().flat_map(|image| {
            let size = image["sizeBytes"].as_i64().unwrap_or(0);
            let names = image["names"].as_array().into_iter().flatten().filter_map(Value::as_str);
            names.map(move |name| (name, size))
        });
        let now: BTreeMap<&str, i64> = listed.collect();
        let before = self.of.remove(&slot).unwrap_or_default();
        for gone in before.iter().filter(|name| !now.contains_key(&***name)) {
            self.forget(slot, gone);
        }
        let mut names = Vec::with_capacity(now.len());
        for (name, size) in now {
            let name = match self.by_name.get_key_value(name) {
                Some((known, _)) => Arc::clone(known),
                None => Arc::from(name),
            };
            self.by_name.entry(Arc::clone(&name)).or_default().insert(slot, size);
            names.push(name);
        }
        if !names.is_empty() {
            self.of.insert(slot, names.into());
        }
    }

    fn forget(&mut self, slot: u32, name: &Arc<str>) {
        if let Some(nodes) = self.by_name.get_mut(name) {
            nodes.remove(&slot);
            if nodes.is_empty() {
                self.by_name.remove(name);
            }
        }
    }

    /// The sizes of an image by slot, where it is.
    pub(crate) fn sizes(&self, name: &str) -> Option<&BTreeMap<u32, i64>> {
        // As upstream's normalizedImageName: what has no tag and no digest is the latest.
        let last = name.rsplit('/').next().unwrap_or(name);
        if last.contains(':') || last.contains('@') {
            self.by_name.get(name)
        } else {
            self.by_name.get(format!("{name}:latest").as_str())
        }
    }
}
