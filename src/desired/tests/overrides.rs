//! What the inventory may change of components' settings, and what not.

use super::*;
use serde_json::Value;

#[test]
fn overrides_reach_flags_and_configuration() {
    let (_, after) = before_and_after(SMALL);
    let host = &after.hosts["w1"];
    assert!(text(host, "/etc/kubernetes/kubelet.yaml").contains("failCgroupV1: false"));
    assert!(text(host, "/etc/systemd/system/kubelet.service").contains("--v=2"));
    let config = text(host, "/etc/containerd/config.toml");
    assert!(config.contains("restrict_oom_score_adj = true"), "{config}");
    assert!(
        config.contains("sandbox = \"registry.k8s.io/pause:3.10.2\""),
        "{config}"
    );
}

/// Every setting below a value, with its keys from the top.
fn settings(value: &Value, above: &[String], found: &mut Vec<(Vec<String>, Value)>) {
    let Value::Object(table) = value else {
        found.push((above.to_vec(), value.clone()));
        return;
    };
    for (key, value) in table {
        let path = [above, std::slice::from_ref(key)].concat();
        settings(value, &path, found);
    }
}

#[test]
fn whatever_is_set_is_either_managed_or_keeps_its_form() {
    let (_, after) = before_and_after(ALONE);
    let host = &after.hosts["m1"];
    let mut count = 0;
    for (component, path) in [
        ("kubelet", "/etc/kubernetes/kubelet.yaml"),
        ("kube-proxy", "/etc/kubernetes/kube-proxy.yaml"),
        ("containerd", "/etc/containerd/config.toml"),
        ("registry", "/etc/cofferdam/registry.yaml"),
    ] {
        let text = text(host, path);
        let config: Value = if path.ends_with(".toml") {
            toml::from_str(&text).unwrap()
        } else {
            serde_yaml_ng::from_str(&text).unwrap()
        };
        let mut found = Vec::new();
        settings(&config, &[], &mut found);
        for (keys, value) in found {
            let odd = if value.is_number() {
                toml::Value::from("odd")
            } else {
                toml::Value::from(0.5)
            };
            let above = ["overrides", component, "config"].map(str::to_owned);
            let nested = above.iter().chain(&keys).rev().fold(odd, |below, key| {
                toml::Value::Table([(key.clone(), below)].into_iter().collect())
            });
            let inventory = format!("{ALONE}{}", toml::to_string(&nested).unwrap());
            let name = keys.join(".");
            let Err(refused) = inventory::parse(&inventory, Utf8Path::new("inventory.toml")) else {
                panic!("{component}: {name} has no rule");
            };
            assert_eq!(refused.problems.len(), 1, "{refused}");
            assert!(
                refused.problems[0].key.starts_with("overrides."),
                "{refused}"
            );
            count += 1;
        }
    }
    assert!(count > 40, "{count}");
}
