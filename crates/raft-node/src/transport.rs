//! The port to the other masters, and its gRPC implementation.

use async_trait::async_trait;
use futures::channel::mpsc::Receiver;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use prost::Message;
use protos::raft as pb;
use protos::raft::raft_client::RaftClient;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::runtime::Handle;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

/// A call to a peer.
#[derive(Clone, Debug)]
pub enum PeerRequest {
    Append(pb::AppendRequest),
    Vote(pb::VoteRequest),
    PreVote(pb::VoteRequest),
    Snapshot {
        to: pb::To,
        vote: pb::Vote,
        meta: Vec<u8>,
        data: bytes::Bytes,
    },
    TransferLeader(pb::TransferLeaderRequest),
    Propose(pb::ProposeRequest),
    ProposeBatch(pb::ProposeBatchRequest),
    ReadIndex(pb::ReadIndexRequest),
    Beats(pb::BeatsRequest),
    /// Says nothing: for the connection it is sent on.
    Greet(pb::GreetRequest),
}

#[derive(Clone, Debug)]
pub enum PeerReply {
    Append(pb::AppendResponse),
    Vote(pb::VoteResponse),
    Snapshot(pb::SnapshotResponse),
    TransferLeader(pb::TransferLeaderResponse),
    Propose(pb::ProposeResponse),
    ProposeBatch(pb::ProposeBatchResponse),
    ReadIndex(pb::ReadIndexResponse),
    Beats(pb::BeatsResponse),
    Greet(pb::GreetResponse),
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum TransportError {
    /// Nothing was delivered.
    #[error("cannot reach the peer: {0}")]
    Unreachable(String),
    /// It may have been delivered.
    #[error("the call failed: {0}")]
    Failed(String),
}

/// Calls of one lane never wait behind another's bytes: a snapshot must not delay a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    Replication,
    Heartbeat,
    Snapshot,
    Client,
}

#[async_trait]
pub trait Transport: Send + Sync + 'static {
    async fn call(
        &self,
        lane: Lane,
        addr: &str,
        request: PeerRequest,
        timeout: Duration,
    ) -> Result<PeerReply, TransportError>;

    /// Only those at these addresses are members still.
    fn keep_only(&self, _addrs: &BTreeSet<String>) {}

    /// Appends at a peer, one request after another; answers come in the order of the requests, and an error
    /// is the last. As it stands here each request is a call that waits for the one before; a transport that
    /// keeps their order on the way need not wait. The caller bounds how long it waits for an answer.
    fn appends<'a>(
        &'a self,
        addr: &'a str,
        requests: Receiver<pb::AppendRequest>,
    ) -> BoxStream<'a, Result<pb::AppendResponse, TransportError>> {
        one_by_one(self, addr, requests)
    }
}

/// Each request is a call that waits for the one before.
fn one_by_one<'a, T: Transport + ?Sized>(
    transport: &'a T,
    addr: &'a str,
    requests: Receiver<pb::AppendRequest>,
) -> BoxStream<'a, Result<pb::AppendResponse, TransportError>> {
    let answers = requests.then(move |request| async move {
        let patience = append_timeout(request.encoded_len());
        match transport.call(Lane::Replication, addr, PeerRequest::Append(request), patience).await? {
            PeerReply::Append(answer) => Ok(answer),
            _ => Err(TransportError::Failed("the peer answered something else".into())),
        }
    });
    answers.boxed()
}

/// An append may take longer than the heartbeat interval: a few entries and an fsync.
const APPEND_TIMEOUT: Duration = Duration::from_secs(1);
/// And as long again as its bytes take on a slow link: given up in the midst, they would be sent anew, for ever.
const APPEND_BYTES_PER_SECOND: u64 = 1 << 20;

/// How long the answer to an append of so many bytes is waited for.
pub(crate) fn append_timeout(n_bytes: usize) -> Duration {
    APPEND_TIMEOUT + Duration::from_micros(n_bytes as u64 * 1_000_000 / APPEND_BYTES_PER_SECOND)
}

/// gRPC with mutual TLS; one connection per peer and lane, made on first use, and anew after a greeting has failed.
pub struct TonicTransport {
    tls: Box<dyn Fn() -> Option<ClientTlsConfig> + Send + Sync>,
    /// Told the group of a peer that refused a call as not meant for it.
    met: Box<dyn Fn(&str) + Send + Sync>,
    channels: Mutex<BTreeMap<(String, Lane), Channel>>,
    /// Where connections are served: those of `Lane::Client`, and those of the others.
    api: Handle,
    consensus: Handle,
    /// Peers of a version without `AppendStream`, by address: until a call to one fails, as when it is replaced
    /// by a newer one.
    older: Mutex<BTreeSet<String>>,
}

/// Of the TCP connection, and of the TLS handshake over it: a peer may die in the midst.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Bytes of one snapshot chunk.
const CHUNK_BYTES: usize = 1 << 20;
/// Larger than a full append (4 MiB of entries plus one oversized entry).
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 20;

impl TonicTransport {
    /// `tls` is asked for each lane's connection, also when that is made anew: so rotated certificates are used. Heartbeats
    /// wait for it: it must not read a disk. `None`: there is no certificate that peers would take. What other masters
    /// wait for runs on `consensus`, the rest where this is called.
    pub fn new(tls: impl Fn() -> Option<ClientTlsConfig> + Send + Sync + 'static, consensus: Handle) -> TonicTransport {
        TonicTransport {
            tls: Box::new(tls),
            met: Box::new(|_| ()),
            channels: Mutex::default(),
            api: Handle::current(),
            consensus,
            older: Mutex::default(),
        }
    }

    /// `met` is told the group of each peer that refuses a call as not meant for it.
    pub fn on_other_group(self, met: impl Fn(&str) + Send + Sync + 'static) -> TonicTransport {
        TonicTransport { met: Box::new(met), ..self }
    }

    fn client(&self, addr: &str, lane: Lane) -> Result<RaftClient<Channel>, TransportError> {
        let key = (addr.to_string(), lane);
        let mut channels = self.channels.lock();
        if !channels.contains_key(&key) {
            let unreachable = |error: tonic::transport::Error| TransportError::Unreachable(format!("{error:?}"));
            let tls = (self.tls)().ok_or_else(|| {
                TransportError::Unreachable("this master has no certificate that could be read".into())
            })?;
            let endpoint = Endpoint::from_shared(format!("https://{addr}"))
                .and_then(|endpoint| endpoint.tls_config(tls.timeout(CONNECT_TIMEOUT)))
                .map_err(unreachable)?
                .tcp_nodelay(true)
                .connect_timeout(CONNECT_TIMEOUT)
                .http2_keep_alive_interval(Duration::from_secs(1))
                .keep_alive_timeout(Duration::from_secs(2))
                .keep_alive_while_idle(true);
            // What serves a connection runs where it is made. The lanes of consensus do not wait behind the API's work.
            let runtime = if lane == Lane::Client { &self.api } else { &self.consensus };
            let _entered = runtime.enter();
            channels.insert(key.clone(), endpoint.connect_lazy());
        }
        let client = RaftClient::new(channels[&key].clone());
        Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    fn failed(&self, status: &tonic::Status) -> TransportError {
        let group = status.metadata().get(crate::server::GROUP);
        group.and_then(|group| group.to_str().ok()).inspect(|group| (self.met)(group));
        from_status(status)
    }
}

#[async_trait]
impl Transport for TonicTransport {
    fn keep_only(&self, addrs: &BTreeSet<String>) {
        self.channels.lock().retain(|(addr, _), _| addrs.contains(addr));
        self.older.lock().retain(|addr| addrs.contains(addr));
    }

    async fn call(
        &self,
        lane: Lane,
        addr: &str,
        request: PeerRequest,
        timeout: Duration,
    ) -> Result<PeerReply, TransportError> {
        let mut client = self.client(addr, lane)?;
        let greets = matches!(request, PeerRequest::Greet(_));
        let call = async {
            Ok::<PeerReply, tonic::Status>(match request {
                PeerRequest::Append(request) => PeerReply::Append(client.append(request).await?.into_inner()),
                PeerRequest::Vote(request) => PeerReply::Vote(client.vote(request).await?.into_inner()),
                PeerRequest::PreVote(request) => PeerReply::Vote(client.pre_vote(request).await?.into_inner()),
                PeerRequest::Snapshot { to, vote, meta, data } => {
                    let n_chunks = data.len().div_ceil(CHUNK_BYTES).max(1);
                    let (mut head, mut data) = (Some((to, vote, meta)), data);
                    let chunks = futures::stream::iter(0..n_chunks).map(move |_| {
                        let piece = data.split_to(data.len().min(CHUNK_BYTES));
                        let (to, vote, meta) = head.take().unzip3();
                        let crc = crc32c::crc32c(&piece);
                        pb::SnapshotChunk { to, vote, meta: meta.unwrap_or_default().into(), data: piece, crc }
                    });
                    PeerReply::Snapshot(client.install_snapshot(chunks).await?.into_inner())
                }
                PeerRequest::TransferLeader(request) => {
                    PeerReply::TransferLeader(client.transfer_leader(request).await?.into_inner())
                }
                PeerRequest::Propose(request) => PeerReply::Propose(client.propose(request).await?.into_inner()),
                PeerRequest::ProposeBatch(request) => {
                    PeerReply::ProposeBatch(client.propose_batch(request).await?.into_inner())
                }
                PeerRequest::ReadIndex(request) => PeerReply::ReadIndex(client.read_index(request).await?.into_inner()),
                PeerRequest::Beats(request) => PeerReply::Beats(client.beats(request).await?.into_inner()),
                PeerRequest::Greet(request) => PeerReply::Greet(match client.greet(request).await {
                    Ok(response) => response.into_inner(),
                    // A peer of a version without this call has the connection all the same.
                    Err(status) if status.code() == tonic::Code::Unimplemented => pb::GreetResponse {},
                    Err(status) => return Err(status),
                }),
            })
        };
        let reply = match tokio::time::timeout(timeout, call).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(_) => Err(TransportError::Failed(format!("no answer within {} ms", timeout.as_millis()))),
        };
        if greets && reply.is_err() {
            // What is on its way there goes on; who comes next has a new connection.
            self.channels.lock().remove(&(addr.to_string(), lane));
        }
        reply
    }

    fn appends<'a>(
        &'a self,
        addr: &'a str,
        requests: Receiver<pb::AppendRequest>,
    ) -> BoxStream<'a, Result<pb::AppendResponse, TransportError>> {
        if self.older.lock().contains(addr) {
            let forget = move |_: &TransportError| _ = self.older.lock().remove(addr);
            return one_by_one(self, addr, requests).inspect_err(forget).boxed();
        }
        type Answers<'a> = BoxStream<'a, Result<pb::AppendResponse, TransportError>>;
        let opened: BoxFuture<'a, Result<Answers<'a>, TransportError>> = Box::pin(async move {
            let mut client = self.client(addr, Lane::Replication)?;
            let answers = client.append_stream(requests).await.map_err(|status| {
                if status.code() == tonic::Code::Unimplemented {
                    self.older.lock().insert(addr.to_string());
                }
                self.failed(&status)
            })?;
            Ok(answers.into_inner().map_err(|status| self.failed(&status)).boxed())
        });
        stream::once(opened).try_flatten().boxed()
    }
}

fn from_status(status: &tonic::Status) -> TransportError {
    let text = format!("{}: {}", status.code(), status.message());
    // tonic reports a connection that could not be made as UNAVAILABLE with a transport source.
    let refused = std::error::Error::source(status).is_some_and(|source| source.is::<tonic::transport::Error>());
    match status.code() {
        tonic::Code::FailedPrecondition => TransportError::Unreachable(text),
        tonic::Code::Unavailable if refused && text.contains("tcp connect error") => TransportError::Unreachable(text),
        _ => TransportError::Failed(text),
    }
}

trait Unzip3<A, B, C> {
    fn unzip3(self) -> (Option<A>, Option<B>, Option<C>);
}

impl<A, B, C> Unzip3<A, B, C> for Option<(A, B, C)> {
    fn unzip3(self) -> (Option<A>, Option<B>, Option<C>) {
        match self {
            Some((a, b, c)) => (Some(a), Some(b), Some(c)),
            None => (None, None, None),
        }
    }
}
