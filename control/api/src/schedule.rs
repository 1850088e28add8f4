//! When a CronJob is due: its schedule in its time zone. Pure.
//!
//! The parser is the crate `cronexpr`; what it knows beyond the standard (`L`, `W`, `#`) is refused, as upstream's parser
//! (github.com/robfig/cron) refuses it. `@every` is not supported by this version of Oarlock.

use cronexpr::{Crontab, MakeTimestamp};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A parsed schedule.
#[derive(Debug, Clone)]
pub struct Schedule {
    crontab: Crontab,
}

impl Schedule {
    /// Reads five fields or a macro as `@daily`; without a zone the schedule is in UTC.
    ///
    /// # Errors
    /// What does not parse, and why.
    pub fn parse(text: &str, zone: Option<&str>) -> Result<Self, String> {
        let text = text.trim();
        let fields = match text {
            "@yearly" | "@annually" => "0 0 1 1 *".to_owned(),
            "@monthly" => "0 0 1 * *".to_owned(),
            "@weekly" => "0 0 * * 0".to_owned(),
            "@daily" | "@midnight" => "0 0 * * *".to_owned(),
            "@hourly" => "0 * * * *".to_owned(),
            _ if text.starts_with("@every") => {
                return Err("@every is not supported by this version of Oarlock".to_owned());
            }
            _ if text.starts_with('@') => return Err(format!("unrecognized descriptor: {text}")),
            _ => standard(text)?,
        };
        let zone = zone.unwrap_or("UTC");
        if zone.is_empty() {
            return Err("timeZone must be nil or non-empty string".to_owned());
        }
        // "Local" would be the server's, which nobody can know.
        if zone.eq_ignore_ascii_case("local") || TimeZone::get(zone).is_err() {
            return Err(format!("unknown time zone {zone}"));
        }
        let crontab = cronexpr::parse_crontab(&format!("{fields} {zone}")).map_err(|e| e.to_string())?;
        Ok(Self { crontab })
    }

    /// The first time after a moment; `None` when there is none.
    #[must_use]
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        self.crontab.find_next(MakeTimestamp(after)).ok().map(|time| time.timestamp())
    }
}

/// The fields as the standard has them.
fn standard(text: &str) -> Result<String, String> {
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != 5 {
        return Err(format!("expected exactly 5 fields, found {}: {fields:?}", fields.len()));
    }
    let months = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
    let days = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
    for (i, field) in fields.iter().enumerate() {
        let named = |word: &str| {
            let word = word.to_ascii_uppercase();
            (i == 3 && months.contains(&word.as_str())) || (i == 4 && days.contains(&word.as_str()))
        };
        let mut words = field.split(|c: char| !c.is_ascii_alphanumeric());
        let good = words.all(|word| word.bytes().all(|b| b.is_ascii_digit()) || named(word));
        if !good || field.contains('#') {
            return Err(format!("failed to parse {field:?}"));
        }
    }
    // A question mark is upstream's other way to write a star.
    Ok(fields.join(" ").replace('?', "*"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, zone: Option<&str>, after: &str) -> String {
        Schedule::parse(schedule, zone).unwrap().next(after.parse().unwrap()).unwrap().to_string()
    }

    #[test]
    fn schedules_are_met_in_their_zone() {
        assert_eq!(next("*/15 * * * *", None, "2026-01-01T00:01:00Z"), "2026-01-01T00:15:00Z");
        assert_eq!(next("*/15 * * * *", None, "2026-01-01T00:15:00Z"), "2026-01-01T00:30:00Z");
        assert_eq!(next("30 8 * * *", Some("Europe/Berlin"), "2026-07-01T00:00:00Z"), "2026-07-01T06:30:00Z");
        assert_eq!(next("30 8 * * *", Some("Europe/Berlin"), "2026-01-01T00:00:00Z"), "2026-01-01T07:30:00Z");
        assert_eq!(next("@weekly", None, "2026-01-01T00:00:00Z"), "2026-01-04T00:00:00Z");
        assert_eq!(next("0 0 ? JUL MON-FRI", None, "2026-01-01T00:00:00Z"), "2026-07-01T00:00:00Z");
    }

    #[test]
    fn a_day_of_the_month_and_one_of_the_week_are_alternatives() {
        assert_eq!(next("0 0 13 * 5", None, "2026-01-01T00:00:00Z"), "2026-01-02T00:00:00Z");
        assert_eq!(next("0 0 13 * 5", None, "2026-01-10T00:00:00Z"), "2026-01-13T00:00:00Z");
    }

    #[test]
    fn what_upstream_does_not_know_is_refused() {
        for bad in
            ["", "* * * *", "61 * * * *", "0 0 L * *", "0 0 1W * *", "0 0 * * 5#3", "@every 1h", "@now"]
        {
            assert!(Schedule::parse(bad, None).is_err(), "{bad:?}");
        }
        assert_eq!(Schedule::parse("@daily", Some("Mars/Base")).unwrap_err(), "unknown time zone Mars/Base");
    }
}
