//! Hand-over to a successor without a cut or refused connection.
//!
//! `systemctl reload` runs a process of the *new* program (the unit's
//! `ExecReload=`), which systemd gives the listening socket as standard input,
//! the environment as the environment file now says, and the unit's sandbox as
//! it now is. It is this process that starts the successor, so that what runs
//! next depends in nothing on the version that ran before:
//!
//! 1. The reload process reads the configuration, and fails if it is bad.
//! 2. It starts a *launcher*, which starts the successor and ends at once: so
//!    the successor's parent is the service manager, which will then notice its
//!    end, as it does with every other main process.
//! 3. The successor reads its configuration, probes the API servers, says
//!    `ready`, and waits.
//! 4. The reload process tells the manager `MAINPID=` and waits until that is
//!    done, tells the successor `go`, and sends the former main process
//!    SIGUSR1. That one stops accepting, and ends when its last connection has.
//!
//! All processes accept from one socket of the kernel, so that a connection
//! that comes between two of them waits in its queue. Until `go`, each failure
//! leaves the former process serving as before and makes the reload fail; a
//! successor whose reload process has gone ends by itself.
//!
//! Between versions, SIGUSR1 is the whole contract.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use camino::Utf8Path;
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::notify::ServiceManager;
use super::{configuration, listener};

/// From the start of the launcher to the successor's `ready`: the first probes
/// take 1.5 s, and the rest is for a slow machine. Far below systemd's own
/// limit of 90 s, so that the reason is reported by us.
const READY_LIMIT: Duration = Duration::from_secs(15);
/// For the manager to take in the new main process.
const BARRIER_LIMIT: Duration = Duration::from_secs(5);
/// The successor's limit for the reload process: both of the above, twice.
const GO_LIMIT: Duration = Duration::from_secs(40);
/// Tells a process of the hand-over what it is.
const ROLE_VARIABLE: &str = "COFFERDAM_API_PROXY_ROLE";
const LAUNCHER: &str = "launcher";
const SUCCESSOR: &str = "successor";

/// What this process is in a hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Not part of one: started by the service manager, or by hand.
    First,
    /// To start the successor and end.
    Launcher,
    /// To get ready, wait for `go`, and serve.
    Successor,
}

impl Role {
    /// The role that the process was started for.
    pub fn from_environment() -> Result<Self> {
        match std::env::var_os(ROLE_VARIABLE) {
            None => Ok(Self::First),
            Some(role) if role == LAUNCHER => Ok(Self::Launcher),
            Some(role) if role == SUCCESSOR => Ok(Self::Successor),
            Some(role) => bail!("reading {ROLE_VARIABLE}: {} is no role", role.display()),
        }
    }
}

/// Replaces the main process `main_process` by a new one; the work of
/// `ExecReload=`. After an error, the former process still serves, unless the
/// error says otherwise.
pub fn take_over(config_path: &Utf8Path, main_process: u32) -> Result<()> {
    let listener = listener::inherited()?.context(
        "taking over: standard input is no listening socket; run `systemctl reload` with the \
         socket unit active",
    )?;
    // First of all, since the main process still serves with this very socket.
    listener::never_block(&listener)?;
    configuration::load(config_path)?;
    let manager = ServiceManager::from_environment()?.context(
        "taking over: NOTIFY_SOCKET is not set; run `systemctl reload`, with NotifyAccess=exec in \
         the unit",
    )?;
    let former = process_id(main_process).context("taking over")?;
    rustix::process::test_kill_process(former)
        .with_context(|| format!("taking over: asking for the main process {main_process}"))?;

    let deadline = Instant::now() + READY_LIMIT;
    let mut successor = start_successor(config_path, deadline)?;
    successor.wait_until_ready(deadline)?;

    if let Err(error) = manager.notify(&format!("MAINPID={}", successor.process)) {
        successor.kill();
        return Err(error);
    }
    // Once sent, there is no way back: a manager that is slow will still read
    // it, and would miss the successor if that were ended now.
    let barrier = manager.barrier(BARRIER_LIMIT);
    successor
        .line
        .stream
        .get_mut()
        .write_all(b"go\n")
        .with_context(|| {
            format!(
                "telling the successor {} to serve; the service manager will restart the service",
                successor.process
            )
        })?;
    rustix::process::kill_process(former, Signal::USR1).with_context(|| {
        format!("telling the former process {main_process} to stop accepting; both serve now")
    })?;
    barrier.context("handing over: the successor serves, but perhaps not yet as main process")
}

/// A started successor, seen from the reload process.
struct Successor {
    process: u32,
    /// A descriptor of the process, which unlike its number is never used
    /// again for another one.
    handle: OwnedFd,
    line: Line,
}

impl Successor {
    /// Waits for `ready`; a successor that doesn't get there is killed.
    fn wait_until_ready(&mut self, deadline: Instant) -> Result<()> {
        while !self.line.is_ready {
            if let Err(error) = self.line.hear(deadline) {
                self.kill();
                return Err(error.context("waiting for the successor to get ready"));
            }
        }
        Ok(())
    }

    fn kill(&self) {
        // It may have ended by itself, which is just as good.
        let _ = rustix::process::pidfd_send_signal(&self.handle, Signal::KILL);
    }
}

/// The reload process's line to launcher and successor, and what was heard on
/// it. The two write independently, so that their words come in any order.
struct Line {
    stream: BufReader<UnixStream>,
    started: Option<u32>,
    is_ready: bool,
}

impl Line {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream: BufReader::new(stream),
            started: None,
            is_ready: false,
        }
    }

    /// Takes in the next word. An error is the reason for which there will be
    /// no successor.
    fn hear(&mut self, deadline: Instant) -> Result<()> {
        let line = read_line(&mut self.stream, deadline)?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("ready", "") => self.is_ready = true,
            ("started", number) => {
                self.started = Some(number.parse().context("reading the successor's number")?);
            }
            ("failed", reason) => bail!("the successor says: {reason}"),
            _ => bail!("the successor said {line:?}"),
        }
        Ok(())
    }
}

/// Starts launcher and successor from the program's path as it was configured.
/// Where that is a link, it leads to the version that is now current.
fn start_successor(config_path: &Utf8Path, deadline: Instant) -> Result<Successor> {
    let (ours, theirs) = UnixStream::pair().context("making a socket pair")?;
    let mut launcher = Command::new(program()?)
        .args(["api-proxy", "--config", config_path.as_str()])
        .env(ROLE_VARIABLE, LAUNCHER)
        // systemd's word for the reload process alone.
        .env_remove("MAINPID")
        .stdin(Stdio::inherit())
        .stdout(Stdio::from(OwnedFd::from(theirs)))
        .stderr(Stdio::inherit())
        .spawn()
        .context("starting the launcher")?;
    let mut line = Line::new(ours);
    let process = loop {
        if let Some(process) = line.started {
            break process;
        }
        if let Err(error) = line.hear(deadline) {
            let _ = launcher.kill();
            let _ = launcher.wait();
            return Err(error.context("starting the successor"));
        }
    };
    let id = process_id(process).context("starting the successor")?;
    let handle = match rustix::process::pidfd_open(id, PidfdFlags::empty()) {
        Ok(handle) => handle,
        // It has ended already, and its last word says why.
        Err(rustix::io::Errno::SRCH) => loop {
            line.hear(deadline).context("starting the successor")?;
        },
        Err(error) => return Err(error).context("watching the successor"),
    };
    let successor = Successor {
        process,
        handle,
        line,
    };
    // Only when the launcher has gone is the successor the manager's own child.
    if let Err(error) = wait_for_end(&mut launcher, deadline) {
        successor.kill();
        return Err(error);
    }
    Ok(successor)
}

fn process_id(number: u32) -> Result<Pid> {
    let id = i32::try_from(number).ok().and_then(Pid::from_raw);
    id.with_context(|| format!("reading a process id: {number} is none"))
}

fn wait_for_end(launcher: &mut Child, deadline: Instant) -> Result<()> {
    /// Ending takes about a millisecond.
    const LOOK_AGAIN: Duration = Duration::from_millis(1);
    loop {
        match launcher.try_wait().context("waiting for the launcher")? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => bail!("waiting for the launcher: it ended with {status}"),
            None if Instant::now() >= deadline => {
                let _ = launcher.kill();
                let _ = launcher.wait();
                bail!("waiting for the launcher: it did not end within {READY_LIMIT:?}");
            }
            None => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

/// One line without its end.
fn read_line(stream: &mut BufReader<UnixStream>, deadline: Instant) -> Result<String> {
    // A limit of zero would mean none.
    let left = deadline
        .saturating_duration_since(Instant::now())
        .max(Duration::from_millis(1));
    stream
        .get_ref()
        .set_read_timeout(Some(left))
        .context("setting a time limit")?;
    let mut line = String::new();
    match stream.read_line(&mut line) {
        Ok(_) if line.ends_with('\n') => Ok(line.trim_end().to_owned()),
        Ok(_) => bail!("the process ended before it was ready; its own lines say why"),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            bail!("nothing was heard within {READY_LIMIT:?}")
        }
        Err(error) => Err(error).context("reading from the process"),
    }
}

/// The path that this program was started by.
fn program() -> Result<OsString> {
    std::env::args_os()
        .next()
        .context("finding the program: it was started without a name")
}

/// The launcher's whole work: starts the successor with this process's own
/// arguments, standard streams and environment.
pub fn launch() -> Result<()> {
    let successor = Command::new(program()?)
        .args(std::env::args_os().skip(1))
        .env(ROLE_VARIABLE, SUCCESSOR)
        .spawn()
        .context("starting the successor")?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "started {}", successor.id())
        .and_then(|()| stdout.flush())
        .context("telling the successor's process id")
}

/// The successor's line to the reload process: its standard output.
pub struct ReloadProcess {
    stream: tokio::net::UnixStream,
}

impl ReloadProcess {
    /// Takes over standard output.
    pub fn connect() -> Result<Self> {
        let duplicate = std::io::stdout()
            .as_fd()
            .try_clone_to_owned()
            .context("taking over standard output")?;
        let stream = UnixStream::from(duplicate);
        stream
            .set_nonblocking(true)
            .context("taking over standard output")?;
        let stream =
            tokio::net::UnixStream::from_std(stream).context("taking over standard output")?;
        Ok(Self { stream })
    }

    /// Says that this process can't become the successor. The reload process
    /// may have gone, which it will know best.
    pub async fn report_failure(&mut self, error: &anyhow::Error) {
        let reason = format!("{error:#}").replace('\n', " | ");
        let _ = self
            .stream
            .write_all(format!("failed {reason}\n").as_bytes())
            .await;
    }

    /// Says `ready` and waits for `go`.
    pub async fn wait_for_go(&mut self) -> Result<()> {
        self.stream
            .write_all(b"ready\n")
            .await
            .context("telling the reload process")?;
        let mut word = [0; 3];
        timeout(GO_LIMIT, self.stream.read_exact(&mut word))
            .await
            .with_context(|| format!("waiting to take over: nothing within {GO_LIMIT:?}"))?
            .context("waiting to take over: the reload was given up")?;
        ensure!(
            &word == b"go\n",
            "waiting to take over: the reload process said {word:?}"
        );
        Ok(())
    }
}
