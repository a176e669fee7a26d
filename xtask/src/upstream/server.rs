//! Servers on loopback that live as long as the task that needs them.

use anyhow::{Context, Result, bail};
use camino::Utf8Path;
use std::fs::File;
use std::io::{Read, Seek};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::http;
use super::progress::{last_lines, tied_to_this_process};

/// A server on loopback starts in well under a second; a busy machine may
/// need several.
const START_LIMIT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_millis(50);

/// How many of the last lines of a server that did not start are shown.
const SHOWN_LINES: usize = 20;

/// A server that is killed when this is dropped, and also when the thread
/// that started it ends, however it ends.
pub struct Server {
    pub address: SocketAddr,
    name: String,
    child: Child,
    /// Without a name, so that a killed task leaves no file behind.
    log: File,
}

/// How to start a server.
pub struct Start<'a> {
    pub name: &'a str,
    pub command: &'a mut Command,
    pub address: SocketAddr,
    /// The page that it is asked for to see whether it answers.
    pub page: &'a str,
    /// What it reads on its standard input.
    pub input: Stdio,
}

impl Server {
    /// Starts a server and waits until it answers.
    pub fn start(start: Start<'_>) -> Result<Self> {
        let log = tempfile::tempfile()?;
        let child = start
            .command
            .stdin(start.input)
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?)
            .spawn()
            .with_context(|| format!("starting {}", start.name))?;
        let mut server = Self {
            address: start.address,
            name: start.name.to_owned(),
            child,
            log,
        };
        let started = Instant::now();
        loop {
            let answer = http::get(start.address, start.page);
            // Checked also after an answer: it may be another server's, that
            // took the port before ours did.
            server.check()?;
            match answer {
                Ok(_) => return Ok(server),
                Err(error) if started.elapsed() > START_LIMIT => {
                    let lines = server.last_lines()?;
                    return Err(error.context(format!(
                        "waiting for {}; its last lines:\n{lines}",
                        start.name
                    )));
                }
                Err(_) => std::thread::sleep(START_INTERVAL),
            }
        }
    }

    /// Fails when the server has ended.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let (name, address) = (&self.name, self.address);
            let lines = self.last_lines()?;
            bail!("{name} on {address} has ended: {status}; its last lines:\n{lines}");
        }
        Ok(())
    }

    fn last_lines(&self) -> Result<String> {
        let mut log = self.log.try_clone()?;
        let mut bytes = Vec::new();
        log.rewind()?;
        log.read_to_end(&mut bytes)?;
        Ok(last_lines(&bytes, SHOWN_LINES))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when the child has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves a folder's files with busybox.
pub fn serve_files(files: &Utf8Path) -> Result<Server> {
    let address = free_address()?;
    Server::start(Start {
        name: "busybox httpd",
        command: tied_to_this_process("busybox")
            .args(["httpd", "-f", "-p", &address.to_string()])
            .args(["-h", files.as_str()])
            // Without this it would read the machine's own /etc/httpd.conf.
            .args(["-c", "/dev/null"]),
        address,
        page: "/",
        input: Stdio::null(),
    })
}

/// An address on loopback that nothing listens on. Another process may take
/// it before the server does; then the server ends, and says so.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_ends_is_reported_with_its_words() {
        let error = Server::start(Start {
            name: "test server",
            command: Command::new("sh").args(["-c", "echo address in use >&2; exit 1"]),
            address: free_address().unwrap(),
            page: "/",
            input: Stdio::null(),
        })
        .err()
        .unwrap();
        let text = format!("{error:#}");
        for expected in ["test server", "exit status: 1", "address in use"] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }

    #[test]
    fn a_folder_is_served_until_the_server_is_dropped() {
        crate::shell::debian_packages(&["busybox-static"]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("file"), "content").unwrap();
        let server = serve_files(Utf8Path::from_path(folder.path()).unwrap()).unwrap();
        let address = server.address;
        assert_eq!(http::get(address, "/file").unwrap().body, b"content");
        drop(server);
        assert!(http::get(address, "/file").is_err());
    }
}
