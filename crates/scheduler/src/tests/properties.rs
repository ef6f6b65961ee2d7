//! What must hold after any placement, asked of the objects themselves in the most naive way.
//!
//! A failing seed is printed and becomes a named test.

use super::World;
use crate::{Decision, place};
use objects::{Key, Value, ValueExt, registry};
use std::collections::BTreeMap;
use stdx::Rng;

const HOST: &str = "kubernetes.io/hostname";
const APPS: [&str; 3] = ["red", "green", "blue"];

fn pick<'a>(rng: &mut Rng, of: &[&'a str]) -> &'a str {
    of[rng.below(of.len() as u64) as usize]
}

fn term(key: &str, app: &str) -> String {
    format!(r#"{{"topologyKey": "{key}", "labelSelector": {{"matchLabels": {{"app": "{app}"}}}}}}"#)
}

/// A handful of nodes in two zones and more pods than fit, with every kind of wish.
fn fixture(rng: &mut Rng) -> String {
    let mut lines = Vec::new();
    for i in 0..2 + rng.below(4) {
        let taint = if rng.chance(1, 4) { "taint=k:NoSchedule" } else { "" };
        let zone = if rng.chance(4, 5) { format!("zone={}", rng.below(2)) } else { String::new() };
        lines.push(format!("node n{i} cpu={} pods={} {zone} {taint}", 1 + rng.below(3), 3 + rng.below(6)));
    }
    for i in 0..20 {
        let (app, other, key) = (pick(rng, &APPS), pick(rng, &APPS), pick(rng, &[HOST, "zone"]));
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        let wish = match rng.below(7) {
            0 => format!(r#"{{"affinity": {{"podAntiAffinity": {{"{required}": [{}]}}}}}}"#, term(key, other)),
            1 => format!(r#"{{"affinity": {{"podAffinity": {{"{required}": [{}]}}}}}}"#, term(key, app)),
            2 => r#"{"tolerations": [{"operator": "Exists"}]}"#.to_string(),
            3 => r#"{"nodeSelector": {"zone": "1"}}"#.to_string(),
            4 => format!(
                r#"{{"topologySpreadConstraints": [{{"maxSkew": {}, "topologyKey": "{key}",
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {{"matchLabels": {{"app": "{app}"}}}}}}]}}"#,
                1 + rng.below(2)
            )
            .replace('\n', " "),
            _ => "{}".to_string(),
        };
        let port = if rng.chance(1, 5) { "port=80" } else { "" };
        let (cpu, priority) = (100 * rng.below(8), rng.below(3));
        lines.push(format!("pod p{i:02} app={app} cpu={cpu}m priority={priority} {port} :: {wish}"));
    }
    lines.join("\n")
}

/// The pods of the world with the nodes they were given, in the order in which they were placed.
fn placed(world: &World, decisions: &[Decision]) -> Vec<(Value, Value)> {
    let view = world.view();
    let get = |kind, namespace: &str, name: &str| view.get(&Key::new(kind, namespace, name)).unwrap().value();
    let bound = decisions.iter().filter_map(|decision| match decision {
        Decision::Bind { pod, node } => Some((get(registry::POD, "default", &pod.name), get(registry::NODE, "", node))),
        Decision::Unschedulable { .. } | Decision::Gated { .. } => None,
    });
    bound.collect()
}

fn milli(value: &Value, path: &str) -> i64 {
    objects::Quantity::parse(value.text(path)).map_or(0, objects::Quantity::milli)
}

fn required<'a>(pod: &'a Value, family: &str) -> &'a [Value] {
    pod.at("spec.affinity").at(family).items("requiredDuringSchedulingIgnoredDuringExecution")
}

fn is_about(term: &Value, pod: &Value) -> bool {
    term.at("labelSelector.matchLabels").get("app") == pod.at("metadata.labels").get("app")
}

fn same_domain<'a>(term: &Value, a: &'a Value, b: &'a Value) -> bool {
    let domain = |node: &'a Value| node.label(term.text("topologyKey"));
    domain(a).is_some() && domain(a) == domain(b)
}

/// Checks one pod against those placed before it.
fn check_pod(pod: &Value, node: &Value, before: &[(Value, Value)]) {
    if node.at("spec.unschedulable") == true || !node.items("spec.taints").is_empty() {
        assert!(!pod.items("spec.tolerations").is_empty(), "a taint that is not tolerated");
    }
    for (key, value) in pod.at("spec.nodeSelector").as_object().into_iter().flatten() {
        assert_eq!(node.label(key), value.as_str(), "the node selector");
    }
    for (other, place) in before {
        let apart = |a: &Value, b: &Value| {
            required(a, "podAntiAffinity").iter().any(|t| is_about(t, b) && same_domain(t, node, place))
        };
        assert!(!apart(pod, other) && !apart(other, pod), "anti-affinity, either way");
    }
    for term in required(pod, "podAffinity") {
        let near = |(other, place): &(Value, Value)| is_about(term, other) && same_domain(term, node, place);
        let anywhere =
            |(other, place): &(Value, Value)| is_about(term, other) && place.label(term.text("topologyKey")).is_some();
        let starts = is_about(term, pod) && !before.iter().any(anywhere);
        assert!(before.iter().any(near) || (starts && node.label(term.text("topologyKey")).is_some()), "affinity");
    }
}

/// After the pod has come, its domain holds at most maxSkew more than any other within reach.
fn check_spread(world: &World, pod: &Value, node: &Value, upto: &[(Value, Value)]) {
    for constraint in pod.items("spec.topologySpreadConstraints") {
        let key = constraint.text("topologyKey");
        let mut counts: BTreeMap<String, i64> = BTreeMap::new();
        for record in world.view().list(registry::NODE, "", None) {
            counts.extend(record.value().label(key).map(|domain| (domain.to_string(), 0)));
        }
        for (other, place) in upto.iter().filter(|(other, _)| is_about(constraint, other)) {
            if let Some(n) = place.label(key).and_then(|domain| counts.get_mut(domain)) {
                *n += i64::from(!other.is_null());
            }
        }
        let here = counts[node.label(key).expect("the label is there")];
        let least = counts.values().min().copied().unwrap();
        assert!(here - least <= constraint.at("maxSkew").as_i64().unwrap(), "spread: {counts:?}");
    }
}

fn check_nodes(placed: &[(Value, Value)]) {
    let mut by_node: BTreeMap<&str, Vec<&(Value, Value)>> = BTreeMap::new();
    for pair in placed {
        by_node.entry(pair.1.text("metadata.name")).or_default().push(pair);
    }
    for (name, pods) in by_node {
        let node = &pods[0].1;
        let cpu: i64 =
            pods.iter().map(|(pod, _)| milli(&pod.items("spec.containers")[0], "resources.requests.cpu")).sum();
        assert!(cpu <= milli(node, "status.allocatable.cpu"), "{name} has too little CPU");
        assert!(pods.len() as i64 * 1000 <= milli(node, "status.allocatable.pods"), "{name} has too many pods");
        let ports = pods.iter().filter(|(pod, _)| !pod.items("spec.containers")[0].items("ports").is_empty());
        assert!(ports.count() <= 1, "{name} has one port 80");
    }
}

#[test]
fn whatever_is_placed_keeps_every_rule() {
    let mut n_bound = 0;
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let fixture = fixture(&mut rng);
        let world = World::of(&fixture);
        let decisions = place(&mut world.model(), usize::MAX);
        let placed = placed(&world, &decisions);
        let checked = std::panic::catch_unwind(|| {
            for (i, (pod, node)) in placed.iter().enumerate() {
                check_pod(pod, node, &placed[..i]);
                check_spread(&world, pod, node, &placed[..=i]);
            }
            check_nodes(&placed);
        });
        assert!(checked.is_ok(), "seed {seed}:\n{fixture}\n{}", super::told(decisions));
        n_bound += placed.len();
    }
    // The worlds are neither empty nor so roomy that nothing is ever refused.
    assert!((1_500..5_000).contains(&n_bound), "{n_bound} of 6000 bound");
}

#[test]
fn the_same_world_gives_the_same_placement() {
    for seed in 0..20 {
        let world = World::of(&fixture(&mut Rng::new(seed)));
        let first = place(&mut world.model(), usize::MAX);
        assert_eq!(first, place(&mut world.model(), usize::MAX), "seed {seed}");
    }
}
