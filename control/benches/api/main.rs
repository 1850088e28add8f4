//! `cargo xtask bench api`: what the API server serves and holds, on both stores, beside what the same machine does at all: the
//! store alone, and a server that answers the same bytes without looking. Needs etcd; everything listens on the loopback.
//!
//! Writes a list of `{name, unit, rounds, baseline}` to the file that is its argument, after the parts that are wanted (none: all):
//! all rounds, and the name of what each is compared with round by round. The clients are tasks of this process: with few cores they
//! take a good part of what the server could use.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement that cannot be made ends, and says what it is at; its tasks end with it"
)]

mod bare;
#[expect(dead_code, reason = "shared with the tests, which ask for more")]
#[path = "../../tests/support/client.rs"]
mod client;
mod connection;
mod load;
mod parts;
mod pods;
#[expect(dead_code, reason = "shared with the tests, which ask for more")]
#[path = "../../tests/support/process.rs"]
mod process;

use serde_json::{Value, json};

/// One measured thing.
struct Measured {
    name: String,
    unit: &'static str,
    rounds: Vec<f64>,
    baseline: Option<String>,
}

impl Measured {
    fn new(name: impl Into<String>, unit: &'static str, rounds: Vec<f64>) -> Self {
        Self { name: name.into(), unit, rounds, baseline: None }
    }

    fn compared(mut self, baseline: impl Into<String>) -> Self {
        self.baseline = Some(baseline.into());
        self
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let path = words.iter().find(|word| word.ends_with(".json"));
    let path = path.expect("the file to write to: run `cargo xtask bench api`");
    let wanted = |name: &str, all: &[&str]| {
        !words.iter().any(|word| all.contains(&word.as_str())) || words.iter().any(|word| word == name)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut all = Vec::new();
    for store in ["embedded", "etcd"].into_iter().filter(|store| wanted(store, &["embedded", "etcd"])) {
        for (name, measure) in parts::PARTS.iter().filter(|(name, _)| wanted(name, &parts::NAMES)) {
            println!("measuring {name} on {store} ...");
            let measured = runtime.block_on(measure(store));
            for one in &measured {
                println!("  {}: {:.3?} {}", one.name, one.rounds, one.unit);
            }
            all.extend(measured);
        }
    }
    let json: Vec<Value> = all
        .iter()
        .map(|m| json!({"name": m.name, "unit": m.unit, "rounds": m.rounds, "baseline": m.baseline}))
        .collect();
    std::fs::write(path, serde_json::to_vec(&json).unwrap()).unwrap();
}
