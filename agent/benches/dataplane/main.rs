//! `cargo xtask bench dataplane`: what the programs cost per packet and per connection, and the agent per change. Needs root; links
//! and cgroups are its own.
//!
//! Writes a list of `{name, unit, rounds, baseline}` to the file that is its argument, after the parts that are wanted (none: all): all rounds, and the name of what each
//! is compared with round by round.

#![expect(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measurement that cannot be made ends, and says what it is at; programs of a few instructions are loaded by the system call itself"
)]

mod connections;
mod node;
mod packets;
mod programming;
mod programs;
mod wire;

use serde_json::{Value, json};

/// How often each is measured. What is compared takes turns within a round.
const ROUNDS: usize = 11;

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

/// A part of the benchmark and its name.
type Part = (&'static str, fn() -> Vec<Measured>);

fn main() {
    let path = std::env::args().find(|argument| argument.ends_with(".json"));
    let path = path.expect("the file to write to: run `cargo xtask bench dataplane`");
    let parts: [Part; 5] = [
        // First, as what it holds is told from what the process held before.
        ("programming", programming::measure),
        ("connections", connections::measure),
        ("programs", programs::measure),
        ("packets", packets::measure),
        ("wire", wire::measure),
    ];
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| parts.iter().any(|p| p.0 == argument)).collect();
    let mut all = Vec::new();
    for (name, measure) in parts {
        if !wanted.is_empty() && !wanted.iter().any(|part| part == name) {
            continue;
        }
        println!("    {name}");
        // A thread of its own: what it does to its namespaces ends with it.
        all.extend(std::thread::spawn(measure).join().expect(name));
    }
    let list: Vec<Value> = all
        .iter()
        .map(|m| json!({"name": m.name, "unit": m.unit, "rounds": m.rounds, "baseline": m.baseline}))
        .collect();
    std::fs::write(path, serde_json::to_vec_pretty(&list).expect("numbers and names"))
        .expect("the file can be written");
}
