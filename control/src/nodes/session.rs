//! One session a node: a snapshot of what the node needs, then every change of it; reports come the other way.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use jiff::Timestamp;
use oarlock_api::catalogue::{
    ENDPOINT_SLICES, Kind, NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, SERVICES,
};
use oarlock_api::node::agent_message::Message as Upward;
use oarlock_api::node::control_message::Message;
use oarlock_api::node::node_server::Node;
use oarlock_api::node::{
    AgentMessage, ControlMessage, JoinResponse, ObjectDelete, ObjectUpdate, RenewRequest, SnapshotEnd,
    StreamFrame, Welcome,
};
use oarlock_api::storage::local_node;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::peers::Peers;
use super::policies::Policies;
use super::references::{self, Named, Reference};
use super::router::{News, Other, Others};
use super::tokens::PodTokens;
use super::{Nodes, caller};
use crate::cache::{Change, Object};

/// Messages on their way to one node.
const IN_FLIGHT: usize = 128;
/// How long a new pod waits for what policies say of it.
const PEERS_BOUND: Duration = Duration::from_secs(5);

/// The service that nodes call.
pub(super) struct Service(pub(super) Arc<Nodes>);

type Downward<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Node for Service {
    type SessionStream = Downward<ControlMessage>;
    type StreamsStream = Downward<StreamFrame>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let node = caller(&request)?;
        let mut upward = request.into_inner();
        let first = upward.message().await?.and_then(|m| m.message);
        let Some(Upward::Hello(hello)) = first else {
            return Err(Status::invalid_argument("a session begins with Hello"));
        };
        if hello.node_name != node {
            return Err(Status::permission_denied(format!(
                "the certificate is for {node}, not {}",
                hello.node_name
            )));
        }
        self.0.register(&node, &hello.node).await.map_err(|e| Status::unavailable(e.to_string()))?;
        // Who says hello lives: else what it says next would be written over, as of a node that is not heard of.
        if let Err(status) = self.0.heartbeat(&node).await {
            tracing::debug!(%node, %status, "the Lease was not renewed; the first heartbeat does it");
        }
        tracing::info!(%node, version = %hello.version, "a node's session opened");
        let (sender, receiver) = mpsc::channel(IN_FLIGHT);
        let nodes = Arc::clone(&self.0);
        let token = nodes.tasks.token();
        nodes.tasks.clone().job("node/session", async move {
            let ended = tokio::select! {
                ended = nodes.send(&node, &sender, hello.knows_others) => ended,
                ended = nodes.receive(&node, upward) => ended,
                () = sender.closed() => Ok(()),
                () = token.cancelled() => Ok(()),
            };
            nodes.usage.forget(&node);
            nodes.router.tidy(&node);
            let why = ended.as_ref().err().map_or("it left", Status::message);
            tracing::info!(%node, why, "a node's session ended");
            if let Err(status) = ended {
                // The node may be gone already.
                let _ = sender.send(Box::new(Err(status))).await;
            }
        });
        let messages = futures_util::StreamExt::map(ReceiverStream::new(receiver), |message| *message);
        Ok(Response::new(Box::pin(messages)))
    }

    async fn streams(
        &self,
        request: Request<Streaming<StreamFrame>>,
    ) -> Result<Response<Self::StreamsStream>, Status> {
        let node = caller(&request)?;
        let receiver = self.0.streams.connect(&self.0.tasks, node, request.into_inner());
        let frames = futures_util::StreamExt::map(ReceiverStream::new(receiver), Ok);
        Ok(Response::new(Box::pin(frames)))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<JoinResponse>, Status> {
        let node = caller(&request)?;
        tracing::info!(%node, "a node renewed its certificate");
        Ok(Response::new(self.0.sign(&node, &request.into_inner().csr_pem)?))
    }
}

/// Boxed: a channel keeps room for 32 messages and more, of which an idle session has none.
type Sender = mpsc::Sender<Box<Result<ControlMessage, Status>>>;

impl Nodes {
    async fn receive(&self, node: &str, mut upward: Streaming<AgentMessage>) -> Result<(), Status> {
        let opened = Timestamp::now();
        while let Some(message) = upward.message().await? {
            let Some(message) = message.message else { continue };
            let beats = matches!(message, Upward::Heartbeat(_));
            // Boxed, as what follows in `send`: what is rarely done has no room in each session.
            Box::pin(self.report(node, message)).await;
            if beats && self.was_lost_since(node, opened) {
                // What it had said was written over, and within a session it says only what is new.
                return Err(Status::aborted("the node counted as lost: it has to say everything again"));
            }
        }
        Ok(())
    }

    fn was_lost_since(&self, node: &str, opened: Timestamp) -> bool {
        let object = self.registry.cache().get(&NODES, "", node);
        let since = object.and_then(|object| super::is_lost(&object.value()));
        since.is_some_and(|since| since.as_second() >= opened.as_second())
    }

    async fn send(&self, node: &str, sender: &Sender, knows_others: bool) -> Result<(), Status> {
        let cache = self.registry.cache();
        self.registry.catch_up().await.map_err(|e| Status::unavailable(e.to_string()))?;
        let mut view = View {
            node: node.to_owned(),
            knows_others,
            version: 0,
            sender: sender.clone(),
            pods: BTreeMap::new(),
            volumes: BTreeMap::new(),
            policies: Policies::default(),
            peers: Arc::clone(&self.peers),
            tokens: PodTokens::new(Arc::clone(&self.tokens), Arc::clone(cache)),
        };
        let mut peers = self.peers.subscribe();
        let revision = cache.revision();
        if !self.router.wait_for(revision, PEERS_BOUND).await {
            return Err(Status::unavailable("the nodes' inboxes are behind"));
        }
        let (mut inbox, others) = self.router.subscribe(node);
        view.say(Message::Welcome(Welcome { revision: revision.0, ..self.cluster.clone() })).await?;
        Box::pin(view.snapshot(cache, others)).await?;
        loop {
            let news = tokio::select! {
                news = inbox.recv() => news.ok_or_else(|| Status::unavailable("the session is too far behind"))?,
                _ = peers.changed() => {
                    Box::pin(view.tell_policies()).await?;
                    continue;
                }
                () = tokio::time::sleep(view.tokens.wait()) => {
                    let messages = view.tokens.issue_due();
                    view.say_all(messages).await?;
                    continue;
                }
            };
            match news {
                News::Nodes(others) => view.others(&others).await?,
                // The lists have it. What changes while they are read comes again: updates carry whole objects.
                News::Change(change) if change.revision() <= revision => {}
                News::Change(change) => match &*change {
                    Change::Put { new, .. } => Box::pin(view.put(cache, new)).await?,
                    Change::Delete { old, revision } => {
                        Box::pin(view.delete(cache, old, revision.0)).await?;
                    }
                },
            }
        }
    }
}

/// What one node has been told.
struct View {
    node: String,
    knows_others: bool,
    version: u64,
    sender: Sender,
    /// The node's pods and the ConfigMaps, Secrets and claims that each uses.
    pods: BTreeMap<(String, String), BTreeSet<Reference>>,
    /// The volumes that it knows: those of its pods' claims, with what they name, and the directories that were provisioned there.
    volumes: BTreeMap<String, BTreeSet<Reference>>,
    policies: Policies,
    peers: Arc<Peers>,
    tokens: PodTokens,
}

impl View {
    /// Everything that the node needs as of now.
    async fn snapshot(
        &mut self,
        cache: &Arc<crate::cache::Cache>,
        others: Vec<Arc<Others>>,
    ) -> Result<(), Status> {
        if let Some(own) = cache.get(&NODES, "", &self.node) {
            self.update(&own).await?;
        }
        for others in others {
            self.others(&others).await?;
        }
        for kind in [&SERVICES, &ENDPOINT_SLICES, &PERSISTENT_VOLUMES] {
            for object in cache.list(kind, None).0 {
                self.put(cache, &object).await?;
            }
        }
        for pod in cache.pods_on(&self.node) {
            self.put(cache, &pod).await?;
        }
        self.say(Message::SnapshotEnd(SnapshotEnd {})).await
    }

    async fn others(&mut self, others: &Others) -> Result<(), Status> {
        if self.knows_others {
            return self.say(Message::Others(others.packed.clone())).await;
        }
        for other in &others.nodes {
            if *other.name != *self.node {
                self.other(other.clone()).await?;
            }
        }
        Ok(())
    }

    async fn other(&mut self, node: Other) -> Result<(), Status> {
        let (resource, name, revision) = (NODES.plural.to_owned(), node.name.to_string(), node.revision.0);
        let namespace = String::new();
        self.say(match node.object {
            Some(object) => Message::Update(ObjectUpdate { resource, namespace, name, revision, object }),
            None => Message::Delete(ObjectDelete { resource, namespace, name, revision }),
        })
        .await
    }

    async fn say(&mut self, message: Message) -> Result<(), Status> {
        self.version += 1;
        let message = ControlMessage { message: Some(message), version: self.version };
        self.sender.send(Box::new(Ok(message))).await.map_err(|_| Status::cancelled("the node has gone"))
    }

    async fn say_all(&mut self, messages: Vec<Message>) -> Result<(), Status> {
        for message in messages {
            self.say(message).await?;
        }
        Ok(())
    }

    async fn update(&mut self, object: &Object) -> Result<(), Status> {
        let update = ObjectUpdate {
            resource: object.key.kind.plural.to_owned(),
            namespace: object.key.namespace.clone(),
            name: object.key.name.clone(),
            revision: object.revision.0,
            object: object.encoded(),
        };
        self.say(Message::Update(update)).await
    }

    async fn forget(
        &mut self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        revision: u64,
    ) -> Result<(), Status> {
        let delete = ObjectDelete {
            resource: kind.plural.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            revision,
        };
        self.say(Message::Delete(delete)).await
    }

    async fn put(&mut self, cache: &Arc<crate::cache::Cache>, object: &Arc<Object>) -> Result<(), Status> {
        let kind = object.key.kind;
        if *kind == PODS {
            if object.node_name.as_deref() == Some(self.node.as_str()) {
                let place = (object.key.namespace.clone(), object.key.name.clone());
                let wanted = references::of(&object.key.namespace, &object.value());
                let before = self.references();
                for reference in wanted.difference(&before) {
                    self.send_reference(cache, reference).await?;
                }
                let tokens = self.tokens.put(object);
                self.say_all(tokens).await?;
                if self.pods.insert(place, wanted).is_none() {
                    // Whoever made the policy first means the pod to be isolated from its first packet on.
                    if !self.peers.wait_for(object.revision, PEERS_BOUND).await {
                        return Err(Status::unavailable("the peers of NetworkPolicies are not known"));
                    }
                    self.tell_policies().await?;
                }
                self.update(object).await?;
                self.drop_unused(cache, before, object.revision.0).await?;
            }
            return Ok(());
        }
        if *kind == PERSISTENT_VOLUMES {
            return self.put_volume(cache, object).await;
        }
        if *kind == PERSISTENT_VOLUME_CLAIMS {
            return if self.uses(object) { self.put_claim(cache, object).await } else { Ok(()) };
        }
        let needed = *kind == NODES || *kind == SERVICES || *kind == ENDPOINT_SLICES || self.uses(object);
        if needed { self.update(object).await } else { Ok(()) }
    }

    async fn delete(
        &mut self,
        cache: &Arc<crate::cache::Cache>,
        object: &Object,
        revision: u64,
    ) -> Result<(), Status> {
        let (kind, key) = (object.key.kind, &object.key);
        if *kind == PODS {
            let place = (key.namespace.clone(), key.name.clone());
            // A pod of the same name may be back on this node already.
            let back = cache.get(kind, &key.namespace, &key.name).is_some_and(|now| now.uid != object.uid);
            if self.pods.contains_key(&place) {
                let tokens = self.tokens.delete(&object.uid, revision);
                self.say_all(tokens).await?;
            }
            if self.pods.contains_key(&place) && !back {
                let before = self.references();
                self.pods.remove(&place);
                self.forget(kind, &key.namespace, &key.name, revision).await?;
                self.drop_unused(cache, before, revision).await?;
                self.tell_policies().await?;
            }
            return Ok(());
        }
        if *kind == PERSISTENT_VOLUMES {
            let before = self.references();
            if self.volumes.remove(&key.name).is_some() {
                self.forget(kind, "", &key.name, revision).await?;
                self.drop_unused(cache, before, revision).await?;
            }
            return Ok(());
        }
        let told = *kind == NODES || *kind == SERVICES || *kind == ENDPOINT_SLICES || self.uses(object);
        if told { self.forget(kind, &key.namespace, &key.name, revision).await } else { Ok(()) }
    }

    /// The policies of the node's namespaces and the pods that they name, as far as the node does not know them.
    async fn tell_policies(&mut self) -> Result<(), Status> {
        let picture = Arc::clone(&self.peers.subscribe().borrow());
        let namespaces = self.pods.keys().map(|(namespace, _)| namespace.as_str()).collect();
        let messages = self.policies.follow(picture, &namespaces);
        self.say_all(messages).await
    }

    fn references(&self) -> BTreeSet<Reference> {
        self.pods.values().chain(self.volumes.values()).flatten().cloned().collect()
    }

    fn uses(&self, object: &Object) -> bool {
        let Some(named) = Named::of(object.key.kind) else { return false };
        let reference = (named, object.key.namespace.clone(), object.key.name.clone());
        let mut all = self.pods.values().chain(self.volumes.values());
        all.any(|references| references.contains(&reference))
    }

    async fn send_reference(
        &mut self,
        cache: &Arc<crate::cache::Cache>,
        reference: &Reference,
    ) -> Result<(), Status> {
        let (named, namespace, name) = reference;
        match cache.get(named.kind(), namespace, name) {
            Some(claim) if *named == Named::Claim => self.put_claim(cache, &claim).await,
            Some(endpoints) if *named == Named::Endpoints && references::is_kept(&endpoints) => Ok(()),
            Some(object) => self.update(&object).await,
            None => Ok(()),
        }
    }

    /// A claim comes after its volume, and that after what it names.
    async fn put_claim(&mut self, cache: &Arc<crate::cache::Cache>, claim: &Object) -> Result<(), Status> {
        let value = claim.value();
        let name = value["spec"]["volumeName"].as_str().unwrap_or("");
        if let Some(volume) = cache.get(&PERSISTENT_VOLUMES, "", name)
            && !self.volumes.contains_key(name)
        {
            self.send_named(cache, &volume).await?;
            self.update(&volume).await?;
        }
        self.update(claim).await
    }

    async fn put_volume(&mut self, cache: &Arc<crate::cache::Cache>, volume: &Object) -> Result<(), Status> {
        let name = &volume.key.name;
        if local_node(&volume.value()) == Some(self.node.as_str()) {
            self.volumes.entry(name.clone()).or_default();
        }
        if !self.volumes.contains_key(name) {
            return Ok(());
        }
        self.send_named(cache, volume).await?;
        self.update(volume).await
    }

    /// Tells what a volume names and the node does not know yet.
    async fn send_named(&mut self, cache: &Arc<crate::cache::Cache>, volume: &Object) -> Result<(), Status> {
        let named = references::of_volume(&volume.value());
        let known = self.references();
        self.volumes.insert(volume.key.name.clone(), named.clone());
        for (named, namespace, name) in named.difference(&known) {
            // None of them is a claim.
            if let Some(object) = cache.get(named.kind(), namespace, name)
                && !(*named == Named::Endpoints && references::is_kept(&object))
            {
                self.update(&object).await?;
            }
        }
        Ok(())
    }

    /// What no pod of the node uses any more must not stay on it.
    async fn drop_unused(
        &mut self,
        cache: &Arc<crate::cache::Cache>,
        before: BTreeSet<Reference>,
        revision: u64,
    ) -> Result<(), Status> {
        let now = self.references();
        if before.difference(&now).any(|(named, _, _)| *named == Named::Claim) {
            self.drop_unused_volumes(cache, &now, revision).await?;
        }
        // Volumes that are gone name nothing any more.
        let now = self.references();
        for (named, namespace, name) in before.difference(&now) {
            self.forget(named.kind(), namespace, name, revision).await?;
        }
        Ok(())
    }

    async fn drop_unused_volumes(
        &mut self,
        cache: &Arc<crate::cache::Cache>,
        now: &BTreeSet<Reference>,
        revision: u64,
    ) -> Result<(), Status> {
        let claims = now.iter().filter(|(named, _, _)| *named == Named::Claim);
        let claims =
            claims.filter_map(|(_, namespace, name)| cache.get(&PERSISTENT_VOLUME_CLAIMS, namespace, name));
        let used: BTreeSet<String> = claims
            .filter_map(|claim| claim.value()["spec"]["volumeName"].as_str().map(str::to_owned))
            .collect();
        let stays = |name: &String| {
            let volume = cache.get(&PERSISTENT_VOLUMES, "", name);
            used.contains(name) || volume.is_some_and(|v| local_node(&v.value()) == Some(self.node.as_str()))
        };
        let unused: Vec<String> = self.volumes.keys().filter(|name| !stays(name)).cloned().collect();
        for name in unused {
            self.volumes.remove(&name);
            self.forget(&PERSISTENT_VOLUMES, "", &name, revision).await?;
        }
        Ok(())
    }
}
