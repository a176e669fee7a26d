//! `cofferdam hosts trust`: shows hosts' keys and pins them in the site.

use super::connect::{self, HOST_KEYS};
use super::fault::{Exit, Fault};
use super::interrupt::Interrupt;
use super::phase::Phase;
use super::{ask, conclude};
use crate::cli::HostsCommand;
use crate::inventory::Inventory;
use crate::output::{Output, Style};
use crate::ssh::{self, ConnectError, HostKeys, ScannedKey, Target, Timeouts};
use camino::Utf8Path;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

/// Fingerprints that somebody wrote down, by host.
type Fingerprints = BTreeMap<String, String>;

/// How new keys are believed.
enum Belief {
    Ask,
    Whatever,
    Fingerprints(Fingerprints),
}

/// What becomes of a host's key.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is the recorded one.
    Known,
    /// To be recorded, if somebody says so.
    New,
    /// Why it is not.
    Refused { why: String, hint: Option<String> },
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
    let interrupt = Interrupt::watch(&output)?;
    let belief = match (&fingerprints, yes) {
        (Some(file), _) => Belief::Fingerprints(read_fingerprints(file)?),
        (None, true) => Belief::Whatever,
        (None, false) => Belief::Ask,
    };
    let (inventory, site) = connect::read(&inventory.inventory)?;
    let targets = selected(&inventory, &hosts)?;
    site.create(&inventory.cluster.name).map_err(Fault::input)?;
    let mut keys = connect::host_keys(&site)?;
    let work = async {
        let scanned = scan(&output, &targets).await;
        let (mut agreed, mut faults) = judge(&output, scanned, &keys, &belief, replace);
        if let Err(fault) = agree(&output, &belief, &agreed).await {
            faults.insert(0, fault);
            agreed.clear();
        }
        for (name, key) in &agreed {
            keys.record(name, key.pin());
            output.say(&line(name, key, "recorded"));
        }
        if !agreed.is_empty() {
            let saved = keys.save(&site.path(HOST_KEYS));
            faults.extend(saved.map_err(Fault::input).err());
        }
        Fault::merge(faults).map_or(Ok(()), Err)
    };
    let result = interrupt.or("no key was recorded", work).await;
    conclude(&output, result)?;
    Ok(ExitCode::SUCCESS)
}

/// The hosts to look at: those named, or all.
fn selected(inventory: &Inventory, names: &[String]) -> Result<BTreeMap<String, Target>, Fault> {
    let mut targets = connect::targets_without_identity(inventory);
    if let Some(unknown) = names.iter().find(|name| !targets.contains_key(*name)) {
        let known: Vec<&str> = targets.keys().map(String::as_str).collect();
        let message = format!("{} has no host `{unknown}`", inventory.file);
        return Err(
            Fault::new(Exit::Input, message).hint(format!("its hosts are {}", known.join(", ")))
        );
    }
    if !names.is_empty() {
        targets.retain(|name, _| names.contains(name));
    }
    Ok(targets)
}

async fn scan(
    output: &Arc<Output>,
    targets: &BTreeMap<String, Target>,
) -> Vec<(String, Result<ScannedKey, ConnectError>)> {
    let phase = Phase::begin(output, "scan", targets.len());
    let timeouts = Timeouts::default();
    let each = targets
        .iter()
        .map(|(name, target)| (name.clone(), ssh::scan(target, &timeouts)));
    let scanned = phase.for_all(each).await;
    let answered = scanned.iter().filter(|(_, result)| result.is_ok()).count();
    phase.done(format!("{answered} of {} hosts answered", targets.len()));
    scanned
}

/// Sorts the hosts' keys into those to record, and what is wrong with others.
fn judge(
    output: &Output,
    scanned: Vec<(String, Result<ScannedKey, ConnectError>)>,
    keys: &HostKeys,
    belief: &Belief,
    replace: bool,
) -> (Vec<(String, ScannedKey)>, Vec<Fault>) {
    let (mut agreed, mut faults) = (Vec::new(), Vec::new());
    for (name, result) in scanned {
        let key = match result {
            Ok(key) => key,
            Err(error) => {
                let hint = error.hint();
                faults.push(Fault::of(Exit::Hosts, &error.into()).host(&name).hint(hint));
                continue;
            }
        };
        let found = key.key.fingerprint();
        let recorded = keys.lookup(&name).map(|pinned| pinned.key.fingerprint());
        let recorded = recorded.filter(|recorded| !replace || *recorded == found);
        match verdict(&name, &found, recorded.as_deref(), belief) {
            Verdict::Known => output.say(&line(&name, &key, "recorded already")),
            Verdict::New => agreed.push((name, key)),
            Verdict::Refused { why, hint } => {
                let fault = Fault::new(Exit::Hosts, why).host(&name);
                faults.push(match hint {
                    Some(hint) => fault.hint(hint),
                    None => fault,
                });
            }
        }
    }
    (agreed, faults)
}

/// What to do with the fingerprint that a host shows, given the recorded one.
fn verdict(host: &str, found: &str, recorded: Option<&str>, belief: &Belief) -> Verdict {
    match recorded {
        Some(recorded) if recorded == found => return Verdict::Known,
        Some(recorded) => {
            return Verdict::Refused {
                why: format!(
                    "{host}: its host key has changed: recorded is {recorded}, it shows {found}"
                ),
                hint: Some(format!(
                    "if {host} was installed anew, run this again with `--replace {host}`; if not, somebody may be between you and the host"
                )),
            };
        }
        None => {}
    }
    let Belief::Fingerprints(listed) = belief else {
        return Verdict::New;
    };
    match listed.get(host) {
        Some(listed) if listed == found => Verdict::New,
        Some(listed) => Verdict::Refused {
            why: format!("{host}: it shows {found}, the list has {listed}; not recorded"),
            hint: Some("somebody may be between you and the host, or the list is old".to_owned()),
        },
        None => Verdict::Refused {
            why: format!("{host}: it shows {found}, and the list does not name it; not recorded"),
            hint: None,
        },
    }
}

/// Asks about new keys, where that is how they are believed.
async fn agree(
    output: &Output,
    belief: &Belief,
    new: &[(String, ScannedKey)],
) -> Result<(), Fault> {
    if !matches!(belief, Belief::Ask) || new.is_empty() {
        return Ok(());
    }
    for (name, key) in new {
        output.ask(&line(name, key, ""));
    }
    let refusal = Fault::new(Exit::Input, "nobody is here to compare the fingerprints")
        .hint("pass --fingerprints FILE, or --yes to believe what the hosts show");
    output.say(
        "compare these with the hosts' own, on their consoles: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub",
    );
    ask::confirm(output, "Record them?", refusal).await
}

fn line(name: &str, key: &ScannedKey, what: &str) -> String {
    let (kind, fingerprint) = (key.key.key_type(), key.key.fingerprint());
    format!("{name:<8} {fingerprint} {kind}  {what}")
        .trim_end()
        .to_owned()
}

fn read_fingerprints(file: &Utf8Path) -> Result<Fingerprints, Fault> {
    let text = fs_err::read_to_string(file).map_err(Fault::input)?;
    parse_fingerprints(&text)
        .map_err(|problem| Fault::new(Exit::Input, format!("reading {file}, {problem}")))
}

/// Lines of `NAME SHA256:…`; empty ones and those that begin with `#` are left
/// out.
fn parse_fingerprints(text: &str) -> Result<Fingerprints, String> {
    let mut listed = Fingerprints::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let number = index + 1;
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, fingerprint] = words[..] else {
            return Err(format!("line {number}: write `NAME SHA256:…`"));
        };
        if !fingerprint.starts_with("SHA256:") {
            return Err(format!(
                "line {number}: `{fingerprint}` is no fingerprint of the form SHA256:…, as `ssh-keygen -lf` prints it"
            ));
        }
        let previous = listed.insert(name.to_owned(), fingerprint.to_owned());
        if previous.is_some_and(|previous| previous != fingerprint) {
            return Err(format!("line {number}: `{name}` has another one above"));
        }
    }
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_their_mistakes_named() {
        let listed = parse_fingerprints("# lab\n\nm1 SHA256:abc\n w1\tSHA256:def \n").unwrap();
        assert_eq!(listed.len(), 2);
        assert_eq!(listed["w1"], "SHA256:def");
        for (text, expected) in [
            ("m1", "line 1: write `NAME SHA256:…`"),
            (
                "m1 SHA256:a\nm1 SHA256:b",
                "line 2: `m1` has another one above",
            ),
            ("\nm1 MD5:aa", "line 2: `MD5:aa` is no fingerprint"),
            ("m1 SHA256:a more", "line 1: write"),
        ] {
            let problem = parse_fingerprints(text).unwrap_err();
            assert!(problem.starts_with(expected), "{text}: {problem}");
        }
    }

    #[test]
    fn only_what_is_believed_is_new_and_a_change_is_always_refused() {
        let listed = Belief::Fingerprints([("m1".to_owned(), "SHA256:a".to_owned())].into());
        let refused = |verdict: &Verdict, word: &str| match verdict {
            Verdict::Refused { why, .. } => why.contains(word),
            _ => false,
        };
        assert_eq!(verdict("m1", "SHA256:a", None, &listed), Verdict::New);
        assert!(refused(
            &verdict("m1", "SHA256:b", None, &listed),
            "the list has"
        ));
        assert!(refused(
            &verdict("w1", "SHA256:b", None, &listed),
            "does not name it"
        ));
        for belief in [Belief::Ask, Belief::Whatever, listed] {
            let known = verdict("m1", "SHA256:a", Some("SHA256:a"), &belief);
            assert_eq!(known, Verdict::Known);
            let changed = verdict("m1", "SHA256:a", Some("SHA256:z"), &belief);
            assert!(refused(&changed, "has changed"), "{changed:?}");
        }
    }
}
