//! Netlink inside another network namespace.

use std::fs::File;

use nix::sched::{CloneFlags, setns};
use oarlock_daemon::Tasks;
use rtnetlink::Handle;

use super::NetError;

/// A netlink handle whose socket lives in the network namespace of process `pid`. The socket stays there whatever thread
/// uses it; the thread that entered the namespace ends at once, so no thread of the runtime ever changes its own.
pub(super) async fn handle_in(tasks: &Tasks, pid: u32) -> Result<Handle, NetError> {
    let path = format!("/proc/{pid}/ns/net");
    let failed = |source| NetError::Io { what: format!("enter the network namespace {path}"), source };
    let namespace = File::open(&path).map_err(failed)?;
    let runtime = tokio::runtime::Handle::current();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(move || {
            let _runtime = runtime.enter();
            let opened = setns(&namespace, CloneFlags::CLONE_NEWNET)
                .map_err(std::io::Error::from)
                .and_then(|()| rtnetlink::new_connection());
            // The receiver only goes away when the caller was cancelled.
            let _ = sender.send(opened);
        })
        .map_err(failed)?;
    let opened = receiver.await.map_err(|_| failed(std::io::Error::other("the thread ended")))?;
    let (connection, handle, _) = opened.map_err(failed)?;
    tasks.job("netlink/pod", connection);
    Ok(handle)
}
