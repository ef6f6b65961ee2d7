//! A client of a Balsa cluster over gRPC: what our own verbs, tests and example use, and what a Rust
//! program takes that wants to speak with a cluster.
//!
//! It adds to the generated stubs (re-exported as [`protos`]) what a client of several masters has to do
//! itself: try the next server when one is down, look past addresses that say nothing, and repeat a call
//! whose outcome is unknown. The rules stand in [`Patience`], as pure functions.
//!
//! ```no_run
//! use client::protos::objects as pb;
//! use client::{Access, Client};
//! use pb::objects_client::ObjectsClient;
//!
//! # async fn motd() -> Result<(), client::Error> {
//! let cluster = Client::new(Access::read("admin.kubeconfig".as_ref())?);
//! let request = pb::WriteRequest {
//!     key: Some(pb::Key { resource: "configmaps".into(), namespace: "default".into(), ..Default::default() }),
//!     json: r#"{"metadata": {"name": "motd"}, "data": {"text": "hello"}}"#.into(),
//!     // Chosen once for this write: however often the call is repeated, it is applied once.
//!     request_id: "motd-2024-05-01".into(),
//!     ..Default::default()
//! };
//! let made = cluster.call(async |channel| ObjectsClient::new(channel).create(request.clone()).await).await?;
//! println!("created at revision {}", made.revision);
//! # Ok(())
//! # }
//! ```
//!
//! **Writes need a `request_id`.** A connection that breaks under a call leaves open whether it was
//! applied. The same request under the same id is answered with the first outcome, at any master, also
//! after a change of leader.
//!
//! **Streams** (watch, logs, containers) are resumed by their caller, who knows where it was: open them
//! with [`Client::call`] and, when they end with a status for which [`is_transient`] holds, open them again
//! from the last revision heard of.

mod access;
mod patience;

pub use access::{Access, Identity, Server};
pub use patience::{Patience, Round, is_transient};
pub use protos;

use parking_lot::Mutex;
use std::time::Instant;
use tonic::transport::Channel;
use tonic::{Response, Status};

/// What went wrong, in words for whoever runs the program.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {path}")]
    Read { path: String, source: std::io::Error },
    #[error("not a kubeconfig: {0}")]
    Kubeconfig(String),
    #[error("{server}: not a server that can be connected to")]
    Server { server: String, source: tonic::transport::Error },
    #[error("{server} takes no connection within {ms} ms")]
    Deaf { server: String, ms: u128 },
    #[error("connecting to {server}")]
    Connect { server: String, source: tonic::transport::Error },
    #[error("{server} does not answer")]
    Silent { server: String },
    /// A server's answer.
    #[error("{}", .0.message())]
    Refused(Box<Status>),
    /// What one server said, while another was asked, too, and was not waited for.
    #[error(
        "{refused}; {server} was asked, too, and did not answer in the time that was left: a write may have been applied"
    )]
    Doubtful { refused: Box<Error>, server: String },
    /// The last thing that was heard, or the first of why nothing was.
    #[error("no master answers")]
    Unanswered { source: Box<Error> },
}

impl Error {
    /// Whether a stream that ended so is to be opened again. (A call that ends in an error has been
    /// repeated already.)
    pub fn is_transient(&self) -> bool {
        matches!(self, Error::Refused(status) if is_transient(status))
    }

    /// The answer of the server that had the last word.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Error::Refused(status) => Some(status),
            Error::Unanswered { source } => source.status(),
            Error::Doubtful { refused, .. } => refused.status(),
            Error::Read { .. }
            | Error::Kubeconfig(_)
            | Error::Server { .. }
            | Error::Deaf { .. }
            | Error::Connect { .. }
            | Error::Silent { .. } => None,
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Error {
        Error::Refused(Box::new(status))
    }
}

/// A cluster, as one who holds a kubeconfig reaches it. Its connection is kept from call to call.
pub struct Client {
    access: Access,
    patience: Patience,
    /// The server that answered last, by its place in `access`, and the connection to it.
    kept: Mutex<Option<(usize, Channel)>>,
}

impl Client {
    /// With the patience of a program that would rather wait for a new leader than fail.
    pub fn new(access: Access) -> Client {
        Client::with_patience(access, Patience::default())
    }

    pub fn with_patience(access: Access, patience: Patience) -> Client {
        Client { access, patience, kept: Mutex::new(None) }
    }

    pub fn access(&self) -> &Access {
        &self.access
    }

    /// A connection to the first server that takes one: for streams that are not to be repeated. Fails
    /// when none does, at the latest `Patience::total` after the call plus one round.
    pub async fn connect(&self) -> Result<Channel, Error> {
        let started = Instant::now();
        let mut first_error = None;
        let (mut round, mut n_rounds) = (self.patience.first_round(), 0);
        loop {
            tokio::time::sleep(round.pause).await;
            for server in &self.access.servers {
                match self.open(server, &round).await {
                    Ok(channel) => return Ok(channel),
                    Err(error) => _ = first_error.get_or_insert(error),
                }
            }
            n_rounds += 1;
            match self.patience.next_round(n_rounds, false, started.elapsed()) {
                Some(next) => round = next,
                None => return Err(unanswered(first_error)),
            }
        }
    }

    /// Makes a call at the first server that answers it for good; goes on with the next, and again, while
    /// [`Patience`] says so. `attempt` may run many times: whatever it writes must carry a `request_id`.
    /// Of a stream, the answer is its beginning.
    pub async fn call<T>(&self, attempt: impl AsyncFn(Channel) -> Result<Response<T>, Status>) -> Result<T, Error> {
        let started = Instant::now();
        let (mut first_error, mut last_answer) = (None, None);
        let (mut round, mut n_rounds) = (self.patience.first_round(), 0);
        loop {
            tokio::time::sleep(round.pause).await;
            let mut connected = false;
            for i in self.order() {
                let server = &self.access.servers[i];
                let kept = self.kept.lock().clone().filter(|(at, _)| *at == i);
                let channel = match kept {
                    Some((_, channel)) => channel,
                    None => match self.open(server, &round).await {
                        Ok(channel) => {
                            connected = true;
                            channel
                        }
                        Err(error) => {
                            first_error.get_or_insert(error);
                            continue;
                        }
                    },
                };
                let is_refused = matches!(&last_answer, Some(Error::Refused(_) | Error::Doubtful { .. }));
                let patience = self.patience.answer(is_refused, started.elapsed());
                match tokio::time::timeout(patience, attempt(channel.clone())).await {
                    Ok(Ok(response)) => {
                        *self.kept.lock() = Some((i, channel));
                        return Ok(response.into_inner());
                    }
                    Ok(Err(status)) if is_transient(&status) => last_answer = Some(status.into()),
                    Ok(Err(status)) => {
                        *self.kept.lock() = Some((i, channel));
                        return Err(status.into());
                    }
                    Err(_) => {
                        let server = server.address.clone();
                        last_answer = Some(match last_answer {
                            // What another has said tells more.
                            Some(refused @ Error::Refused(_)) => Error::Doubtful { refused: Box::new(refused), server },
                            Some(doubtful @ Error::Doubtful { .. }) => doubtful,
                            Some(_) | None => Error::Silent { server },
                        });
                    }
                }
                // Whatever is wrong may be wrong with the connection.
                self.kept.lock().take_if(|(at, _)| *at == i);
            }
            n_rounds += 1;
            match self.patience.next_round(n_rounds, connected, started.elapsed()) {
                Some(next) => round = next,
                None => return Err(unanswered(last_answer.or(first_error))),
            }
        }
    }

    /// The servers' places, the one that answered last first.
    fn order(&self) -> Vec<usize> {
        let first = self.kept.lock().as_ref().map(|(at, _)| *at);
        let others = (0..self.access.servers.len()).filter(|i| Some(*i) != first);
        first.into_iter().chain(others).collect()
    }

    async fn open(&self, server: &Server, round: &Round) -> Result<Channel, Error> {
        let address = || server.address.clone();
        let endpoint = self.access.endpoint(server)?;
        match tokio::time::timeout(round.connect, endpoint.connect()).await {
            Ok(connected) => connected.map_err(|source| Error::Connect { server: address(), source }),
            Err(_) => Err(Error::Deaf { server: address(), ms: round.connect.as_millis() }),
        }
    }
}

fn unanswered(why: Option<Error>) -> Error {
    let source = why.unwrap_or_else(|| Error::Kubeconfig("no server is named".into()));
    Error::Unanswered { source: Box::new(source) }
}
