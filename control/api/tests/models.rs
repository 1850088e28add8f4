//! Selectors and quantities against naive models of what Kubernetes says they mean.

use std::collections::BTreeMap;

use oarlock_api::quantity::Quantity;
use oarlock_api::selector::{FieldSelector, Selector};
use proptest::prelude::*;
use serde_json::json;

/// A requirement as a person reads it.
#[derive(Debug, Clone)]
struct Wanted {
    key: String,
    operator: &'static str,
    values: Vec<String>,
}

impl Wanted {
    fn text(&self) -> String {
        let Self { key, operator, values } = self;
        match *operator {
            "exists" => key.clone(),
            "!" => format!("!{key}"),
            "in" | "notin" => format!("{key} {operator} ({})", values.join(",")),
            operator => format!("{key}{operator}{}", values[0]),
        }
    }

    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let label = labels.get(&self.key);
        let number = |text: &str| text.parse::<i64>().ok();
        let compared = |smaller: bool| {
            let (label, bound) = (label.and_then(|label| number(label)), number(&self.values[0]));
            matches!((label, bound), (Some(label), Some(bound)) if if smaller { label < bound } else { label > bound })
        };
        match self.operator {
            "exists" => label.is_some(),
            "!" => label.is_none(),
            "=" | "==" | "in" => label.is_some_and(|label| self.values.contains(label)),
            "!=" | "notin" => label.is_none_or(|label| !self.values.contains(label)),
            operator => compared(operator == "<"),
        }
    }
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let operators = prop::sample::select(vec!["exists", "!", "=", "==", "!=", "in", "notin", "<", ">"]);
    let values = prop::collection::vec("[0-9]{1,2}", 1..4);
    let texts = prop::collection::vec("([a-c]{1,2}|[0-9])?", 1..4);
    ("(x/)?[a-c]", operators, values, texts).prop_map(|(key, operator, numbers, texts)| {
        let mut values = if matches!(operator, "<" | ">") { numbers } else { texts };
        if !matches!(operator, "in" | "notin") {
            values.truncate(1);
        }
        Wanted { key, operator, values }
    })
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map("(x/)?[a-c]", "([a-c]{1,2}|[0-9]{1,2})?", 0..5)
}

/// A number with its unit, and what it is in billionths.
#[derive(Debug, Clone)]
struct Number {
    text: String,
    nano: i128,
}

const UNITS: [(&str, i128); 15] = [
    ("n", 1),
    ("u", 1_000),
    ("m", 1_000_000),
    ("", 1_000_000_000),
    ("e0", 1_000_000_000),
    ("k", 1_000_000_000_000),
    ("e3", 1_000_000_000_000),
    ("M", 1_000_000_000_000_000),
    ("E6", 1_000_000_000_000_000),
    ("G", 1_000_000_000_000_000_000),
    ("Ki", 1_000_000_000 << 10),
    ("Mi", 1_000_000_000 << 20),
    ("Gi", 1_000_000_000 << 30),
    ("e-3", 1_000_000),
    ("E-6", 1_000),
];

/// Without parts of a billionth: those are rounded, which is another property.
fn number() -> impl Strategy<Value = Number> {
    let sign = prop::sample::select(vec!["", "", "+", "-"]);
    (sign, 0_i128..100_000, prop::option::of(0_i128..1000), prop::sample::select(UNITS.to_vec()))
        .prop_filter_map("parts of a billionth", |(sign, whole, part, (unit, nano))| {
            let text = part.map_or_else(|| whole.to_string(), |part| format!("{whole}.{part:03}"));
            let thousandths = (whole * 1000 + part.unwrap_or(0)) * nano;
            let value = thousandths / 1000 * if sign == "-" { -1 } else { 1 };
            (thousandths % 1000 == 0).then(|| Number { text: format!("{sign}{text}{unit}"), nano: value })
        })
}

fn read(text: &str) -> Quantity {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn up(value: i128, unit: i128) -> i128 {
    value.div_euclid(unit) + i128::from(value.rem_euclid(unit) != 0)
}

proptest! {
    #[test]
    fn a_selector_selects_what_its_words_say(wanted in prop::collection::vec(wanted(), 0..4), labels in labels()) {
        let text = wanted.iter().map(Wanted::text).collect::<Vec<_>>().join(",");
        let selector = Selector::parse(&text).unwrap();
        let value = json!(labels);
        let holds = wanted.iter().all(|wanted| wanted.holds(&labels));
        prop_assert_eq!(selector.matches(value.as_object()), holds, "{} of {}", text, value);
        // What is printed means the same, and is printed so again.
        let printed = selector.to_string();
        let again = Selector::parse(&printed).unwrap();
        prop_assert_eq!(again.matches(value.as_object()), holds, "{} of {}", printed, value);
        prop_assert_eq!(again.to_string(), printed);
        prop_assert_eq!(selector.is_everything(), wanted.is_empty());
    }

    #[test]
    fn a_selector_of_an_object_is_the_one_of_its_words(labels in labels(), of in labels(), values in prop::collection::vec("[a-c]", 1..3)) {
        let object = json!({"matchLabels": of, "matchExpressions": [{"key": "a", "operator": "NotIn", "values": values}]});
        let selector = Selector::from_label_selector(Some(&object)).unwrap().unwrap();
        let wanted = of.iter().all(|(key, value)| labels.get(key) == Some(value))
            && labels.get("a").is_none_or(|label| !values.contains(label));
        let value = json!(labels);
        prop_assert_eq!(selector.matches(value.as_object()), wanted, "{} of {}", selector, value);
    }

    #[test]
    fn a_field_selector_compares_texts(fields in prop::collection::vec(("[ab]\\.[ab]", any::<bool>(), "[xy]{0,2}"), 1..4), value in "[xy]{0,2}") {
        let words = fields.iter().map(|(field, equal, value)| format!("{field}{}{value}", if *equal { "=" } else { "!=" }));
        let text = words.collect::<Vec<_>>().join(",");
        let holds = fields.iter().all(|(_, equal, wanted)| (*wanted == value) == *equal);
        prop_assert_eq!(FieldSelector::parse(&text).unwrap().matches_with(|_| value.clone()), holds, "{}", text);
    }

    #[test]
    fn quantities_are_exact(one in number(), other in number()) {
        let (a, b) = (read(&one.text), read(&other.text));
        prop_assert_eq!(a.cmp(&b), one.nano.cmp(&other.nano), "{} {}", one.text, other.text);
        prop_assert_eq!(a == b, one.nano == other.nano);
        prop_assert_eq!(a.is_negative(), one.nano < 0);
        prop_assert_eq!(a.is_zero(), one.nano == 0);
        prop_assert_eq!(i128::from(a.milli_value()), up(one.nano, 1_000_000), "{}", one.text);
        prop_assert_eq!(i128::from(a.value()), up(one.nano, 1_000_000_000), "{}", one.text);
        prop_assert_eq!(a.plus(&b).cmp(&a), other.nano.cmp(&0));
        prop_assert_eq!(a.plus(&b).minus(&b), a);
    }

    #[test]
    fn what_is_printed_of_a_quantity_is_as_much(one in number()) {
        let quantity = read(&one.text);
        let printed = quantity.to_string();
        // Parts of a byte are rounded, as upstream does.
        let is_exact = !one.text.ends_with('i') || one.nano % 1_000_000_000 == 0;
        if is_exact {
            prop_assert_eq!(&read(&printed), &quantity, "{} {}", one.text, printed);
        } else {
            let off = (i128::from(read(&printed).milli_value()) * 1_000_000 - one.nano).abs();
            prop_assert!(off < 1_000_000_000, "{} {}", one.text, printed);
        }
        // What is printed without a unit of bytes is read as a decimal number, which has other units.
        if !one.text.ends_with('i') {
            prop_assert_eq!(read(&printed).to_string(), printed);
        }
    }
}
