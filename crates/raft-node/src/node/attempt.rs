//! What became of one try at a proposal.

use crate::codec;
use crate::types::TypeConfig;
use futures::{Stream, StreamExt};
use openraft::errors::{ClientWriteError, Fatal, RaftError};
use openraft::raft::WriteResult;
use protos::raft as pb;
use state::Outcome;
use tokio::time::{Instant, timeout_at};

#[derive(Clone)]
pub(crate) enum Attempt {
    Done(Outcome),
    NotAppended(String),
    Unknown(String),
}

impl Attempt {
    pub(super) fn too_late() -> Attempt {
        Attempt::Unknown("the leader did not commit it in time".into())
    }

    pub(super) fn of(written: Result<Outcome, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>) -> Attempt {
        match written {
            Ok(outcome) => Attempt::Done(outcome),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(why))) => {
                Attempt::NotAppended(format!("not the leader ({:?})", why.reason))
            }
            Err(RaftError::APIError(error)) => Attempt::Unknown(error.to_string()),
            Err(RaftError::Fatal(error)) => Attempt::Unknown(error.to_string()),
        }
    }

    /// Of one that was written among others.
    pub(super) fn of_many(written: Result<WriteResult<TypeConfig>, Fatal<TypeConfig>>) -> Attempt {
        Attempt::of(match written {
            Ok(written) => written.map(|written| written.response).map_err(RaftError::APIError),
            Err(error) => Err(RaftError::Fatal(error)),
        })
    }

    pub(super) fn to_pb(&self) -> pb::ProposeResponse {
        let mut response = pb::ProposeResponse::default();
        match self {
            Attempt::Done(outcome) => response.outcome = codec::outcome_to_bytes(outcome).into(),
            Attempt::NotAppended(why) => response.not_leader = why.clone(),
            Attempt::Unknown(why) => response.unknown = why.clone(),
        }
        response
    }

    /// What a leader answered.
    pub(crate) fn answered(response: &pb::ProposeResponse) -> Attempt {
        if !response.not_leader.is_empty() {
            return Attempt::NotAppended(response.not_leader.clone());
        }
        if !response.unknown.is_empty() {
            return Attempt::Unknown(response.unknown.clone());
        }
        match codec::outcome_from_bytes(&response.outcome) {
            Ok(outcome) => Attempt::Done(outcome),
            Err(error) => Attempt::Unknown(error.to_string()),
        }
    }
}

/// The first `n` answers of a stream, in their order, for each of which is known whose it is: once one has come too late,
/// none is looked at any more, as it would be taken for that of the next.
pub(super) async fn in_time(
    mut answers: impl Stream<Item = Attempt> + Unpin,
    n: usize,
    until: Instant,
) -> Vec<Attempt> {
    let mut attempts = Vec::with_capacity(n);
    while attempts.len() < n {
        match timeout_at(until, answers.next()).await {
            Ok(Some(attempt)) => attempts.push(attempt),
            // A master that stops ends the stream early; it must not be asked after its end.
            Ok(None) => attempts.resize(n, Attempt::Unknown("this master is stopping".into())),
            Err(_) => attempts.resize(n, Attempt::too_late()),
        }
    }
    attempts
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use openraft::errors::ForwardToLeader;
    use std::task::Poll;
    use std::time::Duration;

    /// One that was discarded had been appended: another master may hold it, and a later leader commit it.
    #[test]
    fn only_what_never_was_in_a_log_is_told_as_not_appended() {
        let of = |error| Attempt::of(Err(RaftError::APIError(error)));
        assert!(matches!(of(ClientWriteError::ForwardToLeader(ForwardToLeader::empty())), Attempt::NotAppended(_)));
        assert!(matches!(of(ClientWriteError::LogEntryDiscarded(ForwardToLeader::empty())), Attempt::Unknown(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_comes_too_late_is_not_taken_for_the_next_ones() {
        let applied = || Attempt::Done(Outcome::Applied(Vec::new()));
        let until = Instant::now() + Duration::from_secs(1);
        let is_done = |attempt: &Attempt| matches!(attempt, Attempt::Done(_));
        // The first answer is there; the second comes when it has just been given up.
        let mut n_polls = 0;
        let answers = stream::poll_fn(move |_| {
            n_polls += 1;
            if n_polls == 2 || n_polls == 3 { Poll::Pending } else { Poll::Ready(Some(applied())) }
        });
        let told: Vec<bool> = in_time(answers, 4, until).await.iter().map(is_done).collect();
        assert_eq!(told, [true, false, false, false]);
        let told = in_time(stream::iter([applied()]), 2, until + Duration::from_secs(1)).await;
        assert!(is_done(&told[0]) && matches!(&told[1], Attempt::Unknown(why) if why.contains("stopping")));
    }
}
