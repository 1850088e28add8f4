//! Defaults of LimitRanges: bounds stand in for what is not said.

use serde_json::{Map, Value};

use super::{items, map_at, set};

pub(super) fn limit_range(spec: &mut Map<String, Value>) {
    for limit in items(spec, "limits") {
        if limit.get("type").and_then(Value::as_str) != Some("Container") {
            continue;
        }
        for (to, from) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
            let Some(from) = limit.get(from).and_then(Value::as_object).cloned() else { continue };
            if !from.is_empty() {
                let to = map_at(limit, to);
                from.into_iter().for_each(|(name, amount)| set(to, &name, amount));
            }
        }
    }
}
