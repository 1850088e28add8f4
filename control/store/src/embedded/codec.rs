//! How records stand in the tables: fixed little-endian heads, then the value's bytes.

use super::value_of;
use crate::{Error, Record, Result, Revision};

/// `created: u64, modified: u64, lease: i64 (0: none), value`.
pub(super) fn encode_record(record: &Record, lease: i64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(24 + record.value.len());
    bytes.extend_from_slice(&record.created.0.to_le_bytes());
    bytes.extend_from_slice(&record.modified.0.to_le_bytes());
    bytes.extend_from_slice(&lease.to_le_bytes());
    bytes.extend_from_slice(&record.value);
    bytes
}

/// The record of a key and the lease it is bound to.
pub(super) fn decode_record(key: &str, bytes: &[u8]) -> Result<(Record, i64)> {
    let number = |at: usize| -> Result<[u8; 8]> {
        bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).ok_or_else(|| damaged(key))
    };
    let record = Record {
        key: key.to_owned(),
        created: Revision(u64::from_le_bytes(number(0)?)),
        modified: Revision(u64::from_le_bytes(number(8)?)),
        value: value_of(&bytes[24.min(bytes.len())..]),
    };
    Ok((record, i64::from_le_bytes(number(16)?)))
}

/// One change: what stood there before and what stands there after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) before: Option<Record>,
    pub(super) after: Option<Record>,
}

/// `length of before: u32 (0: none), before, after (empty: none)`, each as a record without its key.
pub(super) fn encode_change(change: &Change) -> Vec<u8> {
    let part = |r: &Option<Record>| r.as_ref().map(|r| encode_record(r, 0)).unwrap_or_default();
    let (before, after) = (part(&change.before), part(&change.after));
    let mut bytes = Vec::with_capacity(4 + before.len() + after.len());
    // Values are limited to 1.5 MiB, so a length always fits.
    bytes.extend_from_slice(&u32::try_from(before.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&before);
    bytes.extend_from_slice(&after);
    bytes
}

/// The reverse of [`encode_change`].
pub(super) fn decode_change(key: &str, bytes: &[u8]) -> Result<Change> {
    let head: [u8; 4] = bytes.get(..4).and_then(|b| b.try_into().ok()).ok_or_else(|| damaged(key))?;
    let length = u32::from_le_bytes(head) as usize;
    let rest = &bytes[4..];
    let (before, after) = rest.split_at_checked(length).ok_or_else(|| damaged(key))?;
    let part = |b: &[u8]| if b.is_empty() { Ok(None) } else { decode_record(key, b).map(|(r, _)| Some(r)) };
    Ok(Change { before: part(before)?, after: part(after)? })
}

fn damaged(key: &str) -> Error {
    Error::Corrupt(format!("the entry of {key} is too short; restore the file from a backup"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> impl Strategy<Value = Record> {
        (any::<u64>(), any::<u64>(), proptest::collection::vec(any::<u8>(), 0..40)).prop_map(|(c, m, v)| {
            Record { key: "/k".into(), created: Revision(c), modified: Revision(m), value: v.into() }
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(before in proptest::option::of(record()), after in proptest::option::of(record()), lease: i64) {
            let change = Change { before, after };
            prop_assert_eq!(decode_change("/k", &encode_change(&change)).unwrap(), change.clone());
            if let Some(record) = change.after {
                prop_assert_eq!(decode_record("/k", &encode_record(&record, lease)).unwrap(), (record, lease));
            }
        }

        #[test]
        fn damaged_bytes_are_an_error_not_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode_record("/k", &bytes);
            let _ = decode_change("/k", &bytes);
        }
    }
}
