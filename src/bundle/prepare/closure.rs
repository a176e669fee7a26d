//! Proof that manifests use nothing but the bundle's images.
//!
//! Manifests are minijinja templates and refer to images by name:
//! `{{ images["registry.k8s.io/coredns/coredns"] }}`. The check looks at the text
//! (where it can name the line), then renders the template with stand-ins for all
//! values, once with everything true and once with everything false or empty, and
//! looks at every `image` in the result.

use anyhow::{Context, Result, anyhow, bail};
use minijinja::value::{Enumerator, Object, ObjectRepr, Value};
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde::Deserialize as _;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// The variable that maps an image's name to its reference.
const IMAGES: &str = "images";

/// What the check knows.
#[derive(Debug, Clone, Default)]
pub struct Closure {
    /// Name of each image in the bundle, and the reference that stands for it.
    pub images: BTreeMap<String, String>,
    /// Values for variables that a stand-in can't serve, such as numbers that a
    /// template calculates with.
    pub samples: BTreeMap<String, serde_json::Value>,
}

impl Closure {
    /// Checks one manifest template. An error names manifest, line and image.
    pub fn check(&self, manifest: &str, template: &str) -> Result<()> {
        let context = || format!("checking manifest {manifest}");
        self.check_text(template).with_context(context)?;
        for truth in [Truth::True, Truth::False] {
            let rendered = self.render(template, truth).with_context(context)?;
            self.check_rendered(template, &rendered)
                .with_context(context)?;
        }
        Ok(())
    }

    fn check_text(&self, template: &str) -> Result<()> {
        for (number, line) in (1..).zip(template.lines()) {
            for name in image_lookups(line) {
                let name = name.ok_or_else(|| {
                    anyhow!("line {number}: write `images[\"NAME\"]` with the name itself")
                })?;
                if !self.images.contains_key(name) {
                    bail!("line {number}: image {name} is not in the bundle's definition");
                }
            }
            if let Some(value) = literal_image(line) {
                bail!(
                    "line {number}: image {value} is written out; write \
                     {{{{ images[\"NAME\"] }}}}, so that it comes from the bundle"
                );
            }
        }
        Ok(())
    }

    fn render(&self, template: &str, truth: Truth) -> Result<String> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        let line = |error: &minijinja::Error| match error.line() {
            Some(line) => format!("line {line}: {error}"),
            None => error.to_string(),
        };
        let parsed = environment
            .template_from_str(template)
            .map_err(|error| anyhow!(line(&error)))?;
        let mut context: BTreeMap<String, Value> = BTreeMap::new();
        for name in parsed.undeclared_variables(false) {
            context.insert(name, Value::from_object(StandIn { truth }));
        }
        for (name, sample) in &self.samples {
            context.insert(name.clone(), Value::from(minijinja::value::Serde(sample)));
        }
        let images: BTreeMap<String, Value> = self
            .images
            .iter()
            .map(|(name, reference)| (name.clone(), Value::from(reference)))
            .collect();
        context.insert(IMAGES.to_owned(), Value::from_object(images));
        parsed
            .render(Value::from_object(context))
            .map_err(|error| anyhow!(line(&error)))
    }

    fn check_rendered(&self, template: &str, rendered: &str) -> Result<()> {
        let known: BTreeSet<&str> = self.images.values().map(String::as_str).collect();
        let mut unknown = Vec::new();
        for document in serde_yaml_ng::Deserializer::from_str(rendered) {
            let document = serde_yaml_ng::Value::deserialize(document)
                .context("parsing the rendered manifest as YAML")?;
            collect_images(&document, &known, &mut unknown);
        }
        let Some(image) = unknown.first() else {
            return Ok(());
        };
        let line = (1..)
            .zip(template.lines())
            .find(|(_, line)| line.contains(image.as_str()));
        let place = line
            .map(|(number, _)| format!("line {number}: "))
            .unwrap_or_default();
        bail!("{place}image {image} is not from the bundle; write {{{{ images[\"NAME\"] }}}}")
    }
}

/// Names that a line looks up in `images`; `None` for a lookup whose name is not
/// written out.
fn image_lookups(line: &str) -> Vec<Option<&str>> {
    let mut lookups = Vec::new();
    let mut rest = line;
    while let Some(position) = rest.find(IMAGES) {
        let before = rest[..position].chars().next_back();
        let after = rest[position + IMAGES.len()..].trim_start();
        rest = &rest[position + IMAGES.len()..];
        let part_of_word = before
            .is_some_and(|character| character.is_alphanumeric() || "_./-".contains(character));
        let Some(lookup) = after.strip_prefix('[').filter(|_| !part_of_word) else {
            continue;
        };
        let lookup = lookup.trim_start();
        let quoted = ['"', '\''].iter().find_map(|quote| {
            let (name, end) = lookup.strip_prefix(*quote)?.split_once(*quote)?;
            end.trim_start().starts_with(']').then_some(name)
        });
        lookups.push(quoted);
    }
    lookups
}

/// The value of an `image:` key that is not looked up.
fn literal_image(line: &str) -> Option<&str> {
    let content = line.trim_start().trim_start_matches("- ").trim_start();
    let value = ["image:", "\"image\":", "'image':"]
        .iter()
        .find_map(|key| content.strip_prefix(key))?
        .trim();
    let value = value
        .split(" #")
        .next()
        .unwrap_or(value)
        .trim()
        .trim_matches(['"', '\'', ',']);
    let literal = !value.is_empty() && !value.contains("{{") && !value.contains("{%");
    // A mapping under a key `image:` (as CRDs have it) starts with a brace or nothing.
    (literal && !value.starts_with(['{', '[', '|', '>', '&', '*'])).then_some(value)
}

fn collect_images(value: &serde_yaml_ng::Value, known: &BTreeSet<&str>, unknown: &mut Vec<String>) {
    match value {
        serde_yaml_ng::Value::Mapping(mapping) => {
            for (key, value) in mapping {
                match value.as_str() {
                    Some(image) if key.as_str() == Some("image") => {
                        if !known.contains(image) {
                            unknown.push(image.to_owned());
                        }
                    }
                    _ => collect_images(value, known, unknown),
                }
            }
        }
        serde_yaml_ng::Value::Sequence(items) => {
            items
                .iter()
                .for_each(|item| collect_images(item, known, unknown));
        }
        serde_yaml_ng::Value::Tagged(tagged) => collect_images(&tagged.value, known, unknown),
        _ => {}
    }
}

/// Which way conditions on stand-ins go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Truth {
    True,
    False,
}

/// A value that serves every use that templates of manifests make of values: it has
/// every attribute, is printed as a word, and is a list of one or none.
#[derive(Debug)]
struct StandIn {
    truth: Truth,
}

impl Object for StandIn {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn get_value(self: &Arc<Self>, _key: &Value) -> Option<Value> {
        Some(Value::from_object(Self { truth: self.truth }))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match self.truth {
            Truth::True => Enumerator::Values(vec![Value::from_object(Self { truth: self.truth })]),
            Truth::False => Enumerator::Empty,
        }
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.truth == Truth::True
    }

    fn render(self: &Arc<Self>, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("stand-in")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closure() -> Closure {
        let dns = "registry.k8s.io/coredns/coredns";
        let reference = format!("{dns}:v1@sha256:{}", "a".repeat(64));
        Closure {
            images: BTreeMap::from([(dns.to_owned(), reference)]),
            ..Closure::default()
        }
    }

    #[test]
    fn accepts_what_comes_from_the_bundle() {
        for template in [
            "spec:\n  image: {{ images[\"registry.k8s.io/coredns/coredns\"] }}\n",
            "- image: \"{{ images['registry.k8s.io/coredns/coredns'] }}\"\n",
            "a: {{ cluster.domain }}\n{%- if cluster.upstreams %}\nb: {{ cluster.upstreams | join(\" \") }}\n{%- endif %}\n",
            "{% for zone in zones %}\n- name: {{ zone.name }}\n{% endfor %}\n",
            "# image: nginx\nimagePullPolicy: IfNotPresent\nimages: x\n---\nkind: List\n",
            "image:\n  repository: x\n",
        ] {
            closure().check("dns", template).unwrap();
        }
    }

    #[test]
    fn names_image_manifest_and_line() {
        for (template, expected) in [
            (
                "a: 1\nimage: nginx:1.25\n",
                "line 2: image nginx:1.25 is written out",
            ),
            (
                "- image: 'x/y@sha256:1' # pinned\n",
                "line 1: image x/y@sha256:1 is written out",
            ),
            (
                "a: 1\nb: 2\nimage: {{ images[\"docker.io/x\"] }}\n",
                "line 3: image docker.io/x is not in the bundle's definition",
            ),
            (
                "image: {{ images[name] }}\n",
                "line 1: write `images[\"NAME\"]`",
            ),
            (
                "a: [{name: x, image: nginx}]\n",
                "line 1: image nginx is not from the bundle",
            ),
            (
                "x: 1\nimage: {{ cluster.image }}\n",
                "image stand-in is not from the bundle",
            ),
            (
                "{% if cluster.x %}\na: 1\n{% else %}\nb: {image: nginx}\n{% endif %}\n",
                "line 4: image nginx is not from",
            ),
            ("a: 1\nb: {{ broken\n", "line 2"),
            ("a: {{ 1 + cluster.replicas }}\n", "line 1"),
            ("a: [\n", "parsing the rendered manifest"),
        ] {
            let error = format!("{:#}", closure().check("dns", template).unwrap_err());
            assert!(error.contains(expected), "{expected}: {error}");
            assert!(error.contains("checking manifest dns"), "{error}");
        }
    }

    #[test]
    fn samples_serve_what_stand_ins_cannot() {
        let mut closure = closure();
        let sample = serde_json::json!({"replicas": 2});
        closure.samples.insert("cluster".to_owned(), sample);
        closure
            .check("dns", "a: {{ 1 + cluster.replicas }}\n")
            .unwrap();
    }
}
