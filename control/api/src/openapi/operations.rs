//! Which operations each kind has, before a version of OpenAPI words them.
//!
//! In: rows of the catalogue. Out: [`Path`]s with their [`Operation`]s. Clients read from them which query parameters and
//! patch types a kind supports.

use crate::catalogue::{Catalogue, Kind, Subresource};
use crate::schema::{MessageRef, Schema};

/// Name and JSON type of a query parameter.
pub(super) type Parameter = (&'static str, &'static str);

/// The bodies a PATCH may have.
pub(super) const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

const LIST: &[Parameter] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE: &[Parameter] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const DELETE: &[Parameter] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const LOG: &[Parameter] = &[
    ("container", "string"),
    ("follow", "boolean"),
    ("limitBytes", "integer"),
    ("previous", "boolean"),
    ("sinceSeconds", "integer"),
    ("tailLines", "integer"),
    ("timestamps", "boolean"),
];

/// One address.
pub(super) struct Path {
    /// `/apis/apps/v1/namespaces/{namespace}/deployments/{name}`
    pub(super) path: String,
    pub(super) operations: Vec<Operation>,
}

impl Path {
    /// The names in braces.
    pub(super) fn parameters(&self) -> impl Iterator<Item = &'static str> {
        ["name", "namespace"].into_iter().filter(|name| self.path.contains(&format!("{{{name}}}")))
    }
}

/// One method on an address.
pub(super) struct Operation {
    pub(super) method: &'static str,
    /// `x-kubernetes-action`
    pub(super) action: &'static str,
    /// Group, version and kind of what it is about.
    pub(super) kind: (&'static str, &'static str, &'static str),
    pub(super) id: String,
    pub(super) tag: String,
    pub(super) query: Vec<Parameter>,
    pub(super) body: Body,
    /// The definition of the answer; `None`: text.
    pub(super) answer: Option<String>,
    /// The codes of success.
    pub(super) codes: &'static [&'static str],
}

/// What a request carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    None,
    /// A definition; required.
    Object(String),
    /// `DeleteOptions`, or nothing.
    DeleteOptions(String),
    Patch,
}

/// Every group version of the catalogue, once.
pub(super) fn group_versions(catalogue: &Catalogue) -> Vec<(&'static str, &'static str)> {
    let mut found = Vec::new();
    for kind in catalogue.served() {
        if !found.contains(&(kind.group, kind.version)) {
            found.push((kind.group, kind.version));
        }
    }
    found
}

/// The messages that the operations of a kind mention.
pub(super) fn roots(schema: &Schema, kind: &Kind) -> Vec<MessageRef> {
    let list = kind.list_kind();
    let own = [kind.kind, list.as_str(), "DeleteOptions"];
    let own = own.into_iter().filter_map(|name| schema.kind(kind.group, kind.version, name));
    let subresources = kind.subresources.iter().filter_map(|sub| {
        let (group, version, name) = subresource_kind(kind, sub);
        schema.kind(group, version, name)
    });
    own.chain(subresources).chain(schema.kind("", "v1", "Status")).collect()
}

/// The addresses of a kind.
pub(super) fn paths(schema: &Schema, kind: &Kind) -> Vec<Path> {
    let base = format!("/{}", super::path_of(kind.group, kind.version));
    let scope = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{base}{scope}/{}", kind.plural);
    let item = format!("{collection}/{{name}}");
    let maker = Maker { schema, kind };
    let mut paths = vec![
        Path { path: collection, operations: maker.operations(&["list", "create", "deletecollection"], "") },
        Path { path: item.clone(), operations: maker.operations(&["get", "update", "delete", "patch"], "") },
    ];
    if kind.namespaced {
        let path = format!("{base}/{}", kind.plural);
        paths.push(Path { path, operations: maker.operations(&["list"], "ForAllNamespaces") });
    }
    for sub in kind.subresources {
        let operations = sub.verbs.iter().filter_map(|verb| maker.subresource(sub, verb)).collect();
        paths.push(Path { path: format!("{item}/{}", sub.name), operations });
    }
    paths
}

fn subresource_kind(kind: &Kind, sub: &Subresource) -> (&'static str, &'static str, &'static str) {
    let (group, version) = sub.group_version.unwrap_or((kind.group, kind.version));
    (group, version, sub.kind)
}

struct Maker<'k> {
    schema: &'k Schema,
    kind: &'k Kind,
}

impl Maker<'_> {
    fn operations(&self, verbs: &[&str], suffix: &str) -> Vec<Operation> {
        let own = (self.kind.group, self.kind.version, self.kind.kind);
        let served = verbs.iter().filter(|verb| self.kind.verbs.contains(verb));
        served.filter_map(|verb| self.operation(verb, own, suffix)).collect()
    }

    fn subresource(&self, sub: &Subresource, verb: &str) -> Option<Operation> {
        let about = subresource_kind(self.kind, sub);
        let mut operation = self.operation(verb, about, &capitalised(sub.name))?;
        if sub.name == "log" {
            operation.query.extend(LOG);
            operation.answer = None;
        }
        if sub.kind.ends_with("Options") {
            // A connection, whatever the method: nothing of ours goes over it.
            operation.id =
                operation.id.replacen(word_of(verb), &format!("connect{}", capitalised(operation.method)), 1);
            (operation.action, operation.body, operation.answer) = ("connect", Body::None, None);
            (operation.query, operation.codes) = (Vec::new(), &["200"]);
        }
        Some(operation)
    }

    /// The operation of a verb on `about`.
    fn operation(
        &self,
        verb: &str,
        about: (&'static str, &'static str, &'static str),
        suffix: &str,
    ) -> Option<Operation> {
        let definition = |group: &str, version: &str, name: &str| {
            self.schema.kind(group, version, name).map(|message| self.schema.message(message).definition())
        };
        let (group, version, kind) = about;
        let own = || definition(group, version, kind);
        let status = || definition("", "v1", "Status");
        let options = || definition(group, version, "DeleteOptions").map_or(Body::None, Body::DeleteOptions);
        let body = || own().map_or(Body::None, Body::Object);
        let (method, action, word, query, body, answer) = match verb {
            "list" => {
                let list = definition(group, version, &format!("{kind}List"));
                ("get", "list", "list", LIST.to_vec(), Body::None, list)
            }
            "create" => ("post", "post", "create", WRITE.to_vec(), body(), own()),
            "deletecollection" => {
                let query = [LIST, DELETE].concat().into_iter().filter(|p| p.0 != "watch").collect();
                ("delete", "deletecollection", "deleteCollection", query, options(), status())
            }
            "get" => ("get", "get", "read", Vec::new(), Body::None, own()),
            "update" => ("put", "put", "replace", WRITE.to_vec(), body(), own()),
            "delete" => {
                let answer = if self.kind.answers_deleted() { own() } else { status() };
                ("delete", "delete", "delete", DELETE.to_vec(), options(), answer)
            }
            "patch" => {
                ("patch", "patch", "patch", [WRITE, &[("force", "boolean")]].concat(), Body::Patch, own())
            }
            _ => return None,
        };
        let codes: &[&str] = match verb {
            "create" => &["200", "201", "202"],
            "update" | "patch" => &["200", "201"],
            "delete" => &["200", "202"],
            _ => &["200"],
        };
        let group_word = if self.kind.group.is_empty() { "core" } else { self.kind.group };
        let group_word = group_word.split('.').next().unwrap_or_default();
        let namespaced = if self.kind.namespaced && suffix != "ForAllNamespaces" { "Namespaced" } else { "" };
        let id = format!(
            "{word}{}{}{namespaced}{}{suffix}",
            capitalised(group_word),
            capitalised(self.kind.version),
            self.kind.kind
        );
        let tag = format!("{group_word}_{}", self.kind.version);
        Some(Operation { method, action, kind: about, id, tag, query, body, answer, codes })
    }
}

/// What the name of an operation begins with.
fn word_of(verb: &str) -> &str {
    match verb {
        "get" => "read",
        "update" => "replace",
        other => other,
    }
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}
