//! From objects to the kernel's tables: everything at once, one change after the other, and what is held in memory.

use std::net::Ipv4Addr;
use std::time::Instant;

use oarlock_agent::desired::Snapshot;

use crate::Measured;
use crate::node::{self, Node};

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;
const CHANGES: u32 = 500;

pub(crate) fn measure() -> Vec<Measured> {
    let mut whole = Vec::new();
    let mut changes = Vec::new();
    let before = resident();
    let mut held = 0.0;
    for round in 0..3 {
        let mut node = Node::new("programming");
        let mut snapshot = Snapshot::default();
        for service in 0..SERVICES {
            node::add(&mut snapshot, service, &endpoints(service, ENDPOINTS));
        }
        let start = Instant::now();
        node.dataplane.sync(&snapshot).unwrap();
        whole.push(start.elapsed().as_secs_f64());
        if round == 0 {
            held = resident() - before;
        }
        for change in 0..CHANGES {
            // One endpoint less, and later back, of Services all over the table.
            let service = change / 2 * 39 % SERVICES;
            node::add(&mut snapshot, service, &endpoints(service, ENDPOINTS - 1 + change % 2));
            let start = Instant::now();
            node.dataplane.sync(&snapshot).unwrap();
            changes.push(start.elapsed().as_secs_f64() * 1000.0);
        }
    }
    let mut sorted = changes.clone();
    sorted.sort_by(f64::total_cmp);
    let worst = sorted[sorted.len() * 99 / 100];
    vec![
        Measured::new(format!("{SERVICES} Services of {ENDPOINTS} endpoints from nothing"), "s", whole),
        Measured::new("one endpoint more or less there", "ms", changes),
        Measured::new("one endpoint more or less there, p99", "ms", vec![worst]),
        Measured::new("memory of objects, plans and tables' copies there", "MB", vec![held]),
    ]
}

fn endpoints(service: u32, count: u32) -> Vec<(Ipv4Addr, u16)> {
    let of = |at: u32| {
        let [_, a, b, c] = (service * ENDPOINTS + at).to_be_bytes();
        (Ipv4Addr::new(127, 128 + a, b, c), 8080)
    };
    (0..count).map(of).collect()
}

/// This process' resident memory in MB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1000.0
}
