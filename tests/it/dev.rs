//! `balsa dev` itself: what it says and leaves when members are paused, verbs meet, or the folder is gone.

use crate::cluster::{Cluster, IMAGE, mark, wanted};
use std::time::{Duration, Instant};

fn told(output: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs what must be refused, with this reason.
fn fails(cluster: &Cluster, arguments: &[&str], why: &str) {
    let output = cluster.run(arguments);
    let text = told(&output);
    assert!(!output.status.success() && text.contains(why), "{arguments:?} is not refused with {why:?}: {text}");
}

#[test]
fn members_that_are_paused_or_down_are_told_and_brought_back() {
    if !wanted("members_that_are_paused_or_down_are_told_and_brought_back") {
        return;
    }
    let cluster = Cluster::up();
    cluster.dev(&["pause", "worker-1"]);
    assert_eq!(cluster.dev(&["start", "worker-1"]), "worker-1 was paused: resumed\n");
    assert_eq!(cluster.dev(&["start", "worker-1"]), "worker-1 runs already\n");
    cluster.dev(&["pause", "worker-2"]);
    let started = Instant::now();
    cluster.dev(&["kill", "worker-2", "--signal", "15"]);
    assert!(started.elapsed() < Duration::from_secs(5), "a paused member takes its time to end");
    cluster.dev(&["kill", "worker-3"]);
    cluster.dev(&["pause", "master-3"]);
    let up = cluster.dev(&["up"]);
    assert!(up.contains("master-3 was paused: resumed") && up.contains("3 masters and 3 workers are ready"), "{up}");
    // Ready now, not when they were last heard of before they died.
    let status = cluster.json(&["dev", "status"]);
    assert!(status["processes"].as_object().unwrap().values().all(|process| process == "running"), "{status}");
    let nodes = cluster.json(&["get", "nodes"]);
    for node in nodes["items"].as_array().unwrap() {
        let name = node["metadata"]["name"].as_str().unwrap();
        let file = cluster.dir.join(format!("nodes/{name}/data/boot-id"));
        let boot_id = node["metadata"]["annotations"]["balsa.dev/boot-id"].as_str().unwrap();
        assert_eq!(boot_id, std::fs::read_to_string(file).unwrap(), "{name}");
    }
    if cluster.mode() == "namespaces" {
        cluster.dev(&["cut", "worker-1"]);
        fails(&cluster, &["dev", "up"], "worker-1 is not ready: it is cut off; `balsa dev heal` ends that");
        cluster.dev(&["heal"]);
        cluster.dev(&["up"]);
    }
    let folder = std::fs::File::open(&cluster.dir).unwrap();
    folder.lock().unwrap();
    fails(&cluster, &["dev", "up"], "another `balsa dev` is at work on the cluster in");
    fails(&cluster, &["dev", "down"], "another `balsa dev` is at work on the cluster in");
    drop(folder);
    fails(&cluster, &["apply", "-f", "/dev/null"], "no objects passed to apply");
    if cluster.runtime() == "containerd" {
        let made = cluster.dev(&["image", "busybox", "/bin/busybox"]);
        assert!(made.contains("docker.io/library/busybox:latest is on worker-1"), "{made}");
        fails(&cluster, &["dev", "image", "Busybox", "/bin/busybox"], "lower-case");
    }
}

#[test]
fn what_a_removed_folder_leaves_is_found_by_its_name() {
    if !wanted("what_a_removed_folder_leaves_is_found_by_its_name") {
        return;
    }
    let cluster = Cluster::up_with(&["--masters", "1", "--workers", "1"]);
    let pod = format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "left"}}, "spec": {{"containers": [
            {{"name": "c", "image": "{IMAGE}", "command": ["sleep", "{}"]}}]}}}}"#,
        mark()
    );
    assert!(cluster.apply(&pod));
    cluster.wait("the pod", Duration::from_secs(30), || cluster.running().len() == 1);
    std::fs::remove_dir_all(&cluster.dir).unwrap();
    assert!(!cluster.processes().is_empty(), "members outlive their folder");
    let down = cluster.dev(&["down"]);
    assert!(down.contains("removed what ran of it"), "{down}");
    assert_eq!(cluster.processes(), Vec::<String>::new());
    cluster.left_nothing();
    let again = cluster.dev(&["down"]);
    assert!(again.contains("there is no cluster in"), "{again}");
}
