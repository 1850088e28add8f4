//! Connections through a ClusterIP and directly, with more and more Services beside it: the cost must not grow.
//!
//! Over the loopback, one after the other, without a request: a connection that costs so little shows the most of what is added.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use oarlock_agent::desired::Snapshot;

use crate::node::{self, Node};
use crate::{Measured, ROUNDS};

/// How long each is measured for in a round.
const TIME: Duration = Duration::from_millis(300);
const COUNTS: [u32; 4] = [1, 1000, 10_000, 50_000];

pub(crate) fn measure() -> Vec<Measured> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let SocketAddr::V4(server) = listener.local_addr().unwrap() else { unreachable!("it was bound to IPv4") };
    let mut node = Node::new("connections");
    node.enter(true);
    let mut measured = Vec::new();
    let mut snapshot = Snapshot::default();
    let mut present = 0;
    for count in COUNTS {
        for service in present..count {
            // Only the first one's backend is ever asked.
            let [_, a, b, c] = service.to_be_bytes();
            let backend = if service == 0 {
                (*server.ip(), server.port())
            } else {
                (Ipv4Addr::new(127, 200 | a, b, c), 80)
            };
            node::add(&mut snapshot, service, &[backend]);
        }
        present = count;
        node.dataplane.sync(&snapshot).unwrap();
        let cluster_ip = SocketAddrV4::new(node::address(0), 80);
        let (mut direct, mut through) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            // Who is first changes, as the clock of the machine does.
            let (mut first, mut second) = (cluster_ip, server);
            if round.is_multiple_of(2) {
                (first, second) = (second, first);
            }
            for address in [first, second] {
                let rates = if address == server { &mut direct } else { &mut through };
                rates.push(connect(address, &listener));
            }
        }
        let name = format!("direct beside {count} Services");
        measured.push(Measured::new(&name, "connections/s", direct));
        measured.push(
            Measured::new(format!("ClusterIP of one of {count} Services"), "connections/s", through)
                .compared(name),
        );
    }
    measured
}

/// Connections per second. Both ends are here, so that no other thread's turn is measured; each is reset, so that none waits.
fn connect(address: SocketAddrV4, listener: &TcpListener) -> f64 {
    let start = Instant::now();
    let mut count = 0.0;
    while start.elapsed() < TIME {
        for _ in 0..50 {
            let client = TcpStream::connect(address).unwrap();
            let (server, _) = listener.accept().unwrap();
            socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
            drop((client, server));
            count += 1.0;
        }
    }
    count / start.elapsed().as_secs_f64()
}
