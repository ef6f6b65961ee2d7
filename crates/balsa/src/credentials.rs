//! `balsa kubeconfig`: a fresh certificate for an administrator or a reader, in a kubeconfig that names every master.

use crate::config::MasterConfig;
use crate::files::DataDir;
use crate::kubeconfig;
use crate::verbs::{self, Where};
use anyhow::{Context, Result, bail};
use authz::Role;
use client::{Access, Server};
use pki::Credential;
use protos::cluster as pb;
use protos::cluster::certificate_authority_client::CertificateAuthorityClient;
use runtime::files::{Owned, replace_as};
use std::path::{Path, PathBuf};

/// What a kubeconfig calls the address that stands for all masters.
const ALL: &str = "balsa";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// On a master's machine its configuration: the certificate is earned with that master's own. By default with
    /// an administrator's kubeconfig, while that is valid.
    #[arg(long, conflicts_with_all = ["kubeconfig", "dir"])]
    config: Option<PathBuf>,
    /// `admin` may do everything, `reader` sees all but secrets.
    #[arg(long, default_value = "admin", value_parser = ["admin", "reader"])]
    role: String,
    /// Who it is for, as the cluster is to see him: for RBAC, and in logs.
    #[arg(long, default_value = "admin")]
    name: String,
    /// A file for it, which its owner alone can read; by default standard output.
    #[arg(long)]
    out: Option<PathBuf>,
    #[command(flatten)]
    at: Where,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let access = match &args.config {
        Some(config) => of_master(config)?,
        None => args.at.access()?,
    };
    let (key, csr) = pki::signing_request(&args.name, &[])?;
    let request = pb::IssueRequest { token: String::new(), name: args.name.clone(), csr, role: args.role.clone() };
    let issued =
        verbs::call(&access, async |channel| CertificateAuthorityClient::new(channel).issue(request.clone()).await)?;
    let servers = servers(&access, &verbs::present_status(&access)?);
    let current = servers.first().map(|(name, _)| name.clone()).unwrap_or_default();
    let credential = Credential { certificate: issued.certificate, key };
    let document = kubeconfig::document(&servers, &current, &issued.ca, &credential);
    match &args.out {
        None => print!("{document}"),
        Some(path) => {
            replace_as(path, document, Owned { mode: 0o600, group: None })
                .with_context(|| format!("writing {}", path.display()))?;
            let days = pki::VALIDITY.as_secs() / (24 * 3600);
            println!("{}: {} ({}), valid for {days} days", path.display(), args.name, args.role);
        }
    }
    Ok(())
}

/// As the master of this machine.
fn of_master(config: &Path) -> Result<Access> {
    let config = MasterConfig::load(config)?;
    let dir = DataDir(config.data_dir.clone());
    if dir.identity_of(&config.name)?.is_none() {
        bail!("{} holds no master: run this on the machine of one", dir.0.display());
    }
    let Credential { certificate, key } = dir.credential(Role::Master.name())?;
    let mut addresses = vec![config.server(), config.api_addr()];
    addresses.dedup();
    let servers = addresses.into_iter().map(|address| Server { name: address.clone(), address });
    Ok(Access {
        ca: dir.ca()?,
        identity: Some(client::Identity { certificate, key }),
        servers: servers.collect(),
        namespace: None,
    })
}

/// A name and an address each: what stands for all masters first, where there is such a thing, and every master, the
/// one that leads first of them.
fn servers(access: &Access, status: &pb::StatusResponse) -> Vec<(String, String)> {
    let mut members: Vec<&pb::Member> = status.members.iter().collect();
    members.sort_by_key(|member| !member.leader);
    let all = verbs::stands_for_all(access, status).map(|address| (ALL.to_string(), address.to_string()));
    all.into_iter().chain(members.iter().map(|member| (member.name.clone(), member.api_addr.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_master_is_named_and_what_stands_for_all_first() {
        let (status, access) = verbs::two_masters();
        let told = |first: &str| {
            let servers = servers(&access.at(first), &status);
            servers.iter().map(|(name, address)| format!("{name}={address}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(told("m1:6443"), "m2=m2:6443 m1=m1:6443");
        assert_eq!(told("10.0.0.100:6443"), "balsa=10.0.0.100:6443 m2=m2:6443 m1=m1:6443");
    }
}
