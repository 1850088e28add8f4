//! `cargo xtask`: parses the command line and hands over to one file a command.
//!
//! Depends on no crate of the workspace: it must compile when they do not.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this program talks to a person at a terminal"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "it waits for processes, reads CI and CARGO_TARGET_DIR, and has no runtime"
)]

mod bench;
mod bpf;
mod cluster;
mod daemons;
mod docker;
mod exec;
mod fabric;
mod fuzz;
mod images;
mod package;
mod setup;
mod soak;
mod test;
mod tidy;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Everything that is done to Oarlock and with it. Start with `cargo xtask up`.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install and start what is missing on this machine (Debian, as root); elsewhere list it.
    Setup,
    /// Build the BPF programs, then the daemons.
    Build {
        /// Only the BPF programs.
        #[arg(long)]
        bpf: bool,
    },
    /// Load the BPF programs and attach them to a link by hand, until Ctrl-C.
    Load {
        /// The link: one of a namespace or a veth made for it, not the machine's uplink.
        #[arg(long)]
        iface: String,
        /// Whether it answers Services by XDP.
        #[arg(long, value_enum, default_value = "best-effort")]
        xdp: cluster::Xdp,
    },
    /// Bring up a cluster on this machine: a control plane and nodes in network namespaces. Twice is harmless.
    Up(cluster::UpOptions),
    /// Take the cluster down: processes, containers, namespaces, links, cgroups, routes.
    Down(cluster::DownOptions),
    /// Say what of the cluster is running.
    Status,
    /// Run a command on a node, in its network and its cgroup: cargo xtask node 1 -- ip route
    Node(cluster::NodeOptions),
    /// Run every check and test, with set-up. What CI runs.
    Test,
    Fuzz(fuzz::FuzzOptions),
    /// Test for longer than CI has time: random inputs by the million, seeded.
    #[command(subcommand)]
    Soak(soak::Soak),
    /// Measure, on a cluster of its own: a table, and target/oarlock/bench/NAME.json.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Build Debian packages of control plane, agent and kubectl's plugins into target/packages.
    Package(package::PackageOptions),
    /// Check what no compiler checks: file heads, inherited lints, forbidden module names.
    Tidy,
    /// Write the gRPC code from control/api/proto.
    Proto,
    /// Write the field table of Kubernetes' messages from the sources of k8s-pb and k8s-openapi.
    Schema,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    match Cli::parse().command {
        Command::Setup => setup::setup_for_tests(),
        Command::Build { bpf: true } => bpf::build(),
        Command::Build { bpf: false } => cluster::build(cluster::Profile::Release),
        Command::Load { iface, xdp } => cluster::load(&iface, xdp),
        Command::Up(options) => cluster::up(&options),
        Command::Bench(what) => bench::bench(&what),
        Command::Down(options) => cluster::down(&options),
        Command::Status => cluster::status(),
        Command::Node(options) => cluster::node(&options),
        Command::Test => test::test(),
        Command::Fuzz(options) => fuzz::fuzz(&options),
        Command::Soak(what) => soak::soak(&what),
        Command::Package(options) => package::package(&options),
        Command::Tidy => tidy::tidy(),
        Command::Proto => exec::cargo(&["run", "--quiet", "-p", "oarlock-api", "--example", "generate"]),
        Command::Schema => {
            exec::cargo(&["run", "--quiet", "-p", "oarlock-api", "--example", "generate_schema"])
        }
    }
}
