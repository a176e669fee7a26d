//! The software bill of materials as CycloneDX 1.5 has it in JSON. Pure: the same
//! bundle gives the same bytes, so there is no time in it.
//!
//! Source: <https://cyclonedx.org/docs/1.5/json/>.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

pub const SPEC_VERSION: &str = "1.5";

/// The document. Unknown members are left alone when it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    pub bom_format: String,
    pub spec_version: String,
    /// `urn:uuid:…`, out of the lock's digest.
    pub serial_number: String,
    pub version: u32,
    pub metadata: Metadata,
    /// Sorted by reference.
    pub components: Vec<Component>,
    /// Sorted by reference; those that depend on nothing are left out.
    pub dependencies: Vec<Dependency>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The bundle.
    pub component: Component,
}

/// One thing in the bundle, or in something in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    #[serde(rename = "type")]
    pub kind: Kind,
    #[serde(rename = "bom-ref")]
    pub reference: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hashes: Vec<Hash>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub licenses: Vec<Licence>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purl: Option<String>,
}

/// CycloneDX' words for kinds of components.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Application,
    Container,
    File,
    Library,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hash {
    pub alg: String,
    /// Hex digits.
    pub content: String,
}

/// An SPDX expression, or whatever else a distribution calls a licence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Licence {
    Expression(String),
    License { name: String },
}

impl Licence {
    /// As it is written.
    pub fn text(&self) -> &str {
        match self {
            Self::Expression(text) | Self::License { name: text } => text,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dependency {
    #[serde(rename = "ref")]
    pub reference: String,
    pub depends_on: Vec<String>,
}

/// Collects components and what they consist of, each once.
#[derive(Debug, Default)]
pub(super) struct Collector {
    components: BTreeMap<String, Component>,
    dependencies: BTreeMap<String, BTreeSet<String>>,
}

impl Collector {
    /// Adds a component, as a part of another.
    pub(super) fn add(&mut self, of: &str, component: Component) {
        let reference = component.reference.clone();
        self.dependencies
            .entry(of.to_owned())
            .or_default()
            .insert(reference.clone());
        self.components.entry(reference).or_insert(component);
    }

    pub(super) fn finish(self, bundle: Component, serial_number: String) -> Document {
        let dependencies = self.dependencies.into_iter();
        Document {
            bom_format: "CycloneDX".to_owned(),
            spec_version: SPEC_VERSION.to_owned(),
            serial_number,
            version: 1,
            metadata: Metadata { component: bundle },
            components: self.components.into_values().collect(),
            dependencies: dependencies
                .map(|(reference, depends_on)| Dependency {
                    reference,
                    depends_on: depends_on.into_iter().collect(),
                })
                .collect(),
        }
    }
}
