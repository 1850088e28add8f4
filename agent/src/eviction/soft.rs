//! Soft thresholds: what may be short for a while before pods go, which then have some time to end. Pure.
//!
//! Source: kubelet's pkg/kubelet/eviction/helpers.go (`ParseThresholdConfig`) and eviction_manager.go.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::threshold::{Hard, Observations, Signal};

/// Thresholds of a node, each with how long it may be crossed.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Soft {
    thresholds: Hard,
    patience: BTreeMap<Signal, Duration>,
    /// The most that an evicted pod has to end, in seconds.
    max_pod_grace: u64,
}

impl Soft {
    /// Reads `memory.available<300Mi,...`, the patience with each by its signal's name, and what has to come back.
    pub(crate) fn parse(
        soft: &str,
        patience: &[(String, Duration)],
        reclaim: &str,
        max_pod_grace: u64,
    ) -> Result<Self, String> {
        let thresholds = Hard::parse(soft, reclaim)?;
        let named = |(name, duration): &(String, Duration)| Ok((Signal::parse(name)?, *duration));
        let patience: BTreeMap<Signal, Duration> =
            patience.iter().map(named).collect::<Result<_, String>>()?;
        let without = thresholds.signals().find(|signal| !patience.contains_key(signal));
        match without {
            Some(signal) => Err(format!(
                "grace period must be specified for the soft eviction threshold {}",
                signal.name()
            )),
            None => Ok(Self { thresholds, patience, max_pod_grace }),
        }
    }

    /// As of hard thresholds.
    pub(crate) fn least(&self, signal: Signal, capacity: u64) -> Option<u64> {
        self.thresholds.least(signal, capacity)
    }

    /// What is below its threshold, however long.
    pub(crate) fn crossed(&self, seen: &Observations, before: &[Signal]) -> Vec<Signal> {
        self.thresholds.crossed(seen, before)
    }

    /// Whether something has been short for long enough.
    pub(crate) fn is_over(&self, signal: Signal, since: Timestamp, now: Timestamp) -> bool {
        let patience = self.patience.get(&signal).copied().unwrap_or_default();
        SignedDuration::try_from(patience).is_ok_and(|patience| now.duration_since(since) >= patience)
    }

    /// How many seconds a pod has to end that would like so many: never none, as whoever ends at once leaves no last words.
    pub(crate) fn pod_grace(&self, own: Option<i64>) -> u64 {
        let own = own.and_then(|own| u64::try_from(own).ok()).unwrap_or(u64::MAX);
        self.max_pod_grace.min(own).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_threshold_needs_its_patience() {
        let minute = ("memory.available".to_owned(), Duration::from_mins(1));
        let parse = |soft: &str, patience: &[_]| Soft::parse(soft, patience, "", 0);
        assert!(parse("memory.available<1Gi", std::slice::from_ref(&minute)).is_ok());
        assert!(
            parse("", std::slice::from_ref(&minute)).is_ok(),
            "as upstream, one too many is none too few"
        );
        let error = parse("memory.available<1Gi,nodefs.available<20%", &[minute]).unwrap_err();
        assert_eq!(error, "grace period must be specified for the soft eviction threshold nodefs.available");
        let unknown = parse("", &[("memory".to_owned(), Duration::ZERO)]).unwrap_err();
        assert!(unknown.contains("no signal"), "{unknown}");
    }

    #[test]
    fn a_pod_has_what_it_likes_to_have_but_no_more_than_the_node_gives() {
        let soft = |most| Soft { max_pod_grace: most, ..Soft::default() };
        assert_eq!(
            [soft(60).pod_grace(Some(30)), soft(60).pod_grace(Some(90)), soft(60).pod_grace(None)],
            [30, 60, 60]
        );
        assert_eq!([soft(0).pod_grace(Some(30)), soft(60).pod_grace(Some(0))], [1, 1]);
    }
}
