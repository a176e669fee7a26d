//! What the router lets through, and what it has counted.
//!
//! Two tables live in the router's namespace. `cofferdam` is the product's own
//! and the only one that decides what passes between zones. `lab` is ours: it
//! drops and counts what would leave the lab, and keeps a list of flows that
//! were asked for and of those that passed, so that a missing row of the port
//! matrix has a name.

use super::layout::{LAB_NETWORK, ROUTER_JUMP_LINK, ROUTER_NAMESPACE};
use crate::shell;
use anyhow::{Context, Result, bail};
use camino::Utf8Path;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;

/// Lets everything within the lab pass: for trying things before the product's
/// own rules are there.
pub const PERMISSIVE_RULES: &str = "\
table inet cofferdam
delete table inet cofferdam
table inet cofferdam {
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        ip saddr 10.77.0.0/16 ip daddr 10.77.0.0/16 accept comment \"everything within the lab\"
        counter drop
    }
}
";

/// The file with everything that is loaded, below the lab's directory.
pub const FILE: &str = "router.nft";

/// Lets nothing pass.
const CLOSED: &str = "\
flush ruleset
table inet cofferdam {
    chain forward {
        type filter hook forward priority filter; policy drop;
        counter drop
    }
}
";

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    pub packets: u64,
    pub bytes: u64,
}

/// A connection that somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Flow {
    pub from: String,
    pub to: String,
    pub protocol: String,
    pub port: u16,
}

/// An accepting rule of the product and how many connections it let through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleCount {
    /// The rule's comment: what it is for.
    pub comment: String,
    /// The rule's place among the rules, from 0.
    pub index: usize,
    pub count: Count,
}

/// What the router has counted since the lab came up, or since its rules were
/// loaded again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RouterCounters {
    /// What tried to leave the lab. Anything but zero is a leak.
    pub left: Count,
    /// What was addressed to the router itself, other than pings.
    pub to_router: Count,
    /// What the product's rules dropped between zones.
    pub dropped: Count,
    /// The product's accepting rules that count, in order.
    pub rules: Vec<RuleCount>,
    /// Flows that tried to leave the lab.
    pub leaving_flows: Vec<Flow>,
    /// Flows between zones that were asked for and never passed.
    pub blocked_flows: Vec<Flow>,
    /// Flows between zones that passed.
    pub passed_flows: Vec<Flow>,
}

/// The lab's own table. Dropping what leaves happens before routing, since the
/// router itself has no way out and would answer in its own name.
fn lab_table() -> String {
    let flow = "ip saddr . ip daddr . meta l4proto . th dport";
    let set = "type ipv4_addr . ipv4_addr . inet_proto . inet_service; size 65535; flags dynamic;";
    format!(
        "table inet lab {{
    counter left {{}}
    counter to_router {{}}
    set cut {{ type ipv4_addr; flags interval; }}
    set leaving {{ {set} }}
    set asked {{ {set} }}
    set passed {{ {set} }}
    chain prerouting {{
        type filter hook prerouting priority raw; policy accept;
        iifname {{ \"lo\", \"{ROUTER_JUMP_LINK}\" }} accept
        ip daddr {{ {LAB_NETWORK}, 224.0.0.0/4, 255.255.255.255 }} accept
        meta nfproto ipv4 meta l4proto {{ tcp, udp }} add @leaving {{ {flow} }}
        meta nfproto ipv4 counter name left drop
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname \"lo\" accept
        meta l4proto {{ icmp, ipv6-icmp }} accept
        ip daddr {{ 224.0.0.0/4, 255.255.255.255 }} drop
        meta nfproto ipv4 counter name to_router drop
    }}
    chain before {{
        type filter hook forward priority filter - 10; policy accept;
        ip saddr @cut drop
        ip daddr @cut drop
        ct state new meta nfproto ipv4 meta l4proto udp add @asked {{ {flow} }}
        ct state new meta nfproto ipv4 tcp flags & (syn | ack) == syn add @asked {{ {flow} }}
    }}
    chain after {{
        type filter hook forward priority filter + 10; policy accept;
        ct state new meta nfproto ipv4 meta l4proto {{ tcp, udp }} add @passed {{ {flow} }}
    }}
}}
"
    )
}

/// Replaces all of the router's rules at once by the lab's own table and the
/// given ones, and makes sure that what no rule names is dropped. Rules that
/// don't load leave the old ones in place; rules that leave the router open
/// close it for everything. Counters start again from zero.
pub fn load(directory: &Utf8Path, rules: &str) -> Result<()> {
    let all = directory.join(FILE);
    fs_err::write(&all, format!("flush ruleset\n{}{rules}\n", lab_table()))?;
    nft(&["-f", all.as_str()]).context("loading rules into the router")?;
    if !has_closed_forward_chain(&ruleset()?) {
        fs_err::write(&all, CLOSED)?;
        nft(&["-f", all.as_str()]).context("closing the router")?;
        bail!(
            "the rules leave the router open, so it is closed for everything: give them a chain with hook forward and policy drop"
        );
    }
    Ok(())
}

/// Drops all that goes into a network or comes out of it, connections that
/// stand included; what stays within it doesn't pass the router.
pub fn cut(network: &str) -> Result<()> {
    let element = format!("{{ {network} }}");
    nft(&["add", "element", "inet", "lab", "cut", &element]).map(drop)
}

/// Undoes [`cut`].
pub fn heal(network: &str) -> Result<()> {
    let element = format!("{{ {network} }}");
    nft(&["delete", "element", "inet", "lab", "cut", &element]).map(drop)
}

/// Reads the router's counters.
pub fn counters() -> Result<RouterCounters> {
    Ok(parse_counters(&ruleset()?))
}

fn ruleset() -> Result<Value> {
    let text = nft(&["-j", "list", "ruleset"]).context("listing the router's rules")?;
    serde_json::from_str(&text).context("parsing the router's rules")
}

fn nft(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", ROUTER_NAMESPACE, "nft"]);
    shell::read(command.args(arguments))
}

/// The objects of one kind in nft's JSON listing.
fn objects<'a>(ruleset: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    ruleset["nftables"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(move |object| object.get(kind))
}

fn has_closed_forward_chain(ruleset: &Value) -> bool {
    objects(ruleset, "chain").any(|chain| chain["hook"] == "forward" && chain["policy"] == "drop")
}

fn parse_counters(ruleset: &Value) -> RouterCounters {
    let named = |name: &str| {
        objects(ruleset, "counter")
            .find(|counter| counter["table"] == "lab" && counter["name"] == name)
            .map(count)
            .unwrap_or_default()
    };
    let asked = flows(ruleset, "asked");
    let passed = flows(ruleset, "passed");
    RouterCounters {
        left: named("left"),
        to_router: named("to_router"),
        dropped: dropped(ruleset),
        rules: accepted(ruleset),
        leaving_flows: flows(ruleset, "leaving").into_iter().collect(),
        blocked_flows: asked.difference(&passed).cloned().collect(),
        passed_flows: passed.into_iter().collect(),
    }
}

/// The sum of counters in those rules of others' tables that drop.
fn dropped(ruleset: &Value) -> Count {
    let mut sum = Count::default();
    for rule in foreign_rules(ruleset).filter(|rule| rule.verdict("drop")) {
        for counted in rule
            .expressions()
            .filter_map(|expression| expression.get("counter"))
        {
            let counted = count(counted);
            sum.packets += counted.packets;
            sum.bytes += counted.bytes;
        }
    }
    sum
}

/// The counters of those rules of others' tables that accept.
fn accepted(ruleset: &Value) -> Vec<RuleCount> {
    foreign_rules(ruleset)
        .enumerate()
        .filter(|(_, rule)| rule.verdict("accept"))
        .filter_map(|(index, rule)| {
            let counter = rule
                .expressions()
                .find_map(|expression| expression.get("counter"))?;
            Some(RuleCount {
                comment: rule.0["comment"].as_str().unwrap_or_default().to_owned(),
                index,
                count: count(counter),
            })
        })
        .collect()
}

/// A rule in nft's JSON listing.
struct Rule<'a>(&'a Value);

impl<'a> Rule<'a> {
    fn expressions(&self) -> impl Iterator<Item = &'a Value> {
        self.0["expr"].as_array().into_iter().flatten()
    }

    fn verdict(&self, name: &str) -> bool {
        self.expressions()
            .any(|expression| expression.get(name).is_some())
    }
}

fn foreign_rules(ruleset: &Value) -> impl Iterator<Item = Rule<'_>> {
    objects(ruleset, "rule")
        .filter(|rule| rule["table"] != "lab")
        .map(Rule)
}

fn count(counter: &Value) -> Count {
    Count {
        packets: counter["packets"].as_u64().unwrap_or_default(),
        bytes: counter["bytes"].as_u64().unwrap_or_default(),
    }
}

fn flows(ruleset: &Value, name: &str) -> BTreeSet<Flow> {
    objects(ruleset, "set")
        .filter(|set| set["table"] == "lab" && set["name"] == name)
        .flat_map(|set| set["elem"].as_array().into_iter().flatten())
        .filter_map(flow)
        .collect()
}

/// An element is `{"concat": […]}`, wrapped in `{"elem": {"val": …}}` if it
/// carries anything else.
fn flow(element: &Value) -> Option<Flow> {
    let value = element.get("elem").map_or(element, |inner| &inner["val"]);
    let fields = value["concat"].as_array()?;
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Some(Flow {
        from: text(fields.first()?),
        to: text(fields.get(1)?),
        protocol: text(fields.get(2)?),
        port: fields.get(3)?.as_u64()?.try_into().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn listing() -> Value {
        let element = |port: u16| json!({"concat": ["10.77.1.11", "10.77.2.22", "tcp", port]});
        json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"chain": {"family": "inet", "table": "cofferdam", "name": "forward", "hook": "forward", "policy": "drop"}},
            {"counter": {"table": "lab", "name": "left", "packets": 3, "bytes": 180}},
            {"counter": {"table": "lab", "name": "to_router", "packets": 0, "bytes": 0}},
            {"set": {"table": "lab", "name": "asked", "elem": [element(10250), element(22)]}},
            {"set": {"table": "lab", "name": "passed", "elem": [{"elem": {"val": element(22)}}]}},
            {"set": {"table": "lab", "name": "leaving", "elem": [
                {"concat": ["10.77.1.11", "192.0.2.1", "udp", 53]}
            ]}},
            {"rule": {"table": "cofferdam", "comment": "logs", "expr": [
                {"counter": {"packets": 100, "bytes": 6000}}, {"accept": null}
            ]}},
            {"rule": {"table": "cofferdam", "expr": [
                {"counter": {"packets": 7, "bytes": 420}}, {"drop": null}
            ]}},
            {"rule": {"table": "lab", "expr": [{"counter": "left"}, {"drop": null}]}},
        ]})
    }

    #[test]
    fn counters_tell_what_left_what_was_dropped_and_between_whom() {
        let counters = parse_counters(&listing());
        assert_eq!(
            counters.left,
            Count {
                packets: 3,
                bytes: 180
            }
        );
        assert_eq!(counters.to_router, Count::default());
        assert_eq!(
            counters.dropped,
            Count {
                packets: 7,
                bytes: 420
            }
        );
        assert_eq!(
            counters.rules,
            [RuleCount {
                comment: "logs".into(),
                index: 0,
                count: Count {
                    packets: 100,
                    bytes: 6000
                }
            }]
        );
        let flow = |from: &str, to: &str, protocol: &str, port| Flow {
            from: from.into(),
            to: to.into(),
            protocol: protocol.into(),
            port,
        };
        assert_eq!(
            counters.leaving_flows,
            [flow("10.77.1.11", "192.0.2.1", "udp", 53)]
        );
        assert_eq!(
            counters.blocked_flows,
            [flow("10.77.1.11", "10.77.2.22", "tcp", 10250)]
        );
        assert_eq!(
            counters.passed_flows,
            [flow("10.77.1.11", "10.77.2.22", "tcp", 22)]
        );
    }

    #[test]
    fn a_router_without_policy_drop_is_noticed() {
        assert!(has_closed_forward_chain(&listing()));
        let open = json!({"nftables": [
            {"chain": {"table": "x", "name": "forward", "hook": "forward", "policy": "accept"}},
            {"chain": {"table": "x", "name": "input", "hook": "input", "policy": "drop"}},
        ]});
        assert!(!has_closed_forward_chain(&open));
    }
}
