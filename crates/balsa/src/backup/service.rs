//! The server's side of a backup: a view, encoded piece by piece beside everything else.

use protos::cluster as pb;
use state::View;
use state::backup::{Manifest, Pieces};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

pub(crate) type Stream = ReceiverStream<Result<pb::BackupPiece, Status>>;

/// Pieces waiting for the caller: with what tonic buffers, the memory that a slow reader costs.
const PIECES_MAX: usize = 4;
/// Of one message.
pub(crate) const PIECE_BYTES_MAX: usize = 1 << 20;

/// Holds the view while it is read out; what is written meanwhile goes to newer ones.
pub(crate) fn stream(view: View, manifest: Manifest) -> Response<Stream> {
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    tokio::task::spawn_blocking(move || {
        for piece in Pieces::of(view, manifest) {
            let mut rest = bytes::Bytes::from(piece);
            while !rest.is_empty() {
                let data = rest.split_to(rest.len().min(PIECE_BYTES_MAX));
                if sender.blocking_send(Ok(pb::BackupPiece { data })).is_err() {
                    return tracing::info!("a backup was given up by its reader");
                }
            }
        }
    });
    Response::new(ReceiverStream::new(receiver))
}
