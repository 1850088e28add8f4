//! Who is served packet by packet instead of at the socket: pods whose meshes want to see the Service's address. Pure.
//!
//! A pod is known twice: by its network namespace to the socket hooks, which then leave its connections alone, and by its link to
//! the programs there, which then translate its packets.

/// The key of a network namespace, by its cookie (SO_NETNS_COOKIE).
#[must_use]
pub const fn of_namespace(cookie: u64) -> u64 {
    cookie & !LINK
}

/// The key of the node's end of a pod's link.
#[must_use]
pub const fn of_link(link: u32) -> u64 {
    LINK | link as u64
}

/// The link's number, if it is a link's key.
#[must_use]
pub const fn link(key: u64) -> Option<u32> {
    if key & LINK == 0 { None } else { Some(key as u32) }
}

/// Cookies are counted up from nothing and never get here.
const LINK: u64 = 1 << 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_never_taken_for_a_link_of_the_same_number() {
        assert_ne!(of_namespace(7), of_link(7));
        assert_eq!((link(of_link(7)), link(of_namespace(7))), (Some(7), None));
        assert_eq!(link(of_link(u32::MAX)), Some(u32::MAX));
    }
}
