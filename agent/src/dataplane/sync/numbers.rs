//! Under which number each Service's port is counted. Pure.
//!
//! Numbers that became free are taken again last: flows of a Service that is gone count for nobody else for long.

use std::collections::{BTreeMap, BTreeSet};

use oarlock_ebpf::count::MAX_COUNTED;

/// Numbers and who has them; 0 for those for whom none was left.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// The number of each Service's port, and how many frontends have it.
    held: BTreeMap<u64, (u32, usize)>,
    taken: BTreeSet<u32>,
    last: u32,
}

impl Numbers {
    /// The number that a Service's port has.
    pub(super) fn of(&self, service: u64) -> Option<u32> {
        self.held.get(&service).map(|held| held.0)
    }

    /// One more frontend has it. Says whether it is new.
    pub(super) fn hold(&mut self, service: u64) -> (u32, bool) {
        if let Some((number, users)) = self.held.get_mut(&service) {
            *users += 1;
            return (*number, false);
        }
        let number = self.free().unwrap_or(0);
        self.enter(service, number);
        (number, number != 0)
    }

    /// What an earlier agent has given. One that is another's is none: its frontends are written anew.
    pub(super) fn adopt(&mut self, service: u64, number: u32) {
        if let Some((_, users)) = self.held.get_mut(&service) {
            *users += 1;
        } else if number < MAX_COUNTED && !self.taken.contains(&number) {
            self.enter(service, number);
        } else {
            self.hold(service);
        }
    }

    /// One frontend less has it. The number, when it was the last.
    pub(super) fn release(&mut self, service: u64) -> Option<u32> {
        let (number, users) = self.held.get_mut(&service)?;
        let number = *number;
        *users -= 1;
        if *users > 0 {
            return None;
        }
        self.held.remove(&service);
        self.taken.remove(&number);
        Some(number)
    }

    fn enter(&mut self, service: u64, number: u32) {
        self.held.insert(service, (number, 1));
        if number != 0 {
            self.taken.insert(number);
            self.last = number;
        }
    }

    /// The first free one after the last that was given.
    fn free(&self) -> Option<u32> {
        if self.taken.len() + 1 >= MAX_COUNTED as usize {
            return None;
        }
        let after = self.last + 1..MAX_COUNTED;
        let before = 1..(self.last + 1).min(MAX_COUNTED);
        // As many steps as numbers are taken in a row: after a while that is few.
        after.chain(before).find(|number| !self.taken.contains(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frontends_of_a_port_share_its_number_and_a_free_one_rests_longest() {
        let mut numbers = Numbers::default();
        assert_eq!(
            (numbers.hold(70), numbers.hold(80), numbers.hold(70)),
            ((1, true), (2, true), (1, false))
        );
        assert_eq!((numbers.release(70), numbers.release(70)), (None, Some(1)));
        assert_eq!((numbers.of(70), numbers.release(70)), (None, None));
        assert_eq!(numbers.hold(90), (3, true), "not 1, which packets may still be counted for");
    }

    #[test]
    fn an_earlier_agents_numbers_stay_and_a_number_has_one_owner() {
        let mut numbers = Numbers::default();
        numbers.adopt(70, 9);
        numbers.adopt(70, 9);
        numbers.adopt(80, 9);
        numbers.adopt(90, MAX_COUNTED);
        assert_eq!((numbers.of(70), numbers.of(80), numbers.of(90)), (Some(9), Some(10), Some(11)));
        assert_eq!((numbers.release(70), numbers.release(70)), (None, Some(9)));
    }

    #[test]
    fn who_comes_when_all_are_taken_is_not_counted() {
        let mut numbers = Numbers::default();
        for service in 1..u64::from(MAX_COUNTED) {
            assert!(numbers.hold(service).1);
        }
        assert_eq!(numbers.hold(1 << 20), (0, false));
        assert_eq!(numbers.release(5), Some(5));
        assert_eq!(numbers.hold(1 << 21), (5, true));
        assert_eq!(numbers.release(1 << 20), Some(0));
    }
}
