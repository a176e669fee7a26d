//! What the benchmarks do on the lab's hosts.

use crate::demo;
use crate::lab::{self, Lab};
use anyhow::{Context as _, Result, ensure};
use camino::Utf8Path;
use fs_err as fs;
use std::process::{Child, Stdio};
use std::time::Instant;

/// Bare hosts; a lab that is up is taken down first.
pub(super) fn fresh_lab(options: lab::Options) -> Result<Lab> {
    if let Ok(lab) = Lab::open() {
        lab.down()?;
    }
    demo::clear_site()?;
    lab::up(&options)
}

/// Seconds until shell lines on hosts have all ended, run at the same time.
pub(super) fn on_hosts(lab: &Lab, lines: &[(&str, &str)]) -> Result<f64> {
    let begun = Instant::now();
    let mut children = Vec::new();
    for (host, line) in lines {
        let mut command = lab.ssh_command(host)?;
        command
            .arg(line)
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        children.push(((*host).to_owned(), command.spawn()?));
    }
    wait(children)?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Seconds that plain ssh takes to bring a file to each host, all at once: what
/// a person would do who has nothing but scripts.
pub(super) fn send(lab: &Lab, file: &Utf8Path, line: &str) -> Result<f64> {
    let begun = Instant::now();
    let mut children = Vec::new();
    for host in lab.hosts() {
        let mut command = lab.ssh_command(&host.name)?;
        command.arg(line).stderr(Stdio::piped());
        command.stdin(fs::File::open(file)?.into_parts().0);
        children.push((host.name.clone(), command.spawn()?));
    }
    wait(children)?;
    Ok(begun.elapsed().as_secs_f64())
}

fn wait(children: Vec<(String, Child)>) -> Result<()> {
    let mut failed = Vec::new();
    for (host, child) in children {
        let output = child
            .wait_with_output()
            .with_context(|| format!("waiting for {host}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            failed.push(format!("{host}: {}: {}", output.status, said.trim()));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}
