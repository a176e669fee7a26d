//! Runs the product as an operator would: its binary, an inventory, a bundle.

use crate::{dist, paths, shell, upstream};
use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use fs_err as fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Everything an operator has at hand.
#[derive(Clone)]
pub struct Product {
    pub binary: Utf8PathBuf,
    pub inventory: Utf8PathBuf,
    pub bundle: Utf8PathBuf,
    pub public_key: Utf8PathBuf,
}

#[derive(clap::Args)]
pub struct Args {
    /// Which of the definitions in bundles/, or a later release of one.
    #[arg(long, default_value = "1.36")]
    minor: String,
}

/// `cargo xtask bundle`: builds a bundle, and says where it and the key are.
pub fn run(args: &Args) -> Result<()> {
    let product = Product::for_lab(&args.minor)?;
    shell::say(&format!("bundle  {}", product.bundle));
    shell::say(&format!("key     {}", product.public_key));
    Ok(())
}

/// How a run ended.
pub struct Outcome {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Product {
    /// The product with the lab's inventory and a bundle of the given minor, or
    /// of a later release of it such as `1.36.3`, which is built if it is not
    /// there for this binary.
    pub fn for_lab(release: &str) -> Result<Self> {
        let lab = paths::lab()?;
        fs::create_dir_all(&lab)?;
        let product = Self {
            binary: dist::binary()?,
            inventory: lab.join("inventory.toml"),
            bundle: lab.join(format!("cofferdam-{}.tar", whole_version(release))),
            public_key: lab.join("bundle.pub"),
        };
        product.ensure_bundle(release)?;
        Ok(product)
    }

    /// A command line of the product.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments);
        command
    }

    /// `VERB -i INVENTORY --bundle FILE --trusted-key KEY …`.
    pub fn verb(&self, verb: &str, more: &[&str]) -> Command {
        self.words(&[verb], more)
    }

    /// The same for verbs of several words.
    pub fn words(&self, verb: &[&str], more: &[&str]) -> Command {
        let mut command = self.command(verb);
        command.args(["-i", self.inventory.as_str()]);
        command.args(["--bundle", self.bundle.as_str()]);
        command
            .args(["--trusted-key", self.public_key.as_str()])
            .args(more);
        command
    }

    /// Installs, showing the product's own output.
    pub fn install(&self) -> Result<()> {
        shell::run(&mut self.verb("install", &["--yes"]))
    }

    /// Records the host keys whose fingerprints the lab wrote down.
    pub fn trust_hosts(&self) -> Result<()> {
        let fingerprints = paths::lab()?.join("fingerprints");
        let mut command = self.command(&["hosts", "trust", "-i", self.inventory.as_str()]);
        run_quietly(command.args(["--fingerprints", fingerprints.as_str()])).map(drop)
    }

    /// Steps that a plan has now.
    pub fn plan(&self) -> Result<Vec<serde_json::Value>> {
        let outcome = outcome(&mut self.verb("plan", &["--json"]))?;
        if outcome.status != 0 {
            bail!("plan ended with {}:\n{}", outcome.status, outcome.stderr);
        }
        let plan: serde_json::Value =
            serde_json::from_str(&outcome.stdout).context("reading the plan")?;
        Ok(plan["steps"]
            .as_array()
            .context("the plan has no `steps`")?
            .clone())
    }

    /// Standard output of `cofferdam kubectl`.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(&["kubectl", "-i", self.inventory.as_str(), "--"]);
        run_quietly(command.args(arguments))
    }

    /// Standard output of `cofferdam etcdctl`.
    pub fn etcdctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(&["etcdctl", "-i", self.inventory.as_str(), "--"]);
        run_quietly(command.args(arguments))
    }

    /// Applies manifests in the cluster.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        let mut command = self.command(&["kubectl", "-i", self.inventory.as_str()]);
        command.args(["--stdin", "--", "apply", "-f", "-"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting cofferdam kubectl")?;
        let mut stdin = child
            .stdin
            .take()
            .context("the child has a standard input")?;
        stdin.write_all(yaml.as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("kubectl apply: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// The same with what the site lacks of its bundle alone, in parts.
    pub fn as_delta(&self, release: &str) -> Result<Self> {
        let lab = paths::lab()?;
        let carried = lab.join("carried");
        fs::create_dir_all(&carried)?;
        let mut have = self.command(&["site", "have", "-i", self.inventory.as_str()]);
        let have_path = carried.join("have.json");
        fs::write(&have_path, run_quietly(&mut have)?)?;
        let served = upstream::ensure(release)?.serve()?;
        let output = carried.join("delta.tar");
        let mut command = self.build_command(release)?;
        command.args(served.mirror_arguments());
        command.args(["--sign-key", lab.join("bundle.key").as_str()]);
        command.args(["--have", have_path.as_str(), "--split", "120M"]);
        shell::run(command.args(["--output", output.as_str()]))?;
        let sums = fs::read_to_string(format!("{output}.sha256"))?;
        let last = sums.lines().last().and_then(|line| line.split("  ").nth(1));
        Ok(Self {
            bundle: carried.join(last.context("the delta has parts")?),
            ..self.clone()
        })
    }

    /// `bundle build` of a release's definition and lock.
    pub fn build_command(&self, release: &str) -> Result<Command> {
        let definition = definition_of(release)?;
        let lock = paths::lab()?.join(format!("kubernetes-{release}.lock"));
        let mut command = self.command(&["bundle", "build", definition.as_str()]);
        command.args(["--lock", lock.as_str()]);
        Ok(command)
    }

    fn ensure_bundle(&self, release: &str) -> Result<()> {
        let lab = paths::lab()?;
        let repository = paths::repository()?;
        let definition = definition_of(release)?;
        let lock = lab.join(format!("kubernetes-{release}.lock"));
        let stamp = lab.join(format!("kubernetes-{release}.stamp"));
        let wanted = stamp_of(&[
            &self.binary,
            &definition,
            &repository.join("bundles/manifests"),
        ])?;
        if self.bundle.exists() && fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
            return Ok(());
        }
        let mirror = upstream::ensure(release)?;
        let served = mirror.serve()?;
        let key = lab.join("bundle.key");
        if !key.exists() {
            let mut command = self.command(&["bundle", "keygen", "--no-password"]);
            let paths = [
                "--secret-key",
                key.as_str(),
                "--public-key",
                self.public_key.as_str(),
            ];
            run_quietly(command.args(paths))?;
        }
        let mirrors = served.mirror_arguments();
        let mut command = self.command(&["bundle", "lock", definition.as_str()]);
        shell::run(command.args(["--lock", lock.as_str()]).args(&mirrors))?;
        let mut command = self.command(&["bundle", "build", definition.as_str()]);
        command.args(["--lock", lock.as_str()]).args(&mirrors);
        command.args(["--sign-key", key.as_str(), "--output", self.bundle.as_str()]);
        shell::run(&mut command)?;
        fs::write(&stamp, wanted)?;
        Ok(())
    }
}

/// `1.36.0` for `1.36`.
fn whole_version(release: &str) -> String {
    match release.matches('.').count() {
        1 => format!("{release}.0"),
        _ => release.to_owned(),
    }
}

/// The definition of a release's bundle. That of a later release of a minor is the
/// minor's with another version of Kubernetes, beside the same manifests.
fn definition_of(release: &str) -> Result<Utf8PathBuf> {
    let definitions = paths::repository()?.join("bundles");
    let written = definitions.join(format!("kubernetes-{release}.toml"));
    let Some((minor, _)) = release.rsplit_once('.').filter(|_| !written.exists()) else {
        return Ok(written);
    };
    let text = fs::read_to_string(definitions.join(format!("kubernetes-{minor}.toml")))?;
    let version = |of: &str| format!("version = \"{}\"", whole_version(of));
    let derived = paths::lab()?.join("definitions");
    fs::create_dir_all(derived.join("manifests"))?;
    for manifest in definitions.join("manifests").read_dir_utf8()? {
        let manifest = manifest?;
        let copy = derived.join("manifests").join(manifest.file_name());
        fs::copy(manifest.path(), copy)?;
    }
    let place = derived.join(format!("kubernetes-{release}.toml"));
    fs::write(&place, text.replace(&version(minor), &version(release)))?;
    Ok(place)
}

/// Digest over files and folders, to know when a bundle is stale.
fn stamp_of(paths: &[&Utf8Path]) -> Result<String> {
    use sha2::{Digest, Sha256};
    let mut hasher = Sha256::new();
    let mut queue: Vec<Utf8PathBuf> = paths.iter().map(|&path| path.to_owned()).collect();
    while let Some(path) = queue.pop() {
        if path.is_dir() {
            let mut inside: Vec<Utf8PathBuf> = Vec::new();
            for entry in path.read_dir_utf8()? {
                inside.push(entry?.into_path());
            }
            inside.sort();
            queue.extend(inside);
        } else {
            hasher.update(path.as_str());
            hasher.update(fs::read(&path)?);
        }
    }
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Runs a command to its end and returns its standard output; a failure
/// carries its standard error.
pub fn run_quietly(command: &mut Command) -> Result<String> {
    let line = format!("{command:?}");
    let outcome = outcome(command)?;
    if outcome.status != 0 {
        bail!("{line}: exit {}\n{}", outcome.status, outcome.stderr.trim());
    }
    Ok(outcome.stdout)
}

/// Starts a command and kills it at a moment; false if it came to its end before.
pub fn killed_after(command: &mut Command, moment: Duration) -> Result<bool> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting what is to be killed")?;
    let deadline = Instant::now() + moment;
    while Instant::now() < deadline {
        if child.try_wait()?.is_some() {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill()?;
    child.wait()?;
    let seconds = moment.as_secs_f64();
    shell::say(&format!("        kill -9 after {seconds:.1} s"));
    Ok(true)
}

/// Runs a command to its end.
pub fn outcome(command: &mut Command) -> Result<Outcome> {
    let line = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {line}"))?;
    Ok(Outcome {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Waits until something holds, trying every half second, and fails with the
/// last reason.
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut check: impl FnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match check() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("{what}: not within {} s", limit.as_secs())));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(500)),
        }
    }
}
