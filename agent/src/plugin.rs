//! `kubectl oarlock`: the dataplane of all nodes, and why something is as it is, seen from wherever kubectl works. Asks the API server,
//! and nodes over it (`nodes/NAME/proxy/dataplane/...`), with kubectl's own credentials; changes nothing.
//!
//! In: a command line, a kubeconfig. Out: text. A node that does not answer is told on standard error, the others are shown.

mod cluster;
mod text;
mod why;

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use crate::dataplane::{Fill, ServiceTraffic, Trace};
use crate::look::Events;
use cluster::Cluster;
pub(crate) use cluster::client;
use text::Totals;

/// How often nodes are asked for events.
const POLL: Duration = Duration::from_secs(1);

/// Look at Oarlock: why something is not as it should be, what Services do, what happens to connections, how full tables are.
#[derive(Debug, Parser)]
#[command(name = "kubectl-oarlock", bin_name = "kubectl oarlock", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// The kubeconfig [default: as kubectl finds it].
    #[arg(long, global = true)]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: the current one].
    #[arg(long, global = true)]
    context: Option<String>,
    /// Only this node.
    #[arg(long, global = true)]
    node: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What each Service does per second, as the packet programs count it: those that do anything, of all nodes together.
    Services(ServicesOptions),
    /// New flows and drops as they happen, with reasons.
    Flows(FlowsOptions),
    /// The path that one packet would take and why, computed from the tables of the node that it begins at. Nothing is sent.
    Trace(TraceOptions),
    /// How full the tables of each node are.
    Maps,
    /// Why a pod, Deployment, Service or node is pending, not ready, ending or slow, by what the API server has of it.
    Why(why::WhyOptions),
}

#[derive(Debug, Args)]
struct ServicesOptions {
    /// Only Services of this namespace.
    #[arg(long, short)]
    namespace: Option<String>,
    /// Seconds over which rates are taken.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..3600))]
    interval: u64,
    /// One table, not one after the other.
    #[arg(long)]
    once: bool,
}

#[derive(Debug, Args)]
struct FlowsOptions {
    /// Only what goes nowhere.
    #[arg(long)]
    drops: bool,
    /// End after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
}

#[derive(Debug, Args)]
struct TraceOptions {
    /// Who sends: pod/NAME, pod/NAMESPACE/NAME, node/NAME, or an address.
    from: String,
    /// To whom: svc/NAME[:PORT], svc/NAMESPACE/NAME[:PORT], pod/NAME:PORT, node/NAME:PORT, or ADDRESS:PORT.
    to: String,
    /// The namespace of names without one [default: that of the context].
    #[arg(long, short)]
    namespace: Option<String>,
    /// A datagram of UDP. Of a Service's port its own protocol is taken.
    #[arg(long)]
    udp: bool,
}

/// Does what the command line says.
///
/// # Errors
/// The API server cannot be asked, or what is named is not there.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    let cluster = Cluster::open(cli.kubeconfig.as_deref(), cli.context).await?;
    let only = cli.node.as_deref();
    match cli.command {
        Command::Services(options) => services(&cluster, only, &options).await,
        Command::Flows(options) => flows(&cluster, only, &options).await,
        Command::Trace(options) => trace(&cluster, only, &options).await,
        Command::Maps => maps(&cluster, only).await,
        Command::Why(options) => {
            let text = why::why(&cluster, &options).await?;
            write!(std::io::stdout(), "{text}")?;
            Ok(())
        }
    }
}

/// Answers of nodes by name; what others say instead is told.
fn told<T>(answers: Vec<(String, anyhow::Result<T>)>) -> BTreeMap<String, T> {
    let mut told = BTreeMap::new();
    for (node, answer) in answers {
        match answer {
            Ok(answer) => drop(told.insert(node, answer)),
            Err(error) => {
                // Nothing more can be done where standard error is closed.
                let _ = writeln!(std::io::stderr(), "node {node}: {error:#}");
            }
        }
    }
    told
}

async fn services(cluster: &Cluster, only: Option<&str>, options: &ServicesOptions) -> anyhow::Result<()> {
    let read = async || -> anyhow::Result<(Totals, Instant)> {
        let answers = cluster.ask_all::<Vec<ServiceTraffic>>(only, "traffic").await?;
        let mut totals = Totals::default();
        for one in told(answers).into_values().flatten() {
            let shown = options.namespace.as_ref().is_none_or(|wanted| *wanted == one.namespace);
            if shown {
                totals.add(one);
            }
        }
        Ok((totals, Instant::now()))
    };
    let clear = std::io::stdout().is_terminal() && !options.once;
    let (mut before, mut at) = read().await?;
    loop {
        tokio::time::sleep(Duration::from_secs(options.interval)).await;
        let (after, now) = read().await?;
        let table = text::rates(&before, &after, now - at);
        let mut out = std::io::stdout().lock();
        let begin = if clear { "\x1b[2J\x1b[H" } else { "" };
        write!(out, "{begin}{table}")?;
        if options.once {
            return Ok(());
        }
        writeln!(out)?;
        (before, at) = (after, now);
    }
}

async fn flows(cluster: &Cluster, only: Option<&str>, options: &FlowsOptions) -> anyhow::Result<()> {
    let end = options.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let first = told(cluster.ask_all::<Events>(only, "events").await?);
    let mut next: BTreeMap<String, u64> =
        first.into_iter().map(|(node, events)| (node, events.next)).collect();
    while end.is_none_or(|end| Instant::now() < end) {
        tokio::time::sleep(POLL).await;
        let mut lines = Vec::new();
        for (node, number) in &mut next {
            match cluster.ask::<Events>(node, &format!("events?since={number}")).await {
                Ok(told) => {
                    *number = told.next;
                    let shown = told.events.iter().filter(|event| !options.drops || event.is_loss());
                    lines.extend(shown.map(|event| (event.at, text::event(node, event))));
                }
                Err(error) => writeln!(std::io::stderr(), "node {node}: {error:#}")?,
            }
        }
        lines.sort();
        let mut out = std::io::stdout().lock();
        for (_, line) in lines {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

async fn trace(cluster: &Cluster, only: Option<&str>, options: &TraceOptions) -> anyhow::Result<()> {
    let namespace = options.namespace.as_deref();
    let to = cluster.receiver(&options.to, namespace).await?;
    let from = cluster.sender(&options.from, namespace).await?;
    let node = match (only, &from.node, &to.node) {
        (Some(only), ..) => only.to_owned(),
        (_, Some(node), _) | (_, None, Some(node)) => node.clone(),
        _ => cluster.nodes(None).await?.into_iter().next().map(|node| node.name).unwrap_or_default(),
    };
    let protocol = to.protocol.as_deref().unwrap_or(if options.udp { "UDP" } else { "TCP" });
    let target = to.address;
    let source = from.address(target.ip()).with_context(|| format!("{} has no address yet", options.from))?;
    let question = format!("trace?from={source}&to={target}&protocol={protocol}");
    let trace: Trace = cluster.ask(&node, &question).await?;
    let asked =
        format!("{protocol} from {source} ({}) to {target} ({}), at {node}", options.from, options.to);
    write!(std::io::stdout(), "{}", text::trace(&asked, &trace))?;
    Ok(())
}

async fn maps(cluster: &Cluster, only: Option<&str>) -> anyhow::Result<()> {
    let all = told(cluster.ask_all::<Vec<Fill>>(only, "maps").await?);
    write!(std::io::stdout(), "{}", text::fills(&all))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        let words = "kubectl-oarlock trace pod/client svc/web:http -n d --node node1";
        let cli = Cli::try_parse_from(words.split(' ')).unwrap();
        assert!(matches!(cli.command, Command::Trace(_)) && cli.node.as_deref() == Some("node1"));
    }
}
