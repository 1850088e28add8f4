//! `oarlock-control`: parse, build, run, exit code.

#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use oarlock_control::config::{Cli, Command, StoreCommand};
use oarlock_control::{control, copy};
use oarlock_daemon::logging;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line with its causes; standard error may be closed.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let cli = Cli::parse();
    logging::init(&cli.log, cli.log_format)?;
    match cli.command {
        Command::Serve(config) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(control::serve(*config))
        }
        Command::Store(StoreCommand::Copy(config)) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let text = runtime.block_on(copy::copy(&config))?;
            std::io::stdout().write_all(text.as_bytes())?;
            Ok(())
        }
        Command::Settings => {
            std::io::stdout().write_all(Cli::settings().as_bytes())?;
            Ok(())
        }
        Command::Token(config) => {
            let text = control::join_command(&config.data_dir)?;
            std::io::stdout().write_all(text.as_bytes())?;
            Ok(())
        }
    }
}
