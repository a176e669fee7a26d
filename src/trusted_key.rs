//! Public keys that an operator trusts, in minisign's format.

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use camino::Utf8Path;
use fs_err as fs;

/// A minisign key's 8-byte number. Displays as the tool shows it: 16 upper-case hex
/// digits of the number read as little endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub(crate) [u8; 8]);

impl std::fmt::Display for KeyId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:016X}", u64::from_le_bytes(self.0))
    }
}

impl serde::Serialize for KeyId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A public key in minisign's format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedKey {
    pub(crate) id: KeyId,
    pub(crate) public: [u8; 32],
}

/// Bytes of a public key: algorithm `Ed`, key number, Ed25519 point.
const PUBLIC_KEY_BYTES: usize = 2 + 8 + 32;

impl TrustedKey {
    /// Parses a public key: the file that `minisign -G` writes, or its second line
    /// alone.
    pub fn parse(text: &str) -> Result<Self> {
        let line = text
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty() && !line.starts_with("untrusted comment:"))
            .context("finding the key: the text has no line beside comments")?;
        let bytes = STANDARD
            .decode(line)
            .ok()
            .filter(|bytes| bytes.len() == PUBLIC_KEY_BYTES);
        let Some(bytes) = bytes.filter(|bytes| bytes.starts_with(b"Ed")) else {
            bail!(
                "this is not a minisign public key (a comment line, then 56 characters of \
                 base64 that begin with RW); pass the .pub file, not the secret key"
            );
        };
        let mut id = [0; 8];
        id.copy_from_slice(&bytes[2..10]);
        let mut public = [0; 32];
        public.copy_from_slice(&bytes[10..]);
        Ok(Self {
            id: KeyId(id),
            public,
        })
    }

    /// Reads a public key from a file.
    pub fn load(path: &Utf8Path) -> Result<Self> {
        let text = fs::read_to_string(path)?;
        Self::parse(&text).with_context(|| format!("reading public key {path}"))
    }

    /// The key's number, as minisign shows it.
    pub fn id(&self) -> KeyId {
        self.id
    }
}
