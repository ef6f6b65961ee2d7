//! The verbs of operators and users, over gRPC.

use crate::kubeconfig;
use crate::members;
use crate::output::{Format, TableFormat};
use crate::user::{self, Scope};
use anyhow::{Result, bail};
use clap::Subcommand;
use client::{Access, Client, Patience};
use objects::{Timestamp, Value, ValueExt, json};
use protos::cluster as pb;
use protos::cluster::cluster_client::ClusterClient;
use protos::objects::objects_client::ObjectsClient;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::transport::Channel;

#[derive(clap::Args, Clone)]
pub(crate) struct Where {
    /// A kubeconfig; by default the one of --dir, or $KUBECONFIG.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// The folder of a development cluster; `.balsa` where neither is named.
    #[arg(long)]
    dir: Option<PathBuf>,
}

impl Where {
    pub(crate) fn access(&self) -> Result<Access> {
        // What is named wins, and must be there: another cluster is never meant.
        let of = |dir: &Path| dir.join("kubeconfig");
        let listed = std::env::var_os("KUBECONFIG").unwrap_or_default();
        let path = match self.kubeconfig.clone().or_else(|| self.dir.as_deref().map(of)) {
            Some(path) => path,
            None => first_of(&listed)?.unwrap_or_else(|| of(Path::new(".balsa"))),
        };
        kubeconfig::read(&path)
    }
}

/// The first file that is there of those that $KUBECONFIG lists. They are not merged, as kubectl would:
/// all that is said of a cluster stands in one.
fn first_of(listed: &OsStr) -> Result<Option<PathBuf>> {
    let files: Vec<PathBuf> = std::env::split_paths(listed).filter(|file| !file.as_os_str().is_empty()).collect();
    let found = files.iter().find(|file| file.exists());
    if found.is_none() && !files.is_empty() {
        let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        bail!("no file that $KUBECONFIG names is there: {}", names.join(", "));
    }
    Ok(found.cloned())
}

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// The cluster: its leader, term, members and their lag. Answers with any master down.
    Status {
        #[command(flatten)]
        at: Where,
        /// Text, or JSON for programs.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Prints the tokens with which machines join.
    Token {
        #[command(flatten)]
        at: Where,
        /// Text, or JSON for programs.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Shows or changes the group of masters.
    #[command(args_conflicts_with_subcommands = true)]
    Members {
        #[command(subcommand)]
        verb: Option<members::Verb>,
        #[command(flatten)]
        at: Where,
        /// Text, or JSON for programs.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Makes objects as the files say: creates them, or changes what differs.
    Apply {
        #[command(flatten)]
        scope: Scope,
        /// A YAML or JSON file; - reads standard input. May be repeated.
        #[arg(short, required = true)]
        file: Vec<PathBuf>,
    },
    /// Shows objects: TYPE, TYPE NAME or TYPE/NAME.
    Get {
        #[command(flatten)]
        scope: Scope,
        /// A type, such as `pods`, and the name of one object.
        #[arg(required = true, num_args = 1..=2)]
        what: Vec<String>,
        /// In all namespaces.
        #[arg(short = 'A', long)]
        all_namespaces: bool,
        /// Only those whose labels match, such as `app=web,tier!=db`.
        #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
        selector: String,
        /// A table, one with more columns, or JSON for programs.
        #[arg(short, long, value_enum, default_value_t)]
        output: TableFormat,
    },
    /// Shows all of one object, and its events.
    Describe {
        #[command(flatten)]
        scope: Scope,
        /// TYPE NAME or TYPE/NAME.
        #[arg(required = true, num_args = 1..=2)]
        what: Vec<String>,
    },
    /// Deletes objects: TYPE NAME [NAME ...] or TYPE/NAME [TYPE/NAME ...].
    Delete {
        #[command(flatten)]
        scope: Scope,
        /// A type and names, or TYPE/NAME each.
        what: Vec<String>,
        /// A YAML or JSON file of what is to go; - reads standard input. May be repeated.
        #[arg(short)]
        file: Vec<PathBuf>,
        /// Seconds that pods have to end; by default the object's own.
        #[arg(long)]
        grace_period: Option<i64>,
    },
    /// Prints the log of a container.
    Logs {
        #[command(flatten)]
        scope: Scope,
        /// The pod's name.
        pod: String,
        /// The container's name; may be left out where the pod has one only.
        #[arg(short, long, default_value = "", hide_default_value = true)]
        container: String,
        /// Goes on as more is written.
        #[arg(short, long)]
        follow: bool,
        /// Of the attempt before this one.
        #[arg(short, long)]
        previous: bool,
        /// The last so many lines; by default all.
        #[arg(long)]
        tail: Option<i64>,
        /// Begins each line with when it was written.
        #[arg(long)]
        timestamps: bool,
    },
    /// Runs a command in a container; its exit code becomes this one's.
    Exec {
        #[command(flatten)]
        scope: Scope,
        /// The pod's name.
        pod: String,
        /// The container's name; may be left out where the pod has one only.
        #[arg(short, long, default_value = "", hide_default_value = true)]
        container: String,
        /// Passes standard input on.
        #[arg(short = 'i', long)]
        stdin: bool,
        /// The command and its arguments, after `--`.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

pub(crate) fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Status { at, output } => {
            let status = present_status(&at.access()?)?;
            if output == Format::Json {
                println!("{}", serde_json::to_string_pretty(&status_json(&status))?);
                return Ok(());
            }
            let leader = if status.leader.is_empty() { "none" } else { &status.leader };
            println!(
                "leader {leader}   term {}   revision {}   told by {}",
                status.term, status.revision, status.answered_by
            );
            print_members(&status, None);
            println!("feature level {}{}", status.feature_level, waiting(&status));
            if let Some(backup) = &status.backup {
                println!("{}", backup_line(backup, crate::now()));
            }
            Ok(())
        }
        Verb::Token { at, output } => {
            let tokens = tokens(&at.access()?)?;
            if output == Format::Json {
                println!("{}", json!({"master": tokens.master, "worker": tokens.worker}));
            } else {
                println!("master  {}\nworker  {}", tokens.master, tokens.worker);
            }
            Ok(())
        }
        Verb::Members { verb: Some(verb), .. } => members::run(verb),
        Verb::Members { verb: None, at, output } => members::list(&at, output),
        Verb::Apply { scope, file } => user::apply(&scope, &file),
        Verb::Get { scope, what, all_namespaces, selector, output } => {
            user::get(&scope, &what, all_namespaces, &selector, output)
        }
        Verb::Describe { scope, what } => user::describe(&scope, &what),
        Verb::Delete { scope, what, file, grace_period } => user::delete(&scope, &what, &file, grace_period),
        Verb::Logs { scope, pod, container, follow, previous, tail, timestamps } => {
            let pod = user::pod_name("logs", &pod)?;
            let request = protos::objects::LogsRequest {
                namespace: String::new(),
                pod,
                container,
                follow,
                previous,
                tail_lines: tail,
                timestamps,
            };
            user::logs(&scope, request)
        }
        Verb::Exec { scope, pod, container, stdin, command } => {
            user::exec(&scope, &user::pod_name("exec", &pod)?, &container, stdin, &command)
        }
    }
}

/// Whether the last one is older than twice what lies between two: then whoever leads writes none.
fn is_overdue(backup: &pb::BackupStatus, now: Timestamp) -> bool {
    let age_ms = now.since_ms(Timestamp(backup.last_at_ms));
    backup.last_at_ms > 0 && backup.interval_ms > 0 && age_ms > backup.interval_ms.saturating_mul(2)
}

fn backup_line(backup: &pb::BackupStatus, now: Timestamp) -> String {
    let age = match backup.last_at_ms {
        0 => "none yet".into(),
        at => format!("{} old", objects::time::age(Some(&Timestamp(at).rfc3339()), now)),
    };
    let last = match backup.failure.as_str() {
        "" => format!("last scheduled backup {} by {}, {age}", backup.last_file, backup.by),
        why => format!("the last scheduled backup FAILED on {} ({why}); the last good one: {age}", backup.by),
    };
    let overdue = match is_overdue(backup, now) {
        true => {
            ": OVERDUE; is `backup:` in the configuration of the one that leads? (If there are to be none any more, delete \
             the ConfigMap kube-system/balsa-backups.)"
        }
        false => "",
    };
    let untidied = match backup.untidied.as_str() {
        "" => String::new(),
        why => format!("; older ones are still there ({why})"),
    };
    format!("{last}{overdue}{untidied}")
}

/// Who keeps the feature level from rising to what others know, after the level itself.
fn waiting(status: &pb::StatusResponse) -> String {
    let in_force = status.feature_level;
    let levels = || status.members.iter().map(|member| member.feature_level);
    let Some(next) = levels().filter(|level| *level > in_force).min() else { return String::new() };
    let behind = status.members.iter().filter(|member| member.feature_level <= in_force);
    let behind: Vec<&str> = behind.map(|member| member.name.as_str()).collect();
    match behind.is_empty() {
        true => format!("; about to rise to {next}"),
        false => format!("; rises to {next} once the new version runs on {}, too", behind.join(", ")),
    }
}

/// `answering`: the ids of who answers, where that was asked.
pub(crate) fn print_members(status: &pb::StatusResponse, answering: Option<&BTreeSet<u64>>) {
    let answers = |text: &str| answering.map(|_| format!("{text:<8}")).unwrap_or_default();
    println!("{:<12} {:<8} {}{:>6}  {:<22} {}", "NAME", "ROLE", answers("ANSWERS"), "LAG", "API", "ID");
    for member in &status.members {
        let role = match (member.leader, member.voter) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "learner",
        };
        let lag = member.lag.map_or("-".to_string(), |lag| lag.to_string());
        let is_heard = answering.is_some_and(|ids| ids.contains(&member.id));
        let answers = answers(if is_heard { "yes" } else { "no" });
        println!("{:<12} {role:<8} {answers}{lag:>6}  {:<22} {:x}", member.name, member.api_addr, member.id);
    }
}

pub(crate) fn status_json(status: &pb::StatusResponse) -> Value {
    let member = |m: &pb::Member| {
        // The id as verbs take it.
        json!({"name": m.name, "id": format!("{:x}", m.id), "apiAddress": m.api_addr, "peerAddress": m.peer_addr, "voter": m.voter,
            "leader": m.leader, "lag": m.lag, "featureLevel": m.feature_level})
    };
    let backup = status.backup.as_ref().map(|b| {
        json!({"by": b.by, "lastAtMs": b.last_at_ms, "lastFile": b.last_file, "failure": b.failure,
                "intervalMs": b.interval_ms, "overdue": is_overdue(b, crate::now())})
    });
    json!({
        "epoch": status.epoch, "featureLevel": status.feature_level, "backup": backup,
        "clusterId": status.cluster_id, "leader": status.leader, "term": status.term, "revision": status.revision,
        "lastIndex": status.last_index, "appliedIndex": status.applied_index, "answeredBy": status.answered_by,
        "members": status.members.iter().map(member).collect::<Vec<_>>(),
    })
}

/// The cluster, for somebody at a terminal.
pub(crate) fn cluster(access: &Access) -> Client {
    Client::with_patience(access.clone(), Patience::once())
}

/// Takes lists of any length: gRPC's bound of 4 MiB is one for strangers' messages.
pub(crate) fn objects_client(channel: Channel) -> ObjectsClient<Channel> {
    ObjectsClient::new(channel).max_decoding_message_size(usize::MAX)
}

/// Calls the first server that answers. Writes carry a request id.
pub(crate) fn call<T>(
    access: &Access,
    attempt: impl AsyncFn(Channel) -> Result<tonic::Response<T>, tonic::Status>,
) -> Result<T> {
    call_within(access, Patience::once().answer, attempt)
}

/// A `call` that may take its time once it is connected.
pub(crate) fn call_within<T>(
    access: &Access,
    patience: Duration,
    attempt: impl AsyncFn(Channel) -> Result<tonic::Response<T>, tonic::Status>,
) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let patience = Patience { answer: patience, ..Patience::once() };
    Ok(runtime.block_on(Client::with_patience(access.clone(), patience).call(attempt))?)
}

pub(crate) fn cluster_status(access: &Access) -> Result<pb::StatusResponse> {
    call(access, async |channel| ClusterClient::new(channel).status(pb::StatusRequest {}).await)
}

/// The same, of one that knows who leads if any does: one that was taken out of the group, or is cut off from it, knows
/// of its members as they were then, and of no leader.
pub(crate) fn present_status(access: &Access) -> Result<pb::StatusResponse> {
    let status = cluster_status(access)?;
    if !status.leader.is_empty() {
        return Ok(status);
    }
    let others = status.members.iter().filter(|member| member.name != status.answered_by);
    let told = others.filter_map(|member| cluster_status(&access.at(&member.api_addr)).ok());
    match told.filter(|told| !told.leader.is_empty()).max_by_key(|told| (told.epoch, told.term)) {
        Some(told) => {
            eprintln!("{} knows of no leader: {} was asked", status.answered_by, told.answered_by);
            Ok(told)
        }
        None => Ok(status),
    }
}

/// The kubeconfig's own server when that stands for all masters, as a VIP or a balancer does, and is none of them.
pub(crate) fn stands_for_all<'a>(access: &'a Access, status: &pb::StatusResponse) -> Option<&'a str> {
    let named = access.servers.first().map(|server| server.address.as_str());
    named.filter(|named| status.members.iter().all(|member| member.api_addr != *named))
}

pub(crate) fn tokens(access: &Access) -> Result<pb::JoinTokensResponse> {
    call(access, async |channel| ClusterClient::new(channel).join_tokens(pb::JoinTokensRequest {}).await)
}

/// What the one master that is named says after a linearizable read.
pub(crate) fn health(access: &Access) -> Result<pb::HealthResponse> {
    call(access, async |channel| ClusterClient::new(channel).health(pb::HealthRequest {}).await)
}

/// The Nodes, by name.
pub(crate) fn nodes(access: &Access) -> Result<BTreeMap<String, Value>> {
    let key = protos::objects::Key { resource: "nodes".into(), ..Default::default() };
    let list = call(access, async |channel| {
        let request = protos::objects::ListRequest { key: Some(key.clone()), ..Default::default() };
        objects_client(channel).list(request).await
    })?;
    let named = |item: &protos::objects::Object| {
        let node: Value = serde_json::from_slice(&item.json)?;
        Ok((node.text("metadata.name").to_string(), node))
    };
    list.items.iter().map(named).collect()
}

/// Two masters, m1 and m2, which leads; and how to reach them, but for the server.
#[cfg(test)]
pub(crate) fn two_masters() -> (pb::StatusResponse, Access) {
    let member = |name: &str, leader| pb::Member {
        name: name.into(),
        api_addr: format!("{name}:6443"),
        leader,
        ..Default::default()
    };
    let status = pb::StatusResponse { members: vec![member("m1", false), member("m2", true)], ..Default::default() };
    (status, Access { ca: String::new(), identity: None, servers: Vec::new(), namespace: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_that_nobody_takes_any_more_is_told() {
        let hour = 3_600_000;
        let backup = |last_at_ms, failure: &str| pb::BackupStatus {
            by: "m1".into(),
            last_at_ms,
            last_file: "/b/f".into(),
            failure: failure.into(),
            interval_ms: 6 * hour,
            untidied: String::new(),
        };
        let line = |backup: pb::BackupStatus| backup_line(&backup, Timestamp(100 * hour));
        assert_eq!(line(backup(89 * hour, "")), "last scheduled backup /b/f by m1, 11h old");
        assert!(line(backup(87 * hour, "")).contains("13h old: OVERDUE; is `backup:` in the configuration"));
        assert!(line(backup(99 * hour, "full")).starts_with("the last scheduled backup FAILED on m1 (full); the last"));
        assert!(line(backup(0, "full")).ends_with("none yet"));
        let untidied = pb::BackupStatus { untidied: "read-only".into(), ..backup(99 * hour, "") };
        assert_eq!(line(untidied), "last scheduled backup /b/f by m1, 60m old; older ones are still there (read-only)");
    }

    #[test]
    fn the_first_kubeconfig_that_is_there_is_taken() {
        let there = std::env::current_exe().unwrap();
        let listed = std::env::join_paths([Path::new("/none/a"), &there, Path::new("/none/b")]).unwrap();
        assert_eq!(first_of(&listed).unwrap(), Some(there));
        assert_eq!(first_of("".as_ref()).unwrap(), None);
        let why = first_of("/none/a::/none/b".as_ref()).unwrap_err().to_string();
        assert_eq!(why, "no file that $KUBECONFIG names is there: /none/a, /none/b");
    }
}
