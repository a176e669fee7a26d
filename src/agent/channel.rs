//! Bodies in and notices out of the agent's work, as bounded channels.

use crate::host::Notice;
use bytes::Bytes;
use tokio::sync::mpsc;

/// Pieces of a body that may wait unread, each at most 1 MiB: enough to keep a
/// disk busy, little enough for a small host.
const BODY_PIECES: usize = 8;
/// Notices that may wait unread.
const NOTICES: usize = 256;

/// The body did not come to its end: the caller or the link went away.
#[derive(Debug, thiserror::Error)]
#[error("reading the request's body: it was cut off; run the same command again")]
pub struct BodyCutOff;

/// Nobody reads the body any more; what is left of it can be thrown away.
#[derive(Debug, thiserror::Error)]
#[error("the body is not wanted any more")]
pub struct BodyUnwanted;

enum Piece {
    Bytes(Bytes),
    End,
}

/// Puts pieces of a body in. Dropping it without [`BodySender::finish`] cuts
/// the body off.
#[derive(Debug)]
pub struct BodySender(mpsc::Sender<Piece>);

impl BodySender {
    /// Waits for room and puts a piece in.
    ///
    /// # Errors
    /// If the reader has gone.
    pub async fn send(&self, bytes: Bytes) -> Result<(), BodyUnwanted> {
        let piece = Piece::Bytes(bytes);
        self.0.send(piece).await.map_err(|_| BodyUnwanted)
    }

    /// Marks the end of the body.
    ///
    /// # Errors
    /// If the reader has gone.
    pub async fn finish(self) -> Result<(), BodyUnwanted> {
        self.0.send(Piece::End).await.map_err(|_| BodyUnwanted)
    }
}

/// Takes pieces of a body out.
#[derive(Debug)]
pub struct BodyReceiver {
    receiver: mpsc::Receiver<Piece>,
    ended: bool,
}

impl BodyReceiver {
    /// The body of a request that has none.
    pub fn empty() -> Self {
        let (_, receiver) = mpsc::channel(1);
        Self {
            receiver,
            ended: true,
        }
    }

    /// The next piece, or none at the body's end.
    ///
    /// # Errors
    /// If the sender went away before the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyCutOff> {
        if self.ended {
            return Ok(None);
        }
        match self.receiver.recv().await {
            Some(Piece::Bytes(bytes)) => Ok(Some(bytes)),
            Some(Piece::End) => {
                self.ended = true;
                Ok(None)
            }
            None => Err(BodyCutOff),
        }
    }
}

/// A channel for one request's body.
pub fn body_channel() -> (BodySender, BodyReceiver) {
    let (sender, receiver) = mpsc::channel(BODY_PIECES);
    let receiver = BodyReceiver {
        receiver,
        ended: false,
    };
    (BodySender(sender), receiver)
}

/// Where the notices of one request go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NoticeSender(mpsc::Sender<Notice>);

impl NoticeSender {
    /// Sends a notice that must arrive, such as a program's output. Waits for
    /// room; a caller that has gone is no error, since the action in hand is
    /// brought to its end without it.
    pub async fn send(&self, notice: Notice) {
        let _ = self.0.send(notice).await;
    }

    /// Waits until nobody listens any more.
    pub async fn closed(&self) {
        self.0.closed().await;
    }

    /// Sends a notice that may be dropped when its reader is slow.
    pub fn send_lossy(&self, notice: Notice) {
        let _ = self.0.try_send(notice);
    }
}

/// A channel for one request's notices.
pub fn notice_channel() -> (NoticeSender, mpsc::Receiver<Notice>) {
    let (sender, receiver) = mpsc::channel(NOTICES);
    (NoticeSender(sender), receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tells_a_finished_body_from_a_cut_off_one() {
        let (sender, mut receiver) = body_channel();
        sender.send(Bytes::from_static(b"a")).await.unwrap();
        sender.finish().await.unwrap();
        assert_eq!(
            receiver.next().await.unwrap(),
            Some(Bytes::from_static(b"a"))
        );
        assert_eq!(receiver.next().await.unwrap(), None);
        assert_eq!(receiver.next().await.unwrap(), None);

        let (sender, mut receiver) = body_channel();
        sender.send(Bytes::from_static(b"a")).await.unwrap();
        drop(sender);
        assert!(receiver.next().await.unwrap().is_some());
        assert!(receiver.next().await.is_err());

        assert_eq!(BodyReceiver::empty().next().await.unwrap(), None);
    }
}
