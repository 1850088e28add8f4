//! When each node was last heard of, counted by seconds: how many are silent is asked for each of them while most are.

use std::collections::{BTreeMap, HashMap};

/// The second in which each node was heard of last, and how many nodes that was in each second.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    nodes: HashMap<String, i64>,
    seconds: BTreeMap<i64, usize>,
}

impl Heard {
    /// A node was heard of then; none: there is no such node.
    pub(super) fn set(&mut self, node: &str, second: Option<i64>) {
        let before = match second {
            Some(second) => self.nodes.insert(node.to_owned(), second),
            None => self.nodes.remove(node),
        };
        if let Some(before) = before
            && let Some(count) = self.seconds.get_mut(&before)
        {
            *count -= 1;
            if *count == 0 {
                self.seconds.remove(&before);
            }
        }
        if let Some(second) = second {
            *self.seconds.entry(second).or_default() += 1;
        }
    }

    /// How many nodes there are.
    pub(crate) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// How many of them were heard of after a second. Looks at no more than the seconds since.
    pub(crate) fn since(&self, second: i64) -> usize {
        self.seconds.range(second.saturating_add(1)..).map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_counted_where_they_were_heard_of_last() {
        let mut heard = Heard::default();
        for (node, second) in [("a", 10), ("b", 20), ("c", 20), ("a", 30)] {
            heard.set(node, Some(second));
        }
        assert_eq!((heard.nodes(), heard.since(9), heard.since(20), heard.since(30)), (3, 3, 1, 0));
        heard.set("b", None);
        heard.set("b", None);
        assert_eq!((heard.nodes(), heard.since(9), heard.since(20)), (2, 2, 1));
        assert_eq!(heard.seconds.len(), 2, "no second is kept that nobody was heard in");
    }
}
