//! Overrides of components' flags and configuration.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::model::{Host, Inventory};
use super::problem::{Location, Problem, Problems, Severity};
use super::suggest;

/// A component whose flags or configuration may be overridden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Component {
    Containerd,
    Etcd,
    Flanneld,
    KubeApiserver,
    KubeControllerManager,
    KubeProxy,
    KubeScheduler,
    Kubelet,
    Registry,
}

/// Overrides of one table: the cluster's or one host's.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Overrides {
    pub(super) components: BTreeMap<Component, Override>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Override {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) flags: BTreeMap<String, OverriddenFlag>,
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    pub(super) config: toml::Table,
    /// Those of its keys that must be fields of the component's configuration, whatever
    /// the tables above them are.
    #[serde(skip)]
    pub(super) fields: Vec<OverriddenField>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub(super) struct OverriddenFlag {
    pub(super) value: String,
    /// Where the flag's name stands, for checks that need a bundle.
    #[serde(skip)]
    pub(super) location: Location,
    #[serde(skip)]
    pub(super) key: String,
}

/// A key of an overridden configuration, for checks that need a bundle.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct OverriddenField {
    pub(super) name: String,
    pub(super) location: Location,
    pub(super) key: String,
}

impl Component {
    pub const ALL: [Self; 9] = [
        Self::Containerd,
        Self::Etcd,
        Self::Flanneld,
        Self::KubeApiserver,
        Self::KubeControllerManager,
        Self::KubeProxy,
        Self::KubeScheduler,
        Self::Kubelet,
        Self::Registry,
    ];

    /// The component's name in the inventory, and its file's in a bundle.
    pub fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Etcd => "etcd",
            Self::Flanneld => "flanneld",
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::KubeProxy => "kube-proxy",
            Self::KubeScheduler => "kube-scheduler",
            Self::Kubelet => "kubelet",
            Self::Registry => "registry",
        }
    }

    /// Whether the component has a configuration file that `config` can be merged into.
    pub fn has_configuration_file(self) -> bool {
        matches!(
            self,
            Self::Containerd | Self::KubeProxy | Self::Kubelet | Self::Registry
        )
    }

    /// Whether flags can be given to the component. The others are started with nothing but the
    /// path of their configuration file.
    pub fn has_flags(self) -> bool {
        !matches!(self, Self::Containerd | Self::Registry)
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|component| component.name() == name)
    }
}

impl fmt::Display for Component {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Where the inventory sets something of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverridePlace<'a> {
    /// The flag, without dashes, or the configuration's key.
    pub name: &'a str,
    /// `overrides.kubelet.config.maxPods`
    pub key: &'a str,
    pub location: &'a Location,
}

impl Overrides {
    pub fn is_empty(&self) -> bool {
        self.components.is_empty()
    }
}

impl Inventory {
    /// Flags of `component` that the inventory sets on `host`, by name without dashes; the host's
    /// own win over the cluster's.
    pub fn override_flags(&self, host: &Host, component: Component) -> BTreeMap<String, String> {
        let layers = [&self.overrides, &host.overrides];
        let flags = layers
            .into_iter()
            .filter_map(|overrides| overrides.components.get(&component))
            .flat_map(|of_component| &of_component.flags);
        flags
            .map(|(name, flag)| (name.clone(), flag.value.clone()))
            .collect()
    }

    /// What is to be merged into `component`'s configuration on `host` with [`merge_tables`]; the
    /// host's own wins over the cluster's, key by key. It holds no dates and no infinite numbers,
    /// so that it converts to JSON as it is.
    pub fn override_config(&self, host: &Host, component: Component) -> toml::Table {
        let mut merged = toml::Table::new();
        for overrides in [&self.overrides, &host.overrides] {
            if let Some(of_component) = overrides.components.get(&component) {
                merge_tables(&mut merged, &of_component.config);
            }
        }
        merged
    }

    /// Where `component`'s flags and configuration on `host` are set, in the order of the
    /// text.
    pub fn override_places<'a>(
        &'a self,
        host: &'a Host,
        component: Component,
    ) -> Vec<OverridePlace<'a>> {
        let layers = [&self.overrides, &host.overrides];
        let all = layers
            .into_iter()
            .filter_map(|overrides| overrides.components.get(&component));
        let places = all.flat_map(|of_component| {
            let flags = of_component.flags.iter().map(|(name, flag)| OverridePlace {
                name,
                key: &flag.key,
                location: &flag.location,
            });
            let fields = of_component.fields.iter().map(|field| OverridePlace {
                name: &field.name,
                key: &field.key,
                location: &field.location,
            });
            flags.chain(fields)
        });
        let mut places: Vec<OverridePlace<'_>> = places.collect();
        places.sort_by_key(|place| (place.location.line, place.location.column));
        places
    }

    /// Holds overridden flags against the lists of flags that a bundle carries for its components,
    /// names without dashes. Empty if every flag is known.
    pub fn check_flags(&self, known: &BTreeMap<String, Vec<String>>) -> Problems {
        self.check_overrides(|component, of_component| {
            let list = known.get(component.name()).map(Vec::as_slice);
            let flags = of_component.flags.iter();
            let unknown = flags.filter_map(|(name, flag)| {
                let (message, remedy) = check_flag(component, name, list)?;
                Some(error(&flag.location, &flag.key, message, remedy))
            });
            unknown.collect()
        })
    }

    /// Holds keys of overridden configuration against the names of fields that a bundle carries
    /// for its components: what is not among them would be ignored by the component. (What is may
    /// still be a field of something else.) Empty if every key is known.
    pub fn check_fields(&self, known: &BTreeMap<String, Vec<String>>) -> Problems {
        self.check_overrides(|component, of_component| {
            let list = known.get(component.name()).map(Vec::as_slice);
            let fields = of_component.fields.iter();
            let unknown = fields.filter_map(|field| {
                let (message, remedy) = check_field(component, &field.name, list)?;
                Some(error(&field.location, &field.key, message, remedy))
            });
            unknown.collect()
        })
    }

    /// All problems of the cluster's overrides and of hosts', in the order of the text.
    fn check_overrides(&self, check: impl Fn(Component, &Override) -> Vec<Problem>) -> Problems {
        let of_hosts = self.hosts.iter().map(|host| &host.overrides);
        let mut problems: Vec<Problem> = std::iter::once(&self.overrides)
            .chain(of_hosts)
            .flat_map(|overrides| &overrides.components)
            .flat_map(|(component, of_component)| check(*component, of_component))
            .collect();
        problems.sort_by_key(|problem| {
            problem
                .location
                .as_ref()
                .map(|location| (location.line, location.column))
        });
        Problems {
            file: self.file.clone(),
            problems,
        }
    }
}

fn error(location: &Location, key: &str, message: String, remedy: String) -> Problem {
    Problem {
        severity: Severity::Error,
        location: Some(location.clone()),
        key: key.to_owned(),
        message,
        remedy,
    }
}

/// Merges `overlay` into `base`: tables key by key, to any depth; any other value, lists too,
/// takes the place of what was there.
pub fn merge_tables(base: &mut toml::Table, overlay: &toml::Table) {
    for (key, value) in overlay {
        match (base.get_mut(key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(overlay)) => {
                merge_tables(inner, overlay);
            }
            _ => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Message and remedy if the flag is not in the component's list.
fn check_flag(
    component: Component,
    name: &str,
    list: Option<&[String]>,
) -> Option<(String, String)> {
    let Some(list) = list else {
        let message = format!("flags of {component} can't be set: the bundle lists none for it");
        return Some((
            message,
            "leave them out, or use a bundle that lists its flags".to_owned(),
        ));
    };
    if list.iter().any(|known| known == name) {
        return None;
    }
    let remedy = match suggest::nearest(name, list.iter().map(String::as_str)) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None => format!("leave it out, or see `{component} --help` of this bundle's version"),
    };
    Some((
        format!("{component} of this bundle has no flag `--{name}`"),
        remedy,
    ))
}

/// Message and remedy if no field of the component's is named so.
fn check_field(
    component: Component,
    name: &str,
    list: Option<&[String]>,
) -> Option<(String, String)> {
    let Some(list) = list else {
        let message = format!(
            "configuration of {component} can't be checked: the bundle lists no fields of it"
        );
        let remedy = "leave it out, or build the bundle from a definition with `fields` for it";
        return Some((message, remedy.to_owned()));
    };
    if list.iter().any(|known| known == name) {
        return None;
    }
    let remedy = match suggest::nearest(name, list.iter().map(String::as_str)) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None => format!("leave it out: {component} would ignore it"),
    };
    Some((
        format!("the configuration of this bundle's {component} has no field `{name}`"),
        remedy,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_merge_to_any_depth() {
        let cases = [
            ("a = 1", "b = 2", "a = 1\nb = 2"),
            ("a = 1", "a = 2", "a = 2"),
            (
                "x = { y = { a = 1, b = 1 } }",
                "x = { y = { b = 2 } }",
                "x = { y = { a = 1, b = 2 } }",
            ),
            ("a = [1, 2]", "a = [3]", "a = [3]"),
            ("a = { b = 1 }", "a = 2", "a = 2"),
            ("a = 1", "a = { b = 2 }", "a = { b = 2 }"),
        ];
        for (base, overlay, expected) in cases {
            let mut merged: toml::Table = toml::from_str(base).unwrap();
            merge_tables(&mut merged, &toml::from_str(overlay).unwrap());
            let expected: toml::Table = toml::from_str(expected).unwrap();
            assert_eq!(merged, expected, "{base} + {overlay}");
        }
    }

    #[test]
    fn components_are_found_by_name() {
        for component in Component::ALL {
            assert_eq!(Component::from_name(component.name()), Some(component));
            let serialized = serde_json::to_value(component).unwrap();
            assert_eq!(serialized, component.name());
        }
    }
}
