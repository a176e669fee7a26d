//! The bundle that a command line gives: read, verified, and held against the
//! inventory.

use super::bundle_content::view;
use super::fault::{Exit, Fault};
use super::phase::Phase;
use crate::bundle::inspect::human_bytes;
use crate::bundle::reader::Trust;
use crate::bundle::sign::KeyId;
use crate::bundle::{Bundle, Progress, Source, TrustedKey, verify};
use crate::cli::{BundleArgs, SourceArgs, TrustArgs};
use crate::desired::BundleView;
use crate::event::{Event, EventSink as _};
use crate::inventory::Inventory;
use crate::output::{Output, TransferProgress};
use crate::plan::title::count;
use camino::{Utf8Path, Utf8PathBuf};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Whose signatures count in a run.
pub(super) struct Trusted {
    keys: Vec<TrustedKey>,
    /// What people call the keys of the inventory.
    comments: BTreeMap<KeyId, String>,
    allow_unsigned: bool,
}

impl Trusted {
    /// The inventory's keys, and those of the command line.
    ///
    /// # Errors
    /// When a key can't be read, or there is none.
    pub(super) fn of(inventory: &Inventory, args: &TrustArgs) -> Result<Self, Fault> {
        let mut trusted = Self {
            keys: trusted_keys(&args.trusted_key)?,
            comments: BTreeMap::new(),
            allow_unsigned: args.allow_unsigned,
        };
        for named in &inventory.trusted_keys {
            trusted.keys.push(named.key.clone());
            trusted
                .comments
                .insert(named.key.id(), named.comment.clone());
        }
        let whose = format!("{} has no `trusted_keys`, and ", inventory.file);
        trusted.none_unless_allowed(&whose)
    }

    /// The keys of the command line alone.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub(super) fn given(args: &TrustArgs) -> Result<Self, Fault> {
        let trusted = Self {
            keys: trusted_keys(&args.trusted_key)?,
            comments: BTreeMap::new(),
            allow_unsigned: args.allow_unsigned,
        };
        trusted.none_unless_allowed("")
    }

    fn none_unless_allowed(self, whose: &str) -> Result<Self, Fault> {
        if !self.keys.is_empty() || self.allow_unsigned {
            return Ok(self);
        }
        let message = format!("no key is trusted: {whose}no --trusted-key is given");
        let hint = "name the public key of who built the bundle";
        Err(Fault::new(Exit::Input, message).hint(hint))
    }

    pub(super) fn trust(&self) -> Trust<'_> {
        match self.allow_unsigned {
            true => Trust::UnsignedToo(&self.keys),
            false => Trust::Required(&self.keys),
        }
    }

    /// `, signed by 0807060504030201 (release key)`.
    fn signer(&self, id: KeyId) -> String {
        let comment = self.comments.get(&id).filter(|comment| !comment.is_empty());
        let comment = comment.map_or(String::new(), |comment| format!(" ({comment})"));
        format!(", signed by {id}{comment}")
    }
}

/// The files of a bundle that a command line gives.
pub(super) fn source(bundle: &Utf8Path, args: &SourceArgs) -> Source {
    Source {
        path: bundle.to_owned(),
        parts_in: args.parts.clone(),
        base: args.base.clone(),
    }
}

/// Reads the whole bundle: nothing goes to any host before its signature and
/// every digest are known to be right.
pub(super) async fn verify_bundle(
    output: &Arc<Output>,
    inventory: &Inventory,
    args: &BundleArgs,
) -> Result<(Bundle, BundleView), Fault> {
    let phase = Phase::begin(output, "verify", 0);
    let trusted = Arc::new(Trusted::of(inventory, &args.trust)?);
    let progress = TransferProgress::within(output, "verify");
    let source = source(&args.bundle, &args.source);
    let asked = Arc::clone(&trusted);
    // On a thread of its own, so that the run can be interrupted meanwhile.
    let work = move || verified(&source, &asked, progress.as_ref());
    let bundle = tokio::task::spawn_blocking(work)
        .await
        .map_err(anyhow::Error::from)??;
    tell_unsigned(output, &bundle);
    let view = view(&bundle);
    let files: usize = view.files.values().map(BTreeMap::len).sum();
    let signer = bundle.signed_by();
    phase.done(format!(
        "{} {}{}, {files} files, {} images, {}{}",
        view.name,
        view.version,
        signer.map_or(String::new(), |id| trusted.signer(id)),
        view.images.len(),
        human_bytes(bundle.length()),
        shape_text(&bundle)
    ));
    Ok((bundle, view))
}

/// A bundle that was read as a whole and found right.
pub(super) fn verified(
    source: &Source,
    trusted: &Trusted,
    progress: &dyn Progress,
) -> Result<Bundle, Fault> {
    let found = verify::verify(source, trusted.trust(), progress).map_err(Fault::bundle)?;
    refuse_damages(&source.path, &found)?;
    Bundle::open_trusting(source, trusted.trust()).map_err(Fault::bundle)
}

/// That a bundle was taken unsigned is for the journal too.
pub(super) fn tell_unsigned(output: &Output, bundle: &Bundle) {
    if bundle.signed_by().is_some() {
        return;
    }
    let ids = bundle.signatures().iter();
    let ids: Vec<String> = ids
        .map(|signature| signature.key_id().to_string())
        .collect();
    let bears = match ids.is_empty() {
        true => "is not signed".to_owned(),
        false => format!("is signed by {}, which is not trusted here", ids.join(", ")),
    };
    let message = format!(
        "{} {bears}; it is taken since --allow-unsigned was given: {}",
        bundle.path(),
        bundle.index_digest()
    );
    output.emit(Event::Warning {
        host: None,
        message,
    });
}

/// ` in 3 parts, a delta: 41 blobs (256 MB) to be there already`.
pub(super) fn shape_text(bundle: &Bundle) -> String {
    let parts = match bundle.parts() {
        1 => String::new(),
        parts => format!(" in {parts} parts"),
    };
    if !bundle.is_delta() {
        return parts;
    }
    let (blobs, bytes) = bundle.left_out().fold((0, 0), |(blobs, bytes), (_, size)| {
        (blobs + 1, bytes + size)
    });
    format!(
        "{parts}, a delta: {} ({}) to be there already",
        count(blobs, "blob", "blobs"),
        human_bytes(bytes)
    )
}

/// Names everything in a bundle that is not what its digest says.
pub(super) fn refuse_damages(path: &Utf8Path, found: &verify::Verification) -> Result<(), Fault> {
    if found.damages.is_empty() {
        return Ok(());
    }
    let damages: Vec<String> = found.damages.iter().map(ToString::to_string).collect();
    let message = format!("the bundle {path} is damaged:\n{}", damages.join("\n"));
    Err(Fault::new(Exit::Input, message)
        .file(path)
        .hint("carry it over again, or build it anew"))
}

pub(super) fn trusted_keys(paths: &[Utf8PathBuf]) -> Result<Vec<TrustedKey>, Fault> {
    paths
        .iter()
        .map(|path| TrustedKey::load(path).map_err(|error| Fault::input(error).file(path)))
        .collect()
}

/// Refuses flags and keys of the inventory that the bundle's programs don't know.
pub(super) fn check_known(inventory: &Inventory, view: &BundleView) -> Result<(), Fault> {
    for platform in view.files.keys() {
        let known = view.flags.get(platform).cloned().unwrap_or_default();
        inventory
            .check_flags(&known)
            .into_result()
            .map_err(Fault::input)?;
        let known = view.fields.get(platform).cloned().unwrap_or_default();
        inventory
            .check_fields(&known)
            .into_result()
            .map_err(Fault::input)?;
    }
    Ok(())
}
