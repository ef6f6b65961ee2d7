//! `balsa members`: shows and changes the group of masters.

use crate::config;
use crate::output::Format;
use crate::verbs::{self, Where};
use anyhow::{Result, bail};
use clap::Subcommand;
use client::Access;
use objects::{ValueExt, json};
use protos::cluster as pb;
use protos::cluster::cluster_client::ClusterClient;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;
use tonic::transport::Channel;

/// Longer than the master takes to say that a learner does not catch up.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// The members, their roles and their lag.
    List {
        #[command(flatten)]
        at: Where,
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Prints the configuration with which a new master joins: run `balsa master --config` with it.
    Add(Add),
    /// Makes a learner a voter, once it has caught up, in the place of a lost member of its name.
    Promote {
        /// A learner's name or id.
        name: String,
        #[command(flatten)]
        at: Where,
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Takes a member out. Refused when those that are left would have no quorum.
    Remove {
        /// A member's name or id.
        name: String,
        #[command(flatten)]
        at: Where,
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Puts a learner in the place of a voter, in one change.
    Replace {
        /// A voter's name or id.
        old: String,
        /// A learner's name or id, as `add --learner` makes one.
        new: String,
        /// Also while the old one answers.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        at: Where,
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Hands leadership over.
    Transfer {
        /// A voter's name or id; by default the one that answers and whose log is nearest.
        #[arg(default_value = "")]
        to: String,
        #[command(flatten)]
        at: Where,
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}

/// What the configuration of a new master says.
#[derive(clap::Args)]
pub(crate) struct Add {
    /// The new master's name.
    name: String,
    /// The address other machines reach it at.
    #[arg(long)]
    address: String,
    #[arg(long, default_value_t = 6443)]
    api_port: u16,
    #[arg(long, default_value_t = 6444)]
    peer_port: u16,
    #[arg(long, default_value = "/var/lib/balsa")]
    data_dir: PathBuf,
    /// It stays a learner, which does not vote, until it is promoted.
    #[arg(long)]
    learner: bool,
    /// A member that is gone, by name or id, in whose place it comes.
    #[arg(long, default_value = "")]
    replaces: String,
    #[command(flatten)]
    at: Where,
}

impl Add {
    /// What is wrong whatever members there are; the address and the data folder as they are written.
    fn check(&self) -> Result<(String, &str)> {
        let Add { name, address, api_port, peer_port, data_dir, learner, replaces, .. } = self;
        config::check_name(name)?;
        let address = config::bare_address("--address", address)?;
        config::check_ports(["--api-port", "--peer-port"], [*api_port, *peer_port])?;
        if !data_dir.is_absolute() {
            bail!("--data-dir {}: name it from / on, as a service's working folder is another", data_dir.display());
        }
        let Some(data_dir) = data_dir.to_str() else {
            bail!("--data-dir {}: not UTF-8, which a configuration is written in", data_dir.display());
        };
        if *learner && !replaces.is_empty() {
            bail!(
                "--learner: it takes nobody's place yet; leave out --replaces, and say `balsa members replace \
                 {replaces} {name}` once it has caught up"
            );
        }
        Ok((address, data_dir))
    }

    fn run(&self) -> Result<()> {
        let (address, data_dir) = self.check()?;
        let Add { name, api_port, peer_port, learner, replaces, at, .. } = self;
        let access = at.access()?;
        let status = verbs::present_status(&access)?;
        if status.members.iter().any(|member| member.name == *name) {
            bail!("{name} is a member already; a lost disk of it is replaced by starting it anew with a token");
        }
        if !replaces.is_empty() && !named(&status.members, replaces) {
            bail!("--replaces {replaces}: no member is named so; `balsa members list` shows them");
        }
        let [api_addr, peer_addr] = [api_port, peer_port].map(|port| config::host_port(&address, *port));
        let same = |member: &&pb::Member| member.api_addr == api_addr || member.peer_addr == peer_addr;
        if let Some(taken) = status.members.iter().filter(|member| !is_called(member, replaces)).find(same) {
            bail!("--address {address}: {} has that address and port already", taken.name);
        }
        let server = server_to_join(&access, &status);
        let token = verbs::tokens(&access)?.master;
        println!("# The configuration of a new master. Take over `vip`, `profile` and `backup` from another one's.");
        println!("name: {}\ndataDir: {}\naddress: {}", json!(name), json!(data_dir), json!(address));
        println!("apiPort: {api_port}\npeerPort: {peer_port}");
        println!("join:\n  server: {}\n  token: {}", json!(server), json!(token));
        if *learner {
            println!("  learner: true");
        }
        if !replaces.is_empty() {
            println!("  replaces: {}", json!(replaces));
        }
        Ok(())
    }
}

pub(crate) fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::List { at, output } => list(&at, output),
        Verb::Add(add) => add.run(),
        Verb::Promote { name, at, output } => {
            let done = verbs::call_within(&at.access()?, PATIENCE, async |channel| {
                ClusterClient::new(channel).promote_member(pb::PromoteMemberRequest { name: name.clone() }).await
            })?;
            tell(output, &format!("{name} votes"), &done.warning)
        }
        Verb::Remove { name, at, output } => {
            let done = change(
                &at.access()?,
                |members| !named(members, &name),
                async |channel| {
                    ClusterClient::new(channel).remove_member(pb::RemoveMemberRequest { name: name.clone() }).await
                },
            )?;
            let done_so =
                format!("{name} is no longer a member; its process ends, and its data folder is to be removed");
            tell(output, &done_so, &done.warning)
        }
        Verb::Replace { old, new, force, at, output } => {
            let is_done = |members: &[pb::Member]| !named(members, &old) && named(members, &new);
            let done = change(&at.access()?, is_done, async |channel| {
                let request = pb::ReplaceMemberRequest { old: old.clone(), new: new.clone(), force };
                ClusterClient::new(channel).replace_member(request).await
            })?;
            tell(output, &format!("{new} votes in the place of {old}"), &done.warning)
        }
        Verb::Transfer { to, at, output } => {
            let done = verbs::call(&at.access()?, async |channel| {
                ClusterClient::new(channel).transfer_leader(pb::TransferLeaderRequest { to: to.clone() }).await
            })?;
            match output {
                Format::Json => println!("{}", json!({"leader": done.leader, "tookMs": done.took_ms})),
                Format::Text => println!("{} leads, after {} ms", done.leader, done.took_ms),
            }
            Ok(())
        }
    }
}

fn is_called(member: &pb::Member, name: &str) -> bool {
    member.name == name || format!("{:x}", member.id) == name
}

fn named(members: &[pb::Member], name: &str) -> bool {
    members.iter().any(|member| is_called(member, name))
}

/// Asks for a change. A first answer that leaves open whether it was made has the next server asked, which may find it
/// made: that is what was wanted, if it was not so before.
fn change<T: Default>(
    access: &Access,
    is_done: impl Fn(&[pb::Member]) -> bool,
    ask: impl AsyncFn(Channel) -> Result<tonic::Response<T>, tonic::Status>,
) -> Result<T> {
    let was_done = is_done(&verbs::present_status(access)?.members);
    let n_asked = Cell::new(0);
    let done = verbs::call_within(access, PATIENCE, async |channel| {
        n_asked.set(n_asked.get() + 1);
        ask(channel).await
    });
    let is_repeated = done.is_err() && n_asked.get() > 1 && !was_done;
    match is_repeated && verbs::present_status(access).is_ok_and(|status| is_done(&status.members)) {
        true => Ok(T::default()),
        false => done,
    }
}

/// Where a new master finds the cluster: at the kubeconfig's own server when that stands for all masters, as a VIP or a
/// balancer does; else at the leader. (A master's own address may be that of the one that is to be replaced, and a
/// loopback address is another machine's own.)
fn server_to_join(access: &Access, status: &pb::StatusResponse) -> String {
    let is_loopback = |address: &str| config::host_of(address).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let of_all = verbs::stands_for_all(access, status).filter(|address| !is_loopback(address));
    let leader = || status.members.iter().find(|member| member.leader).map(|leader| leader.api_addr.as_str());
    let named = || access.servers.first().map(|server| server.address.as_str());
    of_all.or_else(leader).or_else(named).unwrap_or_default().into()
}

/// The members as the leader tells of them, who alone knows their lag; as any master does when that does
/// not answer. With the ids of those who answered it; none when it could not be asked.
fn told_by_leader(access: Access) -> Result<(pb::StatusResponse, Option<BTreeSet<u64>>)> {
    let mut status = verbs::present_status(&access)?;
    let of = |member: &pb::Member| access.at(&member.api_addr);
    let leader = status.members.iter().find(|member| member.leader && member.name != status.answered_by).map(of);
    if let Some(leader) = leader
        && let Ok(told) = verbs::cluster_status(&leader)
    {
        status = told;
    }
    let teller = status.members.iter().find(|member| member.name == status.answered_by).map_or(access.clone(), of);
    // Members' own addresses may not lead anywhere from here.
    let answering = match verbs::health(&teller).or_else(|_| verbs::health(&access)) {
        Ok(health) => Some(health.members.iter().filter(|member| member.answers).map(|member| member.id).collect()),
        Err(error) => {
            eprintln!("who answers is not known: {error:#}");
            None
        }
    };
    Ok((status, answering))
}

pub(crate) fn list(at: &Where, output: Format) -> Result<()> {
    let (status, answering) = told_by_leader(at.access()?)?;
    match output {
        Format::Json => {
            let mut members = verbs::status_json(&status)["members"].take();
            for (told, member) in members.as_array_mut().into_iter().flatten().zip(&status.members) {
                told.set("answers", json!(answering.as_ref().map(|ids| ids.contains(&member.id))));
            }
            println!("{}", serde_json::to_string_pretty(&members)?);
        }
        Format::Text => verbs::print_members(&status, answering.as_ref()),
    }
    Ok(())
}

fn tell(output: Format, done: &str, warning: &str) -> Result<()> {
    match output {
        Format::Json => println!("{}", json!({"done": done, "warning": warning})),
        Format::Text => {
            println!("{done}");
            if !warning.is_empty() {
                eprintln!("warning: {warning}");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_master_is_sent_to_one_that_answers() {
        let (status, access) = verbs::two_masters();
        let server = |named: &str| server_to_join(&access.at(named), &status);
        assert_eq!(server("m1:6443"), "m2:6443", "m1 may be the one that is gone");
        assert_eq!(server("127.0.0.1:6443"), "m2:6443");
        assert_eq!(server("[::1]:6443"), "m2:6443");
        assert_eq!(server("10.0.0.100:6443"), "10.0.0.100:6443", "a VIP");
        assert_eq!(server_to_join(&access.at("m1:6443"), &pb::StatusResponse::default()), "m1:6443");
    }
}
