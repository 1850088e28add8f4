//! Many clients and watchers of one control plane that is killed again and again, and its etcd, too: nothing that was acknowledged
//! is lost, the history of each key is linearizable, and every watch tells all of it, in order and once, from wherever it begins.
//!
//! A few seconds by itself; for longer `cargo xtask soak history`. `OARLOCK_SECONDS` and `OARLOCK_SEED` say how long and which
//! choices; how threads take turns is not repeatable. Needs etcd.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "helpers of tests panic, as tests do; the environment says how long; the seed is told"
)]

mod checker;
#[expect(dead_code, reason = "shared with other tests, which ask for more")]
#[path = "../support/client.rs"]
mod client;
mod clients;
#[expect(dead_code, reason = "shared with other tests, which ask for more")]
#[path = "../support/process.rs"]
mod process;
mod watchers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use checker::{Event, Operation};
use client::Client;
use process::{Control, EtcdServer, Store};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use watchers::Told;

/// Where the objects are.
const NAMESPACE: &str = "/api/v1/namespaces/history";
const MAPS: &str = "/api/v1/namespaces/history/configmaps";
/// What happened: version -> name and value, none where it was deleted.
type Log = BTreeMap<u64, (String, Option<String>)>;
/// Few keys, so that clients meet.
const KEYS: usize = 5;
const CLIENTS: usize = 6;
const WATCHERS: usize = 4;
/// A slow machine goes on until so many operations were answered.
const ENOUGH: usize = 150;

/// A history that goes on.
#[derive(Debug, Default)]
struct Run {
    over: AtomicBool,
    /// Operations whose outcome is known.
    answered: AtomicUsize,
}

impl Run {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

async fn retried(client: &Client, method: &str, path: &str, body: Value) -> client::Answer {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        match client.send(method, path, body.clone()).await {
            Ok(answer) if answer.code < 500 => return answer,
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    panic!("{method} {path} is not answered");
}

/// Kills the control plane, or its etcd where there is one, and starts it again.
async fn kill(control: &mut Control, etcd: &mut Option<EtcdServer>, random: &mut StdRng) {
    if let Some(etcd) = etcd.as_mut().filter(|_| random.random_bool(0.5)) {
        etcd.process.kill();
        etcd.restart().await;
    } else {
        control.process.kill();
        control.restart().await;
    }
}

async fn history(mut etcd: Option<EtcdServer>, seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let kept = etcd.as_ref().map_or(Store::Embedded, Store::Etcd);
    let mut control = Control::start(folder.path(), "control", kept).await;
    let mut random = StdRng::seed_from_u64(seed);
    let namespace = json!({"metadata": {"name": "history"}});
    assert_eq!(control.client.send("POST", "/api/v1/namespaces", namespace).await.unwrap().code, 201);
    // What controllers make there comes before.
    retried(&control.client, "GET", NAMESPACE, Value::Null).await;
    let start = retried(&control.client, "GET", MAPS, Value::Null).await.version();

    let run = Arc::new(Run::default());
    let told = Told::default();
    let watching: Vec<_> = (0..WATCHERS)
        .map(|which| {
            let (client, run, told) = (control.client.clone(), Arc::clone(&run), told.clone());
            let random = StdRng::seed_from_u64(seed + 1000 + which as u64);
            tokio::spawn(watchers::follow(client, start, which, random, told, run))
        })
        .collect();
    let writing: Vec<_> = (0..CLIENTS)
        .map(|which| {
            let random = StdRng::seed_from_u64(seed + 1 + which as u64);
            tokio::spawn(clients::work(control.client.clone(), which, random, Arc::clone(&run)))
        })
        .collect();
    let end = Instant::now() + Duration::from_secs(number("OARLOCK_SECONDS", 5));
    while Instant::now() < end || run.answered.load(Ordering::SeqCst) < ENOUGH {
        tokio::time::sleep(Duration::from_millis(random.random_range(500..2000))).await;
        kill(&mut control, &mut etcd, &mut random).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    run.over.store(true, Ordering::SeqCst);
    let mut operations: BTreeMap<usize, Vec<Operation>> = BTreeMap::new();
    for client in writing {
        for (key, operation) in client.await.unwrap() {
            operations.entry(key).or_default().push(operation);
        }
    }
    // Every watch is done when it has seen this one.
    let mark = json!({"metadata": {"name": "mark"}, "data": {"v": "mark"}});
    retried(&control.client, "POST", MAPS, mark).await;
    for watcher in watching {
        watcher.await.unwrap();
    }
    let log = told.log();
    judge(&log, &operations, seed);
    is_what_is_there(&control.client, &log).await;
}

fn key(index: usize) -> String {
    format!("k{index}")
}

fn judge(log: &Log, operations: &BTreeMap<usize, Vec<Operation>>, seed: u64) {
    let mut checked = 0;
    for index in 0..KEYS {
        let name = key(index);
        let ours = log.iter().filter(|(_, (key, _))| *key == name);
        let events: Vec<Event> =
            ours.map(|(version, (_, value))| Event { version: *version, value: value.clone() }).collect();
        let operations = operations.get(&index).map_or(&[][..], Vec::as_slice);
        checked += operations.len();
        if let Err(why) = checker::check(&events, operations) {
            panic!("seed {seed}, key {name}: {why}\n{events:#?}");
        }
    }
    println!("seed {seed}: {checked} operations and {} changes make sense", log.len());
    assert!(checked >= ENOUGH && log.len() > 20, "something happened");
}

/// A list at the end shows what the watches told.
async fn is_what_is_there(client: &Client, log: &Log) {
    let list = client.get(MAPS).await;
    let mut last: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
    for (version, (name, value)) in log {
        match value {
            Some(value) => drop(last.insert(name, (*version, value))),
            None => drop(last.remove(name.as_str())),
        }
    }
    let there: BTreeMap<&str, (u64, &str)> = list.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|item| item["data"]["v"].is_string() && item["metadata"]["name"] != "mark")
        .map(|item| {
            let version = item["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
            (item["metadata"]["name"].as_str().unwrap(), (version, item["data"]["v"].as_str().unwrap()))
        })
        .collect();
    assert_eq!(there, last);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_of_the_embedded_store_see_could_have_happened_though_the_server_is_killed() {
    history(None, number("OARLOCK_SEED", 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_of_etcd_see_could_have_happened_though_server_and_etcd_are_killed() {
    let etcd = EtcdServer::start().await;
    history(Some(etcd), number("OARLOCK_SEED", 2)).await;
}
