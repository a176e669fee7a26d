use super::packages::{Package, PackageKind};
use super::*;
use std::collections::BTreeSet;

fn program(modules: &[(&str, &str)]) -> GoProgram {
    let module = |(path, version): &(&str, &str)| GoModule {
        path: (*path).to_owned(),
        version: (*version).to_owned(),
    };
    GoProgram {
        go: "go1.26.0".to_owned(),
        main: Some(module(&("example.org/main", "v1.0.0"))),
        modules: modules.iter().map(module).collect(),
    }
}

fn materials() -> Materials {
    let package = |kind, name: &str, licence: Option<&str>| Package {
        kind,
        name: name.to_owned(),
        version: "1.2-3".to_owned(),
        architecture: "amd64".to_owned(),
        licence: licence.map(str::to_owned),
    };
    let file = |name: &str, architecture: &str, go| FileMaterial {
        name: name.to_owned(),
        version: "1.36.0".to_owned(),
        platform: Platform::linux(architecture),
        licence: Some("Apache-2.0".to_owned()),
        digest: Digest::of(format!("{name} {architecture}")),
        go,
    };
    let shared = ("golang.org/x/net", "v0.50.0");
    let image = |reference: &str, found: Vec<(&str, Found)>| ImageMaterial {
        reference: reference.to_owned(),
        platform: Platform::linux("amd64"),
        licence: None,
        manifest: Digest::of(reference),
        found: found
            .into_iter()
            .map(|(path, found)| (path.to_owned(), found))
            .collect(),
    };
    Materials {
        name: "kubernetes-1.36".to_owned(),
        version: "1.36.0".to_owned(),
        lock: Digest::of("lock"),
        files: vec![
            file(
                "kubelet",
                "amd64",
                Some(program(&[shared, ("k8s.io/api", "(devel)")])),
            ),
            file("kubelet", "arm64", Some(program(&[shared]))),
            file("script", "amd64", None),
        ],
        images: vec![image(
            "registry.k8s.io/coredns/coredns:v1",
            vec![
                ("coredns", Found::Go(program(&[shared]))),
                (
                    "var/lib/dpkg/status",
                    Found::Packages(vec![
                        package(PackageKind::Debian, "base-files", None),
                        package(PackageKind::Alpine, "musl", Some("MIT")),
                    ]),
                ),
            ],
        )],
    }
}

/// Every part is a component, and what programs share is one.
#[test]
fn all_parts_are_in_the_document_once() {
    let document = document(&materials());
    let references: Vec<&str> = document
        .components
        .iter()
        .map(|component| component.reference.as_str())
        .collect();
    assert_eq!(
        references,
        [
            "file:kubelet:linux/amd64",
            "file:kubelet:linux/arm64",
            "file:script:linux/amd64",
            "image:registry.k8s.io/coredns/coredns:v1:linux/amd64",
            "image:registry.k8s.io/coredns/coredns:v1:linux/amd64:/coredns",
            "pkg:apk/alpine/musl@1.2-3?arch=amd64",
            "pkg:deb/debian/base-files@1.2-3?arch=amd64",
            "pkg:golang/golang.org/x/net@v0.50.0",
            "pkg:golang/k8s.io/api",
            "pkg:golang/std@1.26.0",
        ]
    );
    let all: BTreeSet<&str> = references.into_iter().collect();
    for dependency in &document.dependencies {
        assert!(dependency.reference == BUNDLE || all.contains(dependency.reference.as_str()));
        assert!(
            dependency
                .depends_on
                .iter()
                .all(|part| all.contains(part.as_str()))
        );
    }
    let of = |reference: &str| {
        let mut dependencies = document.dependencies.iter();
        let found = dependencies.find(|dependency| dependency.reference == reference);
        found.map_or(0, |dependency| dependency.depends_on.len())
    };
    assert_eq!((of(BUNDLE), of("file:kubelet:linux/amd64")), (4, 3));
    let image = "image:registry.k8s.io/coredns/coredns:v1:linux/amd64";
    assert_eq!((of(image), of(&format!("{image}:/coredns"))), (3, 2));
}

/// By a validator that is not ours, with the schema's rules in code.
#[test]
fn a_validator_accepts_the_document() {
    use cyclonedx_bom::prelude::{Bom, SpecVersion, Validate as _};
    let text = serde_json::to_string(&document(&materials())).unwrap();
    let bom = Bom::parse_from_json(text.as_bytes()).unwrap();
    let result = bom.validate_version(SpecVersion::V1_5);
    assert!(result.passed(), "{result:?}\n{text}");
    assert_eq!(bom.components.unwrap().0.len(), 10);
    // It is one that does not accept everything.
    let bad = text.replace("SHA-256", "SHA-9");
    let passed = Bom::parse_from_json(bad.as_bytes())
        .is_ok_and(|bom| bom.validate_version(SpecVersion::V1_5).passed());
    assert!(!passed);
}

#[test]
fn documents_round_trip_and_are_the_same_each_time() {
    let text = serde_json::to_string(&document(&materials())).unwrap();
    let again: Document = serde_json::from_str(&text).unwrap();
    assert_eq!(again, document(&materials()));
    assert_eq!(serde_json::to_string(&again).unwrap(), text);
}

#[test]
fn licences_are_a_table() {
    let text = licences(&document(&materials()));
    let expected = "\
KIND     NAME                             VERSION  LICENCE
file     kubelet                          1.36.0   Apache-2.0
file     script                           1.36.0   Apache-2.0
image    registry.k8s.io/coredns/coredns  v1       -
package  base-files                       1.2-3    -
package  musl                             1.2-3    MIT

3 Go modules, by name and version in `bundle sbom`; programs carry no licences of theirs
";
    assert_eq!(text, expected);
}
