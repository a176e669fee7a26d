//! Where a registry that is not cofferdam's stands in for its own.

use super::*;
use crate::inventory::RegistryAccess;
use crate::layout;

fn with(login: Option<&str>) -> Desired {
    let registry = "[registry]\naddress = \"harbor.example.org/k8s\"\naddresses = [\"10.0.9.9\"]\nca_file = \"ca.crt\"\n";
    let login_keys = login.map_or("", |_| "user = \"robot\"\npassword_file = \"p\"\n");
    let text = SMALL.replace("[zones.a]", &format!("{registry}{login_keys}[zones.a]"));
    let mut inventory = inventory::parse(&text, Utf8Path::new("inventory.toml")).unwrap();
    inventory.registry.as_mut().unwrap().access = Some(RegistryAccess {
        ca: "CA\n".to_owned(),
        login: login.map(|password| format!("robot:{password}")),
    });
    of_inventory(&inventory).1
}

const PAUSE_HOSTS: &str = "/etc/containerd/certs.d/registry.k8s.io/hosts.toml";

#[test]
fn hosts_read_from_it_and_run_none() {
    let desired = with(None);
    for host in desired.hosts.values() {
        assert!(host.registry.is_none());
        assert!(
            !host
                .units
                .iter()
                .any(|unit| unit.name == "registry.service")
        );
        assert!(!host.binaries.contains_key("registry"));
        assert_eq!(host.registries, ["harbor.example.org/k8s"]);
        assert_eq!(text(host, layout::FOREIGN_REGISTRY_CA), "CA\n");
        let named = text(host, layout::FOREIGN_REGISTRY);
        assert_eq!(named, "harbor.example.org/k8s\n");
        assert!(!host.files.contains_key(layout::REGISTRY_CLIENT_KEY));
    }
    let host = &desired.hosts["w1"];
    let hosts: toml::Table = text(host, PAUSE_HOSTS).parse().unwrap();
    let url = "https://harbor.example.org/v2/k8s/registry.k8s.io";
    assert_eq!(hosts["server"].as_str(), Some(url));
    let named = hosts["host"][url].as_table().unwrap();
    assert!(!named.contains_key("client") && !named.contains_key("header"));
    // What no bundle carries ends there, but pods may name the registry itself.
    let nowhere = text(host, "/etc/containerd/certs.d/_default/hosts.toml");
    assert!(nowhere.contains("/v2/k8s/not-in-any-bundle"), "{nowhere}");
    let itself = text(
        host,
        "/etc/containerd/certs.d/harbor.example.org/hosts.toml",
    );
    let itself: toml::Table = itself.parse().unwrap();
    assert_eq!(
        itself["server"].as_str(),
        Some("https://harbor.example.org")
    );
}

#[test]
fn a_login_is_in_secret_files_alone_and_not_for_pods_own_images() {
    let desired = with(Some("secret"));
    let value = "Basic cm9ib3Q6c2VjcmV0";
    for host in desired.hosts.values() {
        let login = text(host, layout::FOREIGN_REGISTRY);
        assert_eq!(login, format!("harbor.example.org/k8s\n{value}\n"));
        for (path, file) in &host.files {
            let is_told = match &file.content {
                Content::Plain(bytes) => String::from_utf8_lossy(bytes).contains(value),
                Content::Secret(_) => {
                    assert_eq!(file.mode & 0o007, 0, "{path}");
                    false
                }
                _ => false,
            };
            assert!(!is_told, "{path}");
        }
        let hosts: toml::Table = text(host, PAUSE_HOSTS).parse().unwrap();
        assert_eq!(hosts["header"]["authorization"].as_str(), Some(value));
        let url = "https://harbor.example.org/v2/k8s/registry.k8s.io";
        let named = &hosts["host"][url];
        assert_eq!(named["header"]["authorization"].as_str(), Some(value));
        let itself = text(
            host,
            "/etc/containerd/certs.d/harbor.example.org/hosts.toml",
        );
        assert!(!itself.contains(value));
    }
    // Another password is written without a restart.
    let other = with(Some("other"));
    let inputs = |desired: &Desired| {
        let units = desired.hosts["w1"].units.iter();
        let mut units = units.filter(|unit| unit.name == "containerd.service");
        units.next().unwrap().inputs
    };
    assert!(inputs(&desired).is_some());
    assert_eq!(inputs(&desired), inputs(&other));
}
