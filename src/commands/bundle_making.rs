//! `cofferdam bundle lock` and `bundle build`: what needs upstream.

use super::fault::{Exit, Fault};
use crate::bundle::build::{BuildOptions, build};
use crate::bundle::cache::Cache;
use crate::bundle::definition::Definition;
use crate::bundle::fetch::{FetchOptions, Mirrors};
use crate::bundle::have::Have;
use crate::bundle::inspect::human_bytes;
use crate::bundle::lock::{Lock, Locked};
use crate::bundle::lock_check::disagreements;
use crate::bundle::resolve::{LockOptions, lock};
use crate::bundle::sign::Password;
use crate::bundle::write::{Shape, TooSmall, WrittenFile};
use crate::bundle::{Bundle, Platform, SigningKey};
use crate::cli::{FetchArgs, KeyArgs, Size};
use crate::desired::manifests;
use crate::digest::Digest;
use crate::output::{Style, TransferProgress, seconds};
use crate::plan::title::count;
use camino::{Utf8Path, Utf8PathBuf};
use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Instant;

pub(super) async fn lock_definition(
    definition: Utf8PathBuf,
    fetch: FetchArgs,
    style: Style,
) -> Result<ExitCode, Fault> {
    let started = Instant::now();
    let output = super::output(style);
    // What can be wrong with the definition itself is bad input, not a failure.
    Definition::load(&definition).map_err(Fault::input)?;
    let progress = TransferProgress::begin(&output);
    let options = LockOptions {
        definition,
        lock: fetch.lock.clone(),
        cache: cache(&fetch)?,
        fetch: fetch_options(&fetch)?,
    };
    let outcome = lock(&options, progress.clone()).await?;
    progress.end();
    let changed = if outcome.changed {
        "written"
    } else {
        "unchanged"
    };
    output.say(&format!(
        "{} {changed}: {} files, {} images, {} manifests ({})",
        outcome.path,
        outcome.lock.files.len(),
        outcome.lock.images.len(),
        outcome.lock.manifests.len(),
        seconds(started.elapsed().as_secs_f64())
    ));
    if let Some(comparison) = &outcome.comparison {
        let text = comparison.render();
        output.data(&text).map_err(anyhow::Error::from)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a lock is still that of its definition.
pub(super) fn check_lock(
    path: &Utf8Path,
    lock: Option<Utf8PathBuf>,
    style: Style,
) -> Result<ExitCode, Fault> {
    let definition = Definition::load(path).map_err(Fault::input)?;
    let lock_path = lock.unwrap_or_else(|| Definition::lock_path(path));
    let remedy = format!("run `cofferdam bundle lock {path}`, and review what changed");
    let refuse = |message: String| {
        Fault::new(Exit::Input, message)
            .file(&lock_path)
            .hint(remedy)
    };
    let text = match fs_err::read_to_string(&lock_path) {
        Ok(text) => text,
        Err(error) => return Err(refuse(error.to_string())),
    };
    let lock = match Lock::parse(&text) {
        Ok(lock) => lock,
        Err(error) => return Err(refuse(format!("reading lock {lock_path}: {error:#}"))),
    };
    let lines = disagreements(&definition, &lock).map_err(Fault::input)?;
    if !lines.is_empty() {
        let message = format!("{lock_path} is not of {path}:\n{}", lines.join("\n"));
        return Err(refuse(message));
    }
    super::output(style).say(&format!("{lock_path} is that of {path}"));
    Ok(ExitCode::SUCCESS)
}

/// What a command line asks to be built.
pub(super) struct BuildRequest {
    pub(super) definition: Utf8PathBuf,
    pub(super) fetch: FetchArgs,
    /// None to leave it unsigned.
    pub(super) key: Option<KeyArgs>,
    pub(super) agent: Vec<String>,
    pub(super) have: Option<Utf8PathBuf>,
    pub(super) base: Vec<Utf8PathBuf>,
    pub(super) split: Option<Size>,
    pub(super) output: Utf8PathBuf,
}

pub(super) async fn build_bundle(asked: BuildRequest, style: Style) -> Result<ExitCode, Fault> {
    let started = Instant::now();
    let output = super::output(style);
    let key = asked.key.as_ref().map(signing_key).transpose()?;
    let definition = Definition::load(&asked.definition).map_err(Fault::input)?;
    let lock_path = match &asked.fetch.lock {
        Some(path) => path.clone(),
        None => Definition::lock_path(&definition.path),
    };
    Locked::load(definition, &lock_path).map_err(Fault::input)?;
    let options = BuildOptions {
        definition: asked.definition,
        lock: asked.fetch.lock.clone(),
        output: asked.output,
        cache: cache(&asked.fetch)?,
        fetch: fetch_options(&asked.fetch)?,
        agents: agents(&asked.agent)?,
        contexts: manifests::every_choice(),
        shape: Shape {
            part_bytes: asked.split.map(|size| size.0),
            had: had(asked.have.as_deref(), &asked.base)?,
        },
    };
    let progress = TransferProgress::begin(&output);
    let outcome = build(&options, key.as_ref(), progress.clone()).await;
    let outcome = outcome.map_err(|error| match error.downcast_ref::<TooSmall>() {
        Some(too_small) => {
            let least = too_small.least;
            Fault::input(error).hint(format!("pass --split {least} or more"))
        }
        None => error.into(),
    })?;
    progress.end();
    let left_out = match outcome.left_out {
        Some((blobs, bytes)) => format!(
            ", a delta: {} of {} left out",
            count(blobs, "blob", "blobs"),
            human_bytes(bytes)
        ),
        None => String::new(),
    };
    let signer = match &key {
        Some(key) => format!("signed by {}", key.id()),
        None => "not signed".to_owned(),
    };
    let what = format!("{} {}", outcome.name, outcome.version);
    output.say(&format!(
        "{}{left_out}, {signer} ({})\n{}",
        written_text(&options.output, &outcome.files, &what)?,
        seconds(started.elapsed().as_secs_f64()),
        outcome.index_digest
    ));
    Ok(ExitCode::SUCCESS)
}

/// What a delta leaves out; none for a full bundle.
fn had(have: Option<&Utf8Path>, base: &[Utf8PathBuf]) -> Result<Option<BTreeSet<Digest>>, Fault> {
    if have.is_none() && base.is_empty() {
        return Ok(None);
    }
    let mut had = BTreeSet::new();
    if let Some(path) = have {
        had.extend(Have::load(path).map_err(Fault::input)?.blobs);
    }
    for path in base {
        let bundle = Bundle::open_unverified(path).map_err(Fault::bundle)?;
        // Whoever has what a delta was carried to has what it left out.
        let blobs = bundle.reachable_blobs().into_iter();
        had.extend(blobs.chain(bundle.left_out()).map(|(digest, _)| digest));
    }
    Ok(Some(had))
}

/// `x.tar: NAME VERSION, 500 MB`. Of several parts, the digests are written beside
/// them, as `sha256sum -c` reads them.
pub(super) fn written_text(
    output: &Utf8Path,
    files: &[WrittenFile],
    what: &str,
) -> Result<String, Fault> {
    let size: u64 = files.iter().map(|file| file.size).sum();
    if files.len() == 1 {
        return Ok(format!("{output}: {what}, {}", human_bytes(size)));
    }
    let sums = Utf8PathBuf::from(format!("{output}.sha256"));
    let (mut lines, mut told) = (String::new(), String::new());
    for file in files {
        if let (Some(digest), Some(name)) = (file.digest, file.path.file_name()) {
            lines.push_str(&format!("{}  {name}\n", digest.hex()));
        }
        told.push_str(&format!("{}: {}\n", file.path, human_bytes(file.size)));
    }
    fs_err::write(&sums, lines).map_err(|error| Fault::of(Exit::Failed, &error.into()))?;
    let (parts, size) = (files.len(), human_bytes(size));
    Ok(format!(
        "{told}{what}, {size} in {parts} parts, their digests in {sums}"
    ))
}

/// Reads the key, asking for its password if it has one.
pub(super) fn signing_key(args: &KeyArgs) -> Result<SigningKey, Fault> {
    let ask = |prompt: &str| Ok(rpassword::prompt_password(format!("{prompt}: "))?);
    let password = match &args.password_file {
        Some(file) => Password::File(file),
        None if std::io::stdin().is_terminal() => Password::Prompt(&ask),
        None => Password::None,
    };
    SigningKey::load(&args.sign_key, &password).map_err(Fault::input)
}

/// `linux/amd64=PATH` pairs.
fn agents(pairs: &[String]) -> Result<BTreeMap<Platform, Utf8PathBuf>, Fault> {
    pairs
        .iter()
        .map(|pair| {
            let parts = pair.split_once('=');
            let parsed =
                parts.and_then(|(platform, path)| Some((platform.parse().ok()?, path.into())));
            parsed.ok_or_else(|| {
                let message =
                    format!("`--agent {pair}` is not PLATFORM=FILE, such as linux/arm64=cofferdam");
                Fault::new(Exit::Input, message)
            })
        })
        .collect()
}

fn cache(fetch: &FetchArgs) -> Result<Utf8PathBuf, Fault> {
    match &fetch.cache {
        Some(path) => Ok(path.clone()),
        None => Cache::default_directory().map_err(Fault::input),
    }
}

fn fetch_options(fetch: &FetchArgs) -> Result<FetchOptions, Fault> {
    let mirrors = Mirrors::parse(&fetch.mirror).map_err(Fault::input)?;
    Ok(FetchOptions {
        mirrors,
        ca_file: fetch.ca_file.clone(),
    })
}
