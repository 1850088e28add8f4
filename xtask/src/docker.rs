//! Docker daemons: the machine's own, or one that we start (not every machine has systemd), and [one for each node](own).

pub(crate) mod own;

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::exec::{is_root, output, state, step};

const SOCKET: &str = "/var/run/docker.sock";
/// The label of our images that says what they were made of.
pub(crate) const MADE_OF: &str = "oarlock.io/made-of";
const PATIENCE: Duration = Duration::from_secs(60);

/// What keeps a daemon from changing anything of the network where it is: no bridge, no packet filter rules.
const WITHOUT_NETWORK: [&str; 7] = [
    "--bridge=none",
    "--iptables=false",
    "--ip6tables=false",
    "--ip-forward=false",
    "--ip-masq=false",
    "--exec-opt",
    "native.cgroupdriver=cgroupfs",
];

/// A daemon that listens at a socket.
#[derive(Debug)]
pub(crate) struct Docker {
    pub(crate) socket: String,
}

/// The machine's.
pub(crate) fn machine() -> Docker {
    Docker { socket: SOCKET.to_owned() }
}

/// Starts the machine's daemon when none answers.
pub(crate) fn ensure() -> Result<()> {
    let machine = machine();
    if machine.answers() {
        return Ok(());
    }
    if !is_root() {
        bail!("no Docker daemon answers at {SOCKET}: start one, or run this as root");
    }
    step("starting dockerd", || {
        // A daemon that was killed leaves these behind, and a new one would take them for a running one.
        for stale in ["/var/run/docker.pid", SOCKET, "/var/run/docker/containerd/containerd.pid"] {
            let _ = std::fs::remove_file(stale);
        }
        let folder = state();
        std::fs::create_dir_all(&folder)?;
        let log = File::create(folder.join("dockerd.log"))?;
        let mut child = Command::new("setsid")
            .args(["dockerd", "--host", &format!("unix://{SOCKET}")])
            .args(WITHOUT_NETWORK)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start dockerd")?;
        let start = Instant::now();
        while !machine.answers() {
            if let Some(status) = child.try_wait()?
                && !status.success()
            {
                bail!("dockerd ended ({status}); its log is {}", folder.join("dockerd.log").display());
            }
            if start.elapsed() > PATIENCE {
                bail!(
                    "dockerd does not answer after {PATIENCE:?}; its log is {}",
                    folder.join("dockerd.log").display()
                );
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    })
}

impl Docker {
    /// Whether it answers.
    pub(crate) fn answers(&self) -> bool {
        self.ask("5", &["http://localhost/_ping"]).is_ok()
    }

    fn ask(&self, seconds: &str, more: &[&str]) -> Result<String> {
        let common = ["-sf", "-m", seconds, "--unix-socket", &self.socket];
        output("curl", &[&common[..], more].concat())
    }

    /// Removes every container of any Oarlock node, running or not.
    pub(crate) fn remove_containers(&self) {
        let filter = "http://localhost/containers/json?all=1&filters=%7B%22label%22%3A%5B%22oarlock.io%2Fnode%22%5D%7D";
        let Ok(text) = self.ask("20", &[filter]) else { return };
        let list: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        for id in list.as_array().into_iter().flatten().filter_map(|container| container["Id"].as_str()) {
            let url = format!("http://localhost/containers/{id}?force=1&v=1");
            let _ = self.ask("30", &["-X", "DELETE", &url]);
        }
    }

    /// What an image that is present was made of.
    pub(crate) fn image_made_of(&self, name: &str) -> Option<String> {
        let text = self.ask("10", &[&format!("http://localhost/images/{name}/json")]).ok()?;
        let image: serde_json::Value = serde_json::from_str(&text).ok()?;
        Some(image["Config"]["Labels"][MADE_OF].as_str().unwrap_or_default().to_owned())
    }

    /// Imports an archive as `docker save` writes it.
    pub(crate) fn load(&self, archive: &Path) -> Result<()> {
        let (data, kind) = (format!("@{}", archive.display()), "Content-Type: application/x-tar");
        let url = "http://localhost/images/load?quiet=1";
        let asked = self.ask("120", &["-X", "POST", "-H", kind, "--data-binary", &data, url]);
        asked.map(drop).context("Docker refused the image archive")
    }

    /// Writes images to an archive that [`Self::load`] takes.
    pub(crate) fn save(&self, names: &[String], archive: &Path) -> Result<()> {
        let url = format!("http://localhost/images/get?names={}", names.join("&names="));
        let asked = self.ask("120", &["-o", &archive.display().to_string(), &url]);
        asked.map(drop).context("Docker did not give the images")
    }
}
