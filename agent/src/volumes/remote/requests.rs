//! What helpers are told: the words of kubelet's plugins. Pure.

use std::collections::BTreeSet;
use std::path::Path;

use super::source::{Access, Glusterfs, Iscsi, Rbd, Remote};

/// `mount -t nfs`.
pub(super) fn nfs(server: &str, path: &str, remote: &Remote, place: &Path) -> Vec<String> {
    // An IPv6 address has colons of its own.
    let is_v6 = server.parse::<std::net::Ipv6Addr>().is_ok();
    let source = if is_v6 { format!("[{server}]:{path}") } else { format!("{server}:{path}") };
    mount("nfs", &options(remote, Vec::new()), &source, place)
}

/// `mount -t glusterfs`.
pub(super) fn glusterfs(
    volume: &Glusterfs,
    remote: &Remote,
    log: &Path,
    place: &Path,
) -> Result<Vec<String>, String> {
    let [first, ..] = volume.servers.as_slice() else {
        return Err(
            "failed to execute mount command:[no valid ipaddress found in endpoint address list]".to_owned()
        );
    };
    let said = |option: &str| remote.options.iter().any(|given| given.starts_with(option));
    let mut more =
        vec!["auto_unmount".to_owned(), format!("backup-volfile-servers={}", volume.servers.join(":"))];
    if !said("log-file") {
        more.push(format!("log-file={}", log.display()));
    }
    if !said("log-level") {
        more.push("log-level=ERROR".to_owned());
    }
    let source = format!("{first}:{}", volume.path);
    Ok(mount("glusterfs", &options(remote, more), &source, place))
}

/// `mount` of a disk for all pods.
pub(super) fn disk(fs_type: &str, remote: &Remote, device: &Path, place: &Path) -> Vec<String> {
    let more = if remote.read_only { vec!["defaults".to_owned()] } else { words(&["rw", "defaults"]) };
    mount(fs_type, &options(remote, more), &device.display().to_string(), place)
}

/// What was asked for and what is needed, each once and in order (kubelet's `JoinMountOptions`).
fn options(remote: &Remote, more: Vec<String>) -> String {
    let read_only = remote.read_only.then(|| "ro".to_owned());
    let all: BTreeSet<String> = remote.options.iter().cloned().chain(more).chain(read_only).collect();
    all.into_iter().collect::<Vec<_>>().join(",")
}

fn mount(kind: &str, options: &str, source: &str, place: &Path) -> Vec<String> {
    let mut arguments = words(&["-t", kind]);
    if !options.is_empty() {
        arguments.extend(words(&["-o", options]));
    }
    // What follows is no option, whatever it begins with.
    arguments.extend(words(&["--", source]));
    arguments.push(place.display().to_string());
    arguments
}

/// What iscsiadm is told of a target's discovery at a portal, which is `-o new`, `--discover` and the like.
pub(super) fn discovery(disk: &Iscsi, portal: &str, what: &[&str]) -> Vec<String> {
    let begin = ["-m", "discoverydb", "-t", "sendtargets", "-p", portal, "-I", &disk.interface];
    words(&[&begin[..], what].concat())
}

/// What it is told of the target at a portal.
pub(super) fn node(disk: &Iscsi, portal: &str, what: &[&str]) -> Vec<String> {
    let begin = ["-m", "node", "-p", portal, "-T", &disk.iqn, "-I", &disk.interface];
    words(&[&begin[..], what].concat())
}

/// The same, of all its sessions, whichever interface they are of.
pub(super) fn sessions(iqn: &str, portal: &str, what: &[&str]) -> Vec<String> {
    words(&[&["-m", "node", "-p", portal, "-T", iqn], what].concat())
}

/// What is asked of an image, with a key out of a file where there is one.
pub(super) fn rbd(what: &str, disk: &Rbd, access: &Access, key: Option<&Path>) -> Vec<String> {
    let (pool, image) = (format!("--pool={}", disk.pool), format!("--image={}", disk.image));
    let (user, monitors) = (format!("--id={}", access.user), access.monitors.join(","));
    let secret = match key {
        Some(file) => format!("--keyfile={}", file.display()),
        None => format!("--keyring={}", access.keyring),
    };
    words(&[what, &pool, &image, &user, "-m", &monitors, &secret])
}

/// Makes a file system on a disk that has none.
pub(super) fn mkfs(fs_type: &str, device: &Path) -> Vec<String> {
    let device = device.display().to_string();
    if matches!(fs_type, "ext3" | "ext4") { words(&["-F", "-m0", &device]) } else { vec![device] }
}

pub(super) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
