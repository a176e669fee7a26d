//! The two tasks behind each process: one takes all that comes from its
//! channel, the other hands its standard input to the channel.

use super::process::{Ended, Exit, Process, ProcessErrors, ProcessExit};
use super::process::{ProcessInput, ProcessOutput, Shared};
use bytes::Bytes;
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, PollSender};

/// Chunks of standard output that wait for the reader, each up to one SSH
/// packet of 64 KiB. When they are all full, the whole session waits.
const OUTPUT_CHUNKS: usize = 128;

/// Chunks of standard input that wait for the window. Two would do to keep the
/// writer and the session busy at once.
const INPUT_CHUNKS: usize = 4;

/// SSH's number for standard error in extended data (RFC 4254, section 5.2).
const STDERR: u32 = 1;

/// Starts the tasks for a channel on which a command was asked for. The second
/// value tells whether the server has accepted the command.
pub(super) fn start(
    channel: Channel<Msg>,
    shared: Arc<Shared>,
) -> (Process, oneshot::Receiver<bool>) {
    let (reader, writer) = channel.split();
    let writer = Arc::new(writer);
    let (input_sender, input_receiver) = mpsc::channel(INPUT_CHUNKS);
    let (output_sender, output_receiver) = mpsc::channel(OUTPUT_CHUNKS);
    let (accepted_sender, accepted_receiver) = oneshot::channel();
    let release = CancellationToken::new();
    let ended = shared.ended.subscribe();

    tokio::spawn(feed(writer.clone(), input_receiver, ended.clone()));
    let pump = Pump {
        shared: shared.clone(),
        stdout: Some(output_sender),
        accepted: Some(accepted_sender),
        release: release.clone(),
        exit: None,
    };
    tokio::spawn(pump.run(reader, writer));

    let process = Process {
        stdin: ProcessInput {
            chunks: PollSender::new(input_sender),
            shared: shared.clone(),
        },
        stdout: ProcessOutput {
            chunks: output_receiver,
            current: Bytes::new(),
            shared: shared.clone(),
        },
        stderr: ProcessErrors {
            position: 0,
            shared: shared.clone(),
        },
        exit: ProcessExit {
            ended,
            shared,
            release: release.drop_guard(),
        },
    };
    (process, accepted_receiver)
}

/// Hands standard input to the channel, then end of file. The library never
/// wakes a writer that waits for the window of a channel which is gone, hence
/// the look at `ended` all the time.
async fn feed(
    writer: Arc<ChannelWriteHalf<Msg>>,
    mut chunks: mpsc::Receiver<Bytes>,
    mut ended: watch::Receiver<Option<Ended>>,
) {
    let hand_over = async {
        while let Some(chunk) = chunks.recv().await {
            if writer.data_bytes(chunk).await.is_err() {
                return;
            }
        }
        // An error means that the session is gone, which the pump reports.
        writer.eof().await.ok();
    };
    tokio::select! {
        biased;
        _ = ended.wait_for(Option::is_some) => {}
        () = hand_over => {}
    }
}

struct Pump {
    shared: Arc<Shared>,
    /// Dropped when all has come, which is the end of file for the reader.
    stdout: Option<mpsc::Sender<Bytes>>,
    accepted: Option<oneshot::Sender<bool>>,
    release: CancellationToken,
    exit: Option<Exit>,
}

impl Pump {
    async fn run(mut self, mut reader: ChannelReadHalf, writer: Arc<ChannelWriteHalf<Msg>>) {
        let release = self.release.clone();
        let ended = tokio::select! {
            biased;
            () = release.cancelled() => Ended::Released,
            ended = self.receive(&mut reader) => ended,
        };
        self.shared.stderr.end();
        let released = matches!(ended, Ended::Released);
        // The order matters: whoever sees the end of standard output must find
        // the reason already there.
        self.shared.ended.send_replace(Some(ended));
        drop(self.stdout.take());
        if released {
            // The session may be waiting for room in this very channel. It must
            // be gone before the session can take our request to close it.
            drop(reader);
            // An error means that the session is gone, and the channel with it.
            writer.close().await.ok();
        }
    }

    /// Takes messages until the channel ends. An exit status may come before
    /// the last data, and is no end.
    async fn receive(&mut self, reader: &mut ChannelReadHalf) -> Ended {
        while let Some(message) = reader.wait().await {
            match message {
                ChannelMsg::Data { data } => self.deliver(data).await,
                ChannelMsg::ExtendedData { data, ext: STDERR } => self.shared.stderr.append(&data),
                ChannelMsg::ExitStatus { exit_status } => {
                    self.exit = Some(Exit::Status(exit_status));
                }
                ChannelMsg::ExitSignal {
                    signal_name,
                    core_dumped,
                    error_message,
                    ..
                } => {
                    self.exit = Some(Exit::Signal {
                        name: signal_text(signal_name),
                        core_dumped,
                        message: error_message,
                    });
                }
                ChannelMsg::Success => self.answer(true),
                ChannelMsg::Failure => self.answer(false),
                ChannelMsg::Eof => {
                    self.shared.stdout_complete.store(true, Ordering::Release);
                    drop(self.stdout.take());
                }
                ChannelMsg::Close => {
                    self.shared.stdout_complete.store(true, Ordering::Release);
                    return self.exit.take().map_or(Ended::Closed, Ended::Exit);
                }
                _ => {}
            }
        }
        // The channel ended without being closed: the session is gone. An exit
        // that came before doesn't count, since output may be missing.
        Ended::Lost
    }

    /// Waits for the reader, unless there is none any more.
    async fn deliver(&mut self, data: Bytes) {
        if let Some(stdout) = &self.stdout
            && stdout.send(data).await.is_err()
        {
            self.stdout = None;
        }
    }

    fn answer(&mut self, accepted: bool) {
        if let Some(sender) = self.accepted.take() {
            // Nobody waits for the answer if the caller gave up.
            sender.send(accepted).ok();
        }
    }
}

fn signal_text(signal: Sig) -> String {
    match signal {
        Sig::Custom(name) => name,
        known => format!("{known:?}"),
    }
}
