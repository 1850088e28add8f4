//! Programs on links of kernels without TCX: filters of the `clsact` queueing discipline (tc-bpf(8)), which stay while the agent is
//! away without being pinned, and go with their link.

use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{SchedClassifier, TcAttachType};

use super::load::chain;

/// Before other filters: a packet that is ours does not come to them.
const PRIORITY: u16 = 1;
/// A filter is known by its place, so that a new agent finds the last one's.
const HANDLE: TcHandle = TcHandle::new(0, 0x0a7);

/// Attaches a program in place of the one that is there, which the kernel replaces at once, or as the first one.
pub(super) fn attach(
    program: &mut SchedClassifier,
    kind: TcAttachType,
    interface: &str,
) -> Result<(), String> {
    let present = SchedClassifierLink::attached(interface, kind, PRIORITY, HANDLE, None);
    let present = present.map_err(|e| e.to_string())?;
    let id = match program.attach_to_link(present) {
        Ok(id) => id,
        Err(_) => {
            // That it is there already is as good; whatever else is wrong the filter will say.
            let _ = tc::qdisc_add_clsact(interface);
            let options = NlOptions { priority: PRIORITY, handle: HANDLE, ..NlOptions::default() };
            let options = TcAttachOptions::Netlink(options);
            program.attach_with_options(interface, kind, options).map_err(|e| chain(&e))?
        }
    };
    // Dropped, it would take the filter away.
    std::mem::forget(program.take_link(id).map_err(|e| chain(&e))?);
    Ok(())
}

/// Takes a program away; that there is none is as good.
pub(super) fn detach(name: &str, kind: TcAttachType, interface: &str) {
    let _ = tc::qdisc_detach_program(interface, kind, name);
}
