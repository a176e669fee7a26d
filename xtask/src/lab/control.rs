//! A lab that is up: its hosts' power, its router, and the way in.

use super::layout::{Host, JUMP_ADDRESS, Layout};
use super::router::{self, RouterCounters};
use super::state::{self, Lock, Phase, State};
use super::{cgroups, host_files, make, network, nspawn, ready, teardown};
use crate::shell;
use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::{Pid, Signal, kill_process};
use std::io::Write as _;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A host full of pods needs a while to stop all its units in order.
const STOP_LIMIT: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(50);
/// No command that tests run on a host takes longer.
const COMMAND_LIMIT: Duration = Duration::from_secs(600);

/// The one lab of this machine, seen from any process.
#[derive(Debug)]
pub struct Lab {
    state: State,
}

impl Lab {
    /// Finds the lab that is up.
    pub fn open() -> Result<Self> {
        match State::load()? {
            None => bail!("no lab is up: make one with `cargo xtask lab up`"),
            Some(state) if !state.is_of_this_boot() => {
                bail!(
                    "the lab was lost when this machine restarted: run `cargo xtask lab up` again"
                )
            }
            Some(state) if state.phase == Phase::Making => bail!(
                "`lab up` is still at work or was cut short: wait for it, or run `cargo xtask lab up` again"
            ),
            Some(state) => Ok(Self { state }),
        }
    }

    pub(super) fn new(state: State) -> Self {
        Self { state }
    }

    /// Zones and hosts.
    pub fn layout(&self) -> &Layout {
        &self.state.layout
    }

    /// The hosts, masters first.
    pub fn hosts(&self) -> &[Host] {
        &self.state.layout.hosts
    }

    /// The root file system below all hosts.
    pub fn base(&self) -> &Utf8Path {
        &self.state.base
    }

    /// Where inventory, key, bundles and site lie.
    pub fn directory(&self) -> &Utf8Path {
        &self.state.directory
    }

    /// The inventory that `lab up` wrote.
    pub fn inventory(&self) -> Utf8PathBuf {
        self.state.directory.join("inventory.toml")
    }

    /// A power cut: all processes end at once and the network is gone. One
    /// host, or `all` at the same time. A host that is off stays off.
    pub fn kill(&self, name: &str) -> Result<()> {
        let _lock = Lock::take()?;
        each(&self.layout().select(name)?, switch_off)
    }

    /// An orderly shutdown of one host or `all`.
    pub fn stop(&self, name: &str) -> Result<()> {
        let _lock = Lock::take()?;
        each(&self.layout().select(name)?, |host| {
            shut_down(host)?;
            switch_off(host)
        })
    }

    /// Starts one host or `all` again, from its directory and with its address,
    /// and waits for sshd. With `all`, hosts that are up are left alone.
    pub fn boot(&self, name: &str) -> Result<()> {
        let _lock = Lock::take()?;
        let mut hosts = self.layout().select(name)?;
        let mut off = Vec::new();
        for host in &hosts {
            if !is_running(host)? {
                off.push(*host);
            }
        }
        if off.is_empty() && name != "all" {
            bail!("{name} is up already");
        }
        hosts.retain(|host| off.contains(host));
        self.start(&hosts)
    }

    /// Starts hosts that are off, each so many milliseconds from now, and waits
    /// until all of them answer.
    pub fn boot_after(&self, delays: &[(&str, u64)]) -> Result<()> {
        let _lock = Lock::take()?;
        let hosts = delays.iter().map(|(name, _)| self.layout().host(name));
        let hosts: Vec<&Host> = hosts.collect::<Result<_>>()?;
        each(&hosts, |host| {
            let mut delays = delays.iter();
            let own = delays.find(|(name, _)| *name == host.name);
            let delay = own.map_or(0, |(_, delay)| *delay);
            std::thread::sleep(Duration::from_millis(delay));
            self.start(&[host])
        })
    }

    /// New machines with nothing on them, and keys of their own, in the places of
    /// hosts, which lose their power at once.
    pub fn replace(&self, names: &[&str]) -> Result<()> {
        let _lock = Lock::take()?;
        let hosts = names.iter().map(|name| self.layout().host(name));
        let hosts: Vec<&Host> = hosts.collect::<Result<_>>()?;
        let lab = &self.state.directory;
        let key = lab.join("id_ed25519").with_extension("pub");
        let authorized = fs_err::read_to_string(key)?;
        each(&hosts, switch_off)?;
        each(&hosts, |host| {
            host_files::remove(lab, host)?;
            host_files::make(lab, &self.state.base, host, &authorized)
        })?;
        make::write_host_keys(lab, self.layout())?;
        self.start(&hosts)
    }

    /// Starts hosts that are off and waits until all of them answer.
    pub(super) fn start(&self, hosts: &[&Host]) -> Result<()> {
        each(hosts, |host| {
            // A host whose power was cut inside (a `poweroff`) still has its network.
            switch_off(host)?;
            let lab = &self.state.directory;
            host_files::mount(lab, &self.state.base, host)?;
            let zone = self.layout().zone(host)?;
            network::make_host(host, zone, self.state.default_route)?;
            let mut groups = Vec::new();
            for hierarchy in cgroups::own_hierarchies()? {
                groups.push(cgroups::make(&hierarchy, &host.group())?);
            }
            let directories = host_files::directories(lab, host);
            nspawn::start(host, &directories, &groups, &state::console(&host.name))?;
            ready::wait(host)
        })
    }

    /// Cuts a zone off: nothing passes between it and the rest of the lab until
    /// it is healed, or the router's rules are loaded again.
    pub fn cut(&self, zone: &str) -> Result<()> {
        router::cut(&self.layout().zone_named(zone)?.network())
            .with_context(|| format!("cutting zone {zone} off"))
    }

    /// Undoes [`Lab::cut`].
    pub fn heal(&self, zone: &str) -> Result<()> {
        router::heal(&self.layout().zone_named(zone)?.network())
            .with_context(|| format!("healing zone {zone}"))
    }

    /// Loads rules into the router in place of those there, and keeps them
    /// beside the inventory for people to read.
    pub fn load_rules(&self, rules: &str) -> Result<()> {
        router::load(&self.state.directory, rules)?;
        fs_err::write(self.state.directory.join("rules.nft"), rules)?;
        Ok(())
    }

    /// What the router has counted since its rules were loaded.
    pub fn router_counters(&self) -> Result<RouterCounters> {
        router::counters()
    }

    /// Starts a script on a host that is read while it runs: the child, and
    /// its standard output.
    pub fn ssh_follow(&self, name: &str, script: &str) -> Result<(Child, ChildStdout)> {
        let mut child = self
            .ssh_command(name)?
            .arg(script)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("starting ssh")?;
        let stdout = child.stdout.take().context("no standard output")?;
        Ok((child, stdout))
    }

    /// The command that logs in to a host as root, with the lab's key and the
    /// host's pinned key. What is to run there is appended by the caller.
    pub fn ssh_command(&self, name: &str) -> Result<Command> {
        let host = self.layout().host(name)?;
        let mut command = Command::new("ssh");
        command.args(ssh_arguments(&self.state.directory, host));
        Ok(command)
    }
}

/// What the demo, the tests and the benchmarks use.
impl Lab {
    /// Takes the lab down and leaves nothing behind but the key and bundles.
    pub fn down(self) -> Result<()> {
        let _lock = Lock::take()?;
        teardown::sweep(Some(&self.state))
    }

    /// Runs a shell line on a host as root, and returns status and output
    /// whatever they are. It fails if ssh itself does or the limit passes.
    pub fn ssh(&self, name: &str, line: &str) -> Result<Output> {
        let ssh = self.ssh_command(name)?;
        let limit = COMMAND_LIMIT.as_secs().to_string();
        let output = Command::new("timeout")
            .args(["--kill-after=5", &limit])
            .arg(ssh.get_program())
            .args(ssh.get_args())
            .arg(line)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("starting ssh to {name}"))?;
        match output.status.code() {
            Some(124 | 137) => bail!("{name}: no end after {limit} s: {line}"),
            Some(255) => bail!(
                "{name}: ssh failed: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ),
            _ => Ok(output),
        }
    }

    /// Writes a file on a host, in place of one there, which may be a program
    /// that still runs. The error carries what the host said.
    pub fn put(&self, name: &str, path: &str, bytes: &[u8]) -> Result<()> {
        let mut child = self
            .ssh_command(name)?
            .arg(format!("cat > {path}.new && mv -f {path}.new {path}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting ssh to {name}"))?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        // The host's own words say more than that its end of the pipe closed.
        let written = stdin.write_all(bytes);
        drop(stdin);
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "{name}: writing {path}: {}\n{}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        written.with_context(|| format!("{name}: writing {path}"))
    }

    /// Runs a shell line on a host as root and returns its standard output,
    /// trimmed. A status other than 0 is an error with its standard error.
    pub fn ssh_output(&self, name: &str, line: &str) -> Result<String> {
        let output = self.ssh(name, line)?;
        if !output.status.success() {
            bail!(
                "{name}: {line}: {}\n{}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// Takes down whatever there is of a lab, also half of one, or none.
pub fn take_down() -> Result<()> {
    let _lock = Lock::take()?;
    let state = State::load().unwrap_or_else(|error| {
        shell::say(&format!("taking down a lab without its state ({error:#})"));
        None
    });
    teardown::sweep(state.as_ref())?;
    shell::say("the lab is down");
    Ok(())
}

/// Whether any process of a host lives.
pub fn is_running(host: &Host) -> Result<bool> {
    Ok(!cgroups::members(&groups(host)?).is_empty())
}

/// Runs the same for several hosts at once, and joins what went wrong.
pub fn each(hosts: &[&Host], action: impl Fn(&Host) -> Result<()> + Sync) -> Result<()> {
    let problems: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> = hosts
            .iter()
            .map(|host| (host, scope.spawn(|| action(host))))
            .collect();
        running
            .into_iter()
            .filter_map(|(host, thread)| match thread.join() {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(format!("{}: {error:#}", host.name)),
                Err(_) => Some(format!(
                    "{}: the thread at work on it ended early",
                    host.name
                )),
            })
            .collect()
    });
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    Ok(())
}

/// The host's cgroups in all hierarchies, whoever made them.
fn groups(host: &Host) -> Result<Vec<Utf8PathBuf>> {
    let name = host.group();
    let mut groups = cgroups::sweep(&name)?;
    groups.retain(|group| group.file_name() == Some(name.as_str()));
    Ok(groups)
}

fn switch_off(host: &Host) -> Result<()> {
    let groups = groups(host)?;
    cgroups::cut_power(&groups)?;
    cgroups::remove(&groups)?;
    network::delete_host(host)
}

/// Asks the container manager to shut its host down and waits for the end.
fn shut_down(host: &Host) -> Result<()> {
    let groups = groups(host)?;
    let machine = format!("--machine={}", host.namespace());
    let manager = cgroups::members(&groups).into_iter().find(|id| {
        let arguments = cgroups::command_line(*id);
        arguments
            .first()
            .is_some_and(|program| program.ends_with("systemd-nspawn"))
            && arguments.contains(&machine)
    });
    let Some(manager) = manager.and_then(Pid::from_raw) else {
        return Ok(());
    };
    kill_process(manager, Signal::TERM).context("asking it to shut down")?;
    let started = Instant::now();
    while !cgroups::members(&groups).is_empty() {
        if started.elapsed() > STOP_LIMIT {
            bail!(
                "not off {} s after it was asked to shut down; its console ends with:\n{}",
                STOP_LIMIT.as_secs(),
                ready::console_end(host)
            );
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Arguments of ssh up to and including the address.
fn ssh_arguments(lab: &Utf8Path, host: &Host) -> Vec<String> {
    let option = |text: String| ["-o".to_owned(), text];
    let mut arguments = vec![
        "-F".to_owned(),
        "/dev/null".to_owned(),
        "-i".to_owned(),
        lab.join("id_ed25519").into_string(),
        "-b".to_owned(),
        JUMP_ADDRESS.to_string(),
    ];
    for text in [
        "BatchMode=yes".to_owned(),
        "IdentitiesOnly=yes".to_owned(),
        "StrictHostKeyChecking=yes".to_owned(),
        format!("UserKnownHostsFile={}", lab.join("known_hosts")),
        "GlobalKnownHostsFile=/dev/null".to_owned(),
        "ConnectTimeout=10".to_owned(),
        // A host whose power was cut sends nothing more.
        "ServerAliveInterval=5".to_owned(),
        "ServerAliveCountMax=3".to_owned(),
        "LogLevel=ERROR".to_owned(),
    ] {
        arguments.extend(option(text));
    }
    arguments.push(format!("root@{}", host.address));
    arguments
}

/// What a person typed after `--`, as one shell line: a single word is a line
/// already, several are words to be kept as they are.
pub fn shell_line(words: &[String]) -> String {
    match words {
        [line] => line.clone(),
        words => words
            .iter()
            .map(|word| quote(word))
            .collect::<Vec<_>>()
            .join(" "),
    }
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Replaces this process by ssh. It only returns if that fails.
pub fn become_ssh(lab: &Lab, host: &str, words: &[String]) -> Result<()> {
    use std::os::unix::process::CommandExt;
    let mut command = lab.ssh_command(host)?;
    if !words.is_empty() {
        command.arg(shell_line(words));
    }
    let error = command.exec();
    shell::say("is the package openssh-client there?");
    Err(error).context("starting ssh")
}

#[cfg(test)]
mod tests {
    use super::super::layout::Wanted;
    use super::*;

    #[test]
    fn words_reach_the_host_as_they_were_typed() {
        let line =
            |words: &[&str]| shell_line(&words.iter().map(ToString::to_string).collect::<Vec<_>>());
        let table: &[(&[&str], &str)] = &[
            (&["ls /etc | wc -l"], "ls /etc | wc -l"),
            (
                &["systemctl", "status", "kube*"],
                "systemctl status 'kube*'",
            ),
            (&["echo", "it's", ""], r"echo 'it'\''s' ''"),
            (&["cat", "/etc/os-release"], "cat /etc/os-release"),
        ];
        for (words, expected) in table {
            assert_eq!(line(words), *expected);
        }
    }

    #[test]
    fn ssh_trusts_the_pinned_key_alone() {
        let layout = Layout::spread(&Wanted {
            masters: 1,
            workers: 0,
            ..Wanted::default()
        })
        .unwrap();
        let arguments = ssh_arguments("/lab".into(), &layout.hosts[0]).join(" ");
        assert_eq!(
            arguments,
            "-F /dev/null -i /lab/id_ed25519 -b 10.77.9.2 -o BatchMode=yes -o IdentitiesOnly=yes \
             -o StrictHostKeyChecking=yes -o UserKnownHostsFile=/lab/known_hosts \
             -o GlobalKnownHostsFile=/dev/null -o ConnectTimeout=10 -o ServerAliveInterval=5 \
             -o ServerAliveCountMax=3 -o LogLevel=ERROR root@10.77.1.11"
        );
    }

    #[test]
    fn work_on_several_hosts_reports_every_failure() {
        let layout = Layout::spread(&Wanted {
            masters: 1,
            workers: 2,
            ..Wanted::default()
        })
        .unwrap();
        let hosts: Vec<&Host> = layout.hosts.iter().collect();
        let error = each(&hosts, |host| {
            if host.name.starts_with('w') {
                bail!("no power");
            }
            Ok(())
        })
        .unwrap_err();
        assert_eq!(error.to_string(), "w1: no power\nw2: no power");
    }
}
