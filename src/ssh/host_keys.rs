//! Host keys pinned in the site, so that a run speaks to no other machine than
//! the one whose fingerprint a person has accepted.

use camino::{Utf8Path, Utf8PathBuf};
use russh::keys::{HashAlg, PublicKey};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;

/// First line of the file, for people who open it.
const HEADER: &str = "# Host keys, one line per host: NAME ADDRESS:PORT TYPE BASE64. Kept by `cofferdam hosts trust`.";

/// The public key of an SSH server.
#[derive(Clone)]
pub struct HostKey(pub(super) PublicKey);

impl HostKey {
    /// Parses the two fields that OpenSSH writes: type and base64 body.
    pub fn parse(key_type: &str, body: &str) -> Result<Self, String> {
        let key = PublicKey::from_openssh(&format!("{key_type} {body}"))
            .map_err(|error| format!("the key is not valid ({error})"))?;
        Ok(Self(key))
    }

    /// The key's type as OpenSSH names it, such as `ssh-ed25519`.
    pub fn key_type(&self) -> String {
        self.0.algorithm().to_string()
    }

    /// The fingerprint as OpenSSH prints it: `SHA256:` and unpadded base64.
    pub fn fingerprint(&self) -> String {
        self.0.fingerprint(HashAlg::Sha256).to_string()
    }
}

impl PartialEq for HostKey {
    /// Compares the key itself; a comment doesn't matter.
    fn eq(&self, other: &Self) -> bool {
        self.0.key_data() == other.0.key_data()
    }
}

impl Eq for HostKey {}

impl fmt::Display for HostKey {
    /// Type and base64 body, without a comment.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bare = self.0.clone();
        bare.set_comment("");
        let text = bare.to_openssh().map_err(|_| fmt::Error)?;
        formatter.write_str(text.trim_end())
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "HostKey({self})")
    }
}

/// One host's pinned key, with the address it was learned at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedKey {
    /// Where the key was seen. For people only: what counts is the host's name.
    pub address: SocketAddr,
    /// The key that the host must show.
    pub key: HostKey,
}

/// What [`HostKeys::record`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// The host had no key yet.
    Added,
    /// The host had this very key.
    Unchanged,
    /// Another key was pinned before.
    Replaced {
        /// The key that is no longer trusted.
        previous: HostKey,
    },
}

/// The pinned keys of all hosts, by inventory name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostKeys {
    hosts: BTreeMap<String, PinnedKey>,
}

impl HostKeys {
    /// Parses the text that [`HostKeys::render`] gives. Empty lines and lines
    /// that start with `#` are left out.
    pub fn parse(text: &str) -> Result<Self, HostKeysError> {
        let mut hosts = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = |problem: String| HostKeysError::Line {
                line: index + 1,
                problem,
            };
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let [name, address, key_type, body] = fields[..] else {
                return Err(bad(format!(
                    "expected `NAME ADDRESS:PORT TYPE BASE64`, found {} fields",
                    fields.len()
                )));
            };
            let address: SocketAddr = address
                .parse()
                .map_err(|_| bad(format!("`{address}` is not ADDRESS:PORT")))?;
            let key = HostKey::parse(key_type, body).map_err(bad)?;
            let pinned = PinnedKey { address, key };
            if hosts.insert(name.to_owned(), pinned).is_some() {
                return Err(bad(format!("host `{name}` is listed twice")));
            }
        }
        Ok(Self { hosts })
    }

    /// The file's text: a comment, then one line per host, sorted by name.
    pub fn render(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for (name, pinned) in &self.hosts {
            text.push_str(&format!("{name} {} {}\n", pinned.address, pinned.key));
        }
        text
    }

    /// Reads the file. A file that isn't there yet holds no keys; one that
    /// can't be read is an error, since it must not count as empty.
    pub fn load(path: &Utf8Path) -> Result<Self, HostKeysError> {
        let text = match fs_err::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(HostKeysError::File(error)),
        };
        Self::parse(&text).map_err(|error| error.in_file(path))
    }

    /// Writes the file in one piece: a crash leaves the old one or the new one.
    pub fn save(&self, path: &Utf8Path) -> Result<(), HostKeysError> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_str().is_empty() => parent,
            _ => Utf8Path::new("."),
        };
        let in_directory = |error: std::io::Error| {
            HostKeysError::File(std::io::Error::new(
                error.kind(),
                format!("writing {path}: {error}"),
            ))
        };
        let mut file = tempfile::Builder::new()
            .prefix(".host_keys-")
            .tempfile_in(directory)
            .map_err(in_directory)?;
        file.write_all(self.render().as_bytes())
            .and_then(|()| file.as_file().sync_all())
            .map_err(in_directory)?;
        file.persist(path)
            .map_err(|error| in_directory(error.error))?;
        fs_err::File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(HostKeysError::File)
    }

    /// The key that the host of this inventory name must show.
    pub fn lookup(&self, host: &str) -> Option<&PinnedKey> {
        self.hosts.get(host)
    }

    /// Pins a key for a host, in place of any other. The caller has asked a
    /// person before, above all when it replaces a key.
    pub fn record(&mut self, host: &str, pinned: PinnedKey) -> Recorded {
        let key = pinned.key.clone();
        match self.hosts.insert(host.to_owned(), pinned) {
            None => Recorded::Added,
            Some(previous) if previous.key == key => Recorded::Unchanged,
            Some(previous) => Recorded::Replaced {
                previous: previous.key,
            },
        }
    }

    /// Forgets a host's key. Says whether there was one.
    pub fn remove(&mut self, host: &str) -> bool {
        self.hosts.remove(host).is_some()
    }

    /// All pinned keys, sorted by host name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &PinnedKey)> {
        self.hosts
            .iter()
            .map(|(name, pinned)| (name.as_str(), pinned))
    }
}

/// Why the pinned keys can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum HostKeysError {
    /// The file can't be read or written. The message names it.
    #[error(transparent)]
    File(std::io::Error),
    /// A line isn't `NAME ADDRESS:PORT TYPE BASE64`.
    #[error("line {line}: {problem}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// The same, in a file.
    #[error(
        "reading {path}, line {line}: {problem}; correct the line, or delete it and run `cofferdam hosts trust`"
    )]
    FileLine {
        /// The file.
        path: Utf8PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
}

impl HostKeysError {
    fn in_file(self, path: &Utf8Path) -> Self {
        match self {
            Self::Line { line, problem } => Self::FileLine {
                path: path.to_owned(),
                line,
                problem,
            },
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made with ssh-keygen; the private halves were thrown away.
    const ED25519: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    fn pinned(address: &str, body: &str) -> PinnedKey {
        PinnedKey {
            address: address.parse().unwrap(),
            key: HostKey::parse("ssh-ed25519", body).unwrap(),
        }
    }

    /// A second valid key: the last bytes of the first one, changed.
    fn other_key() -> String {
        ED25519.replace("OIeZJ", "OIeZK").replace("JdD7", "JdD8")
    }

    #[test]
    fn renders_sorted_and_reads_back() {
        let mut keys = HostKeys::default();
        keys.record("w1", pinned("10.77.1.21:22", ED25519));
        keys.record("m1", pinned("[fd00::1]:2222", ED25519));
        let text = keys.render();
        assert_eq!(
            text,
            format!(
                "{HEADER}\nm1 [fd00::1]:2222 ssh-ed25519 {ED25519}\nw1 10.77.1.21:22 ssh-ed25519 {ED25519}\n"
            )
        );
        assert_eq!(HostKeys::parse(&text).unwrap(), keys);
    }

    #[test]
    fn bad_lines_are_named() {
        let cases = [
            (
                "m1 10.0.0.1:22 ssh-ed25519".to_owned(),
                "line 1: expected `NAME ADDRESS:PORT TYPE BASE64`, found 3 fields",
            ),
            (
                format!("# comment\n\nm1 10.0.0.1 ssh-ed25519 {ED25519}"),
                "line 3: `10.0.0.1` is not ADDRESS:PORT",
            ),
            (
                "m1 10.0.0.1:22 ssh-ed25519 AAAA".to_owned(),
                "line 1: the key is not valid",
            ),
            (
                format!("m1 10.0.0.1:22 ssh-rsa {ED25519}"),
                "line 1: the key is not valid",
            ),
            (
                format!(
                    "m1 10.0.0.1:22 ssh-ed25519 {ED25519}\nm1 10.0.0.2:22 ssh-ed25519 {ED25519}"
                ),
                "line 2: host `m1` is listed twice",
            ),
        ];
        for (text, expected) in cases {
            let error = HostKeys::parse(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}\nlacks\n{expected}");
        }
    }

    #[test]
    fn recording_says_what_changed() {
        let mut keys = HostKeys::default();
        assert_eq!(
            keys.record("m1", pinned("10.0.0.1:22", ED25519)),
            Recorded::Added
        );
        assert_eq!(
            keys.record("m1", pinned("10.0.0.9:22", ED25519)),
            Recorded::Unchanged
        );
        let previous = pinned("10.0.0.1:22", ED25519).key;
        assert_eq!(
            keys.record("m1", pinned("10.0.0.1:22", &other_key())),
            Recorded::Replaced { previous }
        );
        assert!(keys.remove("m1"));
        assert!(keys.lookup("m1").is_none());
    }

    #[test]
    fn saves_and_loads_and_tells_missing_from_unreadable() {
        let directory = tempfile::tempdir().unwrap();
        let directory = Utf8PathBuf::from_path_buf(directory.path().to_owned()).unwrap();
        let path = directory.join("host_keys");
        assert_eq!(HostKeys::load(&path).unwrap(), HostKeys::default());

        fs_err::create_dir_all(&directory).unwrap();
        let mut keys = HostKeys::default();
        keys.record("m1", pinned("10.0.0.1:22", ED25519));
        keys.save(&path).unwrap();
        assert_eq!(HostKeys::load(&path).unwrap(), keys);
        assert_eq!(fs_err::read_dir(&directory).unwrap().count(), 1);

        let error = HostKeys::load(&directory).unwrap_err().to_string();
        assert!(error.contains(directory.as_str()), "{error}");
        fs_err::write(&path, "m1\n").unwrap();
        let error = HostKeys::load(&path).unwrap_err().to_string();
        assert!(
            error.contains("host_keys") && error.contains("line 1"),
            "{error}"
        );
    }

    #[test]
    fn fingerprint_is_openssh_s() {
        let key = HostKey::parse("ssh-ed25519", ED25519).unwrap();
        assert_eq!(key.key_type(), "ssh-ed25519");
        assert!(key.fingerprint().starts_with("SHA256:"));
        assert_eq!(key.fingerprint().len(), "SHA256:".len() + 43);
    }
}
