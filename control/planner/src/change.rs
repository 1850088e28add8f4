//! What a controller wants done. The driver does it; a change that does not fit the present any more fails alone and its
//! key is planned anew.

use std::time::Duration;

use jiff::Timestamp;
use oarlock_api::catalogue::Kind;
use serde_json::{Value, json};

use crate::world::{Memory, Query};

/// Which part of an object a patch is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Metadata and spec.
    Main,
    /// The status.
    Status,
    /// `spec.finalizers` of a namespace.
    Finalizers,
}

/// One change. The changes of a plan do not depend on each other.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Create an object; one that exists already is no failure.
    Create {
        /// Its kind.
        kind: &'static Kind,
        /// Its namespace; empty for kinds of the cluster.
        namespace: String,
        /// The object.
        object: Value,
    },
    /// Change an object by a merge patch. A `metadata.resourceVersion` in it is the version that it was computed from.
    Patch {
        /// Its kind.
        kind: &'static Kind,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Which part.
        part: Part,
        /// The merge patch.
        patch: Value,
    },
    /// Delete an object; one that is gone is no failure.
    Delete {
        /// Its kind.
        kind: &'static Kind,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Only if it is still this one.
        uid: String,
        /// `Some(0)` removes a pod without waiting for its node.
        grace: Option<i64>,
    },
    /// Bind a pod to a node.
    Bind {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        name: String,
        /// The pod's uid.
        uid: String,
        /// The node's name.
        node: String,
    },
    /// Give a pod a condition, beside those that it has; one that is gone needs none.
    Condition {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        name: String,
        /// The condition.
        condition: Value,
    },
    /// Take a pod's word that it is ready back, if its node is lost still.
    Unready {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        name: String,
        /// The pod's uid.
        uid: String,
        /// Its node.
        node: String,
    },
    /// Keep in mind since when a node is gone that has pods still; nothing is written.
    Miss {
        /// The node.
        node: String,
        /// Since then.
        since: Timestamp,
    },
    /// Keep in mind for an autoscaler's next turn; nothing is written.
    Remember {
        /// The autoscaler's namespace.
        namespace: String,
        /// The autoscaler's name.
        name: String,
        /// All that it has to remember.
        memory: Box<Memory>,
    },
    /// Ask others for metrics before an autoscaler's next turn, which is then at once; nothing is written.
    Measure {
        /// The autoscaler's namespace.
        namespace: String,
        /// The autoscaler's name.
        name: String,
        /// What is asked.
        queries: Vec<Query>,
    },
    /// Tell the user something.
    Event {
        /// What it is about.
        about: EventAbout,
        /// Normal or Warning.
        kind: &'static str,
        /// One word.
        reason: &'static str,
        /// A sentence.
        message: String,
        /// Who says it.
        component: &'static str,
    },
}

/// The object that an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventAbout {
    /// Its kind.
    pub kind: &'static Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

impl EventAbout {
    /// As `v1.ObjectReference`.
    #[must_use]
    pub fn reference(&self) -> Value {
        json!({
            "kind": self.kind.kind, "apiVersion": self.kind.api_version(), "namespace": self.namespace,
            "name": self.name, "uid": self.uid,
        })
    }
}

/// What should happen for one key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// The changes.
    pub changes: Vec<Change>,
    /// Look again after this time, whatever happens.
    pub again: Option<Duration>,
}

impl Plan {
    /// Nothing to do.
    #[must_use]
    pub fn nothing() -> Self {
        Self::default()
    }

    /// These changes.
    #[must_use]
    pub fn of(changes: Vec<Change>) -> Self {
        Self { changes, again: None }
    }

    /// Also look again after `after`, if that is sooner than what was planned.
    #[must_use]
    pub fn again(mut self, after: Duration) -> Self {
        self.again = Some(self.again.map_or(after, |present| present.min(after)));
        self
    }
}
