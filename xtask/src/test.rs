//! Every check and test, cheapest first. What CI runs; the first failure ends it.

use anyhow::Result;

use crate::exec::{cargo, step};
use crate::{bpf, setup, tidy};

/// Runs them all.
pub(crate) fn test() -> Result<()> {
    setup::setup()?;
    bpf::build()?;
    step("tidy", tidy::tidy)?;
    step("fmt", || cargo(&["fmt", "--all", "--check"]))?;
    step("clippy", || cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    step("tests", || cargo(&["test", "--workspace"]))?;
    println!("everything passed");
    Ok(())
}
