//! Network namespaces: netlink inside another one, and which one is our own.

use std::fs::File;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socket};
use nix::{getsockopt_impl, libc, sockopt_impl};
use oarlock_daemon::Tasks;
use rtnetlink::Handle;

use super::NetError;

sockopt_impl!(
    /// The number by which BPF programs know a socket's network namespace (Linux 5.14).
    NetnsCookie,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_NETNS_COOKIE,
    u64
);

/// The cookie of this process' network namespace.
///
/// # Errors
/// A kernel that does not know them.
pub fn own_cookie() -> std::io::Result<u64> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    Ok(getsockopt(&socket, NetnsCookie)?)
}

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
