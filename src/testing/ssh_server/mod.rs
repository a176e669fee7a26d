//! An SSH server inside the test's own process. Commands are closures, and
//! faults of networks and hosts happen on demand.
//!
//! ```text
//! let server = SshServer::start(ServerOptions::new(|exec: Exec| async move { Ending::Status(0) })).await;
//! server.address() … server.stall() … server.connections()
//! ```

mod stream;

use bytes::Bytes;
use russh::keys::{Algorithm, PrivateKey, PublicKey};
use russh::server::{self, Auth, ChannelOpenHandle, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelMsg, ChannelOpenFailure, ChannelWriteHalf, Limits, Sig};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use stream::{FaultyStream, Open};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

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

type Run = Arc<dyn Fn(Exec) -> Pin<Box<dyn Future<Output = Ending> + Send>> + Send + Sync>;

/// What the server does, and what it does wrong.
pub struct ServerOptions {
    run: Run,
    /// Host keys, one for each type that the server has.
    pub host_keys: Vec<PrivateKey>,
    /// Who may log in; `None` lets everybody in.
    pub authorized: Option<Vec<PublicKey>>,
    /// Lines sent before SSH's own first line.
    pub noise: Vec<String>,
    /// Sends nothing at all after accepting the TCP connection.
    pub mute: bool,
    /// Sends these bytes in place of SSH's first line, and closes.
    pub other_protocol: Option<&'static str>,
    /// Closes the TCP connection after this many bytes from the client.
    pub close_after_received: Option<usize>,
    /// Window that clients get for each channel.
    pub window: u32,
    /// New keys after this many bytes.
    pub rekey_after: Option<usize>,
    /// Channels that may be open at once on one connection.
    pub max_channels: usize,
    /// Answers "failure" to every request to run a command.
    pub refuse_commands: bool,
    /// Accepts requests for channels, and never answers.
    pub ignore_channels: bool,
}

impl ServerOptions {
    /// A server without faults that runs `run` for each command.
    pub fn new<F, R>(run: F) -> Self
    where
        F: Fn(Exec) -> R + Send + Sync + 'static,
        R: Future<Output = Ending> + Send + 'static,
    {
        Self {
            run: Arc::new(move |exec| Box::pin(run(exec))),
            host_keys: vec![random_key(Algorithm::Ed25519)],
            authorized: None,
            noise: Vec::new(),
            mute: false,
            other_protocol: None,
            close_after_received: None,
            window: 2 * 1024 * 1024,
            rekey_after: None,
            max_channels: usize::MAX,
            refuse_commands: false,
            ignore_channels: false,
        }
    }
}

/// A new private key.
pub fn random_key(algorithm: Algorithm) -> PrivateKey {
    match PrivateKey::random(&mut rand::rng(), algorithm) {
        Ok(key) => key,
        Err(error) => unreachable!("the algorithm is one that keys can be made for: {error}"),
    }
}

/// A running server. Dropping it stops it and cuts its connections.
pub struct SshServer {
    address: SocketAddr,
    stalled: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl SshServer {
    /// Starts on a free port of 127.0.0.1.
    pub async fn start(options: ServerOptions) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let stalled = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(AtomicUsize::new(0));
        let accepting = tokio::spawn(accept(
            listener,
            Arc::new(options),
            stalled.clone(),
            connections.clone(),
        ));
        Ok(Self {
            address,
            stalled,
            connections,
            accepting,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing is read or written, on any connection: a cut cable,
    /// or a host that hangs.
    pub fn stall(&self) {
        self.stalled.store(true, Ordering::SeqCst);
    }

    /// Connections that are open now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for SshServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    options: Arc<ServerOptions>,
    stalled: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
) {
    // Dropping the set aborts the connections' tasks.
    let mut running = tokio::task::JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        // Small packets must not wait for each other, least of all window
        // adjustments.
        socket.set_nodelay(true).ok();
        let stream = FaultyStream {
            socket,
            stalled: stalled.clone(),
            left: options.close_after_received,
            _open: Open::new(connections.clone()),
        };
        running.spawn(serve(stream, options.clone()));
    }
}

async fn serve(mut stream: FaultyStream, options: Arc<ServerOptions>) {
    if options.mute {
        // Until the client hangs up.
        tokio::io::copy(&mut stream, &mut tokio::io::sink())
            .await
            .ok();
        return;
    }
    if let Some(text) = options.other_protocol {
        stream.write_all(text.as_bytes()).await.ok();
        return;
    }
    for line in &options.noise {
        let line = format!("{line}\r\n");
        stream.write_all(line.as_bytes()).await.ok();
    }
    let limit = options.rekey_after.unwrap_or(1 << 30);
    let config = server::Config {
        keys: options.host_keys.clone(),
        auth_rejection_time: Duration::from_millis(10),
        inactivity_timeout: None,
        window_size: options.window,
        limits: Limits::new(limit, limit, Duration::from_secs(3600)),
        ..server::Config::default()
    };
    let handler = Connection {
        options,
        channels: HashMap::new(),
        open: Arc::new(AtomicUsize::new(0)),
        ignored: Vec::new(),
    };
    // Errors are what the tests provoke; the client's side is looked at.
    if let Ok(session) = server::run_stream(Arc::new(config), stream, handler).await {
        session.await.ok();
    }
}

struct Connection {
    options: Arc<ServerOptions>,
    channels: HashMap<ChannelId, Channel<Msg>>,
    open: Arc<AtomicUsize>,
    ignored: Vec<ChannelOpenHandle>,
}

impl server::Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        _user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        let known = |authorized: &Vec<PublicKey>| {
            authorized
                .iter()
                .any(|known| known.key_data() == key.public_key.key_data())
        };
        match &self.options.authorized {
            Some(authorized) if !known(authorized) => Ok(Auth::reject()),
            _ => Ok(Auth::Accept),
        }
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if self.options.ignore_channels {
            self.ignored.push(reply);
            return Ok(());
        }
        if self.open.load(Ordering::SeqCst) >= self.options.max_channels {
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
            return Ok(());
        }
        self.channels.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let Some(channel) = self.channels.remove(&id) else {
            return session.channel_failure(id);
        };
        if self.options.refuse_commands {
            return session.channel_failure(id);
        }
        session.channel_success(id)?;
        let command = String::from_utf8_lossy(command).into_owned();
        let open = Open::new(self.open.clone());
        tokio::spawn(execute(
            self.options.run.clone(),
            command,
            channel,
            session.handle(),
            open,
        ));
        Ok(())
    }
}

async fn execute(
    run: Run,
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
    let input = async move {
        let mut sender = Some(sender);
        while let Some(message) = reader.wait().await {
            match message {
                ChannelMsg::Data { data } => {
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
    let output = async {
        let ending = run(exec).await;
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
