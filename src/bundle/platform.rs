//! Platforms: the operating system and architecture that a binary runs on.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// An operating system and an architecture in Go's and OCI's names. Displays as
/// `linux/amd64`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
}

/// The text names no platform that cofferdam knows.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is not a platform; known are linux/ with one of amd64, arm64, ppc64le, riscv64, s390x"
)]
pub struct UnknownPlatform(String);

/// Architectures in Go's naming: Rust's name and the ELF machine number
/// (`e_machine`, from the System V ABI's processor supplements).
const ARCHITECTURES: [(&str, &str, u16); 5] = [
    ("amd64", "x86_64", 62),
    ("arm64", "aarch64", 183),
    ("ppc64le", "powerpc64", 21),
    ("riscv64", "riscv64", 243),
    ("s390x", "s390x", 22),
];

impl Platform {
    /// A Linux platform by Go's architecture name, such as `amd64`.
    pub fn linux(architecture: &str) -> Self {
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
        }
    }

    /// The platform that this program was built for.
    pub fn native() -> Self {
        let rust_name = std::env::consts::ARCH;
        let architecture = ARCHITECTURES
            .iter()
            .find(|(_, name, _)| *name == rust_name)
            .map_or(rust_name, |(go_name, _, _)| go_name);
        Self {
            os: std::env::consts::OS.to_owned(),
            architecture: architecture.to_owned(),
        }
    }

    /// Says which architecture an ELF file is for, in Go's naming, from its first
    /// 20 bytes; `None` for files that are not ELF.
    pub fn elf_architecture(start: &[u8]) -> Option<String> {
        let is_elf = start.len() >= 20 && start.starts_with(b"\x7fELF");
        if !is_elf {
            return None;
        }
        // Byte 5 is the data encoding: 2 is big endian.
        let machine = match start[5] {
            2 => u16::from_be_bytes([start[18], start[19]]),
            _ => u16::from_le_bytes([start[18], start[19]]),
        };
        let known = ARCHITECTURES
            .iter()
            .find(|(_, _, number)| *number == machine);
        Some(known.map_or_else(
            || format!("ELF machine {machine}"),
            |(go_name, _, _)| (*go_name).to_owned(),
        ))
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)
    }
}

impl FromStr for Platform {
    type Err = UnknownPlatform;

    fn from_str(text: &str) -> Result<Self, UnknownPlatform> {
        let known = text.strip_prefix("linux/").filter(|architecture| {
            ARCHITECTURES
                .iter()
                .any(|(go_name, _, _)| go_name == architecture)
        });
        known
            .map(Self::linux)
            .ok_or_else(|| UnknownPlatform(text.to_owned()))
    }
}

impl Serialize for Platform {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Platform {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_known_platforms_only() {
        let platform: Platform = "linux/arm64".parse().unwrap();
        assert_eq!(platform.to_string(), "linux/arm64");
        for bad in [
            "",
            "linux",
            "linux/",
            "linux/x86_64",
            "windows/amd64",
            "linux/arm64/v8",
        ] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_native_platform_is_known() {
        assert!(Platform::native().to_string().parse::<Platform>().is_ok());
    }

    #[test]
    fn reads_the_architecture_of_elf_files() {
        let mut start = [0_u8; 20];
        start[..4].copy_from_slice(b"\x7fELF");
        start[18] = 183;
        assert_eq!(Platform::elf_architecture(&start).as_deref(), Some("arm64"));
        start[18] = 1;
        assert_eq!(
            Platform::elf_architecture(&start).as_deref(),
            Some("ELF machine 1")
        );
        assert_eq!(
            Platform::elf_architecture(b"#!/bin/sh\nexit 0 and more"),
            None
        );
    }
}
