//! Answers that are ready together leave together.
//!
//! When a batch of writes is applied, dozens of handlers finish one after another, and the scheduler runs a
//! connection as soon as the first of them has handed it an answer: each answer would be a TLS record and a
//! system call of its own. So a connection that has something to write lets the tasks that are ready run
//! first, once. When there are none, that costs it one more poll.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(crate) struct Gathered<T> {
    io: T,
    /// The ready tasks have had their turn since the last flush.
    waited: bool,
}

impl<T> Gathered<T> {
    pub(crate) fn new(io: T) -> Gathered<T> {
        Gathered { io, waited: false }
    }

    /// A task that wakes itself while it runs goes behind those that are ready.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waited {
            return Poll::Ready(());
        }
        self.waited = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gathered<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gathered<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_turn(cx));
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_turn(cx));
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.waited = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::{Wake, Waker};

    #[derive(Default)]
    struct Wakes(AtomicU32);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_first_write_after_a_flush_lets_others_run() {
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        let cx = &mut Context::from_waker(&waker);
        let mut io = Gathered::new(Vec::new());
        let mut write = |bytes: &[u8], flush: bool| {
            let written = Pin::new(&mut io).poll_write(cx, bytes).is_ready();
            if flush {
                assert!(Pin::new(&mut io).poll_flush(cx).is_ready());
            }
            written
        };
        assert!(!write(b"a", false));
        assert!(write(b"ab", false), "what came meanwhile goes with it");
        assert!(write(b"c", true), "one turn is enough until all is flushed");
        assert!(!write(b"d", false));
        assert_eq!(wakes.0.load(Ordering::Relaxed), 2, "whoever is held up is woken");
        assert!(write(b"d", true));
        assert_eq!(io.io, b"abcd");
    }
}
