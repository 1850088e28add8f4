//! The files of a volume that is filled from objects: configMap, secret, downwardAPI, projected. Pure.

use std::collections::BTreeMap;

use oarlock_api::k8s::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, Pod, ServiceAccountTokenProjection, Volume, VolumeProjection,
};
use oarlock_api::pod_token::Wanted;

use crate::desired::Snapshot;
use crate::plan::downward::{self, Place};
use crate::plan::env::Objects;

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) data: Vec<u8>,
    pub(crate) mode: u32,
}

/// Files by their path in the volume.
pub(crate) type Payload = BTreeMap<String, File>;

/// The plugin's name, its files, and whether they must stay off disks. `None` if the volume is of another type.
pub(crate) fn of(
    pod: &Pod,
    snapshot: &Snapshot,
    place: &Place,
    volume: &Volume,
) -> Result<Option<(&'static str, Payload, bool)>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let context = Context { pod, place, objects: Objects { snapshot, namespace } };
    let mode = |mode: Option<i32>| mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(0o644);
    let mut payload = Payload::new();
    if let Some(source) = &volume.config_map {
        let found = context.objects.config_map(&source.name, source.optional)?;
        let from = From::new("configmap", &source.name, source.optional, mode(source.default_mode));
        context.keys(found, source.items.as_deref(), &from, &mut payload)?;
        return Ok(Some(("configmap", payload, false)));
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let found = context.objects.secret(name, source.optional)?;
        let from = From::new("secret", name, source.optional, mode(source.default_mode));
        context.keys(found, source.items.as_deref(), &from, &mut payload)?;
        return Ok(Some(("secret", payload, true)));
    }
    if let Some(source) = &volume.downward_api {
        context.downward(source.items.as_deref(), mode(source.default_mode), &mut payload)?;
        return Ok(Some(("downward-api", payload, false)));
    }
    if let Some(source) = &volume.projected {
        let mut secret = false;
        for projection in source.sources.iter().flatten() {
            secret |= projection.secret.is_some() || projection.service_account_token.is_some();
            context.projection(projection, mode(source.default_mode), &mut payload)?;
        }
        return Ok(Some(("projected", payload, secret)));
    }
    Ok(None)
}

struct From<'a> {
    kind: &'a str,
    name: &'a str,
    optional: bool,
    mode: u32,
}

impl<'a> From<'a> {
    fn new(kind: &'a str, name: &'a str, optional: Option<bool>, mode: u32) -> Self {
        Self { kind, name, optional: optional.unwrap_or(false), mode }
    }
}

struct Context<'a> {
    pod: &'a Pod,
    place: &'a Place,
    objects: Objects<'a>,
}

impl Context<'_> {
    fn projection(&self, source: &VolumeProjection, mode: u32, payload: &mut Payload) -> Result<(), String> {
        if let Some(map) = &source.config_map {
            let found = self.objects.config_map(&map.name, map.optional)?;
            let from = From::new("configmap", &map.name, map.optional, mode);
            self.keys(found, map.items.as_deref(), &from, payload)?;
        }
        if let Some(secret) = &source.secret {
            let found = self.objects.secret(&secret.name, secret.optional)?;
            let from = From::new("secret", &secret.name, secret.optional, mode);
            self.keys(found, secret.items.as_deref(), &from, payload)?;
        }
        if let Some(source) = &source.downward_api {
            self.downward(source.items.as_deref(), mode, payload)?;
        }
        if let Some(source) = &source.service_account_token {
            let token = self.token(source)?;
            put(payload, &source.path, token.into_bytes(), mode)?;
        }
        if source.cluster_trust_bundle.is_some() {
            return Err("this projection is not supported by this version of Oarlock".to_owned());
        }
        Ok(())
    }

    /// The token that the control plane has sent.
    fn token(&self, source: &ServiceAccountTokenProjection) -> Result<String, String> {
        let wanted = Wanted::new(source.audience.as_deref(), source.expiration_seconds);
        let key = (self.pod.metadata.uid.clone().unwrap_or_default(), wanted.name());
        let found = self.objects.snapshot.pod_tokens.get(&key).map(|found| found.token.clone());
        found.ok_or_else(|| {
            let account = self.pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
            let account = account.unwrap_or_default();
            format!("no token of service account {account:?} has come from the control plane yet")
        })
    }

    fn keys(
        &self,
        found: Option<BTreeMap<String, Vec<u8>>>,
        items: Option<&[KeyToPath]>,
        from: &From<'_>,
        payload: &mut Payload,
    ) -> Result<(), String> {
        let mut found = found.unwrap_or_default();
        let Some(items) = items.filter(|i| !i.is_empty()) else {
            for (key, data) in found {
                put(payload, &key, data, from.mode)?;
            }
            return Ok(());
        };
        for item in items {
            match found.get_mut(&item.key) {
                Some(data) => {
                    let mode = item.mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(from.mode);
                    put(payload, &item.path, data.clone(), mode)?;
                }
                None if from.optional => {}
                None => {
                    let (kind, name) = (from.kind, from.name);
                    return Err(format!("references non-existent {kind} key: {} in {kind} {name}", item.key));
                }
            }
        }
        Ok(())
    }

    fn downward(
        &self,
        items: Option<&[DownwardAPIVolumeFile]>,
        default: u32,
        payload: &mut Payload,
    ) -> Result<(), String> {
        for item in items.unwrap_or_default() {
            let text = if let Some(field) = &item.field_ref {
                downward::field(self.pod, self.place, field)?
            } else if let Some(resource) = &item.resource_field_ref {
                downward::resource(self.pod, self.place, None, resource)?
            } else {
                continue;
            };
            let mode = item.mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(default);
            put(payload, &item.path, text.into_bytes(), mode)?;
        }
        Ok(())
    }
}

/// A path that leaves the volume, or would pass for one of the writer's own files, is refused.
fn put(payload: &mut Payload, path: &str, data: Vec<u8>, mode: u32) -> Result<(), String> {
    let bad = path.is_empty()
        || path.starts_with('/')
        || path.starts_with("..")
        || path.split('/').any(|part| matches!(part, "" | "." | ".."));
    if bad {
        return Err(format!("invalid path: {path:?} must be relative and stay inside the volume"));
    }
    payload.insert(path.to_owned(), File { data, mode });
    Ok(())
}
