//! Workers, containers and their runtime die or are cut off; pods heal.

use crate::cluster::{Cluster, IMAGE, deployment, mark, processes, wanted};
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a pod may take to run on a loaded machine; nothing here waits this long when it works.
const PATIENCE: Duration = Duration::from_secs(40);

/// A pod of one container; `extra` is JSON of the container, with a comma before it.
fn pod(cluster: &Cluster, name: &str, command: &str, extra: &str) {
    let manifest = format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}"}}, "spec": {{
            "terminationGracePeriodSeconds": 1, "containers": [{{"name": "c", "image": "{IMAGE}",
            "command": ["sh", "-c", {}]{extra}}}]}}}}"#,
        Value::from(command)
    );
    assert!(cluster.apply(&manifest), "pod {name} is not taken");
}

fn get(cluster: &Cluster, name: &str) -> Value {
    cluster.json(&["get", "pod", name])
}

fn restarts(pod: &Value) -> u64 {
    pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or(0)
}

fn is_ready(pod: &Value) -> bool {
    pod["status"]["containerStatuses"][0]["ready"] == true
}

/// (pod uid, node, container id, restarts): what must not change when pods are not touched.
fn fingerprints(cluster: &Cluster) -> Vec<String> {
    let pods = cluster.json(&["get", "pods"]);
    let of = |pod: &Value| {
        let status = &pod["status"]["containerStatuses"][0];
        format!(
            "{} {} {} {}",
            pod["metadata"]["uid"], pod["spec"]["nodeName"], status["containerID"], status["restartCount"]
        )
    };
    let mut all: Vec<String> = pods["items"].as_array().into_iter().flatten().map(of).collect();
    all.sort();
    all
}

fn kill(pid: &str) {
    assert!(Command::new("kill").args(["-9", pid]).status().unwrap().success(), "kill -9 {pid}");
}

fn three_pods() -> Cluster {
    let cluster = Cluster::up();
    assert!(cluster.apply(&deployment("web", 3, "")));
    cluster.wait("three pods", PATIENCE, || cluster.running().len() == 3);
    cluster
}

fn on(cluster: &Cluster, node: &str) -> usize {
    cluster.running().into_iter().filter(|(_, of, _)| of == node).count()
}

#[test]
fn a_dead_worker_is_replaced_and_stops_what_moved_when_it_is_back() {
    if !wanted("a_dead_worker_is_replaced_and_stops_what_moved_when_it_is_back") {
        return;
    }
    let cluster = three_pods();
    assert!(on(&cluster, "worker-1") > 0, "the scheduler spreads over idle nodes");
    let killed = Instant::now();
    cluster.dev(&["kill", "worker-1"]);
    cluster.wait("replacements elsewhere", PATIENCE, || cluster.running().len() == 3 && on(&cluster, "worker-1") == 0);
    println!("a dead worker's pods run elsewhere after {:.1} s", killed.elapsed().as_secs_f64());
    cluster.dev(&["start", "worker-1"]);
    cluster.wait("the old pods to be gone", PATIENCE, || {
        cluster.json(&["get", "pods"])["items"].as_array().is_some_and(|pods| pods.len() == 3)
    });
    cluster.wait_for_processes(3, "the old containers were to be gone");
}

#[test]
fn a_worker_that_is_cut_off_is_replaced_and_stops_what_moved_before_it_reports() {
    if !wanted("a_worker_that_is_cut_off_is_replaced_and_stops_what_moved_before_it_reports") {
        return;
    }
    let cluster = three_pods();
    let cut = cluster.run(&["dev", "cut", "worker-2"]);
    if cluster.mode() == "loopback" {
        let told = String::from_utf8_lossy(&cut.stderr).into_owned();
        assert!(!cut.status.success() && told.contains("cannot be cut"), "{told}");
        return;
    }
    let started = Instant::now();
    cluster.wait("replacements elsewhere", PATIENCE, || cluster.running().len() == 3 && on(&cluster, "worker-2") == 0);
    println!("a cut-off worker's pods run elsewhere after {:.1} s", started.elapsed().as_secs_f64());
    // What runs behind the cut goes on: nobody can tell it to stop. (A started container is its command
    // only a moment after the runtime says so.)
    cluster.wait_for_processes(4, "a worker was cut off");
    cluster.dev(&["heal"]);
    cluster.wait_for_processes(3, "the moved pod was to be stopped");
    cluster.wait("its object to be gone", PATIENCE, || {
        cluster.json(&["get", "pods"])["items"].as_array().is_some_and(|pods| pods.len() == 3)
    });
    assert_eq!(on(&cluster, "worker-2"), 0, "what moved stays where it moved to");
    let nodes = || cluster.json(&["get", "node", "worker-2"])["status"]["conditions"].clone();
    let is_ready = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
    cluster.wait("the worker to be ready again", PATIENCE, || nodes().as_array().unwrap().iter().any(is_ready));
}

#[test]
fn the_death_of_worker_runtime_and_all_masters_touches_no_pod() {
    if !wanted("the_death_of_worker_runtime_and_all_masters_touches_no_pod") {
        return;
    }
    let cluster = three_pods();
    let before = fingerprints(&cluster);
    for i in 1..=3 {
        cluster.dev(&["kill", &format!("worker-{i}")]);
        cluster.dev(&["start", &format!("worker-{i}")]);
    }
    let nodes_ready = || {
        let nodes = cluster.json(&["get", "nodes"]);
        let ready = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
        let all = nodes["items"].as_array().cloned().unwrap_or_default();
        all.iter().all(|node| node["status"]["conditions"].as_array().unwrap().iter().any(ready))
    };
    cluster.wait("the workers", PATIENCE, || nodes_ready() && fingerprints(&cluster) == before);
    if cluster.runtime() == "containerd" {
        let daemons = cluster.containerds();
        assert_eq!(daemons.len(), 3);
        daemons.iter().for_each(|pid| kill(pid));
        cluster.wait("containerd to be started again", PATIENCE, || {
            let now = cluster.containerds();
            now.len() == 3 && now.iter().all(|pid| !daemons.contains(pid))
        });
        cluster.wait("the workers", PATIENCE, || nodes_ready() && fingerprints(&cluster) == before);
    }
    // Its Node is deleted while the worker lives: it is registered anew.
    let uid = || cluster.json(&["get", "node", "worker-1"])["metadata"]["uid"].clone();
    let deleted = uid();
    cluster.ok(&["delete", "node", "worker-1"]);
    cluster.wait("the Node to be back", PATIENCE, || {
        let listed = cluster.json(&["get", "nodes"])["items"].as_array().map_or(0, Vec::len);
        listed == 3 && uid() != deleted && nodes_ready()
    });
    cluster.wait("its pods", PATIENCE, || cluster.running().len() == 3);
    let before = fingerprints(&cluster);
    (1..=3).for_each(|i| drop(cluster.dev(&["kill", &format!("master-{i}")])));
    // Longer than a master is waited for, longer than a dead node is tolerated.
    std::thread::sleep(Duration::from_secs(10));
    (1..=3).for_each(|i| drop(cluster.dev(&["start", &format!("master-{i}")])));
    cluster.wait("the masters", PATIENCE, || !cluster.leader().is_empty());
    cluster.wait("the workers", PATIENCE, nodes_ready);
    assert_eq!(fingerprints(&cluster), before, "pods go on untouched");
}

#[test]
fn a_killed_container_restarts_and_is_counted() {
    if !wanted("a_killed_container_restarts_and_is_counted") {
        return;
    }
    let cluster = Cluster::up();
    pod(&cluster, "victim", &format!("echo started; exec sleep {}", mark()), "");
    cluster.wait("the pod", PATIENCE, || is_ready(&get(&cluster, "victim")));
    let output = cluster.run(&["exec", "victim", "--", "sh", "-c", "echo out; exit 7"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(7), b"out\n".as_slice()));
    for n in 1..=2 {
        processes(&["sleep", &mark()]).iter().for_each(|pid| kill(pid));
        cluster.wait("the restart", Duration::from_secs(60), || {
            let pod = get(&cluster, "victim");
            restarts(&pod) == n && is_ready(&pod)
        });
        let last = get(&cluster, "victim")["status"]["containerStatuses"][0]["lastState"]["terminated"].clone();
        assert_eq!(last["exitCode"], 137, "{last}");
    }
    assert!(cluster.ok(&["logs", "victim", "--previous"]).contains("started"));
    assert!(cluster.ok(&["describe", "pod", "victim"]).contains("Started"));
}

#[test]
fn failing_probes_restart_and_show() {
    if !wanted("failing_probes_restart_and_show") {
        return;
    }
    let cluster = Cluster::up();
    let probe = |kind: &str, command: &str| {
        format!(
            r#", "{kind}": {{"exec": {{"command": ["sh", "-c", "{command}"]}}, "periodSeconds": 1, "failureThreshold": 2}}"#
        )
    };
    pod(&cluster, "live", "sleep 27182", &probe("livenessProbe", "exit 1"));
    pod(&cluster, "unready", "sleep 27183", &probe("readinessProbe", "exit 1"));
    let tcp = r#", "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}"#;
    if cluster.runtime() == "containerd" {
        // A pod's port is its own: no other process of this machine has it.
        pod(&cluster, "http", "echo hi > /tmp/index.html; httpd -f -p 8080 -h /tmp", tcp);
        cluster.wait("the port to answer", PATIENCE, || is_ready(&get(&cluster, "http")));
    }
    cluster.wait("the restart", Duration::from_secs(60), || restarts(&get(&cluster, "live")) >= 1);
    let events = cluster.ok(&["describe", "pod", "live"]);
    assert!(
        events.contains("Liveness probe failed") && events.contains("failed liveness probe, will be restarted"),
        "{events}"
    );
    let unready = get(&cluster, "unready");
    assert!(!is_ready(&unready) && restarts(&unready) == 0 && unready["status"]["phase"] == "Running", "{unready}");
    let conditions = unready["status"]["conditions"].to_string();
    assert!(conditions.contains("containers with unready status: [c]"), "{conditions}");
}

#[test]
fn pods_have_their_own_network_files_and_limits() {
    if !wanted("pods_have_their_own_network_files_and_limits") {
        return;
    }
    let cluster = Cluster::up();
    if cluster.runtime() != "containerd" {
        return testkit::skip("pods_have_their_own_network_files_and_limits", "needs the containerd runtime");
    }
    assert!(cluster.apply(
        r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"mode": "fast"}}"#
    ));
    assert!(cluster.apply(
        r#"{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key"}, "stringData": {"token": "s3cret"}}"#
    ));
    let manifest = |name: &str, node: &str| {
        format!(
            r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}", "labels": {{"app": "net"}}}}, "spec": {{
            "nodeName": "{node}", "terminationGracePeriodSeconds": 1,
            "volumes": [{{"name": "settings", "configMap": {{"name": "settings"}}}}, {{"name": "key", "secret": {{"secretName": "key"}}}},
                {{"name": "scratch", "emptyDir": {{}}}}],
            "initContainers": [{{"name": "first", "image": "{IMAGE}", "command": ["sh", "-c", "echo made > /scratch/by-init"],
                "volumeMounts": [{{"name": "scratch", "mountPath": "/scratch"}}]}}],
            "containers": [
              {{"name": "server", "image": "{IMAGE}", "command": ["httpd", "-f", "-p", "80", "-h", "/scratch"],
                "ports": [{{"containerPort": 80, "hostPort": 8080}}],
                "env": [{{"name": "MODE", "valueFrom": {{"configMapKeyRef": {{"name": "settings", "key": "mode"}}}}}},
                    {{"name": "NODE", "valueFrom": {{"fieldRef": {{"fieldPath": "spec.nodeName"}}}}}}],
                "resources": {{"limits": {{"memory": "32Mi", "cpu": "200m"}}}},
                "volumeMounts": [{{"name": "settings", "mountPath": "/settings"}}, {{"name": "key", "mountPath": "/key", "readOnly": true}},
                    {{"name": "scratch", "mountPath": "/scratch"}}]}},
              {{"name": "side", "image": "{IMAGE}", "command": ["sleep", "100000"]}}]}}}}"#
        )
    };
    let nodes = ["worker-1", "worker-2", "worker-3"];
    let names = ["net-1", "net-2", "net-3"];
    names.iter().zip(nodes).for_each(|(name, node)| assert!(cluster.apply(&manifest(name, node))));
    let both_ready = |pod: &Value| {
        let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        statuses.len() == 2 && statuses.iter().all(|status| status["ready"] == true)
    };
    cluster.wait("the pods", PATIENCE, || names.iter().all(|name| both_ready(&get(&cluster, name))));
    let inside = |script: &str| cluster.ok(&["exec", "net-1", "-c", "server", "--", "sh", "-c", script]);
    assert_eq!(inside("echo $MODE $NODE; cat /settings/mode /key/token; hostname"), "fast worker-1\nfasts3cretnet-1\n");
    assert_eq!(inside("cat /scratch/by-init; echo mine > /scratch/x && cat /scratch/x"), "made\nmine\n");
    assert!(
        cluster.run(&["exec", "net-1", "-c", "server", "--", "sh", "-c", "echo x > /key/token"]).status.code()
            != Some(0)
    );
    for name in names {
        let ip = get(&cluster, name)["status"]["podIP"].as_str().unwrap().to_string();
        assert_eq!(inside(&format!("wget -q -O - http://{ip}/by-init")), "made\n", "net-1 reaches {name}");
    }
    // A port of the node leads to its pod, from other hosts too.
    let host = get(&cluster, "net-2")["status"]["hostIP"].as_str().unwrap().to_string();
    assert_eq!(inside(&format!("wget -q -O - http://{host}:8080/by-init")), "made\n");
    // More memory than its limit: killed, told so, started again.
    pod(&cluster, "hungry", "sleep 2; tail /dev/zero", r#", "resources": {"limits": {"memory": "24Mi"}}"#);
    cluster.wait("the kill", PATIENCE, || {
        let status = get(&cluster, "hungry")["status"]["containerStatuses"][0].clone();
        status["lastState"]["terminated"]["reason"] == "OOMKilled"
            || status["state"]["terminated"]["reason"] == "OOMKilled"
    });
    // An image that is nowhere: told, and tried again later.
    assert!(cluster.apply(
        r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "nowhere"}, "spec": {"containers": [
            {"name": "c", "image": "registry.local/nowhere:1", "imagePullPolicy": "Never"}]}}"#
    ));
    cluster.wait("the reason", PATIENCE, || {
        get(&cluster, "nowhere")["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ErrImageNeverPull"
    });
}
