//! What a bundle consists of, down to modules and packages: its SBOM.
//!
//! It is made when the bundle is built, out of the very bytes that it carries, and
//! is in the bundle under its signature.

mod changes;
mod document;
mod go;
mod layer;
mod licences;
mod packages;
mod purl;

pub use changes::{PartChange, part_changes, render_changes};
pub use document::{Component, Document, Kind, Licence, SPEC_VERSION};
pub use go::{GoModule, GoProgram, read_program};
pub use layer::{Found, Layer, merge, read_layer};
pub use licences::licences;

use super::platform::Platform;
use crate::digest::Digest;
use document::{Collector, Hash};
use std::collections::BTreeMap;

/// Reference of the bundle itself.
const BUNDLE: &str = "bundle";

/// What an SBOM is made of.
#[derive(Debug, Clone)]
pub struct Materials {
    /// Name and version of the bundle.
    pub name: String,
    pub version: String,
    /// Digest of the lock.
    pub lock: Digest,
    pub files: Vec<FileMaterial>,
    pub images: Vec<ImageMaterial>,
}

/// A file for one platform.
#[derive(Debug, Clone)]
pub struct FileMaterial {
    pub name: String,
    pub version: String,
    pub platform: Platform,
    /// SPDX expression.
    pub licence: Option<String>,
    /// Digest of the file itself.
    pub digest: Digest,
    /// Where it is a program in Go.
    pub go: Option<GoProgram>,
}

/// One platform's half of an image.
#[derive(Debug, Clone)]
pub struct ImageMaterial {
    /// Full name with tag.
    pub reference: String,
    pub platform: Platform,
    /// SPDX expression.
    pub licence: Option<String>,
    /// Digest of the platform's manifest.
    pub manifest: Digest,
    /// By path in the image.
    pub found: BTreeMap<String, Found>,
}

/// Makes the document.
pub fn document(materials: &Materials) -> Document {
    let mut collector = Collector::default();
    for file in &materials.files {
        add_file(&mut collector, file);
    }
    for image in &materials.images {
        add_image(&mut collector, image);
    }
    let bundle = Component {
        kind: Kind::Application,
        reference: BUNDLE.to_owned(),
        name: materials.name.clone(),
        version: materials.version.clone(),
        hashes: Vec::new(),
        licenses: Vec::new(),
        purl: None,
    };
    collector.finish(bundle, serial_number(&materials.lock))
}

fn add_file(collector: &mut Collector, file: &FileMaterial) {
    let reference = format!("file:{}:{}", file.name, file.platform);
    let component = Component {
        kind: match file.go {
            Some(_) => Kind::Application,
            None => Kind::File,
        },
        reference: reference.clone(),
        name: file.name.clone(),
        version: file.version.clone(),
        hashes: vec![sha256(&file.digest)],
        licenses: expression(file.licence.as_ref()),
        purl: Some(purl::file(
            &file.name,
            &file.version,
            &file.platform,
            &file.digest,
        )),
    };
    collector.add(BUNDLE, component);
    if let Some(program) = &file.go {
        add_modules(collector, &reference, program);
    }
}

fn add_image(collector: &mut Collector, image: &ImageMaterial) {
    let reference = format!("image:{}:{}", image.reference, image.platform);
    let (name, tag) =
        super::names::split_reference(&image.reference).unwrap_or((image.reference.as_str(), ""));
    let component = Component {
        kind: Kind::Container,
        reference: reference.clone(),
        name: name.to_owned(),
        version: tag.to_owned(),
        hashes: vec![sha256(&image.manifest)],
        licenses: expression(image.licence.as_ref()),
        purl: purl::image(&image.reference, &image.platform, &image.manifest),
    };
    collector.add(BUNDLE, component);
    for (path, found) in &image.found {
        match found {
            Found::Go(program) => add_program(collector, &reference, path, program),
            Found::Packages(packages) => {
                for package in packages {
                    collector.add(&reference, package_component(package));
                }
            }
            Found::Other => {}
        }
    }
}

/// A program in an image.
fn add_program(collector: &mut Collector, image: &str, path: &str, program: &GoProgram) {
    let reference = format!("{image}:/{path}");
    let main = program.main.as_ref();
    let component = Component {
        kind: Kind::Application,
        reference: reference.clone(),
        name: format!("/{path}"),
        version: main.map_or(String::new(), |main| main.version.clone()),
        hashes: Vec::new(),
        licenses: Vec::new(),
        purl: main.map(purl::module),
    };
    collector.add(image, component);
    add_modules(collector, &reference, program);
}

fn add_modules(collector: &mut Collector, of: &str, program: &GoProgram) {
    let version = program.go.split(' ').next().unwrap_or_default();
    collector.add(
        of,
        library(
            "std",
            version.strip_prefix("go").unwrap_or(version),
            purl::standard_library(&program.go),
        ),
    );
    for module in &program.modules {
        let library = library(&module.path, &module.version, purl::module(module));
        collector.add(of, library);
    }
}

fn library(name: &str, version: &str, purl: String) -> Component {
    Component {
        kind: Kind::Library,
        reference: purl.clone(),
        name: name.to_owned(),
        version: version.to_owned(),
        hashes: Vec::new(),
        licenses: Vec::new(),
        purl: Some(purl),
    }
}

fn package_component(package: &packages::Package) -> Component {
    let licence = package.licence.clone();
    Component {
        licenses: licence
            .map(|name| Licence::License { name })
            .into_iter()
            .collect(),
        ..library(&package.name, &package.version, purl::package(package))
    }
}

fn expression(licence: Option<&String>) -> Vec<Licence> {
    let expression = licence.cloned().map(Licence::Expression);
    expression.into_iter().collect()
}

fn sha256(digest: &Digest) -> Hash {
    Hash {
        alg: "SHA-256".to_owned(),
        content: digest.hex(),
    }
}

/// A UUID out of a digest, as version 8 of RFC 9562 leaves it to whoever makes one.
fn serial_number(digest: &Digest) -> String {
    let hex = digest.hex();
    let variant = match hex.as_bytes()[16] % 4 {
        0 => '8',
        1 => '9',
        2 => 'a',
        _ => 'b',
    };
    format!(
        "urn:uuid:{}-{}-8{}-{variant}{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..32]
    )
}

#[cfg(test)]
mod tests;
