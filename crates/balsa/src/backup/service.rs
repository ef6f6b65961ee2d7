//! The server's side of a backup: a view, encoded piece by piece beside everything else.

use protos::cluster as pb;
use state::View;
use state::backup::{Manifest, Pieces};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

pub(crate) type Stream = ReceiverStream<Result<pb::BackupPiece, Status>>;

/// Pieces waiting for the caller: with what tonic buffers, the memory that a slow reader costs.
const PIECES_MAX: usize = 4;
/// Of one message.
pub(crate) const PIECE_BYTES_MAX: usize = 1 << 20;

/// Whoever takes nothing for this long is given up: the view that is held for it grows with everything that changes.
const READER_PATIENCE: Duration = Duration::from_secs(300);

/// Holds the view while it is read out; what is written meanwhile goes to newer ones.
pub(crate) fn stream(view: View, manifest: Manifest) -> Response<Stream> {
    let (sender, receiver) = mpsc::channel(PIECES_MAX + 1);
    // There is room for the last word: a stream that merely ends is taken for a whole one.
    let last_word = sender.clone().try_reserve_owned();
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        for piece in Pieces::of(view, manifest) {
            let mut rest = bytes::Bytes::from(piece);
            while !rest.is_empty() {
                let data = rest.split_to(rest.len().min(PIECE_BYTES_MAX));
                let sent = async { timeout(READER_PATIENCE, sender.send(Ok(pb::BackupPiece { data }))).await };
                match runtime.block_on(sent) {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return tracing::info!("a backup was given up by its reader"),
                    Err(_) => {
                        let why = "the backup is given up: its reader took nothing for 5 minutes";
                        tracing::warn!("{why}");
                        return match last_word {
                            Ok(room) => drop(room.send(Err(Status::deadline_exceeded(why)))),
                            Err(_) => {}
                        };
                    }
                }
            }
        }
    });
    Response::new(ReceiverStream::new(receiver))
}
