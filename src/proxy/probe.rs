//! Asks one API server's `/readyz` over TLS, on a connection that is kept: a
//! handshake a second from each node would cost API servers far more, and a
//! bare TCP connection a second would fill their logs.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::health::{ProbeResult, classify_dial_error};
use super::http::{self, Progress};
use super::timings::Timings;

/// A status line, headers and the list of failed checks fit many times over.
const LARGEST_ANSWER: usize = 16 * 1024;
/// A kept connection is made anew after this time, so that a firewall that
/// lets only established connections pass is noticed.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(60);

/// Probes one API server.
pub struct Probe {
    address: SocketAddr,
    timings: Timings,
    connection: Option<Connection>,
}

/// A connection and the trust that it was made with.
struct Connection {
    stream: TlsStream<TcpStream>,
    made: Instant,
}

impl Probe {
    /// A probe of the API server at `address`, which its certificate must name.
    pub fn new(address: SocketAddr, timings: Timings) -> Self {
        Self {
            address,
            timings,
            connection: None,
        }
    }

    /// The next probe dials instead of using the kept connection.
    pub fn forget_connection(&mut self) {
        self.connection = None;
    }

    /// Asks once; returns within the sum of the dial's and the answers' limits.
    pub async fn ask(&mut self, connector: &TlsConnector) -> ProbeResult {
        if let Some(mut connection) = self.connection.take()
            && connection.made.elapsed() < CONNECTION_LIFETIME
        {
            let answer = self.exchange(&mut connection.stream);
            // Whatever went wrong here, only a fresh dial tells whether the
            // server has merely closed an idle connection.
            if let Ok(Ok(answer)) = timeout(self.timings.probe_answer, answer).await {
                return self.judge(answer, connection);
            }
        }
        let tcp = match timeout(self.timings.dial, TcpStream::connect(self.address)).await {
            Ok(Ok(tcp)) => tcp,
            Ok(Err(error)) => return classify_dial_error(&error),
            Err(_) => {
                return ProbeResult::Silent(format!(
                    "dialing: no answer in {:?}",
                    self.timings.dial
                ));
            }
        };
        let first = async {
            // Nagle's algorithm would only delay the one small request.
            tcp.set_nodelay(true)?;
            let name = ServerName::IpAddress(self.address.ip().into());
            let mut stream = connector.connect(name, tcp).await?;
            let answer = self.exchange(&mut stream).await?;
            Ok::<_, io::Error>((stream, answer))
        };
        match timeout(self.timings.probe_first_answer, first).await {
            Ok(Ok((stream, answer))) => self.judge(
                answer,
                Connection {
                    stream,
                    made: Instant::now(),
                },
            ),
            Ok(Err(error)) => ProbeResult::NotReady(format!("asking /readyz: {error}")),
            Err(_) => ProbeResult::NotReady(format!(
                "asking /readyz: no answer in {:?}",
                self.timings.probe_first_answer
            )),
        }
    }

    /// Keeps the connection if it can be kept, and reads the verdict.
    fn judge(&mut self, answer: http::Answer, connection: Connection) -> ProbeResult {
        if answer.keep_connection {
            self.connection = Some(connection);
        }
        match answer.status {
            200 => ProbeResult::Ready,
            status => ProbeResult::NotReady(format!("/readyz says {status}: {}", answer.summary())),
        }
    }

    /// Sends one request and reads its whole answer.
    async fn exchange(&self, stream: &mut TlsStream<TcpStream>) -> io::Result<http::Answer> {
        stream
            .write_all(http::request(self.address).as_bytes())
            .await?;
        stream.flush().await?;
        let mut received = Vec::with_capacity(512);
        loop {
            let at_end = stream.read_buf(&mut received).await? == 0;
            match http::parse(&received, at_end) {
                Ok(Progress::Complete(answer)) => return Ok(answer),
                Ok(Progress::Incomplete) if at_end => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the connection was closed before the answer was complete",
                    ));
                }
                Ok(Progress::Incomplete) if received.len() > LARGEST_ANSWER => {
                    return Err(io::Error::other("the answer is too large"));
                }
                Ok(Progress::Incomplete) => {}
                Err(problem) => return Err(io::Error::other(problem)),
            }
        }
    }
}

/// A client's TLS configuration that trusts the given CAs and nothing else.
///
/// It presents no certificate: API servers answer health paths to anybody.
pub fn connector(authorities_pem: &[u8]) -> anyhow::Result<TlsConnector> {
    use anyhow::Context as _;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities_pem) {
        roots
            .add(certificate.context("reading a PEM block")?)
            .context("reading a certificate")?;
    }
    anyhow::ensure!(!roots.is_empty(), "no certificate is in it");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut configuration = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choosing TLS versions")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // The answers are read as HTTP/1.1, so nothing else is offered.
    configuration.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(configuration)))
}
