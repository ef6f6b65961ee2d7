//! `balsa recover`: a survivor of a group whose majority is gone becomes a group of its own.
//!
//! It begins another epoch, as a restore does: masters of the old group that come back are refused by the
//! new one, and end when they meet it. Nothing of the survivor is changed until the identity, written
//! last, names the new state; interrupted at any moment, it can be run again or left.

mod verdict;

use crate::backup::{fresh, next_revision, settle, unchanged};
use crate::cluster_service::{authority, secret_key};
use crate::config::MasterConfig;
use crate::files::{DataDir, Identity};
use crate::join;
use crate::output::Format;
use crate::renewal::{Papers, papers};
use anyhow::{Context, Result, bail};
use objects::{Revision, Timestamp, json};
use protos::cluster as pb;
use protos::cluster::cluster_client::ClusterClient;
use raft_disk::{OpenError, RocksDisk};
use raft_node::{Founding, Remains, read_remains};
use state::backup::epoch_after;
use state::{View, snapshot};
use std::collections::BTreeSet;
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use verdict::{Facts, Survivor, Verdict, verdict};

/// A member that does not answer by then counts as gone.
const ANSWER_MAX: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The survivor's configuration.
    #[arg(long)]
    config: PathBuf,
    /// Does not ask, even when the survivors cannot prove that nothing is lost.
    #[arg(long)]
    yes: bool,
    /// Changes nothing; prints what this survivor has as JSON, for --other.
    #[arg(long, conflicts_with_all = ["yes", "other", "gone", "skip_revisions", "output"])]
    report: bool,
    /// What another stopped survivor printed with --report; may be given several times.
    #[arg(long)]
    other: Vec<PathBuf>,
    /// A member that is gone for good though something takes connections at its address; may be given several times.
    #[arg(long, value_name = "NAME")]
    gone: Vec<String>,
    /// Begins this many revisions later still: for clocks that differ by more than 10 s.
    #[arg(long, default_value_t = 0)]
    skip_revisions: u64,
    /// With json the result is standard output's, and what is told on the way standard error's.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// A line for people.
fn say(output: Format, line: std::fmt::Arguments) {
    match output {
        Format::Text => println!("{line}"),
        Format::Json => eprintln!("{line}"),
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let config = MasterConfig::load(&args.config)?;
    if !config.data_dir.exists() {
        bail!("{} does not exist: run this on the machine of a master that survived", config.data_dir.display());
    }
    let dir = DataDir::create(&config.data_dir)?;
    let _held = dir.hold()?;
    let (identity, remains, is_rebuilt) = survivor(&dir, &config)?;
    let own = Survivor {
        id: identity.node_id,
        name: identity.name.clone(),
        term: remains.last.term,
        index: remains.last.index,
    };
    if args.report {
        println!("{}", json!({"cluster": identity.group(), "survivor": own}));
        return Ok(());
    }
    let others = args.other.iter().map(|path| read_report(path, &identity)).collect::<Result<Vec<_>>>()?;
    check_names(args, &identity, &remains, &others)?;
    // Where those of the folder are gone or over, new ones: who asks a survivor to be emptied for a lost file destroys the
    // last copy.
    let papers = papers(&dir, &config, &View::new(remains.state.clone()))?;
    let heard = ask(&dir, &identity, &remains, &papers)?;
    let begins = begins(&dir, &identity, &remains, args.skip_revisions)?;
    let output = args.output;
    tell(output, &identity, &remains, &others, &heard);
    let index = |heard: &Heard| match heard.what {
        Answer::Status(_) => Some((heard.id, heard.name.clone())),
        Answer::Strange(_) | Answer::Nothing(_) => None,
    };
    let is_there = |heard: &&Heard| matches!(heard.what, Answer::Strange(_)) && !args.gone.contains(&heard.name);
    let facts = Facts {
        own,
        voters: remains.voters.clone(),
        others,
        answering: heard.iter().filter_map(index).collect(),
        strange: heard.iter().filter(is_there).map(|heard| heard.name.clone()).collect(),
    };
    let may_be_lost = match verdict(&facts) {
        Verdict::Alone => {
            let name = &identity.name;
            if let Some(why) = &papers.issued {
                dir.save_credential("master", &papers.credential, &papers.ca)?;
                say(output, format_args!("It has a new certificate: {why}."));
            }
            if is_rebuilt {
                dir.save_identity(&identity)?;
            }
            match output {
                Format::Json => println!("{}", json!({"repaired": false, "name": name, "epoch": identity.epoch})),
                Format::Text => println!("Nothing is to be repaired: {name} is the group's only voter. Start it."),
            }
            return Ok(());
        }
        Verdict::Refused(why) => bail!("{why}"),
        Verdict::Complete(why) => {
            say(output, format_args!("Complete: {why}."));
            None
        }
        Verdict::MayLose(what) => {
            say(output, format_args!("May be lost: {what}."));
            confirm(args.yes)?;
            Some(what)
        }
    };
    let next = refound(&dir, &config, &identity, &remains, &papers, begins).inspect_err(|_| {
        // It holds every secret, and an identity names it only when it is whole.
        if let Err(error) = dir.remove_unborn() {
            eprintln!("warning: {error:#}");
        }
    })?;
    let old_log = dir.path(&identity.raft_dir());
    match output {
        Format::Json => println!(
            "{}",
            json!({
                "repaired": true, "name": next.name, "epoch": next.epoch, "mayBeLost": may_be_lost,
                "oldLog": old_log.display().to_string(),
            })
        ),
        Format::Text => {
            println!("{} is a group of its own now, epoch {}.", next.name, next.epoch);
            println!("  start it          balsa master --config {}", args.config.display());
            println!("  the others        stay off: empty their data folders, then join with a token (`balsa token`)");
            println!("  the old log       is kept in {} until the next repair", old_log.display());
        }
    }
    Ok(())
}

/// Who this is, what there is of it, and whether its identity.json is not there.
fn survivor(dir: &DataDir, config: &MasterConfig) -> Result<(Identity, Remains, bool)> {
    let lost = match dir.identity() {
        Ok(Some(_)) => {
            let identity = dir.identity_of(&config.name)?.context("the identity has just been read")?;
            let remains = read(dir, &identity.raft_dir())?;
            return Ok((identity, remains, false));
        }
        Ok(None) => "identity.json is missing".to_string(),
        // What cannot be read now may be sound.
        Err(error) if dir.read("identity.json").is_err() => return Err(error),
        Err(error) => format!("{error:#}"),
    };
    let Some((folder, epoch)) = dir.newest_raft_folder()? else {
        bail!("{} holds no master: it is no survivor", dir.0.display());
    };
    let remains = read(dir, &folder).with_context(|| lost.clone())?;
    let named: Vec<u64> = remains.members.iter().filter(|m| m.member.name == config.name).map(|m| m.id).collect();
    let [node_id] = named[..] else {
        bail!(
            "{lost}; of the members in {folder}, {} are named {}, as the configuration says: put identity.json back from a \
             copy",
            named.len(),
            config.name
        );
    };
    let view = View::new(remains.state.clone());
    let secret = view.get(&secret_key()).context("the state lacks the cluster's authority")?;
    let cluster_id = pki::cluster_of(&authority(&secret.value()).credential.certificate)?;
    eprintln!("{lost}: by {folder}, this is {} (id {node_id:x}) of cluster {cluster_id}, epoch {epoch}", config.name);
    Ok((Identity { cluster_id, node_id, name: config.name.clone(), epoch }, remains, true))
}

fn read(dir: &DataDir, folder: &str) -> Result<Remains> {
    let path = dir.path(folder);
    let disk = RocksDisk::open_read_only(&path).map_err(|error| match error {
        OpenError::Rocks { .. } | OpenError::Damaged { .. } | OpenError::LostTail { .. } => lost(error.into()),
        OpenError::Io { ref source, .. } if source.kind() == std::io::ErrorKind::InvalidData => lost(error.into()),
        OpenError::Processor | OpenError::Full { .. } | OpenError::Io { .. } | OpenError::Earlier { .. } => {
            error.into()
        }
    })?;
    let reading = |error: std::io::Error| {
        let is_damaged = error.kind() == std::io::ErrorKind::InvalidData;
        let error = anyhow::Error::from(error).context(format!("reading {}", path.display()));
        if is_damaged { lost(error) } else { error }
    };
    read_remains(Arc::new(disk)).map_err(reading)
}

/// Not said of what can be helped, as a full disk or an older build: a sound survivor is not to be given up.
fn lost(error: anyhow::Error) -> anyhow::Error {
    error.context("this survivor cannot be recovered from; try another one, or `balsa backup restore`")
}

fn read_report(path: &std::path::Path, identity: &Identity) -> Result<Survivor> {
    let told = || format!("--other {}: not what `balsa recover --report` prints", path.display());
    let text = std::fs::read_to_string(path).with_context(|| format!("--other {}", path.display()))?;
    let report: objects::Value = serde_json::from_str(&text).with_context(told)?;
    if report["cluster"] != identity.group().as_str() {
        bail!("--other {}: a survivor of another group ({})", path.display(), report["cluster"]);
    }
    serde_json::from_value(report["survivor"].clone()).with_context(told)
}

/// A name that is mistyped here is one that nobody looks at.
fn check_names(args: &Args, identity: &Identity, remains: &Remains, others: &[Survivor]) -> Result<()> {
    let members: Vec<&str> = remains.members.iter().map(|m| m.member.name.as_str()).collect();
    for name in &args.gone {
        if *name == identity.name {
            bail!("--gone {name}: that is this survivor; name others");
        }
        if !members.contains(&name.as_str()) {
            bail!("--gone {name}: no member is named so; there are {}", members.join(", "));
        }
    }
    let mut seen = BTreeSet::from([identity.node_id]);
    for (path, other) in args.other.iter().zip(others) {
        if other.id == identity.node_id {
            bail!("--other {}: that is this survivor's own report; it is read anyway", path.display());
        }
        if !seen.insert(other.id) {
            bail!("--other {}: {} was given already", path.display(), other.name);
        }
    }
    Ok(())
}

/// What a member's address says.
enum Answer {
    /// The last log entry of a master of this group.
    Status(u64),
    /// Something takes connections there, and does not answer as a master of this group; why.
    Strange(String),
    /// Nobody takes a connection; why.
    Nothing(String),
}

struct Heard {
    id: u64,
    name: String,
    what: Answer,
}

/// Asks the other members. An error when this group is replaced already.
fn ask(dir: &DataDir, identity: &Identity, remains: &Remains, papers: &Papers) -> Result<Vec<Heard>> {
    let Papers { credential, ca, .. } = papers;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let others = remains.members.iter().filter(|m| m.id != identity.node_id);
    let asked = others.map(async |m| {
        let asking = async {
            let channel = join::channel(&m.member.api_addr, Some(credential), ca).await?;
            anyhow::Ok(ClusterClient::new(channel).status(pb::StatusRequest {}).await?.into_inner())
        };
        let status = match tokio::time::timeout(ANSWER_MAX, asking).await {
            Ok(Ok(status)) if status.cluster_id == identity.cluster_id => return (m, Ok(status)),
            Ok(Ok(_)) => "it is of another cluster".into(),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("no answer within {} s", ANSWER_MAX.as_secs()),
        };
        // A master that is ill, or that this machine cannot speak with, is not one that is gone.
        let takes = futures::future::join(is_open(&m.member.api_addr), is_open(&m.member.peer_addr)).await;
        (m, Err(if takes.0 || takes.1 { Answer::Strange(status) } else { Answer::Nothing(status) }))
    });
    let answers = runtime.block_on(futures::future::join_all(asked));
    let mut all = Vec::new();
    for (m, answer) in answers {
        let what = match answer {
            Err(what) => what,
            Ok(status) if status.epoch > identity.epoch => bail!(
                "this group (epoch {}) is replaced already, by epoch {}, which {} serves: empty {} and join it with a \
                 token",
                identity.epoch,
                status.epoch,
                status.answered_by,
                dir.0.display()
            ),
            Ok(status) if status.epoch == identity.epoch => Answer::Status(status.last_index),
            Ok(status) => Answer::Strange(format!("it is of epoch {}, which came before", status.epoch)),
        };
        all.push(Heard { id: m.id, name: m.member.name.clone(), what });
    }
    Ok(all)
}

/// Whether anything takes a connection there.
async fn is_open(addr: &str) -> bool {
    let connected = tokio::time::timeout(ANSWER_MAX, tokio::net::TcpStream::connect(addr)).await;
    matches!(connected, Ok(Ok(_)))
}

fn tell(output: Format, identity: &Identity, remains: &Remains, others: &[Survivor], heard: &[Heard]) {
    let (last, committed) = (remains.last, remains.committed);
    say(output, format_args!("cluster {}, epoch {}", identity.cluster_id, identity.epoch));
    say(output, format_args!("{:<14} {:<8} {:<9} last log entry", "NAME", "ROLE", "STATE"));
    for m in &remains.members {
        let role = if m.voter { "voter" } else { "learner" };
        let known = others.iter().find(|other| other.id == m.id);
        let (state, entry) = match (known, heard.iter().find(|heard| heard.id == m.id).map(|heard| &heard.what)) {
            _ if m.id == identity.node_id => ("this one", format!("term {}, entry {}", last.term, last.index)),
            (Some(other), _) => ("stopped", format!("term {}, entry {}", other.term, other.index)),
            (None, Some(Answer::Status(index))) => ("answers", format!("entry {index}")),
            (None, Some(Answer::Strange(_))) => ("strange", "unknown".into()),
            (None, Some(Answer::Nothing(_)) | None) => ("silent", "unknown".into()),
        };
        say(output, format_args!("{:<14} {role:<8} {state:<9} {entry}", m.member.name));
    }
    for heard in heard {
        if let Answer::Strange(why) | Answer::Nothing(why) = &heard.what {
            say(output, format_args!("{}: {why}", heard.name));
        }
    }
    let stamp = View::new(remains.state.clone()).stamp();
    say(
        output,
        format_args!(
            "this survivor: {} objects at revision {}, last written {}; known to be committed up to entry {}; its vote is \
         of term {}{}",
            View::new(remains.state.clone()).n_objects(),
            remains.state.revision(),
            stamp.rfc3339(),
            committed.index,
            remains.vote.term,
            if remains.vote_committed { "" } else { ", for a candidate" },
        ),
    );
}

fn confirm(yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        bail!("nobody is there to be asked; say --yes to go on all the same");
    }
    eprint!("Make sure that the other masters are off, and stay so. Go on? (yes/no) ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    if answer.trim() != "yes" {
        bail!("nothing was changed");
    }
    Ok(())
}

/// Where the new group's revisions go on: the lost masters may have issued some that this one never saw. Of the two clocks
/// that tell since when, the leaders' that stamped what it holds may have been ahead, and this machine's wrong.
fn begins(dir: &DataDir, old: &Identity, remains: &Remains, skip: u64) -> Result<Revision> {
    let stamp = View::new(remains.state.clone()).stamp();
    let used = RocksDisk::last_used(&dir.path(&old.raft_dir())).ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let used = used.and_then(|since| i64::try_from(since.as_millis()).ok()).map(Timestamp);
    next_revision(remains.state.revision(), used.map_or(stamp, |used| used.min(stamp)), skip)
}

/// Makes the new group beside the old one, and then the identity that names it.
fn refound(
    dir: &DataDir,
    config: &MasterConfig,
    old: &Identity,
    remains: &Remains,
    papers: &Papers,
    begins: Revision,
) -> Result<Identity> {
    let state = &remains.state;
    let identity = Identity {
        // Another id too: nothing that was meant for the old master is meant for this one.
        node_id: stdx::Rng::new(crate::seed()).next_u64() >> 11,
        epoch: epoch_after(old.epoch, crate::now()),
        ..old.clone()
    };
    dir.sweep(&old.raft_dir())?;
    let disk = Arc::new(fresh(dir)?);
    let mut founding = Founding::on(disk.clone());
    for record in state.records_after(None) {
        founding.row(&record.key, snapshot::record_bytes(record)).with_context(|| unchanged(dir))?;
    }
    let head = snapshot::rebase(&snapshot::head_bytes(state), begins)?;
    let own = config.member();
    founding.finish(identity.node_id, own, head).with_context(|| unchanged(dir))?;
    settle(dir, disk, &identity, || match papers.issued {
        Some(_) => dir.save_credential("master", &papers.credential, &papers.ca),
        None => Ok(()),
    })?;
    Ok(identity)
}
