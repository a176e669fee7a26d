//! Package URLs: <https://github.com/package-url/purl-spec>.

use super::go::GoModule;
use super::packages::{Package, PackageKind};
use crate::bundle::names;
use crate::bundle::platform::Platform;
use crate::digest::Digest;

/// `pkg:generic/kubelet@1.36.0?arch=amd64&…`.
pub(super) fn file(name: &str, version: &str, platform: &Platform, digest: &Digest) -> String {
    let (name, version) = (encoded(name), encoded(version));
    let (os, arch) = (&platform.os, &platform.architecture);
    format!("pkg:generic/{name}@{version}?arch={arch}&checksum={digest}&os={os}")
}

/// `pkg:oci/pause@sha256%3A…?arch=amd64&repository_url=…&tag=…`, by the manifest of
/// the platform; none if that is no reference.
pub(super) fn image(reference: &str, platform: &Platform, manifest: &Digest) -> Option<String> {
    let (repository, tag) = names::split_reference(reference)?;
    let name = repository.rsplit('/').next()?;
    Some(format!(
        "pkg:oci/{}@{}?arch={}&repository_url={}&tag={}",
        encoded(name),
        encoded(&manifest.to_string()),
        platform.architecture,
        encoded(repository),
        encoded(tag)
    ))
}

/// `pkg:golang/github.com/a/b@v1.2.3`, in lower case as the type has it, without a
/// version that only the builder's directory has.
pub(super) fn module(module: &GoModule) -> String {
    let parts: Vec<String> = module.path.to_lowercase().split('/').map(encoded).collect();
    let version = match module.version.starts_with('v') {
        true => format!("@{}", encoded(&module.version)),
        false => String::new(),
    };
    format!("pkg:golang/{}{version}", parts.join("/"))
}

/// The standard library of `go1.26.0`.
pub(super) fn standard_library(go: &str) -> String {
    let version = go.split(' ').next().unwrap_or(go);
    let version = version.strip_prefix("go").unwrap_or(version);
    format!("pkg:golang/std@{}", encoded(version))
}

/// `pkg:deb/debian/base-files@12.4%2Bdeb12u11?arch=amd64`.
pub(super) fn package(package: &Package) -> String {
    let space = match package.kind {
        PackageKind::Debian => "deb/debian",
        PackageKind::Alpine => "apk/alpine",
    };
    let (name, version) = (encoded(&package.name), encoded(&package.version));
    match package.architecture.is_empty() {
        true => format!("pkg:{space}/{name}@{version}"),
        false => format!(
            "pkg:{space}/{name}@{version}?arch={}",
            encoded(&package.architecture)
        ),
    }
}

/// Everything but letters, digits and `-._~` by its bytes.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_kind() {
        let platform = Platform::linux("amd64");
        let digest = Digest::of("x");
        let hex = digest.hex();
        assert_eq!(
            file("kubelet", "1.36.0", &platform, &digest),
            format!("pkg:generic/kubelet@1.36.0?arch=amd64&checksum=sha256:{hex}&os=linux")
        );
        assert_eq!(
            image("registry.k8s.io/coredns/coredns:v1", &platform, &digest).unwrap(),
            format!(
                "pkg:oci/coredns@sha256%3A{hex}?arch=amd64&\
                 repository_url=registry.k8s.io%2Fcoredns%2Fcoredns&tag=v1"
            )
        );
        for (path, version, expected) in [
            (
                "github.com/BurntSushi/toml",
                "v1.5.0",
                "github.com/burntsushi/toml@v1.5.0",
            ),
            (
                "a.io/b",
                "v2.0.0+incompatible",
                "a.io/b@v2.0.0%2Bincompatible",
            ),
            ("k8s.io/api", "(devel)", "k8s.io/api"),
        ] {
            let module_of = GoModule {
                path: path.to_owned(),
                version: version.to_owned(),
            };
            assert_eq!(module(&module_of), format!("pkg:golang/{expected}"));
        }
        assert_eq!(
            standard_library("go1.26.0 X:nodwarf5"),
            "pkg:golang/std@1.26.0"
        );
        let debian = Package {
            kind: PackageKind::Debian,
            name: "libstdc++6".to_owned(),
            version: "1:12+deb".to_owned(),
            architecture: "amd64".to_owned(),
            licence: None,
        };
        assert_eq!(
            package(&debian),
            "pkg:deb/debian/libstdc%2B%2B6@1%3A12%2Bdeb?arch=amd64"
        );
    }
}
