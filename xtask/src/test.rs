//! `cargo xtask test`: all tiers, each with its time, and one closing line.

use crate::scenarios::{self, Tally};
use crate::{paths, shell};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use std::process::{Command, Stdio};
use std::time::Instant;

#[derive(clap::Args)]
pub struct Args {
    /// Tiers to run [default: all but chaos].
    #[arg(long, value_enum, value_delimiter = ',')]
    tier: Vec<Tier>,
    /// Only scenarios of the lab whose name contains this, or one of several parts
    /// divided by `|`.
    #[arg(long)]
    only: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tier {
    /// Format, lints, licences.
    Lint,
    /// Unit, snapshot, property, simulation and transport tests.
    Code,
    /// Real hosts, real Kubernetes.
    Lab,
    /// Real hosts that lose masters and zones for long.
    Chaos,
}

/// What the tests call beside the toolchain.
const PACKAGES: [&str; 6] = [
    "minisign",
    "nftables",
    "openssh-client",
    "openssh-server",
    "skopeo",
    "util-linux",
];

pub fn run(args: &Args) -> Result<()> {
    shell::debian_packages(&PACKAGES)?;
    let mut total = Tally::default();
    let mut times = Vec::new();
    let by_default = [Tier::Lint, Tier::Code, Tier::Lab];
    let tiers = match args.tier.as_slice() {
        [] => &by_default,
        named => named,
    };
    for &tier in tiers {
        shell::say(&format!("\n== tier {tier:?}"));
        let begun = Instant::now();
        let result = match tier {
            Tier::Lint => lint(),
            Tier::Code => code(),
            Tier::Lab => scenarios::run(args.only.as_deref()),
            Tier::Chaos => scenarios::chaos(args.only.as_deref()),
        };
        let tally = result.unwrap_or_else(|error| {
            shell::say(&format!("FAILED  tier {tier:?}: {error:#}"));
            Tally {
                passed: 0,
                failed: 1,
            }
        });
        times.push((tier, begun.elapsed().as_secs_f64(), tally));
        total += tally;
    }
    shell::say("");
    for (tier, seconds, Tally { passed, failed }) in times {
        let name = format!("{tier:?}").to_lowercase();
        shell::say(&format!(
            "tier {name:<6} {seconds:>7.1} s  {passed:>4} passed {failed:>3} failed"
        ));
    }
    shell::say(&format!("{} passed, {} failed", total.passed, total.failed));
    if total.failed > 0 {
        bail!("{} tests failed", total.failed);
    }
    Ok(())
}

/// Runs each check and counts it as a test.
fn lint() -> Result<Tally> {
    ensure_cargo_deny()?;
    let checks: [&[&str]; 3] = [
        &["fmt", "--all", "--check"],
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ],
        &[
            "deny",
            "--log-level",
            "error",
            "check",
            "bans",
            "licenses",
            "sources",
        ],
    ];
    let mut tally = Tally::default();
    for check in checks {
        let result = shell::run(cargo()?.args(check));
        let name = check.join(" ");
        match result {
            Ok(()) => {
                tally.passed += 1;
                shell::say(&format!("ok      cargo {name}"));
            }
            Err(error) => {
                tally.failed += 1;
                shell::say(&format!("FAILED  cargo {name}: {error:#}"));
            }
        }
    }
    Ok(tally)
}

/// Runs `cargo test` and adds up what its harnesses report.
fn code() -> Result<Tally> {
    let output = cargo()?
        .args(["test", "--workspace", "--no-fail-fast"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo test")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let tally = tally_of(&text);
    if !output.status.success() {
        shell::say(text.trim());
        if tally.failed == 0 {
            bail!("cargo test: {}", output.status);
        }
    }
    if tally.passed == 0 {
        bail!("cargo test ran no test");
    }
    Ok(tally)
}

/// Adds up `test result: ok. 12 passed; 0 failed; …` lines.
fn tally_of(text: &str) -> Tally {
    let mut tally = Tally::default();
    for line in text.lines().filter(|line| line.starts_with("test result:")) {
        for part in line.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what)) = (words.next(), words.next()) else {
                continue;
            };
            let Ok(number) = number.parse::<usize>() else {
                continue;
            };
            match what {
                "passed" => tally.passed += number,
                "failed" => tally.failed += number,
                _ => {}
            }
        }
    }
    tally
}

fn cargo() -> Result<Command> {
    let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    command.current_dir(paths::repository()?);
    Ok(command)
}

/// Version of cargo-deny that the checks are written for.
const CARGO_DENY: &str = "0.20.2";

fn ensure_cargo_deny() -> Result<()> {
    let found = shell::read(Command::new("cargo-deny").arg("--version"));
    if found.is_ok_and(|version| version.ends_with(CARGO_DENY)) {
        return Ok(());
    }
    shell::say(&format!(
        "installing cargo-deny {CARGO_DENY}; this takes some minutes, once"
    ));
    shell::run(cargo()?.args([
        "install",
        "--quiet",
        "--locked",
        "cargo-deny",
        "--version",
        CARGO_DENY,
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_all_harnesses() {
        let text = "running 2 tests\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured\n\
                    test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured\n";
        let Tally { passed, failed } = tally_of(text);
        assert_eq!((passed, failed), (5, 1));
    }
}
