//! A report as people read it: report.txt, and what `balsa chaos` prints.

use crate::scenario::invariants;
use crate::verdict::{Report, Verdict};

impl Report {
    /// For people, at 80 columns.
    pub fn text(&self) -> String {
        let counts = &self.counts;
        let verdict = match self.verdict {
            Verdict::Clean => "clean",
            Verdict::Violated => "VIOLATED",
            Verdict::Inconclusive => "inconclusive",
        };
        let faults: Vec<String> = counts.faults.iter().map(|(name, n)| format!("{n} {name}")).collect();
        let faults = if faults.is_empty() { "none".into() } else { faults.join(", ") };
        let mut text = format!(
            "{}, seed {}: {verdict}\n  faults   {faults}\n  writes   {} acknowledged ({} lost), {} refused, {} never, {} unknown\n  reads    {}; {} changes shown to watchers\n",
            self.scenario,
            self.seed,
            counts.acknowledged,
            counts.lost,
            counts.refused,
            counts.never,
            counts.unknown,
            counts.reads,
            counts.shown,
        );
        if self.judged.len() < invariants().len() {
            text.push_str(&format!("  judged   no more than {}\n", self.judged.join(", ")));
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
