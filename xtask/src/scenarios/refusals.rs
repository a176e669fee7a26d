//! What is refused on real hosts, each with a clear error and with nothing
//! written to any host but agents at their one path.

use super::Context;
use crate::lab::Lab;
use crate::product::{Outcome, outcome, wait_until};
use crate::shell;
use anyhow::{Context as _, Result, bail, ensure};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Exit codes of the product; its `--help` lists them.
const CHECKS: i32 = 3;
const HOSTS: i32 = 4;
const FAILED: i32 = 1;

/// A run reaches its question within this.
const QUESTION_LIMIT: Duration = Duration::from_secs(60);

/// All that a host may get before a plan is confirmed.
const AGENT: [&str; 2] = ["/opt/cofferdam", "/opt/cofferdam/agent"];

/// Takes note of the moment; [`CHANGED`] lists what has changed since.
const MARK: &str = "mkdir -p /opt && sync && touch /run/mark";

/// Everything below `/` and `/var` (a mount of its own) whose contents, mode
/// or owner changed since the mark. Logs, and what systemd and logins keep for
/// themselves, change all the time.
const CHANGED: &str = "find / /var -xdev \\( -path /var/log -o -path /var/tmp \
    -o -path /tmp -o -path /var/lib/systemd -o -path /root/.bash_history -o -path /dev \
    -o -path /run -o -path /var/lib/private \\) -prune -o -cnewer /run/mark -print \
    | grep -vxE '/|/opt|/var|/var/lib|/dev|/run|/root' | sort -u";

/// A host that is off: named, and the others get nothing, not even an agent.
pub fn unreachable_host(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let hosts = Untouched::mark(&lab, &["m1", "w1"])?;
    lab.kill("w2")?;
    let outcome = install(context);
    lab.boot("w2")?;
    expect(
        &outcome?,
        HOSTS,
        &["w2", "10.77.2.22", "check that w2 is up"],
    )?;
    hosts.check(&[])
}

/// A host that shows another key than the pinned one, which is m1's here.
pub fn changed_host_key(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let hosts = Untouched::mark(&lab, &["m1", "w1", "w2"])?;
    let file = lab.directory().join("site/host_keys");
    let text = fs_err::read_to_string(&file)?;
    let key_of = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let fields: Option<Vec<&str>> = line.map(|line| line.split(' ').skip(2).collect());
        fields.with_context(|| format!("{name} has no pinned key"))
    };
    let other = text.replace(&key_of("w2")?.join(" "), &key_of("m1")?.join(" "));
    fs_err::write(&file, other)?;
    let outcome = install(context);
    fs_err::write(&file, text)?;
    expect(
        &outcome?,
        HOSTS,
        &[
            "w2 (10.77.2.22:22): its host key has changed: expected",
            "SHA256:",
            "cofferdam hosts trust",
        ],
    )?;
    hosts.check(&[])
}

/// A user who can log in but may not become root.
pub fn user_without_root(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    for host in ["m1", "w1", "w2"] {
        lab.ssh_output(host, "mv /etc/sudoers.d/operator /run/operator")?;
    }
    let hosts = Untouched::mark(&lab, &["m1", "w1", "w2"])?;
    let outcome = as_operator(context);
    let result = outcome.and_then(|outcome| {
        expect(
            &outcome,
            HOSTS,
            &["w1", "user operator can't become root", "NOPASSWD"],
        )?;
        hosts.check(&[])
    });
    for host in ["m1", "w1", "w2"] {
        lab.ssh_output(host, "mv /run/operator /etc/sudoers.d/operator")?;
    }
    result
}

/// A file system without room for what the bundle puts there.
pub fn full_disk(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    lab.ssh_output(
        "w1",
        "mkdir -p /opt/cofferdam && mount -t tmpfs -o size=200m,mode=755 tmpfs /opt/cofferdam",
    )?;
    let hosts = Untouched::mark(&lab, &["m1", "w1", "w2"])?;
    let outcome = install(context);
    let result = outcome.and_then(|outcome| {
        expect(
            &outcome,
            CHECKS,
            &["w1", "/opt/cofferdam has", "free", "are needed"],
        )?;
        hosts.check(&AGENT)
    });
    lab.ssh_output("w1", "umount /opt/cofferdam")?;
    result
}

/// A host of an architecture that is not in the bundle.
pub fn lacking_architecture(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    // The kernel can't be made to lie about itself, so the program that asks it
    // does.
    lab.ssh_output(
        "w2",
        "printf '#!/bin/sh\\necho Linux aarch64\\n' > /run/uname && chmod 755 /run/uname && mount --bind /run/uname /usr/bin/uname",
    )?;
    let hosts = Untouched::mark(&lab, &["m1", "w1", "w2"])?;
    let outcome = install(context);
    lab.ssh_output("w2", "umount /usr/bin/uname")?;
    expect(
        &outcome?,
        2,
        &[
            "w2",
            "the bundle has no cofferdam for linux/arm64",
            "platforms",
        ],
    )?;
    hosts.check(&[])
}

/// A second run while one is going on: the first waits at its question, so
/// nothing is being changed, and the second is told who is at it.
pub fn second_run(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let hosts = Untouched::mark(&lab, &["m1", "w1", "w2"])?;
    let first = Waiting::at_question(context)?;
    let outcome = install(context);
    let said = first.decline()?;
    expect(&outcome?, FAILED, &["another run", "site"])?;
    ensure!(
        said.contains("nothing was changed"),
        "the first run ended with:\n{said}"
    );
    hosts.check(&AGENT)
}

fn install(context: &Context) -> Result<Outcome> {
    outcome(&mut context.product.verb("install", &["--yes"]))
}

/// The same command, with hosts that are entered as an ordinary user.
fn as_operator(context: &Context) -> Result<Outcome> {
    let inventory = context.product.inventory.clone();
    let text = fs_err::read_to_string(&inventory)?;
    let other = text.replace("user = \"root\"", "user = \"operator\"");
    ensure!(other != text, "the lab's inventory names no user");
    let mut product = context.product.clone();
    product.inventory = inventory.with_file_name("operator.toml");
    fs_err::write(&product.inventory, other)?;
    let result = outcome(&mut product.verb("install", &["--yes"]));
    fs_err::remove_file(&product.inventory)?;
    result
}

/// The exit code, and what a person must find in the text.
fn expect(outcome: &Outcome, status: i32, texts: &[&str]) -> Result<()> {
    let said = &outcome.stderr;
    ensure!(
        outcome.status == status,
        "exit {} instead of {status}:\n{said}",
        outcome.status
    );
    for text in texts {
        ensure!(said.contains(text), "it does not say {text:?}:\n{said}");
    }
    Ok(())
}

/// Hosts whose files are looked at before and after.
struct Untouched<'a> {
    lab: &'a Lab,
    names: Vec<&'static str>,
}

impl<'a> Untouched<'a> {
    fn mark(lab: &'a Lab, names: &[&'static str]) -> Result<Self> {
        for name in names {
            lab.ssh_output(name, MARK)?;
        }
        Ok(Self {
            lab,
            names: names.to_vec(),
        })
    }

    /// Fails if anything but the given paths has changed.
    fn check(&self, allowed: &[&str]) -> Result<()> {
        for name in &self.names {
            // grep's status is 1 when nothing is left.
            let changed = self.lab.ssh_output(name, &format!("{CHANGED} || true"))?;
            let written: Vec<&str> = changed
                .lines()
                .filter(|path| !allowed.contains(path))
                .collect();
            ensure!(
                written.is_empty(),
                "written to {name}: {}",
                written.join(", ")
            );
        }
        Ok(())
    }
}

/// An install on a terminal that waits for an answer.
struct Waiting {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
    said: Vec<String>,
}

impl Waiting {
    fn at_question(context: &Context) -> Result<Self> {
        let command = context.product.verb("install", &[]);
        let words: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        // `script` gives the product a terminal, without which it asks nothing.
        let mut child = Command::new("script")
            .args(["-qefc", &words.join(" "), "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("starting script")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut part = Vec::new();
            // The question ends in `]`, not in a newline.
            while reader
                .read_until(b']', &mut part)
                .is_ok_and(|read| read > 0)
            {
                if sender
                    .send(String::from_utf8_lossy(&part).into_owned())
                    .is_err()
                {
                    return;
                }
                part.clear();
            }
        });
        let mut waiting = Self {
            child,
            lines,
            said: Vec::new(),
        };
        let asked = wait_until("the question", QUESTION_LIMIT, || {
            waiting.said.extend(waiting.lines.try_iter());
            let asked = waiting.said.iter().any(|part| part.contains("Go on?"));
            ensure!(asked, "it said:\n{}", waiting.said.concat());
            Ok(())
        });
        if let Err(error) = asked {
            waiting.child.kill()?;
            waiting.child.wait()?;
            return Err(error);
        }
        Ok(waiting)
    }

    /// Says no, waits for the end, and returns all that was said.
    fn decline(mut self) -> Result<String> {
        let mut stdin = self.child.stdin.take().context("no standard input")?;
        stdin.write_all(b"n\n")?;
        let status = wait_until("the first run's end", QUESTION_LIMIT, || {
            self.child.try_wait()?.context("it still runs")
        })?;
        drop(stdin);
        self.said.extend(self.lines.iter());
        let said = self.said.concat();
        if status.success() {
            bail!("the declined run claims success:\n{said}");
        }
        shell::say("        the first run was told no");
        Ok(said)
    }
}
