//! The documents that this project began with, command by command: every kind of object and every kubectl command that they name,
//! on real nodes with etcd, with `manifests/seed`. Needs root.
//!
//! The checks are a script (`checks.sh`), as they are what people type. Local images stand in under the names that the manifests use.

use oarlock_tests::cluster::{Cluster, shell};

/// Images, and the local ones that stand in for them.
const STAND_INS: [(&str, &str); 5] = [
    ("kubeguide/tomcat-app:v1", "oarlock/web:0.1.0"),
    ("mysql:latest", "oarlock/toolbox:0.1.0"),
    ("nginx:latest", "oarlock/web:0.1.0"),
    ("nginx:1.12.2", "oarlock/web:0.1.0"),
    ("k8s.gcr.io/test-webserver:latest", "oarlock/web:0.1.0"),
];

/// Names given to local images, taken back in the end; images that the machine has under these names are used as they are.
struct StandIns(Vec<&'static str>);

impl StandIns {
    fn give() -> Self {
        let missing =
            STAND_INS.into_iter().filter(|(name, _)| !shell(&format!("docker image inspect {name}")).well);
        let given = missing.map(|(name, local)| {
            let said = shell(&format!("docker tag {local} {name}"));
            assert!(said.well, "{}", said.text);
            name
        });
        Self(given.collect())
    }
}

impl Drop for StandIns {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = shell(&format!("docker image rm --force {name}"));
        }
    }
}

#[test]
fn every_command_and_kind_of_the_seed_works() {
    let cluster = Cluster::up("etcd", "best-effort");
    let images = StandIns::give();
    let said = cluster.shell("PATH=$PATH:$PWD/target/debug bash tests/tests/seed/checks.sh");
    assert!(said.well, "{}", said.text);
    cluster.down();
    drop(images);
}
