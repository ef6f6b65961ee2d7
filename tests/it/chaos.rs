//! `balsa chaos`: every shipped scenario in short form, refusals before anything starts, interruptions, and
//! reports that are judged again.

use crate::cluster::{Cluster, wanted};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster-configs/chaos").join(name)
}

/// A shipped scenario that lasts as long as this; the faults that come first still come.
fn short(dir: &Path, name: &str, duration: &str) -> PathBuf {
    let text = std::fs::read_to_string(shipped(name)).unwrap();
    let lines = text.lines().map(|line| match line.starts_with("duration: ") {
        true => format!("duration: {duration}"),
        false => line.to_string(),
    });
    let path = dir.join(name);
    std::fs::write(&path, lines.collect::<Vec<_>>().join("\n")).unwrap();
    path
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn chaos(cluster: &Cluster, scenario: &Path, report: &Path) -> Output {
    let (scenario, report) = (scenario.to_string_lossy(), report.to_string_lossy());
    cluster.run(&["chaos", "run", &scenario, "--seed", "7", "--report", &report, "-o", "json"])
}

/// Runs a scenario that must end clean, and returns its report.
fn clean(cluster: &Cluster, dir: &Path, name: &str, duration: &str) -> Value {
    let report = dir.join(format!("{name}.report"));
    let started = Instant::now();
    let output = chaos(cluster, &short(dir, name, duration), &report);
    assert_eq!(output.status.code(), Some(0), "{name}: {}{}", text(&output.stdout), text(&output.stderr));
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let counts = &value["counts"];
    println!("{name}: {} in {:.1} s", counts["faults"], started.elapsed().as_secs_f64());
    assert!(counts["faults"].as_object().is_some_and(|faults| !faults.is_empty()), "{counts}");
    assert!(counts["acknowledged"].as_u64() > Some(50) && counts["shown"].as_u64() > Some(50), "{counts}");
    value
}

/// Whether the last report but for one line would still be clean.
fn is_violated_without(report: &Path, doomed: impl Fn(&Value) -> bool) -> bool {
    let history = report.join("history.jsonl");
    let whole = std::fs::read_to_string(&history).unwrap();
    let last = whole.lines().filter(|line| doomed(&serde_json::from_str(line).unwrap())).nth(20).unwrap().to_string();
    let revision = serde_json::from_str::<Value>(&last).unwrap()["revision"].clone();
    let kept = |line: &&str| {
        let value: Value = serde_json::from_str(line).unwrap();
        !(value["op"] == "shown" && value["revision"] == revision)
    };
    let planted: Vec<&str> = whole.lines().filter(kept).collect();
    std::fs::write(&history, planted.join("\n")).unwrap();
    let output = Command::new(crate::cluster::binary()).args(["chaos", "check"]).arg(report).output().unwrap();
    std::fs::write(&history, whole).unwrap();
    output.status.code() == Some(1) && text(&output.stdout).contains("and is not there")
}

#[test]
fn masters_die_freeze_and_lose_their_disks() {
    if !wanted("masters_die_freeze_and_lose_their_disks") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::up_with(&["--workers", "0", "--runtime", "process", "--master-disk", "512"]);
    let killed = clean(&cluster, dir.path(), "leader-kill.yaml", "4s");
    assert!(killed["counts"]["failovers"].as_u64() > Some(0), "{killed}");
    let report = dir.path().join("leader-kill.yaml.report");
    assert!(is_violated_without(&report, |line| line["op"] == "write" && line["end"] == "applied"));
    let again = Command::new(crate::cluster::binary()).args(["chaos", "check"]).arg(&report).output().unwrap();
    assert_eq!(again.status.code(), Some(0), "{}", text(&again.stdout));
    clean(&cluster, dir.path(), "rolling-kills.yaml", "6s");
    clean(&cluster, dir.path(), "pause-leader.yaml", "4s");
    clean(&cluster, dir.path(), "partition.yaml", "9s");
    let full = clean(&cluster, dir.path(), "disk-full.yaml", "14s");
    assert_eq!(full["counts"]["faults"]["full-disk"], 2, "the leader's and a follower's: {full}");
    clean(&cluster, dir.path(), "power-cut.yaml", "17s");
    let failing = clean(&cluster, dir.path(), "failing-disk.yaml", "9s");
    assert_eq!(failing["counts"]["faults"]["failing-disk"], 2, "the leader's and a follower's: {failing}");
    clean(&cluster, dir.path(), "slow-disk.yaml", "14s");
    clean(&cluster, dir.path(), "clock-skew.yaml", "14s");
    clean(&cluster, dir.path(), "bit-flip.yaml", "8s");
}

#[test]
fn disks_that_are_slow_cost_no_leader() {
    if !wanted("disks_that_are_slow_cost_no_leader") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let group = ["--workers", "0", "--runtime", "process", "--master-disk", "512", "--profile", "slow-disk"];
    clean(&Cluster::up_with(&group), dir.path(), "slow-disks.yaml", "14s");
}

#[test]
fn masters_are_harmed_by_commands_that_do_it() {
    if !wanted("masters_are_harmed_by_commands_that_do_it") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::up_with(&["--workers", "0", "--runtime", "process"]);
    let scenario = short(dir.path(), "leader-kill.yaml", "4s");
    let run = |kill: &str, start: &str, report: &Path| {
        let commands = dir.path().join("commands.yaml");
        std::fs::write(&commands, json!({"kill": kill, "start": start}).to_string()).unwrap();
        let output = Command::new(crate::cluster::binary())
            .args(["chaos", "run"])
            .arg(&scenario)
            .arg("--kubeconfig")
            .arg(cluster.dir.join("kubeconfig"))
            .arg("--commands")
            .arg(commands)
            .args(["--allow-production", "--report"])
            .arg(report)
            .output()
            .unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let dev = |verb: &str| {
        format!("{} dev {verb} {{name}} --dir {}", crate::cluster::binary().display(), cluster.dir.display())
    };
    let (code, told) = run(&dev("kill"), &dev("start"), &dir.path().join("killed"));
    assert_eq!(code, Some(0), "{told}");
    // A command that does nothing succeeds too.
    let (code, told) = run("true", "true", &dir.path().join("spared"));
    assert!(code == Some(2) && told.contains("went on as before for 5 s"), "{code:?} {told}");
    let brief = std::fs::read_to_string(&scenario).unwrap() + "\nlimits: {converges: 3s}\n";
    std::fs::write(&scenario, brief).unwrap();
    let (code, told) = run(&dev("kill"), "true", &dir.path().join("left"));
    assert!(code == Some(2) && told.contains("did not answer for 3 s"), "{code:?} {told}");
    let (code, told) = run(&dev("kill"), &dev("start"), &dir.path().join("after"));
    assert!(code == Some(2) && told.contains("nothing was harmed, as the cluster is not whole"), "{code:?} {told}");
}

#[test]
fn two_of_five_masters_are_gone() {
    if !wanted("two_of_five_masters_are_gone") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::up_with(&["--masters", "5", "--workers", "0", "--runtime", "process"]);
    clean(&cluster, dir.path(), "two-of-five.yaml", "16s");
}

#[test]
fn workers_die_while_pods_are_placed() {
    if !wanted("workers_die_while_pods_are_placed") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::up_with(&["--runtime", "process", "--master-disk", "256"]);
    // Long enough for the leader to be killed too, at 8 s.
    let report = clean(&cluster, dir.path(), "workers.yaml", "11s");
    assert!(report["counts"]["bound"].as_u64() > Some(5), "{report}");
    assert_eq!(report["counts"]["doubleBinds"], 0);
    // Each rule begins with a wait: what comes of ten of them in this time is a few.
    clean(&cluster, dir.path(), "mixed.yaml", "45s");
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_starts() {
    if !wanted("what_cannot_be_done_is_refused_before_anything_starts") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::up_with(&["--masters", "1", "--workers", "0", "--runtime", "process"]);
    let report = dir.path().join("report");
    let refused = |scenario: &str, told: &str| {
        let path = dir.path().join("scenario.yaml");
        std::fs::write(&path, scenario).unwrap();
        let output = chaos(&cluster, &path, &report);
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(2) && error.contains(told), "{error}");
        assert!(!report.exists(), "nothing had begun");
    };
    let one = "name: x\nduration: 5s\ncluster: {masters: 1}\n";
    refused(&format!("{one}faults: [{{fault: power-cut, target: leader, every: 1s, for: 1s}}]"), "--master-disk");
    refused(&format!("{one}faults: [{{fault: kill, target: folower, every: 1s, for: 1s}}]"), "faults[0].target");
    refused(
        &format!("{one}faults: [{{fault: kill, target: master-9, every: 1s, for: 1s}}]"),
        "the members are master-1",
    );
    refused(&format!("{one}faults: [{{fault: kill, target: leader, every: 1m, for: 1s}}]"), "no fault comes within 5s");
    refused(&format!("{one}faults: [{{fault: bit-flip, target: leader, bits: 1, every: 1s, for: 1s}}]"), "3 masters");
    let three = one.replace("masters: 1", "masters: 3");
    refused(&format!("{three}faults: [{{fault: kill, target: leader, every: 1s, for: 1s}}]"), "is for 3 masters");
    let kubeconfig = cluster.dir.join("kubeconfig");
    let commands = dir.path().join("commands.yaml");
    std::fs::write(&commands, "{kill: 'true', start: 'true'}").unwrap();
    let output = Command::new(crate::cluster::binary())
        .args(["chaos", "run"])
        .arg(shipped("leader-kill.yaml"))
        .args(["--kubeconfig"])
        .arg(kubeconfig)
        .args(["--commands"])
        .arg(commands)
        .args(["--report"])
        .arg(&report)
        .output()
        .unwrap();
    assert!(text(&output.stderr).contains("--allow-production"), "{}", text(&output.stderr));
}

#[test]
fn an_interrupted_run_heals_what_it_harmed() {
    if !wanted("an_interrupted_run_heals_what_it_harmed") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::up_with(&["--workers", "0", "--runtime", "process"]);
    let (scenario, report) = (dir.path().join("scenario.yaml"), dir.path().join("report"));
    let text_of_it =
        "name: x\nduration: 10m\nfaults: [{fault: kill, target: leader, every: 9m, first: 100ms, for: 9m}]";
    std::fs::write(&scenario, text_of_it).unwrap();
    let mut run = Command::new(crate::cluster::binary());
    run.args(["chaos", "run"]).arg(&scenario).arg("--report").arg(&report).arg("--dir").arg(&cluster.dir);
    let mut running = run.stderr(Stdio::piped()).spawn().unwrap();
    let states = || cluster.json(&["dev", "status"])["processes"].clone();
    let n_down = || states().as_object().unwrap().values().filter(|state| **state == "down").count();
    cluster.wait("a master to be killed", Duration::from_secs(20), || n_down() == 1);
    // Nobody listens to what it tells any more, as when `head` has seen enough.
    drop(running.stderr.take());
    interrupt(&running);
    // It is asked for already, and changes nothing.
    interrupt(&running);
    assert_eq!(running.wait().unwrap().code(), Some(2));
    assert_eq!(n_down(), 0, "{}", states());
    let told = |name: &str| serde_json::from_slice::<Value>(&std::fs::read(report.join(name)).unwrap()).unwrap();
    assert_eq!(told("report.json")["verdict"], "inconclusive");
    assert_eq!(told("report.json")["inconclusive"][0], "the run was interrupted: by the user");
    assert!(told("run.json")["lastWrite"].as_u64() > Some(0), "the history is complete, and was judged");
    let is_gone = || !cluster.ok(&["get", "namespaces"]).contains("chaos-");
    cluster.wait("the run's namespace to be removed", Duration::from_secs(20), is_gone);
}

fn interrupt(running: &Child) {
    let interrupted = Command::new("kill").arg("-INT").arg(running.id().to_string()).status().unwrap();
    assert!(interrupted.success());
}

#[test]
fn a_run_that_is_interrupted_before_it_begins_leaves_nothing() {
    if !wanted("a_run_that_is_interrupted_before_it_begins_leaves_nothing") {
        return;
    }
    let (dir, temp) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let report = dir.path().join("report");
    let mut run = Command::new(crate::cluster::binary());
    run.args(["chaos", "run"]).arg(shipped("leader-kill.yaml")).arg("--report").arg(&report).env("TMPDIR", temp.path());
    let mut running = run.spawn().unwrap();
    let made = || std::fs::read_dir(temp.path()).unwrap().flatten().map(|entry| entry.path()).next();
    let started = Instant::now();
    while !made().is_some_and(|made| made.join("topology.json").exists()) {
        assert!(started.elapsed() < Duration::from_secs(20), "no cluster is made");
        std::thread::sleep(Duration::from_millis(20));
    }
    interrupt(&running);
    assert_eq!(running.wait().unwrap().code(), Some(2));
    assert!(made().is_none() && !report.exists(), "the cluster that had begun to be made is gone");
}
