//! What became of one try at a proposal.

use crate::codec;
use crate::types::TypeConfig;
use openraft::errors::{ClientWriteError, RaftError};
use protos::raft as pb;
use state::Outcome;

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

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::errors::ForwardToLeader;

    /// One that was discarded had been appended: another master may hold it, and a later leader commit it.
    #[test]
    fn only_what_never_was_in_a_log_is_told_as_not_appended() {
        let of = |error| Attempt::of(Err(RaftError::APIError(error)));
        assert!(matches!(of(ClientWriteError::ForwardToLeader(ForwardToLeader::empty())), Attempt::NotAppended(_)));
        assert!(matches!(of(ClientWriteError::LogEntryDiscarded(ForwardToLeader::empty())), Attempt::Unknown(_)));
    }
}
