//! An operator's work on real masters: the group changes, leadership moves, machines are replaced, all of
//! it is saved and restored, a lost majority is repaired, a damaged disk is told.
//!
//! Times are printed, not judged. BALSA_RECOVERS says how many repairs are run (3 by default).

use crate::client::{endpoint_of, key};
use crate::cluster::wanted;
use crate::group::{Group, Written, text, write};
use base64::Engine;
use protos::objects as pb;
use protos::objects::objects_client::ObjectsClient;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// What two lists of objects differ in, as text that can be read.
fn assert_same(found: &BTreeMap<String, (String, String)>, wanted: &BTreeMap<String, (String, String)>, what: &str) {
    let differ = |(name, value): &(&String, &(String, String))| found.get(*name) != Some(*value);
    let wrong: Vec<_> = wanted.iter().filter(differ).take(5).collect();
    let extra: Vec<_> = found.keys().filter(|name| !wanted.contains_key(*name)).take(5).collect();
    assert!(wrong.is_empty() && extra.is_empty(), "{what}: missing or different {wrong:?}, too many {extra:?}");
}

/// Runs `work` while a client writes 500 objects a second; then every acknowledged one is there.
fn under_load(group: &Group, prefix: &str, work: impl FnOnce(&Mutex<Written>)) {
    let (written, stop) = (Mutex::new(Written::default()), AtomicBool::new(false));
    let kubeconfig = group.kubeconfig();
    std::thread::scope(|scope| {
        // Told to stop also when `work` panics, so that the scope ends.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _stop = Stop(&stop);
        scope.spawn(|| write(&kubeconfig, prefix, &written, &stop));
        group.wait("the first writes", || written.lock().unwrap().names.len() > 20);
        work(&written);
        let so_far = written.lock().unwrap().names.len();
        group.wait("writes afterwards", || written.lock().unwrap().names.len() > so_far + 20);
    });
    let stored = objects(group, "configmaps");
    let acknowledged = written.into_inner().unwrap().names;
    let lost: Vec<&String> = acknowledged.iter().filter(|name| !stored.contains_key(*name)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    println!("{prefix}: {} writes acknowledged, none lost", acknowledged.len());
}

/// What a planned change cost: the longest that a write took meanwhile.
fn longest(group: &Group, written: &Mutex<Written>, what: &str, change: impl FnOnce()) -> Duration {
    written.lock().unwrap().longest = Duration::ZERO;
    change();
    let so_far = written.lock().unwrap().names.len();
    group.wait("writes to go on", || written.lock().unwrap().names.len() > so_far + 5);
    let longest = written.lock().unwrap().longest;
    println!("{what}: the longest write took {} ms", longest.as_millis());
    longest
}

/// uid and resource version of every object of a kind in the default namespace.
fn objects(group: &Group, kind: &str) -> BTreeMap<String, (String, String)> {
    let list = group.json(&["get", kind]);
    let told = |value: &Value| value.as_str().unwrap_or("").to_string();
    let entry = |item: &Value| {
        let metadata = &item["metadata"];
        (told(&metadata["name"]), (told(&metadata["uid"]), told(&metadata["resourceVersion"])))
    };
    list["items"].as_array().unwrap().iter().map(entry).collect()
}

fn revision(group: &Group) -> u64 {
    group.json(&["status"])["revision"].as_u64().unwrap()
}

/// The code with which a watch after `revision` is answered.
fn watch_after(group: &Group, context: &str, revision: u64) -> tonic::Code {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let channel = endpoint_of(&group.kubeconfig(), context, true).connect_lazy();
        let request =
            pb::WatchRequest { key: Some(key("configmaps", "")), after_revision: revision, ..Default::default() };
        let first = async {
            let mut events = ObjectsClient::new(channel).watch(request).await?.into_inner();
            events.message().await
        };
        match tokio::time::timeout(Duration::from_secs(3), first).await {
            Ok(Err(status)) => status.code(),
            Ok(Ok(_)) | Err(_) => tonic::Code::Ok,
        }
    })
}

/// Of one that answers: of one that has just been stopped the leader knows what it had.
fn lag(group: &Group, name: &str) -> Option<u64> {
    let member = group.members().into_iter().find(|member| member["name"] == name && member["answers"] == true)?;
    member["lag"].as_u64()
}

/// A master's own certificate earns an administrator's, and that a reader's.
fn make_kubeconfigs(group: &Group) {
    let [admin, reader] = ["admin", "reader"].map(|name| group.path(&format!("{name}.kubeconfig")));
    let [admin, reader] = [&admin, &reader].map(|path| path.display().to_string());
    group.must(&["kubeconfig", "--config", &group.config("m2"), "--out", &admin]);
    assert_eq!(std::fs::metadata(&admin).unwrap().permissions().mode() & 0o777, 0o600);
    group.must(&["kubeconfig", "--kubeconfig", &admin, "--role", "reader", "--name", "alice", "--out", &reader]);
    group.must(&["token", "--kubeconfig", &admin]);
    let document: Value = serde_json::from_slice(&std::fs::read(&admin).unwrap()).unwrap();
    assert_eq!(document["clusters"].as_array().unwrap().len(), 3, "{document}");
    group.must(&["members", "list", "--kubeconfig", &reader]);
    for refused in [&["token"][..], &["kubeconfig"]] {
        let output = group.local(&[refused, &["--kubeconfig", &reader]].concat());
        assert!(!output.status.success(), "{}", text(&output.stdout));
    }
}

/// Leadership moves by command and with a stop; members come, are promoted, replaced and removed; in the
/// end each of the three machines has been replaced.
fn change_the_group(group: &Group) {
    under_load(group, "changes", |written| {
        let mut worst = Duration::ZERO;
        for name in ["m2", "m3", "m1", "m2", "m1"] {
            let took = longest(group, written, &format!("transfer to {name}"), || {
                let told = group.json(&["members", "transfer", name]);
                assert_eq!(told["leader"], name, "{told}");
                assert_eq!(group.leader(), name, "it is said to lead and does not");
            });
            worst = worst.max(took);
        }
        println!("planned hand-over, the longest of all: {} ms", worst.as_millis());
        longest(group, written, "SIGTERM of the leader", || {
            group.stop("m1");
            assert_ne!(group.leader(), "m1");
        });
        group.start("m1");
        group.wait("m1 to catch up", || lag(group, "m1").is_some_and(|lag| lag < 100));

        // A learner that replaces a voter: not while that answers, then in one change.
        group.join("m4", json!({"learner": true}));
        group.wait("the learner", || group.members().iter().any(|m| m["name"] == "m4" && m["voter"] == false));
        let no = group.refused(&["members", "transfer", "m4"]);
        assert!(no.contains("is a learner") && no.contains("members promote m4"), "{no}");
        let no = group.refused(&["members", "replace", "m3", "m4"]);
        assert!(no.contains("m3") && no.contains("answers; stop it first"), "{no}");
        group.stop("m3");
        let no = group.refused(&["members", "remove", "m2"]);
        assert!(no.contains("1 of 2 voters would answer after this change, a quorum is 2: start one of m3"), "{no}");
        let no = group.refused(&["members", "remove", "m9"]);
        assert!(no.contains("no member is named \"m9\""), "{no}");
        longest(group, written, "m4 in the place of m3", || {
            group.ok(&["members", "replace", "m3", "m4"]);
        });
        assert_eq!(group.voters(), ["m1", "m2", "m4"].map(String::from).into());
        // The one that was replaced has no part any more: what it holds, it holds for itself.
        group.wipe("m3");
        group.join("m3", json!({"learner": true}));
        group.wait("the learner", || group.members().iter().any(|m| m["name"] == "m3"));
        let told = group.json(&["members", "promote", "m3"]);
        assert!(told["warning"].as_str().unwrap().contains("add one"), "{told}");
        longest(group, written, "m4 removed", || {
            group.ok(&["members", "remove", "m4"]);
        });
        group.wait_voters(&["m1", "m2", "m3"]);
        // It asks the leader why it hears nothing.
        let out = "this master was taken out of the group, which ";
        group.wait("m4 to know that it is out", || group.log("m4").contains(out));
        assert!(group.ended("m4").contains("start it with a join token"));
        group.wipe("m4");

        let before: BTreeSet<String> = group.members().iter().map(|m| m["id"].as_str().unwrap().into()).collect();
        let mut worst = Duration::ZERO;
        for name in ["m1", "m2", "m3"] {
            let took = longest(group, written, &format!("{name} replaced by a new machine"), || {
                group.stop(name);
                group.wipe(name);
                group.join(name, json!({}));
                group.wait("the new one to vote", || {
                    let members = group.members();
                    let new = members.iter().find(|m| m["name"] == name && m["voter"] == true);
                    new.is_some_and(|m| !before.contains(m["id"].as_str().unwrap()))
                });
                group.wait_voters(&["m1", "m2", "m3"]);
            });
            worst = worst.max(took);
        }
        let after: BTreeSet<String> = group.members().iter().map(|m| m["id"].as_str().unwrap().into()).collect();
        assert!(after.is_disjoint(&before) && after.len() == 3, "{before:?} {after:?}");
        // The one that `init` wrote went with its machine.
        make_kubeconfigs(group);
        println!("all three replaced one by one: the longest refusal was {} ms", worst.as_millis());
    });
}

fn pods(group: &Group) -> BTreeMap<String, (String, u64)> {
    let output = group.run(&["get", "pods", "-o", "json"]);
    let list: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let told = |pod: &Value| {
        let status = pod["status"]["containerStatuses"].get(0)?;
        let name = pod["metadata"]["name"].as_str()?.to_string();
        let uid = pod["metadata"]["uid"].as_str()?.to_string();
        (status["ready"] == true).then(|| (name, (uid, status["restartCount"].as_u64().unwrap_or(9))))
    };
    list["items"].as_array().into_iter().flatten().filter_map(told).collect()
}

fn apply(group: &Group, file: &str, manifest: &str) {
    let path = group.path(file);
    std::fs::write(&path, manifest).unwrap();
    group.ok(&["apply", "-f", &path.display().to_string()]);
}

/// How long these pods sleep: a number by which their processes are told from any others.
fn sleep() -> String {
    format!("8{}", crate::cluster::mark())
}

/// The process ids of these pods.
fn sleepers() -> Vec<String> {
    let own = format!("sleep\0{}\0", sleep());
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let sleeps =
        entries.filter(|entry| std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| text(&line) == own));
    sleeps.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Pods outlive their worker, but not the test.
struct Asleep;

impl Drop for Asleep {
    fn drop(&mut self) {
        for id in sleepers() {
            // It may be ending by itself.
            drop(std::process::Command::new("kill").args(["-KILL", &id]).status());
        }
    }
}

fn pod(name: &str) -> String {
    let command = format!("command: [sleep, \"{}\"]", sleep());
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         containers:\n  - name: c\n    image: registry.local/busybox:1\n    {command}\n"
    )
}

fn damage(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// Saved under load; whatever is wrong with a file is told. Returns the file, and what was acknowledged
/// before.
fn save(group: &Group) -> (String, BTreeSet<String>) {
    let file = group.path("saved.backup").display().to_string();
    let mut before = BTreeSet::new();
    under_load(group, "saving", |written| {
        before.clone_from(&written.lock().unwrap().names);
        longest(group, written, "a backup", || {
            let told = group.ok(&["backup", "save", &file]);
            print!("{told}");
        });
    });
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "it holds secrets");
    let told: Value = serde_json::from_str(&group.must(&["backup", "inspect", &file, "-o", "json"])).unwrap();
    assert_eq!(told["manifest"]["epoch"], 1, "{told}");
    let wrong = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let copy = group.path(name);
        std::fs::copy(&file, &copy).unwrap();
        damage(&copy, change);
        let output = group.local(&["backup", "inspect", &copy.display().to_string()]);
        assert!(!output.status.success(), "{name} went unnoticed");
        text(&output.stderr)
    };
    assert!(wrong("cut", &|bytes| bytes.truncate(bytes.len() - 100)).contains("truncated"));
    assert!(
        wrong("flipped", &|bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
        })
        .contains("damaged")
    );
    (file, before)
}

/// A new group, of a new epoch, on the old addresses: with the old objects, above the old revisions.
fn restore(group: &Group, file: &str, saved: &BTreeSet<String>) {
    let (mut maps, nodes) = (objects(group, "configmaps"), objects(group, "nodes"));
    let kept = pods(group);
    assert_eq!(kept.len(), 1, "{kept:?}");
    // The old group goes on after the backup: with a pod that the new one will not know.
    apply(group, "late.yaml", &pod("late"));
    group.wait("the late pod", || pods(group).contains_key("late"));
    assert_eq!(sleepers().len(), 2);
    let old_revision = revision(group);
    for name in ["m1", "m2", "m3"] {
        group.kill(name);
    }
    let refused = group.local(&["backup", "restore", file, "--config", &group.config("m1")]);
    assert!(text(&refused.stderr).contains("already holds a master"), "{}", text(&refused.stderr));
    group.wipe("m1");
    // A file that is cut leaves nothing that could be taken for a master.
    let cut = group.path("cut").display().to_string();
    let refused = group.local(&["backup", "restore", &cut, "--config", &group.config("m1")]);
    assert!(text(&refused.stderr).contains("truncated"), "{}", text(&refused.stderr));
    assert!(["identity.json", "raft-new"].iter().all(|name| !group.path("m1").join(name).exists()));
    let started = Instant::now();
    print!("{}", group.must(&["backup", "restore", file, "--config", &group.config("m1")]));
    group.start("m1");
    group.adopt("m1");
    group.wait_voters(&["m1"]);
    println!("restored and serving after {} ms", started.elapsed().as_millis());

    let now_maps = objects(group, "configmaps");
    let lost: Vec<_> = saved.iter().filter(|name| !now_maps.contains_key(*name)).collect();
    assert!(lost.is_empty(), "acknowledged before the backup: {lost:?}");
    // The old group went on while and after it was saved.
    maps.retain(|name, _| now_maps.contains_key(name) || !name.starts_with("saving"));
    assert_same(&now_maps, &maps, "the same objects, uids and revisions");
    let uids = |all: &BTreeMap<String, (String, String)>| -> BTreeSet<String> {
        all.values().map(|(uid, _)| uid.clone()).collect()
    };
    assert_eq!(uids(&objects(group, "nodes")), uids(&nodes), "the same node");
    let status = group.json(&["status"]);
    assert!(status["epoch"].as_u64().unwrap() > 1, "{status}");
    assert!(revision(group) > old_revision, "{} is not above {old_revision}", revision(group));
    assert_eq!(watch_after(group, "m1", old_revision), tonic::Code::OutOfRange, "an older watch is told to list again");
    assert_eq!(watch_after(group, "m1", revision(group)), tonic::Code::Ok);

    // The worker follows the new epoch: what it ran goes on, what the new group never knew ends.
    group.wait("the same pod, and no other", || pods(group) == kept);
    group.wait("the late pod's end", || sleepers().len() == 1);

    // A master of the old group is refused, and says what to do.
    group.start("m2");
    let told = group.ended("m2");
    assert!(told.contains("was replaced by epoch") && told.contains("join again with a token"), "{told}");
    for name in ["m2", "m3"] {
        group.wipe(name);
        group.join(name, json!({}));
    }
    group.wait_voters(&["m1", "m2", "m3"]);
    for name in ["m4", "m5"] {
        group.join(name, json!({}));
    }
    group.wait_voters(&["m1", "m2", "m3", "m4", "m5"]);
    assert_same(&objects(group, "configmaps"), &maps, "also in a group of five");
    apply(group, "after.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: after}\n");
}

/// The leader writes backups by itself, tells when it cannot, and removes the oldest.
fn schedule(group: &Group) {
    let folder = group.path("scheduled");
    let extra = json!({"backup": {"directory": folder, "interval": "10s", "keep": 1}});
    let join = json!({"server": group.api("m1"), "token": group.json(&["token"])["master"]});
    for name in ["m4", "m5"] {
        group.stop(name);
        group.configure_with(name, join.clone(), extra.clone());
        group.start(name);
    }
    group.wait("m4 to catch up", || lag(group, "m4").is_some_and(|lag| lag < 100));
    group.ok(&["members", "transfer", "m4"]);
    let told = || group.json(&["status"])["backup"].clone();
    group.wait("the failure to be told", || told()["failure"].as_str().is_some_and(|why| why.contains("scheduled")));
    let said = group.ok(&["status"]);
    assert!(said.contains("FAILED on m4"), "{said}");
    std::fs::create_dir(&folder).unwrap();
    let files = || -> Vec<String> {
        let entries = std::fs::read_dir(&folder).unwrap().flatten();
        entries.map(|entry| entry.path().display().to_string()).filter(|path| path.ends_with(".backup")).collect()
    };
    group.wait("a backup", || files().len() == 1 && told()["failure"] == "");
    group.must(&["backup", "inspect", &files()[0]]);
    assert_eq!(told()["by"], "m4");
}

#[test]
fn the_group_changes_and_all_of_it_is_saved_and_restored() {
    if !wanted("the_group_changes_and_all_of_it_is_saved_and_restored") {
        return;
    }
    // Dropped after the group: its worker would start again what is killed.
    let _asleep = Asleep;
    let group = Group::of(&["m1", "m2", "m3"]);
    change_the_group(&group);
    group.start_worker("w1", &["m1", "m2", "m3"]);
    group.wait("the worker", || objects(&group, "nodes").contains_key("w1"));
    apply(&group, "kept.yaml", &pod("kept"));
    group.wait("the pod", || pods(&group).contains_key("kept"));
    let (file, saved) = save(&group);
    restore(&group, &file, &saved);
    schedule(&group);
}

fn n_recovers() -> usize {
    let said = std::env::var("BALSA_RECOVERS").ok();
    said.map_or(3, |text| text.parse().unwrap_or_else(|_| panic!("BALSA_RECOVERS: {text:?} is no number of repairs")))
}

/// The Raft folders of m1; a repair makes `raft-new`, then names it by its epoch, then writes the identity.
fn raft_folders(group: &Group) -> BTreeSet<String> {
    let names = std::fs::read_dir(group.path("m1")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("raft")).collect()
}

/// Kills a repair at some moment of it; whatever it left, the next one works, or the old group is whole. Tells how far it
/// had come.
fn interrupt(group: &Group, after: Duration) -> &'static str {
    let (before, identity) = (raft_folders(group), std::fs::read(group.path("m1").join("identity.json")));
    let mut child = std::process::Command::new(crate::cluster::binary())
        .args(["recover", "--yes", "--config", &group.config("m1")])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
    let made: Vec<String> = raft_folders(group).difference(&before).cloned().collect();
    let is_named = std::fs::read(group.path("m1").join("identity.json")).unwrap() != identity.unwrap();
    match made.as_slice() {
        _ if is_named => "done",
        [] => "reading",
        [new] if new == "raft-new" => "writing",
        _ => "written, not named",
    }
}

#[test]
fn a_lost_majority_is_repaired_and_a_damaged_disk_is_told() {
    if !wanted("a_lost_majority_is_repaired_and_a_damaged_disk_is_told") {
        return;
    }
    let group = Group::of(&["m1", "m2", "m3"]);
    let recover = |arguments: &[&str]| {
        let config = group.config("m1");
        group.local(&[&["recover", "--config", &config], arguments].concat())
    };
    let refused = |arguments: &[&str]| {
        let output = recover(arguments);
        assert!(!output.status.success(), "{}", text(&output.stdout));
        text(&output.stderr)
    };
    assert!(refused(&["--yes"]).contains("is in use"), "while the master runs");
    group.stop("m1");
    group.leader();
    assert!(refused(&["--yes"]).contains("have a quorum"), "while the others serve");
    group.stop("m3");
    assert!(refused(&["--yes"]).contains("start it"), "while it would be a quorum with m2");
    group.start("m1");
    group.start("m3");

    let n = n_recovers();
    // How long a repair takes, once one was seen; and how far those that were interrupted had come.
    let mut takes = Duration::from_millis(200);
    let mut reached: BTreeMap<&str, usize> = BTreeMap::new();
    for i in 0..n {
        let (mut acknowledged, mut before) = (BTreeSet::new(), 0);
        under_load(&group, &format!("round{i}"), |written| {
            group.wait("some writes", || written.lock().unwrap().names.len() > 100);
            acknowledged.clone_from(&written.lock().unwrap().names);
            before = revision(&group);
        });
        // What the survivor has is what was acknowledged before it was the only one.
        group.wait("all to be level", || {
            let members = group.members();
            members.len() == 3 && members.iter().all(|m| m["lag"].as_u64().unwrap_or(0) == 0)
        });
        for name in ["m1", "m2", "m3"] {
            group.kill(name);
        }
        assert!(refused(&[]).contains("--yes"), "nobody is there to be asked");
        let output = recover(&["--report"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["survivor"]["name"], "m1", "{report}");
        // Interrupted anywhere: each moment is as far as can be from those before it.
        *reached.entry(interrupt(&group, takes.mul_f64((i as f64 * 0.618) % 1.0))).or_default() += 1;
        if i % 3 == 1 {
            // Of a survivor the last copy of everything is asked for, not its papers.
            std::fs::remove_file(group.path("m1").join("master.crt")).unwrap();
        }
        let began = Instant::now();
        let output = recover(&["--yes"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let told = text(&output.stdout);
        assert!(told.contains("May be lost") || told.contains("Nothing is to be repaired"), "{told}");
        if i == 0 {
            print!("{told}");
        }
        if told.contains("May be lost") {
            takes = began.elapsed();
        }
        if i % 3 == 2 {
            // Not even when there is nobody else.
            std::fs::write(group.path("m1").join("master.key"), "garbage").unwrap();
            std::fs::remove_file(group.path("m1").join("ca.crt")).unwrap();
            std::fs::remove_file(group.path("m1").join("identity.json")).unwrap();
        }
        let again = text(&recover(&["--yes"]).stdout);
        assert!(again.contains("Nothing is to be repaired"), "{again}");
        assert_eq!(again.contains("It has a new certificate"), i % 3 == 2, "{again}");
        group.start("m1");
        group.wait_voters(&["m1"]);
        let stored = objects(&group, "configmaps");
        let lost: Vec<_> = acknowledged.iter().filter(|name| !stored.contains_key(*name)).collect();
        assert!(lost.is_empty(), "{lost:?}");
        assert!(revision(&group) > before + 1_000_000, "revisions go on far above");
        if i == 0 {
            // Two of the old group would be its quorum: they meet the new one, and end.
            group.start("m2");
            group.start("m3");
            for name in ["m2", "m3"] {
                let told = group.ended(name);
                assert!(told.contains("was replaced by epoch"), "{told}");
            }
        }
        for name in ["m2", "m3"] {
            group.wipe(name);
            group.join(name, json!({}));
        }
        group.wait_voters(&["m1", "m2", "m3"]);
    }
    println!("{n} of {n} repairs; those that were interrupted before them had come as far as {reached:?}");
    assert!(n < 50 || ["reading", "writing"].iter().all(|far| reached.contains_key(far)), "{reached:?}");
    damaged_disk(&group);
}

/// Machines that were off for longer than a certificate lasts come back, and the others never come to that.
#[test]
fn a_cluster_outlives_its_certificates() {
    if !wanted("a_cluster_outlives_its_certificates") {
        return;
    }
    let masters = ["m1", "m2", "m3"];
    let group = Group::of(&masters);
    group.start_worker("w1", &masters);
    let is_ready = || group.ok(&["get", "nodes"]).contains(" Ready");
    group.wait("the worker to be ready", is_ready);
    let secret = group.json(&["get", "secrets", "balsa-cluster", "-n", "kube-system"]);
    let data = |name: &str| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(secret["data"][name].as_str().unwrap()).unwrap();
        text(&bytes)
    };
    let authority = pki::Authority { credential: pki::Credential { certificate: data("ca.crt"), key: data("ca.key") } };
    let file = |name: &str, role: &str| group.path(name).join(format!("{role}.crt"));
    let day = Duration::from_secs(24 * 3600);
    let age = |name: &str, role: &str, days: u32| {
        let kind = if role == "master" { authz::Role::Master } else { authz::Role::Worker };
        let held = pki::alt_names_of(&std::fs::read_to_string(file(name, role)).unwrap()).unwrap();
        let old = authority.issue_as_of(SystemTime::now() - day * days, kind, name, &held).unwrap();
        std::fs::write(file(name, role).with_extension("key"), old.key).unwrap();
        std::fs::write(file(name, role), old.certificate).unwrap();
    };
    // All of them were off for so long; of the first one, half of it is over.
    group.stop("w1");
    for (name, days) in [("m1", 50), ("m2", 100), ("m3", 91)] {
        group.stop(name);
        age(name, "master", days);
    }
    masters.iter().for_each(|name| group.start(name));
    group.wait_voters(&masters);
    group.leader();
    under_load(&group, "after", |_| ());
    let is_fresh = |name: &str, role: &str| {
        let pem = std::fs::read_to_string(file(name, role)).unwrap();
        pki::renew_at(&pem).unwrap() > SystemTime::now() + day * 40
    };
    assert!(masters.iter().all(|name| is_fresh(name, "master")));
    leads_who_answers(&group);
    // With the one that is still valid; and then with the token, as none is.
    for days in [50, 200] {
        age("w1", "worker", days);
        // Of this start, and not of the last, is what the node then tells.
        let boot_id = group.path("w1").join("boot-id");
        std::fs::remove_file(&boot_id).unwrap();
        group.start_worker("w1", &masters);
        group.wait("the worker's certificate", || is_fresh("w1", "worker"));
        let told = || group.json(&["get", "nodes"])["items"][0]["metadata"]["annotations"]["balsa.dev/boot-id"].clone();
        group.wait("the worker to report", || std::fs::read_to_string(&boot_id).is_ok_and(|id| told() == id.as_str()));
        group.stop("w1");
    }
}

/// Who died a moment ago lags by nothing, and is not handed leadership all the same.
fn leads_who_answers(group: &Group) {
    let leader = group.leader();
    let id = |member: &Value| u64::from_str_radix(member["id"].as_str().unwrap(), 16).unwrap();
    let others = group.members().into_iter().filter(|member| member["name"] != leader.as_str());
    let dead = others.min_by_key(id).unwrap()["name"].as_str().unwrap().to_string();
    group.kill(&dead);
    let told = group.json(&["members", "transfer"]);
    assert!(told["leader"] != dead.as_str() && told["leader"] != leader.as_str(), "{dead} is dead: {told}");
    group.start(&dead);
    group.wait_voters(&["m1", "m2", "m3"]);
}

/// A flipped byte in the middle of the log: the master does not start, and says what to do; so done, it is
/// a member again.
fn damaged_disk(group: &Group) {
    group.kill("m3");
    let folder = std::fs::read_dir(group.path("m3")).unwrap().flatten().map(|entry| entry.path());
    let raft = folder.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("raft")).max().unwrap();
    let files = std::fs::read_dir(raft).unwrap().flatten().map(|entry| entry.path());
    let logs = files.filter(|path| path.extension().is_some_and(|e| e == "log"));
    // What a log was filled with, to be written over, says nothing.
    let said = |path: &Path| {
        let bytes = std::fs::read(path).unwrap();
        let filler = bytes.chunks(4096).position(|page| page.iter().all(|byte| *byte == 0xFF));
        let said = &bytes[..filler.map_or(bytes.len(), |page| page * 4096)];
        said.iter().rposition(|byte| *byte != 0xFF).unwrap_or(0)
    };
    let log = logs.max_by_key(|path| said(path)).unwrap();
    let middle = said(&log) / 2;
    damage(&log, |bytes| bytes[middle] ^= 0x10);
    group.start("m3");
    let told = group.ended("m3");
    assert!(told.contains("join") && told.contains("token"), "{told}");
    group.wipe("m3");
    group.join("m3", json!({}));
    group.wait_voters(&["m1", "m2", "m3"]);
}
