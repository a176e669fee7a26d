//! A host of the test's own: an SSH server in this process, and behind it the
//! very agent, working below a directory.

use crate::ssh_server::{Ending, Exec, ServerOptions, SshServer};
use bytes::Bytes;
use camino::Utf8PathBuf;
use cofferdam::agent::root::Root;
use cofferdam::agent::{Worker, serve};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// Bytes between the SSH server and the agent.
const PIPE: usize = 1 << 16;

/// A running host.
pub(crate) struct TestHost {
    _runtime: Runtime,
    _server: SshServer,
    port: u16,
}

impl TestHost {
    /// A host with an agent whose root is the directory. `machine` is what
    /// `uname -sm` says. Only the key's owner gets in: it is open to the
    /// network.
    pub(crate) fn with_agent(
        root: Utf8PathBuf,
        machine: &'static str,
        key: &russh::keys::PublicKey,
    ) -> Self {
        let mut options = ServerOptions::new(move |exec| command(exec, root.clone(), machine));
        options.authorized = Some(vec![key.clone()]);
        Self::start(options)
    }

    /// A host that lets anybody in and does nothing.
    pub(crate) fn idle() -> Self {
        Self::start(ServerOptions::new(|_| async { Ending::Status(0) }))
    }

    pub(crate) fn start(options: ServerOptions) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (server, listener) = runtime.block_on(async {
            let server = SshServer::start(options).await.unwrap();
            let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
            (server, listener)
        });
        let port = listener.local_addr().unwrap().port();
        runtime.spawn(relay(listener, server.address()));
        Self {
            _runtime: runtime,
            _server: server,
            port,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

/// An address of this machine that is not loopback: inventories refuse those.
/// Nothing is sent.
pub(crate) fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let found = socket
        .connect("192.0.2.1:9")
        .and_then(|()| socket.local_addr());
    match found {
        Ok(address) if !address.ip().is_loopback() => address.ip(),
        other => panic!(
            "looking for an address of this machine besides loopback, which these tests need: {other:?}"
        ),
    }
}

/// Carries connections to the server, which listens on loopback alone.
async fn relay(listener: TcpListener, server: SocketAddr) {
    while let Ok((mut outside, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut inside = TcpStream::connect(server).await.unwrap();
            tokio::io::copy_bidirectional(&mut outside, &mut inside)
                .await
                .ok();
        });
    }
}

async fn command(exec: Exec, root: Utf8PathBuf, machine: &'static str) -> Ending {
    if exec.command == "uname -sm" {
        exec.stdout.write(format!("{machine}\n")).await.unwrap();
        return Ending::Status(0);
    }
    if exec.command.ends_with("/opt/cofferdam/agent --version") {
        return Ending::Status(0);
    }
    if !exec.command.ends_with("/opt/cofferdam/agent agent") {
        let said = format!("{}: not found\n", exec.command);
        exec.stderr.write(said).await.ok();
        return Ending::Status(127);
    }
    let (mut to_agent, input) = tokio::io::duplex(PIPE);
    let (output, mut from_agent) = tokio::io::duplex(PIPE);
    let Exec {
        mut stdin, stdout, ..
    } = exec;
    let feeding = tokio::spawn(async move {
        while let Some(bytes) = stdin.next().await {
            if to_agent.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let telling = tokio::spawn(async move {
        let mut piece = vec![0; PIPE];
        while let Ok(length @ 1..) = from_agent.read(&mut piece).await {
            let bytes = Bytes::copy_from_slice(&piece[..length]);
            if stdout.write(bytes).await.is_err() {
                return;
            }
        }
    });
    let worker = Worker::with_root(Root::below(root));
    let hello = serve::hello(worker.root()).unwrap();
    let served = serve::serve(worker, hello, input, output).await;
    feeding.abort();
    telling.await.ok();
    Ending::Status(u32::from(served.is_err()))
}
