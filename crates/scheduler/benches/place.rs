//! How long placing takes: `cargo bench -p scheduler`. As a test it runs small, so that it cannot rot.

use objects::{Key, Value, ValueExt, json, record, registry};
use scheduler::{Decision, Model};
use state::{LeaderId, Op, State, Txn, View};
use std::time::Instant;

fn add(state: &mut State, kind: objects::KindId, object: &Value) {
    let key = Key::new(kind, object.text("metadata.namespace"), object.text("metadata.name"));
    let op = Op::Create { key, object: record::encode(object) };
    state.apply(LeaderId::default(), &Txn { ops: vec![op], ..Txn::default() });
}

/// Nodes of three zones and pods in ten groups, all with this in their spec.
fn cluster(n_nodes: usize, n_pods: usize, spec: impl Fn(&str) -> Value) -> View {
    let mut state = State::new();
    add(&mut state, registry::NAMESPACE, &json!({"metadata": {"name": "default"}}));
    for i in 0..n_nodes {
        let labels = json!({"kubernetes.io/hostname": format!("n{i}"), "zone": format!("z{}", i % 3)});
        let node = json!({"metadata": {"name": format!("n{i}"), "labels": labels}, "spec": {},
            "status": {"allocatable": {"cpu": "64", "memory": "256Gi", "pods": "250"}}});
        add(&mut state, registry::NODE, &node);
    }
    for i in 0..n_pods {
        let app = format!("a{}", i % (n_pods / 20).max(1));
        let mut pod = json!({"metadata": {"name": format!("p{i}"), "namespace": "default", "labels": {"app": app}},
            "spec": spec(&app), "status": {"phase": "Pending"}});
        pod.set("spec.schedulerName", scheduler::NAME);
        pod.set(
            "spec.containers",
            json!([{"name": "c", "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}]),
        );
        add(&mut state, registry::POD, &pod);
    }
    View::new(state)
}

fn plain(_: &str) -> Value {
    json!({})
}

fn anti_affinity(app: &str) -> Value {
    json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": app}}}]}}})
}

fn preferred(app: &str) -> Value {
    json!({"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100,
        "podAffinityTerm": {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": app}}}}]}}})
}

fn spread(app: &str) -> Value {
    json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": app}}}]})
}

type Case = (&'static str, fn(&str) -> Value);

const CASES: [Case; 4] =
    [("plain", plain), ("anti-affinity", anti_affinity), ("preferred", preferred), ("spread", spread)];

fn main() {
    let full = std::env::args().any(|argument| argument == "--bench");
    let sizes: &[(usize, usize)] = if full { &[(50, 200), (50, 2_000), (500, 5_000)] } else { &[(5, 40)] };
    for (n_nodes, n_pods) in sizes {
        for (name, spec) in CASES {
            let view = cluster(*n_nodes, *n_pods, spec);
            let (mut model, started) = (Model::default(), Instant::now());
            model.sync(&view);
            let synced = started.elapsed();
            let decisions = scheduler::place(&mut model, usize::MAX);
            let took = started.elapsed() - synced;
            let n_bound = decisions.iter().filter(|decision| matches!(decision, Decision::Bind { .. })).count();
            println!("{name:13} {n_nodes:4} nodes: {n_bound:5} of {n_pods} placed in {took:.1?} (sync {synced:.1?})");
            assert!(n_bound > 0 && decisions.len() == *n_pods);
        }
    }
}
