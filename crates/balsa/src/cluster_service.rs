//! The Cluster and CertificateAuthority services: members, tokens, certificates.

use crate::backup;
use crate::files::Bootstrap;
use authz::{Identity, Role};
use dispatch::addresses;
use front::Front;
use front::listen::Caller;
use objects::{Key, Status as ApiStatus, Value, ValueExt, json, registry};
use pki::token::{Token, digest};
use pki::{Authority, Credential};
use protos::cluster as pb;
use protos::cluster::certificate_authority_server::CertificateAuthority;
use protos::cluster::cluster_client::ClusterClient;
use protos::cluster::cluster_server::Cluster;
use raft_node::{Changes, Joiner, Member, NO_LEADER, Node, Refusal};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};

/// Where the authority and the join tokens live: a Secret that only administrators can read.
pub(crate) const NAMESPACE: &str = "kube-system";
pub(crate) const NAME: &str = "balsa-cluster";

pub(crate) struct ClusterService {
    pub(crate) node: Node,
    pub(crate) front: Front,
    pub(crate) cluster_id: String,
    pub(crate) epoch: u64,
    pub(crate) name: String,
    pub(crate) ca: String,
    pub(crate) credential: Arc<dyn Fn() -> Credential + Send + Sync>,
    pub(crate) changes: Changes,
    /// Where this master was told to join.
    pub(crate) join_server: Option<String>,
}

fn unavailable(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

fn refused(refusal: Refusal) -> Status {
    match refusal {
        Refusal::NotFound(why) => Status::not_found(why),
        Refusal::Refused(why) => Status::failed_precondition(why),
        Refusal::Busy(why) => Status::aborted(why),
        Refusal::Again(why) => Status::unavailable(why),
    }
}

/// A value of the cluster's secret.
pub(crate) fn decoded(secret: &Value, key: &str) -> String {
    use base64::Engine;
    let text = secret.at("data").get(key).and_then(Value::as_str).unwrap_or("");
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

/// The object that holds the cluster's authority.
pub(crate) fn secret_key() -> Key {
    Key::new(registry::SECRET, NAMESPACE, NAME)
}

/// Of that object.
pub(crate) fn authority(secret: &Value) -> Authority {
    Authority { credential: Credential { certificate: decoded(secret, "ca.crt"), key: decoded(secret, "ca.key") } }
}

/// Stores what `init` made, once this master leads its new cluster.
pub(crate) async fn store_bootstrap(front: &Front, bootstrap: &Bootstrap, ca: &str) -> Result<(), ApiStatus> {
    let create = |kind, body: Value| {
        let kind = registry::must(kind);
        let served = registry::find_served(kind.group, kind.version, kind.plural).expect("every kind is served");
        let mut request = api::Request::new(Identity::system(), api::Verb::Create, served);
        request.namespace = if kind.namespaced { NAMESPACE.into() } else { String::new() };
        request.body.value = body;
        request
    };
    let namespace = create(registry::NAMESPACE, json!({"metadata": {"name": NAMESPACE}}));
    let secret = create(
        registry::SECRET,
        json!({
            "metadata": {"name": NAME}, "type": "balsa.dev/cluster",
            "stringData": {
                "ca.crt": ca, "ca.key": bootstrap.ca_key,
                "master-token": bootstrap.master_token, "worker-token": bootstrap.worker_token,
            },
        }),
    );
    let network = create(
        registry::CONFIG_MAP,
        json!({"metadata": {"name": addresses::NAME}, "data": {addresses::CLUSTER_CIDRS: bootstrap.pod_cidrs}}),
    );
    for request in [namespace, secret, network] {
        match front.call_as_system(request).await {
            Ok(_) => {}
            Err(status) if status.reason == "AlreadyExists" => {}
            Err(status) => return Err(status),
        }
    }
    Ok(())
}

impl ClusterService {
    async fn secret(&self) -> Result<Value, Status> {
        let view = self.front.store.read().await.map_err(unavailable)?;
        let record = view.get(&secret_key());
        record
            .map(|record| record.value())
            .ok_or_else(|| Status::unavailable("the cluster is still being set up; try again"))
    }

    fn members(&self) -> Vec<pb::Member> {
        let status = self.node.status();
        let member = |m: &raft_node::MemberStatus| pb::Member {
            id: m.id,
            name: m.member.name.clone(),
            peer_addr: m.member.peer_addr.clone(),
            api_addr: m.member.api_addr.clone(),
            voter: m.voter,
            leader: status.leader == Some(m.id),
            lag: m.lag,
            feature_level: m.member.feature_level,
        };
        let mut members: Vec<pb::Member> = status.members.iter().map(member).collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members
    }

    /// A client to the leader, when that is another master.
    async fn leader(&self) -> Result<Option<ClusterClient<tonic::transport::Channel>>, Status> {
        let leader = self.members().into_iter().find(|member| member.leader);
        let leader = leader.ok_or_else(|| {
            Status::unavailable(format!("{NO_LEADER}; if it is gone for good, see `balsa recover --help`"))
        })?;
        if leader.name == self.name && leader.id == self.node.id() {
            return Ok(None);
        }
        let credential = (self.credential)();
        let channel = crate::join::channel(&leader.api_addr, Some(&credential), &self.ca).await.map_err(unavailable)?;
        Ok(Some(ClusterClient::new(channel)))
    }
}

/// How often a master that knows of no leader looks whether the group goes on without it.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// As many looks in a row must say so: the change that takes it out may not be committed yet, nor ever be.
const LOOKS: u32 = 3;
const LOOK_MAX: Duration = Duration::from_secs(2);

impl ClusterService {
    /// Returns once this master was taken out of the group, with who leads that. Raft does not tell: the leader stops
    /// sending to whoever is no member, who then waits for it for ever.
    pub(crate) async fn left_out(&self) -> String {
        let mut n_looks = 0;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let is_led = self.node.status().leader.is_some();
            match if is_led { None } else { self.leader_of_others().await } {
                None => n_looks = 0,
                Some(leader) => {
                    n_looks += 1;
                    if n_looks == LOOKS {
                        return leader;
                    }
                }
            }
        }
    }

    /// The leader of the same group, at this term or a later one, to whom this master is no member.
    async fn leader_of_others(&self) -> Option<String> {
        let (own, term) = (self.node.id(), self.node.status().term);
        let credential = (self.credential)();
        let others = self.members().into_iter().filter(|member| member.id != own).map(|member| member.api_addr);
        // All that this master knew may have been replaced while it was off.
        let others: BTreeSet<String> = others.chain(self.join_server.clone()).collect();
        let asked = others.into_iter().map(async |addr| {
            let asking = async {
                let channel = crate::join::channel(&addr, Some(&credential), &self.ca).await.ok()?;
                ClusterClient::new(channel).status(pb::StatusRequest {}).await.ok().map(Response::into_inner)
            };
            tokio::time::timeout(LOOK_MAX, asking).await.ok().flatten()
        });
        let told = futures::future::join_all(asked).await.into_iter().flatten();
        let is_without = |told: &pb::StatusResponse| {
            let leads = told.leader == told.answered_by && told.epoch == self.epoch && told.term >= term;
            leads && told.cluster_id == self.cluster_id && told.members.iter().all(|member| member.id != own)
        };
        told.filter(is_without).max_by_key(|told| told.term).map(|told| told.leader)
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        let status = self.node.status();
        let leadership = self.front.store.leadership().borrow().clone();
        let view = self.front.store.view();
        Ok(Response::new(pb::StatusResponse {
            cluster_id: self.cluster_id.clone(),
            leader: leadership.leader.unwrap_or_default(),
            term: status.term,
            last_index: status.last_index,
            applied_index: status.applied_index,
            revision: view.revision().0,
            feature_level: view.state().feature_level(),
            answered_by: self.name.clone(),
            members: self.members(),
            epoch: self.epoch,
            backup: backup::schedule::told(&view),
        }))
    }

    async fn health(&self, _: Request<pb::HealthRequest>) -> Result<Response<pb::HealthResponse>, Status> {
        let members = self.node.status().members;
        let asked = members.iter().map(async |m| pb::MemberHealth {
            name: m.member.name.clone(),
            voter: m.voter,
            answers: m.id == self.node.id() || self.node.answers(m.id, &m.member).await,
            id: m.id,
        });
        let (read, mut members) = tokio::join!(self.front.store.read(), futures::future::join_all(asked));
        members.sort_by(|a, b| a.name.cmp(&b.name));
        let voters = members.iter().filter(|m| m.voter).count();
        let up = members.iter().filter(|m| m.voter && m.answers).count();
        let reason = read.err().map(|error| error.to_string()).unwrap_or_default();
        Ok(Response::new(pb::HealthResponse {
            ready: reason.is_empty(),
            reason,
            may_lose: u32::try_from(up.saturating_sub(voters / 2 + 1)).unwrap_or(0),
            members,
        }))
    }

    async fn add_member(
        &self,
        request: Request<pb::AddMemberRequest>,
    ) -> Result<Response<pb::AddMemberResponse>, Status> {
        let request = request.into_inner();
        if let Some(mut leader) = self.leader().await? {
            return leader.add_member(request).await;
        }
        if request.epoch != self.epoch {
            return Err(Status::failed_precondition(format!(
                "it belongs to epoch {} of the cluster, this is epoch {}: remove its data folder and start it with a \
                 token",
                request.epoch, self.epoch
            )));
        }
        let pb::Member { id, name, peer_addr, api_addr, feature_level, .. } =
            request.member.ok_or_else(|| api_grpc::required("member"))?;
        // Builds before feature levels tell none, and know the first.
        let feature_level = feature_level.max(1);
        let member = Member { name, peer_addr, api_addr, feature_level };
        let joiner = Joiner { id, member, learner: request.learner, replaces: request.replaces };
        self.changes.take_in(joiner).await.map_err(refused)?;
        Ok(Response::new(pb::AddMemberResponse {}))
    }

    async fn promote_member(
        &self,
        request: Request<pb::PromoteMemberRequest>,
    ) -> Result<Response<pb::PromoteMemberResponse>, Status> {
        let request = request.into_inner();
        if let Some(mut leader) = self.leader().await? {
            return leader.promote_member(request).await;
        }
        let warning = self.changes.promote(&request.name).await.map_err(refused)?;
        Ok(Response::new(pb::PromoteMemberResponse { warning }))
    }

    async fn remove_member(
        &self,
        request: Request<pb::RemoveMemberRequest>,
    ) -> Result<Response<pb::RemoveMemberResponse>, Status> {
        let request = request.into_inner();
        if let Some(mut leader) = self.leader().await? {
            return leader.remove_member(request).await;
        }
        let warning = self.changes.remove(&request.name).await.map_err(refused)?;
        Ok(Response::new(pb::RemoveMemberResponse { warning }))
    }

    async fn replace_member(
        &self,
        request: Request<pb::ReplaceMemberRequest>,
    ) -> Result<Response<pb::ReplaceMemberResponse>, Status> {
        let request = request.into_inner();
        if let Some(mut leader) = self.leader().await? {
            return leader.replace_member(request).await;
        }
        let warning = self.changes.replace(&request.old, &request.new, request.force).await.map_err(refused)?;
        Ok(Response::new(pb::ReplaceMemberResponse { warning }))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        let request = request.into_inner();
        if let Some(mut leader) = self.leader().await? {
            return leader.transfer_leader(request).await;
        }
        let (leader, took_ms) = self.changes.transfer(&request.to).await.map_err(refused)?;
        Ok(Response::new(pb::TransferLeaderResponse { leader, took_ms }))
    }

    type BackupStream = backup::service::Stream;

    async fn backup(&self, _: Request<pb::BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let view = self.front.store.read().await.map_err(unavailable)?;
        let manifest = backup::manifest(&self.cluster_id, self.epoch, &self.node, self.front.now());
        Ok(backup::service::stream(view, manifest))
    }

    async fn join_tokens(&self, _: Request<pb::JoinTokensRequest>) -> Result<Response<pb::JoinTokensResponse>, Status> {
        let secret = self.secret().await?;
        Ok(Response::new(pb::JoinTokensResponse {
            master: decoded(&secret, "master-token"),
            worker: decoded(&secret, "worker-token"),
        }))
    }
}

fn known(caller: Option<Identity>) -> Result<Identity, Status> {
    caller.ok_or_else(|| Status::unauthenticated("a token or a certificate is needed"))
}

/// The role of a renewal: the caller gets what it has, under the name it has.
fn renewed(caller: Option<Identity>, name: &str) -> Result<Role, Status> {
    let identity = known(caller)?;
    let role = Role::ALL.into_iter().find(|role| authz::roles::has(&identity, *role));
    let role = role.ok_or_else(|| Status::permission_denied("the certificate carries no role"))?;
    let own = identity.node().unwrap_or(&identity.user);
    if own != name {
        return Err(Status::permission_denied(format!("this certificate is for {own}")));
    }
    Ok(role)
}

/// The role of a user's certificate. Who may make one could sign it as well: administrators read the authority's key, and
/// masters hold it.
fn for_user(caller: Option<Identity>, role: &str) -> Result<Role, Status> {
    let identity = known(caller)?;
    if ![Role::Admin, Role::Master].iter().any(|own| authz::roles::has(&identity, *own)) {
        return Err(Status::permission_denied("certificates of users are made for administrators and masters alone"));
    }
    let role = [Role::Admin, Role::Reader].into_iter().find(|known| known.name() == role).ok_or(role);
    role.map_err(|unknown| api_grpc::invalid("role", unknown, "must be admin or reader"))
}

/// The role of a token that is valid.
fn of_token(secret: &Value, text: &str) -> Result<Role, Status> {
    let token = Token::parse(text).map_err(|error| api_grpc::invalid("token", "", &error.to_string()))?;
    let known = decoded(secret, &format!("{}-token", token.role.name()));
    // Compared by digest, so that the time taken says nothing about the secret.
    if known.is_empty() || digest(known.as_bytes()) != digest(text.trim().as_bytes()) {
        return Err(Status::permission_denied(
            "the token is not valid (any more); `balsa token` prints the present ones",
        ));
    }
    Ok(token.role)
}

#[tonic::async_trait]
impl CertificateAuthority for ClusterService {
    async fn issue(&self, request: Request<pb::IssueRequest>) -> Result<Response<pb::IssueResponse>, Status> {
        let caller = request.extensions().get::<Caller>().and_then(|caller| caller.0.clone());
        let request = request.into_inner();
        let secret = self.secret().await?;
        let role = match (request.token.as_str(), request.role.as_str()) {
            ("", "") => renewed(caller, &request.name)?,
            ("", role) => for_user(caller, role)?,
            (_, "") => of_token(&secret, &request.token)?,
            (_, role) => return Err(api_grpc::invalid("role", role, "a token says the role by itself")),
        };
        if !objects::validate::is_dns_subdomain(&request.name) {
            return Err(api_grpc::invalid("name", &request.name, "must be a DNS name in lower case"));
        }
        let authority = authority(&secret);
        let certificate = authority.sign(role, &request.name, &request.csr);
        let certificate = certificate.map_err(|error| api_grpc::invalid("csr", "", &error.to_string()))?;
        tracing::info!(role = role.name(), name = %request.name, "certificate issued");
        Ok(Response::new(pb::IssueResponse {
            certificate,
            ca: authority.credential.certificate,
            cluster_id: self.cluster_id.clone(),
            epoch: self.epoch,
            members: if role == Role::Master { self.members() } else { Vec::new() },
        }))
    }
}
