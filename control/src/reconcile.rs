//! The one driver of all controllers: changes of the cache become keys, keys become plans, plans become writes.
//!
//! In: the cache's changes and the clock. Out: writes through the registry. A key is planned by one at a time, never before
//! the world has seen what the last plan of the key wrote, and again with a growing pause when a write failed.

mod execute;
mod queue;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use oarlock_api::catalogue::NODES;
use oarlock_planner::{Answers, CONTROLLERS, Change as Wanted, Key, Memory, Query, Settings, World};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::aggregate::{Aggregator, unregistered};
use crate::cache::{Cache, CacheWatch, Change, Expired};
use crate::metrics::Queues;
use crate::nodes::Events;
use crate::registry::Registry;
use crate::usage::Board;
use queue::{Item, Queue};

pub use execute::bootstrap;

/// Plans carried out at the same time.
const PARALLEL: usize = 64;
/// Everything is looked at again this often, in case a change was misjudged.
const RESYNC: Duration = Duration::from_secs(600);

/// Who knows by what autoscalers decide.
#[derive(Default)]
pub struct Measures {
    /// What nodes and pods use.
    pub usage: Arc<Board>,
    /// Who serves other metrics, if anybody can be asked.
    pub others: Option<Arc<Aggregator>>,
}

/// Runs the controllers until `stop` is cancelled.
pub async fn run(
    registry: Arc<Registry>,
    events: Arc<Events>,
    settings: Settings,
    measures: Arc<Measures>,
    queues: Queues,
    tasks: oarlock_daemon::Tasks,
    stop: tokio_util::sync::CancellationToken,
) {
    loop {
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = Driver::start(&registry, &events, &settings, &measures, &queues, &tasks).drive() => ended,
        };
        tracing::warn!(?ended, "the controllers fell behind the cache; starting over with a fresh view");
    }
}

/// What came of a plan.
struct Done {
    item: Item,
    outcome: execute::Outcome,
}

/// What an autoscaler was told.
struct Measured {
    item: Item,
    answers: Answers,
}

struct Driver {
    registry: Arc<Registry>,
    events: Arc<Events>,
    settings: Settings,
    measures: Arc<Measures>,
    tasks: oarlock_daemon::Tasks,
    world: World,
    watch: Option<CacheWatch>,
    queue: Queue,
    running: usize,
    done: (mpsc::Sender<Done>, mpsc::Receiver<Done>),
    /// Who waits for answers. They do not count as running: whoever serves metrics may be slow.
    measuring: HashSet<Key>,
    measured: (mpsc::Sender<Measured>, mpsc::Receiver<Measured>),
}

impl Driver {
    fn start(
        registry: &Arc<Registry>,
        events: &Arc<Events>,
        settings: &Settings,
        measures: &Arc<Measures>,
        queues: &Queues,
        tasks: &oarlock_daemon::Tasks,
    ) -> Self {
        let queue = Queue::new(CONTROLLERS.iter().map(|controller| queues.of(controller.name)).collect());
        Self {
            registry: Arc::clone(registry),
            events: Arc::clone(events),
            settings: settings.clone(),
            measures: Arc::clone(measures),
            tasks: tasks.clone(),
            world: World::default(),
            watch: None,
            queue,
            running: 0,
            done: mpsc::channel(PARALLEL),
            measuring: HashSet::new(),
            measured: mpsc::channel(PARALLEL),
        }
    }

    fn cache(&self) -> Arc<Cache> {
        Arc::clone(self.registry.cache())
    }

    async fn drive(mut self) -> Expired {
        if let Err(expired) = self.load().await {
            return expired;
        }
        let mut resync = Instant::now() + RESYNC;
        loop {
            self.work();
            let Some(watch) = self.watch.as_mut() else {
                return Expired { asked: Default::default(), oldest: Default::default() };
            };
            let timer = self.queue.next_timer().unwrap_or(resync).min(resync);
            tokio::select! {
                changes = watch.next() => match changes {
                    Ok(changes) => {
                        for change in changes {
                            self.apply(&change);
                        }
                        self.queue.release(self.world.revision());
                    }
                    Err(expired) => return expired,
                },
                Some(done) = self.done.1.recv() => self.finish(done),
                Some(Measured { item, answers }) = self.measured.1.recv() => {
                    self.measuring.remove(&item.key);
                    self.world.tell(item.key.clone(), answers);
                    self.queue.push(item);
                }
                () = tokio::time::sleep_until(timer) => {
                    if Instant::now() >= resync {
                        resync = Instant::now() + RESYNC;
                        self.enqueue_everything();
                    }
                }
            }
        }
    }

    /// The world as it is, and a watch from there.
    async fn load(&mut self) -> Result<(), Expired> {
        let cache = self.cache();
        while cache.revision().0 == 0 {
            cache.wait_for(oarlock_store::Revision(1), RESYNC).await;
        }
        let revision = cache.revision();
        self.watch = Some(cache.watch(None, revision)?);
        for kind in cache.catalogue().kinds() {
            for object in cache.list(kind, None).0 {
                self.world.put(
                    kind,
                    &object.key.namespace,
                    &object.key.name,
                    &object.value(),
                    object.revision.0,
                );
            }
        }
        self.enqueue_everything();
        Ok(())
    }

    fn enqueue_everything(&mut self) {
        let cache = self.cache();
        for kind in cache.catalogue().kinds() {
            for object in cache.list(kind, None).0 {
                let key = (object.key.namespace.clone(), object.key.name.clone());
                self.touch(kind, &key);
            }
        }
    }

    fn touch(&mut self, kind: &'static oarlock_api::catalogue::Kind, key: &Key) {
        for (index, controller) in CONTROLLERS.iter().enumerate() {
            for affected in (controller.affected)(&self.world, kind, key) {
                let urgency = oarlock_planner::urgency(controller, &self.world, &affected);
                self.queue.push_urgent(Item { controller: index, key: affected }, urgency);
            }
        }
    }

    fn apply(&mut self, change: &Change) {
        let object = change.object();
        let kind = object.key.kind;
        let key = (object.key.namespace.clone(), object.key.name.clone());
        self.touch(kind, &key);
        match change {
            Change::Put { new, .. } => self.world.put(kind, &key.0, &key.1, &new.value(), new.revision.0),
            Change::Delete { revision, .. } => self.world.delete(kind, &key.0, &key.1, revision.0),
        }
        self.touch(kind, &key);
    }

    /// Plans and starts what is ready.
    fn work(&mut self) {
        while self.running < PARALLEL {
            let Some(item) = self.queue.pop(self.world.revision()) else { return };
            let controller = &CONTROLLERS[item.controller];
            if controller.weighs_usage() {
                self.world.set_usage(self.measures.usage.pods());
            }
            let mut plan = (controller.plan)(&self.world, &self.settings, &item.key, Timestamp::now());
            if let Some(after) = plan.again {
                self.queue.push_later(item.clone(), after);
            }
            if let [Wanted::Measure { queries, .. }] = plan.changes.as_mut_slice() {
                self.measure(item.clone(), std::mem::take(queries));
                plan.changes.clear();
            }
            if plan.changes.is_empty() {
                self.queue.forget(&item);
                continue;
            }
            tracing::debug!(controller = controller.name, key = ?item.key, changes = plan.changes.len(), "planned");
            for change in &plan.changes {
                self.assume(change);
            }
            self.running += 1;
            self.queue.start(&item);
            let (registry, events, sender) =
                (Arc::clone(&self.registry), Arc::clone(&self.events), self.done.0.clone());
            self.tasks.job("reconcile", async move {
                let outcome = execute::execute(&registry, &events, plan.changes).await;
                // The driver may have started over; then nobody waits for this.
                let _ = sender.send(Done { item, outcome }).await;
            });
        }
    }

    /// Asks others for metrics; the key is planned again when they have answered, or not in time.
    fn measure(&mut self, item: Item, queries: Vec<Query>) {
        if !self.measuring.insert(item.key.clone()) {
            return;
        }
        let (measures, sender) = (Arc::clone(&self.measures), self.measured.0.clone());
        self.tasks.job("reconcile/measure", async move {
            let all = match &measures.others {
                Some(others) => others.measure(queries).await,
                None => {
                    queries.into_iter().map(|query| (query.clone(), Err(unregistered(query.api)))).collect()
                }
            };
            // The driver may have started over; then nobody waits for this.
            let _ = sender.send(Measured { item, answers: Answers { at: Timestamp::now(), all } }).await;
        });
    }

    /// Counts what is given away as given: other keys are planned before the store has answered.
    fn assume(&mut self, change: &Wanted) {
        match change {
            Wanted::Bind { namespace, name, node, .. } => {
                self.world.assume(&(namespace.clone(), name.clone()), node);
            }
            Wanted::Patch { kind, name, patch, .. } if **kind == NODES => {
                if let Some(ranges) = patch["spec"]["podCIDRs"].as_array() {
                    let ranges = ranges.iter().filter_map(|range| range.as_str().map(Into::into));
                    self.world.assume_pod_cidrs(name, ranges.collect());
                }
            }
            Wanted::Remember { namespace, name, memory } => {
                self.world.remember((namespace.clone(), name.clone()), Memory::clone(memory));
            }
            Wanted::Miss { node, since } => self.world.miss(node, *since),
            _ => {}
        }
    }

    fn finish(&mut self, done: Done) {
        self.running -= 1;
        for (kind, key) in &done.outcome.undone {
            let cache = self.cache();
            match cache.get(kind, &key.0, &key.1) {
                Some(object) => self.world.put(kind, &key.0, &key.1, &object.value(), object.revision.0),
                None => self.world.delete(kind, &key.0, &key.1, 0),
            }
            self.touch(kind, key);
        }
        if let Some(status) = &done.outcome.failure {
            let controller = CONTROLLERS[done.item.controller].name;
            if status.is("Conflict") {
                tracing::debug!(controller, key = ?done.item.key, %status, "somebody else wrote; planning again");
            } else {
                tracing::warn!(controller, key = ?done.item.key, %status, "a change failed; trying again");
            }
        }
        self.queue.finish(
            done.item,
            done.outcome.revision,
            done.outcome.failure.is_some(),
            self.world.revision(),
        );
    }
}
