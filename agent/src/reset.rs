//! `oarlock-agent reset`: takes from a host what the agent has made there, and says what it leaves.
//!
//! In: the data directory, which says where to look. Out: no container, link, route, program, cgroup, mount or file of the node. What
//! is not known to be the agent's is not touched. Can be called again after it failed, and when there is nothing.

mod cgroups;
mod disk;

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::config::ResetConfig;
use crate::holding::{Holding, Made};
use crate::node_object::volumes_dir;
use crate::runtime::{Container, Docker, Runtime, label};
use crate::volumes::Volumes;
use crate::{dataplane, net};

/// How many containers are removed at a time.
const AT_ONCE: usize = 4;
/// How long containers may take to be gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why what is not removed is not.
const KEPT: &str = "Left as they are: settings and tokens in /etc/oarlock; images; the sysctls net.ipv4.ip_forward, \
net.ipv4.conf.*.rp_filter and net.ipv6.conf.all.forwarding, on which others may rely by now.";

/// What there is on the host.
struct Found {
    containers: Vec<Container>,
    network: net::Leftovers,
    pins: Option<PathBuf>,
    cgroups: Vec<PathBuf>,
    disk: disk::Found,
}

/// Looks, asks, removes.
///
/// # Errors
/// An agent runs; nobody has agreed; what could not be looked at or removed.
pub async fn run(config: &ResetConfig, input: impl BufRead, mut out: impl Write) -> anyhow::Result<()> {
    // Held to the end: an agent that is started meanwhile would make things anew.
    let _holding = config.data_dir.exists().then(|| Holding::take(&config.data_dir)).transpose()?;
    let Some(made) = made(config)? else {
        writeln!(out, "There is nothing of an agent in {}.", config.data_dir.display())?;
        return Ok(());
    };
    let docker = Docker::new(&made.docker_host, &made.node_name);
    let found = look(config, &made, &docker).await?;
    let lines = found.lines();
    if lines.is_empty() {
        writeln!(out, "There is nothing left of the node {}.", made.node_name)?;
        return Ok(());
    }
    writeln!(out, "Of the node {} this host has:", made.node_name)?;
    for line in &lines {
        writeln!(out, "  {line}")?;
    }
    if config.dry_run {
        writeln!(out, "{KEPT}")?;
        return Ok(());
    }
    anyhow::ensure!(
        config.yes || agrees(input, &mut out)?,
        "nothing was removed; --yes removes without asking"
    );
    remove(&found, &made, &docker, &config.data_dir).await?;
    writeln!(out, "Removed. {KEPT}")?;
    writeln!(out, "The cluster knows the node until `kubectl delete node {}`.", made.node_name)?;
    Ok(())
}

/// Where to look: as flags say, else as the agent did.
fn made(config: &ResetConfig) -> anyhow::Result<Option<Made>> {
    let said = Made::read(&config.data_dir)?;
    let Some(node_name) = said.as_ref().map(|made| &made.node_name).or(config.node_name.as_ref()) else {
        anyhow::ensure!(
            !config.data_dir.join("pki").exists(),
            "{} does not say which node it is: say --node-name",
            config.data_dir.display()
        );
        return Ok(None);
    };
    if let Some(other) = config.node_name.as_ref().filter(|name| *name != node_name) {
        anyhow::bail!("{} is that of the node {node_name}, not {other}", config.data_dir.display());
    }
    let node_name = node_name.clone();
    let default = Made {
        cgroup: format!("/oarlock/{node_name}"),
        bpffs: "/sys/fs/bpf".into(),
        docker_host: "unix:///var/run/docker.sock".to_owned(),
        node_name,
    };
    let said = said.unwrap_or(default);
    Ok(Some(Made {
        cgroup: config.cgroup_parent.clone().unwrap_or(said.cgroup),
        bpffs: config.bpffs.clone().unwrap_or(said.bpffs),
        docker_host: config.docker_host.clone().unwrap_or(said.docker_host),
        node_name: said.node_name,
    }))
}

fn agrees(mut input: impl BufRead, out: &mut impl Write) -> std::io::Result<bool> {
    write!(out, "Remove all of it? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn look(config: &ResetConfig, made: &Made, docker: &Docker) -> anyhow::Result<Found> {
    Ok(Found {
        containers: containers(docker).await?,
        network: net::leftovers().await?,
        pins: dataplane::is_pinned(&made.bpffs, &made.node_name)
            .then(|| dataplane::pins_of(&made.bpffs, &made.node_name)),
        cgroups: cgroups::of(&made.cgroup),
        disk: disk::look(&config.data_dir, config.keep_volumes)?,
    })
}

async fn containers(docker: &Docker) -> anyhow::Result<Vec<Container>> {
    let pods = docker.fingerprints().await;
    let pods = pods.context("the node's containers have to go first, and Docker says")?;
    let found = stream::iter(pods.into_keys()).then(async |uid| docker.pod(&uid).await);
    Ok(found.try_collect::<Vec<_>>().await?.concat())
}

async fn remove(found: &Found, made: &Made, docker: &Docker, data_dir: &Path) -> anyhow::Result<()> {
    stream::iter(found.containers.iter().map(Ok))
        .try_for_each_concurrent(AT_ONCE, |container| docker.remove(&container.id))
        .await?;
    let start = Instant::now();
    // One that somebody else removes, too, is there until they have.
    while !docker.fingerprints().await?.is_empty() {
        anyhow::ensure!(start.elapsed() < PATIENCE, "the node's containers do not go");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    net::remove_leftovers().await?;
    if found.pins.is_some() {
        dataplane::remove_pins(&made.bpffs, &made.node_name)?;
    }
    cgroups::remove(&found.cgroups).await?;
    unmount_remote(data_dir).await?;
    disk::remove(&found.disk)
}

/// Writes out what pods have of other machines, and detaches their disks.
async fn unmount_remote(data_dir: &Path) -> anyhow::Result<()> {
    let volumes = Volumes::new(&data_dir.join("pods"), &volumes_dir(data_dir));
    for uid in volumes.pods()? {
        volumes.unmount_remote(&uid).await?;
    }
    volumes.release_disks().await;
    Ok(())
}

impl Found {
    /// A line for each thing.
    fn lines(&self) -> Vec<String> {
        let container = |container: &Container| {
            let of = |name: &str| container.labels.get(name).map_or("", String::as_str);
            let (namespace, pod) = (of(label::POD_NAMESPACE), of(label::POD_NAME));
            let id: String = container.id.chars().take(12).collect();
            format!("container  {namespace}/{pod} {} {id}", container.name())
        };
        let mut lines: Vec<String> = self.containers.iter().map(container).collect();
        lines.extend(self.network.links.iter().map(|link| format!("link       {link}")));
        lines.extend(self.network.routes.iter().map(|route| format!("route      {route}")));
        lines.extend(self.pins.iter().map(|path| format!("programs   {}", path.display())));
        lines.extend(self.cgroups.iter().map(|path| format!("cgroup     {}", path.display())));
        lines.extend(self.disk.lines());
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(data_dir: &std::path::Path) -> ResetConfig {
        ResetConfig {
            data_dir: data_dir.to_owned(),
            node_name: None,
            docker_host: None,
            cgroup_parent: None,
            bpffs: None,
            keep_volumes: false,
            dry_run: false,
            yes: true,
        }
    }

    async fn said(config: &ResetConfig) -> anyhow::Result<String> {
        let mut out = Vec::new();
        run(config, &b""[..], &mut out).await?;
        Ok(String::from_utf8(out)?)
    }

    #[tokio::test]
    async fn a_host_without_an_agent_has_nothing_to_remove_and_one_with_an_agent_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder.path().join("agent"));
        assert!(said(&config).await.unwrap().starts_with("There is nothing of an agent in"));
        let made = Made {
            node_name: "n1".into(),
            cgroup: "/oarlock/n1".into(),
            bpffs: "/sys/fs/bpf".into(),
            docker_host: "unix:///nowhere".into(),
        };
        let running = Holding::begin(&config.data_dir, &made).unwrap();
        let error = said(&config).await.unwrap_err().to_string();
        assert!(error.contains("an agent is running on"), "{error}");
        drop(running);
        let error = format!("{:#}", said(&config).await.unwrap_err());
        assert!(error.contains("unix:///nowhere"), "{error}");
        assert!(config.data_dir.join("made.json").exists(), "without Docker nothing goes");
    }

    #[test]
    fn flags_are_stronger_than_what_the_agent_said_but_for_whose_directory_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        assert_eq!(made(&config).unwrap(), None);
        std::fs::create_dir(folder.path().join("pki")).unwrap();
        assert!(made(&config).unwrap_err().to_string().contains("say --node-name"));
        config.node_name = Some("n1".into());
        let guessed = made(&config).unwrap().unwrap();
        assert_eq!((guessed.node_name.as_str(), guessed.cgroup.as_str()), ("n1", "/oarlock/n1"));
        Holding::begin(folder.path(), &Made { cgroup: "/mine".into(), ..guessed }).unwrap();
        assert_eq!(made(&config).unwrap().unwrap().cgroup, "/mine");
        config.cgroup_parent = Some("/other".into());
        assert_eq!(made(&config).unwrap().unwrap().cgroup, "/other");
        config.node_name = Some("n2".into());
        assert!(made(&config).unwrap_err().to_string().contains("is that of the node n1, not n2"));
    }

    #[test]
    fn only_yes_is_yes() {
        for (answer, is) in [("y\n", true), ("yes\n", true), ("\n", false), ("", false), ("no\n", false)] {
            assert_eq!(agrees(answer.as_bytes(), &mut Vec::new()).unwrap(), is, "{answer:?}");
        }
    }
}
