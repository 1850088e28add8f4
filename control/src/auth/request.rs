//! TokenRequest: a token for a ServiceAccount, asked for by whoever may.
//!
//! Source: k8s.io/kubernetes/pkg/registry/core/serviceaccount/storage/token.go, pkg/apis/authentication/validation.

use jiff::Timestamp;
use oarlock_api::catalogue::{Kind, NODES, PODS, SECRETS, SERVICE_ACCOUNTS};
use oarlock_api::meta;
use oarlock_api::status::{Cause, Status};
use serde_json::{Value, json};

use super::tokens::{Bound, Claims, Named, Tokens};
use crate::registry::Registry;

const TEN_MINUTES: i64 = 10 * 60;
const HOUR: i64 = 60 * 60;
/// The longest life that may be asked for, and the longest that is given.
const LONGEST: i64 = 1 << 32;

/// Answers a TokenRequest for an account.
///
/// # Errors
/// `Invalid`, `NotFound` (the account or what the token is to be bound to), `Conflict` (it is another of that name).
pub(crate) async fn answer(
    registry: &Registry,
    tokens: &Tokens,
    namespace: &str,
    name: &str,
    mut request: Value,
) -> Result<Value, Status> {
    let life = check(&request, namespace, name)?;
    let account = registry.get(&SERVICE_ACCOUNTS, namespace, name).await?;
    let bound = match request["spec"].get("boundObjectRef").filter(|bound| bound.is_object()) {
        Some(reference) => Some(bound(registry, namespace, name, reference).await?),
        None => None,
    };
    let asked = request["spec"]["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut audiences: Vec<String> = asked.map(str::to_owned).collect();
    if audiences.is_empty() {
        audiences = tokens.audiences().to_vec();
    }
    let claims = Claims {
        namespace: namespace.to_owned(),
        account: named(&account),
        bound,
        audiences,
        id: uuid::Uuid::new_v4().to_string(),
        legacy: false,
    };
    let now = Timestamp::now();
    let end = now.as_second() + life;
    let token = tokens.issue(&claims, now.as_second(), end).map_err(Status::internal)?;
    let end = Timestamp::from_second(end).map_err(Status::internal)?;
    let metadata = meta::metadata_mut(&mut request);
    metadata.insert("name".to_owned(), json!(name));
    metadata.insert("namespace".to_owned(), json!(namespace));
    metadata.insert("creationTimestamp".to_owned(), json!(meta::time(now)));
    request["spec"]["audiences"] = json!(claims.audiences);
    request["spec"]["expirationSeconds"] = json!(life);
    request["status"] = json!({"token": token, "expirationTimestamp": meta::time(end)});
    Ok(request)
}

/// How long the token is to be good.
fn check(request: &Value, namespace: &str, name: &str) -> Result<i64, Status> {
    for (field, wanted) in [("name", name), ("namespace", namespace)] {
        let stated = request["metadata"][field].as_str().unwrap_or("");
        if !stated.is_empty() && stated != wanted {
            let why = format!(
                "the {field} of the token request ({stated}) does not match that of the service account ({wanted})"
            );
            return Err(Status::bad_request(why));
        }
    }
    let life = request["spec"]["expirationSeconds"].as_i64().unwrap_or(HOUR);
    let why = if life < TEN_MINUTES {
        "may not specify a duration less than 10 minutes"
    } else if life > LONGEST {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(life);
    };
    let cause = Cause {
        reason: "FieldValueInvalid".to_owned(),
        message: format!("Invalid value: {life}: {why}"),
        field: "spec.expirationSeconds".to_owned(),
    };
    Err(Status::invalid(&TOKEN_REQUESTS, "", vec![cause]))
}

/// The kind as refusals name it; it is a part of accounts and has no row of its own.
static TOKEN_REQUESTS: Kind = Kind {
    group: "authentication.k8s.io",
    version: "v1",
    kind: "TokenRequest",
    plural: "tokenrequests",
    namespaced: true,
    short_names: &[],
    categories: &[],
    verbs: &["create"],
    subresources: &[],
    has_generation: false,
    stored_as: None,
    deprecated: None,
};

fn named(object: &Value) -> Named {
    Named { name: meta::name(object).to_owned(), uid: meta::uid(object).to_owned() }
}

/// What the token dies with.
async fn bound(
    registry: &Registry,
    namespace: &str,
    account: &str,
    reference: &Value,
) -> Result<Bound, Status> {
    let text = |field: &str| reference[field].as_str().unwrap_or("");
    let (name, version) = (text("name"), text("apiVersion"));
    let kind = match text("kind") {
        "Pod" => &PODS,
        "Secret" => &SECRETS,
        "Node" => &NODES,
        other => {
            let what = if version.is_empty() { other.to_owned() } else { format!("{version}, Kind={other}") };
            return Err(Status::bad_request(format!("cannot bind token to object of type {what}")));
        }
    };
    let object = registry.get(kind, if kind.namespaced { namespace } else { "" }, name).await?;
    let (wanted, present) = (text("uid"), meta::uid(&object));
    if !wanted.is_empty() && wanted != present {
        let why = format!(
            "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted \
             and then recreated"
        );
        return Err(Status::conflict(kind, name, &why));
    }
    if *kind == SECRETS {
        return Ok(Bound::Secret(named(&object)));
    }
    if *kind == NODES {
        return Ok(Bound::Node(named(&object)));
    }
    if account != object["spec"]["serviceAccountName"].as_str().unwrap_or("") {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
        )));
    }
    let node = match object["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
        // A node that is gone is not told of: the pod's life is what counts.
        Some(node) => Some(
            registry
                .get(&NODES, "", node)
                .await
                .map_or_else(|_| Named { name: node.to_owned(), uid: String::new() }, |node| named(&node)),
        ),
        None => None,
    };
    Ok(Bound::Pod(named(&object), node))
}
