//! The baseline: what figures were when they were last looked at, and how much worse each may be.
//!
//! Pure. It knows neither where figures come from nor where the file lies.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What a figure is, which says what is worse and where it can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Operations a second.
    Rate,
    /// Of a processor or a clock.
    Time,
    Memory,
    /// A rate over etcd's.
    RateRatio,
    /// A time or memory over etcd's.
    CostRatio,
}

impl Kind {
    fn is_ratio(self) -> bool {
        matches!(self, Kind::RateRatio | Kind::CostRatio)
    }

    fn is_better_when_more(self) -> bool {
        matches!(self, Kind::Rate | Kind::RateRatio)
    }

    /// How much worse a new figure may become. Rates and times vary on a machine that others use too.
    fn tolerance(self) -> f64 {
        match self {
            Kind::Memory => 0.15,
            Kind::Rate | Kind::Time | Kind::RateRatio | Kind::CostRatio => 0.3,
        }
    }
}

/// What a ratio's name ends with.
pub(crate) const OVER_ETCD: &str = " over etcd's";

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    /// Of a ratio it ends with `OVER_ETCD`, and no other does.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) value: f64,
}

/// One run's figures, and where they were measured.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Measured {
    pub(crate) processors: u64,
    /// What the etcd beside it calls itself, if there was one.
    pub(crate) etcd: Option<String>,
    pub(crate) figures: Vec<Figure>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Expected {
    value: f64,
    /// The share of the value by which it may be worse.
    tolerance: f64,
}

/// baseline.json.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Baseline {
    processors: u64,
    etcd: Option<String>,
    figures: BTreeMap<String, Expected>,
}

impl Baseline {
    /// Reads the file's text; an error names the field and what it is to be.
    pub(crate) fn parse(text: &str) -> Result<Baseline> {
        let file: Value = serde_json::from_str(text).context("it is not JSON")?;
        let processors = file["processors"].as_u64().context("processors: a number is missing")?;
        let etcd = match &file["etcd"] {
            Value::Null => None,
            Value::String(label) => Some(label.clone()),
            other => bail!("etcd: {other} is neither a version nor null"),
        };
        let mut figures = BTreeMap::new();
        for (name, figure) in file["figures"].as_object().context("figures: an object is missing")? {
            let number =
                |field: &str| figure[field].as_f64().with_context(|| format!("figures.{name}.{field}: no number"));
            let expected = Expected { value: number("value")?, tolerance: number("tolerance")? };
            if expected.value <= 0.0 {
                bail!("figures.{name}.value: {} is not above 0", expected.value);
            }
            // From 1 on a rate of nothing would pass.
            if !(0.0..1.0).contains(&expected.tolerance) {
                bail!("figures.{name}.tolerance: {} is not a share below 1", expected.tolerance);
            }
            figures.insert(name.clone(), expected);
        }
        Ok(Baseline { processors, etcd, figures })
    }

    /// The file's text of what was measured; a figure that `before` has too keeps its tolerance.
    pub(crate) fn renewed(before: Option<&Baseline>, measured: &Measured) -> String {
        let entry = |figure: &Figure| {
            let expected = before.and_then(|before| before.figures.get(&figure.name));
            let tolerance = expected.map_or(figure.kind.tolerance(), |expected| expected.tolerance);
            (figure.name.clone(), json!({"value": rounded(figure.value), "tolerance": tolerance}))
        };
        let figures: Map<String, Value> = measured.figures.iter().map(entry).collect();
        let file = json!({"processors": measured.processors, "etcd": measured.etcd, "figures": figures});
        format!("{file:#}\n")
    }

    /// Every figure beside its baseline: first those measured, in their order, then those that were not.
    pub(crate) fn compare(&self, measured: &Measured) -> Vec<Row> {
        let same_machine = self.processors == measured.processors;
        let same_etcd = self.etcd.is_some() && self.etcd == measured.etcd;
        let mut rows: Vec<Row> = measured
            .figures
            .iter()
            .map(|figure| {
                let expected = self.figures.get(&figure.name).copied();
                let verdict = match (expected, figure.kind) {
                    (None, _) => Verdict::New,
                    (Some(_), kind) if kind.is_ratio() && !same_etcd => Verdict::Told,
                    (Some(_), Kind::Rate | Kind::Time) if !same_machine => Verdict::Told,
                    (Some(expected), kind) => expected.judge(kind, figure.value),
                };
                Row { name: figure.name.clone(), expected, now: Some(figure.value), verdict }
            })
            .collect();
        let is_measured = |name: &str| measured.figures.iter().any(|figure| figure.name == *name);
        for (name, expected) in self.figures.iter().filter(|(name, _)| !is_measured(name)) {
            let needs_etcd = name.ends_with(OVER_ETCD) && measured.etcd.is_none();
            let verdict = if needs_etcd { Verdict::Told } else { Verdict::Missing };
            rows.push(Row { name: name.clone(), expected: Some(*expected), now: None, verdict });
        }
        rows
    }

    /// Why figures that have a baseline are not judged.
    pub(crate) fn remarks(&self, measured: &Measured) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.processors != measured.processors {
            remarks.push(format!(
                "the baseline is of {} processors, here are {}: rates and times are told, not judged",
                self.processors, measured.processors
            ));
        }
        match (&self.etcd, &measured.etcd) {
            (Some(_), None) => remarks.push("no etcd is here: ratios to it are not judged".into()),
            (Some(then), Some(now)) if then != now => {
                remarks.push(format!("the baseline's ratios are to {then}, here is {now}: they are told, not judged"));
            }
            (None, _) | (Some(_), Some(_)) => {}
        }
        remarks
    }
}

impl Expected {
    fn judge(self, kind: Kind, now: f64) -> Verdict {
        let ratio = now / self.value;
        let is_worse = match kind.is_better_when_more() {
            true => ratio < 1.0 - self.tolerance,
            false => ratio > 1.0 + self.tolerance,
        };
        if is_worse { Verdict::Worse } else { Verdict::Ok }
    }
}

/// Three digits, as a figure that varies has no more.
fn rounded(value: f64) -> f64 {
    if value <= 0.0 {
        return 0.0;
    }
    let unit = 10_f64.powf(value.log10().floor() - 2.0);
    // By a whole number where there is one: 0.53 and not 0.5300000000000001.
    if unit < 1.0 { (value / unit).round() / (1.0 / unit).round() } else { (value / unit).round() * unit.round() }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ok,
    Worse,
    /// In the baseline, and not measured any more.
    Missing,
    /// Not to be compared here.
    Told,
    /// Not in the baseline.
    New,
}

pub(crate) struct Row {
    pub(crate) name: String,
    expected: Option<Expected>,
    now: Option<f64>,
    verdict: Verdict,
}

impl Row {
    /// Whether the check fails by it.
    pub(crate) fn fails(&self) -> bool {
        matches!(self.verdict, Verdict::Worse | Verdict::Missing)
    }

    fn text(&self) -> String {
        let number = |value: Option<f64>| match value {
            None => "-".into(),
            Some(value) if value < 100.0 => format!("{value:.2}"),
            Some(value) => format!("{value:.0}"),
        };
        let ratio = self.expected.zip(self.now).map(|(expected, now)| now / expected.value);
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Worse => "WORSE",
            Verdict::Missing => "MISSING",
            Verdict::Told => "not judged",
            Verdict::New => "new",
        };
        let ratio = ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}"));
        let then = number(self.expected.map(|expected| expected.value));
        format!("{:<39} {then:>9} {:>9} {ratio:>6} {verdict}", self.name, number(self.now))
    }
}

/// The rows as a table of 80 columns.
pub(crate) fn table(rows: &[Row]) -> String {
    let head = format!("{:<39} {:>9} {:>9} {:>6} verdict", "figure", "baseline", "now", "ratio");
    let lines: Vec<String> = std::iter::once(head).chain(rows.iter().map(Row::text)).collect();
    lines.join("\n")
}

#[cfg(test)]
#[path = "baseline_tests.rs"]
mod tests;
