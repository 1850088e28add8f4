//! Controllers, nodes and users around the store, one random step at a time.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use oarlock_api::catalogue::{Kind, NODES, PODS};
use oarlock_api::meta;
use oarlock_planner::{CONTROLLERS, Change, Key, Part, Settings, World};
use serde_json::{Value, json};

use crate::store::{Conflict, Store};

/// More steps than any run should need: beyond, controllers fight each other.
const ENDLESS: u64 = 20_000;

/// A controller's index and a key.
type Item = (usize, Key);

pub(crate) struct Cluster {
    pub(crate) seed: u64,
    pub(crate) store: Store,
    /// How many of a hundred pods that end have failed.
    pub(crate) failing: u64,
    /// Nodes whose agents are dead: nothing is started, ended or reported there.
    dead: BTreeSet<String>,
    state: u64,
    settings: Settings,
    now: Timestamp,
    world: World,
    /// How much of the store's log the world has seen.
    seen: usize,
    queue: BTreeSet<Item>,
    /// Plans under way: what is left of them, the latest revision they wrote, whether a change failed.
    running: BTreeMap<Item, (Vec<Change>, u64, bool)>,
    /// Touched while running.
    dirty: BTreeSet<Item>,
    /// What an item wrote last: it is not planned before the world has seen that.
    wrote: BTreeMap<Item, u64>,
}

impl Cluster {
    /// Some nodes with so many cores each.
    pub(crate) fn new(seed: u64, nodes: usize, cores: u64) -> Self {
        let settings = Settings { cluster_cidr: "10.244.0.0/16".parse().unwrap(), ca_pem: "ca".to_owned() };
        let mut cluster = Self {
            seed,
            store: Store::default(),
            failing: 0,
            dead: BTreeSet::new(),
            state: seed,
            settings,
            now: "2026-01-01T00:00:10Z".parse().unwrap(),
            world: World::default(),
            seen: 0,
            queue: BTreeSet::new(),
            running: BTreeMap::new(),
            dirty: BTreeSet::new(),
            wrote: BTreeMap::new(),
        };
        for node in 0..nodes {
            cluster.add_node(&format!("n{node}"), cores);
        }
        cluster
    }

    pub(crate) fn add_node(&mut self, name: &str, cores: u64) {
        let status = json!({"allocatable": {"cpu": cores.to_string(), "memory": "8Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}]});
        self.store.create(&NODES, "", json!({"metadata": {"name": name}, "spec": {}, "status": status}));
    }

    /// Splitmix64: a number below `end`.
    pub(crate) fn random(&mut self, end: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    fn any<T>(&mut self, mut of: Vec<T>) -> Option<T> {
        let count = u64::try_from(of.len()).unwrap();
        if count == 0 {
            return None;
        }
        let index = usize::try_from(self.random(count)).unwrap();
        Some(of.swap_remove(index))
    }

    pub(crate) fn user_creates(&mut self, kind: &'static Kind, object: Value) {
        self.store.create(kind, if kind.namespaced { "d" } else { "" }, object);
    }

    pub(crate) fn user_patches(&mut self, kind: &'static Kind, name: &str, patch: &Value) {
        self.store.patch(kind, &("d".to_owned(), name.to_owned()), Part::Main, patch).unwrap();
    }

    pub(crate) fn user_deletes(&mut self, kind: &'static Kind, name: &str) {
        self.store.delete(kind, &("d".to_owned(), name.to_owned()), None, None).unwrap();
    }

    fn a_pod(&mut self, test: impl Fn(&Value) -> bool) -> Option<Value> {
        let pods = self.store.all(&PODS).filter(|pod| test(pod)).cloned().collect();
        self.any(pods)
    }

    pub(crate) fn user_deletes_a_pod(&mut self) {
        if let Some(pod) = self.a_pod(|_| true) {
            self.user_deletes(&PODS, meta::name(&pod));
        }
    }

    /// A pod that was ready is not any more; its node will say that it is again.
    pub(crate) fn a_pod_flaps(&mut self) {
        if let Some(pod) = self.a_pod(|pod| pod["status"]["phase"] == "Running") {
            self.report(&pod, "False");
        }
    }

    /// A node's agent dies, or one that is dead comes back.
    pub(crate) fn an_agent_dies_or_returns(&mut self) {
        let nodes = self.store.all(&NODES).map(|node| meta::name(node).to_owned()).collect();
        if let Some(node) = self.any(nodes)
            && !self.dead.remove(&node)
        {
            self.dead.insert(node);
        }
    }

    /// All agents live again.
    pub(crate) fn all_agents_return(&mut self) {
        self.dead.clear();
    }

    /// The controllers' process dies, between any two writes: what it had begun is left as it is, and another one begins with what the
    /// store has.
    pub(crate) fn controllers_crash(&mut self) {
        (self.world, self.seen) = (World::default(), self.store.log.len());
        (self.queue, self.running, self.dirty, self.wrote) = Default::default();
        let last: BTreeMap<(&str, Key), usize> = self
            .store
            .log
            .iter()
            .enumerate()
            .map(|(at, logged)| ((logged.kind.plural, logged.key.clone()), at))
            .collect();
        for at in last.values() {
            let logged = &self.store.log[*at];
            if let Some(value) = &logged.value {
                self.world.put(logged.kind, &logged.key.0, &logged.key.1, value, logged.revision);
            }
        }
        for ((_, key), at) in last {
            self.touch(self.store.log[at].kind, &key);
        }
    }

    /// What the world has seen of some object last, it is told once more.
    pub(crate) fn an_event_comes_again(&mut self) {
        if self.seen == 0 {
            return;
        }
        let at = usize::try_from(self.random(u64::try_from(self.seen).unwrap())).unwrap();
        let (kind, key) = (self.store.log[at].kind, self.store.log[at].key.clone());
        let last = self.store.log[..self.seen].iter().rev().find(|l| *l.kind == *kind && l.key == key);
        let Some((value, revision)) = last.map(|logged| (logged.value.clone(), logged.revision)) else {
            return;
        };
        // What was decided and not written yet is not taken back by it, as in the cache, which repeats nothing older.
        if self.running.keys().any(|(_, running)| *running == key) {
            return;
        }
        self.touch(kind, &key);
        match value {
            Some(value) => self.world.put(kind, &key.0, &key.1, &value, revision),
            None => self.world.delete(kind, &key.0, &key.1, revision),
        }
        self.touch(kind, &key);
    }

    fn report(&mut self, pod: &Value, ready: &str) {
        let number = meta::uid(pod).trim_start_matches("uid-");
        let number: u64 = number.parse().unwrap();
        let ip = format!("10.244.{}.{}", number / 250, number % 250);
        let ips = json!([{"ip": ip}, {"ip": format!("fd00::{number:x}")}]);
        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": ips,
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        let key = (meta::namespace(pod).to_owned(), meta::name(pod).to_owned());
        self.store.patch(&PODS, &key, Part::Status, &status).unwrap();
    }

    /// The requests of the pods that a node has never exceed what it gives.
    pub(crate) fn nodes_hold_what_they_have(&self) {
        for node in self.store.all(&NODES) {
            let cores: u64 = node["status"]["allocatable"]["cpu"].as_str().unwrap().parse().unwrap();
            let name = meta::name(node);
            let pods = self.store.all(&PODS).filter(|pod| pod["spec"]["nodeName"] == name).count();
            // Each asks for half a core.
            assert!(u64::try_from(pods).unwrap() <= cores * 2, "seed {}: {name} has {pods} pods", self.seed);
        }
    }

    /// This many steps; `check` looks after each.
    pub(crate) fn run(&mut self, steps: u64, mut check: impl FnMut(&Self)) {
        for _ in 0..steps {
            if !self.step() {
                return;
            }
            check(self);
        }
    }

    /// Steps until nothing is left to do.
    pub(crate) fn run_to_rest(&mut self, mut check: impl FnMut(&Self)) {
        for _ in 0..ENDLESS {
            if !self.step() {
                return;
            }
            check(self);
        }
        let waiting: Vec<_> = self.queue.iter().map(|(index, key)| (CONTROLLERS[*index].name, key)).collect();
        for logged in &self.store.log[self.store.log.len() - 8..] {
            let value = logged.value.as_deref().cloned().unwrap_or(Value::Null);
            eprintln!("{} {} {}: {value}", logged.revision, logged.kind.plural, logged.key.1);
        }
        panic!("seed {}: no rest after {ENDLESS} steps: {waiting:?}", self.seed);
    }

    /// One step of somebody; false when nobody has anything to do.
    fn step(&mut self) -> bool {
        let first = self.random(4);
        (0..4).any(|turn| match (first + turn) % 4 {
            0 => self.world_sees(),
            1 => self.controller_plans(),
            2 => self.change_is_written(),
            _ => self.node_works(),
        })
    }

    fn touch(&mut self, kind: &'static Kind, key: &Key) {
        for (index, controller) in CONTROLLERS.iter().enumerate() {
            for affected in (controller.affected)(&self.world, kind, key) {
                self.push((index, affected));
            }
        }
    }

    fn push(&mut self, item: Item) {
        if self.running.contains_key(&item) {
            self.dirty.insert(item);
        } else {
            self.queue.insert(item);
        }
    }

    fn world_sees(&mut self) -> bool {
        let Some(change) = self.store.log.get(self.seen) else { return false };
        let (kind, key, value, revision) =
            (change.kind, change.key.clone(), change.value.clone(), change.revision);
        self.seen += 1;
        self.touch(kind, &key);
        match value {
            Some(value) => self.world.put(kind, &key.0, &key.1, &value, revision),
            None => self.world.delete(kind, &key.0, &key.1, revision),
        }
        self.touch(kind, &key);
        true
    }

    fn controller_plans(&mut self) -> bool {
        let revision = self.world.revision();
        let may = |item: &&Item| self.wrote.get(*item).is_none_or(|wrote| *wrote <= revision);
        let ready: Vec<Item> = self.queue.iter().filter(may).cloned().collect();
        let Some(item) = self.any(ready) else { return false };
        self.queue.remove(&item);
        let plan = (CONTROLLERS[item.0].plan)(&self.world, &self.settings, &item.1, self.now);
        for change in &plan.changes {
            match change {
                Change::Bind { namespace, name, node, .. } => {
                    self.world.assume(&(namespace.clone(), name.clone()), node);
                }
                Change::Remember { namespace, name, memory } => {
                    self.world.remember((namespace.clone(), name.clone()), Clone::clone(memory));
                }
                Change::Patch { kind, name, patch, .. } if **kind == NODES => {
                    if let Some(ranges) = patch["spec"]["podCIDRs"].as_array() {
                        let ranges = ranges.iter().filter_map(|range| range.as_str().map(Into::into));
                        self.world.assume_pod_cidrs(name, ranges.collect());
                    }
                }
                _ => {}
            }
        }
        if !plan.changes.is_empty() {
            self.running.insert(item, (plan.changes, 0, false));
        }
        true
    }

    /// The changes of a plan are written in any order, among those of others.
    fn change_is_written(&mut self) -> bool {
        let items: Vec<Item> = self.running.keys().cloned().collect();
        let Some(item) = self.any(items) else { return false };
        let Some((mut changes, mut wrote, mut failed)) = self.running.remove(&item) else { return false };
        let index = usize::try_from(self.random(u64::try_from(changes.len()).unwrap())).unwrap();
        let change = changes.swap_remove(index);
        let before = self.store.revision;
        let assumed = match &change {
            Change::Bind { namespace, name, .. } => Some((namespace.clone(), name.clone())),
            _ => None,
        };
        if let Err(Conflict) = self.store.carry_out(change) {
            failed = true;
            self.undo(assumed);
        }
        if self.store.revision > before {
            wrote = self.store.revision;
        }
        if changes.is_empty() {
            self.wrote.insert(item.clone(), wrote);
            if self.dirty.remove(&item) || failed {
                self.queue.insert(item);
            }
        } else {
            self.running.insert(item, (changes, wrote, failed));
        }
        true
    }

    /// What was assumed and did not come true is taken back: the world has the pod as it was last seen.
    fn undo(&mut self, assumed: Option<Key>) {
        let Some(key) = assumed else { return };
        let last = self.store.log[..self.seen].iter().rev().find(|l| *l.kind == PODS && l.key == key);
        match last.and_then(|logged| Some((logged.value.clone()?, logged.revision))) {
            Some((value, revision)) => self.world.put(&PODS, &key.0, &key.1, &value, revision),
            None => self.world.delete(&PODS, &key.0, &key.1, 0),
        }
        self.touch(&PODS, &key);
    }

    /// A node starts a pod, reports that it came to its end, or ends one.
    fn node_works(&mut self) -> bool {
        let dead = self.dead.clone();
        let due = |pod: &Value| {
            let metadata = &pod["metadata"];
            if pod["spec"]["nodeName"].as_str().is_some_and(|node| dead.contains(node)) {
                return false;
            }
            let runs_on = pod["spec"]["restartPolicy"] == "Always";
            if !metadata["deletionTimestamp"].is_null() {
                return pod["spec"]["nodeName"].is_string() && metadata["deletionGracePeriodSeconds"] != 0;
            }
            pod["spec"]["nodeName"].is_string()
                && !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
                && (!runs_on
                    || pod["status"]["conditions"]
                        .as_array()
                        .is_none_or(|all| !all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")))
        };
        let Some(pod) = self.a_pod(due) else { return false };
        let key = (meta::namespace(&pod).to_owned(), meta::name(&pod).to_owned());
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            self.store.delete(&PODS, &key, None, Some(0)).unwrap();
        } else if pod["spec"]["restartPolicy"] != "Always" && pod["status"]["phase"] == "Running" {
            let phase = if self.random(100) < self.failing { "Failed" } else { "Succeeded" };
            let status = json!({"status": {"phase": phase, "conditions": null}});
            self.store.patch(&PODS, &key, Part::Status, &status).unwrap();
        } else {
            self.report(&pod, "True");
        }
        true
    }
}
