//! Tests that take longer than CI has time for.

use std::process::Command;

use anyhow::{Result, bail};

use crate::exec::{cargo_command, root, step};
use crate::{bpf, fuzz, setup};

/// What is tested for long.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Soak {
    /// Random frames through the packet programs: nothing breaks, checksums stay as they were, no way is given twice. Needs root.
    Packets {
        /// How many.
        #[arg(long, default_value_t = 10_000_000)]
        frames: u64,
        /// The same seed sends the same frames.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Whole clusters in one thread, with crashes, dead agents and stale views, in an order that a seed decides.
    Simulation {
        /// How many seeds.
        #[arg(long, default_value_t = 2_000)]
        seeds: u64,
        /// The first one.
        #[arg(long, default_value_t = 1_000_000)]
        seed: u64,
    },
    /// Requests that are nearly right, by the hundred thousand, every property test of a decoder, and each target of `cargo xtask fuzz`:
    /// no panic, no failure of the server.
    Fuzz {
        /// How many inputs of requests.
        #[arg(long, default_value_t = 300_000)]
        inputs: u64,
        /// The same seed makes the same requests.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// For how long libFuzzer has each target.
        #[arg(long, default_value_t = 300)]
        seconds: u64,
    },
    /// Clients and watchers of a control plane that is killed with its etcd: what they see could have happened. Needs etcd.
    History {
        /// For how long, on each store.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// Chooses what is asked for and when something is killed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Agents killed while they change the tables of Services: each is answered as before or as after, and the next agent completes
    /// them. Needs root.
    Kills {
        /// How many.
        #[arg(long, default_value_t = 300)]
        kills: u32,
        /// The same seed changes the same Services; when it is killed is up to the machine.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Connections that stay and requests to pods that are replaced, through rollouts and killed agents: none fails. Needs root and
    /// Docker; no cluster of `up` may run.
    Rollouts {
        /// How many; in one of ten an agent is killed.
        #[arg(long, default_value_t = 200)]
        rollouts: u32,
    },
}

/// Cases of each property test of a decoder.
const CASES: &str = "20000";

/// Runs it until its end or its first failure.
pub(crate) fn soak(what: &Soak) -> Result<()> {
    match what {
        Soak::Packets { frames, seed } => packets(*frames, *seed),
        Soak::Simulation { seeds, seed } => simulation(*seeds, *seed),
        Soak::Fuzz { inputs, seed, seconds } => fuzzing(*inputs, *seed, *seconds),
        Soak::History { seconds, seed } => history(*seconds, *seed),
        Soak::Kills { kills, seed } => killing(*kills, *seed),
        Soak::Rollouts { rollouts } => rolling(*rollouts),
    }
}

fn packets(frames: u64, seed: u64) -> Result<()> {
    setup::setup()?;
    bpf::build()?;
    step(&format!("{frames} random frames, seed {seed}"), || {
        let mut command = cargo_command();
        command.args(["test", "--release", "-p", "oarlock-agent", "--test", "packets", "random_frames"]);
        command.env("OARLOCK_FRAMES", frames.to_string());
        end(command.env("OARLOCK_SEED", seed.to_string()), "the frame and its seed are above")
    })
}

fn killing(kills: u32, seed: u64) -> Result<()> {
    setup::setup()?;
    bpf::build()?;
    step(&format!("{kills} killed agents, seed {seed}"), || {
        let mut command = cargo_command();
        command.args(["test", "-p", "oarlock-agent", "--test", "look", "killed"]);
        command.env("OARLOCK_KILLS", kills.to_string());
        end(command.env("OARLOCK_SEED", seed.to_string()), "the moment is above")
    })
}

fn rolling(rollouts: u32) -> Result<()> {
    setup::setup()?;
    bpf::build()?;
    step(&format!("{rollouts} rollouts"), || {
        let mut command = cargo_command();
        command.args(["test", "-p", "oarlock-tests", "--test", "faults"]);
        end(command.env("OARLOCK_ROLLOUTS", rollouts.to_string()), "what failed is above")
    })
}

fn simulation(seeds: u64, seed: u64) -> Result<()> {
    step(&format!("every test of the simulation with the seeds {seed} to {}", seed + seeds - 1), || {
        let mut command = cargo_command();
        command.args(["test", "--release", "-p", "oarlock-planner", "--test", "simulation"]);
        command.env("OARLOCK_SEEDS", seeds.to_string());
        end(command.env("OARLOCK_SEED", seed.to_string()), "the seed is above")
    })
}

fn fuzzing(inputs: u64, seed: u64, seconds: u64) -> Result<()> {
    step(&format!("{inputs} requests, seed {seed}"), || {
        let mut command = cargo_command();
        command.args([
            "test",
            "--release",
            "-p",
            "oarlock-control",
            "--lib",
            "fuzz_requests",
            "--",
            "--nocapture",
        ]);
        command.env("OARLOCK_INPUTS", inputs.to_string());
        end(command.env("OARLOCK_SEED", seed.to_string()), "the request and its seed are above")
    })?;
    step("property tests of the decoders", || {
        let mut command = cargo_command();
        command.args([
            "test",
            "--release",
            "-p",
            "oarlock-control",
            "-p",
            "oarlock-api",
            "-p",
            "oarlock-daemon",
            "--lib",
        ]);
        // What proptest itself reads.
        end(command.env("PROPTEST_CASES", CASES), "what failed is above")
    })?;
    fuzz::all(seconds)
}

fn history(seconds: u64, seed: u64) -> Result<()> {
    step(&format!("histories of {seconds} s, seed {seed}"), || {
        let mut command = cargo_command();
        command.args(["test", "-p", "oarlock-control", "--test", "history", "--", "--nocapture"]);
        command.env("OARLOCK_SECONDS", seconds.to_string());
        end(command.env("OARLOCK_SEED", seed.to_string()), "what failed and its seed are above")
    })
}

fn end(command: &mut Command, where_to_look: &str) -> Result<()> {
    let status = command.current_dir(root()).status()?;
    if status.success() { Ok(()) } else { bail!("it ended with {status}: {where_to_look}") }
}
