//! The environment of a container: Services, envFrom, env with references and `$(VAR)`, in kubelet's order.

use std::collections::BTreeMap;

use oarlock_api::k8s::api::core::v1::{Container, EnvVar, Pod, Service};

use super::downward::{self, Place};
use super::expand::expand;
use crate::desired::Snapshot;

/// The variables, by name. A message for `CreateContainerConfigError` when something that is needed is missing.
pub(crate) fn environment(
    pod: &Pod,
    container: &Container,
    snapshot: &Snapshot,
    place: &Place,
) -> Result<Vec<(String, String)>, String> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let services = service_variables(snapshot, &namespace, links);
    let mut own = Vec::<(String, String)>::new();
    let mut set = |name: String, value: String| match own.iter_mut().find(|(n, _)| *n == name) {
        Some(slot) => slot.1 = value,
        None => own.push((name, value)),
    };
    let objects = Objects { snapshot, namespace: &namespace };
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let mut found = BTreeMap::new();
        if let Some(from) = &source.config_map_ref {
            found = objects.config_map(&from.name, from.optional)?.unwrap_or_default();
        }
        if let Some(from) = &source.secret_ref {
            found = objects.secret(&from.name, from.optional)?.unwrap_or_default();
        }
        for (key, value) in found {
            set(format!("{prefix}{key}"), String::from_utf8_lossy(&value).into_owned());
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            None => {
                let text = variable.value.as_deref().unwrap_or_default();
                Some(expand(text, |name| look_up(&own, &services, name)))
            }
            Some(_) => reference(pod, container, &objects, place, variable)?,
        };
        if let Some(value) = value {
            match own.iter_mut().find(|(n, _)| *n == variable.name) {
                Some(slot) => slot.1 = value,
                None => own.push((variable.name.clone(), value)),
            }
        }
    }
    for (name, value) in services {
        if !own.iter().any(|(n, _)| *n == name) {
            own.push((name, value));
        }
    }
    Ok(own)
}

fn look_up(own: &[(String, String)], services: &BTreeMap<String, String>, name: &str) -> Option<String> {
    let found = own.iter().find(|(n, _)| n == name).map(|(_, value)| value);
    found.or_else(|| services.get(name)).cloned()
}

fn reference(
    pod: &Pod,
    container: &Container,
    objects: &Objects<'_>,
    place: &Place,
    variable: &EnvVar,
) -> Result<Option<String>, String> {
    let Some(from) = &variable.value_from else { return Ok(None) };
    if let Some(selector) = &from.field_ref {
        return downward::field(pod, place, selector).map(Some);
    }
    if let Some(selector) = &from.resource_field_ref {
        return downward::resource(pod, place, Some(container), selector).map(Some);
    }
    let (kind, name, key, optional, found) = if let Some(s) = &from.config_map_key_ref {
        ("ConfigMap", &s.name, &s.key, s.optional, objects.config_map(&s.name, s.optional)?)
    } else if let Some(s) = &from.secret_key_ref {
        ("Secret", &s.name, &s.key, s.optional, objects.secret(&s.name, s.optional)?)
    } else {
        return Ok(None);
    };
    match found.and_then(|mut data| data.remove(key)) {
        Some(value) => Ok(Some(String::from_utf8_lossy(&value).into_owned())),
        None if optional.unwrap_or(false) => Ok(None),
        None => Err(format!("couldn't find key {key} in {kind} {}/{name}", objects.namespace)),
    }
}

/// ConfigMaps and Secrets of one namespace, as bytes by key.
pub(crate) struct Objects<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) namespace: &'a str,
}

impl Objects<'_> {
    pub(crate) fn config_map(
        &self,
        name: &str,
        optional: Option<bool>,
    ) -> Result<Option<BTreeMap<String, Vec<u8>>>, String> {
        let key = (self.namespace.to_owned(), name.to_owned());
        let Some(map) = self.snapshot.config_maps.get(&key) else {
            return missing("configmap", name, optional);
        };
        let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
        let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
        Ok(Some(text.chain(binary).collect()))
    }

    pub(crate) fn secret(
        &self,
        name: &str,
        optional: Option<bool>,
    ) -> Result<Option<BTreeMap<String, Vec<u8>>>, String> {
        let key = (self.namespace.to_owned(), name.to_owned());
        let Some(secret) = self.snapshot.secrets.get(&key) else {
            return missing("secret", name, optional);
        };
        Ok(Some(secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect()))
    }
}

fn missing<T>(kind: &str, name: &str, optional: Option<bool>) -> Result<Option<T>, String> {
    if optional.unwrap_or(false) { Ok(None) } else { Err(format!("{kind} \"{name}\" not found")) }
}

/// Docker-link style variables of the namespace's Services, and always those of `default/kubernetes`.
fn service_variables(snapshot: &Snapshot, namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for ((of, name), service) in &snapshot.services {
        let is_master = of == "default" && name == "kubernetes";
        if is_master || (links && of == namespace) {
            one_service(name, service, &mut variables);
        }
    }
    variables
}

fn one_service(name: &str, service: &Service, variables: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let ip = spec.cluster_ip.as_deref().unwrap_or_default();
    let Some(first) = spec.ports.as_ref().and_then(|p| p.first()) else { return };
    if ip.is_empty() || ip == "None" {
        return;
    }
    let upper = |text: &str| text.to_uppercase().replace('-', "_");
    let prefix = upper(name);
    variables.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    variables.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        if let Some(named) = port.name.as_deref().filter(|n| !n.is_empty()) {
            variables.insert(format!("{prefix}_SERVICE_PORT_{}", upper(named)), port.port.to_string());
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let lower = protocol.to_lowercase();
        let url = format!("{lower}://{ip}:{}", port.port);
        if index == 0 {
            variables.insert(format!("{prefix}_PORT"), url.clone());
        }
        let link = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        variables.insert(format!("{link}_PROTO"), lower);
        variables.insert(format!("{link}_PORT"), port.port.to_string());
        variables.insert(format!("{link}_ADDR"), ip.to_owned());
        variables.insert(link, url);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot::default();
        let key = |ns: &str, name: &str| (ns.to_owned(), name.to_owned());
        let nginx = json!({"spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80}]}});
        let none = json!({"spec": {"clusterIP": "None", "ports": [{"port": 80}]}});
        let api = json!({"spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}});
        for (ns, name, json) in
            [("d", "my-nginx", nginx), ("d", "headless", none), ("default", "kubernetes", api)]
        {
            snapshot.services.insert(key(ns, name), Arc::new(serde_json::from_value(json).unwrap()));
        }
        let config = serde_json::from_value(json!({"data": {"A": "1", "B": "2"}})).unwrap();
        snapshot.config_maps.insert(key("d", "config"), Arc::new(config));
        let secret = serde_json::from_value(json!({"data": {"P": "aHVudGVyMg=="}})).unwrap();
        snapshot.secrets.insert(key("d", "secret"), Arc::new(secret));
        snapshot
    }

    fn resolve(links: bool, container: serde_json::Value) -> Result<BTreeMap<String, String>, String> {
        let pod = json!({"metadata": {"name": "p", "namespace": "d"},
            "spec": {"enableServiceLinks": links, "containers": [container]}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let container = pod.spec.as_ref().unwrap().containers[0].clone();
        environment(&pod, &container, &snapshot(), &Place::default()).map(|e| e.into_iter().collect())
    }

    #[test]
    fn later_sources_win_and_references_see_what_was_before() {
        let env = resolve(
            true,
            json!({"name": "c", "envFrom": [{"prefix": "X_", "configMapRef": {"name": "config"}},
                    {"configMapRef": {"name": "nobody", "optional": true}}],
                "env": [{"name": "X_B", "value": "own"},
                    {"name": "ALL", "value": "$(X_A)/$(X_B)/$(MY_NGINX_SERVICE_HOST)/$(LATER)"},
                    {"name": "LATER", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "P"}}},
                    {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
        )
        .unwrap();
        assert_eq!(env["ALL"], "1/own/10.96.0.7/$(LATER)");
        assert_eq!((env["LATER"].as_str(), env["NAME"].as_str()), ("hunter2", "p"));
        assert_eq!(env["MY_NGINX_SERVICE_PORT_HTTP"], "80");
        assert_eq!(env["MY_NGINX_PORT_80_TCP"], "tcp://10.96.0.7:80");
        assert!(!env.contains_key("HEADLESS_SERVICE_HOST"));
    }

    #[test]
    fn without_links_only_the_api_server_is_there() {
        let env = resolve(false, json!({"name": "c"})).unwrap();
        assert_eq!(env["KUBERNETES_SERVICE_HOST"], "10.96.0.1");
        assert!(!env.keys().any(|k| k.starts_with("MY_NGINX")));
    }

    #[test]
    fn what_is_missing_is_named_in_kubelets_words() {
        let missing = |env| resolve(false, json!({"name": "c", "env": [{"name": "V", "valueFrom": env}]}));
        let text = missing(json!({"secretKeyRef": {"name": "nobody", "key": "P"}})).unwrap_err();
        assert_eq!(text, "secret \"nobody\" not found");
        let text = missing(json!({"configMapKeyRef": {"name": "config", "key": "Z"}})).unwrap_err();
        assert_eq!(text, "couldn't find key Z in ConfigMap d/config");
        let none = missing(json!({"configMapKeyRef": {"name": "config", "key": "Z", "optional": true}}));
        assert!(!none.unwrap().contains_key("V"));
    }
}
