//! The pod network as those see it who start containers: a pod has its network only once the dataplane knows of it.
//!
//! Otherwise its first packets would pass where a NetworkPolicy forbids them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::net::{NetError, PodNetRequest, PodNetResult, PodNetwork};

/// How long the dataplane may take. The pod is tried again after that.
const BOUND: Duration = Duration::from_secs(10);

/// The uids of the pods that the dataplane knows of.
pub(crate) type Known = watch::Sender<BTreeSet<String>>;

/// A network whose pods are known to the dataplane.
pub(crate) struct Plugged<N> {
    network: Arc<N>,
    known: Arc<Known>,
}

impl<N> Plugged<N> {
    pub(crate) fn new(network: Arc<N>, known: Arc<Known>) -> Self {
        Self { network, known }
    }
}

#[async_trait]
impl<N: PodNetwork> PodNetwork for Plugged<N> {
    async fn add(&self, pod: &PodNetRequest) -> Result<PodNetResult, NetError> {
        let given = self.network.add(pod).await?;
        let mut known = self.known.subscribe();
        let wait = known.wait_for(|known| known.contains(&pod.uid));
        match tokio::time::timeout(BOUND, wait).await {
            Ok(Ok(_)) => Ok(given),
            _ => Err(NetError::NotEnforced),
        }
    }

    async fn remove(&self, uid: &str) -> Result<(), NetError> {
        self.network.remove(uid).await
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::net::Bandwidth;

    /// A network that gives every pod the same.
    struct Anything;

    #[async_trait]
    impl PodNetwork for Anything {
        async fn add(&self, _: &PodNetRequest) -> Result<PodNetResult, NetError> {
            Ok(PodNetResult {
                ip: Ipv4Addr::new(10, 244, 0, 2).into(),
                interface: "veth".to_owned(),
                ends: None,
                per_packet: None,
            })
        }

        async fn remove(&self, _: &str) -> Result<(), NetError> {
            Ok(())
        }
    }

    fn request(uid: &str) -> PodNetRequest {
        let (namespace, name) = ("d".to_owned(), "p".to_owned());
        PodNetRequest {
            uid: uid.to_owned(),
            namespace,
            name,
            pid: 1,
            bandwidth: Bandwidth::default(),
            per_packet: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_has_its_network_once_the_dataplane_knows_of_it() {
        let known = Arc::new(Known::default());
        let network = Plugged::new(Arc::new(Anything), Arc::clone(&known));
        let pod = request("a");
        let error = network.add(&pod).await.unwrap_err().to_string();
        assert!(error.contains("dataplane"), "{error}");
        let (added, ()) = tokio::join!(network.add(&pod), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            known.send_replace(BTreeSet::from(["a".to_owned()]));
        });
        assert!(added.is_ok() && network.remove("a").await.is_ok());
    }
}
