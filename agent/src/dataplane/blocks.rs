//! Which slots and indexes are free. Pure: ranges of numbers, given and taken back.

use std::collections::BTreeMap;

/// Free ranges of `0..capacity`, by start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blocks {
    free: BTreeMap<u32, u32>,
}

impl Blocks {
    pub(super) fn new(capacity: u32) -> Self {
        Self { free: BTreeMap::from([(0, capacity)]) }
    }

    /// The first free range of this length.
    pub(super) fn take(&mut self, length: u32) -> Option<u32> {
        if length == 0 {
            return Some(0);
        }
        let (start, size) = self.free.iter().map(|(s, l)| (*s, *l)).find(|(_, size)| *size >= length)?;
        self.free.remove(&start);
        if size > length {
            self.free.insert(start + length, size - length);
        }
        Some(start)
    }

    /// Takes just this range, if it is free: what the kernel's tables hold already.
    pub(super) fn claim(&mut self, start: u32, length: u32) -> bool {
        if length == 0 {
            return true;
        }
        let Some((free_start, size)) = self.free.range(..=start).next_back().map(|(s, l)| (*s, *l)) else {
            return false;
        };
        let (end, free_end) = (start + length, free_start + size);
        if end > free_end {
            return false;
        }
        self.free.remove(&free_start);
        if free_start < start {
            self.free.insert(free_start, start - free_start);
        }
        if end < free_end {
            self.free.insert(end, free_end - end);
        }
        true
    }

    /// Gives a range back.
    pub(super) fn give(&mut self, mut start: u32, mut length: u32) {
        if length == 0 {
            return;
        }
        if let Some((before, size)) = self.free.range(..start).next_back().map(|(s, l)| (*s, *l))
            && before + size == start
        {
            self.free.remove(&before);
            start = before;
            length += size;
        }
        if let Some(size) = self.free.remove(&(start + length)) {
            length += size;
        }
        self.free.insert(start, length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_given_back_joins_its_neighbours() {
        let mut blocks = Blocks::new(10);
        assert_eq!((blocks.take(3), blocks.take(3), blocks.take(3)), (Some(0), Some(3), Some(6)));
        assert_eq!(blocks.take(2), None);
        blocks.give(0, 3);
        blocks.give(6, 3);
        blocks.give(3, 3);
        assert_eq!(blocks, Blocks::new(10));
        assert!(blocks.claim(4, 2) && !blocks.claim(5, 3) && !blocks.claim(9, 2));
        assert_eq!(blocks.take(5), None);
    }

    proptest! {
        #[test]
        fn no_number_is_given_twice(steps in prop::collection::vec((any::<bool>(), 1u32..6), 0..80)) {
            let mut blocks = Blocks::new(40);
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (take, length) in steps {
                if take {
                    if let Some(start) = blocks.take(length) {
                        prop_assert!(start + length <= 40);
                        prop_assert!(held.iter().all(|(s, l)| start + length <= *s || s + l <= start));
                        held.push((start, length));
                    }
                } else if !held.is_empty() {
                    let (start, length) = held.remove(length as usize % held.len());
                    blocks.give(start, length);
                }
            }
            for (start, length) in held {
                blocks.give(start, length);
            }
            prop_assert_eq!(blocks, Blocks::new(40));
        }
    }
}
