//! More left of CPU and memory is better, and so is that both are used alike.

use super::super::ask::{Ask, At};

pub(super) fn least_allocated(ask: &Ask<'_>, nodes: &[At<'_, '_>]) -> Vec<i64> {
    let points = |at: &At<'_, '_>| {
        let (mut sum, mut count) = (0, 0);
        for (has, i) in [(at.node.cpu_milli, 0), (at.node.memory, 1)] {
            if has <= 0 {
                continue;
            }
            let left = has - at.used.weighed[i] - ask.pod.weighed[i];
            sum += left.max(0).saturating_mul(100) / has;
            count += 1;
        }
        if count == 0 { 0 } else { sum / count }
    };
    nodes.iter().map(points).collect()
}

/// A pod that asks for nothing shifts no balance.
pub(super) fn balanced(ask: &Ask<'_>, nodes: &[At<'_, '_>]) -> Vec<i64> {
    if ask.pod.cpu_milli == 0 && ask.pod.memory == 0 {
        return Vec::new();
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "shares, of 100 at the end"
    )]
    let points = |at: &At<'_, '_>| {
        let share =
            |has: i64, taken: i64| if has <= 0 { None } else { Some((taken as f64 / has as f64).min(1.0)) };
        let cpu = share(at.node.cpu_milli, at.used.cpu_milli + ask.pod.cpu_milli);
        let memory = share(at.node.memory, at.used.memory + ask.pod.memory);
        let deviation = cpu.zip(memory).map_or(0.0, |(cpu, memory)| (cpu - memory).abs() / 2.0);
        ((1.0 - deviation) * 100.0) as i64
    };
    nodes.iter().map(points).collect()
}
