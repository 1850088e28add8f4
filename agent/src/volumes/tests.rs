//! Volumes on a real file system. Mounting a tmpfs needs root.

use std::sync::Arc;

use serde_json::json;

use super::*;

fn pod(volumes: serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "d", "uid": "u1", "labels": {"app": "x"}},
        "spec": {"containers": [{"name": "c"}], "securityContext": {"fsGroup": 1234}, "volumes": volumes}}))
    .unwrap()
}

fn snapshot(config: serde_json::Value) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let config = serde_json::from_value(json!({"data": config})).unwrap();
    snapshot.config_maps.insert(("d".into(), "config".into()), Arc::new(config));
    let secret = serde_json::from_value(json!({"data": {"key": "c2VjcmV0"}})).unwrap();
    snapshot.secrets.insert(("d".into(), "secret".into()), Arc::new(secret));
    snapshot
}

fn prepare(
    volumes: &Volumes,
    of: serde_json::Value,
    config: serde_json::Value,
) -> Result<HostPaths, VolumeError> {
    volumes.prepare(&pod(of), &snapshot(config), &Place::default())
}

#[test]
fn a_config_map_is_written_with_modes_and_replaced_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(dir.path());
    let of = json!([{"name": "v", "configMap": {"name": "config", "defaultMode": 0o600}}]);
    let paths = prepare(&volumes, of.clone(), json!({"a": "1", "b": "2"})).unwrap();
    let path = Path::new(&paths["v"]).to_path_buf();
    assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "1");
    let data = fs::read_link(path.join("..data")).unwrap();
    prepare(&volumes, of.clone(), json!({"a": "1", "b": "2"})).unwrap();
    assert_eq!(fs::read_link(path.join("..data")).unwrap(), data, "nothing changed, nothing is written");
    prepare(&volumes, of, json!({"a": "3"})).unwrap();
    assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "3");
    assert!(!path.join("b").exists() && fs::read_link(path.join("b")).is_err());
    let left = fs::read_dir(&path).unwrap().count();
    assert_eq!(left, 3, "the link, the data and its link; nothing of before");
    let mode = fs::metadata(path.join("a")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640, "0600, and readable to fsGroup");
}

#[test]
fn items_projections_and_the_downward_api_choose_files() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(dir.path());
    let of = json!([{"name": "all", "projected": {"sources": [
        {"configMap": {"name": "config", "items": [{"key": "a", "path": "deep/er/a", "mode": 0o400}]}},
        {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"configMap": {"name": "nobody", "optional": true}}]}}]);
    let paths = prepare(&volumes, of, json!({"a": "1"})).unwrap();
    let path = Path::new(&paths["all"]);
    assert_eq!(fs::read_to_string(path.join("deep/er/a")).unwrap(), "1");
    assert_eq!(fs::read_to_string(path.join("labels")).unwrap(), "app=\"x\"");
}

#[test]
fn what_is_missing_or_leaves_the_volume_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(dir.path());
    for (source, expected) in [
        (json!({"configMap": {"name": "nobody"}}), "configmap \"nobody\" not found"),
        (json!({"secret": {"secretName": "nobody"}}), "secret \"nobody\" not found"),
        (
            json!({"configMap": {"name": "config", "items": [{"key": "z", "path": "z"}]}}),
            "references non-existent configmap key: z",
        ),
        (
            json!({"configMap": {"name": "config", "items": [{"key": "a", "path": "../../etc/passwd"}]}}),
            "invalid path",
        ),
        (json!({"hostPath": {"path": "/proc/self/status", "type": "Directory"}}), "is not a directory"),
        (json!({"nfs": {"server": "s", "path": "/"}}), "not supported"),
    ] {
        let mut volume = source.clone();
        volume["name"] = json!("v");
        let error = prepare(&volumes, json!([volume]), json!({"a": "1"})).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("\"v\""), "{error}");
    }
}

#[test]
fn secrets_stay_in_memory_and_everything_goes_with_the_pod() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(dir.path());
    let of = json!([{"name": "s", "secret": {"secretName": "secret"}},
        {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}, {"name": "e", "emptyDir": {}}]);
    let paths = prepare(&volumes, of.clone(), json!({})).unwrap();
    assert_eq!(fs::read_to_string(Path::new(&paths["s"]).join("key")).unwrap(), "secret");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(mounts.contains(&paths["s"]) && mounts.contains(&paths["m"]));
    assert!(fs::write(Path::new(&paths["m"]).join("big"), vec![1; 2 << 20]).is_err(), "the limit holds");
    fs::write(Path::new(&paths["e"]).join("kept"), "1").unwrap();
    prepare(&volumes, of, json!({})).unwrap();
    assert!(Path::new(&paths["e"]).join("kept").exists(), "an emptyDir is made once");
    assert_eq!(volumes.pods().unwrap(), ["u1"]);
    volumes.remove("u1").unwrap();
    volumes.remove("u1").unwrap();
    assert!(volumes.pods().unwrap().is_empty());
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&paths["s"]));
}
