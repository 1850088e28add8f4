//! Label and field selectors: parsing, matching, and upstream's error texts.

use std::fmt;

use serde_json::{Map, Value};

use crate::meta;

/// How a requirement compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// The value is this one.
    Equals,
    /// The value is not this one, or the key is absent.
    NotEquals,
    /// The value is one of the set.
    In,
    /// The value is none of the set, or the key is absent.
    NotIn,
    /// The key is present.
    Exists,
    /// The key is absent.
    DoesNotExist,
    /// The value is an integer above this one.
    GreaterThan,
    /// The value is an integer below this one.
    LessThan,
}

/// One requirement of a label selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

/// A label selector: all requirements must hold. Without any it selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

/// Why a selector does not parse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(String);

impl Requirement {
    /// A checked requirement.
    ///
    /// # Errors
    /// A key or value that no label can have, or a number of values that does not fit the operator.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Self, SelectorError> {
        meta::check_qualified_name(key)
            .map_err(|e| SelectorError(format!("key: Invalid value: {key:?}: {e}")))?;
        let why = match (operator, values.as_slice()) {
            (Operator::In | Operator::NotIn, []) => "for 'in', 'notin' operators, values set can't be empty",
            (Operator::Exists | Operator::DoesNotExist, [_, ..]) => {
                "values set must be empty for exists and does not exist"
            }
            (Operator::Equals | Operator::NotEquals, [] | [_, _, ..]) => {
                "exact-match compatibility requires one single value"
            }
            (Operator::GreaterThan | Operator::LessThan, [] | [_, _, ..]) => {
                "for 'Gt', 'Lt' operators, exactly one value is required"
            }
            _ => "",
        };
        if !why.is_empty() {
            return Err(SelectorError(format!("values: Invalid value: {values:?}: {why}")));
        }
        let integers = matches!(operator, Operator::GreaterThan | Operator::LessThan);
        for (i, value) in values.iter().enumerate() {
            if integers && value.parse::<i64>().is_err() {
                let why = "for 'Gt', 'Lt' operators, the value must be an integer";
                return Err(SelectorError(format!("values[{i}]: Invalid value: {value:?}: {why}")));
            }
            meta::check_label_value(value)
                .map_err(|e| SelectorError(format!("values[{i}][{key}]: Invalid value: {value:?}: {e}")))?;
        }
        Ok(Self { key: key.to_owned(), operator, values })
    }

    fn matches<'v>(&self, value: Option<&'v str>) -> bool {
        let listed = |v: &'v str| self.values.iter().any(|wanted| wanted == v);
        match self.operator {
            Operator::In | Operator::Equals => value.is_some_and(listed),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => self.compares(value, |label, bound| label > bound),
            Operator::LessThan => self.compares(value, |label, bound| label < bound),
        }
    }

    fn compares(&self, value: Option<&str>, holds: impl Fn(i64, i64) -> bool) -> bool {
        let label = value.and_then(|v| v.parse().ok());
        let bound = self.values.first().and_then(|v| v.parse().ok());
        label.zip(bound).is_some_and(|(label, bound)| holds(label, bound))
    }
}

impl Selector {
    /// Sorted by key, as upstream keeps and prints them.
    pub(crate) fn of(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements }
    }

    /// The selector, narrowed by more requirements.
    #[must_use]
    pub fn and(mut self, more: impl IntoIterator<Item = Requirement>) -> Self {
        self.requirements.extend(more);
        Self::of(self.requirements)
    }

    /// Parses the form of query parameters and of `kubectl -l`: `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    ///
    /// # Errors
    /// Text that upstream refuses, too.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parser = Parser { rest: text };
        let mut requirements = Vec::new();
        parser.skip_space();
        if parser.rest.is_empty() {
            return Ok(Self::default());
        }
        loop {
            requirements.push(parser.requirement()?);
            parser.skip_space();
            if parser.rest.is_empty() {
                return Ok(Self::of(requirements));
            }
            if !parser.eat(",") {
                return Err(parser.unexpected("',' or the end"));
            }
        }
    }

    /// All of these labels with these values: the selector of Services and ReplicationControllers.
    #[must_use]
    pub fn from_map(map: &Map<String, Value>) -> Self {
        let requirements = map.iter().map(|(key, value)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.as_str().unwrap_or("").to_owned()],
        });
        Self::of(requirements.collect())
    }

    /// A `metav1.LabelSelector`. An empty one selects everything, an absent one nothing: `None`.
    ///
    /// # Errors
    /// An unknown operator, or a requirement that no label can meet.
    pub fn from_label_selector(selector: Option<&Value>) -> Result<Option<Self>, SelectorError> {
        let Some(selector) = selector.filter(|s| !s.is_null()) else { return Ok(None) };
        let labels = selector.get("matchLabels").and_then(Value::as_object);
        let mut all = labels.map(Self::from_map).unwrap_or_default().requirements;
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let text = |field: &str| expression.get(field).and_then(Value::as_str).unwrap_or("");
            let operator = match text("operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError(format!("{other:?} is not a valid label selector operator")));
                }
            };
            let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
            let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
            all.push(Requirement::new(text("key"), operator, values)?);
        }
        Ok(Some(Self::of(all)))
    }

    /// The selector of a workload: a map of labels of a ReplicationController, a `metav1.LabelSelector` of any other. One that
    /// is absent, or empty in a ReplicationController, selects nothing: `None`.
    ///
    /// # Errors
    /// As [`Self::from_label_selector`].
    pub fn of_workload(object: &Value) -> Result<Option<Self>, SelectorError> {
        let selector = object.get("spec").and_then(|spec| spec.get("selector"));
        if object.get("kind").and_then(Value::as_str) != Some("ReplicationController") {
            return Self::from_label_selector(selector);
        }
        let map = selector.and_then(Value::as_object);
        Ok(map.map(Self::from_map).filter(|selector| !selector.is_everything()))
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether labels, asked by `lookup`, meet every requirement.
    pub fn matches_with<'v>(&self, mut lookup: impl FnMut(&str) -> Option<&'v str>) -> bool {
        self.requirements.iter().all(|r| r.matches(lookup(&r.key)))
    }

    /// Whether an object's labels meet every requirement.
    #[must_use]
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.matches_with(|key| labels.and_then(|l| l.get(key)).and_then(Value::as_str))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}")?;
            let mut values = r.values.clone();
            values.sort_unstable();
            let (key, values) = (&r.key, values.join(","));
            match r.operator {
                Operator::Equals => write!(f, "{key}={values}")?,
                Operator::NotEquals => write!(f, "{key}!={values}")?,
                Operator::GreaterThan => write!(f, "{key}>{values}")?,
                Operator::LessThan => write!(f, "{key}<{values}")?,
                Operator::In => write!(f, "{key} in ({values})")?,
                Operator::NotIn => write!(f, "{key} notin ({values})")?,
                Operator::Exists => write!(f, "{key}")?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

struct Parser<'t> {
    rest: &'t str,
}

impl<'t> Parser<'t> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, token: &str) -> bool {
        self.skip_space();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self) -> &'t str {
        self.skip_space();
        let end =
            self.rest.find(|c: char| c.is_whitespace() || "=!(),<>".contains(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn unexpected(&mut self, expected: &str) -> SelectorError {
        self.skip_space();
        let found: String = self.rest.chars().take(20).collect();
        SelectorError(format!("unable to parse requirement: found '{found}', expected: {expected}"))
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        if self.eat("!") {
            let key = self.word();
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        let key = self.word();
        if key.is_empty() {
            return Err(self.unexpected("identifier or '!'"));
        }
        if self.eat("!=") {
            return Requirement::new(key, Operator::NotEquals, vec![self.word().to_owned()]);
        }
        if self.eat("==") || self.eat("=") {
            return Requirement::new(key, Operator::Equals, vec![self.word().to_owned()]);
        }
        for (sign, operator) in [(">", Operator::GreaterThan), ("<", Operator::LessThan)] {
            if self.eat(sign) {
                return Requirement::new(key, operator, vec![self.word().to_owned()]);
            }
        }
        self.skip_space();
        if self.rest.is_empty() || self.rest.starts_with(',') {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        let operator = match self.word() {
            "in" => Operator::In,
            "notin" => Operator::NotIn,
            other => {
                let expected = "in, notin, =, ==, !=, gt, lt";
                return Err(SelectorError(format!(
                    "unable to parse requirement: found '{other}', expected: {expected}"
                )));
            }
        };
        let values = self.set()?;
        Requirement::new(key, operator, values)
    }

    fn set(&mut self) -> Result<Vec<String>, SelectorError> {
        if !self.eat("(") {
            return Err(self.unexpected("'('"));
        }
        let mut values = Vec::new();
        loop {
            values.push(self.word().to_owned());
            if self.eat(")") {
                return Ok(values);
            }
            if !self.eat(",") {
                return Err(self.unexpected("',' or ')'"));
            }
        }
    }
}

/// A field selector: `metadata.name=web,status.phase!=Running`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<(String, bool, String)>,
}

impl FieldSelector {
    /// Parses it.
    ///
    /// # Errors
    /// A term without an operator.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for term in text.split(',').filter(|t| !t.is_empty()) {
            let (key, equal, value) = if let Some((key, value)) = term.split_once("!=") {
                (key, false, value)
            } else if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
                (key, true, value)
            } else {
                return Err(SelectorError(format!("invalid selector: '{text}'; can't understand '{term}'")));
            };
            terms.push((key.trim().to_owned(), equal, value.trim().to_owned()));
        }
        Ok(Self { terms })
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The same about fields of other names.
    #[must_use]
    pub fn renamed(mut self, mut rename: impl FnMut(&str) -> String) -> Self {
        for (field, _, _) in &mut self.terms {
            *field = rename(field);
        }
        self
    }

    /// The names of the fields that it looks at.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.terms.iter().map(|(key, _, _)| key.as_str())
    }

    /// The value that a field must have, if it is asked for by equality.
    #[must_use]
    pub fn required(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|(key, equal, _)| *equal && key == field).map(|(_, _, value)| value.as_str())
    }

    /// Whether an object meets every term; `lookup` gives a field's value as text (absent is empty).
    pub fn matches_with(&self, mut lookup: impl FnMut(&str) -> String) -> bool {
        self.terms.iter().all(|(key, equal, value)| (lookup(key) == *value) == *equal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn selects(selector: &str, labels: &Value) -> bool {
        Selector::parse(selector).unwrap().matches(labels.as_object())
    }

    #[test]
    fn every_form_of_requirement_selects_as_kubernetes_does() {
        let labels = json!({"name": "mysql", "env": "dev", "age": "5"});
        for yes in [
            "",
            "name=mysql",
            "name==mysql",
            "name=mysql,env!=production",
            "name notin (tomcat),env!=production",
            "name in (mysql, tomcat)",
            "env",
            "!absent",
            "absent!=x",
            "absent notin (x)",
            " name = mysql ",
            "age>4",
            "age<6",
        ] {
            assert!(selects(yes, &labels), "{yes}");
        }
        for no in [
            "name=",
            "name!=mysql",
            "!env",
            "absent",
            "name in (a,b)",
            "absent=x",
            "name notin (mysql)",
            "age>5",
            "name>1",
            "absent<1",
        ] {
            assert!(!selects(no, &labels), "{no}");
        }
    }

    #[test]
    fn selectors_print_sorted_by_key_with_their_own_operator() {
        let object = json!({"matchLabels": {"b": "2", "a": "1"},
            "matchExpressions": [{"key": "aa", "operator": "In", "values": ["y", "x"]}]});
        let selector = Selector::from_label_selector(Some(&object)).unwrap().unwrap();
        assert_eq!(selector.to_string(), "a=1,aa in (x,y),b=2");
        assert_eq!(Selector::parse("z in (q),a==1,!m").unwrap().to_string(), "a=1,!m,z in (q)");
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "=",
            "a=b,",
            "a in",
            "a in b",
            "a in (b",
            "a in (b c)",
            "a b",
            "a=b c",
            "-a",
            "a=-",
            "a>x",
            "a>",
            ",a",
        ] {
            assert!(Selector::parse(bad).is_err(), "{bad}");
        }
        assert!(FieldSelector::parse("metadata.name").is_err());
    }

    #[test]
    fn a_workload_selects_as_its_kind_does() {
        let of = |kind: &str, selector: serde_json::Value| {
            let selector =
                Selector::of_workload(&json!({"kind": kind, "spec": {"selector": selector}})).unwrap();
            selector.map(|selector| selector.to_string())
        };
        assert_eq!(of("ReplicationController", json!({"b": "2", "a": "1"})), Some("a=1,b=2".to_owned()));
        assert_eq!(of("ReplicationController", json!({})), None);
        assert_eq!(of("ReplicaSet", json!({"matchLabels": {"a": "1"}})), Some("a=1".to_owned()));
        assert_eq!(of("ReplicaSet", json!({})), Some(String::new()));
    }

    #[test]
    fn label_selector_objects_distinguish_empty_from_absent() {
        assert_eq!(Selector::from_label_selector(None).unwrap(), None);
        assert!(Selector::from_label_selector(Some(&json!({}))).unwrap().unwrap().is_everything());
        let selector = json!({"matchLabels": {"a": "1"}, "matchExpressions": [
            {"key": "b", "operator": "In", "values": ["x", "y"]}, {"key": "c", "operator": "DoesNotExist"}]});
        let selector = Selector::from_label_selector(Some(&selector)).unwrap().unwrap();
        assert!(selector.matches(json!({"a": "1", "b": "y"}).as_object()));
        assert!(!selector.matches(json!({"a": "1", "b": "y", "c": ""}).as_object()));
        assert!(
            Selector::from_label_selector(Some(
                &json!({"matchExpressions": [{"key": "b", "operator": "Gt"}]})
            ))
            .is_err()
        );
    }

    #[test]
    fn field_selectors_compare_for_equality_only() {
        let selector = FieldSelector::parse("metadata.name=web,status.phase!=Running").unwrap();
        let object =
            |field: &str| if field == "metadata.name" { "web".to_owned() } else { "Pending".to_owned() };
        assert!(selector.matches_with(object));
        assert_eq!(selector.required("metadata.name"), Some("web"));
        assert_eq!(selector.required("status.phase"), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = Selector::parse(&text);
            let _ = FieldSelector::parse(&text);
        }

        #[test]
        fn a_printed_selector_parses_to_itself(
            keys in proptest::collection::vec(("[a-z]{1,8}", 0..4u8, proptest::collection::vec("[a-z0-9]{1,5}", 1..4)), 1..5)
        ) {
            let requirements = keys.into_iter().map(|(key, operator, mut values)| match operator {
                0 => {
                    values.sort();
                    Requirement::new(&key, Operator::In, values)
                }
                1 => Requirement::new(&key, Operator::NotEquals, values[..1].to_vec()),
                2 => Requirement::new(&key, Operator::Exists, vec![]),
                _ => Requirement::new(&key, Operator::DoesNotExist, vec![]),
            }.unwrap()).collect();
            let selector = Selector::of(requirements);
            prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
        }
    }
}
