//! Bodies in and notices out of the agent's work, as bounded channels.

use crate::host::Notice;
use crate::host::frame::{BODY_WINDOW, Frame};
use bytes::Bytes;
use tokio::sync::mpsc::{self, error::TrySendError};

/// Notices that may wait unread.
const NOTICES: usize = 256;

/// The body did not come to its end: the caller or the link went away.
#[derive(Debug, thiserror::Error)]
#[error("reading the request's body: it was cut off; run the same command again")]
pub struct BodyCutOff;

/// Why a piece of a body was not put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyRefused {
    /// What is left of it can be thrown away.
    #[error("nobody reads the body any more")]
    Unwanted,
    /// The sender does not wait until pieces are taken.
    #[error("more than {window} pieces of a body were sent ahead", window = BODY_WINDOW)]
    Overrun,
}

enum Piece {
    Bytes(Bytes),
    End,
}

/// Puts pieces of a body in, and never waits: the one who sends them waits for
/// the one who takes them. Dropping it without [`BodySender::finish`] cuts the
/// body off.
#[derive(Debug)]
pub struct BodySender(mpsc::Sender<Piece>);

impl BodySender {
    /// Puts a piece in.
    ///
    /// # Errors
    /// If the reader has gone, or has not taken [`BODY_WINDOW`] pieces yet.
    pub fn send(&self, bytes: Bytes) -> Result<(), BodyRefused> {
        self.put(Piece::Bytes(bytes))
    }

    /// Marks the end of the body.
    ///
    /// # Errors
    /// As [`BodySender::send`].
    pub fn finish(self) -> Result<(), BodyRefused> {
        self.put(Piece::End)
    }

    fn put(&self, piece: Piece) -> Result<(), BodyRefused> {
        self.0.try_send(piece).map_err(|error| match error {
            TrySendError::Closed(_) => BodyRefused::Unwanted,
            TrySendError::Full(_) => BodyRefused::Overrun,
        })
    }
}

/// Takes pieces of a body out.
#[derive(Debug)]
pub struct BodyReceiver {
    receiver: mpsc::Receiver<Piece>,
    ended: bool,
    /// Where it is told that a piece was taken, and of which request.
    taken: Option<(mpsc::Sender<Frame>, u64)>,
    /// A piece is in the reader's hand.
    in_hand: bool,
}

impl BodyReceiver {
    /// The body of a request that has none.
    pub fn empty() -> Self {
        let (_, receiver) = mpsc::channel(1);
        Self {
            ended: true,
            ..Self::of(receiver)
        }
    }

    fn of(receiver: mpsc::Receiver<Piece>) -> Self {
        Self {
            receiver,
            ended: false,
            taken: None,
            in_hand: false,
        }
    }

    /// Tells the sender of every piece that was taken.
    #[must_use]
    pub(super) fn telling(mut self, answers: mpsc::Sender<Frame>, id: u64) -> Self {
        self.taken = Some((answers, id));
        self
    }

    /// The next piece, or none at the body's end. To ask for it says that the
    /// reader is done with the one before. Dropping the future loses nothing.
    ///
    /// # Errors
    /// If the sender went away before the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyCutOff> {
        if self.ended {
            return Ok(None);
        }
        if self.in_hand {
            if let Some((answers, id)) = &self.taken {
                // Without anybody to tell, the body will be cut off too.
                let _ = answers.send(Frame::BodyTaken { id: *id }).await;
            }
            self.in_hand = false;
        }
        match self.receiver.recv().await {
            Some(Piece::Bytes(bytes)) => {
                self.in_hand = true;
                Ok(Some(bytes))
            }
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
    // The end has room of its own.
    let (sender, receiver) = mpsc::channel(BODY_WINDOW + 1);
    (BodySender(sender), BodyReceiver::of(receiver))
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
        sender.send(Bytes::from_static(b"a")).unwrap();
        sender.finish().unwrap();
        assert_eq!(
            receiver.next().await.unwrap(),
            Some(Bytes::from_static(b"a"))
        );
        assert_eq!(receiver.next().await.unwrap(), None);
        assert_eq!(receiver.next().await.unwrap(), None);

        let (sender, mut receiver) = body_channel();
        sender.send(Bytes::from_static(b"a")).unwrap();
        drop(sender);
        assert!(receiver.next().await.unwrap().is_some());
        assert!(receiver.next().await.is_err());

        assert_eq!(BodyReceiver::empty().next().await.unwrap(), None);
    }
    #[tokio::test]
    async fn a_piece_is_taken_when_its_reader_asks_for_the_next_one() {
        let (answers, mut told) = mpsc::channel(BODY_WINDOW);
        let (sender, receiver) = body_channel();
        let mut receiver = receiver.telling(answers, 7);
        for _ in 0..BODY_WINDOW {
            sender.send(Bytes::from_static(b"a")).unwrap();
        }
        receiver.next().await.unwrap();
        assert!(told.try_recv().is_err(), "it is still in hand");
        receiver.next().await.unwrap();
        assert!(matches!(told.try_recv(), Ok(Frame::BodyTaken { id: 7 })));
        for _ in 0..3 {
            sender.send(Bytes::from_static(b"a")).unwrap();
        }
        let error = sender.send(Bytes::from_static(b"a")).unwrap_err();
        assert_eq!(error, BodyRefused::Overrun);
        drop(receiver);
        let error = sender.send(Bytes::from_static(b"a")).unwrap_err();
        assert_eq!(error, BodyRefused::Unwanted);
    }
}
