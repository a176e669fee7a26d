//! Signatures: the text format, and verification.

use super::{KeyId, TrustedKey, prehash};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The comment that every signature of ours bears. It is not covered by the
/// signature, so it is fixed: otherwise a change in it could not be found.
const UNTRUSTED_COMMENT: &str = "signature of a cofferdam bundle";

/// Pre-hashed Ed25519, the only algorithm accepted (`Ed`, the legacy one, signs
/// the content itself).
const PREHASHED: &[u8; 2] = b"ED";

/// A signature with its trusted comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    pub(super) key_id: KeyId,
    pub(super) signature: [u8; 64],
    pub(super) trusted_comment: String,
    pub(super) comment_signature: [u8; 64],
}

/// Why a signature was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SignatureProblem {
    #[error("the signature file is damaged: {0}")]
    Malformed(&'static str),
    #[error(
        "the signature is of an algorithm that is not accepted (minisign's legacy mode); sign again without -l"
    )]
    Legacy,
    #[error("it is signed by key {signed_by}, which is not trusted here (trusted: {trusted})")]
    UntrustedKey { signed_by: String, trusted: String },
    #[error(
        "its content does not match the signature of key {key_id}: the file was damaged or changed"
    )]
    Mismatch { key_id: KeyId },
}

impl SignatureProblem {
    /// That none of the signatures is by a trusted key.
    pub fn untrusted(signatures: &[Signature], trusted: &[TrustedKey]) -> Self {
        let signed_by = signatures.iter().map(Signature::key_id);
        let trusted = trusted.iter().map(|key| key.id());
        Self::UntrustedKey {
            signed_by: listed(signed_by),
            trusted: listed(trusted),
        }
    }
}

fn listed(ids: impl Iterator<Item = KeyId>) -> String {
    let ids: Vec<String> = ids.map(|id| id.to_string()).collect();
    match ids.is_empty() {
        true => "no key".to_owned(),
        false => ids.join(", "),
    }
}

impl Signature {
    /// Parses the text of a `.minisig` file. The text must be exactly what
    /// [`Self::render`] writes.
    pub fn parse(text: &str) -> Result<Self, SignatureProblem> {
        let mut lines = text.lines();
        let mut next = |prefix: &str, missing| {
            lines
                .next()
                .and_then(|line| line.strip_prefix(prefix))
                .ok_or(SignatureProblem::Malformed(missing))
        };
        next(
            "untrusted comment: ",
            "its first line is not an untrusted comment",
        )?;
        let packed = next("", "its second line, the signature, is missing")?;
        let trusted_comment = next(
            "trusted comment: ",
            "its third line is not a trusted comment",
        )?
        .to_owned();
        let comment_signature = next("", "its fourth line, the comment's signature, is missing")?;

        let packed = STANDARD
            .decode(packed)
            .ok()
            .filter(|bytes| bytes.len() == 2 + 8 + 64);
        let packed = packed.ok_or(SignatureProblem::Malformed(
            "its second line is not 74 bytes of base64",
        ))?;
        if !packed.starts_with(PREHASHED) {
            return Err(SignatureProblem::Legacy);
        }
        let comment_signature: [u8; 64] = STANDARD
            .decode(comment_signature)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(SignatureProblem::Malformed(
                "its fourth line is not 64 bytes of base64",
            ))?;
        let mut key_id = [0; 8];
        key_id.copy_from_slice(&packed[2..10]);
        let mut signature = [0; 64];
        signature.copy_from_slice(&packed[10..]);
        let parsed = Self {
            key_id: KeyId(key_id),
            signature,
            trusted_comment,
            comment_signature,
        };
        if parsed.render() != text {
            return Err(SignatureProblem::Malformed(
                "it differs from what cofferdam writes",
            ));
        }
        Ok(parsed)
    }

    /// The text of a `.minisig` file, as the standard tool reads it.
    pub fn render(&self) -> String {
        let mut packed = PREHASHED.to_vec();
        packed.extend_from_slice(&self.key_id.0);
        packed.extend_from_slice(&self.signature);
        format!(
            "untrusted comment: {UNTRUSTED_COMMENT}\n{}\ntrusted comment: {}\n{}\n",
            STANDARD.encode(packed),
            self.trusted_comment,
            STANDARD.encode(self.comment_signature),
        )
    }

    /// The number of the key that made it.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// The comment that the signature covers.
    pub fn trusted_comment(&self) -> &str {
        &self.trusted_comment
    }

    /// Checks that one of the trusted keys signed this content.
    pub fn verify(&self, content: &[u8], trusted: &[TrustedKey]) -> Result<(), SignatureProblem> {
        let mut candidates = trusted
            .iter()
            .filter(|key| key.id == self.key_id)
            .peekable();
        if candidates.peek().is_none() {
            return Err(SignatureProblem::untrusted(
                std::slice::from_ref(self),
                trusted,
            ));
        }
        let hash = prehash(content);
        let mut commented = self.signature.to_vec();
        commented.extend_from_slice(self.trusted_comment.as_bytes());
        let verifies = |key: &TrustedKey| {
            let key = UnparsedPublicKey::new(&ED25519, key.public);
            key.verify(&hash, &self.signature).is_ok()
                && key.verify(&commented, &self.comment_signature).is_ok()
        };
        if candidates.any(verifies) {
            Ok(())
        } else {
            Err(SignatureProblem::Mismatch {
                key_id: self.key_id,
            })
        }
    }
}
