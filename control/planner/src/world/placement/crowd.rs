//! Which pods are where, by what others say of them. Pods with the same namespace and labels are one class; who is meant by a rule
//! is one term, however many pods have the rule. A pod that comes or goes touches the terms that select its class, and no others.

use std::collections::{BTreeMap, BTreeSet};

use crate::world::rules::{Rules, Whom};

type Labels = BTreeMap<Box<str>, Box<str>>;
/// How many pods by node (its slot).
pub(crate) type Places = BTreeMap<u32, Count>;

/// Pods on a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// All of them.
    pub(crate) all: i64,
    /// Those that are not being deleted.
    pub(crate) staying: i64,
}

/// Pods that look the same to every rule.
#[derive(Debug)]
pub(crate) struct Class {
    namespace: Box<str>,
    labels: Labels,
    pods: usize,
    placed: Places,
    /// The terms that select it.
    pub(crate) terms: BTreeSet<u32>,
}

/// Pods that rules are about.
#[derive(Debug)]
pub(crate) struct Term {
    whom: Whom,
    holders: usize,
    classes: BTreeSet<u32>,
    /// Where they are.
    pub(crate) placed: Places,
    /// Where pods are that must not be near them, by topology.
    pub(crate) repelled: BTreeMap<Box<str>, BTreeMap<u32, i64>>,
    /// Where pods are that would be near them, by topology, with weights; below zero: rather not.
    pub(crate) drawn: BTreeMap<Box<str>, BTreeMap<u32, i64>>,
}

impl Term {
    /// Whether it selects a class.
    pub(crate) fn selects(&self, class: u32) -> bool {
        self.classes.contains(&class)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Crowd {
    classes: BTreeMap<u32, Class>,
    by_labels: BTreeMap<Box<str>, BTreeMap<Labels, u32>>,
    terms: BTreeMap<u32, Term>,
    by_id: BTreeMap<Box<str>, u32>,
    /// Terms by the only namespaces in which they select anything.
    in_namespace: BTreeMap<Box<str>, BTreeSet<u32>>,
    /// Terms that may select in any.
    anywhere: BTreeSet<u32>,
    namespaces: BTreeMap<Box<str>, Labels>,
    next: u32,
}

fn look<'l>(labels: &'l Labels) -> impl Fn(&str) -> Option<&'l str> {
    |key| labels.get(key).map(AsRef::as_ref)
}

fn add(places: &mut Places, slot: u32, count: Count) {
    let place = places.entry(slot).or_default();
    place.all += count.all;
    place.staying += count.staying;
    if *place == Count::default() {
        places.remove(&slot);
    }
}

fn weigh(places: &mut BTreeMap<Box<str>, BTreeMap<u32, i64>>, topology: &str, slot: u32, weight: i64) {
    let of = places.entry(topology.into()).or_default();
    let sum = of.entry(slot).or_default();
    *sum += weight;
    if *sum == 0 {
        of.remove(&slot);
        if of.is_empty() {
            places.remove(topology);
        }
    }
}

impl Crowd {
    /// The class of pods like this one, if there are any.
    pub(crate) fn class_of(&self, namespace: &str, labels: &Labels) -> Option<(u32, &Class)> {
        let id = *self.by_labels.get(namespace)?.get(labels)?;
        Some((id, self.classes.get(&id)?))
    }

    pub(crate) fn term(&self, id: u32) -> Option<&Term> {
        self.terms.get(&id)
    }

    /// The term of a rule that some pod has.
    pub(crate) fn term_of(&self, whom: &Whom) -> Option<&Term> {
        self.terms.get(self.by_id.get(&whom.id)?)
    }

    fn next(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    fn matches(&self, whom: &Whom, class: &Class) -> bool {
        let none = Labels::new();
        let of_namespace = self.namespaces.get(&class.namespace).unwrap_or(&none);
        whom.selects(&class.namespace, look(of_namespace), look(&class.labels))
    }

    /// One pod more of a class.
    pub(crate) fn join(&mut self, namespace: &str, labels: &Labels) -> u32 {
        if let Some(id) = self.by_labels.get(namespace).and_then(|of| of.get(labels)).copied()
            && let Some(class) = self.classes.get_mut(&id)
        {
            class.pods += 1;
            return id;
        }
        let id = self.next();
        let mut class = Class {
            namespace: namespace.into(),
            labels: labels.clone(),
            pods: 1,
            placed: Places::new(),
            terms: BTreeSet::new(),
        };
        let there = self.in_namespace.get(namespace).into_iter().flatten();
        let selecting = there.chain(&self.anywhere).copied();
        class.terms =
            selecting.filter(|t| self.terms.get(t).is_some_and(|t| self.matches(&t.whom, &class))).collect();
        for term in &class.terms {
            if let Some(term) = self.terms.get_mut(term) {
                term.classes.insert(id);
            }
        }
        self.by_labels.entry(namespace.into()).or_default().insert(labels.clone(), id);
        self.classes.insert(id, class);
        id
    }

    /// One pod less of a class.
    pub(crate) fn leave(&mut self, id: u32) {
        let Some(class) = self.classes.get_mut(&id) else { return };
        class.pods -= 1;
        if class.pods > 0 {
            return;
        }
        let Some(class) = self.classes.remove(&id) else { return };
        for term in &class.terms {
            if let Some(term) = self.terms.get_mut(term) {
                term.classes.remove(&id);
            }
        }
        if let Some(of) = self.by_labels.get_mut(&class.namespace) {
            of.remove(&class.labels);
            if of.is_empty() {
                self.by_labels.remove(&class.namespace);
            }
        }
    }

    /// Pods of a class on a node: more, or fewer.
    pub(crate) fn place(&mut self, id: u32, slot: u32, count: Count) {
        let Some(class) = self.classes.get_mut(&id) else { return };
        add(&mut class.placed, slot, count);
        for term in &class.terms {
            if let Some(term) = self.terms.get_mut(term) {
                add(&mut term.placed, slot, count);
            }
        }
    }

    /// A pod with rules is there.
    pub(crate) fn hold(&mut self, rules: &Rules) {
        for whom in rules.whoms() {
            let id = match self.by_id.get(&whom.id) {
                Some(id) => *id,
                None => self.begin(whom),
            };
            if let Some(term) = self.terms.get_mut(&id) {
                term.holders += 1;
            }
        }
    }

    fn begin(&mut self, whom: &Whom) -> u32 {
        let id = self.next();
        match whom.namespaces() {
            Some(names) => {
                for name in names {
                    self.in_namespace.entry(name.clone()).or_default().insert(id);
                }
            }
            None => drop(self.anywhere.insert(id)),
        }
        self.by_id.insert(whom.id.clone(), id);
        let mut term = Term {
            whom: whom.clone(),
            holders: 0,
            classes: BTreeSet::new(),
            placed: Places::new(),
            repelled: BTreeMap::new(),
            drawn: BTreeMap::new(),
        };
        let names = whom.namespaces();
        let there = self.by_labels.iter().filter(|(name, _)| names.is_none_or(|names| names.contains(*name)));
        let candidates = there.flat_map(|(_, of)| of.values());
        term.classes = candidates
            .filter(|class| self.classes.get(class).is_some_and(|class| self.matches(whom, class)))
            .copied()
            .collect();
        for class in &term.classes {
            let Some(class) = self.classes.get_mut(class) else { continue };
            class.terms.insert(id);
            for (slot, count) in &class.placed {
                add(&mut term.placed, *slot, *count);
            }
        }
        self.terms.insert(id, term);
        id
    }

    /// A pod with rules is gone.
    pub(crate) fn release(&mut self, rules: &Rules) {
        for whom in rules.whoms() {
            let Some(id) = self.by_id.get(&whom.id).copied() else { continue };
            let Some(term) = self.terms.get_mut(&id) else { continue };
            term.holders -= 1;
            if term.holders == 0 {
                self.end(id);
            }
        }
    }

    fn end(&mut self, id: u32) {
        let Some(term) = self.terms.remove(&id) else { return };
        self.by_id.remove(&term.whom.id);
        self.anywhere.remove(&id);
        for name in term.whom.namespaces().into_iter().flatten() {
            if let Some(of) = self.in_namespace.get_mut(name) {
                of.remove(&id);
                if of.is_empty() {
                    self.in_namespace.remove(name);
                }
            }
        }
        for class in &term.classes {
            if let Some(class) = self.classes.get_mut(class) {
                class.terms.remove(&id);
            }
        }
    }

    /// A pod with rules comes to a node (`1`) or leaves it (`-1`): others may not come near, or like to.
    pub(crate) fn settle(&mut self, rules: &Rules, slot: u32, sign: i64) {
        for near in &rules.anti_affinity {
            if let Some(term) = self.by_id.get(&near.whom.id).and_then(|id| self.terms.get_mut(id)) {
                weigh(&mut term.repelled, &near.topology, slot, sign);
            }
        }
        for (weight, near) in &rules.preferred {
            if let Some(term) = self.by_id.get(&near.whom.id).and_then(|id| self.terms.get_mut(id)) {
                weigh(&mut term.drawn, &near.topology, slot, sign * weight);
            }
        }
        // What must be near attracts, too: upstream's hardPodAffinityWeight of one.
        if let Some((whom, topologies)) = &rules.affinity
            && let Some(term) = self.by_id.get(&whom.id).and_then(|id| self.terms.get_mut(id))
        {
            for topology in topologies {
                weigh(&mut term.drawn, topology, slot, sign);
            }
        }
    }

    /// A namespace has these labels now.
    pub(crate) fn name_space(&mut self, name: &str, labels: Labels) {
        if self.namespaces.get(name) == Some(&labels) {
            return;
        }
        if labels.is_empty() {
            self.namespaces.remove(name);
        } else {
            self.namespaces.insert(name.into(), labels);
        }
        let classes: Vec<u32> =
            self.by_labels.get(name).into_iter().flat_map(|of| of.values()).copied().collect();
        for term in self.anywhere.clone() {
            for class in &classes {
                self.match_again(term, *class);
            }
        }
    }

    fn match_again(&mut self, term_id: u32, class_id: u32) {
        let (Some(term), Some(class)) = (self.terms.get(&term_id), self.classes.get(&class_id)) else {
            return;
        };
        let (before, now) = (term.classes.contains(&class_id), self.matches(&term.whom, class));
        if before == now {
            return;
        }
        let (Some(term), Some(class)) = (self.terms.get_mut(&term_id), self.classes.get_mut(&class_id))
        else {
            return;
        };
        let sign = if now { 1 } else { -1 };
        for (slot, count) in &class.placed {
            add(&mut term.placed, *slot, Count { all: sign * count.all, staying: sign * count.staying });
        }
        if now {
            term.classes.insert(class_id);
            class.terms.insert(term_id);
        } else {
            term.classes.remove(&class_id);
            class.terms.remove(&term_id);
        }
    }

    /// Everything that is known, as text, with nodes by their names: two crowds with the same pods say the same.
    #[cfg(test)]
    pub(super) fn text(&self, names: &BTreeMap<u32, &str>) -> String {
        let placed = |places: &Places| -> BTreeMap<String, (i64, i64)> {
            places.iter().map(|(slot, count)| (names[slot].to_owned(), (count.all, count.staying))).collect()
        };
        let weights = |of: &BTreeMap<Box<str>, BTreeMap<u32, i64>>| -> Vec<String> {
            let each = of.iter().flat_map(|(key, places)| {
                places.iter().map(move |(slot, weight)| format!("{key} {} {weight}", names[slot]))
            });
            let mut each: Vec<String> = each.collect();
            each.sort();
            each
        };
        let mut lines: Vec<String> = Vec::new();
        for class in self.classes.values() {
            let terms: BTreeSet<&str> =
                class.terms.iter().filter_map(|t| Some(&*self.terms.get(t)?.whom.id)).collect();
            let (namespace, labels, pods) = (&class.namespace, &class.labels, class.pods);
            lines.push(format!("class {namespace} {labels:?}: {pods} {:?} {terms:?}", placed(&class.placed)));
        }
        for term in self.terms.values() {
            let (id, holders, classes) = (&term.whom.id, term.holders, term.classes.len());
            let (repelled, drawn) = (weights(&term.repelled), weights(&term.drawn));
            lines.push(format!(
                "term {id}: {holders} {:?} {repelled:?} {drawn:?} {classes}",
                placed(&term.placed)
            ));
        }
        lines.push(format!("{:?} {}", self.in_namespace.keys(), self.anywhere.len()));
        lines.sort();
        lines.join("\n")
    }
}
