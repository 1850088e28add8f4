//! Requests for certificates through the whole server: who asks, who approves, who signs, and what comes of it.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oarlock_daemon::pki::{Ca, Identity, new_request, peer_identity};

use super::*;
use crate::auth::Signing;

const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET: &str = "kubernetes.io/kube-apiserver-client-kubelet";

fn identity(user: &str, groups: &[&str]) -> Identity {
    Identity { user: user.to_owned(), groups: groups.iter().map(|group| (*group).to_owned()).collect() }
}

fn request(name: &str, signer: &str, of: &Identity) -> Value {
    let (_, pem) = new_request(of).unwrap();
    let spec = json!({"request": STANDARD.encode(pem), "signerName": signer, "usages": ["digital signature", "client auth"]});
    json!({"metadata": {"name": name}, "spec": spec})
}

fn with(kind: &str) -> Value {
    let condition = json!({"type": kind, "status": "True", "reason": "Looked", "message": "looked at it"});
    json!({"status": {"conditions": [condition]}})
}

async fn as_user(api: &mut Api, name: &str, groups: &[&str]) {
    let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
    api.user = Some(User::known(name, &groups));
    api.fixture.registry.catch_up().await.unwrap();
}

/// A role of the cluster for one user.
async fn allow(api: &Api, user: &str, rules: Value) {
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({"metadata": {"name": user}, "rules": rules});
    assert_eq!(api.post(&format!("{rbac}/clusterroles"), role).await.code, 201);
    let binding = json!({
        "metadata": {"name": user}, "roleRef": {"kind": "ClusterRole", "name": user},
        "subjects": [{"kind": "User", "name": user}],
    });
    assert_eq!(api.post(&format!("{rbac}/clusterrolebindings"), binding).await.code, 201);
}

fn rule(resources: &[&str], verbs: &[&str], names: &[&str]) -> Value {
    json!({"apiGroups": ["certificates.k8s.io"], "resources": resources, "verbs": verbs, "resourceNames": names})
}

/// The cluster's signers; where their CA is.
fn sign(api: &Api) -> (Arc<Ca>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let ca = Arc::new(Ca::load_or_create(folder.path()).unwrap());
    let authorizer = Arc::clone(&api.server.authorizer);
    let signing = Signing::new(Arc::clone(&api.fixture.registry), Arc::clone(&ca), authorizer);
    let stop = api.fixture.tasks.token();
    api.fixture.tasks.job("signing", async move { signing.run(&stop).await });
    (ca, folder)
}

/// The status of a request once it is as it should be.
async fn until(api: &Api, name: &str, good: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..200 {
        let status = api.get(&format!("{PATH}/{name}")).await.json()["status"].take();
        if good(&status) {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{name} does not come to be as it should: {}", api.get(&format!("{PATH}/{name}")).await.json());
}

#[tokio::test]
async fn a_request_says_who_made_it_whatever_they_say() {
    let mut api = api().await;
    allow(&api, "jane", json!([rule(&["certificatesigningrequests"], &["create", "patch", "get"], &[])]))
        .await;
    as_user(&mut api, "jane", &["devs"]).await;
    let mut forged = request("r", CLIENT, &identity("jane", &["a", "b"]));
    forged["spec"]["username"] = json!("root");
    forged["spec"]["extra"] = json!({"a": ["b"]});
    forged["status"] = with("Approved")["status"].clone();
    let made = api.post(PATH, forged.clone()).await;
    assert_eq!(made.code, 201, "{}", made.message());
    let (spec, status) = (&made.json()["spec"], &made.json()["status"]);
    assert_eq!(
        (&spec["username"], &spec["groups"]),
        (&json!("jane"), &json!(["devs", "system:authenticated"]))
    );
    assert!(spec.get("extra").is_none() && *status == json!({}), "{spec} {status}");
    let changed = json!({"spec": {"username": "root", "signerName": "example.com/x"}, "metadata": {"labels": {"a": "b"}}});
    let changed = api.patch(&format!("{PATH}/r"), "merge", changed).await.json();
    assert_eq!(
        (&changed["spec"], &changed["metadata"]["labels"]["a"]),
        (spec, &json!("b")),
        "what was asked stays"
    );
    forged["metadata"]["name"] = json!("applied");
    forged["apiVersion"] = json!("certificates.k8s.io/v1");
    forged["kind"] = json!("CertificateSigningRequest");
    forged.as_object_mut().unwrap().shift_remove("status");
    let apply = [("content-type", "application/apply-patch+yaml")];
    let path = format!("{PATH}/applied?fieldManager=m");
    let applied = api.send("PATCH", &path, &apply, forged.to_string()).await;
    assert_eq!((applied.code, &applied.json()["spec"]["username"]), (201, &json!("jane")));
    let found =
        api.get(&format!("{PATH}?fieldSelector=spec.signerName%3D{}", KUBELET.replace('/', "%2F"))).await;
    assert_eq!(found.code, 403, "jane may not list");
    as_user(&mut api, "admin", &["system:masters"]).await;
    for (signer, count) in [(CLIENT, 2), (KUBELET, 0)] {
        let path = format!("{PATH}?fieldSelector=spec.signerName%3D{}", signer.replace('/', "%2F"));
        assert_eq!(api.get(&path).await.json()["items"].as_array().unwrap().len(), count, "{signer}");
    }
    let master = request("m", CLIENT, &identity("root", &["devs", "system:masters"]));
    let refused = api.post(PATH, master).await;
    assert_eq!(
        (refused.code, refused.message().as_str()),
        (
            403,
            "certificatesigningrequests.certificates.k8s.io \"m\" is forbidden: use of kubernetes.io/kube-apiserver-client signer \
             with system:masters group is not allowed"
        )
    );
}

#[tokio::test]
async fn approving_and_signing_are_rights_of_a_signer() {
    let mut api = api().await;
    let parts = ["certificatesigningrequests/approval", "certificatesigningrequests/status"];
    let own = rule(&parts, &["update", "patch"], &[]);
    allow(&api, "jane", json!([own])).await;
    allow(&api, "ann", json!([own, rule(&["signers"], &["approve"], &["kubernetes.io/*"])])).await;
    allow(&api, "sig", json!([own, rule(&["signers"], &["sign"], &[CLIENT])])).await;
    for name in ["r", "s"] {
        assert_eq!(api.post(PATH, request(name, CLIENT, &identity("x", &[]))).await.code, 201);
    }
    let (approval, status) = (format!("{PATH}/r/approval"), format!("{PATH}/r/status"));
    as_user(&mut api, "jane", &[]).await;
    let refused = api.patch(&approval, "merge", with("Approved")).await;
    let why = "certificatesigningrequests.certificates.k8s.io \"r\" is forbidden: user not permitted to approve requests with \
               signerName \"kubernetes.io/kube-apiserver-client\"";
    assert_eq!((refused.code, refused.message().as_str()), (403, why));
    let failed = api.patch(&status, "merge", with("Failed")).await;
    assert_eq!((failed.code, failed.message()), (403, why.replace("approve", "sign")));
    as_user(&mut api, "ann", &[]).await;
    let approved = api.patch(&approval, "merge", with("Approved")).await;
    assert_eq!(approved.code, 200, "{}", approved.message());
    let condition = &approved.json()["status"]["conditions"][0];
    assert!(condition["lastUpdateTime"].is_string() && condition["lastTransitionTime"].is_string());
    assert_eq!(api.patch(&status, "merge", with("Failed")).await.code, 403);
    for (change, why) in [
        (
            json!({"status": {"conditions": []}}),
            "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\"",
        ),
        (
            with("Denied"),
            "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\"",
        ),
    ] {
        let refused = api.patch(&approval, "merge", change).await;
        assert_eq!(refused.code, 422);
        assert!(refused.message().contains(why), "{}", refused.message());
    }
    as_user(&mut api, "sig", &[]).await;
    let approving = api.patch(&format!("{PATH}/s/status"), "merge", with("Approved")).await;
    assert!(
        approving.message().ends_with("updates may not add a condition of type \"Approved\""),
        "{}",
        approving.message()
    );
    let nonsense = json!({"status": {"certificate": STANDARD.encode("nonsense")}});
    let refused = api.patch(&status, "merge", nonsense).await;
    assert!(refused.message().ends_with("must contain one or more PEM blocks"), "{}", refused.message());
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::load_or_create(folder.path()).unwrap();
    let certificate = |user: &str| json!({"status": {"certificate": STANDARD.encode(ca.issue_client(&identity(user, &[])).unwrap().certificate_pem)}});
    assert_eq!(api.patch(&status, "merge", certificate("x")).await.code, 200);
    let again = api.patch(&status, "merge", certificate("y")).await;
    assert!(again.message().contains("may not modify existing certificate content"), "{}", again.message());
    as_user(&mut api, "admin", &["system:masters"]).await;
    let elsewhere = api.patch(&approval, "merge", certificate("y")).await.json();
    assert_ne!(elsewhere["status"]["certificate"], certificate("y")["status"]["certificate"]);
    let table = api.send("GET", PATH, &[("accept", TABLE)], "").await.json();
    let row = |i: usize| table["rows"][i]["cells"].as_array().unwrap()[2..].to_vec();
    assert_eq!(row(0), [CLIENT, "admin", "<none>", "Approved,Issued"].map(|cell| json!(cell)));
    assert_eq!(row(1)[3], "Pending");
}

#[tokio::test]
async fn what_was_approved_is_signed_and_what_no_signer_signs_fails() {
    let mut api = api().await;
    let (ca, _folder) = sign(&api);
    let jane = identity("jane", &["devs", "ops"]);
    assert_eq!(api.post(PATH, request("r", CLIENT, &jane)).await.code, 201);
    let mut bad = request("bad", CLIENT, &jane);
    bad["spec"]["usages"] = json!(["client auth", "server auth"]);
    assert_eq!(api.post(PATH, bad).await.code, 201);
    assert_eq!(api.post(PATH, request("theirs", "example.com/x", &jane)).await.code, 201);
    assert_eq!(api.post(PATH, request("no", CLIENT, &jane)).await.code, 201);
    for name in ["r", "bad", "theirs"] {
        assert_eq!(api.patch(&format!("{PATH}/{name}/approval"), "merge", with("Approved")).await.code, 200);
    }
    assert_eq!(api.patch(&format!("{PATH}/no/approval"), "merge", with("Denied")).await.code, 200);
    let status = until(&api, "r", |status| status["certificate"].is_string()).await;
    let pem = STANDARD.decode(status["certificate"].as_str().unwrap()).unwrap();
    let pem = String::from_utf8(pem).unwrap();
    let der: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    assert_eq!(peer_identity(&STANDARD.decode(der).unwrap()), Some(jane));
    assert!(ca.certificate_pem() != pem);
    let failed =
        until(&api, "bad", |status| status["conditions"].as_array().is_some_and(|c| c.len() == 2)).await;
    assert_eq!(failed["conditions"][1]["type"], "Failed");
    assert_eq!(failed["conditions"][1]["reason"], "SignerValidationFailure");
    assert_eq!(failed["conditions"][1]["message"], "invalid usage for client certificate: server auth");
    for name in ["theirs", "no"] {
        let status = api.get(&format!("{PATH}/{name}")).await.json();
        assert!(status["status"].get("certificate").is_none(), "{name}");
    }
    // A node that may ask for its own is let in by nobody's hand; another has to wait.
    crate::auth::bootstrap::bootstrap(&api.fixture.registry).await.unwrap();
    let (own, node) =
        ("system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", "system:node:n1");
    let binding = json!({
        "metadata": {"name": "own"}, "roleRef": {"kind": "ClusterRole", "name": own},
        "subjects": [{"kind": "Group", "name": "system:nodes"}],
    });
    assert_eq!(api.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await.code, 201);
    let wish = identity(node, &["system:nodes"]);
    allow(&api, "ann", json!([rule(&["certificatesigningrequests"], &["create"], &[])])).await;
    allow(&api, node, json!([rule(&["certificatesigningrequests"], &["create", "get"], &[])])).await;
    as_user(&mut api, "ann", &[]).await;
    assert_eq!(api.post(PATH, request("other", KUBELET, &wish)).await.code, 201);
    as_user(&mut api, node, &["system:nodes"]).await;
    assert_eq!(api.post(PATH, request("node", KUBELET, &wish)).await.code, 201);
    let status = until(&api, "node", |status| status["certificate"].is_string()).await;
    assert_eq!(status["conditions"][0]["reason"], "AutoApproved");
    as_user(&mut api, "admin", &["system:masters"]).await;
    assert!(api.get(&format!("{PATH}/other")).await.json()["status"].get("conditions").is_none());
}

#[tokio::test]
async fn bad_requests_are_refused_in_upstreams_words() {
    let api = api().await;
    let good = || request("r", CLIENT, &identity("x", &[]));
    let mut forged = good();
    forged["spec"]["request"] = json!(STANDARD.encode("no request"));
    let spec = |field: &str, value: Value| {
        let mut object = good();
        object["spec"][field] = value;
        object
    };
    for (object, why) in [
        (forged, "PEM block type must be CERTIFICATE REQUEST"),
        (spec("usages", json!([])), "spec.usages: Required value"),
        (
            spec("usages", json!(["client auth", "client auth"])),
            "spec.usages[1]: Duplicate value: \"client auth\"",
        ),
        (
            spec("usages", json!(["love"])),
            "spec.usages[0]: Unsupported value: \"love\": supported values: \"any\"",
        ),
        (spec("signerName", json!("")), "spec.signerName: Required value"),
        (
            spec("signerName", json!("kubernetes.io/legacy-unknown")),
            "the legacy signerName is not allowed via this API version",
        ),
        (
            spec("signerName", json!("signer")),
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        ),
        (spec("signerName", json!("a/b")), "should be a domain with at least two segments separated by dots"),
        (
            spec("expirationSeconds", json!(599)),
            "Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)",
        ),
    ] {
        let refused = api.post(PATH, object).await;
        assert_eq!(refused.code, 422, "{why}");
        assert!(refused.message().contains(why), "{}", refused.message());
    }
}
