//! Kubeconfigs, rendered from the site's certificates.

use super::builder::Inputs;
use super::materials::CLUSTER_CA;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

/// A kubeconfig with its certificates inside, as YAML; none while one of its
/// materials is still to be minted. It holds a private key.
pub fn kubeconfig(inputs: Inputs<'_>, material: &str, server: &str) -> Option<String> {
    let cluster = inputs.inventory.cluster.name.clone();
    with_ways(inputs, material, &[(cluster, server.to_owned())])
}

/// As [`kubeconfig`], with several ways to the same cluster: each by a name of
/// its own and the API server's URL. The first is current.
pub fn with_ways(inputs: Inputs<'_>, material: &str, ways: &[(String, String)]) -> Option<String> {
    let authority = inputs.material(CLUSTER_CA)?.certificate.as_ref()?;
    let user = inputs.material(material)?;
    let certificate = user.certificate.as_ref()?;
    let name = material.split('@').next().unwrap_or(material);
    let context = |way: &str| format!("{name}@{way}");
    let (first, _) = ways.first()?;
    let cluster = |(way, server): &(String, String)| {
        json!({"name": way, "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(authority),
        }})
    };
    let contexts = ways
        .iter()
        .map(|(way, _)| json!({"name": context(way), "context": {"cluster": way, "user": name}}));
    let value = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": ways.iter().map(cluster).collect::<Vec<_>>(),
        "users": [{"name": name, "user": {
            "client-certificate-data": STANDARD.encode(certificate),
            "client-key-data": STANDARD.encode(&user.secret),
        }}],
        "contexts": contexts.collect::<Vec<_>>(),
        "current-context": context(first),
    });
    serde_yaml_ng::to_string(&value).ok()
}
