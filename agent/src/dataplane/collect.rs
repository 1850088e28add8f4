//! Which flows are over. Pure.
//!
//! The two entries of a connection go together: one that is left alone would stand in the way of the client's next
//! connection by the same port, or let a reply out with the pod's address.

use std::collections::HashMap;
use std::hash::BuildHasher;

use oarlock_ebpf::flow::{CLOSING, Flow, REPLY, Translation, is_over};

/// The entries that are over: those of requests first, so that no request finds its entry without that of its reply.
pub(super) fn over<S: BuildHasher>(
    entries: &HashMap<Flow, Translation, S>,
    now: u32,
) -> Vec<(Flow, Translation)> {
    let mut over: Vec<(Flow, Translation)> = entries
        .iter()
        .filter(|(key, entry)| is_over(key.protocol, seen(entries, key, entry), now))
        .map(|(key, entry)| (*key, *entry))
        .collect();
    over.sort_by_key(|(_, entry)| entry.backend == REPLY);
    over
}

/// When a packet of the connection was seen last, in either direction, and whether either has closed it.
fn seen<S: BuildHasher>(entries: &HashMap<Flow, Translation, S>, key: &Flow, entry: &Translation) -> u32 {
    let partner = entries.get(&entry.to.reversed()).filter(|partner| partner.to.reversed() == *key);
    let other = partner.map_or(0, |partner| partner.seen);
    (entry.seen & !CLOSING).max(other & !CLOSING) | ((entry.seen | other) & CLOSING)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_ebpf::flow::{TCP, pair};

    fn connection(client_port: u16, seen: (u32, u32)) -> [(Flow, Translation); 2] {
        let asked = Flow::new(([172, 30, 77, 200], client_port), ([172, 30, 77, 11], 30_080), TCP);
        let mut pair = pair(asked, asked.to([10, 244, 1, 5], 80), (0, 2), (7, 1), 0);
        (pair[0].1.seen, pair[1].1.seen) = seen;
        pair
    }

    #[test]
    fn both_directions_of_a_connection_go_at_once_and_the_request_first() {
        let entries = HashMap::from(connection(4000, (100 | CLOSING, 120)));
        assert_eq!(over(&entries, 150), [], "the reply was seen 30 seconds ago");
        let gone = over(&entries, 151);
        assert_eq!(gone.len(), 2);
        assert_eq!(gone[0].0.destination_port(), 30_080);
    }

    #[test]
    fn a_connection_that_one_side_still_uses_stays_whole() {
        let entries = HashMap::from(connection(4000, (100, 20_000)));
        assert_eq!(over(&entries, 21_701), [], "idle for six hours in one direction only");
        assert_eq!(over(&entries, 20_000 + 6 * 3600 + 1).len(), 2);
    }

    #[test]
    fn what_is_left_of_an_earlier_connection_goes_by_its_own_age() {
        let [request, _] = connection(4000, (5000, 5000));
        let mut stale = connection(4000, (100 | CLOSING, 100 | CLOSING))[1];
        stale.0 = Flow::new(([10, 244, 1, 9], 80), ([172, 30, 77, 200], 4000), TCP);
        let entries = HashMap::from([request, stale]);
        assert_eq!(over(&entries, 5001), [stale]);
    }
}
