//! `cofferdam bundle …`.

use super::converge::trusted_keys;
use super::fault::{Exit, Fault};
use crate::bundle::inspect::{human_bytes, inspect};
use crate::bundle::sign::{KeyPairPaths, generate_key_pair};
use crate::bundle::{Bundle, NoProgress, verify};
use crate::cli::BundleCommand;
use crate::output::Style;
use camino::{Utf8Path, Utf8PathBuf};
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
            trusted_key,
            json,
        } => verify_bundle(&bundle, &trusted_key, json, style),
        BundleCommand::Inspect { bundle, json } => show(&bundle, json, style),
        BundleCommand::Lock { .. } | BundleCommand::Build { .. } => {
            Err(Fault::new(Exit::Failed, "not there yet"))
        }
    }
}

fn keygen(paths: KeyPairPaths, no_password: bool, style: Style) -> Result<ExitCode, Fault> {
    let password = if no_password {
        None
    } else {
        Some(new_password()?)
    };
    let key = generate_key_pair(&paths, password)?;
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
    let found = verify::verify(path, Some(&keys), &NoProgress).map_err(Fault::input)?;
    let output = super::output(style);
    if json {
        output.data(&pretty(&found)?).map_err(anyhow::Error::from)?;
    }
    if !found.damages.is_empty() {
        let damages: Vec<String> = found.damages.iter().map(ToString::to_string).collect();
        let message = format!("{path} is damaged:\n{}", damages.join("\n"));
        return Err(Fault::new(Exit::Input, message).hint("carry it over again, or build it anew"));
    }
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

fn show(path: &Utf8Path, json: bool, style: Style) -> Result<ExitCode, Fault> {
    let bundle = Bundle::open_unverified(path).map_err(Fault::input)?;
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
