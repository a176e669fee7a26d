//! An API server as the proxy sees one: `/readyz` over TLS, and an echo for
//! everything that isn't TLS, on one port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::testing::authority::TestAuthority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// What a server's tasks share with the test.
#[derive(Default)]
pub struct State {
    /// What `/readyz` says.
    pub ready: AtomicBool,
    /// Nothing is read or answered any more.
    pub silent: AtomicBool,
    /// Echo connections so far.
    pub clients: AtomicUsize,
    /// TLS handshakes so far.
    pub handshakes: AtomicUsize,
    /// Answers to `/readyz` so far.
    pub answers: AtomicUsize,
}

/// A server that runs until it is dropped; its echo connections live on.
pub struct FakeServer {
    pub address: SocketAddr,
    pub state: Arc<State>,
    accepting: JoinHandle<()>,
    /// Keeps the port's queue full, see [`FakeServer::fall_silent`].
    fillers: Vec<TcpStream>,
}

impl FakeServer {
    /// A ready server, with a certificate for its address.
    pub fn start(authority: &TestAuthority) -> Self {
        Self::start_with_names(authority, &["127.0.0.1"])
    }

    pub fn start_with_names(authority: &TestAuthority, names: &[&str]) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        // A short queue is quick to fill.
        let listener = socket.listen(4).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            ready: AtomicBool::new(true),
            ..State::default()
        });
        let accepting = tokio::spawn(accept(
            listener,
            authority.acceptor(names),
            Arc::clone(&state),
        ));
        Self {
            address,
            state,
            accepting,
            fillers: Vec::new(),
        }
    }

    pub fn set_ready(&self, ready: bool) {
        self.state.ready.store(ready, Ordering::Relaxed);
    }

    pub fn clients(&self) -> usize {
        self.state.clients.load(Ordering::Relaxed)
    }

    /// Refuses new connections; those that stand go on.
    pub async fn refuse(&mut self) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
    }

    /// Becomes what a host is after a power cut: nothing is answered, and a
    /// dial gets no reply, since the kernel drops what comes for a full queue.
    pub async fn fall_silent(&mut self) {
        self.state.silent.store(true, Ordering::Relaxed);
        // In vain only when the queue is full.
        while let Ok(filler) =
            timeout(Duration::from_millis(400), TcpStream::connect(self.address)).await
        {
            self.fillers.push(filler.unwrap());
        }
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<State>) {
    loop {
        if state.silent.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let Ok(accepted) = timeout(Duration::from_millis(10), listener.accept()).await else {
            continue;
        };
        let (stream, _) = accepted.unwrap();
        let (acceptor, state) = (acceptor.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            // A probe or client that goes away is no fault of the server's.
            let _ = serve(stream, acceptor, &state).await;
        });
    }
}

async fn serve(mut stream: TcpStream, acceptor: TlsAcceptor, state: &State) -> std::io::Result<()> {
    const TLS_HANDSHAKE: u8 = 0x16;
    let mut first = [0];
    stream.peek(&mut first).await?;
    let mut buffer = vec![0; 64 * 1024];
    if first[0] != TLS_HANDSHAKE {
        state.clients.fetch_add(1, Ordering::Relaxed);
        loop {
            let length = stream.read(&mut buffer).await?;
            hold_if_silent(state).await;
            if length == 0 {
                return stream.shutdown().await;
            }
            stream.write_all(&buffer[..length]).await?;
        }
    }
    state.handshakes.fetch_add(1, Ordering::Relaxed);
    let mut stream = acceptor.accept(stream).await?;
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        assert!(buffer[..length].starts_with(b"GET /readyz HTTP/1.1\r\n"));
        hold_if_silent(state).await;
        let (status, body) = match state.ready.load(Ordering::Relaxed) {
            true => ("200 OK", "ok"),
            false => (
                "500 Internal Server Error",
                "[+]ping ok\n[-]shutdown failed: x\n",
            ),
        };
        let length = body.len();
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).await?;
        stream.flush().await?;
        state.answers.fetch_add(1, Ordering::Relaxed);
    }
}

async fn hold_if_silent(state: &State) {
    if state.silent.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}
