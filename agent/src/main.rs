//! `oarlock-agent`: parse, build, run, exit code.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use oarlock_agent::config::{CheckConfig, Cli, Command, ImageCommand};
use oarlock_agent::{agent, check, image};
use oarlock_daemon::logging;

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    logging::init(&cli.log, cli.log_format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Run(config) => agent::run(*config).await?,
            Command::Check(config) => return report(&config).await,
            Command::Image(ImageCommand::Import { docker_host, files }) => {
                for said in image::import(&docker_host, &files).await? {
                    writeln!(std::io::stdout(), "{}", said.trim())?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Prints what `check` found; fails when anything is missing.
async fn report(config: &CheckConfig) -> anyhow::Result<ExitCode> {
    let findings = check::check(&config.docker_host, &config.bpffs).await;
    let mut out = std::io::stdout();
    for finding in &findings {
        match &finding.state {
            Ok(found) => writeln!(out, "ok       {}: {found}", finding.what)?,
            Err(why) => writeln!(out, "MISSING  {}: {why}", finding.what)?,
        }
    }
    let well = findings.iter().all(|f| f.state.is_ok());
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
