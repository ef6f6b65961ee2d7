//! The certificates of machines are issued anew before they end: a master's out of the state, which holds the cluster's
//! authority, a worker's by a master. So nobody has to think of them, and a master that was off for longer than one lasts
//! comes back with its next start.
//!
//! Listeners and connections take the files as they are when they need them (`master::tls_source`). What is of use is
//! never given up for what is not.

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

/// Between two looks, of which one that finds nothing to do costs two reads and a signature's check. A certificate is
/// issued anew when half of its 90 days are over.
const EVERY: Duration = Duration::from_secs(60);
/// One master's time to sign: the next may be better.
const ISSUED_WITHIN: Duration = Duration::from_secs(10);

/// What a machine shows others.
struct Own {
    credential: Credential,
    ca: String,
}

impl Own {
    fn read(dir: &DataDir, role: Role) -> Result<Own> {
        Ok(Own { credential: dir.credential(role.name())?, ca: dir.ca()? })
    }

    fn is_valid(&self, now: SystemTime) -> bool {
        pki::tls::check(&self.credential, &self.ca, now).is_ok()
    }

    /// Why its certificate is to be issued anew, if it is.
    fn stale(&self, names: &[String], now: SystemTime) -> Option<String> {
        if let Err(error) = pki::tls::check(&self.credential, &self.ca, now) {
            return Some(format!("the certificate is not valid: {error}"));
        }
        let held = pki::alt_names_of(&self.credential.certificate).unwrap_or_default();
        // As an address it has one spelling, as a name none that matters.
        let canonical =
            |name: &String| name.parse::<IpAddr>().map_or_else(|_| name.to_lowercase(), |ip| ip.to_string());
        let held: Vec<String> = held.iter().map(canonical).collect();
        if let Some(name) = names.iter().find(|name| !held.contains(&canonical(name))) {
            return Some(format!("the certificate is not for {name} yet"));
        }
        let is_old = pki::renew_at(&self.credential.certificate).is_ok_and(|at| at <= now);
        is_old.then(|| "half of the certificate's time is over".into())
    }
}

/// A master's, by whose word others take it for one.
pub(crate) struct Papers {
    pub(crate) credential: Credential,
    pub(crate) ca: String,
    /// Why they were issued just now; they are not in the data folder yet.
    pub(crate) issued: Option<String>,
    /// Why they could not be, though it is time: those of the folder are still valid.
    failed: Option<anyhow::Error>,
}

/// Those of the data folder, or, where they are of no use any more, new ones out of the state. Fails where there are none
/// that are valid.
pub(crate) fn papers(dir: &DataDir, config: &MasterConfig, view: &View) -> Result<Papers> {
    dir.complete(Role::Master.name())?;
    let (names, now) = (config.alt_names(), SystemTime::now());
    let (own, why) = match Own::read(dir, Role::Master) {
        Ok(own) => {
            let why = own.stale(&names, now);
            (Some(own), why)
        }
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    let of = |Own { credential, ca }: Own, issued, failed| Papers { credential, ca, issued, failed };
    match (own, why) {
        (Some(own), None) => Ok(of(own, None, None)),
        (own, why) => match issued(dir, config, view, now) {
            Ok(new) => Ok(of(new, why, None)),
            Err(error) => match own.filter(|own| own.is_valid(now)) {
                Some(own) => Ok(of(own, None, Some(error))),
                None => Err(error.context(why.unwrap_or_default())),
            },
        },
    }
}

/// By the authority in the state, which must be the one that this master and all others know.
fn issued(dir: &DataDir, config: &MasterConfig, view: &View, now: SystemTime) -> Result<Own> {
    let secret = view.get(&secret_key()).context("the state lacks the cluster's authority")?;
    let authority = authority(&secret.value());
    let ca = match dir.ca() {
        Ok(own) if pki::cluster_of(&own).is_ok() => own,
        Ok(_) | Err(_) => authority.credential.certificate.clone(),
    };
    let own = Own { credential: authority.issue(Role::Master, &config.name, &config.alt_names())?, ca };
    match own.is_valid(now) {
        true => Ok(own),
        false => {
            bail!("the Secret kube-system/balsa-cluster holds another authority than {}", dir.path("ca.crt").display())
        }
    }
}

/// Has a master's certificate in its folder be one that is valid, and will be for long. An error when it could not be issued
/// anew.
pub(crate) fn of_master(dir: &DataDir, config: &MasterConfig, view: &View) -> Result<()> {
    let Papers { credential, ca, issued, failed } = papers(dir, config, view)?;
    if let Some(why) = issued {
        dir.save_credential(Role::Master.name(), &credential, &ca)?;
        tracing::info!("this master has a new certificate: {why}");
    }
    failed.map_or(Ok(()), Err)
}

/// Keeps a master's certificate valid, for ever.
pub(crate) async fn keep_master(dir: DataDir, config: MasterConfig, store: Store) {
    let mut told = Told::default();
    loop {
        tokio::time::sleep(EVERY).await;
        told.take("master", of_master(&dir, &config, &store.view()));
    }
}

/// What was said last: what stays as it is is not said again.
#[derive(Default)]
struct Told(String);

impl Told {
    fn take(&mut self, role: &str, outcome: Result<()>) {
        let why = outcome.err().map_or_else(String::new, |error| format!("{error:#}"));
        if !why.is_empty() && why != self.0 {
            tracing::warn!("this {role}'s certificate is not issued anew yet: {why}");
        }
        self.0 = why;
    }
}

/// Keeps a worker's certificate valid, for ever.
pub(crate) async fn keep_worker(dir: DataDir, config: WorkerConfig) {
    let mut told = Told::default();
    loop {
        told.take("worker", of_worker(&dir, &config).await);
        tokio::time::sleep(EVERY).await;
    }
}

/// By the first master that does it: with the certificate that is to be replaced, or, where that is of no use any more,
/// with the token.
async fn of_worker(dir: &DataDir, config: &WorkerConfig) -> Result<()> {
    dir.complete(Role::Worker.name())?;
    let (own, now) = (Own::read(dir, Role::Worker), SystemTime::now());
    let why = match &own {
        Ok(own) => own.stale(&[], now),
        Err(error) => Some(format!("{error:#}")),
    };
    let Some(why) = why else { return Ok(()) };
    let valid = own.ok().filter(|own| own.is_valid(now));
    let mut refusals = Vec::new();
    for server in &config.masters {
        let asked = async {
            match (&valid, &config.token) {
                (Some(own), _) => {
                    join::renew(dir, server, &own.credential, &own.ca, Role::Worker, &config.name).await.map(drop)
                }
                (None, Some(token)) => {
                    let via = Join::new(server.clone(), token.clone());
                    join::join(dir, &via, Role::Worker, &config.name, &[]).await.map(drop)
                }
                (None, None) => bail!("set token in its configuration (`balsa token` on a running cluster prints it)"),
            }
        };
        let late = || Err(anyhow::anyhow!("no answer within {} s", ISSUED_WITHIN.as_secs()));
        match tokio::time::timeout(ISSUED_WITHIN, asked).await.unwrap_or_else(|_| late()) {
            Ok(()) => {
                tracing::info!("this worker has a new certificate: {why}");
                return Ok(());
            }
            Err(error) => refusals.push(format!("{server}: {error:#}")),
        }
    }
    bail!("{why}; {}", refusals.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use objects::{json, record};
    use pki::Authority;
    use state::{LeaderId, Op, State, Txn};

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
        let told = |credential: Credential, days: u32, names: &[&str]| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            Own { credential, ca: ca.clone() }.stale(&names, SystemTime::now() + DAY * days).unwrap_or_default()
        };
        let own = issued(&["10.0.0.1", "fd00::1", "m1"]);
        assert_eq!(told(own.clone(), 0, &["10.0.0.1"]), "");
        assert_eq!(told(own.clone(), 44, &["fd00:0::1", "M1"]), "");
        assert_eq!(told(own.clone(), 46, &[]), "half of the certificate's time is over");
        assert!(told(own.clone(), 91, &[]).contains("not valid"));
        assert_eq!(told(own.clone(), 0, &["10.0.0.2"]), "the certificate is not for 10.0.0.2 yet");
        let foreign = Authority::generate("c").unwrap().issue(Role::Master, "m1", &[]).unwrap();
        assert!(told(foreign, 0, &[]).contains("not valid"));
        let mixed = Credential { key: issued(&[]).key, ..own.clone() };
        assert!(told(mixed, 0, &[]).contains("not valid"));
        assert!(told(Credential { certificate: "garbage".into(), ..own }, 0, &[]).contains("not valid"));
    }
    #[test]
    fn a_clock_that_was_ahead_and_is_set_right_leaves_it_valid() {
        pki::tls::install_provider();
        let authority = Authority::generate("c").unwrap();
        let ca = authority.credential.certificate.clone();
        let ahead = SystemTime::now() + DAY * 4_000;
        let own = Own { credential: authority.issue_as_of(ahead, Role::Master, "m1", &[]).unwrap(), ca };
        assert!(own.is_valid(SystemTime::now()) && own.is_valid(ahead));
        assert_eq!(own.stale(&[], SystemTime::now()), None);
        assert!(own.is_valid(SystemTime::now() - DAY * 4_000), "of a clock that is behind nothing is known");
    }

    /// What somebody wrote into the Secret by mistake is not taken for the authority.
    #[test]
    fn another_authority_in_the_state_changes_nothing() {
        pki::tls::install_provider();
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::create(home.path()).unwrap();
        let file = home.path().join("m1.yaml");
        std::fs::write(&file, "{name: m1, dataDir: /d, address: 10.0.0.1}").unwrap();
        let config = MasterConfig::load(&file).unwrap();
        let authority = Authority::generate("c").unwrap();
        let ca = authority.credential.certificate.clone();
        let days_ago = |days| SystemTime::now() - DAY * days;
        let own = |days| authority.issue_as_of(days_ago(days), Role::Master, "m1", &config.alt_names()).unwrap();
        let view = |of: &Authority| {
            let data = json!({"ca.crt": STANDARD.encode(&of.credential.certificate), "ca.key": STANDARD.encode(&of.credential.key)});
            let object =
                json!({"metadata": {"name": secret_key().name, "namespace": secret_key().namespace}, "data": data});
            let create = Op::Create { key: secret_key(), object: record::encode(&object) };
            let mut state = State::new();
            state.apply(LeaderId::default(), &Txn { ops: vec![create], ..Txn::default() });
            View::new(state)
        };
        let foreign = Authority::generate("c").unwrap();
        let kept = |days, of: &Authority| {
            dir.save_credential("master", &own(days), &ca).unwrap();
            papers(&dir, &config, &view(of)).map(|papers| papers.issued.unwrap_or_default())
        };
        assert_eq!(kept(1, &foreign).unwrap(), "");
        assert_eq!(kept(50, &foreign).unwrap(), "", "half over, and better than none");
        let why = format!("{:#}", kept(100, &foreign).unwrap_err());
        assert!(why.contains("not valid") && why.contains("holds another authority"), "{why}");
        assert!(kept(50, &authority).unwrap().starts_with("half of"));
        assert!(kept(100, &authority).unwrap().contains("not valid"));
        dir.remove("master.key").unwrap();
        of_master(&dir, &config, &view(&authority)).unwrap();
        dir.remove("ca.crt").unwrap();
        of_master(&dir, &config, &view(&authority)).unwrap();
        assert!(Own::read(&dir, Role::Master).unwrap().is_valid(SystemTime::now()));
    }
}
