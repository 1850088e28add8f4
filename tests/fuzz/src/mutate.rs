//! Something wrong in an input that is right: in a value of its JSON, or in its bytes.

use rand::Rng;
use serde_json::{Map, Value, json};

/// What stands before a body: everything up to an empty line.
const HEAD: &[u8] = b"\n\n";

/// Changes something: in JSON, also such as follows a head, mostly a value of it, and bytes otherwise.
pub fn mutate(input: &mut Vec<u8>, words: &[Vec<u8>], random: &mut impl Rng) {
    let is_json = random.random_bool(0.6) && mutate_json(input, words, random);
    if !is_json {
        damage(input, words, random);
    }
}

/// Changes a value of the JSON that an input is or ends with; false where there is none.
pub fn mutate_json(input: &mut Vec<u8>, words: &[Vec<u8>], random: &mut impl Rng) -> bool {
    let head = input.windows(HEAD.len()).rposition(|window| window == HEAD).map_or(0, |at| at + HEAD.len());
    for start in [0, head] {
        if let Some(Ok(mut value @ (Value::Object(_) | Value::Array(_)))) =
            input.get(start..).map(serde_json::from_slice::<Value>)
        {
            twist(&mut value, words, random);
            input.truncate(start);
            input.extend_from_slice(value.to_string().as_bytes());
            return true;
        }
    }
    false
}

fn word(words: &[Vec<u8>], random: &mut impl Rng) -> Vec<u8> {
    if words.is_empty() { Vec::new() } else { words[random.random_range(0..words.len())].clone() }
}

fn text(words: &[Vec<u8>], random: &mut impl Rng) -> String {
    String::from_utf8_lossy(&word(words, random)).into_owned()
}

/// A value that is at some place in an object instead of what should be there.
fn strange(words: &[Vec<u8>], random: &mut impl Rng) -> Value {
    match random.random_range(0..11) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(random.random::<i64>()),
        3 => json!(random.random::<f64>() * 1e300),
        4 => json!(-1),
        5 => json!([]),
        6 => json!({}),
        7 => json!([null, {}, 7, ""]),
        8 => json!({"$patch": "delete", "name": null}),
        9 => json!("x".repeat(random.random_range(0..300))),
        _ => json!(text(words, random)),
    }
}

/// Replaces, adds or removes something somewhere in a value.
fn twist(value: &mut Value, words: &[Vec<u8>], random: &mut impl Rng) {
    let goes_down = random.random_bool(0.85);
    match value {
        Value::Object(map) if !map.is_empty() && goes_down => twist_map(map, words, random),
        Value::Array(list) if !list.is_empty() && goes_down => {
            let index = random.random_range(0..list.len());
            match random.random_range(0..6) {
                0 => list.push(list[index].clone()),
                1 => drop(list.remove(index)),
                _ => twist(&mut list[index], words, random),
            }
        }
        Value::String(text) if goes_down => {
            let mut bytes = std::mem::take(text).into_bytes();
            damage(&mut bytes, words, random);
            *text = String::from_utf8_lossy(&bytes).into_owned();
        }
        other => *other = strange(words, random),
    }
}

fn twist_map(map: &mut Map<String, Value>, words: &[Vec<u8>], random: &mut impl Rng) {
    let key = map.keys().nth(random.random_range(0..map.len())).cloned().unwrap_or_default();
    match random.random_range(0..12) {
        0 => drop(map.shift_remove(&key)),
        1 => drop(map.insert(text(words, random), strange(words, random))),
        _ => twist(&mut map[&key], words, random),
    }
}

/// Changes bytes, with no regard for what they mean.
fn damage(bytes: &mut Vec<u8>, words: &[Vec<u8>], random: &mut impl Rng) {
    let at = random.random_range(0..=bytes.len());
    let end = (at + random.random_range(0..9)).min(bytes.len());
    match random.random_range(0..5) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
        1 if at < bytes.len() => bytes[at] = random.random(),
        2 => drop(bytes.drain(at..end)),
        3 => {
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
        }
        _ => drop(bytes.splice(at..at, word(words, random))),
    }
}
