//! Talks to the service manager (systemd's `sd_notify` protocol).

use std::ffi::OsStr;
use std::io::{self, IoSlice, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// The manager reads its socket all the time; it is in trouble if it takes
/// longer than this.
const SEND_LIMIT: Duration = Duration::from_secs(5);

/// The service manager that started this process.
#[derive(Clone, Debug)]
pub struct ServiceManager {
    address: SocketAddr,
}

impl ServiceManager {
    /// The manager named by `NOTIFY_SOCKET`, or none if that isn't set.
    pub fn from_environment() -> Result<Option<Self>> {
        match std::env::var_os("NOTIFY_SOCKET") {
            Some(name) => Self::at(&name).map(Some),
            None => Ok(None),
        }
    }

    /// The manager at a socket: an absolute path, or `@` and an abstract name.
    pub fn at(name: &OsStr) -> Result<Self> {
        let address = match name.as_bytes() {
            [b'/', ..] => SocketAddr::from_pathname(name),
            [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name),
            _ => bail!(
                "reading NOTIFY_SOCKET: {} is not a local socket",
                name.display()
            ),
        };
        Ok(Self {
            address: address.context("reading NOTIFY_SOCKET")?,
        })
    }

    /// Sends assignments such as `READY=1`, one per line.
    pub fn notify(&self, message: &str) -> Result<()> {
        self.connect()
            .and_then(|socket| socket.send(message.as_bytes()))
            .with_context(|| format!("telling the service manager {message:?}"))?;
        Ok(())
    }

    /// Sends a line for `systemctl status`, unless that would have to wait: the
    /// line isn't worth a pause in serving.
    pub fn show_status(&self, status: &str) {
        let _ = self.connect().and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.send(format!("STATUS={}", status.replace('\n', " ")).as_bytes())
        });
    }

    /// Waits until the manager has worked through all that was sent before, or
    /// until `limit` is over, which is an error.
    ///
    /// The manager closes the descriptor that comes with `BARRIER=1` when it
    /// has come that far (systemd 246 and later).
    pub fn barrier(&self, limit: Duration) -> Result<()> {
        let (mut ours, theirs) = io::pipe().context("making a pipe")?;
        let descriptors = [theirs.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        let socket = self
            .connect()
            .context("connecting to the service manager")?;
        sendmsg(
            &socket,
            &[IoSlice::new(b"BARRIER=1")],
            &mut control,
            SendFlags::empty(),
        )
        .context("sending a barrier to the service manager")?;
        drop(theirs);
        let until_closed = Timespec::try_from(limit).context("computing a time limit")?;
        let mut waiting = [PollFd::new(&ours, PollFlags::IN)];
        let events = retry_on_intr(|| poll(&mut waiting, Some(&until_closed)))
            .context("waiting for the service manager")?;
        if events == 0 {
            bail!("waiting for the service manager: no answer in {limit:?}");
        }
        // The other end is closed, so that this ends at once.
        ours.read(&mut [0; 1])
            .context("waiting for the service manager")?;
        Ok(())
    }

    /// A socket for each message: they are rare, and a manager that was
    /// executed anew has a new socket at the same address.
    fn connect(&self) -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_LIMIT))?;
        socket.connect_addr(&self.address)?;
        Ok(socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_at_a_path_and_at_an_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let abstract_name = format!("cofferdam-notify-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let cases = [
            (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (
                UnixDatagram::bind_addr(&abstract_address).unwrap(),
                format!("@{abstract_name}").into(),
            ),
        ];
        for (socket, name) in cases {
            let manager = ServiceManager::at(&name).unwrap();
            manager.notify("READY=1\nSTATUS=fine").unwrap();
            let mut received = [0; 64];
            let length = socket.recv(&mut received).unwrap();
            assert_eq!(&received[..length], b"READY=1\nSTATUS=fine");
        }
    }

    #[test]
    fn other_sockets_are_refused() {
        for name in ["", "relative", "vsock:2:1234"] {
            let error = ServiceManager::at(OsStr::new(name))
                .unwrap_err()
                .to_string();
            assert!(error.contains("not a local socket"), "{error}");
        }
    }

    #[test]
    fn a_barrier_ends_when_its_descriptor_is_closed_and_not_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager::at(path.as_os_str()).unwrap();
        // Nobody reads: the descriptor in the queue stays open.
        let error = manager
            .barrier(Duration::from_millis(20))
            .unwrap_err()
            .to_string();
        assert!(error.contains("no answer"), "{error}");
        // A plain receive drops the descriptors that come with a message.
        let reader = std::thread::spawn(move || {
            let mut received = [0; 64];
            for _ in 0..2 {
                let length = socket.recv(&mut received).unwrap();
                assert_eq!(&received[..length], b"BARRIER=1");
            }
        });
        manager.barrier(Duration::from_secs(20)).unwrap();
        reader.join().unwrap();
    }
}
