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

/// Settings of one link.
pub(super) fn prepare_link(interface: &str) -> Result<(), NetError> {
    set(&format!("net/ipv4/conf/{interface}/rp_filter"), "0")?;
    set(&format!("net/ipv4/conf/{interface}/forwarding"), "1")?;
    // Pods have IPv4 alone; router solicitations of an address nobody routes are noise.
    match set(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "1") {
        Err(NetError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn set(name: &str, value: &str) -> Result<(), NetError> {
    let path = Path::new("/proc/sys").join(name);
    let present = std::fs::read_to_string(&path).unwrap_or_default();
    if present.trim() == value {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(|source| NetError::Io {
        what: format!("set sysctl {} to {value}", name.replace('/', ".")),
        source,
    })
}
