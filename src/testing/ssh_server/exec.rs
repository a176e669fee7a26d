//! The commands of the test server: streams for a closure, and its ending.

use super::ServerOptions;
use super::stream::Open;
use bytes::Bytes;
use russh::server::{self, Msg};
use russh::{Channel, ChannelId, ChannelMsg, ChannelWriteHalf, Sig};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::mpsc;

/// How a command of the server ends.
#[derive(Clone, Debug)]
pub enum Ending {
    /// Exit status, end of file, close: as sshd does it.
    Status(u32),
    /// The status first, then these data, then end of file and close.
    StatusThenData(u32, Bytes),
    /// Killed by this signal (`KILL`, `SEGV` …).
    Signal(&'static str),
    /// The channel is closed, but there is never a status.
    NoStatus,
    /// Neither status nor close: the client waits for ever.
    Silence,
}

/// A command that a client asked for.
pub struct Exec {
    pub command: String,
    pub stdin: ExecInput,
    pub stdout: ExecOutput,
    pub stderr: ExecOutput,
}

/// Standard input of a command.
pub struct ExecInput(mpsc::UnboundedReceiver<Bytes>);

impl ExecInput {
    /// The next bytes; `None` once the client has sent end of file or is gone.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }

    /// Everything up to the end of file.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(chunk) = self.next().await {
            all.extend_from_slice(&chunk);
        }
        all
    }
}

/// Standard output or standard error of a command.
#[derive(Clone)]
pub struct ExecOutput {
    writer: Arc<ChannelWriteHalf<Msg>>,
    extended: Option<u32>,
}

impl ExecOutput {
    /// Waits for the client's window. Fails when the client is gone.
    pub async fn write(&self, data: impl Into<Bytes>) -> Result<(), russh::Error> {
        match self.extended {
            None => self.writer.data_bytes(data).await,
            Some(code) => self.writer.extended_data_bytes(code, data).await,
        }
    }
}

pub(super) type Run =
    Arc<dyn Fn(Exec) -> Pin<Box<dyn Future<Output = Ending> + Send>> + Send + Sync>;

pub(super) async fn execute(
    options: Arc<ServerOptions>,
    command: String,
    channel: Channel<Msg>,
    handle: server::Handle,
    open: Open,
) {
    let id = channel.id();
    let (mut reader, writer) = channel.split();
    let writer = Arc::new(writer);
    // Unbounded, so that a command that reads nothing never holds up the
    // connection. The client's window bounds it in tests that matter.
    let (sender, receiver) = mpsc::unbounded_channel();
    let pause = options.input_pause;
    let input = async move {
        let mut sender = Some(sender);
        while let Some(message) = reader.wait().await {
            match message {
                ChannelMsg::Data { data } => {
                    tokio::time::sleep(pause).await;
                    if let Some(sender) = &sender {
                        sender.send(data).ok();
                    }
                }
                ChannelMsg::Eof => drop(sender.take()),
                ChannelMsg::Close => break,
                _ => {}
            }
        }
    };
    let exec = Exec {
        command,
        stdin: ExecInput(receiver),
        stdout: ExecOutput {
            writer: writer.clone(),
            extended: None,
        },
        stderr: ExecOutput {
            writer: writer.clone(),
            extended: Some(1),
        },
    };
    let run = (options.run)(exec);
    let output = async {
        let ending = run.await;
        finish(ending, id, &writer, &handle).await;
        drop(open);
    };
    tokio::join!(input, output);
}

/// Every error here means that the client has gone.
async fn finish(
    ending: Ending,
    id: ChannelId,
    writer: &ChannelWriteHalf<Msg>,
    handle: &server::Handle,
) {
    match ending {
        Ending::Status(status) => {
            writer.eof().await.ok();
            writer.exit_status(status).await.ok();
        }
        Ending::StatusThenData(status, data) => {
            writer.exit_status(status).await.ok();
            writer.data_bytes(data).await.ok();
            writer.eof().await.ok();
        }
        Ending::Signal(name) => {
            writer.eof().await.ok();
            let signal = match name {
                "KILL" => Sig::KILL,
                "SEGV" => Sig::SEGV,
                other => Sig::Custom(other.to_owned()),
            };
            let message = "out of memory".to_owned();
            handle
                .exit_signal_request(id, signal, false, message, String::new())
                .await
                .ok();
        }
        Ending::NoStatus => {
            writer.eof().await.ok();
        }
        Ending::Silence => return,
    }
    writer.close().await.ok();
}
