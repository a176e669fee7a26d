//! `cofferdam hosts trust`: shows hosts' keys and pins them in the site.

use super::connect::{self, HOST_KEYS};
use super::fault::{Exit, Fault};
use crate::cli::HostsCommand;
use crate::output::{Output, Style};
use crate::ssh::{self, HostKeys, ScannedKey, Target, Timeouts};
use camino::Utf8Path;
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal};
use std::process::ExitCode;

/// How keys are believed.
enum Belief {
    Ask,
    Whatever,
    /// By host: the fingerprint that somebody wrote down.
    Fingerprints(BTreeMap<String, String>),
}

pub(super) async fn run(command: HostsCommand, style: Style) -> Result<ExitCode, Fault> {
    let HostsCommand::Trust {
        inventory,
        hosts,
        yes,
        fingerprints,
        replace,
    } = command;
    let output = super::output(style);
    let (inventory, site) = connect::read(&inventory.inventory)?;
    site.create(&inventory.cluster.name).map_err(Fault::input)?;
    let belief = match (&fingerprints, yes) {
        (Some(file), _) => Belief::Fingerprints(read_fingerprints(file)?),
        (None, true) => Belief::Whatever,
        (None, false) => Belief::Ask,
    };
    let mut targets = connect::targets(&inventory)?;
    if let Some(unknown) = hosts.iter().find(|name| !targets.contains_key(*name)) {
        return Err(Fault::new(
            Exit::Input,
            format!("the inventory has no host `{unknown}`"),
        ));
    }
    if !hosts.is_empty() {
        targets.retain(|name, _| hosts.contains(name));
    }
    let mut keys = connect::host_keys(&site)?;
    let scanned = scan_all(&targets).await?;
    let mut unknown = Vec::new();
    for (name, key) in scanned {
        match keys.lookup(&name).map(|pinned| pinned.key == key.key) {
            Some(true) => output.say(&format!(
                "{name:<8} {}  recorded already",
                key.key.fingerprint()
            )),
            Some(false) if !replace => {
                let message = format!(
                    "{name}: its key is {} now, another one is recorded",
                    key.key.fingerprint()
                );
                return Err(Fault::new(Exit::Hosts, message).hint(format!(
                    "if {name} was set up anew, run `cofferdam hosts trust --replace {name}`; if not, somebody may be in between"
                )));
            }
            _ => unknown.push((name, key)),
        }
    }
    believe(&belief, &unknown, &output)?;
    for (name, key) in &unknown {
        keys.record(name, key.pin());
        output.say(&format!("{name:<8} {}  recorded", key.key.fingerprint()));
    }
    save(&keys, &site.path(HOST_KEYS))?;
    Ok(ExitCode::SUCCESS)
}

fn save(keys: &HostKeys, path: &Utf8Path) -> Result<(), Fault> {
    keys.save(path).map_err(Fault::input)
}

async fn scan_all(targets: &BTreeMap<String, Target>) -> Result<Vec<(String, ScannedKey)>, Fault> {
    let timeouts = Timeouts::default();
    let each = targets.values().map(|target| ssh::scan(target, &timeouts));
    let mut scanned = Vec::new();
    for (name, result) in targets.keys().zip(join_all(each).await) {
        let key = result.map_err(|error| Fault::of(Exit::Hosts, &error.into()))?;
        scanned.push((name.clone(), key));
    }
    Ok(scanned)
}

fn believe(
    belief: &Belief,
    unknown: &[(String, ScannedKey)],
    output: &Output,
) -> Result<(), Fault> {
    if unknown.is_empty() {
        return Ok(());
    }
    match belief {
        Belief::Whatever => Ok(()),
        Belief::Fingerprints(known) => {
            for (name, key) in unknown {
                let found = key.key.fingerprint();
                if known.get(name) != Some(&found) {
                    let message =
                        format!("{name}: its key is {found}, which the list does not name");
                    return Err(Fault::new(Exit::Hosts, message));
                }
            }
            Ok(())
        }
        Belief::Ask => {
            for (name, key) in unknown {
                output.say(&format!("{name:<8} {}", key.key.fingerprint()));
            }
            if !std::io::stdin().is_terminal() {
                return Err(
                    Fault::new(Exit::Input, "nobody is here to compare the fingerprints")
                        .hint("pass --fingerprints FILE, or --yes to believe what the hosts show"),
                );
            }
            output.say("Compare these with the hosts' own (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub). Record them? [y/N]");
            confirm()
        }
    }
}

/// Reads an answer; anything but yes is no.
pub(super) fn confirm() -> Result<(), Fault> {
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(anyhow::Error::from)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Fault::new(
            Exit::Interrupted,
            "not confirmed; nothing was changed",
        )),
    }
}

fn read_fingerprints(file: &Utf8Path) -> Result<BTreeMap<String, String>, Fault> {
    let text = fs_err::read_to_string(file).map_err(Fault::input)?;
    let mut known = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some(name), Some(fingerprint)) => {
                known.insert(name.to_owned(), fingerprint.to_owned());
            }
            (None, _) => {}
            _ => {
                let message = format!("{file}:{}: a line has a name and a fingerprint", index + 1);
                return Err(Fault::new(Exit::Input, message));
            }
        }
    }
    Ok(known)
}
