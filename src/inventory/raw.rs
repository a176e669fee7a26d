//! The inventory as it is written.
//!
//! Rules for these structs: values that are checked later are `Spanned`, so that the check can
//! point to them; every table denies unknown keys; `flatten`, `untagged` and internally tagged
//! enums are never used, since they lose the spans.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use toml::Spanned;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawInventory {
    pub(super) cluster: Spanned<RawCluster>,
    #[serde(default)]
    pub(super) ssh: RawSsh,
    #[serde(default)]
    pub(super) site: RawSite,
    #[serde(default)]
    pub(super) zones: BTreeMap<Spanned<String>, RawZone>,
    #[serde(default)]
    pub(super) hosts: Vec<RawHost>,
    #[serde(default)]
    pub(super) drain: RawDrain,
    pub(super) registry: Option<RawRegistry>,
    #[serde(default)]
    pub(super) trusted_keys: Vec<RawTrustedKey>,
    #[serde(default)]
    pub(super) overrides: BTreeMap<Spanned<String>, RawOverride>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRegistry {
    pub(super) address: Spanned<String>,
    #[serde(default)]
    pub(super) addresses: Vec<Spanned<String>>,
    pub(super) ca_file: Spanned<String>,
    pub(super) user: Option<Spanned<String>>,
    pub(super) password_file: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTrustedKey {
    pub(super) key: Spanned<String>,
    pub(super) id: Option<Spanned<String>>,
    pub(super) comment: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDrain {
    pub(super) timeout_seconds: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) pods: Vec<RawDrainRule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDrainRule {
    pub(super) selector: Spanned<String>,
    pub(super) grace_seconds: Option<Spanned<i64>>,
    pub(super) timeout_seconds: Option<Spanned<i64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCluster {
    pub(super) name: Spanned<String>,
    pub(super) domain: Option<Spanned<String>>,
    pub(super) pod_cidr: Option<Spanned<String>>,
    pub(super) service_cidr: Option<Spanned<String>>,
    pub(super) pod_mask: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) api_names: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) dns_upstreams: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) ntp_servers: Vec<Spanned<String>>,
    pub(super) survive: Option<Spanned<String>>,
    pub(super) swap: Option<Spanned<String>>,
    pub(super) mtu: Option<Spanned<i64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSsh {
    pub(super) user: Option<Spanned<String>>,
    pub(super) port: Option<Spanned<i64>>,
    pub(super) key: Option<Spanned<String>>,
    pub(super) jump_host: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSite {
    pub(super) path: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawZone {
    pub(super) registry: Option<Spanned<String>>,
    pub(super) max_unavailable: Option<Spanned<FlagValue>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHost {
    pub(super) name: Spanned<String>,
    pub(super) address: Spanned<String>,
    pub(super) zone: Spanned<String>,
    pub(super) roles: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    pub(super) labels: BTreeMap<Spanned<String>, Spanned<String>>,
    #[serde(default)]
    pub(super) ssh: RawHostSsh,
    #[serde(default)]
    pub(super) overrides: BTreeMap<Spanned<String>, RawOverride>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHostSsh {
    pub(super) user: Option<Spanned<String>>,
    pub(super) port: Option<Spanned<i64>>,
    pub(super) key: Option<Spanned<String>>,
    pub(super) address: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOverride {
    #[serde(default)]
    pub(super) flags: BTreeMap<Spanned<String>, Spanned<FlagValue>>,
    #[serde(default)]
    pub(super) config: BTreeMap<Spanned<String>, Spanned<toml::Value>>,
}

/// A flag's value. On a command line all are text, so whole numbers and booleans may be written
/// without quotes.
#[derive(Debug)]
pub(super) struct FlagValue(pub(super) String);

impl<'de> Deserialize<'de> for FlagValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FlagValueVisitor;

        impl Visitor<'_> for FlagValueVisitor {
            type Value = FlagValue;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string, a whole number or a boolean")
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<FlagValue, E> {
                Ok(FlagValue(value.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<FlagValue, E> {
                Ok(FlagValue(value.to_string()))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<FlagValue, E> {
                Ok(FlagValue(value.to_string()))
            }
        }

        deserializer.deserialize_any(FlagValueVisitor)
    }
}
