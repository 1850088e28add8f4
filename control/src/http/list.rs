//! Lists: how fresh, which part, which objects.

use std::cmp::Ordering;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Response, StatusCode};
use oarlock_api::catalogue::Kind;
use oarlock_api::fields;
use oarlock_api::selector::{FieldSelector, Selector};
use oarlock_api::status::Status;
use oarlock_store::Revision;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::encode::{self, Include, ListMeta};
use super::gzip::Packable;
use super::negotiate::Wanted;
use super::protobuf;
use super::query::{Freshness, Query};
use super::respond::{self, Body};
use crate::cache::Object;
use crate::registry::Registry;

/// Which objects of a kind.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    /// The version that is answered.
    pub(super) served: &'static Kind,
    /// The kind as it is stored.
    pub(super) kind: &'static Kind,
    pub(super) namespace: Option<String>,
    pub(super) labels: Selector,
    pub(super) fields: FieldSelector,
}

impl Scope {
    pub(super) fn matches(&self, object: &Object) -> bool {
        object.key.kind == self.kind
            && self.namespace.as_ref().is_none_or(|n| *n == object.key.namespace)
            && self.labels.matches_with(|key| object.label(key))
            && (self.fields.is_everything() || self.fields_match(object))
    }

    fn fields_match(&self, object: &Object) -> bool {
        let mut value = None;
        self.fields.matches_with(|field| match field {
            "metadata.name" => object.key.name.clone(),
            "metadata.namespace" => object.key.namespace.clone(),
            "spec.nodeName" => object.node_name.as_deref().unwrap_or("").to_owned(),
            other => fields::value(value.get_or_insert_with(|| object.value()), other),
        })
    }

    fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }
}

/// Where a paged list goes on: opaque to clients.
#[derive(Debug, Serialize, Deserialize)]
struct Continue {
    v: String,
    rv: u64,
    start: String,
}

const VERSION: &str = "meta.k8s.io/v1";
/// In a token: go on with what there is by then. No object has this revision.
const NOW: u64 = 0;

impl Continue {
    fn encode(revision: u64, start: String) -> String {
        let token = Self { v: VERSION.to_owned(), rv: revision, start };
        // Three plain fields always serialize.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }

    fn decode(text: &str) -> Result<Self, Status> {
        let bad = || Status::bad_request("continue key is not valid");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad())?;
        let token: Self = serde_json::from_slice(&bytes).map_err(|_| bad())?;
        if token.v == VERSION { Ok(token) } else { Err(bad()) }
    }
}

/// Answers a list.
pub(super) async fn list(
    registry: &Registry,
    scope: &Scope,
    query: &Query,
    wanted: Wanted,
) -> Result<Response<Body>, Status> {
    let include = Include::parse(query.get("includeObject"));
    let limit = usize::try_from(query.number("limit")?.unwrap_or(0)).unwrap_or(usize::MAX);
    let freshness = query.freshness()?;
    let (objects, meta) = match query.get("continue").map(Continue::decode).transpose()? {
        Some(token) if token.rv == NOW => {
            registry.catch_up().await?;
            cached(registry, scope, Some(&token.start), limit)
        }
        Some(token) => {
            let part = exact(registry, scope, Revision(token.rv), Some(token.start.clone()), limit).await;
            match part {
                Err(status) if status.is("Expired") => return Ok(expired(token.start)),
                part => part?,
            }
        }
        None => match freshness {
            Freshness::Exact(revision) => exact(registry, scope, Revision(revision), None, limit).await?,
            Freshness::Any => {
                registry.filled().await?;
                cached(registry, scope, None, 0)
            }
            Freshness::NotOlderThan(revision) => {
                registry.reach(Revision(revision)).await?;
                cached(registry, scope, None, limit)
            }
            Freshness::Consistent => {
                registry.catch_up().await?;
                cached(registry, scope, None, limit)
            }
        },
    };
    if wanted.is_protobuf
        && let Some(answer) = protobuf::list(scope.served, wanted.form, &objects, &meta).await
    {
        return Ok(answer);
    }
    let body = encode::list(scope.served, wanted.form, include, objects, &meta);
    let mut response = respond::made("application/json", body);
    response.extensions_mut().insert(Packable);
    Ok(response)
}

/// The refusal of a token whose history is gone, with one that goes on in the present, as upstream has it.
fn expired(start: String) -> Response<Body> {
    let status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
         the continue parameter, or use the continue token in this response to retrieve the remainder of the results. \
         Continuing with the provided token results in an inconsistent list - objects that were created, modified, or \
         deleted between the time the first chunk was returned and now may show up in the list.",
    );
    let mut body = status.to_json();
    body["metadata"] = json!({"continue": Continue::encode(NOW, start)});
    respond::json(StatusCode::GONE, &body)
}

/// The order of the store's keys, in which pages follow each other: in it `a-b/x` stands before `a/x`.
fn by_key(one: &Object, other: &Object) -> Ordering {
    let namespace = |object: &Object| -> Vec<u8> { [object.key.namespace.as_bytes(), b"/"].concat() };
    let namespaces = match one.key.namespace == other.key.namespace {
        true => Ordering::Equal,
        false => namespace(one).cmp(&namespace(other)),
    };
    namespaces.then_with(|| one.key.name.cmp(&other.key.name))
}

fn cached(
    registry: &Registry,
    scope: &Scope,
    start: Option<&str>,
    limit: usize,
) -> (Vec<Arc<Object>>, ListMeta) {
    let (mut objects, revision) = registry.cache().list(scope.kind, scope.namespace.as_deref());
    if scope.kind.namespaced && scope.namespace.is_none() {
        objects.sort_by(|one, other| by_key(one, other));
    }
    if let Some(start) = start {
        objects.retain(|o| o.key.kind.key(&o.key.namespace, &o.key.name).as_str() >= start);
    }
    if !scope.is_everything() {
        objects.retain(|o| scope.matches(o));
    }
    let mut meta = ListMeta { revision: revision.0, continue_token: None, remaining: None };
    if limit > 0 && objects.len() > limit {
        let left = objects.len() - limit;
        let next = &objects[limit].key;
        meta.continue_token = Some(Continue::encode(revision.0, next.kind.key(&next.namespace, &next.name)));
        meta.remaining = scope.is_everything().then_some(left as u64);
        objects.truncate(limit);
    }
    (objects, meta)
}

async fn exact(
    registry: &Registry,
    scope: &Scope,
    revision: Revision,
    mut start: Option<String>,
    limit: usize,
) -> Result<(Vec<Arc<Object>>, ListMeta), Status> {
    let mut objects = Vec::new();
    loop {
        let page =
            registry.list_at(scope.kind, scope.namespace.as_deref(), revision, start.clone(), limit).await?;
        let mut remaining = page.remaining;
        for object in page.objects {
            if limit > 0 && objects.len() == limit {
                remaining += 1;
                break;
            }
            start = Some(format!("{}\0", object.key.kind.key(&object.key.namespace, &object.key.name)));
            if scope.matches(&object) {
                objects.push(Arc::new(object));
            }
        }
        let full = limit > 0 && objects.len() >= limit;
        if remaining == 0 || full {
            let more = full && remaining > 0;
            let meta = ListMeta {
                revision: revision.0,
                continue_token: start.filter(|_| more).map(|start| Continue::encode(revision.0, start)),
                remaining: (more && scope.is_everything()).then_some(remaining),
            };
            return Ok((objects, meta));
        }
    }
}

#[cfg(test)]
mod tests {
    use oarlock_fuzz::Target;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_says_what_it_was_made_of(revision: u64, start in ".{0,40}") {
            let token = Continue::decode(&Continue::encode(revision, start.clone())).unwrap();
            prop_assert_eq!((token.rv, token.start), (revision, start));
        }
    }

    #[test]
    fn fuzz_continue_tokens() {
        Target::new("continue_tokens").run(|input| {
            let text = String::from_utf8_lossy(input);
            // As clients send it, and what they might put into it.
            for text in [text.to_string(), URL_SAFE_NO_PAD.encode(input)] {
                let Ok(token) = Continue::decode(&text) else { continue };
                let again = Continue::decode(&Continue::encode(token.rv, token.start.clone())).unwrap();
                assert_eq!((again.rv, again.start), (token.rv, token.start));
            }
        });
    }
}
