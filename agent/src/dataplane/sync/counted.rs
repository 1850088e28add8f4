//! Entries that several frontends share: there as long as one of them needs them. Pure.

use std::collections::BTreeMap;

/// How many need each entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Counted<K: Ord>(BTreeMap<K, usize>);

impl<K: Ord> Default for Counted<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Counted<K> {
    /// One more needs it. True for the first.
    pub(super) fn add(&mut self, key: K) -> bool {
        let users = self.0.entry(key).or_default();
        *users += 1;
        *users == 1
    }

    /// One less needs it. True when nobody does any more.
    pub(super) fn remove(&mut self, key: &K) -> bool {
        let Some(users) = self.0.get_mut(key) else { return false };
        *users -= 1;
        *users == 0 && self.0.remove(key).is_some()
    }

    /// Whether anybody needs it.
    pub(super) fn contains(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_there_from_the_first_to_the_last_who_needs_it() {
        let mut counted = Counted::default();
        assert!(counted.add("a") && !counted.add("a"));
        assert!(!counted.remove(&"a") && counted.contains(&"a"));
        assert!(counted.remove(&"a") && !counted.contains(&"a"));
        assert!(!counted.remove(&"a"), "nobody's is nobody's to remove");
    }
}
