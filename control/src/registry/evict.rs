//! Evictions: a deletion that asks the pod's disruption budget first.
//!
//! What a budget allows is taken by a compare-and-swap on the budget itself, before the pod is touched: of two evictions at once, one
//! takes the last allowance and the other is refused.
//!
//! Source: k8s.io/kubernetes/pkg/registry/core/pod/storage/eviction.go.

use jiff::Timestamp;
use oarlock_api::catalogue::{POD_DISRUPTION_BUDGETS, PODS};
use oarlock_api::disruption::{self, Guard};
use oarlock_api::meta;
use oarlock_api::status::Status;
use serde_json::Value;

use super::{ATTEMPTS, DeleteOptions, Registry, Sub, WriteOptions};

impl Registry {
    /// Deletes a pod unless its budget forbids it.
    ///
    /// # Errors
    /// `TooManyRequests` with what the budget needs, 500 for a pod with several budgets, and what a deletion says.
    pub async fn evict(&self, namespace: &str, name: &str, options: &DeleteOptions) -> Result<(), Status> {
        let mut options = DeleteOptions { evicted: true, ..options.clone() };
        let pinned = options.resource_version.is_some();
        let Some(pod) = self.held_pod(namespace, name, &options).await? else { return Ok(()) };
        let mut unready = None;
        if let Some(budget) = self.budget_of(namespace, &pod).await? {
            let budget_name = meta::name(&budget).to_owned();
            match disruption::guard(&budget, &pod) {
                // Made ready meanwhile, it would count.
                Guard::Unready if !pinned => {
                    options.resource_version = Some(meta::resource_version(&pod).to_owned());
                    unready = Some(budget_name);
                }
                Guard::Unready => {}
                Guard::Allowance => {
                    self.take_allowance(namespace, &budget_name, name, options.dry_run).await?
                }
            }
        }
        match (self.delete(&PODS, namespace, name, &options).await, unready) {
            (Err(status), Some(budget)) if status.is("Conflict") => Err(disruption::in_progress(&budget)),
            (outcome, _) => outcome.map(drop),
        }
    }

    /// The pod, if a budget may hold it; one that none can is deleted here.
    async fn held_pod(
        &self,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Option<Value>, Status> {
        for _ in 0..ATTEMPTS {
            let pod = self.get(&PODS, namespace, name).await?;
            if !disruption::is_free(&pod) {
                return Ok(Some(pod));
            }
            let mut options = options.clone();
            let pinned = options.resource_version.is_some();
            if !pinned && pod["status"]["phase"] == "Pending" && !meta::is_terminating(&pod) {
                options.resource_version = Some(meta::resource_version(&pod).to_owned());
            }
            match self.delete(&PODS, namespace, name, &options).await {
                // It may run and count by now.
                Err(status) if status.is("Conflict") && !pinned => {}
                outcome => return outcome.map(|_| None),
            }
        }
        Err(Status::modified(&PODS, name))
    }

    async fn budget_of(&self, namespace: &str, pod: &Value) -> Result<Option<Value>, Status> {
        let labels = meta::labels(pod);
        let mut found = None;
        for object in self.list(&POD_DISRUPTION_BUDGETS, Some(namespace)).await? {
            let budget = object.value();
            if !disruption::covers(&budget, labels) {
                continue;
            }
            if found.replace(Value::clone(&budget)).is_some() {
                let message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(Status {
                    code: 500,
                    reason: "InternalError",
                    message: message.to_owned(),
                    details: None,
                });
            }
        }
        Ok(found)
    }

    async fn take_allowance(
        &self,
        namespace: &str,
        budget: &str,
        pod: &str,
        dry_run: bool,
    ) -> Result<(), Status> {
        let options = WriteOptions { dry_run, ..WriteOptions::default() };
        let take = |present| disruption::take(present, pod, Timestamp::now());
        match self.modify(&POD_DISRUPTION_BUDGETS, namespace, budget, Sub::Status, &options, take).await {
            Err(status) if status.is("Conflict") => {
                let why = format!("couldn't update PodDisruptionBudget {budget:?} due to conflicts");
                Err(Status::timeout(why).retry_after(10))
            }
            outcome => outcome.map(drop),
        }
    }
}
