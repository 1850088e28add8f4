//! Static pods: what a folder of the node says is run, whether there is a control plane or not.
//!
//! In: the files of `staticPodPath`, what the API has as their mirrors. Out: pods in [`Desired`], and the word to the control plane to make
//! the mirrors as they should be. A file that makes no sense is said once, and the pods of the others go on.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use oarlock_api::catalogue::PODS;
use oarlock_api::k8s::api::core::v1::Pod;
use oarlock_api::static_pod::{self, HASH, MIRROR};
use oarlock_api::{defaults, meta, validate};
use oarlock_daemon::Tasks;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::desired::{Desired, Key, Objects, Snapshot, Topic};
use crate::outbox::Outbox;

/// How often the folder is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long the control plane has to make mirrors before it is told again; twice as long each time, up to [`SELDOM`].
const AGAIN: Duration = Duration::from_secs(5);
const SELDOM: Duration = Duration::from_mins(1);
/// How long the first look waits for the control plane: it knows of pods that run already whether they are ready.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a folder says.
#[derive(Debug, Clone, Default, PartialEq)]
struct Found {
    /// Each pod, and its mirror.
    pods: BTreeMap<Key, (Arc<Pod>, Bytes)>,
    /// Files that make no sense, and why.
    wrong: BTreeMap<PathBuf, String>,
}

/// What tells whether a folder may have changed: names, lengths and times of its files.
type Look = Vec<(PathBuf, u64, Option<SystemTime>)>;

/// Whether there is still something of a pod of the folder, by its uid.
pub(crate) type Runs = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// Mirrors, with the uids of their pods.
type Mirrors = BTreeMap<Key, (String, Bytes)>;

/// Follows the folder, if there is one, and the mirrors, until shutdown.
pub(crate) async fn run(
    folder: Option<PathBuf>,
    node: String,
    desired: Arc<Desired>,
    outbox: Arc<Outbox>,
    (runs, mut left): (Runs, watch::Receiver<u64>),
    tasks: Tasks,
) {
    let token = tasks.token();
    let mut changed = desired.subscribe(Topic::Pods);
    let pause = if folder.is_some() { LOOK } else { AGAIN };
    let mut follower = Follower::new(folder, node, desired, outbox, runs);
    loop {
        follower.follow_folder();
        follower.follow_mirrors();
        tokio::select! {
            _ = changed.changed() => {}
            _ = left.changed() => {}
            () = tokio::time::sleep(pause) => {}
            () = token.cancelled() => return,
        }
    }
}

struct Follower {
    since: Instant,
    folder: Option<PathBuf>,
    node: String,
    desired: Arc<Desired>,
    outbox: Arc<Outbox>,
    /// The last look, when, and what it said if the folder could not be read.
    last: Option<(Instant, Result<Look, String>)>,
    /// What was read.
    read: Option<Look>,
    found: Found,
    /// Mirrors of pods whose files went or changed: they stay until their pods have ended, as upstream's.
    leaving: Mirrors,
    runs: Runs,
    /// Uids of mirrors that have been told what their pods do.
    known: BTreeMap<Key, Option<String>>,
    /// When the control plane was told, and how long it has from then on.
    told: Option<(Instant, Duration)>,
}

impl Follower {
    fn new(
        folder: Option<PathBuf>,
        node: String,
        desired: Arc<Desired>,
        outbox: Arc<Outbox>,
        runs: Runs,
    ) -> Self {
        if folder.is_none() {
            desired.set_static_pods(Objects::new());
        }
        let (since, last, read, known, told) = (Instant::now(), None, None, BTreeMap::new(), None);
        let (found, leaving) = (Found::default(), Mirrors::new());
        Self { since, folder, node, desired, outbox, last, read, found, leaving, runs, known, told }
    }

    /// Reads the folder if it has changed, and the change is over: half a file makes no sense, or another one.
    fn follow_folder(&mut self) {
        let Some(folder) = &self.folder else { return };
        let is_early = self.since.elapsed() < PATIENCE && !self.desired.snapshot().1;
        if is_early || self.last.as_ref().is_some_and(|(at, _)| at.elapsed() < LOOK) {
            return;
        }
        let look = look(folder);
        let before = self.last.replace((Instant::now(), look.clone())).map(|(_, look)| look);
        let look = match look {
            Ok(look) => look,
            Err(why) => {
                if before.is_none_or(|before| before.as_ref() != Err(&why)) {
                    let message =
                        format!("static pods stay as they are: cannot read {}: {why}", folder.display());
                    tracing::error!("{message}");
                    self.outbox.node_event(&self.node, "Warning", "InvalidStaticPod", &message);
                }
                return;
            }
        };
        let is_still = before.is_none_or(|before| before.as_ref() == Ok(&look));
        if !is_still || self.read.as_ref() == Some(&look) {
            return;
        }
        let now = read(&look, &self.node);
        say_wrong(&self.found, &now, &self.node, &self.outbox);
        if now.pods != self.found.pods {
            self.told = None;
            self.let_go(&now);
        }
        if now.pods != self.found.pods || self.read.is_none() {
            self.desired.set_static_pods(objects(&now));
        }
        (self.found, self.read) = (now, Some(look));
    }

    /// Remembers the mirrors of pods that are not in the folder any more, as far as they were begun.
    fn let_go(&mut self, now: &Found) {
        for (key, (uid, mirror)) in mirrors(&self.found) {
            if (self.runs)(&uid) {
                self.leaving.entry(key).or_insert((uid, mirror));
            }
        }
        let now = mirrors(now);
        self.leaving.retain(|key, (uid, _)| now.get(key).is_none_or(|(there, _)| there != uid));
    }

    /// The mirrors that there should be now.
    fn wanted(&mut self) -> Mirrors {
        let before = self.leaving.len();
        let runs = &self.runs;
        self.leaving.retain(|_, (uid, _)| runs(uid));
        if self.leaving.len() < before {
            self.told = None;
        }
        let mut wanted = mirrors(&self.found);
        wanted.extend(self.leaving.clone());
        wanted
    }

    /// Tells the control plane of the pods, once and then whenever the API has not what it should.
    fn follow_mirrors(&mut self) {
        if self.folder.is_some() && self.read.is_none() {
            return;
        }
        let (snapshot, complete) = self.desired.snapshot();
        self.say_to_new(&snapshot);
        let wanted = self.wanted();
        let patience = match self.told {
            None => AGAIN,
            Some(_) if !complete || is_mirrored(&wanted, &snapshot) => {
                self.told = self.told.map(|(at, _)| (at, AGAIN));
                return;
            }
            Some((at, patience)) if at.elapsed() < patience => return,
            Some((_, patience)) => SELDOM.min(patience * 2),
        };
        self.told = Some((Instant::now(), patience));
        self.outbox.static_pods(wanted.into_values().map(|(_, mirror)| mirror).collect());
    }

    /// A mirror that is new has heard nothing yet of what its pod does: what was said before it was there is lost.
    fn say_to_new(&mut self, snapshot: &Snapshot) {
        let mirrors = snapshot.aside.iter().filter_map(|(key, pod)| Some((key, mirrored(pod)?, pod)));
        let mut known = BTreeMap::new();
        for (key, hash, mirror) in mirrors {
            let uid = &mirror.metadata.uid;
            if self.known.get(key) != Some(uid) {
                self.outbox.say_again(hash);
            }
            known.insert(key.clone(), uid.clone());
        }
        self.known = known;
    }
}

fn objects(found: &Found) -> Objects<Pod> {
    found.pods.iter().map(|(key, (pod, _))| (key.clone(), Arc::clone(pod))).collect()
}

fn mirrors(found: &Found) -> Mirrors {
    let of = |(key, (pod, mirror)): (&Key, &(Arc<Pod>, Bytes))| {
        (key.clone(), (pod.metadata.uid.clone().unwrap_or_default(), mirror.clone()))
    };
    found.pods.iter().map(of).collect()
}

/// Whether the API has each mirror that is wanted, none that is on its way out, and no others.
fn is_mirrored(wanted: &Mirrors, snapshot: &Snapshot) -> bool {
    let is_of = |(key, mirror): (&Key, &Arc<Pod>)| {
        let wanted = wanted.get(key).map(|(uid, _)| uid.as_str());
        mirror.metadata.deletion_timestamp.is_none() && mirrored(mirror) == wanted
    };
    snapshot.aside.len() == wanted.len() && snapshot.aside.iter().all(is_of)
}

/// The hash of the static pod that a pod mirrors.
pub(crate) fn mirrored(pod: &Pod) -> Option<&str> {
    pod.metadata.annotations.as_ref()?.get(MIRROR).map(String::as_str)
}

/// Whether a pod is one of a folder. Its annotation does not make it one, which anybody may write: uids of the API have dashes, hashes none.
pub(crate) fn is_static(pod: &Pod) -> bool {
    let uid = pod.metadata.uid.as_deref().filter(|uid| !uid.contains('-'));
    uid.is_some()
        && pod.metadata.annotations.as_ref().and_then(|all| all.get(HASH)).map(String::as_str) == uid
}

fn say_wrong(before: &Found, now: &Found, node: &str, outbox: &Outbox) {
    for (file, why) in &now.wrong {
        if before.wrong.get(file) != Some(why) {
            tracing::error!(file = %file.display(), why, "no static pod");
            let message = format!("static pod {}: {why}", file.display());
            outbox.node_event(node, "Warning", "InvalidStaticPod", &message);
        }
    }
}

/// The files of a folder but hidden ones, by name. Without the folder there are none; a file stands for itself.
fn look(folder: &Path) -> Result<Look, String> {
    let of = |path: PathBuf, file: std::fs::Metadata| (path, file.len(), file.modified().ok());
    let whole = match std::fs::metadata(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Look::new()),
        whole => whole.map_err(|e| e.to_string())?,
    };
    if whole.is_file() {
        return Ok(vec![of(folder.to_owned(), whole)]);
    }
    let mut files = Look::new();
    for entry in std::fs::read_dir(folder).map_err(|e| e.to_string())? {
        let path = entry.map_err(|e| e.to_string())?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        // What is gone since was removed, and what a link leads to nobody knows may come.
        if let Ok(file) = std::fs::metadata(&path)
            && file.is_file()
            && !is_hidden
        {
            files.push(of(path, file));
        }
    }
    files.sort();
    Ok(files)
}

fn read(files: &Look, node: &str) -> Found {
    let mut found = Found::default();
    for (path, ..) in files {
        let text = std::fs::read_to_string(path).map_err(|e| e.to_string());
        let wrong = match text.and_then(|text| pod(&text, path, node)) {
            Ok((key, _, _)) if found.pods.contains_key(&key) => {
                format!("there is another one of the name {}/{}", key.0, key.1)
            }
            Ok((key, pod, mirror)) => {
                found.pods.insert(key, (pod, mirror));
                continue;
            }
            Err(why) => why,
        };
        found.wrong.insert(path.clone(), wrong);
    }
    found
}

/// The pod of a file, complete and checked as the API server would, and its mirror.
fn pod(text: &str, path: &Path, node: &str) -> Result<(Key, Arc<Pod>, Bytes), String> {
    let value: Value = serde_yaml::from_str(text).map_err(|e| e.to_string())?;
    let digest = Sha256::digest(format!("{node}\0{}\0{value}", path.display()));
    let hash: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let mut mirror = static_pod::mirror(value, node, &hash)?;
    defaults::apply(&PODS, &mut mirror);
    let wrong = validate::create(&PODS, &mirror);
    if let Some(first) = wrong.first() {
        return Err(format!("{}: {}", first.field, first.message));
    }
    let key = (meta::namespace(&mirror).to_owned(), meta::name(&mirror).to_owned());
    let bytes = Bytes::from(mirror.to_string());
    let mut pod: Pod = serde_json::from_value(mirror).map_err(|e| e.to_string())?;
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.remove(MIRROR);
    }
    Ok((key, Arc::new(pod), bytes))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use oarlock_api::node::agent_message::Message;
    use oarlock_fuzz::Target;
    use parking_lot::Mutex;
    use tempfile::TempDir;

    use super::*;

    const WEB: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\nspec: {hostNetwork: true, \
        containers: [{name: c, image: 'i:1', ports: [{containerPort: 80}]}]}\n";

    fn folder() -> (TempDir, impl Fn(&str, &str)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        (dir, move |name: &str, text: &str| std::fs::write(path.join(name), text).unwrap())
    }

    fn of(dir: &TempDir) -> Found {
        read(&look(dir.path()).unwrap(), "n1")
    }

    fn names(found: &Found) -> Vec<String> {
        found.pods.keys().map(|(namespace, name)| format!("{namespace}/{name}")).collect()
    }

    #[test]
    fn files_are_pods_of_the_node_or_are_said_to_be_none() {
        let (dir, write) = folder();
        write("web.yaml", WEB);
        write(
            "two.json",
            r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "two", "namespace": "kube-system"},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}"#,
        );
        write(".hidden", "nonsense");
        write("again.yaml", WEB);
        write("bad.yaml", "kind: Deployment");
        write("empty.yaml", "");
        write("image.yaml", &WEB.replace("name: web", "name: bare").replace("image: 'i:1', ", ""));
        write("key.yaml", &WEB.replace("hostNetwork: true", "volumes: [{name: v, secret: {secretName: s}}]"));
        let found = of(&dir);
        assert_eq!(names(&found), ["default/web-n1", "kube-system/two-n1"]);
        let wrong: Vec<_> = found.wrong.values().map(String::as_str).collect();
        assert_eq!(
            wrong,
            [
                "it is no Pod of v1",
                "it is no Pod of v1",
                "spec.containers[0].image: Required value",
                "a static pod may not reference secrets",
                "there is another one of the name default/web-n1"
            ]
        );
        let (pod, mirror) = found.pods.values().next().unwrap();
        assert!(is_static(pod) && pod.spec.as_ref().unwrap().service_account_name.is_none(), "{pod:?}");
        let mirror: Pod = serde_json::from_slice(mirror).unwrap();
        assert_eq!(mirrored(&mirror), pod.metadata.uid.as_deref());
        assert_eq!(mirror.spec, pod.spec);
        assert_eq!(pod.spec.as_ref().unwrap().containers[0].ports.as_ref().unwrap()[0].host_port, Some(80));
        let alone = read(&look(&dir.path().join("web.yaml")).unwrap(), "n1");
        assert_eq!(names(&alone), ["default/web-n1"], "a file alone");
        assert_eq!(of(&dir), found, "read again, it is the same");
        let uid = |found: &Found| found.pods.values().next().unwrap().0.metadata.uid.clone();
        write("again.yaml", &WEB.replace("i:1", "i:22"));
        assert_ne!(uid(&of(&dir)), uid(&found), "an edited file is another pod");
        assert!(look(&dir.path().join("nowhere")).unwrap().is_empty());
    }

    #[test]
    fn nobody_makes_a_pod_of_the_api_a_static_one() {
        let (dir, write) = folder();
        write("web.yaml", WEB);
        let mut pod = Pod::clone(&of(&dir).pods.values().next().unwrap().0);
        assert!(is_static(&pod));
        let uid = "0a1b2c3d-0000-4000-8000-000000000000";
        pod.metadata.uid = Some(uid.to_owned());
        pod.metadata.annotations.as_mut().unwrap().insert(HASH.to_owned(), uid.to_owned());
        assert!(!is_static(&pod));
    }

    #[test]
    fn mirrors_are_as_they_should_be_or_are_not() {
        let (dir, write) = folder();
        write("web.yaml", WEB);
        let found = of(&dir);
        let mut snapshot = Snapshot::default();
        let wanted = mirrors(&found);
        assert!(!is_mirrored(&wanted, &snapshot) && is_mirrored(&Mirrors::new(), &snapshot));
        let (key, (_, mirror)) = found.pods.iter().next().unwrap();
        let mut mirror: Pod = serde_json::from_slice(mirror).unwrap();
        snapshot.aside.insert(key.clone(), Arc::new(mirror.clone()));
        assert!(is_mirrored(&wanted, &snapshot) && !is_mirrored(&Mirrors::new(), &snapshot));
        mirror.metadata.deletion_timestamp = serde_json::from_str("\"2026-01-01T00:00:00Z\"").unwrap();
        snapshot.aside.insert(key.clone(), Arc::new(mirror));
        assert!(!is_mirrored(&wanted, &snapshot), "somebody deletes it");
    }

    #[test]
    fn fuzz_static_pods() {
        let path = Path::new("/etc/static/pod.yaml");
        Target::new("static_pods").run(|input| {
            let text = String::from_utf8_lossy(input);
            let Ok((key, of_file, mirror)) = pod(&text, path, "n1") else { return };
            let uid = of_file.metadata.uid.as_deref();
            assert!(
                is_static(&of_file) && mirrored(&of_file).is_none() && key.1.ends_with("-n1"),
                "{of_file:?}"
            );
            let mirror: Value = serde_json::from_slice(&mirror).unwrap();
            assert_eq!((static_pod::mirrored(&mirror), static_pod::foreign(&mirror["spec"])), (uid, None));
            assert_eq!(mirror["spec"]["nodeName"], "n1");
            assert!(pod(&text, path, "n1").unwrap().1 == of_file, "read again, it is the same");
        });
    }

    /// A follower of a folder, and what it says.
    struct Stage {
        follower: Follower,
        desired: Arc<Desired>,
        outbox: Arc<Outbox>,
        /// Uids of pods that run.
        running: Arc<Mutex<BTreeSet<String>>>,
    }

    impl Stage {
        fn of(folder: &Path) -> Self {
            let (desired, outbox) = (Arc::<Desired>::default(), Arc::<Outbox>::default());
            let (d, o) = (Arc::clone(&desired), Arc::clone(&outbox));
            let running = Arc::<Mutex<BTreeSet<String>>>::default();
            let known = Arc::clone(&running);
            let runs: Runs = Box::new(move |uid| known.lock().contains(uid));
            let follower = Follower::new(Some(folder.to_owned()), "n1".to_owned(), d, o, runs);
            Self { follower, desired, outbox, running }
        }

        /// A look, half a second later: how many mirrors the control plane is told of, if it is, and what else is said.
        async fn turn(&mut self) -> (Option<usize>, Vec<String>) {
            tokio::time::advance(LOOK).await;
            self.follower.follow_folder();
            self.follower.follow_mirrors();
            let (mut mirrors, mut others) = (None, Vec::new());
            while let Ok(message) = tokio::time::timeout(Duration::from_millis(1), self.outbox.next()).await {
                match message {
                    Message::StaticPods(report) => mirrors = Some(report.pods.len()),
                    Message::Event(event) => others.push(event.message),
                    Message::PodStatus(status) => others.push(format!("status of {}", status.name)),
                    _ => {}
                }
            }
            (mirrors, others)
        }

        fn pods(&self) -> usize {
            self.desired.snapshot().0.pods.len()
        }

        /// The uid of the pod that is in the folder.
        fn uid(&self) -> String {
            self.follower.found.pods.values().next().unwrap().0.metadata.uid.clone().unwrap()
        }

        /// What the API has.
        fn mirror(&self, uid: &str) {
            let (_, json) = self.follower.found.pods.values().next().unwrap();
            let mut mirror: Value = serde_json::from_slice(json).unwrap();
            mirror["metadata"]["uid"] = uid.into();
            self.desired.update("pods", "default", "web-n1", mirror.to_string().as_bytes()).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_folder_is_followed_file_by_file() {
        let (dir, write) = folder();
        write("web.yaml", WEB);
        let mut stage = Stage::of(dir.path());
        assert_eq!((stage.turn().await.0, stage.pods()), (None, 0), "the control plane may come");
        assert!(!stage.desired.knows_static_pods());
        tokio::time::advance(PATIENCE).await;
        assert_eq!((stage.turn().await.0, stage.pods()), (Some(1), 1), "it does not");
        write("bad.yaml", "kind: Dep");
        write("two.yaml", &WEB.replace("name: web", "name: two"));
        assert_eq!((stage.turn().await, stage.pods()), ((None, vec![]), 1), "they may not be whole yet");
        let (mirrors, said) = stage.turn().await;
        assert_eq!((mirrors, stage.pods()), (Some(2), 2));
        assert_eq!(
            said,
            [format!("static pod {}: it is no Pod of v1", dir.path().join("bad.yaml").display())]
        );
        assert_eq!(stage.turn().await, (None, vec![]), "said once");
        let aside = dir.path().with_extension("aside");
        std::fs::rename(dir.path(), &aside).unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path()).unwrap();
        let (mirrors, said) = stage.turn().await;
        assert!(
            mirrors.is_none() && stage.pods() == 2 && said[0].contains("static pods stay as they are"),
            "{said:?}"
        );
        std::fs::remove_file(dir.path()).unwrap();
        std::fs::rename(&aside, dir.path()).unwrap();
        std::fs::remove_file(dir.path().join("web.yaml")).unwrap();
        let told = [stage.turn().await.0, stage.turn().await.0];
        assert_eq!((told, stage.pods()), ([None, Some(1)], 1), "one went");
    }

    #[tokio::test(start_paused = true)]
    async fn the_control_plane_is_told_again_until_it_has_the_mirrors_and_each_of_them_hears_the_status() {
        let (dir, write) = folder();
        write("web.yaml", WEB);
        let mut stage = Stage::of(dir.path());
        tokio::time::advance(PATIENCE).await;
        assert_eq!(stage.turn().await.0, Some(1));
        let uid = stage.uid();
        stage.outbox.pod_status("default", "web-n1", &uid, Bytes::from("{}"));
        assert_eq!(stage.turn().await, (None, vec!["status of web-n1".to_owned()]), "nobody hears that");
        stage.desired.begin();
        stage.desired.end_snapshot();
        tokio::time::advance(AGAIN).await;
        assert_eq!(stage.turn().await.0, Some(1), "there is none");
        tokio::time::advance(AGAIN).await;
        assert_eq!(stage.turn().await.0, None, "it has more time now");
        stage.mirror("u1");
        assert_eq!(
            stage.turn().await,
            (None, vec!["status of web-n1".to_owned()]),
            "this one has to hear it"
        );
        assert_eq!(stage.turn().await, (None, vec![]));
        tokio::time::advance(AGAIN).await;
        stage.desired.delete("pods", "default", "web-n1").unwrap();
        assert_eq!((stage.turn().await.0, stage.pods()), (Some(1), 1), "somebody deleted it");
        stage.mirror("u2");
        assert_eq!(stage.turn().await.1, ["status of web-n1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_mirror_stays_until_the_pod_of_a_file_that_went_or_changed_has_ended() {
        let (dir, write) = folder();
        write("web.yaml", WEB);
        let mut stage = Stage::of(dir.path());
        tokio::time::advance(PATIENCE).await;
        assert_eq!(stage.turn().await.0, Some(1));
        let first = stage.uid();
        stage.running.lock().insert(first.clone());
        write("web.yaml", &WEB.replace("i:1", "i:22"));
        stage.turn().await;
        assert_eq!((stage.turn().await.0, stage.pods()), (Some(1), 1));
        let uid_of = |mirrors: &Mirrors| mirrors.values().next().map(|(uid, _)| uid.clone());
        assert_eq!(uid_of(&stage.follower.wanted()).as_ref(), Some(&first), "that of before has not ended");
        stage.running.lock().clear();
        assert_eq!(stage.turn().await.0, Some(1), "the next one's now");
        let second = stage.uid();
        assert_ne!(first, second);
        assert_eq!(uid_of(&stage.follower.wanted()).as_ref(), Some(&second));
        stage.running.lock().insert(second);
        std::fs::remove_file(dir.path().join("web.yaml")).unwrap();
        stage.turn().await;
        assert_eq!((stage.turn().await.0, stage.pods()), (Some(1), 0), "it is not wanted and not over");
        write("web.yaml", &WEB.replace("i:1", "i:22"));
        stage.turn().await;
        stage.turn().await;
        assert_eq!((stage.follower.leaving.len(), stage.pods()), (0, 1), "it is back");
        std::fs::remove_file(dir.path().join("web.yaml")).unwrap();
        stage.turn().await;
        stage.turn().await;
        stage.running.lock().clear();
        assert_eq!(stage.turn().await.0, Some(0), "nothing is left of it");
    }
}
