//! `balsa recover`: a survivor of a group whose majority is gone becomes a group of its own.
//!
//! It begins another epoch, as a restore does: masters of the old group that come back are refused by the
//! new one, and end when they meet it. Nothing of the survivor is changed until the identity, written
//! last, names the new state; interrupted at any moment, it can be run again or left.

mod verdict;

use crate::backup::{UNBORN, settle};
use crate::config::MasterConfig;
use crate::files::{DataDir, Identity};
use crate::join;
use crate::output::Format;
use anyhow::{Context, Result, bail};
use objects::json;
use protos::cluster as pb;
use protos::cluster::cluster_client::ClusterClient;
use raft_disk::{OpenError, RocksDisk};
use raft_node::{Founding, Remains, read_remains};
use state::backup::{epoch_after, revision_after};
use state::{View, snapshot};
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
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
    #[arg(long)]
    report: bool,
    /// What another stopped survivor printed with --report; may be given several times.
    #[arg(long)]
    other: Vec<PathBuf>,
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
    let Some(identity) = dir.identity_of(&config.name)? else {
        bail!("{} holds no master: it is no survivor", dir.0.display());
    };
    let remains = read(&dir, &identity)?;
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
    let answering = ask(&dir, &identity, &remains)?;
    let output = args.output;
    tell(output, &identity, &remains, &others, &answering);
    let facts = Facts { own, voters: remains.voters.clone(), others, answering };
    let may_be_lost = match verdict(&facts) {
        Verdict::Alone => {
            let name = &identity.name;
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
    let next = refound(&dir, &config, &identity, &remains)?;
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

fn read(dir: &DataDir, identity: &Identity) -> Result<Remains> {
    let path = dir.path(&identity.raft_dir());
    let disk = RocksDisk::open_read_only(&path).map_err(|error| match error {
        OpenError::Rocks { .. } | OpenError::LostTail { .. } => lost(error.into()),
        OpenError::Full { .. } | OpenError::Io { .. } | OpenError::Earlier { .. } => error.into(),
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

/// The other members that answer: id, name and last log entry. An error when this group is replaced already.
fn ask(dir: &DataDir, identity: &Identity, remains: &Remains) -> Result<Vec<(u64, String, u64)>> {
    let (credential, ca) = (dir.credential("master")?, dir.ca()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let others = remains.members.iter().filter(|m| m.id != identity.node_id);
    let asked = others.map(async |m| {
        let asking = async {
            let channel = join::channel(&m.member.api_addr, Some(&credential), &ca).await?;
            anyhow::Ok(ClusterClient::new(channel).status(pb::StatusRequest {}).await?.into_inner())
        };
        let status = tokio::time::timeout(ANSWER_MAX, asking).await.ok()?.ok()?;
        (status.cluster_id == identity.cluster_id).then_some((m, status))
    });
    let answers = runtime.block_on(futures::future::join_all(asked));
    let mut answering = Vec::new();
    for (m, status) in answers.into_iter().flatten() {
        if status.epoch > identity.epoch {
            bail!(
                "this group (epoch {}) is replaced already, by epoch {}, which {} serves: empty {} and join it with a \
                 token",
                identity.epoch,
                status.epoch,
                status.answered_by,
                dir.0.display()
            );
        }
        if status.epoch == identity.epoch {
            answering.push((m.id, m.member.name.clone(), status.last_index));
        }
    }
    Ok(answering)
}

fn tell(output: Format, identity: &Identity, remains: &Remains, others: &[Survivor], answering: &[(u64, String, u64)]) {
    let (last, committed) = (remains.last, remains.committed);
    say(output, format_args!("cluster {}, epoch {}", identity.cluster_id, identity.epoch));
    say(output, format_args!("{:<14} {:<8} {:<9} last log entry", "NAME", "ROLE", "STATE"));
    for m in &remains.members {
        let role = if m.voter { "voter" } else { "learner" };
        let known = others.iter().find(|other| other.id == m.id);
        let answers = answering.iter().find(|(id, ..)| *id == m.id);
        let (state, entry) = match (known, answers) {
            _ if m.id == identity.node_id => ("this one", format!("term {}, entry {}", last.term, last.index)),
            (Some(other), _) => ("stopped", format!("term {}, entry {}", other.term, other.index)),
            (None, Some((_, _, index))) => ("answers", format!("entry {index}")),
            (None, None) => ("silent", "unknown".into()),
        };
        say(output, format_args!("{:<14} {role:<8} {state:<9} {entry}", m.member.name));
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

/// Makes the new group beside the old one, and then the identity that names it.
fn refound(dir: &DataDir, config: &MasterConfig, old: &Identity, remains: &Remains) -> Result<Identity> {
    let now = crate::now();
    let state = &remains.state;
    let identity = Identity {
        // Another id too: nothing that was meant for the old master is meant for this one.
        node_id: stdx::Rng::new(crate::seed()).next_u64() >> 11,
        epoch: epoch_after(old.epoch, now),
        ..old.clone()
    };
    dir.sweep(&old.raft_dir())?;
    let disk = Arc::new(RocksDisk::open(&dir.path(UNBORN))?);
    let mut founding = Founding::on(disk.clone());
    for record in state.records_after(None) {
        founding.row(&record.key, snapshot::record_bytes(record))?;
    }
    // The lost masters may have issued revisions that this one never saw.
    let begins = revision_after(state.revision(), View::new(state.clone()).stamp(), now);
    let head = snapshot::rebase(&snapshot::head_bytes(state), begins)?;
    let own = config.member();
    founding.finish(identity.node_id, own, head)?;
    settle(dir, disk, &identity, || Ok(()))?;
    Ok(identity)
}
