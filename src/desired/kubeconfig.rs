//! Kubeconfigs, rendered from the site's certificates.

use super::builder::Inputs;
use super::materials::CLUSTER_CA;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

/// A kubeconfig with its certificates inside, as YAML; none while one of its
/// materials is still to be minted. It holds a private key.
pub fn kubeconfig(inputs: Inputs<'_>, material: &str, server: &str) -> Option<String> {
    let authority = inputs.material(CLUSTER_CA)?.certificate.as_ref()?;
    let user = inputs.material(material)?;
    let certificate = user.certificate.as_ref()?;
    let cluster = &inputs.inventory.cluster.name;
    let name = material.split('@').next().unwrap_or(material);
    let context = format!("{name}@{cluster}");
    let value = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(authority),
        }}],
        "users": [{"name": name, "user": {
            "client-certificate-data": STANDARD.encode(certificate),
            "client-key-data": STANDARD.encode(&user.secret),
        }}],
        "contexts": [{"name": context, "context": {"cluster": cluster, "user": name}}],
        "current-context": context,
    });
    serde_yaml_ng::to_string(&value).ok()
}
