//! `oarlock-agent image import`: brings images to this node's Docker without a registry.

use std::path::PathBuf;

use anyhow::Context as _;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio_util::io::ReaderStream;

use crate::runtime::{Docker, Runtime as _};

/// Imports archives as `docker save` writes them, one after the other; returns what Docker says about each.
///
/// # Errors
/// A file that cannot be read, or Docker's refusal.
pub async fn import(docker_host: &str, files: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let docker = Docker::new(docker_host, "");
    let mut said = Vec::new();
    for path in files {
        let file = tokio::fs::File::open(path)
            .await
            .with_context(|| format!("cannot open the archive {}", path.display()))?;
        let archive = ReaderStream::new(file).map_ok(Into::into).boxed();
        let answer = docker.import(archive).await;
        said.push(answer.with_context(|| format!("cannot import {}", path.display()))?);
    }
    Ok(said)
}
