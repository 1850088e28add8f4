//! Every map once: its name and how much it holds. The programs declare the same; a test of the agent opens the built
//! object and compares.

/// Frontends: [`crate::layout::FrontendKey`] to an index of [`SERVICE_TABLE`]. Hash.
pub const FRONTENDS: &str = "FRONTENDS";
/// The same of IPv6: [`crate::layout::FrontendKey6`] to an index of the same table. Hash.
pub const FRONTENDS6: &str = "FRONTENDS6";
/// [`crate::layout::ServiceLine`] by index. Array.
pub const SERVICE_TABLE: &str = "SERVICE_TABLE";
/// Indexes of [`BACKENDS`], in blocks that service lines point to. Array.
pub const SLOTS: &str = "SLOTS";
/// [`crate::layout::Backend`] by index. Array.
pub const BACKENDS: &str = "BACKENDS";
/// Where each service's round robin stands, by index of [`SERVICE_TABLE`], in [`Turns`]. Per-CPU array.
pub const ROUND_ROBIN: &str = "ROUND_ROBIN";
/// [`crate::layout::SocketKey`] to [`crate::layout::Believed`]. LRU hash.
pub const SOCKETS: &str = "SOCKETS";
/// [`crate::layout::SocketKey6`] to [`crate::layout::Believed6`]. LRU hash.
pub const SOCKETS6: &str = "SOCKETS6";
/// Events by [`crate::reason::Reason`]. Per-CPU array of u64.
pub const COUNTERS: &str = "COUNTERS";

/// [`crate::count::ServiceCounts`] by the number under which a Service's port is counted. Per-CPU array.
pub const SERVICE_COUNTS: &str = "SERVICE_COUNTS";
/// [`crate::count::BackendCounts`] by index of [`BACKENDS`]; of one element where backends are not counted. Per-CPU array.
pub const BACKEND_COUNTS: &str = "BACKEND_COUNTS";

/// Until when somebody looks at [`EVENTS`], in seconds since boot, at index 0; 0: nobody does. Array of u32.
pub const WATCH: &str = "WATCH";
/// [`crate::event::Event`]s. Ring buffer.
pub const EVENTS: &str = "EVENTS";

/// [`crate::affinity::AffinityKey`] to [`crate::affinity::Affinity`]. LRU hash.
pub const AFFINITY: &str = "AFFINITY";
/// [`crate::affinity::Member`] to 1. Hash.
pub const MEMBERS: &str = "MEMBERS";
/// [`crate::affinity::SourceRange`] to 1. Longest prefix match.
pub const SOURCE_RANGES: &str = "SOURCE_RANGES";

/// Pods that are served packet by packet, by the keys of [`crate::opted_out`], to 1. Hash.
pub const OPTED_OUT: &str = "OPTED_OUT";
/// [`crate::flow::Settings`] at index 0. Array.
pub const SETTINGS: &str = "SETTINGS";
/// IPv4 address to [`crate::flow::Owner`]. Hash.
pub const ADDRESSES: &str = "ADDRESSES";
/// Ranges of pods whose nodes answer clients outside themselves ([`crate::direct`]), to these nodes' addresses. Longest prefix match.
pub const DIRECT: &str = "DIRECT";
/// The table of flows: [`crate::table::Bucket`]s. Array that may be mapped.
pub const FLOWS: &str = "FLOWS";
/// What the places of flows are told by, at index 0: random, and the same for as long as there is a [`FLOWS`]. Array of u64.
pub const FLOW_SEED: &str = "FLOW_SEED";
/// [`crate::fragment::Datagram`] to the four bytes of its ports. LRU hash.
pub const FRAGMENTS: &str = "FRAGMENTS";

/// [`crate::flow6::Settings6`] at index 0. Array.
pub const SETTINGS6: &str = "SETTINGS6";
/// IPv6 address to [`crate::flow::Owner`]. Hash.
pub const ADDRESSES6: &str = "ADDRESSES6";
/// [`crate::flow6::Flow6`] to [`crate::flow6::Translation6`], TCP. LRU hash.
pub const FLOWS6_TCP: &str = "FLOWS6_TCP";
/// The same for other protocols. LRU hash.
pub const FLOWS6_OTHER: &str = "FLOWS6_OTHER";
/// [`crate::fragment::Datagram6`] to the four bytes of its ports. LRU hash.
pub const FRAGMENTS6: &str = "FRAGMENTS6";
/// The programs of tc that packets of IPv6 are handed on to, by [`crate::flow6::UPLINK_IN`] and its like. Program array.
pub const PROGRAMS6: &str = "PROGRAMS6";
/// The program of XDP that frames of IPv6 are handed on to, at index 0. Program array.
pub const EXPRESS6: &str = "EXPRESS6";

/// The number of a pod's link, on the node's side, to [`crate::policy::Isolation`]. Hash.
pub const ISOLATED: &str = "ISOLATED";
/// IPv4 prefix to the identity of the addresses in it. Longest prefix match.
pub const IDENTITIES: &str = "IDENTITIES";
/// The same of IPv6.
pub const IDENTITIES6: &str = "IDENTITIES6";
/// [`crate::policy::Rule`] to 1. Longest prefix match.
pub const RULES: &str = "RULES";
/// A connection ([`crate::policy::judged`]) to [`crate::policy::Allowed`]. LRU hash.
pub const ALLOWED: &str = "ALLOWED";
/// The same of IPv6 ([`crate::policy::judged6`]).
pub const ALLOWED6: &str = "ALLOWED6";
/// The revision of all policies at index 0, where 0 means that there are none on this node; the highest that there ever was at
/// index 1. Array.
pub const POLICIES: &str = "POLICIES";

/// Frontends, and lines of the service table: 10,000 Services with six, or 50,000 with one.
pub const MAX_SERVICES: u32 = 65_536;
/// How many Services' turns are one element of [`ROUND_ROBIN`]: the kernel allocates each for itself on every CPU, which took longer than
/// any other map when each Service's was one.
pub const TURNS: u32 = 256;
/// The turns of so many Services on one CPU.
pub type Turns = [u32; TURNS as usize];
const _: () = assert!(MAX_SERVICES.is_multiple_of(TURNS));
/// Slots of all services together: twice what 10,000 Services with ten endpoints need, for copies on write.
pub const MAX_SLOTS: u32 = 1_048_576;
/// Backends of all services together.
pub const MAX_BACKENDS: u32 = 131_072;
/// Sockets whose believed peer is remembered.
pub const MAX_SOCKETS: u32 = 65_536;
/// Clients whose last backend is remembered.
pub const MAX_AFFINITY: u32 = 65_536;
/// Backends of Services with affinity, once for each Service.
pub const MAX_MEMBERS: u32 = 65_536;
/// Source ranges of all Services together.
pub const MAX_SOURCE_RANGES: u32 = 16_384;
/// Pods of this node and nodes of the cluster.
pub const MAX_ADDRESSES: u32 = 65_536;
/// Nodes that answer clients outside themselves.
pub const MAX_DIRECT: u32 = 16_384;
/// Pods of this node that are served packet by packet, each twice.
pub const MAX_OPTED_OUT: u32 = 8192;
/// Buckets of the table of flows: a power of two.
pub const FLOW_BUCKETS: u32 = 1 << 16;
/// Lines of the table of flows; a connection is two.
pub const MAX_FLOWS: u32 = FLOW_BUCKETS * crate::table::LINES as u32;
/// Entries of each table of flows of IPv6.
pub const MAX_FLOWS6: u32 = 65_536;
/// Datagrams in fragments whose ports are remembered.
pub const MAX_FRAGMENTS: u32 = 8192;
/// Bytes of the ring buffer of events: four thousand of them, a power of two of pages.
pub const EVENT_BYTES: u32 = 1 << 18;
/// Pods of this node that NetworkPolicies select.
pub const MAX_ISOLATED: u32 = 4096;
/// Addresses and ranges of a family that NetworkPolicies of this node name.
pub const MAX_IDENTITIES: u32 = 262_144;
/// What NetworkPolicies of this node allow: a line for each policy, identity and port.
pub const MAX_RULES: u32 = 262_144;
/// Connections over a family of pods that NetworkPolicies select.
pub const MAX_ALLOWED: u32 = 131_072;
