//! What the cluster brings with it: made where it is not there.

use oarlock_api::catalogue::Kind;
use oarlock_api::meta;
use oarlock_api::status::Status;
use serde_json::Value;

use super::{Registry, WriteOptions};

impl Registry {
    /// Makes an object, unless there is one of its kind and name.
    ///
    /// # Errors
    /// As a creation.
    pub(crate) async fn ensure(
        &self,
        kind: &'static Kind,
        namespace: &str,
        object: Value,
    ) -> Result<(), Status> {
        if self.cache().get(kind, namespace, meta::name(&object)).is_some() {
            return Ok(());
        }
        match self.create(kind, namespace, object, &WriteOptions::default()).await {
            Err(status) if status.is("AlreadyExists") => Ok(()),
            other => other.map(drop),
        }
    }
}
