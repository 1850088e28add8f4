//! Decisions over the roles and bindings that the cache shows.
//!
//! In: a user and what they want. Out: yes, or no and why. The index catches up with the cache when it is asked: a decision is
//! as fresh as a list, and nobody waits for a task.

use std::sync::Arc;

use oarlock_api::catalogue::{CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, ROLE_BINDINGS, ROLES};
use oarlock_store::Revision;
use parking_lot::RwLock;

use super::index::{Index, concerns};
use super::{Attributes, Rule, User, node};
use crate::cache::{Cache, CacheWatch, Change};

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Yes, because.
    Allowed(String),
    /// Nobody allows it; what is known about why.
    NoOpinion(String),
}

impl Decision {
    pub(crate) fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }
}

/// Who may do what.
#[derive(Debug)]
pub(crate) struct Authorizer {
    cache: Arc<Cache>,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    index: Index,
    watch: Option<CacheWatch>,
}

impl Authorizer {
    pub(crate) fn new(cache: Arc<Cache>) -> Self {
        Self { cache, state: RwLock::default() }
    }

    /// Whether a user may do this.
    pub(crate) fn decide(&self, user: &User, attributes: &Attributes<'_>) -> Decision {
        if user.is_master() {
            return Decision::Allowed(String::new());
        }
        let as_node = node::of(user).map(|node| node::decide(&self.cache, node, attributes));
        let refused = match as_node {
            Some(Ok(())) => return Decision::Allowed(String::new()),
            Some(Err(why)) => why,
            None => String::new(),
        };
        match self.with(|index| index.decide(user, attributes)) {
            Ok(why) => Decision::Allowed(why),
            Err(why) if why.is_empty() || refused.is_empty() => Decision::NoOpinion(refused + &why),
            Err(why) => Decision::NoOpinion(format!("{refused}\n{why}")),
        }
    }

    /// What it decides by.
    pub(super) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Whether there is anything to decide by.
    pub(crate) fn is_filled(&self) -> bool {
        self.cache.revision() > Revision(0)
    }

    /// Everything that a user may in a namespace by roles, and which bound roles are missing.
    pub(crate) fn rules(&self, user: &User, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        self.with(|index| index.rules(user, namespace))
    }

    /// The rules of a role; `namespace` is empty for those of the cluster.
    pub(super) fn role(&self, namespace: &str, name: &str) -> Option<Arc<[Rule]>> {
        self.with(|index| index.role(namespace, name).cloned())
    }

    fn with<R>(&self, look: impl FnOnce(&Index) -> R) -> R {
        let now = self.cache.revision();
        let state = self.state.read();
        if state.watch.as_ref().is_some_and(|watch| watch.seen() >= now) {
            return look(&state.index);
        }
        drop(state);
        let mut state = self.state.write();
        state.catch_up(&self.cache);
        look(&state.index)
    }
}

impl State {
    fn catch_up(&mut self, cache: &Arc<Cache>) {
        if let Some(watch) = &mut self.watch
            && let Ok(changes) = watch.poll(concerns)
        {
            return changes.iter().for_each(|change| self.index.apply(change));
        }
        // At first, and when so much has happened that the history is gone.
        self.index = Index::default();
        self.watch = cache.watch(None, cache.revision()).ok();
        for kind in [&ROLES, &CLUSTER_ROLES, &ROLE_BINDINGS, &CLUSTER_ROLE_BINDINGS] {
            for object in cache.list(kind, None).0 {
                self.index.put(kind, &object.key.namespace, &object.key.name, &object.value());
            }
        }
        // What happened between the lists; what they show already is the same again.
        if let Some(Ok(changes)) = self.watch.as_mut().map(|watch| watch.poll(concerns)) {
            changes.iter().for_each(|change| self.index.apply(change));
        }
    }
}

impl Index {
    fn apply(&mut self, change: &Change) {
        let key = &change.object().key;
        match change {
            Change::Put { new, .. } => self.put(key.kind, &key.namespace, &key.name, &new.value()),
            Change::Delete { .. } => self.delete(key.kind, &key.namespace, &key.name),
        }
    }
}
