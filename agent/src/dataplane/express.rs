//! XDP on uplinks: in the driver where it can be, and where not, why. tc carries all traffic without it.

use std::fs;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::Xdp;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpMode};

use super::attach::{Hooks, pin, pin_of};
use super::load::chain;
use super::verified::verified;
use super::{Acceleration, DataplaneError, Uplink};

const PROGRAM: &str = "uplink_express";
const PEER_PROGRAM: &str = "peer_pass";

/// Attaches to an uplink, or takes an earlier agent's program away; why it does not run there.
pub(super) fn arrange(
    ebpf: &mut Ebpf,
    hooks: &Hooks,
    uplink: &Uplink,
    wanted: Acceleration,
) -> Result<(), String> {
    let pins = hooks.pins(PROGRAM, &uplink.name);
    let outcome = allowed(wanted, uplink.is_veth).and_then(|()| attach(ebpf, PROGRAM, &pins, &uplink.name));
    if outcome.is_err() {
        for pin in pins {
            let _ = fs::remove_file(&pin);
        }
    }
    outcome
}

/// Whether it should run there.
fn allowed(wanted: Acceleration, is_veth: bool) -> Result<(), String> {
    match wanted {
        Acceleration::Disabled => Err("disabled by --xdp".to_owned()),
        // What XDP sends back by a veth waits there for ever unless its other end polls.
        Acceleration::BestEffort if is_veth => {
            Err("a veth's other end has to be prepared for it; --xdp native trusts that it is".to_owned())
        }
        Acceleration::BestEffort | Acceleration::Native => Ok(()),
    }
}

/// The first pin is the own one. A link takes one program of XDP: that of another layout is replaced at once; it knows the same
/// flows, and leaves to tc what is not in its tables yet.
fn attach(ebpf: &mut Ebpf, name: &str, pins: &[PathBuf], interface: &str) -> Result<(), String> {
    let program = ebpf.program_mut(name).ok_or("the object does not hold it")?;
    let program: &mut Xdp = program.try_into().map_err(|e| chain(&e))?;
    if program.fd().is_err() {
        verified(|| program.load()).map_err(|e| format!("the kernel refuses the program: {}", chain(&e)))?;
    }
    let replaced = pins.iter().find_map(|pin| {
        let old = PinnedLink::from_pin(pin).ok()?;
        let link = XdpLink::try_from(FdLink::from(old)).ok()?;
        program.attach_to_link(link).ok()
    });
    let refused = |e: &(dyn std::error::Error + 'static)| format!("no native XDP: {}", chain(e));
    let id = match replaced {
        Some(id) => id,
        // No pin, or that of a link that is gone or cannot be used.
        None => program.attach(interface, XdpMode::Driver).map_err(|e| refused(&e))?,
    };
    let link = program.take_link(id).map_err(|e| chain(&e))?;
    let link: FdLink = link.try_into().map_err(|e| refused(&e))?;
    pins.first().map_or(Ok(()), |own| pin(link, own))
}

/// Attaches the program that passes everything to the other end of a veth.
pub(super) fn prepare_peer(object: &[u8], pins: &Path, interface: &str) -> Result<(), DataplaneError> {
    fs::create_dir_all(pins).map_err(|e| DataplaneError::Host {
        what: format!("cannot create {}", pins.display()),
        why: e.to_string(),
    })?;
    let mut ebpf =
        Ebpf::load(object).map_err(|e| DataplaneError::kernel("load the BPF object", chain(&e)))?;
    attach(&mut ebpf, PEER_PROGRAM, &[pin_of(pins, PEER_PROGRAM, interface)], interface)
        .map_err(|why| DataplaneError::kernel(format!("prepare {interface}"), why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn veths_are_only_trusted_when_told_so() {
        assert!(allowed(Acceleration::BestEffort, false).is_ok());
        assert!(allowed(Acceleration::BestEffort, true).unwrap_err().contains("--xdp native"));
        assert!(allowed(Acceleration::Native, true).is_ok());
        assert!(allowed(Acceleration::Disabled, false).unwrap_err().contains("disabled"));
    }
}
