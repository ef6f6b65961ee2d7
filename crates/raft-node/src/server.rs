//! The gRPC server side of `Transport`: decodes a peer's call and hands it to the node.

use crate::node::{Error, Node};
use crate::transport::{MESSAGE_BYTES_MAX, PeerReply, PeerRequest};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use protos::raft as pb;
use protos::raft::raft_server::{Raft, RaftServer};
use tonic::{Request, Response, Status, Streaming};

/// The metadata key under which a misdirected call is told whose master it has met.
pub const GROUP: &str = "balsa-group";

/// A snapshot larger than this is refused rather than swallowed.
const SNAPSHOT_BYTES_MAX: usize = 8 << 30;

pub struct RaftService {
    node: Node,
}

impl RaftService {
    pub fn server(node: Node) -> RaftServer<RaftService> {
        RaftServer::new(RaftService { node })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    async fn handle(&self, request: PeerRequest) -> Result<PeerReply, Status> {
        self.node.handle(request).await.map_err(|error| status(&self.node, &error))
    }
}

fn status(node: &Node, error: &Error) -> Status {
    match error {
        Error::Misdirected { .. } => {
            let mut status = Status::failed_precondition(error.to_string());
            if let Ok(group) = node.cluster_id().parse() {
                status.metadata_mut().insert(GROUP, group);
            }
            status
        }
        Error::NotLeader | Error::Changing | Error::LeaseExpired | Error::Undecided => {
            Status::failed_precondition(error.to_string())
        }
        Error::Refused(_) | Error::Storage(_) => Status::invalid_argument(format!("{error}")),
        Error::Fatal(_) | Error::Transport(_) => Status::unavailable(error.to_string()),
    }
}

macro_rules! unary {
    ($self:ident, $request:ident, $wrap:ident, $reply:ident) => {
        match $self.handle(PeerRequest::$wrap($request.into_inner())).await? {
            PeerReply::$reply(reply) => Ok(Response::new(reply)),
            _ => Err(Status::internal("the node answered something else")),
        }
    };
}

#[tonic::async_trait]
impl Raft for RaftService {
    async fn append(&self, request: Request<pb::AppendRequest>) -> Result<Response<pb::AppendResponse>, Status> {
        unary!(self, request, Append, Append)
    }

    type AppendStreamStream = BoxStream<'static, Result<pb::AppendResponse, Status>>;

    async fn append_stream(
        &self,
        request: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let node = self.node.clone();
        // A leader that hangs up has said all it will.
        let requests = request.into_inner().scan((), |(), request| std::future::ready(request.ok()));
        let answers = self.node.appends(requests.boxed());
        Ok(Response::new(answers.map_err(move |error| status(&node, &error)).boxed()))
    }

    async fn vote(&self, request: Request<pb::VoteRequest>) -> Result<Response<pb::VoteResponse>, Status> {
        unary!(self, request, Vote, Vote)
    }

    async fn pre_vote(&self, request: Request<pb::VoteRequest>) -> Result<Response<pb::VoteResponse>, Status> {
        unary!(self, request, PreVote, Vote)
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotChunk>>,
    ) -> Result<Response<pb::SnapshotResponse>, Status> {
        let mut chunks = request.into_inner();
        let first = chunks.message().await?.ok_or_else(|| Status::invalid_argument("an empty snapshot stream"))?;
        let (to, vote) = (first.to.clone().unwrap_or_default(), first.vote.unwrap_or_default());
        let (meta, mut data) = (first.meta.to_vec(), Vec::new());
        let mut next = Some(first);
        while let Some(chunk) = next {
            if crc32c::crc32c(&chunk.data) != chunk.crc {
                return Err(Status::data_loss(format!("a snapshot chunk at byte {} fails its checksum", data.len())));
            }
            data.extend_from_slice(&chunk.data);
            if data.len() > SNAPSHOT_BYTES_MAX {
                return Err(Status::resource_exhausted("the snapshot is too large"));
            }
            next = chunks.message().await?;
        }
        let request = PeerRequest::Snapshot { to, vote, meta, data: data.into() };
        match self.handle(request).await? {
            PeerReply::Snapshot(reply) => Ok(Response::new(reply)),
            _ => Err(Status::internal("the node answered something else")),
        }
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        unary!(self, request, TransferLeader, TransferLeader)
    }

    async fn propose(&self, request: Request<pb::ProposeRequest>) -> Result<Response<pb::ProposeResponse>, Status> {
        unary!(self, request, Propose, Propose)
    }

    async fn propose_batch(
        &self,
        request: Request<pb::ProposeBatchRequest>,
    ) -> Result<Response<pb::ProposeBatchResponse>, Status> {
        unary!(self, request, ProposeBatch, ProposeBatch)
    }

    async fn read_index(
        &self,
        request: Request<pb::ReadIndexRequest>,
    ) -> Result<Response<pb::ReadIndexResponse>, Status> {
        unary!(self, request, ReadIndex, ReadIndex)
    }

    async fn beats(&self, request: Request<pb::BeatsRequest>) -> Result<Response<pb::BeatsResponse>, Status> {
        unary!(self, request, Beats, Beats)
    }

    async fn greet(&self, request: Request<pb::GreetRequest>) -> Result<Response<pb::GreetResponse>, Status> {
        unary!(self, request, Greet, Greet)
    }
}
