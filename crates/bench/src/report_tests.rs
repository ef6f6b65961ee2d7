//! Tests of the report: a table that fits 80 columns, and targets judged by medians.

use super::*;
use expect_test::expect;

fn figures(per_second: f64) -> Figures {
    let sample = load::Sample { per_second, p50_ms: 4.4, p99_ms: 120.5, cpu_us: 80.0, ..load::Sample::default() };
    Figures { sample, rss_mib: 190.0 }
}

fn report(systems: &[&str], rates: &[&[f64]]) -> Report {
    let mut report = Report::new(systems.iter().map(ToString::to_string).collect(), rates[0].len(), 3.0, 1000);
    for (system, rates) in rates.iter().enumerate() {
        for rate in *rates {
            report.push(Cell { system, what: What::Raw, size: 256, n_clients: 64 }, figures(*rate));
            let events_per_second = rate * 10.0;
            let sample =
                watch::Sample { events_per_second, lag_p50_ms: 2.0, lag_p99_ms: 5.0, ..watch::Sample::default() };
            report.push_watch(system, sample, 200.0);
        }
    }
    report
}

fn body(report: &Report) -> String {
    let text = report.text();
    assert!(text.lines().all(|line| line.len() <= 80), "wider than a terminal:\n{text}");
    text.split_once("\n\n").unwrap().1.to_string()
}

#[test]
fn medians_and_their_ratio_are_judged() {
    let rates: [&[f64]; 2] = [&[14_000.0, 11_100.0, 15_100.0], &[6_394.0, 2_400.0, 8_500.0]];
    let report = report(&["Balsa", "etcd 3.4.23"], &rates);
    expect![[r#"
                             Balsa               etcd 3.4.23         ratio target
        -- 256 B values, 64 clients ----------------------------------------------------
        raw transactions/s   14.0k (11.1k-15.1k) 6394 (2400-8500)     2.19 >= 2.0 met
          p50, ms            4.4                 4.4                  1.00
          p99, ms            120                 120                  1.00 <= 1.0 met
          server CPU, us     80.0                80.0                 1.00 <= 0.6 MISSED
          driver CPU, %      0.0                 0.0
        -- 1000 watchers of one prefix, 256 B values -----------------------------------
        events delivered/s   140k (111k-151k)    63.9k (24.0k-85.0k)  2.19
          server CPU, us     0.0                 0.0
          driver CPU, %      0.0                 0.0
        lag p50, ms, 10/s    2.0                 2.0                  1.00
        lag p99, ms, 10/s    5.0                 5.0                  1.00 <= 1.0 met
        -- memory of the largest server ------------------------------------------------
        of equal states, MiB 200                 200                  1.00 <= 1.0 met
        after all rows, MiB  200                 200                  1.00
        -- 4 of 5 targets met
    "#]]
    .assert_eq(&body(&report));
    assert_eq!(
        report.missed(),
        ["etcd 3.4.23: 256 B values, 64 clients: server CPU, us: 1.00 x etcd's, target <= 0.6"]
    );
}

#[test]
fn alone_nothing_is_compared() {
    let report = report(&["Balsa"], &[&[99.94]]);
    expect![[r#"
                             Balsa                                   ratio target
        -- 256 B values, 64 clients ----------------------------------------------------
        raw transactions/s   99.9
          p50, ms            4.4
          p99, ms            120
          server CPU, us     80.0
          driver CPU, %      0.0
        -- 1000 watchers of one prefix, 256 B values -----------------------------------
        events delivered/s   999
          server CPU, us     0.0
          driver CPU, %      0.0
        lag p50, ms, 10/s    2.0
        lag p99, ms, 10/s    5.0
        -- memory of the largest server ------------------------------------------------
        of equal states, MiB 200
        after all rows, MiB  200
    "#]]
    .assert_eq(&body(&report));
    assert!(report.missed().is_empty());
}

/// Of etcd some puts failed, and Balsa's leader refused some proposals.
#[test]
fn batches_stand_beside_single_puts_and_beside_transactions() {
    let mut report = Report::new(vec!["Balsa".into(), "etcd 3.4.23".into()], 1, 3.0, 1000);
    let (raw, batched) = ((What::Raw, 64), (What::Batched, 1024));
    for (system, (what, n_clients), rate, n_errors, n_repeated) in
        [(0, raw, 14_000.0, 0, 9), (0, batched, 28_000.0, 0, 0), (1, raw, 7_000.0, 3, 0), (1, batched, 25_000.0, 0, 0)]
    {
        let mut figures = figures(rate);
        (figures.sample.n_errors, figures.sample.n_repeated) = (n_errors, n_repeated);
        report.push(Cell { system, what, size: 256, n_clients }, figures);
    }
    expect![[r#"
                             Balsa               etcd 3.4.23         ratio target
        -- 256 B values, 64 clients ----------------------------------------------------
        raw transactions/s   14.0k               7000                 2.00 >= 2.0 MISSED
          p50, ms            4.4                 4.4                  1.00
          p99, ms            120                 120                  1.00 <= 1.0 MISSED
          server CPU, us     80.0                80.0                 1.00 <= 0.6 MISSED
          driver CPU, %      0.0                 0.0
          requests failed    0.0                 3.0
          proposals repeated 9.0                 0.0
        -- 256 B values, 1024 writes in 8 requests; etcd's single puts -----------------
        raw transactions/s   28.0k               7000                 4.00 >= 4.0 MISSED
          server CPU, us     80.0                80.0                 1.00 <= 0.6 MISSED
        -- the same; etcd's Txn of 128 puts --------------------------------------------
        raw transactions/s   28.0k               25.0k                1.12
          p50, ms            4.4                 4.4                  1.00
          p99, ms            120                 120                  1.00
          server CPU, us     80.0                80.0                 1.00
          driver CPU, %      0.0                 0.0
        -- memory of the largest server ------------------------------------------------
        of equal states, MiB 190                 190                  1.00 <= 1.0 met
        after all rows, MiB  190                 190                  1.00
        -- 1 of 6 targets met
    "#]]
    .assert_eq(&body(&report));
}

#[test]
fn a_row_that_etcd_lacks_is_missed() {
    let mut report = Report::new(vec!["Balsa".into(), "etcd 3.4.23".into()], 1, 3.0, 1000);
    report.push(Cell { system: 0, what: What::Read, size: 256, n_clients: 64 }, figures(9_000.0));
    assert_eq!(
        report.missed(),
        [
            "etcd 3.4.23: 256 B values, 64 clients: linearizable reads/s: not measured, target >= 1.5",
            "etcd 3.4.23: 256 B values, 64 clients: p99, ms: not measured, target <= 1.0",
        ]
    );
}

#[test]
fn only_what_design_names_has_a_target() {
    let rate = |what: What, n| what.aims(n).rate;
    for (what, n, least) in [
        (What::Raw, 1, Some(1.0)),
        (What::Raw, 64, Some(2.0)),
        (What::Raw, 1000, Some(2.0)),
        (What::Raw, 16, None),
        (What::Admitted, 1, None),
        (What::Admitted, 1000, Some(1.2)),
        (What::Read, 1, None),
        (What::Read, 64, Some(1.5)),
        (What::Batched, 1024, Some(4.0)),
    ] {
        assert_eq!(rate(what, n), least.map(Target::AtLeast), "{what:?} of {n} clients");
    }
}
