//! `oarlock-control store copy`: a cluster's objects from one store to another.
//!
//! In: two addresses. Out: the target holds what the source holds, and says so only when that was seen while no control plane ran on
//! either. An embedded store is open in one process alone, which proves it; on etcd whoever runs leads, which shows in a key.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use oarlock_store::{Copy, Embedded, Error, Etcd, EtcdOptions, ListOptions, Retention, Store};

use crate::cache::PREFIX;
use crate::config::CopyConfig;
use crate::leader;

/// How long the leader of a control plane that has ended may still be there, and then some.
const PATIENCE: Duration = Duration::from_secs(10);
/// Passes over a source that nobody writes to: the second finds nothing.
const PASSES: usize = 5;
/// Between attempts after a failure.
const AGAIN: Duration = Duration::from_secs(1);

/// Copies; what it found is logged, and at the end printed by the caller.
///
/// # Errors
/// A store that cannot be used, a target that is not empty, or a control plane that runs.
pub async fn copy(config: &CopyConfig) -> anyhow::Result<String> {
    ensure!(config.from != config.to, "--from and --to name the same store");
    let (from, to) = (open(&config.from, config).await?, open(&config.to, config).await?);
    no_leader(&to, &config.to).await?;
    let first = to.list(PREFIX, ListOptions { limit: 1, ..ListOptions::default() }).await?;
    ensure!(
        first.records.is_empty() || config.replace,
        "{} is not empty: what is there would be lost; give --replace to go on with a copy that was broken off",
        config.to
    );
    let copy = Copy::new(Arc::clone(&from), Arc::clone(&to), PREFIX, &[leader::KEY]);
    if config.follow {
        tokio::select! {
            signal = oarlock_daemon::shutdown_signal() => tracing::info!(signal = signal?, "finishing the copy"),
            () = follow(&copy, &*from) => {}
        }
    }
    no_leader(&from, &config.from).await?;
    for _ in 0..PASSES {
        let changed = copy.pass().await?;
        tracing::info!(changed, "a pass over all objects");
        if changed == 0 {
            no_leader(&from, &config.from).await?;
            let revision = copy.outrun().await?.0;
            let (_, source) = from.get(PREFIX).await?;
            return Ok(format!(
                "{} holds what {} holds (revision {revision}, past {}): start the control planes on it\n",
                config.to, config.from, source.0
            ));
        }
    }
    bail!("{} is still written to: stop all control planes on it and try again", config.from)
}

/// A pass, then everything that changes; again from the beginning when that fails.
async fn follow(copy: &Copy, from: &dyn Store) {
    loop {
        if let Err(error) = follow_once(copy, from).await {
            tracing::warn!(%error, "the copy begins another pass");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn follow_once(copy: &Copy, from: &dyn Store) -> Result<(), Error> {
    let (_, before) = from.get(PREFIX).await?;
    let changed = copy.pass().await?;
    let (_, wanted) = from.get(PREFIX).await?;
    tracing::info!(changed, revision = wanted.0, "all objects are copied; following what changes");
    let mut told = false;
    copy.follow(before, |revision| {
        if !told && revision >= wanted {
            told = true;
            tracing::info!(
                revision = revision.0,
                "caught up: stop the control planes, then end this with SIGINT"
            );
        }
    })
    .await
}

/// Nobody may be leading on a store that is copied for good.
async fn no_leader(store: &Arc<dyn Store>, name: &str) -> anyhow::Result<()> {
    let start = tokio::time::Instant::now();
    loop {
        let (Some(leader), _) = store.get(leader::KEY).await? else { return Ok(()) };
        ensure!(
            start.elapsed() < PATIENCE,
            "the control plane {} runs on {name}: stop all control planes on it first",
            String::from_utf8_lossy(&leader.value)
        );
        tokio::time::sleep(AGAIN).await;
    }
}

async fn open(address: &str, config: &CopyConfig) -> anyhow::Result<Arc<dyn Store>> {
    if let Some(path) = address.strip_prefix("file://") {
        let store = Embedded::open(Path::new(path), Retention::default());
        return Ok(Arc::new(store.with_context(|| format!("cannot open {address}"))?));
    }
    ensure!(
        address.starts_with("http://") || address.starts_with("https://"),
        "{address:?} is no store: give file:///FOLDER/store.redb, or the endpoints of etcd as http(s)://HOST:PORT[,...]"
    );
    let options = EtcdOptions {
        endpoints: address.split(',').map(str::to_owned).collect(),
        ca: config.etcd_ca_file.clone(),
        cert: config.etcd_cert_file.clone(),
        key: config.etcd_key_file.clone(),
        ..EtcdOptions::default()
    };
    Ok(Arc::new(Etcd::connect(options).await.with_context(|| format!("cannot use {address}"))?))
}
