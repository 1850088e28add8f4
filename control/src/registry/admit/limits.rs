//! LimitRanges: what a new pod or claim is given, and between which bounds it must be.

use oarlock_api::catalogue::{Kind, LIMIT_RANGES, PODS};
use oarlock_api::status::Status;
use oarlock_api::{limits, meta};
use serde_json::Value;

use super::super::Registry;

impl Registry {
    /// Completes a pod or claim by the LimitRanges of its namespace, then checks it against them.
    pub(super) fn limit(
        &self,
        kind: &'static Kind,
        namespace: &str,
        object: &mut Value,
    ) -> Result<(), Status> {
        for range in self.cache.list(&LIMIT_RANGES, Some(namespace)).0 {
            let range = range.value();
            let found = if *kind == PODS {
                limits::complete(&range, object);
                limits::check_pod(&range, object)
            } else {
                limits::check_claim(&range, object)
            };
            let why = match found.as_slice() {
                [] => continue,
                [one] => one.clone(),
                all => format!("[{}]", all.join(", ")),
            };
            let name = Some(meta::name(object)).filter(|name| !name.is_empty());
            let name = name.unwrap_or_else(|| meta::text(object, "generateName"));
            return Err(Status::forbidden(kind, name, &why));
        }
        Ok(())
    }
}
