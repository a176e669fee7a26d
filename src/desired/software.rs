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
    /// counts: nodes pull images of the whole, by tag too, while the control plane reads
    /// files of what soaks.
    pub fn artifacts(&self) -> impl Iterator<Item = &RegistryArtifact> {
        let soaking = || self.soaking.iter();
        let images = soaking().flat_map(|view| &view.images);
        let images = images.map(|image| &image.artifact);
        let files = soaking().flat_map(|view| &view.file_artifacts);
        images.chain(self.whole.artifacts()).chain(files)
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
