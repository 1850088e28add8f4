//! Which slot of a range a connection gets. Pure.

use crate::layout::SlotRange;

/// The slot at a turn of the round robin: each in its turn, whatever number the turns began with.
#[must_use]
pub const fn round_robin(range: SlotRange, turn: u32) -> Option<u32> {
    let count = range.count() as u32;
    if count == 0 {
        return None;
    }
    Some(range.base() + turn % count)
}

/// A slot that stays the same for the same number: datagrams of one socket go to one backend as long as the set stands.
#[must_use]
pub const fn by_hash(range: SlotRange, number: u64) -> Option<u32> {
    let count = range.count() as u64;
    if count == 0 {
        return None;
    }
    // Fibonacci hashing (Knuth 6.4), then multiply-shift into the range.
    let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    Some(range.base() + ((hash * count) >> 32) as u32)
}

/// A number of a client's address and port that is the same on every node: what a Maglev table is looked up by. The address that it
/// asks is not in it, as each node has its own.
#[must_use]
pub const fn of_client(address: [u8; 4], port: u16) -> u64 {
    ((u32::from_be_bytes(address) as u64) << 16) | port as u64
}

/// The same of IPv6: the halves of the address make one word first.
#[must_use]
pub const fn of_client6(address: [u8; 16], port: u16) -> u64 {
    let address = u128::from_be_bytes(address);
    let folded = (address >> 64) as u64 ^ (address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    folded.rotate_left(16) ^ port as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn turns_visit_every_slot_equally() {
        let range = SlotRange::new(100, 3, 0);
        let slots: [Option<u32>; 6] = core::array::from_fn(|turn| round_robin(range, turn as u32));
        assert_eq!(slots, [100, 101, 102, 100, 101, 102].map(Some));
        assert_eq!(round_robin(SlotRange::new(0, 0, 7), 5), None);
        assert_eq!(by_hash(SlotRange::new(0, 0, 7), 5), None);
    }

    #[test]
    fn hashes_of_consecutive_cookies_spread() {
        let range = SlotRange::new(0, 10, 0);
        let mut hits = [0; 10];
        for cookie in 0..10_000_u64 {
            hits[by_hash(range, cookie).unwrap() as usize] += 1;
        }
        assert!(hits.iter().all(|n| (900..1100).contains(n)), "{hits:?}");
    }

    #[test]
    fn clients_of_one_address_and_of_one_port_spread() {
        let range = SlotRange::new(0, 1021, 0);
        let ports = (0..20_420_u16).map(|n| of_client([172, 30, 77, 200], 32_768 + n));
        let addresses = (0..20_420_u16).map(|n| {
            let [high, low] = n.to_be_bytes();
            of_client([10, 1, high, low], 40_000)
        });
        let ports6 = (0..20_420_u16).map(|n| of_client6([0xfd; 16], 32_768 + n));
        let addresses6 = (0..20_420_u16).map(|n| {
            let [high, low] = n.to_be_bytes();
            of_client6([0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low], 40_000)
        });
        let all = [ports.collect::<Vec<_>>(), addresses.collect(), ports6.collect(), addresses6.collect()];
        for numbers in all {
            let mut hits = [0; 1021];
            for number in numbers {
                hits[by_hash(range, number).unwrap() as usize] += 1;
            }
            assert!(hits.iter().all(|n| (5..=60).contains(n)), "{hits:?}");
        }
    }

    proptest! {
        #[test]
        fn a_slot_is_always_inside(base in 0u32..1_000_000, count in 1u16.., turn: u32, number: u64) {
            let range = SlotRange::new(base, count, 0);
            let inside = base..base + u32::from(count);
            prop_assert!(inside.contains(&round_robin(range, turn).unwrap()));
            prop_assert!(inside.contains(&by_hash(range, number).unwrap()));
        }
    }
}
