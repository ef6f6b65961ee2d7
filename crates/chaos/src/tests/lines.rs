//! The lines of a report: what no run can have written is refused, and the manual's example is clean.

use super::scenario;
use crate::lines::{FaultLine, Line, Run};
use crate::{Scenario, Verdict, verdict};

/// What is wrong with a line of history.jsonl.
fn wrong(line: &str) -> String {
    Line::parse(line).err().unwrap_or_default()
}

#[test]
fn a_line_that_no_run_can_have_written_is_refused_by_the_field() {
    let write = |rest: &str| {
        wrong(&format!(r#"{{"op":"write","who":"a","name":"k","value":"v","invokedUs":1,"triedUs":2,{rest}}}"#))
    };
    assert_eq!(write(r#""answeredUs":3,"end":"applied","revision":7"#), "");
    assert_eq!(write(r#""answeredUs":3,"end":"unknown""#), "");
    let refused = |told: String, field: &str| assert!(told.contains(field), "{field}: {told}");
    refused(write(r#""answeredUs":3,"end":"applied""#), "revision: a write that was applied");
    refused(write(r#""answeredUs":3,"end":"applied","revision":0"#), "revision: revisions begin at 1");
    refused(write(r#""answeredUs":3,"end":"applied","revision":7,"assumed":0"#), "assumed");
    refused(write(r#""answeredUs":3,"end":"unknown","revision":7"#), "revision: only a write");
    refused(write(r#""answeredUs":1,"end":"unknown""#), "answeredUs: is before triedUs");
    refused(write(r#""answeredUs":3,"end":"unknown","revsion":7"#), "revsion");
    refused(write(r#""answeredUs":3,"end":"applied","revision":9007199254740992"#), "no group issues");
    refused(write(r#""answeredUs":3,"end":"unknown","creates":true,"assumed":4"#), "assumed");
    refused(wrong(r#"{"op":"shown","who":"w","atUs":1,"revision":2,"name":"k"}"#), "value");
    refused(
        wrong(r#"{"op":"listed","who":"w","atUs":1,"revision":3,"seen":{"k":[1,"v"],"k":[2,"w"]}}"#),
        "k is there twice",
    );
    refused(wrong(r#"{"op":"listed","who":"w","atUs":1,"revision":0,"seen":{}}"#), "revision");
    refused(wrong(r#"{"op":"listed","who":"w","atUs":1,"revision":3,"seen":{"k":[0,"v"]}}"#), "seen.k");
    refused(wrong(r#"{"op":"shown","who":"w","atUs":1,"revision":0,"name":"k","value":null}"#), "revision");
    refused(wrong(r#"{"op":"read","who":"r","invokedUs":2,"answeredUs":1,"revision":3,"seen":{}}"#), "answeredUs");
}

#[test]
fn run_json_lacks_nothing_and_holds_nothing_unknown() {
    let whole = r#"{"seed":7,"version":"x","started":"now","masters":[],"workers":[],"overUs":1,"unsent":0,
        "historyLines":0,"faultLines":0}"#;
    assert!(serde_json::from_str::<Run>(whole).is_ok());
    for field in ["seed", "version", "started", "masters", "workers", "overUs", "unsent", "historyLines", "faultLines"]
    {
        let error = serde_json::from_str::<Run>(&whole.replace(field, "humbug")).unwrap_err().to_string();
        assert!(error.contains("humbug"), "{error}");
        let mut without: serde_json::Map<String, serde_json::Value> = serde_json::from_str(whole).unwrap();
        without.remove(field);
        let error = serde_json::from_value::<Run>(without.into()).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
}

/// The fenced blocks of a section of the manual.
fn blocks(section: &str) -> Vec<&'static str> {
    let manual = include_str!("../../../../docs/chaos.md");
    let (_, section) = manual.split_once(section).expect("the manual has the section");
    let section = section.split("\n#").next().unwrap_or_default();
    let fenced = section.split("```").skip(1).step_by(2);
    fenced.map(|block| block.split_once('\n').expect("a fence ends its line").1).collect()
}

#[test]
fn the_manuals_example_is_judged_clean() {
    let blocks = blocks("### A report by hand");
    let [text, faults, run, history] = blocks[..] else { panic!("{} blocks", blocks.len()) };
    let scenario: Scenario = scenario(text);
    let faults: Vec<FaultLine> = faults.lines().map(|line| FaultLine::parse(line).unwrap()).collect();
    let lines: Vec<Line> = history.lines().map(|line| Line::parse(line).unwrap()).collect();
    let run: Run = serde_json::from_str(run).unwrap();
    let report = verdict::judge(&scenario, &run, &faults, &lines);
    assert_eq!(report.verdict, Verdict::Clean, "{}", report.text());
    // Wherever its end is cut off, nobody is accused of what is not there.
    for n in 0..lines.len() {
        let cut = verdict::judge(&scenario, &run, &faults, &lines[..n]);
        assert_eq!(cut.verdict, Verdict::Inconclusive, "{n} lines: {}", cut.text());
    }
}

#[test]
fn a_fault_is_over_only_after_it_has_begun() {
    let faults = blocks("### A report by hand")[1];
    let fault = FaultLine::parse(faults.trim()).unwrap();
    let told = |fault: &FaultLine| FaultLine::parse(&serde_json::to_string(fault).unwrap()).map(drop);
    let disordered = FaultLine { held_us: fault.ended_us + 1, ..fault.clone() };
    assert_eq!(told(&disordered), Err("endedUs: is before heldUs".into()));
    let failed = FaultLine { error: Some("no disk".into()), ..disordered };
    assert_eq!(told(&failed), Ok(()), "one that went wrong need not have come to its end");
    let misspelt = faults.trim().replacen('{', "{\"eror\":\"not healed\",", 1);
    assert_eq!(FaultLine::parse(&misspelt).map(drop), Err("eror: is not known".into()));
    let twice = faults.trim().replacen('{', "{\"error\":\"not healed\",\"error\":null,", 1);
    assert!(FaultLine::parse(&twice).unwrap_err().contains("duplicate field `error`"));
    let leaderless = faults.trim().replacen("\"leader\":\"m1\",", "", 1);
    assert!(FaultLine::parse(&leaderless).unwrap_err().contains("missing field `leader`"), "{leaderless}");
}
