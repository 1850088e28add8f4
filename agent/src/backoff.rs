//! How long to wait before trying again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const LAST: Duration = Duration::from_secs(10);

/// Doubles from 0.2 s to 10 s; each answer is spread by up to a half so that a thousand agents do not return as one.
#[derive(Debug)]
pub(crate) struct Backoff {
    current: Duration,
    seed: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        // The process id and the address of a stack variable differ between agents enough for spreading.
        let seed = u64::from(std::process::id()) ^ (jiff::Timestamp::now().as_nanosecond() as u64);
        Self { current: FIRST, seed: seed | 1 }
    }
}

impl Backoff {
    /// The next pause.
    pub(crate) fn next(&mut self) -> Duration {
        // xorshift64 (Marsaglia 2003): spreading needs no better randomness.
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        let base = self.current;
        self.current = (base * 2).min(LAST);
        let per_mille = u32::try_from(self.seed % 500).unwrap_or(0);
        base - base * per_mille / 1000
    }

    /// It worked: the next failure waits briefly again.
    pub(crate) fn reset(&mut self) {
        self.current = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_over_after_success() {
        let mut backoff = Backoff::default();
        let pauses: Vec<Duration> = (0..20).map(|_| backoff.next()).collect();
        assert!(pauses[0] <= FIRST && pauses[0] >= FIRST / 2);
        assert!(pauses[19] <= LAST && pauses[19] >= LAST / 2);
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
