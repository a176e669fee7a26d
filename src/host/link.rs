//! The jump host's end of an agent's stream: many calls over one pair of
//! pipes, whoever carries them.

mod incoming;
#[cfg(test)]
mod tests;

use super::frame::{BODY_PIECE, BODY_WINDOW, Frame, Hello, PROTOCOL_VERSION};
use super::{
    Body, Call, Failure, Host, HostError, Notice, Request, Response, RunInHand, Transferred,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use incoming::{Reader, read_hello};
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

/// An agent ends when it hears nothing for thirty seconds; this leaves room
/// for five lost ones.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(5);
/// How long a shell's banner and the agent's start may take.
const HELLO_LIMIT: Duration = Duration::from_secs(30);
/// Frames that may wait for the link.
const QUEUE: usize = 4;

/// A host behind an agent's pipes.
pub struct Link {
    host: String,
    hello: Hello,
    outgoing: mpsc::Sender<Frame>,
    state: Arc<Mutex<State>>,
    next_id: AtomicU64,
    traffic: Arc<Traffic>,
    /// What carries the pipes, kept for as long as the link.
    _carrier: Box<dyn Send + Sync>,
}

#[derive(Default)]
struct State {
    waiting: HashMap<u64, mpsc::Sender<Incoming>>,
    /// Calls that nobody waits for any more, and whose agent has yet to be told.
    cancelled: Vec<u64>,
    /// Why the link ended.
    lost: Option<String>,
}

enum Incoming {
    Notice(Notice),
    BodyTaken,
    Response(Box<Result<Response, Failure>>),
}

/// Bytes of frames both ways.
#[derive(Default)]
struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
}

/// The agent's pipes and what they hang on.
pub struct Pipes<R, W> {
    pub output: R,
    pub input: W,
    /// Explains an end of the stream: exit status, last lines of stderr.
    pub explain: Box<dyn Fn() -> String + Send + Sync>,
    pub carrier: Box<dyn Send + Sync>,
}

/// Why an agent could not be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// The stream ended or nothing that looks like an agent came.
    #[error("{host}: the agent did not start: {reason}")]
    NoAgent { host: String, reason: String },
    /// Another version's agent.
    #[error(
        "{host}: its agent (cofferdam {version}) speaks protocol {found}, this one {PROTOCOL_VERSION}"
    )]
    Protocol {
        host: String,
        version: String,
        found: u32,
        /// Another run that has the host in hand.
        run: Option<RunInHand>,
    },
}

impl HelloError {
    /// The host.
    pub fn host(&self) -> &str {
        match self {
            Self::NoAgent { host, .. } | Self::Protocol { host, .. } => host,
        }
    }
}

impl Link {
    /// Waits for the agent's first line and starts to carry frames.
    ///
    /// # Errors
    /// When no agent answers within thirty seconds, or one of another
    /// protocol.
    pub async fn open<R, W>(host: &str, mut pipes: Pipes<R, W>) -> Result<Self, HelloError>
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let no_agent = |reason: String| HelloError::NoAgent {
            host: host.to_owned(),
            reason,
        };
        let hello = match timeout(HELLO_LIMIT, read_hello(&mut pipes.output)).await {
            Ok(Ok(hello)) => hello,
            Ok(Err(reason)) => {
                let explained = (pipes.explain)();
                let parts = [reason, explained];
                let parts: Vec<String> =
                    parts.into_iter().filter(|part| !part.is_empty()).collect();
                return Err(no_agent(parts.join("; ")));
            }
            Err(_) => {
                let seconds = HELLO_LIMIT.as_secs();
                return Err(no_agent(format!("nothing came within {seconds} s")));
            }
        };
        if hello.protocol != PROTOCOL_VERSION {
            return Err(HelloError::Protocol {
                host: host.to_owned(),
                version: hello.version,
                found: hello.protocol,
                run: hello.run,
            });
        }
        let (outgoing, queue) = mpsc::channel(QUEUE);
        let state = Arc::new(Mutex::new(State::default()));
        let traffic = Arc::new(Traffic::default());
        tokio::spawn(write_frames(
            pipes.input,
            queue,
            traffic.clone(),
            state.clone(),
        ));
        let reader = Reader {
            state: state.clone(),
            traffic: traffic.clone(),
        };
        tokio::spawn(reader.run(pipes.output, pipes.explain));
        Ok(Self {
            host: host.to_owned(),
            hello,
            outgoing,
            state,
            next_id: AtomicU64::new(1),
            traffic,
            _carrier: pipes.carrier,
        })
    }

    /// What the agent said of itself.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    async fn exchange(&self, call: Call<'_>) -> Result<Response, HostError> {
        let doing = describe(&call.request);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, mut incoming) = mpsc::channel(256);
        {
            let mut state = lock(&self.state);
            if let Some(reason) = &state.lost {
                return Err(self.lost(doing, reason.clone()));
            }
            state.waiting.insert(id, sender);
        }
        let mut registered = Registered {
            link: self,
            id,
            is_answered: false,
        };
        let mut deadline = Instant::now() + call.limit;
        let request = Box::new(call.request);
        let sent = self.outgoing.send(Frame::Request { id, request });
        match timeout_at(deadline, sent).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(self.lost(doing, self.reason())),
            Err(_) => {
                return Err(HostError::Timeout {
                    host: self.host.clone(),
                    doing,
                    seconds: call.limit.as_secs(),
                    last: "it takes nothing of what is sent".to_owned(),
                });
            }
        }
        let mut body = call.body;
        // Pieces that may be sent before the host takes more of them.
        let mut window = BODY_WINDOW;
        let mut last = "no word from the host yet".to_owned();
        let mut progress = None;
        loop {
            // What the host says comes first: it may have ended, and have no
            // use for more of a body that is slow in coming.
            let next = tokio::select! {
                biased;
                next = incoming.recv() => match next {
                    Some(next) => Some(next),
                    None => return Err(self.lost(doing, self.reason())),
                },
                piece = self.next_piece(id, body.as_deref_mut()), if window > 0 => match piece {
                    Ok(Some((permit, frame, end))) => {
                        permit.send(frame);
                        window -= 1;
                        if end {
                            body = None;
                        }
                        continue;
                    }
                    Ok(None) => return Err(self.lost(doing, self.reason())),
                    Err(source) => {
                        return Err(HostError::Body {
                            host: self.host.clone(),
                            source,
                        });
                    }
                },
                () = sleep_until(deadline) => None,
            };
            match next {
                Some(Incoming::BodyTaken) => {
                    window = BODY_WINDOW.min(window + 1);
                    last = "it takes no more of what is sent".to_owned();
                    deadline = Instant::now() + call.limit;
                }
                Some(Incoming::Notice(notice)) => {
                    match &notice {
                        Notice::Waiting { reason } => last.clone_from(reason),
                        Notice::Progress { item, done, .. } => {
                            let now = Some((item.clone(), *done));
                            if now != progress {
                                // It gets on, however slowly.
                                progress = now;
                                deadline = Instant::now() + call.limit;
                            }
                        }
                        Notice::Log { .. } | Notice::Output { .. } => {}
                    }
                    (call.notices)(notice);
                }
                Some(Incoming::Response(result)) => {
                    registered.is_answered = true;
                    if body.is_some() {
                        // It has no use for the rest. An agent that hangs may
                        // not even take that; its answer is here all the same.
                        let abort = self.outgoing.send(Frame::BodyAbort { id });
                        let _ = timeout_at(deadline, abort).await;
                    }
                    return result.map_err(|failure| HostError::Failed {
                        host: self.host.clone(),
                        failure,
                    });
                }
                None => {
                    if body.is_some() {
                        // A reader there shall not wait for the rest. A queue
                        // that is full goes nowhere anyway.
                        let _ = self.outgoing.try_send(Frame::BodyAbort { id });
                    }
                    return Err(HostError::Timeout {
                        host: self.host.clone(),
                        doing,
                        seconds: call.limit.as_secs(),
                        last,
                    });
                }
            }
        }
    }

    /// Reads the next piece of a body once the link has room for it; waits for
    /// ever without a body. None if the link is gone. Dropping it loses
    /// nothing.
    async fn next_piece<'a>(
        &'a self,
        id: u64,
        body: Option<&mut (dyn Body + '_)>,
    ) -> io::Result<Option<(mpsc::Permit<'a, Frame>, Frame, bool)>> {
        let Some(body) = body else {
            return std::future::pending().await;
        };
        let Ok(permit) = self.outgoing.reserve().await else {
            return Ok(None);
        };
        match body.wait_for_next().await {
            Ok(Some(bytes)) => {
                debug_assert!(bytes.len() <= BODY_PIECE);
                Ok(Some((permit, Frame::Body { id, bytes }, false)))
            }
            Ok(None) => Ok(Some((permit, Frame::BodyEnd { id }, true))),
            Err(error) => {
                permit.send(Frame::BodyAbort { id });
                Err(error)
            }
        }
    }

    fn reason(&self) -> String {
        let reason = lock(&self.state).lost.clone();
        reason.unwrap_or_else(|| "the connection ended".to_owned())
    }

    fn lost(&self, doing: String, reason: String) -> HostError {
        HostError::Lost {
            host: self.host.clone(),
            doing,
            reason,
        }
    }
}

impl Host for Link {
    fn name(&self) -> &str {
        &self.host
    }

    fn call<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Response, HostError>> {
        Box::pin(self.exchange(call))
    }

    fn transferred(&self) -> Transferred {
        Transferred {
            sent: self.traffic.sent.load(Ordering::Relaxed),
            received: self.traffic.received.load(Ordering::Relaxed),
        }
    }
}

/// Takes a call out of the table when it ends, however it ends. The agent is told
/// of one that nobody waits for any more.
struct Registered<'a> {
    link: &'a Link,
    id: u64,
    is_answered: bool,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.link.state);
        state.waiting.remove(&self.id);
        if self.is_answered {
            return;
        }
        state.cancelled.push(self.id);
        drop(state);
        // Told before whatever is written next; this is written if nothing waits.
        let _ = self.link.outgoing.try_send(Frame::Heartbeat);
    }
}

/// A panic in another task leaves the table itself whole.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn write_frames(
    mut input: impl AsyncWrite + Send + Unpin,
    mut queue: mpsc::Receiver<Frame>,
    traffic: Arc<Traffic>,
    state: Arc<Mutex<State>>,
) {
    loop {
        let frame = match timeout(HEARTBEAT_EVERY, queue.recv()).await {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(_) => Frame::Heartbeat,
        };
        let frames = with_cancelled(&mut lock(&state), frame);
        let mut written = Ok(());
        for frame in frames {
            written = match frame.encode() {
                Ok((header, payload)) => write_one(&mut input, header, payload, &traffic).await,
                Err(error) => Err(error),
            };
            if written.is_err() {
                break;
            }
        }
        if let Err(error) = written {
            end(&state, &format!("writing to the host: {error}"));
            break;
        }
    }
    let _ = input.shutdown().await;
}

/// What is written when a frame's turn comes: first which calls nobody waits for,
/// and of those no request any more.
fn with_cancelled(state: &mut State, frame: Frame) -> Vec<Frame> {
    let cancelled = std::mem::take(&mut state.cancelled);
    let mut frames: Vec<Frame> = cancelled
        .into_iter()
        .map(|id| Frame::Cancel { id })
        .collect();
    match &frame {
        Frame::Request { id, .. } if !state.waiting.contains_key(id) => {}
        _ => frames.push(frame),
    }
    frames
}

async fn write_one(
    input: &mut (impl AsyncWrite + Unpin),
    header: Bytes,
    payload: Bytes,
    traffic: &Traffic,
) -> io::Result<()> {
    input.write_all(&header).await?;
    input.write_all(&payload).await?;
    input.flush().await?;
    traffic
        .sent
        .fetch_add((header.len() + payload.len()) as u64, Ordering::Relaxed);
    Ok(())
}

/// Marks the link as gone and wakes everybody who waits.
fn end(state: &Mutex<State>, reason: &str) {
    let mut state = lock(state);
    if state.lost.is_none() {
        state.lost = Some(reason.to_owned());
    }
    state.waiting.clear();
}

/// What a request does, for messages.
pub fn describe(request: &Request) -> String {
    match request {
        Request::Acquire { .. } => "taking the host for this run".to_owned(),
        Request::Observe(_) => "observing".to_owned(),
        Request::ObserveCluster { .. } => "observing the cluster".to_owned(),
        Request::ObserveUsage => "asking who uses the cluster".to_owned(),
        Request::AskRegistry(question) => {
            format!("asking the registry {} what it has", question.registry)
        }
        Request::Apply(apply) => {
            let value = serde_json::to_value(&apply.action).unwrap_or_default();
            let name = value
                .get("action")
                .and_then(|name| name.as_str())
                .unwrap_or("a step");
            name.replace('-', " ")
        }
        Request::PutBlob { digest, .. } => format!("sending blob {}", digest.short()),
        Request::SeedStart | Request::SeedStop => "filling the registry".to_owned(),
        Request::ReadGenerations => "reading its generations".to_owned(),
        Request::ListSnapshots => "listing snapshots of etcd".to_owned(),
        Request::ReadSnapshot { name } => format!("reading the snapshot {name}"),
        Request::Suspend { unit, .. } => format!("suspending {unit}"),
        Request::Resume { unit } => format!("resuming {unit}"),
        Request::MoveEtcdLeader { .. } => "moving etcd's leadership".to_owned(),
        Request::Run(run) => format!("running {}", run.program),
    }
}
