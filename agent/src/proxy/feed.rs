//! One kind of objects, kept as the API server has it: listed once, then watched.
//!
//! In: clients. Out: changes of `Desired`. The library resumes watches that break and lists anew when the server has forgotten
//! where one was (410 Gone); while the server is away, what is known stands.

use std::sync::Arc;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use oarlock_api::k8s::api::core::v1::{Node, Service};
use oarlock_api::k8s::api::discovery::v1::EndpointSlice;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{credentials, node, slices};
use crate::backoff::Backoff;
use crate::desired::{Desired, Watched};
use crate::pods::report::chain;

/// What kube-proxy leaves to others (cmd/kube-proxy/app/server.go): Services that name another proxy, and headless ones.
const SELECTOR: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";
/// Copies of the whole object that kubectl leaves in it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What happened to a feed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Happened {
    resource: &'static str,
    event: &'static str,
}

/// How often what happened.
pub(super) type Metrics = Family<Happened, Counter>;

type Events<T> = BoxStream<'static, watcher::Result<Event<T>>>;

/// A way to ask for objects of a kind.
struct Version<T> {
    name: &'static str,
    open: fn(Client) -> Events<T>,
}

/// What all feeds share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) desired: Arc<Desired>,
    pub(super) clients: watch::Receiver<Client>,
    pub(super) metrics: Metrics,
    pub(super) token: CancellationToken,
}

/// Why a stream of events is given up.
enum End {
    /// The server has forgotten where we were, and said so in a way that the library does not act on.
    Expired,
    /// The server does not serve this version.
    NotServed,
    /// There are other credentials.
    OtherClient,
    Shutdown,
}

pub(super) async fn services(shared: Shared) {
    let open = |client| watch_all::<Service>(client, config().labels(SELECTOR), |_| {});
    follow(shared, &[Version { name: "v1", open }]).await;
}

pub(super) async fn nodes(shared: Shared) {
    let open = |client| watch_all::<Node>(client, config(), node::reduce);
    follow(shared, &[Version { name: "v1", open }]).await;
}

pub(super) async fn endpoint_slices(shared: Shared) {
    let v1 = |client| watch_all::<EndpointSlice>(client, config().labels(SELECTOR), |_| {});
    let v1beta1 = |client| {
        let resource = ApiResource {
            group: "discovery.k8s.io".to_owned(),
            version: "v1beta1".to_owned(),
            api_version: "discovery.k8s.io/v1beta1".to_owned(),
            kind: "EndpointSlice".to_owned(),
            plural: EndpointSlice::RESOURCE.to_owned(),
        };
        let api: Api<DynamicObject> = Api::all_with(client, &resource);
        let events = watcher(api, config().labels(SELECTOR));
        events.try_filter_map(async |event| Ok(convert(event))).boxed()
    };
    follow(shared, &[Version { name: "v1", open: v1 }, Version { name: "v1beta1", open: v1beta1 }]).await;
}

fn config() -> watcher::Config {
    watcher::Config::default().timeout(u32::try_from(credentials::WATCH.as_secs()).unwrap_or(90))
}

fn watch_all<T>(client: Client, config: watcher::Config, reduce: fn(&mut T)) -> Events<T>
where
    T: Watched + kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + 'static,
    T: serde::de::DeserializeOwned,
{
    let events = watcher(Api::<T>::all(client), config);
    events
        .map_ok(move |event| {
            event.modify(|object| {
                let metadata = object.meta_mut();
                metadata.managed_fields = None;
                if let Some(annotations) = &mut metadata.annotations {
                    annotations.remove(LAST_APPLIED);
                }
                reduce(object);
            })
        })
        .boxed()
}

/// The event in v1; none for an object that is no slice.
fn convert(event: Event<DynamicObject>) -> Option<Event<EndpointSlice>> {
    let read = |slice: DynamicObject| {
        let name = (slice.metadata.namespace.clone(), slice.metadata.name.clone());
        slices::of_v1beta1(slice)
            // The parser may quote a value: only its place is told.
            .inspect_err(|error| {
                tracing::warn!(?name, line = error.line(), "an EndpointSlice does not parse")
            })
            .ok()
    };
    Some(match event {
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
        Event::InitApply(slice) => Event::InitApply(read(slice)?),
        Event::Apply(slice) => Event::Apply(read(slice)?),
        Event::Delete(slice) => Event::Delete(read(slice)?),
    })
}

async fn follow<T: Watched>(mut shared: Shared, versions: &[Version<T>]) {
    let mut backoff = Backoff::default();
    let mut next = 0;
    loop {
        let version = &versions[next % versions.len()];
        let client = shared.clients.borrow_and_update().clone();
        match read((version.open)(client), &mut shared, &mut backoff).await {
            End::Expired => shared.count::<T>("expired"),
            End::NotServed => {
                tracing::warn!(
                    resource = T::RESOURCE,
                    version = version.name,
                    "the API server does not serve this version"
                );
                next += 1;
            }
            End::OtherClient => continue,
            End::Shutdown => return,
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next()) => {}
            () = shared.token.cancelled() => return,
        }
    }
}

/// Applies events as long as the stream is worth it.
async fn read<T: Watched>(mut events: Events<T>, shared: &mut Shared, backoff: &mut Backoff) -> End {
    // What the running list has brought.
    let mut listed = Vec::new();
    let mut fails = false;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            Ok(()) = shared.clients.changed() => return End::OtherClient,
            () = shared.token.cancelled() => return End::Shutdown,
        };
        match event {
            Some(Ok(event)) => {
                if apply(event, &mut listed, shared) {
                    backoff.reset();
                    if std::mem::take(&mut fails) {
                        tracing::info!(resource = T::RESOURCE, "the API server answers again");
                    }
                }
            }
            Some(Err(error)) => {
                shared.count::<T>("failure");
                if let Some(end) = end_of(&error) {
                    return end;
                }
                fails = true;
                let error = chain(&error);
                tracing::warn!(resource = T::RESOURCE, error, "cannot list or watch; what is known stands");
                tokio::select! {
                    () = tokio::time::sleep(backoff.next()) => {}
                    () = shared.token.cancelled() => return End::Shutdown,
                }
            }
            // The library's streams do not end.
            None => return End::Expired,
        }
    }
}

/// True: the server has said something.
fn apply<T: Watched>(event: Event<T>, listed: &mut Vec<T>, shared: &Shared) -> bool {
    match event {
        // Said before the list is asked for, and again after each failure.
        Event::Init => {
            listed.clear();
            return false;
        }
        Event::InitApply(object) => {
            listed.push(object);
            return true;
        }
        Event::InitDone => {
            shared.count::<T>("list");
            tracing::info!(resource = T::RESOURCE, objects = listed.len(), "listed");
            shared.desired.replace(std::mem::take(listed));
        }
        Event::Apply(object) => {
            shared.count::<T>("change");
            shared.desired.set(object);
        }
        Event::Delete(object) => {
            shared.count::<T>("delete");
            shared.desired.remove::<T>(&object.key());
        }
    }
    true
}

/// Whether asking the same again is of no use.
fn end_of(error: &watcher::Error) -> Option<End> {
    let code = match error {
        // A list, or the answer to a watch, not an event of one: the library would ask for the same revision for ever.
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code,
        _ => return None,
    };
    match code {
        410 => Some(End::Expired),
        404 => Some(End::NotServed),
        _ => None,
    }
}

impl Shared {
    fn count<T: Watched>(&self, event: &'static str) {
        self.metrics.get_or_create(&Happened { resource: T::RESOURCE, event }).inc();
    }
}

#[cfg(test)]
mod tests;
