//! Which of the fitting nodes is best.

use super::{check, points};
use expect_test::expect;

#[test]
fn fewer_untolerated_prefer_no_schedule_taints_are_better() {
    let nodes = "node a\n node b taint=old:PreferNoSchedule\n \
                 node c taint=old:PreferNoSchedule taint=slow:PreferNoSchedule\n";
    points(&format!("{nodes} pod x"), "TaintToleration", expect!["a 100, b 50, c 0"]);
    let tolerates = |effect: &str| {
        format!(r#"{nodes} pod x :: {{"tolerations": [{{"key": "old", "operator": "Exists", "effect": "{effect}"}}]}}"#)
    };
    points(&tolerates("PreferNoSchedule"), "TaintToleration", expect!["a 100, b 100, c 0"]);
    points(&tolerates(""), "TaintToleration", expect!["a 100, b 100, c 0"]);
    points(&tolerates("NoSchedule"), "TaintToleration", expect!["a 100, b 50, c 0"]);
    points("node a\n node b\n pod x", "TaintToleration", expect!["a 100, b 100"]);
    check(
        "node a taint=old:PreferNoSchedule\n node b\n pod x",
        expect![[r#"
        x -> b
    "#]],
    );
}

/// `pod x` with preferred node affinity: weight and label of each.
fn prefers(preferences: &[(i64, &str)]) -> String {
    let items: Vec<String> = preferences
        .iter()
        .map(|(weight, label)| {
            format!(
                r#"{{"weight": {weight}, "preference": {{"matchExpressions": [{{"key": "{label}", "operator": "Exists"}}]}}}}"#
            )
        })
        .collect();
    format!(
        r#"pod x :: {{"affinity": {{"nodeAffinity": {{"preferredDuringSchedulingIgnoredDuringExecution": [{}]}}}}}}"#,
        items.join(",")
    )
}

#[test]
fn matched_node_preferences_add_their_weights() {
    let nodes = "node a ssd=1\n node b ssd=1 gpu=1\n node c\n";
    points(&format!("{nodes}{}", prefers(&[(10, "ssd"), (30, "gpu")])), "NodeAffinity", expect!["a 25, b 100, c 0"]);
    points(&format!("{nodes} pod x"), "NodeAffinity", expect!["a 0, b 0, c 0"]);
    check(
        &format!("{nodes}{}", prefers(&[(1, "gpu")])),
        expect![[r#"
        x -> b
    "#]],
    );
}

#[test]
fn the_emptier_node_is_better() {
    points(
        "node a cpu=4 memory=8Gi\n node b cpu=4 memory=8Gi\n pod y on a cpu=2 memory=4Gi\n pod x cpu=1 memory=2Gi",
        "NodeResourcesFit",
        expect!["a 25, b 75"],
    );
    check(
        "node a\n node b\n pod y on a cpu=2\n pod x cpu=1",
        expect![[r#"
        x -> b
    "#]],
    );
}

#[test]
fn pods_without_requests_count_a_little_in_scores() {
    // 100m of 4 CPUs and 200 MiB of 8 GiB each, so that they do not pile up on one node.
    points("node a\n node b\n pod y1 on a\n pod y2 on a\n pod x", "NodeResourcesFit", expect!["a 92, b 97"]);
    check(
        "node a\n node b\n pod x1\n pod x2\n pod x3\n pod x4",
        expect![[r#"
        x1 -> a
        x2 -> b
        x3 -> a
        x4 -> b
    "#]],
    );
}

#[test]
fn cpu_and_memory_used_to_the_same_part_are_better() {
    points(
        "node a\n node b\n pod y on a cpu=2\n pod z on b memory=4Gi\n pod x cpu=2",
        "NodeResourcesBalancedAllocation",
        expect!["a 50, b 100"],
    );
    // A pod that asks for nothing balances nothing.
    points("node a\n node b\n pod y on a cpu=2\n pod x", "NodeResourcesBalancedAllocation", expect!["a 0, b 0"]);
}

/// `waiting` with soft spread constraints: topology key and maxSkew of each.
fn soft(constraints: &[(&str, i64)]) -> String {
    let items: Vec<String> = constraints
        .iter()
        .map(|(key, skew)| {
            format!(
                r#"{{"topologyKey": "{key}", "maxSkew": {skew}, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {{"matchLabels": {{"app": "w"}}}}}}"#
            )
        })
        .collect();
    format!(r#"waiting :: {{"topologySpreadConstraints": [{}]}}"#, items.join(","))
}

const ZONES: &str = "node a zone=1\n node b zone=2\n node c zone=2\n node bare\n\
                     pod y1 on a app=w\n pod y2 on b app=w\n pod y3 on b app=w\n";

#[test]
fn a_domain_with_fewer_matching_pods_is_better() {
    points(
        &format!("{ZONES}{}\n pod x app=w", soft(&[("zone", 1)])),
        "PodTopologySpread",
        expect!["a 100, b 33, bare 0, c 33"],
    );
    // It never keeps a pod from running.
    check(
        &format!("node a\n pod y on a app=w\n{}\n pod x app=w", soft(&[("zone", 1)])),
        expect![[r#"
        x -> a
    "#]],
    );
}

#[test]
fn soft_constraints_add_up_and_max_skew_waters_them_down() {
    let key = "kubernetes.io/hostname";
    points(
        &format!("{ZONES}{}\n pod x app=w", soft(&[("zone", 1), (key, 1)])),
        "PodTopologySpread",
        expect!["a 100, b 50, bare 0, c 100"],
    );
    points(
        &format!("{ZONES}{}\n pod x app=w", soft(&[("zone", 10)])),
        "PodTopologySpread",
        expect!["a 100, b 83, bare 0, c 83"],
    );
}

#[test]
fn nobody_to_spread_from_makes_all_nodes_equal() {
    points(
        &format!("node a zone=1\n node b zone=2\n{}\n pod x app=w", soft(&[("zone", 1)])),
        "PodTopologySpread",
        expect!["a 100, b 100"],
    );
}

#[test]
fn pods_of_a_set_are_spread_over_hosts_and_zones_by_default() {
    let world = "set web app=w\n node a topology.kubernetes.io/zone=1\n node b topology.kubernetes.io/zone=1\n \
                 node c topology.kubernetes.io/zone=2\n node bare\n pod y1 on a app=w of=web\n pod y2 on b app=w of=web\n";
    points(&format!("{world} pod x app=w of=web"), "PodTopologySpread", expect!["a 18, b 18, bare 100, c 63"]);
    // Constraints of the pod's own replace the defaults; a pod alone has none.
    points(&format!("{world} pod x app=w"), "PodTopologySpread", expect!["a 0, b 0, bare 0, c 0"]);
    let own = r#"{"topologySpreadConstraints": [{"topologyKey": "kubernetes.io/hostname", "maxSkew": 5, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}]}"#;
    points(&format!("{world} pod x app=w of=web :: {own}"), "PodTopologySpread", expect!["a 0, b 0, bare 0, c 0"]);
}

/// The JSON of preferred pod affinity: family, weight, topology key and app of each.
fn pod_preferences(preferences: &[(&str, i64, &str, &str)]) -> String {
    let families = preferences.iter().map(|(family, weight, key, app)| {
        format!(
            r#""{family}": {{"preferredDuringSchedulingIgnoredDuringExecution": [{{"weight": {weight}, "podAffinityTerm": {{"topologyKey": "{key}", "labelSelector": {{"matchLabels": {{"app": "{app}"}}}}}}}}]}}"#
        )
    });
    format!(r#"{{"affinity": {{{}}}}}"#, families.collect::<Vec<_>>().join(","))
}

const HOST: &str = "kubernetes.io/hostname";

#[test]
fn preferred_affinity_draws_and_anti_affinity_pushes() {
    let world = "node a zone=1\n node b zone=1\n node c zone=2\n pod y on a app=db\n pod z on b app=noise\n";
    let preferences = pod_preferences(&[("podAffinity", 50, "zone", "db"), ("podAntiAffinity", 100, HOST, "noise")]);
    points(&format!("{world} pod x :: {preferences}"), "InterPodAffinity", expect!["a 100, b 0, c 50"]);
    check(
        &format!("{world} pod x :: {preferences}"),
        expect![[r#"
        x -> a
    "#]],
    );
    points(&format!("{world} pod x"), "InterPodAffinity", expect!["a 0, b 0, c 0"]);
}

#[test]
fn preferred_anti_affinity_spreads_evenly() {
    let preferences = pod_preferences(&[("podAntiAffinity", 100, HOST, "w")]);
    let pods: String = (1..=6).map(|i| format!("pod p{i} app=w\n")).collect();
    check(
        &format!("node a\n node b\n node c\n waiting :: {preferences}\n{pods}"),
        expect![[r#"
        p1 -> a
        p2 -> b
        p3 -> c
        p4 -> a
        p5 -> b
        p6 -> c
    "#]],
    );
}

#[test]
fn preferences_of_placed_pods_about_the_newcomer_count_too() {
    let likes = pod_preferences(&[("podAffinity", 10, HOST, "web")]);
    let dislikes = pod_preferences(&[("podAntiAffinity", 10, HOST, "web")]);
    points(
        &format!("node a\n node b\n node c\n pod y on a :: {likes}\n pod z on b :: {dislikes}\n pod x app=web"),
        "InterPodAffinity",
        expect!["a 100, b 0, c 50"],
    );
}

#[test]
fn required_affinity_of_placed_pods_counts_as_a_small_preference() {
    let needs = r#"{"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}}}"#;
    points(
        &format!("node a\n node b\n pod y on b :: {needs}\n pod x app=web"),
        "InterPodAffinity",
        expect!["a 0, b 100"],
    );
}

#[test]
fn a_node_that_holds_the_image_is_better() {
    // 500 MiB on half of the nodes count 250; below 23 MiB nothing counts.
    points(
        "node a image=i:500\n node b image=i:20\n node c\n node d image=other:900\n pod x",
        "ImageLocality",
        expect!["a 23, b 0, c 0, d 0"],
    );
}

#[test]
fn plugins_have_their_default_weights() {
    let weights: Vec<String> =
        crate::score::SCORES.iter().map(|(name, weight, _)| format!("{name} {weight}")).collect();
    expect![[r#"
        TaintToleration 3
        NodeAffinity 2
        NodeResourcesFit 1
        PodTopologySpread 2
        InterPodAffinity 2
        NodeResourcesBalancedAllocation 1
        ImageLocality 1"#]]
    .assert_eq(&weights.join("\n"));
}

#[test]
fn ties_go_to_the_node_with_fewer_pods_then_to_the_name() {
    check(
        "node b\n node a\n pod x",
        expect![[r#"
        x -> a
    "#]],
    );
    check(
        "node a cpu=0 memory=0\n node b cpu=0 memory=0\n pod y on a\n pod x",
        expect![[r#"
        x -> b
    "#]],
    );
}
