//! The whole proxy but for processes and signals, against servers in this
//! process.

mod fake_server;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::testing::authority::TestAuthority;
use camino::Utf8PathBuf;
use fake_server::FakeServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use super::authority::Authority;
use super::choice::Readiness;
use super::configuration::{BackendConfiguration, ProxyConfiguration};
use super::connection;
use super::log::Log;
use super::pool::Pool;
use super::timings::Timings;

/// No wait of a test is longer; a test that waits for this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Shorter than in real life, but for what a busy machine needs.
const TIMINGS: Timings = Timings {
    probe_interval: Duration::from_millis(50),
    probe_answer: Duration::from_millis(500),
    probe_first_answer: Duration::from_secs(5),
    dial: Duration::from_millis(400),
    dial_all: Duration::from_secs(2),
    dial_round_pause: Duration::from_millis(20),
    ready_hold: Duration::from_secs(1),
    longest_start: PATIENCE,
    outdated_after: PATIENCE,
    reset_after: Duration::from_millis(900),
    first_probes: PATIENCE,
};

/// A proxy in zone `a`, and the directory of its CA file.
struct Proxy {
    address: SocketAddr,
    pool: Arc<Pool>,
    _directory: tempfile::TempDir,
}

/// A proxy for servers, each with its zone, that has not probed anything.
async fn unprobed(servers: &[(SocketAddr, &str)]) -> Proxy {
    unprobed_with(TIMINGS, servers).await
}

async fn unprobed_with(timings: Timings, servers: &[(SocketAddr, &str)]) -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let backends =
        servers
            .iter()
            .enumerate()
            .map(|(index, (address, zone))| BackendConfiguration {
                name: format!("m{}", index + 1),
                zone: (*zone).to_owned(),
                address: *address,
            });
    let directory = tempfile::tempdir().unwrap();
    let configuration = ProxyConfiguration {
        listen: address,
        zone: "a".to_owned(),
        certificate_authority: authority_path(&directory),
        backends: backends.collect(),
    };
    let pool = Pool::new(&configuration, timings, Log::from_environment());
    let accepting = Arc::clone(&pool);
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            tokio::spawn(connection::serve(client, Arc::clone(&accepting)));
        }
    });
    Proxy {
        address,
        pool,
        _directory: directory,
    }
}

fn authority_path(directory: &tempfile::TempDir) -> Utf8PathBuf {
    Utf8PathBuf::from_path_buf(directory.path().join("ca.crt")).unwrap()
}

/// A proxy that has probed each server once.
async fn probed(authority: &TestAuthority, servers: &[(SocketAddr, &str)]) -> Proxy {
    probed_with(TIMINGS, authority, servers).await
}

async fn probed_with(
    timings: Timings,
    authority: &TestAuthority,
    servers: &[(SocketAddr, &str)],
) -> Proxy {
    let proxy = unprobed_with(timings, servers).await;
    let path = authority_path(&proxy._directory);
    fs_err::write(&path, authority.pem()).unwrap();
    proxy.pool.start_probes(&Authority::load(&path).unwrap());
    proxy.pool.first_probes().await;
    proxy
}

impl Proxy {
    /// A client's connection over which something has been echoed.
    async fn connect(&self) -> io::Result<TcpStream> {
        let mut client = TcpStream::connect(self.address).await?;
        echo(&mut client).await?;
        Ok(client)
    }

    async fn wait_for(&self, server: usize, readiness: Readiness) {
        until(|| self.pool.backends[server].readiness() == readiness).await;
    }
}

async fn echo(client: &mut TcpStream) -> io::Result<()> {
    client.write_all(b"hello").await?;
    let mut answer = [0; 5];
    timeout(PATIENCE, client.read_exact(&mut answer)).await??;
    assert_eq!(&answer, b"hello");
    Ok(())
}

async fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "the condition never came true");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_own_zone_comes_first_and_its_load_is_spread() {
    let authority = TestAuthority::generate();
    let servers = [(); 3].map(|()| FakeServer::start(&authority));
    let [m1, m2, m3] = &servers;
    let zones = [(m1.address, "b"), (m2.address, "a"), (m3.address, "a")];
    let proxy = probed(&authority, &zones).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(proxy.connect().await.unwrap());
    }
    assert_eq!((m1.clients(), m2.clients(), m3.clients()), (0, 5, 5));
    assert_eq!(proxy.pool.status(), "3 of 3 API servers ready");
}

#[tokio::test]
async fn a_server_that_is_not_ready_keeps_its_connections_and_gets_no_new_ones() {
    let authority = TestAuthority::generate();
    let (m1, m2) = (FakeServer::start(&authority), FakeServer::start(&authority));
    let proxy = probed(&authority, &[(m1.address, "a"), (m2.address, "b")]).await;
    let mut established = proxy.connect().await.unwrap();
    m1.set_ready(false);
    proxy.wait_for(0, Readiness::NotReady).await;
    assert_eq!(
        proxy.pool.status(),
        "1 of 2 API servers ready; avoided: m1 (/readyz says 500: failed checks: shutdown)"
    );
    proxy.connect().await.unwrap();
    assert_eq!((m1.clients(), m2.clients()), (1, 1));
    echo(&mut established).await.unwrap();
    m1.set_ready(true);
    proxy.wait_for(0, Readiness::Ready).await;
    proxy.connect().await.unwrap();
    assert_eq!((m1.clients(), m2.clients()), (2, 1));
    echo(&mut established).await.unwrap();
}

#[tokio::test]
async fn connections_to_a_server_that_stays_unready_are_reset_once_another_is_ready() {
    let authority = TestAuthority::generate();
    let (m1, m2) = (FakeServer::start(&authority), FakeServer::start(&authority));
    let mut timings = TIMINGS;
    timings.outdated_after = Duration::from_millis(200);
    let zones = [(m1.address, "a"), (m2.address, "b")];
    let proxy = probed_with(timings, &authority, &zones).await;
    let mut established = proxy.connect().await.unwrap();
    // While the other one is no better, it is left alone.
    m2.set_ready(false);
    proxy.wait_for(1, Readiness::NotReady).await;
    m1.set_ready(false);
    proxy.wait_for(0, Readiness::NotReady).await;
    sleep(timings.outdated_after * 3).await;
    echo(&mut established).await.unwrap();
    m2.set_ready(true);
    let mut byte = [0; 1];
    let end = timeout(PATIENCE, established.read(&mut byte))
        .await
        .unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    proxy.connect().await.unwrap();
    assert_eq!(m2.clients(), 1);
}

#[tokio::test]
async fn when_no_server_is_ready_they_are_tried_all_the_same() {
    let authority = TestAuthority::generate();
    let (m1, m2) = (FakeServer::start(&authority), FakeServer::start(&authority));
    m1.set_ready(false);
    m2.set_ready(false);
    let proxy = probed(&authority, &[(m1.address, "b"), (m2.address, "a")]).await;
    assert_eq!(proxy.pool.backends[1].readiness(), Readiness::NotReady);
    proxy.connect().await.unwrap();
    assert_eq!((m1.clients(), m2.clients()), (0, 1));
}

#[tokio::test]
async fn a_client_that_comes_while_a_server_starts_is_held_until_it_is_ready() {
    let authority = TestAuthority::generate();
    let m1 = FakeServer::start(&authority);
    m1.set_ready(false);
    let mut timings = TIMINGS;
    timings.ready_hold = PATIENCE;
    timings.dial_all = PATIENCE * 2;
    let proxy = probed_with(timings, &authority, &[(m1.address, "a")]).await;
    let mut held = TcpStream::connect(proxy.address).await.unwrap();
    held.write_all(b"hello").await.unwrap();
    let answers = || m1.state.answers.load(Ordering::Relaxed);
    let seen = answers();
    until(|| answers() > seen + 3).await;
    assert_eq!(m1.clients(), 0, "given to a server that is not ready");
    m1.set_ready(true);
    let mut answer = [0; 5];
    let read = timeout(PATIENCE, held.read_exact(&mut answer)).await;
    read.unwrap().unwrap();
    assert_eq!((&answer, m1.clients()), (b"hello", 1));
}

#[tokio::test]
async fn nobody_is_held_for_a_server_that_stays_unready() {
    let authority = TestAuthority::generate();
    let (m1, mut m2) = (FakeServer::start(&authority), FakeServer::start(&authority));
    m1.set_ready(false);
    m2.refuse().await;
    let mut timings = TIMINGS;
    timings.ready_hold = PATIENCE * 2;
    timings.dial_all = PATIENCE * 3;
    timings.longest_start = Duration::ZERO;
    let zones = [(m1.address, "a"), (m2.address, "b")];
    let proxy = probed_with(timings, &authority, &zones).await;
    // Within the test's patience, so that it can't have been held.
    proxy.connect().await.unwrap();
    assert_eq!(m1.clients(), 1);
}

#[tokio::test]
async fn a_server_with_another_authoritys_certificate_or_name_is_not_ready() {
    let (authority, other) = (TestAuthority::generate(), TestAuthority::generate());
    let m1 = FakeServer::start(&other);
    let m2 = FakeServer::start_with_names(&authority, &["127.0.0.2", "localhost"]);
    let m3 = FakeServer::start(&authority);
    let zones = [(m1.address, "a"), (m2.address, "a"), (m3.address, "c")];
    let proxy = probed(&authority, &zones).await;
    let readiness: Vec<Readiness> = proxy
        .pool
        .backends
        .iter()
        .map(|backend| backend.readiness())
        .collect();
    assert_eq!(
        readiness,
        [Readiness::NotReady, Readiness::NotReady, Readiness::Ready]
    );
    assert!(
        proxy.pool.status().contains("certificate"),
        "{}",
        proxy.pool.status()
    );
}

#[tokio::test]
async fn probes_keep_one_connection() {
    let authority = TestAuthority::generate();
    let m1 = FakeServer::start(&authority);
    let _proxy = probed(&authority, &[(m1.address, "a")]).await;
    until(|| m1.state.answers.load(Ordering::Relaxed) > 5).await;
    assert_eq!(m1.state.handshakes.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn connections_to_a_silent_host_are_reset_and_others_are_not() {
    let authority = TestAuthority::generate();
    let (mut m1, m2) = (FakeServer::start(&authority), FakeServer::start(&authority));
    let proxy = probed(&authority, &[(m1.address, "a"), (m2.address, "b")]).await;
    let mut to_m1 = [
        proxy.connect().await.unwrap(),
        proxy.connect().await.unwrap(),
    ];
    m1.set_ready(false);
    proxy.wait_for(0, Readiness::NotReady).await;
    let mut to_m2 = proxy.connect().await.unwrap();
    m1.set_ready(true);
    proxy.wait_for(0, Readiness::Ready).await;

    m1.fall_silent().await;
    for client in &mut to_m1 {
        // Nothing is sent: this is a watch, which nothing else would tell.
        let outcome = timeout(PATIENCE, client.read(&mut [0; 8])).await.unwrap();
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
    assert_eq!(proxy.pool.backends[0].readiness(), Readiness::Unreachable);
    echo(&mut to_m2).await.unwrap();
    proxy.connect().await.unwrap();
    assert_eq!(m2.clients(), 2);
}

#[tokio::test]
async fn connections_to_a_host_that_refuses_dials_are_left_alone() {
    let authority = TestAuthority::generate();
    let (mut m1, m2) = (FakeServer::start(&authority), FakeServer::start(&authority));
    let proxy = probed(&authority, &[(m1.address, "a"), (m2.address, "b")]).await;
    let mut established = proxy.connect().await.unwrap();
    // An API server that ends closes its port first, and then finishes requests.
    m1.refuse().await;
    // The probe's kept connection still works; a client's dial tells.
    proxy.connect().await.unwrap();
    assert_eq!(m2.clients(), 1);
    proxy.wait_for(0, Readiness::Unreachable).await;
    sleep(TIMINGS.reset_after * 3).await;
    assert_eq!(proxy.pool.backends[0].readiness(), Readiness::Unreachable);
    echo(&mut established).await.unwrap();
}

#[tokio::test]
async fn a_failed_dial_leads_to_the_next_server() {
    let authority = TestAuthority::generate();
    let (mut m1, mut m2) = (FakeServer::start(&authority), FakeServer::start(&authority));
    let m3 = FakeServer::start(&authority);
    m1.refuse().await;
    m2.fall_silent().await;
    let zones = [(m1.address, "a"), (m2.address, "a"), (m3.address, "b")];
    let proxy = unprobed(&zones).await;
    let mut client = proxy.connect().await.unwrap();
    assert_eq!(m3.clients(), 1);
    echo(&mut client).await.unwrap();
}

#[tokio::test]
async fn a_server_that_comes_back_while_a_client_waits_gets_it() {
    let authority = TestAuthority::generate();
    let mut gone = FakeServer::start(&authority);
    gone.refuse().await;
    let proxy = unprobed(&[(gone.address, "a")]).await;
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    sleep(TIMINGS.dial_round_pause).await;
    socket.bind(gone.address).unwrap();
    let listener = socket.listen(16).unwrap();
    let (mut accepted, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    client.write_all(b"x").await.unwrap();
    assert_eq!(accepted.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn a_client_for_whom_there_is_no_server_is_reset() {
    let authority = TestAuthority::generate();
    let mut m1 = FakeServer::start(&authority);
    m1.refuse().await;
    let proxy = unprobed(&[(m1.address, "a")]).await;
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    let outcome = timeout(PATIENCE, client.read(&mut [0; 8])).await.unwrap();
    assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    until(|| proxy.pool.backends[0].connections() == 0).await;
}

#[tokio::test]
async fn ten_megabytes_and_the_end_pass_through() {
    const LENGTH: usize = 10 * 1024 * 1024;
    let authority = TestAuthority::generate();
    let m1 = FakeServer::start(&authority);
    let proxy = probed(&authority, &[(m1.address, "a")]).await;
    let sent: Vec<u8> = (0..LENGTH)
        .map(|index| (index * 31 + index / 1009) as u8)
        .collect();
    let mut client = proxy.connect().await.unwrap();
    let mut received = Vec::new();
    {
        let (mut read, mut write) = client.split();
        tokio::try_join!(
            async {
                write.write_all(&sent).await?;
                write.shutdown().await
            },
            async { timeout(PATIENCE, read.read_to_end(&mut received)).await? },
        )
        .unwrap();
    }
    assert!(received == sent);
    until(|| proxy.pool.backends[0].connections() == 0).await;
}

#[test]
fn the_units_need_these_values_and_no_others() {
    let units = [
        (
            include_str!("../../../templates/systemd/cofferdam-api-proxy.service"),
            vec!["configuration", "environment_file", "program"],
        ),
        (
            include_str!("../../../templates/systemd/cofferdam-api-proxy.socket"),
            vec!["listen"],
        ),
    ];
    for (text, expected) in units {
        let environment = minijinja::Environment::new();
        let template = environment.template_from_str(text).unwrap();
        let mut values: Vec<String> = template.undeclared_variables(false).into_iter().collect();
        values.sort();
        assert_eq!(values, expected);
    }
}
