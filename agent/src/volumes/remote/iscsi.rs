//! Disks over iSCSI, by open-iscsi's iscsiadm.
//!
//! Source: k8s.io/kubernetes/pkg/volume/iscsi/iscsi_util.go.

use std::path::PathBuf;
use std::time::Duration;

use super::host::Host;
use super::requests::{discovery, node, sessions};
use super::source::{Chap, Iscsi};

/// How long a disk may take to appear after a login.
const APPEARS: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);
/// How iscsiadm says that somebody has logged in already.
const SESSION_EXISTS: i32 = 15;
/// How it says that there is no such session or record.
const NO_OBJECTS: i32 = 21;

/// Logs in at the first portal that answers; the disk.
pub(super) async fn attach(host: &Host, disk: &Iscsi, chap: &Chap) -> Result<PathBuf, String> {
    let mut last = String::new();
    for portal in &disk.portals {
        if let Some(device) = device(host, disk, portal) {
            return Ok(device);
        }
        match log_in(host, disk, chap, portal).await {
            Ok(device) => return Ok(device),
            Err(why) => last = why,
        }
    }
    Err(format!("failed to get any path for iscsi disk, last err seen:\n{last}"))
}

async fn log_in(host: &Host, disk: &Iscsi, chap: &Chap, portal: &str) -> Result<PathBuf, String> {
    let run = async |arguments: Vec<String>| host.run("iscsiadm", &arguments).await;
    let update = |name: &str, value: &str| -> Vec<String> {
        ["-o", "update", "-n", name, "-v", value].map(str::to_owned).to_vec()
    };
    let begun = run(discovery(disk, portal, &["-o", "new"])).await;
    begun.map_err(|e| format!("failed to create new discovery record, output: {}", e.output))?;
    let mut settings: Vec<(String, String)> = Vec::new();
    if !chap.discovery.is_empty() {
        settings.push(("discovery.sendtargets.auth.authmethod".to_owned(), "CHAP".to_owned()));
        settings.extend(chap.discovery.iter().cloned());
    }
    for (name, value) in &settings {
        let words = update(name, value);
        let set = run(discovery(disk, portal, &words.iter().map(String::as_str).collect::<Vec<_>>())).await;
        // Not what was told: it may be a password.
        set.map_err(|e| format!("failed to update discovery record with {name}: {}", e.why))?;
    }
    if let Err(failure) = run(discovery(disk, portal, &["--discover"])).await {
        let _ = run(discovery(disk, portal, &["-o", "delete"])).await;
        return Err(format!(
            "failed to sendtargets to portal {portal} output: {}, err {}",
            failure.output.trim_end(),
            failure.why
        ));
    }
    let mut settings: Vec<(String, String)> = Vec::new();
    if !chap.session.is_empty() {
        settings.push(("node.session.auth.authmethod".to_owned(), "CHAP".to_owned()));
        settings.extend(chap.session.iter().cloned());
    }
    // Who logs in at the machine's start is not the machine's business but ours.
    settings.push(("node.startup".to_owned(), "manual".to_owned()));
    for (name, value) in &settings {
        let words = update(name, value);
        let set = run(node(disk, portal, &words.iter().map(String::as_str).collect::<Vec<_>>())).await;
        set.map_err(|e| format!("failed to update node with {name}: {}", e.why))?;
    }
    match run(node(disk, portal, &["--login"])).await {
        Ok(_) => {}
        Err(failure) if failure.code == Some(SESSION_EXISTS) => {
            let seen = run(sessions(&disk.iqn, portal, &["-R"])).await;
            seen.map_err(|e| format!("failed to rescan session: {} ({})", e.output.trim_end(), e.why))?;
        }
        Err(failure) => {
            let _ = run(node(disk, portal, &["-o", "delete"])).await;
            return Err(format!(
                "failed to attach disk: Error: {} ({})",
                failure.output.trim_end(),
                failure.why
            ));
        }
    }
    let appears = async {
        loop {
            match device(host, disk, portal) {
                Some(device) => break device,
                None => tokio::time::sleep(LOOK).await,
            }
        }
    };
    let appeared = tokio::time::timeout(APPEARS, appears).await;
    appeared.map_err(|_| format!("Could not attach disk: Timeout after {}s", APPEARS.as_secs()))
}

/// The disk, once udev has named it. The name begins with the card that it came by, where there is one.
fn device(host: &Host, disk: &Iscsi, portal: &str) -> Option<PathBuf> {
    let name = format!("ip-{portal}-iscsi-{}-lun-{}", disk.iqn, disk.lun);
    let all = std::fs::read_dir(host.root.join("dev/disk/by-path")).ok()?.flatten();
    all.into_iter().map(|entry| entry.path()).find(|path| {
        let found = path.file_name().unwrap_or_default().to_string_lossy();
        found == name || (found.starts_with("pci-") && found.ends_with(&format!("-{name}")))
    })
}

/// Logs out of the target; no session is none to end.
pub(super) async fn detach(host: &Host, disk: &Iscsi) -> Result<(), String> {
    for portal in &disk.portals {
        for what in [&["--logout"][..], &["-o", "delete"]] {
            match host.run("iscsiadm", &sessions(&disk.iqn, portal, what)).await {
                Err(failure) if failure.code != Some(NO_OBJECTS) => {
                    return Err(format!(
                        "iscsi: failed to detach disk Error: {} ({})",
                        failure.output.trim_end(),
                        failure.why
                    ));
                }
                _ => {}
            }
        }
    }
    Ok(())
}
