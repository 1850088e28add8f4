//! Sockets that are connected to a peer who is gone. Nobody tells a sender of datagrams: it would send into the void for as
//! long as it lives. Aborted, it gets ECONNABORTED and asks anew (sock_diag(7), SOCK_DESTROY, Linux 4.5).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_UDP, SOCK_DESTROY};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use nix::sched::{CloneFlags, setns};

/// Aborts the connected UDP sockets of which `is_stale` says so by (cookie, peer), in all network namespaces of a cgroup's
/// processes. Returns how many. Not for a thread of the runtime: it takes its time.
///
/// # Errors
/// A namespace that can be listed but not be entered, or a refusal of the kernel; the others are tried before.
pub fn abort_udp(cgroup: &Path, is_stale: impl Fn(u64, (Ipv4Addr, u16)) -> bool + Sync) -> io::Result<usize> {
    let (mut namespaces, mut seen) = (Vec::new(), BTreeSet::new());
    for pid in processes(cgroup) {
        // A process that has ended meanwhile has no sockets.
        let Ok(namespace) = File::open(format!("/proc/{pid}/ns/net")) else { continue };
        if namespace.metadata().is_ok_and(|meta| seen.insert((meta.dev(), meta.ino()))) {
            namespaces.push(namespace);
        }
    }
    let abort_all = || {
        let (mut aborted, mut first) = (0, Ok(()));
        for namespace in namespaces {
            match setns(&namespace, CloneFlags::CLONE_NEWNET)
                .map_err(io::Error::from)
                .and_then(|()| abort_here(&is_stale))
            {
                Ok(count) => aborted += count,
                Err(error) => first = first.and(Err(error)),
            }
        }
        first.map(|()| aborted)
    };
    // A thread of its own: no other ever changes its namespace.
    std::thread::scope(|scope| scope.spawn(abort_all).join())
        .unwrap_or_else(|_| Err(io::Error::other("the thread ended")))
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

fn abort_here(is_stale: &impl Fn(u64, (Ipv4Addr, u16)) -> bool) -> io::Result<usize> {
    let mut aborted = 0;
    for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        let stale = list(family, any)?.into_iter().filter(|id| {
            let peer = match id.destination_address {
                IpAddr::V4(ip) => Some(ip),
                IpAddr::V6(ip) => ip.to_ipv4_mapped(),
            };
            peer.is_some_and(|ip| is_stale(cookie(id), (ip, id.destination_port)))
        });
        for id in stale {
            match ask(family, id, SOCK_DESTROY, NLM_F_ACK).map(drop) {
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

fn list(family: u8, any: SocketId) -> io::Result<Vec<SocketId>> {
    ask(family, any, netlink_packet_sock_diag::constants::SOCK_DIAG_BY_FAMILY, NLM_F_DUMP)
}

/// One request on a socket of its own, and what is answered.
fn ask(family: u8, socket_id: SocketId, kind: u16, flags: u16) -> io::Result<Vec<SocketId>> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let request = SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_UDP,
        extensions: ExtensionFlags::empty(),
        // Of UDP: with a peer.
        states: StateFlags::ESTABLISHED,
        socket_id,
    });
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
