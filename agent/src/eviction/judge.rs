//! What follows from what was seen: conditions of the node, and what it is to get back first. Pure.
//!
//! Source: kubelet's pkg/kubelet/eviction/eviction_manager.go, `synchronize`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::threshold::{Hard, Observations, Pressure, Signal};

/// When pods are evicted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Policy {
    pub(crate) hard: Hard,
    /// How long a condition stays after its last reason.
    pub(crate) transition: Duration,
}

/// What a node is under.
pub(crate) type Pressures = BTreeSet<Pressure>;

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    short: Vec<Signal>,
    last_seen: BTreeMap<Pressure, Timestamp>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judgement {
    pub(crate) pressures: Pressures,
    /// What is short, the worst first.
    pub(crate) short: Vec<Signal>,
}

impl Judge {
    /// Judges one look.
    pub(crate) fn judge(&mut self, policy: &Policy, seen: &Observations, now: Timestamp) -> Judgement {
        self.short = policy.hard.crossed(seen, &self.short);
        for signal in &self.short {
            self.last_seen.insert(signal.pressure(), now);
        }
        let stays = SignedDuration::try_from(policy.transition).unwrap_or(SignedDuration::MAX);
        let short: BTreeSet<Pressure> = self.short.iter().map(|signal| signal.pressure()).collect();
        self.last_seen.retain(|pressure, at| short.contains(pressure) || now.duration_since(*at) < stays);
        Judgement { pressures: self.last_seen.keys().copied().collect(), short: self.short.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::threshold::Room;
    use super::*;

    #[test]
    fn a_condition_comes_at_once_and_goes_after_a_while() {
        let hard = Hard::parse("memory.available<100,nodefs.available<100", "").unwrap();
        let policy = Policy { hard, transition: Duration::from_mins(5) };
        let (mut judge, start) = (Judge::default(), Timestamp::UNIX_EPOCH);
        let mut at = |seconds: i64, memory: u64, disk: u64| {
            let room = |available| Room { capacity: 1000, available };
            let seen = BTreeMap::from([(Signal::Memory, room(memory)), (Signal::NodeDisk, room(disk))]);
            let found = judge.judge(&policy, &seen, start + SignedDuration::from_secs(seconds));
            (found.pressures.into_iter().collect::<Vec<_>>(), found.short)
        };
        assert_eq!(at(0, 500, 500), (vec![], vec![]));
        let (memory, disk) = (Pressure::Memory, Pressure::Disk);
        assert_eq!(at(10, 50, 50), (vec![memory, disk], vec![Signal::Memory, Signal::NodeDisk]));
        assert_eq!(at(20, 500, 50), (vec![memory, disk], vec![Signal::NodeDisk]));
        assert_eq!(at(309, 500, 500), (vec![memory, disk], vec![]));
        assert_eq!(at(310, 500, 500), (vec![disk], vec![]), "five minutes after it was last short");
        assert_eq!(at(320, 500, 500), (vec![], vec![]));
    }
}
