//! A disk that is full of pretended images.

use std::collections::BTreeSet;
use std::path::PathBuf;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

use super::*;

/// Images of 100 bytes each, and who uses them.
struct Pretended {
    images: Mutex<Vec<StoredImage>>,
    used: Mutex<BTreeSet<String>>,
    events: broadcast::Sender<()>,
}

impl Pretended {
    fn with(names: &[&str], used: &[&str]) -> Arc<Self> {
        let image = |name: &&str| StoredImage {
            id: format!("sha256:{name}"),
            names: vec![format!("{name}:1")],
            size: 100,
        };
        Arc::new(Self {
            images: Mutex::new(names.iter().map(image).collect()),
            used: Mutex::new(used.iter().map(|name| format!("sha256:{name}")).collect()),
            events: broadcast::channel(8).0,
        })
    }

    fn left(&self) -> Vec<String> {
        self.images.lock().iter().map(|image| image.names.concat()).collect()
    }
}

#[async_trait]
impl ImageStore for Pretended {
    async fn stored(&self) -> Result<Vec<StoredImage>, RuntimeError> {
        Ok(self.images.lock().clone())
    }

    async fn used_images(&self) -> Result<BTreeSet<String>, RuntimeError> {
        Ok(self.used.lock().clone())
    }

    async fn remove_image(&self, image: &StoredImage) -> Result<(), RuntimeError> {
        if image.names.concat().starts_with("stuck") {
            let (what, message) = ("remove image".to_owned(), "conflict".to_owned());
            return Err(RuntimeError::Refused { what, message });
        }
        self.images.lock().retain(|one| one.id != image.id);
        Ok(())
    }

    async fn image_events(&self) -> Result<BoxStream<'static, Result<(), RuntimeError>>, RuntimeError> {
        Ok(BroadcastStream::new(self.events.subscribe()).map(|_| Ok(())).boxed())
    }

    async fn folder(&self) -> Result<PathBuf, RuntimeError> {
        Ok("/".into())
    }
}

fn kept(store: Arc<Pretended>, measure: Measure) -> Arc<KeptImages> {
    Arc::new(KeptImages {
        store,
        outbox: Arc::default(),
        node: "n1".to_owned(),
        pause_image: "pause:1".to_owned(),
        policy: Policy { high: 85, low: 80, min_age: Duration::ZERO },
        measure,
        records: Mutex::default(),
        listed: watch::Sender::new(Vec::new()),
    })
}

/// 90 % are used, so 200 bytes are too many.
fn full(_: &Path) -> Option<Disk> {
    Some(Disk { capacity: 2000, available: 200, ..Disk::default() })
}

fn said(images: &KeptImages) -> Vec<String> {
    let next = || futures_util::FutureExt::now_or_never(images.outbox.next());
    let events = std::iter::from_fn(next).map(|message| match message {
        oarlock_api::node::agent_message::Message::Event(event) => event.reason,
        other => format!("{other:?}"),
    });
    events.collect()
}

#[tokio::test]
async fn a_full_disk_loses_images_that_nobody_uses() {
    let store = Pretended::with(&["pause", "busy", "stuck", "a", "b", "c"], &["busy"]);
    let images = kept(Arc::clone(&store), full);
    images.collect().await.unwrap();
    assert_eq!(store.left(), ["pause:1", "busy:1", "stuck:1", "c:1"], "as many as have to");
    assert!(said(&images).is_empty());
}

#[tokio::test]
async fn too_few_images_are_said_in_kubelets_words() {
    let store = Pretended::with(&["pause", "a"], &[]);
    let images = kept(Arc::clone(&store), full);
    let mut failed = false;
    let outcome = images.collect().await;
    let text = outcome.as_ref().unwrap_err().to_string();
    assert!(
        text.ends_with("Attempted to free 200 bytes, but only found 100 bytes eligible to free."),
        "{text}"
    );
    images.say(&outcome, &mut failed);
    assert_eq!(said(&images), ["FreeDiskSpaceFailed"]);
    images.say(&images.collect().await, &mut failed);
    assert_eq!(said(&images), ["FreeDiskSpaceFailed", "ImageGCFailed"]);
    assert_eq!(store.left(), ["pause:1"]);
}

#[tokio::test]
async fn the_list_follows_the_runtime() {
    let store = Pretended::with(&["a"], &[]);
    let images = kept(Arc::clone(&store), Disk::of);
    let (tasks, mut listed) = (Tasks::new(), images.subscribe());
    tasks.spawn("images", Arc::clone(&images).run(tasks.clone()));
    listed.wait_for(|listed| listed.len() == 1).await.unwrap();
    let larger = StoredImage { id: "b".into(), names: vec!["b:1".into()], size: 200 };
    store.images.lock().push(larger);
    // Two at once are listed once.
    assert!(store.events.send(()).is_ok() && store.events.send(()).is_ok());
    let told = tokio::time::timeout(Duration::from_secs(5), listed.changed()).await;
    told.expect("an event is enough").unwrap();
    let names: Vec<String> = listed.borrow().iter().map(|(names, _)| names.concat()).collect();
    assert_eq!(names, ["b:1", "a:1"], "the largest first");
    tasks.shut_down();
    tasks.finish(Duration::from_secs(5)).await.unwrap();
}
