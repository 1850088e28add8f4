//! The store on etcd (3.4 or newer): for production, and for more than one control plane.
//!
//! In: [`Store`] calls. Out: the same, answered by etcd, in its revisions. Connecting is lazy: etcd may be away at any time,
//! reads try again for a moment, a write whose fate is unknown is [`Error::Unavailable`]. Never here: progress requests,
//! which may overtake events in etcd before 3.4.31 and 3.5.13 (etcd issue 15220).

mod errors;
mod list;
mod together;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::proto::{PbKeyValue, PbResponseOp, PbTxnOpResponse};
use etcd_client::{
    Certificate, Client, Compare as EtcdCompare, CompareOp, ConnectOptions, GetOptions, Identity, KvClient,
    PutOptions, ResponseHeader, TlsOptions, Txn, TxnOp, WatchClient,
};

pub use together::Together;

use crate::{
    Compare, Error, LeaseId, ListOptions, MAX_VALUE, Op, Outcome, Page, Record, Result, Revision, Store,
    Watch,
};

/// No answer after this is no answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(3);
/// How often an idle connection is probed, and how long the answer may take: finds peers that died without a word.
const PROBE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// For how long a read is tried again while etcd is away.
const PATIENCE: Duration = Duration::from_secs(3);
/// As etcd's own client: the server bounds its answers, not we.
const MAX_MESSAGE: usize = i32::MAX as usize;

/// Where etcd is and how to be let in.
#[derive(Debug, Clone, Default)]
pub struct EtcdOptions {
    /// The members' client addresses: `http://127.0.0.1:2379`, or `https://...`.
    pub endpoints: Vec<String>,
    /// The file with the authority that signed the servers' certificates (PEM); https only.
    pub ca: Option<PathBuf>,
    /// The file with our certificate (PEM); together with `key`.
    pub cert: Option<PathBuf>,
    /// The file with our certificate's key (PEM).
    pub key: Option<PathBuf>,
    /// What begins like one of these may be written at one revision with others of them. A watch that breaks between two and goes on from
    /// the first misses the second: for what is written often and matters little by itself.
    pub together: Vec<Together>,
}

/// A store in etcd. Keys outside of what is asked for are left alone.
pub struct Etcd {
    kv: KvClient,
    watches: WatchClient,
    client: Client,
    name: String,
    together: together::Door,
    of_door: Vec<Together>,
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd").field("endpoints", &self.name).finish_non_exhaustive()
    }
}

impl Etcd {
    /// Prepares the connections; does not wait for etcd.
    ///
    /// # Errors
    /// Addresses or certificate files that cannot be used.
    pub async fn connect(options: EtcdOptions) -> Result<Self> {
        let name = options.endpoints.join(",");
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(CONNECT)
            .with_keep_alive(PROBE.0, PROBE.1)
            .with_keep_alive_while_idle(true)
            // A member cut off from its peers ends its watches instead of going quiet.
            .with_require_leader(true);
        if let Some(tls) = tls(&options)? {
            connect = connect.with_tls(tls);
        }
        let client = Client::connect(&options.endpoints, Some(connect)).await.map_err(|error| {
            Error::Unavailable(format!(
                "etcd cannot be used at {name:?} ({error}): check the endpoints given"
            ))
        })?;
        Ok(Self {
            kv: client.kv_client().max_decoding_message_size(MAX_MESSAGE),
            watches: client.watch_client().max_decoding_message_size(MAX_MESSAGE),
            client,
            name,
            together: together::Door::default(),
            of_door: options.together,
        })
    }

    /// Runs until dropped: forgets history older than `age`, as kube-apiserver does. Several control planes may do it at once.
    pub async fn compact_regularly(&self, age: Duration) {
        let mut forget = None;
        loop {
            match self.revision().await {
                Ok(now) => {
                    if let Some(old) = forget.replace(now)
                        && let Err(error) = self.compact(old).await
                    {
                        tracing::warn!(%error, revision = old.0, "etcd's history was not compacted; trying again later");
                    }
                }
                Err(error) => tracing::warn!(%error, "etcd's history was not compacted; trying again later"),
            }
            tokio::time::sleep(age).await;
        }
    }

    async fn revision(&self) -> Result<Revision> {
        Ok(self.get("/").await?.1)
    }

    /// Waits for an answer, but not forever.
    async fn call<T>(
        &self,
        what: &str,
        answer: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, errors::Failure> {
        match tokio::time::timeout(TIMEOUT, answer).await {
            Ok(answer) => answer.map_err(|error| errors::read(&self.name, what, &error)),
            Err(_) => Err(errors::Failure::away(&self.name, what, &format!("no answer in {TIMEOUT:?}"))),
        }
    }

    /// One range read, tried again for a moment while etcd is away.
    async fn range(
        &self,
        key: &str,
        options: &GetOptions,
    ) -> Result<(Vec<PbKeyValue>, bool, u64, Revision), errors::Failure> {
        let start = tokio::time::Instant::now();
        let mut pause = Duration::from_millis(50);
        loop {
            let mut kv = self.kv.clone();
            match self.call("read", kv.get(key, Some(options.clone()))).await {
                Err(failure) if failure.is_away() && start.elapsed() + pause < PATIENCE => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                Err(failure) => return Err(failure),
                Ok(response) => {
                    let revision = revision_of(response.header()).map_err(errors::Failure::Told)?;
                    let (more, count) = (response.more(), unsigned(response.count()));
                    return Ok((response.0.kvs, more, count, revision));
                }
            }
        }
    }

    /// One transaction alone.
    async fn write(&self, compares: Vec<Compare>, ops: Vec<Op>, size: usize) -> Result<Outcome> {
        let bound = |op: &Op| if let Op::Put(_, _, lease) = op { *lease } else { None };
        let lease = ops.iter().find_map(bound).unwrap_or(LeaseId(0));
        let txn = transaction(&compares, ops);
        let mut kv = self.kv.clone();
        match self.call("write", kv.txn(txn)).await {
            Ok(response) => {
                let revision = revision_of(response.header())?;
                outcome(response.succeeded(), revision, response.0.responses)
            }
            Err(failure) => Err(failure.into_error(lease, size)),
        }
    }

    /// Fills in what etcd's refusal of a revision does not say.
    async fn explain(&self, failure: errors::Failure, requested: Revision) -> Error {
        match failure {
            errors::Failure::Compacted => {
                let oldest = watch::oldest(self).await.unwrap_or(Revision(requested.0 + 1));
                Error::Compacted { requested, oldest }
            }
            errors::Failure::Future => match self.revision().await {
                Ok(current) => Error::FutureRevision { requested, current },
                Err(error) => error,
            },
            other => other.into_error(LeaseId(0), 0),
        }
    }
}

fn tls(options: &EtcdOptions) -> Result<Option<TlsOptions>> {
    let read = |path: &PathBuf| {
        std::fs::read(path)
            .map_err(|error| Error::Unavailable(format!("cannot read {}: {error}", path.display())))
    };
    let mut tls = TlsOptions::new();
    if let Some(ca) = &options.ca {
        tls = tls.ca_certificate(Certificate::from_pem(read(ca)?));
    }
    match (&options.cert, &options.key) {
        (Some(cert), Some(key)) => tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?)),
        (None, None) if options.ca.is_none() => return Ok(None),
        (None, None) => {}
        _ => {
            let text = "etcd's client certificate and its key belong together: give both files or none";
            return Err(Error::Unavailable(text.to_owned()));
        }
    }
    Ok(Some(tls))
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn signed(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

fn revision_of(header: Option<&ResponseHeader>) -> Result<Revision> {
    let header = header.ok_or_else(|| Error::Corrupt("etcd answered without a header".to_owned()))?;
    Ok(Revision(unsigned(header.revision())))
}

/// A key and value as etcd says them.
fn record(kv: PbKeyValue) -> Result<Record> {
    let key = String::from_utf8(kv.key)
        .map_err(|error| Error::Corrupt(format!("etcd holds a key that is no text: {error}")))?;
    let (created, modified) = (unsigned(kv.create_revision), unsigned(kv.mod_revision));
    Ok(Record { key, value: kv.value.into(), created: Revision(created), modified: Revision(modified) })
}

/// What came of a transaction: its revision, or the compared keys as they are.
fn outcome(succeeded: bool, revision: Revision, responses: Vec<PbResponseOp>) -> Result<Outcome> {
    if succeeded {
        return Ok(Outcome::Committed(revision));
    }
    let mut present = Vec::with_capacity(responses.len());
    for answer in responses {
        let Some(PbTxnOpResponse::ResponseRange(found)) = answer.response else {
            return Err(Error::Corrupt("etcd answered a read with something else".to_owned()));
        };
        present.push(found.kvs.into_iter().next().map(record).transpose()?);
    }
    Ok(Outcome::Conflict(present))
}

/// The transaction in etcd's words: when it fails, it reads the compared keys.
fn transaction(compares: &[Compare], ops: Vec<Op>) -> Txn {
    let mut conditions = Vec::with_capacity(compares.len());
    let mut reads = Vec::with_capacity(compares.len());
    for compare in compares {
        let key = match compare {
            Compare::Absent(key) => {
                conditions.push(EtcdCompare::create_revision(key.as_str(), CompareOp::Equal, 0));
                key
            }
            Compare::ModifiedAt(key, revision) => {
                // Without it, a key that does not exist would have been modified at 0.
                conditions.push(EtcdCompare::create_revision(key.as_str(), CompareOp::Greater, 0));
                conditions.push(EtcdCompare::mod_revision(key.as_str(), CompareOp::Equal, signed(*revision)));
                key
            }
        };
        reads.push(TxnOp::get(key.as_str(), None));
    }
    let writes: Vec<TxnOp> = ops
        .into_iter()
        .map(|op| match op {
            Op::Put(key, value, lease) => {
                let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
                TxnOp::put(key, Vec::from(value), options)
            }
            Op::Delete(key) => TxnOp::delete(key, None),
        })
        .collect();
    Txn::new().when(conditions).and_then(writes).or_else(reads)
}

#[async_trait]
impl Store for Etcd {
    async fn get(&self, key: &str) -> Result<(Option<Record>, Revision)> {
        let (kvs, _, _, revision) = match self.range(key, &GetOptions::new()).await {
            Ok(found) => found,
            Err(failure) => return Err(failure.into_error(LeaseId(0), 0)),
        };
        Ok((kvs.into_iter().next().map(record).transpose()?, revision))
    }

    async fn list(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        list::list(self, prefix, options).await
    }

    async fn txn(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Outcome> {
        let put = |op: &Op| if let Op::Put(key, value, _) = op { key.len() + value.len() } else { 0 };
        let size = ops.iter().map(put).sum();
        if size > MAX_VALUE {
            return Err(Error::TooLarge { size, limit: MAX_VALUE });
        }
        match self.hand_over(compares, ops, size).await {
            Ok(outcome) => outcome,
            Err((compares, ops)) => self.write(compares, ops, size).await,
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch> {
        watch::watch(self, prefix, after).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId> {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let seconds = i64::try_from(seconds.max(1)).unwrap_or(i64::MAX);
        let mut leases = self.client.lease_client();
        match self.call("grant a lease", leases.grant(seconds, None)).await {
            Ok(response) => Ok(LeaseId(response.id())),
            Err(failure) => Err(failure.into_error(LeaseId(0), 0)),
        }
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        let mut leases = self.client.lease_client();
        match self.call("keep a lease alive", leases.keep_alive(lease.0)).await {
            Ok(_) => Ok(()),
            Err(failure) => Err(failure.into_error(lease, 0)),
        }
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<()> {
        let mut leases = self.client.lease_client();
        match self.call("revoke a lease", leases.revoke(lease.0)).await {
            Ok(_) => Ok(()),
            Err(failure) => Err(failure.into_error(lease, 0)),
        }
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        if revision.0 == 0 {
            return Ok(());
        }
        let mut kv = self.kv.clone();
        match self.call("compact", kv.compact(signed(revision), None)).await {
            // Somebody else was faster.
            Ok(_) | Err(errors::Failure::Compacted) => Ok(()),
            Err(failure) => Err(self.explain(failure, revision).await),
        }
    }
}
