//! Requests as openssl writes them, and what becomes of them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Asked, Signer, automatic, awaits_signature, date, is_over, read};

pub(crate) const CLIENT: &str = include_str!("fixtures/client.pem");
const KUBELET: &str = include_str!("fixtures/kubelet.pem");
const SERVING: &str = include_str!("fixtures/serving.pem");

pub(crate) fn request(pem: &str, signer: &str, usages: &[&str]) -> Value {
    let spec = json!({
        "request": STANDARD.encode(pem), "signerName": format!("kubernetes.io/{signer}"), "usages": usages,
    });
    json!({"metadata": {"name": "r", "creationTimestamp": "2026-11-28T00:00:00Z"}, "spec": spec})
}

fn at(time: &str) -> Timestamp {
    format!("2026-11-{time}Z").parse().unwrap()
}

#[test]
fn a_request_says_who_wants_to_be_what_and_proves_the_key() {
    let client = read(CLIENT).unwrap();
    assert_eq!(
        (client.common_name.as_str(), client.organizations),
        ("jane", vec!["devs".to_owned(), "ops".to_owned()])
    );
    let serving = read(SERVING).unwrap();
    assert_eq!((serving.dns, serving.ips, serving.emails, serving.uris), (1, 1, 0, 0));
    assert_eq!(read(include_str!("fixtures/rsa.pem")).unwrap().common_name, "joe");
    // The signature stands at the end.
    let line = CLIENT.lines().rev().nth(1).unwrap();
    let forged = CLIENT.replace(line, &line.chars().rev().collect::<String>());
    for (bad, why) in [
        ("", "PEM block type must be CERTIFICATE REQUEST"),
        (&CLIENT.replace("REQUEST", "OF NOTHING"), "PEM block type must be CERTIFICATE REQUEST"),
        (
            &CLIENT
                .lines()
                .take(2)
                .chain(["-----END CERTIFICATE REQUEST-----"])
                .collect::<Vec<_>>()
                .join("\n"),
            "asn1",
        ),
        (&forged, ""),
    ] {
        let error = read(bad).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn each_signer_signs_what_upstreams_signs() {
    let (client, kubelet, serving) = (read(CLIENT).unwrap(), read(KUBELET).unwrap(), read(SERVING).unwrap());
    let [sign, cipher, user, server] =
        ["digital signature", "key encipherment", "client auth", "server auth"];
    for (signer, asked, usages, outcome) in [
        (Signer::Client, &client, vec![user], ""),
        (Signer::Client, &client, vec![cipher, sign, user], ""),
        (Signer::Client, &client, vec![sign], "missing required usage for client certificate: client auth"),
        (Signer::Client, &client, vec![user, server], "invalid usage for client certificate: server auth"),
        (Signer::Kubelet, &kubelet, vec![sign, cipher, user], ""),
        (Signer::Kubelet, &kubelet, vec![user, sign], ""),
        (
            Signer::Kubelet,
            &kubelet,
            vec![sign, user, server],
            "usages did not match [client auth digital signature key encipherment]",
        ),
        (Signer::Kubelet, &client, vec![sign, user], "subject organization is not system:nodes"),
        (Signer::Kubelet, &serving, vec![sign, user], "DNS subjectAltNames are not allowed"),
        (Signer::KubeletServing, &serving, vec![sign, server], ""),
        (Signer::KubeletServing, &kubelet, vec![sign, server], "DNS or IP subjectAltName is required"),
    ] {
        let said = signer.check(asked, &usages).err().unwrap_or_default();
        assert_eq!(said, outcome, "{signer:?} {usages:?}");
    }
    let stranger = Asked { common_name: "n1".to_owned(), ..kubelet };
    assert!(
        Signer::Kubelet.check(&stranger, &[sign, user]).unwrap_err().ends_with("begin with system:node:")
    );
}

#[test]
fn only_nodes_are_approved_without_anybody_looking() {
    let usages = ["digital signature", "client auth"];
    let names = |request: &Value, pem: &str| {
        let found = automatic(request, &read(pem).unwrap());
        found.iter().map(|(subresource, _)| *subresource).collect::<Vec<_>>()
    };
    let mut own = request(KUBELET, "kube-apiserver-client-kubelet", &usages);
    assert_eq!(names(&own, KUBELET), ["nodeclient"]);
    own["spec"]["username"] = json!("system:node:n1");
    assert_eq!(names(&own, KUBELET), ["selfnodeclient", "nodeclient"]);
    own["status"] = json!({"conditions": [{"type": "Denied", "status": "True"}]});
    assert!(names(&own, KUBELET).is_empty());
    assert!(names(&request(CLIENT, "kube-apiserver-client", &usages), CLIENT).is_empty());
    assert!(names(&request(CLIENT, "kube-apiserver-client-kubelet", &usages), CLIENT).is_empty());
}

#[test]
fn requests_go_an_hour_after_they_were_decided_upon_or_after_a_day() {
    let mut open = request(CLIENT, "kube-apiserver-client", &["client auth"]);
    assert!(!is_over(&open, at("28T23:59:00")) && is_over(&open, at("29T00:01:00")));
    let decided = |kind: &str| json!({"conditions": [{"type": kind, "status": "True", "lastUpdateTime": "2026-11-28T01:00:00Z"}]});
    for kind in ["Denied", "Failed"] {
        open["status"] = decided(kind);
        assert!(!is_over(&open, at("28T02:00:00")) && is_over(&open, at("28T02:00:01")), "{kind}");
        assert!(!awaits_signature(&open));
    }
    open["status"] = decided("Approved");
    assert!(!is_over(&open, at("30T02:00:01")), "its signer may still be coming");
    assert!(awaits_signature(&open));
    open["status"]["certificate"] = json!("eA==");
    assert!(is_over(&open, at("28T02:00:01")) && !awaits_signature(&open));
}

#[test]
fn conditions_are_dated_when_they_come_about() {
    let old = json!({"status": {"conditions": [
        {"type": "A", "status": "True", "lastUpdateTime": "x", "lastTransitionTime": "then"},
    ]}});
    let mut new =
        json!({"status": {"conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "True"}]}});
    date(&old, &mut new, at("28T00:00:00"));
    let now = "2026-11-28T00:00:00Z";
    assert_eq!(new["status"]["conditions"][0]["lastTransitionTime"], "then");
    assert_eq!(new["status"]["conditions"][0]["lastUpdateTime"], now);
    assert_eq!(new["status"]["conditions"][1]["lastTransitionTime"], now);
}
