//! Charging quotas: what an object needs more of is written into the quotas of its namespace in the same transaction as the object,
//! so that two creations can never both have the last of it.
//!
//! Writers of one process take turns in a namespace that has quotas; writers of several meet in the transaction, and the later
//! one looks again.

use std::collections::HashMap;
use std::sync::Arc;

use oarlock_api::catalogue::{EVENTS, Kind, PODS, RESOURCE_QUOTAS};
use oarlock_api::status::Status;
use oarlock_api::{meta, quota};
use oarlock_store::{Compare, Op};
use serde_json::Value;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::Registry;
use super::write::encode;

/// Whose turn it is in each namespace.
#[derive(Debug, Default)]
pub(super) struct Turns(parking_lot::Mutex<HashMap<String, Arc<Mutex<()>>>>);

/// One quota, as it was read and as it is to be.
#[derive(Debug)]
pub(super) struct Charge {
    pub(super) compare: Compare,
    pub(super) op: Op,
}

/// What a write charges; others wait until it is dropped.
#[derive(Debug, Default)]
pub(super) struct Charges {
    pub(super) list: Vec<Charge>,
    _turn: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    async fn take(&self, namespace: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut all = self.0.lock();
            all.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(all.entry(namespace.to_owned()).or_default())
        };
        turn.lock_owned().await
    }
}

impl Registry {
    /// The charges of an object that is about to be written.
    ///
    /// # Errors
    /// `Forbidden` when a quota has no room, or the store is away.
    pub(super) async fn charges(
        &self,
        kind: &'static Kind,
        namespace: &str,
        old: Option<&Value>,
        new: &Value,
    ) -> Result<Charges, Status> {
        if !kind.namespaced || *kind == EVENTS {
            return Ok(Charges::default());
        }
        let quotas = self.cache.list(&RESOURCE_QUOTAS, Some(namespace)).0;
        let added =
            if quotas.is_empty() { return Ok(Charges::default()) } else { quota::added(kind, old, new) };
        // Pods must say what they need even where that is nothing more.
        if added.is_empty() && *kind != PODS {
            return Ok(Charges::default());
        }
        let turn = self.turns.take(namespace).await;
        let mut list = Vec::new();
        for known in quotas {
            let present = match self.read(&RESOURCE_QUOTAS, namespace, &known.key.name).await {
                Err(status) if status.is("NotFound") => continue,
                other => other?,
            };
            if !quota::concerns(&present.value, kind, new) {
                continue;
            }
            let charged = quota::charge(&present.value, kind, new, &added)
                .map_err(|why| Status::forbidden(kind, meta::name(new), &why))?;
            if let Some(status) = charged {
                let mut next = present.value;
                meta::map_of(&mut next).insert("status".to_owned(), status);
                let key = present.record.key;
                list.push(Charge {
                    compare: Compare::ModifiedAt(key.clone(), present.record.modified),
                    op: Op::Put(key, encode(&next), None),
                });
            }
        }
        Ok(Charges { list, _turn: Some(turn) })
    }
}
