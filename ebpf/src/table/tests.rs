//! The table against a plain map, and under several writers and readers at once.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::flow::{FIN, TCP, UDP, pair};
use proptest::prelude::*;

const SEED: u64 = 0x0123_4567_89ab_cdef;

fn flow(number: u32) -> Flow {
    let [a, b, c, d] = number.to_be_bytes();
    Flow::new(([10, a, b, c], 1000 + u16::from(d)), ([172, 30, 77, 11], 30_080), TCP)
}

/// Leaves by a link that tells whose it is.
fn translation(number: u32, seen: u32) -> Translation {
    let to = Flow::new(([172, 30, 77, 11], 2000), ([10, 244, 0, 1], 8080), TCP);
    Translation { to, link: number, backend: number, generation: !number, seen }
}

/// What is found, as programs find it.
fn look(buckets: &mut [Bucket], flow: &Flow) -> Option<Translation> {
    let place = Place::of(flow, SEED, u32::try_from(buckets.len()).unwrap());
    let home: *mut Bucket = &raw mut buckets[place.home as usize];
    // SAFETY: both are elements, which nobody else has.
    unsafe {
        let mut line = find(home, &place, flow);
        if line.is_none() && has_spilled(home) {
            line = find(&raw mut buckets[place.other as usize], &place, flow);
        }
        read(line?, flow).map(|snapshot| snapshot.translation)
    }
}

fn take(buckets: &mut [Bucket], flow: &Flow) -> bool {
    let place = Place::of(flow, SEED, u32::try_from(buckets.len()).unwrap());
    let start = buckets.as_mut_ptr();
    // SAFETY: as above.
    unsafe {
        let both = (start.add(place.home as usize), start.add(place.other as usize));
        remove(both, &place, flow)
    }
}

#[test]
fn flows_spread_over_buckets_and_ways() {
    let places: Vec<Place> = (0..70_000).map(|number| Place::of(&flow(number), SEED, 1 << 10)).collect();
    let mut homes = vec![0; 1 << 10];
    let mut ways = [0; 7];
    for place in &places {
        homes[place.home as usize] += 1;
        ways[place.way as usize] += 1;
        assert_ne!(place.home, place.other);
    }
    assert!(homes.iter().all(|n| (35..=110).contains(n)), "{homes:?}");
    assert!(ways.iter().all(|n| (9_000..11_000).contains(n)), "{ways:?}");
    let others: HashSet<u32> =
        places.iter().filter(|place| place.home == 5).map(|place| place.other).collect();
    assert!(others.len() > 20, "what one bucket is too small for goes to many: {others:?}");
    assert_ne!(Place::of(&flow(1), SEED, 1 << 10), Place::of(&flow(1), SEED + 1, 1 << 10));
}

#[test]
fn tags_are_found_all_at_once() {
    for at in 0..8 {
        let mut words = [0x0007_4320_0000_c321, 0x8000_7fff_0001_ffff];
        words[at / 4] &= !(0xffff << (16 * (at % 4)));
        words[at / 4] |= 0x4321 << (16 * (at % 4));
        assert_eq!(with_tag(words, 0x4321), 1 << at);
        assert_eq!(lowest(with_tag(words, 0x4321)), u32::try_from(at).unwrap());
    }
    assert_eq!(with_tag([0; 2], 0), 0xff);
    assert_eq!(lowest(0b1010_1000), 3);
}

#[test]
fn as_many_flows_as_there_is_room_for_are_found() {
    let mut buckets = vec![Bucket::EMPTY; 1 << 12];
    // A third of all places, all open: none may be lost, though some homes are full.
    let count = (7 << 12) / 3;
    for number in 0..count {
        let open = translation(number, 10 | OPEN);
        let said = insert_alone(&mut buckets, SEED, (&flow(number), &open), Mode::Claim, 10);
        assert_eq!(said, Inserted::Yes, "{number}");
    }
    for number in 0..count {
        assert_eq!(look(&mut buckets, &flow(number)), Some(translation(number, 10 | OPEN)));
    }
    assert!(buckets.iter().any(|bucket| bucket.spilled != 0));
    let held: HashSet<Flow> = buckets.iter().flat_map(Bucket::flows).map(|(flow, _)| flow).collect();
    assert_eq!(held, (0..count).map(flow).collect());
}

#[test]
fn a_flood_of_beginnings_costs_no_open_connection() {
    let mut buckets = vec![Bucket::EMPTY; 1 << 8];
    let open = 512;
    for number in 0..open {
        let opened = translation(number, 10 | OPEN);
        insert_alone(&mut buckets, SEED, (&flow(number), &opened), Mode::Claim, 10);
    }
    let mut evicted = 0;
    for number in open..20_000 {
        let begun = translation(number, 10);
        let said = insert_alone(&mut buckets, SEED, (&flow(number), &begun), Mode::Claim, 10);
        assert_ne!(said, Inserted::Full, "the last that has begun is always known");
        evicted += usize::from(said == Inserted::Evicted);
        assert_eq!(look(&mut buckets, &flow(number)), Some(begun));
    }
    assert!(evicted > 17_000);
    for number in 0..open {
        assert!(look(&mut buckets, &flow(number)).is_some(), "{number} was lost");
    }
}

#[test]
fn a_table_of_open_connections_refuses_what_is_new_until_they_are_over() {
    let mut buckets = vec![Bucket::EMPTY; 2];
    let mut refused = Vec::new();
    for number in 0..40 {
        let opened = translation(number, 10 | OPEN);
        if insert_alone(&mut buckets, SEED, (&flow(number), &opened), Mode::Claim, 10) == Inserted::Full {
            refused.push(number);
        }
    }
    assert_eq!(refused.len(), 40 - 14);
    let later = 10 + 6 * 3600 + 1;
    let fresh = translation(refused[0], later);
    let said = insert_alone(&mut buckets, SEED, (&flow(refused[0]), &fresh), Mode::Claim, later);
    assert_eq!(said, Inserted::Evicted);
}

#[test]
fn what_is_missed_least_goes_first() {
    let by_rank = [
        (TCP, 1000 | OPEN),
        (TCP, 1000 | CLOSING),
        (TCP, 1000),
        (TCP, 990),
        (TCP, 990 | CLOSING | OPEN),
        (UDP, 800 | OPEN),
    ];
    let scores = by_rank.map(|(protocol, seen)| dispensability(protocol, seen, 1000));
    assert_eq!(scores[0], 0);
    assert!(scores.is_sorted_by(|a, b| a < b), "{scores:?}");
    assert!(scores[2] < STALE && scores[3] >= STALE);
    assert!(dispensability(TCP, 980, 1000) > dispensability(TCP, 990, 1000), "by age");
}

#[test]
fn a_sweep_takes_whole_connections() {
    let mut buckets = vec![Bucket::EMPTY; 4];
    let asked = flow(1);
    let leaves = asked.to([10, 244, 1, 5], 80);
    let mut lines = pair(asked, leaves, (0, 2), (7, 1), 100);
    lines[1].1.seen = crate::flow::seen_at(lines[1].1.seen, TCP, FIN, 120);
    for (flow, translation) in &lines {
        insert_alone(&mut buckets, SEED, (flow, translation), Mode::Claim, 100);
    }
    let mut swept = |now| {
        let known = buckets.clone();
        let partner = |flow: &Flow| {
            known.iter().flat_map(Bucket::flows).find(|(key, _)| key == flow).map(|(_, entry)| entry.seen)
        };
        let mut said = Vec::new();
        for bucket in &mut buckets {
            // SAFETY: the bucket lives, and nobody else has it.
            said.extend((0..7).map(|at| unsafe { sweep(bucket, at, now, partner) }));
        }
        let count = |wanted| said.iter().filter(|one| **one == wanted).count();
        (count(Swept::Left), count(Swept::Gone))
    };
    assert_eq!(swept(150), (2, 0));
    // The answer was closed 31 seconds ago; the request goes by its own age, now alone.
    let (left, gone) = swept(151);
    assert!(gone >= 1 && left + gone == 2);
    assert_eq!(swept(341).0, 0);
}

#[test]
fn a_hop_is_of_its_line_alone() {
    let mut bucket = Bucket::EMPTY;
    let known = Hop { ends: [7; 12], second: 9, mtu: 1500 };
    let place = Place::of(&flow(1), SEED, 1);
    insert_alone(std::slice::from_mut(&mut bucket), SEED, (&flow(1), &translation(1, 5)), Mode::Put, 5);
    let start = &raw mut bucket;
    // SAFETY: the bucket lives, and nobody else has it.
    unsafe {
        let line = find(start, &place, &flow(1)).unwrap();
        let version = read(line, &flow(1)).unwrap().version;
        assert_eq!(hop(line, version), Some(([0; 3], 0, 0)), "nothing is known of a new line");
        set_hop(start, line, version, &known);
        assert_eq!(hop(line, version), None, "it is another version");
        let version = read(line, &flow(1)).unwrap().version;
        assert_eq!(hop(line, version), Some(([0x0707_0707; 3], 9, 1500)));
        write(line, &flow(2), &translation(2, 5));
        set_hop(start, line, version, &known);
        let version = read(line, &flow(2)).unwrap().version;
        let (_, second, mtu) = hop(line, version).unwrap();
        assert_eq!((second, mtu), (0, 0), "what was known is of another flow");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(u32),
    Claim(u32),
    Remove(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let number = 0..60_u32;
    let step = prop_oneof![
        number.clone().prop_map(Step::Put),
        number.clone().prop_map(Step::Claim),
        number.prop_map(Step::Remove),
    ];
    proptest::collection::vec(step, 0..400)
}

proptest! {
    #[test]
    fn any_history_ends_as_in_a_map(steps in steps()) {
        let mut buckets = vec![Bucket::EMPTY; 32];
        let mut model: BTreeMap<u32, u32> = BTreeMap::new();
        for (turn, step) in steps.into_iter().enumerate() {
            let turn = u32::try_from(turn).unwrap();
            match step {
                Step::Put(n) => {
                    let said = insert_alone(&mut buckets, SEED, (&flow(n), &translation(turn, 9 | OPEN)), Mode::Put, 9);
                    prop_assert_eq!(said, Inserted::Yes);
                    model.insert(n, turn);
                }
                Step::Claim(n) => {
                    let said = insert_alone(&mut buckets, SEED, (&flow(n), &translation(turn, 9 | OPEN)), Mode::Claim, 9);
                    let expected = if model.contains_key(&n) { Inserted::Taken } else { Inserted::Yes };
                    prop_assert_eq!(said, expected);
                    model.entry(n).or_insert(turn);
                }
                Step::Remove(n) => prop_assert_eq!(take(&mut buckets, &flow(n)), model.remove(&n).is_some()),
            }
        }
        for n in 0..60 {
            prop_assert_eq!(look(&mut buckets, &flow(n)).map(|entry| entry.link), model.get(&n).copied());
        }
        prop_assert_eq!(buckets.iter().flat_map(Bucket::flows).count(), model.len());
    }
}

/// Shared as programs share it: by pointers alone.
struct Shared(Vec<Bucket>);
// SAFETY: everything that is done to it is made for several CPUs.
unsafe impl Sync for Shared {}

impl Shared {
    fn both(&self, place: &Place) -> (*mut Bucket, *mut Bucket) {
        let start = self.0.as_ptr().cast_mut();
        // SAFETY: both are below the length.
        unsafe { (start.add(place.home as usize), start.add(place.other as usize)) }
    }
}

/// Writers fight over few lines; what readers find is always what somebody wrote for that flow, whole.
#[test]
fn nobody_reads_half_a_line_and_no_claim_is_given_twice() {
    const BUCKETS: u32 = 4;
    let shared = Shared(vec![Bucket::EMPTY; BUCKETS as usize]);
    let end = AtomicBool::new(false);
    let claim = |number: u32, tag: u32| {
        let key = flow(number);
        let place = Place::of(&key, SEED, BUCKETS);
        let entry = translation(number ^ tag << 16, 10);
        // SAFETY: the buckets live as long as the threads.
        unsafe {
            let oldest = |bucket: u32, least| {
                let bucket = shared.0.as_ptr().cast_mut().add(bucket as usize);
                let score = |at: &u32| dispensability_of(bucket, *at, 10);
                (0..7).max_by_key(score).filter(|at| score(at) >= least).unwrap_or(7)
            };
            insert(shared.both(&place), &place, (&key, &entry), Mode::Claim, oldest)
        }
    };
    let read_all = || {
        let mut seen = 0_u64;
        while !end.load(Ordering::Relaxed) {
            for number in 0..64 {
                let key = flow(number);
                let place = Place::of(&key, SEED, BUCKETS);
                let (home, other) = shared.both(&place);
                for bucket in [home, other] {
                    // SAFETY: as above.
                    let found = unsafe { find(bucket, &place, &key).and_then(|line| read(line, &key)) };
                    let Some(Snapshot { translation: entry, .. }) = found else { continue };
                    assert_eq!(entry.link & 0xffff, number, "another flow's");
                    assert_eq!((entry.backend, entry.generation), (entry.link, !entry.link), "half a line");
                    seen += 1;
                }
            }
        }
        seen
    };
    let write_all = |tag: u32| {
        let mut claimed = 0_u64;
        for turn in 0..60_000_u32 {
            let number = turn.wrapping_mul(2_654_435_761).wrapping_add(tag * 7) % 64;
            claimed += u64::from(matches!(claim(number, tag), Inserted::Yes | Inserted::Evicted));
            if turn % 3 == 0 {
                let key = flow((number + 1) % 64);
                let place = Place::of(&key, SEED, BUCKETS);
                // SAFETY: as above.
                unsafe { remove(shared.both(&place), &place, &key) };
            }
        }
        claimed
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2).map(|_| scope.spawn(read_all)).collect();
        let writers: Vec<_> = (1..4).map(|tag| scope.spawn(move || write_all(tag))).collect();
        let claimed: u64 = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
        end.store(true, Ordering::Relaxed);
        let seen: u64 = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
        assert!(claimed > 1000 && seen > 1000, "{claimed} {seen}");
    });
    let all: Vec<Flow> = shared.0.iter().flat_map(Bucket::flows).map(|(flow, _)| flow).collect();
    let distinct: HashSet<&Flow> = all.iter().collect();
    assert_eq!(all.len(), distinct.len(), "a flow has two lines");
    assert!(shared.0.iter().all(|bucket| bucket.lock == 0), "a lock was left");
}
