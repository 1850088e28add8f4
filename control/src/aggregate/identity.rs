//! Who asks, as the front proxy says it, and by what others know that it is we who say so.
//!
//! Source: k8s.io/client-go/transport/round_trippers.go, k8s.io/kubernetes/pkg/controlplane/controller/clusterauthenticationtrust.

use http::{HeaderMap, HeaderName, HeaderValue};
use oarlock_api::catalogue::CONFIG_MAPS;
use oarlock_api::meta;
use oarlock_api::status::Status;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::auth::User;
use crate::registry::{Registry, Sub, WriteOptions};

/// The user of our certificate.
pub(crate) const FRONT_PROXY: &str = "front-proxy-client";
const USER: HeaderName = HeaderName::from_static("x-remote-user");
const UID: HeaderName = HeaderName::from_static("x-remote-uid");
const GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const EXTRA: &str = "x-remote-extra-";
/// Where others find out whom to believe.
const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";

/// What the name of a header may not hold (RFC 9110, section 5.6.2), and the sign that stands for it.
const NO_TOKEN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'*')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// Says in headers who asks, in place of what a client says of that.
///
/// # Errors
/// A name that no header can hold.
pub(crate) fn introduce(headers: &mut HeaderMap, user: &User) -> Result<(), String> {
    let claimed = headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned();
    for name in claimed.collect::<Vec<_>>() {
        headers.remove(name);
    }
    let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).map_err(|e| format!("{text:?}: {e}"));
    headers.insert(USER, value(&user.name)?);
    if !user.uid.is_empty() {
        headers.insert(UID, value(&user.uid)?);
    }
    for group in &user.groups {
        headers.append(GROUP, value(group)?);
    }
    for (key, values) in &user.extra {
        let name = format!("{EXTRA}{}", utf8_percent_encode(&key.to_lowercase(), NO_TOKEN)).to_lowercase();
        let name = HeaderName::try_from(name).map_err(|e| format!("{key:?}: {e}"))?;
        for text in values {
            headers.append(name.clone(), value(text)?);
        }
    }
    Ok(())
}

/// Publishes by which authority clients are known, and which vouches for us. Authorities of other control planes stay.
///
/// # Errors
/// The store is away.
pub(super) async fn publish(registry: &Registry, client_ca: &str, front_ca: &str) -> Result<(), Status> {
    let wanted = data(client_ca, front_ca);
    let object = json!({"metadata": {"name": NAME}, "data": wanted});
    match registry.create(&CONFIG_MAPS, NAMESPACE, object, &WriteOptions::default()).await {
        Err(status) if status.is("AlreadyExists") => {}
        other => return other.map(drop),
    }
    let join = |mut present: Value| {
        let data = meta::map_at(meta::map_of(&mut present), "data");
        for (key, value) in wanted.as_object().into_iter().flatten() {
            let theirs = data.get(key).and_then(Value::as_str).unwrap_or("");
            let own = value.as_str().unwrap_or("");
            if key.ends_with("-file") && !theirs.is_empty() {
                let joined =
                    if theirs.contains(own.trim()) { theirs.to_owned() } else { format!("{theirs}{own}") };
                data.insert(key.clone(), json!(joined));
            } else {
                data.insert(key.clone(), value.clone());
            }
        }
        Ok(present)
    };
    let options = WriteOptions::default();
    registry.modify(&CONFIG_MAPS, NAMESPACE, NAME, Sub::Main, &options, join).await.map(drop)
}

fn data(client_ca: &str, front_ca: &str) -> Value {
    let list = |words: &[&str]| json!(words).to_string();
    json!({
        "client-ca-file": client_ca,
        "requestheader-allowed-names": list(&[FRONT_PROXY]),
        "requestheader-client-ca-file": front_ca,
        "requestheader-extra-headers-prefix": list(&["X-Remote-Extra-"]),
        "requestheader-group-headers": list(&["X-Remote-Group"]),
        "requestheader-uid-headers": list(&["X-Remote-Uid"]),
        "requestheader-username-headers": list(&["X-Remote-User"]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::tests::fixture;

    #[test]
    fn who_asks_is_said_by_us_alone() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-remote-user", "root"), ("x-remote-extra-a", "b"), ("accept", "*/*")] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let mut user = User::known("jané", &["staff".to_owned()]);
        user.uid = "7".to_owned();
        user.extra.insert("Example.com/Scopes%".to_owned(), vec!["view".to_owned(), "edit".to_owned()]);
        introduce(&mut headers, &user).unwrap();
        let all = |name: &str| -> Vec<String> {
            let values = headers.get_all(name).iter();
            values.map(|value| String::from_utf8(value.as_bytes().to_vec()).unwrap()).collect()
        };
        assert_eq!(all("x-remote-user"), ["jané"]);
        assert_eq!(all("x-remote-uid"), ["7"]);
        assert_eq!(all("x-remote-group"), ["staff", "system:authenticated"]);
        assert_eq!(all("x-remote-extra-example.com%2fscopes%25"), ["view", "edit"]);
        assert_eq!((all("x-remote-extra-a").len(), all("accept").len()), (0, 1));
        user.name = "two\nlines".to_owned();
        assert!(introduce(&mut HeaderMap::new(), &user).is_err());
    }

    #[tokio::test]
    async fn every_control_plane_adds_its_authority_once() {
        let fixture = fixture().await;
        let registry = &fixture.registry;
        let made = json!({"metadata": {"name": NAMESPACE}});
        registry
            .create(&oarlock_api::catalogue::NAMESPACES, "", made, &WriteOptions::default())
            .await
            .unwrap();
        for front in ["one\n", "two\n", "two\n"] {
            publish(registry, "clients\n", front).await.unwrap();
        }
        let found = registry.get(&CONFIG_MAPS, NAMESPACE, NAME).await.unwrap();
        assert_eq!(found["data"]["requestheader-client-ca-file"], "one\ntwo\n");
        assert_eq!(found["data"]["client-ca-file"], "clients\n");
        assert_eq!(found["data"]["requestheader-allowed-names"], "[\"front-proxy-client\"]");
    }
}
