//! The last events of the dataplane, for any number of those who look: each has seen them up to a number of its own.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::dataplane::picture::EventPicture;
use crate::dataplane::{DataplaneConfig, DataplaneError, Directory, Watcher};

/// How many are kept for those who ask a little later.
const KEPT: usize = 4096;
/// For how long the programs go on telling after somebody has asked.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// The number to ask for next.
    pub next: u64,
    /// What happened since the number that was asked for.
    pub events: Vec<EventPicture>,
}

/// The last ones.
#[derive(Default)]
pub(super) struct Recent {
    watcher: Option<Watcher>,
    kept: VecDeque<EventPicture>,
    /// The number of the one that comes next.
    next: u64,
}

impl Recent {
    /// Those since a number; without one those that come from now on, which is none yet.
    pub(super) fn since(
        &mut self,
        number: Option<u64>,
        config: &DataplaneConfig,
        directory: &Directory,
        pods: impl Fn(&str) -> Option<String>,
    ) -> Result<Events, DataplaneError> {
        let watcher = match self.watcher.take() {
            Some(watcher) => watcher,
            None => Watcher::open(config)?,
        };
        let watcher = self.watcher.insert(watcher);
        watcher.watch(PATIENCE)?;
        let mut come = watcher.take(directory);
        for event in &mut come {
            // Pods are known by their uid there.
            let named = event.client.as_deref().and_then(|client| pods(client.strip_prefix("pod ")?));
            if let Some(name) = named {
                event.client = Some(format!("pod {name}"));
            }
        }
        self.add(come);
        Ok(self.later_than(number))
    }

    fn add(&mut self, come: Vec<EventPicture>) {
        self.next += come.len() as u64;
        self.kept.extend(come);
        let too_many = self.kept.len().saturating_sub(KEPT);
        self.kept.drain(..too_many);
    }

    fn later_than(&self, number: Option<u64>) -> Events {
        let missed = number.map_or(0, |number| self.next.saturating_sub(number));
        let missed = usize::try_from(missed).unwrap_or(usize::MAX).min(self.kept.len());
        let events = self.kept.iter().skip(self.kept.len() - missed).cloned().collect();
        Events { next: self.next, events }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(port: u16) -> EventPicture {
        EventPicture {
            at: jiff::Timestamp::UNIX_EPOCH,
            what: "translated".to_owned(),
            hook: "tc".to_owned(),
            protocol: "TCP".to_owned(),
            source: None,
            destination: std::net::SocketAddr::from(([127, 0, 0, 1], port)),
            translated_source: None,
            translated_destination: None,
            service: None,
            client: None,
        }
    }

    #[test]
    fn each_reader_sees_each_event_once_and_one_that_was_away_the_last_of_them() {
        let mut recent = Recent::default();
        recent.add((0..3).map(event).collect());
        assert_eq!(recent.later_than(None), Events { next: 3, events: vec![] });
        assert_eq!(recent.later_than(Some(2)), Events { next: 3, events: vec![event(2)] });
        assert_eq!(recent.later_than(Some(3)).events, []);
        recent.add((3..5000).map(event).collect());
        let (late, events) = (recent.later_than(Some(0)), recent.later_than(Some(4999)).events);
        assert_eq!((late.next, late.events.len(), events), (5000, KEPT, vec![event(4999)]));
        assert_eq!(recent.later_than(Some(9000)).events, [], "a number of an agent before this one");
    }
}
