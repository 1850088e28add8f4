//! Whose network containers have in Docker's `host` mode: dockerd's, which need not be the node's.
//!
//! The kernel says who listens at a socket (SO_PEERCRED, unix(7)), and of each process in which network namespace it is. Where
//! systemd listens for dockerd it is systemd that is found, whose network dockerd has, too.

use std::os::unix::fs::MetadataExt as _;

use tokio::net::UnixStream;

use crate::runtime::RuntimeError;

const WHAT: &str = "give containers the node's network (hostNetwork)";

/// Refuses where the daemon at `host` is in another network namespace than this process.
pub(super) async fn check(host: &str) -> Result<(), RuntimeError> {
    let refused = |message: String| RuntimeError::Refused { what: WHAT.to_owned(), message };
    let Some(path) = host.strip_prefix("unix://") else {
        return Err(refused(format!(
            "Docker is asked at {host}, which may be another machine: use its socket"
        )));
    };
    let away =
        |e: std::io::Error| RuntimeError::Away { what: WHAT.to_owned(), cause: format!("{path}: {e}") };
    let peer = UnixStream::connect(path).await.and_then(|stream| stream.peer_cred()).map_err(away)?;
    // 0 is what a process outside of our pid namespace is for us.
    let Some(pid) = peer.pid().filter(|pid| *pid > 0) else {
        let why = "the process behind Docker's socket is not seen from here: start the agent in dockerd's pid namespace";
        return Err(refused(why.to_owned()));
    };
    // Of this thread: those of the process are all in one.
    let [own, docker] = [namespace("thread-self"), namespace(&pid.to_string())];
    match (own, docker) {
        (Ok(own), Ok(docker)) if own == docker => Ok(()),
        (Ok(_), Ok(_)) => Err(refused(format!(
            "Docker's daemon (pid {pid}) is in another network namespace than this node's agent: start dockerd where the agent is"
        ))),
        (Err(error), _) | (_, Err(error)) => Err(refused(format!(
            "the network namespace of Docker's daemon (pid {pid}) cannot be seen: {error}"
        ))),
    }
}

/// What tells one network namespace from all others (namespaces(7)).
fn namespace(process: &str) -> std::io::Result<(u64, u64)> {
    let found = std::fs::metadata(format!("/proc/{process}/ns/net"))?;
    Ok((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[tokio::test]
    async fn a_daemon_elsewhere_is_refused_and_one_that_is_not_there_is_away() {
        let dir = tempfile::tempdir().unwrap();
        let host = format!("unix://{}", dir.path().join("docker.sock").display());
        let said = check(&host).await.unwrap_err();
        assert!(said.is_away(), "{said}");
        let _listener = UnixListener::bind(dir.path().join("docker.sock")).unwrap();
        check(&host).await.unwrap();
        let said = check("tcp://10.0.0.1:2375").await.unwrap_err();
        assert!(!said.is_away() && said.to_string().contains("may be another machine"), "{said}");
        // This thread alone, which ends with the test, leaves for a network of its own.
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        let said = check(&host).await.unwrap_err().to_string();
        assert!(said.contains("in another network namespace than this node's agent"), "{said}");
    }
}
