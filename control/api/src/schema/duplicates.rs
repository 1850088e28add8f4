//! Finds keys that a JSON or YAML text gives twice, which a parsed value no longer shows.
//!
//! In: the text. Out: upstream's words, `duplicate field "spec.replicas"`, in the order of the text. A text that does not
//! parse has no duplicates: the parser that follows reports what is wrong.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::scalar::cut;

/// More findings than anybody reads; keeps hostile bodies from growing the answer.
const MOST: usize = 100;

/// The duplicate keys of a JSON text.
pub fn json_duplicates(text: &[u8]) -> Vec<String> {
    let mut found = Finder::default();
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    // An error ends the search; see above.
    let _ = found.deserialize(&mut deserializer);
    found.duplicates
}

/// The duplicate keys of a YAML text.
pub fn yaml_duplicates(text: &str) -> Vec<String> {
    let mut found = Finder::default();
    let _ = found.deserialize(serde_yaml::Deserializer::from_str(text));
    found.duplicates
}

/// Walks a text and keeps the path to where it is.
#[derive(Default)]
struct Finder {
    path: String,
    duplicates: Vec<String>,
}

impl<'de> DeserializeSeed<'de> for &mut Finder {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Finder {
    /// Notes that the key at this path was there before.
    fn found(&mut self) {
        if self.duplicates.len() < MOST {
            self.duplicates.push(format!("duplicate field {:?}", cut(&self.path)));
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

impl<'de> Visitor<'de> for &mut Finder {
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
                if !is_new {
                    finder.found();
                }
                map.next_value_seed(&mut *finder)
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
