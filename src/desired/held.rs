//! Software that a host keeps whatever the inventory says: what a rollback
//! brought back, until an upgrade takes the host along again.

use super::types::{Binary, Content, File, FileKind, Part};
use crate::digest::Digest;
use crate::facts::{GenerationFile, StoredGeneration};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What one host keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// The generation that it was, when it was held.
    pub generation: u64,
    /// Name and version of that generation's bundle, for people.
    pub bundle: String,
    /// What of the host it is about, beside programs that belong to no part; all
    /// else is as the inventory has it.
    pub parts: BTreeSet<Part>,
    /// Whether these are all that the generation had.
    pub is_whole: bool,
    pub files: BTreeMap<String, HeldFile>,
    pub binaries: BTreeMap<String, Binary>,
    /// Digests of the images that stay pinned on the node; none where nobody noted
    /// them.
    #[serde(default)]
    pub images: Option<BTreeSet<Digest>>,
}

/// A file or directory with its bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldFile {
    pub part: Option<Part>,
    /// Of the bytes; none for a directory.
    digest: Option<Digest>,
    /// Base64; none for a directory.
    bytes: Option<String>,
    pub mode: u32,
    pub user: String,
    pub group: String,
}

impl std::fmt::Debug for HeldFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "HeldFile({:o} {}:{})",
            self.mode, self.user, self.group
        )
    }
}

impl HeldFile {
    /// A file as a generation names it, with its bytes.
    pub fn new(file: &GenerationFile, bytes: Option<&[u8]>) -> Self {
        Self {
            part: file.part,
            digest: file.digest,
            bytes: bytes.map(|bytes| STANDARD.encode(bytes)),
            mode: file.mode,
            user: file.user.clone(),
            group: file.group.clone(),
        }
    }

    /// Whether the bytes are what they were.
    pub fn is_sound(&self) -> bool {
        match self.digest {
            None => self.bytes.is_none(),
            Some(digest) => self
                .bytes()
                .is_some_and(|bytes| Digest::of(bytes) == digest),
        }
    }

    /// None for a directory, and for what is no base64.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        STANDARD.decode(self.bytes.as_ref()?).ok()
    }

    /// As a file of the desired state.
    pub fn to_file(&self) -> File {
        File {
            content: self.bytes().map_or(Content::Directory, Content::Plain),
            mode: self.mode,
            user: self.user.clone(),
            group: self.group.clone(),
            kind: FileKind::Software,
            part: self.part,
        }
    }
}

impl Held {
    /// For people: the bundle that its host is of, whose other parts are of the
    /// one that is given.
    pub fn title(&self, other: &str) -> String {
        let parts: Vec<String> = self.parts.iter().map(Part::to_string).collect();
        match self.bundle == other {
            true => self.bundle.clone(),
            false => format!("{other}, {} of {}", parts.join(" and "), self.bundle),
        }
    }

    /// What a host keeps of a generation. Binaries are as `binary` has them, by
    /// name and digest.
    ///
    /// # Errors
    /// With the path of a file whose bytes, or the name of a program that did not
    /// come with it.
    pub fn new(
        stored: &StoredGeneration,
        (parts, is_whole): (BTreeSet<Part>, bool),
        binary: impl Fn(&str, Digest) -> Option<Binary>,
    ) -> Result<Self, String> {
        let generation = &stored.generation;
        let mut files = BTreeMap::new();
        for (path, file) in &generation.files {
            let bytes = match file.digest {
                Some(digest) => Some(stored.bytes(&digest).ok_or_else(|| path.clone())?),
                None => None,
            };
            files.insert(path.clone(), HeldFile::new(file, bytes.as_deref()));
        }
        let mut binaries = BTreeMap::new();
        for (name, digest) in &generation.binaries {
            let found = binary(name, *digest).ok_or_else(|| name.clone())?;
            binaries.insert(name.clone(), found);
        }
        Ok(Self {
            generation: generation.number,
            bundle: generation.bundle.clone(),
            parts,
            is_whole,
            files,
            binaries,
            images: generation.images.clone(),
        })
    }
}

/// A program of a generation as the host's own store has it, where no bundle is
/// known that has it too.
pub fn stored_binary(program: &str, digest: Digest, stored: &StoredGeneration) -> Option<Binary> {
    Some(Binary {
        digest,
        size: *stored.binaries.get(&digest)?,
        // Nobody else has it.
        blob: digest,
        blob_size: 0,
        repository: String::new(),
        version: stored.generation.versions.get(program)?.clone(),
    })
}
