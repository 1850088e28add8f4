//! Figures: medians of rounds, compared with their baseline round by round, as a table and as JSON.

use anyhow::Result;
use serde_json::{Value, json};

use crate::exec::state;

/// One measured thing.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Figure {
    /// What was measured.
    pub(super) name: String,
    /// The median of the rounds.
    pub(super) value: f64,
    /// Its unit.
    pub(super) unit: String,
    /// The median of what it is compared with.
    pub(super) baseline: Option<f64>,
    /// The median of value/baseline of each round.
    pub(super) ratio: Option<f64>,
    /// (third quartile - first quartile) / median of the rounds.
    pub(super) spread: f64,
}

impl Figure {
    /// A figure of these rounds.
    pub(super) fn of(name: impl Into<String>, unit: impl Into<String>, rounds: &[f64]) -> Self {
        Self {
            name: name.into(),
            value: median(rounds),
            unit: unit.into(),
            baseline: None,
            ratio: None,
            spread: spread(rounds),
        }
    }

    /// The same, compared with what was measured in the same rounds.
    pub(super) fn compared(mut self, rounds: &[f64], baseline: &[f64]) -> Self {
        let ratios: Vec<f64> =
            rounds.iter().zip(baseline).filter(|(_, b)| **b > 0.0).map(|(a, b)| a / b).collect();
        self.baseline = Some(median(baseline));
        self.ratio = Some(median(&ratios));
        self
    }
}

/// The middle of some values; 0 of none.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.len() % 2, sorted.get(middle), middle.checked_sub(1).and_then(|below| sorted.get(below))) {
        (0, Some(above), Some(below)) => f64::midpoint(*above, *below),
        (_, Some(value), _) => *value,
        _ => 0.0,
    }
}

/// How far the middle half of the values is apart, as a part of their median.
fn spread(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len().div_ceil(2);
    let lower = median(sorted.get(..half).unwrap_or_default());
    let upper = median(sorted.get(sorted.len() - half..).unwrap_or_default());
    let middle = median(values);
    if middle > 0.0 { (upper - lower) / middle } else { 0.0 }
}

/// Three significant digits are all that these measurements carry; two places are enough for ratios.
fn rounded(value: f64) -> f64 {
    if value >= 100.0 { value.round() } else { (value * 1000.0).round() / 1000.0 }
}

/// The figures as rows of a table in Markdown.
pub(super) fn table(figures: &[Figure]) -> String {
    let mut text = String::from(
        "| what | value | unit | compared with | ratio | spread |\n|---|---:|---|---:|---:|---:|\n",
    );
    for figure in figures {
        let optional = |value: Option<f64>| value.map_or_else(String::new, |v| rounded(v).to_string());
        text += &format!(
            "| {} | {} | {} | {} | {} | {:.0} % |\n",
            figure.name,
            rounded(figure.value),
            figure.unit,
            optional(figure.baseline),
            figure.ratio.map_or_else(String::new, |r| format!("{r:.2}")),
            figure.spread * 100.0
        );
    }
    text
}

/// Prints the figures and writes them to target/oarlock/bench/NAME.json.
pub(super) fn publish(name: &str, figures: &[Figure]) -> Result<()> {
    let list: Vec<Value> = figures
        .iter()
        .map(|f| {
            json!({"name": f.name, "value": rounded(f.value), "unit": f.unit, "baseline": f.baseline.map(rounded),
                "ratio": f.ratio.map(rounded), "spread": rounded(f.spread)})
        })
        .collect();
    let folder = state().join("bench");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{name}.json"));
    std::fs::write(&path, serde_json::to_string_pretty(&list)?)?;
    println!("\n{}\nwritten to {}", table(figures), path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_between_the_middles() {
        assert_eq!(
            [median(&[]), median(&[3.0]), median(&[4.0, 1.0]), median(&[9.0, 1.0, 2.0])],
            [0.0, 3.0, 2.5, 2.0]
        );
    }

    #[test]
    fn a_comparison_is_made_round_by_round() {
        // The machine was half as fast in the second round: the ratio does not see it.
        let rounds = [80.0, 40.0, 80.0];
        let figure = Figure::of("x", "1/s", &rounds).compared(&rounds, &[100.0, 50.0, 100.0]);
        assert_eq!((figure.value, figure.baseline, figure.ratio), (80.0, Some(100.0), Some(0.8)));
        assert_eq!(figure.spread, 0.25, "from 60 to 80");
        assert!(table(&[figure]).contains("| x | 80 | 1/s | 100 | 0.80 | 25 % |"));
    }
}
