//! Kernel settings of the node's own network namespace, under /proc/sys/net.

use std::path::Path;

use super::NetError;

/// Settings without which pods cannot be reached: forwarding on, reverse-path filtering off (a reply may leave by another
/// link than the kernel's guess; the dataplane has its own source checks).
pub(super) fn prepare_node() -> Result<(), NetError> {
    set("net/ipv4/ip_forward", "1")?;
    set("net/ipv4/conf/all/rp_filter", "0")?;
    set("net/ipv4/conf/default/rp_filter", "0")
}

/// The same for IPv6, on a node that has a range of it. A node that learns its routes by advertisements goes on to do so: the
/// kernel takes none on links that forward, unless told (Documentation/networking/ip-sysctl.rst, accept_ra).
pub(super) fn prepare_node_for_ipv6(uplinks: &[String]) -> Result<(), NetError> {
    for uplink in uplinks {
        let advertised = format!("net/ipv6/conf/{uplink}/accept_ra");
        if get(&advertised).trim() == "1" {
            set(&advertised, "2")?;
        }
    }
    set("net/ipv6/conf/all/forwarding", "1")
}

/// Settings of one link, whose pod has an address of IPv6 or none.
pub(super) fn prepare_link(interface: &str, has_ipv6: bool) -> Result<(), NetError> {
    set(&format!("net/ipv4/conf/{interface}/rp_filter"), "0")?;
    set(&format!("net/ipv4/conf/{interface}/forwarding"), "1")?;
    if has_ipv6 {
        return prepare_end(interface);
    }
    // Router solicitations of an address nobody routes are noise.
    match set(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "1") {
        Err(NetError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Has the stack take packets from a link that have the node's own address: a pod's to itself, by a Service, where it is reached
/// by the node's routes.
pub(super) fn accept_own(interface: &str) -> Result<(), NetError> {
    set(&format!("net/ipv4/conf/{interface}/accept_local"), "1")
}

/// Settings of either end of a link whose pod has an address of IPv6: nobody else is there, so nobody else's address is looked for
/// and nobody's advertisements count.
pub(super) fn prepare_end(interface: &str) -> Result<(), NetError> {
    for (name, value) in [("accept_ra", "0"), ("accept_dad", "0"), ("disable_ipv6", "0")] {
        set(&format!("net/ipv6/conf/{interface}/{name}"), value)?;
    }
    Ok(())
}

fn get(name: &str) -> String {
    std::fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap_or_default()
}

fn set(name: &str, value: &str) -> Result<(), NetError> {
    let path = Path::new("/proc/sys").join(name);
    if get(name).trim() == value {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(|source| NetError::Io {
        what: format!("set sysctl {} to {value}", name.replace('/', ".")),
        source,
    })
}
