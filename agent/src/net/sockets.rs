//! Sockets of pods: those with connections, and those that are connected to a peer who is gone. Nobody tells a sender of datagrams: it would send into the void for as
//! long as it lives. Aborted, it gets ECONNABORTED and asks anew (sock_diag(7), SOCK_DESTROY, Linux 4.5).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, SOCK_DESTROY};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use nix::sched::{CloneFlags, setns};

/// Aborts the connected UDP sockets of which `is_stale` says so by (cookie, peer), in all network namespaces of a cgroup's
/// processes. Returns how many. Not for a thread of the runtime: it takes its time.
///
/// # Errors
/// A namespace that can be listed but not be entered, or a refusal of the kernel; the others are tried before.
pub fn abort_udp(cgroup: &Path, is_stale: impl Fn(u64, (IpAddr, u16)) -> bool + Sync) -> io::Result<usize> {
    let (aborted, first) = in_each_namespace(cgroup, || abort_here(&is_stale))?;
    first.map(|()| aborted.into_iter().sum())
}

/// A TCP connection of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection {
    /// The pod's address and port.
    pub local: (IpAddr, u16),
    /// The peer's.
    pub remote: (IpAddr, u16),
    /// Whether the pod listens at the port: the peer has begun the connection.
    pub is_accepted: bool,
}

/// The TCP connections of these addresses, in all network namespaces of a cgroup's processes. Not for a thread of the runtime.
///
/// # Errors
/// As [`abort_udp`].
pub fn connections(cgroup: &Path, addresses: &BTreeSet<IpAddr>) -> io::Result<Vec<Connection>> {
    let (found, first) = in_each_namespace(cgroup, || connections_here(addresses))?;
    first.map(|()| found.into_iter().flatten().collect())
}

fn connections_here(addresses: &BTreeSet<IpAddr>) -> io::Result<Vec<Connection>> {
    let (mut listening, mut connected) = (BTreeSet::new(), Vec::new());
    for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        let asked = |states| Asked { family, protocol: IPPROTO_TCP, states };
        listening.extend(asked(StateFlags::LISTEN).list(any.clone())?.into_iter().map(|id| id.source_port));
        // Whatever has a peer.
        let states = StateFlags::all() - StateFlags::LISTEN - StateFlags::CLOSE - StateFlags::TIME_WAIT;
        connected.extend(asked(states).list(any)?);
    }
    let ours = connected.into_iter().filter_map(|id| {
        // Sockets of IPv6 may talk IPv4.
        let local = (id.source_address.to_canonical(), id.source_port);
        let remote = (id.destination_address.to_canonical(), id.destination_port);
        let is_accepted = listening.contains(&local.1);
        addresses.contains(&local.0).then_some(Connection { local, remote, is_accepted })
    });
    Ok(ours.collect())
}

/// What comes of this in each namespace, and the first error.
fn in_each_namespace<T: Send>(
    cgroup: &Path,
    work: impl Fn() -> io::Result<T> + Sync,
) -> io::Result<(Vec<T>, io::Result<()>)> {
    let (mut namespaces, mut seen) = (Vec::new(), BTreeSet::new());
    for pid in processes(cgroup) {
        // A process that has ended meanwhile has no sockets.
        let Ok(namespace) = File::open(format!("/proc/{pid}/ns/net")) else { continue };
        if namespace.metadata().is_ok_and(|meta| seen.insert((meta.dev(), meta.ino()))) {
            namespaces.push(namespace);
        }
    }
    let work_in_all = || {
        let (mut done, mut first) = (Vec::new(), Ok(()));
        for namespace in namespaces {
            let entered = setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
            match entered.and_then(|()| work()) {
                Ok(one) => done.push(one),
                Err(error) => first = first.and(Err(error)),
            }
        }
        (done, first)
    };
    // A thread of its own: no other ever changes its namespace.
    std::thread::scope(|scope| scope.spawn(work_in_all).join())
        .map_err(|_| io::Error::other("the thread ended"))
}

/// The processes of a cgroup and of those below it.
fn processes(cgroup: &Path) -> Vec<u32> {
    let mut found: Vec<u32> = fs::read_to_string(cgroup.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(processes(&entry.path()));
        }
    }
    found
}

fn abort_here(is_stale: &impl Fn(u64, (IpAddr, u16)) -> bool) -> io::Result<usize> {
    let mut aborted = 0;
    for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        // Of UDP: with a peer.
        let connected = Asked { family, protocol: IPPROTO_UDP, states: StateFlags::ESTABLISHED };
        let peer = |id: &SocketId| (id.destination_address.to_canonical(), id.destination_port);
        let stale = connected.list(any)?.into_iter().filter(|id| is_stale(cookie(id), peer(id)));
        for id in stale {
            match connected.ask(id, SOCK_DESTROY, NLM_F_ACK).map(drop) {
                Ok(()) => aborted += 1,
                // It has ended by itself.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(aborted)
}

/// The socket's cookie, as BPF programs know it (net/core/sock_diag.c, sock_diag_save_cookie: the low half first).
fn cookie(id: &SocketId) -> u64 {
    let [a, b, c, d, e, f, g, h] = id.cookie;
    u64::from(u32::from_ne_bytes([a, b, c, d])) | u64::from(u32::from_ne_bytes([e, f, g, h])) << 32
}

/// Which sockets are asked for.
struct Asked {
    family: u8,
    protocol: u8,
    states: StateFlags,
}

impl Asked {
    fn list(&self, any: SocketId) -> io::Result<Vec<SocketId>> {
        self.ask(any, netlink_packet_sock_diag::constants::SOCK_DIAG_BY_FAMILY, NLM_F_DUMP)
    }

    /// One request on a socket of its own, and what is answered.
    fn ask(&self, socket_id: SocketId, kind: u16, flags: u16) -> io::Result<Vec<SocketId>> {
        let Self { family, protocol, states } = self;
        let (family, protocol, states) = (*family, *protocol, states.clone());
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let extensions = ExtensionFlags::empty();
        let request = InetRequest { family, protocol, extensions, states, socket_id };
        let request = SockDiagMessage::InetRequest(request);
        exchange(header, request, kind)
    }
}

fn exchange(header: NetlinkHeader, request: SockDiagMessage, kind: u16) -> io::Result<Vec<SocketId>> {
    let mut message = NetlinkMessage::new(header, request.into());
    message.finalize();
    message.header.message_type = kind;
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.send(&bytes, 0)?;
    let mut found = Vec::new();
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    found.push(response.header.socket_id);
                }
                // An acknowledgement is an error without a number.
                NetlinkPayload::Error(error) => {
                    return if error.code.is_none() { Ok(found) } else { Err(error.to_io()) };
                }
                NetlinkPayload::Done(_) => return Ok(found),
                _ => {}
            }
            let length = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
            rest = rest.get(length.max(16)..).unwrap_or_default();
        }
    }
}
