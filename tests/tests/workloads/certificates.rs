//! A certificate for a user, as the documentation of Kubernetes has it: asked for with openssl, approved with kubectl, and then
//! a kubeconfig of its own.

use oarlock_tests::cluster::{Cluster, wait};

use super::SOON;

pub(super) fn a_user_is_let_in_by_a_certificate_that_was_asked_for(cluster: &Cluster) {
    let made = cluster.shell("mktemp -d");
    let folder = made.text.trim();
    ask(cluster, folder, "jane", "/O=devs/O=ops/CN=jane");
    ask(cluster, folder, "mallory", "/CN=mallory");
    let state = |name: &str| {
        let row = cluster.kubectl(&format!("get csr {name} --no-headers"));
        row.split_whitespace().last().unwrap_or("").to_owned()
    };
    assert_eq!((state("jane"), state("mallory")), ("Pending".to_owned(), "Pending".to_owned()));
    let said = cluster.kubectl("certificate approve jane");
    assert_eq!(said, "certificatesigningrequest.certificates.k8s.io/jane approved");
    cluster.kubectl("certificate deny mallory");
    wait("jane's certificate is issued", SOON, || match state("jane") {
        state if state == "Approved,Issued" => Ok(()),
        other => Err(other),
    });
    assert_eq!(state("mallory"), "Denied");
    let described = cluster.kubectl("describe csr jane");
    for line in ["kubernetes-admin", "devs", "ops", "Approved,Issued"] {
        assert!(described.contains(line), "{line} is not in {described}");
    }

    let config = format!("{folder}/kubeconfig");
    cluster.kubectl(&format!(
        "get csr jane -o jsonpath='{{.status.certificate}}' | base64 -d > {folder}/jane.crt"
    ));
    cluster.kubectl(&format!("config view --raw --minify > {config}"));
    let own = |what: &str| cluster.shell(&format!("kubectl --kubeconfig={config} {what}"));
    let key = format!("--client-certificate={folder}/jane.crt --client-key={folder}/jane.key");
    for what in [
        format!("config set-credentials jane --embed-certs=true {key}"),
        "config set-context jane --user=jane --cluster=$(kubectl config view --minify -o jsonpath='{.clusters[0].name}')".to_owned(),
        "config use-context jane".to_owned(),
    ] {
        let said = own(&what);
        assert!(said.well, "{what}: {}", said.text);
    }
    let refused = own("get configmaps");
    assert!(
        !refused.well && refused.text.contains("User \"jane\" cannot list resource \"configmaps\""),
        "{}",
        refused.text
    );
    cluster.kubectl("create rolebinding ops --clusterrole=view --group=ops");
    let listed = own("get configmaps -o name");
    assert!(listed.well && listed.text.contains("configmap/kube-root-ca.crt"), "{}", listed.text);
    assert!(!own("create configmap mine").well, "to view is not to edit");
    cluster.kubectl("delete rolebinding/ops csr/jane csr/mallory");
    let removed = cluster.shell(&format!("rm -r {folder}"));
    assert!(removed.well, "{}", removed.text);
}

/// A key and a request for its holder to become a client.
fn ask(cluster: &Cluster, folder: &str, name: &str, subject: &str) {
    let made = cluster.shell(&format!(
        "openssl req -new -newkey rsa:2048 -nodes -keyout {folder}/{name}.key -out {folder}/{name}.csr -subj {subject}"
    ));
    assert!(made.well, "{}", made.text);
    let request = cluster.shell(&format!("base64 -w0 {folder}/{name}.csr"));
    let object = serde_json::json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {"request": request.text.trim(), "signerName": "kubernetes.io/kube-apiserver-client",
                 "expirationSeconds": 86400, "usages": ["client auth"]},
    });
    cluster.kubectl(&format!("apply -f - <<'END'\n{object}\nEND"));
}
