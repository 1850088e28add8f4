//! The one driver of all controllers: changes of the cache become keys, keys become plans, plans become writes.
//!
//! In: the cache's changes and the clock. Out: writes through the registry. A key is planned by one at a time, never before
//! the world has seen what the last plan of the key wrote, and again with a growing pause when a write failed.

mod execute;
mod queue;
mod view;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use oarlock_api::catalogue::{NODES, PODS};
use oarlock_planner::{Answers, CONTROLLERS, Change as Wanted, Key, Memory, Query, Settings, World};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::aggregate::{Aggregator, unregistered};
use crate::cache::{Cache, CacheWatch, Change, Expired, Object};
use crate::metrics::Queues;
use crate::nodes::Events;
use crate::registry::Registry;
use crate::usage::Board;
use queue::{Item, Queue};
use view::View;

pub use execute::bootstrap;
pub use view::Standby;

/// Plans carried out at the same time.
const PARALLEL: usize = 64;
/// How long plans are made before others have their turn: changes, outcomes, and whatever else runs on this thread.
const TURN: Duration = Duration::from_millis(10);
/// Of everything there is, so many objects are looked at at a time.
const PART: usize = 500;
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

/// Runs the controllers until `stop` is cancelled, from the view that was kept meanwhile, if one was.
pub async fn run(
    registry: Arc<Registry>,
    events: Arc<Events>,
    settings: Settings,
    measures: Arc<Measures>,
    (queues, tasks): (Queues, oarlock_daemon::Tasks),
    standby: &Standby,
    stop: tokio_util::sync::CancellationToken,
) {
    let leading = async {
        let mut kept = standby.take().await;
        loop {
            let view = match kept.take() {
                Some(view) => Ok(view),
                None => View::load(registry.cache()).await,
            };
            let ended = match view {
                Ok(view) => {
                    Driver::start(&registry, &events, &settings, &measures, &queues, &tasks, view)
                        .drive()
                        .await
                }
                Err(expired) => expired,
            };
            tracing::warn!(?ended, "the controllers fell behind the cache; starting over with a fresh view");
        }
    };
    tokio::select! {
        () = leading => {}
        () = stop.cancelled() => {}
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
    watch: CacheWatch,
    queue: Queue,
    /// What is still to be looked at because everything is.
    unseen: Vec<Arc<Object>>,
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
        View { world, watch }: View,
    ) -> Self {
        let queue = Queue::new(CONTROLLERS.iter().map(|controller| queues.of(controller.name)).collect());
        Self {
            registry: Arc::clone(registry),
            events: Arc::clone(events),
            settings: settings.clone(),
            measures: Arc::clone(measures),
            tasks: tasks.clone(),
            world,
            watch,
            queue,
            unseen: Vec::new(),
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
        self.look_at_everything();
        let mut resync = Instant::now() + RESYNC;
        loop {
            let is_done = self.work();
            let timer = self.queue.next_timer().unwrap_or(resync).min(resync);
            tokio::select! {
                changes = self.watch.next() => match changes {
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
                () = tokio::task::yield_now(), if !is_done => {}
                () = tokio::time::sleep_until(timer) => {
                    if Instant::now() >= resync {
                        resync = Instant::now() + RESYNC;
                        self.look_at_everything();
                    }
                }
            }
        }
    }

    /// All there is will be looked at, the pods that wait for a node first: of those, the most urgent has to be found.
    fn look_at_everything(&mut self) {
        let pending: Vec<Key> = self.world.pending().cloned().collect();
        for key in &pending {
            self.touch(&PODS, key);
        }
        let cache = self.cache();
        self.unseen.clear();
        for kind in cache.catalogue().kinds().iter().rev() {
            self.unseen.extend(cache.list(kind, None).0.into_iter().rev());
        }
    }

    /// Looks at some more of everything; false: there is no more.
    fn look_further(&mut self) -> bool {
        let part = self.unseen.split_off(self.unseen.len().saturating_sub(PART));
        for object in part.iter().rev() {
            self.touch(object.key.kind, &(object.key.namespace.clone(), object.key.name.clone()));
        }
        !part.is_empty()
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
        view::see(&mut self.world, change);
        self.touch(kind, &key);
    }

    /// Plans and starts what is ready, for a turn at most. False: there is more.
    fn work(&mut self) -> bool {
        let end = Instant::now() + TURN;
        while self.running < PARALLEL {
            if Instant::now() >= end {
                return false;
            }
            let Some(item) = self.queue.pop(self.world.revision()) else {
                if self.look_further() {
                    continue;
                }
                return true;
            };
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
        true
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
