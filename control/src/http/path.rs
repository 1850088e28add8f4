//! The grammar of request paths. Pure.

/// What a path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target<'p> {
    /// `/`: the list of paths.
    Root,
    /// `/healthz`, `/livez`, `/readyz`.
    Health(&'p str),
    /// `/version`.
    Version,
    /// `/metrics`.
    Metrics,
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// `/apis/<group>`.
    Group(&'p str),
    /// `/api/v1` or `/apis/<group>/<version>`.
    Resources(&'p str, &'p str),
    /// `/openapi/v2`.
    OpenApiV2,
    /// `/openapi/v3`.
    OpenApiV3Index,
    /// `/openapi/v3/api/v1` or `/openapi/v3/apis/<group>/<version>`.
    OpenApiV3(&'p str, &'p str),
    /// `/.well-known/openid-configuration`: who issues ServiceAccount tokens.
    Issuer,
    /// `/openid/v1/jwks`: with which keys.
    IssuersKeys,
    /// Anything about objects.
    Resource(Resource<'p>),
    /// Nothing that we know.
    Unknown,
}

impl Target<'_> {
    /// Whether the answer changes with the program and its kinds alone, so that clients keep it.
    pub(super) fn is_cacheable(&self) -> bool {
        matches!(
            self,
            Self::CoreVersions
                | Self::Groups
                | Self::Group(_)
                | Self::Resources(..)
                | Self::OpenApiV2
                | Self::OpenApiV3Index
                | Self::OpenApiV3(..)
        )
    }
}

/// A path about objects of one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Resource<'p> {
    pub(super) group: &'p str,
    pub(super) version: &'p str,
    /// `None` for all namespaces and for kinds of the cluster.
    pub(super) namespace: Option<&'p str>,
    pub(super) plural: &'p str,
    pub(super) name: Option<&'p str>,
    pub(super) subresource: Option<&'p str>,
    /// What comes after the subresource `proxy`.
    pub(super) below: Option<&'p str>,
    /// The old form `/api/v1/watch/...`.
    pub(super) watch: bool,
}

/// Reads a path.
pub(super) fn parse(path: &str) -> Target<'_> {
    let trimmed = path.strip_suffix('/').unwrap_or(path);
    let parts: Vec<&str> = trimmed.split('/').skip(1).collect();
    match parts.as_slice() {
        [] => Target::Root,
        ["healthz" | "livez" | "readyz"] => Target::Health(parts[0]),
        ["version"] => Target::Version,
        ["metrics"] => Target::Metrics,
        ["openapi", "v2"] => Target::OpenApiV2,
        ["openapi", "v3"] => Target::OpenApiV3Index,
        ["openapi", "v3", "api", version] => Target::OpenApiV3("", version),
        ["openapi", "v3", "apis", group, version] => Target::OpenApiV3(group, version),
        [".well-known", "openid-configuration"] => Target::Issuer,
        ["openid", "v1", "jwks"] => Target::IssuersKeys,
        ["api"] => Target::CoreVersions,
        ["apis"] => Target::Groups,
        ["apis", group] => Target::Group(group),
        ["api", version] => Target::Resources("", version),
        ["apis", group, version] => Target::Resources(group, version),
        ["api", version, "nodes", name, "proxy", _, ..] if !name.is_empty() => {
            let below = trimmed.splitn(7, '/').nth(6);
            let proxy = Resource { version, plural: "nodes", name: Some(name), below, ..Resource::default() };
            Target::Resource(Resource { subresource: Some("proxy"), ..proxy })
        }
        ["api", version, rest @ ..] => resource("", version, rest),
        ["apis", group, version, rest @ ..] => resource(group, version, rest),
        _ => Target::Unknown,
    }
}

/// The group and version below which a path is.
pub(super) fn group_version(path: &str) -> Option<(&str, &str)> {
    let mut parts = path.split('/').skip(1).filter(|part| !part.is_empty());
    match (parts.next()?, parts.next()?) {
        ("api", version) => Some(("", version)),
        ("apis", group) => Some((group, parts.next()?)),
        _ => None,
    }
}

/// Reads a path of which we know the beginning alone: what comes after a subresource is for whoever answers.
pub(super) fn leading(path: &str) -> Target<'_> {
    let known = parse(path);
    if known != Target::Unknown {
        return known;
    }
    let parts: Vec<&str> = path.split('/').collect();
    let (before, rest) = if parts.get(1) == Some(&"api") { (3, parts.get(3)) } else { (4, parts.get(4)) };
    let before = if rest == Some(&"watch") { before + 1 } else { before };
    let below = if parts.get(before) == Some(&"namespaces") { 5 } else { 3 };
    let end = path.match_indices('/').nth(before + below - 1).map_or(path.len(), |(at, _)| at);
    parse(path.split_at(end).0)
}

fn resource<'p>(group: &'p str, version: &'p str, rest: &[&'p str]) -> Target<'p> {
    let (watch, rest) = match rest {
        ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
        rest => (false, rest),
    };
    let base = Resource { group, version, watch, ..Resource::default() };
    // What is below is for whom it is handed on to.
    let rest = match rest {
        ["namespaces", _, _, _, "proxy", ..] => rest.get(..5).unwrap_or_default(),
        [_, _, "proxy", ..] => rest.get(..3).unwrap_or_default(),
        rest => rest,
    };
    if rest.iter().any(|part| part.is_empty()) {
        return Target::Unknown;
    }
    let found = match rest {
        // Namespaces are objects of the cluster that other objects live below.
        ["namespaces", namespace, plural, below @ ..]
            if !(group.is_empty() && matches!(*plural, "status" | "finalize") && below.is_empty()) =>
        {
            let base = Resource { namespace: Some(namespace), plural, ..base };
            match below {
                [] => base,
                [name] => Resource { name: Some(name), ..base },
                [name, subresource] => Resource { name: Some(name), subresource: Some(subresource), ..base },
                _ => return Target::Unknown,
            }
        }
        [plural] => Resource { plural, ..base },
        [plural, name] => Resource { plural, name: Some(name), ..base },
        [plural, name, subresource] => {
            Resource { plural, name: Some(name), subresource: Some(subresource), ..base }
        }
        _ => return Target::Unknown,
    };
    Target::Resource(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> Resource<'_> {
        match parse(path) {
            Target::Resource(resource) => resource,
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn paths_of_objects_are_read() {
        let core = Resource { version: "v1", ..Resource::default() };
        assert_eq!(of("/api/v1/pods"), Resource { plural: "pods", ..core });
        assert_eq!(
            of("/api/v1/namespaces/d/pods"),
            Resource { plural: "pods", namespace: Some("d"), ..core }
        );
        assert_eq!(
            of("/api/v1/namespaces/d/pods/p/log"),
            Resource {
                plural: "pods",
                namespace: Some("d"),
                name: Some("p"),
                subresource: Some("log"),
                ..core
            }
        );
        let below = of("/api/v1/namespaces/d/pods/p:80/proxy/a//b/");
        assert_eq!((below.name, below.subresource), (Some("p:80"), Some("proxy")));
        assert_eq!(of("/api/v1/namespaces/d"), Resource { plural: "namespaces", name: Some("d"), ..core });
        assert_eq!(
            of("/api/v1/namespaces/d/finalize"),
            Resource { plural: "namespaces", name: Some("d"), subresource: Some("finalize"), ..core }
        );
        assert_eq!(of("/api/v1/nodes/n/status").subresource, Some("status"));
        assert!(of("/api/v1/watch/namespaces/d/pods").watch);
        let proxy = of("/api/v1/nodes/n/proxy/dataplane/events");
        assert_eq!((proxy.plural, proxy.name, proxy.subresource), ("nodes", Some("n"), Some("proxy")));
        assert_eq!(proxy.below, Some("dataplane/events"));
        let apps = of("/apis/apps/v1/namespaces/d/deployments/web/scale");
        assert_eq!((apps.group, apps.version, apps.plural), ("apps", "v1", "deployments"));
    }

    #[test]
    fn everything_else_has_its_place() {
        assert_eq!(parse("/"), Target::Root);
        assert_eq!(parse("/apis/apps/v1"), Target::Resources("apps", "v1"));
        assert_eq!(parse("/openapi/v3/apis/apps/v1"), Target::OpenApiV3("apps", "v1"));
        for unknown in
            ["/nothing", "/api/v1/namespaces/d/pods/p/log/more", "/api/v1//pods", "/apis/apps/v1/x//y"]
        {
            assert_eq!(parse(unknown), Target::Unknown, "{unknown}");
        }
    }

    #[test]
    fn paths_of_others_may_go_on() {
        let of = |path: &str| match leading(path) {
            Target::Resource(found) => [
                found.group,
                found.namespace.unwrap_or(""),
                found.plural,
                found.name.unwrap_or(""),
                found.subresource.unwrap_or(""),
            ]
            .join(" "),
            other => format!("{other:?}"),
        };
        assert_eq!(of("/apis/g.io/v1/namespaces/d/things/t/connect/a/b"), "g.io d things t connect");
        assert_eq!(of("/apis/g.io/v1/watch/namespaces/d/things/t/connect/a/b"), "g.io d things t connect");
        assert_eq!(of("/apis/g.io/v1/things/t/connect/a//b"), "g.io  things t connect");
        assert_eq!(of("/apis/g.io/v1/things/t"), "g.io  things t ");
        assert_eq!(of("/apis/g.io/v1//things/t"), "Unknown");
        assert_eq!(group_version("/apis/g.io/v1/things"), Some(("g.io", "v1")));
        assert_eq!(group_version("/api/v1"), Some(("", "v1")));
        for none in ["/", "/apis", "/apis/g.io", "/openapi/v3/apis/g.io/v1", "/metrics"] {
            assert_eq!(group_version(none), None, "{none}");
        }
    }

    #[test]
    fn fuzz_paths() {
        oarlock_fuzz::Target::new("paths").run(|input| {
            let text = String::from_utf8_lossy(input);
            let _ = (leading(&text), group_version(&text));
            if let Target::Resource(found) = parse(&text) {
                assert!(
                    !found.plural.is_empty() && found.name != Some("") && found.namespace != Some(""),
                    "{text:?}: {found:?}"
                );
            }
        });
    }
}
