//! What the programs count: a number in the kernel, a name in metrics.

/// Something that happened to a connection or a datagram.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A connection or datagram to a Service was given a backend.
    Translated = 0,
    /// A Service without endpoints: the client was refused.
    NoEndpoints = 1,
    /// A slot or line that does not exist: the tables are damaged; the client was let through untranslated.
    BadTable = 2,
    /// A received datagram or a peer's name was given the Service's address back.
    Reversed = 3,
    /// A flow out of the cluster was given the node's address.
    Masqueraded = 4,
    /// No port was free for a new translated flow; it was not translated.
    NoPort = 5,
    /// A packet could not be rewritten, or had no hop left; it was dropped.
    BadPacket = 6,
    /// A translated packet left by XDP the way it had come, without the stack.
    Express = 7,
    /// A client that is in none of its Service's source ranges; its packet was dropped.
    Denied = 8,
    /// An ICMP error about a translated packet was given to who had sent that.
    Reported = 9,
    /// A packet that no NetworkPolicy allows; it was dropped.
    PolicyDenied = 10,
    /// The table of flows had no room for a new one but in the place of one that was not open.
    FlowEvicted = 11,
    /// The table of flows had no room for a new one: all that it might take the place of are open.
    FlowTableFull = 12,
    /// A connection or datagram that another node has handed over, for a pod of this one that it has chosen; the pod's answers leave from here.
    Direct = 13,
    /// A packet that another node has handed over for a pod that is not here, or that is none of TCP or UDP; it was dropped.
    DirectUnknown = 14,
    /// A pod's packet to where a node takes frames of the tunnel between nodes, which only nodes may send; it was dropped.
    TunnelForged = 15,
}

impl Reason {
    /// All of them, by number.
    pub const ALL: [Self; 16] = [
        Self::Translated,
        Self::NoEndpoints,
        Self::BadTable,
        Self::Reversed,
        Self::Masqueraded,
        Self::NoPort,
        Self::BadPacket,
        Self::Express,
        Self::Denied,
        Self::Reported,
        Self::PolicyDenied,
        Self::FlowEvicted,
        Self::FlowTableFull,
        Self::Direct,
        Self::DirectUnknown,
        Self::TunnelForged,
    ];

    /// How many there are: the size of the counters' map.
    pub const COUNT: u32 = 16;

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Translated => "translated",
            Self::NoEndpoints => "no_endpoints",
            Self::BadTable => "bad_table",
            Self::Reversed => "reversed",
            Self::Masqueraded => "masqueraded",
            Self::NoPort => "no_port",
            Self::BadPacket => "bad_packet",
            Self::Express => "express",
            Self::Denied => "denied",
            Self::Reported => "reported",
            Self::PolicyDenied => "policy_denied",
            Self::FlowEvicted => "flow_evicted",
            Self::FlowTableFull => "flow_table_full",
            Self::Direct => "direct",
            Self::DirectUnknown => "direct_unknown",
            Self::TunnelForged => "tunnel_forged",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places_in_the_list() {
        assert_eq!(Reason::ALL.len(), Reason::COUNT as usize);
        for (number, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
        }
    }
}
