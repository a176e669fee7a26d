//! Waiting until a host's sshd answers, with a limit and the last reason.

use super::control::is_running;
use super::layout::Host;
use super::state;
use anyhow::{Result, bail};
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A host boots in two seconds; two busy cores stretch that.
const BOOT_LIMIT: Duration = Duration::from_secs(90);
/// Within this time the host's first process has entered its cgroups, so that
/// none there means that it has ended.
const FIRST_PROCESS: Duration = Duration::from_secs(3);
const DIAL_LIMIT: Duration = Duration::from_secs(1);
const BANNER_LIMIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);
/// Enough of a console to show a failed unit and its cause.
const CONSOLE_LINES: usize = 15;
const SSH_PORT: u16 = 22;

/// Waits until sshd greets.
pub fn wait(host: &Host) -> Result<()> {
    let started = Instant::now();
    loop {
        let reason = match greeting(host, DIAL_LIMIT) {
            Ok(()) => return Ok(()),
            Err(reason) => reason,
        };
        let waited = started.elapsed();
        if waited > FIRST_PROCESS && !is_running(host)? {
            bail!(
                "it went off while booting; its console ends with:\n{}",
                console_end(host)
            );
        }
        if waited > BOOT_LIMIT {
            bail!(
                "sshd at {}:{SSH_PORT} does not answer after {} s ({reason}); its console ends with:\n{}",
                host.address,
                BOOT_LIMIT.as_secs(),
                console_end(host)
            );
        }
        std::thread::sleep(PAUSE);
    }
}

/// Connects from the jump host's address and reads the start of sshd's
/// greeting. The error says what happened instead.
pub fn greeting(host: &Host, limit: Duration) -> Result<(), String> {
    let address = SocketAddr::from((host.address, SSH_PORT));
    let mut stream = TcpStream::connect_timeout(&address, limit)
        .map_err(|error| format!("connecting: {error}"))?;
    let mut start = [0; 4];
    stream
        .set_read_timeout(Some(BANNER_LIMIT))
        .and_then(|()| stream.read_exact(&mut start))
        .map_err(|error| format!("waiting for the greeting: {error}"))?;
    if &start != b"SSH-" {
        return Err(format!(
            "greeted with {:?}",
            String::from_utf8_lossy(&start)
        ));
    }
    Ok(())
}

/// The last lines of a host's console, without colors.
pub fn console_end(host: &Host) -> String {
    let path = state::console(&host.name);
    let bytes = fs_err::read(&path).unwrap_or_default();
    let text = plain(&String::from_utf8_lossy(&bytes));
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    let first = lines.len().saturating_sub(CONSOLE_LINES);
    format!("{}\n(all of it: {path})", lines[first..].join("\n"))
}

/// Takes out escape sequences and control characters other than line ends.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            // `ESC [ parameters letter`, or one character after ESC.
            if characters.next() == Some('[') {
                for inner in characters.by_ref() {
                    if ('\u{40}'..='\u{7e}').contains(&inner) {
                        break;
                    }
                }
            }
        } else if character == '\n' || !character.is_control() {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consoles_are_shown_without_colors() {
        let table = [
            (
                "[\u{1b}[0;32m  OK  \u{1b}[0m] Started \u{1b}[0;1;39mssh\u{1b}[0m.\r\n",
                "[  OK  ] Started ssh.\n",
            ),
            ("a\u{1b}cb\u{7}", "ab"),
            ("ends in \u{1b}[", "ends in "),
        ];
        for (raw, expected) in table {
            assert_eq!(plain(raw), expected);
        }
    }
}
