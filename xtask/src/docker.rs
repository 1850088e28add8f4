//! A Docker daemon that answers: the machine's own, or one that we start (not every machine has systemd).

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::exec::{is_root, state, step, succeeds};

const SOCKET: &str = "/var/run/docker.sock";
/// The label of our images that says what they were made of.
pub(crate) const MADE_OF: &str = "oarlock.io/made-of";
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a daemon answers.
pub(crate) fn answers() -> bool {
    succeeds("curl", &["-sf", "-m", "5", "--unix-socket", SOCKET, "http://localhost/_ping"])
}

/// Starts a daemon when none answers. It changes nothing of the machine's network: no bridge, no packet filter rules.
pub(crate) fn ensure() -> Result<()> {
    if answers() {
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
            .args(["dockerd", "--host", &format!("unix://{SOCKET}"), "--bridge=none", "--iptables=false"])
            .args([
                "--ip6tables=false",
                "--ip-forward=false",
                "--ip-masq=false",
                "--exec-opt",
                "native.cgroupdriver=cgroupfs",
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start dockerd")?;
        let start = Instant::now();
        while !answers() {
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

/// Every container of any Oarlock node, by id.
pub(crate) fn containers() -> Vec<String> {
    let filter =
        "http://localhost/containers/json?all=1&filters=%7B%22label%22%3A%5B%22oarlock.io%2Fnode%22%5D%7D";
    let Ok(text) = crate::exec::output("curl", &["-sf", "-m", "20", "--unix-socket", SOCKET, filter]) else {
        return Vec::new();
    };
    let list: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let ids = list.as_array().into_iter().flatten().filter_map(|c| c["Id"].as_str().map(str::to_owned));
    ids.collect()
}

/// Removes a container, running or not.
pub(crate) fn remove(id: &str) {
    let url = format!("http://localhost/containers/{id}?force=1&v=1");
    let _ = crate::exec::output("curl", &["-s", "-m", "30", "-X", "DELETE", "--unix-socket", SOCKET, &url]);
}

/// What an image that is present was made of.
pub(crate) fn image_made_of(name: &str) -> Option<String> {
    let url = format!("http://localhost/images/{name}/json");
    let text = crate::exec::output("curl", &["-sf", "-m", "10", "--unix-socket", SOCKET, &url]).ok()?;
    let image: serde_json::Value = serde_json::from_str(&text).ok()?;
    Some(image["Config"]["Labels"][MADE_OF].as_str().unwrap_or_default().to_owned())
}

/// Imports an archive as `docker save` writes it.
pub(crate) fn load(archive: &Path) -> Result<()> {
    let data = format!("@{}", archive.display());
    let url = "http://localhost/images/load?quiet=1";
    let arguments = [
        "-sf",
        "-m",
        "120",
        "-X",
        "POST",
        "--unix-socket",
        SOCKET,
        "-H",
        "Content-Type: application/x-tar",
        "--data-binary",
        &data,
        url,
    ];
    crate::exec::output("curl", &arguments).map(drop).context("Docker refused the image archive")
}
