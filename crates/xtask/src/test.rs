//! `cargo xtask test`: every test, and a list of what was left out.

use crate::setup::{self, Purpose};
use crate::{HELP, binary, build, cargo, root, step};
use anyhow::{Result, bail};

#[derive(Default)]
struct Flags {
    quick: bool,
    no_skips: bool,
    /// Passed to the tests: a part of their names.
    filter: Vec<String>,
}

fn parse(words: &[&str]) -> Result<Flags> {
    let mut flags = Flags::default();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match *word {
            "--quick" => flags.quick = true,
            "--no-skips" => flags.no_skips = true,
            "--" => flags.filter = rest.by_ref().map(ToString::to_string).collect(),
            other => bail!("test: {other} is not known\n\n{HELP}"),
        }
    }
    Ok(flags)
}

pub(crate) fn run(words: &[&str]) -> Result<()> {
    let flags = parse(words)?;
    let setup = setup::prepare(if flags.quick { Purpose::Build } else { Purpose::Test })?;
    build(&setup)?;
    let skips = root().join("target/skipped-tests.txt");
    std::fs::write(&skips, "")?;
    let mut command = cargo(&setup);
    command.args(["test", "--release", "--workspace", "--locked", "--no-fail-fast", "--"]).args(&flags.filter);
    if !flags.quick {
        // Clusters share the machine's two cores: one at a time, or they time each other out.
        command.arg("--test-threads=1").env("RUN_SLOW_TESTS", "1");
    }
    command.env("BALSA_BINARY", binary()).env("BALSA_SKIPS", &skips);
    let tested = step("testing", if flags.quick { "a minute" } else { "about 15 min" }, &mut command);
    let text = std::fs::read_to_string(&skips)?;
    let skipped: Vec<&str> = text.lines().collect();
    if !skipped.is_empty() {
        eprintln!("== skipped: {}", skipped.len());
        skipped.iter().for_each(|line| eprintln!("   {line}"));
    }
    tested?;
    if flags.no_skips && !skipped.is_empty() {
        bail!("{} tests were skipped, and --no-skips allows none", skipped.len());
    }
    Ok(())
}
