//! System users, by systemd-sysusers.

use crate::agent::accounts::Accounts;
use crate::agent::command::Program;
use crate::agent::root::Root;
use anyhow::{Context, Result, bail};

pub(super) async fn create(root: &Root, file: &str, users: &[String]) -> Result<()> {
    Program::new(root.program("systemd-sysusers")?)
        .argument(root.path(file).into_string())
        .succeed()
        .await
        .context("making system users")?;
    let accounts = Accounts::load(root);
    let missing: Vec<&str> = users
        .iter()
        .filter(|user| accounts.user(user).is_none() || accounts.group(user).is_none())
        .map(String::as_str)
        .collect();
    if !missing.is_empty() {
        bail!(
            "making system users: `systemd-sysusers {file}` did not make {}; make them by hand, each with a group of its own name",
            missing.join(", ")
        );
    }
    Ok(())
}
