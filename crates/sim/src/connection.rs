//! A connection on which a leader appends at a peer, as TCP carries it: each way in order, until a loss, a cut
//! or an end of one side breaks it. What was sent before arrives all the same, maybe after what a newer
//! connection brought.

use crate::network::{KEEP_ALIVE, Link, Network, as_status, name_of_append};
use crate::points::{Edge, Subject};
use futures::StreamExt;
use futures::channel::mpsc::Receiver;
use futures::stream::{self, BoxStream};
use protos::raft as pb;
use raft_node::TransportError;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep, sleep_until};

type Answer = Result<pb::AppendResponse, TransportError>;
/// The leader's end.
type Open = (Link, UnboundedReceiver<Answer>);

fn broken() -> TransportError {
    TransportError::Failed("the connection broke".into())
}

/// Opens a connection from a leader to a peer: what it asks goes in, the answers come out.
pub(crate) fn open(link: &Link, to: usize, requests: Receiver<pb::AppendRequest>) -> BoxStream<'static, Answer> {
    let (network, from) = (link.network.clone(), link.from);
    let (asked, asking) = unbounded_channel();
    let (arrived, received) = unbounded_channel();
    let (replied, replying) = unbounded_channel();
    let (answered, answers) = unbounded_channel();
    // Tasks of their own: what has been sent arrives even when the leader has given up.
    tokio::spawn(send(link.clone(), requests, asked));
    tokio::spawn(network.clone().carry(Way::new((from, to), name_of_append), asking, arrived));
    tokio::spawn(network.clone().serve(to, received, replied));
    let kind = |answer: &Answer| if answer.is_ok() { "reply".into() } else { "error".into() };
    tokio::spawn(network.carry(Way::new((to, from), kind), replying, answered));
    stream::unfold(Some((link.clone(), answers)), next_answer).boxed()
}

/// The next answer, and what is left of the connection: nothing after an error.
async fn next_answer(open: Option<Open>) -> Option<(Answer, Option<Open>)> {
    let (link, mut answers) = open?;
    match answers.recv().await {
        Some(answer) if !link.is_over() && !link.network.pass(link.from, Subject::Entries, Edge::Answered) => {
            let goes_on = answer.is_ok().then_some((link, answers));
            Some((answer, goes_on))
        }
        Some(_) => {
            sleep(KEEP_ALIVE).await;
            Some((Err(broken()), None))
        }
        None => Some((Err(broken()), None)),
    }
}

/// Hands over what the leader asks, while its boot lasts.
async fn send(link: Link, mut requests: Receiver<pb::AppendRequest>, asked: UnboundedSender<pb::AppendRequest>) {
    while let Some(request) = requests.next().await {
        if link.is_over() || asked.send(request).is_err() {
            return;
        }
        link.network.pass(link.from, Subject::Entries, Edge::Sent);
    }
}

/// One way of a connection.
struct Way<T> {
    from: usize,
    to: usize,
    name: fn(&T) -> String,
    /// On the wire, with the moment at which each arrives.
    under_way: VecDeque<(Instant, T)>,
    last: Instant,
}

impl<T> Way<T> {
    fn new((from, to): (usize, usize), name: fn(&T) -> String) -> Way<T> {
        Way { from, to, name, under_way: VecDeque::new(), last: Instant::now() }
    }

    /// Puts a message on the wire, behind those before it. False when it got lost.
    fn leave(&mut self, network: &Network, message: T) -> bool {
        let Some(delay) = network.fate().filter(|_| !network.is_cut(self.from, self.to)) else {
            let what = (self.name)(&message);
            network.trace.note(format_args!("{}>{} broke: {what}", self.from, self.to));
            return false;
        };
        let leaves = Instant::now() + network.stalled_for(self.from);
        self.last = self.last.max(leaves + delay);
        self.under_way.push_back((self.last, message));
        true
    }

    /// Waits for the next message to arrive; for ever when none is on the wire. `None` when a cut kept it.
    async fn arrive(&mut self, network: &Network) -> Option<T> {
        match self.under_way.front() {
            Some((due, _)) => sleep_until(*due).await,
            None => std::future::pending().await,
        }
        network.thaw(self.to).await;
        let (_, message) = self.under_way.pop_front()?;
        let (what, is_cut) = ((self.name)(&message), network.is_cut(self.from, self.to));
        network.trace.note(format_args!("{}>{} {}{what}", self.from, self.to, if is_cut { "broke: " } else { "" }));
        (!is_cut).then_some(message)
    }
}

impl Network {
    /// Carries messages one way. After a loss nothing more leaves, after a cut nothing more arrives, and for a
    /// while nobody is told.
    async fn carry<T>(
        self: Arc<Network>,
        mut way: Way<T>,
        mut sent: UnboundedReceiver<T>,
        arrived: UnboundedSender<T>,
    ) {
        let (mut is_open, mut lost_at) = (true, None);
        while is_open || !way.under_way.is_empty() {
            tokio::select! {
                biased;
                message = way.arrive(&self) => match message {
                    Some(message) => {
                        if arrived.send(message).is_err() {
                            return;
                        }
                    }
                    None => return sleep(KEEP_ALIVE).await,
                },
                message = sent.recv(), if is_open => match message {
                    Some(message) => {
                        is_open = way.leave(&self, message);
                        lost_at = (!is_open).then(Instant::now);
                    }
                    None => is_open = false,
                }
            }
        }
        if let Some(lost_at) = lost_at {
            sleep_until(lost_at + KEEP_ALIVE).await;
        }
    }

    /// The peer's end: answers what arrives, in its order.
    async fn serve(
        self: Arc<Network>,
        to: usize,
        mut received: UnboundedReceiver<pb::AppendRequest>,
        replied: UnboundedSender<Answer>,
    ) {
        let Some(first) = received.recv().await else { return };
        let host = match self.host(to) {
            // The process is down, or the whole machine, which refuses nothing.
            None if self.draw(500) => return sleep(KEEP_ALIVE).await,
            None => return drop(replied.send(Err(TransportError::Unreachable("connection refused".into())))),
            Some(host) => host,
        };
        let network = self.clone();
        let requests = stream::once(async move { first })
            .chain(stream::unfold(received, |mut received| async move { Some((received.recv().await?, received)) }))
            // A master that has just lost its power gets no further.
            .take_while(move |_| {
                let falls = network.pass(to, Subject::Entries, Edge::Received);
                async move { !falls }
            });
        let mut answers = host.node.appends(requests.boxed());
        loop {
            let answer = tokio::select! {
                biased;
                () = host.ended() => break,
                answer = answers.next() => answer,
            };
            let Some(answer) = answer else { break };
            if self.pass(to, Subject::Entries, Edge::After) {
                break;
            }
            // The answer is on its way all the same.
            self.pass(to, Subject::Entries, Edge::Replied);
            if replied.send(answer.map_err(as_status)).is_err() {
                break;
            }
        }
        // A process that ends hangs up; a machine that does tells nobody.
        if host.is_over() && self.draw(500) {
            sleep(KEEP_ALIVE).await;
        }
    }
}
