//! A directory with an inventory, keys and bundles, and the binary run in it.

use assert_cmd::cargo::cargo_bin;
use camino::{Utf8Path, Utf8PathBuf};
use std::process::{Command, Output, Stdio};

/// One host, reached on this machine; `{address}` and `{port}` are put in.
const INVENTORY: &str = r#"
[cluster]
name = "lab"

[ssh]
key = "id"

[zones.a]

[[hosts]]
name = "m1"
address = "192.0.2.11"
zone = "a"
roles = ["control-plane"]
ssh = { address = "{address}", port = {port} }
"#;

const DEFINITION: &str = r#"
schema = 1
[bundle]
name = "small"
version = "1.0.0"
platforms = ["{platform}"]
[[files]]
name = "tool"
version = "1"
url = "file://{directory}/tool"
licence = "MIT"
"#;

/// What a run of the binary gave.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Code and text, for snapshots.
    pub(crate) fn text(&self) -> String {
        format!("exit {}\n{}{}", self.code, self.stdout, self.stderr)
    }

    #[track_caller]
    pub(crate) fn expect(&self, code: i32, said: &[&str]) {
        assert_eq!(self.code, code, "{}", self.text());
        for said in said {
            assert!(self.stderr.contains(said), "{said:?} in\n{}", self.text());
        }
    }
}

pub(crate) struct World {
    _guard: tempfile::TempDir,
    pub(crate) path: Utf8PathBuf,
    /// The client's public key.
    pub(crate) key: russh::keys::PublicKey,
}

impl World {
    /// An inventory whose host's SSH server is at the port of loopback, and a
    /// client's key.
    pub(crate) fn with_port(port: u16) -> Self {
        let guard = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(guard.path().canonicalize().unwrap()).unwrap();
        let key = crate::ssh_server::random_key(russh::keys::Algorithm::Ed25519);
        let world = Self {
            _guard: guard,
            path,
            key: key.public_key().clone(),
        };
        world.reach(port);
        let key = key
            .to_openssh(russh::keys::ssh_key::LineEnding::LF)
            .unwrap();
        world.write("id", &key);
        world
    }

    pub(crate) fn new() -> Self {
        // Nobody listens on the port that systems keep for themselves.
        Self::with_port(1)
    }

    /// Writes the inventory with the host's SSH server at the port.
    pub(crate) fn reach(&self, port: u16) {
        let address = crate::server::own_address().to_string();
        let inventory = INVENTORY
            .replace("{address}", &address)
            .replace("{port}", &port.to_string());
        self.write("inventory.toml", &inventory);
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs_err::write(self.path.join(name), text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs_err::read_to_string(self.path.join(name)).unwrap()
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        self.path.join(name).exists()
    }

    /// The binary with its home and caches in the directory.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = command(line);
        command
            .current_dir(&self.path)
            .env("HOME", &self.path)
            .env("XDG_CACHE_HOME", self.path.join("cache"));
        command
    }

    pub(crate) fn run(&self, line: &str) -> Outcome {
        Outcome::of(self.command(line).output().unwrap())
    }

    /// A signed bundle `NAME.tar` for a platform, with the program in the file
    /// `agent` for its agent.
    pub(crate) fn bundle(&self, name: &str, platform: &str) {
        self.write("tool", "a tool\n");
        self.bundle_of(name, platform, DEFINITION);
    }

    /// The same by another definition.
    pub(crate) fn bundle_of(&self, name: &str, platform: &str, definition: &str) {
        if !self.exists("key") {
            self.keys("key");
        }
        let definition = definition
            .replace("{platform}", platform)
            .replace("{directory}", self.path.as_str());
        self.write(&format!("{name}.toml"), &definition);
        if !self.exists("agent") {
            self.write("agent", "an agent\n");
        }
        let lock = self.run(&format!("bundle lock {name}.toml --cache cache"));
        assert_eq!(lock.code, 0, "{}", lock.text());
        let build = self.run(&format!(
            "bundle build {name}.toml --cache cache --sign-key key --agent {platform}=agent -o {name}.tar"
        ));
        assert_eq!(build.code, 0, "{}", build.text());
    }

    /// A key pair `NAME`, `NAME.pub`.
    pub(crate) fn keys(&self, name: &str) {
        let made = self.run(&format!(
            "bundle keygen --no-password --secret-key {name} --public-key {name}.pub"
        ));
        assert_eq!(made.code, 0, "{}", made.text());
    }
}

/// The binary with the words of a line for arguments, and nobody to answer.
pub(crate) fn command(line: &str) -> Command {
    let mut command = Command::new(cargo_bin!("cofferdam"));
    command
        .args(line.split_whitespace())
        .stdin(Stdio::null())
        .env_remove("SSH_AUTH_SOCK")
        .env_remove("NO_COLOR");
    command
}

pub(crate) fn run(line: &str) -> Outcome {
    Outcome::of(command(line).output().unwrap())
}

/// Files below a directory, sorted.
pub(crate) fn files(directory: &Utf8Path) -> Vec<Utf8PathBuf> {
    let mut found = Vec::new();
    for entry in directory.read_dir_utf8().into_iter().flatten() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(entry.path())),
            false => found.push(entry.path().to_owned()),
        }
    }
    found.sort();
    found
}
