//! An SSH server inside the test's own process. Commands are closures, and
//! faults of networks and hosts happen on demand.
//!
//! ```text
//! let server = SshServer::start(ServerOptions::new(|exec: Exec| async move { Ending::Status(0) })).await;
//! server.address() … server.stall() … server.connections()
//! ```

mod exec;
mod stream;

pub use exec::{Ending, Exec, ExecInput, ExecOutput};

use exec::{Run, execute};
use russh::keys::{Algorithm, PrivateKey, PublicKey};
use russh::server::{self, Auth, ChannelOpenHandle, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, Limits};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use stream::{FaultyStream, Open};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What the server does, and what it does wrong.
pub struct ServerOptions {
    run: Run,
    /// Host keys, one for each type that the server has.
    pub host_keys: Vec<PrivateKey>,
    /// Who may log in; `None` lets everybody in.
    pub authorized: Option<Vec<PublicKey>>,
    /// Lines sent before SSH's own first line.
    pub noise: Vec<String>,
    /// Sends these bytes (perhaps none) in place of SSH's first line, then
    /// nothing more.
    pub mute_after: Option<&'static str>,
    /// Sends these bytes in place of SSH's first line, and closes.
    pub other_protocol: Option<&'static str>,
    /// Closes the TCP connection after this many bytes from the client.
    pub close_after_received: Option<usize>,
    /// Window that clients get for each channel.
    pub window: u32,
    /// Pause after each packet of a command's input that is taken: a slow disk,
    /// or, with [`Duration::MAX`], one that hangs.
    pub input_pause: Duration,
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
            mute_after: None,
            other_protocol: None,
            close_after_received: None,
            window: 2 * 1024 * 1024,
            input_pause: Duration::ZERO,
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
    if let Some(text) = options.mute_after {
        stream.write_all(text.as_bytes()).await.ok();
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
            self.options.clone(),
            command,
            channel,
            session.handle(),
            open,
        ));
        Ok(())
    }
}
