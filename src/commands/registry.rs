//! `cofferdam registry push`: a bundle into somebody else's registry.

use super::fault::{Exit, Fault};
use super::given::{Trusted, source, tell_unsigned, verified};
use super::interrupt::Interrupt;
use super::{conclude, phase::Phase};
use crate::bundle::inspect::human_bytes;
use crate::bundle::push::{Access, push};
use crate::cli::RegistryPushArgs;
use crate::event::{Event, EventSink as _};
use crate::output::{Style, TransferProgress, seconds};
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Instant;

pub(super) async fn run(args: RegistryPushArgs, style: Style) -> Result<ExitCode, Fault> {
    let started = Instant::now();
    let output = super::output(style);
    let interrupt = Interrupt::watch(&output)?;
    let access = Access {
        login: login(&args)?,
        ca_file: args.ca_file.clone(),
    };
    let trusted = Trusted::given(&args.bundle.trust)?;
    let asked = source(&args.bundle.bundle, &args.bundle.source);
    let phase = Phase::begin(&output, "verify", 0);
    let progress = TransferProgress::within(&output, "verify");
    let read = move || verified(&asked, &trusted, progress.as_ref());
    let read = async {
        let bundle = tokio::task::spawn_blocking(read).await;
        bundle.map_err(anyhow::Error::from)?
    };
    let bundle = interrupt.or("nothing was pushed", read).await;
    let bundle = conclude(&output, bundle)?;
    tell_unsigned(&output, &bundle);
    phase.done(format!("{} {}", bundle.name(), bundle.version()));
    if bundle.left_out().next().is_some() {
        let message = format!(
            "{} is a delta; a registry gets all of a bundle",
            bundle.path()
        );
        let hint = "name the bundle that it builds on with --base";
        return Err(Fault::new(Exit::Input, message).hint(hint));
    }
    let phase = Phase::begin(&output, "push", 0);
    let progress = TransferProgress::within(&output, "push");
    let work = async {
        let pushed = push(&bundle, &args.to, &access, progress.as_ref()).await;
        pushed.map_err(|error| {
            let fault = Fault::of(Exit::Failed, &error);
            fault.hint("the same command goes on: what is there is not sent again")
        })
    };
    let pushed = interrupt
        .or("what was pushed stays; the same command goes on", work)
        .await;
    let pushed = conclude(&output, pushed)?;
    phase.done(format!(
        "{} images and files: {} blobs, {}, sent, {} were there",
        pushed.artifacts,
        pushed.sent,
        human_bytes(pushed.sent_bytes),
        pushed.there
    ));
    if !pushed.reduced.is_empty() {
        let message = format!(
            "the registry takes no index whose other platforms are missing, so these tags name \
             one of the bundle's platforms alone; refer to them by tag, since its digest is not \
             upstream's (hosts whose inventory names this registry get upstream's): {}",
            pushed.reduced.join(", ")
        );
        output.emit(Event::Warning {
            host: None,
            message,
        });
    }
    output.say(&format!(
        "done      {} {} is in {} ({})",
        bundle.name(),
        bundle.version(),
        args.to,
        seconds(started.elapsed().as_secs_f64())
    ));
    Ok(ExitCode::SUCCESS)
}

/// The user, with the password of a file or of whoever sits here.
fn login(args: &RegistryPushArgs) -> Result<Option<(String, String)>, Fault> {
    let Some(user) = &args.user else {
        return Ok(None);
    };
    let password = match &args.password_file {
        Some(path) => {
            let text = fs_err::read_to_string(path).map_err(Fault::input)?;
            text.lines().next().unwrap_or_default().to_owned()
        }
        None if std::io::stdin().is_terminal() => {
            let ask = rpassword::prompt_password(format!("Password of {user} at {}: ", args.to));
            ask.map_err(Fault::input)?
        }
        None => {
            let message = format!("nobody is here to tell the password of {user}");
            return Err(Fault::new(Exit::Input, message).hint("pass --password-file"));
        }
    };
    Ok(Some((user.clone(), password)))
}
