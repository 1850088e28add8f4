//! CertificateSigningRequests: who asked, who may approve and sign, and the cluster's own signers.
//!
//! In: requests out of the cache. Out: approvals (of nodes alone), certificates, and deletions of what is over. What may be
//! signed is decided in `oarlock_api::certificates`; nothing here looks into a request.
//!
//! Source: k8s.io/kubernetes/plugin/pkg/admission/certificates, pkg/registry/certificates, pkg/controller/certificates.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use oarlock_api::catalogue::{CERTIFICATE_SIGNING_REQUESTS, Kind};
use oarlock_api::certificates::{self, Signer};
use oarlock_api::meta;
use oarlock_api::status::Status;
use oarlock_daemon::pki::{Ca, Usage};
use oarlock_store::Revision;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{About, Attributes, Authorizer, ResourceAttributes, User};
use crate::cache::{Change, Object};
use crate::registry::{DeleteOptions, Registry, Sub, WriteOptions};

const GROUP: &str = "certificates.k8s.io";
/// How long after a failure everything is looked at again.
const AGAIN: Duration = Duration::from_secs(5);
/// How often it is looked for what is over, and for whom a role has come to approve that waits.
const LOOK: Duration = Duration::from_secs(30);

/// Writes into a new request who asks; what the client says about that does not count.
pub(crate) fn asked_by(kind: &Kind, user: &User, request: &mut Value) {
    if *kind != CERTIFICATE_SIGNING_REQUESTS {
        return;
    }
    let spec = meta::map_at(meta::map_of(request), "spec");
    for field in ["username", "uid", "groups", "extra"] {
        spec.shift_remove(field);
    }
    spec.insert("username".to_owned(), json!(user.name));
    if !user.uid.is_empty() {
        spec.insert("uid".to_owned(), json!(user.uid));
    }
    spec.insert("groups".to_owned(), json!(user.groups));
    if !user.extra.is_empty() {
        spec.insert("extra".to_owned(), json!(user.extra));
    }
}

/// Whether a user may do that with the requests of a signer, or with those of all signers of its domain.
pub(super) fn may(authorizer: &Authorizer, user: &User, verb: &str, signer: &str) -> bool {
    let of_domain = signer.split_once('/').map(|(domain, _)| format!("{domain}/*"));
    [Some(signer), of_domain.as_deref()].into_iter().flatten().any(|name| {
        let about =
            ResourceAttributes { group: GROUP, resource: "signers", name, ..ResourceAttributes::default() };
        authorizer.decide(user, &Attributes { verb, about: About::Resource(about) }).is_allowed()
    })
}

/// Who approves may approve for that signer, and who sets a certificate or a condition may sign for it.
pub(super) fn check(
    part: &str,
    old: &Value,
    new: &Value,
    may: impl Fn(&str, &str) -> bool,
) -> Result<(), Status> {
    let conditions = |object: &Value| object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let certificate =
        |object: &Value| object["status"]["certificate"].as_str().unwrap_or_default().to_owned();
    let verb = match part {
        "approval" => "approve",
        "status" if conditions(old) != conditions(new) || certificate(old) != certificate(new) => "sign",
        _ => return Ok(()),
    };
    let signer = certificates::signer_name(old);
    if may(verb, signer) {
        return Ok(());
    }
    let why = format!("user not permitted to {verb} requests with signerName {signer:?}");
    Err(Status::forbidden(&CERTIFICATE_SIGNING_REQUESTS, meta::name(old), &why))
}

/// Approves the requests of nodes, signs what was approved, removes what is over.
pub(crate) struct Signing {
    registry: Arc<Registry>,
    ca: Arc<Ca>,
    authorizer: Arc<Authorizer>,
}

impl Signing {
    pub(crate) fn new(registry: Arc<Registry>, ca: Arc<Ca>, authorizer: Arc<Authorizer>) -> Self {
        Self { registry, ca, authorizer }
    }

    /// Follows requests until `stop`.
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        let work = async {
            loop {
                if let Err(status) = self.follow().await {
                    tracing::debug!(%status, "certificate requests are looked at again");
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
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                changes = watch.next() => {
                    for change in changes.map_err(Status::internal)? {
                        if let Change::Put { new, .. } = &*change
                            && *new.key.kind == CERTIFICATE_SIGNING_REQUESTS
                        {
                            self.see(new).await?;
                        }
                    }
                }
                _ = look.tick() => self.look(Timestamp::now()).await?,
            }
        }
    }

    /// Removes requests that are over, and looks at the others.
    async fn look(&self, now: Timestamp) -> Result<(), Status> {
        for request in self.registry.cache().list(&CERTIFICATE_SIGNING_REQUESTS, None).0 {
            if !certificates::is_over(&request.value(), now) {
                self.see(&request).await?;
                continue;
            }
            let options = DeleteOptions { uid: Some(request.uid.to_string()), ..DeleteOptions::default() };
            let kind = &CERTIFICATE_SIGNING_REQUESTS;
            settled(self.registry.delete(kind, "", &request.key.name, &options).await.map(drop))?;
        }
        Ok(())
    }

    /// Takes the next step with a request, if it is ours to take.
    async fn see(&self, request: &Object) -> Result<(), Status> {
        let value = request.value();
        let Some(signer) = Signer::of(certificates::signer_name(&value)) else { return Ok(()) };
        if certificates::is_issued(&value) {
            return Ok(());
        }
        // Nothing that does not parse has come in.
        let Ok(pem) = certificates::pem_of(&value) else { return Ok(()) };
        let Ok(asked) = certificates::read(&pem) else { return Ok(()) };
        let granted = certificates::automatic(&value, &asked)
            .iter()
            .find(|(subresource, _)| self.has_right(&user_of(&value), subresource));
        if let Some((_, message)) = granted {
            let approved = condition("Approved", "AutoApproved", message);
            return self.write(&value, Sub::Approval, |status| push(status, &approved)).await;
        }
        if !certificates::awaits_signature(&value) {
            return Ok(());
        }
        let usages = certificates::usages(&value);
        let signed =
            signer.check(&asked, &usages).map_err(|why| ("SignerValidationFailure", why)).and_then(|()| {
                let life = value["spec"]["expirationSeconds"].as_u64().map(Duration::from_secs);
                let usages: Vec<Usage> = usages.iter().filter_map(|usage| usage_of(usage)).collect();
                self.ca.grant(&pem, &usages, life).map_err(|why| ("SigningFailure", why.to_string()))
            });
        match signed {
            Ok(certificate) => {
                tracing::info!(request = %request.key.name, "a certificate was signed");
                let certificate = json!(STANDARD.encode(certificate));
                self.write(&value, Sub::Status, |status| status["certificate"] = certificate.clone()).await
            }
            Err((reason, why)) => {
                let failed = condition("Failed", reason, &why);
                self.write(&value, Sub::Status, |status| push(status, &failed)).await
            }
        }
    }

    fn has_right(&self, user: &User, subresource: &str) -> bool {
        let resource = CERTIFICATE_SIGNING_REQUESTS.plural;
        let about =
            ResourceAttributes { group: GROUP, resource, subresource, ..ResourceAttributes::default() };
        self.authorizer
            .decide(user, &Attributes { verb: "create", about: About::Resource(about) })
            .is_allowed()
    }

    /// Changes the status of a request that is still as it was looked at.
    async fn write(&self, seen: &Value, sub: Sub, change: impl Fn(&mut Value)) -> Result<(), Status> {
        let kind = &CERTIFICATE_SIGNING_REQUESTS;
        let version = meta::resource_version(seen).to_owned();
        let change = |mut present: Value| {
            if meta::resource_version(&present) != version {
                return Err(Status::modified(kind, meta::name(&present)));
            }
            if !present["status"].is_object() {
                present["status"] = json!({});
            }
            change(&mut present["status"]);
            Ok(present)
        };
        let options = WriteOptions::default();
        settled(self.registry.modify(kind, "", meta::name(seen), sub, &options, change).await.map(drop))
    }
}

/// Somebody was faster; their change comes by, too.
fn settled(outcome: Result<(), Status>) -> Result<(), Status> {
    match outcome {
        Err(status) if status.is("NotFound") || status.is("Conflict") => Ok(()),
        other => other,
    }
}

fn condition(kind: &str, reason: &str, message: &str) -> Value {
    json!({"type": kind, "status": "True", "reason": reason, "message": message})
}

fn push(status: &mut Value, condition: &Value) {
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    status["conditions"].as_array_mut().into_iter().for_each(|list| list.push(condition.clone()));
}

fn usage_of(usage: &str) -> Option<Usage> {
    match usage {
        "digital signature" => Some(Usage::DigitalSignature),
        "key encipherment" => Some(Usage::KeyEncipherment),
        "client auth" => Some(Usage::ClientAuth),
        "server auth" => Some(Usage::ServerAuth),
        _ => None,
    }
}

/// Who asked.
fn user_of(request: &Value) -> User {
    let spec = &request["spec"];
    let words = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let text = |field: &str| spec[field].as_str().unwrap_or("").to_owned();
    let extra = spec["extra"].as_object().into_iter().flatten();
    let extra: BTreeMap<_, _> = extra.map(|(key, values)| (key.clone(), words(values))).collect();
    User { name: text("username"), uid: text("uid"), groups: words(&spec["groups"]), extra }
}
