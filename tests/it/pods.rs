//! What a worker makes of pods, on one cluster: admission, volumes, last words, images.

use crate::cluster::{Cluster, IMAGE, wanted};
use serde_json::{Value, json};
use std::time::Duration;

/// How long a pod may take to run on a loaded machine; nothing here waits this long when it works.
const PATIENCE: Duration = Duration::from_secs(40);

/// Makes a pod that is bound to worker-1 already; `spec` adds to, or replaces, what it would be.
fn make(cluster: &Cluster, name: &str, spec: Value) {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "nodeName": "worker-1", "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": IMAGE, "command": ["sleep", "100000"]}]}});
    for (field, value) in spec.as_object().expect("a spec is an object") {
        pod["spec"][field] = value.clone();
    }
    assert!(cluster.apply(&pod.to_string()), "pod {name} is not taken");
}

fn status(cluster: &Cluster, name: &str) -> Value {
    cluster.json(&["get", "pod", name])["status"].clone()
}

fn wait_ready(cluster: &Cluster, name: &str) {
    cluster.wait(name, PATIENCE, || status(cluster, name)["containerStatuses"][0]["ready"] == true);
}

fn what_does_not_fit_is_refused(cluster: &Cluster) {
    let with = |extra: Value| {
        let mut container = json!({"name": "c", "image": IMAGE, "command": ["sleep", "100000"]});
        for (field, value) in extra.as_object().expect("a container is an object") {
            container[field] = value.clone();
        }
        json!({"containers": [container]})
    };
    let port = || with(json!({"ports": [{"containerPort": 80, "hostPort": 8081}]}));
    make(cluster, "first", port());
    wait_ready(cluster, "first");
    make(cluster, "greedy", with(json!({"resources": {"requests": {"cpu": "1000"}}})));
    make(cluster, "huge", with(json!({"resources": {"requests": {"memory": "100Ti"}}})));
    make(cluster, "second", port());
    make(cluster, "elsewhere", json!({"nodeSelector": {"no": "such"}}));
    for (name, reason) in
        [("greedy", "OutOfcpu"), ("huge", "OutOfmemory"), ("second", "NodePorts"), ("elsewhere", "NodeAffinity")]
    {
        cluster.wait(name, PATIENCE, || status(cluster, name)["phase"] == "Failed");
        let status = status(cluster, name);
        assert_eq!(status["reason"], reason, "{status}");
        assert!(cluster.ok(&["get", "pods"]).contains(reason));
        cluster.ok(&["delete", "pod", name]);
    }
    // A label that was put on the node from outside counts.
    let label = |labels: Value| {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "worker-1", "labels": labels}});
        assert!(cluster.apply(&node.to_string()));
    };
    label(json!({"such": "label"}));
    make(cluster, "labelled", json!({"nodeSelector": {"such": "label"}}));
    wait_ready(cluster, "labelled");
    // Who is in stays in, whatever the node is by then.
    label(json!({}));
    let ids = || ["first", "labelled"].map(|name| status(cluster, name)["containerStatuses"][0]["containerID"].clone());
    let before = ids();
    cluster.dev(&["kill", "worker-1"]);
    cluster.dev(&["start", "worker-1"]);
    make(cluster, "later", json!({}));
    wait_ready(cluster, "later");
    assert_eq!(ids(), before);
    for name in ["first", "labelled"] {
        assert_eq!(status(cluster, name)["phase"], "Running");
    }
}

/// What a command in a pod's container prints.
fn inside(cluster: &Cluster, pod: &str, script: &str) -> String {
    cluster.ok(&["exec", pod, "--", "sh", "-c", script])
}

/// The mounts of this machine below the cluster's volumes.
fn mounted_volumes(cluster: &Cluster) -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
    let ours = |line: &&str| line.contains(&format!("{}/", cluster.dir.display())) && line.contains("/volumes/");
    mounts.lines().filter(ours).map(ToString::to_string).collect()
}

fn apply_map(cluster: &Cluster, data: Value) {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data});
    assert!(cluster.apply(&map.to_string()));
}

fn volumes_have_their_modes_owners_and_limits(cluster: &Cluster) {
    apply_map(cluster, json!({"a": "1", "b": "2"}));
    assert!(cluster.apply(
        &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"token": "s3cret"}})
            .to_string()
    ));
    let mount = |name: &str| json!({"name": name, "mountPath": format!("/{name}")});
    let container = |script: &str, names: &[&str]| {
        json!([{"name": "c", "image": IMAGE, "command": ["sh", "-c", script],
            "volumeMounts": names.iter().map(|name| mount(name)).collect::<Vec<_>>()}])
    };
    let items = json!([{"key": "a", "path": "x/a", "mode": 0o400}, {"key": "b", "path": "b"}]);
    make(
        cluster,
        "vols",
        json!({
        "securityContext": {"fsGroup": 4321, "runAsUser": 1000},
        "volumes": [
            {"name": "map", "configMap": {"name": "m", "defaultMode": 0o600, "items": items}},
            {"name": "key", "secret": {"secretName": "s", "defaultMode": 0o400}},
            {"name": "none", "secret": {"secretName": "absent", "optional": true}},
            {"name": "disk", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
        "containers": container(
            "rm -f /disk/die; while [ ! -e /disk/die ]; do sleep 0.1; done",
            &["map", "key", "none", "disk", "memory"])}),
    );
    wait_ready(cluster, "vols");
    let told = inside(cluster, "vols", "stat -L -c '%a %g %n' /map/x /map/x/a /map/b /key/token /disk /memory");
    assert_eq!(
        told,
        "2755 4321 /map/x\n440 4321 /map/x/a\n640 4321 /map/b\n440 4321 /key/token\n2777 4321 /disk\n2777 4321 /memory\n"
    );
    assert_eq!(inside(cluster, "vols", "cat /key/token; ls /none; stat -f -c %T /key /memory"), "s3crettmpfs\ntmpfs\n");
    assert_eq!(inside(cluster, "vols", "echo x > /disk/x && stat -c %g /disk/x"), "4321\n");
    let full = inside(cluster, "vols", "dd if=/dev/zero of=/memory/f bs=1M count=2 2>/dev/null || echo full");
    assert_eq!(full, "full\n");
    assert_eq!(mounted_volumes(cluster).len(), 3, "{:?}", mounted_volumes(cluster));
    // What they are made from changes: they follow, as a whole.
    apply_map(cluster, json!({"a": "3", "b": "4"}));
    cluster.wait("the volume to follow", PATIENCE, || inside(cluster, "vols", "cat /map/x/a /map/b") == "34");
    assert_eq!(inside(cluster, "vols", "readlink /map/b; ls -A /map | grep -c ^[.][.]20"), "..data/b\n1\n");
    // The next worker finds them, and mounts nothing twice.
    cluster.dev(&["kill", "worker-1"]);
    cluster.dev(&["start", "worker-1"]);
    cluster
        .wait("the worker", PATIENCE, || cluster.run(&["exec", "vols", "--", "touch", "/disk/die"]).status.success());
    cluster.wait("a restart", PATIENCE, || status(cluster, "vols")["containerStatuses"][0]["restartCount"] == 1);
    wait_ready(cluster, "vols");
    assert_eq!(mounted_volumes(cluster).len(), 3, "{:?}", mounted_volumes(cluster));
    assert_eq!(inside(cluster, "vols", "cat /disk/x /key/token"), "x\ns3cret");
    // Too much on the disk: evicted, and its volumes are gone.
    make(
        cluster,
        "greedy",
        json!({
        "volumes": [{"name": "disk", "emptyDir": {"sizeLimit": "1Mi"}}],
        "containers": container("dd if=/dev/zero of=/disk/f bs=1M count=3; sleep 100000", &["disk"])}),
    );
    cluster.wait("the eviction", PATIENCE, || status(cluster, "greedy")["reason"] == "Evicted");
    let message = status(cluster, "greedy")["message"].clone();
    assert_eq!(message, "Usage of EmptyDir volume \"disk\" exceeds the limit \"1Mi\". ");
    for name in ["vols", "greedy"] {
        cluster.ok(&["delete", "pod", name]);
    }
    cluster.wait("the mounts to be gone", PATIENCE, || mounted_volumes(cluster).is_empty());
}

fn last_words_are_told(cluster: &Cluster) {
    let ends = |script: &str, policy: &str| {
        json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": IMAGE, "command": ["sh", "-c", script],
            "terminationMessagePolicy": policy}]})
    };
    make(cluster, "says", ends("echo -n the disk > /dev/termination-log; exit 3", "File"));
    make(cluster, "logs", ends("echo from the log; exit 3", "FallbackToLogsOnError"));
    for (name, message) in [("says", "the disk"), ("logs", "from the log\n")] {
        cluster.wait(name, PATIENCE, || status(cluster, name)["phase"] == "Failed");
        let ended = status(cluster, name)["containerStatuses"][0]["state"]["terminated"].clone();
        assert_eq!((&ended["message"], &ended["exitCode"]), (&json!(message), &json!(3)), "{ended}");
        cluster.ok(&["delete", "pod", name]);
    }
}

fn hooks_run_and_are_told_when_they_fail(cluster: &Cluster) {
    let dir = cluster.dir.join("hooks");
    let said = || std::fs::read_to_string(dir.join("said")).unwrap_or_default();
    let hook = |script: &str| json!({"exec": {"command": ["sh", "-c", script]}});
    let with = |lifecycle: Value| {
        let script = "trap 'echo term >> /h/said; exit 0' TERM; while :; do sleep 0.1; done";
        json!({"terminationGracePeriodSeconds": 20,
            "volumes": [{"name": "h", "hostPath": {"path": dir, "type": "DirectoryOrCreate"}}],
            "containers": [{"name": "c", "image": IMAGE, "command": ["sh", "-c", script], "lifecycle": lifecycle,
                "volumeMounts": [{"name": "h", "mountPath": "/h"}]}]})
    };
    let (start, stop) = (hook("echo start >> /h/said"), hook("sleep 1; echo stop >> /h/said"));
    make(cluster, "hooked", with(json!({"postStart": start, "preStop": stop})));
    wait_ready(cluster, "hooked");
    assert_eq!(said(), "start\n");
    cluster.ok(&["delete", "pod", "hooked"]);
    cluster.wait("the container to end", PATIENCE, || said() == "start\nstop\nterm\n");
    make(cluster, "unhooked", with(json!({"postStart": hook("exit 7"), "preStop": hook("exit 8")})));
    cluster.wait("both failures to be told", PATIENCE, || {
        let told = cluster.ok(&["get", "events"]);
        told.contains("FailedPostStartHook") && told.contains("FailedPreStopHook")
    });
    cluster.ok(&["delete", "pod", "unhooked"]);
}

fn images_are_named_by_digest_and_what_is_none_is_told(cluster: &Cluster) {
    let pod = |image: &str, policy: &str| {
        json!({"containers": [{"name": "c", "image": image, "imagePullPolicy": policy,
        "command": ["sleep", "100000"]}]})
    };
    let id = status(cluster, "first")["containerStatuses"][0]["imageID"].clone();
    assert!(id.as_str().is_some_and(|id| id.contains("sha256:")), "{id}");
    make(cluster, "unnamed", pod("registry.local/UPPER:1", "IfNotPresent"));
    make(cluster, "never", pod("registry.local/nowhere:1", "Never"));
    for (name, reason) in [("unnamed", "InvalidImageName"), ("never", "ErrImageNeverPull")] {
        cluster.wait(name, PATIENCE, || {
            status(cluster, name)["containerStatuses"][0]["state"]["waiting"]["reason"] == reason
        });
    }
    // Another image is another chance, at once.
    assert!(cluster.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "unnamed"}, "spec": {
        "nodeName": "worker-1", "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "100000"]}]}})
    .to_string()));
    wait_ready(cluster, "unnamed");
}

#[test]
fn workers_do_with_pods_what_kubelets_do() {
    if !wanted("workers_do_with_pods_what_kubelets_do") {
        return;
    }
    let cluster = Cluster::up_with(&["--masters", "1", "--workers", "1"]);
    what_does_not_fit_is_refused(&cluster);
    if cluster.runtime() != "containerd" {
        return testkit::skip("workers_do_with_pods_what_kubelets_do", "its volumes need the containerd runtime");
    }
    volumes_have_their_modes_owners_and_limits(&cluster);
    last_words_are_told(&cluster);
    hooks_run_and_are_told_when_they_fail(&cluster);
    images_are_named_by_digest_and_what_is_none_is_told(&cluster);
    cluster.dev(&["down"]);
    cluster.left_nothing();
}
