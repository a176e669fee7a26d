//! Building one Go module, once for each content of its inputs.

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use std::process::Command;

use super::cache::{Cache, KeyBuilder};
use super::components::{Cgo, Module, Platform};
use super::cross;
use super::progress::{Item, tied_to_this_process};
use crate::shell;

/// Where a module's documents lie in its build.
const DOCUMENTS: &str = "documents";

/// Settings of a user's or a machine's that would change the binaries.
const CLEARED_VARIABLES: [&str; 8] = [
    "CGO_CFLAGS",
    "CGO_CPPFLAGS",
    "CGO_CXXFLAGS",
    "CGO_LDFLAGS",
    "CC",
    "GODEBUG",
    "GOEXPERIMENT",
    "GOFIPS140",
];

/// The Go toolchain of this machine.
pub struct Toolchain {
    /// As `go env GOVERSION` says it: `go1.26.8`.
    version: String,
}

/// A built module in the cache.
pub struct Build {
    pub key: String,
    folder: Utf8PathBuf,
}

/// What is built, and where its `go.mod` lies.
pub struct Source<'a> {
    pub module: &'a Module,
    pub folder: Utf8PathBuf,
}

impl Toolchain {
    /// Finds Go and checks it against the `go` lines of the modules. Go's own
    /// download of a newer toolchain is left out, since it is a way out to the
    /// internet that not every machine has.
    pub fn find(sources: &[Source<'_>]) -> Result<Self> {
        let version = shell::read(go().args(["env", "GOVERSION"])).context(
            "looking for Go: install it from https://go.dev/dl and put its bin folder in PATH",
        )?;
        let found = version_numbers(&version)
            .with_context(|| format!("`go env GOVERSION` says `{version}`, which is no version"))?;
        for source in sources {
            let path = source.folder.join("go.mod");
            let text = fs_err::read_to_string(&path)?;
            let wanted = required_go(&text).with_context(|| format!("{path} has no `go` line"))?;
            if version_numbers(wanted).is_none_or(|wanted| found < wanted) {
                bail!(
                    "{} needs Go {wanted} or newer, but {version} is installed: \
                     install a newer one from https://go.dev/dl",
                    source.module.name
                );
            }
        }
        Ok(Self { version })
    }
}

impl Build {
    pub fn binary(&self, platform: &Platform, name: &str) -> Utf8PathBuf {
        self.folder.join(platform.folder()).join(name)
    }

    pub fn document(&self, name: &str) -> Utf8PathBuf {
        self.folder.join(DOCUMENTS).join(name)
    }
}

/// Builds a module, or finds it in the cache.
pub fn build(
    source: &Source<'_>,
    toolchain: &Toolchain,
    cache: &Cache,
    item: &Item,
) -> Result<Build> {
    let module = source.module;
    let key = key(source, toolchain)?;
    let folder = cache.place(&format!("{}-{}", module.name, module.version), &key);
    if folder.exists() {
        item.cached();
        return Ok(Build { key, folder });
    }
    item.begun("building");
    cache.fill(&folder, |directory| {
        for platform in module.platforms() {
            build_platform(source, &platform, directory, item)?;
        }
        copy_documents(source, &directory.join(DOCUMENTS))
    })?;
    item.done("built");
    Ok(Build { key, folder })
}

/// The digest of all that the binaries are made from.
fn key(source: &Source<'_>, toolchain: &Toolchain) -> Result<String> {
    let mut key = KeyBuilder::new();
    key.add("toolchain", toolchain.version.as_bytes());
    let mut files = source
        .folder
        .read_dir_utf8()
        .with_context(|| format!("reading {}", source.folder))?
        .map(|entry| Ok(entry?.into_path()))
        .collect::<Result<Vec<_>>>()?;
    files.sort();
    for path in files {
        key.add(path.file_name().unwrap_or_default(), &fs_err::read(&path)?);
    }
    for platform in source.module.platforms() {
        let folder = platform.folder();
        for argument in arguments(source.module, Utf8Path::new(&folder)) {
            key.add("argument", argument.as_bytes());
        }
        for (name, value) in environment(source.module, &platform) {
            key.add(name, value.as_bytes());
        }
    }
    for (name, package) in &source.module.binaries {
        key.add(name, package.as_bytes());
    }
    for document in &source.module.documents {
        key.add("document", document.as_bytes());
    }
    if !source.module.debian_packages.is_empty() {
        let versions = shell::read(
            Command::new("dpkg-query")
                .args(["-W", "-f=${Package}=${Version}\n"])
                .args(&source.module.debian_packages),
        )?;
        // A package of several architectures is listed once for each.
        let mut lines: Vec<&str> = versions.lines().collect();
        lines.dedup();
        key.add("Debian packages", lines.join("\n").as_bytes());
    }
    Ok(key.finish())
}

fn build_platform(
    source: &Source<'_>,
    platform: &Platform,
    directory: &Utf8Path,
    item: &Item,
) -> Result<()> {
    let module = source.module;
    let folder = directory.join(platform.folder());
    fs_err::create_dir_all(&folder)?;
    let log = directory.join("log");
    item.run(
        clean(&mut tied_to_this_process("go"))
            .args(arguments(module, &folder))
            .envs(environment(module, platform))
            .current_dir(&source.folder),
        &log,
    )
    .with_context(|| format!("building {} {}", module.name, module.version))?;
    fs_err::remove_file(log)?;
    for (name, package) in &module.binaries {
        let built = folder.join(default_name(package));
        if built != folder.join(name) {
            fs_err::rename(built, folder.join(name))?;
        }
    }
    Ok(())
}

/// Copies upstream's documents out of Go's module cache.
fn copy_documents(source: &Source<'_>, to: &Utf8Path) -> Result<()> {
    let Some(package) = source.module.binaries.values().next() else {
        return Ok(());
    };
    if source.module.documents.is_empty() {
        return Ok(());
    }
    let from = shell::read(
        clean(&mut go())
            .args(["list", "-mod=readonly", "-f", "{{.Module.Dir}}", package])
            .current_dir(&source.folder),
    )?;
    fs_err::create_dir_all(to)?;
    for name in &source.module.documents {
        // Contents only: files of the module cache are read-only.
        fs_err::write(
            to.join(name),
            fs_err::read(Utf8Path::new(&from).join(name))?,
        )?;
    }
    Ok(())
}

/// The arguments of `go` that build all binaries of a module into a folder:
/// no paths of this machine, no state of the repository, and no symbols.
fn arguments(module: &Module, folder: &Utf8Path) -> Vec<String> {
    let mut linker = "-s -w".to_owned();
    for (variable, value) in &module.linker_variables {
        let value = value.replace("{version}", &module.version);
        linker.push_str(&format!(" -X {variable}={value}"));
    }
    if module.cgo == Cgo::Static {
        linker.push_str(" -linkmode external -extldflags -static");
    }
    let mut arguments = vec![
        "build".to_owned(),
        "-v".to_owned(),
        "-mod=readonly".to_owned(),
        "-trimpath".to_owned(),
        "-buildvcs=false".to_owned(),
        format!("-ldflags={linker}"),
    ];
    if !module.tags.is_empty() {
        arguments.push(format!("-tags={}", module.tags.join(",")));
    }
    arguments.push(format!("-o={folder}/"));
    arguments.extend(module.binaries.values().cloned());
    arguments
}

fn environment(module: &Module, platform: &Platform) -> Vec<(&'static str, String)> {
    let cgo = if module.cgo == Cgo::Off { "0" } else { "1" };
    let mut environment = vec![
        ("CGO_ENABLED", cgo.to_owned()),
        ("GOAMD64", "v1".to_owned()),
        ("GOARCH", platform.architecture.clone()),
        ("GOOS", platform.os.clone()),
    ];
    if module.cgo != Cgo::Off {
        environment.extend(cross::environment(platform));
    }
    environment
}

fn go() -> Command {
    let mut command = Command::new("go");
    // Asked in the repository, an older Go would try to download what go.mod
    // names before it says its own version.
    command.env("GOTOOLCHAIN", "local");
    command
}

fn clean(command: &mut Command) -> &mut Command {
    for name in CLEARED_VARIABLES {
        command.env_remove(name);
    }
    command
        .env("GOTOOLCHAIN", "local")
        .env("GOWORK", "off")
        // An empty value would let the user's own GOFLAGS in.
        .env("GOFLAGS", "-buildvcs=false")
}

/// The name that Go gives a command: the last element of its path, or the one
/// before it where the last is a major version.
fn default_name(package: &str) -> &str {
    let is_major_version = |element: &str| {
        element
            .strip_prefix('v')
            .is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let mut elements = package.rsplit('/');
    let last = elements.next().unwrap_or(package);
    match elements.next() {
        Some(previous) if is_major_version(last) => previous,
        _ => last,
    }
}

/// The version in the `go` line of a go.mod.
fn required_go(go_mod: &str) -> Option<&str> {
    go_mod
        .lines()
        .find_map(|line| line.strip_prefix("go "))
        .map(str::trim)
}

/// `go1.26.8` or `1.26.8` as numbers that can be compared.
fn version_numbers(version: &str) -> Option<Vec<u32>> {
    let version = version.strip_prefix("go").unwrap_or(version);
    // A distribution may add words of its own after a space or a dash.
    let version = version.split([' ', '-']).next()?;
    version
        .split('.')
        .map(|number| number.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::components::parse;

    #[test]
    fn commands_have_the_names_that_go_gives() {
        let cases = [
            ("go.etcd.io/etcd/server/v3", "server"),
            ("github.com/opencontainers/runc", "runc"),
            ("k8s.io/kubernetes/cmd/kubelet", "kubelet"),
            ("example.com/tool/version", "version"),
        ];
        for (package, expected) in cases {
            assert_eq!(default_name(package), expected);
        }
    }

    #[test]
    fn versions_compare_as_numbers() {
        let numbers = |text| version_numbers(text).unwrap();
        assert!(numbers("go1.26.8") < numbers("1.26.10"));
        assert!(numbers("go1.26.0") >= numbers("1.26"));
        assert!(numbers("go1.26.8 X:experiment") >= numbers("1.26.8"));
        assert_eq!(version_numbers("devel"), None);
    }

    #[test]
    fn the_go_line_is_found() {
        assert_eq!(
            required_go("module x\n\ngo 1.26.0\n\nrequire y v1"),
            Some("1.26.0")
        );
    }

    #[test]
    fn arguments_carry_tags_variables_and_packages() {
        let components = parse(
            r#"
            [[modules]]
            name = "runc"
            version = "1.4.3"
            cgo = "static"
            tags = ["seccomp", "netgo"]
            linker_variables = { "main.version" = "v{version}" }
            binaries = { runc = "example.com/runc" }
            "#,
        )
        .unwrap();
        assert_eq!(
            arguments(&components.modules[0], Utf8Path::new("/out")),
            [
                "build",
                "-v",
                "-mod=readonly",
                "-trimpath",
                "-buildvcs=false",
                "-ldflags=-s -w -X main.version=v1.4.3 -linkmode external -extldflags -static",
                "-tags=seccomp,netgo",
                "-o=/out/",
                "example.com/runc",
            ]
        );
    }
}
