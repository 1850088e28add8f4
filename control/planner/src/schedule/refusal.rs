//! Why nodes are out for a pod, in upstream's words, and how many for each reason.

use std::fmt;

use crate::world::Taint;

/// Why a node is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal<'w> {
    Unschedulable,
    NotReady,
    NoAddresses,
    Taint(&'w Taint),
    NotSelected,
    Ports,
    TooManyPods,
    Insufficient(&'w str),
    /// Of the pod's claims.
    Volumes(&'static str),
    MissingTopology,
    Uneven,
    NotNear,
    NotApart,
    Repelled,
    /// Of preemption: pods that may go for it are not there.
    NoVictims,
    /// Of preemption: whoever goes, it stays out.
    NotHelpful,
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unschedulable => "node(s) were unschedulable",
            Self::NotReady => "node(s) were not ready",
            Self::NoAddresses => "node(s) had no podCIDR yet",
            Self::Taint(taint) => {
                return write!(f, "node(s) had untolerated taint {{{}: {}}}", taint.key, taint.value);
            }
            Self::NotSelected => "node(s) didn't match Pod's node affinity/selector",
            Self::Ports => "node(s) didn't have free ports for the requested pod ports",
            Self::TooManyPods => "Too many pods",
            Self::Insufficient(name) => return write!(f, "Insufficient {name}"),
            Self::Volumes(why) => why,
            Self::MissingTopology => {
                "node(s) didn't match pod topology spread constraints (missing required label)"
            }
            Self::Uneven => "node(s) didn't match pod topology spread constraints",
            Self::NotNear => "node(s) didn't match pod affinity rules",
            Self::NotApart => "node(s) didn't match pod anti-affinity rules",
            Self::Repelled => "node(s) didn't satisfy existing pods anti-affinity rules",
            Self::NoVictims => "No preemption victims found for incoming pod",
            Self::NotHelpful => "Preemption is not helpful for scheduling",
        })
    }
}

impl PartialEq<Taint> for Refusal<'_> {
    fn eq(&self, taint: &Taint) -> bool {
        matches!(self, Self::Taint(own) if own.key == taint.key && own.value == taint.value)
    }
}

/// Reasons and how many nodes are out for each.
#[derive(Debug, Default)]
pub(super) struct Tally<'w>(Vec<(Refusal<'w>, usize)>);

impl<'w> Tally<'w> {
    pub(super) fn count(&mut self, refusal: Refusal<'w>) {
        self.count_times(refusal, 1);
    }

    pub(super) fn count_times(&mut self, refusal: Refusal<'w>, times: usize) {
        if times == 0 {
            return;
        }
        let known = self.0.iter_mut().find(|(known, _)| match refusal {
            // Other nodes' taints of the same key and value are the same reason.
            Refusal::Taint(taint) => *known == *taint,
            _ => *known == refusal,
        });
        match known {
            Some((_, count)) => *count += times,
            None => self.0.push((refusal, times)),
        }
    }

    /// `0/5 nodes are available: 3 Insufficient cpu, 2 Too many pods.`
    pub(super) fn sentence(&self, nodes: usize) -> String {
        let mut reasons: Vec<String> =
            self.0.iter().map(|(refusal, count)| format!("{count} {refusal}")).collect();
        reasons.sort();
        format!("0/{nodes} nodes are available: {}.", reasons.join(", "))
    }
}
