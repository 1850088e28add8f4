//! What is measured, each part on a control plane of its own.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use oarlock_api::catalogue::PODS;
use oarlock_store::{Compare, Embedded, Op, Retention, Store as Kept};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::connection::{Address, Connection, JSON, PROTOBUF, asking, request};
use super::load::{CONNECTIONS, Load, connections, hammer};
use super::process::{Control, EtcdServer, Store};
use super::{Measured, bare, pods};

/// How often each is measured. What is compared takes turns within a round.
const ROUNDS: usize = 5;
const SECONDS: f64 = 3.0;
/// Pods of which figures of others are known.
const PODS_HELD: usize = 23_346;
/// Pods of the largest cluster that upstream is made for.
const PODS_AT_MOST: usize = 150_000;
const WATCHERS: usize = 1_000;
/// Changes that the watchers are told of in a round.
const CHANGES: usize = 20;
/// Lists that are held up half-way at once.
const IN_FLIGHT: usize = 4;

type Part = for<'s> fn(&'s str) -> Pin<Box<dyn Future<Output = Vec<Measured>> + 's>>;

/// Every part and its name.
pub(crate) const PARTS: [(&str, Part); 3] = [
    ("writes", |store| Box::pin(writes(store))),
    ("reads", |store| Box::pin(reads(store))),
    ("start", |store| Box::pin(start(store))),
];
/// Their names.
pub(crate) const NAMES: [&str; 3] = ["writes", "reads", "start"];

/// A control plane and what it keeps its objects in.
struct Plane {
    control: Control,
    etcd: Option<EtcdServer>,
    folder: tempfile::TempDir,
}

impl Plane {
    async fn start(store: &str) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let etcd = if store == "etcd" { Some(EtcdServer::start().await) } else { None };
        let kept = etcd.as_ref().map_or(Store::Embedded, Store::Etcd);
        let control = Control::start(folder.path(), "control", kept).await;
        Self { control, etcd, folder }
    }

    fn address(&self) -> Address {
        Address { port: self.control.client.port, tls: self.control.client.tls.clone() }
    }

    /// Resident memory in MB.
    fn resident(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.control.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1000.0
    }

    /// Stops it, works on its store, and starts it again: the seconds to `/readyz`.
    async fn between<T>(&mut self, work: impl AsyncFnOnce(&dyn Kept) -> T) -> (T, f64) {
        self.control.process.stop();
        let done = match &self.etcd {
            Some(etcd) => work(&etcd.client().await).await,
            None => work(&embedded(&self.folder.path().join("control"))).await,
        };
        let start = Instant::now();
        self.control.restart().await;
        (done, start.elapsed().as_secs_f64())
    }

    /// A pod as the store keeps it, and the namespaces of the others.
    async fn sample(&mut self) -> Value {
        let client = &self.control.client;
        for index in 0..pods::NAMESPACES {
            let namespace = json!({"metadata": {"name": pods::namespace(index)}});
            assert_eq!(client.send("POST", "/api/v1/namespaces", namespace).await.unwrap().code, 201);
        }
        let path = "/api/v1/namespaces/team-0/pods";
        let made = client.send("POST", path, pods::body("sample")).await.unwrap();
        assert_eq!(made.code, 201, "{}", made.body);
        let read = async |store: &dyn Kept| store.get(&PODS.key("team-0", "sample")).await.unwrap().0;
        let (record, _) = self.between(read).await;
        pods::running(&record.expect("it was made").value)
    }
}

fn embedded(folder: &Path) -> Embedded {
    Embedded::open(&folder.join("store.redb"), Retention::default()).unwrap()
}

/// Whoever has just been started does other things, too.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(4)).await;
}

fn create(number: usize, round: usize) -> Vec<u8> {
    let name = format!("made-{round}-{number}");
    let body = pods::body(&name).to_string();
    request("POST", "/api/v1/namespaces/default/pods", "application/json", &body)
}

/// Memory of a control plane that does nothing, and pods that are made per second.
async fn writes(store: &str) -> Vec<Measured> {
    let plane = Plane::start(store).await;
    settle().await;
    let idle = plane.resident();
    let alone = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let other = if store == "etcd" { Some(EtcdServer::start().await) } else { None };
    let kept: std::sync::Arc<dyn Kept> = match &other {
        Some(etcd) => std::sync::Arc::new(etcd.client().await),
        None => std::sync::Arc::new(embedded(alone.path())),
    };
    let mut open = connections(&plane.address(), CONNECTIONS).await;
    let (mut raw, mut rates, mut medians, mut worst) = (vec![], vec![], vec![], vec![]);
    for round in 0..ROUNDS {
        raw.push(puts(&kept, round).await.per_second());
        let (load, kept) = hammer(open, SECONDS, 201, move |number| create(number, round)).await;
        open = kept;
        rates.push(load.per_second());
        medians.push(load.quantile(0.5));
        worst.push(load.quantile(0.99));
    }
    let limit = format!("{store}: transactions of the store alone");
    vec![
        Measured::new(format!("{store}: RSS idle"), "MB", vec![idle]),
        Measured::new(&limit, "writes/s", raw),
        Measured::new(format!("{store}: pods created"), "pods/s", rates).compared(limit),
        Measured::new(format!("{store}: pod creation, p50"), "ms", medians),
        Measured::new(format!("{store}: pod creation, p99"), "ms", worst),
    ]
}

/// Creations of values as large as pods, by as many clients at once, without an API server.
async fn puts(store: &std::sync::Arc<dyn Kept>, round: usize) -> Load {
    let value = Bytes::from(vec![b'x'; 2200]);
    let (start, end) = (Instant::now(), Instant::now() + Duration::from_secs_f64(SECONDS));
    let tasks: Vec<_> = (0..CONNECTIONS)
        .map(|task| {
            let (store, value) = (std::sync::Arc::clone(store), value.clone());
            tokio::spawn(async move {
                let mut micros = Vec::new();
                while Instant::now() < end {
                    let key = format!("/registry/raw/{round}/{task}/{}", micros.len());
                    let begun = Instant::now();
                    let op = Op::Put(key.clone(), value.clone(), None);
                    store.txn(vec![Compare::Absent(key)], vec![op]).await.unwrap();
                    micros.push(u64::try_from(begun.elapsed().as_micros()).unwrap());
                }
                micros
            })
        })
        .collect();
    let mut micros = Vec::new();
    for task in tasks {
        micros.extend(task.await.unwrap());
    }
    Load::of(start, micros)
}

/// Memory with pods, single objects per second, whole lists, and many watchers.
async fn reads(store: &str) -> Vec<Measured> {
    let mut plane = Plane::start(store).await;
    settle().await;
    let idle = plane.resident();
    let sample = plane.sample().await;
    plane.between(async |kept| pods::fill(kept, &sample, 0, PODS_HELD).await).await;
    settle().await;
    let full = plane.resident();
    let mut all = vec![
        Measured::new(format!("{store}: RSS with {PODS_HELD} pods"), "MB", vec![full]),
        Measured::new(
            format!("{store}: memory of one of them"),
            "KB",
            vec![(full - idle) * 1000.0 / PODS_HELD as f64],
        ),
    ];
    all.extend(gets(store, &plane).await);
    for (coding, accept) in [("", JSON), (" in protobuf", PROTOBUF)] {
        all.extend(lists(store, &plane, coding, accept).await);
    }
    all.extend(watchers(store, &plane).await);
    all
}

fn get(number: usize) -> Vec<u8> {
    let index = number.wrapping_mul(2_654_435_761) % PODS_HELD;
    let path = format!("/api/v1/namespaces/{}/pods/{}", pods::namespace(index), pods::name(index));
    request("GET", &path, "", "")
}

async fn gets(store: &str, plane: &Plane) -> Vec<Measured> {
    let size = Connection::open(&plane.address()).await.ask(&get(0)).await.bytes;
    let bare = bare::start(Bytes::from(vec![b'x'; size]));
    let mut open = connections(&plane.address(), CONNECTIONS).await;
    let mut other = connections(&bare, CONNECTIONS).await;
    let (mut limits, mut rates, mut worst) = (vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        let (load, kept) = hammer(other, SECONDS, 200, get).await;
        other = kept;
        limits.push(load.per_second());
        let (load, kept) = hammer(open, SECONDS, 200, get).await;
        open = kept;
        rates.push(load.per_second());
        worst.push(load.quantile(0.99));
    }
    let limit = format!("{store}: the same bytes from a server that does nothing else");
    vec![
        Measured::new(&limit, "answers/s", limits),
        Measured::new(format!("{store}: single pods read"), "GETs/s", rates).compared(limit),
        Measured::new(format!("{store}: single pod, p99"), "ms", worst),
    ]
}

async fn lists(store: &str, plane: &Plane, coding: &str, accept: &str) -> Vec<Measured> {
    let list = asking("GET", "/api/v1/pods", accept);
    let mut open = Connection::open(&plane.address()).await;
    let size = open.ask(&list).await.bytes;
    let megabytes = size as f64 / 1e6;
    let bare = bare::start(Bytes::from(vec![b'x'; size]));
    let mut other = Connection::open(&bare).await;
    let (mut limits, mut times, mut rates) = (vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        other.ask(&list).await;
        limits.push(begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        assert_eq!(open.ask(&list).await.code, 200);
        times.push(begun.elapsed().as_secs_f64());
        rates.push(megabytes / begun.elapsed().as_secs_f64());
    }
    let mut added = Vec::new();
    for _ in 0..3 {
        settle().await;
        let before = plane.resident();
        let mut held = connections(&plane.address(), IN_FLIGHT).await;
        for connection in &mut held {
            connection.begin(&list).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        added.push((plane.resident() - before) / megabytes / IN_FLIGHT as f64 * 100.0);
    }
    let limit = format!("{store}: as many bytes from a server that does nothing else{coding}");
    let called = format!("{store}: list of {PODS_HELD} pods{coding}");
    vec![
        Measured::new(format!("{store}: size of a list of {PODS_HELD} pods{coding}"), "MB", vec![megabytes]),
        Measured::new(&limit, "s", limits),
        Measured::new(&called, "s", times).compared(limit),
        Measured::new(format!("{called}, rate"), "MB/s", rates),
        Measured::new(format!("{store}: memory added by a list in flight{coding}"), "% of its size", added),
    ]
}

async fn watchers(store: &str, plane: &Plane) -> Vec<Measured> {
    let path = "/api/v1/namespaces/team-0/pods";
    let watch = request(
        "GET",
        &format!("{path}?watch=1&resourceVersion=0&fieldSelector=metadata.name%3Dsample"),
        "",
        "",
    );
    let (told, mut heard) = mpsc::unbounded_channel();
    for mut connection in connections(&plane.address(), WATCHERS).await {
        let (told, watch) = (told.clone(), watch.clone());
        tokio::spawn(async move {
            connection.watch(&watch).await;
            while let Some(lines) = connection.lines().await {
                for _ in 0..lines {
                    if told.send(Instant::now()).is_err() {
                        return;
                    }
                }
            }
        });
    }
    // The pod as it is.
    for _ in 0..WATCHERS {
        heard.recv().await.unwrap();
    }
    let mut writer = Connection::open(&plane.address()).await;
    let (mut medians, mut worst, mut last) = (vec![], vec![], vec![]);
    for round in 0..ROUNDS {
        let (mut micros, mut lasts) = (Vec::new(), Vec::new());
        let begun = Instant::now();
        for change in 0..CHANGES {
            let patch =
                json!({"metadata": {"annotations": {"change": format!("{round}-{change}")}}}).to_string();
            let patch = request("PATCH", &format!("{path}/sample"), "application/merge-patch+json", &patch);
            let begun = Instant::now();
            assert_eq!(writer.ask(&patch).await.code, 200);
            let mut latest = Duration::ZERO;
            for _ in 0..WATCHERS {
                let took = heard.recv().await.unwrap().duration_since(begun);
                micros.push(u64::try_from(took.as_micros()).unwrap());
                latest = latest.max(took);
            }
            lasts.push(u64::try_from(latest.as_micros()).unwrap());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let load = Load::of(begun, micros);
        medians.push(load.quantile(0.5));
        worst.push(load.quantile(0.99));
        last.push(Load::of(begun, lasts).quantile(0.5));
    }
    vec![
        Measured::new(format!("{store}: {WATCHERS} watchers see a change, p50"), "ms", medians),
        Measured::new(format!("{store}: {WATCHERS} watchers see a change, p99"), "ms", worst),
        Measured::new(format!("{store}: the last of {WATCHERS} watchers sees a change"), "ms", last),
    ]
}

/// The time to the first answer with a full store.
async fn start(store: &str) -> Vec<Measured> {
    let mut plane = Plane::start(store).await;
    settle().await;
    let idle = plane.resident();
    let sample = plane.sample().await;
    let mut times = Vec::new();
    let (_, first) = plane.between(async |kept| pods::fill(kept, &sample, 0, PODS_AT_MOST).await).await;
    times.push(first);
    settle().await;
    let full = plane.resident();
    for _ in 0..2 {
        times.push(plane.between(async |_| ()).await.1);
        settle().await;
    }
    vec![
        Measured::new(format!("{store}: start with {PODS_AT_MOST} pods to /readyz"), "s", times),
        Measured::new(format!("{store}: RSS with {PODS_AT_MOST} pods"), "MB", vec![full]),
        Measured::new(
            format!("{store}: memory of one of {PODS_AT_MOST}"),
            "KB",
            vec![(full - idle) * 1000.0 / PODS_AT_MOST as f64],
        ),
    ]
}
