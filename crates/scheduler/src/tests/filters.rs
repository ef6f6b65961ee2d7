//! Which nodes a pod may run on.

use super::check;
use expect_test::expect;

#[test]
fn no_nodes() {
    check(
        "pod x",
        expect![[r#"
        x: no nodes available to schedule pods
    "#]],
    );
}

#[test]
fn a_cordoned_node_takes_only_pods_that_tolerate_it() {
    check(
        "node a cordoned\n node b\n pod x",
        expect![[r#"
        x -> b
    "#]],
    );
    check(
        "node a cordoned\n pod x",
        expect![[r#"
        x: 0/1 nodes are available: 1 node(s) were unschedulable.
    "#]],
    );
    check(
        r#"node a cordoned
        pod x :: {"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]}"#,
        expect![[r#"
            x -> a
        "#]],
    );
}

#[test]
fn a_pod_that_names_its_node_is_bound_already_and_counts_there() {
    check(
        "node a pods=1\n pod y on a\n pod x",
        expect![[r#"
        x: 0/1 nodes are available: 1 Too many pods.
    "#]],
    );
    // A node that is not known (yet) takes nothing from the others.
    check(
        "node a pods=1\n pod y on elsewhere\n pod x",
        expect![[r#"
        x -> a
    "#]],
    );
}

#[test]
fn taints_repel_pods_that_do_not_tolerate_them() {
    for effect in ["NoSchedule", "NoExecute"] {
        check(
            &format!("node a taint=gpu=big:{effect}\n pod x"),
            expect![[r#"
                x: 0/1 nodes are available: 1 node(s) had untolerated taint {gpu: big}.
            "#]],
        );
    }
    check(
        "node a taint=gpu:PreferNoSchedule\n pod x",
        expect![[r#"
        x -> a
    "#]],
    );
    // The first taint that is not tolerated is named.
    check(
        r#"node a taint=one:NoSchedule taint=two:NoSchedule
        pod x :: {"tolerations": [{"key": "one", "operator": "Exists"}]}"#,
        expect![[r#"
            x: 0/1 nodes are available: 1 node(s) had untolerated taint {two: }.
        "#]],
    );
}

#[test]
fn tolerations_match_by_key_operator_value_and_effect() {
    let with =
        |toleration: &str| format!("node a taint=gpu=big:NoSchedule\n pod x :: {{\"tolerations\": [{toleration}]}}");
    let yes = [
        r#"{"key": "gpu", "operator": "Exists"}"#,
        r#"{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}"#,
        r#"{"key": "gpu", "operator": "Equal", "value": "big"}"#,
        // Equal is the default, no effect means every effect, no key with Exists every key.
        r#"{"key": "gpu", "value": "big"}"#,
        r#"{"operator": "Exists"}"#,
    ];
    for toleration in yes {
        check(
            &with(toleration),
            expect![[r#"
            x -> a
        "#]],
        );
    }
    let no = [
        r#"{"key": "gpu", "operator": "Equal", "value": "small"}"#,
        r#"{"key": "gpu", "operator": "Equal"}"#,
        r#"{"key": "gpu", "operator": "Exists", "effect": "NoExecute"}"#,
        r#"{"key": "cpu", "operator": "Exists"}"#,
    ];
    for toleration in no {
        check(
            &with(toleration),
            expect![[r#"
            x: 0/1 nodes are available: 1 node(s) had untolerated taint {gpu: big}.
        "#]],
        );
    }
}

#[test]
fn a_node_selector_needs_every_label() {
    let nodes = "node a disk=ssd\n node b disk=ssd zone=1\n node c zone=1\n";
    check(
        &format!(r#"{nodes} pod x :: {{"nodeSelector": {{"disk": "ssd", "zone": "1"}}}}"#),
        expect![[r#"
        x -> b
    "#]],
    );
    check(
        &format!(r#"{nodes} pod x :: {{"nodeSelector": {{"disk": "hdd"}}}}"#),
        expect![[r#"
        x: 0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.
    "#]],
    );
}

/// `pod x` with the required node affinity of these terms.
fn terms(terms: &str) -> String {
    format!(
        r#"pod x :: {{"affinity": {{"nodeAffinity": {{"requiredDuringSchedulingIgnoredDuringExecution":
        {{"nodeSelectorTerms": [{terms}]}}}}}}}}"#
    )
    .replace('\n', " ")
}

#[test]
fn node_affinity_operators() {
    let operators = [
        (r#"{"key": "balsa.dev/disk-class", "operator": "In", "values": ["fast", "faster"]}"#, "fast"),
        (r#"{"key": "balsa.dev/disk-class", "operator": "NotIn", "values": ["slow", "fast"]}"#, "bare"),
        (r#"{"key": "cores", "operator": "Exists"}"#, "fast"),
        (r#"{"key": "cores", "operator": "DoesNotExist"}"#, "bare"),
        (r#"{"key": "cores", "operator": "Gt", "values": ["4"]}"#, "fast"),
        (r#"{"key": "cores", "operator": "Lt", "values": ["8"]}"#, "slow"),
    ];
    for (expression, node) in operators {
        // Each of the three is the only answer to some operator; `slow` is left out of `Exists` by a cordon.
        let cordoned = if expression.contains("Exists") { "cordoned" } else { "" };
        let nodes = format!(
            "node fast balsa.dev/disk-class=fast cores=8\n node slow balsa.dev/disk-class=slow cores=4 {cordoned}\n \
             node bare\n"
        );
        let pod = terms(&format!(r#"{{"matchExpressions": [{expression}]}}"#));
        let mut model = super::World::of(&format!("{nodes}{pod}")).model();
        assert_eq!(super::told(crate::place(&mut model, usize::MAX)), format!("x -> {node}\n"), "{expression}");
    }
}

#[test]
fn node_affinity_terms_are_alternatives_and_their_expressions_all_hold() {
    let nodes = "node a disk=ssd zone=1\n node b disk=hdd zone=2\n node c zone=2\n";
    let disk = |value: &str| format!(r#"{{"key": "disk", "operator": "In", "values": ["{value}"]}}"#);
    let zone = |value: &str| format!(r#"{{"key": "zone", "operator": "In", "values": ["{value}"]}}"#);
    let both = format!(r#"{{"matchExpressions": [{}, {}]}}"#, disk("hdd"), zone("2"));
    check(
        &format!("{nodes}{}", terms(&both)),
        expect![[r#"
        x -> b
    "#]],
    );
    let neither = format!(r#"{{"matchExpressions": [{}, {}]}}"#, disk("ssd"), zone("2"));
    check(
        &format!("{nodes}{}", terms(&neither)),
        expect![[r#"
        x: 0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.
    "#]],
    );
    check(
        &format!("{nodes}{}", terms(&format!("{neither}, {both}"))),
        expect![[r#"
        x -> b
    "#]],
    );
}

#[test]
fn node_affinity_by_name() {
    let by_name = |operator: &str| {
        terms(&format!(r#"{{"matchFields": [{{"key": "metadata.name", "operator": "{operator}", "values": ["b"]}}]}}"#))
    };
    check(
        &format!("node a\n node b\n {}", by_name("In")),
        expect![[r#"
        x -> b
    "#]],
    );
    check(
        &format!("node a\n node b\n {}", by_name("NotIn")),
        expect![[r#"
        x -> a
    "#]],
    );
}

#[test]
fn node_affinity_that_says_nothing_or_nonsense_matches_no_node() {
    check(
        &format!("node a\n {}", terms("{}")),
        expect![[r#"
        x: 0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.
    "#]],
    );
    let nonsense = terms(r#"{"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["many"]}]}"#);
    check(
        &format!("node a cores=4\n {nonsense}"),
        expect![[r#"
        x: 0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.
    "#]],
    );
}

#[test]
fn node_selector_and_affinity_must_both_hold() {
    let pod = terms(r#"{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}"#);
    let pod = pod.replacen("{\"affinity\"", "{\"nodeSelector\": {\"disk\": \"ssd\"}, \"affinity\"", 1);
    check(
        &format!("node a disk=ssd\n node b zone=1\n node c disk=ssd zone=1\n {pod}"),
        expect![[r#"
        x -> c
    "#]],
    );
}

#[test]
fn host_ports_clash_on_the_same_port_protocol_and_address() {
    let ports = |ports: &str| format!(r#":: {{"containers": [{{"name": "c", "ports": [{ports}]}}]}}"#);
    let case = |there: &str, asked: &str| format!("node a\n pod y on a {}\n pod x {}", ports(there), ports(asked));
    let tcp = r#"{"hostPort": 80, "protocol": "TCP"}"#;
    check(
        &case(tcp, tcp),
        expect![[r#"
        x: 0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.
    "#]],
    );
    // TCP is the default protocol.
    check(
        &case(tcp, r#"{"hostPort": 80}"#),
        expect![[r#"
        x: 0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.
    "#]],
    );
    check(
        &case(tcp, r#"{"hostPort": 81}"#),
        expect![[r#"
        x -> a
    "#]],
    );
    check(
        &case(tcp, r#"{"hostPort": 80, "protocol": "UDP"}"#),
        expect![[r#"
        x -> a
    "#]],
    );
    let at = |ip: &str| format!(r#"{{"hostPort": 80, "hostIP": "{ip}"}}"#);
    check(
        &case(&at("10.0.0.1"), &at("10.0.0.2")),
        expect![[r#"
        x -> a
    "#]],
    );
    check(
        &case(&at("10.0.0.1"), &at("10.0.0.1")),
        expect![[r#"
        x: 0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.
    "#]],
    );
    check(
        &case(&at("10.0.0.1"), &at("0.0.0.0")),
        expect![[r#"
        x: 0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.
    "#]],
    );
    check(
        &case(tcp, &at("10.0.0.1")),
        expect![[r#"
        x: 0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.
    "#]],
    );
    // A container port alone takes nothing of the node.
    check(
        &case(tcp, r#"{"containerPort": 80}"#),
        expect![[r#"
        x -> a
    "#]],
    );
}

#[test]
fn a_sidecar_holds_its_host_port() {
    let init =
        |policy: &str| format!(r#":: {{"initContainers": [{{"name": "i", "ports": [{{"hostPort": 80}}]{policy}}}]}}"#);
    let sidecar = init(r#", "restartPolicy": "Always""#);
    check(
        &format!("node a\n pod y on a {sidecar}\n pod x port=80"),
        expect![[r#"
        x: 0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.
    "#]],
    );
    check(
        &format!("node a\n pod y on a {}\n pod x port=80", init("")),
        expect![[r#"
        x -> a
    "#]],
    );
}

#[test]
fn resources_must_fit_into_what_is_left() {
    check(
        "node a cpu=2\n node b cpu=1\n pod y on a cpu=1\n pod x cpu=1500m",
        expect![[r#"
        x: 0/2 nodes are available: 2 Insufficient cpu.
    "#]],
    );
    check(
        "node a cpu=2\n pod y on a cpu=500m\n pod x cpu=1500m",
        expect![[r#"
        x -> a
    "#]],
    );
    // Every resource that falls short is named.
    check(
        "node a pods=1\n pod y on a\n pod x memory=9Gi",
        expect![[r#"
        x: 0/1 nodes are available: 1 Insufficient memory, 1 Too many pods.
    "#]],
    );
    check(
        "node a has=ephemeral-storage:1Gi\n pod x wants=ephemeral-storage:2Gi",
        expect![[r#"
        x: 0/1 nodes are available: 1 Insufficient ephemeral-storage.
    "#]],
    );
}

#[test]
fn extended_resources_are_counted_and_absent_ones_are_none() {
    check(
        "node a has=example.com/gpu:2\n node b\n pod y on a wants=example.com/gpu:1\n
        pod x1 wants=example.com/gpu:1\n pod x2 wants=example.com/gpu:1",
        expect![[r#"
            x1 -> a
            x2: 0/2 nodes are available: 2 Insufficient example.com/gpu.
        "#]],
    );
    check(
        "node a\n pod x wants=example.com/gpu:0",
        expect![[r#"
        x -> a
    "#]],
    );
}

#[test]
fn a_pod_without_requests_takes_a_place_only() {
    check(
        "node a cpu=0 memory=0 pods=1\n pod x\n pod y",
        expect![[r#"
        x -> a
        y: 0/1 nodes are available: 1 Too many pods.
    "#]],
    );
}

#[test]
fn containers_add_up_and_init_containers_need_the_most_at_once() {
    let two = r#"{"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}},
        {"name": "b", "resources": {"requests": {"cpu": "1500m"}}}]}"#
        .replace('\n', " ");
    check(
        &format!("node a cpu=2\n pod x :: {two}"),
        expect![[r#"
        x: 0/1 nodes are available: 1 Insufficient cpu.
    "#]],
    );
    let init = |cpu: &str| {
        format!(
            r#"{{"initContainers": [{{"name": "i", "resources": {{"requests": {{"cpu": "{cpu}"}}}}}},
            {{"name": "j", "resources": {{"requests": {{"cpu": "1"}}}}}}]}}"#
        )
        .replace('\n', " ")
    };
    check(
        &format!("node a cpu=2\n pod x cpu=1 :: {}", init("3")),
        expect![[r#"
        x: 0/1 nodes are available: 1 Insufficient cpu.
    "#]],
    );
    // They run one after the other and before the containers: 2 at most, never 4.
    check(
        &format!("node a cpu=2\n pod x cpu=1 :: {}", init("2")),
        expect![[r#"
        x -> a
    "#]],
    );
}

#[test]
fn sidecars_add_to_the_containers_and_to_later_init_containers() {
    let inits = |sidecar: &str, init: &str| {
        format!(
            r#"{{"initContainers": [
            {{"name": "s", "restartPolicy": "Always", "resources": {{"requests": {{"cpu": "{sidecar}"}}}}}},
            {{"name": "i", "resources": {{"requests": {{"cpu": "{init}"}}}}}}]}}"#
        )
        .replace('\n', " ")
    };
    check(
        &format!("node a cpu=2\n pod x cpu=1 :: {}", inits("1", "1")),
        expect![[r#"
        x -> a
    "#]],
    );
    check(
        &format!("node a cpu=2\n pod x cpu=1 :: {}", inits("1500m", "100m")),
        expect![[r#"
        x: 0/1 nodes are available: 1 Insufficient cpu.
    "#]],
    );
    check(
        &format!("node a cpu=2\n pod x cpu=500m :: {}", inits("1", "1500m")),
        expect![[r#"
        x: 0/1 nodes are available: 1 Insufficient cpu.
    "#]],
    );
}

#[test]
fn overhead_comes_on_top_and_pod_level_requests_go_before() {
    check(
        r#"node a cpu=2
        pod x cpu=1500m :: {"overhead": {"cpu": "600m"}}"#,
        expect![[r#"
            x: 0/1 nodes are available: 1 Insufficient cpu.
        "#]],
    );
    check(
        r#"node a cpu=2
        pod x cpu=3 :: {"resources": {"requests": {"cpu": "2"}}}"#,
        expect![[r#"
            x -> a
        "#]],
    );
}

#[test]
fn finished_pods_hold_nothing() {
    let mut world = super::World::of("node a pods=1\n pod y on a\n pod x");
    world.change_pod("y", |pod| objects::ValueExt::set(pod, "status.phase", "Succeeded"));
    assert_eq!(super::told(crate::place(&mut world.model(), usize::MAX)), "x -> a\n");
}

/// `waiting` with one spread constraint over zones for `app=w`, and more fields of it.
fn spread(more: &str) -> String {
    format!(
        r#"waiting :: {{"topologySpreadConstraints": [{{"topologyKey": "zone", "maxSkew": 1,
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {{"matchLabels": {{"app": "w"}}}}{more}}}]}}"#
    )
    .replace('\n', " ")
}

const ZONES: &str = "node a zone=1\n node b zone=2\n node c zone=3 cordoned\n";

#[test]
fn spread_keeps_within_max_skew() {
    let two = "node a zone=1\n node b zone=2\n";
    let pods = "pod x1 app=w\n pod x2 app=w\n pod x3 app=w\n pod x4 app=w";
    check(
        &format!("{two}{}\n{pods}", spread("")),
        expect![[r#"
        x1 -> a
        x2 -> b
        x3 -> a
        x4 -> b
    "#]],
    );
    // Only the nodes within reach count.
    check(
        &format!("{two} pod y on a app=w\n{}\n pod x app=w :: {{\"nodeSelector\": {{\"zone\": \"1\"}}}}", spread("")),
        expect![[r#"
        x -> a
    "#]],
    );
    // The emptiest domain is full: the skew would grow to 2.
    check(
        &format!("node a zone=1\n node b zone=2 cpu=0\n pod y on a app=w\n{}\n pod x app=w cpu=1", spread("")),
        expect![[r#"
        x: 0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match pod topology spread constraints.
    "#]],
    );
    check(
        &format!(
            "node a zone=1\n node b zone=2 cpu=0\n pod y on a app=w\n{}\n pod x app=w cpu=1",
            spread(r#", "maxSkew": 2"#)
        ),
        expect![[r#"
        x -> a
    "#]],
    );
}

#[test]
fn spread_counts_cordoned_nodes() {
    check(
        &format!("{ZONES} pod y1 on a app=w\n pod y2 on b app=w\n{}\n pod x app=w", spread("")),
        expect![[r#"
        x: 0/3 nodes are available: 1 node(s) were unschedulable, 2 node(s) didn't match pod topology spread constraints.
    "#]],
    );
}

#[test]
fn spread_needs_the_topology_label() {
    check(
        &format!("node a zone=1\n node b\n{}\n pod x1 app=w\n pod x2 app=w", spread("")),
        expect![[r#"
        x1 -> a
        x2 -> a
    "#]],
    );
    check(
        &format!("node b\n{}\n pod x app=w", spread("")),
        expect![[r#"
        x: 0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label).
    "#]],
    );
}

#[test]
fn spread_counts_matching_pods_of_the_namespace_that_stay() {
    let pods = "namespace other\n pod other/y on a app=w\n pod z on a app=v\n";
    check(
        &format!("node a zone=1\n node b zone=2 cpu=0\n {pods}{}\n pod x app=w cpu=1", spread("")),
        expect![[r#"
        x -> a
    "#]],
    );
    let mut world = super::World::of(&format!(
        "node a zone=1\n node b zone=2 cpu=0\n pod y on a app=w\n{}\n pod x app=w cpu=1",
        spread("")
    ));
    world.change_pod("y", |pod| objects::ValueExt::set(pod, "metadata.deletionTimestamp", "2026-01-01T00:00:00Z"));
    assert_eq!(super::told(crate::place(&mut world.model(), usize::MAX)), "x -> a\n");
}

#[test]
fn spread_of_a_pod_that_does_not_match_itself_looks_at_the_others_only() {
    check(
        &format!("node a zone=1\n node b zone=2 cpu=0\n pod y on a app=w\n{}\n pod x app=v cpu=1", spread("")),
        expect![[r#"
        x -> a
    "#]],
    );
}

#[test]
fn spread_without_a_selector_counts_nothing() {
    check(
        &format!(
            "node a zone=1\n node b zone=2 cpu=0\n pod y on a app=w\n{}\n pod x app=w cpu=1",
            spread(r#", "labelSelector": null"#)
        ),
        expect![[r#"
        x -> a
    "#]],
    );
}

#[test]
fn min_domains_counts_missing_domains_as_empty() {
    let two = "node a zone=1\n node b zone=2\n pod y1 on a app=w\n pod y2 on b app=w\n";
    check(
        &format!("{two}{}\n pod x app=w", spread(r#", "minDomains": 2"#)),
        expect![[r#"
        x -> a
    "#]],
    );
    check(
        &format!("{two}{}\n pod x app=w", spread(r#", "minDomains": 3"#)),
        expect![[r#"
        x: 0/2 nodes are available: 2 node(s) didn't match pod topology spread constraints.
    "#]],
    );
}

#[test]
fn node_affinity_policy_says_whether_nodes_out_of_reach_count() {
    let nodes = "node a zone=1 disk=ssd\n node b zone=2\n pod y on a app=w\n";
    let pod = r#"pod x app=w :: {"nodeSelector": {"disk": "ssd"}}"#;
    check(
        &format!("{nodes}{}\n{pod}", spread("")),
        expect![[r#"
        x -> a
    "#]],
    );
    check(
        &format!("{nodes}{}\n{pod}", spread(r#", "nodeAffinityPolicy": "Ignore""#)),
        expect![[r#"
        x: 0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) didn't match pod topology spread constraints.
    "#]],
    );
}

#[test]
fn node_taints_policy_says_whether_tainted_nodes_count() {
    let nodes = "node a zone=1\n node b zone=2 taint=gpu:NoSchedule\n pod y on a app=w\n";
    check(
        &format!("{nodes}{}\n pod x app=w", spread("")),
        expect![[r#"
        x: 0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) had untolerated taint {gpu: }.
    "#]],
    );
    check(
        &format!("{nodes}{}\n pod x app=w", spread(r#", "nodeTaintsPolicy": "Honor""#)),
        expect![[r#"
        x -> a
    "#]],
    );
}

#[test]
fn match_label_keys_narrow_a_spread_to_the_pods_own_values() {
    let nodes = "node a zone=1\n node b zone=2 cpu=0\n pod y on a app=w version=1\n";
    let keys = r#", "matchLabelKeys": ["version", "absent"]"#;
    check(
        &format!("{nodes}{}\n pod x app=w version=2 cpu=1", spread(keys)),
        expect![[r#"
        x -> a
    "#]],
    );
    check(
        &format!("{nodes}{}\n pod x app=w version=1 cpu=1", spread(keys)),
        expect![[r#"
        x: 0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match pod topology spread constraints.
    "#]],
    );
}

#[test]
fn every_spread_constraint_must_hold_and_counts_nodes_with_all_labels() {
    let both = r#"waiting :: {"topologySpreadConstraints": [
        {"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}},
        {"topologyKey": "kubernetes.io/hostname", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}]}"#
        .replace('\n', " ");
    check(
        &format!("node a1 zone=1\n node a2 zone=1\n node b zone=2\n{both}\n pod x1\n pod x2\n pod x3\n pod x4"),
        expect![[r#"
            x1 -> a1
            x2 -> b
            x3 -> a2
            x4 -> b
        "#]],
    );
    // A node without a zone is not counted among the hosts either: its emptiness does not hold the others back.
    check(
        &format!("node a zone=1\n node bare cpu=0\n pod y on a\n{both}\n pod x"),
        expect![[r#"
        x -> a
    "#]],
    );
}

/// `waiting` with a required pod affinity or anti-affinity over `key` to `app=APP`, and more fields.
fn near(family: &str, key: &str, app: &str, more: &str) -> String {
    format!(
        r#"waiting :: {{"affinity": {{"{family}": {{"requiredDuringSchedulingIgnoredDuringExecution":
        [{{"topologyKey": "{key}", "labelSelector": {{"matchLabels": {{"app": "{app}"}}}}{more}}}]}}}}}}"#
    )
    .replace('\n', " ")
}

const HOST: &str = "kubernetes.io/hostname";

#[test]
fn affinity_wants_a_matching_pod_in_the_domain() {
    let nodes = "node a zone=1\n node b zone=2\n node c zone=2\n pod y on b app=db\n pod z on b\n";
    check(
        &format!("{nodes}{}\n pod x app=web", near("podAffinity", "zone", "db", "")),
        expect![[r#"
        x -> c
    "#]],
    );
    check(
        &format!("{nodes}{}\n pod x app=web", near("podAffinity", HOST, "db", "")),
        expect![[r#"
        x -> b
    "#]],
    );
    check(
        &format!("{nodes}{}\n pod x app=web", near("podAffinity", "zone", "queue", "")),
        expect![[r#"
        x: 0/3 nodes are available: 3 node(s) didn't match pod affinity rules.
    "#]],
    );
    check(
        &format!("node a\n pod y on a app=db\n {}\n pod x app=web", near("podAffinity", "zone", "db", "")),
        expect![[r#"
        x: 0/1 nodes are available: 1 node(s) didn't match pod affinity rules.
    "#]],
    );
}

#[test]
fn the_first_of_a_group_that_wants_to_be_with_itself_starts_it() {
    let group = near("podAffinity", "zone", "db", "");
    check(
        &format!("node a zone=1\n node b zone=2\n{group}\n pod x1 app=db\n pod x2 app=db\n pod x3 app=db"),
        expect![[r#"
        x1 -> a
        x2 -> a
        x3 -> a
    "#]],
    );
    // Not where the topology is unknown, and not once the group is somewhere.
    check(
        &format!("node a\n{group}\n pod x app=db"),
        expect![[r#"
        x: 0/1 nodes are available: 1 node(s) didn't match pod affinity rules.
    "#]],
    );
    check(
        &format!("node a zone=1 cpu=0\n node b zone=2\n pod y on a app=db\n{group}\n pod x app=db cpu=1"),
        expect![[r#"
        x: 0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match pod affinity rules.
    "#]],
    );
}

#[test]
fn one_pod_must_match_all_affinity_terms() {
    let both = r#"waiting :: {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "db"}}},
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchExpressions": [{"key": "tier", "operator": "Exists"}]}}]}}}"#
        .replace('\n', " ");
    check(
        &format!("node a zone=1\n pod y on a app=db\n pod z on a tier=1\n{both}\n pod x"),
        expect![[r#"
        x: 0/1 nodes are available: 1 node(s) didn't match pod affinity rules.
    "#]],
    );
    check(
        &format!("node a zone=1\n pod y on a app=db tier=1\n{both}\n pod x"),
        expect![[r#"
        x -> a
    "#]],
    );
}

#[test]
fn anti_affinity_one_per_host_and_the_rest_are_told_why() {
    let pods: String = (1..=6).map(|i| format!("pod p{i} app=w\n")).collect();
    check(
        &format!("node a\n node b\n node c\n{}\n{pods}", near("podAntiAffinity", HOST, "w", "")),
        expect![[r#"
            p1 -> a
            p2 -> b
            p3 -> c
            p4: 0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules.
            p5: 0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules.
            p6: 0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules.
        "#]],
    );
}

#[test]
fn anti_affinity_needs_no_label_of_the_node() {
    check(
        &format!("node a\n pod y on a app=w\n{}\n pod x app=w", near("podAntiAffinity", "zone", "w", "")),
        expect![[r#"
        x -> a
    "#]],
    );
}

#[test]
fn anti_affinity_is_symmetric() {
    let refuses = near("podAntiAffinity", "zone", "web", "").replacen("waiting", "pod y on a app=db", 1);
    check(
        &format!("node a zone=1\n node b zone=1\n node c zone=2\n{refuses}\n pod x app=web"),
        expect![[r#"
        x -> c
    "#]],
    );
    check(
        &format!("node a zone=1\n node b zone=1\n{refuses}\n pod x app=web"),
        expect![[r#"
        x: 0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules.
    "#]],
    );
    check(
        &format!("node a zone=1\n{refuses}\n pod x app=cache"),
        expect![[r#"
        x -> a
    "#]],
    );
}

#[test]
fn affinity_terms_look_into_their_namespaces() {
    let world = "namespace blue team=a\n namespace red team=b\n node a\n node b\n pod blue/y on b app=db\n";
    let term = |more: &str| format!("{world}{}\n pod x", near("podAffinity", HOST, "db", more));
    check(
        &term(""),
        expect![[r#"
        x: 0/2 nodes are available: 2 node(s) didn't match pod affinity rules.
    "#]],
    );
    check(
        &term(r#", "namespaces": ["blue"]"#),
        expect![[r#"
        x -> b
    "#]],
    );
    check(
        &term(r#", "namespaceSelector": {"matchLabels": {"team": "a"}}"#),
        expect![[r#"
        x -> b
    "#]],
    );
    check(
        &term(r#", "namespaceSelector": {"matchLabels": {"team": "b"}}"#),
        expect![[r#"
        x: 0/2 nodes are available: 2 node(s) didn't match pod affinity rules.
    "#]],
    );
    // The empty selector means every namespace; a list and a selector together mean either.
    check(
        &term(r#", "namespaceSelector": {}"#),
        expect![[r#"
        x -> b
    "#]],
    );
    check(
        &term(r#", "namespaces": ["blue"], "namespaceSelector": {"matchLabels": {"team": "b"}}"#),
        expect![[r#"
        x -> b
    "#]],
    );
}

#[test]
fn an_affinity_term_without_a_selector_is_about_nobody() {
    let nobody = near("podAntiAffinity", HOST, "w", r#", "labelSelector": null"#);
    check(
        &format!("node a\n pod y on a app=w\n{nobody}\n pod x app=w"),
        expect![[r#"
        x -> a
    "#]],
    );
    let everybody = near("podAntiAffinity", HOST, "w", r#", "labelSelector": {}"#);
    check(
        &format!("node a\n pod y on a app=w\n{everybody}\n pod x app=w"),
        expect![[r#"
        x: 0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.
    "#]],
    );
}

#[test]
fn match_and_mismatch_label_keys_of_affinity_stand_for_the_pods_own_values() {
    let nodes = "node a\n node b\n pod y on a app=w version=1\n pod z on b app=w version=2\n";
    let keys = |list: &str| near("podAffinity", HOST, "w", &format!(r#", "{list}": ["version", "absent"]"#));
    check(
        &format!("{nodes}{}\n pod x app=w version=1", keys("matchLabelKeys")),
        expect![[r#"
        x -> a
    "#]],
    );
    check(
        &format!("{nodes}{}\n pod x app=w version=1", keys("mismatchLabelKeys")),
        expect![[r#"
        x -> b
    "#]],
    );
}
