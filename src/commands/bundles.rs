//! `cofferdam bundle …`.

use super::fault::{Exit, Fault};
use super::given::{refuse_damages, trusted_keys};
use crate::bundle::build::{BuildOptions, build};
use crate::bundle::cache::Cache;
use crate::bundle::compare;
use crate::bundle::definition::Definition;
use crate::bundle::fetch::{FetchOptions, Mirrors};
use crate::bundle::inspect::{human_bytes, inspect};
use crate::bundle::lock::{Lock, Locked};
use crate::bundle::lock_check::disagreements;
use crate::bundle::resolve::{LockOptions, lock};
use crate::bundle::sign::Password;
use crate::bundle::sign::{KeyPairPaths, generate_key_pair};
use crate::bundle::{Bundle, Platform, SigningKey, verify};
use crate::cli::{BundleCommand, FetchArgs};
use crate::output::{Style, TransferProgress, seconds};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Instant;

pub(super) fn run(command: BundleCommand, style: Style) -> Result<ExitCode, Fault> {
    match command {
        BundleCommand::Keygen {
            secret_key,
            public_key,
            no_password,
        } => keygen(
            KeyPairPaths {
                secret: secret_key,
                public: public_key,
            },
            no_password,
            style,
        ),
        BundleCommand::Verify {
            bundle,
            trusted_key,
            json,
        } => verify_bundle(&bundle, &trusted_key, json, style),
        BundleCommand::Inspect { bundle, json } => show(&bundle, json, style),
        BundleCommand::Diff { old, new, json } => diff(&old, &new, json, style),
        BundleCommand::Lock {
            definition,
            check: true,
            fetch,
        } => check_lock(&definition, fetch.lock, style),
        BundleCommand::Lock {
            definition, fetch, ..
        } => super::block_on(lock_definition(definition, fetch, style)),
        BundleCommand::Build {
            definition,
            fetch,
            sign_key,
            password_file,
            agent,
            output,
        } => {
            let asked = BuildRequest {
                definition,
                fetch,
                sign_key,
                password_file,
                agent,
                output,
            };
            super::block_on(build_bundle(asked, style))
        }
    }
}

async fn lock_definition(
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
fn check_lock(path: &Utf8Path, lock: Option<Utf8PathBuf>, style: Style) -> Result<ExitCode, Fault> {
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

struct BuildRequest {
    definition: Utf8PathBuf,
    fetch: FetchArgs,
    sign_key: Utf8PathBuf,
    password_file: Option<Utf8PathBuf>,
    agent: Vec<String>,
    output: Utf8PathBuf,
}

async fn build_bundle(asked: BuildRequest, style: Style) -> Result<ExitCode, Fault> {
    let started = Instant::now();
    let output = super::output(style);
    let ask = |prompt: &str| Ok(rpassword::prompt_password(format!("{prompt}: "))?);
    let password = match &asked.password_file {
        Some(file) => Password::File(file),
        None if std::io::stdin().is_terminal() => Password::Prompt(&ask),
        None => Password::None,
    };
    let key = SigningKey::load(&asked.sign_key, &password).map_err(Fault::input)?;
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
        samples: BTreeMap::new(),
    };
    let progress = TransferProgress::begin(&output);
    let outcome = build(&options, Some(&key), progress.clone()).await?;
    progress.end();
    output.say(&format!(
        "{}: {} {}, {}, signed by {} ({})\n{}",
        outcome.path,
        outcome.name,
        outcome.version,
        human_bytes(outcome.size),
        key.id(),
        seconds(started.elapsed().as_secs_f64()),
        outcome.index_digest
    ));
    Ok(ExitCode::SUCCESS)
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

fn keygen(paths: KeyPairPaths, no_password: bool, style: Style) -> Result<ExitCode, Fault> {
    let password = if no_password {
        None
    } else {
        Some(new_password()?)
    };
    let key = generate_key_pair(&paths, password).map_err(Fault::input)?;
    let output = super::output(style);
    output.say(&format!(
        "key {} written: {} (secret), {}",
        key.id(),
        paths.secret,
        paths.public
    ));
    Ok(ExitCode::SUCCESS)
}

fn new_password() -> Result<String, Fault> {
    if !std::io::stdin().is_terminal() {
        return Err(
            Fault::new(Exit::Input, "nobody is here to choose a password")
                .hint("pass --no-password for a key that a machine uses"),
        );
    }
    let ask = |prompt: &str| rpassword::prompt_password(prompt).map_err(anyhow::Error::from);
    let (first, second) = (ask("Password: ")?, ask("Again: ")?);
    if first != second || first.is_empty() {
        return Err(Fault::new(
            Exit::Input,
            "the passwords differ, or are empty",
        ));
    }
    Ok(first)
}

fn verify_bundle(
    path: &Utf8Path,
    keys: &[Utf8PathBuf],
    json: bool,
    style: Style,
) -> Result<ExitCode, Fault> {
    let started = Instant::now();
    let keys = trusted_keys(keys)?;
    let output = super::output(style);
    let progress = TransferProgress::begin(&output);
    let found = verify::verify(path, Some(&keys), progress.as_ref()).map_err(Fault::bundle)?;
    progress.end();
    if json {
        output.data(&pretty(&found)?).map_err(anyhow::Error::from)?;
        // What was found names the damages.
        refuse_damages(path, &found).map_err(Fault::told)?;
    }
    refuse_damages(path, &found)?;
    let seconds = started.elapsed().as_secs_f64();
    let signer = found
        .signed_by
        .map_or(String::new(), |id| format!("signed by {id}, "));
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = found.bytes as f64 / seconds / 1e6;
    output.say(&format!(
        "{} {} is good: {signer}{} blobs, {} in {seconds:.1} s ({rate:.0} MB/s)",
        found.name,
        found.version,
        found.blobs,
        human_bytes(found.bytes)
    ));
    Ok(ExitCode::SUCCESS)
}

fn diff(old: &Utf8Path, new: &Utf8Path, json: bool, style: Style) -> Result<ExitCode, Fault> {
    let open = |path| Bundle::open_unverified(path).map_err(Fault::bundle);
    let (old, new) = (open(old)?, open(new)?);
    let comparison = compare::bundles(old.contents(), new.contents());
    let output = super::output(style);
    let text = match json {
        true => pretty(&comparison)?,
        false => comparison.render(),
    };
    output.data(&text).map_err(anyhow::Error::from)?;
    if !json {
        let bytes = comparison.new_bytes.unwrap_or_default();
        output.say(&format!(
            "{} {} to {} {}: {} changed, {} added, {} removed, {} of new blobs",
            old.name(),
            old.contents().version,
            new.name(),
            new.contents().version,
            comparison.changed.len(),
            comparison.added.len(),
            comparison.removed.len(),
            human_bytes(bytes)
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn show(path: &Utf8Path, json: bool, style: Style) -> Result<ExitCode, Fault> {
    let bundle = Bundle::open_unverified(path).map_err(Fault::bundle)?;
    let inspection = inspect(&bundle);
    let text = if json {
        pretty(&inspection)?
    } else {
        inspection.render()
    };
    super::output(style)
        .data(&text)
        .map_err(anyhow::Error::from)?;
    Ok(ExitCode::SUCCESS)
}

fn pretty(value: &impl Serialize) -> Result<String, Fault> {
    let text = serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?;
    Ok(text + "\n")
}
