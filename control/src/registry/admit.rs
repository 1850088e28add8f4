//! Admission: what a new object is given, and why it may not be, by what else is there. After defaults, before validation; for
//! whoever writes.

mod account;
mod certificates;
mod classes;
mod limits;
mod priority;
mod runtime_class;
mod security;
mod socket_lb;

use oarlock_api::catalogue::{
    CERTIFICATE_SIGNING_REQUESTS, Kind, PERSISTENT_VOLUME_CLAIMS, PODS, PRIORITY_CLASSES,
};
use oarlock_api::static_pod;
use oarlock_api::status::Status;
use serde_json::Value;

pub(super) use priority::keep_priority;
pub(super) use security::is_within;
pub use security::may_warn;

use super::Registry;

impl Registry {
    /// Completes a new object, or refuses it.
    pub(super) async fn admit(
        &self,
        kind: &'static Kind,
        namespace: &str,
        object: &mut Value,
    ) -> Result<(), Status> {
        if *kind == PODS || *kind == PERSISTENT_VOLUME_CLAIMS {
            self.limit(kind, namespace, object)?;
        }
        if *kind == PODS {
            if static_pod::mirrored(object).is_some() {
                account::check_mirror(object)?;
            } else {
                let account = self.account_of(namespace, object).await?;
                account::add_pull_secrets(&account, object);
                account::mount_token(&account, object, rand::random());
            }
            self.prioritize(object).await?;
            self.classify(object).await?;
            self.serve_as_namespace(namespace, object);
        }
        if *kind == PRIORITY_CLASSES {
            self.one_default(object)?;
        }
        if *kind == CERTIFICATE_SIGNING_REQUESTS {
            certificates::restrict(object)?;
        }
        self.name_class(kind, object);
        Ok(())
    }
}
