//! Discovery: which groups, versions and resources there are, in the old form and aggregated. Pure, from the catalogue and what others
//! say that they serve.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use oarlock_api::aggregation::{self, Priority};
use oarlock_api::catalogue::{Catalogue, Kind, Subresource};
use serde_json::{Value, json};

/// A version of a group that somebody else answers for.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) priority: Priority,
    /// What they said that they serve, as aggregated discovery has it.
    pub(super) resources: Option<Arc<Value>>,
    /// Whether they said so the last time that they were asked.
    pub(super) is_current: bool,
    /// Where their OpenAPI document is.
    pub(super) open_api: Option<String>,
}

/// A version, and who answers for it if not we.
struct Version<'r> {
    name: &'r str,
    priority: Priority,
    remote: Option<&'r Remote>,
}

/// Groups and their versions in the order in which clients should try them.
fn groups<'r>(catalogue: &Catalogue, remotes: &'r [Remote]) -> Vec<(&'r str, Vec<Version<'r>>)> {
    let mut groups: BTreeMap<&str, Vec<Version<'_>>> = BTreeMap::new();
    for remote in remotes {
        let Remote { version, priority, .. } = remote;
        let found = Version { name: version, priority: *priority, remote: Some(remote) };
        groups.entry(&remote.group).or_default().push(found);
    }
    for kind in catalogue.served() {
        let versions = groups.entry(kind.group).or_default();
        if !versions.iter().any(|version| version.name == kind.version) {
            let priority = aggregation::priority(kind.group, kind.version);
            versions.push(Version { name: kind.version, priority, remote: None });
        }
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    for (_, versions) in &mut groups {
        versions.sort_by_key(|version| Reverse((version.priority.version, version.name)));
    }
    groups.sort_by_key(|(name, versions)| (Reverse(versions.iter().map(|v| v.priority.group).max()), *name));
    groups
}

/// `/`: what there is beside objects, and the groups and versions.
pub(super) fn paths(catalogue: &Catalogue, remotes: &[Remote]) -> Value {
    let mut paths: Vec<String> = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/apis/",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ]
    .map(str::to_owned)
    .into();
    for (group, versions) in groups(catalogue, remotes).into_iter().filter(|(group, _)| !group.is_empty()) {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.iter().map(|version| format!("/apis/{group}/{}", version.name)));
    }
    paths.sort_unstable();
    json!({ "paths": paths })
}

/// `/api`.
pub(super) fn core_versions(server: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server}],
    })
}

/// `/apis`.
pub(super) fn group_list(catalogue: &Catalogue, remotes: &[Remote]) -> Value {
    let named = groups(catalogue, remotes).into_iter().filter(|(name, _)| !name.is_empty());
    let groups: Vec<Value> = named.map(|(name, versions)| group_json(name, &versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`.
pub(super) fn group(catalogue: &Catalogue, remotes: &[Remote], name: &str) -> Option<Value> {
    let (name, versions) =
        groups(catalogue, remotes).into_iter().find(|(n, _)| *n == name && !n.is_empty())?;
    let mut value = group_json(name, &versions);
    value["kind"] = json!("APIGroup");
    value["apiVersion"] = json!("v1");
    Some(value)
}

fn group_json(name: &str, versions: &[Version<'_>]) -> Value {
    let version = |v: &Version<'_>| json!({"groupVersion": format!("{name}/{}", v.name), "version": v.name});
    let all: Vec<Value> = versions.iter().map(version).collect();
    json!({"name": name, "versions": all, "preferredVersion": all.first()})
}

/// `/api/v1`, `/apis/<group>/<version>`.
pub(super) fn resources(catalogue: &Catalogue, group: &str, version: &str) -> Option<Value> {
    let kinds: Vec<&'static Kind> =
        catalogue.served().filter(|k| k.group == group && k.version == version).collect();
    let api_version = kinds.first()?.api_version();
    let mut list = Vec::new();
    for kind in kinds {
        let mut entry = json!({
            "name": kind.plural,
            "singularName": kind.singular(),
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": kind.verbs,
        });
        // What is not stored has no form there.
        if kind.allows("watch") {
            entry["storageVersionHash"] = json!(storage_hash(kind.stored()));
        }
        if !kind.short_names.is_empty() {
            entry["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            entry["categories"] = json!(kind.categories);
        }
        list.push(entry);
        list.extend(kind.subresources.iter().map(|sub| subresource(kind, sub)));
    }
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": list}),
    )
}

fn subresource(kind: &Kind, sub: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", kind.plural, sub.name),
        "singularName": "",
        "namespaced": kind.namespaced,
        "kind": sub.kind,
        "verbs": sub.verbs,
    });
    if let Some((group, version)) = sub.group_version {
        entry["group"] = json!(group);
        entry["version"] = json!(version);
    }
    entry
}

/// Changes when the stored form does; opaque to clients.
fn storage_hash(kind: &Kind) -> String {
    use base64::Engine as _;
    use sha2::{Digest as _, Sha256};
    let digest = Sha256::digest(format!("{}/{}/{}", kind.group, kind.version, kind.kind));
    base64::engine::general_purpose::STANDARD.encode(&digest[..8])
}

/// Aggregated discovery of `/api` (`core`) or `/apis`, in version `v2` or `v2beta1`.
pub(super) fn aggregated(catalogue: &Catalogue, remotes: &[Remote], core: bool, version: &str) -> Value {
    let items: Vec<Value> = groups(catalogue, remotes)
        .into_iter()
        .filter(|(name, _)| name.is_empty() == core)
        .map(|(name, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| match version.remote {
                    Some(remote) => remote_version(remote),
                    None => aggregated_version(catalogue, name, version.name),
                })
                .collect();
            let metadata = if name.is_empty() {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": name, "creationTimestamp": null})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

fn remote_version(remote: &Remote) -> Value {
    let mut found = json!({"version": remote.version});
    if let Some(resources) = &remote.resources {
        found["resources"] = Value::clone(resources);
    }
    found["freshness"] = json!(if remote.is_current { "Current" } else { "Stale" });
    found
}

/// The index of OpenAPI 3 with the documents of others.
pub(super) fn with_documents(mut index: Value, remotes: &[Remote]) -> Value {
    for Remote { group, version, open_api, .. } in remotes {
        let path =
            if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
        let Some(paths) = index["paths"].as_object_mut() else { continue };
        match open_api {
            Some(address) => drop(paths.insert(path, json!({"serverRelativeURL": address}))),
            None => drop(paths.remove(&path)),
        }
    }
    index
}

fn aggregated_version(catalogue: &Catalogue, group: &str, version: &str) -> Value {
    let kinds = catalogue.served().filter(|k| k.group == group && k.version == version);
    let resources: Vec<Value> = kinds
        .map(|kind| {
            let subresources: Vec<Value> = kind
                .subresources
                .iter()
                .map(|sub| {
                    let (group, version) = sub.group_version.unwrap_or((kind.group, kind.version));
                    json!({
                        "subresource": sub.name,
                        "responseKind": {"group": group, "version": version, "kind": sub.kind},
                        "verbs": sub.verbs,
                    })
                })
                .collect();
            let mut entry = json!({
                "resource": kind.plural,
                "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
                "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
                "singularResource": kind.singular(),
                "verbs": kind.verbs,
            });
            for (field, words) in [("shortNames", kind.short_names), ("categories", kind.categories)] {
                if !words.is_empty() {
                    entry[field] = json!(words);
                }
            }
            if !subresources.is_empty() {
                entry["subresources"] = json!(subresources);
            }
            entry
        })
        .collect();
    json!({"version": version, "resources": resources, "freshness": "Current"})
}
