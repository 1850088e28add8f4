//! Direct answers: a packet for a pod of another node goes to that node as it came, inside a frame of the tunnel, and the frame says
//! which pod was chosen. That node does what it does for clients that knock at itself. How frames say it. Pure.
//!
//! The receiver of such a frame is the other node's end of the tunnel, as ever; its sender, which nobody else asks for, is `0a:70` with
//! the last two bytes of the pod's address and its port. The first two are those of the receiving node's own range.

/// Where nodes' ends of the tunnel listen, over UDP: what Linux took before there was a number for it; 4789 is Docker's.
pub const PORT: u16 = 8472;

/// How the hardware address of a node's end of the tunnel begins; the node's address is the rest. Administered locally, and no group's
/// (IEEE 802).
const END: [u8; 2] = [0x0a, 0x6f];
/// How the sender of a frame begins that says which pod was chosen.
const CHOSEN: [u8; 2] = [0x0a, 0x70];

/// Ranges of nodes that have no fewer leading bits than this: the two bytes that frames say tell their pods apart.
pub const LEAST_PREFIX: u8 = 16;

/// The hardware address of a node's end of the tunnel: known to all who know the node's address, so that nobody has to ask.
#[must_use]
pub const fn end([a, b, c, d]: [u8; 4]) -> [u8; 6] {
    [END[0], END[1], a, b, c, d]
}

/// An Ethernet header's beginning: to a node, for this pod of it.
#[inline(always)]
#[must_use]
pub const fn ends(node: [u8; 4], pod: [u8; 4], port: u16) -> [u8; 12] {
    let ([a, b, c, d, e, f], [p, q]) = (end(node), port.to_be_bytes());
    [a, b, c, d, e, f, CHOSEN[0], CHOSEN[1], pod[2], pod[3], p, q]
}

/// What the sender of a frame says of a pod: in memory its two bytes and its port; nothing in other frames.
#[inline(always)]
#[must_use]
pub const fn said([a, b, rest @ ..]: [u8; 6]) -> Option<u32> {
    if a == CHOSEN[0] && b == CHOSEN[1] { Some(u32::from_ne_bytes(rest)) } else { None }
}

/// The pod that was said to a node, one of whose range's addresses this is, and its port.
#[inline(always)]
#[must_use]
pub const fn pod(own: [u8; 4], said: u32) -> ([u8; 4], u16) {
    let [c, d, p, q] = said.to_ne_bytes();
    ([own[0], own[1], c, d], u16::from_be_bytes([p, q]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_node_reads_which_of_its_pods_was_chosen(node: [u8; 4], own: [u8; 4], pod: [u8; 4], port: u16, bits in LEAST_PREFIX..=32) {
            // A pod of a range that is no larger.
            let mask = u32::MAX << (32 - bits);
            let chosen = (u32::from_be_bytes(own) & mask | u32::from_be_bytes(pod) & !mask).to_be_bytes();
            let ends = ends(node, chosen, port);
            let (to, from): ([u8; 6], [u8; 6]) = (ends[..6].try_into().unwrap(), ends[6..].try_into().unwrap());
            prop_assert_eq!((to, said(to)), (end(node), None), "the receiver says nothing");
            prop_assert_eq!(said(from).map(|said| super::pod(own, said)), Some((chosen, port)));
            prop_assert_eq!((to[0] & 3, from[0] & 3), (2, 2), "administered locally, no group's");
        }

        #[test]
        fn frames_of_nodes_and_of_others_say_nothing(node: [u8; 4], mac: [u8; 6]) {
            prop_assert_eq!(said(end(node)), None);
            prop_assert_eq!(said(mac).is_some(), mac[..2] == CHOSEN);
        }
    }
}
