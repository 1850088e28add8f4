//! A control plane on free ports, with a folder of its own; ends with the test.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use oarlock_tests::cluster::{build, root, shell, wait};

pub(super) struct Server {
    process: Child,
    folder: tempfile::TempDir,
}

impl Server {
    pub(super) fn start() -> Self {
        build();
        let folder = tempfile::tempdir().unwrap();
        let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [secure, agents] = ports.map(|port| port.local_addr().unwrap().port().to_string());
        let mut command = Command::new(root().join("target/debug/oarlock-control"));
        command.args(["--log", "warn", "serve", "--bind-address", "127.0.0.1", "--secure-port", &secure]);
        command.args(["--agent-port", &agents, "--data-dir"]).arg(folder.path());
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let server = Self { process: command.spawn().unwrap(), folder };
        let ready = format!("kubectl --kubeconfig {} get --raw /readyz", server.kubeconfig().display());
        wait("the control plane is ready", Duration::from_secs(60), || {
            let said = shell(&ready);
            if said.well { Ok(()) } else { Err(said.text) }
        });
        server
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.folder().join("admin.kubeconfig")
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
