//! What is written in a definition, with the place of every value, and its check.

use super::placeholders::unknown_placeholder;
use super::{DefinedFile, DefinedImage, DefinedManifest, Definition, FieldTag};
use crate::bundle::names;
use crate::bundle::platform::Platform;
use crate::digest::Digest;
use crate::inventory::{Location, Problem, Problems, Severity};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::ops::Range;
use toml::Spanned;

/// The only schema of definitions so far.
const SCHEMA: i64 = 1;

// Rules for these structures: unknown keys are errors everywhere; every value that
// the check may complain about is `Spanned`; no flatten, untagged or tagged enums,
// which lose places.

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDefinition {
    schema: Spanned<i64>,
    #[serde(default)]
    include: Vec<Spanned<String>>,
    bundle: RawBundle,
    #[serde(default)]
    files: Vec<RawFile>,
    #[serde(default)]
    images: Vec<RawImage>,
    #[serde(default)]
    manifests: Vec<RawManifest>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBundle {
    name: Spanned<String>,
    version: Spanned<String>,
    platforms: Spanned<Vec<Spanned<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    name: Spanned<String>,
    version: Spanned<String>,
    url: Spanned<String>,
    checksum: Option<Spanned<String>>,
    member: Option<Spanned<String>>,
    licence: Option<String>,
    #[serde(default)]
    flags: bool,
    fields: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawImage {
    name: Spanned<String>,
    tag: Spanned<String>,
    licence: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawManifest {
    name: Spanned<String>,
    path: Spanned<String>,
}

/// The definition that a text is by itself, and the paths of those that it includes,
/// relative to its directory.
pub(super) fn parse(
    text: &str,
    path: &Utf8Path,
) -> Result<(Definition, Vec<Utf8PathBuf>), Problems> {
    let mut report = Report {
        text,
        found: Vec::new(),
    };
    let definition = match toml::from_str::<RawDefinition>(text) {
        Ok(raw) => check(raw, text, path, &mut report),
        Err(error) => {
            report.syntax(&error);
            None
        }
    };
    match definition {
        Some(definition) if report.found.is_empty() => Ok(definition),
        _ => Err(report.into_problems(path)),
    }
}

fn check(
    raw: RawDefinition,
    text: &str,
    path: &Utf8Path,
    report: &mut Report<'_>,
) -> Option<(Definition, Vec<Utf8PathBuf>)> {
    if *raw.schema.get_ref() != SCHEMA {
        let message = format!("schema {} is not known", raw.schema.get_ref());
        report.add(
            raw.schema.span(),
            "schema",
            message,
            "this cofferdam knows schema 1",
        );
        return None;
    }
    report.name(&raw.bundle.name, "bundle.name");
    report.version(&raw.bundle.version, "bundle.version");
    let platforms = check_platforms(&raw.bundle.platforms, report);

    let mut names = BTreeSet::new();
    let mut files: Vec<DefinedFile> = raw
        .files
        .into_iter()
        .map(|file| check_file(file, &mut names, report))
        .collect();
    files.sort_by(|a, b| a.name.cmp(&b.name));

    let mut names = BTreeSet::new();
    let mut images: Vec<DefinedImage> = raw
        .images
        .into_iter()
        .map(|image| check_image(image, &mut names, report))
        .collect();
    images.sort_by(|a, b| (&a.name, &a.tag).cmp(&(&b.name, &b.tag)));

    let mut names = BTreeSet::new();
    let mut manifests: Vec<DefinedManifest> = raw
        .manifests
        .into_iter()
        .map(|manifest| check_manifest(manifest, &mut names, report))
        .collect();
    manifests.sort_by(|a, b| a.name.cmp(&b.name));

    let includes = raw.include.into_iter().map(|include| {
        if include.get_ref().is_empty() {
            let message = "an empty path names no definition".to_owned();
            let remedy = "write a path from this file's directory, such as `kubernetes-1.36.toml`";
            report.add(include.span(), "include", message, remedy);
        }
        Utf8PathBuf::from(include.into_inner())
    });
    let includes = includes.collect();

    let definition = Definition {
        path: path.to_owned(),
        digest: Digest::of(text),
        name: raw.bundle.name.into_inner(),
        version: raw.bundle.version.into_inner(),
        platforms,
        files,
        images,
        manifests,
    };
    Some((definition, includes))
}

fn check_platforms(raw: &Spanned<Vec<Spanned<String>>>, report: &mut Report<'_>) -> Vec<Platform> {
    let key = "bundle.platforms";
    let mut platforms = BTreeSet::new();
    for name in raw.get_ref() {
        match name.get_ref().parse::<Platform>() {
            Ok(platform) => {
                if !platforms.insert(platform) {
                    let message = format!("`{}` is there twice", name.get_ref());
                    report.add(name.span(), key, message, "name each platform once");
                }
            }
            Err(error) => {
                report.add(
                    name.span(),
                    key,
                    error.to_string(),
                    "write it as `linux/amd64`",
                );
            }
        }
    }
    if raw.get_ref().is_empty() {
        let message = "a bundle is for at least one platform".to_owned();
        report.add(
            raw.span(),
            key,
            message,
            "write `platforms = [\"linux/amd64\"]`",
        );
    }
    platforms.into_iter().collect()
}

fn check_file(raw: RawFile, names: &mut BTreeSet<String>, report: &mut Report<'_>) -> DefinedFile {
    let key = |field: &str| format!("files.{}.{field}", raw.name.get_ref());
    report.unique_name(&raw.name, &key("name"), names);
    if raw.name.get_ref() == "cofferdam" {
        let message = "cofferdam's own binary is added when the bundle is built".to_owned();
        report.add(raw.name.span(), &key("name"), message, "leave it out");
    }
    report.version(&raw.version, &key("version"));
    report.address(&raw.url, &key("url"), &["name", "version", "os", "arch"]);
    if let Some(checksum) = &raw.checksum {
        let known = ["name", "version", "os", "arch", "url"];
        report.address(checksum, &key("checksum"), &known);
    }
    if let Some(member) = &raw.member {
        let known = ["name", "version", "os", "arch"];
        report.placeholders(member, &key("member"), &known);
    }
    let fields = raw.fields.and_then(|fields| {
        let tag = FieldTag::from_name(fields.get_ref());
        if tag.is_none() {
            let message = format!("`{}` is no kind of tags", fields.get_ref());
            let remedy = "write `json`, `toml` or `yaml`, as the program reads its configuration";
            report.add(fields.span(), &key("fields"), message, remedy);
        }
        tag
    });
    DefinedFile {
        name: raw.name.into_inner(),
        version: raw.version.into_inner(),
        url: raw.url.into_inner(),
        checksum: raw.checksum.map(Spanned::into_inner),
        member: raw.member.map(Spanned::into_inner),
        licence: raw.licence,
        flags: raw.flags,
        fields,
    }
}

fn check_image(
    raw: RawImage,
    names: &mut BTreeSet<String>,
    report: &mut Report<'_>,
) -> DefinedImage {
    let name = raw.name.get_ref();
    let key = |field: &str| format!("images.{name}.{field}");
    if !names::is_image_name(name) {
        let message = format!("`{name}` is not an image's full name");
        let remedy = "write the registry's host too, such as `docker.io/library/busybox`";
        report.add(raw.name.span(), &key("name"), message, remedy);
    }
    // Manifests refer to images by name alone, so a name stands for one tag.
    if !names.insert(name.clone()) {
        let message = format!("image `{name}` is there twice");
        report.add(
            raw.name.span(),
            &key("name"),
            message,
            "name each image once",
        );
    }
    if !names::is_tag(raw.tag.get_ref()) {
        let message = format!("`{}` is not a tag", raw.tag.get_ref());
        report.add(
            raw.tag.span(),
            &key("tag"),
            message,
            "write a tag such as `v1.14.7`",
        );
    }
    DefinedImage {
        name: raw.name.into_inner(),
        tag: raw.tag.into_inner(),
        licence: raw.licence,
    }
}

fn check_manifest(
    raw: RawManifest,
    names: &mut BTreeSet<String>,
    report: &mut Report<'_>,
) -> DefinedManifest {
    let key = |field: &str| format!("manifests.{}.{field}", raw.name.get_ref());
    report.unique_name(&raw.name, &key("name"), names);
    let path = Utf8PathBuf::from(raw.path.get_ref());
    let leaves = path.is_absolute() || path.components().any(|part| part.as_str() == "..");
    if leaves || path.as_str().is_empty() {
        let message = format!("`{path}` leaves the definition's directory");
        let remedy = "write a path below the directory of the definition";
        report.add(raw.path.span(), &key("path"), message, remedy);
    }
    DefinedManifest {
        name: raw.name.into_inner(),
        path,
    }
}

/// Collects problems.
struct Report<'a> {
    text: &'a str,
    found: Vec<(usize, Problem)>,
}

impl Report<'_> {
    fn add(&mut self, at: Range<usize>, key: &str, message: String, remedy: &str) {
        let problem = Problem {
            severity: Severity::Error,
            location: Some(Location::of(self.text, at.clone())),
            key: key.to_owned(),
            message,
            remedy: remedy.to_owned(),
        };
        self.found.push((at.start, problem));
    }

    fn name(&mut self, name: &Spanned<String>, key: &str) {
        if !names::is_name(name.get_ref()) {
            let message = format!("`{}` is not a name", name.get_ref());
            let remedy = "use lower-case letters, digits, and single dots, dashes or \
                          underscores between them";
            self.add(name.span(), key, message, remedy);
        }
    }

    fn unique_name(&mut self, name: &Spanned<String>, key: &str, names: &mut BTreeSet<String>) {
        self.name(name, key);
        if !names.insert(name.get_ref().clone()) {
            let message = format!("`{}` is there twice", name.get_ref());
            self.add(name.span(), key, message, "give each its own name");
        }
    }

    fn version(&mut self, version: &Spanned<String>, key: &str) {
        if !names::is_version(version.get_ref()) {
            let message = format!("`{}` is not a version", version.get_ref());
            let remedy = "use letters, digits, dots, dashes and underscores (it becomes a tag)";
            self.add(version.span(), key, message, remedy);
        }
    }

    fn address(&mut self, template: &Spanned<String>, key: &str, known: &[&str]) {
        self.placeholders(template, key, known);
        let text = template.get_ref();
        let fits = ["https://", "http://", "file:///"]
            .iter()
            .any(|start| text.starts_with(start));
        if !(fits || text.starts_with("{url}") && known.contains(&"url")) {
            let message = format!("`{text}` is not an address");
            let remedy = "begin it with https:// (or http://, or file:///)";
            self.add(template.span(), key, message, remedy);
        }
    }

    fn placeholders(&mut self, template: &Spanned<String>, key: &str, known: &[&str]) {
        if let Some(unknown) = unknown_placeholder(template.get_ref(), known) {
            let message = format!("`{unknown}` is not a known placeholder");
            let known: Vec<String> = known.iter().map(|name| format!("{{{name}}}")).collect();
            let remedy = format!("known here: {}", known.join(", "));
            self.add(template.span(), key, message, &remedy);
        }
    }

    /// What `toml` and serde say, with the place.
    fn syntax(&mut self, error: &toml::de::Error) {
        let at = error.span().unwrap_or(0..0);
        let message = error.message().lines().collect::<Vec<_>>().join(" ");
        let message = message
            .replace("unknown field", "unknown key")
            .replace("missing field", "missing key");
        self.add(
            at,
            "",
            message,
            "see the definitions in `bundles/` for how it is written",
        );
    }

    fn into_problems(mut self, path: &Utf8Path) -> Problems {
        self.found.sort_by_key(|(offset, _)| *offset);
        let problems = self.found.into_iter().map(|(_, problem)| problem).collect();
        Problems {
            file: path.to_owned(),
            problems,
        }
    }
}
