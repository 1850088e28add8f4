//! What autoscalers remember from one turn to the next. Not in the store: who leads anew begins with the present.

use jiff::Timestamp;

/// How long a scaling is remembered: the longest period of a policy.
const LONGEST_PERIOD: i64 = 1800;

/// What an autoscaler has to remember.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// Recommendations of the last windows.
    pub recommendations: Vec<(Timestamp, i64)>,
    /// How many pods were added when.
    pub ups: Vec<(Timestamp, i64)>,
    /// How many pods were taken away when.
    pub downs: Vec<(Timestamp, i64)>,
    /// A scaling from and to so many replicas that was planned last.
    pub rescale: Option<(i64, i64, Timestamp)>,
}

impl Memory {
    /// Looks whether the scaling that was planned has come true, and what is there for the first time.
    pub fn settle(&mut self, replicas: i64, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, replicas));
        }
        if let Some((from, to, at)) = self.rescale.take()
            && replicas == to
        {
            if to > from { self.ups.push((at, to - from)) } else { self.downs.push((at, from - to)) }
        }
        for events in [&mut self.ups, &mut self.downs] {
            events.retain(|(at, _)| now.as_second() - at.as_second() < LONGEST_PERIOD);
        }
    }
}
