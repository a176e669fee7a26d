//! Which bundles a cluster is of: one; or two while a new minor soaks, when its
//! control plane behaves as the old one does and can still go back to it.

use super::bundle::BundleView;
use super::types::RegistryArtifact;
use semver::Version;

/// What a control plane that soaks takes from the new bundle, and what nothing
/// else depends on. etcd and nodes follow when it is finished.
const SOAKING: [&str; 6] = [
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
}

impl Software {
    /// One bundle for all.
    pub fn of(whole: BundleView) -> Self {
        Self {
            whole,
            soaking: None,
        }
    }

    /// The bundle that a program is taken from.
    pub fn bundle_of(&self, program: &str) -> &BundleView {
        let soaking = self.soaking.as_ref();
        let soaking = soaking.filter(|_| SOAKING.contains(&program));
        soaking.unwrap_or(&self.whole)
    }

    /// The minor that the control plane behaves as, `1.36`; none if that is its
    /// own.
    pub fn emulated(&self) -> Option<String> {
        self.soaking.as_ref()?;
        minor_of(&self.whole)
    }

    /// For people: `kubernetes-1.37 1.37.0`, with what it emulates.
    pub fn title(&self) -> String {
        let title = |view: &BundleView| format!("{} {}", view.name, view.version);
        match (&self.soaking, self.emulated()) {
            (Some(soaking), Some(minor)) => format!("{}, emulating {minor}", title(soaking)),
            _ => title(&self.whole),
        }
    }

    /// Everything that a zone's registry is to hold.
    pub fn artifacts(&self) -> impl Iterator<Item = &RegistryArtifact> {
        let soaking = self.soaking.iter().flat_map(BundleView::artifacts);
        self.whole.artifacts().chain(soaking)
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
