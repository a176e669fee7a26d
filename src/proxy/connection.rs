//! One client's connection, from its first dial to its end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::health::{ProbeResult, classify_dial_error};
use super::pool::{ConnectionCount, Pool};
use super::relay::relay;

/// An idle connection to an API server is asked for life after this time. This
/// finds what the probes can't: a host that was restarted within seconds, or a
/// firewall that forgot the connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// Between two unanswered questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Unanswered questions after which the connection is dead.
const KEEPALIVE_COUNT: u32 = 3;
/// Sent data that nobody acknowledges for this long ends the connection, in
/// milliseconds. It is far longer than the silence after which a host's
/// connections are reset, because it also ends a connection whose other side
/// doesn't read, which may have good reasons to pause.
const UNACKNOWLEDGED_LIMIT_MS: u32 = 120_000;

/// A connection to an API server, counted as such.
struct Dialed {
    stream: TcpStream,
    resets: watch::Receiver<u64>,
    /// Held for its `Drop`.
    _count: ConnectionCount,
}

/// Connects a client to the best API server and carries bytes until both have
/// ended. The client's connection is reset, not closed, when there is no
/// server, or when the server's side breaks: a client must be able to tell this
/// from an orderly end.
pub async fn serve(mut client: TcpStream, pool: Arc<Pool>) {
    let Some(mut dialed) = dial(&pool).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let outcome = tokio::select! {
        outcome = relay(&mut client, &mut dialed.stream) => outcome,
        _ = dialed.resets.changed() => Err(io::ErrorKind::ConnectionReset.into()),
    };
    if outcome.is_err() {
        // Closing a socket in this state sends a reset (RST). There is nobody
        // to tell if it can't be set: the socket is closed either way.
        let _ = client.set_zero_linger();
        let _ = dialed.stream.set_zero_linger();
    }
}

/// Tries API servers in order, again and again, until one takes the connection
/// or the limit for all is over. A client that comes while none is ready is
/// held for a while first.
async fn dial(pool: &Pool) -> Option<Dialed> {
    let begun = Instant::now();
    let deadline = begun + pool.timings.dial_all;
    let hold_until = begun + pool.timings.ready_hold;
    loop {
        hold(pool, hold_until).await;
        for backend in pool.order() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            // Counted before it stands, so that many clients who come at once
            // are spread as well.
            let count = backend.count_connection();
            let resets = backend.resets();
            let limit = left.min(pool.timings.dial);
            let reason =
                match timeout(limit, TcpStream::connect(backend.configuration.address)).await {
                    Ok(Ok(stream)) => {
                        prepare_backend(&stream);
                        return Some(Dialed {
                            stream,
                            resets,
                            _count: count,
                        });
                    }
                    Ok(Err(error)) => match classify_dial_error(&error) {
                        ProbeResult::Silent(reason) | ProbeResult::DialFailed(reason) => reason,
                        ProbeResult::Ready | ProbeResult::NotReady(_) => error.to_string(),
                    },
                    // A limit cut short by the deadline tells nothing.
                    Err(_) if limit < pool.timings.dial => return None,
                    Err(_) => format!("dialing: no answer in {limit:?}"),
                };
            pool.report_failed_dial(&backend, reason);
        }
        if deadline.saturating_duration_since(Instant::now()) <= pool.timings.dial_round_pause {
            return None;
        }
        sleep(pool.timings.dial_round_pause).await;
    }
}

/// Waits until a client may be given a server, at most until `until`.
async fn hold(pool: &Pool, until: Instant) {
    let mut changes = pool.changes();
    while pool.holds_clients() {
        // The sender lives as long as the pool, so only time can run out.
        if timeout_at(until, changes.changed()).await.is_err() {
            return;
        }
    }
}

/// Options of the connection to an API server. One that the kernel doesn't
/// take is no reason to refuse the client.
fn prepare_backend(stream: &TcpStream) {
    use rustix::net::sockopt;

    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE);
    let _ = sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL);
    let _ = sockopt::set_tcp_keepcnt(stream, KEEPALIVE_COUNT);
    let _ = sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_LIMIT_MS);
}

/// Options of a client's connection: the two ends are on one host, so that
/// nothing needs to be asked for life.
pub fn prepare_client(stream: &TcpStream) {
    // Each write passes on what was just read; waiting would only add delay.
    let _ = stream.set_nodelay(true);
}
