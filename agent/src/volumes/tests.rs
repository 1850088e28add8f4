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
    let volumes = Volumes::new(dir.path(), &dir.path().join("volumes"));
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
    let volumes = Volumes::new(dir.path(), &dir.path().join("volumes"));
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
    let volumes = Volumes::new(dir.path(), &dir.path().join("volumes"));
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
        (json!({"nfs": {"server": "s", "path": "/"}}), "it is not mounted yet"),
        (json!({"cephfs": {"monitors": ["s"]}}), "not supported"),
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
    let volumes = Volumes::new(dir.path(), &dir.path().join("volumes"));
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

fn volume(path: &Path, annotated: bool) -> PersistentVolume {
    let by = if annotated { "oarlock.io/local" } else { "somebody" };
    serde_json::from_value(json!({
        "metadata": {"name": "pvc-1", "uid": "v1", "annotations": {"pv.kubernetes.io/provisioned-by": by}},
        "spec": {"claimRef": {"uid": "c1"}, "local": {"path": path}, "nodeAffinity": {"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]}}}}))
    .unwrap()
}

fn with_claim(phase: &str, volume: PersistentVolume) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let claim = json!({"metadata": {"name": "c", "uid": "c1"}, "spec": {"volumeName": "pvc-1"}, "status": {"phase": phase}});
    snapshot.claims.insert(("d".into(), "c".into()), Arc::new(serde_json::from_value(claim).unwrap()));
    snapshot.persistent_volumes.insert((String::new(), "pvc-1".into()), Arc::new(volume));
    let node = json!({"metadata": {"name": "n1", "labels": {"kubernetes.io/hostname": "n1"}}});
    snapshot.nodes.insert((String::new(), "n1".into()), Arc::new(serde_json::from_value(node).unwrap()));
    snapshot
}

fn claiming(node: &str) -> Pod {
    let mut pod = pod(json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]));
    pod.spec.as_mut().unwrap().node_name = Some(node.to_owned());
    pod
}

#[test]
fn a_provisioned_directory_outlives_its_pods_and_goes_with_its_volume() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("volumes");
    let volumes = Volumes::new(dir.path(), &root);
    let here = volume(&root.join("pvc-1"), true);
    let snapshot = with_claim("Bound", here.clone());
    let paths = volumes.prepare(&claiming("n1"), &snapshot, &Place::default()).unwrap();
    assert_eq!(Path::new(&paths["v"]), root.join("pvc-1"));
    let kept = root.join("pvc-1/kept");
    fs::write(&kept, "1").unwrap();
    volumes.remove("u1").unwrap();
    volumes.prepare(&claiming("n1"), &snapshot, &Place::default()).unwrap();
    assert_eq!(fs::read_to_string(&kept).unwrap(), "1");
    let mode = fs::metadata(root.join("pvc-1")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o2777, "the group of fsGroup may write, and files inherit it");
    std::os::unix::fs::symlink(dir.path(), root.join("pvc-1/link")).unwrap();
    volumes.remove_claimed(&here).unwrap();
    volumes.remove_claimed(&here).unwrap();
    assert!(!root.join("pvc-1").exists() && dir.path().exists());
}

#[test]
fn nothing_outside_the_folder_of_volumes_is_made_or_removed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("volumes");
    let volumes = Volumes::new(dir.path(), &root);
    let precious = dir.path().join("precious");
    fs::create_dir_all(&precious).unwrap();
    for path in [&precious, &root, &root.join("other"), &root.join("pvc-1/../../precious")] {
        let there = volume(path, true);
        assert!(volumes.remove_claimed(&there).unwrap_err().contains("is not where this node keeps volumes"));
        let error = volumes.prepare(&claiming("n1"), &with_claim("Bound", there), &Place::default());
        assert!(error.unwrap_err().to_string().contains("not made"));
    }
    let mut named = volume(&precious, true);
    named.metadata.name = Some("../precious".to_owned());
    volumes.remove_claimed(&named).unwrap_err();
    fs::create_dir_all(&root).unwrap();
    std::os::unix::fs::symlink(&precious, root.join("pvc-1")).unwrap();
    volumes.remove_claimed(&volume(&root.join("pvc-1"), true)).unwrap_err();
    assert!(precious.exists());
}

#[test]
fn a_claim_that_cannot_be_mounted_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("volumes");
    let volumes = Volumes::new(dir.path(), &root);
    let here = || volume(&root.join("pvc-1"), true);
    let said = |pod: &Pod, snapshot: &Snapshot| {
        volumes.prepare(pod, snapshot, &Place::default()).unwrap_err().to_string()
    };
    let missing = said(&claiming("n1"), &Snapshot::default());
    assert!(missing.ends_with("persistentvolumeclaims \"c\" not found"), "{missing}");
    let unbound = said(&claiming("n1"), &with_claim("Pending", here()));
    assert!(unbound.ends_with("error processing PVC d/c: PVC is not bound"), "{unbound}");
    let mut theirs = here();
    theirs.spec.as_mut().unwrap().claim_ref.as_mut().unwrap().uid = Some("c2".to_owned());
    assert!(said(&claiming("n1"), &with_claim("Bound", theirs)).contains("not bound to this PVC"));
    let elsewhere = said(&claiming("n2"), &with_claim("Bound", here()));
    assert!(elsewhere.contains("does not select the node"), "{elsewhere}");
    let nowhere = said(&claiming("n1"), &with_claim("Bound", volume(&root.join("nowhere"), false)));
    assert!(nowhere.ends_with("does not exist"), "{nowhere}");
}

#[test]
fn a_token_is_kept_in_memory_and_replaced_when_another_comes() {
    use oarlock_api::pod_token::{PodToken, Wanted};

    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(dir.path(), &dir.path().join("volumes"));
    let of = json!([{"name": "t", "projected": {"sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}}]);
    let missing = prepare(&volumes, of.clone(), json!({})).unwrap_err().to_string();
    assert!(missing.contains("no token of service account"), "{missing}");
    let with = |token: &str| {
        let mut snapshot = snapshot(json!({}));
        let key = ("u1".to_owned(), Wanted::new(None, Some(3607)).name());
        snapshot.pod_tokens.insert(key, Arc::new(PodToken { token: token.to_owned() }));
        volumes.prepare(&pod(of.clone()), &snapshot, &Place::default()).unwrap()
    };
    let paths = with("first");
    let read = |name: &str| fs::read_to_string(Path::new(&paths["t"]).join(name)).unwrap();
    assert_eq!((read("token").as_str(), read("namespace").as_str()), ("first", "d"));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(mounts.contains(&paths["t"]), "on a tmpfs");
    with("second");
    assert_eq!(read("token"), "second");
    volumes.remove("u1").unwrap();
}
