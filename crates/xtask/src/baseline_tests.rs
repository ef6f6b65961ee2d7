//! Tests of the baseline: what is worse, what is not judged, and the file.

use super::*;

const FILE: &str = r#"{
  "processors": 2,
  "etcd": "etcd 3.4.23",
  "figures": {
    "raw, 1 client, /s": {"value": 600, "tolerance": 0.3},
    "raw, 1 client, CPU us": {"value": 1900, "tolerance": 0.3},
    "raw, 1 client, /s over etcd's": {"value": 1.2, "tolerance": 0.1},
    "idle master RSS, MiB": {"value": 43, "tolerance": 0.15}
  }
}"#;

fn figure(name: &str, kind: Kind, value: f64) -> Figure {
    Figure { name: name.into(), kind, value }
}

/// A run with a rate, a time, a ratio and a memory; a ratio of 0 stands for no etcd.
fn measured(values: [f64; 4]) -> Measured {
    let [rate, time, ratio, memory] = values;
    let mut figures = vec![
        figure("raw, 1 client, /s", Kind::Rate, rate),
        figure("raw, 1 client, CPU us", Kind::Time, time),
        figure("idle master RSS, MiB", Kind::Memory, memory),
    ];
    if ratio > 0.0 {
        figures.push(figure("raw, 1 client, /s over etcd's", Kind::RateRatio, ratio));
    }
    Measured { processors: 2, etcd: (ratio > 0.0).then(|| "etcd 3.4.23".into()), figures }
}

/// The table without its head and its spaces, each row a line.
fn check(measured: &Measured, expected: &[&str]) {
    let baseline = Baseline::parse(FILE).unwrap();
    let text = table(&baseline.compare(measured));
    assert!(text.lines().all(|line| line.len() <= 80), "wider than a terminal:\n{text}");
    let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut rows: Vec<String> = text.lines().skip(1).map(squeezed).collect();
    rows.extend(baseline.remarks(measured));
    assert_eq!(rows, expected);
}

#[test]
fn within_its_tolerance_all_is_well() {
    let measured = measured([420.0, 2470.0, 1.08, 49.4]);
    check(
        &measured,
        &[
            "raw, 1 client, /s 600 420 0.70 ok",
            "raw, 1 client, CPU us 1900 2470 1.30 ok",
            "idle master RSS, MiB 43.00 49.40 1.15 ok",
            "raw, 1 client, /s over etcd's 1.20 1.08 0.90 ok",
        ],
    );
    assert!(!Baseline::parse(FILE).unwrap().compare(&measured).iter().any(Row::fails));
}

#[test]
fn each_kind_has_its_direction_and_each_figure_its_tolerance() {
    check(
        &measured([419.0, 2471.0, 1.07, 49.5]),
        &[
            "raw, 1 client, /s 600 419 0.70 WORSE",
            "raw, 1 client, CPU us 1900 2471 1.30 WORSE",
            "idle master RSS, MiB 43.00 49.50 1.15 WORSE",
            "raw, 1 client, /s over etcd's 1.20 1.07 0.89 WORSE",
        ],
    );
    check(
        &measured([6000.0, 19.0, 12.0, 4.0]),
        &[
            "raw, 1 client, /s 600 6000 10.00 ok",
            "raw, 1 client, CPU us 1900 19.00 0.01 ok",
            "idle master RSS, MiB 43.00 4.00 0.09 ok",
            "raw, 1 client, /s over etcd's 1.20 12.00 10.00 ok",
        ],
    );
}

#[test]
fn on_another_machine_memory_and_ratios_are_judged() {
    let other = Measured { processors: 16, ..measured([100.0, 9000.0, 0.5, 90.0]) };
    check(
        &other,
        &[
            "raw, 1 client, /s 600 100 0.17 not judged",
            "raw, 1 client, CPU us 1900 9000 4.74 not judged",
            "idle master RSS, MiB 43.00 90.00 2.09 WORSE",
            "raw, 1 client, /s over etcd's 1.20 0.50 0.42 WORSE",
            "the baseline is of 2 processors, here are 16: rates and times are told, not judged",
        ],
    );
}

#[test]
fn ratios_are_judged_beside_the_same_etcd_only() {
    check(
        &measured([600.0, 1900.0, 0.0, 43.0]),
        &[
            "raw, 1 client, /s 600 600 1.00 ok",
            "raw, 1 client, CPU us 1900 1900 1.00 ok",
            "idle master RSS, MiB 43.00 43.00 1.00 ok",
            "raw, 1 client, /s over etcd's 1.20 - - not judged",
            "no etcd is here: ratios to it are not judged",
        ],
    );
    let other = Measured { etcd: Some("etcd 3.6.6".into()), ..measured([600.0, 1900.0, 0.1, 43.0]) };
    check(
        &other,
        &[
            "raw, 1 client, /s 600 600 1.00 ok",
            "raw, 1 client, CPU us 1900 1900 1.00 ok",
            "idle master RSS, MiB 43.00 43.00 1.00 ok",
            "raw, 1 client, /s over etcd's 1.20 0.10 0.08 not judged",
            "the baseline's ratios are to etcd 3.4.23, here is etcd 3.6.6: they are told, not judged",
        ],
    );
}

#[test]
fn a_figure_that_is_gone_fails_and_a_new_one_does_not() {
    let mut measured = measured([600.0, 1900.0, 1.2, 43.0]);
    measured.figures.retain(|figure| figure.kind == Kind::Memory);
    measured.figures.push(figure("dev up, s", Kind::Time, 4.0));
    check(
        &measured,
        &[
            "idle master RSS, MiB 43.00 43.00 1.00 ok",
            "dev up, s - 4.00 - new",
            "raw, 1 client, /s 600 - - MISSING",
            "raw, 1 client, /s over etcd's 1.20 - - MISSING",
            "raw, 1 client, CPU us 1900 - - MISSING",
        ],
    );
    let rows = Baseline::parse(FILE).unwrap().compare(&measured);
    assert_eq!(rows.iter().filter(|row| row.fails()).count(), 3);
}

#[test]
fn what_is_renewed_is_read_and_keeps_its_tolerances() {
    let before = Baseline::parse(FILE).unwrap();
    let mut measured = measured([4_676.4, 284.2, 1.7149, 44.04]);
    measured.figures.push(figure("dev up, s", Kind::Time, 4.004));
    let after = Baseline::parse(&Baseline::renewed(Some(&before), &measured)).unwrap();
    let told: Vec<(&str, f64, f64)> =
        after.figures.iter().map(|(name, figure)| (name.as_str(), figure.value, figure.tolerance)).collect();
    assert_eq!(
        told,
        [
            ("dev up, s", 4.0, 0.3),
            ("idle master RSS, MiB", 44.0, 0.15),
            ("raw, 1 client, /s", 4_680.0, 0.3),
            ("raw, 1 client, /s over etcd's", 1.71, 0.1),
            ("raw, 1 client, CPU us", 284.0, 0.3),
        ]
    );
    assert_eq!((after.processors, after.etcd), (2, Some("etcd 3.4.23".into())));
}

#[test]
fn a_file_that_cannot_fail_a_check_is_refused() {
    let refused = |text: &str| Baseline::parse(text).unwrap_err().to_string();
    assert_eq!(refused("{}"), "processors: a number is missing");
    let with = |figure: &str| refused(&format!(r#"{{"processors": 2, "figures": {{"a": {figure}}}}}"#));
    assert_eq!(with(r#"{"value": 1}"#), "figures.a.tolerance: no number");
    assert_eq!(with(r#"{"value": 0, "tolerance": 0.3}"#), "figures.a.value: 0 is not above 0");
    assert_eq!(with(r#"{"value": 1, "tolerance": 1.5}"#), "figures.a.tolerance: 1.5 is not a share below 1");
}
