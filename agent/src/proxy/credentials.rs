//! Whom to ask and as whom: a kubeconfig or the pod's service account, read again when its files change.
//!
//! In: files. Out: clients. No message ever quotes a kubeconfig: it holds keys.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use sha2::{Digest as _, Sha256};

/// The longest that a watch is left open; each is then resumed. What has not answered for a little longer is dead.
pub(super) const WATCH: Duration = Duration::from_secs(90);
/// A connection from which nothing came for so long is given up.
const READ: Duration = WATCH.saturating_add(Duration::from_secs(10));

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub(super) enum CredentialsError {
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig {} cannot be used: {why}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, without its content.
        why: String,
    },
    /// There is no kubeconfig, and no service account either.
    #[error("no --kubeconfig was given, and this is no pod with a service account: {0}")]
    InCluster(String),
}

/// Where credentials come from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Kubeconfig(PathBuf),
    /// The library reads its files again itself.
    InCluster,
}

/// What the files held: not the same after they were changed.
pub(super) type Fingerprint = Vec<u8>;

impl Source {
    pub(super) fn of(kubeconfig: Option<&Path>) -> Self {
        kubeconfig.map_or(Self::InCluster, |path| Self::Kubeconfig(path.to_owned()))
    }

    /// A client, and what its files held when it was made.
    pub(super) async fn client(&self) -> Result<(Client, Fingerprint), CredentialsError> {
        match self {
            Self::InCluster => {
                let config = Config::incluster().map_err(|e| CredentialsError::InCluster(e.to_string()))?;
                let client = build(config).map_err(CredentialsError::InCluster)?;
                Ok((client, Fingerprint::new()))
            }
            Self::Kubeconfig(path) => {
                let failed = |why: String| CredentialsError::Kubeconfig { path: path.clone(), why };
                // Before the files are used: a change in between is noticed the next time.
                let kubeconfig = read(path).map_err(|e| failed(say(&e)))?;
                if let Some(user) = missing_user(&kubeconfig) {
                    return Err(failed(format!(
                        "its current context names the user {user}, who is not in it"
                    )));
                }
                let fingerprint = fingerprint(path, &kubeconfig);
                let options = KubeConfigOptions::default();
                let config = Config::from_custom_kubeconfig(kubeconfig, &options)
                    .await
                    .map_err(|e| failed(say(&e)))?;
                Ok((build(config).map_err(failed)?, fingerprint))
            }
        }
    }

    /// What the files hold now; nothing where they cannot be read, or need not be.
    pub(super) fn fingerprint(&self) -> Option<Fingerprint> {
        match self {
            Self::InCluster => None,
            Self::Kubeconfig(path) => read(path).ok().map(|kubeconfig| fingerprint(path, &kubeconfig)),
        }
    }
}

fn read(path: &Path) -> Result<Kubeconfig, KubeconfigError> {
    let mut kubeconfig = Kubeconfig::read_from(path)?;
    for user in kubeconfig.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        // Of a token and a file of it the file counts (client-go, clientcmd/api/types.go), as tokens of files are renewed.
        if user.token_file.as_ref().is_some_and(|file| Path::new(file).exists()) {
            user.token = None;
        }
    }
    Ok(kubeconfig)
}

/// Who asks without credentials is anonymous: the library would take that for what is wanted.
fn missing_user(kubeconfig: &Kubeconfig) -> Option<&str> {
    let current = kubeconfig.current_context.as_ref()?;
    let context = kubeconfig.contexts.iter().find(|named| named.name == *current)?.context.as_ref()?;
    let user = context.user.as_deref()?;
    kubeconfig.auth_infos.iter().all(|named| named.name != user).then_some(user)
}

fn build(mut config: Config) -> Result<Client, String> {
    config.read_timeout = Some(READ);
    config.reset_reader_on_write = true;
    Client::try_from(config).map_err(|e| e.to_string())
}

/// The error without what it quotes of the file.
fn say(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::Parse(error) => match error.location() {
            Some(place) => format!("it does not parse at line {}, column {}", place.line(), place.column()),
            None => "it does not parse".to_owned(),
        },
        other => other.to_string(),
    }
}

/// Of the kubeconfig and the files that it names. Those of tokens are read again by the library.
fn fingerprint(path: &Path, kubeconfig: &Kubeconfig) -> Fingerprint {
    let clusters = kubeconfig.clusters.iter().filter_map(|named| named.cluster.as_ref());
    let users = kubeconfig.auth_infos.iter().filter_map(|named| named.auth_info.as_ref());
    let mut files = vec![path.to_owned()];
    files.extend(clusters.filter_map(|cluster| cluster.certificate_authority.as_ref()).map(PathBuf::from));
    for user in users {
        files.extend([&user.client_certificate, &user.client_key].into_iter().flatten().map(PathBuf::from));
    }
    let mut hash = Sha256::new();
    for file in files {
        // One that is missing is told from an empty one by the length.
        let content = std::fs::read(&file).ok();
        hash.update(content.as_ref().map_or(u64::MAX, |bytes| bytes.len() as u64).to_be_bytes());
        hash.update(content.unwrap_or_default());
    }
    hash.finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SKELETON: &str = "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
        clusters: [{name: k, cluster: {server: 'https://127.0.0.1:1', insecure-skip-tls-verify: true}}]\n\
        contexts: [{name: c, context: {cluster: k, user: u}}]\n";

    fn file(folder: &Path, users: &str) -> Source {
        let path = folder.join("kubeconfig");
        std::fs::write(&path, format!("{SKELETON}{users}")).unwrap();
        Source::Kubeconfig(path)
    }

    async fn refusal(source: &Source) -> String {
        source.client().await.err().expect("it cannot be used").to_string()
    }

    #[tokio::test]
    async fn a_kubeconfig_that_does_not_parse_is_named_without_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let source = file(folder.path(), "users: [{name: u, user: {token: hunter2, tokenFile: [hunter2]}}]");
        let text = refusal(&source).await;
        assert!(text.contains("kubeconfig cannot be used: it does not parse"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let text = refusal(&Source::Kubeconfig(folder.path().join("none"))).await;
        assert!(text.contains("none"), "{text}");
        let source =
            file(folder.path(), "users: [{name: u, user: {client-certificate: none.crt, client-key: k}}]");
        let text = refusal(&source).await;
        assert!(text.contains("none.crt"), "{text}");
        let source = file(folder.path(), "users: []");
        let text = refusal(&source).await;
        assert!(text.contains("names the user u"), "{text}");
    }

    #[tokio::test]
    async fn a_file_with_a_token_counts_more_than_a_token() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "of-the-file").unwrap();
        let source = file(folder.path(), "users: [{name: u, user: {token: inline, tokenFile: token}}]");
        let Source::Kubeconfig(path) = &source else { panic!("a kubeconfig") };
        let user = read(path).unwrap().auth_infos.remove(0).auth_info.unwrap();
        assert!(user.token.is_none());
        assert_eq!(
            Path::new(&user.token_file.unwrap()),
            folder.path().join("token"),
            "beside the kubeconfig"
        );
        source.client().await.expect("a client");
    }

    #[tokio::test]
    async fn a_changed_file_is_noticed_and_one_that_stays_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let user = "users: [{name: u, user: {client-certificate: c.crt, client-key: c.key}}]";
        let source = file(folder.path(), user);
        std::fs::write(folder.path().join("c.crt"), "one").unwrap();
        let before = source.fingerprint().unwrap();
        assert_eq!(source.fingerprint().unwrap(), before);
        std::fs::write(folder.path().join("c.crt"), "two").unwrap();
        assert_ne!(source.fingerprint().unwrap(), before);
        std::fs::remove_file(folder.path().join("kubeconfig")).unwrap();
        assert_eq!(source.fingerprint(), None, "what cannot be read is no news");
    }
}
