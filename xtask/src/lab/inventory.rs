//! The inventory of the lab, as an operator would write it. Pure.

use super::layout::{Host, JUMP_ADDRESS, Kind, Layout};

/// What this kind of machine needs and a real site does not: the lab's hosts
/// live on a kernel with cgroup v1, without the right to raise limits, and on
/// the machine's own disk. All of it reaches the product as ordinary overrides.
const OVERRIDES: &str = r#"# The lab's kernel has cgroup v1, which kubelet 1.35 and later refuses unless
# told otherwise. All hosts share one disk, which kubelet thinks is nearly full.
[overrides.kubelet.config]
failCgroupV1 = false
failSwapOn = false
imageGCHighThresholdPercent = 100

[overrides.kubelet.config.evictionHard]
"memory.available" = "2%"
"nodefs.available" = "2%"
"nodefs.inodesFree" = "2%"
"imagefs.available" = "2%"
"imagefs.inodesFree" = "2%"

# The limit of connections belongs to the machine, not to a host.
[overrides.kube-proxy.config.conntrack]
maxPerCore = 0

# Hosts lack the right to lower a process's OOM score.
[overrides.containerd.config.plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
"#;

/// The text of `inventory.toml` for a lab.
pub fn text(layout: &Layout) -> String {
    let survive = match survived(layout) {
        None => String::new(),
        Some(loss) => format!("survive = \"{loss}\"\n"),
    };
    let mut text = format!(
        "# Written by `cargo xtask lab up`.\n\
         [cluster]\nname = \"lab\"\n{survive}\n\
         [ssh]\nuser = \"root\"\nkey = \"id_ed25519\"\njump_host = \"{JUMP_ADDRESS}\"\n\n\
         [site]\npath = \"site\"\n\n"
    );
    for zone in &layout.zones {
        text.push_str(&format!("[zones.{}]\n", zone.name));
    }
    let has_witness = layout.hosts.iter().any(|host| host.kind == Kind::Witness);
    for host in &layout.hosts {
        // A member of etcd that is named so leaves it to no other by default.
        let roles = match host.kind {
            Kind::Master if has_witness => "\"control-plane\", \"etcd\"",
            Kind::Master => "\"control-plane\"",
            Kind::Worker => "\"worker\"",
            Kind::Witness => "\"etcd\"",
        };
        text.push_str(&format!(
            "\n[[hosts]]\nname = \"{}\"\naddress = \"{}\"\nzone = \"{}\"\nroles = [{roles}]\n",
            host.name, host.address, host.zone
        ));
    }
    text.push('\n');
    text.push_str(OVERRIDES);
    text
}

/// What members of etcd that are not spread over zones outlive instead.
fn survived(layout: &Layout) -> Option<&'static str> {
    let members = layout.hosts.iter();
    let members: Vec<&Host> = members.filter(|host| host.kind != Kind::Worker).collect();
    let spare = members.len().saturating_sub(1) / 2;
    let in_zone = |zone: &str| members.iter().filter(|host| host.zone == zone).count();
    let fullest = layout.zones.iter().map(|zone| in_zone(&zone.name)).max();
    match (members.len(), fullest) {
        (0 | 1, _) => None,
        (2, _) => Some("nothing"),
        (_, Some(fullest)) if fullest > spare => Some("host"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::Wanted;
    use super::*;

    #[test]
    fn the_text_is_toml_with_every_host_zone_and_override() {
        let wanted = Wanted {
            masters: 1,
            workers: 2,
            ..Wanted::default()
        };
        let text = text(&Layout::spread(&wanted).unwrap());
        let value: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(value["ssh"]["jump_host"].as_str(), Some("10.77.9.2"));
        assert_eq!(value["ssh"]["key"].as_str(), Some("id_ed25519"));
        assert_eq!(value["site"]["path"].as_str(), Some("site"));
        let zones: Vec<&String> = value["zones"].as_table().unwrap().keys().collect();
        assert_eq!(zones, ["a", "b"]);
        let hosts: Vec<String> = value["hosts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|host| {
                format!(
                    "{} {} {} {}",
                    host["name"].as_str().unwrap(),
                    host["address"].as_str().unwrap(),
                    host["zone"].as_str().unwrap(),
                    host["roles"][0].as_str().unwrap()
                )
            })
            .collect();
        assert_eq!(
            hosts,
            [
                "m1 10.77.1.11 a control-plane",
                "w1 10.77.1.21 a worker",
                "w2 10.77.2.22 b worker"
            ]
        );
        let overrides = &value["overrides"];
        let kubelet = &overrides["kubelet"]["config"];
        assert_eq!(kubelet["failCgroupV1"].as_bool(), Some(false));
        assert_eq!(kubelet["failSwapOn"].as_bool(), Some(false));
        assert_eq!(
            kubelet["evictionHard"]["nodefs.available"].as_str(),
            Some("2%")
        );
        let proxy = &overrides["kube-proxy"]["config"];
        assert_eq!(proxy["conntrack"]["maxPerCore"].as_integer(), Some(0));
        let runtime = &overrides["containerd"]["config"]["plugins"]["io.containerd.cri.v1.runtime"];
        assert_eq!(runtime["restrict_oom_score_adj"].as_bool(), Some(true));
    }

    #[test]
    fn masters_that_are_not_spread_are_accepted_by_a_key() {
        let zones = |names: &str| names.chars().map(String::from).collect();
        for (masters, names, expected) in [
            (1, "ab", None),
            (2, "ab", Some("nothing")),
            (3, "abc", None),
            (3, "ab", Some("host")),
            (5, "abc", None),
        ] {
            let wanted = Wanted {
                masters,
                workers: 2,
                zones: zones(names),
                ..Wanted::default()
            };
            let layout = Layout::spread(&wanted).unwrap();
            assert_eq!(survived(&layout), expected, "{masters} in {names}");
        }
    }
}
