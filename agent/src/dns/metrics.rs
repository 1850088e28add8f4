//! What the DNS server has answered.

use std::time::Duration;

use hickory_server::proto::op::ResponseCode;
use hickory_server::proto::rr::RecordType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// `oarlock_dns_responses_total{type,rcode}` and `oarlock_dns_request_duration_seconds`.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    responses: Family<[(&'static str, String); 2], Counter>,
    duration: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        // From 50 microseconds, which a name of the cluster takes, to seconds, which others may.
        let buckets = [0.000_05, 0.000_1, 0.000_25, 0.001, 0.005, 0.025, 0.1, 0.5, 2.0, 5.0];
        Self { responses: Family::default(), duration: Histogram::new(buckets) }
    }
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("oarlock_dns_responses", "Answers to DNS questions", self.responses.clone());
        let help = "How long DNS questions took to answer";
        registry.register("oarlock_dns_request_duration_seconds", help, self.duration.clone());
    }

    pub(super) fn answered(&self, kind: RecordType, code: ResponseCode, took: Duration) {
        // Those that clients ask for; any other number is one label, or whoever asks would make as many as there are.
        let kind = match kind {
            RecordType::A
            | RecordType::AAAA
            | RecordType::SRV
            | RecordType::PTR
            | RecordType::TXT
            | RecordType::MX
            | RecordType::NS
            | RecordType::SOA
            | RecordType::CNAME
            | RecordType::HTTPS => kind.to_string(),
            _ => "other".to_owned(),
        };
        let code = match code {
            ResponseCode::NoError => "NOERROR",
            ResponseCode::NXDomain => "NXDOMAIN",
            ResponseCode::ServFail => "SERVFAIL",
            ResponseCode::Refused => "REFUSED",
            _ => "other",
        };
        self.responses.get_or_create(&[("type", kind), ("rcode", code.to_owned())]).inc();
        self.duration.observe(took.as_secs_f64());
    }
}
