//! `cargo xtask bench kills`: the tests that kill leaders, run for what they measure.

use crate::failover::{WRITES_P50_MAX, WRITES_P99_MAX};
use crate::setup::{self, Purpose};
use crate::{binary, build, cargo, root};
use anyhow::{Context, Result, bail};

/// What a story told of its kills, in milliseconds.
#[derive(Debug, PartialEq)]
struct Story {
    what: String,
    n: u64,
    gap_p50: u64,
    gap_p90: u64,
    gap_p99: u64,
    gap_max: u64,
    kubectl_p50: u64,
    kubectl_max: u64,
    written: u64,
}

/// The line that a story ends with; none of a line of another kind.
fn parse(line: &str) -> Result<Option<Story>> {
    let Some((_, told)) = line.split_once("kills of ") else { return Ok(None) };
    let (what, figures) = told.split_once(": ").context("a story names itself")?;
    let told = |name: &str| figures.split(' ').find_map(|pair| pair.strip_prefix(&format!("{name}=")));
    let figure = |name: &str| -> Result<u64> {
        let value = told(name).with_context(|| format!("{what} does not tell {name}"))?;
        value.parse().with_context(|| format!("{what}: {name}={value} is not a number"))
    };
    Ok(Some(Story {
        what: what.into(),
        n: figure("n")?,
        gap_p50: figure("gap_p50_ms")?,
        gap_p90: figure("gap_p90_ms")?,
        gap_p99: figure("gap_p99_ms")?,
        gap_max: figure("gap_max_ms")?,
        kubectl_p50: figure("kubectl_p50_ms")?,
        kubectl_max: figure("kubectl_max_ms")?,
        written: figure("written")?,
    }))
}

impl Story {
    /// What is worse than its target, and kills that were not carried out.
    fn wrong(&self, asked: u64) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.n < asked {
            wrong.push(format!("{}: {} kills of {asked} were carried out", self.what, self.n));
        }
        for (what, ms, max) in [("p50", self.gap_p50, WRITES_P50_MAX), ("p99", self.gap_p99, WRITES_P99_MAX)] {
            if ms as f64 > max {
                wrong.push(format!("{}: {what} of the write gap is {ms} ms, at most {max:.0}", self.what));
            }
        }
        wrong
    }
}

/// What the tests call what they do meanwhile.
const STORIES: [&str; 3] = ["idle", "rollout", "200 pods"];

/// Runs the tests that kill leaders, `n` times each, and shows what they measured.
pub(crate) fn bench(n: &str) -> Result<()> {
    let n: u64 = n.parse().ok().filter(|n| *n > 0).with_context(|| format!("bench kills {n}: how many kills?"))?;
    let setup = setup::prepare(Purpose::Run)?;
    build(&setup)?;
    eprintln!("== {n} kills of each kind (about {} min)", 1 + n / 5);
    let mut command = cargo(&setup);
    command.args([
        "test",
        "--release",
        "--locked",
        "--package",
        "tests",
        "--",
        "kills::",
        "--nocapture",
        "--test-threads=1",
    ]);
    command.env("RUN_SLOW_TESTS", "1").env("BALSA_BINARY", binary()).env("BALSA_KILLS", n.to_string());
    let output = command.current_dir(root()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let stories = text.lines().filter_map(|line| parse(line).transpose()).collect::<Result<Vec<_>>>()?;
    println!(
        "{:<10} {:>5} {:>30} {:>18} {:>8}",
        "", "kills", "write gap p50/p90/p99/max ms", "kubectl p50/max", "writes"
    );
    for story in &stories {
        let gap = format!("{} / {} / {} / {}", story.gap_p50, story.gap_p90, story.gap_p99, story.gap_max);
        let kubectl = format!("{} / {}", story.kubectl_p50, story.kubectl_max);
        println!("{:<10} {:>5} {gap:>30} {kubectl:>18} {:>8}", story.what, story.n, story.written);
    }
    let bounds = format!("{WRITES_P50_MAX:.0} / - / {WRITES_P99_MAX:.0} / -");
    println!("{:<10} {:>5} {bounds:>30}", "at most", "");
    if !output.status.success() {
        bail!("a story failed:\n{text}{}", String::from_utf8_lossy(&output.stderr));
    }
    if let Some(missing) = STORIES.into_iter().find(|name| !stories.iter().any(|story| story.what == *name)) {
        bail!("the story of {missing} told nothing:\n{text}");
    }
    let wrong: Vec<String> = stories.iter().flat_map(|story| story.wrong(n)).collect();
    match wrong.is_empty() {
        true => Ok(()),
        false => bail!("{}", wrong.join("\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "kills of idle: n=30 gap_p50_ms=340 gap_p90_ms=361 gap_p99_ms=610 gap_max_ms=610 kubectl_p50_ms=700 \
                        kubectl_max_ms=900 written=9000";

    #[test]
    fn half_and_nearly_all_are_judged() {
        let story = parse(LINE).unwrap().unwrap();
        assert_eq!(story.wrong(30), ["idle: p99 of the write gap is 610 ms, at most 600"]);
        let told = parse(&LINE.replace("gap_p99_ms=610", "gap_p99_ms=598").replace("p50_ms=340", "p50_ms=351"));
        let expected = ["idle: 30 kills of 31 were carried out", "idle: p50 of the write gap is 351 ms, at most 350"];
        assert_eq!(told.unwrap().unwrap().wrong(31), expected);
    }

    #[test]
    fn other_lines_are_no_stories() {
        assert_eq!(parse("test kills::idle ... ok").unwrap(), None);
        assert!(parse("kills of idle: n=30").unwrap_err().to_string().contains("gap_p50_ms"));
    }
}
