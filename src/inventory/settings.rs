//! Settings of components' configuration that cofferdam itself sets or reads: what form they
//! have, and which of them an override must leave alone.

use super::overrides::Component;

/// A setting by its keys, from the top of the component's configuration file.
pub(super) struct Setting {
    pub(super) component: Component,
    pub(super) path: &'static [&'static str],
    pub(super) rule: Rule,
}

/// What an override may do with a setting.
#[derive(Clone, Copy)]
pub(super) enum Rule {
    /// Nothing, and so with all that is below it: why.
    Managed(&'static str),
    /// Give it another value of this form.
    Form(Form),
}

/// The form of a value, as far as TOML, YAML and JSON agree on it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    Number,
    Boolean,
    List,
    Table,
}

impl Form {
    /// None for dates, which are refused elsewhere.
    pub(super) fn of(value: &toml::Value) -> Option<Self> {
        match value {
            toml::Value::String(_) => Some(Self::Text),
            toml::Value::Integer(_) | toml::Value::Float(_) => Some(Self::Number),
            toml::Value::Boolean(_) => Some(Self::Boolean),
            toml::Value::Array(_) => Some(Self::List),
            toml::Value::Table(_) => Some(Self::Table),
            toml::Value::Datetime(_) => None,
        }
    }

    /// For people: `a text in quotes`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Text => "a text in quotes",
            Self::Number => "a number",
            Self::Boolean => "true or false",
            Self::List => "a list",
            Self::Table => "a table",
        }
    }
}

/// An override that a setting does not allow.
pub(super) struct Refusal {
    /// Keys from the top of the configuration to what is wrong, a part of the setting's own.
    pub(super) path: &'static [&'static str],
    pub(super) kind: RefusalKind,
}

/// What is wrong with it.
pub(super) enum RefusalKind {
    Managed(&'static str),
    Form { expected: Form },
}

impl Setting {
    /// What is wrong with an override of the component's configuration, as far as this setting
    /// goes: it sets what is managed, puts something else in the place of a table on the way to
    /// it, or has another form.
    pub(super) fn refuse(&self, over: &toml::Table) -> Option<Refusal> {
        let (last, tables) = self.path.split_last()?;
        let mut table = over;
        for (depth, key) in tables.iter().enumerate() {
            match table.get(*key)? {
                toml::Value::Table(inner) => table = inner,
                _ => {
                    return Some(Refusal {
                        path: &self.path[..=depth],
                        kind: RefusalKind::Form {
                            expected: Form::Table,
                        },
                    });
                }
            }
        }
        let value = table.get(*last)?;
        let kind = match self.rule {
            Rule::Managed(why) => RefusalKind::Managed(why),
            Rule::Form(form) if Form::of(value) == Some(form) => return None,
            Rule::Form(expected) => RefusalKind::Form { expected },
        };
        Some(Refusal {
            path: self.path,
            kind,
        })
    }
}

const fn managed(
    component: Component,
    path: &'static [&'static str],
    why: &'static str,
) -> Setting {
    Setting {
        component,
        path,
        rule: Rule::Managed(why),
    }
}

const fn form(component: Component, path: &'static [&'static str], form: Form) -> Setting {
    Setting {
        component,
        path,
        rule: Rule::Form(form),
    }
}

use Component::{Containerd, KubeProxy, Kubelet, Registry};

const SCHEMA: &str = "cofferdam writes the file in this version of its format";
const IDENTITY: &str = "kubelet's clients and certificates are those that the site issues";
const ADDRESS: &str = "the port matrix and certificates have it from the host's `address`";
const CGROUPS: &str = "kubelet and containerd must have the same driver, which is systemd's";
const PATHS: &str = "images and pods are observed there, and other components look for them there";
const POD_NETWORK: &str = "the pod network is made there, and compared";
const STATIC_PODS: &str =
    "cofferdam runs no static pods, and takes them for the traces of another installer";
const STORE: &str = "the serving registry is read-only over the store that a run fills";

const IMAGES: &str = "io.containerd.cri.v1.images";
const RUNTIME: &str = "io.containerd.cri.v1.runtime";
const RUNC: [&str; 5] = ["plugins", RUNTIME, "containerd", "runtimes", "runc"];

/// All settings that have a rule. `desired` holds the values of those that it sets; a test there
/// compares the two.
pub(super) const SETTINGS: &[Setting] = &[
    managed(Kubelet, &["apiVersion"], SCHEMA),
    managed(Kubelet, &["kind"], SCHEMA),
    managed(Kubelet, &["address"], ADDRESS),
    managed(Kubelet, &["port"], ADDRESS),
    managed(
        Kubelet,
        &["enableServer"],
        "API servers reach pods' logs through it",
    ),
    managed(
        Kubelet,
        &["authentication", "anonymous"],
        "nobody may ask kubelet without a certificate or a token",
    ),
    managed(
        Kubelet,
        &["authentication", "webhook", "enabled"],
        "tokens are asked of the API server",
    ),
    managed(Kubelet, &["authentication", "x509"], IDENTITY),
    managed(
        Kubelet,
        &["authorization", "mode"],
        "what a client may do is asked of the API server",
    ),
    managed(Kubelet, &["cgroupDriver"], CGROUPS),
    managed(
        Kubelet,
        &["clusterDNS"],
        "it follows from `service_cidr` in [cluster]",
    ),
    managed(
        Kubelet,
        &["clusterDomain"],
        "it follows from `domain` in [cluster]",
    ),
    managed(Kubelet, &["containerRuntimeEndpoint"], PATHS),
    managed(Kubelet, &["rotateCertificates"], IDENTITY),
    managed(Kubelet, &["serverTLSBootstrap"], IDENTITY),
    managed(Kubelet, &["tlsCertFile"], IDENTITY),
    managed(Kubelet, &["tlsPrivateKeyFile"], IDENTITY),
    managed(Kubelet, &["staticPodPath"], STATIC_PODS),
    managed(Kubelet, &["staticPodURL"], STATIC_PODS),
    form(Kubelet, &["containerLogMaxFiles"], Form::Number),
    form(Kubelet, &["containerLogMaxSize"], Form::Text),
    form(Kubelet, &["evictionHard"], Form::Table),
    form(Kubelet, &["failCgroupV1"], Form::Boolean),
    form(Kubelet, &["failSwapOn"], Form::Boolean),
    form(Kubelet, &["registerWithTaints"], Form::List),
    form(Kubelet, &["resolvConf"], Form::Text),
    form(Kubelet, &["tlsMinVersion"], Form::Text),
    managed(KubeProxy, &["apiVersion"], SCHEMA),
    managed(KubeProxy, &["kind"], SCHEMA),
    managed(
        KubeProxy,
        &["clientConnection", "kubeconfig"],
        "the site issues it, and it leads to this node's way to the API servers",
    ),
    managed(
        KubeProxy,
        &["clusterCIDR"],
        "it follows from `pod_cidr` in [cluster]",
    ),
    managed(
        KubeProxy,
        &["healthzBindAddress"],
        "a run waits there until kube-proxy is healthy",
    ),
    managed(
        KubeProxy,
        &["hostnameOverride"],
        "it is the node's name, which is the host's in the inventory",
    ),
    form(KubeProxy, &["bindAddress"], Form::Text),
    form(KubeProxy, &["metricsBindAddress"], Form::Text),
    form(KubeProxy, &["mode"], Form::Text),
    managed(Containerd, &["version"], SCHEMA),
    managed(Containerd, &["root"], PATHS),
    managed(Containerd, &["state"], PATHS),
    managed(Containerd, &["grpc", "address"], PATHS),
    managed(
        Containerd,
        &["plugins", "io.containerd.server.v1.grpc", "address"],
        PATHS,
    ),
    managed(
        Containerd,
        &["imports"],
        "what other files set can't be checked or compared",
    ),
    managed(
        Containerd,
        &["plugins", IMAGES, "registry"],
        "images come from the zones' registries, or from [registry], alone",
    ),
    managed(
        Containerd,
        &["plugins", IMAGES, "pinned_images", "sandbox"],
        "it is the bundle's image, which is on every node",
    ),
    managed(
        Containerd,
        &["plugins", RUNTIME, "cni", "bin_dirs"],
        POD_NETWORK,
    ),
    managed(
        Containerd,
        &["plugins", RUNTIME, "cni", "bin_dir"],
        POD_NETWORK,
    ),
    managed(
        Containerd,
        &["plugins", RUNTIME, "cni", "conf_dir"],
        POD_NETWORK,
    ),
    managed(
        Containerd,
        &["plugins", RUNTIME, "cni", "conf_template"],
        POD_NETWORK,
    ),
    managed(
        Containerd,
        &[RUNC[0], RUNC[1], RUNC[2], RUNC[3], RUNC[4], "runtime_type"],
        "runc is the bundle's",
    ),
    managed(
        Containerd,
        &[
            RUNC[0],
            RUNC[1],
            RUNC[2],
            RUNC[3],
            RUNC[4],
            "options",
            "BinaryName",
        ],
        "runc is the bundle's",
    ),
    managed(
        Containerd,
        &[
            RUNC[0],
            RUNC[1],
            RUNC[2],
            RUNC[3],
            RUNC[4],
            "options",
            "SystemdCgroup",
        ],
        CGROUPS,
    ),
    form(
        Containerd,
        &["plugins", RUNTIME, "containerd", "default_runtime_name"],
        Form::Text,
    ),
    managed(Registry, &["version"], SCHEMA),
    managed(Registry, &["storage"], STORE),
    managed(
        Registry,
        &["proxy"],
        "a zone's registry serves what is in it and asks no other",
    ),
    managed(Registry, &["http", "addr"], ADDRESS),
    managed(Registry, &["http", "secret"], "the site makes it"),
    managed(
        Registry,
        &["http", "tls", "certificate"],
        "the site issues it, and hosts trust no other",
    ),
    managed(Registry, &["http", "tls", "key"], "the site makes it"),
    managed(
        Registry,
        &["http", "tls", "clientcas"],
        "only the cluster's hosts may read from it",
    ),
    managed(
        Registry,
        &["http", "tls", "clientauth"],
        "only the cluster's hosts may read from it",
    ),
    form(Registry, &["http", "tls", "minimumtls"], Form::Text),
    form(Registry, &["log", "level"], Form::Text),
    form(Registry, &["log", "accesslog", "disabled"], Form::Boolean),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(component: Component, over: &str) -> Option<String> {
        let over: toml::Table = toml::from_str(over).unwrap();
        let refusal = SETTINGS
            .iter()
            .filter(|setting| setting.component == component)
            .find_map(|setting| setting.refuse(&over))?;
        let kind = match refusal.kind {
            RefusalKind::Managed(_) => "managed".to_owned(),
            RefusalKind::Form { expected } => format!("no {}", expected.name()),
        };
        Some(format!("{} {kind}", refusal.path.join(".")))
    }

    #[test]
    fn what_is_managed_is_refused_and_all_else_is_not() {
        let cases = [
            (Kubelet, "maxPods = 60", None),
            (Kubelet, "failSwapOn = false", None),
            (
                Kubelet,
                "failSwapOn = \"false\"",
                Some("failSwapOn no true or false"),
            ),
            (Kubelet, "clusterDNS = []", Some("clusterDNS managed")),
            (
                Kubelet,
                "authentication = { webhook = { cacheTTL = \"1m\" } }",
                None,
            ),
            (
                Kubelet,
                "authentication = { anonymous = { enabled = true } }",
                Some("authentication.anonymous managed"),
            ),
            (
                Kubelet,
                "authentication = true",
                Some("authentication no a table"),
            ),
            (
                Kubelet,
                "authentication = { webhook = 1 }",
                Some("authentication.webhook no a table"),
            ),
            (
                Kubelet,
                "evictionHard = \"5%\"",
                Some("evictionHard no a table"),
            ),
            (KubeProxy, "conntrack = { maxPerCore = 0 }", None),
            (
                Containerd,
                "plugins = { \"io.containerd.cri.v1.images\" = { registry = { mirrors = {} } } }",
                Some("plugins.io.containerd.cri.v1.images.registry managed"),
            ),
            (
                Containerd,
                "plugins = { \"io.containerd.cri.v1.runtime\" = { restrict_oom_score_adj = true } }",
                None,
            ),
            (Containerd, "plugins = []", Some("plugins no a table")),
            (Registry, "storage = { s3 = {} }", Some("storage managed")),
            (Registry, "log = { level = \"debug\" }", None),
            (Registry, "log = \"debug\"", Some("log no a table")),
        ];
        for (component, over, expected) in cases {
            assert_eq!(refused(component, over).as_deref(), expected, "{over}");
        }
    }
}
