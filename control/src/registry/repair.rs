//! Claims against the objects that hold them: a claim that nobody holds goes after a grace, an object without its claim gets
//! it, two objects with one address are named. Nothing here happens in a store that only the registry has written.
//!
//! In: the store at one revision. Out: transactions that hold only if nobody wrote in between, and what to tell the user.
//! Source: k8s.io/kubernetes/pkg/registry/core/service/{ipallocator,portallocator}/controller/repair.go.

use std::collections::BTreeMap;
use std::time::Duration;

use oarlock_api::catalogue::{Kind, NODES, SERVICES};
use oarlock_api::meta;
use oarlock_api::service::Family;
use oarlock_api::status::Status;
use oarlock_store::{Compare, ListOptions, Op, Outcome, Record, Revision};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::claims::{CLAIMS, Claim, What, claims_of, is_claim};
use super::{Ranges, Registry, bounded};

/// How long a claim without a holder is left alone.
pub const GRACE: Duration = Duration::from_secs(300);
/// Objects read between two chances for others to run.
const BATCH: usize = 200;

/// Claims that nobody held when they were last looked at: since when, and as of which write.
#[derive(Debug, Default)]
pub struct Suspects(BTreeMap<String, (Revision, Instant)>);

/// What to tell the user of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    /// A reference of the object.
    pub about: Value,
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
    /// Who says it.
    pub component: &'static str,
}

/// What came of one look.
#[derive(Debug, Default)]
pub struct Repaired {
    /// Claims that were given to their holders.
    pub given: usize,
    /// Claims of nobody that were removed.
    pub removed: usize,
    /// What to tell users.
    pub notices: Vec<Notice>,
}

/// An object that may hold claims.
struct Holder {
    key: String,
    revision: Revision,
    about: Value,
    claims: Vec<Claim>,
}

/// One thing to do.
#[derive(Debug, PartialEq)]
enum Step {
    /// Write a claim: the claim, the key of its present record if there is one, the holder.
    Give { claim: String, over: Option<Revision>, holder: String, revision: Revision },
    /// Nobody holds this one.
    Orphan { claim: String, revision: Revision },
}

impl Registry {
    /// Looks at all claims once.
    ///
    /// # Errors
    /// The store is away.
    pub async fn repair(&self, suspects: &mut Suspects, grace: Duration) -> Result<Repaired, Status> {
        let page = bounded(self.store.list(CLAIMS, ListOptions::default())).await?;
        let holders = self.holders(page.revision).await?;
        let (steps, notices) = decide(&page.records, &holders, &self.ranges);
        let mut repaired = Repaired { notices, ..Repaired::default() };
        let now = Instant::now();
        let mut seen = BTreeMap::new();
        for step in steps {
            match step {
                Step::Give { claim, over, holder, revision } => {
                    let free = match over {
                        Some(written) => Compare::ModifiedAt(claim.clone(), written),
                        None => Compare::Absent(claim.clone()),
                    };
                    let compares = vec![free, Compare::ModifiedAt(holder.clone(), revision)];
                    let put = Op::Put(claim, holder.into_bytes().into(), None);
                    repaired.given += usize::from(self.fits(compares, put).await?);
                }
                Step::Orphan { claim, revision } => {
                    let known = suspects.0.get(&claim).filter(|(written, _)| *written == revision);
                    let since = known.map_or(now, |(_, since)| *since);
                    if now.duration_since(since) < grace {
                        seen.insert(claim, (revision, since));
                        continue;
                    }
                    let same = vec![Compare::ModifiedAt(claim.clone(), revision)];
                    repaired.removed += usize::from(self.fits(same, Op::Delete(claim)).await?);
                }
            }
        }
        suspects.0 = seen;
        Ok(repaired)
    }

    async fn fits(&self, compares: Vec<Compare>, op: Op) -> Result<bool, Status> {
        let outcome = bounded(self.store.txn(compares, vec![op])).await?;
        Ok(matches!(outcome, Outcome::Committed(_)))
    }

    async fn holders(&self, at: Revision) -> Result<Vec<Holder>, Status> {
        let mut holders = Vec::new();
        for kind in [&SERVICES, &NODES] {
            let options = ListOptions { at: Some(at), ..ListOptions::default() };
            let page = bounded(self.store.list(&kind.prefix(), options)).await?;
            for batch in page.records.chunks(BATCH) {
                holders.extend(batch.iter().filter_map(|record| holder(kind, record)));
                tokio::task::yield_now().await;
            }
        }
        Ok(holders)
    }
}

fn holder(kind: &'static Kind, record: &Record) -> Option<Holder> {
    let object: Value = serde_json::from_slice(&record.value).ok()?;
    let about = json!({
        "kind": kind.kind, "apiVersion": kind.api_version(), "namespace": meta::namespace(&object),
        "name": meta::name(&object), "uid": meta::uid(&object),
    });
    let claims = claims_of(kind, &object);
    Some(Holder { key: record.key.clone(), revision: record.modified, about, claims })
}

/// What is wrong, and what to do about it. Of several that hold the same, the one that the claim names is right, else the
/// first.
fn decide(records: &[Record], holders: &[Holder], ranges: &Ranges) -> (Vec<Step>, Vec<Notice>) {
    let mut wanted: BTreeMap<String, Vec<(&Holder, &Claim)>> = BTreeMap::new();
    let mut notices = Vec::new();
    for holder in holders {
        for claim in &holder.claims {
            wanted.entry(claim.key()).or_default().push((holder, claim));
            if claim.outside(ranges).is_some() {
                notices.extend(notice(holder, claim, Problem::Outside(ranges)));
            }
        }
    }
    let mut steps = Vec::new();
    for record in records.iter().filter(|record| is_claim(&record.key)) {
        let owner = std::str::from_utf8(&record.value).unwrap_or("");
        match wanted.remove(&record.key) {
            None => steps.push(Step::Orphan { claim: record.key.clone(), revision: record.modified }),
            Some(all) => settle(&record.key, Some((owner, record.modified)), &all, &mut steps, &mut notices),
        }
    }
    for (key, all) in wanted {
        settle(&key, None, &all, &mut steps, &mut notices);
    }
    (steps, notices)
}

fn settle(
    key: &str,
    record: Option<(&str, Revision)>,
    all: &[(&Holder, &Claim)],
    steps: &mut Vec<Step>,
    notices: &mut Vec<Notice>,
) {
    let named = record.and_then(|(owner, _)| all.iter().position(|(holder, _)| holder.key == owner));
    let right = named.unwrap_or(0);
    for (i, (holder, claim)) in all.iter().enumerate() {
        if i != right {
            notices.extend(notice(holder, claim, Problem::Shared));
        } else if named.is_none() {
            notices.extend(notice(holder, claim, Problem::Missing));
            steps.push(Step::Give {
                claim: key.to_owned(),
                over: record.map(|(_, revision)| revision),
                holder: holder.key.clone(),
                revision: holder.revision,
            });
        }
    }
}

#[derive(Clone, Copy)]
enum Problem<'r> {
    Shared,
    Missing,
    Outside(&'r Ranges),
}

/// Upstream's words; for ranges of pods it has none, nor could two nodes have one.
fn notice(holder: &Holder, claim: &Claim, problem: Problem<'_>) -> Option<Notice> {
    let again = "please recreate service";
    let (component, reason, message) = match (claim.what(), problem) {
        (What::ServiceIp(ip, _), problem) => {
            let subject = format!("Cluster IP [{}]:{ip}", Family::of(*ip).name());
            let (reason, message) = match problem {
                Problem::Shared => (
                    "ClusterIPAlreadyAllocated",
                    format!("{subject} was assigned to multiple services; {again}"),
                ),
                Problem::Missing => {
                    ("ClusterIPNotAllocated", format!("{subject} is not allocated; repairing"))
                }
                Problem::Outside(_) => (
                    "ClusterIPOutOfRange",
                    format!("{subject} is not within any configured Service CIDR; {again}"),
                ),
            };
            ("ipallocator-repair-controller", reason, message)
        }
        (What::NodePort(port, ..), problem) => {
            let (reason, message) = match problem {
                Problem::Shared => (
                    "PortAlreadyAllocated",
                    format!("Port {port} was assigned to multiple services; {again}"),
                ),
                Problem::Missing => ("PortNotAllocated", format!("Port {port} is not allocated; repairing")),
                Problem::Outside(ranges) => {
                    let (first, last) = ranges.node_ports;
                    let message = format!("Port {port} is not within the port range {first}-{last}; {again}");
                    ("PortOutOfRange", message)
                }
            };
            ("portallocator-repair-controller", reason, message)
        }
        (What::PodCidr(range), Problem::Shared) => {
            let message = format!("Range {range} was assigned to multiple nodes; please recreate node");
            ("cidrallocator-repair-controller", "CIDRAlreadyAllocated", message)
        }
        (What::PodCidr(_), _) => return None,
    };
    Some(Notice { about: holder.about.clone(), reason, message, component })
}
