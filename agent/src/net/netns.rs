//! Network namespaces: netlink inside another one, and which one is our own.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socket};
use nix::{getsockopt_impl, libc, sockopt_impl};
use oarlock_daemon::Tasks;
use rtnetlink::Handle;
use tokio::net::{TcpSocket, TcpStream};

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

/// Does something in the network namespace of process `pid`, on a thread of its own that ends with it, so that no thread of
/// the runtime ever changes its namespace. Sockets that it makes stay in that namespace whatever thread uses them.
async fn inside<T: Send + 'static>(
    pid: u32,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, NetError> {
    let path = format!("/proc/{pid}/ns/net");
    let failed = |source| NetError::Io { what: format!("enter the network namespace {path}"), source };
    let namespace = File::open(&path).map_err(failed)?;
    let runtime = tokio::runtime::Handle::current();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(move || {
            let _runtime = runtime.enter();
            let done =
                setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from).and_then(|()| work());
            // The receiver only goes away when the caller was cancelled.
            let _ = sender.send(done);
        })
        .map_err(failed)?;
    receiver.await.map_err(|_| failed(io::Error::other("the thread ended")))?.map_err(failed)
}

/// A netlink handle whose socket lives in the network namespace of process `pid`.
pub(super) async fn handle_in(tasks: &Tasks, pid: u32) -> Result<Handle, NetError> {
    let (connection, handle, _) = inside(pid, rtnetlink::new_connection).await?;
    tasks.job("netlink/pod", connection);
    Ok(handle)
}

/// The cookie of the network namespace of process `pid`.
pub(super) async fn cookie_of(pid: u32) -> Result<u64, NetError> {
    inside(pid, own_cookie).await
}

/// Readies the links of the network namespace of process `pid` for IPv6: Docker switches it off where it gives no network.
pub(super) async fn prepare_ipv6(pid: u32, link: &'static str) -> Result<(), NetError> {
    // This thread's namespace is the one whose settings /proc shows it.
    let work = move || {
        let prepare = |name| super::sysctl::prepare_end(name).map_err(io::Error::other);
        ["lo", link].into_iter().try_for_each(prepare)
    };
    inside(pid, work).await
}

/// Connects to a port on the loopback of the network namespace of process `pid`: by IPv4, else by IPv6.
///
/// # Errors
/// The namespace cannot be entered, or the connection is refused.
pub async fn dial_loopback(pid: u32, port: u16) -> io::Result<TcpStream> {
    let sockets = || Ok((TcpSocket::new_v4()?, TcpSocket::new_v6()));
    let (four, six) = inside(pid, sockets).await.map_err(io::Error::other)?;
    match (four.connect((Ipv4Addr::LOCALHOST, port).into()).await, six) {
        (Ok(stream), _) => Ok(stream),
        // What IPv4 says is what the user gets to hear: servers that listen on IPv6 alone are rare.
        (Err(error), Ok(six)) => six.connect((Ipv6Addr::LOCALHOST, port).into()).await.map_err(|_| error),
        (Err(error), Err(_)) => Err(error),
    }
}
