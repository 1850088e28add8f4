//! Every check and test, cheapest first. What CI runs; the first failure ends it.

use anyhow::{Result, bail};

use crate::exec::{cargo, step};
use crate::{bpf, daemons, setup, tidy};

/// Runs them all.
pub(crate) fn test() -> Result<()> {
    if daemons::is_running("control") {
        bail!(
            "the tests bring up a cluster of their own: take yours down first with `cargo xtask down --keep`"
        );
    }
    setup::setup_for_tests()?;
    bpf::build()?;
    step("tidy", tidy::tidy)?;
    step("fmt", || cargo(&["fmt", "--all", "--check"]))?;
    step("clippy", || cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    step("tests", || cargo(&["test", "--workspace"]))?;
    println!("everything passed");
    Ok(())
}
