//! Tests that take longer than CI has time for.

use std::process::Command;

use anyhow::{Result, bail};

use crate::exec::{root, step};
use crate::{bpf, setup};

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
}

/// Runs it until its end or its first failure.
pub(crate) fn soak(what: &Soak) -> Result<()> {
    let Soak::Packets { frames, seed } = what;
    setup::setup()?;
    bpf::build()?;
    step(&format!("{frames} random frames, seed {seed}"), || {
        let mut command = Command::new("cargo");
        command.args(["test", "--release", "-p", "oarlock-agent", "--test", "packets", "random_frames"]);
        command.env("OARLOCK_FRAMES", frames.to_string()).env("OARLOCK_SEED", seed.to_string());
        let status = command.current_dir(root()).status()?;
        if status.success() {
            Ok(())
        } else {
            bail!("it ended with {status}: the frame and its seed are above")
        }
    })
}
