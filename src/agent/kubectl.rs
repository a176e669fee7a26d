//! How `kubectl` is run on a master: as the cluster's administrator, with its
//! cache where it goes away by itself.

use super::command::Program;
use super::root::Root;
use crate::layout;
use anyhow::Result;
use std::time::Duration;

/// The environment that `kubectl` needs. A path is no secret.
pub fn environment(root: &Root) -> [(&'static str, String); 2] {
    [
        (
            "KUBECONFIG",
            root.path(layout::ADMIN_KUBECONFIG).into_string(),
        ),
        (
            "KUBECACHEDIR",
            root.path(layout::RUN).join("kubectl-cache").into_string(),
        ),
    ]
}

/// `kubectl` with a limit for all that it does.
///
/// # Errors
/// If it is not installed.
pub fn program(root: &Root, limit: Duration) -> Result<Program> {
    let mut program = Program::new(root.binary("kubectl")?).limit(limit);
    for (name, value) in environment(root) {
        program = program.environment(name, value);
    }
    Ok(program)
}
