//! How much a pod may receive and send, as its annotations say: token buckets (tc-tbf(8)) on both ends of its link.
//!
//! What comes to a pod is held up at the node's end, what it sends at its own end, where its senders feel it instead of losing
//! packets. As with upstream's CNI plugin `bandwidth` the annotations count when the pod's network is made.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use oarlock_api::quantity::Quantity;
use rtnetlink::Handle;
use rtnetlink::packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};
use serde::{Deserialize, Serialize};

use super::NetError;
use super::links::check;

/// Kubernetes' annotation of what may come to a pod.
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
/// And of what it may send.
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

/// Bits per second: none, no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// What may come to the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<u64>,
    /// What it may send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<u64>,
}

impl Bandwidth {
    /// What a pod's annotations say.
    ///
    /// # Errors
    /// No quantity, or one that upstream would not take either (from 1k to 1P).
    pub fn of(annotations: Option<&BTreeMap<String, String>>) -> Result<Self, NetError> {
        let limit = |annotation: &'static str| {
            let value = annotations.and_then(|all| all.get(annotation));
            value.map(|value| rate(annotation, value)).transpose()
        };
        Ok(Self { ingress: limit(INGRESS)?, egress: limit(EGRESS)? })
    }
}

fn rate(annotation: &'static str, value: &str) -> Result<u64, NetError> {
    let refused = |why: String| NetError::Bandwidth { annotation, value: value.to_owned(), why };
    let quantity: Quantity = value.parse().map_err(|e| refused(format!("{e}")))?;
    match u64::try_from(quantity.value()).unwrap_or(0) {
        0..1_000 => Err(refused("resource is unreasonably small (< 1kbit)".to_owned())),
        1_000_000_000_000_001.. => Err(refused("resource is unreasonably large (> 1Pbit)".to_owned())),
        rate => Ok(rate),
    }
}

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    /// Bytes per second.
    rate: u64,
    /// How many bytes may go at once after silence.
    burst: u32,
    /// How many bytes wait; what comes beyond is lost.
    limit: u32,
}

impl Bucket {
    /// Twentieths of a second at once and waiting, but two of the longest packets at least, without which none could ever go.
    fn of(bits: u64, mtu: u32) -> Self {
        let rate = bits / 8;
        let least = mtu.saturating_add(14).saturating_mul(2);
        let twentieth = u32::try_from(rate / 20).unwrap_or(u32::MAX);
        let burst = twentieth.clamp(least, 1 << 28);
        Self { rate, burst, limit: burst.saturating_add(twentieth.clamp(8 * least, 1 << 28)) }
    }

    /// The options of the discipline (linux/pkt_sched.h): a `tc_tbf_qopt`, the rate of more than 32 bits, and the burst.
    fn options(self) -> Vec<TcOption> {
        const PARAMETERS: u16 = 1;
        const RATE64: u16 = 4;
        const BURST: u16 = 6;
        /// Without it the kernel wants a table of rates.
        const ETHERNET: u8 = 1;
        let rate = u32::try_from(self.rate).unwrap_or(u32::MAX);
        let mut parameters = vec![0, ETHERNET, 0, 0, 0, 0, 0, 0];
        parameters.extend(rate.to_ne_bytes());
        // No peak rate.
        parameters.extend([0; 12]);
        parameters.extend(self.limit.to_ne_bytes());
        // Buffer and MTU, which the burst replaces.
        parameters.extend([0; 8]);
        let option = |kind, bytes: Vec<u8>| TcOption::Other(DefaultNla::new(kind, bytes));
        vec![
            option(PARAMETERS, parameters),
            option(RATE64, self.rate.to_ne_bytes().to_vec()),
            option(BURST, self.burst.to_ne_bytes().to_vec()),
        ]
    }
}

/// Has a link send no more than this. One that does already is changed in place.
pub(super) async fn limit(
    handle: &Handle,
    link: (u32, &str),
    bits: Option<u64>,
    mtu: u32,
) -> Result<(), NetError> {
    let Some(bits) = bits else { return Ok(()) };
    let (index, name) = link;
    let mut message = TcMessage::with_index(i32::try_from(index).unwrap_or_default());
    message.header.parent = TcHandle::ROOT;
    message.attributes =
        vec![TcAttribute::Kind("tbf".to_owned()), TcAttribute::Options(Bucket::of(bits, mtu).options())];
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    let outcome = async {
        let mut answers = handle.clone().request(request)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(rtnetlink::Error::NetlinkError(error));
            }
        }
        Ok(())
    };
    check(format!("limit {name} to {bits} bits a second (CONFIG_NET_SCH_TBF)"), outcome.await)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ingress: &str, egress: &str) -> Result<Bandwidth, String> {
        let annotations =
            [(INGRESS, ingress), (EGRESS, egress)].into_iter().filter(|(_, value)| !value.is_empty());
        let annotations = annotations.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Bandwidth::of(Some(&annotations)).map_err(|e| e.to_string())
    }

    #[test]
    fn annotations_are_quantities_from_a_thousand_to_a_million_billion_bits() {
        assert_eq!(Bandwidth::of(None).unwrap(), Bandwidth::default());
        assert_eq!(of("10M", ""), Ok(Bandwidth { ingress: Some(10_000_000), egress: None }));
        assert_eq!(
            of("1k", "1P"),
            Ok(Bandwidth { ingress: Some(1000), egress: Some(1_000_000_000_000_000) })
        );
        assert_eq!(of("", "1Gi"), Ok(Bandwidth { ingress: None, egress: Some(1 << 30) }));
        for (value, why) in [
            ("999", "unreasonably small (< 1kbit)"),
            ("-5M", "unreasonably small (< 1kbit)"),
            ("2P", "unreasonably large (> 1Pbit)"),
            ("much", "kubernetes.io/egress-bandwidth"),
        ] {
            let error = of("", value).unwrap_err();
            assert!(error.contains(why) && error.contains(value), "{error}");
        }
    }

    #[test]
    fn buckets_hold_what_can_go_at_all_and_never_much_more_than_the_rate() {
        let slow = Bucket::of(1000, 1500);
        assert_eq!((slow.rate, slow.burst), (125, 3028));
        assert!(slow.limit > slow.burst);
        let fast = Bucket::of(1_000_000_000, 1500);
        assert_eq!((fast.burst, fast.limit), (6_250_000, 12_500_000));
        let fastest = Bucket::of(1_000_000_000_000_000, 9000);
        assert_eq!((fastest.rate, fastest.burst), (125_000_000_000_000, 1 << 28));
    }
}
