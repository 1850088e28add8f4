//! Words that a decoder thinks about, in libFuzzer's notation: a line each, in quotes, `\\`, `\"` and `\xAB` escaped, `#` before a remark.

use std::path::Path;

/// What decoders of text and JSON think about, whatever they decode.
const OF_ALL: &[&str] = &[
    "null",
    "-1",
    "0",
    "9223372036854775808",
    "-9223372036854775809",
    "1e400",
    "1E-9Ki",
    "\"\"",
    "{",
    "}",
    "[",
    "]",
    "\\u0000",
    "\\ud800",
    "\u{1f980}",
    "\u{ff}",
    "%",
    "/",
    "\t",
    "\n",
];

/// The words of a target.
pub(crate) fn of(target: &str) -> Vec<Vec<u8>> {
    let path = Path::new(super::FOLDER).join("words").join(format!("{target}.dict"));
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let own = text.lines().filter_map(word);
    own.chain(OF_ALL.iter().map(|word| word.as_bytes().to_vec())).collect()
}

fn word(line: &str) -> Option<Vec<u8>> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let quoted =
        line.strip_prefix('"').and_then(|line| line.strip_suffix('"')).expect("a word stands in quotes");
    let (mut word, mut rest) = (Vec::new(), quoted.as_bytes());
    while let [first, after @ ..] = rest {
        (word, rest) = match (first, after) {
            (b'\\', [b'x', high, low, after @ ..]) => {
                let digits = [*high, *low];
                let byte =
                    std::str::from_utf8(&digits).ok().and_then(|text| u8::from_str_radix(text, 16).ok());
                word.push(byte.expect("two digits follow \\x"));
                (word, after)
            }
            (b'\\', [escaped, after @ ..]) => {
                word.push(*escaped);
                (word, after)
            }
            (first, after) => {
                word.push(*first);
                (word, after)
            }
        };
    }
    Some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_libfuzzer_reads_them() {
        assert_eq!(word(r#""a\x00\"\\b""#).unwrap(), b"a\0\"\\b");
        assert_eq!(word("# a remark"), None);
    }
}
