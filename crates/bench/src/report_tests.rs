//! Tests of the report: a table that fits 80 columns, and targets judged by medians.

use super::*;
use expect_test::expect;

fn figures(per_second: f64) -> Figures {
    let sample = load::Sample { per_second, p50_ms: 4.4, p99_ms: 120.5, cpu_us: 80.0, n_errors: 0, error: None };
    Figures { sample, rss_mib: 190.0 }
}

fn report(systems: &[&str], rates: &[&[f64]]) -> Report {
    let mut report = Report::new(systems.iter().map(ToString::to_string).collect(), rates[0].len(), 3.0, 1000);
    for (system, rates) in rates.iter().enumerate() {
        for rate in *rates {
            report.push(Cell { system, what: What::Raw, size: 256, n_clients: 64 }, figures(*rate));
            let sample = watch::Sample { events_per_second: rate * 10.0, ..watch::Sample::default() };
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
    expect![[r#"
                             Balsa               etcd 3.4.23         ratio target
        -- 256 B values, 64 clients ----------------------------------------------------
        raw transactions/s   14.0k (11.1k-15.1k) 6394 (2400-8500)     2.19 >= 2.0 met
          p50, ms            4.4                 4.4                  1.00
          p99, ms            120                 120                  1.00 <= 1.0 met
          server CPU, us     80.0                80.0                 1.00 <= 0.6 MISSED
        -- 1000 watchers of one prefix, 256 B values -----------------------------------
        events delivered/s   140k (111k-151k)    63.9k (24.0k-85.0k)  2.19 >= 1.0 met
          server CPU, us     0.0                 0.0
        lag p50, ms, 10/s    0.0                 0.0
        lag p99, ms, 10/s    0.0                 0.0
        -- memory of the largest server ------------------------------------------------
        of equal states, MiB 200                 200                  1.00 <= 1.0 met
        after all rows, MiB  200                 200                  1.00
        -- 4 of 5 targets met
    "#]]
    .assert_eq(&body(&report(&["Balsa", "etcd 3.4.23"], &rates)));
}

#[test]
fn alone_nothing_is_compared() {
    expect![[r#"
                             Balsa                                   ratio target
        -- 256 B values, 64 clients ----------------------------------------------------
        raw transactions/s   99.9
          p50, ms            4.4
          p99, ms            120
          server CPU, us     80.0
        -- 1000 watchers of one prefix, 256 B values -----------------------------------
        events delivered/s   999
          server CPU, us     0.0
        lag p50, ms, 10/s    0.0
        lag p99, ms, 10/s    0.0
        -- memory of the largest server ------------------------------------------------
        of equal states, MiB 200
        after all rows, MiB  200
    "#]]
    .assert_eq(&body(&report(&["Balsa"], &[&[99.94]])));
}

#[test]
fn numbers_stay_short() {
    let texts: Vec<String> = [0.0, 99.9, 100.4, 9_999.0, 9_999.6, 99_960.0, 999_949.0].into_iter().map(short).collect();
    assert_eq!(texts, ["0.0", "99.9", "100", "9999", "10.0k", "100k", "1.00M"]);
}
