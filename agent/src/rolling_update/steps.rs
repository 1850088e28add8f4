//! How far each controller may be scaled at a moment, as upstream's rolling updater: one pod more than wanted at a time, none
//! fewer available. Pure.

/// How many pods more than wanted there may be meanwhile.
const SURGE: i64 = 1;

/// Two controllers in the middle of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    /// Replicas that the new one is to have in the end.
    pub(super) desired: i64,
    /// `spec.replicas` of the old one.
    pub(super) old: i64,
    /// `spec.replicas` of the new one.
    pub(super) new: i64,
}

impl Moment {
    pub(super) fn is_done(self) -> bool {
        self.old == 0 && self.new == self.desired
    }

    /// What the new one is scaled up to, if that changes anything.
    pub(super) fn up(self) -> Option<i64> {
        let room = if self.old == 0 {
            self.desired - self.new
        } else {
            self.desired + SURGE - (self.old + self.new)
        };
        let up = (self.new + room).min(self.desired);
        (self.new != self.desired && (room > 0 || self.new > self.desired)).then_some(up)
    }

    /// What the old one is scaled down to, if that changes anything: as many pods stay as keep the desired number available.
    pub(super) fn down(self, new_available: i64) -> Option<i64> {
        if self.old == 0 {
            return None;
        }
        if self.new == self.desired && new_available >= self.desired {
            return Some(0);
        }
        let unavailable = self.new - new_available;
        let fewer = self.old + self.new - self.desired - unavailable;
        (fewer > 0).then(|| (self.old - fewer).max(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn three_pods_are_replaced_one_by_one() {
        let mut moment = Moment { desired: 3, old: 3, new: 0 };
        let mut seen = Vec::new();
        while !moment.is_done() {
            moment.new = moment.up().unwrap_or(moment.new);
            moment.old = moment.down(moment.new).unwrap_or(moment.old);
            seen.push((moment.new, moment.old));
        }
        assert_eq!(seen, [(1, 2), (2, 1), (3, 0)]);
    }

    #[test]
    fn nothing_goes_while_the_new_pods_are_not_available() {
        assert_eq!(Moment { desired: 3, old: 3, new: 1 }.down(0), None);
        assert_eq!(Moment { desired: 3, old: 3, new: 1 }.up(), None);
        assert_eq!(Moment { desired: 3, old: 3, new: 1 }.down(1), Some(2));
        assert_eq!(Moment { desired: 5, old: 2, new: 0 }.up(), Some(4), "to a larger number");
        assert_eq!(Moment { desired: 1, old: 4, new: 0 }.down(0), Some(1), "to a smaller number");
        assert_eq!(Moment { desired: 2, old: 0, new: 3 }.up(), Some(2), "scaled by somebody meanwhile");
    }

    proptest! {
        #[test]
        fn every_update_ends_and_never_has_fewer_available_or_more_than_one_too_many(
            desired in 1i64..9, old in 0i64..9, new in 0i64..9, ready in prop::collection::vec(0i64..9, 1..60),
        ) {
            let mut moment = Moment { desired, old, new: new.min(desired) };
            for slow in ready.into_iter().chain(std::iter::repeat_n(9, 30)) {
                let before = moment;
                moment.new = moment.up().unwrap_or(moment.new);
                prop_assert!(moment.new + moment.old <= (desired + 1).max(before.new + before.old));
                let available = moment.new.min(slow);
                let had = moment.old + available;
                moment.old = moment.down(available).unwrap_or(moment.old);
                prop_assert!(moment.old + available >= desired.min(had));
            }
            prop_assert!(moment.is_done(), "{moment:?}");
        }
    }
}
