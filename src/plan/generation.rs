//! The software of a host as a numbered manifest, so that it can go back to
//! it.

use crate::desired::{Content, DesiredHost, FileKind};
use crate::digest::Digest;
use crate::facts::{Generation, GenerationFile};

/// The generation that a host has once it is as desired. None while the
/// content of one of its files is still pending.
pub fn generation_of(host: &DesiredHost, number: u64) -> Option<Generation> {
    let software = host
        .files
        .iter()
        .filter(|(_, file)| file.kind == FileKind::Software);
    let files = software
        .map(|(path, file)| {
            let digest = match &file.content {
                Content::Directory => None,
                Content::Plain(bytes) | Content::Secret(bytes) => Some(Digest::of(bytes)),
                Content::Pending => return None,
            };
            let file = GenerationFile {
                digest,
                mode: file.mode,
                user: file.user.clone(),
                group: file.group.clone(),
                part: file.part,
            };
            Some((path.clone(), file))
        })
        .collect::<Option<_>>()?;
    let binaries = host.binaries.iter();
    Some(Generation {
        number,
        bundle: host.bundle.clone(),
        files,
        binaries: binaries
            .map(|(name, binary)| (name.clone(), binary.digest))
            .collect(),
        versions: host
            .binaries
            .iter()
            .map(|(name, binary)| (name.clone(), binary.version.clone()))
            .collect(),
        units: host.units.iter().map(|unit| unit.name.clone()).collect(),
        images: host.pinned_images(),
        artifacts: host.needed_artifacts(),
    })
}
