//! What is refused of volumes that other machines have, with upstream's words.

use serde_json::{Value, json};

use super::{pod, said};
use crate::catalogue::{PERSISTENT_VOLUMES, PODS};
use crate::defaults;

fn in_pod(source: &Value) -> Vec<String> {
    let mut volume = source.clone();
    volume["name"] = json!("v");
    said(&PODS, pod(json!({"containers": [{"name": "c", "image": "i"}], "volumes": [volume]})))
}

fn in_volume(source: &Value) -> Vec<String> {
    let mut spec = source.clone();
    spec["capacity"] = json!({"storage": "5Gi"});
    spec["accessModes"] = json!(["ReadWriteMany"]);
    said(&PERSISTENT_VOLUMES, json!({"metadata": {"name": "v"}, "spec": spec}))
}

#[test]
fn volumes_of_other_machines_are_taken_in_pods_and_volumes() {
    for source in [
        json!({"nfs": {"server": "NFS-SERVER-IP", "path": "/"}}),
        json!({"glusterfs": {"endpoints": "cluster", "path": "vol", "readOnly": true}}),
        json!({"iscsi": {"targetPortal": "10.0.2.15:3260", "iqn": "iqn.2001-04.com.example:storage.disk1", "lun": 0,
            "portals": ["10.0.2.16"], "fsType": "ext4", "chapAuthSession": true, "secretRef": {"name": "s"}}}),
        json!({"iscsi": {"targetPortal": "a", "iqn": "eui.0123456789abcdef", "lun": 255}}),
        json!({"iscsi": {"targetPortal": "a", "iqn": "naa.0123456789abcdef0123456789ABCDEF", "lun": 1}}),
        json!({"rbd": {"monitors": ["10.16.154.78:6789"], "image": "foo", "secretRef": {"name": "s"}}}),
    ] {
        assert_eq!((in_pod(&source), in_volume(&source)), (vec![], vec![]), "{source}");
    }
    let options = json!({"nfs": {"server": "s", "path": "/"}, "mountOptions": ["hard", "nfsvers=4.1"]});
    assert_eq!(in_volume(&options), [""; 0]);
    let options = json!({"hostPath": {"path": "/"}, "mountOptions": ["ro"]});
    let refused = "spec.mountOptions: Forbidden: is not supported by this version of Oarlock";
    assert_eq!(in_volume(&options), [refused]);
    let named = json!({"glusterfs": {"endpoints": "e", "path": "v", "endpointsNamespace": "other"}});
    assert_eq!(in_volume(&named), [""; 0]);
}

#[test]
fn what_they_need_is_asked_for() {
    let iscsi = |field: &str, value: Value| {
        let mut source = json!({"targetPortal": "p", "iqn": "iqn.2001-04.com.example:d", "lun": 0});
        source[field] = value;
        json!({"iscsi": source})
    };
    for (source, expected) in [
        (json!({"nfs": {"server": "", "path": "/"}}), "nfs.server: Required value"),
        (
            json!({"nfs": {"server": "s", "path": "x"}}),
            "nfs.path: Invalid value: \"x\": must be an absolute path",
        ),
        (json!({"glusterfs": {"endpoints": "", "path": "v"}}), "glusterfs.endpoints: Required value"),
        (json!({"glusterfs": {"endpoints": "e", "path": ""}}), "glusterfs.path: Required value"),
        (iscsi("targetPortal", json!("")), "iscsi.targetPortal: Required value"),
        (iscsi("iqn", json!("")), "iscsi.iqn: Required value"),
        (
            iscsi("iqn", json!("disk")),
            "iscsi.iqn: Invalid value: \"disk\": must be valid format starting with iqn, eui, or naa",
        ),
        (
            iscsi("iqn", json!("iqn.2001.com:d")),
            "iscsi.iqn: Invalid value: \"iqn.2001.com:d\": must be valid format",
        ),
        (iscsi("iqn", json!("eui.1")), "iscsi.iqn: Invalid value: \"eui.1\": must be valid format"),
        (iscsi("lun", json!(256)), "iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive"),
        (iscsi("chapAuthDiscovery", json!(true)), "iscsi.secretRef: Required value"),
        (
            iscsi("initiatorName", json!("iqn.2001-04.com.example:me")),
            "iscsi.initiatorName: Forbidden: is not supported by this version of Oarlock",
        ),
        (json!({"rbd": {"monitors": [], "image": "i"}}), "rbd.monitors: Required value"),
        (json!({"rbd": {"monitors": ["m"], "image": ""}}), "rbd.image: Required value"),
    ] {
        assert_eq!(in_pod(&source), [format!("spec.volumes[0].{expected}")]);
        assert_eq!(in_volume(&source), [format!("spec.{expected}")]);
    }
    let named = json!({"glusterfs": {"endpoints": "e", "path": "v", "endpointsNamespace": "Other"}});
    assert!(in_volume(&named)[0].starts_with("spec.glusterfs.endpointsNamespace: Invalid value: \"Other\""));
}

#[test]
fn interfaces_pools_and_users_have_upstreams_defaults() {
    let iscsi = json!({"iqn": "iqn.2001-04.com.example:d", "targetPortal": "p", "lun": 0});
    let rbd = json!({"monitors": ["m"], "image": "i"});
    let mut object =
        pod(json!({"containers": [], "volumes": [{"name": "a", "iscsi": iscsi}, {"name": "b", "rbd": rbd}]}));
    defaults::apply(&PODS, &mut object);
    let volumes = &object["spec"]["volumes"];
    assert_eq!(volumes[0]["iscsi"]["iscsiInterface"], "default");
    let rbd_of = |at: &Value| [at["pool"].clone(), at["user"].clone(), at["keyring"].clone()];
    let expected = [json!("rbd"), json!("admin"), json!("/etc/ceph/keyring")];
    assert_eq!(rbd_of(&volumes[1]["rbd"]), expected);
    let mut volume = json!({"metadata": {"name": "v"}, "spec": {"rbd": rbd}});
    defaults::apply(&PERSISTENT_VOLUMES, &mut volume);
    assert_eq!(rbd_of(&volume["spec"]["rbd"]), expected);
}
