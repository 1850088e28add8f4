//! Clients that create, change, swap, delete and read a few keys, and note what came of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::checker::{Asked, Operation, Saw};
use super::client::{Answer, Client};
use super::{KEYS, MAPS, Run, key};

/// Works until it is over.
pub(crate) async fn work(
    client: Client,
    which: usize,
    mut random: StdRng,
    run: Arc<Run>,
) -> Vec<(usize, Operation)> {
    let mut done = Vec::new();
    // The versions that this client has seen last.
    let mut known = [0_u64; KEYS];
    while !run.is_over() {
        let index = random.random_range(0..KEYS);
        let value = format!("{which}-{}", done.len());
        let asked = match random.random_range(0..10) {
            0..=1 => Asked::Create { value },
            2..=3 => Asked::Write { value },
            4..=6 if known[index] > 0 => Asked::Swap { version: known[index], value },
            7 if known[index] > 0 => Asked::Delete { version: known[index] },
            _ => Asked::Read,
        };
        let began = Instant::now();
        let saw = ask(&client, &key(index), &asked).await;
        let ended = Instant::now();
        run.answered.fetch_add(usize::from(saw != Saw::Unknown), Ordering::SeqCst);
        match &saw {
            Saw::Object { version, .. } => known[index] = *version,
            Saw::Unknown => tokio::time::sleep(Duration::from_millis(20)).await,
            _ => {}
        }
        done.push((index, Operation { began, ended, asked, saw }));
    }
    done
}

async fn ask(client: &Client, name: &str, asked: &Asked) -> Saw {
    let path = format!("{MAPS}/{name}");
    let map = |value: &str| json!({"metadata": {"name": name}, "data": {"v": value}});
    let (method, path, body) = match asked {
        Asked::Create { value } => ("POST", MAPS.to_owned(), map(value)),
        Asked::Write { value } => ("PATCH", path, json!({"data": {"v": value}})),
        Asked::Swap { version, value } => {
            let mut body = map(value);
            body["metadata"]["resourceVersion"] = json!(version.to_string());
            ("PUT", path, body)
        }
        Asked::Delete { version } => {
            let preconditions = json!({"resourceVersion": version.to_string()});
            ("DELETE", path, json!({"preconditions": preconditions}))
        }
        Asked::Read => ("GET", path, Value::Null),
    };
    match client.send(method, &path, body).await {
        Ok(answer) => read(asked, &answer),
        Err(_) => Saw::Unknown,
    }
}

fn read(asked: &Asked, answer: &Answer) -> Saw {
    match (answer.code, answer.reason()) {
        (200 | 201, _) if matches!(asked, Asked::Delete { .. }) => Saw::Gone,
        (200 | 201, _) => {
            let value = answer.body["data"]["v"].as_str().unwrap().to_owned();
            Saw::Object { version: answer.version(), value }
        }
        (404, _) => Saw::NotFound,
        (409, "AlreadyExists") => Saw::AlreadyExists,
        (409, _) => Saw::Conflict,
        (503 | 504, _) => Saw::Unknown,
        (code, _) => panic!("{asked:?}: {code} {}", answer.body),
    }
}
