//! Whether what clients saw of one key could have happened one after the other. Pure.
//!
//! Every write has a revision, and a watch shows them all: that is the order, and the search that makes such checks expensive is not
//! needed. What is left to see is that the order is possible: each operation has a place in it, between the states that it can have
//! seen, and whatever ended before another began stands before it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Instant;

/// What a client asked for. Values are written once each, so that a state tells who made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    Create {
        value: String,
    },
    /// Whatever is there.
    Write {
        value: String,
    },
    /// If the object is still at `version`.
    Swap {
        version: u64,
        value: String,
    },
    Delete {
        version: u64,
    },
    Read,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Saw {
    /// A write's version, or what a read found.
    Object {
        version: u64,
        value: String,
    },
    /// A delete.
    Gone,
    NotFound,
    AlreadyExists,
    Conflict,
    /// No answer, or one that leaves it open.
    Unknown,
}

/// One operation.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) asked: Asked,
    pub(crate) saw: Saw,
}

/// A change, as a watch told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) version: u64,
    /// None: it was deleted.
    pub(crate) value: Option<String>,
}

/// Where an operation stands.
enum Place {
    /// It made this state.
    Makes(usize),
    /// It saw a state of these.
    Sees(Seen),
    /// It did nothing that anybody saw.
    Nowhere,
}

/// Which states somebody may have seen.
enum Seen {
    This(usize),
    Absent,
    Present,
    /// There, and not at this version.
    Other(u64),
}

/// The states of a key: none at first, then one after each event.
struct States<'h> {
    events: &'h [Event],
    /// Which of them somebody made.
    made: Vec<bool>,
    /// The event that wrote a value: each is written once.
    by_value: HashMap<&'h str, u64>,
}

/// Why the history of one key is impossible; nothing when it is not.
pub(crate) fn check(events: &[Event], operations: &[Operation]) -> Result<(), String> {
    let by_value = events.iter().filter_map(|event| Some((event.value.as_deref()?, event.version)));
    let mut states = States { events, made: vec![false; events.len()], by_value: by_value.collect() };
    let mut ordered: Vec<&Operation> = operations.iter().collect();
    ordered.sort_by_key(|operation| operation.began);
    // Those that were answered first: what is then left over was made by those that were not.
    let (unknown, known): (Vec<_>, Vec<_>) = ordered.into_iter().partition(|o| o.saw == Saw::Unknown);
    let mut placed = Vec::with_capacity(operations.len());
    for operation in known.into_iter().chain(unknown) {
        placed.push((operation, states.place(operation)?));
    }
    if let Some(index) = states.made.iter().position(|made| !made) {
        return Err(format!("nobody asked for {:?}", events[index]));
    }
    placed.sort_by_key(|(operation, _)| operation.began);
    in_time(&states, &placed)
}

/// Gives each operation the earliest state that it may have seen: later ones only have more to choose from.
fn in_time(states: &States<'_>, placed: &[(&Operation, Place)]) -> Result<(), String> {
    // Those that go on, and the latest state of those that had ended.
    let (mut open, mut before) = (BinaryHeap::<Reverse<(Instant, usize)>>::new(), 0);
    for (operation, place) in placed {
        while let Some(Reverse((_, state))) = open.peek().filter(|open| open.0.0 < operation.began) {
            before = before.max(*state);
            open.pop();
        }
        let state = match place {
            Place::Nowhere => continue,
            Place::Makes(state) if *state > before => *state,
            Place::Sees(seen) => match states.first(before, seen) {
                Some(state) => state,
                None => return Err(format!("{operation:?}: state {before} was seen before it began")),
            },
            Place::Makes(state) => {
                return Err(format!(
                    "{operation:?} made state {state}, but {before} was seen before it began"
                ));
            }
        };
        if operation.saw != Saw::Unknown {
            open.push(Reverse((operation.ended, state)));
        }
    }
    Ok(())
}

impl States<'_> {
    /// The object in a state: its version and value.
    fn object(&self, state: usize) -> Option<(u64, &str)> {
        let event = self.events.get(state.checked_sub(1)?)?;
        Some((event.version, event.value.as_deref()?))
    }

    /// The first state from one on that somebody may have seen.
    fn first(&self, from: usize, seen: &Seen) -> Option<usize> {
        if let Seen::This(this) = seen {
            return (*this >= from).then_some(*this);
        }
        let fits = |state: &usize| match (seen, self.object(*state)) {
            (Seen::This(_), _) => false,
            (Seen::Absent, there) => there.is_none(),
            (Seen::Present, there) => there.is_some(),
            (Seen::Other(version), there) => there.is_some_and(|(there, _)| there != *version),
        };
        (from..=self.events.len()).find(fits)
    }

    /// The state that an event of this version made.
    fn of(&self, version: u64) -> Option<usize> {
        self.events.binary_search_by_key(&version, |event| event.version).ok().map(|index| index + 1)
    }

    fn place(&mut self, operation: &Operation) -> Result<Place, String> {
        match (&operation.asked, &operation.saw) {
            (Asked::Read, Saw::Unknown) => Ok(Place::Nowhere),
            (Asked::Read, Saw::Object { version, value }) => {
                let found = self.of(*version).filter(|state| self.object(*state) == Some((*version, value)));
                let found = found.ok_or_else(|| format!("{operation:?} saw what never was"))?;
                Ok(Place::Sees(Seen::This(found)))
            }
            (Asked::Delete { version }, Saw::Gone) => self.deletes(operation, *version),
            (Asked::Delete { version }, Saw::Unknown) => {
                Ok(self.deletes(operation, *version).unwrap_or(Place::Nowhere))
            }
            (asked, Saw::Object { version, value }) => self.makes(operation, asked, *version, value),
            (Asked::Create { value } | Asked::Write { value } | Asked::Swap { value, .. }, Saw::Unknown) => {
                match self.by_value.get(value.as_str()).copied() {
                    Some(version) => self.makes(operation, &operation.asked, version, value),
                    None => Ok(Place::Nowhere),
                }
            }
            (_, Saw::NotFound) => Ok(Place::Sees(Seen::Absent)),
            (_, Saw::AlreadyExists) => Ok(Place::Sees(Seen::Present)),
            (Asked::Swap { version, .. } | Asked::Delete { version }, Saw::Conflict) => {
                Ok(Place::Sees(Seen::Other(*version)))
            }
            // Too many others wrote.
            (Asked::Write { .. }, Saw::Conflict) => Ok(Place::Nowhere),
            _ => Err(format!("{operation:?}: no such answer")),
        }
    }

    fn makes(
        &mut self,
        operation: &Operation,
        asked: &Asked,
        version: u64,
        value: &str,
    ) -> Result<Place, String> {
        let state = self.of(version).filter(|state| self.object(*state) == Some((version, value)));
        let state =
            state.ok_or_else(|| format!("{operation:?} was acknowledged, and no watch tells of it"))?;
        let before = self.object(state - 1).map(|(version, _)| version);
        let fits = match asked {
            Asked::Create { .. } => before.is_none(),
            Asked::Swap { version, .. } => before == Some(*version),
            _ => before.is_some(),
        };
        if !fits {
            return Err(format!("{operation:?} was written over version {before:?}"));
        }
        self.make(operation, state)
    }

    fn deletes(&mut self, operation: &Operation, version: u64) -> Result<Place, String> {
        // It is the next after what it deleted.
        let next = self.of(version).filter(|state| self.object(*state).is_some()).map(|state| state + 1);
        let is_gone = |state: &usize| {
            *state <= self.events.len() && self.object(*state).is_none() && !self.made[state - 1]
        };
        let state = next.filter(is_gone);
        let state =
            state.ok_or_else(|| format!("{operation:?} was acknowledged, and no watch tells of it"))?;
        self.make(operation, state)
    }

    fn make(&mut self, operation: &Operation, state: usize) -> Result<Place, String> {
        match std::mem::replace(&mut self.made[state - 1], true) {
            false => Ok(Place::Makes(state)),
            true => Err(format!("{operation:?} was done by somebody else, too")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn events(list: &[(u64, &str)]) -> Vec<Event> {
        let value = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        list.iter().map(|(version, text)| Event { version: *version, value: value(text) }).collect()
    }

    /// Operations with their times in seconds.
    fn history(list: &[(u64, u64, Asked, Saw)]) -> Vec<Operation> {
        let start = Instant::now();
        let at = |seconds: &u64| start + Duration::from_secs(*seconds);
        list.iter()
            .map(|(began, ended, asked, saw)| Operation {
                began: at(began),
                ended: at(ended),
                asked: asked.clone(),
                saw: saw.clone(),
            })
            .collect()
    }

    fn object(version: u64, value: &str) -> Saw {
        Saw::Object { version, value: value.into() }
    }

    fn create(value: &str) -> Asked {
        Asked::Create { value: value.into() }
    }

    fn swap(version: u64, value: &str) -> Asked {
        Asked::Swap { version, value: value.into() }
    }

    #[test]
    fn what_can_have_happened_is_believed() {
        let log = events(&[(2, "a"), (3, "b"), (5, ""), (7, "c")]);
        let operations = history(&[
            (0, 2, create("a"), object(2, "a")),
            (1, 4, Asked::Read, Saw::NotFound),
            (3, 5, swap(2, "b"), object(3, "b")),
            (3, 6, swap(2, "x"), Saw::Conflict),
            (3, 9, create("y"), Saw::AlreadyExists),
            (6, 8, Asked::Delete { version: 3 }, Saw::Unknown),
            (9, 10, Asked::Read, Saw::NotFound),
            (9, 20, create("c"), Saw::Unknown),
            (30, 31, Asked::Read, object(7, "c")),
        ]);
        assert_eq!(check(&log, &operations), Ok(()));
    }

    #[test]
    fn what_cannot_is_not() {
        let log = [(2, "a"), (3, "b")];
        let made = (0, 1, create("a"), object(2, "a"));
        let swapped = (2, 3, swap(2, "b"), object(3, "b"));
        let stale = (4, 5, Asked::Read, object(2, "a"));
        let early = (0, 1, Asked::Read, object(3, "b"));
        let vanished = (4, 5, Asked::Read, Saw::NotFound);
        let twice = (2, 3, swap(2, "c"), object(4, "c"));
        let lost = (4, 5, swap(3, "d"), object(9, "d"));
        let denied = (4, 5, create("e"), Saw::AlreadyExists);
        for (log, operations, why) in [
            (&log[..], vec![made.clone(), swapped.clone(), stale], "was seen before it began"),
            (&log[..], vec![made.clone(), swapped.clone(), early], "was seen before it began"),
            (&log[..], vec![made.clone(), swapped.clone(), vanished], "was seen before it began"),
            (
                &[(2, "a"), (3, "b"), (4, "c")],
                vec![made.clone(), swapped.clone(), twice],
                "over version Some(3)",
            ),
            (&log[..], vec![made.clone(), swapped.clone(), lost], "no watch tells of it"),
            (&log[..], vec![made.clone()], "nobody asked for"),
            (
                &[(2, "a"), (3, "")],
                vec![made.clone(), (2, 3, Asked::Delete { version: 2 }, Saw::Gone), denied],
                "was seen before it began",
            ),
        ] {
            let found = check(&events(log), &history(&operations)).unwrap_err();
            assert!(found.contains(why), "{found}: not {why}");
        }
    }
}
