//! What may be a name: rules shared by definitions (where people write names) and
//! the reader (where names arrive from a file).

use super::platform::Platform;

/// Repository and tag under which a registry keeps a file artifact.
pub fn file_repository(name: &str) -> String {
    format!("cofferdam/file/{name}")
}

/// The tag of a file artifact.
pub fn file_tag(version: &str, platform: &Platform) -> String {
    format!("{version}-{}-{}", platform.os, platform.architecture)
}

/// Repository under which a registry would keep a manifest artifact.
pub fn manifest_repository(name: &str) -> String {
    format!("cofferdam/manifest/{name}")
}

/// A name for files on hosts, bundles and manifests: lower case, so that it is a
/// valid repository component too; never hidden, never a path.
pub fn is_name(text: &str) -> bool {
    let edge = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit();
    text.len() <= 64
        && text.starts_with(edge)
        && text.ends_with(edge)
        && text
            .chars()
            .all(|character| edge(character) || matches!(character, '-' | '.' | '_'))
        && !["..", "--", "__", ".-", "-.", "._", "_.", "-_", "_-"]
            .iter()
            .any(|pair| text.contains(pair))
}

/// A version, fit for a tag together with a platform (OCI allows 128 characters).
pub fn is_version(text: &str) -> bool {
    text.len() <= 64 && is_tag(text)
}

/// A tag as the OCI distribution specification has it.
pub fn is_tag(text: &str) -> bool {
    let first = |character: char| character.is_ascii_alphanumeric() || character == '_';
    text.len() <= 128
        && text.starts_with(first)
        && text
            .chars()
            .all(|character| first(character) || matches!(character, '.' | '-'))
}

/// An image's full name: registry host (with a dot, a colon or `localhost`), then
/// path components.
pub fn is_image_name(text: &str) -> bool {
    let Some((host, path)) = text.split_once('/') else {
        return false;
    };
    let host_characters = |character: char| {
        character.is_ascii_lowercase() || character.is_ascii_digit() || ".-:".contains(character)
    };
    let host_fits = (host.contains(['.', ':']) || host == "localhost")
        && host.starts_with(|character: char| character.is_ascii_alphanumeric())
        && host.chars().all(host_characters);
    text.len() <= 255 && host_fits && path.split('/').all(is_name)
}

/// Splits `name:tag` into both. `None` when either half is not valid.
pub fn split_reference(reference: &str) -> Option<(&str, &str)> {
    let (name, tag) = reference.rsplit_once(':')?;
    (is_image_name(name) && is_tag(tag)).then_some((name, tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in [
            "etcd",
            "kube-apiserver",
            "containerd-shim-runc-v2",
            "a",
            "host-local",
            "x.y",
        ] {
            assert!(is_name(good), "{good}");
        }
        for bad in [
            "", ".", "..", "a/b", "../a", "Upper", "-a", "a-", ".a", "a..b", "a b", "a\n",
        ] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn references() {
        assert_eq!(
            split_reference("registry.k8s.io/coredns/coredns:v1.14.7"),
            Some(("registry.k8s.io/coredns/coredns", "v1.14.7"))
        );
        assert_eq!(
            split_reference("localhost:5000/x:1"),
            Some(("localhost:5000/x", "1"))
        );
        for bad in [
            "pause:3",
            "library/busybox:1",
            "docker.io/x",
            "docker.io/../x:1",
            "a.b/x:",
        ] {
            assert_eq!(split_reference(bad), None, "{bad}");
        }
    }
}
