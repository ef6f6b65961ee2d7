//! Masters die; nothing acknowledged is lost.

use crate::cluster::{Cluster, ONE_PER_HOST, deployment, wanted};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[test]
fn leader_kills_lose_no_acknowledged_write() {
    if !wanted("leader_kills_lose_no_acknowledged_write") {
        return;
    }
    let cluster = Cluster::up();
    assert!(cluster.apply(&deployment("web", 3, "")));
    cluster.wait("three pods", Duration::from_secs(40), || cluster.running().len() == 3);
    let before = cluster.running();
    let (acknowledged, stop) = (Mutex::new(BTreeSet::new()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let name = format!("w-{i:05}");
                let manifest = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n");
                if cluster.apply(&manifest) {
                    acknowledged.lock().unwrap().insert(name);
                }
            }
        });
        for _ in 0..3 {
            let leader = cluster.leader();
            cluster.dev(&["kill", &leader]);
            cluster.wait("another leader", Duration::from_secs(5), || {
                let now = cluster.leader();
                !now.is_empty() && now != leader
            });
            cluster.dev(&["start", &leader]);
            let status = || cluster.json(&["status"]);
            cluster.wait("the old leader to catch up", Duration::from_secs(10), || {
                let members = status()["members"].clone();
                members.as_array().is_some_and(|all| all.iter().all(|m| m["lag"].as_u64().is_none_or(|lag| lag < 50)))
            });
        }
        // The writer has had its say, before, between and after the kills.
        cluster.wait("the writer", Duration::from_secs(60), || acknowledged.lock().unwrap().len() > 60);
        stop.store(true, Ordering::Relaxed);
    });
    let stored = cluster.json(&["get", "configmaps"]);
    let names: BTreeSet<String> = stored["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|map| map["metadata"]["name"].as_str().unwrap().to_string())
        .collect();
    let acknowledged = acknowledged.into_inner().unwrap();
    let lost: Vec<&String> = acknowledged.difference(&names).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert_eq!(cluster.running(), before, "pods go on untouched");
}

#[test]
fn without_a_quorum_writes_fail_soon_and_pods_go_on() {
    if !wanted("without_a_quorum_writes_fail_soon_and_pods_go_on") {
        return;
    }
    let cluster = Cluster::up();
    assert!(cluster.apply(&deployment("web", 3, ONE_PER_HOST)));
    cluster.wait("three pods", Duration::from_secs(40), || cluster.running().len() == 3);
    let before = cluster.running();
    cluster.dev(&["kill", "master-2"]);
    cluster.dev(&["kill", "master-3"]);
    let started = Instant::now();
    let output = cluster.run(&["get", "pods"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("no master answers"), "{told}");
    println!("every address was tried within {:.1} s", started.elapsed().as_secs_f64());
    quorumless(&cluster);
    cluster.dev(&["start", "master-2"]);
    cluster.wait("writes", Duration::from_secs(10), || {
        cluster.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: again}\n")
    });
    assert_eq!(cluster.running(), before, "pods go on untouched");
}

/// A write and a linearizable read at the surviving master end soon, with what is wrong.
fn quorumless(cluster: &Cluster) {
    use protos::objects as pb;
    use protos::objects::objects_client::ObjectsClient;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = ObjectsClient::new(crate::client::endpoint(cluster, "master-1", true).connect_lazy());
        let read = pb::ListRequest { key: Some(crate::client::key("pods", "")), ..Default::default() };
        let json = r#"{"metadata": {"name": "refused"}}"#.to_string().into();
        let write = pb::WriteRequest { key: Some(crate::client::key("configmaps", "")), json, ..Default::default() };
        let started = Instant::now();
        let refused = [client.list(read.clone()).await.unwrap_err(), client.create(write).await.unwrap_err()];
        for status in refused {
            assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
            assert!(!status.message().is_empty());
        }
        println!("a read and a write were refused within {:.1} s", started.elapsed().as_secs_f64());
        let stale = client.list(pb::ListRequest { stale: true, ..read }).await.unwrap().into_inner();
        assert_eq!(stale.items.len(), 3);
    });
}

/// A master keeps 20,000 entries behind its last checkpoint, which it makes every 25,000.
const ENTRIES: usize = 31_000;
const WRITERS: usize = 64;

fn write_past_the_log(cluster: &Cluster) {
    use protos::objects as pb;
    use protos::objects::objects_client::ObjectsClient;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let context = cluster.leader();
    let started = Instant::now();
    runtime.block_on(async {
        let channel = crate::client::endpoint(cluster, &context, true).connect_lazy();
        let writer = |i: usize| {
            let mut client = ObjectsClient::new(channel.clone());
            async move {
                let name = format!("past-{i}");
                let json = serde_json::json!({"metadata": {"name": name}}).to_string();
                let key = Some(crate::client::key("configmaps", ""));
                let create = pb::WriteRequest { key, json: json.into(), ..Default::default() };
                client.create(create).await.unwrap();
                for n in 0..ENTRIES / WRITERS {
                    let patch = serde_json::json!({"data": {"n": n.to_string()}}).to_string().into();
                    let key = Some(crate::client::key("configmaps", &name));
                    client.patch(pb::PatchRequest { key, patch, ..Default::default() }).await.unwrap();
                }
            }
        };
        let writers: Vec<_> = (0..WRITERS).map(|i| tokio::spawn(writer(i))).collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
    let rate = ENTRIES as f64 / started.elapsed().as_secs_f64();
    println!("{ENTRIES} writes by {WRITERS} clients with two of three masters: {rate:.0} a second");
}

#[test]
fn a_master_with_a_lost_disk_is_refused_and_rejoins_as_new() {
    if !wanted("a_master_with_a_lost_disk_is_refused_and_rejoins_as_new") {
        return;
    }
    let cluster = Cluster::up_with(&["--workers", "0"]);
    let victim = ["master-2", "master-3"].into_iter().find(|name| *name != cluster.leader()).unwrap();
    let id = |cluster: &Cluster| {
        let members = cluster.json(&["status"])["members"].clone();
        let member = members.as_array().unwrap().iter().find(|m| m["name"] == victim).cloned();
        member.map(|member| member["id"].clone())
    };
    let old = id(&cluster);
    cluster.dev(&["kill", victim]);
    let data = cluster.dir.join("nodes").join(victim).join("data");
    std::fs::remove_dir_all(data.join("raft")).unwrap();
    let refused = cluster.run(&["dev", "start", victim]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("An emptied disk must not vote again"), "{told}");
    std::fs::remove_dir_all(&data).unwrap();
    // More entries than a log keeps: who starts with nothing cannot be caught up from it.
    write_past_the_log(&cluster);
    cluster.dev(&["start", victim]);
    cluster.wait("the new member", Duration::from_secs(20), || {
        let members = cluster.json(&["status"])["members"].clone();
        let all = members.as_array().unwrap();
        all.len() == 3 && all.iter().all(|m| m["voter"] == true) && id(&cluster) != old
    });
    let log = std::fs::read_to_string(cluster.dir.join("nodes").join(victim).join("log")).unwrap();
    assert!(log.contains("caught up by snapshot"), "{log}");
}

#[test]
fn a_cluster_survives_the_death_of_everything_and_leaves_nothing_behind() {
    if !wanted("a_cluster_survives_the_death_of_everything_and_leaves_nothing_behind") {
        return;
    }
    let cluster = Cluster::up();
    assert!(cluster.apply(&deployment("web", 3, "")));
    cluster.wait("three pods", Duration::from_secs(40), || cluster.running().len() == 3);
    let before = cluster.running();
    for i in 1..=3 {
        cluster.dev(&["kill", &format!("master-{i}")]);
        cluster.dev(&["kill", &format!("worker-{i}")]);
    }
    cluster.dev(&["up"]);
    cluster.wait("the same pods", Duration::from_secs(40), || cluster.running() == before);
    cluster.dev(&["down"]);
    assert_eq!(cluster.processes(), Vec::<String>::new());
    assert!(!cluster.dir.exists());
    cluster.left_nothing();
}
