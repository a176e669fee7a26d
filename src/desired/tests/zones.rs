//! What three zones change: whom each host asks first, and where add-ons stand.

use super::*;
use serde_json::Value;

const THREE: &str = r#"
[cluster]
name = "lab"
[zones.a]
[zones.b]
[zones.c]
[[hosts]]
name = "m1"
address = "10.77.1.11"
zone = "a"
roles = ["control-plane"]
[[hosts]]
name = "m2"
address = "10.77.2.12"
zone = "b"
roles = ["control-plane"]
[[hosts]]
name = "m3"
address = "10.77.3.13"
zone = "c"
roles = ["control-plane"]
[[hosts]]
name = "w2"
address = "10.77.2.22"
zone = "b"
roles = ["worker"]
"#;

#[test]
fn images_come_from_the_own_zone_then_from_the_others_and_from_nowhere_else() {
    let (_, after) = before_and_after(THREE);
    let hosts = text(
        &after.hosts["w2"],
        "/etc/containerd/certs.d/docker.io/hosts.toml",
    );
    let table: toml::Table = hosts.parse().unwrap();
    let named = table["host"].as_table().unwrap();
    // The order is that of the file.
    let mut places: Vec<(usize, &str)> = ["10.77.1.11", "10.77.2.12", "10.77.3.13"]
        .into_iter()
        .map(|address| {
            (
                hosts.find(&format!("host.\"https://{address}")).unwrap(),
                address,
            )
        })
        .collect();
    places.sort_unstable();
    assert_eq!(places[0].1, "10.77.2.12", "{hosts}");
    assert_eq!(named.len(), 3, "{hosts}");
    // Without it, containerd goes to the real one last of all.
    let server = table["server"].as_str().unwrap();
    assert!(server.starts_with("https://10.77."), "{hosts}");
    assert_eq!(after.hosts["w2"].registries[0], "10.77.2.12:5000");
}

#[test]
fn nodes_ask_their_proxy_and_masters_components_their_own_host() {
    let (_, after) = before_and_after(THREE);
    for (name, own) in [("m1", "10.77.1.11"), ("m2", "10.77.2.12")] {
        let host = &after.hosts[name];
        for file in ["controller-manager", "scheduler"] {
            let kubeconfig = text(host, &format!("/etc/kubernetes/{file}.kubeconfig"));
            let server = format!("server: https://{own}:6443");
            assert!(kubeconfig.contains(&server), "{name} {file}: {kubeconfig}");
        }
        let unit = text(host, "/etc/systemd/system/kube-apiserver.service");
        let servers = unit.split("--etcd-servers=").nth(1).unwrap();
        let servers = servers.split_whitespace().next().unwrap();
        assert_eq!(servers.trim_matches('"'), format!("https://{own}:2379"));
    }
    for host in after.hosts.values() {
        let proxied = host.files.keys().filter(|path| {
            let of = [
                "/kubelet.kubeconfig",
                "/kube-proxy.kubeconfig",
                "/flanneld.kubeconfig",
            ];
            of.iter().any(|end| path.ends_with(end))
        });
        let mut count = 0;
        for path in proxied {
            count += 1;
            assert!(
                text(host, path).contains("server: https://127.0.0.1:6444"),
                "{path}"
            );
        }
        assert_eq!(count, 3);
    }
}

/// Replicas of each add-on stand in different zones, and are not all
/// interrupted at once.
#[test]
fn add_ons_are_spread_over_zones_and_have_budgets() {
    for (inventory, zones) in [(THREE, 3), (SMALL, 2), (ALONE, 1)] {
        let (_, after) = before_and_after(inventory);
        let sets = after.manifests.iter().map(|set| set.yaml.as_str());
        let documents: Vec<Value> = sets.flat_map(documents).collect();
        let deployments = documents.iter().filter(|each| each["kind"] == "Deployment");
        let mut count = 0;
        for deployment in deployments {
            count += 1;
            let name = &deployment["metadata"]["name"];
            let labels = &deployment["spec"]["template"]["metadata"]["labels"];
            let spread = &deployment["spec"]["template"]["spec"]["topologySpreadConstraints"];
            let over_zones = spread.as_array().unwrap().iter();
            let mut over_zones =
                over_zones.filter(|each| each["topologyKey"] == "topology.kubernetes.io/zone");
            let over_zones = over_zones.next().unwrap();
            let (unsatisfiable, domains) = match zones {
                1 => ("ScheduleAnyway", Value::Null),
                _ => ("DoNotSchedule", Value::from(2)),
            };
            assert_eq!(over_zones["whenUnsatisfiable"], unsatisfiable, "{name}");
            assert_eq!(over_zones["minDomains"], domains, "{name}");
            assert_eq!(
                over_zones["labelSelector"]["matchLabels"], *labels,
                "{name}"
            );
            let has_budget = documents.iter().any(|each| {
                each["kind"] == "PodDisruptionBudget"
                    && each["metadata"]["namespace"] == deployment["metadata"]["namespace"]
                    && each["spec"]["selector"]["matchLabels"] == *labels
            });
            assert!(has_budget, "{name} has no disruption budget");
        }
        assert_eq!(count, 2);
    }
}

fn documents(yaml: &str) -> Vec<Value> {
    serde_yaml_ng::Deserializer::from_str(yaml)
        .map(|document| serde::Deserialize::deserialize(document).unwrap())
        .collect()
}

/// Contexts of the administrator's kubeconfig with their servers, the current
/// one first.
fn ways(text: &str) -> Vec<String> {
    let inventory = inventory::parse(text, Utf8Path::new("inventory.toml")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let root = Utf8PathBuf::from_path_buf(directory.path().join("site")).unwrap();
    let site = Site::open(&root, "test").unwrap();
    let now = OffsetDateTime::from_unix_timestamp(1_790_000_000).unwrap();
    site.mint(&materials::materials(&inventory), now).unwrap();
    let kubeconfig = admin_kubeconfig(&inventory, &site.view().unwrap()).unwrap();
    let value: Value = serde_yaml_ng::from_str(&kubeconfig).unwrap();
    assert_eq!(value["current-context"], value["contexts"][0]["name"]);
    let contexts = value["contexts"].as_array().unwrap().iter();
    let server = |context: &Value| {
        let mut clusters = value["clusters"].as_array().unwrap().iter();
        let cluster = clusters.find(|each| each["name"] == context["context"]["cluster"]);
        cluster.unwrap()["cluster"]["server"].clone()
    };
    contexts
        .map(|context| format!("{} {}", context["name"], server(context)).replace('"', ""))
        .collect()
}

#[test]
fn the_kubeconfig_knows_every_master() {
    let each = [
        "admin@lab-m1 https://10.77.1.11:6443",
        "admin@lab-m2 https://10.77.2.12:6443",
        "admin@lab-m3 https://10.77.3.13:6443",
    ];
    let expected = |first| [&[first][..], &each].concat();
    assert_eq!(ways(THREE), expected("admin@lab https://10.77.1.11:6443"));
    let named = THREE.replace(
        "name = \"lab\"",
        "name = \"lab\"\napi_names = [\"kubernetes.example.com\"]",
    );
    let first = "admin@lab https://kubernetes.example.com:6443";
    assert_eq!(ways(&named), expected(first));
    assert_eq!(ways(ALONE), ["admin@alone https://10.77.1.11:6443"]);
}
