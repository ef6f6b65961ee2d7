//! When to look elsewhere, how long to wait for it, and when to give up.
//!
//! Pure: what happened comes as arguments.

use std::time::Duration;
use tonic::{Code, Status};

/// How long a client puts up with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a server to take a connection: first little, as one that is dead or has just lost the common
    /// address may not say so; then, when no server took one, more, as a busy one is slow.
    pub connect: [Duration; 2],
    /// For the answer to a call, or the beginning of a stream.
    pub answer: Duration,
    /// Between two rounds over the servers.
    pub pause: Duration,
    /// Rounds begin until then. With zero each server is asked once.
    pub total: Duration,
}

impl Default for Patience {
    /// An election is over within half a second; 20 seconds are for machines that are started again.
    fn default() -> Patience {
        Patience {
            connect: [Duration::from_millis(300), Duration::from_secs(2)],
            answer: Duration::from_secs(5),
            pause: Duration::from_millis(50),
            total: Duration::from_secs(20),
        }
    }
}

/// How to go over the servers once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// Before it.
    pub pause: Duration,
    /// For each server to take a connection.
    pub connect: Duration,
}

impl Patience {
    /// Of a person at a terminal: each server is asked once, and a second time only if none took a
    /// connection.
    pub fn once() -> Patience {
        Patience { total: Duration::ZERO, ..Patience::default() }
    }

    pub fn first_round(&self) -> Round {
        Round { pause: Duration::ZERO, connect: self.connect[0] }
    }

    /// For the answer of the next server, `elapsed` after the call began. `refused`: one has said already
    /// that it cannot serve, and has taken its time for it.
    pub fn answer(&self, refused: bool, elapsed: Duration) -> Duration {
        let is_waited_for = self.total.is_zero() && refused && elapsed >= LOOKED;
        if is_waited_for { TOLD_WITHIN.saturating_sub(elapsed).max(LAST_LOOK).min(self.answer) } else { self.answer }
    }

    /// What follows `n_rounds` without a final answer, `elapsed` after the first began; `None`: give up.
    /// `connected`: in the last of them a server took a connection.
    pub fn next_round(&self, n_rounds: u32, connected: bool, elapsed: Duration) -> Option<Round> {
        let connect = if connected { self.connect[0] } else { self.connect[1] };
        if n_rounds == 1 && !connected {
            // The first look was a short one: the second comes at once, and whatever the time.
            return Some(Round { pause: Duration::ZERO, connect });
        }
        (elapsed < self.total).then_some(Round { pause: self.pause, connect })
    }
}

/// A server that needed this long to say that it cannot serve has looked for a leader itself.
const LOOKED: Duration = Duration::from_secs(1);
/// A person hears of it within this time of the call's start.
const TOLD_WITHIN: Duration = Duration::from_secs(2);
/// Every further server has this long, at least, to know better.
const LAST_LOOK: Duration = Duration::from_millis(150);

/// Whether a call that ended so is to be made again, at another master or this one. Either nothing was
/// applied and another may serve it, or nobody knows: then a write is repeated under the same
/// `request_id`. tonic tells of a connection that broke under a call as unknown, cancelled, internal or
/// (HTTP/2's "enhance your calm") exhausted, with what broke as the source; a server's own word has none.
pub fn is_transient(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded => true,
        Code::Unknown | Code::Cancelled | Code::Internal | Code::ResourceExhausted => {
            std::error::Error::source(status).is_some()
        }
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_person_is_told_once_every_server_was_asked() {
        let patience = Patience::once();
        assert_eq!(patience.first_round(), Round { pause: NOW, connect: ms(300) });
        assert_eq!(patience.next_round(1, true, NOW), None, "a server was there and could not serve it");
        let slower = Some(Round { pause: NOW, connect: ms(2000) });
        assert_eq!(patience.next_round(1, false, ms(900)), slower, "silent addresses may be busy ones");
        assert_eq!(patience.next_round(2, false, ms(9000)), None);
    }

    #[test]
    fn a_person_who_was_told_no_waits_little_for_others_to_know_better() {
        let patience = Patience::once();
        assert_eq!(patience.answer(false, ms(1900)), ms(5000));
        assert_eq!(patience.answer(true, ms(20)), ms(5000), "a quick no leaves time for a second opinion");
        assert_eq!(patience.answer(true, ms(1200)), ms(800));
        assert_eq!(patience.answer(true, ms(1870)), ms(150));
        assert_eq!(Patience::default().answer(true, ms(1870)), ms(5000), "a program waits");
    }

    #[test]
    fn a_program_waits_for_the_next_leader() {
        let patience = Patience::default();
        let again = |connect| Some(Round { pause: ms(50), connect });
        assert_eq!(patience.next_round(1, true, ms(1)), again(ms(300)));
        assert_eq!(patience.next_round(1, false, ms(900)), Some(Round { pause: NOW, connect: ms(2000) }));
        assert_eq!(patience.next_round(2, false, ms(7000)), again(ms(2000)), "nobody is there: slowly");
        assert_eq!(patience.next_round(3, true, ms(8000)), again(ms(300)), "somebody is again: quickly");
        assert_eq!(patience.next_round(9, true, ms(20_000)), None);
    }

    #[test]
    fn only_what_may_be_served_elsewhere_is_asked_again() {
        let broken = |code| {
            let mut status = Status::new(code, "transport error");
            status.set_source(std::sync::Arc::new(std::io::Error::other("connection reset")));
            status
        };
        for code in [Code::Unavailable, Code::DeadlineExceeded] {
            assert!(is_transient(&Status::new(code, "")), "{code:?}");
        }
        for code in [Code::Unknown, Code::Cancelled, Code::Internal, Code::ResourceExhausted] {
            assert!(is_transient(&broken(code)) && !is_transient(&Status::new(code, "")), "{code:?}");
        }
        for code in [Code::NotFound, Code::Aborted, Code::AlreadyExists, Code::PermissionDenied, Code::OutOfRange] {
            assert!(!is_transient(&broken(code)), "{code:?}");
        }
    }
}
