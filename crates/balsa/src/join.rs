//! How clusters begin and machines join them.

use crate::config::{self, Join, MasterConfig};
use crate::files::{Bootstrap, DataDir, FIRST_EPOCH, Identity, UNBORN};
use crate::kubeconfig;
use anyhow::{Context, Result, bail};
use authz::Role;
use pki::token::Token;
use pki::{Authority, Credential};
use protos::cluster as pb;
use protos::cluster::certificate_authority_client::CertificateAuthorityClient;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// `balsa init`: makes the cluster's authority, the first master's identity, the join tokens and an
/// administrator's kubeconfig. Explicit and once: an empty master never initializes by itself.
pub(crate) fn init(config: &Path) -> Result<()> {
    let config = MasterConfig::load(config)?;
    let dir = DataDir::create(&config.data_dir)?;
    let _held = dir.hold()?;
    if dir.identity()?.is_some() || dir.raft_folders()?.iter().any(|name| name != UNBORN) {
        bail!("{} already holds a master; a new cluster needs an empty data folder", config.data_dir.display());
    }
    dir.remove_unborn()?;
    let mut rng = stdx::Rng::new(crate::seed());
    let cluster_id = rng.uuid();
    let authority = Authority::generate(&cluster_id)?;
    let ca = authority.credential.certificate.clone();
    let digest = pki::tls::ca_digest(&ca)?;
    let token = |role| Token { role, secret: pki::token::fresh_secret(), ca_digest: digest.clone() }.text();
    let bootstrap = Bootstrap {
        ca_key: authority.credential.key.clone(),
        master_token: token(Role::Master),
        worker_token: token(Role::Worker),
        pod_cidrs: config.pod_network.clone(),
    };
    dir.write(crate::files::BOOTSTRAP, &serde_json::to_string(&bootstrap)?)?;
    first_credentials(&dir, &config, &authority)?;
    // Last: its presence means that the folder is complete.
    let node_id = rng.next_u64() >> 11;
    dir.save_identity(&Identity { cluster_id, node_id, name: config.name.clone(), epoch: FIRST_EPOCH })?;
    println!("A new cluster is ready on {}.", config.name);
    println!("  start it          balsa master --config FILE");
    println!("  administrator     {}", dir.path("admin.kubeconfig").display());
    println!("  another one       balsa kubeconfig --config FILE, on any master's machine");
    println!("  join tokens       balsa token --kubeconfig {}", dir.path("admin.kubeconfig").display());
    Ok(())
}

/// What the first master of a group begins with, issued by the one who holds the authority: its own certificate, and an
/// administrator's kubeconfig.
pub(crate) fn first_credentials(dir: &DataDir, config: &MasterConfig, authority: &Authority) -> Result<()> {
    let ca = &authority.credential.certificate;
    let own = authority.issue(Role::Master, &config.name, &config.alt_names())?;
    dir.save_credential(Role::Master.name(), &own, ca)?;
    let admin = authority.issue(Role::Admin, "admin", &[])?;
    dir.write("admin.kubeconfig", &kubeconfig::document(&[("balsa".into(), config.server())], "balsa", ca, &admin))
}

/// A machine that lost its power says nothing: calls to it end after two of these. (Members that catch up are waited
/// for longer.)
const KEEP_ALIVE: Duration = Duration::from_secs(5);

pub(crate) async fn channel(addr: &str, credential: Option<&Credential>, ca: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("https://{addr}"))?
        .tls_config(pki::tls::tonic_client(credential, ca, config::host_of(addr)))?
        .connect_timeout(Duration::from_secs(2))
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    endpoint.connect().await.with_context(|| format!("connecting to {addr}"))
}

/// Tries again at once for a while, as when all of a cluster starts, then now and then; says each reason once.
#[derive(Default)]
pub(crate) struct Retries {
    n: u32,
    told: BTreeSet<String>,
}

impl Retries {
    const SOON: Duration = Duration::from_millis(500);
    const N_SOON: u32 = 40;
    const LATER: Duration = Duration::from_secs(5);

    pub(crate) fn tell(&mut self, server: &str, error: &anyhow::Error) {
        let why = format!("{server}: {error:#}");
        if self.told.insert(why.clone()) {
            tracing::warn!(why, "cannot join yet; tries on");
        }
    }

    pub(crate) async fn wait(&mut self) {
        self.n = self.n.saturating_add(1);
        tokio::time::sleep(if self.n <= Retries::N_SOON { Retries::SOON } else { Retries::LATER }).await;
    }
}

/// A join that will not get better by trying again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(String);

/// Earns a certificate of the token's role and keeps it in `dir`.
pub(crate) async fn join(
    dir: &DataDir,
    join: &Join,
    role: Role,
    name: &str,
    alt_names: &[String],
) -> Result<pb::IssueResponse> {
    let token = Token::parse(&join.token).map_err(|error| Refused(format!("join.token: {error}")))?;
    if token.role != role {
        let why = format!("the token is for a {}, this is a {}: see `balsa token`", token.role.name(), role.name());
        return Err(Refused(why).into());
    }
    let ca = pki::tls::fetch_ca(&join.server, &token.ca_digest).await.map_err(|error| match error {
        pki::Error::OtherCluster(_) => {
            Refused(format!("{error}: see join.server and join.token (`balsa token` prints those of a cluster)")).into()
        }
        error => anyhow::Error::from(error),
    })?;
    let channel = channel(&join.server, None, &ca).await?;
    earn(dir, (&join.server, channel), &join.token, role, name, alt_names).await
}

/// Has the certificate in `dir`, which is still valid, replaced by one that lasts longer.
pub(crate) async fn renew(
    dir: &DataDir,
    server: &str,
    own: &Credential,
    ca: &str,
    role: Role,
    name: &str,
) -> Result<pb::IssueResponse> {
    let channel = channel(server, Some(own), ca).await?;
    earn(dir, (server, channel), "", role, name, &[]).await
}

/// Has a request for a certificate signed, by the token or as who the channel shows, and keeps what comes of it.
async fn earn(
    dir: &DataDir,
    (server, channel): (&str, Channel),
    token: &str,
    role: Role,
    name: &str,
    alt_names: &[String],
) -> Result<pb::IssueResponse> {
    let (key, csr) = pki::signing_request(name, alt_names)?;
    let mut client = CertificateAuthorityClient::new(channel);
    let request = pb::IssueRequest { token: token.into(), name: name.into(), csr, role: String::new() };
    let response = client.issue(request).await.map_err(|status| match status.code() {
        tonic::Code::Unavailable | tonic::Code::DeadlineExceeded => anyhow::anyhow!("{}", status.message()),
        _ => Refused(format!("{server} refused a certificate: {}", status.message())).into(),
    })?;
    let issued = response.into_inner();
    let credential = Credential { certificate: issued.certificate.clone(), key };
    dir.save_credential(role.name(), &credential, &issued.ca)?;
    Ok(issued)
}
