//! Finds keys that a JSON or YAML text gives twice, which a parsed value no longer shows.
//!
//! In: the text, and which of its fields are known to be unknown. Out: upstream's words, `duplicate field "spec.replicas"`, those about
//! unknown fields among them, in the order of the text. A text that does not parse has no duplicates: the parser that follows
//! reports what is wrong. Fields that are unknown are not said to be there twice, nor is anything below them.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::scalar::cut;

/// More findings than anybody reads; keeps hostile bodies from growing the answer.
const MOST: usize = 100;

/// What is unknown (by path) and what is there twice in a JSON text.
pub fn json_findings(text: &[u8], unknown: &[String]) -> Vec<String> {
    let mut finder = Finder::new(unknown);
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    // An error ends the search; see above.
    let _ = finder.deserialize(&mut deserializer);
    finder.finish(unknown)
}

/// The same of a YAML text.
pub fn yaml_findings(text: &str, unknown: &[String]) -> Vec<String> {
    let mut finder = Finder::new(unknown);
    let _ = finder.deserialize(serde_yaml::Deserializer::from_str(text));
    finder.finish(unknown)
}

/// That a field is unknown.
pub(super) fn unknown_field(path: &str) -> String {
    format!("unknown field {path:?}")
}

/// Walks a text and keeps the path to where it is.
struct Finder<'u> {
    path: String,
    /// Whether it was said of each unknown field.
    unknown: HashMap<&'u str, bool>,
    /// Below one of them.
    muted: bool,
    duplicates: usize,
    findings: Vec<String>,
}

impl<'de> DeserializeSeed<'de> for &mut Finder<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'u> Finder<'u> {
    fn new(unknown: &'u [String]) -> Self {
        let unknown = unknown.iter().map(|path| (path.as_str(), false)).collect();
        Self { path: String::new(), unknown, muted: false, duplicates: 0, findings: Vec::new() }
    }

    fn finish(mut self, unknown: &[String]) -> Vec<String> {
        // Paths that are written otherwise here.
        let left = unknown.iter().filter(|path| self.unknown.get(path.as_str()) == Some(&false));
        self.findings.extend(left.map(|path| unknown_field(path)));
        self.findings
    }

    /// Notes what is to be said of the key at this path. True if that is unknown.
    fn look(&mut self, is_new: bool) -> bool {
        let path = cut(&self.path);
        match self.unknown.get_mut(path) {
            Some(told) => {
                if !std::mem::replace(told, true) {
                    self.findings.push(unknown_field(path));
                }
                true
            }
            None => {
                if !is_new && !self.muted && self.duplicates < MOST {
                    self.duplicates += 1;
                    self.findings.push(format!("duplicate field {path:?}"));
                }
                false
            }
        }
    }

    /// Does something one step further down the path.
    fn below<T>(&mut self, step: fmt::Arguments<'_>, inner: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        // Writing to a String cannot fail.
        let _ = fmt::Write::write_fmt(&mut self.path, step);
        let result = inner(self);
        self.path.truncate(length);
        result
    }
}

impl<'de> Visitor<'de> for &mut Finder<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(Key(key)) = map.next_key()? {
            let dot = if self.path.is_empty() { "" } else { "." };
            let is_new = !seen.contains(&key);
            self.below(format_args!("{dot}{key}"), |finder| {
                let muted = finder.muted;
                finder.muted |= finder.look(is_new);
                let walked = map.next_value_seed(&mut *finder);
                finder.muted = muted;
                walked
            })?;
            seen.insert(key);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut index = 0_usize;
        while self.below(format_args!("[{index}]"), |finder| items.next_element_seed(finder))?.is_some() {
            index += 1;
        }
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// A key: YAML allows other scalars than strings.
struct Key(String);

impl<'de> serde::Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E>(self, text: &str) -> Result<Key, E> {
                Ok(Key(text.to_owned()))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }

            fn visit_unit<E>(self) -> Result<Key, E> {
                Ok(Key("null".to_owned()))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json_duplicates(text: &[u8]) -> Vec<String> {
        json_findings(text, &[])
    }

    fn yaml_duplicates(text: &str) -> Vec<String> {
        yaml_findings(text, &[])
    }

    #[test]
    fn what_is_unknown_stands_where_the_text_has_it_and_is_not_said_to_be_double() {
        let text = br#"{"metadata":{"name":"a","name":"b","odd":1},"spec":{"x":{"a":1,"a":2},"x":1,"paused":true,"paused":false,"y":1}}"#;
        let unknown = ["spec.y", "spec.x", "metadata.odd", "elsewhere"].map(str::to_owned);
        let expected = [
            r#"duplicate field "metadata.name""#,
            r#"unknown field "metadata.odd""#,
            r#"unknown field "spec.x""#,
            r#"duplicate field "spec.paused""#,
            r#"unknown field "spec.y""#,
            r#"unknown field "elsewhere""#,
        ];
        assert_eq!(json_findings(text, &unknown), expected);
    }

    #[test]
    fn duplicates_are_named_by_their_path() {
        let text = br#"{"spec":{"replicas":1,"replicas":2,"c":[{"a":1},{"a":1,"a":2}]},"spec":{}}"#;
        let expected = [
            r#"duplicate field "spec.replicas""#,
            r#"duplicate field "spec.c[1].a""#,
            r#"duplicate field "spec""#,
        ];
        assert_eq!(json_duplicates(text), expected);
    }

    #[test]
    fn yaml_duplicates_are_named_too() {
        let text = "spec:\n  replicas: 1\n  1: x\n  replicas: 2\nlist:\n- a: 1\n  a: 2\n";
        assert_eq!(
            yaml_duplicates(text),
            [r#"duplicate field "spec.replicas""#, r#"duplicate field "list[0].a""#]
        );
    }

    #[test]
    fn findings_stay_small_whatever_the_body_holds() {
        let key = "k".repeat(100_000);
        let many = r#""a":1,"#.repeat(1_000);
        let long_path = format!(r#"{{"{key}":{{{many}"b":1}}}}"#);
        let found = json_duplicates(long_path.as_bytes());
        assert!(found.len() == MOST && found.iter().all(|finding| finding.len() < 600));
        assert_eq!(json_duplicates(format!(r#"{{{many}"b":1}}"#).as_bytes()).len(), MOST);
        let mut laughs = "a0: &a0 [lol]\n".to_owned();
        for level in 1..40 {
            laughs += &format!("a{level}: &a{level} [*a{0}, *a{0}, *a{0}]\n", level - 1);
        }
        assert!(yaml_duplicates(&laughs).is_empty());
    }

    #[test]
    fn texts_without_duplicates_or_sense_have_none() {
        assert!(json_duplicates(br#"{"a":{"b":1},"b":{"b":1}}"#).is_empty());
        assert!(json_duplicates(b"{not json").is_empty());
        assert!(yaml_duplicates("a: [").is_empty());
        assert!(json_duplicates("[".repeat(100_000).as_bytes()).is_empty());
    }
}
