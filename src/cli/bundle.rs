//! Words about bundles: of `cofferdam bundle`, and of verbs that read one.

use crate::bundle::push::Destination;
use camino::Utf8PathBuf;
use clap::{Args, Subcommand};
use std::str::FromStr;

/// Which bundle, and whom to believe.
#[derive(Debug, Args)]
pub struct BundleArgs {
    /// The bundle, or any part of it; read in place, never copied or written
    #[arg(long, value_name = "FILE")]
    pub bundle: Utf8PathBuf,
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub trust: TrustArgs,
}

/// The same for one bundle or several, one after the other.
#[derive(Debug, Args)]
pub struct HopArgs {
    /// The bundle, or any part of it; several are hops, done in their order, and
    /// need --no-soak
    #[arg(long, value_name = "FILE", required = true)]
    pub bundle: Vec<Utf8PathBuf>,
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub trust: TrustArgs,
}

/// What belongs to a bundle beside its file.
#[derive(Debug, Clone, Default, Args)]
pub struct SourceArgs {
    /// Directory with further parts; those beside the bundle are found by
    /// themselves; may be repeated
    #[arg(long, value_name = "DIRECTORY")]
    pub parts: Vec<Utf8PathBuf>,
    /// A bundle that a delta builds on, to take from it what the site lacks; may be
    /// repeated
    #[arg(long, value_name = "FILE")]
    pub base: Vec<Utf8PathBuf>,
}

/// Whom to believe.
#[derive(Debug, Clone, Default, Args)]
pub struct TrustArgs {
    /// A minisign public key file that may have signed it, beside the
    /// `trusted_keys` of an inventory; may be repeated
    #[arg(long, value_name = "FILE")]
    pub trusted_key: Vec<Utf8PathBuf>,
    /// Take a bundle that none of these keys has signed; journals of runs keep that
    #[arg(long)]
    pub allow_unsigned: bool,
}

#[derive(Debug, Subcommand)]
pub enum BundleCommand {
    /// Make a key pair for signing, in minisign's format
    Keygen {
        /// Where the secret key goes; it must not exist yet
        #[arg(long, value_name = "FILE")]
        secret_key: Utf8PathBuf,
        /// Where the public key goes
        #[arg(long, value_name = "FILE")]
        public_key: Utf8PathBuf,
        /// Don't protect the secret key with a password
        #[arg(long)]
        no_password: bool,
    },
    /// Resolve a definition to digests, and show what changed since the last lock
    Lock {
        /// The definition, such as bundles/kubernetes-1.36.toml
        definition: Utf8PathBuf,
        /// Only compare the lock that is there with the definition; fetches and
        /// writes nothing, and fails where they disagree
        #[arg(long)]
        check: bool,
        #[command(flatten)]
        fetch: FetchArgs,
    },
    /// Build a bundle from a definition and its lock
    #[command(override_usage = "\
cofferdam bundle build [OPTIONS] --sign-key <FILE> -o <FILE>
                              <DEFINITION>")]
    Build {
        /// The definition, such as bundles/kubernetes-1.36.toml
        definition: Utf8PathBuf,
        #[command(flatten)]
        fetch: FetchArgs,
        /// minisign secret key
        #[arg(long, value_name = "FILE", required_unless_present = "unsigned")]
        sign_key: Option<Utf8PathBuf>,
        /// File that holds the secret key's password
        #[arg(long, value_name = "FILE", requires = "sign_key")]
        password_file: Option<Utf8PathBuf>,
        /// Leave it unsigned, for `bundle sign` elsewhere
        #[arg(long, conflicts_with = "sign_key")]
        unsigned: bool,
        /// cofferdam's own binary for a platform [default: this program, for
        /// its own platform]
        #[arg(long, value_name = "PLATFORM=FILE")]
        agent: Vec<String>,
        /// Write a delta: leave out what a site has, as `cofferdam site have` said
        #[arg(long, value_name = "FILE")]
        have: Option<Utf8PathBuf>,
        /// Write a delta: leave out what this bundle holds; may be repeated
        #[arg(long, value_name = "FILE")]
        base: Vec<Utf8PathBuf>,
        /// Write parts of at most this size, such as 4G for FAT32
        #[arg(long, value_name = "SIZE")]
        split: Option<Size>,
        /// The bundle
        #[arg(long, short, value_name = "FILE")]
        output: Utf8PathBuf,
    },
    /// Sign a bundle that was built elsewhere, or by another key
    Sign {
        /// The bundle, or any part of it
        bundle: Utf8PathBuf,
        #[command(flatten)]
        source: SourceArgs,
        #[command(flatten)]
        key: KeyArgs,
        /// Keep the signatures that it has
        #[arg(long)]
        add: bool,
        /// The signed bundle; a split one is written in as large parts
        #[arg(long, short, value_name = "FILE")]
        output: Utf8PathBuf,
    },
    /// Write a bundle anew in parts, or parts as one file; signatures stay
    Split {
        /// The bundle, or any part of it
        bundle: Utf8PathBuf,
        #[command(flatten)]
        source: SourceArgs,
        /// Largest size of a part, such as 4G for FAT32 [default: one file]
        #[arg(long, value_name = "SIZE")]
        size: Option<Size>,
        /// The bundle; parts are named `x.part1of3.tar` after `x.tar`
        #[arg(long, short, value_name = "FILE")]
        output: Utf8PathBuf,
    },
    /// Read a bundle once and check its signature and every digest
    Verify {
        /// The bundle, or any part of it
        bundle: Utf8PathBuf,
        #[command(flatten)]
        source: SourceArgs,
        /// A minisign public key file that may have signed it; may be repeated
        #[arg(long, value_name = "FILE", required = true)]
        trusted_key: Vec<Utf8PathBuf>,
        /// Print what was found as a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print what a bundle consists of, down to Go modules and packages, as
    /// CycloneDX 1.5; checks no signature
    Sbom {
        /// The bundle, or any part of it
        bundle: Utf8PathBuf,
        #[command(flatten)]
        source: SourceArgs,
    },
    /// Show the licences of what a bundle consists of; checks no signature
    #[command(alias = "licences")]
    Licenses {
        /// The bundle, or any part of it
        bundle: Utf8PathBuf,
        #[command(flatten)]
        source: SourceArgs,
    },
    /// Show what differs between two bundles; checks no signature
    Diff {
        /// The older bundle
        old: Utf8PathBuf,
        /// The newer bundle
        new: Utf8PathBuf,
        /// Directory with further parts of either; may be repeated
        #[arg(long, value_name = "DIRECTORY")]
        parts: Vec<Utf8PathBuf>,
        /// Print the differences as a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show what a bundle holds; checks no signature
    Inspect {
        /// The bundle, or any part of it
        bundle: Utf8PathBuf,
        #[command(flatten)]
        source: SourceArgs,
        /// Print the contents as a JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum RegistryCommand {
    /// Push a bundle's images and files, as HOST/PREFIX/registry.k8s.io/pause:3.10.2
    #[command(override_usage = "\
cofferdam registry push [OPTIONS] --bundle <FILE> --to <HOST[/PREFIX]>")]
    Push(RegistryPushArgs),
}

#[derive(Debug, Args)]
pub struct RegistryPushArgs {
    #[command(flatten)]
    pub bundle: BundleArgs,
    /// The registry, and what stands before each repository; `http://…` without TLS
    #[arg(long, value_name = "HOST[/PREFIX]")]
    pub to: Destination,
    /// User to push as
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// File that holds the user's password or token; asked for without it
    #[arg(long, value_name = "FILE", requires = "user")]
    pub password_file: Option<Utf8PathBuf>,
    /// PEM file with authorities to trust beside the system's
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<Utf8PathBuf>,
}

/// The key that signs.
#[derive(Debug, Args)]
pub struct KeyArgs {
    /// minisign secret key
    #[arg(long, value_name = "FILE")]
    pub sign_key: Utf8PathBuf,
    /// File that holds the secret key's password
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<Utf8PathBuf>,
}

/// Where downloads come from and are kept.
#[derive(Debug, Args)]
pub struct FetchArgs {
    /// The lock [default: beside the definition]
    #[arg(long, value_name = "FILE")]
    pub lock: Option<Utf8PathBuf>,
    /// Fetch addresses that begin with PREFIX from URL instead; the longest
    /// prefix wins. Images are addressed as oci://REGISTRY/NAME
    #[arg(long, value_name = "PREFIX=URL")]
    pub mirror: Vec<String>,
    /// PEM file with authorities to trust beside the system's
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<Utf8PathBuf>,
    /// Directory of downloads [default: cofferdam in the user's cache]
    #[arg(long, value_name = "DIRECTORY")]
    pub cache: Option<Utf8PathBuf>,
}

/// A number of bytes with a unit: `700M`, `4G`, `4GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
        let unit = &text[digits.len()..];
        let factor: Option<u64> = match unit {
            "" | "B" => Some(1),
            "k" | "kB" => Some(1000),
            "M" | "MB" => Some(1_000_000),
            "G" | "GB" => Some(1_000_000_000),
            "KiB" => Some(1 << 10),
            "MiB" => Some(1 << 20),
            "GiB" => Some(1 << 30),
            _ => None,
        };
        let number: Option<u64> = digits.parse().ok().filter(|number| *number > 0);
        number
            .zip(factor)
            .and_then(|(number, factor)| number.checked_mul(factor))
            .map(Self)
            .ok_or_else(|| "write a size such as 700M, 4G or 4GiB".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("512", Some(512)),
            ("700M", Some(700_000_000)),
            ("4G", Some(4_000_000_000)),
            ("4GiB", Some(4 << 30)),
            ("0", None),
            ("G", None),
            ("4g", None),
            ("-4G", None),
            ("4.5G", None),
            ("99999999999999G", None),
        ] {
            assert_eq!(text.parse().ok(), expected.map(Size), "{text}");
        }
    }
}
