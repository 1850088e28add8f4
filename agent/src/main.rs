//! `oarlock-agent`: parse, build, run, exit code.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use oarlock_agent::config::{CheckConfig, Cli, Command, DataplaneCommand, ImageCommand, VerifyConfig};
use oarlock_agent::dataplane::{self, Dataplane, DataplaneConfig};
use oarlock_agent::look::{self, Counted};
use oarlock_agent::{agent, check, image, net, proxy, reset};
use oarlock_daemon::logging;

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        // One line with its causes; standard error may be closed.
        let _ = writeln!(std::io::stderr(), "error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    // What fails there is an error that we tell ourselves, once.
    logging::init(&format!("kube_client=off,kube_runtime=off,{}", cli.log), cli.log_format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Run(config) => agent::run(*config).await?,
            Command::Proxy(config) => proxy::run(*config).await?,
            Command::Check(config) => return report(&config).await,
            Command::Reset(config) => {
                reset::run(&config, std::io::stdin().lock(), std::io::stdout()).await?;
            }
            Command::Dataplane(DataplaneCommand::Load { iface, xdp, node_ip, node_name, bpffs }) => {
                let cgroup = format!("/oarlock/{node_name}");
                let uplinks = net::uplinks(&[iface]).await?;
                let config = DataplaneConfig {
                    node_name,
                    node_ip,
                    node_ip6: None,
                    cgroup,
                    bpffs,
                    uplinks,
                    xdp,
                    tc: dataplane::Tc::of_kernel(),
                    accept_external_cluster_ip: false,
                    count_backends: false,
                    masquerade: true,
                };
                by_hand(config).await?;
            }
            Command::Settings => write!(std::io::stdout(), "{}", Cli::settings())?,
            Command::Dataplane(DataplaneCommand::PreparePeer { iface, bpffs }) => {
                dataplane::prepare_peer(&bpffs, &iface)?;
            }
            Command::Dataplane(DataplaneCommand::Dump { node_name, json, bpffs }) => {
                let mut dump = dataplane::dump(&bpffs, &node_name)?;
                // Routes are of the namespace in which we are: not always the node's.
                if net::own_cookie().is_ok_and(|own| own == dump.tables.node.namespace_cookie) {
                    dump.tables.routes = Some(net::node_routes().await?).filter(|routes| !routes.is_empty());
                }
                let text =
                    if json { serde_json::to_string_pretty(&dump)? + "\n" } else { dataplane::text(&dump) };
                write!(std::io::stdout(), "{text}")?;
            }
            Command::Dataplane(DataplaneCommand::Verify(config)) => return verify(&config).await,
            Command::Image(ImageCommand::Import { docker_host, files }) => {
                for said in image::import(&docker_host, &files).await? {
                    writeln!(std::io::stdout(), "{}", said.trim())?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Keeps the dataplane loaded until a signal.
async fn by_hand(config: DataplaneConfig) -> anyhow::Result<()> {
    let pins = config.bpffs.join("oarlock").join(&config.node_name);
    let dataplane = match Dataplane::open(config.clone()) {
        Ok(dataplane) => dataplane,
        Err(error) => {
            // What was pinned before it failed. The failure itself is what the user wants to read.
            let _ = dataplane::remove(&config);
            return Err(error.into());
        }
    };
    let modes = dataplane.modes().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    writeln!(
        std::io::stdout(),
        "Loaded and attached: {modes}; pinned under {}. `bpftool link` and `bpftool net` show it. Ctrl-C takes it back.",
        pins.display()
    )?;
    let signal = oarlock_daemon::shutdown_signal().await?;
    drop(dataplane);
    dataplane::remove(&config)?;
    writeln!(std::io::stdout(), "{signal}: taken back.")?;
    Ok(())
}

/// Prints what differs; fails when anything does.
async fn verify(config: &VerifyConfig) -> anyhow::Result<ExitCode> {
    let found = look::verify(config.agent, &config.bpffs, &config.node_name).await?;
    let mut out = std::io::stdout();
    for difference in &found.differences {
        writeln!(out, "{difference}")?;
    }
    if found.differences.is_empty() {
        let Counted { frontends, backends, pods, nodes, routes: [direct, tunnelled] } = found.compared;
        writeln!(
            out,
            "the kernel's tables are as wanted: {frontends} frontends, {backends} backends, {pods} pods, {nodes} nodes; \
             {direct} other nodes' pods reached directly, {tunnelled} by VXLAN"
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let count = found.differences.len();
    writeln!(
        out,
        "{count} differences; an agent that is started anew writes what differs, and traffic goes on"
    )?;
    Ok(ExitCode::FAILURE)
}

/// Prints what `check` found; fails when anything is missing.
async fn report(config: &CheckConfig) -> anyhow::Result<ExitCode> {
    let findings = check::check(&config.docker_host, &config.bpffs, config.north_south).await;
    let mut out = std::io::stdout();
    for finding in &findings {
        match &finding.state {
            Ok(found) => writeln!(out, "ok       {}: {found}", finding.what)?,
            Err(why) if finding.needed => writeln!(out, "MISSING  {}: {why}", finding.what)?,
            Err(why) => writeln!(out, "without  {}: {why}", finding.what)?,
        }
    }
    let well = findings.iter().all(|f| f.state.is_ok() || !f.needed);
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
