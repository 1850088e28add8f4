//! `oarlock-control`: parse, build, run, exit code.

#![forbid(unsafe_code)]

use std::io::Write as _;

use clap::Parser as _;
use oarlock_control::config::{Cli, Command};
use oarlock_control::control;
use oarlock_daemon::logging;

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    logging::init(&cli.log, cli.log_format)?;
    match cli.command {
        Command::Serve(config) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(control::serve(*config))
        }
        Command::Token(config) => {
            let text = control::join_command(&config.data_dir)?;
            std::io::stdout().write_all(text.as_bytes())?;
            Ok(())
        }
    }
}
