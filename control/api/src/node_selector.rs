//! Which nodes a pod may go to by required node affinity (`v1.NodeSelector`): terms of label expressions and of the field
//! `metadata.name`. Terms are alternatives; within a term everything must hold; a term without anything selects nothing.

use serde_json::Value;

use crate::selector::{Operator, Requirement, Selector};

/// A parsed node selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSelector {
    terms: Box<[Term]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    labels: Selector,
    /// (whether it must be this name, the name).
    names: Box<[(bool, Box<str>)]>,
}

/// What is wrong with a node selector: the path below it, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {why}")]
pub struct NodeSelectorError {
    /// Where, as `nodeSelectorTerms[0].matchFields[0]`.
    pub path: String,
    /// Why.
    pub why: String,
}

impl NodeSelector {
    /// Reads a `v1.NodeSelector`.
    ///
    /// # Errors
    /// No terms, unknown operators, values that no label can have, fields other than `metadata.name`.
    pub fn parse(selector: &Value) -> Result<Self, NodeSelectorError> {
        let terms = list(selector, "nodeSelectorTerms");
        if terms.is_empty() {
            let why = "must have at least one node selector term".to_owned();
            return Err(NodeSelectorError { path: "nodeSelectorTerms".to_owned(), why });
        }
        let terms = terms.iter().enumerate().map(|(i, term)| {
            let at = |field: &str, j: usize, why: String| NodeSelectorError {
                path: format!("nodeSelectorTerms[{i}].{field}[{j}]"),
                why,
            };
            let labels = list(term, "matchExpressions").iter().enumerate();
            let labels = labels.map(|(j, e)| requirement(e).map_err(|why| at("matchExpressions", j, why)));
            let names = list(term, "matchFields").iter().enumerate();
            let names = names.map(|(j, e)| name(e).map_err(|why| at("matchFields", j, why)));
            Ok(Term {
                labels: Selector::of(labels.collect::<Result<_, _>>()?),
                names: names.collect::<Result<_, _>>()?,
            })
        });
        Ok(Self { terms: terms.collect::<Result<_, _>>()? })
    }

    /// Whether it selects a node with this name and these labels.
    pub fn matches<'v>(&self, node: &str, mut label: impl FnMut(&str) -> Option<&'v str>) -> bool {
        self.terms.iter().any(|term| {
            (!term.labels.is_everything() || !term.names.is_empty())
                && term.names.iter().all(|(wanted, name)| (**name == *node) == *wanted)
                && term.labels.matches_with(&mut label)
        })
    }

    /// The one node that it can select, if its terms name one.
    #[must_use]
    pub fn only_node(&self) -> Option<&str> {
        let mut names = self
            .terms
            .iter()
            .map(|term| term.names.iter().find(|(wanted, _)| *wanted).map(|(_, name)| &**name));
        let first = names.next()??;
        names.all(|name| name == Some(first)).then_some(first)
    }
}

fn list<'v>(object: &'v Value, field: &str) -> &'v [Value] {
    object.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn parts(expression: &Value) -> (&str, &str, Vec<String>) {
    let text = |field: &str| expression.get(field).and_then(Value::as_str).unwrap_or("");
    let values = list(expression, "values").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    (text("key"), text("operator"), values)
}

fn requirement(expression: &Value) -> Result<Requirement, String> {
    let (key, operator, values) = parts(expression);
    let operator = match operator {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        other => return Err(format!("{other:?} is not a valid selector operator")),
    };
    Requirement::new(key, operator, values).map_err(|e| e.to_string())
}

fn name(expression: &Value) -> Result<(bool, Box<str>), String> {
    let (key, operator, values) = parts(expression);
    if key != "metadata.name" {
        return Err(format!("{key:?} is not a valid field selector key"));
    }
    match (operator, values.as_slice()) {
        ("In", [name]) => Ok((true, name.as_str().into())),
        ("NotIn", [name]) => Ok((false, name.as_str().into())),
        ("In" | "NotIn", _) => {
            Err("must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
                .to_owned())
        }
        (other, _) => Err(format!("{other:?} is not a valid selector operator")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selects(terms: Value, name: &str, zone: Option<&str>) -> bool {
        let selector = NodeSelector::parse(&json!({"nodeSelectorTerms": terms})).unwrap();
        selector.matches(name, |key| zone.filter(|_| key == "zone"))
    }

    #[test]
    fn terms_are_alternatives_and_their_parts_must_all_hold() {
        let in_a = json!({"key": "zone", "operator": "In", "values": ["a"]});
        let named = json!({"key": "metadata.name", "operator": "In", "values": ["n1"]});
        let both = json!([{"matchExpressions": [in_a], "matchFields": [named]}]);
        assert!(selects(both.clone(), "n1", Some("a")));
        assert!(!selects(both.clone(), "n1", Some("b")) && !selects(both, "n2", Some("a")));
        let either = json!([{"matchExpressions": [in_a]}, {"matchFields": [named]}]);
        assert!(selects(either.clone(), "n1", None) && selects(either, "n2", Some("a")));
        assert!(!selects(json!([{}]), "n1", None), "an empty term selects nothing");
        let not = json!([{"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}]}]);
        assert!(!selects(not.clone(), "n1", None) && selects(not, "n2", None));
        let above = json!([{"matchExpressions": [{"key": "zone", "operator": "Gt", "values": ["3"]}]}]);
        assert!(selects(above.clone(), "n", Some("4")) && !selects(above, "n", Some("3")));
    }

    #[test]
    fn the_one_node_is_known_without_looking_at_all() {
        let of = |terms: Value| NodeSelector::parse(&json!({"nodeSelectorTerms": terms})).unwrap();
        let named = |name: &str| json!({"key": "metadata.name", "operator": "In", "values": [name]});
        assert_eq!(of(json!([{"matchFields": [named("a")]}])).only_node(), Some("a"));
        assert_eq!(
            of(json!([{"matchFields": [named("a")]}, {"matchFields": [named("b")]}])).only_node(),
            None
        );
        assert_eq!(of(json!([{"matchFields": [named("a")]}, {}])).only_node(), None);
    }

    #[test]
    fn what_cannot_be_is_refused_where_it_stands() {
        let path = |terms: Value| NodeSelector::parse(&json!({"nodeSelectorTerms": terms})).unwrap_err().path;
        assert_eq!(path(json!([])), "nodeSelectorTerms");
        assert_eq!(
            path(json!([{"matchFields": [{"key": "spec.x", "operator": "In", "values": ["a"]}]}])),
            "nodeSelectorTerms[0].matchFields[0]"
        );
        assert_eq!(
            path(json!([{"matchExpressions": [{"key": "a", "operator": "Like", "values": ["a"]}]}])),
            "nodeSelectorTerms[0].matchExpressions[0]"
        );
    }
}
