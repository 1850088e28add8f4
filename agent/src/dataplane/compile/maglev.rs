//! Maglev's table: which backend answers for each hash of a client, the same on every node, and mostly the same after a change. Pure.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), section 3.4: each backend has its own
//! order of all slots, and they take turns in taking the next one that is free.

use super::{Peer, hash};

/// Lengths of tables: primes, so that each backend's order visits every slot.
const LENGTHS: [u16; 4] = [1021, 4093, 16_381, 65_521];
/// Slots per backend at least: loads then differ by one percent or so (section 5.3 there).
const SLOTS_PER_BACKEND: usize = 100;

/// The backend of each slot. Empty for none.
pub(super) fn table(backends: &[Peer]) -> Vec<Peer> {
    if backends.is_empty() {
        return Vec::new();
    }
    let fits = |length: &u16| usize::from(*length) >= backends.len() * SLOTS_PER_BACKEND;
    let length = LENGTHS.into_iter().find(fits).unwrap_or(LENGTHS[LENGTHS.len() - 1]);
    let mut turns: Vec<Order> = backends.iter().map(|peer| Order::of(*peer, length.into())).collect();
    let mut slots: Vec<Option<Peer>> = vec![None; length.into()];
    let mut left = slots.len();
    loop {
        for (order, peer) in turns.iter_mut().zip(backends) {
            // Every order visits every slot: a free one is found.
            while let Some(slot) = slots.get_mut(order.next()) {
                if slot.is_none() {
                    *slot = Some(*peer);
                    left -= 1;
                    break;
                }
            }
            if left == 0 {
                return slots.into_iter().flatten().collect();
            }
        }
    }
}

/// The order in which a backend wants slots.
struct Order {
    at: u64,
    skip: u64,
    length: u64,
}

impl Order {
    fn of((ip, port): Peer, length: u64) -> Self {
        let (offset, skip) = (hash(&format!("{ip}:{port}/offset")), hash(&format!("{ip}:{port}/skip")));
        Self { at: offset % length, skip: skip % (length - 1) + 1, length }
    }

    fn next(&mut self) -> usize {
        let slot = self.at;
        self.at = (slot + self.skip) % self.length;
        usize::try_from(slot).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn backends(count: u8) -> Vec<Peer> {
        (0..count).map(|n| (Ipv4Addr::new(10, 244, 0, n).into(), 80)).collect()
    }

    #[test]
    fn nobody_answers_for_nobody_and_one_for_all() {
        assert!(table(&[]).is_empty());
        assert!(table(&backends(1)).iter().all(|peer| *peer == backends(1)[0]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn loads_are_even_and_a_change_moves_little(count in 2..120_u8, gone in any::<prop::sample::Index>()) {
            let all = backends(count);
            let before = table(&all);
            let mut loads: BTreeMap<Peer, usize> = BTreeMap::new();
            for peer in &before {
                *loads.entry(*peer).or_default() += 1;
            }
            let (least, most) = (loads.values().min().copied(), loads.values().max().copied());
            prop_assert_eq!(loads.len(), all.len());
            prop_assert!(most <= least.map(|least| least + 1), "{:?} to {:?}: by turns", least, most);

            let mut left = all.clone();
            let gone = left.remove(gone.index(all.len()));
            let after = table(&left);
            if after.len() == before.len() {
                let both = before.iter().zip(&after);
                let moved = both.filter(|(before, after)| **before != gone && before != after).count();
                // The paper's figure 12: a few percent with so many slots.
                prop_assert!(moved * 10 < before.len(), "{moved} of {} moved for nothing", before.len());
            }
        }
    }
}
