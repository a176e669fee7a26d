//! One known inventory in every format.

use super::worlds::parsed;
use crate::ports::{Format, Matrix, render};

/// The default lab: a master and a worker in zone a, a worker in zone b.
const LAB: &str = r#"
[cluster]
name = "lab"
[ssh]
jump_host = "10.77.9.2"
[zones.a]
[zones.b]
[[hosts]]
name = "m1"
address = "10.77.1.11"
zone = "a"
roles = ["control-plane"]
[[hosts]]
name = "w1"
address = "10.77.1.21"
zone = "a"
roles = ["worker"]
[[hosts]]
name = "w2"
address = "10.77.2.21"
zone = "b"
roles = ["worker"]
"#;

fn text(inventory: &str, format: Format) -> String {
    render(&Matrix::of(&parsed(inventory)), format).unwrap()
}

#[test]
fn table() {
    insta::assert_snapshot!(text(LAB, Format::Table), @r"
    FROM          TO                    PROTOCOL  PORT   SCOPE          WHY
    jump host     zone a hosts          tcp       22     jump host      cofferdam installs, upgrades and looks after the host
    jump host     zone b hosts          tcp       22     jump host      cofferdam installs, upgrades and looks after the host
    zone a hosts  zone a registries     tcp       5000   within zone    binaries and images; other zones' registries when the own one is down
    zone b hosts  zone a registries     tcp       5000   between zones  binaries and images; other zones' registries when the own one is down
    zone a nodes  zone a control plane  tcp       6443   within zone    each node's API proxy uses every API server, and so do pods through Service kubernetes
    zone b nodes  zone a control plane  tcp       6443   between zones  each node's API proxy uses every API server, and so do pods through Service kubernetes
    zone a nodes  zone a nodes          tcp       10250  within zone    API servers fetch logs and run exec; metrics-server scrapes from whichever node it is on
    zone a nodes  zone b nodes          tcp       10250  between zones  API servers fetch logs and run exec; metrics-server scrapes from whichever node it is on
    zone b nodes  zone a nodes          tcp       10250  between zones  API servers fetch logs and run exec; metrics-server scrapes from whichever node it is on
    zone a nodes  zone a nodes          udp       8472   within zone    pod network (flannel VXLAN); also carries API servers to webhooks and aggregated APIs
    zone a nodes  zone b nodes          udp       8472   between zones  pod network (flannel VXLAN); also carries API servers to webhooks and aggregated APIs
    zone b nodes  zone a nodes          udp       8472   between zones  pod network (flannel VXLAN); also carries API servers to webhooks and aggregated APIs

    jump host             10.77.9.2
    zone a hosts          10.77.1.11, 10.77.1.21
    zone b hosts          10.77.2.21
    zone a registries     10.77.1.11
    zone a nodes          10.77.1.11, 10.77.1.21
    zone a control plane  10.77.1.11
    zone b nodes          10.77.2.21
    ");
}

#[test]
fn table_with_servers_and_odd_ssh() {
    let inventory = LAB.replace(
        "[ssh]",
        "dns_upstreams = [\"192.0.2.53\"]\nntp_servers = [\"192.0.2.123\"]\n[ssh]",
    ) + "ssh = { port = 2222 }\n[[hosts]]\nname = \"r1\"\naddress = \"10.77.2.31\"\nzone = \"b\"\nroles = [\"registry\"]\n\
           ssh = { address = \"198.51.100.7\" }\n";
    insta::assert_snapshot!(text(&inventory.replace("jump_host = \"10.77.9.2\"", ""), Format::Table), @r"
    FROM                                   TO                           PROTOCOL  PORT   SCOPE          WHY
    jump host                              zone a hosts                 tcp       22     jump host      cofferdam installs, upgrades and looks after the host
    jump host                              zone b hosts (198.51.100.7)  tcp       22     jump host      cofferdam installs, upgrades and looks after the host
    jump host                              zone b hosts (10.77.2.21)    tcp       2222   jump host      cofferdam installs, upgrades and looks after the host
    zone a hosts                           zone a registries            tcp       5000   within zone    binaries and images; other zones' registries when the own one is down
    zone a hosts                           zone b registries            tcp       5000   between zones  binaries and images; other zones' registries when the own one is down
    zone b hosts (10.77.2.21, 10.77.2.31)  zone a registries            tcp       5000   between zones  binaries and images; other zones' registries when the own one is down
    zone b hosts (10.77.2.21, 10.77.2.31)  zone b registries            tcp       5000   within zone    binaries and images; other zones' registries when the own one is down
    zone a nodes                           zone a control plane         tcp       6443   within zone    each node's API proxy uses every API server, and so do pods through Service kubernetes
    zone b nodes                           zone a control plane         tcp       6443   between zones  each node's API proxy uses every API server, and so do pods through Service kubernetes
    zone a nodes                           zone a nodes                 tcp       10250  within zone    API servers fetch logs and run exec; metrics-server scrapes from whichever node it is on
    zone a nodes                           zone b nodes                 tcp       10250  between zones  API servers fetch logs and run exec; metrics-server scrapes from whichever node it is on
    zone b nodes                           zone a nodes                 tcp       10250  between zones  API servers fetch logs and run exec; metrics-server scrapes from whichever node it is on
    zone a nodes                           zone a nodes                 udp       8472   within zone    pod network (flannel VXLAN); also carries API servers to webhooks and aggregated APIs
    zone a nodes                           zone b nodes                 udp       8472   between zones  pod network (flannel VXLAN); also carries API servers to webhooks and aggregated APIs
    zone b nodes                           zone a nodes                 udp       8472   between zones  pod network (flannel VXLAN); also carries API servers to webhooks and aggregated APIs
    zone a nodes                           DNS servers                  udp       53     outside        CoreDNS, on whichever node it is, asks the inventory's resolvers
    zone b nodes                           DNS servers                  udp       53     outside        CoreDNS, on whichever node it is, asks the inventory's resolvers
    zone a nodes                           DNS servers                  tcp       53     outside        CoreDNS, on whichever node it is, asks the inventory's resolvers
    zone b nodes                           DNS servers                  tcp       53     outside        CoreDNS, on whichever node it is, asks the inventory's resolvers
    zone a hosts                           NTP servers                  udp       123    outside        hosts keep their clocks by the inventory's time servers
    zone b hosts (10.77.2.21, 10.77.2.31)  NTP servers                  udp       123    outside        hosts keep their clocks by the inventory's time servers

    jump host             unknown: set ssh.jump_host
    zone a hosts          10.77.1.11, 10.77.1.21
    zone a registries     10.77.1.11
    zone b registries     10.77.2.31
    zone a nodes          10.77.1.11, 10.77.1.21
    zone a control plane  10.77.1.11
    zone b nodes          10.77.2.21
    DNS servers           192.0.2.53
    NTP servers           192.0.2.123
    ");
}

#[test]
fn csv() {
    insta::assert_snapshot!(text(LAB, Format::Csv), @r#"
    from,from addresses,to,to addresses,protocol,port,scope,why
    jump host,10.77.9.2,zone a hosts,10.77.1.11 10.77.1.21,tcp,22,jump host,"cofferdam installs, upgrades and looks after the host"
    jump host,10.77.9.2,zone b hosts,10.77.2.21,tcp,22,jump host,"cofferdam installs, upgrades and looks after the host"
    zone a hosts,10.77.1.11 10.77.1.21,zone a registries,10.77.1.11,tcp,5000,within zone,binaries and images; other zones' registries when the own one is down
    zone b hosts,10.77.2.21,zone a registries,10.77.1.11,tcp,5000,between zones,binaries and images; other zones' registries when the own one is down
    zone a nodes,10.77.1.11 10.77.1.21,zone a control plane,10.77.1.11,tcp,6443,within zone,"each node's API proxy uses every API server, and so do pods through Service kubernetes"
    zone b nodes,10.77.2.21,zone a control plane,10.77.1.11,tcp,6443,between zones,"each node's API proxy uses every API server, and so do pods through Service kubernetes"
    zone a nodes,10.77.1.11 10.77.1.21,zone a nodes,10.77.1.11 10.77.1.21,tcp,10250,within zone,API servers fetch logs and run exec; metrics-server scrapes from whichever node it is on
    zone a nodes,10.77.1.11 10.77.1.21,zone b nodes,10.77.2.21,tcp,10250,between zones,API servers fetch logs and run exec; metrics-server scrapes from whichever node it is on
    zone b nodes,10.77.2.21,zone a nodes,10.77.1.11 10.77.1.21,tcp,10250,between zones,API servers fetch logs and run exec; metrics-server scrapes from whichever node it is on
    zone a nodes,10.77.1.11 10.77.1.21,zone a nodes,10.77.1.11 10.77.1.21,udp,8472,within zone,pod network (flannel VXLAN); also carries API servers to webhooks and aggregated APIs
    zone a nodes,10.77.1.11 10.77.1.21,zone b nodes,10.77.2.21,udp,8472,between zones,pod network (flannel VXLAN); also carries API servers to webhooks and aggregated APIs
    zone b nodes,10.77.2.21,zone a nodes,10.77.1.11 10.77.1.21,udp,8472,between zones,pod network (flannel VXLAN); also carries API servers to webhooks and aggregated APIs
    "#);
}

#[test]
fn markdown() {
    insta::assert_snapshot!(text(LAB, Format::Markdown), @r"
    | from | from addresses | to | to addresses | protocol | port | scope | why |
    | --- | --- | --- | --- | --- | --- | --- | --- |
    | jump host | 10.77.9.2 | zone a hosts | 10.77.1.11, 10.77.1.21 | tcp | 22 | jump host | cofferdam installs, upgrades and looks after the host |
    | jump host | 10.77.9.2 | zone b hosts | 10.77.2.21 | tcp | 22 | jump host | cofferdam installs, upgrades and looks after the host |
    | zone a hosts | 10.77.1.11, 10.77.1.21 | zone a registries | 10.77.1.11 | tcp | 5000 | within zone | binaries and images; other zones' registries when the own one is down |
    | zone b hosts | 10.77.2.21 | zone a registries | 10.77.1.11 | tcp | 5000 | between zones | binaries and images; other zones' registries when the own one is down |
    | zone a nodes | 10.77.1.11, 10.77.1.21 | zone a control plane | 10.77.1.11 | tcp | 6443 | within zone | each node's API proxy uses every API server, and so do pods through Service kubernetes |
    | zone b nodes | 10.77.2.21 | zone a control plane | 10.77.1.11 | tcp | 6443 | between zones | each node's API proxy uses every API server, and so do pods through Service kubernetes |
    | zone a nodes | 10.77.1.11, 10.77.1.21 | zone a nodes | 10.77.1.11, 10.77.1.21 | tcp | 10250 | within zone | API servers fetch logs and run exec; metrics-server scrapes from whichever node it is on |
    | zone a nodes | 10.77.1.11, 10.77.1.21 | zone b nodes | 10.77.2.21 | tcp | 10250 | between zones | API servers fetch logs and run exec; metrics-server scrapes from whichever node it is on |
    | zone b nodes | 10.77.2.21 | zone a nodes | 10.77.1.11, 10.77.1.21 | tcp | 10250 | between zones | API servers fetch logs and run exec; metrics-server scrapes from whichever node it is on |
    | zone a nodes | 10.77.1.11, 10.77.1.21 | zone a nodes | 10.77.1.11, 10.77.1.21 | udp | 8472 | within zone | pod network (flannel VXLAN); also carries API servers to webhooks and aggregated APIs |
    | zone a nodes | 10.77.1.11, 10.77.1.21 | zone b nodes | 10.77.2.21 | udp | 8472 | between zones | pod network (flannel VXLAN); also carries API servers to webhooks and aggregated APIs |
    | zone b nodes | 10.77.2.21 | zone a nodes | 10.77.1.11, 10.77.1.21 | udp | 8472 | between zones | pod network (flannel VXLAN); also carries API servers to webhooks and aggregated APIs |
    ");
}

#[test]
fn json() {
    let text = text(LAB, Format::Json);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        value["rows"].as_array().map(Vec::len),
        Some(Matrix::of(&parsed(LAB)).rows.len())
    );
    insta::assert_snapshot!(serde_json::to_string_pretty(&value["rows"][2]).unwrap(), @r#"
    {
      "from": {
        "addresses": [
          "10.77.1.11",
          "10.77.1.21"
        ],
        "group": "hosts",
        "zone": "a"
      },
      "port": 5000,
      "protocol": "tcp",
      "scope": "within-zone",
      "to": {
        "addresses": [
          "10.77.1.11"
        ],
        "group": "registries",
        "zone": "a"
      },
      "why": "binaries and images; other zones' registries when the own one is down"
    }
    "#);
}

#[test]
fn nft() {
    insta::assert_snapshot!(text(LAB, Format::Nft), @r#"
    #!/usr/sbin/nft -f
    # What cluster lab needs of the firewall between its zones.
    # Everything else that this machine forwards is dropped. Load with `nft -f`;
    # loading again replaces these rules at once.

    add table inet cofferdam
    flush table inet cofferdam

    table inet cofferdam {
    	chain forward {
    		type filter hook forward priority filter; policy drop;
    		ct state established,related accept

    		# From the jump host: SSH and nothing else.
    		# jump host to zone a hosts
    		ip saddr 10.77.9.2 ip daddr { 10.77.1.11, 10.77.1.21 } tcp dport 22 counter accept comment "cofferdam installs, upgrades and looks after the host"
    		# jump host to zone b hosts
    		ip saddr 10.77.9.2 ip daddr 10.77.2.21 tcp dport 22 counter accept comment "cofferdam installs, upgrades and looks after the host"

    		# Between zones.
    		# zone b hosts to zone a registries
    		ip saddr 10.77.2.21 ip daddr 10.77.1.11 tcp dport 5000 counter accept comment "binaries and images; other zones' registries when the own one is down"
    		# zone b nodes to zone a control plane
    		ip saddr 10.77.2.21 ip daddr 10.77.1.11 tcp dport 6443 counter accept comment "each node's API proxy uses every API server, and so do pods through Service kubernetes"
    		# zone a nodes to zone b nodes
    		ip saddr { 10.77.1.11, 10.77.1.21 } ip daddr 10.77.2.21 tcp dport 10250 counter accept comment "API servers fetch logs and run exec; metrics-server scrapes from whichever node it is on"
    		# zone b nodes to zone a nodes
    		ip saddr 10.77.2.21 ip daddr { 10.77.1.11, 10.77.1.21 } tcp dport 10250 counter accept comment "API servers fetch logs and run exec; metrics-server scrapes from whichever node it is on"
    		# zone a nodes to zone b nodes
    		ip saddr { 10.77.1.11, 10.77.1.21 } ip daddr 10.77.2.21 udp dport 8472 counter accept comment "pod network (flannel VXLAN); also carries API servers to webhooks and aggregated APIs"
    		# zone b nodes to zone a nodes
    		ip saddr 10.77.2.21 ip daddr { 10.77.1.11, 10.77.1.21 } udp dport 8472 counter accept comment "pod network (flannel VXLAN); also carries API servers to webhooks and aggregated APIs"

    		# Within zones: needed only where this firewall sees such packets.
    		# zone a hosts to zone a registries
    		ip saddr { 10.77.1.11, 10.77.1.21 } ip daddr 10.77.1.11 tcp dport 5000 counter accept comment "binaries and images; other zones' registries when the own one is down"
    		# zone a nodes to zone a control plane
    		ip saddr { 10.77.1.11, 10.77.1.21 } ip daddr 10.77.1.11 tcp dport 6443 counter accept comment "each node's API proxy uses every API server, and so do pods through Service kubernetes"
    		# zone a nodes to zone a nodes
    		ip saddr { 10.77.1.11, 10.77.1.21 } ip daddr { 10.77.1.11, 10.77.1.21 } tcp dport 10250 counter accept comment "API servers fetch logs and run exec; metrics-server scrapes from whichever node it is on"
    		# zone a nodes to zone a nodes
    		ip saddr { 10.77.1.11, 10.77.1.21 } ip daddr { 10.77.1.11, 10.77.1.21 } udp dport 8472 counter accept comment "pod network (flannel VXLAN); also carries API servers to webhooks and aggregated APIs"

    		counter drop comment "nothing that the cluster needs"
    	}
    }
    "#);
}

#[test]
fn one_host_needs_nothing_but_ssh() {
    let (single, _) = LAB.split_once("[[hosts]]\nname = \"w1\"").unwrap();
    insta::assert_snapshot!(text(&single.replace("[zones.b]\n", ""), Format::Nft), @r#"
    #!/usr/sbin/nft -f
    # What cluster lab needs of the firewall between its zones.
    # Everything else that this machine forwards is dropped. Load with `nft -f`;
    # loading again replaces these rules at once.

    add table inet cofferdam
    flush table inet cofferdam

    table inet cofferdam {
    	chain forward {
    		type filter hook forward priority filter; policy drop;
    		ct state established,related accept

    		# From the jump host: SSH and nothing else.
    		# jump host to zone a hosts
    		ip saddr 10.77.9.2 ip daddr 10.77.1.11 tcp dport 22 counter accept comment "cofferdam installs, upgrades and looks after the host"

    		counter drop comment "nothing that the cluster needs"
    	}
    }
    "#);
}

#[test]
fn without_a_jump_host_nft_leaves_ssh_out() {
    let text = text(&LAB.replace("jump_host = \"10.77.9.2\"", ""), Format::Nft);
    assert!(!text.contains("dport 22 "), "{text}");
    assert!(
        text.contains("# left out: the inventory's `ssh.jump_host`"),
        "{text}"
    );
}

#[test]
fn a_jump_host_that_is_a_host_needs_no_row_to_itself() {
    let matrix = Matrix::of(&parsed(&LAB.replace("10.77.9.2", "10.77.1.21")));
    let ssh: Vec<String> = matrix
        .rows
        .iter()
        .filter(|row| row.port == 22)
        .flat_map(|row| row.to.addresses.iter().map(ToString::to_string))
        .collect();
    assert_eq!(ssh, ["10.77.1.11", "10.77.2.21"]);
}

/// nft refuses longer ones, and has no way to escape a quote.
#[test]
fn reasons_are_fit_for_comments() {
    let inventory = LAB.replace(
        "[ssh]",
        "dns_upstreams = [\"192.0.2.53\"]\nntp_servers = [\"192.0.2.123\"]\n[ssh]",
    );
    for row in Matrix::of(&parsed(&inventory)).rows {
        assert!(
            row.why.len() < 128 && !row.why.contains('"') && row.why.is_ascii(),
            "{}",
            row.why
        );
    }
}
