//! Which bundles a cluster is of: one; or two while a new minor soaks, when its
//! control plane behaves as the old one does and can still go back to it.

use super::bundle::BundleView;
use super::types::RegistryArtifact;
use semver::Version;
use std::collections::BTreeSet;

/// What a control plane that soaks takes from the new bundle, and what nothing
/// else depends on. etcd and nodes follow when it is finished.
pub const SOAKING: [&str; 6] = [
    "cofferdam",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
    "registry",
];

/// The bundles of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Software {
    /// Of all, or of all that doesn't soak.
    pub whole: BundleView,
    /// Of the control plane, while it soaks.
    pub soaking: Option<BundleView>,
    /// Names of hosts on which nothing soaks: not yet, or not any more.
    pub as_before: BTreeSet<String>,
}

impl Software {
    /// One bundle for all.
    pub fn of(whole: BundleView) -> Self {
        Self {
            whole,
            ..Self::default()
        }
    }

    /// Whether a control plane behaves as an older one.
    pub fn soaks(&self) -> bool {
        self.soaking.is_some()
    }

    /// The bundle that a host's program is taken from.
    pub fn bundle_of(&self, host: &str, program: &str) -> &BundleView {
        let soaking = self.soaking_on(host);
        let soaking = soaking.filter(|_| SOAKING.contains(&program));
        soaking.unwrap_or(&self.whole)
    }

    /// The minor that a host's control plane behaves as, `1.36`; none if that is
    /// its own.
    pub fn emulated(&self, host: &str) -> Option<String> {
        self.soaking_on(host)?;
        minor_of(&self.whole)
    }

    fn soaking_on(&self, host: &str) -> Option<&BundleView> {
        let soaking = self.soaking.as_ref();
        soaking.filter(|_| !self.as_before.contains(host))
    }

    /// For people: `kubernetes-1.37 1.37.0`, with what it emulates.
    pub fn title(&self) -> String {
        match (&self.soaking, minor_of(&self.whole)) {
            (Some(soaking), Some(minor)) => format!("{}, emulating {minor}", soaking.title()),
            _ => self.whole.title(),
        }
    }

    /// The same of what one host has.
    pub fn title_on(&self, host: &str) -> String {
        match self.soaking_on(host) {
            Some(_) => self.title(),
            None => self.whole.title(),
        }
    }

    /// Everything that a zone's registry is to hold. Of two under one tag the last one
    /// counts, which is that of the bundle whose hosts ask for it.
    pub fn artifacts(&self) -> impl Iterator<Item = &RegistryArtifact> {
        let soaking = || self.soaking.iter();
        let binaries = soaking().flat_map(|view| view.files.values());
        let binaries =
            binaries.flat_map(|files| SOAKING.iter().filter_map(|name| files.get(*name)));
        let programs: BTreeSet<&str> = binaries.map(|binary| binary.repository.as_str()).collect();
        let files = soaking().flat_map(|view| &view.file_artifacts);
        let files = files.filter(move |file| programs.contains(file.repository.as_str()));
        let all = soaking().flat_map(BundleView::artifacts);
        all.chain(self.whole.artifacts()).chain(files)
    }
}

/// The version of a bundle's Kubernetes.
pub fn kubernetes_of(view: &BundleView) -> Option<Version> {
    let files = view.files.values().next()?;
    Version::parse(&files.get("kube-apiserver")?.version).ok()
}

/// `1.36`
pub fn minor_of(view: &BundleView) -> Option<String> {
    let version = kubernetes_of(view)?;
    Some(format!("{}.{}", version.major, version.minor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::BundleImage;
    use crate::desired::types::{Binary, BlobReference};
    use crate::digest::Digest;

    /// An image, a program that soaks and one that doesn't, each under one tag whatever
    /// they hold.
    fn view(edition: &str) -> BundleView {
        let artifact = |repository: &str| RegistryArtifact {
            repository: repository.to_owned(),
            tag: "1".to_owned(),
            blobs: Vec::new(),
            manifests: vec![BlobReference {
                digest: Digest::of(format!("{repository} {edition}")),
                size: 1,
                media_type: String::new(),
            }],
        };
        let names = ["kube-apiserver", "kubelet"];
        let files = names.map(|name| {
            let binary = Binary {
                digest: Digest::of(name),
                size: 1,
                blob: Digest::of(name),
                blob_size: 1,
                repository: format!("file/{name}"),
                version: "1".to_owned(),
            };
            (name.to_owned(), binary)
        });
        BundleView {
            files: [("linux/amd64".to_owned(), files.into())].into(),
            file_artifacts: names.map(|name| artifact(&format!("file/{name}"))).into(),
            images: vec![BundleImage {
                reference: "site/app:1".to_owned(),
                artifact: artifact("site/app"),
                sizes: [].into(),
            }],
            ..BundleView::default()
        }
    }

    #[test]
    fn of_two_under_one_tag_that_of_the_hosts_that_ask_counts() {
        let software = Software {
            soaking: Some(view("new")),
            ..Software::of(view("old"))
        };
        let mut last = std::collections::BTreeMap::new();
        for artifact in software.artifacts() {
            last.insert(artifact.repository.as_str(), artifact.manifests[0].digest);
        }
        for (repository, edition) in [
            ("file/kube-apiserver", "new"),
            ("file/kubelet", "old"),
            ("site/app", "old"),
        ] {
            let expected = Digest::of(format!("{repository} {edition}"));
            assert_eq!(last[repository], expected, "{repository}");
        }
    }
}
