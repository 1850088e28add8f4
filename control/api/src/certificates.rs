//! CertificateSigningRequests: what a request asks for, whether its signer may give that, and when it is over. Pure; now is an
//! argument.
//!
//! Source: k8s.io/kubernetes/pkg/{apis/certificates,controller/certificates}.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use crate::meta;

/// The group of nodes.
const NODES: &str = "system:nodes";
/// How the name of a node begins.
const NODE: &str = "system:node:";
const HOUR: i64 = 60 * 60;
const DAY: i64 = 24 * HOUR;

/// Who signs. What others sign is theirs to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signer {
    /// `kubernetes.io/kube-apiserver-client`: clients of the API.
    Client,
    /// `kubernetes.io/kube-apiserver-client-kubelet`: nodes as clients of the API.
    Kubelet,
    /// `kubernetes.io/kubelet-serving`: nodes as servers.
    KubeletServing,
}

/// The name of [`Signer::Client`].
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Which no request of version 1 may name.
pub const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// The subject and the names of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// The user, as which the holder will be known.
    pub common_name: String,
    /// Their groups.
    pub organizations: Vec<String>,
    /// How many names of each kind are asked for beside.
    pub dns: usize,
    /// Addresses.
    pub ips: usize,
    /// Of mail.
    pub emails: usize,
    /// Others.
    pub uris: usize,
}

/// The PEM text of `spec.request`.
///
/// # Errors
/// It is no text in base64.
pub fn pem_of(request: &Value) -> Result<String, String> {
    let bytes = decode(request["spec"]["request"].as_str().unwrap_or(""))?;
    String::from_utf8(bytes).map_err(|e| e.to_string())
}

/// The bytes of a field that JSON shows as base64.
///
/// # Errors
/// It is none.
pub fn decode(text: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(text).map_err(|e| e.to_string())
}

/// Reads the PEM text of a request; whoever made it has the key.
///
/// # Errors
/// What is wrong with it.
pub fn read(pem: &str) -> Result<Asked, String> {
    let wrong_block = || "PEM block type must be CERTIFICATE REQUEST".to_owned();
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|_| wrong_block())?;
    if block.label != "CERTIFICATE REQUEST" {
        return Err(wrong_block());
    }
    let (rest, request) =
        X509CertificationRequest::from_der(&block.contents).map_err(|e| format!("asn1: {e}"))?;
    if !rest.is_empty() {
        return Err("asn1: syntax error: trailing data".to_owned());
    }
    request.verify_signature().map_err(|e| format!("x509: {e}"))?;
    let subject = &request.certification_request_info.subject;
    let text = |part: &x509_parser::x509::AttributeTypeAndValue<'_>| part.as_str().map(str::to_owned);
    // Of several names the last counts; what cannot be read here might be read elsewhere.
    let common_name = subject.iter_common_name().last().map(text).transpose().map_err(|e| e.to_string())?;
    let organizations =
        subject.iter_organization().map(text).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    let mut asked = Asked { common_name: common_name.unwrap_or_default(), organizations, ..Asked::default() };
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(_) => asked.dns += 1,
                GeneralName::IPAddress(_) => asked.ips += 1,
                GeneralName::RFC822Name(_) => asked.emails += 1,
                GeneralName::URI(_) => asked.uris += 1,
                _ => {}
            }
        }
    }
    Ok(asked)
}

impl Signer {
    /// The signer of a name, if it is one of the cluster's own.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        match name {
            CLIENT => Some(Self::Client),
            "kubernetes.io/kube-apiserver-client-kubelet" => Some(Self::Kubelet),
            "kubernetes.io/kubelet-serving" => Some(Self::KubeletServing),
            _ => None,
        }
    }

    /// Whether it signs that.
    ///
    /// # Errors
    /// Why not, in upstream's words.
    pub fn check(self, asked: &Asked, usages: &[&str]) -> Result<(), String> {
        match self {
            Self::Client => client_usages(usages),
            Self::Kubelet => {
                node(asked)?;
                refuse(asked.dns, "DNS subjectAltNames are not allowed")?;
                refuse(asked.emails, "Email subjectAltNames are not allowed")?;
                refuse(asked.ips, "IP subjectAltNames are not allowed")?;
                refuse(asked.uris, "URI subjectAltNames are not allowed")?;
                node_usages(usages, "client auth")
            }
            Self::KubeletServing => {
                node(asked)?;
                if asked.dns + asked.ips == 0 {
                    return Err("DNS or IP subjectAltName is required".to_owned());
                }
                refuse(asked.emails, "Email subjectAltNames are not allowed")?;
                refuse(asked.uris, "URI subjectAltNames are not allowed")?;
                node_usages(usages, "server auth")
            }
        }
    }
}

fn refuse(count: usize, why: &str) -> Result<(), String> {
    if count == 0 { Ok(()) } else { Err(why.to_owned()) }
}

fn client_usages(usages: &[&str]) -> Result<(), String> {
    let known = ["digital signature", "key encipherment", "client auth"];
    if let Some(usage) = usages.iter().find(|usage| !known.contains(usage)) {
        return Err(format!("invalid usage for client certificate: {usage}"));
    }
    if !usages.contains(&"client auth") {
        return Err("missing required usage for client certificate: client auth".to_owned());
    }
    Ok(())
}

fn node(asked: &Asked) -> Result<(), String> {
    if asked.organizations != [NODES] {
        return Err(format!("subject organization is not {NODES}"));
    }
    if !asked.common_name.starts_with(NODE) {
        return Err(format!("subject common name does not begin with {NODE}"));
    }
    Ok(())
}

/// Those that a node needs, of which keys other than RSA need no encipherment.
fn node_usages(usages: &[&str], purpose: &str) -> Result<(), String> {
    let mut given = usages.to_vec();
    given.sort_unstable();
    let mut wanted = vec!["digital signature", "key encipherment", purpose];
    wanted.sort_unstable();
    let without: Vec<&str> = wanted.iter().copied().filter(|usage| *usage != "key encipherment").collect();
    if given == wanted || given == without {
        return Ok(());
    }
    Err(format!("usages did not match [{}]", wanted.join(" ")))
}

/// The usages of `spec.usages`.
#[must_use]
pub fn usages(request: &Value) -> Vec<&str> {
    request["spec"]["usages"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The signer of `spec.signerName`.
#[must_use]
pub fn signer_name(request: &Value) -> &str {
    request["spec"]["signerName"].as_str().unwrap_or("")
}

fn conditions<'v>(request: &'v Value, kind: &'v str) -> impl Iterator<Item = &'v Value> {
    let all = request["status"]["conditions"].as_array().into_iter().flatten();
    all.filter(move |condition| condition["type"] == kind && condition["status"] != "False")
}

/// Whether it has a condition of this type.
#[must_use]
pub fn is(request: &Value, kind: &str) -> bool {
    conditions(request, kind).next().is_some()
}

/// Whether its certificate was given.
#[must_use]
pub fn is_issued(request: &Value) -> bool {
    request["status"]["certificate"].as_str().is_some_and(|certificate| !certificate.is_empty())
}

/// Whether it waits for its signer.
#[must_use]
pub fn awaits_signature(request: &Value) -> bool {
    is(request, "Approved") && !is(request, "Denied") && !is(request, "Failed") && !is_issued(request)
}

/// What lets a node's request be approved without anybody looking at it: the subresource that its user has to be allowed to
/// create, and what is then said.
#[must_use]
pub fn automatic(request: &Value, asked: &Asked) -> &'static [(&'static str, &'static str)] {
    const OTHERS: (&str, &str) =
        ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.");
    const OWN: (&str, &str) =
        ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.");
    let decided = ["Approved", "Denied"].iter().any(|kind| is(request, kind)) || is_issued(request);
    let ours = Signer::of(signer_name(request)) == Some(Signer::Kubelet);
    if decided || !ours || Signer::Kubelet.check(asked, &usages(request)).is_err() {
        return &[];
    }
    if request["spec"]["username"] == asked.common_name.as_str() { &[OWN, OTHERS] } else { &[OTHERS] }
}

/// Whether a request has been there for long enough: an hour after it was decided upon, a day while nobody does, or its
/// certificate is over.
#[must_use]
pub fn is_over(request: &Value, now: Timestamp) -> bool {
    let older = |time: &str, than: i64| {
        meta::parse_time(time).is_some_and(|then| now.as_second() - then.as_second() > than)
    };
    let decided = ["Approved", "Denied", "Failed"];
    let old = decided.iter().flat_map(|kind| conditions(request, kind)).any(|condition| {
        let done = condition["type"] != "Approved" || is_issued(request);
        done && older(condition["lastUpdateTime"].as_str().unwrap_or(""), HOUR)
    });
    let undecided = !decided.iter().any(|kind| is(request, kind));
    old || undecided && older(meta::text(request, "creationTimestamp"), DAY) || has_expired(request, now)
}

fn has_expired(request: &Value, now: Timestamp) -> bool {
    let text = request["status"]["certificate"].as_str().unwrap_or("");
    let Ok(pem) = STANDARD.decode(text) else { return false };
    let Ok((_, block)) = x509_parser::pem::parse_x509_pem(&pem) else { return false };
    block.parse_x509().is_ok_and(|certificate| certificate.validity().not_after.timestamp() < now.as_second())
}

/// Tells new conditions when they came about: those that do not say it themselves.
pub fn date(old: &Value, new: &mut Value, now: Timestamp) {
    let now = meta::time(now);
    let before = old["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let Some(conditions) = new.pointer_mut("/status/conditions").and_then(Value::as_array_mut) else {
        return;
    };
    for condition in conditions.iter_mut().filter(|condition| condition.is_object()) {
        let present = before.iter().find(|old| {
            old["type"] == condition["type"] && old["status"] == condition["status"] && old.is_object()
        });
        if condition["lastUpdateTime"].is_null() {
            condition["lastUpdateTime"] = Value::from(now.as_str());
        }
        if condition["lastTransitionTime"].is_null() {
            let since = present.map(|old| &old["lastTransitionTime"]).filter(|time| !time.is_null());
            condition["lastTransitionTime"] = since.cloned().unwrap_or_else(|| Value::from(now.as_str()));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
