//! The manifests of `oarlock-agent proxy`: every field is one of Kubernetes', every setting one of the proxy's.

#![expect(clippy::unwrap_used, reason = "helpers of tests panic, as tests do")]

use std::path::Path;

use clap::{CommandFactory as _, Parser as _};
use oarlock_agent::config::{Cli, Command};
use oarlock_api::k8s::api::apps::v1::DaemonSet;
use oarlock_api::k8s::api::core::v1::{ConfigMap, ServiceAccount};
use oarlock_api::k8s::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde::de::DeserializeOwned;
use serde::{Deserialize as _, Serialize};
use serde_json::{Value, json};

/// All objects of a file.
fn objects(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/proxy").join(file);
    let text = std::fs::read_to_string(path).unwrap();
    serde_yaml::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap()).collect()
}

/// An object of a type, all of whose fields that type has.
fn of_type<T: DeserializeOwned + Serialize>(object: &Value) -> T {
    let typed: T = serde_json::from_value(object.clone()).unwrap();
    assert_eq!(&serde_json::to_value(&typed).unwrap(), object, "a field that Kubernetes does not know");
    typed
}

#[test]
fn every_manifest_is_of_kubernetes_own_fields() {
    let mut seen = 0;
    for file in ["rbac.yaml", "config.yaml", "daemonset.yaml"] {
        for object in objects(file) {
            match object["kind"].as_str().unwrap() {
                "ServiceAccount" => drop(of_type::<ServiceAccount>(&object)),
                "ClusterRole" => drop(of_type::<ClusterRole>(&object)),
                "ClusterRoleBinding" => drop(of_type::<ClusterRoleBinding>(&object)),
                "ConfigMap" => drop(of_type::<ConfigMap>(&object)),
                "DaemonSet" => drop(of_type::<DaemonSet>(&object)),
                other => panic!("what is a {other}?"),
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 6);
}

#[test]
fn the_proxy_understands_what_its_manifests_tell_it() {
    let daemon_set: DaemonSet = of_type(&objects("daemonset.yaml")[0]);
    let container = daemon_set.spec.unwrap().template.spec.unwrap().containers.remove(0);
    let Command::Proxy(config) = Cli::parse_from(container.command.unwrap()).command else {
        panic!("another command");
    };
    let mount = container.volume_mounts.unwrap().remove(0);
    let kubeconfig = config.kubeconfig.unwrap();
    assert!(kubeconfig.starts_with(mount.mount_path), "it is mounted");
    let probe = container.readiness_probe.unwrap().http_get.unwrap();
    assert_eq!(serde_json::to_value(probe.port).unwrap(), json!(config.healthz_bind_address.port()));

    let mut command = Cli::command();
    let known: Vec<String> = command
        .find_subcommand_mut("proxy")
        .unwrap()
        .get_arguments()
        .filter_map(|argument| Some(argument.get_env()?.to_str()?.to_owned()))
        .collect();
    let maps = objects("config.yaml");
    let settings = maps[1]["data"].as_object().unwrap().keys();
    let named = container.env.unwrap().into_iter().map(|variable| variable.name);
    for name in named.chain(settings.cloned()) {
        assert!(known.contains(&name), "{name} is none of {known:?}");
    }
    let name = kubeconfig.file_name().unwrap().to_str().unwrap();
    let kubeconfig = kube::config::Kubeconfig::from_yaml(maps[0]["data"][name].as_str().unwrap()).unwrap();
    assert!(kubeconfig.auth_infos[0].auth_info.as_ref().unwrap().token_file.is_some());
}

#[test]
fn the_role_allows_what_is_watched_and_nothing_else() {
    let role: ClusterRole = of_type(&objects("rbac.yaml")[1]);
    let rules: Vec<_> =
        role.rules.unwrap().into_iter().map(|rule| (rule.resources.unwrap(), rule.verbs)).collect();
    let verbs = || vec!["list".to_owned(), "watch".to_owned()];
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(rules, [(names(&["nodes", "services"]), verbs()), (names(&["endpointslices"]), verbs())]);
}
