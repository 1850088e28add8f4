//! One rule of a role: what it allows, what it covers. Pure.
//!
//! Source: k8s.io/kubernetes/pkg/apis/rbac/v1/evaluation_helpers.go, k8s.io/component-helpers/auth/rbac/validation.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{About, Attributes};

/// One entry of `rules`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rule {
    #[serde(default, deserialize_with = "words")]
    pub(crate) verbs: Vec<Box<str>>,
    #[serde(default, deserialize_with = "words", skip_serializing_if = "Vec::is_empty")]
    pub(crate) api_groups: Vec<Box<str>>,
    #[serde(default, deserialize_with = "words", skip_serializing_if = "Vec::is_empty")]
    pub(crate) resources: Vec<Box<str>>,
    #[serde(default, deserialize_with = "words", skip_serializing_if = "Vec::is_empty")]
    pub(crate) resource_names: Vec<Box<str>>,
    #[serde(
        default,
        deserialize_with = "words",
        rename = "nonResourceURLs",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub(crate) urls: Vec<Box<str>>,
}

/// Null is an empty list.
fn words<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Box<str>>, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

fn has(words: &[Box<str>], word: &str) -> bool {
    words.iter().any(|w| **w == *word)
}

fn has_all(words: &[Box<str>], wanted: &[Box<str>]) -> bool {
    wanted.iter().all(|word| has(words, word))
}

/// `*`, the path itself, or a beginning of it before a last `*`.
fn url_covers(pattern: &str, url: &str) -> bool {
    pattern == "*"
        || pattern == url
        || pattern.ends_with('*') && url.starts_with(pattern.trim_end_matches('*'))
}

impl Rule {
    /// The rules of a role; what is no rule is none.
    pub(crate) fn of_role(role: &Value) -> Vec<Self> {
        let rules = role.get("rules").and_then(Value::as_array);
        rules.into_iter().flatten().filter_map(|rule| Self::deserialize(rule).ok()).collect()
    }

    /// Everything: what the masters have.
    pub(crate) fn everything() -> Vec<Self> {
        let all = || vec![Box::from("*")];
        vec![
            Self { verbs: all(), api_groups: all(), resources: all(), ..Self::default() },
            Self { verbs: all(), urls: all(), ..Self::default() },
        ]
    }

    /// Whether it allows this.
    pub(crate) fn allows(&self, attributes: &Attributes<'_>) -> bool {
        if !has(&self.verbs, "*") && !has(&self.verbs, attributes.verb) {
            return false;
        }
        match attributes.about {
            About::Path(path) => self.urls.iter().any(|pattern| url_covers(pattern, path)),
            About::Resource(about) => {
                (has(&self.api_groups, "*") || has(&self.api_groups, about.group))
                    && self.names_resource(about.resource, about.subresource)
                    && (self.resource_names.is_empty() || has(&self.resource_names, about.name))
            }
        }
    }

    /// `*`, `pods`, `pods/log`, `*/scale`.
    fn names_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|pattern| match pattern.split_once('/') {
            None => **pattern == *"*" || subresource.is_empty() && **pattern == *resource,
            Some((of, sub)) => !subresource.is_empty() && sub == subresource && (of == "*" || of == resource),
        })
    }

    /// One rule for each single thing that it allows.
    fn single(&self) -> impl Iterator<Item = Self> + '_ {
        let one = |word: &str| vec![Box::from(word)];
        let urls = self.urls.iter().flat_map(move |url| {
            self.verbs.iter().map(move |verb| Self { verbs: one(verb), urls: one(url), ..Self::default() })
        });
        // A rule without names is about all of them.
        let names: Vec<Vec<Box<str>>> = match self.resource_names.as_slice() {
            [] => vec![Vec::new()],
            names => names.iter().map(|name| vec![name.clone()]).collect(),
        };
        let groups = self.api_groups.iter().flat_map(move |group| {
            let names = names.clone();
            self.resources.iter().flat_map(move |resource| {
                let names = names.clone();
                self.verbs.iter().flat_map(move |verb| {
                    let make = move |names: Vec<Box<str>>| Self {
                        verbs: one(verb),
                        api_groups: one(group),
                        resources: one(resource),
                        resource_names: names,
                        urls: Vec::new(),
                    };
                    names.clone().into_iter().map(make)
                })
            })
        });
        groups.chain(urls)
    }

    /// Whether whoever has this one has that one.
    fn covers(&self, other: &Self) -> bool {
        let all = |own: &[Box<str>], others: &[Box<str>]| has(own, "*") || has_all(own, others);
        let resource = |wanted: &str| {
            let below = wanted.split_once('/').map(|(_, sub)| format!("*/{sub}"));
            has(&self.resources, wanted) || below.is_some_and(|below| has(&self.resources, &below))
        };
        let names = self.resource_names.is_empty()
            || !other.resource_names.is_empty() && has_all(&self.resource_names, &other.resource_names);
        all(&self.verbs, &other.verbs)
            && all(&self.api_groups, &other.api_groups)
            && (has(&self.resources, "*") || other.resources.iter().all(|wanted| resource(wanted)))
            && other.urls.iter().all(|url| self.urls.iter().any(|own| url_covers(own, url)))
            && names
    }
}

/// What of `wanted` is not covered by `held`, one thing a rule.
pub(super) fn missing(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let single = wanted.iter().flat_map(Rule::single);
    single.filter(|one| !held.iter().any(|rule| rule.covers(one))).collect()
}

/// Verbs of the same thing in one rule each, as lines in order.
pub(super) fn describe(rules: Vec<Rule>) -> Vec<String> {
    let mut compact: Vec<Rule> = Vec::new();
    for rule in rules {
        let same = |other: &&mut Rule| {
            rule.urls.is_empty()
                && other.urls.is_empty()
                && (&other.api_groups, &other.resources, &other.resource_names)
                    == (&rule.api_groups, &rule.resources, &rule.resource_names)
        };
        match compact.iter_mut().find(same) {
            Some(other) => other.verbs.extend(rule.verbs),
            None => compact.push(rule),
        }
    }
    let mut lines: Vec<String> = compact.iter().map(line).collect();
    lines.sort_unstable();
    lines.dedup();
    lines
}

/// `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`
fn line(rule: &Rule) -> String {
    let parts = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ];
    let given = parts.into_iter().filter(|(_, words)| !words.is_empty());
    let parts: Vec<String> = given.map(|(name, words)| format!("{name}:{}", quoted(words))).collect();
    format!("{{{}}}", parts.join(", "))
}

/// `["a" "b"]`, as Go writes lists.
pub(super) fn quoted(words: &[impl AsRef<str>]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("{:?}", word.as_ref())).collect();
    format!("[{}]", words.join(" "))
}

#[cfg(test)]
mod tests;
