//! The listening socket: as standard input from systemd or from the process
//! before this one, or else bound by ourselves.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::net::sockopt::Timeout;

/// How long accepting may block when it shouldn't block at all; the kernel
/// rounds it up to its clock's tick.
///
/// The socket and its flags are shared with everybody who holds it, and systemd
/// takes `O_NONBLOCK` off it whenever it hands it to somebody as standard input:
/// to the process of `ExecReload=`, while we serve. Without this limit, which
/// nobody takes off, the next attempt to accept would stop all connections of
/// this process until a new one comes.
const ACCEPT_BLOCKS_AT_MOST: Duration = Duration::from_millis(1);
/// Connections that wait to be accepted. The kernel cuts it to
/// `net.core.somaxconn`, 4096 unless changed.
const BACKLOG: u32 = 4096;

/// The listening socket on standard input, if there is one.
///
/// The unit says `StandardInput=socket`. Of all ways to be given a socket, this
/// is the one that the standard library can take over without `unsafe` code.
pub fn inherited() -> Result<Option<TcpListener>> {
    let standard_input = io::stdin();
    // The question fails on what isn't a socket at all.
    if !matches!(
        rustix::net::sockopt::socket_acceptconn(standard_input.as_fd()),
        Ok(true)
    ) {
        return Ok(None);
    }
    let duplicate = standard_input
        .as_fd()
        .try_clone_to_owned()
        .context("taking the listening socket from standard input")?;
    Ok(Some(TcpListener::from(duplicate)))
}

/// The inherited socket, checked against the configured address, or a new one.
pub fn inherited_or_bound(listen: SocketAddr) -> Result<tokio::net::TcpListener> {
    let Some(listener) = inherited()? else {
        return bind(listen).with_context(|| {
            format!("listening on {listen} (is another instance or its socket unit active?)")
        });
    };
    let actual = listener
        .local_addr()
        .context("asking the inherited socket for its address")?;
    ensure!(
        actual == listen,
        "taking over the listening socket: it listens on {actual}, but the configuration's key \
         `listen` says {listen}; stop the service and restart its socket unit"
    );
    rustix::net::sockopt::set_socket_timeout(&listener, Timeout::Recv, Some(ACCEPT_BLOCKS_AT_MOST))
        .context("limiting waits on the inherited socket")?;
    never_block(&listener)?;
    tokio::net::TcpListener::from_std(listener).context("taking over the inherited socket")
}

/// Sets `O_NONBLOCK` again, see [`ACCEPT_BLOCKS_AT_MOST`].
pub fn never_block(listener: &impl AsFd) -> Result<()> {
    rustix::io::ioctl_fionbio(listener, true).context("making the listening socket non-blocking")
}

fn bind(listen: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let socket = match listen {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    // Connections of a former process that are still closing don't matter.
    socket.set_reuseaddr(true)?;
    socket.bind(listen)?;
    socket.listen(BACKLOG)
}
