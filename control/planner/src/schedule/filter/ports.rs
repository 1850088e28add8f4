//! `hostPort`: a port of the node that another pod has.

use super::super::refusal::Refusal;
use crate::world::{PodView, Used};

pub(super) fn refusal<'a>(pod: &PodView, used: &Used) -> Option<Refusal<'a>> {
    let taken = pod.host_ports.iter().any(|port| used.ports.iter().any(|other| other.conflicts(port)));
    taken.then_some(Refusal::Ports)
}
