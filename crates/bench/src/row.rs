//! A row of the report: what Balsa did, what etcd did, their ratio, and whether that is what was aimed at.

use objects::{Value, json};
use std::fmt::Write;

/// Median, least and most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    min: f64,
    max: f64,
}

pub(crate) fn spread(values: impl Iterator<Item = f64>) -> Option<Spread> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (min, max) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
    Some(Spread { median, min, max })
}

/// At most five characters: 8.4, 840, 8400, 84.0k, 840k, 8.40M.
fn short(value: f64) -> String {
    match value {
        v if v < 100.0 => format!("{v:.1}"),
        v if v < 9_999.5 => format!("{v:.0}"),
        v if v < 99_950.0 => format!("{:.1}k", v / 1e3),
        v if v < 999_500.0 => format!("{:.0}k", v / 1e3),
        v => format!("{:.2}M", v / 1e6),
    }
}

impl Spread {
    fn text(self) -> String {
        match self.min == self.max {
            true => short(self.median),
            false => format!("{} ({}-{})", short(self.median), short(self.min), short(self.max)),
        }
    }

    pub(crate) fn json(self) -> Value {
        json!({"median": self.median, "min": self.min, "max": self.max})
    }
}

/// What a ratio is to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    fn met(self, ratio: f64) -> bool {
        match self {
            Target::AtLeast(bound) => ratio >= bound,
            Target::AtMost(bound) => ratio <= bound,
        }
    }

    fn text(self) -> String {
        match self {
            Target::AtLeast(bound) => format!(">= {bound:.1}"),
            Target::AtMost(bound) => format!("<= {bound:.1}"),
        }
    }
}

/// Balsa's figure and etcd's; none of a system that was not measured.
pub(crate) type Pair = (Option<Spread>, Option<Spread>);

pub(crate) struct Row {
    title: String,
    /// None for a line that only names what follows.
    figures: Option<Pair>,
    target: Option<Target>,
    /// Whether every request was served: figures of those that were say little of the others.
    whole: bool,
}

impl Row {
    pub(crate) fn title(title: String) -> Row {
        Row { title, figures: None, target: None, whole: true }
    }

    /// A row that is told and not judged.
    pub(crate) fn told(title: &str, figures: Pair) -> Row {
        Row { title: title.into(), figures: Some(figures), target: None, whole: true }
    }

    /// A row whose ratio is judged, if it has a target; with failed requests it is missed.
    pub(crate) fn judged(title: &str, figures: Pair, target: Option<Target>, n_failed: u64) -> Row {
        Row { title: title.into(), figures: Some(figures), target, whole: n_failed == 0 }
    }

    /// Of the medians. Where one is 0, nothing was measured.
    fn ratio(&self) -> Option<f64> {
        let (ours, theirs) = self.figures?;
        let measured = |spread: Option<Spread>| Some(spread?.median).filter(|median| *median > 0.0);
        Some(measured(ours)? / measured(theirs)?)
    }

    /// Whether the target is met, where there is one: without a ratio it is not.
    pub(crate) fn met(&self) -> Option<bool> {
        let target = self.target?;
        Some(self.whole && self.ratio().is_some_and(|ratio| target.met(ratio)))
    }

    pub(crate) fn write(&self, out: &mut String) {
        let Some((ours, theirs)) = self.figures else {
            let _: std::fmt::Result =
                writeln!(out, "-- {} {}", self.title, "-".repeat(76_usize.saturating_sub(self.title.len())));
            return;
        };
        let text = |spread: Option<Spread>| spread.map_or_else(String::new, Spread::text);
        let ratio = self.ratio().map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let judged = self.target.zip(self.met()).map_or_else(String::new, |(target, met)| {
            format!("{} {}", target.text(), if met { "met" } else { "MISSED" })
        });
        let line = format!("{:<20} {:<19} {:<19} {ratio:>5} {judged}", self.title, text(ours), text(theirs));
        let _: std::fmt::Result = writeln!(out, "{}", line.trim_end());
    }
}

/// The rows whose targets are missed, each with what it stands under and why.
pub(crate) fn missed(rows: &[Row]) -> Vec<String> {
    let (mut section, mut missed) = ("", Vec::new());
    for row in rows {
        match (row.figures, row.target) {
            (None, _) => section = row.title.as_str(),
            (Some(_), Some(target)) if row.met() == Some(false) => {
                let told = row.ratio().map_or("not measured".into(), |ratio| format!("{ratio:.2} x etcd's"));
                let failed = if row.whole { "" } else { " with failed requests" };
                missed.push(format!("{section}: {}: {told}{failed}, target {}", row.title.trim(), target.text()));
            }
            (Some(_), _) => {}
        }
    }
    missed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ours: f64, theirs: f64) -> Pair {
        (spread([ours].into_iter()), spread([theirs].into_iter()))
    }

    #[test]
    fn numbers_stay_short() {
        let texts: Vec<String> =
            [0.0, 99.9, 100.4, 9_999.0, 9_999.6, 99_960.0, 999_949.0].into_iter().map(short).collect();
        assert_eq!(texts, ["0.0", "99.9", "100", "9999", "10.0k", "100k", "1.00M"]);
    }

    #[test]
    fn what_was_not_measured_or_failed_is_missed() {
        let (least, most) = (Some(Target::AtLeast(2.0)), Some(Target::AtMost(1.0)));
        let rows = [
            Row::title("one".into()),
            Row::judged("met", of(4.0, 2.0), least, 0),
            Row::judged("too little", of(3.0, 2.0), least, 0),
            Row::judged("failed", of(9.0, 2.0), least, 1),
            Row::title("two".into()),
            Row::judged("  ours has nothing", of(0.0, 2.0), most, 0),
            Row::judged("theirs is absent", (of(1.0, 1.0).0, None), most, 0),
            Row::judged("without a target", (None, None), None, 0),
            Row::told("told", of(1.0, 9.0)),
        ];
        expect_test::expect![[r#"
            one: too little: 1.50 x etcd's, target >= 2.0
            one: failed: 4.50 x etcd's with failed requests, target >= 2.0
            two: ours has nothing: not measured, target <= 1.0
            two: theirs is absent: not measured, target <= 1.0"#]]
        .assert_eq(&missed(&rows).join("\n"));
    }
}
