//! What follows from what was seen: conditions of the node, and what it is to get back first. Pure.
//!
//! Source: kubelet's pkg/kubelet/eviction/eviction_manager.go, `synchronize`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::soft::Soft;
use super::threshold::{Hard, Observations, Pressure, Signal};

/// When pods are evicted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Policy {
    pub(crate) hard: Hard,
    /// What may be so for a while.
    pub(crate) soft: Soft,
    /// How long a condition stays after its last reason.
    pub(crate) transition: Duration,
}

/// What a node is under.
pub(crate) type Pressures = BTreeSet<Pressure>;

/// What pods are to be evicted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Short {
    pub(crate) signal: Signal,
    /// By a soft threshold alone: pods have time to end.
    pub(crate) soft: bool,
}

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    short: Vec<Signal>,
    /// What is below its soft threshold, since when.
    soft: BTreeMap<Signal, Timestamp>,
    last_seen: BTreeMap<Pressure, Timestamp>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judgement {
    pub(crate) pressures: Pressures,
    /// What is short, the worst first.
    pub(crate) short: Vec<Short>,
}

impl Policy {
    /// The threshold that was crossed.
    pub(crate) fn least(&self, short: Short, capacity: u64) -> Option<u64> {
        if short.soft {
            self.soft.least(short.signal, capacity)
        } else {
            self.hard.least(short.signal, capacity)
        }
    }
}

impl Judge {
    /// Judges one look.
    pub(crate) fn judge(&mut self, policy: &Policy, seen: &Observations, now: Timestamp) -> Judgement {
        self.short = policy.hard.crossed(seen, &self.short);
        let before: Vec<Signal> = self.soft.keys().copied().collect();
        let soft = policy.soft.crossed(seen, &before);
        self.soft.retain(|signal, _| soft.contains(signal));
        for signal in soft {
            self.soft.entry(signal).or_insert(now);
        }
        // The node's condition does not wait: nobody new is to come.
        let under: BTreeSet<Pressure> =
            self.short.iter().chain(self.soft.keys()).map(|signal| signal.pressure()).collect();
        self.last_seen.extend(under.iter().map(|pressure| (*pressure, now)));
        let stays = SignedDuration::try_from(policy.transition).unwrap_or(SignedDuration::MAX);
        self.last_seen.retain(|pressure, at| under.contains(pressure) || now.duration_since(*at) < stays);
        let over = self.soft.iter().filter(|(signal, since)| {
            policy.soft.is_over(**signal, **since, now) && !self.short.contains(signal)
        });
        let hard = self.short.iter().map(|signal| Short { signal: *signal, soft: false });
        let mut short: Vec<Short> =
            hard.chain(over.map(|(signal, _)| Short { signal: *signal, soft: true })).collect();
        short.sort();
        Judgement { pressures: self.last_seen.keys().copied().collect(), short }
    }
}

#[cfg(test)]
mod tests {
    use super::super::threshold::Room;
    use super::*;

    #[test]
    fn a_condition_comes_at_once_and_goes_after_a_while() {
        let hard = Hard::parse("memory.available<100,nodefs.available<100", "").unwrap();
        let policy = Policy { hard, soft: Soft::default(), transition: Duration::from_mins(5) };
        let (mut judge, start) = (Judge::default(), Timestamp::UNIX_EPOCH);
        let mut at = |seconds: i64, memory: u64, disk: u64| {
            let room = |available| Room { capacity: 1000, available };
            let seen = BTreeMap::from([(Signal::Memory, room(memory)), (Signal::NodeDisk, room(disk))]);
            let found = judge.judge(&policy, &seen, start + SignedDuration::from_secs(seconds));
            let short: Vec<Signal> = found.short.iter().map(|short| short.signal).collect();
            (found.pressures.into_iter().collect::<Vec<_>>(), short)
        };
        assert_eq!(at(0, 500, 500), (vec![], vec![]));
        let (memory, disk) = (Pressure::Memory, Pressure::Disk);
        assert_eq!(at(10, 50, 50), (vec![memory, disk], vec![Signal::Memory, Signal::NodeDisk]));
        assert_eq!(at(20, 500, 50), (vec![memory, disk], vec![Signal::NodeDisk]));
        assert_eq!(at(309, 500, 500), (vec![memory, disk], vec![]));
        assert_eq!(at(310, 500, 500), (vec![disk], vec![]), "five minutes after it was last short");
        assert_eq!(at(320, 500, 500), (vec![], vec![]));
    }

    #[test]
    fn a_soft_threshold_is_told_at_once_and_acted_on_when_it_has_been_crossed_for_long_without_a_break() {
        let hard = Hard::parse("memory.available<100", "").unwrap();
        let patience = [("memory.available".to_owned(), Duration::from_mins(1))];
        let soft = Soft::parse("memory.available<300", &patience, "", 60).unwrap();
        let policy = Policy { hard, soft, transition: Duration::ZERO };
        let (mut judge, start) = (Judge::default(), Timestamp::UNIX_EPOCH);
        let mut at = |seconds: i64, available: u64| {
            let seen = BTreeMap::from([(Signal::Memory, Room { capacity: 1000, available })]);
            let found = judge.judge(&policy, &seen, start + SignedDuration::from_secs(seconds));
            (found.pressures.contains(&Pressure::Memory), found.short)
        };
        let [soft, hard] = [true, false].map(|soft| Short { signal: Signal::Memory, soft });
        assert_eq!(at(0, 500), (false, vec![]));
        assert_eq!(at(10, 200), (true, vec![]), "the node says so");
        assert_eq!(at(60, 200), (true, vec![]));
        assert_eq!(at(65, 400), (false, vec![]), "it begins anew");
        assert_eq!(at(70, 200), (true, vec![]));
        assert_eq!(at(129, 200), (true, vec![]));
        assert_eq!(at(130, 200), (true, vec![soft]));
        assert_eq!(at(140, 50), (true, vec![hard]), "the hard one has no patience");
        assert_eq!(at(150, 200), (true, vec![soft]));
        assert_eq!(policy.least(soft, 1000), Some(300));
        assert_eq!(policy.least(hard, 1000), Some(100));
    }
}
