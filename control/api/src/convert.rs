//! Versions of a kind: from the form that is stored to another that is served, and back. Pure.
//!
//! In: a row of [`VERSIONS`](crate::catalogue::VERSIONS) and an object. Out: the same object in the other form. A row whose
//! two forms have the same fields needs nothing here. Rows that are stored themselves are left alone.
//!
//! Source: k8s.io/kubernetes/pkg/apis/*/conversion.go.

mod autoscaling;
mod discovery;
mod events;
mod policy;

use serde_json::{Value, json};

use crate::catalogue::{
    ENDPOINT_SLICES_V1BETA1, EVENTS_V1, HORIZONTAL_POD_AUTOSCALERS_V1, Kind, POD_DISRUPTION_BUDGETS_V1BETA1,
};
use crate::meta::map_of;

/// Makes the stored form of an object what this version shows.
pub fn from_stored(kind: &Kind, object: &mut Value) {
    if kind.stored_as.is_none() {
        return;
    }
    if *kind == EVENTS_V1 {
        events::from_core(map_of(object));
    } else if *kind == ENDPOINT_SLICES_V1BETA1 {
        discovery::to_v1beta1(map_of(object));
    } else if *kind == POD_DISRUPTION_BUDGETS_V1BETA1 {
        policy::to_v1beta1(object);
    } else if *kind == HORIZONTAL_POD_AUTOSCALERS_V1 {
        autoscaling::to_v1(map_of(object));
    }
    name(kind, object);
}

/// Makes what a client sent in this version the form that is stored.
pub fn to_stored(kind: &Kind, object: &mut Value) {
    let Some(stored) = kind.stored_as else { return };
    if *kind == EVENTS_V1 {
        events::to_core(map_of(object));
    } else if *kind == ENDPOINT_SLICES_V1BETA1 {
        discovery::from_v1beta1(map_of(object));
    } else if *kind == POD_DISRUPTION_BUDGETS_V1BETA1 {
        policy::from_v1beta1(object);
    } else if *kind == HORIZONTAL_POD_AUTOSCALERS_V1 {
        autoscaling::from_v1(map_of(object));
    }
    name(stored, object);
}

/// The stored field that a field selector of this version means; `None`: it has no such field.
#[must_use]
pub fn field(kind: &Kind, name: &str) -> Option<String> {
    if *kind == EVENTS_V1 { events::field(name) } else { Some(name.to_owned()) }
}

fn name(kind: &Kind, object: &mut Value) {
    let object = map_of(object);
    object.insert("apiVersion".to_owned(), json!(kind.api_version()));
    object.insert("kind".to_owned(), json!(kind.kind));
}

#[cfg(test)]
mod tests;
