//! The proxy's hand-over, with the real program as processes and this test in
//! the place of systemd: it holds the listening socket, passes it as standard
//! input, and hears what is sent to the notification socket.

#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

/// No wait of a test is longer; a test that waits for this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const LONG_LIVED: usize = 200;
const HAND_OVERS: usize = 20;

/// What systemd is to the proxy.
struct Manager {
    directory: tempfile::TempDir,
    listener: TcpListener,
    messages: Receiver<String>,
    /// The main process; the first one is our child.
    main: u32,
    first: Child,
    /// Every main process there ever was, to leave none behind.
    processes: Vec<u32>,
}

impl Manager {
    /// Starts the proxy for the given servers and waits until it is ready.
    fn start(servers: &[SocketAddr]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A descriptor that comes with a message is closed by this plain
            // way to receive, which is what a barrier waits for.
            while let Ok(length) = socket.recv(&mut buffer) {
                let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        fs_err::write(directory.path().join("ca.crt"), identity().cert.pem()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        write_configuration(directory.path(), listener.local_addr().unwrap(), servers);
        let first = command(directory.path(), &listener, "inputs-0")
            .spawn()
            .unwrap();
        let (main, processes) = (first.id(), vec![first.id()]);
        let manager = Self {
            directory,
            listener,
            messages,
            main,
            first,
            processes,
        };
        manager.expect("READY=1");
        manager
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// The next message that is no status line.
    fn message(&self) -> String {
        loop {
            let message = self.messages.recv_timeout(PATIENCE).unwrap();
            if !message.starts_with("STATUS=") {
                return message;
            }
        }
    }

    fn expect(&self, message: &str) {
        assert_eq!(self.message(), message);
    }

    /// What `systemctl reload` does; `adapt` may change the reload process.
    /// Gives its exit status, and what it and those it started have written.
    fn reload(&self, inputs: &str, adapt: impl FnOnce(&mut Command)) -> (ExitStatus, String) {
        // Not a pipe, which the successor would keep open.
        let lines = self.directory.path().join("lines");
        // systemd does this to the socket that it passes as standard input, and
        // the serving process shares the flag.
        self.listener.set_nonblocking(false).unwrap();
        let mut command = command(self.directory.path(), &self.listener, inputs);
        command.args(["--take-over", &self.main.to_string()]);
        command.env("MAINPID", self.main.to_string());
        command.stderr(fs_err::File::create(&lines).unwrap().into_file());
        adapt(&mut command);
        let status = command.status().unwrap();
        (status, fs_err::read_to_string(&lines).unwrap())
    }

    /// A reload that succeeds, and names a new main process.
    fn hand_over(&mut self, inputs: &str) {
        let (status, lines) = self.reload(inputs, |_| {});
        assert!(status.success(), "{lines}");
        let message = self.message();
        let successor: u32 = message.strip_prefix("MAINPID=").unwrap().parse().unwrap();
        assert_ne!(successor, self.main);
        self.main = successor;
        self.processes.push(successor);
        self.expect("BARRIER=1");
        let environment = fs_err::read(format!("/proc/{successor}/environ")).unwrap();
        let variables: Vec<&[u8]> = environment.split(|&byte| byte == 0).collect();
        assert!(variables.contains(&format!("COFFERDAM_INPUTS={inputs}").as_bytes()));
        assert!(
            !variables
                .iter()
                .any(|variable| variable.starts_with(b"MAINPID="))
        );
    }

    /// A reload that fails, and leaves the main process as it is.
    fn failed_hand_over(&self, adapt: impl FnOnce(&mut Command)) -> String {
        let (status, lines) = self.reload("refused", adapt);
        assert!(!status.success());
        assert!(is_running(self.main));
        assert!(
            self.messages
                .try_iter()
                .all(|message| message.starts_with("STATUS="))
        );
        lines
    }

    /// Waits until only the newest of all processes is left.
    fn wait_for_drained(&mut self) {
        let former: Vec<u32> = self
            .processes
            .iter()
            .copied()
            .filter(|process| *process != self.main)
            .collect();
        if former.contains(&self.first.id()) {
            assert!(self.first.wait().unwrap().success());
        }
        until(|| !former.iter().any(|process| is_running(*process)));
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        for process in &self.processes {
            let id = Pid::from_raw(i32::try_from(*process).unwrap()).unwrap();
            // Most have ended already.
            if is_running(*process) {
                let _ = kill_process(id, Signal::KILL);
            }
        }
        let _ = self.first.wait();
    }
}

/// The program with what systemd gives it; standard input is the socket.
fn command(directory: &Path, listener: &TcpListener, inputs: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cofferdam"));
    command
        .args(["api-proxy", "--config"])
        .arg(configuration_path(directory))
        .env("NOTIFY_SOCKET", directory.join("notify"))
        .env("COFFERDAM_INPUTS", inputs)
        .stdin(OwnedFd::from(listener.try_clone().unwrap()))
        .stdout(Stdio::null());
    command
}

fn configuration_path(directory: &Path) -> PathBuf {
    directory.join("proxy.toml")
}

fn write_configuration(directory: &Path, listen: SocketAddr, servers: &[SocketAddr]) {
    let mut text = format!(
        "listen = \"{listen}\"\nzone = \"a\"\ncertificate_authority = \"{}\"\n",
        directory.join("ca.crt").display()
    );
    for (index, server) in servers.iter().enumerate() {
        text +=
            &format!("[[backends]]\nname = \"m{index}\"\nzone = \"a\"\naddress = \"{server}\"\n");
    }
    fs_err::write(configuration_path(directory), text).unwrap();
}

/// Whether a process lives; one that ended but was not yet waited for doesn't.
fn is_running(process: u32) -> bool {
    fs_err::read_to_string(format!("/proc/{process}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().starts_with(" Z"))
}

fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "the condition never came true");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The certificate of all servers, which is its own authority.
fn identity() -> &'static rcgen::CertifiedKey<rcgen::KeyPair> {
    static IDENTITY: OnceLock<rcgen::CertifiedKey<rcgen::KeyPair>> = OnceLock::new();
    IDENTITY.get_or_init(|| rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap())
}

fn acceptor() -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::try_from(identity().signing_key.serialize_der()).unwrap();
    let configuration = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![identity().cert.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(configuration))
}

/// Starts a server that says over TLS that it is ready, and echoes what isn't
/// TLS.
async fn echo_server() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = acceptor();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that goes away is no fault of the server's.
            tokio::spawn(serve(stream, acceptor.clone()));
        }
    });
    address
}

async fn serve(mut stream: tokio::net::TcpStream, acceptor: TlsAcceptor) -> std::io::Result<()> {
    const TLS_HANDSHAKE: u8 = 0x16;
    let mut first = [0];
    stream.peek(&mut first).await?;
    if first[0] != TLS_HANDSHAKE {
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await?;
        return Ok(());
    }
    let mut stream = acceptor.accept(stream).await?;
    let mut request = [0; 4096];
    while stream.read(&mut request).await? > 0 {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        stream.write_all(answer).await?;
        stream.flush().await?;
    }
    Ok(())
}

/// Traffic through the proxy, and what became of it.
#[derive(Default)]
struct Load {
    ended: AtomicBool,
    long_lived: AtomicUsize,
    messages: AtomicU64,
    new_connections: AtomicU64,
}

impl Load {
    /// One connection for as long as the load lasts.
    async fn talk(&self, proxy: SocketAddr, number: usize) -> std::io::Result<()> {
        let mut stream = tokio::net::TcpStream::connect(proxy).await?;
        for round in 0_u64.. {
            exchange(&mut stream, number, round).await?;
            self.messages.fetch_add(1, Ordering::Relaxed);
            if round == 0 {
                self.long_lived.fetch_add(1, Ordering::Relaxed);
            }
            if self.ended.load(Ordering::Relaxed) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stream.shutdown().await?;
        assert_eq!(stream.read(&mut [0; 1]).await?, 0);
        Ok(())
    }

    /// One connection after another.
    async fn come_and_go(&self, proxy: SocketAddr, number: usize) -> std::io::Result<()> {
        while !self.ended.load(Ordering::Relaxed) {
            let mut stream = tokio::net::TcpStream::connect(proxy).await?;
            exchange(&mut stream, number, 0).await?;
            self.new_connections.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

async fn exchange(
    stream: &mut tokio::net::TcpStream,
    number: usize,
    round: u64,
) -> std::io::Result<()> {
    let sent = format!("{number:08}{round:016}").repeat(40).into_bytes();
    stream.write_all(&sent).await?;
    let mut received = vec![0; sent.len()];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut received)).await??;
    assert!(received == sent);
    Ok(())
}

#[test]
fn no_connection_is_cut_or_refused_over_many_hand_overs_under_load() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let servers = runtime.block_on(async { [echo_server().await, echo_server().await] });
    let mut manager = Manager::start(&servers);
    let proxy = manager.address();
    let load = Arc::new(Load::default());
    let mut tasks = Vec::new();
    for number in 0..LONG_LIVED {
        let load = Arc::clone(&load);
        tasks.push(runtime.spawn(async move { load.talk(proxy, number).await }));
    }
    for number in LONG_LIVED..LONG_LIVED + 3 {
        let load = Arc::clone(&load);
        tasks.push(runtime.spawn(async move { load.come_and_go(proxy, number).await }));
    }
    until(|| load.long_lived.load(Ordering::Relaxed) == LONG_LIVED);
    let enough = u64::try_from(LONG_LIVED).unwrap();
    for round in 1..=HAND_OVERS {
        let order = if round % 2 == 0 {
            servers
        } else {
            [servers[1], servers[0]]
        };
        write_configuration(manager.directory.path(), proxy, &order);
        let (messages, connections) = (
            load.messages.load(Ordering::Relaxed),
            load.new_connections.load(Ordering::Relaxed),
        );
        manager.hand_over(&format!("inputs-{round}"));
        // Both kinds of traffic go on before the next one.
        until(|| {
            load.messages.load(Ordering::Relaxed) > messages + enough
                && load.new_connections.load(Ordering::Relaxed) > connections + 10
        });
    }
    // The first process still carries all of the long-lived connections.
    assert!(is_running(manager.first.id()));
    load.ended.store(true, Ordering::Relaxed);
    for task in tasks {
        runtime.block_on(task).unwrap().unwrap();
    }
    manager.wait_for_drained();
    assert!(is_running(manager.main));
}

/// A connection over which something has been echoed.
fn connect(proxy: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(proxy).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    echo(&mut stream);
    stream
}

fn echo(stream: &mut TcpStream) {
    stream.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
}

#[test]
fn a_hand_over_that_fails_leaves_everything_as_it_was() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let servers = [runtime.block_on(echo_server())];
    let mut manager = Manager::start(&servers);
    let proxy = manager.address();
    let mut established = connect(proxy);
    let directory = manager.directory.path().to_owned();

    fs_err::write(configuration_path(&directory), "zoen = \"a\"\n").unwrap();
    let reason = manager.failed_hand_over(|_| {});
    assert!(
        reason.contains("proxy.toml") && reason.contains("zoen"),
        "{reason}"
    );
    echo(&mut established);

    write_configuration(&directory, "127.0.0.1:1".parse().unwrap(), &servers);
    let reason = manager.failed_hand_over(|_| {});
    assert!(reason.contains("key `listen` says 127.0.0.1:1"), "{reason}");
    write_configuration(&directory, proxy, &servers);

    fs_err::rename(directory.join("ca.crt"), directory.join("away")).unwrap();
    let reason = manager.failed_hand_over(|_| {});
    assert!(
        reason.contains("certificate_authority") && reason.contains("ca.crt"),
        "{reason}"
    );
    fs_err::rename(directory.join("away"), directory.join("ca.crt")).unwrap();

    // Programs that don't do their part, in the successor's place.
    let programs = [
        ("exit 3", "ended before it was ready"),
        ("echo nonsense", "said \"nonsense\""),
        ("echo started $$", "ended before it was ready"),
        ("echo failed because", "says: because"),
    ];
    for (script, expected) in programs {
        let program = directory.join("program");
        fs_err::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs_err::set_permissions(&program, executable).unwrap();
        let reason = manager.failed_hand_over(|command| {
            command.arg0(&program);
        });
        assert!(reason.contains(expected), "{script:?} led to {reason:?}");
        echo(&mut established);
        connect(proxy);
    }

    let reason = manager.failed_hand_over(|command| {
        command.env_remove("NOTIFY_SOCKET");
    });
    assert!(reason.contains("NOTIFY_SOCKET is not set"), "{reason}");
    let reason = manager.failed_hand_over(|command| {
        command.stdin(Stdio::null());
    });
    assert!(reason.contains("no listening socket"), "{reason}");
    let reason = manager.failed_hand_over(|command| {
        // Nobody is there to be told which process is the main one now.
        command.env("NOTIFY_SOCKET", directory.join("nobody"));
    });
    assert!(reason.contains("MAINPID"), "{reason}");
    echo(&mut established);

    manager.hand_over("after all that");
    echo(&mut established);
    connect(proxy);
    drop(established);
    manager.wait_for_drained();
}

#[test]
fn a_socket_made_blocking_by_others_stops_no_connection() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let manager = Manager::start(&[runtime.block_on(echo_server())]);
    let mut established = connect(manager.address());
    for _ in 0..20 {
        // The process accepts this connection, and then asks for the next one,
        // which does not come.
        manager.listener.set_nonblocking(false).unwrap();
        connect(manager.address());
        echo(&mut established);
    }
}

#[test]
fn a_process_that_is_ended_leaves_connections_waiting_for_the_next_one() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut manager = Manager::start(&[runtime.block_on(echo_server())]);
    connect(manager.address());
    let id = Pid::from_raw(i32::try_from(manager.main).unwrap()).unwrap();
    kill_process(id, Signal::TERM).unwrap();
    assert!(manager.first.wait().unwrap().success());
    let mut waiting = TcpStream::connect(manager.address()).unwrap();
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    manager.first = command(manager.directory.path(), &manager.listener, "again")
        .spawn()
        .unwrap();
    manager.processes.push(manager.first.id());
    echo(&mut waiting);
    manager.expect("READY=1");
}
