//! `cofferdam bundle …`.

use super::bundle_making::{self, BuildRequest};
use super::bundle_writing;
use super::fault::{Exit, Fault};
use super::given::{self, refuse_damages, trusted_keys};
use crate::bundle::compare;
use crate::bundle::inspect::{human_bytes, inspect};
use crate::bundle::reader::Trust;
use crate::bundle::sbom::{Document, licences, part_changes};
use crate::bundle::sign::{KeyPairPaths, generate_key_pair};
use crate::bundle::{Bundle, Source, verify};
use crate::cli::{BundleCommand, KeyArgs};
use crate::output::{Style, TransferProgress};
use crate::plan::title::count;
use camino::Utf8PathBuf;
use serde::Serialize;
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
            source,
            trusted_key,
            json,
        } => verify_bundle(&given::source(&bundle, &source), &trusted_key, json, style),
        BundleCommand::Inspect {
            bundle,
            source,
            json,
        } => show(&given::source(&bundle, &source), json, style),
        BundleCommand::Sbom { bundle, source } => {
            let document = sbom(&given::source(&bundle, &source))?;
            super::output(style)
                .data(&pretty(&document)?)
                .map_err(anyhow::Error::from)?;
            Ok(ExitCode::SUCCESS)
        }
        BundleCommand::Licenses { bundle, source } => {
            let document = sbom(&given::source(&bundle, &source))?;
            super::output(style)
                .data(&licences(&document))
                .map_err(anyhow::Error::from)?;
            Ok(ExitCode::SUCCESS)
        }
        BundleCommand::Diff {
            old,
            new,
            parts,
            json,
        } => diff([&old, &new], &parts, json, style),
        BundleCommand::Lock {
            definition,
            check: true,
            fetch,
        } => bundle_making::check_lock(&definition, fetch.lock, style),
        BundleCommand::Lock {
            definition, fetch, ..
        } => super::block_on(bundle_making::lock_definition(definition, fetch, style)),
        BundleCommand::Build {
            definition,
            fetch,
            sign_key,
            password_file,
            unsigned: _,
            agent,
            have,
            base,
            split,
            output,
        } => {
            let asked = BuildRequest {
                definition,
                fetch,
                key: sign_key.map(|sign_key| KeyArgs {
                    sign_key,
                    password_file,
                }),
                agent,
                have,
                base,
                split,
                output,
            };
            super::block_on(bundle_making::build_bundle(asked, style))
        }
        BundleCommand::Sign {
            bundle,
            source,
            key,
            add,
            output,
        } => {
            let source = given::source(&bundle, &source);
            bundle_writing::sign(&source, &key, add, &output, style)
        }
        BundleCommand::Split {
            bundle,
            source,
            size,
            output,
        } => {
            let source = given::source(&bundle, &source);
            bundle_writing::split(&source, size, &output, style)
        }
    }
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
    source: &Source,
    keys: &[Utf8PathBuf],
    json: bool,
    style: Style,
) -> Result<ExitCode, Fault> {
    let started = Instant::now();
    let keys = trusted_keys(keys)?;
    let output = super::output(style);
    let progress = TransferProgress::begin(&output);
    let trust = Trust::Required(&keys);
    let found = verify::verify(source, trust, progress.as_ref()).map_err(Fault::bundle)?;
    progress.end();
    let path = source.path.as_path();
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
    let parts = match found.parts {
        1 => String::new(),
        parts => format!("{parts} parts, "),
    };
    output.say(&format!(
        "{} {} is good: {signer}{parts}{} blobs, {} in {seconds:.1} s ({rate:.0} MB/s)",
        found.name,
        found.version,
        found.blobs,
        human_bytes(found.bytes)
    ));
    if let Some(left_out) = found.left_out.filter(|left_out| left_out.blobs > 0) {
        output.say(&format!(
            "it is a delta: {}, {}, to be at the site already, or to come with --base",
            count(left_out.blobs, "blob", "blobs"),
            human_bytes(left_out.bytes)
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn diff(
    paths: [&Utf8PathBuf; 2],
    parts: &[Utf8PathBuf],
    json: bool,
    style: Style,
) -> Result<ExitCode, Fault> {
    let open = |path: &Utf8PathBuf| {
        let source = Source {
            parts_in: parts.to_vec(),
            ..Source::from(path)
        };
        Bundle::open_unverified(source).map_err(Fault::bundle)
    };
    let (old, new) = (open(paths[0])?, open(paths[1])?);
    let mut comparison = compare::bundles(old.contents(), new.contents());
    let sboms = (old.sbom(), new.sbom());
    if let (Some(old), Some(new)) = (
        sboms.0.map_err(Fault::bundle)?,
        sboms.1.map_err(Fault::bundle)?,
    ) {
        comparison.parts = part_changes(&old, &new);
    }
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

fn show(source: &Source, json: bool, style: Style) -> Result<ExitCode, Fault> {
    let bundle = Bundle::open_unverified(source).map_err(Fault::bundle)?;
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

fn sbom(source: &Source) -> Result<Document, Fault> {
    let bundle = Bundle::open_unverified(source).map_err(Fault::bundle)?;
    let sbom = bundle.sbom().map_err(Fault::bundle)?;
    sbom.ok_or_else(|| {
        let message = format!("{} has no SBOM: an older cofferdam built it", bundle.path());
        Fault::new(Exit::Input, message).hint("build it anew from its lock")
    })
}

fn pretty(value: &impl Serialize) -> Result<String, Fault> {
    let text = serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?;
    Ok(text + "\n")
}
