//! `cargo xtask bench plots`: pictures of what was measured last, one for each benchmark and unit, in `docs/plots`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use plotters::prelude::{
    BLACK, Color as _, DrawingArea, DrawingBackend, IntoDrawingArea as _, IntoFont as _, RGBColor, Rectangle,
    SVGBackend, Text, WHITE,
};
use serde_json::Value;

use crate::exec::{root, state};

const WIDTH: i32 = 1000;
const ROW: i32 = 22;
/// Where bars begin and how long the longest is.
const BARS: (i32, i32) = (430, 440);
const OURS: RGBColor = RGBColor(0x1f, 0x6f, 0xb2);
const COMPARED: RGBColor = RGBColor(0xb8, 0xc4, 0xce);

/// One bar: what it is of, how long, and what it is compared with.
#[derive(Debug, Clone, PartialEq)]
struct Bar {
    name: String,
    value: f64,
    baseline: Option<f64>,
}

/// Draws everything that `target/oarlock/bench` has.
pub(super) fn plots() -> Result<()> {
    let measured = state().join("bench");
    let folder = root().join("docs/plots");
    std::fs::create_dir_all(&folder)?;
    let mut drawn = 0;
    for entry in
        std::fs::read_dir(&measured).with_context(|| format!("{} has no figures yet", measured.display()))?
    {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(name) = name.strip_suffix(".json").filter(|name| !name.ends_with("-rounds")) else {
            continue;
        };
        let list: Vec<Value> = serde_json::from_slice(&std::fs::read(&path)?)?;
        for (unit, bars) in by_unit(&list).iter().filter(|(_, bars)| bars.len() > 1) {
            let words: Vec<&str> =
                unit.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
            let picture = folder.join(format!("{name}-{}.svg", words.join("-")));
            draw(&picture, &format!("{name}: {unit}"), bars)?;
            println!("    {}", picture.display());
            drawn += 1;
        }
    }
    if drawn == 0 {
        bail!("nothing was measured yet: run `cargo xtask bench NAME` first");
    }
    Ok(())
}

/// What is comparable, in the order in which it was measured.
fn by_unit(figures: &[Value]) -> BTreeMap<String, Vec<Bar>> {
    let mut units: BTreeMap<String, Vec<Bar>> = BTreeMap::new();
    for figure in figures {
        let (Some(name), Some(unit), Some(value)) =
            (figure["name"].as_str(), figure["unit"].as_str(), figure["value"].as_f64())
        else {
            continue;
        };
        let bar = Bar { name: name.to_owned(), value, baseline: figure["baseline"].as_f64() };
        units.entry(unit.to_owned()).or_default().push(bar);
    }
    units
}

fn draw(path: &Path, title: &str, bars: &[Bar]) -> Result<()> {
    let rows = i32::try_from(bars.len())?;
    let size = (u32::try_from(WIDTH)?, u32::try_from(ROW * (rows + 2) + 10)?);
    let area = SVGBackend::new(path, size).into_drawing_area();
    area.fill(&WHITE)?;
    text(&area, title, (10, 10), 16)?;
    let longest = bars
        .iter()
        .map(|bar| bar.value.max(bar.baseline.unwrap_or_default()))
        .fold(f64::MIN_POSITIVE, f64::max);
    let reach = |value: f64| BARS.0 + (value.max(0.0) / longest * f64::from(BARS.1)).round() as i32;
    for (row, bar) in (0..rows).zip(bars) {
        let top = ROW * (row + 1) + 16;
        text(&area, &bar.name, (10, top), 13)?;
        if let Some(baseline) = bar.baseline {
            area.draw(&Rectangle::new([(BARS.0, top - 2), (reach(baseline), top + 14)], COMPARED.filled()))?;
        }
        area.draw(&Rectangle::new([(BARS.0, top + 2), (reach(bar.value), top + 10)], OURS.filled()))?;
        let end = reach(bar.value.max(bar.baseline.unwrap_or_default()));
        let compared = bar.baseline.map_or_else(String::new, |b| format!(" / {b}"));
        text(&area, &format!("{}{compared}", bar.value), (end + 6, top), 12)?;
    }
    text(&area, "blue: measured; grey: what it is compared with", (10, ROW * (rows + 1) + 14), 11)?;
    area.present()?;
    Ok(())
}

fn text<B>(area: &DrawingArea<B, plotters::coord::Shift>, what: &str, at: (i32, i32), size: u32) -> Result<()>
where
    B: DrawingBackend,
    B::ErrorType: 'static,
{
    area.draw(&Text::new(what.to_owned(), at, ("sans-serif", size).into_font().color(&BLACK)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_has_one_unit_is_one_picture() {
        let figures = [
            json!({"name": "a", "value": 1.0, "unit": "s", "baseline": null}),
            json!({"name": "b", "value": 2.0, "unit": "ns/packet above it", "baseline": 3.0}),
            json!({"name": "c", "value": 4.0, "unit": "s"}),
            json!({"name": "no value", "unit": "s"}),
        ];
        let units = by_unit(&figures);
        assert_eq!(units.keys().collect::<Vec<_>>(), ["ns/packet above it", "s"]);
        assert_eq!(units["s"].iter().map(|bar| bar.name.as_str()).collect::<Vec<_>>(), ["a", "c"]);
        let path = std::env::temp_dir().join(format!("oarlock-plot-{}.svg", std::process::id()));
        draw(&path, "seconds & more", &units["s"]).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(svg.contains("seconds &amp; more") && svg.matches("<rect").count() == 3, "{svg}");
    }
}
