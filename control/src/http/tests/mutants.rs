//! Bodies and parameters that are nearly right: what clients send, with something wrong in it. Refused, perhaps, but never a panic or
//! a failure of the server.
//!
//! `OARLOCK_INPUTS` and `OARLOCK_SEED` say how many and which; for long by `cargo xtask soak fuzz`.

use oarlock_api::catalogue::{Catalogue, Kind};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/api/tests/fixtures/kubectl-1.33");
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const PATCH: &str = "application/json-patch+json";

/// Pieces of text that decoders have to think about.
const PIECES: &[&str] = &[
    "null",
    "-1",
    "0",
    "9223372036854775808",
    "-9223372036854775809",
    "1e400",
    "1E-9Ki",
    "\"\"",
    "{",
    "}",
    "[",
    "]",
    "\\u0000",
    "\\ud800",
    "\u{1f980}",
    "$patch",
    "\"$patch\":\"delete\",",
    "\"$patch\":\"replace\",",
    "$setElementOrder/containers",
    "~2",
    "/-",
    "&a [*a]",
    "!!binary x",
    "? ",
    "<<: *a",
    "---\n",
    "\t",
    "k8s\0",
    "\u{ff}",
    "a,a in (b",
    "!=",
    "==",
    "%",
    "/",
];

/// A request that a client could have sent.
#[derive(Clone)]
struct Seed {
    method: &'static str,
    path: String,
    content_type: &'static str,
    body: Vec<u8>,
}

fn base(kind: &Kind) -> String {
    let group = if kind.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", kind.group) };
    let namespace = if kind.namespaced { "namespaces/d/" } else { "" };
    format!("{group}/{}/{namespace}{}", kind.version, kind.plural)
}

/// Creations of every recorded kind in three encodings, and four kinds of patches of each.
fn seeds() -> Vec<Seed> {
    let catalogue = Catalogue::builtin();
    let mut names: Vec<_> = std::fs::read_dir(FIXTURES).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    names.sort();
    let mut seeds = Vec::new();
    for path in names {
        let object: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let (version, kind) = (&object["apiVersion"], &object["kind"]);
        let is_it = |known: &&&Kind| *version == known.api_version() && *kind == known.kind;
        let kind = catalogue.kinds().iter().find(is_it).unwrap();
        let name = object["metadata"]["name"].as_str().unwrap();
        let json = object.to_string().into_bytes();
        let yaml = serde_yaml::to_string(&object).unwrap().into_bytes();
        let patch = json!([{"op": "test", "path": "/metadata/name", "value": name}, {"op": "add", "path": "/metadata/labels",
            "value": {"a": "b"}}, {"op": "copy", "from": "/metadata", "path": "/spec"}, {"op": "remove", "path": "/data"}]);
        let mut add = |method, path: String, content_type, body| {
            seeds.push(Seed { method, path, content_type, body });
        };
        let one = format!("{}/{name}", base(kind));
        add("POST", base(kind), JSON, json.clone());
        add("POST", base(kind), YAML, yaml.clone());
        add("POST", base(kind), PROTOBUF, std::fs::read(path.with_extension("pb")).unwrap());
        add("PUT", one.clone(), JSON, json.clone());
        add("PATCH", one.clone(), MERGE, json.clone());
        add("PATCH", one.clone(), STRATEGIC, json);
        add("PATCH", one.clone(), PATCH, patch.to_string().into_bytes());
        add("PATCH", format!("{one}?fieldManager=m&force=true"), APPLY, yaml);
        add("DELETE", one, JSON, br#"{"propagationPolicy":"Orphan","preconditions":{"uid":"x"}}"#.to_vec());
    }
    let lists = [
        "labelSelector=a%3Db%2C!c%2Cd+in+(e%2Cf)%2Cg+notin+(h)",
        "fieldSelector=metadata.name%3Da%2Cmetadata.namespace!%3Dd",
        "limit=1&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6Miwic3RhcnQiOiIvcmVnaXN0cnkvY29yZS9jb25maWdtYXBzL2QvYSJ9",
        "resourceVersion=1&resourceVersionMatch=NotOlderThan",
        "watch=1&timeoutSeconds=1&resourceVersion=1&sendInitialEvents=true&allowWatchBookmarks=1",
    ];
    for query in lists {
        let path = format!("/api/v1/namespaces/d/configmaps?{query}");
        seeds.push(Seed { method: "GET", path, content_type: JSON, body: Vec::new() });
    }
    seeds
}

/// A value that is at some place in an object instead of what should be there.
fn strange(random: &mut StdRng) -> Value {
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
        _ => json!(PIECES[random.random_range(0..PIECES.len())]),
    }
}

/// Replaces, adds or removes something somewhere in a value.
fn twist(value: &mut Value, random: &mut StdRng) {
    let goes_down = random.random_bool(0.85);
    match value {
        Value::Object(map) if !map.is_empty() && goes_down => {
            let index = random.random_range(0..map.len());
            let key = map.keys().nth(index).cloned().unwrap();
            match random.random_range(0..12) {
                0 => drop(map.shift_remove(&key)),
                1 => {
                    drop(map.insert(PIECES[random.random_range(0..PIECES.len())].to_owned(), strange(random)))
                }
                _ => twist(&mut map[&key], random),
            }
        }
        Value::Array(list) if !list.is_empty() && goes_down => {
            let index = random.random_range(0..list.len());
            match random.random_range(0..6) {
                0 => list.push(list[index].clone()),
                1 => drop(list.remove(index)),
                _ => twist(&mut list[index], random),
            }
        }
        other => *other = strange(random),
    }
}

/// Changes bytes, with no regard for what they mean.
fn damage(bytes: &mut Vec<u8>, random: &mut StdRng) {
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
        _ => drop(bytes.splice(at..at, PIECES[random.random_range(0..PIECES.len())].bytes())),
    }
}

fn mutant(seeds: &[Seed], random: &mut StdRng) -> Seed {
    let mut seed = seeds[random.random_range(0..seeds.len())].clone();
    for _ in 0..random.random_range(0..4) {
        if seed.body.is_empty() || random.random_bool(0.1) {
            // The path stays: what is wrong with it is another test's.
            let (path, query) = seed.path.split_once('?').unwrap_or((&seed.path, "fieldValidation=Warn"));
            let mut bytes = query.as_bytes().to_vec();
            damage(&mut bytes, random);
            let escape = |byte: &u8| match byte {
                b'%' | b'&' | b'=' | b'+' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                    char::from(*byte).to_string()
                }
                other => format!("%{other:02X}"),
            };
            seed.path = format!("{path}?{}", bytes.iter().map(escape).collect::<String>());
        } else if random.random_bool(0.6)
            && let Ok(mut value) = serde_json::from_slice::<Value>(&seed.body)
        {
            twist(&mut value, random);
            seed.body = value.to_string().into_bytes();
        } else {
            damage(&mut seed.body, random);
        }
    }
    if random.random_bool(0.05) {
        seed.content_type = seeds[random.random_range(0..seeds.len())].content_type;
    }
    seed
}

/// Says what was sent when the server panics at it.
struct Sent<'s>(u64, usize, &'s Seed);

impl Sent<'_> {
    fn text(&self) -> String {
        let Sent(seed, index, request) = self;
        let (method, path, kind) = (request.method, &request.path, request.content_type);
        format!("seed {seed}, input {index}: {method} {path} {kind}\n{}", request.body.escape_ascii())
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.text());
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "whoever tests for long says how long")]
fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

#[test]
fn nothing_that_is_nearly_right_is_answered_with_a_failure_of_the_server() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (seed, inputs) = (number("OARLOCK_SEED", 1), number("OARLOCK_INPUTS", 1500));
    let (api, seeds) = (runtime.block_on(api()), seeds());
    let mut random = StdRng::seed_from_u64(seed);
    let mut codes = std::collections::BTreeMap::<u16, usize>::new();
    for index in 0..usize::try_from(inputs).unwrap() {
        let request = mutant(&seeds, &mut random);
        let sent = Sent(seed, index, &request);
        if request.path.parse::<http::Uri>().is_err() {
            continue;
        }
        let headers = [("content-type", request.content_type)];
        let body = Bytes::from(request.body.clone());
        let answer = runtime.block_on(api.open(request.method, &request.path, &headers, body));
        let code = answer.status().as_u16();
        assert!(code < 500, "{code} for {}", sent.text());
        *codes.entry(code).or_default() += 1;
    }
    println!("{codes:?}");
    assert!(codes.contains_key(&201) && codes.contains_key(&422) && codes.contains_key(&400), "{codes:?}");
}
