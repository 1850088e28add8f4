//! Which images go, and how much of them: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::disk::Disk;
use crate::runtime::StoredImage;

/// When images are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Policy {
    /// From this use of the disk on, in percent; 100 is never.
    pub(crate) high: u8,
    /// Down to this.
    pub(crate) low: u8,
    /// No image that has been here for less.
    pub(crate) min_age: Duration,
}

impl Policy {
    /// How many bytes have to go, if any.
    pub(crate) fn excess(&self, disk: &Disk) -> Option<u64> {
        if self.high == 100 || disk.capacity == 0 {
            return None;
        }
        let used = 100 - disk.available.min(disk.capacity).saturating_mul(100) / disk.capacity;
        let least = disk.capacity.saturating_mul(u64::from(100 - self.low)) / 100;
        (used >= u64::from(self.high))
            .then(|| least.saturating_sub(disk.available))
            .filter(|bytes| *bytes > 0)
    }
}

/// Since when an image is here, and when a container last had it.
#[derive(Debug, Clone, Copy)]
struct Record {
    seen: Timestamp,
    used: Option<Timestamp>,
}

/// What is known of each image, by id.
#[derive(Debug, Default)]
pub(crate) struct Records(BTreeMap<String, Record>);

impl Records {
    /// Takes in what there is now.
    pub(crate) fn note(&mut self, stored: &[StoredImage], used: &BTreeSet<String>, now: Timestamp) {
        let present: BTreeSet<&String> = stored.iter().map(|image| &image.id).collect();
        self.0.retain(|id, _| present.contains(id));
        for id in present {
            let record = self.0.entry(id.clone()).or_insert(Record { seen: now, used: None });
            if used.contains(id) {
                record.used = Some(now);
            }
        }
    }

    /// Those that may go, in the order in which they do: longest unused first, of those the one that came first.
    pub(crate) fn going(
        &self,
        stored: Vec<StoredImage>,
        used: &BTreeSet<String>,
        min_age: Duration,
        now: Timestamp,
    ) -> Vec<StoredImage> {
        let min_age = SignedDuration::try_from(min_age).unwrap_or(SignedDuration::MAX);
        let of = |image: &StoredImage| self.0.get(&image.id).copied();
        let may = |image: &StoredImage| {
            !used.contains(&image.id)
                && of(image).is_some_and(|record| now.duration_since(record.seen) >= min_age)
        };
        let mut going: Vec<StoredImage> = stored.into_iter().filter(may).collect();
        going.sort_by_key(|image| (of(image).and_then(|r| r.used), of(image).map(|r| r.seen)));
        going
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: SignedDuration = SignedDuration::from_mins(1);

    fn ids(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(ToString::to_string).collect()
    }

    fn stored(ids: &[&str]) -> Vec<StoredImage> {
        ids.iter().map(|id| StoredImage { id: (*id).to_owned(), ..StoredImage::default() }).collect()
    }

    #[test]
    fn a_disk_is_freed_from_the_high_threshold_down_to_the_low_one() {
        let policy = Policy { high: 85, low: 80, min_age: Duration::ZERO };
        let disk = |available| Disk { capacity: 1000, available, ..Disk::default() };
        assert_eq!(policy.excess(&disk(160)), None, "84 % are used");
        assert_eq!(policy.excess(&disk(150)), Some(50));
        assert_eq!(policy.excess(&disk(0)), Some(200));
        assert_eq!(Policy { high: 100, ..policy }.excess(&disk(0)), None, "never");
    }

    #[test]
    fn the_longest_unused_image_goes_first_and_none_that_is_used_or_new() {
        let start = Timestamp::UNIX_EPOCH;
        let mut records = Records::default();
        records.note(&stored(&["long", "since", "busy"]), &ids(&["since", "busy"]), start);
        records.note(&stored(&["long", "since", "busy", "later"]), &ids(&["busy"]), start + MINUTE);
        let now = start + MINUTE * 3;
        records.note(&stored(&["long", "since", "busy", "later", "new"]), &ids(&["busy"]), now);
        let all = stored(&["new", "busy", "later", "since", "long"]);
        let going = records.going(all, &ids(&["busy"]), Duration::from_mins(2), now);
        let going: Vec<&str> = going.iter().map(|image| &*image.id).collect();
        assert_eq!(going, ["long", "later", "since"], "what was never used goes before what was");
    }
}
