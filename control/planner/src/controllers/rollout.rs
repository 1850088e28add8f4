//! How many replicas the new ReplicaSet and each old one should have at this step of a rollout. Pure numbers.
//!
//! Source: k8s.io/kubernetes/pkg/controller/deployment/{rolling,recreate,sync}.go.

use serde_json::Value;

/// `spec.strategy`, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Strategy {
    Recreate,
    Rolling { surge: Amount, unavailable: Amount },
}

/// A number or a percentage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Amount {
    Number(i64),
    Percent(i64),
}

impl Amount {
    fn read(value: &Value) -> Self {
        match value {
            Value::String(text) => {
                let percent = text.strip_suffix('%').and_then(|p| p.parse().ok());
                percent.map_or(Self::Percent(25), Self::Percent)
            }
            Value::Number(number) => Self::Number(number.as_i64().unwrap_or(0)),
            _ => Self::Percent(25),
        }
    }

    /// As [`Self::read`], with another default.
    pub(super) fn or_number(value: &Value, default: i64) -> Self {
        if value.is_null() { Self::Number(default) } else { Self::read(value) }
    }

    pub(super) fn of(self, replicas: i64, round_up: bool) -> i64 {
        match self {
            Self::Number(number) => number,
            Self::Percent(percent) if round_up => (replicas * percent + 99) / 100,
            Self::Percent(percent) => replicas * percent / 100,
        }
    }
}

impl Strategy {
    pub(super) fn of(spec: &Value) -> Self {
        if spec["strategy"]["type"] == "Recreate" {
            return Self::Recreate;
        }
        let rolling = &spec["strategy"]["rollingUpdate"];
        Self::Rolling {
            surge: Amount::read(&rolling["maxSurge"]),
            unavailable: Amount::read(&rolling["maxUnavailable"]),
        }
    }

    /// How many pods may be there beyond the wanted ones.
    pub(super) fn surge(&self, replicas: i64) -> i64 {
        match self {
            Self::Recreate => 0,
            Self::Rolling { surge, .. } => surge.of(replicas, true),
        }
    }

    /// How many of the wanted pods may be missing.
    pub(super) fn unavailable(&self, replicas: i64) -> i64 {
        match self {
            Self::Recreate => replicas,
            Self::Rolling { surge, unavailable } => {
                let unavailable = unavailable.of(replicas, false).min(replicas);
                // Both rounded to nothing: something has to move.
                if unavailable == 0 && surge.of(replicas, true) == 0 { 1 } else { unavailable }
            }
        }
    }
}

/// A ReplicaSet's numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Replicas {
    /// `spec.replicas`.
    pub(super) wanted: i64,
    /// `status.availableReplicas`.
    pub(super) available: i64,
    /// `status.replicas`.
    pub(super) present: i64,
}

/// What each should have. `new` is `None` while the new ReplicaSet must not be made yet (or need not change).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) new: Option<i64>,
    /// In the order of the old ReplicaSets, oldest first.
    pub(super) old: Vec<i64>,
}

/// Decides one step.
pub(super) fn decide(
    replicas: i64,
    strategy: &Strategy,
    new: Option<Replicas>,
    old: &[Replicas],
    paused: bool,
) -> Decision {
    let mut decision = Decision { new: new.map(|n| n.wanted), old: old.iter().map(|o| o.wanted).collect() };
    if paused {
        scale_only(replicas, new, &mut decision);
        return decision;
    }
    match strategy {
        Strategy::Recreate => recreate(replicas, old, &mut decision),
        Strategy::Rolling { .. } => roll(replicas, strategy, new, old, &mut decision),
    }
    decision
}

/// While paused nothing is rolled out, but the number of replicas still follows.
fn scale_only(replicas: i64, new: Option<Replicas>, decision: &mut Decision) {
    let active =
        decision.old.iter().filter(|n| **n > 0).count() + usize::from(new.is_some_and(|n| n.wanted > 0));
    if active > 1 {
        return;
    }
    match decision.old.iter_mut().find(|n| **n > 0) {
        Some(only) => *only = replicas,
        None if new.is_some() => decision.new = Some(replicas),
        None => {}
    }
}

fn recreate(replicas: i64, old: &[Replicas], decision: &mut Decision) {
    decision.old.fill(0);
    // The new pods wait until no old one is left.
    if old.iter().all(|o| o.wanted == 0 && o.present == 0) {
        decision.new = Some(replicas);
    }
}

fn roll(
    replicas: i64,
    strategy: &Strategy,
    new: Option<Replicas>,
    old: &[Replicas],
    decision: &mut Decision,
) {
    let old_total: i64 = old.iter().map(|o| o.wanted).sum();
    let present = new.map_or(0, |n| n.wanted);
    let room = (replicas + strategy.surge(replicas) - old_total - present).max(0);
    let target = if present > replicas { replicas } else { present + room.min(replicas - present) };
    decision.new = Some(target);
    if target != present || new.is_none() {
        return;
    }
    let least_available = replicas - strategy.unavailable(replicas);
    let new_unavailable = new.map_or(0, |n| (n.wanted - n.available).max(0));
    let mut removable = (old_total + present - least_available - new_unavailable).max(0);
    // Pods that serve nobody go first.
    for (wanted, replica_set) in decision.old.iter_mut().zip(old) {
        let unhealthy = (*wanted - replica_set.available).max(0).min(removable);
        *wanted -= unhealthy;
        removable -= unhealthy;
    }
    let available: i64 = old.iter().map(|o| o.available).sum::<i64>() + new.map_or(0, |n| n.available);
    let mut surplus = (available - least_available).max(0).min(removable);
    for wanted in &mut decision.old {
        let down = (*wanted).min(surplus);
        *wanted -= down;
        surplus -= down;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    fn rolling(surge: i64, unavailable: i64) -> Strategy {
        Strategy::Rolling { surge: Amount::Number(surge), unavailable: Amount::Number(unavailable) }
    }

    fn ready(n: i64) -> Replicas {
        Replicas { wanted: n, available: n, present: n }
    }

    #[test]
    fn a_first_rollout_makes_all_replicas_at_once() {
        let strategy = Strategy::Rolling { surge: Amount::Percent(25), unavailable: Amount::Percent(25) };
        assert_eq!(decide(3, &strategy, None, &[], false), Decision { new: Some(3), old: vec![] });
    }

    #[test]
    fn percentages_round_as_upstream_rounds() {
        let strategy = Strategy::Rolling { surge: Amount::Percent(25), unavailable: Amount::Percent(25) };
        assert_eq!((strategy.surge(3), strategy.unavailable(3)), (1, 0));
        assert_eq!((strategy.surge(10), strategy.unavailable(10)), (3, 2));
        assert_eq!(rolling(0, 0).unavailable(5), 1);
    }

    #[test]
    fn recreate_waits_for_the_old_pods() {
        let step = decide(3, &Strategy::Recreate, None, &[ready(3)], false);
        assert_eq!(step, Decision { new: None, old: vec![0] });
        let gone = Replicas::default();
        assert_eq!(decide(3, &Strategy::Recreate, None, &[gone], false).new, Some(3));
    }

    #[test]
    fn broken_new_pods_hold_the_rollout() {
        let broken = Replicas { wanted: 1, available: 0, present: 1 };
        let step = decide(3, &rolling(1, 0), Some(broken), &[ready(3)], false);
        assert_eq!(step, Decision { new: Some(1), old: vec![3] });
    }

    #[test]
    fn paused_deployments_only_scale() {
        assert_eq!(decide(5, &rolling(1, 0), None, &[ready(3)], true), Decision { new: None, old: vec![5] });
    }

    proptest! {
        /// Pods become available at random, one step after another: the bounds hold at every step and the end is reached.
        #[test]
        fn a_rollout_keeps_its_bounds_and_ends(
            replicas in 0i64..12, old in prop::collection::vec(0i64..8, 0..3), surge in 0i64..4, unavailable in 0i64..4,
            luck in prop::collection::vec(any::<bool>(), 200),
        ) {
            let strategy = rolling(surge, unavailable);
            let mut olds: Vec<Replicas> = old.into_iter().map(ready).collect();
            let mut new: Option<Replicas> = None;
            let start: i64 = olds.iter().map(|o| o.available).sum();
            for lucky in luck.into_iter().chain(std::iter::repeat_n(true, 200)) {
                let step = decide(replicas, &strategy, new, &olds, false);
                let n = new.get_or_insert_default();
                let target = step.new.unwrap_or(n.wanted);
                // Never more than the surge allows, unless there were more from the start.
                let total = target + step.old.iter().sum::<i64>();
                prop_assert!(total <= (replicas + strategy.surge(replicas)).max(start));
                n.wanted = target;
                n.available = n.available.min(target);
                for (o, wanted) in olds.iter_mut().zip(&step.old) {
                    *o = Replicas { wanted: *wanted, available: o.available.min(*wanted), present: *wanted };
                }
                let available = n.available + olds.iter().map(|o| o.available).sum::<i64>();
                let least = replicas - strategy.unavailable(replicas);
                prop_assert!(available >= least.min(start), "{available} of {least}");
                if lucky {
                    n.available = n.wanted;
                }
                n.present = n.wanted;
            }
            prop_assert_eq!(new.unwrap().wanted, replicas);
            prop_assert!(olds.iter().all(|o| o.wanted == 0));
        }
    }
}
