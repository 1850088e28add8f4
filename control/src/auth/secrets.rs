//! Tokens in Secrets, for whoever asks for one: a Secret of type `kubernetes.io/service-account-token` is filled with a token of
//! the account that it names, and goes when the account does.
//!
//! Source: k8s.io/kubernetes/pkg/controller/serviceaccount/tokens_controller.go.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oarlock_api::catalogue::{SECRETS, SERVICE_ACCOUNTS};
use oarlock_api::meta;
use oarlock_api::status::Status;
use oarlock_store::Revision;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::tokens::{Named, Tokens};
use crate::cache::{CacheWatch, Object};
use crate::patch::Patch;
use crate::registry::{DeleteOptions, Registry, Sub, WriteOptions};

const TYPE: &str = "kubernetes.io/service-account-token";
const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";
/// How long after a failure everything is looked at again.
const AGAIN: Duration = Duration::from_secs(5);

/// Fills and removes such Secrets.
pub(crate) struct TokenSecrets {
    registry: Arc<Registry>,
    tokens: Arc<Tokens>,
    ca_pem: String,
}

/// What should become of a Secret.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    Gone,
    Fill(Named),
}

impl TokenSecrets {
    pub(crate) fn new(registry: Arc<Registry>, tokens: Arc<Tokens>, ca_pem: &str) -> Self {
        Self { registry, tokens, ca_pem: ca_pem.to_owned() }
    }

    /// Follows Secrets and accounts until `stop`.
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        let work = async {
            loop {
                if let Err(status) = self.follow().await {
                    tracing::debug!(%status, "token Secrets are looked at again");
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    }

    /// Everything there is, then what changes, until something fails.
    async fn follow(&self) -> Result<(), Status> {
        let cache = self.registry.cache();
        cache.wait_for(Revision(1), Duration::MAX).await;
        let mut watch = cache.watch(None, cache.revision()).map_err(Status::internal)?;
        for secret in cache.list(&SECRETS, None).0 {
            self.see(&secret).await?;
        }
        loop {
            for object in changed(&mut watch).await? {
                if *object.key.kind == SECRETS {
                    self.see(&object).await?;
                } else {
                    for secret in cache.list(&SECRETS, Some(&object.key.namespace)).0 {
                        self.see(&secret).await?;
                    }
                }
            }
        }
    }

    async fn see(&self, secret: &Object) -> Result<(), Status> {
        let value = secret.value();
        if value["type"] != TYPE {
            return Ok(());
        }
        let (namespace, name) = (&secret.key.namespace, &secret.key.name);
        let outcome = match self.verdict(namespace, &value).await? {
            Verdict::Good => return Ok(()),
            Verdict::Gone => {
                let options =
                    DeleteOptions { uid: Some(meta::uid(&value).to_owned()), ..DeleteOptions::default() };
                self.registry.delete(&SECRETS, namespace, name, &options).await.map(drop)
            }
            Verdict::Fill(account) => self.fill(namespace, name, &value, &account).await,
        };
        match outcome {
            // Somebody was faster; their change comes by, too.
            Err(status) if status.is("NotFound") || status.is("Conflict") => Ok(()),
            other => other,
        }
    }

    async fn verdict(&self, namespace: &str, secret: &Value) -> Result<Verdict, Status> {
        let said = |key: &str| meta::annotation(secret, key).unwrap_or("");
        let mut account = self.account(namespace, said(NAME));
        if account.is_none() {
            // Only the store knows that there is none.
            self.registry.catch_up().await?;
            account = self.account(namespace, said(NAME));
        }
        let Some(account) = account else { return Ok(Verdict::Gone) };
        if !said(UID).is_empty() && said(UID) != account.uid {
            return Ok(Verdict::Gone);
        }
        let has = |key: &str| secret["data"][key].as_str().is_some_and(|text| !text.is_empty());
        let ca = STANDARD.encode(&self.ca_pem);
        let good =
            said(UID) == account.uid && has("token") && has("namespace") && secret["data"]["ca.crt"] == ca;
        Ok(if good { Verdict::Good } else { Verdict::Fill(account) })
    }

    fn account(&self, namespace: &str, name: &str) -> Option<Named> {
        let account = self.registry.cache().get(&SERVICE_ACCOUNTS, namespace, name)?;
        Some(Named { name: name.to_owned(), uid: meta::uid(&account.value()).to_owned() })
    }

    async fn fill(&self, namespace: &str, name: &str, secret: &Value, account: &Named) -> Result<(), Status> {
        let mut data =
            json!({"ca.crt": STANDARD.encode(&self.ca_pem), "namespace": STANDARD.encode(namespace)});
        if secret["data"]["token"].as_str().is_none_or(str::is_empty) {
            let token = self.tokens.legacy(namespace, account, name).map_err(Status::internal)?;
            data["token"] = json!(STANDARD.encode(token));
        }
        let metadata = json!({
            "uid": meta::uid(secret), "resourceVersion": meta::resource_version(secret), "annotations": {UID: account.uid},
        });
        let patch = Patch::Merge(json!({"metadata": metadata, "data": data}));
        let options = WriteOptions::default();
        self.registry.patch(&SECRETS, namespace, name, Sub::Main, &patch, &options).await.map(drop)
    }
}

/// Secrets that were written, and accounts that were written or went.
async fn changed(watch: &mut CacheWatch) -> Result<Vec<Arc<Object>>, Status> {
    let changes = watch.next().await.map_err(Status::internal)?;
    let ours = changes.iter().filter(|change| {
        let kind = change.object().key.kind;
        *kind == SERVICE_ACCOUNTS
            || *kind == SECRETS && matches!(&***change, crate::cache::Change::Put { .. })
    });
    Ok(ours.map(|change| Arc::clone(change.object())).collect())
}
