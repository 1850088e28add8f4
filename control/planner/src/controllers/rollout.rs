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
    /// Pods that are there, those included that end.
    pub(super) present: i64,
    /// The most pods of all ReplicaSets when it was last scaled.
    pub(super) most: i64,
}

/// What each should have. `new` is `None` while the new ReplicaSet must not be made yet (or need not change).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) new: Option<i64>,
    /// In the order of the old ReplicaSets, oldest first.
    pub(super) old: Vec<i64>,
}

/// Decides one step of a rollout.
pub(super) fn decide(
    replicas: i64,
    strategy: &Strategy,
    new: Option<Replicas>,
    old: &[Replicas],
) -> Decision {
    let mut decision = as_they_are(new, old);
    match strategy {
        Strategy::Recreate => recreate(replicas, old, &mut decision),
        Strategy::Rolling { .. } => roll(replicas, strategy, new, old, &mut decision),
    }
    decision
}

fn as_they_are(new: Option<Replicas>, old: &[Replicas]) -> Decision {
    Decision { new: new.map(|n| n.wanted), old: old.iter().map(|o| o.wanted).collect() }
}

/// Nothing is rolled out (or not in this step), but the number of replicas follows: the only ReplicaSet with pods, or the
/// newest, has them all; several share what is more or less by their sizes.
pub(super) fn scale(replicas: i64, strategy: &Strategy, new: Option<Replicas>, old: &[Replicas]) -> Decision {
    let mut decision = as_they_are(new, old);
    let old_active: Vec<usize> = (0..old.len()).filter(|i| old[*i].wanted > 0).collect();
    let new_active = new.is_some_and(|n| n.wanted > 0);
    match (old_active.as_slice(), new_active) {
        ([], _) if new.is_some() => decision.new = Some(replicas),
        ([], _) => {
            if let Some(newest) = decision.old.last_mut() {
                *newest = replicas;
            }
        }
        ([only], false) => decision.old[*only] = replicas,
        // The new one is whole: what is old goes.
        _ if new.is_some_and(|n| (n.wanted, n.available) == (replicas, replicas)) => decision.old.fill(0),
        _ if *strategy == Strategy::Recreate => {}
        _ => share(replicas, strategy, new, old, &mut decision),
    }
    decision
}

/// Upstream's proportional scaling.
fn share(
    replicas: i64,
    strategy: &Strategy,
    new: Option<Replicas>,
    old: &[Replicas],
    decision: &mut Decision,
) {
    let most = if replicas > 0 { replicas + strategy.surge(replicas) } else { 0 };
    // The new one is the youngest.
    let mut sizes: Vec<(usize, Replicas)> =
        old.iter().copied().chain(new).enumerate().filter(|(_, r)| r.wanted > 0).collect();
    let add = most - sizes.iter().map(|(_, r)| r.wanted).sum::<i64>();
    // The largest first; of equals the younger grows, the older shrinks.
    sizes.sort_by_key(|(age, r)| (-r.wanted, if add > 0 { old.len() - age } else { *age }));
    let mut added = 0;
    let mut wanted: Vec<(usize, i64)> = Vec::with_capacity(sizes.len());
    for (age, r) in &sizes {
        let allowed = add - added;
        let share = share_of(replicas, most, r);
        let share = if add > 0 { share.min(allowed).max(0) } else { share.max(allowed).min(0) };
        added += share;
        wanted.push((*age, r.wanted + share));
    }
    // What rounding has left is the largest one's.
    if let Some((_, largest)) = wanted.first_mut() {
        *largest = (*largest + add - added).max(0);
    }
    for (age, replicas) in wanted {
        match decision.old.get_mut(age) {
            Some(old) => *old = replicas,
            None => decision.new = Some(replicas),
        }
    }
}

/// What a ReplicaSet would have more (or less) if it kept its part of the whole.
fn share_of(replicas: i64, most: i64, r: &Replicas) -> i64 {
    if replicas == 0 {
        return -r.wanted;
    }
    let before = r.most.max(1);
    // Rounded to the nearest, halves up: all numbers are positive.
    (2 * r.wanted * most + before) / (2 * before) - r.wanted
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
        Replicas { wanted: n, available: n, present: n, most: n }
    }

    #[test]
    fn a_first_rollout_makes_all_replicas_at_once() {
        let strategy = Strategy::Rolling { surge: Amount::Percent(25), unavailable: Amount::Percent(25) };
        assert_eq!(decide(3, &strategy, None, &[]), Decision { new: Some(3), old: vec![] });
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
        let step = decide(3, &Strategy::Recreate, None, &[ready(3)]);
        assert_eq!(step, Decision { new: None, old: vec![0] });
        let gone = Replicas::default();
        assert_eq!(decide(3, &Strategy::Recreate, None, &[gone]).new, Some(3));
    }

    #[test]
    fn broken_new_pods_hold_the_rollout() {
        let broken = Replicas { wanted: 1, available: 0, present: 1, most: 4 };
        let step = decide(3, &rolling(1, 0), Some(broken), &[ready(3)]);
        assert_eq!(step, Decision { new: Some(1), old: vec![3] });
    }

    #[test]
    fn what_is_paused_only_scales() {
        let strategy = rolling(1, 0);
        let only = scale(5, &strategy, None, &[ready(3)]);
        assert_eq!(only, Decision { new: None, old: vec![5] });
        let new = scale(5, &strategy, Some(ready(3)), &[ready(0)]);
        assert_eq!(new, Decision { new: Some(5), old: vec![0] });
        assert_eq!(scale(5, &strategy, None, &[ready(0), ready(0)]).old, [0, 5]);
        assert_eq!(scale(4, &strategy, Some(ready(4)), &[ready(2)]), Decision { new: Some(4), old: vec![0] });
    }

    fn part(wanted: i64, most: i64) -> Replicas {
        Replicas { wanted, available: 0, present: wanted, most }
    }

    /// The example of upstream's documentation, and cases of `TestScale`.
    #[test]
    fn several_share_what_is_more_or_less() {
        let shared = |replicas, surge, new, old: &[i64], most| {
            let old: Vec<Replicas> = old.iter().map(|n| part(*n, most)).collect();
            let step = scale(replicas, &rolling(surge, 2), Some(part(new, most)), &old);
            (step.new.unwrap(), step.old)
        };
        // From 10 to 15 with a surge of 3: 8 old and 5 new become 11 and 7.
        assert_eq!(shared(15, 3, 5, &[8], 13), (7, vec![11]));
        assert_eq!(shared(20, 0, 2, &[5, 3], 10), (4, vec![10, 6]));
        assert_eq!(shared(5, 0, 2, &[5, 3], 10), (1, vec![2, 2]));
        assert_eq!(shared(0, 0, 2, &[5, 3], 10), (0, vec![0, 0]));
        // Of equals the younger grows, the older shrinks.
        assert_eq!(shared(11, 0, 5, &[5], 10), (6, vec![5]));
        assert_eq!(shared(9, 0, 5, &[5], 10), (5, vec![4]));
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
                let step = decide(replicas, &strategy, new, &olds);
                let n = new.get_or_insert_default();
                let target = step.new.unwrap_or(n.wanted);
                // Never more than the surge allows, unless there were more from the start.
                let total = target + step.old.iter().sum::<i64>();
                prop_assert!(total <= (replicas + strategy.surge(replicas)).max(start));
                n.wanted = target;
                n.available = n.available.min(target);
                for (o, wanted) in olds.iter_mut().zip(&step.old) {
                    *o = Replicas { wanted: *wanted, available: o.available.min(*wanted), present: *wanted, most: 0 };
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

        /// However many share, all is given away and none goes the other way.
        #[test]
        fn shares_add_up(
            replicas in 0i64..60, surge in 0i64..5, new in 1i64..20, old in prop::collection::vec(1i64..20, 1..4),
            most in 1i64..80,
        ) {
            let olds: Vec<Replicas> = old.iter().map(|n| part(*n, most)).collect();
            let step = scale(replicas, &rolling(surge, 1), Some(part(new, most)), &olds);
            let total = step.new.unwrap() + step.old.iter().sum::<i64>();
            let before = new + old.iter().sum::<i64>();
            let wanted = if replicas > 0 { replicas + surge } else { 0 };
            if wanted >= before {
                prop_assert_eq!(total, wanted);
                prop_assert!(step.new.unwrap() >= new && step.old.iter().zip(&old).all(|(a, b)| a >= b));
            } else {
                prop_assert!(total >= wanted && total <= before, "{} of {}", total, wanted);
                prop_assert!(step.new.unwrap() <= new && step.old.iter().zip(&old).all(|(a, b)| a <= b));
            }
        }
    }
}
