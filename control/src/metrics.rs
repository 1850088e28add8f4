//! What the control plane counts, under the names that Kubernetes' own dashboards ask for: requests of the API
//! (`apiserver_*`), queues of the controllers (`workqueue_*`). Labels take values of the catalogue and of this program only, so
//! that no client can make their number grow.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Answered = (Labels<5>, [(&'static str, u64); 1]);
type Histograms<const N: usize> = Family<Labels<N>, Histogram, fn() -> Histogram>;

/// What was asked for, as far as labels say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLabels {
    /// LIST, WATCH, GET, POST, PUT, PATCH, DELETE; `other`.
    pub verb: &'static str,
    /// API group of a kind that is served; empty for the core group and for what is no object.
    pub group: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Its plural name; empty for what is no object.
    pub resource: &'static str,
    /// What is asked for below the object.
    pub subresource: &'static str,
}

impl RequestLabels {
    fn labels(self) -> Labels<5> {
        [
            ("verb", self.verb),
            ("group", self.group),
            ("version", self.version),
            ("resource", self.resource),
            ("subresource", self.subresource),
        ]
    }
}

/// Requests of the API.
#[derive(Debug, Clone)]
pub struct Requests {
    total: Family<Answered, Counter>,
    seconds: Histograms<5>,
}

impl Default for Requests {
    fn default() -> Self {
        // Upstream's range of buckets, every second one.
        let buckets: fn() -> Histogram =
            || Histogram::new([0.005, 0.05, 0.2, 0.6, 1.0, 2.0, 4.0, 6.0, 10.0, 20.0, 45.0]);
        Self { total: Family::default(), seconds: Family::new_with_constructor(buckets) }
    }
}

impl Requests {
    /// Makes them part of `/metrics`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "apiserver_request",
            "Requests by what they asked for and their answer",
            self.total.clone(),
        );
        let help = "Time to the answer in seconds, but for watches";
        registry.register("apiserver_request_duration_seconds", help, self.seconds.clone());
    }

    /// A request was answered.
    pub fn answered(&self, request: RequestLabels, code: u16, after: Duration) {
        self.total.get_or_create(&(request.labels(), [("code", u64::from(code))])).inc();
        if request.verb != "WATCH" {
            self.seconds.get_or_create(&request.labels()).observe(after.as_secs_f64());
        }
    }
}

/// The queues of the controllers, as client-go's workqueue counts them.
#[derive(Debug, Clone)]
pub struct Queues {
    depth: Family<Labels<1>, Gauge>,
    adds: Family<Labels<1>, Counter>,
    retries: Family<Labels<1>, Counter>,
    waited: Histograms<1>,
    worked: Histograms<1>,
}

impl Default for Queues {
    fn default() -> Self {
        let buckets: fn() -> Histogram =
            || Histogram::new([1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0, 10.0, 100.0]);
        Self {
            depth: Family::default(),
            adds: Family::default(),
            retries: Family::default(),
            waited: Family::new_with_constructor(buckets),
            worked: Family::new_with_constructor(buckets),
        }
    }
}

impl Queues {
    /// Makes them part of `/metrics`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("workqueue_depth", "Keys that wait", self.depth.clone());
        registry.register("workqueue_adds", "Keys that were added", self.adds.clone());
        registry.register(
            "workqueue_retries",
            "Keys that were added again after a failure",
            self.retries.clone(),
        );
        let waited = "How long a key waits, in seconds";
        registry.register("workqueue_queue_duration_seconds", waited, self.waited.clone());
        let worked = "How long the changes of a key take to be written, in seconds";
        registry.register("workqueue_work_duration_seconds", worked, self.worked.clone());
    }

    /// The queue of one controller, empty.
    #[must_use]
    pub fn of(&self, name: &'static str) -> QueueMetrics {
        let labels = [("name", name)];
        let depth = self.depth.get_or_create_owned(&labels);
        depth.set(0);
        QueueMetrics {
            depth,
            adds: self.adds.get_or_create_owned(&labels),
            retries: self.retries.get_or_create_owned(&labels),
            waited: Arc::new(self.waited.get_or_create_owned(&labels)),
            worked: Arc::new(self.worked.get_or_create_owned(&labels)),
        }
    }
}

/// What one queue counts.
#[derive(Debug, Clone)]
pub struct QueueMetrics {
    pub(crate) depth: Gauge,
    pub(crate) adds: Counter,
    pub(crate) retries: Counter,
    pub(crate) waited: Arc<Histogram>,
    pub(crate) worked: Arc<Histogram>,
}
