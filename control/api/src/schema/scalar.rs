//! The special scalars of Kubernetes: what text they accept, and how they are written.
//!
//! In: text or numbers. Out: the reason why it is none, in the words of upstream, or the canonical text.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::{PAD, STANDARD};
use jiff::Timestamp;

use crate::quantity::Quantity;

/// As much of a foreign text as an error message repeats: no answer grows with a hostile body.
pub(super) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(500)]
}

/// Why a text is no quantity.
pub(super) fn quantity_error(text: &str) -> Option<String> {
    text.parse::<Quantity>().err().map(|error| error.to_string())
}

/// Base64 as Go reads it: the last bits, which belong to no byte, may be any.
const LENIENT: GeneralPurpose =
    GeneralPurpose::new(&base64::alphabet::STANDARD, PAD.with_decode_allow_trailing_bits(true));

/// Why a text is no bytes in base64.
pub(super) fn bytes_error(text: &str) -> Option<String> {
    let is_wrong = LENIENT.decode(unbroken(text).as_ref()).is_err();
    is_wrong.then(|| format!("illegal base64 data at input byte {}", illegal_at(text.as_bytes())))
}

/// The base64 that Go would write for what it reads; `None` where that is the same.
pub(super) fn bytes_text(text: &str) -> Option<String> {
    let bytes = LENIENT.decode(unbroken(text).as_ref()).ok()?;
    Some(STANDARD.encode(bytes)).filter(|written| written != text)
}

/// Without the line breaks, which Go passes over.
fn unbroken(text: &str) -> Cow<'_, str> {
    if text.contains(['\r', '\n']) { text.replace(['\r', '\n'], "").into() } else { text.into() }
}

/// Where Go says that something is wrong in base64 that is wrong: at the letter that cannot be, or where the four begin that end too early.
fn illegal_at(text: &[u8]) -> usize {
    let is_break = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let after_breaks = |from: usize| from + text.iter().skip(from).take_while(|byte| is_break(byte)).count();
    let mut letters = 0;
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => letters += 1,
            byte if is_break(byte) => {}
            b'=' if letters % 4 == 2 => {
                let next = after_breaks(at + 1);
                return match text.get(next) {
                    Some(b'=') => after_breaks(next + 1),
                    Some(_) => next - 1,
                    None => text.len(),
                };
            }
            b'=' if letters % 4 == 3 => return after_breaks(at + 1),
            _ => return at,
        }
    }
    text.len() - letters % 4
}

/// Why a text is no time.
pub(super) fn time_error(text: &str, layout: &str) -> Option<String> {
    let error = text.parse::<Timestamp>().is_err();
    let text = cut(text);
    error.then(|| format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\""))
}

/// Why a text is no duration in Go's notation.
pub(super) fn duration_error(text: &str) -> Option<String> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let mut rest = unsigned;
    while !rest.is_empty() && rest != "0" {
        let unit = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let units = ["ns", "us", "µs", "ms", "s", "m", "h"];
        // `ms` before `m` and `s`: the first that fits is the longest.
        let after = units.iter().find_map(|name| unit.strip_prefix(name));
        match after {
            Some(after) if unit.len() < rest.len() => rest = after,
            _ => return Some(format!("time: invalid duration {:?}", cut(text))),
        }
    }
    unsigned.is_empty().then(|| format!("time: invalid duration {text:?}"))
}

/// The nanoseconds of a duration in Go's notation; `None`: it is none, or more than 292 years.
pub(super) fn duration_nanos(text: &str) -> Option<i64> {
    duration_error(text).is_none().then_some(())?;
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    let mut total = 0_i128;
    while !rest.is_empty() && rest != "0" {
        let number_ends = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_ends);
        let units: [(&str, i128); 7] = [
            ("ns", 1),
            ("us", 1_000),
            ("µs", 1_000),
            ("ms", 1_000_000),
            ("s", 1_000_000_000),
            ("m", 60_000_000_000),
            ("h", 3_600_000_000_000),
        ];
        let (unit, after) = units.iter().find_map(|(name, unit)| Some((*unit, after.strip_prefix(name)?)))?;
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i128>().ok() };
        total = total.checked_add(digits(whole)?.checked_mul(unit)?)?;
        // What is less than a nanosecond is cut off.
        let part = &part[..part.len().min(18)];
        let parts = 10_i128.pow(u32::try_from(part.len()).ok()?);
        total = total.checked_add(digits(part)?.checked_mul(unit)? / parts)?;
        rest = after;
    }
    i64::try_from(if text.starts_with('-') { -total } else { total }).ok()
}

/// RFC 3339 in UTC with seconds, as `metav1.Time` writes it.
pub(super) fn time_text(seconds: i64) -> Option<String> {
    Some(Timestamp::from_second(seconds).ok()?.to_string())
}

/// RFC 3339 in UTC with microseconds, as `metav1.MicroTime` writes it.
pub(super) fn micro_time_text(seconds: i64, nanos: i32) -> Option<String> {
    let time = Timestamp::new(seconds, nanos).ok()?;
    Some(time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
}

/// Go's notation of a duration: `1h0m5.5s`, `1.5ms`.
pub(super) fn duration_text(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let total = nanoseconds.unsigned_abs();
    if total == 0 {
        return "0s".to_owned();
    }
    for (limit, unit, name) in [(1_000, 1, "ns"), (1_000_000, 1_000, "µs"), (1_000_000_000, 1_000_000, "ms")]
    {
        if total < limit {
            return format!("{sign}{}{name}", fraction(total, unit));
        }
    }
    let seconds = fraction(total % 60_000_000_000, 1_000_000_000);
    let minutes = total / 60_000_000_000;
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

/// `value / unit` in decimal without trailing zeros; `unit` is a power of ten.
fn fraction(value: u64, unit: u64) -> String {
    let digits = unit.ilog10() as usize;
    let rest = format!("{:0digits$}", value % unit);
    let rest = if unit == 1 { "" } else { rest.trim_end_matches('0') };
    if rest.is_empty() { (value / unit).to_string() } else { format!("{}.{rest}", value / unit) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_writes_them() {
        let cases = [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (2_000_000, "2ms"),
            (1_500_000_000, "1.5s"),
            (60_000_000_000, "1m0s"),
            (3_605_500_000_000, "1h0m5.5s"),
            (-60_000_000_000, "-1m0s"),
        ];
        for (nanoseconds, text) in cases {
            assert_eq!(duration_text(nanoseconds), text);
            assert_eq!(duration_error(text), None, "{text}");
            assert_eq!(duration_nanos(text), Some(nanoseconds), "{text}");
        }
        assert_eq!(duration_nanos("1.5h"), Some(5_400_000_000_000));
        assert_eq!(duration_nanos("9999999999h"), None);
        assert_eq!(duration_nanos("1"), None);
    }

    #[test]
    fn durations_without_unit_are_refused() {
        for text in ["", "5", "s", "1x", "1m-", "-"] {
            assert!(duration_error(text).is_some(), "{text}");
        }
    }

    #[test]
    fn bytes_are_read_as_go_reads_them() {
        for (text, written) in
            [("", ""), ("aGk=", "aGk="), ("aG\nk=\r\n", "aGk="), ("aGl=", "aGk="), ("//==", "/w==")]
        {
            assert_eq!(bytes_error(text), None, "{text:?}");
            assert_eq!(bytes_text(text).as_deref().unwrap_or(text), written);
        }
        for (text, at) in [
            ("a", 0),
            ("aGk", 0),
            ("aGkhaG", 4),
            ("aGk=x", 4),
            ("aGk==", 4),
            ("aG==x", 4),
            ("aG=", 3),
            ("aG=k", 2),
            ("a===", 1),
            ("=", 0),
            ("aGkhaHVudGVyMg=-", 14),
            ("aGk%", 3),
            ("aGk_", 3),
            ("a\nb\n-", 4),
        ] {
            assert_eq!(
                bytes_error(text).unwrap(),
                format!("illegal base64 data at input byte {at}"),
                "{text:?}"
            );
        }
    }

    #[test]
    fn quantities_follow_the_grammar() {
        for text in ["0", "1", "-1.5", "100m", "1Gi", "2e3", "1E", "5E-2", ".5", "5.", "+1k"] {
            assert_eq!(quantity_error(text), None, "{text}");
        }
        for text in ["", "abc", "1gi", "1 Gi", "1..5", "--1", "1e", ".", "1Kii", "m"] {
            assert!(quantity_error(text).is_some(), "{text}");
        }
    }

    #[test]
    fn times_are_written_with_seconds_or_microseconds() {
        assert_eq!(time_text(0).as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!(micro_time_text(1, 1_500).as_deref(), Some("1970-01-01T00:00:01.000001Z"));
        assert_eq!(time_text(i64::MAX), None);
    }
}
