//! The tables `[overrides.COMPONENT]`, the cluster's and hosts'.

use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;

use super::names;
use super::overrides::{Component, OverriddenField, OverriddenFlag, Override, Overrides};
use super::problem::{Finding, Report};
use super::raw::{FlagValue, RawOverride};
use super::settings::{RefusalKind, SETTINGS};
use super::suggest;

/// `prefix` is the dotted key of the table that holds the components.
pub(super) fn read_overrides(
    raw: &BTreeMap<Spanned<String>, RawOverride>,
    prefix: &str,
    report: &mut Report<'_>,
) -> Overrides {
    let mut overrides = Overrides::default();
    for (name, raw) in raw {
        let key = format!("{prefix}.{}", name.get_ref());
        let Some(component) = Component::from_name(name.get_ref()) else {
            let known = Component::ALL.map(Component::name);
            report.error(Finding {
                at: name.span(),
                key,
                message: format!("unknown component `{}`", name.get_ref()),
                remedy: suggest::remedy(name.get_ref(), &known, "components"),
            });
            continue;
        };
        if !component.has_configuration_file()
            && let Some((first, _)) = raw.config.first_key_value()
        {
            report.error(Finding {
                at: first.span(),
                key: format!("{key}.config"),
                message: format!("{component} has no configuration file to merge into"),
                remedy: "write `flags` instead".to_owned(),
            });
        }
        if !component.has_flags()
            && let Some((first, _)) = raw.flags.first_key_value()
        {
            report.error(Finding {
                at: first.span(),
                key: format!("{key}.flags"),
                message: format!("{component} is started with its configuration file alone"),
                remedy: "write `config` instead, which is merged into that file".to_owned(),
            });
        }
        let read = Override {
            flags: read_flags(component, &raw.flags, &format!("{key}.flags"), report),
            config: read_config(&raw.config, &format!("{key}.config"), report),
            fields: fields(component, raw, &format!("{key}.config"), report),
        };
        refuse_settings(
            component,
            &read.config,
            raw,
            &format!("{key}.config"),
            report,
        );
        overrides.components.insert(component, read);
    }
    overrides
}

/// Flags of a lease that cofferdam waits for before it drains a node.
const LEASE: [&str; 4] = [
    "leader-elect",
    "leader-elect-resource-lock",
    "leader-elect-resource-name",
    "leader-elect-resource-namespace",
];

fn read_flags(
    component: Component,
    raw: &BTreeMap<Spanned<String>, Spanned<FlagValue>>,
    key: &str,
    report: &mut Report<'_>,
) -> BTreeMap<String, OverriddenFlag> {
    let mut flags = BTreeMap::new();
    for (name, value) in raw {
        let text = name.get_ref();
        if let Err(reason) = names::check_flag_name(text) {
            let bare = text.trim_start_matches('-');
            let bare = bare.split('=').next().unwrap_or(bare);
            let remedy = match names::check_flag_name(bare) {
                Ok(()) => format!("write `{bare} = \"…\"`"),
                Err(_) => "write a flag as in the component's `--help`".to_owned(),
            };
            report.error(Finding {
                at: name.span(),
                key: key.to_owned(),
                message: format!("`{text}` is no flag: it {reason}"),
                remedy,
            });
        }
        if value.get_ref().0.chars().any(char::is_control) {
            report.error(Finding {
                at: value.span(),
                key: format!("{key}.{text}"),
                message: "the value holds a control character, such as a line's end".to_owned(),
                remedy: "write it on one line, without tabs".to_owned(),
            });
        }
        if component == Component::KubeControllerManager && LEASE.contains(&text.as_str()) {
            report.error(Finding {
                at: name.span(),
                key: format!("{key}.{text}"),
                message: format!("`{text}` is not to be overridden"),
                remedy: "leave it out: an upgrade waits for its lease before it drains a node"
                    .to_owned(),
            });
        }
        let flag = OverriddenFlag {
            value: value.get_ref().0.clone(),
            location: report.location(name.span()),
            key: format!("{key}.{text}"),
        };
        flags.insert(text.clone(), flag);
    }
    flags
}

fn read_config(
    raw: &BTreeMap<Spanned<String>, Spanned<toml::Value>>,
    key: &str,
    report: &mut Report<'_>,
) -> toml::Table {
    for (name, value) in raw {
        if let Some(kind) = without_counterpart(value.get_ref()) {
            report.error(Finding {
                at: value.span(),
                key: format!("{key}.{}", name.get_ref()),
                message: format!("the value holds {kind}, which the file's format can't express"),
                remedy: "write it in quotes, or leave it out".to_owned(),
            });
        }
    }
    raw.iter()
        .map(|(name, value)| (name.get_ref().clone(), value.get_ref().clone()))
        .collect()
}

/// Reports overrides of settings that cofferdam manages, or that have another form.
fn refuse_settings(
    component: Component,
    config: &toml::Table,
    raw: &RawOverride,
    key: &str,
    report: &mut Report<'_>,
) {
    let settings = SETTINGS
        .iter()
        .filter(|setting| setting.component == component);
    // Several settings may lie below one value that is no table.
    let mut told = BTreeSet::new();
    for refusal in settings.filter_map(|setting| setting.refuse(config)) {
        let [top, below @ ..] = refusal.path else {
            continue;
        };
        let Some((top, _)) = raw.config.get_key_value(*top) else {
            continue;
        };
        if !told.insert(refusal.path) {
            continue;
        }
        let name = refusal.path.join(".");
        let (message, remedy) = match refusal.kind {
            RefusalKind::Managed(why) => (
                format!("`{name}` of {component} is not to be overridden: {why}"),
                "leave it out".to_owned(),
            ),
            RefusalKind::Form { expected } => (
                format!("`{name}` of {component} has another form"),
                format!("write {}", expected.name()),
            ),
        };
        let at = report.key_below(top.span(), below);
        report.error(Finding {
            at,
            key: format!("{key}.{name}"),
            message,
            remedy,
        });
    }
}

/// The keys that name fields for certain: those at the top, and in containerd's file those of
/// each plugin. Deeper ones may be names of people's own, such as of a signal or a runtime.
fn fields(
    component: Component,
    raw: &RawOverride,
    key: &str,
    report: &Report<'_>,
) -> Vec<OverriddenField> {
    let mut fields = Vec::new();
    for (top, value) in &raw.config {
        let name = top.get_ref();
        fields.push(OverriddenField {
            name: name.clone(),
            location: report.location(top.span()),
            key: format!("{key}.{name}"),
        });
        let plugins = match value.get_ref() {
            toml::Value::Table(table) if component == Component::Containerd => table,
            _ => continue,
        };
        if name != "plugins" {
            continue;
        }
        for (plugin, settings) in plugins {
            let settings = settings.as_table().into_iter().flatten();
            fields.extend(settings.map(|(setting, _)| OverriddenField {
                name: setting.clone(),
                location:
                    report.location(
                        report.key_below(top.span(), &[plugin.as_str(), setting.as_str()]),
                    ),
                key: format!("{key}.{name}.{plugin}.{setting}"),
            }));
        }
    }
    fields
}

/// Names what JSON and YAML have no counterpart for.
fn without_counterpart(value: &toml::Value) -> Option<&'static str> {
    match value {
        toml::Value::Datetime(_) => Some("a date or a time"),
        toml::Value::Float(number) if !number.is_finite() => Some("an infinite number or none"),
        toml::Value::Array(items) => items.iter().find_map(without_counterpart),
        toml::Value::Table(table) => table.values().find_map(without_counterpart),
        _ => None,
    }
}
