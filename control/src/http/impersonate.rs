//! Acting as somebody else: the headers `Impersonate-*`, each of which must be allowed.
//!
//! Source: k8s.io/apiserver/pkg/endpoints/filters/impersonation.go.

use std::collections::BTreeMap;

use http::HeaderMap;
use oarlock_api::status::Status;
use percent_encoding::percent_decode_str;

use crate::auth::{
    ACCOUNT_PREFIX, ACCOUNTS, ANONYMOUS, AUTHENTICATED, About, Attributes, ResourceAttributes,
    UNAUTHENTICATED, User,
};

const AUTHENTICATION: &str = "authentication.k8s.io";

/// Whom a request wants to act as.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    user: String,
    groups: Vec<String>,
    uid: String,
    extra: BTreeMap<String, Vec<String>>,
}

/// Reads the headers; `None` without any.
pub(super) fn wanted(headers: &HeaderMap) -> Result<Option<Wanted>, Status> {
    let mut wanted = Wanted::default();
    for (name, value) in headers {
        let Some(what) = name.as_str().strip_prefix("impersonate-") else { continue };
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        match what {
            "user" => wanted.user = value,
            "uid" => wanted.uid = value,
            "group" => wanted.groups.push(value),
            what => {
                if let Some(key) = what.strip_prefix("extra-") {
                    let key = percent_decode_str(key).decode_utf8_lossy().to_lowercase();
                    wanted.extra.entry(key).or_default().push(value);
                }
            }
        }
    }
    if wanted.user.is_empty() && wanted != Wanted::default() {
        return Err(Status::bad_request("requested impersonation without impersonating a user"));
    }
    Ok(Some(wanted).filter(|wanted| !wanted.user.is_empty()))
}

impl Wanted {
    /// Everything that must be allowed.
    pub(super) fn asks(&self) -> Vec<Attributes<'_>> {
        let core = |resource, namespace, name| ask("", resource, "", namespace, name);
        let mut asks = vec![match account(&self.user) {
            Some((namespace, name)) => core("serviceaccounts", namespace, name),
            None => core("users", "", self.user.as_str()),
        }];
        asks.extend(self.groups.iter().map(|group| core("groups", "", group)));
        if !self.uid.is_empty() {
            asks.push(ask(AUTHENTICATION, "uids", "", "", &self.uid));
        }
        let extra = self.extra.iter().flat_map(|(key, values)| values.iter().map(move |value| (key, value)));
        asks.extend(extra.map(|(key, value)| ask(AUTHENTICATION, "userextras", key, "", value)));
        asks
    }

    /// Who that is.
    pub(super) fn into_user(self) -> User {
        let mut groups = self.groups;
        if let Some((namespace, _)) = account(&self.user)
            && groups.is_empty()
        {
            groups = vec![ACCOUNTS.to_owned(), format!("{ACCOUNTS}:{namespace}")];
        }
        let known = if self.user == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
        if !groups.iter().any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED) {
            groups.push(known.to_owned());
        }
        User { name: self.user, uid: self.uid, groups, extra: self.extra }
    }
}

fn ask<'a>(
    group: &'a str,
    resource: &'a str,
    subresource: &'a str,
    namespace: &'a str,
    name: &'a str,
) -> Attributes<'a> {
    let about = ResourceAttributes { group, resource, subresource, namespace, name, of_node: "" };
    Attributes { verb: "impersonate", about: About::Resource(about) }
}

/// Namespace and name of the account that a user is.
fn account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(ACCOUNT_PREFIX)?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn map(all: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in all {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn every_header_is_a_question() {
        assert_eq!(wanted(&HeaderMap::new()), Ok(None));
        assert_eq!(wanted(&headers(&[("impersonate-group", "g")])).unwrap_err().code, 400);
        let wanted = wanted(&map(&[
            ("impersonate-user", "jane"),
            ("impersonate-group", "a"),
            ("impersonate-group", "b"),
            ("impersonate-uid", "7"),
            ("impersonate-extra-example.com%2fscopes", "view"),
        ]));
        let wanted = wanted.unwrap().unwrap();
        let asks: Vec<String> = wanted.asks().iter().map(|ask| ask.refusal("bob")).collect();
        assert_eq!(
            asks,
            [
                r#"User "bob" cannot impersonate resource "users" in API group "" at the cluster scope"#,
                r#"User "bob" cannot impersonate resource "groups" in API group "" at the cluster scope"#,
                r#"User "bob" cannot impersonate resource "groups" in API group "" at the cluster scope"#,
                r#"User "bob" cannot impersonate resource "uids" in API group "authentication.k8s.io" at the cluster scope"#,
                r#"User "bob" cannot impersonate resource "userextras/example.com/scopes" in API group "authentication.k8s.io" at the cluster scope"#,
            ]
        );
        let user = wanted.into_user();
        assert_eq!(user.groups, ["a", "b", "system:authenticated"]);
        assert_eq!((user.uid.as_str(), &user.extra["example.com/scopes"][0]), ("7", &"view".to_owned()));
    }

    #[test]
    fn an_account_has_the_groups_of_accounts() {
        let wanted = |name: &str| wanted(&headers(&[("impersonate-user", name)])).unwrap().unwrap();
        let account = wanted("system:serviceaccount:d:builder");
        assert!(
            account.asks()[0]
                .refusal("bob")
                .contains(r#"resource "serviceaccounts" in API group "" in the namespace "d""#)
        );
        let groups = account.into_user().groups;
        assert_eq!(groups, ["system:serviceaccounts", "system:serviceaccounts:d", "system:authenticated"]);
        assert_eq!(wanted("system:anonymous").into_user().groups, ["system:unauthenticated"]);
    }
}
