//! What is counted of each Service's port and of each backend, and how the entries of a flow say whose it is. Layouts and pure
//! rules.

use bytemuck::{Pod, Zeroable};

use crate::flow::{ARRIVED, DIRECT, MASQUERADED, REPLY, Translation};
use crate::reason::Reason;

/// To a backend, and back: places in [`ServiceCounts::packets`] and [`ServiceCounts::bytes`].
pub const DIRECTIONS: [&str; 2] = ["in", "out"];
/// Clients on this node, and clients outside: places in [`ServiceCounts::begun`].
pub const CLIENTS: [&str; 2] = ["inside", "outside"];
/// In [`ServiceCounts::begun`]: clients on this node.
pub const INSIDE: usize = 0;
/// In [`ServiceCounts::begun`]: clients outside.
pub const OUTSIDE: usize = 1;
/// Why something of a Service went nowhere: places in [`ServiceCounts::dropped`].
pub const DROPS: [Reason; 4] = [Reason::NoEndpoints, Reason::Denied, Reason::NoPort, Reason::BadPacket];

/// What one CPU has counted of a Service's port. Written by the programs, read by the agent.
///
/// | byte | field |
/// |---|---|
/// | 0..16 | packets in and out |
/// | 16..32 | bytes of IP packets, in and out |
/// | 32..48 | connections and datagrams that were given a backend, of clients inside and outside |
/// | 48..80 | those that were not, as [`DROPS`] |
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Pod, Zeroable)]
pub struct ServiceCounts {
    /// Translated packets, by [`DIRECTIONS`].
    pub packets: [u64; 2],
    /// Their bytes, headers of IP and above.
    pub bytes: [u64; 2],
    /// Connections and datagrams without one that were given a backend, by [`CLIENTS`].
    pub begun: [u64; 2],
    /// Connections, datagrams and packets that went nowhere, by [`DROPS`].
    pub dropped: [u64; 4],
}

/// What one CPU has counted of a backend, of all Services together.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Pod, Zeroable)]
pub struct BackendCounts {
    /// As of a Service.
    pub packets: [u64; 2],
    /// As of a Service.
    pub bytes: [u64; 2],
    /// As of a Service.
    pub begun: [u64; 2],
}

/// The place of a reason in [`DROPS`].
#[must_use]
pub const fn drop_of(reason: Reason) -> Option<usize> {
    let mut place = 0;
    while place < DROPS.len() {
        if DROPS[place] as u32 == reason as u32 {
            return Some(place);
        }
        place += 1;
    }
    None
}

/// How many numbers there are for Services' ports that are counted. 0 is nobody's.
pub const MAX_COUNTED: u32 = 1 << 14;

/// How many bits the index of a backend has.
const BACKEND_BITS: u32 = 17;
const _: () = assert!(1 << BACKEND_BITS == crate::maps::MAX_BACKENDS);
// Below the bit that says how packets of the flow go on.
const _: () = assert!(MAX_COUNTED.trailing_zeros() + BACKEND_BITS <= DIRECT.trailing_zeros());

/// Whose a flow is, in one word: bits 0..17 the backend's index, 17..31 the number under which the Service's port is counted.
///
/// In [`Translation::backend`] of what goes to a backend, and in [`Translation::generation`] of its replies. Flows that
/// programs without counters have begun have the number 0, those of later ones lead such programs to no backend: the table is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Whose(u32);

impl Whose {
    /// A backend of a Service's port.
    #[must_use]
    pub const fn new(backend: u32, service: u32) -> Self {
        let service = if service < MAX_COUNTED { service } else { 0 };
        Self((backend & ((1 << BACKEND_BITS) - 1)) | (service << BACKEND_BITS))
    }

    /// The word.
    #[must_use]
    pub const fn word(self) -> u32 {
        self.0
    }

    /// The word of a flow that goes straight to a backend of another node.
    #[inline(always)]
    #[must_use]
    pub const fn direct(word: u32) -> u32 {
        let direct = word | DIRECT;
        // A few of the last number would be other marks: they are counted as nobody's.
        if direct < ARRIVED { direct } else { Self(word).backend() | DIRECT }
    }

    /// The word that an entry carries; nothing where it is of no Service, or its packets are counted by another node.
    #[must_use]
    pub const fn of(entry: &Translation) -> Option<Self> {
        match entry.backend {
            MASQUERADED | ARRIVED => None,
            REPLY => Some(Self(entry.generation)),
            word => Some(Self(word & !DIRECT)),
        }
    }

    /// The backend's index.
    #[must_use]
    pub const fn backend(self) -> u32 {
        self.0 & ((1 << BACKEND_BITS) - 1)
    }

    /// The number under which the Service's port is counted; 0: it is not.
    #[must_use]
    pub const fn service(self) -> u32 {
        (self.0 >> BACKEND_BITS) & (MAX_COUNTED - 1)
    }
}

const _: () = assert!(core::mem::size_of::<ServiceCounts>() == 80);
const _: () = assert!(core::mem::size_of::<BackendCounts>() == 48);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "bytemuck::Pod, which they are, is the same promise")]
mod crosses {
    // SAFETY: repr(C), no padding, every bit pattern is valid: bytemuck proves it.
    unsafe impl aya::Pod for super::ServiceCounts {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::BackendCounts {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Flow, TCP, pair};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_entries_of_a_flow_say_whose_it_is(
            backend in 0..crate::maps::MAX_BACKENDS, service in 0..MAX_COUNTED, generation: u32,
        ) {
            let whose = Whose::new(backend, service);
            prop_assert_eq!((whose.backend(), whose.service()), (backend, service));
            let flow = Flow::new(([1, 2, 3, 4], 5), ([6, 7, 8, 9], 10), TCP);
            let [(_, there), (_, back)] = pair(flow, flow, (0, 0), (whose.word(), generation), 1);
            prop_assert!(there.has_backend() && !back.has_backend());
            prop_assert_eq!((Whose::of(&there), Whose::of(&back)), (Some(whose), Some(whose)));
            prop_assert_eq!((there.generation, back.backend), (generation, REPLY));
        }
    }

    proptest! {
        #[test]
        fn whose_a_flow_is_does_not_depend_on_how_its_packets_go_on(
            backend in 0..crate::maps::MAX_BACKENDS, service in 0..MAX_COUNTED, node: [u8; 4],
        ) {
            let whose = Whose::new(backend, service);
            let flow = Flow::new(([1, 2, 3, 4], 5), ([6, 7, 8, 9], 10), TCP);
            let link = u32::from_ne_bytes(node);
            let entry = Translation { to: flow, link, backend: Whose::direct(whose.word()), generation: 3, seen: 1 };
            prop_assert_eq!((entry.has_backend(), entry.handed_to()), (true, Some(node)));
            let told = Whose::of(&entry).unwrap();
            prop_assert_eq!(told.backend(), backend);
            prop_assert!(told == whose || service == MAX_COUNTED - 1 && told.service() == 0);
            let near = Translation { backend: whose.word(), ..entry };
            prop_assert_eq!(near.handed_to(), None);
            // At its own node: only answers are counted, as this Service's.
            let [(_, there), (_, back)] = pair(flow, flow, (0, 2), (ARRIVED, whose.word()), 1);
            prop_assert_eq!((there.has_backend(), there.handed_to(), Whose::of(&there)), (false, None, None));
            prop_assert_eq!(Whose::of(&back), Some(whose));
        }
    }

    #[test]
    fn the_last_words_of_all_are_no_marks() {
        for backend in crate::maps::MAX_BACKENDS - 4..crate::maps::MAX_BACKENDS {
            let word = Whose::direct(Whose::new(backend, MAX_COUNTED - 1).word());
            assert!(word < ARRIVED && word & DIRECT != 0, "{word:x}");
        }
    }

    #[test]
    fn what_is_not_counted_has_the_number_of_nobody() {
        assert_eq!(Whose::new(7, MAX_COUNTED).service(), 0);
        let flow = Flow::new(([1, 2, 3, 4], 5), ([6, 7, 8, 9], 10), TCP);
        let masqueraded = pair(flow, flow, (0, 0), (MASQUERADED, 0), 1);
        assert_eq!(Whose::of(&masqueraded[0].1), None);
        assert_eq!(Whose::of(&masqueraded[1].1).map(Whose::service), Some(0));
        assert_eq!(drop_of(Reason::NoPort), Some(2));
        assert_eq!(drop_of(Reason::Express), None);
    }
}
