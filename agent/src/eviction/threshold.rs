//! Signals and their thresholds: `memory.available<100Mi`. Pure.
//!
//! Source: kubelet's pkg/kubelet/eviction/helpers.go and api/types.go.

use std::collections::BTreeMap;

use oarlock_api::quantity::{Format, Quantity};

/// What a node may run short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Signal {
    /// First: what a node without memory does is worst.
    Memory,
    NodeDisk,
    NodeInodes,
    ImageDisk,
    ImageInodes,
    Pids,
}

/// Which condition of the node it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pressure {
    Memory,
    Disk,
    Pid,
}

impl Pressure {
    /// The condition's type.
    pub(crate) fn condition(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Disk => "DiskPressure",
            Self::Pid => "PIDPressure",
        }
    }

    /// The condition's reason and message, while it holds and while not.
    pub(crate) fn words(self, holds: bool) -> (&'static str, &'static str) {
        match (self, holds) {
            (Self::Memory, true) => {
                ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available")
            }
            (Self::Memory, false) => {
                ("KubeletHasSufficientMemory", "kubelet has sufficient memory available")
            }
            (Self::Disk, true) => ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            (Self::Disk, false) => ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            (Self::Pid, true) => ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            (Self::Pid, false) => ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        }
    }

    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Memory, Self::Disk, Self::Pid];
}

impl Signal {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Memory, "memory.available"),
        (Self::NodeDisk, "nodefs.available"),
        (Self::NodeInodes, "nodefs.inodesFree"),
        (Self::ImageDisk, "imagefs.available"),
        (Self::ImageInodes, "imagefs.inodesFree"),
        (Self::Pids, "pid.available"),
    ];

    /// By its name.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(_, own)| *own == name);
        found.map(|(signal, _)| *signal).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|(_, name)| *name).collect();
            format!("{name:?} is no signal for eviction; there are {}", known.join(", "))
        })
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(own, _)| *own == self).map_or("", |(_, name)| name)
    }

    /// The resource, as messages name it.
    pub(crate) fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::NodeDisk | Self::ImageDisk => "ephemeral-storage",
            Self::NodeInodes | Self::ImageInodes => "inodes",
            Self::Pids => "pids",
        }
    }

    pub(crate) fn pressure(self) -> Pressure {
        match self {
            Self::Memory => Pressure::Memory,
            Self::Pids => Pressure::Pid,
            _ => Pressure::Disk,
        }
    }

    /// An amount of it, as upstream writes it.
    pub(crate) fn quantity(self, amount: u64) -> Quantity {
        let format = match self {
            Self::Pids => Format::DecimalSI,
            _ => Format::BinarySI,
        };
        Quantity::units(i64::try_from(amount).unwrap_or(i64::MAX), format)
    }
}

/// How much there is of something, and how much of that is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) capacity: u64,
    pub(crate) available: u64,
}

/// What was seen; what could not be asked is not in it.
pub(crate) type Observations = BTreeMap<Signal, Room>;

/// An amount, or a share of what there is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Amount {
    Absolute(u64),
    Percent(f64),
}

impl Amount {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of bytes"
    )]
    fn of(self, capacity: u64) -> u64 {
        match self {
            Self::Absolute(amount) => amount,
            Self::Percent(percent) => (capacity as f64 * percent / 100.0) as u64,
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is neither an amount nor a share: 100Mi, 10%");
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.parse().map_err(|_| wrong())?;
            return if (0.0..=100.0).contains(&percent) { Ok(Self::Percent(percent)) } else { Err(wrong()) };
        }
        let amount: Quantity = text.parse().map_err(|_| wrong())?;
        u64::try_from(amount.value()).map(Self::Absolute).map_err(|_| wrong())
    }
}

/// The thresholds of a node.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Hard {
    thresholds: BTreeMap<Signal, Amount>,
    reclaim: BTreeMap<Signal, Amount>,
}

impl Hard {
    /// Reads `memory.available<100Mi,...` and `memory.available=1Gi,...`.
    pub(crate) fn parse(hard: &str, reclaim: &str) -> Result<Self, String> {
        let mut thresholds = pairs(hard, '<')?;
        // Upstream's way to say never.
        thresholds.retain(|_, amount| !matches!(amount, Amount::Percent(p) if *p <= 0.0 || *p >= 100.0));
        Ok(Self { thresholds, reclaim: pairs(reclaim, '=')? })
    }

    /// What is looked at.
    pub(crate) fn signals(&self) -> impl Iterator<Item = Signal> {
        self.thresholds.keys().copied()
    }

    /// The least that has to be there of something; none: nobody looks.
    pub(crate) fn least(&self, signal: Signal, capacity: u64) -> Option<u64> {
        self.thresholds.get(&signal).map(|amount| amount.of(capacity))
    }

    /// How much memory and disk pods do not get, of so much.
    pub(crate) fn kept_free(&self, memory: u64, disk: u64) -> (u64, u64) {
        let of = |signal, capacity| self.least(signal, capacity).unwrap_or(0);
        (of(Signal::Memory, memory), of(Signal::NodeDisk, disk))
    }

    /// What is short. Of what was so before, more than the threshold has to be there again.
    pub(crate) fn crossed(&self, seen: &Observations, before: &[Signal]) -> Vec<Signal> {
        let short = |(signal, room): (&Signal, &Room)| {
            let mut least = self.least(*signal, room.capacity)?;
            if before.contains(signal) {
                let more = self.reclaim.get(signal).map_or(0, |amount| amount.of(room.capacity));
                least = least.saturating_add(more);
            }
            (room.available < least).then_some(*signal)
        };
        seen.iter().filter_map(short).collect()
    }
}

fn pairs(text: &str, between: char) -> Result<BTreeMap<Signal, Amount>, String> {
    let mut all = BTreeMap::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let Some((name, value)) = word.split_once(between) else {
            return Err(format!("{word:?} is no threshold: memory.available{between}100Mi"));
        };
        let signal = Signal::parse(name)?;
        if all.insert(signal, Amount::parse(value)?).is_some() {
            return Err(format!("{name} is said twice"));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(signal: Signal, available: u64) -> Observations {
        BTreeMap::from([(signal, Room { capacity: 1000, available })])
    }

    #[test]
    fn thresholds_are_amounts_or_shares() {
        let hard = Hard::parse("memory.available<100,nodefs.available<10%,pid.available<0%", "").unwrap();
        assert_eq!(hard.crossed(&seen(Signal::Memory, 99), &[]), [Signal::Memory]);
        assert!(hard.crossed(&seen(Signal::Memory, 100), &[]).is_empty());
        assert_eq!(hard.crossed(&seen(Signal::NodeDisk, 99), &[]), [Signal::NodeDisk]);
        assert!(hard.crossed(&seen(Signal::Pids, 0), &[]).is_empty(), "0 % is never");
        assert!(hard.crossed(&seen(Signal::ImageDisk, 0), &[]).is_empty(), "nobody asked for it");
    }

    #[test]
    fn once_crossed_more_has_to_come_back() {
        let hard = Hard::parse("memory.available<100", "memory.available=50").unwrap();
        assert!(hard.crossed(&seen(Signal::Memory, 120), &[]).is_empty());
        assert_eq!(hard.crossed(&seen(Signal::Memory, 120), &[Signal::Memory]), [Signal::Memory]);
        assert!(hard.crossed(&seen(Signal::Memory, 150), &[Signal::Memory]).is_empty());
    }

    #[test]
    fn nonsense_is_named() {
        for (hard, part) in [
            ("memory<1", "no signal"),
            ("memory.available=1Gi", "no threshold"),
            ("memory.available<much", "neither an amount nor a share"),
            ("memory.available<120%", "neither"),
            ("memory.available<-1Mi", "neither"),
            ("memory.available<1,memory.available<2", "twice"),
        ] {
            let error = Hard::parse(hard, "").unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
