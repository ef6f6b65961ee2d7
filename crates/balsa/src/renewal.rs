//! Certificates are issued anew before they end: a master's out of the state, which holds the cluster's authority, a
//! worker's by a master. So a cluster that runs for years has nobody's certificate end, and a master that was off for
//! longer than one lasts comes back with its next start.
//!
//! Listeners and connections take the files as they are when they need them (`master::tls_source`).

use crate::cluster_service::{authority, secret_key};
use crate::config::{Join, MasterConfig, WorkerConfig};
use crate::files::DataDir;
use crate::join;
use anyhow::{Context, Result, bail};
use authz::Role;
use pki::Credential;
use state::View;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};
use store::Store;

/// Between two looks. A certificate is issued anew when half of its 90 days are over.
const EVERY: Duration = Duration::from_secs(3600);
/// After a look that found no master to issue one.
const RETRY: Duration = Duration::from_secs(60);

/// Why this certificate is to be issued anew, if it is.
fn stale(credential: &Result<Credential>, ca: &str, names: &[String], now: SystemTime) -> Option<String> {
    let credential = match credential {
        Ok(credential) => credential,
        Err(error) => return Some(format!("{error:#}")),
    };
    if let Err(error) = pki::tls::check(credential, ca, now) {
        return Some(format!("the one there is is not valid: {error}"));
    }
    let held = pki::alt_names_of(&credential.certificate).unwrap_or_default();
    // As an address it has one spelling, as a name none that matters.
    let canonical = |name: &String| name.parse::<IpAddr>().map_or_else(|_| name.to_lowercase(), |ip| ip.to_string());
    let held: Vec<String> = held.iter().map(canonical).collect();
    if let Some(name) = names.iter().find(|name| !held.contains(&canonical(name))) {
        return Some(format!("it is not for {name} yet"));
    }
    let is_old = pki::renew_at(&credential.certificate).is_ok_and(|at| at <= now);
    is_old.then(|| "half of its time is over".into())
}

/// A master's credential, and whether it was issued just now and is in the data folder yet.
pub(crate) struct Papers {
    pub(crate) credential: Credential,
    pub(crate) ca: String,
    pub(crate) is_new: bool,
}

/// Those of the data folder, or, where they are of no use any more, new ones out of the state. Of a state without the
/// authority, as before a join is done, those of the folder.
pub(crate) fn papers(dir: &DataDir, config: &MasterConfig, view: &View) -> Result<Papers> {
    let own = dir.credential(Role::Master.name());
    let Some(secret) = view.get(&secret_key()) else {
        return Ok(Papers { credential: own?, ca: dir.ca()?, is_new: false });
    };
    let authority = authority(&secret.value());
    let ca = authority.credential.certificate.clone();
    let names = config.alt_names();
    let is_own_ca = dir.ca().is_ok_and(|own| own.trim() == ca.trim());
    let why = match stale(&own, &ca, &names, SystemTime::now()) {
        None if !is_own_ca => Some("ca.crt is not the authority's".into()),
        why => why,
    };
    match (why, own) {
        (None, Ok(credential)) => Ok(Papers { credential, ca, is_new: false }),
        (why, _) => {
            tracing::info!(why, "this master's certificate is issued anew");
            let credential = authority.issue(Role::Master, &config.name, &names)?;
            Ok(Papers { credential, ca, is_new: true })
        }
    }
}

/// Has a master's certificate in its folder be one that is valid, of what the state says now.
pub(crate) fn of_master(dir: &DataDir, config: &MasterConfig, view: &View) -> Result<()> {
    let papers = papers(dir, config, view)?;
    match papers.is_new {
        true => dir.save_credential(Role::Master.name(), &papers.credential, &papers.ca),
        false => Ok(()),
    }
}

/// Keeps a master's certificate valid, for ever.
pub(crate) async fn keep_master(dir: DataDir, config: MasterConfig, store: Store) {
    loop {
        tokio::time::sleep(EVERY).await;
        if let Err(error) = of_master(&dir, &config, &store.view()) {
            tracing::error!("this master's certificate cannot be issued anew: {error:#}");
        }
    }
}

/// Keeps a worker's certificate valid, for ever.
pub(crate) async fn keep_worker(dir: DataDir, config: WorkerConfig) {
    loop {
        let pause = match of_worker(&dir, &config).await {
            Ok(()) => EVERY,
            Err(error) => {
                tracing::error!("this worker's certificate cannot be issued anew: {error:#}");
                RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// By the first master that does it: with the certificate that is to be replaced, or, where that is of no use any more,
/// with the token.
async fn of_worker(dir: &DataDir, config: &WorkerConfig) -> Result<()> {
    let (own, ca) = (dir.credential(Role::Worker.name()), dir.ca()?);
    let Some(why) = stale(&own, &ca, &[], SystemTime::now()) else { return Ok(()) };
    tracing::info!(why, "this worker's certificate is issued anew");
    let valid = own.ok().filter(|own| pki::tls::check(own, &ca, SystemTime::now()).is_ok());
    let mut refusals = Vec::new();
    for server in &config.masters {
        let issued = match (&valid, &config.token) {
            (Some(own), _) => join::renew(dir, server, own, &ca, Role::Worker, &config.name).await.map(drop),
            (None, Some(token)) => {
                let via = Join::new(server.clone(), token.clone());
                join::join(dir, &via, Role::Worker, &config.name, &[]).await.map(drop)
            }
            (None, None) => bail!("set token in its configuration (`balsa token` on a running cluster prints it)"),
        };
        match issued {
            Ok(()) => return Ok(()),
            Err(error) => refusals.push(format!("{server}: {error:#}")),
        }
    }
    Err(anyhow::anyhow!("{}", refusals.join("; "))).context("no master did it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use pki::Authority;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn a_certificate_is_issued_anew_once_it_is_of_no_use_or_half_over() {
        pki::tls::install_provider();
        let authority = Authority::generate("c").unwrap();
        let ca = &authority.credential.certificate;
        let issued = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            authority.issue(Role::Master, "m1", &names).unwrap()
        };
        let told = |own: Result<Credential>, days: u32, names: &[&str]| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            stale(&own, ca, &names, SystemTime::now() + DAY * days).unwrap_or_default()
        };
        let own = issued(&["10.0.0.1", "fd00::1", "m1"]);
        assert_eq!(told(Ok(own.clone()), 0, &["10.0.0.1"]), "");
        assert_eq!(told(Ok(own.clone()), 44, &["fd00:0::1", "M1"]), "");
        assert_eq!(told(Ok(own.clone()), 46, &[]), "half of its time is over");
        assert!(told(Ok(own.clone()), 91, &[]).contains("not valid"));
        assert_eq!(told(Ok(own.clone()), 0, &["10.0.0.2"]), "it is not for 10.0.0.2 yet");
        let foreign = Authority::generate("c").unwrap().issue(Role::Master, "m1", &[]).unwrap();
        assert!(told(Ok(foreign), 0, &[]).contains("not valid"));
        let mixed = Credential { key: issued(&[]).key, ..own.clone() };
        assert!(told(Ok(mixed), 0, &[]).contains("not valid"));
        assert!(told(Ok(Credential { certificate: "garbage".into(), ..own }), 0, &[]).contains("not valid"));
        assert_eq!(told(Err(anyhow::anyhow!("it is gone")), 0, &[]), "it is gone");
    }
}
