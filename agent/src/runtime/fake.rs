//! A runtime in memory whose calls can be made to fail, and which can go away as a whole.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    Container, ContainerSpec, Credentials, ExecOutcome, Image, LogOptions, LogStream, Runtime, RuntimeError,
    Session, State, Talk, Version, Wanted, Written,
};

/// The fake. Images named `missing...` are not there and cannot be fetched.
#[derive(Debug)]
pub(crate) struct Fake {
    inner: Mutex<Inner>,
    bell: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    containers: Vec<(String, Container)>,
    away: bool,
    /// Calls and what they are told.
    failures: VecDeque<(&'static str, &'static str)>,
    ids: u32,
}

impl Default for Fake {
    fn default() -> Self {
        Self { inner: Mutex::default(), bell: watch::Sender::new(0) }
    }
}

impl Fake {
    /// Nobody answers, until it is called again with `false`.
    pub(crate) fn away(&self, away: bool) {
        self.inner.lock().away = away;
        self.bell.send_modify(|n| *n += 1);
    }

    /// The next call of that name is refused.
    pub(crate) fn fail(&self, call: &'static str) {
        self.refuse(call, "on purpose");
    }

    /// The same, with a reason.
    pub(crate) fn refuse(&self, call: &'static str, why: &'static str) {
        self.inner.lock().failures.push_back((call, why));
    }

    /// All containers: name and whether it runs.
    pub(crate) fn containers(&self) -> Vec<(String, bool)> {
        self.inner.lock().containers.iter().map(|(name, c)| (name.clone(), c.is_running())).collect()
    }

    fn call<R>(&self, name: &'static str, work: impl FnOnce(&mut Inner) -> R) -> Result<R, RuntimeError> {
        let mut inner = self.inner.lock();
        if inner.away {
            return Err(RuntimeError::Away { what: name.to_owned(), cause: "on purpose".to_owned() });
        }
        if let Some((_, why)) = inner.failures.pop_front_if(|(call, _)| *call == name) {
            return Err(RuntimeError::Refused { what: name.to_owned(), message: why.to_owned() });
        }
        Ok(work(&mut inner))
    }

    fn end(&self, id: &str, code: i32) {
        for (_, container) in &mut self.inner.lock().containers {
            if let (true, State::Running { started, .. }) = (container.id == id, &container.state) {
                let (started, finished) = (*started, Timestamp::now());
                container.state = State::Exited { started, finished, code, oom: false, error: String::new() };
            }
        }
        self.bell.send_modify(|n| *n += 1);
    }
}

#[async_trait]
impl Runtime for Fake {
    async fn version(&self) -> Result<Version, RuntimeError> {
        self.call("version", |_| Version {
            runtime: "fake://1".to_owned(),
            cgroup_driver: "cgroupfs".to_owned(),
            index: String::new(),
        })
    }

    async fn host_network(&self) -> Result<(), RuntimeError> {
        self.call("host_network", |_| ())
    }

    async fn fingerprints(&self) -> Result<BTreeMap<String, String>, RuntimeError> {
        self.call("fingerprints", |inner| {
            let mut prints = BTreeMap::<String, String>::new();
            for (_, one) in &inner.containers {
                prints
                    .entry(one.pod_uid().to_owned())
                    .or_default()
                    .push_str(&format!("{}{:?}", one.id, one.state));
            }
            prints
        })
    }

    async fn pod(&self, uid: &str) -> Result<Vec<Container>, RuntimeError> {
        self.call("pod", |inner| {
            inner.containers.iter().map(|(_, c)| c).filter(|c| c.pod_uid() == uid).cloned().collect()
        })
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<String, RuntimeError> {
        self.call("create", |inner| {
            if inner.containers.iter().any(|(name, _)| *name == spec.name) {
                let message = format!("the name {} is in use", spec.name);
                return Err(RuntimeError::Refused { what: "create".to_owned(), message });
            }
            inner.ids += 1;
            let id = format!("fake{}", inner.ids);
            let container = Container {
                id: id.clone(),
                labels: spec.labels.clone(),
                image: spec.image.clone(),
                image_id: "sha256:fake".to_owned(),
                state: State::Created,
                stop_signal: spec.stop_signal.clone(),
            };
            inner.containers.push((spec.name.clone(), container));
            Ok(id)
        })?
    }

    async fn start(&self, id: &str) -> Result<(), RuntimeError> {
        self.call("start", |inner| {
            for (_, container) in &mut inner.containers {
                if container.id == id && container.state == State::Created {
                    container.state = State::Running { started: Timestamp::now(), pid: 1 };
                }
            }
        })
    }

    async fn kill(&self, id: &str, signal: &str) -> Result<(), RuntimeError> {
        self.call("kill", |_| ())?;
        self.end(id, if signal == "SIGKILL" { 137 } else { 143 });
        Ok(())
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        self.call("remove", |inner| inner.containers.retain(|(_, c)| c.id != id))
    }

    async fn exec(
        &self,
        _id: &str,
        _command: &[String],
        _timeout: Duration,
    ) -> Result<ExecOutcome, RuntimeError> {
        self.call("exec", |_| ExecOutcome { code: 0, output: String::new() })
    }

    async fn talk(&self, _id: &str, command: &[String], _wanted: Wanted) -> Result<Talk, RuntimeError> {
        let said = Bytes::from(command.join(" "));
        let id = command.first().cloned().unwrap_or_default();
        self.call("talk", |_| Talk {
            session: Session::Command(id),
            input: Box::pin(tokio::io::sink()),
            output: stream::iter([Ok(Written::Out(said.clone())), Ok(Written::Err(said))]).boxed(),
        })
    }

    async fn attach(&self, id: &str, _wanted: Wanted) -> Result<Talk, RuntimeError> {
        let said = Bytes::from(format!("output of {id}"));
        self.call("attach", |_| Talk {
            session: Session::Container(id.to_owned()),
            input: Box::pin(tokio::io::sink()),
            output: stream::iter([Ok(Written::Out(said))]).boxed(),
        })
    }

    async fn resize(&self, _session: &Session, _columns: u16, _rows: u16) -> Result<(), RuntimeError> {
        self.call("resize", |_| ())
    }

    /// Commands end with the number that they consist of.
    async fn exit_code(&self, session: &Session) -> Result<Option<i64>, RuntimeError> {
        self.call("exit_code", |_| match session {
            Session::Command(id) => Some(id.parse().unwrap_or(0)),
            Session::Container(_) => None,
        })
    }

    async fn disk_usage(&self, _id: &str) -> Result<i64, RuntimeError> {
        self.call("disk_usage", |_| 0)
    }

    async fn logs(&self, id: &str, _options: &LogOptions) -> Result<LogStream, RuntimeError> {
        let text = Bytes::from(format!("log of {id}\n"));
        self.call("logs", |_| stream::iter([Ok(text)]).boxed())
    }

    async fn events(&self) -> Result<BoxStream<'static, Result<String, RuntimeError>>, RuntimeError> {
        self.call("events", |_| ())?;
        let bell = self.bell.subscribe();
        // Any change ends the stream: the listener must do with that, too.
        let end = stream::once(async move {
            let mut bell = bell;
            let _ = bell.changed().await;
            Err(RuntimeError::Away { what: "listen".to_owned(), cause: "on purpose".to_owned() })
        });
        Ok(end.boxed())
    }

    async fn image(&self, name: &str) -> Result<Option<Image>, RuntimeError> {
        self.call("image", |_| (!name.starts_with("missing")).then(Image::default))
    }

    async fn pull(&self, name: &str, _: Option<&Credentials>) -> Result<(), RuntimeError> {
        let message = format!("pull access denied for {name}");
        self.call("pull", |_| ())?;
        Err(RuntimeError::NotFound { what: format!("pull image {name}"), message })
    }

    async fn import(
        &self,
        _archive: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> Result<String, RuntimeError> {
        self.call("import", |_| String::new())
    }
}
