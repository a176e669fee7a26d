//! What comes from an agent: its first line, then frames.

use super::{Incoming, State, Traffic, end, lock};
use crate::host::frame::{Frame, FrameCodec, Hello, MAGIC, from_host};
use futures_util::StreamExt;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::codec::FramedRead;

/// Bytes of a shell's banner before the agent's first line.
const BANNER_LIMIT: usize = 64 << 10;

/// Reads up to the agent's first line, over whatever a shell prints before.
pub(super) async fn read_hello(output: &mut (impl AsyncRead + Unpin)) -> Result<Hello, String> {
    let mut line = Vec::new();
    let mut read = 0;
    loop {
        let byte = match output.read_u8().await {
            Ok(byte) => byte,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err("the stream ended before its first line".to_owned());
            }
            Err(error) => return Err(error.to_string()),
        };
        read += 1;
        if read > BANNER_LIMIT {
            return Err(format!("{BANNER_LIMIT} bytes came that are not an agent's"));
        }
        if byte != b'\n' {
            line.push(byte);
            continue;
        }
        let text = String::from_utf8_lossy(&line);
        if let Some(at) = text.find(MAGIC) {
            let json = &text[at + MAGIC.len()..];
            return from_host(json.as_bytes())
                .map_err(|error| format!("its first line can't be read: {error}"));
        }
        line.clear();
    }
}

/// Hands what comes to the calls that wait for it.
pub(super) struct Reader {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) traffic: Arc<Traffic>,
}

impl Reader {
    pub(super) async fn run(
        self,
        output: impl AsyncRead + Send + Unpin,
        explain: Box<dyn Fn() -> String + Send + Sync>,
    ) {
        let counted = Counted {
            inner: output,
            traffic: self.traffic.clone(),
        };
        let mut frames = FramedRead::new(counted, FrameCodec);
        let reason = loop {
            match frames.next().await {
                Some(Ok(frame)) => self.deliver(frame).await,
                Some(Err(error)) => break format!("reading from the host: {error}"),
                None => {
                    let explained = explain();
                    break if explained.is_empty() {
                        "its agent ended".to_owned()
                    } else {
                        format!("its agent ended: {explained}")
                    };
                }
            }
        };
        end(&self.state, &reason);
    }

    async fn deliver(&self, frame: Frame) {
        let (id, incoming) = match frame {
            Frame::Notice { id, notice } => (id, Incoming::Notice(notice)),
            Frame::BodyTaken { id } => (id, Incoming::BodyTaken),
            Frame::Response { id, result } => (id, Incoming::Response(result)),
            // An agent sends nothing else.
            _ => return,
        };
        let sender = lock(&self.state).waiting.get(&id).cloned();
        if let Some(sender) = sender {
            // A call that was given up has no receiver; that is its matter.
            let _ = sender.send(incoming).await;
        }
    }
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    traffic: Arc<Traffic>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Counted<R> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = std::pin::Pin::new(&mut self.inner).poll_read(context, buffer);
        let read = buffer.filled().len() - before;
        self.traffic
            .received
            .fetch_add(read as u64, Ordering::Relaxed);
        result
    }
}
