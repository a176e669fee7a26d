//! Building for arm64 on another machine: Debian's cross compiler, and its libraries
//! for static linking.

use super::components::{Cgo, Components, Platform};
use crate::shell;
use anyhow::Result;
use std::process::Command;

pub const COMPILER: &str = "aarch64-linux-gnu-gcc";
const PACKAGES: [&str; 2] = ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"];

fn is_cross(platform: &Platform) -> bool {
    platform.architecture == "arm64" && Platform::native().architecture != "arm64"
}

/// What cgo needs to be told.
pub fn environment(platform: &Platform) -> Vec<(&'static str, String)> {
    if !is_cross(platform) {
        return Vec::new();
    }
    let libraries = "/usr/lib/aarch64-linux-gnu/pkgconfig";
    vec![
        ("CC", COMPILER.to_owned()),
        ("PKG_CONFIG_LIBDIR", libraries.to_owned()),
    ]
}

/// Installs the compiler, and arm64's halves of what modules link.
pub fn install(platform: &Platform, components: &Components) -> Result<()> {
    if !is_cross(platform) {
        return Ok(());
    }
    shell::read(Command::new("dpkg").args(["--add-architecture", "arm64"]))?;
    let modules = components.modules.iter();
    let linked = modules.filter(|module| module.cgo == Cgo::Static);
    let libraries = linked.flat_map(|module| &module.debian_packages);
    let libraries = libraries.filter(|name| name.starts_with("lib") && *name != "libc6-dev");
    let libraries: Vec<String> = libraries.map(|name| format!("{name}:arm64")).collect();
    let libraries = libraries.iter().map(String::as_str);
    let names: Vec<&str> = PACKAGES.into_iter().chain(libraries).collect();
    shell::debian_packages(&names)
}
