//! A volume that a server of GlusterFS has: shared by pods of two nodes, unmounted though the agent was killed meanwhile, and nobody is
//! held by a server that does not answer.

use std::path::PathBuf;

use oarlock_tests::cluster::{Cluster, MACHINE, shell, wait};

use super::{SOON, becomes, words};

/// A server on the machine's address of the fabric, with data and sockets of its own.
struct Server {
    folder: PathBuf,
}

impl Server {
    fn start() -> Self {
        let server = Self { folder: Cluster::folder().join("gluster") };
        let folder = server.folder.display().to_string();
        let settings = format!(
            "volume management\n type mgmt/glusterd\n option working-directory {folder}/work\n option run-directory {folder}/run\n \
             option transport-type socket\n option transport.socket.bind-address {MACHINE}\n \
             option transport.socket.listen-port 24007\n option glusterd-sockfile {folder}/socket\nend-volume\n"
        );
        let _ = shell(&format!("rm -rf {folder}; mkdir -p {folder}/work {folder}/run {folder}/brick"));
        assert!(std::fs::write(server.folder.join("glusterd.vol"), settings).is_ok(), "the folder is ours");
        let said = shell(&format!(
            "glusterd --volfile={folder}/glusterd.vol --pid-file={folder}/glusterd.pid --log-file={folder}/glusterd.log"
        ));
        assert!(said.well, "these tests need glusterd (cargo xtask setup): {}", said.text);
        wait("the server answers", SOON, || server.ask("volume list"));
        let create = format!("volume create shared {MACHINE}:{folder}/brick force");
        for what in [create.as_str(), "volume start shared"] {
            assert_eq!(server.ask(what), Ok(()), "{what}");
        }
        server
    }

    fn ask(&self, what: &str) -> Result<(), String> {
        let socket = self.folder.join("socket");
        let said = shell(&format!("gluster --mode=script --glusterd-sock={} {what}", socket.display()));
        if said.well { Ok(()) } else { Err(said.text) }
    }

    /// Sends all of the server's processes a signal.
    fn signal(&self, signal: &str) {
        let folder = self.folder.display();
        let _ = shell(&format!("kill -{signal} $(cat {folder}/glusterd.pid {folder}/run/vols/shared/*.pid)"));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal("CONT");
        self.signal("KILL");
        let log = self.folder.join("brick").display().to_string().replace('/', "-");
        let _ =
            shell(&format!("rm -rf {} /var/log/glusterfs/bricks/{}.log", self.folder.display(), &log[1..]));
    }
}

pub(super) fn a_volume_of_a_server_is_shared(cluster: &Cluster) {
    let server = Server::start();
    cluster.kubectl("apply -f manifests/network-volumes/");
    let written = || {
        let brick = std::fs::read_dir(server.folder.join("brick")).into_iter().flatten().flatten();
        let mut names: Vec<String> = brick.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        names
    };
    wait("pods of both nodes have written", SOON, || {
        if written() == ["node1", "node2"] {
            Ok(())
        } else {
            Err(cluster.kubectl("describe pods -l app=writers"))
        }
    });
    becomes(cluster, "daemonset writers", "{.status.numberReady}", &["2"]);
    assert_eq!(clients(), 2, "one on each node: {}", mounts());
    let pod = words(cluster, "pods -l app=writers", "{.items[0].metadata.name}").remove(0);
    let seen = cluster.kubectl(&format!("exec {pod} -- ls /shared"));
    assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), ["node1", "node2"], "each sees the other's file");
    nobody_is_held_by_a_server_that_does_not_answer(cluster, &server);
    an_agent_that_was_killed_unmounts(cluster);
    cluster.kubectl("delete -f manifests/network-volumes/ --ignore-not-found");
    wait("nothing is mounted", SOON, || if clients() == 0 { Ok(()) } else { Err(mounts()) });
    assert_eq!(written(), ["node1", "node2"], "the server's files stay");
}

/// What nodes have mounted of the server.
fn mounts() -> String {
    shell("grep fuse.glusterfs /proc/self/mounts").text
}

fn clients() -> usize {
    mounts().lines().count()
}

fn nobody_is_held_by_a_server_that_does_not_answer(cluster: &Cluster, server: &Server) {
    server.signal("STOP");
    let pod = |name: &str, volumes: serde_json::Value| {
        serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
            "nodeName": "node1", "terminationGracePeriodSeconds": 1, "volumes": volumes,
            "containers": [{"name": "web", "image": "oarlock/web:0.1.0"}]}})
    };
    let volume = serde_json::json!([{"name": "v", "glusterfs": {"endpoints": "storage", "path": "shared"}}]);
    let (waits, runs) = (pod("waits", volume), pod("runs", serde_json::json!([])));
    cluster.kubectl(&format!("apply -f - <<'END'\n{waits}\n---\n{runs}\nEND"));
    becomes(cluster, "pod runs", "{.status.phase}", &["Running"]);
    assert_eq!(words(cluster, "pod waits", "{.status.phase}"), ["Pending"]);
    // Its own volume is not there yet, that of the other is and does not answer.
    let writer =
        words(cluster, "pods -l app=writers", "{.items[?(@.spec.nodeName==\"node1\")].metadata.name}")
            .remove(0);
    cluster.kubectl(&format!("delete pod waits runs {writer} --timeout=30s"));
    server.signal("CONT");
    becomes(cluster, "daemonset writers", "{.status.numberReady}", &["2"]);
    assert_eq!(clients(), 2, "who is gone mounts nothing any more: {}", mounts());
}

fn an_agent_that_was_killed_unmounts(cluster: &Cluster) {
    cluster.signal("node2", "KILL");
    cluster.kubectl("delete daemonset writers --wait=false");
    wait("the other node has unmounted", SOON, || if clients() == 1 { Ok(()) } else { Err(mounts()) });
    cluster.up_again();
    becomes(cluster, "pods -l app=writers", "{.items[*].metadata.name}", &[]);
    wait("so has this one", SOON, || if clients() == 0 { Ok(()) } else { Err(mounts()) });
}
