//! Shared rounds: callers that wait for the same answer get it from one question.
//!
//! A round answers everybody who came before it began, never one who came later: a read index found
//! before a read was asked for may miss a write that was acknowledged in between.

use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Mutex;

/// The rounds of one question. A caller that goes away in its round leaves it to the next one.
pub(crate) struct Rounds<T> {
    arrivals: AtomicU64,
    last: Mutex<Last<T>>,
}

struct Last<T> {
    /// Arrivals below this were answered by the last round.
    covers: u64,
    answer: Option<T>,
}

impl<T> Default for Rounds<T> {
    fn default() -> Rounds<T> {
        Rounds { arrivals: AtomicU64::new(0), last: Mutex::new(Last { covers: 0, answer: None }) }
    }
}

impl<T: Clone> Rounds<T> {
    /// The answer of a round that begins after this call: one that another caller asks, or `ask`.
    pub(crate) async fn join(&self, ask: impl Future<Output = T>) -> T {
        let arrival = self.arrivals.fetch_add(1, Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if let Some(answer) = last.answer.as_ref().filter(|_| arrival < last.covers) {
            return answer.clone();
        }
        let covers = self.arrivals.load(Ordering::SeqCst);
        let answer = ask.await;
        *last = Last { covers, answer: Some(answer.clone()) };
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::time::sleep;

    #[tokio::test(start_paused = true)]
    async fn a_round_answers_those_who_came_before_it_began() {
        let (rounds, asked) = (Arc::new(Rounds::default()), Arc::new(AtomicU64::new(0)));
        let caller = |after_ms: u64| {
            let (rounds, asked) = (rounds.clone(), asked.clone());
            tokio::spawn(async move {
                sleep(Duration::from_millis(after_ms)).await;
                let ask = async {
                    let round = asked.fetch_add(1, Ordering::SeqCst);
                    sleep(Duration::from_millis(10)).await;
                    round
                };
                rounds.join(ask).await
            })
        };
        // The first asks; three come during its round and share the next; one comes in that one.
        let callers = [caller(0), caller(1), caller(2), caller(9), caller(15)];
        let mut rounds_of = Vec::new();
        for caller in callers {
            rounds_of.push(caller.await.unwrap());
        }
        assert_eq!(rounds_of, [0, 1, 1, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_gives_up_leaves_no_gap() {
        let rounds = Rounds::default();
        let never = tokio::time::timeout(Duration::from_millis(5), rounds.join(std::future::pending::<u64>()));
        assert!(never.await.is_err());
        assert_eq!(rounds.join(async { 7 }).await, 7);
    }
}
