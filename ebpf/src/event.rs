//! What happened to connections and datagrams, one by one, for those who look: new flows, and what goes nowhere. Layout.
//!
//! Written only until the time that a reader sets, so that without one it costs a look at one word, at new flows alone.

use bytemuck::{Pod, Zeroable};

use crate::flow::Flow;
use crate::flow6::Flow6;

/// Something that happened. Written by the programs, read by the agent.
///
/// | byte | field |
/// |---|---|
/// | 0..8 | when, in nanoseconds since boot |
/// | 8..24 | the packet as it came; of a socket the destination alone |
/// | 24..40 | the packet as it leaves; zero where it does not |
/// | 40..44 | what: the number of a [`crate::reason::Reason`] |
/// | 44..48 | where: [`SOCKET`], [`XDP`] or [`TC`] |
/// | 48..52 | the number under which the Service's port is counted |
/// | 52..56 | zero |
/// | 56..64 | of a socket the number of its process' cgroup |
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Event {
    /// When, in nanoseconds since boot, time asleep left out.
    pub at: u64,
    /// The packet as it came.
    pub flow: Flow,
    /// The packet as it leaves.
    pub to: Flow,
    /// The number of a reason.
    pub what: u32,
    /// Where it happened.
    pub hook: u32,
    /// The number under which the Service's port is counted.
    pub service: u32,
    /// Zero.
    pub reserved: u32,
    /// Of a socket the number of its process' cgroup (v2), which is that of the folder.
    pub cgroup: u64,
}

/// The same of IPv6. Records of the two differ by their length.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Event6 {
    /// When, in nanoseconds since boot, time asleep left out.
    pub at: u64,
    /// The packet as it came.
    pub flow: Flow6,
    /// The packet as it leaves.
    pub to: Flow6,
    /// The number of a reason.
    pub what: u32,
    /// Where it happened.
    pub hook: u32,
    /// The number under which the Service's port is counted.
    pub service: u32,
    /// Zero.
    pub reserved: u32,
    /// Of a socket the number of its process' cgroup (v2), which is that of the folder.
    pub cgroup: u64,
}

/// In [`Event::hook`]: when a socket connected or sent.
pub const SOCKET: u32 = 1;
/// In [`Event::hook`]: at an uplink, in its driver.
pub const XDP: u32 = 2;
/// In [`Event::hook`]: at an uplink or a pod's link.
pub const TC: u32 = 3;

const _: () = assert!(core::mem::size_of::<Event>() == 64);
const _: () = assert!(core::mem::size_of::<Event6>() == 112);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "bytemuck::Pod, which they are, is the same promise")]
mod crosses {
    // SAFETY: repr(C), no padding, every bit pattern is valid: bytemuck proves it.
    unsafe impl aya::Pod for super::Event {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Event6 {}
}
