//! Quantities of resources: `250m`, `64Mi`, `1e3`. Exact, in billionths.
//!
//! Source: k8s.io/apimachinery/pkg/api/resource/quantity.go.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

const NANO: i128 = 1_000_000_000;

/// How a quantity was written, and is written again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `64Mi`.
    BinarySI,
    /// `250m`, `5G`.
    DecimalSI,
    /// `12e6`.
    DecimalExponent,
}

/// A quantity. Comparison is by value: `1` and `1000m` are equal.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

/// Why a text is no quantity, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct ParseQuantityError;

impl Quantity {
    /// A quantity of whole units.
    #[must_use]
    pub const fn units(value: i64, format: Format) -> Self {
        Self { nano: value as i128 * NANO, format }
    }

    /// A quantity of thousandths (millicores).
    #[must_use]
    pub const fn milli(value: i64) -> Self {
        Self { nano: value as i128 * 1_000_000, format: Format::DecimalSI }
    }

    /// In whole units, rounded up, as upstream's `Value()` is; clamped to what fits.
    #[must_use]
    pub fn value(&self) -> i64 {
        clamp(div_ceil(self.nano, NANO))
    }

    /// In thousandths, rounded up, as upstream's `MilliValue()` is; clamped to what fits.
    #[must_use]
    pub fn milli_value(&self) -> i64 {
        clamp(div_ceil(self.nano, 1_000_000))
    }

    /// Whether it is below zero.
    #[must_use]
    pub fn is_negative(&self) -> bool {
        self.nano < 0
    }

    /// Whether it is zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }

    /// The sum, in the format of `self`.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self { nano: self.nano.saturating_add(other.nano), format: self.format }
    }
}

impl Quantity {
    /// That of a field, which may be a text or a number.
    ///
    /// # Errors
    /// It is neither, or no quantity.
    pub fn read(value: &Value) -> Result<Self, ParseQuantityError> {
        match value {
            Value::String(text) => text.parse(),
            Value::Number(number) => number.to_string().parse(),
            _ => Err(ParseQuantityError),
        }
    }

    /// The difference, in the format of `self`.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        Self { nano: self.nano.saturating_sub(other.nano), format: self.format }
    }

    /// How many times `other` it is; not to be asked of zero.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio is shown to six places")]
    pub fn over(&self, other: &Self) -> f64 {
        self.nano as f64 / other.nano as f64
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl FromStr for Quantity {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, ParseQuantityError> {
        let digits_end = text
            .char_indices()
            .find(|(i, c)| !(c.is_ascii_digit() || *c == '.' || (*i == 0 && (*c == '+' || *c == '-'))))
            .map_or(text.len(), |(i, _)| i);
        let (number, suffix) = text.split_at(digits_end);
        let (scale, format) = scale_of(suffix).ok_or(ParseQuantityError)?;
        let nano = scaled(number, scale).ok_or(ParseQuantityError)?;
        Ok(Self { nano, format })
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, the largest suffix that needs none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        if self.format == Format::BinarySI && self.nano.abs() >= 1024 * NANO {
            // Bytes have no fractions: rounded up, as upstream does.
            let mut value = div_ceil(self.nano.abs(), NANO) * self.nano.signum();
            let mut suffix = "";
            for next in ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"] {
                if value % 1024 != 0 {
                    break;
                }
                value /= 1024;
                suffix = next;
            }
            return write!(f, "{value}{suffix}");
        }
        let mut exponent = -9;
        let mut value = self.nano;
        while value % 1000 == 0 && exponent < 18 {
            value /= 1000;
            exponent += 3;
        }
        match (self.format, exponent) {
            (_, 0) => write!(f, "{value}"),
            (Format::DecimalExponent, e) => write!(f, "{value}e{e}"),
            (_, e) => {
                let suffix = DECIMAL.iter().find(|(_, power)| *power == e).map_or("", |(s, _)| s);
                write!(f, "{value}{suffix}")
            }
        }
    }
}

const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];

/// What a suffix multiplies by, as a fraction of integers.
#[derive(Clone, Copy)]
struct Scale {
    times: i128,
    over: i128,
}

fn scale_of(suffix: &str) -> Option<(Scale, Format)> {
    if let Some(power) = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter().position(|s| *s == suffix) {
        let times = 1_i128 << (10 * (power + 1));
        return Some((Scale { times, over: 1 }, Format::BinarySI));
    }
    if let Some((_, power)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Some((power_of_ten(*power)?, Format::DecimalSI));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let exponent: i32 = exponent.parse().ok()?;
    Some((power_of_ten(exponent)?, Format::DecimalExponent))
}

fn power_of_ten(exponent: i32) -> Option<Scale> {
    let power = 10_i128.checked_pow(exponent.unsigned_abs()).filter(|_| exponent.abs() <= 27)?;
    Some(if exponent < 0 { Scale { times: 1, over: power } } else { Scale { times: power, over: 1 } })
}

/// `number * scale` in billionths, rounded away from zero, as upstream rounds what is finer than a billionth.
fn scaled(number: &str, scale: Scale) -> Option<i128> {
    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || digits.len() > 40 {
        return None;
    }
    let all: i128 = format!("{whole}{fraction}").parse().ok()?;
    let places = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let numerator = all.checked_mul(scale.times)?.checked_mul(NANO)?;
    let value = div_ceil(numerator, places.checked_mul(scale.over)?);
    Some(if negative { -value } else { value })
}

fn div_ceil(numerator: i128, denominator: i128) -> i128 {
    let quotient = numerator.div_euclid(denominator);
    if numerator.rem_euclid(denominator) == 0 { quotient } else { quotient + 1 }
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use proptest::prelude::*;

    fn q(text: &str) -> Quantity {
        text.parse().unwrap()
    }

    #[test]
    fn quantities_mean_what_kubernetes_means() {
        assert_eq!(q("250m").milli_value(), 250);
        assert_eq!(q("0.5").milli_value(), 500);
        assert_eq!(q("64Mi").value(), 64 << 20);
        assert_eq!(q("1e3").value(), 1000);
        assert_eq!(q("5G").value(), 5_000_000_000);
        assert_eq!(q("100n").value(), 1, "rounded up");
        assert_eq!(q(".5").milli_value(), 500);
        assert_eq!(q("1"), q("1000m"));
        assert!(q("1Ki") > q("1k") && q("-1") < q("0"));
    }

    #[test]
    fn they_are_written_in_canonical_form() {
        for (text, canonical) in [
            ("1000m", "1"),
            ("1024Mi", "1Gi"),
            ("0.5", "500m"),
            ("1500m", "1500m"),
            ("1000k", "1M"),
            ("12e6", "12e6"),
            ("0", "0"),
            ("0.1Mi", "104858"),
            ("-2Ki", "-2Ki"),
            ("1023Ki", "1023Ki"),
            ("1Gi", "1Gi"),
            ("100", "100"),
            ("24041Ki", "24041Ki"),
            ("512", "512"),
        ] {
            assert_eq!(q(text).to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn a_field_may_be_a_number() {
        for (field, read) in [(json!(2), "2"), (json!(0.5), "500m"), (json!("64Mi"), "64Mi")] {
            assert_eq!(Quantity::read(&field).unwrap().to_string(), read);
        }
        assert!(Quantity::read(&json!(true)).is_err() && Quantity::read(&Value::Null).is_err());
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["", "m", "1.2.3", "1 Gi", "1Gib", "--1", "1e", "1e99", "abc", "."] {
            assert!(bad.parse::<Quantity>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[-+0-9.eEinumkKMGTPi]{0,30}") {
            let _ = text.parse::<Quantity>();
        }

        #[test]
        fn the_canonical_form_has_the_same_value(number in 0i64..1_000_000_000, suffix in prop::sample::select(vec!["", "m", "k", "M", "G", "Ki", "Mi", "Gi", "e3"])) {
            let quantity = q(&format!("{number}{suffix}"));
            prop_assert_eq!(q(&quantity.to_string()), quantity);
        }
    }
}
