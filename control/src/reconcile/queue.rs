//! Which keys wait, which run, and which have to wait for the world to see what they wrote. Pure but for the clock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::time::Duration;

use oarlock_planner::Key;
use tokio::time::Instant;

use crate::metrics::QueueMetrics;

/// The first pause after a failure; it doubles up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(30);

/// A key of a controller (its index).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Item {
    pub(super) controller: usize,
    pub(super) key: Key,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// The most urgent first, and of equals who came first.
    ready: BTreeMap<(Reverse<i64>, u64), Item>,
    came: u64,
    /// What is in `ready` or parked, and how urgent it is.
    waiting: HashMap<Item, i64>,
    /// By the revision that the world has to reach first.
    parked: BTreeMap<u64, Vec<Item>>,
    running: HashMap<Item, bool>,
    /// What a key wrote last.
    wrote: HashMap<Item, u64>,
    failures: HashMap<Item, u32>,
    timers: BinaryHeap<Reverse<(Instant, Item)>>,
    due: HashMap<Item, Instant>,
    /// When a key that waits was added, and when one that runs was started.
    since: HashMap<Item, Instant>,
    /// By the controller's index; none in tests.
    metrics: Vec<QueueMetrics>,
}

impl Queue {
    /// An empty queue that is counted in these, by the controller's index.
    pub(super) fn new(metrics: Vec<QueueMetrics>) -> Self {
        Self { metrics, ..Self::default() }
    }

    /// A key has to be looked at.
    pub(super) fn push(&mut self, item: Item) {
        self.push_urgent(item, 0);
    }

    /// A key has to be looked at, before those that are less urgent.
    pub(super) fn push_urgent(&mut self, item: Item, urgency: i64) {
        if let Some(dirty) = self.running.get_mut(&item) {
            *dirty = true;
        } else if !self.waiting.contains_key(&item) {
            self.waiting.insert(item.clone(), urgency);
            if let Some(metrics) = self.metrics.get(item.controller) {
                metrics.adds.inc();
                metrics.depth.inc();
                self.since.insert(item.clone(), Instant::now());
            }
            self.line_up(item, urgency);
        }
    }

    fn line_up(&mut self, item: Item, urgency: i64) {
        self.came += 1;
        self.ready.insert((Reverse(urgency), self.came), item);
    }

    /// A key has to be looked at in a while. The soonest time counts.
    pub(super) fn push_later(&mut self, item: Item, after: Duration) {
        let at = Instant::now() + after;
        if self.due.get(&item).is_none_or(|present| at < *present) {
            self.due.insert(item.clone(), at);
            self.timers.push(Reverse((at, item)));
        }
    }

    /// When the next timer ends.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// The next key whose own writes the world (at `revision`) has seen.
    pub(super) fn pop(&mut self, revision: u64) -> Option<Item> {
        self.ring();
        while let Some((_, item)) = self.ready.pop_first() {
            match self.wrote.get(&item) {
                Some(wrote) if *wrote > revision => self.parked.entry(*wrote).or_default().push(item),
                _ => {
                    self.waiting.remove(&item);
                    self.wrote.remove(&item);
                    if let Some(metrics) = self.metrics.get(item.controller) {
                        metrics.depth.dec();
                        let since = self.since.remove(&item);
                        metrics.waited.observe(since.map_or(0.0, |at| at.elapsed().as_secs_f64()));
                    }
                    return Some(item);
                }
            }
        }
        None
    }

    /// The world has reached `revision`.
    pub(super) fn release(&mut self, revision: u64) {
        let later = self.parked.split_off(&(revision + 1));
        let free = std::mem::replace(&mut self.parked, later);
        for item in free.into_values().flatten() {
            let urgency = self.waiting.get(&item).copied().unwrap_or(0);
            self.line_up(item, urgency);
        }
    }

    /// The key's plan is being carried out.
    pub(super) fn start(&mut self, item: &Item) {
        self.running.insert(item.clone(), false);
        if !self.metrics.is_empty() {
            self.since.insert(item.clone(), Instant::now());
        }
    }

    /// Nothing had to be done: the key's failures are over.
    pub(super) fn forget(&mut self, item: &Item) {
        self.failures.remove(item);
    }

    /// The key's plan was carried out and wrote up to `wrote`.
    pub(super) fn finish(&mut self, item: Item, wrote: u64, failed: bool, revision: u64) {
        let dirty = self.running.remove(&item).unwrap_or(false);
        if let Some(metrics) = self.metrics.get(item.controller) {
            let since = self.since.remove(&item);
            metrics.worked.observe(since.map_or(0.0, |at| at.elapsed().as_secs_f64()));
            metrics.retries.inc_by(u64::from(failed));
        }
        if wrote > revision {
            self.wrote.insert(item.clone(), wrote);
        }
        if failed {
            let failures = self.failures.entry(item.clone()).or_default();
            *failures += 1;
            let pause = FIRST.saturating_mul(1 << (*failures).min(12)).min(LONGEST);
            self.push_later(item, pause);
        } else {
            self.failures.remove(&item);
            if dirty {
                self.push(item);
            }
        }
    }

    fn ring(&mut self) {
        let now = Instant::now();
        while self.next_timer().is_some_and(|at| at <= now) {
            if let Some(Reverse((at, item))) = self.timers.pop()
                && self.due.get(&item) == Some(&at)
            {
                self.due.remove(&item);
                self.push(item);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str) -> Item {
        Item { controller: 0, key: (String::new(), name.to_owned()) }
    }

    #[tokio::test]
    async fn a_key_waits_once_and_runs_alone() {
        let mut queue = Queue::default();
        queue.push(item("a"));
        queue.push(item("a"));
        assert_eq!(queue.pop(0), Some(item("a")));
        assert_eq!(queue.pop(0), None);
        queue.start(&item("a"));
        queue.push(item("a"));
        assert_eq!(queue.pop(0), None, "it runs");
        queue.finish(item("a"), 0, false, 0);
        assert_eq!(queue.pop(0), Some(item("a")), "it was touched meanwhile");
    }

    #[tokio::test]
    async fn the_most_urgent_key_comes_first_and_equals_in_turn() {
        let mut queue = Queue::default();
        for (name, urgency) in [("a", 0), ("b", 5), ("c", -1), ("d", 5), ("e", 0)] {
            queue.push_urgent(item(name), urgency);
        }
        let order: Vec<String> = std::iter::from_fn(|| queue.pop(0)).map(|item| item.key.1).collect();
        assert_eq!(order, ["b", "d", "a", "e", "c"]);
    }

    #[tokio::test]
    async fn a_key_is_not_planned_before_its_own_writes_are_seen() {
        let mut queue = Queue::default();
        queue.start(&item("a"));
        queue.finish(item("a"), 7, false, 5);
        queue.push(item("a"));
        assert_eq!(queue.pop(6), None);
        queue.release(6);
        assert_eq!(queue.pop(6), None);
        queue.release(7);
        assert_eq!(queue.pop(7), Some(item("a")));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_tried_again_with_growing_pauses() {
        let mut queue = Queue::default();
        let mut last = Duration::ZERO;
        for _ in 0..15 {
            queue.start(&item("a"));
            queue.finish(item("a"), 0, true, 0);
            let at = queue.next_timer().unwrap();
            let pause = at - Instant::now();
            assert!(pause >= last && pause <= LONGEST);
            last = pause;
            tokio::time::advance(pause).await;
            assert_eq!(queue.pop(0), Some(item("a")));
        }
        assert_eq!(last, LONGEST);
    }
}
