//! Secret keys: reading them, signing with them, making a new pair.

use super::{KeyId, Signature, TrustedKey, prehash};
use anyhow::{Context, Result, anyhow, bail};
use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use camino::{Utf8Path, Utf8PathBuf};
use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use minisign::{KeyPair, SecretKeyBox};
use std::io::Write as _;

/// Where the password of a protected key comes from.
pub enum Password<'a> {
    /// Nobody to ask: a protected key is an error.
    None,
    /// The first line of a file.
    File(&'a Utf8Path),
    /// Asks a person; the argument says what for.
    Prompt(&'a dyn Fn(&str) -> Result<String>),
}

/// A secret key that is ready to sign.
pub struct SigningKey {
    id: KeyId,
    pair: Ed25519KeyPair,
    public: [u8; 32],
}

/// Files of a new key pair.
#[derive(Debug, Clone)]
pub struct KeyPairPaths {
    pub secret: Utf8PathBuf,
    pub public: Utf8PathBuf,
}

/// Offsets in a minisign secret key's bytes: after the three algorithm names (2
/// bytes each), the salt (32) and the two limits (8 each) come the key's number
/// (8), the Ed25519 seed (32) and public key (32).
const NUMBER_OFFSET: usize = 6 + 32 + 16;
const SEED_OFFSET: usize = NUMBER_OFFSET + 8;
const PUBLIC_OFFSET: usize = SEED_OFFSET + 32;
/// All of that, and a checksum (32).
const SECRET_KEY_BYTES: usize = PUBLIC_OFFSET + 32 + 32;

impl SigningKey {
    /// Reads a key file of the standard tool, protected or not (`minisign -G -W`).
    ///
    /// A protected key takes the memory that its maker chose for deriving it: the
    /// standard tool chooses 1 GiB.
    pub fn load(path: &Utf8Path, password: &Password<'_>) -> Result<Self> {
        let text = fs::read_to_string(path)?;
        Self::parse(&text, &|| ask(path, password))
            .with_context(|| format!("reading secret key {path}"))
    }

    fn parse(text: &str, password: &dyn Fn() -> Result<String>) -> Result<Self> {
        let line = text.lines().nth(1).unwrap_or_default().trim();
        let bytes = STANDARD.decode(line).unwrap_or_default();
        if bytes.len() != SECRET_KEY_BYTES || !bytes.starts_with(b"Ed") {
            bail!("this is not a minisign secret key (a comment line, then a line of base64)");
        }
        match &bytes[2..4] {
            // The standard tool leaves the checksum of such keys empty, so that is not
            // looked at; that both halves belong together is.
            [0, 0] => Self::from_bytes(&bytes),
            b"Sc" => {
                let key = SecretKeyBox::from(text.to_owned())
                    .into_secret_key(Some(password()?))
                    .map_err(|error| anyhow!("unlocking it: {error}"))?;
                Self::from_bytes(&key.to_bytes())
            }
            _ => bail!("it is protected in a way that is not known; minisign's own is scrypt"),
        }
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let field = |offset: usize, length: usize| {
            bytes
                .get(offset..offset + length)
                .context("the secret key is too short")
        };
        let public: [u8; 32] = field(PUBLIC_OFFSET, 32)?.try_into()?;
        let pair = Ed25519KeyPair::from_seed_and_public_key(field(SEED_OFFSET, 32)?, &public)
            .map_err(|_| anyhow!("its secret and public halves do not belong together"))?;
        Ok(Self {
            id: KeyId(field(NUMBER_OFFSET, 8)?.try_into()?),
            pair,
            public,
        })
    }

    /// The key's number.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The public half.
    pub fn trusted_key(&self) -> TrustedKey {
        TrustedKey {
            id: self.id,
            public: self.public,
        }
    }

    /// Signs content. The same content and comment always give the same signature.
    /// The comment must be one line.
    pub fn sign(&self, content: &[u8], trusted_comment: &str) -> Result<Signature> {
        if trusted_comment.contains(['\n', '\r']) {
            bail!("a signature's comment must be one line");
        }
        let sign = |message: &[u8]| -> Result<[u8; 64]> {
            let signature = self
                .pair
                .try_sign(message)
                .map_err(|_| anyhow!("signing failed"))?;
            Ok(signature.as_ref().try_into()?)
        };
        let signature = sign(&prehash(content))?;
        let mut commented = signature.to_vec();
        commented.extend_from_slice(trusted_comment.as_bytes());
        Ok(Signature {
            key_id: self.id,
            signature,
            trusted_comment: trusted_comment.to_owned(),
            comment_signature: sign(&commented)?,
        })
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SigningKey({})", self.id)
    }
}

/// Makes a key pair and writes it in minisign's format; never over existing files.
/// The secret key is protected by the password, if there is one.
pub fn generate_key_pair(paths: &KeyPairPaths, password: Option<String>) -> Result<TrustedKey> {
    let pair = match password {
        Some(password) => KeyPair::generate_encrypted_keypair(Some(password)),
        None => KeyPair::generate_unencrypted_keypair(),
    };
    let pair = pair.map_err(|error| anyhow!("generating a key pair: {error}"))?;
    let render = |error| anyhow!("writing a key pair: {error}");
    let public = pair.pk.to_box().map_err(render)?.into_string();
    let secret = pair
        .sk
        .to_box(Some("cofferdam secret key"))
        .map_err(render)?
        .into_string();
    write_new(&paths.secret, &secret, 0o600)?;
    write_new(&paths.public, &public, 0o644)?;
    TrustedKey::parse(&public)
}

fn write_new(path: &Utf8Path, text: &str, mode: u32) -> Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .context("writing a new key (an existing file is never overwritten)")?;
    file.write_all(text.as_bytes())?;
    Ok(())
}

fn ask(path: &Utf8Path, password: &Password<'_>) -> Result<String> {
    match password {
        Password::None => bail!(
            "the key is protected by a password; pass a password file, or run this at a terminal"
        ),
        Password::File(file) => {
            let text = fs::read_to_string(file)?;
            Ok(text.lines().next().unwrap_or_default().to_owned())
        }
        Password::Prompt(prompt) => prompt(&format!("Password of {path}: ")),
    }
}
