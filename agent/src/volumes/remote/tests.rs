//! Volumes of other machines on a host whose helpers are scripts. What is mounted is mounted: needs root, disks need loop devices.

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use oarlock_api::k8s::api::core::v1::{PersistentVolume, Pod};
use serde_json::{Value, json};

use super::super::{Volumes, unmount_below};
use super::*;
use crate::desired::Snapshot;
use crate::plan::downward::Place;

/// Mounts a file system in memory where it is told to.
const MOUNTS: &str = "for place; do :; done; exec /bin/mount -t tmpfs -o size=1m none \"$place\"";

struct Node {
    pretended: Pretended,
    volumes: Volumes,
    snapshot: Snapshot,
    dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let (pretended, dir) = (Pretended::new(), tempfile::tempdir().unwrap());
        let volumes = Volumes::new(dir.path(), &dir.path().join("claims")).on(pretended.host());
        Self { pretended, volumes, snapshot: Snapshot::default(), dir }
    }

    fn pod(&self, uid: &str, volume: &Value) -> Pod {
        let mut volume = volume.clone();
        volume["name"] = json!("v");
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": uid},
            "spec": {"containers": [{"name": "c"}], "volumes": [volume], "securityContext": {"fsGroup": 77}}}))
        .unwrap()
    }

    /// A claim of a volume with this spec, as a pod's volume.
    fn claim(&mut self, mut spec: Value, read_only: bool) -> Value {
        spec["claimRef"] = json!({"namespace": "d", "name": "c", "uid": "c1"});
        let volume: PersistentVolume =
            serde_json::from_value(json!({"metadata": {"name": "pv1"}, "spec": spec})).unwrap();
        self.snapshot.persistent_volumes.insert((String::new(), "pv1".into()), Arc::new(volume));
        let claim =
            json!({"metadata": {"uid": "c1"}, "spec": {"volumeName": "pv1"}, "status": {"phase": "Bound"}});
        self.snapshot
            .claims
            .insert(("d".into(), "c".into()), Arc::new(serde_json::from_value(claim).unwrap()));
        json!({"persistentVolumeClaim": {"claimName": "c", "readOnly": read_only}})
    }

    fn secret(&mut self, name: &str, data: &[(&str, &str)]) {
        let data = data
            .iter()
            .map(|(key, value)| ((*key).to_owned(), oarlock_api::k8s::ByteString(value.as_bytes().to_vec())));
        let secret =
            oarlock_api::k8s::api::core::v1::Secret { data: Some(data.collect()), ..Default::default() };
        self.snapshot.secrets.insert(("d".into(), name.into()), Arc::new(secret));
    }

    /// Mounts what a pod has; the path of its volume.
    async fn mount(&self, uid: &str, volume: &Value) -> Result<PathBuf, String> {
        let pod = self.pod(uid, volume);
        let wanted = self.volumes.remote(&pod, &self.snapshot).map_err(|e| e.to_string())?;
        if let Some(error) = self.volumes.mount_remote(uid, &wanted).await.into_iter().next() {
            return Err(error.to_string());
        }
        let paths = self.volumes.prepare(&pod, &self.snapshot, &Place::default());
        paths.map(|paths| PathBuf::from(&paths["v"])).map_err(|e| e.to_string())
    }

    async fn remove(&self, uid: &str) {
        self.volumes.unmount_remote(uid).await.unwrap();
        self.volumes.remove(uid).unwrap();
        assert!(!self.volumes.pod_dir(uid).exists());
    }

    /// What helpers were told, with `DATA` for the agent's folder.
    fn told(&self) -> String {
        self.pretended.told().replace(&self.dir.path().display().to_string(), "DATA")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // What a test that failed has left.
        let _ = unmount_below(self.dir.path());
    }
}

fn nfs() -> Value {
    json!({"nfs": {"server": "10.2.2.2", "path": "/somepath"}})
}

#[tokio::test]
async fn an_export_is_mounted_once_and_what_is_on_it_outlives_the_pod() {
    let mut node = Node::new();
    // Not even a test deletes what a server has.
    let export = node.pretended.path("export");
    fs::create_dir(&export).unwrap();
    let bind = format!("for place; do :; done; exec /bin/mount --bind {} \"$place\"", export.display());
    node.pretended.helper("mount.nfs", "").helper("mount", &bind);
    let place = node.mount("u1", &nfs()).await.unwrap();
    let told = "mount -t nfs -- 10.2.2.2:/somepath DATA/pods/u1/volumes/kubernetes.io~nfs/v\n";
    assert_eq!(node.told(), told);
    fs::write(place.join("kept"), "1").unwrap();
    let group = fs::metadata(place.join("kept")).unwrap().gid();
    // As after an agent that was killed: what is mounted is known by the kernel alone.
    node.volumes = Volumes::new(node.dir.path(), &node.dir.path().join("claims")).on(node.pretended.host());
    assert_eq!(node.mount("u1", &nfs()).await.unwrap(), place);
    assert_eq!((node.told().as_str(), group), ("", 0), "once, and an export keeps its owners");
    node.remove("u1").await;
    assert_eq!(fs::read_to_string(export.join("kept")).unwrap(), "1");

    let volume = node.claim(
        json!({"nfs": {"server": "fd00::1", "path": "/p"}, "mountOptions": ["nfsvers=4.1", "hard"]}),
        true,
    );
    node.mount("u2", &volume).await.unwrap();
    let told =
        "mount -t nfs -o hard,nfsvers=4.1,ro -- [fd00::1]:/p DATA/pods/u2/volumes/kubernetes.io~nfs/v\n";
    assert_eq!(node.told(), told);
    node.remove("u2").await;
}

#[tokio::test]
async fn what_the_node_lacks_is_said_with_its_remedy_and_nothing_stays() {
    let mut node = Node::new();
    let said = "MountVolume.SetUp failed for volume \"v\" : mount failed: this node has no mount.nfs: install nfs-common on it";
    assert_eq!(node.mount("u1", &nfs()).await.unwrap_err(), said);
    node.pretended.helper("mount.nfs", "").helper("mount", "echo mount.nfs: Connection refused >&2; exit 32");
    let volume = node.claim(json!({"nfs": {"server": "s", "path": "/"}}), false);
    let said = "MountVolume.SetUp failed for volume \"pv1\" : mount failed: exit status 32\nMounting command: mount\n\
        Mounting arguments: -t nfs -- s:/ DATA/pods/u1/volumes/kubernetes.io~nfs/v\nOutput: mount.nfs: Connection refused\n";
    let error = node.mount("u1", &volume).await.unwrap_err();
    assert_eq!(error.replace(&node.dir.path().display().to_string(), "DATA"), said);
    node.pretended.write("lib/modules/6.1.0/modules.dep", "");
    let error = node.mount("u1", &nfs()).await.unwrap_err();
    let said = "the kernel of this node has no NFS client: it has none built in and no module nfs; use a kernel with it";
    assert!(error.ends_with(said), "{error}");
    node.pretended.write("proc/filesystems", "nodev\tnfs4\n");
    assert!(node.mount("u1", &nfs()).await.unwrap_err().contains("exit status 32"), "it is built in");
    for (plugin, package) in
        [("glusterfs", "glusterfs-client"), ("iscsi", "open-iscsi"), ("rbd", "ceph-common")]
    {
        let lacks = node.pretended.host().lacks(plugin).unwrap_err();
        assert!(lacks.contains(package), "{lacks}");
    }
    assert!(!node.volumes.pod_dir("u1").join("volumes/kubernetes.io~nfs/v").exists());
    node.remove("u1").await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up_and_who_asked_it_is_ended() {
    let node = Node::new();
    node.pretended.helper("mount.nfs", "").helper("mount", "echo waiting; sleep 1000 & echo $! > asks; wait");
    let volumes = Volumes::new(node.dir.path(), node.dir.path()).on(node.pretended.impatient());
    let wanted = volumes.remote(&node.pod("u1", &nfs()), &node.snapshot).unwrap();
    let failures = volumes.mount_remote("u1", &wanted).await;
    let said = failures[0].to_string();
    assert!(said.contains("mount failed: no answer within 0s: is the server there?"), "{said}");
    assert!(said.contains("Output: waiting"), "{said}");
    let asks = || fs::read_to_string(node.pretended.path("asks")).unwrap().trim().to_owned();
    let first = asks();
    let waits = node.volumes.mount_remote("u1", &wanted);
    assert!(tokio::time::timeout(std::time::Duration::from_millis(300), waits).await.is_err());
    for asked in [first, asks()] {
        let state = || fs::read_to_string(format!("/proc/{asked}/stat")).unwrap_or_default();
        let ended = async {
            while !(state().is_empty() || state().contains(") Z ")) {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        let ended = tokio::time::timeout(std::time::Duration::from_secs(5), ended).await;
        assert!(ended.is_ok(), "what the helper started is ended with it: {}", state());
    }
    node.remove("u1").await;
}

#[tokio::test]
async fn servers_of_glusterfs_are_those_of_a_service_or_of_endpoints() {
    let mut node = Node::new();
    node.pretended.helper("mount.glusterfs", "").helper("mount", MOUNTS);
    let volume = json!({"glusterfs": {"endpoints": "cluster", "path": "vol", "readOnly": true}});
    let said =
        "MountVolume.NewMounter initialization failed for volume \"v\" : endpoints \"cluster\" not found";
    assert_eq!(node.mount("u1", &volume).await.unwrap_err(), said);
    let key = |name: &str| ("d".to_owned(), name.to_owned());
    let none = serde_json::from_value(json!({"metadata": {}})).unwrap();
    node.snapshot.endpoints.insert(key("cluster"), Arc::new(none));
    assert!(node.mount("u1", &volume).await.unwrap_err().contains("no valid ipaddress found"));
    let written =
        json!({"metadata": {}, "subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]}]});
    node.snapshot.endpoints.insert(key("cluster"), Arc::new(serde_json::from_value(written).unwrap()));
    node.mount("u1", &volume).await.unwrap();
    assert_eq!(
        node.told(),
        "mount -t glusterfs -o auto_unmount,backup-volfile-servers=10.0.0.1:10.0.0.2,log-file=DATA/pods/u1/glusterfs-v.log,\
         log-level=ERROR,ro -- 10.0.0.1:vol DATA/pods/u1/volumes/kubernetes.io~glusterfs/v\n"
    );
    let slice = json!({"metadata": {"labels": {"kubernetes.io/service-name": "cluster"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.3"]}, {"addresses": ["10.0.0.1"]}]});
    node.snapshot.endpoint_slices.insert(key("x"), Arc::new(serde_json::from_value(slice).unwrap()));
    node.mount("u2", &volume).await.unwrap();
    assert!(node.told().contains("backup-volfile-servers=10.0.0.3:10.0.0.1:10.0.0.2,"));
    let fails = "log=$(echo \"$*\" | sed 's/.*log-file=//;s/,.*//'); echo '[t] E [MSGID: 1] 0-vol: no such volume' > $log; exit 1";
    node.pretended.helper("mount", fails);
    let error = node.mount("u3", &volume).await.unwrap_err();
    assert!(error.contains("pulled from the glusterfs log") && error.ends_with("no such volume"), "{error}");
    for uid in ["u1", "u2", "u3"] {
        node.remove(uid).await;
    }
}

/// What a target does: a disk of a file, which appears after a login.
const ISCSIADM: &str = "case \"$*\" in
*--login) ln -s $(/sbin/losetup --find --show disk) \"dev/disk/by-path/ip-10.0.0.9:3260-iscsi-iqn.2001-04.com.example:d-lun-3\";;
*--logout) /sbin/losetup --detach $(readlink dev/disk/by-path/*) && rm dev/disk/by-path/*;;
esac";

#[tokio::test]
async fn a_disk_over_iscsi_is_attached_formatted_shared_given_away_and_detached() {
    let mut node = Node::new();
    node.pretended.helper("iscsiadm", ISCSIADM);
    for program in ["mount", "blkid", "mkfs.ext4", "fsck"] {
        node.pretended.real(program);
    }
    fs::File::create(node.pretended.path("disk")).unwrap().set_len(16 << 20).unwrap();
    node.secret("chap", &[("node.session.auth.username", "me"), ("node.session.auth.password", "secret")]);
    let volume = node.claim(
        json!({"iscsi": {"targetPortal": "10.0.0.9", "iqn": "iqn.2001-04.com.example:d", "lun": 3,
            "chapAuthSession": true, "secretRef": {"name": "chap"}}, "mountOptions": ["noatime"]}),
        false,
    );
    let first = node.mount("u1", &volume).await.unwrap();
    let node_of = "-m node -p 10.0.0.9:3260 -T iqn.2001-04.com.example:d -I default";
    let discovery = "-m discoverydb -t sendtargets -p 10.0.0.9:3260 -I default";
    let golden = format!(
        "iscsiadm {discovery} -o new\niscsiadm {discovery} --discover\n\
         iscsiadm {node_of} -o update -n node.session.auth.authmethod -v CHAP\n\
         iscsiadm {node_of} -o update -n node.session.auth.username -v me\n\
         iscsiadm {node_of} -o update -n node.session.auth.password -v secret\n\
         iscsiadm {node_of} -o update -n node.startup -v manual\niscsiadm {node_of} --login\n"
    );
    assert_eq!(node.told(), golden);
    let root = fs::metadata(&first).unwrap();
    assert_eq!((root.gid(), root.mode() & 0o7777), (77, 0o2775), "ext4's root, given to fsGroup");
    fs::write(first.join("shared"), "1").unwrap();
    let read_only = json!({"persistentVolumeClaim": {"claimName": "c", "readOnly": true}});
    let second = node.mount("u2", &read_only).await.unwrap();
    assert_eq!(node.told(), "", "it is attached");
    assert_eq!(fs::read_to_string(second.join("shared")).unwrap(), "1");
    assert!(fs::write(second.join("shared"), "2").is_err(), "read-only for this pod");
    node.remove("u1").await;
    assert_eq!((node.told().as_str(), second.join("shared").exists()), ("", true), "another pod has it");
    // An agent that was killed knows from what it wrote down what is attached.
    node.volumes = Volumes::new(node.dir.path(), &node.dir.path().join("claims")).on(node.pretended.host());
    node.remove("u2").await;
    let sessions = "-m node -p 10.0.0.9:3260 -T iqn.2001-04.com.example:d";
    assert_eq!(node.told(), format!("iscsiadm {sessions} --logout\niscsiadm {sessions} -o delete\n"));
    assert_eq!(fs::read_dir(disks(node.dir.path())).unwrap().count(), 0);
    let third = node.mount("u3", &volume).await.unwrap();
    assert_eq!(
        fs::read_to_string(third.join("shared")).unwrap(),
        "1",
        "what was there is not formatted anew"
    );
    node.remove("u3").await;
}

#[tokio::test]
async fn an_image_of_ceph_is_mapped_unless_another_node_has_it_and_its_key_is_not_shown() {
    let mut node = Node::new();
    node.pretended.helper("rbd", "case $1 in
        status) cat \"${7#--keyfile=}\" > seen; cat watchers;;
        map) mkdir -p sys/bus/rbd/devices/0; for f in pool:kube name:foo current_snap:-; do echo ${f#*:} > sys/bus/rbd/devices/0/${f%:*}; done
            ln -s $(/sbin/losetup --find --show disk) dev/rbd0;;
        unmap) /sbin/losetup --detach $(readlink dev/rbd0) && rm -r dev/rbd0 sys/bus/rbd/devices/0;;
        esac");
    for program in ["mount", "blkid", "mkfs.ext4", "fsck"] {
        node.pretended.real(program);
    }
    fs::File::create(node.pretended.path("disk")).unwrap().set_len(16 << 20).unwrap();
    node.pretended.write("watchers", "Watchers:\n\twatcher=10.0.0.4:0/1 client.1 cookie=1\n");
    let volume = json!({"rbd": {"monitors": ["10.0.0.1:6789", "10.0.0.2:6789"], "pool": "kube", "image": "foo",
        "user": "admin", "keyring": "/etc/ceph/keyring", "fsType": "ext4", "secretRef": {"name": "ceph"}}});
    let said = "MountVolume.NewMounter initialization failed for volume \"v\" : secret \"d/ceph\" not found";
    assert_eq!(node.mount("u1", &volume).await.unwrap_err(), said);
    node.secret("ceph", &[("key", "AQ==\n")]);
    let said = "MountVolume.WaitForAttach failed for volume \"v\" : rbd image kube/foo is still being used";
    assert_eq!(node.mount("u1", &volume).await.unwrap_err(), said);
    node.told();
    node.pretended.write("watchers", "Watchers: none\n");
    let place = node.mount("u1", &volume).await.unwrap();
    fs::write(place.join("file"), "1").unwrap();
    let of = "--pool=kube --image=foo --id=admin -m 10.0.0.1:6789,10.0.0.2:6789 \
        --keyfile=DATA/plugins/rbd-kube-image-foo/key";
    assert_eq!(node.told(), format!("rbd status {of}\nrbd map {of}\n"));
    assert_eq!(fs::read_to_string(node.pretended.path("seen")).unwrap(), "AQ==");
    assert!(!node.dir.path().join("plugins/rbd-kube-image-foo/key").exists(), "nobody reads it any more");
    node.remove("u1").await;
    assert_eq!(node.told(), "rbd unmap ROOT/dev/rbd0\n");
    node.secret("ceph", &[]);
    assert!(node.mount("u1", &volume).await.unwrap_err().contains("has no key"));
}
