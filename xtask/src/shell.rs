//! Running programs and talking to the person at the terminal.

use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};

/// Prints one line to stderr. Data goes to stdout, all talk goes here.
#[expect(clippy::print_stderr, reason = "the one place where tasks talk")]
pub fn say(line: &str) {
    eprintln!("{line}");
}

/// A command that is killed when the thread that started it ends, so that a
/// task that is killed leaves nobody at work behind its back.
pub fn attached(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    command
}

/// Runs a command, shows its output, and fails with the command line and the
/// exit status if it does not succeed.
pub fn run(command: &mut Command) -> Result<()> {
    let line = format!("{command:?}");
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("starting {line}"))?;
    if !status.success() {
        bail!("{line}: {status}");
    }
    Ok(())
}

/// Runs a command and returns its standard output, trimmed. The error carries
/// the command's standard error.
pub fn read(command: &mut Command) -> Result<String> {
    let line = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {line}"))?;
    if !output.status.success() {
        bail!(
            "{line}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Installs those of the given Debian packages that are not installed yet.
pub fn debian_packages(names: &[&str]) -> Result<()> {
    let missing: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| {
            // A line for each architecture.
            read(Command::new("dpkg-query").args(["-W", "-f=${Status}\n", name])).map_or(
                true,
                |statuses| {
                    statuses
                        .lines()
                        .any(|status| status != "install ok installed")
                },
            )
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    say(&format!(
        "installing Debian packages: {}",
        missing.join(" ")
    ));
    let quiet =
        |command: &mut Command| read(command.env("DEBIAN_FRONTEND", "noninteractive")).map(drop);
    quiet(Command::new("apt-get").args(["-q", "update"]))?;
    quiet(
        Command::new("apt-get")
            .args(["-q", "install", "-y", "--no-install-recommends"])
            .args(&missing),
    )
}
