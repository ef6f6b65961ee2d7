//! What a pod that fits nowhere is told, and how often.

use super::check;
use crate::verdict::{News, Verdicts};
use expect_test::expect;
use objects::{Key, Timestamp, registry};

#[test]
fn every_node_gives_its_first_reason_and_equal_ones_are_counted() {
    check(
        "node a cpu=1\n node b cpu=1 memory=1Gi\n node c taint=k=v:NoSchedule\n node d taint=k=v:NoSchedule cordoned\n \
         node e taint=k=v:NoSchedule\n pod x cpu=2 memory=2Gi",
        expect![[r#"
            x: 0/5 nodes are available: 1 Insufficient memory, 1 node(s) were unschedulable, 2 Insufficient cpu, 2 node(s) had untolerated taint {k: v}.
        "#]],
    );
}

#[test]
fn a_changed_verdict_is_told_with_back_off() {
    let (pod, mut now, mut verdicts) = (Key::new(registry::POD, "d", "x"), Timestamp(0), Verdicts::default());
    let mut told = Vec::new();
    // The message changes every 500 ms for two minutes.
    for i in 0..240 {
        let message = format!("0/{i} nodes");
        if verdicts.judge(&pod, "another", &message, now) == News::Tell {
            told.push(now.0);
            verdicts.told(&pod, now);
        }
        now = now.plus_ms(500);
    }
    expect!["[0, 1000, 3000, 7000, 15000, 31000, 61000, 91000]"].assert_eq(&format!("{told:?}"));
    let later = verdicts.judge(&pod, "another", "new", Timestamp(*told.last().unwrap() + 1_000));
    assert_eq!(later, News::After { ms: 29_000 });
    // What was said already is not said again, and who stopped waiting starts afresh.
    assert_eq!(verdicts.judge(&pod, "same", "same", now), News::Old);
    verdicts.retain(|_| false);
    assert_eq!(verdicts.judge(&pod, "another", "new", now), News::Tell);
}
