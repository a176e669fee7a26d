//! Proof that manifests use nothing but the bundle's images.
//!
//! Manifests are minijinja templates and refer to images by name:
//! `{{ images["registry.k8s.io/coredns/coredns"] }}`. The check looks at the text
//! (where it can name the line), then renders the template for every choice that an
//! inventory can make, and looks at every `image` in the result. A template that an
//! install could not render is found here too.

use anyhow::{Context, Result, anyhow, bail};
use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde::Deserialize as _;
use std::collections::{BTreeMap, BTreeSet};

/// The variable that maps an image's name to its reference.
const IMAGES: &str = "images";

/// What the check knows.
#[derive(Debug, Clone, Default)]
pub struct Closure {
    /// Name of each image in the bundle, and the reference that stands for it.
    pub images: BTreeMap<String, String>,
    /// What templates may name beside them, for each choice that an inventory can
    /// make: `cluster` to its values.
    pub contexts: Vec<BTreeMap<String, serde_json::Value>>,
}

impl Closure {
    /// Checks one manifest template. An error names manifest, line and image.
    pub fn check(&self, manifest: &str, template: &str) -> Result<()> {
        let context = || format!("checking manifest {manifest}");
        self.check_text(template).with_context(context)?;
        for choice in &self.contexts {
            let rendered = self.render(template, choice).with_context(context)?;
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

    fn render(
        &self,
        template: &str,
        choice: &BTreeMap<String, serde_json::Value>,
    ) -> Result<String> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        let line = |error: &minijinja::Error| match error.line() {
            Some(line) => format!("line {line}: {error}"),
            None => error.to_string(),
        };
        let mut context: BTreeMap<&str, Value> = choice
            .iter()
            .map(|(name, value)| (name.as_str(), Value::from(Serde(value))))
            .collect();
        context.insert(IMAGES, Value::from(Serde(&self.images)));
        environment
            .render_str(template, context)
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
        // A name that is put together stands nowhere; then it is where an image is not
        // looked up by its name.
        let is_put_together = |line: &str| {
            let value = line.split_once("image").map(|(_, rest)| rest);
            value.is_some_and(|rest| rest.contains("{{") && !rest.contains(IMAGES))
        };
        let mut lines = (1..).zip(template.lines());
        let line = lines
            .clone()
            .find(|(_, line)| line.contains(image.as_str()))
            .or_else(|| lines.find(|(_, line)| is_put_together(line)));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn closure() -> Closure {
        let dns = "registry.k8s.io/coredns/coredns";
        let reference = format!("{dns}:v1@sha256:{}", "a".repeat(64));
        Closure {
            images: BTreeMap::from([(dns.to_owned(), reference)]),
            contexts: [true, false].map(context).into(),
        }
    }

    /// One with everything, one with nothing.
    fn context(is_full: bool) -> BTreeMap<String, serde_json::Value> {
        let list: &[&str] = if is_full { &["x"] } else { &[] };
        let cluster = serde_json::json!({
            "domain": "cluster.local",
            "replicas": 2,
            "upstreams": list,
            "x": is_full,
        });
        BTreeMap::from([("cluster".to_owned(), cluster)])
    }

    #[test]
    fn accepts_what_comes_from_the_bundle() {
        for template in [
            "spec:\n  image: {{ images[\"registry.k8s.io/coredns/coredns\"] }}\n",
            "- image: \"{{ images['registry.k8s.io/coredns/coredns'] }}\"\n",
            "a: {{ cluster.domain }}\n{%- if cluster.upstreams %}\nb: {{ cluster.upstreams | join(\" \") }}\n{%- endif %}\n",
            "{% for name in cluster.upstreams %}\n- name: {{ name }}\n{% endfor %}\n",
            "a: {{ 1 + cluster.replicas }}\n",
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
                "x: 1\nimage: {{ cluster.domain }}\n",
                "line 2: image cluster.local is not from the bundle",
            ),
            (
                "{% if cluster.x %}{% if cluster.replicas > 1 %}\nimage: \"{{ 'ng' ~ 'inx' }}\"\n{% endif %}{% endif %}\n",
                "line 2: image nginx is not from the bundle",
            ),
            (
                "{% if cluster.x %}\na: 1\n{% else %}\nb: {image: nginx}\n{% endif %}\n",
                "line 4: image nginx is not from",
            ),
            ("a: 1\nb: {{ broken\n", "line 2"),
            (
                "a: 1\nb: {{ cluster.replica }}\n",
                "line 2: undefined value",
            ),
            (
                "{% for zone in zones %}\n{% endfor %}\n",
                "line 1: undefined value",
            ),
            ("a: [\n", "parsing the rendered manifest"),
        ] {
            let error = format!("{:#}", closure().check("dns", template).unwrap_err());
            assert!(error.contains(expected), "{expected}: {error}");
            assert!(error.contains("checking manifest dns"), "{error}");
        }
    }
}
