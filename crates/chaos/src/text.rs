//! A report as people read it: report.txt, and what `balsa chaos` prints.

use crate::scenario::invariants;
use crate::verdict::{Report, Verdict};

/// A name and what belongs to it, with commas between, on as many lines of 80 columns as that takes.
fn row(name: &str, items: &[String]) -> String {
    let (mut text, mut width) = (format!("  {name:<8}"), 10);
    for (i, item) in items.iter().enumerate() {
        let comma = if i + 1 < items.len() { "," } else { "" };
        if width + 1 + item.len() + comma.len() > 80 {
            text.push_str(&format!("\n{:10}", ""));
            width = 10;
        }
        text.push_str(&format!(" {item}{comma}"));
        width += 1 + item.len() + comma.len();
    }
    text + "\n"
}

impl Report {
    /// For people, at 80 columns.
    pub fn text(&self) -> String {
        let counts = &self.counts;
        let verdict = match self.verdict {
            Verdict::Clean => "clean",
            Verdict::Violated => "VIOLATED",
            Verdict::Inconclusive => "inconclusive",
        };
        let told = |(name, n): (&String, &usize)| match counts.planned.get(name) {
            Some(planned) if planned > n => format!("{n} of {planned} {name}"),
            Some(_) | None => format!("{n} {name}"),
        };
        let lost = counts.lost.map_or_else(|| "lost unknown".into(), |n| format!("{n} lost"));
        let faults: Vec<String> = counts.faults.iter().map(told).collect();
        let faults = if faults.is_empty() { vec!["none".into()] } else { faults };
        let faults = row("faults", &faults);
        let mut text = format!(
            "{}, seed {}: {verdict}\n{faults}  writes   {} acknowledged ({lost}), {} refused, {} never, {} unknown\n  reads    {} answered, {} failed; {} changes shown to watchers\n",
            self.scenario,
            self.seed,
            counts.acknowledged,
            counts.refused,
            counts.never,
            counts.unknown,
            counts.reads,
            counts.reads_failed,
            counts.shown,
        );
        if self.judged.len() < invariants().len() {
            text.push_str(&row("judged", &self.judged));
        }
        if counts.pods + counts.bound > 0 {
            let (pods, bound, doubles) = (counts.pods, counts.bound, counts.double_binds);
            text.push_str(&format!("  pods     {pods} made by clients, {bound} bound in all, {doubles} doubly\n"));
        }
        if counts.unsent > 0 {
            text.push_str(&format!("  unsent   {} requests, as too many were under way\n", counts.unsent));
        }
        if let Some(ms) = self.converged_ms {
            text.push_str(&format!("  whole again {ms} ms after the last fault was healed\n"));
        }
        if !self.writes.is_empty() {
            text.push_str(&format!(
                "\n  {:<34} {:>5} {:>8} {:>8} {:>8} {:>8}\n",
                "leader lost, ms until", "n", "p50", "p90", "p99", "max"
            ));
        }
        let tables = [
            ("writes", &self.writes),
            ("longest gap", &self.gaps),
            ("gap at the return", &self.return_gaps),
            ("a new bind", &self.binds),
        ];
        for (what, table) in tables {
            for (fault, p) in table.iter().filter(|(fault, _)| table.len() > 2 || *fault != "all") {
                let row = format!("{what} ({fault})");
                text.push_str(&format!(
                    "  {row:<34} {:>5} {:>8.0} {:>8.0} {:>8.0} {:>8.0}\n",
                    p.n, p.p50_ms, p.p90_ms, p.p99_ms, p.max_ms
                ));
            }
        }
        if !self.violations.is_empty() {
            text.push_str("\n  a number after `begun at` is a moment of history.jsonl, in microseconds\n");
        }
        for violation in &self.violations {
            text.push_str(&format!("\nviolated {}: {}\n", violation.invariant, violation.what));
        }
        if self.further > 0 {
            text.push_str(&format!("\nand {} more\n", self.further));
        }
        for why in &self.inconclusive {
            text.push_str(&format!("\ninconclusive: {why}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::row;

    #[test]
    fn a_row_goes_on_below_itself() {
        assert_eq!(row("faults", &["none".into()]), "  faults   none\n");
        let many: Vec<String> = (10..40).map(|n| format!("{n} of 99 kill")).collect();
        let text = row("faults", &many);
        assert!(text.lines().all(|line| line.len() <= 80 && !line.ends_with(' ')), "{text}");
        assert_eq!(text.split_whitespace().skip(1).collect::<Vec<_>>().join(" "), many.join(", "));
        assert!(text.lines().skip(1).all(|line| line.starts_with("           ") && !line.starts_with("            ")));
    }
}
