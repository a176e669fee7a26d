//! An input on which the other side is heard all the time, or is gone.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Fails with [`io::ErrorKind::TimedOut`] when no byte came for as long as the
/// limit. Bytes count, not frames: one large frame may be on a slow link, which
/// others share, for longer than that.
pub(super) struct Heard<R> {
    inner: R,
    limit: Duration,
    silence: Pin<Box<Sleep>>,
}

impl<R> Heard<R> {
    /// Needs a runtime.
    pub(super) fn new(inner: R, limit: Duration) -> Self {
        Self {
            inner,
            limit,
            silence: Box::pin(sleep(limit)),
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Heard<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Poll::Ready(result) = Pin::new(&mut this.inner).poll_read(context, buffer) {
            this.silence.as_mut().reset(Instant::now() + this.limit);
            return Poll::Ready(result);
        }
        match this.silence.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn a_slow_frame_is_heard_and_silence_is_an_error() {
        const LIMIT: Duration = Duration::from_secs(1);
        let (mut sender, receiver) = duplex(64);
        let mut heard = Heard::new(receiver, LIMIT);
        let slowly = async {
            for byte in 0..10 {
                tokio::time::sleep(LIMIT / 5).await;
                sender.write_u8(byte).await.unwrap();
            }
        };
        let mut frame = [0; 10];
        let (read, ()) = tokio::join!(heard.read_exact(&mut frame), slowly);
        assert_eq!(read.unwrap(), 10);
        let error = heard.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
