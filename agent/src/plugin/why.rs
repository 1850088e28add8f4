//! `kubectl oarlock why`: why something is pending, not ready, ending or slow, from what the API server has of it.
//!
//! In: objects and events, gathered by [`gather`]. Out: an [`Answer`]: what state it is in, and what holds it up, one finding each, the
//! decisive ones first. All but `gather` is pure. Nothing is guessed: where nothing is known, that is said.

mod deployment;
mod gather;
mod node;
mod pod;
mod service;
#[cfg(test)]
mod tests;
mod told;

use std::fmt::Write as _;

use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use super::cluster::Cluster;

/// Who is asked about.
#[derive(Debug, Args)]
pub(super) struct WhyOptions {
    /// What: pod, deployment, service or node, and its name: `pod web`, or `pod/web`.
    #[arg(required = true, num_args = 1..=2, value_names = ["KIND", "NAME"])]
    what: Vec<String>,
    /// The namespace [default: that of the context].
    #[arg(long, short)]
    namespace: Option<String>,
}

/// Everything that the API server has and that may tell why; what is of no use for a question stays empty.
#[derive(Debug, Default)]
struct Evidence {
    now: Timestamp,
    /// Who is asked about.
    object: Value,
    /// Those about it, and about what is its own.
    events: Vec<Value>,
    pods: Vec<Value>,
    nodes: Vec<Value>,
    /// PersistentVolumeClaims of pods.
    claims: Vec<Value>,
    /// Of Deployments.
    replica_sets: Vec<Value>,
    /// EndpointSlices of a Service.
    slices: Vec<Value>,
    /// What pods or the node use, of `metrics.k8s.io`.
    usage: Vec<Value>,
    /// The Lease of a node.
    lease: Value,
}

/// What is so, and why.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    head: String,
    findings: Vec<Finding>,
}

/// One reason, and what may be done or looked at.
#[derive(Debug, Default, PartialEq, Eq)]
struct Finding {
    said: String,
    more: Vec<String>,
}

impl Finding {
    fn new(said: impl Into<String>) -> Self {
        Self { said: said.into(), more: Vec::new() }
    }

    fn and(mut self, more: impl Into<String>) -> Self {
        self.more.push(more.into());
        self
    }
}

impl Answer {
    fn text(&self) -> String {
        let mut text = format!("{}\n", self.head);
        for finding in &self.findings {
            // Writing to a String does not fail.
            let _ = writeln!(text, "- {}", finding.said);
            for more in &finding.more {
                let _ = writeln!(text, "    {more}");
            }
        }
        text
    }
}

/// Kinds that can be asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Pod,
    Deployment,
    Service,
    Node,
}

impl Subject {
    fn parse(word: &str) -> anyhow::Result<Self> {
        Ok(match word.to_lowercase().as_str() {
            "pod" | "pods" | "po" => Self::Pod,
            "deployment" | "deployments" | "deploy" | "deployment.apps" | "deployments.apps" => {
                Self::Deployment
            }
            "service" | "services" | "svc" => Self::Service,
            "node" | "nodes" | "no" => Self::Node,
            _ => anyhow::bail!("{word} cannot be asked about: pod, deployment, service and node can"),
        })
    }

    fn explain(self, evidence: &Evidence) -> Answer {
        match self {
            Self::Pod => pod::explain(evidence),
            Self::Deployment => deployment::explain(evidence),
            Self::Service => service::explain(evidence),
            Self::Node => node::explain(evidence),
        }
    }
}

/// The subject and the name that the words mean.
fn meant(words: &[String]) -> anyhow::Result<(Subject, &str)> {
    let (kind, name) = match words {
        [both] => both.split_once('/').unwrap_or((both, "")),
        [kind, name] => (kind.as_str(), name.as_str()),
        _ => ("", ""),
    };
    let subject = Subject::parse(kind)?;
    anyhow::ensure!(!name.is_empty(), "say which {kind}: {kind} NAME, or {kind}/NAME");
    Ok((subject, name))
}

/// Gathers and explains.
pub(super) async fn why(cluster: &Cluster, options: &WhyOptions) -> anyhow::Result<String> {
    let (subject, name) = meant(&options.what)?;
    let evidence = gather::evidence(cluster, subject, name, options.namespace.as_deref()).await?;
    Ok(subject.explain(&evidence).text())
}
