//! Certificates over real TLS connections on loopback: who is let in, who is seen, who is refused.

#![expect(clippy::disallowed_methods, reason = "a test's server side is a plain task")]
#![expect(clippy::unwrap_used, reason = "helpers of tests panic, as tests do")]

use std::sync::Arc;
use std::time::Duration;

use oarlock_daemon::pki::{self, Ca, CertifiedKey, Identity, Usage};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

fn names() -> Vec<String> {
    vec!["localhost".into(), "127.0.0.1".into()]
}

/// Serves one connection and returns the identity that the server saw; the client reads one byte.
async fn meet(ca: &Ca, client: &rustls::ClientConfig) -> std::io::Result<Option<Identity>> {
    let own = ca.issue_server("kube-apiserver", &names()).unwrap();
    let server = pki::server_config(&own, ca.certificate_pem(), &[b"h2", b"http/1.1"]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await?;
        let mut tls = tokio_rustls::TlsAcceptor::from(server).accept(tcp).await?;
        let seen = tls.get_ref().1.peer_certificates().and_then(|c| pki::peer_identity(&c[0]));
        tls.write_all(b"x").await?;
        tls.shutdown().await?;
        Ok::<_, std::io::Error>(seen)
    });
    let tcp = TcpStream::connect(address).await?;
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let mut tls = tokio_rustls::TlsConnector::from(Arc::new(client.clone())).connect(name, tcp).await?;
    tls.read_exact(&mut [0]).await?;
    accepted.await.unwrap()
}

fn admin() -> Identity {
    Identity { user: "kubernetes-admin".into(), groups: vec!["system:masters".into()] }
}

#[tokio::test]
async fn a_client_certificate_says_user_and_groups() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::load_or_create(folder.path()).unwrap();
    let own = ca.issue_client(&admin()).unwrap();
    let client = pki::client_config(ca.certificate_pem(), Some(&own)).unwrap();
    assert_eq!(meet(&ca, &client).await.unwrap(), Some(admin()));
}

#[tokio::test]
async fn a_client_without_certificate_is_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::load_or_create(folder.path()).unwrap();
    let client = pki::client_config(ca.certificate_pem(), None).unwrap();
    assert_eq!(meet(&ca, &client).await.unwrap(), None);
}

#[tokio::test]
async fn who_trusts_anybody_is_served_by_anybody() {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [ca, other] =
        folders.each_ref().map(|folder| Ca::load_or_create_as(folder.path(), "another-ca").unwrap());
    let own = ca.issue_client(&admin()).unwrap();
    let trusting = pki::Trust::Anybody.client_config(Some(&own)).unwrap();
    assert_eq!(meet(&ca, &trusting).await.unwrap(), Some(admin()));
    let strict = pki::Trust::Bundle(other.certificate_pem()).client_config(Some(&own)).unwrap();
    assert!(meet(&ca, &strict).await.is_err());
    assert!(pki::Trust::Bundle("no certificate").client_config(None).is_err());
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (ca, foreign) = (Ca::load_or_create(one.path()).unwrap(), Ca::load_or_create(two.path()).unwrap());
    let client =
        pki::client_config(ca.certificate_pem(), Some(&foreign.issue_client(&admin()).unwrap())).unwrap();
    assert!(meet(&ca, &client).await.is_err());
    let client = pki::client_config(foreign.certificate_pem(), None).unwrap();
    assert!(meet(&ca, &client).await.is_err());
}

#[tokio::test]
async fn a_signed_request_yields_the_identity_that_the_signer_chose() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::load_or_create(folder.path()).unwrap();
    let wish = Identity { user: "system:node:wishes-to-be-another".into(), groups: Vec::new() };
    let (key_pem, request) = pki::new_request(&wish).unwrap();
    let node = Identity { user: "system:node:node1".into(), groups: vec!["system:nodes".into()] };
    let certificate_pem = ca.sign_request(&request, &node).unwrap();
    let own = CertifiedKey { certificate_pem, key_pem };
    let client = pki::client_config(ca.certificate_pem(), Some(&own)).unwrap();
    assert_eq!(meet(&ca, &client).await.unwrap(), Some(node.clone()));
    assert!(ca.sign_request("no request", &node).is_err());
}

#[tokio::test]
async fn a_granted_request_yields_the_subject_that_it_names_with_all_its_groups() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::load_or_create(folder.path()).unwrap();
    let groups = ["devs", "ops", "système"].map(str::to_owned).to_vec();
    let jane = Identity { user: "jane".into(), groups };
    let (key_pem, request) = pki::new_request(&jane).unwrap();
    let usages = [Usage::KeyEncipherment, Usage::DigitalSignature, Usage::ClientAuth];
    let certificate_pem = ca.grant(&request, &usages, None).unwrap();
    let own = CertifiedKey { certificate_pem, key_pem };
    let client = pki::client_config(ca.certificate_pem(), Some(&own)).unwrap();
    assert_eq!(meet(&ca, &client).await.unwrap(), Some(jane.clone()));
    assert_eq!(
        meet(&ca, &pki::client_config(ca.certificate_pem(), Some(&ca.issue_client(&jane).unwrap())).unwrap())
            .await
            .unwrap(),
        Some(jane)
    );
    let forged = request.replace('M', "N");
    assert!(ca.grant(&forged, &usages, None).is_err());
}

#[tokio::test]
async fn a_certificate_for_servers_alone_lets_no_client_in() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::load_or_create(folder.path()).unwrap();
    let (key_pem, request) = pki::new_request(&admin()).unwrap();
    let certificate_pem = ca.grant(&request, &[Usage::DigitalSignature, Usage::ServerAuth], None).unwrap();
    let own = CertifiedKey { certificate_pem, key_pem };
    let client = pki::client_config(ca.certificate_pem(), Some(&own)).unwrap();
    assert!(meet(&ca, &client).await.is_err());
}

#[test]
fn a_certificate_lives_as_long_as_was_asked_for_but_no_more_than_a_year() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::load_or_create(folder.path()).unwrap();
    let (_, request) = pki::new_request(&admin()).unwrap();
    let life = |asked: Option<u64>| {
        let asked = asked.map(Duration::from_secs);
        let pem = ca.grant(&request, &[Usage::ClientAuth], asked).unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let certificate = block.parse_x509().unwrap();
        assert!(certificate.verify_signature(Some(&ca_key(&ca))).is_ok());
        certificate.validity().not_after.timestamp() - certificate.validity().not_before.timestamp()
    };
    let (early, year) = (300, 365 * 24 * 3600);
    assert_eq!(life(Some(3600)), 3600 + early, "a short life begins early and ends in time");
    assert_eq!(life(Some(1)), 600 + early);
    assert_eq!(life(Some(24 * 3600)), 24 * 3600);
    assert_eq!((life(None), life(Some(10 * 365 * 24 * 3600))), (year, year));
}

fn ca_key(ca: &Ca) -> x509_parser::x509::SubjectPublicKeyInfo<'static> {
    let (_, block) = x509_parser::pem::parse_x509_pem(ca.certificate_pem().as_bytes()).unwrap();
    let der: &'static [u8] = block.contents.leak();
    x509_parser::parse_x509_certificate(der).unwrap().1.tbs_certificate.subject_pki
}

#[tokio::test]
async fn the_ca_is_learned_by_its_hash_and_a_wrong_hash_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::load_or_create(folder.path()).unwrap();
    let own = ca.issue_server("kube-apiserver", &names()).unwrap();
    let server = pki::server_config(&own, ca.certificate_pem(), &[]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let _ = tokio_rustls::TlsAcceptor::from(Arc::clone(&server)).accept(tcp).await;
        }
    });
    assert_eq!(
        pki::fetch_ca(&address, &ca.hash()).await.unwrap().trim(),
        ca.certificate_pem().trim().replace("\r\n", "\n")
    );
    let wrong = pki::fetch_ca(&address, "sha256:00").await.unwrap_err().to_string();
    assert!(wrong.contains(&ca.hash()) && wrong.contains("sha256:00"), "{wrong}");
}

#[test]
fn the_ca_and_what_it_signed_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let first = Ca::load_or_create(folder.path()).unwrap();
    let server = first.server_in(folder.path(), "apiserver", &names()).unwrap();
    let again = Ca::load_or_create(folder.path()).unwrap();
    assert_eq!(first.hash(), again.hash());
    assert_eq!(
        again.server_in(folder.path(), "apiserver", &names()).unwrap().certificate_pem,
        server.certificate_pem
    );
    let more: Vec<String> = names().into_iter().chain(["10.96.0.1".to_owned()]).collect();
    assert_ne!(
        again.server_in(folder.path(), "apiserver", &more).unwrap().certificate_pem,
        server.certificate_pem
    );
}

#[test]
fn a_new_certificate_lives_for_a_year_from_a_little_before_now() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::load_or_create(folder.path()).unwrap();
    let (start, end) = pki::life(&ca.issue_client(&admin()).unwrap().certificate_pem).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let now = i64::try_from(now).unwrap();
    assert!(
        (now - 600..now).contains(&start) && (364..=366).contains(&((end - start) / 86_400)),
        "{start} {end}"
    );
    assert_eq!(pki::life("no certificate"), None);
}

#[test]
fn a_ca_that_lost_its_key_is_not_replaced_silently() {
    let folder = tempfile::tempdir().unwrap();
    Ca::load_or_create(folder.path()).unwrap();
    std::fs::remove_file(folder.path().join("ca.key")).unwrap();
    let error = Ca::load_or_create(folder.path()).unwrap_err().to_string();
    assert!(error.contains("ca.key") && error.contains("restore"), "{error}");
}
