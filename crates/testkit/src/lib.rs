//! What tests of several crates share: saying that they are skipped, so that a skip is never silent.

pub mod faults;

use std::io::Write;

/// Says that a test does not run here, and why. `cargo xtask test` names a file in BALSA_SKIPS, lists
/// what is in it at the end, and with `--no-skips` fails on any.
pub fn skip(test: &str, why: &str) {
    eprintln!("skipped: {test} ({why})");
    let Some(path) = std::env::var_os("BALSA_SKIPS") else { return };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    let mut file = file.expect("the file of skips can be written");
    writeln!(file, "{test}: {why}").expect("the file of skips can be written");
}

/// Whether the tests that start clusters or daemons are to run; says so when not.
pub fn wanted(test: &str) -> bool {
    let wanted = std::env::var_os("RUN_SLOW_TESTS").is_some();
    if !wanted {
        skip(test, "set RUN_SLOW_TESTS=1");
    }
    wanted
}
