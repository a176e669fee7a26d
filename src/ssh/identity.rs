//! Who we are towards a host: a private key file, an unlocked key or an agent.

use super::connect_error::IdentityError;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use camino::{Utf8Path, Utf8PathBuf};
use russh::keys::ssh_key::{self, encoding};
use russh::keys::{HashAlg, PrivateKey, decode_secret_key};
use std::fmt;
use std::io::Read as _;
use std::sync::Arc;

/// No private key is longer; a wrong path (a disk image, say) is refused early.
const KEY_FILE_LIMIT: u64 = 64 * 1024;

const KEY_BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const KEY_END: &str = "-----END OPENSSH PRIVATE KEY-----";
const NISTP256: &[u8] = b"ecdsa-sha2-nistp256";

/// How to authenticate.
#[derive(Clone, Debug)]
pub enum Identity {
    /// A private key in a file that is not encrypted.
    KeyFile(Utf8PathBuf),
    /// A private key already read and decrypted, see [`Identity::unlock`].
    Unlocked(UnlockedKey),
    /// The keys of the agent at `SSH_AUTH_SOCK`, in the agent's order.
    Agent,
}

impl Identity {
    /// Reads a key file now, and asks for its passphrase if it is encrypted,
    /// so that one answer serves all the hosts that use the same file.
    ///
    /// `ask` gets the file's path and returns the passphrase, or `None` when
    /// nobody can be asked.
    pub fn unlock(
        self,
        ask: &mut dyn FnMut(&Utf8Path) -> Option<String>,
    ) -> Result<Self, IdentityError> {
        let Self::KeyFile(path) = self else {
            return Ok(self);
        };
        match UnlockedKey::load(&path, None) {
            Err(IdentityError::Encrypted { .. }) => {
                let Some(passphrase) = ask(&path) else {
                    return Err(IdentityError::Encrypted { path });
                };
                UnlockedKey::load(&path, Some(&passphrase))
            }
            other => other,
        }
        .map(Self::Unlocked)
    }
}

/// A private key in memory. Its `Debug` shows the fingerprint only.
#[derive(Clone)]
pub struct UnlockedKey {
    pub(super) key: Arc<PrivateKey>,
    /// Where it came from, for messages.
    path: Utf8PathBuf,
}

impl UnlockedKey {
    /// Reads and, with a passphrase, decrypts a private key file (OpenSSH,
    /// PKCS#1, PKCS#8 or PuTTY).
    pub fn load(path: &Utf8Path, passphrase: Option<&str>) -> Result<Self, IdentityError> {
        let mut text = String::new();
        fs_err::File::open(path)
            .and_then(|file| file.take(KEY_FILE_LIMIT).read_to_string(&mut text))
            .map_err(|error| IdentityError::File {
                path: path.to_owned(),
                problem: error.to_string(),
            })?;
        if text.starts_with("ssh-") || text.starts_with("ecdsa-") {
            return Err(IdentityError::File {
                path: path.to_owned(),
                problem: "this is a public key; the private key is the file without `.pub`"
                    .to_owned(),
            });
        }
        match decode_secret_key(&text, passphrase) {
            Ok(key) => Ok(Self {
                key: Arc::new(key),
                path: path.to_owned(),
            }),
            Err(russh::keys::Error::KeyIsEncrypted) => Err(IdentityError::Encrypted {
                path: path.to_owned(),
            }),
            Err(error) if is_short(&error, &text) => Err(IdentityError::Short {
                path: path.to_owned(),
            }),
            Err(_) if passphrase.is_some() => Err(IdentityError::Passphrase {
                path: path.to_owned(),
            }),
            Err(error) => Err(IdentityError::File {
                path: path.to_owned(),
                problem: format!("this is not a private key that can be read ({error})"),
            }),
        }
    }

    /// The public half's fingerprint in OpenSSH's form.
    pub fn fingerprint(&self) -> String {
        self.key
            .public_key()
            .fingerprint(HashAlg::Sha256)
            .to_string()
    }
}

/// Whether the SSH library stumbles over an ECDSA key whose number is short: of
/// nistp256, one in 512 has less than the 32 bytes that ssh-key 0.7 asks for. What was cut
/// off ends in the same error.
fn is_short(error: &russh::keys::Error, text: &str) -> bool {
    let is_length = matches!(
        error,
        russh::keys::Error::SshKey(ssh_key::Error::Encoding(encoding::Error::Length))
    );
    let (Some(begin), Some(end)) = (text.find(KEY_BEGIN), text.find(KEY_END)) else {
        return false;
    };
    let body: String = text[begin..end]
        .trim_start_matches(KEY_BEGIN)
        .split_whitespace()
        .collect();
    let bytes = STANDARD.decode(body).unwrap_or_default();
    // The public half stands there as it is, whatever encrypts the private one.
    let mut windows = bytes.windows(NISTP256.len());
    is_length && windows.any(|window| window == NISTP256)
}

impl fmt::Display for UnlockedKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} ({} {})",
            self.path,
            self.key.algorithm(),
            self.fingerprint()
        )
    }
}

impl fmt::Debug for UnlockedKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "UnlockedKey({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Keys of nistp256 by ssh-keygen whose number has 31 bytes; the second has
    /// the passphrase `correct horse`. No host knows them.
    const SHORT: [&str; 2] = [
        "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAaAAAABNlY2RzYS
1zaGEyLW5pc3RwMjU2AAAACG5pc3RwMjU2AAAAQQR4TtBhX4McGRptrmpW40/vSRg+Q/SH
zMupoO0EhBXUtq0KRY1NRS/dcEJGhSxs7BFC4+krPa0Txq2CAr9RZlTWAAAAmILXTXuC10
17AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBHhO0GFfgxwZGm2u
albjT+9JGD5D9IfMy6mg7QSEFdS2rQpFjU1FL91wQkaFLGzsEULj6Ss9rRPGrYICv1FmVN
YAAAAfEwk99Kg/0I2EtQ+yNM3DlRwa9y3VBqPHA3EcWCPSqAAAAAAB
-----END OPENSSH PRIVATE KEY-----
",
        "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABAy2c34i2
mFTTxUHyjupo9pAAAAEAAAAAEAAABoAAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlz
dHAyNTYAAABBBHhO0GFfgxwZGm2ualbjT+9JGD5D9IfMy6mg7QSEFdS2rQpFjU1FL91wQk
aFLGzsEULj6Ss9rRPGrYICv1FmVNYAAACg7Gxj0r6oyXg/zMiboo1wKIhwFlRBLgLE1r7e
9Knq5kVHTStnUXVApZK4D0U/DpR2InAxD6eBy2dyVcUqbrOeSjUX2P3lJyWVVYreogDVrX
SWbuOdGYZ28ka29mYDLM/zwIIphPbkKdWOtUoz7xSrX+d+usDCCfxXMrTBK2vcjnxqOuVa
RNpC9fns/bdrcjp8tJhj86mgzaawkd3FZoZ4gw==
-----END OPENSSH PRIVATE KEY-----
",
    ];

    fn generate(directory: &Utf8Path, kind: &str, passphrase: &str) -> Utf8PathBuf {
        let path = directory.join(format!("key-{kind}-{}", passphrase.len()));
        let status = Command::new("ssh-keygen")
            .args(["-q", "-t", kind, "-N", passphrase, "-f", path.as_str()])
            .status()
            .expect("starting ssh-keygen");
        assert!(status.success());
        path
    }

    #[test]
    fn unlocks_keys_and_explains_those_it_cannot() {
        let directory = tempfile::tempdir().unwrap();
        let directory = Utf8Path::from_path(directory.path()).unwrap();
        let plain = generate(directory, "ed25519", "");
        let locked = generate(directory, "ed25519", "correct horse");
        let text = directory.join("text");
        fs_err::write(&text, "hello\n").unwrap();
        let short = ["short", "short-locked"].map(|name| directory.join(name));
        for (path, text) in short.iter().zip(SHORT) {
            fs_err::write(path, text).unwrap();
        }
        let cut = directory.join("cut");
        let whole = fs_err::read_to_string(&plain).unwrap();
        let lines: Vec<&str> = whole.lines().collect();
        fs_err::write(&cut, lines[..lines.len() - 2].join("\n")).unwrap();
        let missing = directory.join("missing");
        let public = directory.join("key-ed25519-0.pub");

        let asked = std::cell::Cell::new(0);
        let ask = |answer: Option<&'static str>| {
            let asked = &asked;
            move |_: &Utf8Path| {
                asked.set(asked.get() + 1);
                answer.map(str::to_owned)
            }
        };
        let unlock = |path: &Utf8Path, ask: &mut dyn FnMut(&Utf8Path) -> Option<String>| {
            Identity::KeyFile(path.to_owned())
                .unlock(ask)
                .map_err(|error| format!("{error}; {}", error.hint()))
        };

        assert!(unlock(&plain, &mut ask(None)).is_ok());
        assert!(unlock(&locked, &mut ask(Some("correct horse"))).is_ok());
        for (path, answer, expected) in [
            (&locked, None, "is encrypted"),
            (&locked, Some("wrong"), "the passphrase is wrong"),
            (&text, None, "not a private key"),
            (&cut, None, "not a private key that can be read"),
            (&short[0], None, "an ECDSA key whose number is short"),
            (&short[1], Some("correct horse"), "whose number is short"),
            (&short[1], Some("wrong"), "the passphrase is wrong"),
            (&missing, None, "No such file"),
            (&public, None, "this is a public key"),
        ] {
            let error = unlock(path, &mut ask(answer)).unwrap_err();
            assert!(error.contains(expected), "{error}\nlacks\n{expected}");
            assert!(
                error.contains(path.as_str()),
                "{error} doesn't name the file"
            );
        }
        assert_eq!(asked.get(), 5, "only encrypted keys are asked for");
    }
}
