//! Sets of completion indexes as a Job's status writes them: `1,3-5,7`. Pure.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Reads a set; indexes from `end` on are left out.
pub(super) fn parse(text: &str, end: i64) -> BTreeSet<i64> {
    let mut indexes = BTreeSet::new();
    for interval in text.split(',') {
        let (first, last) = interval.split_once('-').unwrap_or((interval, interval));
        if let (Ok(first), Ok(last)) = (first.parse::<i64>(), last.parse::<i64>()) {
            indexes.extend(first.max(0)..=last.min(end - 1));
        }
    }
    indexes
}

/// Writes a set: two neighbours by a comma, more by a hyphen.
pub(super) fn format(indexes: &BTreeSet<i64>) -> String {
    let mut intervals: Vec<(i64, i64)> = Vec::new();
    for index in indexes {
        match intervals.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => intervals.push((*index, *index)),
        }
    }
    let mut text = String::new();
    for (first, last) in intervals {
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = match last - first {
            0 => write!(text, "{comma}{first}"),
            1 => write!(text, "{comma}{first},{last}"),
            _ => write!(text, "{comma}{first}-{last}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn intervals_are_written_as_upstream_writes_them() {
        assert_eq!(format(&[0, 2, 3, 5, 6, 7].into()), "0,2,3,5-7");
        assert_eq!(parse("0,2-4", 4), [0, 2, 3].into());
        assert_eq!((parse("", 4), format(&BTreeSet::new())), (BTreeSet::new(), String::new()));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(indexes in prop::collection::btree_set(0i64..60, 0..40)) {
            prop_assert_eq!(parse(&format(&indexes), 60), indexes);
        }
    }
}
