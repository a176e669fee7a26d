//! What a site has already: the file that `cofferdam site have` writes, from which
//! `bundle build --have` leaves out what need not be carried again.

use crate::digest::Digest;
use anyhow::{Context, Result, bail};
use camino::Utf8Path;
use fs_err as fs;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The only schema so far.
const SCHEMA: u32 = 1;

/// What all registries of a site have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Have {
    schema: u32,
    /// Name of the cluster, for people.
    pub cluster: String,
    /// The bundle that it was made of last, such as `kubernetes-1.36 1.36.0`, for
    /// people.
    pub bundle: String,
    /// Layers, configurations and files, as bundles carry them.
    pub blobs: BTreeSet<Digest>,
}

impl Have {
    pub fn new(cluster: String, bundle: String, blobs: BTreeSet<Digest>) -> Self {
        Self {
            schema: SCHEMA,
            cluster,
            bundle,
            blobs,
        }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// When it can't be read, or is not such a file.
    pub fn load(path: &Utf8Path) -> Result<Self> {
        let text = fs::read_to_string(path)?;
        Self::parse(&text).with_context(|| {
            format!("reading {path} (it is to be what `cofferdam site have` printed)")
        })
    }

    fn parse(text: &str) -> Result<Self> {
        // The schema is asked first: a file of another one has other keys.
        #[derive(Deserialize)]
        struct SchemaOnly {
            schema: u32,
        }
        let SchemaOnly { schema } = serde_json::from_str(text)?;
        if schema != SCHEMA {
            bail!("it has schema {schema}, this cofferdam knows {SCHEMA}; use a newer one");
        }
        Ok(serde_json::from_str(text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_site_has_round_trips_and_other_files_are_refused() {
        let have = Have::new(
            "c".to_owned(),
            "b 1".to_owned(),
            ["x", "y"].map(Digest::of).into(),
        );
        let text = serde_json::to_string_pretty(&have).unwrap();
        assert_eq!(Have::parse(&text).unwrap(), have);
        for (bad, expected) in [
            (text.replace("\"schema\": 1", "\"schema\": 2"), "schema 2"),
            (text.replace("cluster", "clutter"), "clutter"),
            (text.replace("sha256:", "md5:"), "line 7"),
            (String::new(), "EOF"),
        ] {
            let error = format!("{:#}", Have::parse(&bad).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
