//! Each row of the port matrix is needed for what it says: without it just that
//! breaks, and with it back it works again.

use super::Context;
use crate::lab::{Host, Kind, Lab};
use crate::product::wait_until;
use crate::{paths, shell};
use anyhow::{Context as _, Result, bail, ensure};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What etcd says of a peer that it can't dial, once in five seconds, at first
/// within half a minute.
const UNHEALTHY: &str = "prober detected unhealthy status";
/// It said nothing of that for so long, in seconds.
const QUIET_SECONDS: u64 = 12;
const BREAKS_WITHIN: Duration = Duration::from_secs(60);
const WORKS_WITHIN: Duration = Duration::from_secs(60);
/// First line of the part of the rules about rows that cross zones.
const BETWEEN: &str = "# Between zones.";
/// What stands before all rows; a firewall that forgot a row forgot its
/// connections too.
const ESTABLISHED: &str = "ct state established,related accept";

/// A rule as `cofferdam ports --format nft` prints it.
struct Row {
    /// `zone a nodes to zone b nodes`
    title: String,
    rule: String,
    from: String,
    to: String,
    port: u16,
}

/// One row of each kind.
pub fn one_of_each(context: &Context) -> Result<()> {
    removed(context, |row| row.from == "a" && row.to == "b")
}

/// All rows that cross zones.
pub fn each(context: &Context) -> Result<()> {
    removed(context, |_| true)
}

fn removed(context: &Context, is_wanted: impl Fn(&Row) -> bool) -> Result<()> {
    let lab = context.lab()?;
    let rules = fs_err::read_to_string(paths::lab()?.join("rules.nft"))?;
    let rows: Vec<Row> = rows(&rules)?.into_iter().filter(is_wanted).collect();
    ensure!(!rows.is_empty(), "no rows cross zones:\n{rules}");
    for row in &rows {
        let probe = Probe::of(&lab, row)?;
        probe
            .works(&lab)
            .with_context(|| format!("at first: {}", row.title))?;
        let since = now();
        lab.load_rules(&without(&rules, row)?)?;
        let broken = probe
            .breaks(&lab, since)
            .and_then(|()| others_work(&lab, &rows, row));
        let since = now();
        lab.load_rules(&rules)?;
        broken.with_context(|| format!("without the row {}", row.title))?;
        let works = wait_until("working again", WORKS_WITHIN, || {
            probe.works_since(&lab, since)
        });
        works.with_context(|| format!("with the row {} back", row.title))?;
        shell::say(&format!(
            "        {} {}: {}",
            row.title,
            row.port,
            probe.what()
        ));
    }
    Ok(())
}

/// Without a row, what the other rows between its zones are for goes on. A
/// member of etcd that can't reach another is one less: what it serves goes with
/// it.
fn others_work(lab: &Lab, rows: &[Row], removed: &Row) -> Result<()> {
    if matches!(Probe::of(lab, removed)?.kind, ProbeKind::EtcdPeer) {
        return Ok(());
    }
    let same = |row: &&Row| row.from == removed.from && row.to == removed.to;
    for other in rows.iter().filter(same) {
        if other.rule != removed.rule {
            let works = Probe::of(lab, other)?.works(lab);
            works.with_context(|| format!("broken too: {} {}", other.title, other.port))?;
        }
    }
    Ok(())
}

/// Pairs of comment and rule in the part about rows that cross zones.
fn rows(rules: &str) -> Result<Vec<Row>> {
    let lines: Vec<&str> = rules.lines().map(str::trim).collect();
    let start = lines.iter().position(|line| *line == BETWEEN);
    let start = start.context("the rules have no part about rows between zones")?;
    let part = lines[start + 1..]
        .iter()
        .take_while(|line| !line.is_empty());
    let part: Vec<&str> = part.copied().collect();
    part.chunks(2)
        .map(|pair| {
            let [title, rule] = pair else {
                bail!("a row without its rule: {pair:?}");
            };
            let title = title.trim_start_matches("# ").to_owned();
            let words: Vec<&str> = title.split(' ').collect();
            let zones: Vec<&str> = words
                .windows(2)
                .filter(|pair| pair[0] == "zone")
                .map(|pair| pair[1])
                .collect();
            let [from, to] = zones[..] else {
                bail!("`{title}` names no two zones");
            };
            let port = rule
                .split(" dport ")
                .nth(1)
                .and_then(|rest| rest.split(' ').next());
            Ok(Row {
                from: from.to_owned(),
                to: to.to_owned(),
                port: port.context("a rule without a port")?.parse()?,
                rule: (*rule).to_owned(),
                title,
            })
        })
        .collect()
}

/// The rules without a row, and with its connections cut.
fn without(rules: &str, row: &Row) -> Result<String> {
    let matches = row.rule.split(" counter ").next().unwrap_or(&row.rule);
    let cut = format!("{matches} counter drop\n\t\t{ESTABLISHED}");
    let rest = rules.replacen(&row.rule, "", 1);
    ensure!(
        rest.len() < rules.len(),
        "the rule is not there: {}",
        row.rule
    );
    Ok(rest.replacen(ESTABLISHED, &cut, 1))
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// What a row is for, tried from its one end to its other.
struct Probe<'a> {
    from: &'a Host,
    to: &'a Host,
    kind: ProbeKind,
}

enum ProbeKind {
    Registry,
    EtcdPeer,
    EtcdClient,
    ApiServer,
    Kubelet,
    Overlay { address: String },
}

impl<'a> Probe<'a> {
    fn of(lab: &'a Lab, row: &Row) -> Result<Self> {
        let master_of = |zone: &str| {
            let mut hosts = lab.hosts().iter();
            hosts
                .find(|host| host.zone == zone && host.kind == Kind::Master)
                .with_context(|| format!("zone {zone} has no master"))
        };
        let (from, to) = (master_of(&row.from)?, master_of(&row.to)?);
        let kind = match row.port {
            5000 => ProbeKind::Registry,
            2380 => ProbeKind::EtcdPeer,
            2379 => ProbeKind::EtcdClient,
            6443 => ProbeKind::ApiServer,
            10250 => ProbeKind::Kubelet,
            8472 => {
                let shown = lab.ssh_output(&to.name, "ip -4 -o address show dev flannel.1")?;
                let address = shown
                    .split_whitespace()
                    .nth(3)
                    .context("no overlay address")?;
                let address = address.split('/').next().unwrap_or(address).to_owned();
                ProbeKind::Overlay { address }
            }
            port => bail!("nothing tries port {port} of the row {}", row.title),
        };
        Ok(Self { from, to, kind })
    }

    fn what(&self) -> &'static str {
        match self.kind {
            ProbeKind::Registry => "no blob of the other zone's registry without it",
            ProbeKind::EtcdPeer => "etcd can't reach the other member without it",
            ProbeKind::EtcdClient => "etcdctl can't ask the other member without it",
            ProbeKind::ApiServer => "no answer of the other API server without it",
            ProbeKind::Kubelet => "the API server can't reach the other kubelet without it",
            ProbeKind::Overlay { .. } => "pods' network does not reach the other node without it",
        }
    }

    fn command(&self) -> String {
        let to = self.to.address.to_string();
        let kubectl =
            "timeout 8 /opt/cofferdam/bin/kubectl --kubeconfig /etc/kubernetes/admin.kubeconfig";
        match &self.kind {
            ProbeKind::Registry => format!("timeout 5 bash -c 'exec 3<>/dev/tcp/{to}/5000'"),
            ProbeKind::EtcdPeer => "true".to_owned(),
            ProbeKind::EtcdClient => format!(
                "timeout 8 /opt/cofferdam/bin/etcdctl --endpoints https://{to}:2379 \
                 --cacert /etc/etcd/pki/ca.crt --cert /etc/etcd/pki/client.crt \
                 --key /etc/etcd/pki/client.key endpoint health"
            ),
            ProbeKind::ApiServer => {
                format!("{kubectl} --server https://{to}:6443 get --raw /readyz")
            }
            ProbeKind::Kubelet => format!(
                "{kubectl} get --raw /api/v1/nodes/{}/proxy/healthz",
                self.to.name
            ),
            ProbeKind::Overlay { address } => {
                // sshd listens on all of a host's addresses.
                format!("timeout 5 bash -c 'exec 3<>/dev/tcp/{address}/22'")
            }
        }
    }

    /// Once, as it is.
    fn works(&self, lab: &Lab) -> Result<()> {
        lab.ssh_output(&self.from.name, &self.command()).map(drop)
    }

    /// As [`Self::works`]; etcd says so itself, in seconds since the epoch.
    fn works_since(&self, lab: &Lab, since: u64) -> Result<()> {
        match self.kind {
            ProbeKind::EtcdPeer => {
                ensure!(now() >= since + QUIET_SECONDS, "it is too early to tell");
                let since = now() - QUIET_SECONDS / 2;
                let said = self.etcd_says_unhealthy(lab, since)?;
                ensure!(!said, "etcd still says `{UNHEALTHY}`");
                Ok(())
            }
            _ => self.works(lab),
        }
    }

    fn breaks(&self, lab: &Lab, since: u64) -> Result<()> {
        wait_until("what it is for to break", BREAKS_WITHIN, || {
            let is_broken = match self.kind {
                ProbeKind::EtcdPeer => self.etcd_says_unhealthy(lab, since)?,
                _ => self.works(lab).is_err(),
            };
            ensure!(is_broken, "it still works");
            Ok(())
        })
    }

    /// Whether the member at the row's beginning says that of the one at its
    /// end, since a moment in seconds since the epoch.
    fn etcd_says_unhealthy(&self, lab: &Lab, since: u64) -> Result<bool> {
        let members = lab.ssh_output(
            &self.from.name,
            "/opt/cofferdam/bin/etcdctl --cacert /etc/etcd/pki/ca.crt \
             --cert /etc/etcd/pki/client.crt --key /etc/etcd/pki/client.key \
             --endpoints https://127.0.0.1:2379 member list",
        )?;
        let own_name = format!(", {}, ", self.to.name);
        let line = members.lines().find(|line| line.contains(&own_name));
        let id = line
            .and_then(|line| line.split(',').next())
            .context("no such member")?;
        let log = lab.ssh_output(
            &self.from.name,
            &format!("journalctl -u etcd --no-pager -o cat --since @{since}"),
        )?;
        let mut lines = log.lines();
        Ok(lines.any(|line| line.contains(UNHEALTHY) && line.contains(id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = "chain forward {\n\
        \t\tct state established,related accept\n\n\
        \t\t# Between zones.\n\
        \t\t# zone b hosts to zone a registries\n\
        \t\tip saddr 10.77.2.22 ip daddr 10.77.1.11 tcp dport 5000 counter accept comment \"x\"\n\
        \t\t# zone a nodes to zone b nodes\n\
        \t\tip saddr { 10.77.1.11, 10.77.1.21 } ip daddr 10.77.2.22 udp dport 8472 counter accept comment \"y\"\n\n\
        \t\t# Within zones.\n";

    #[test]
    fn rows_are_read_and_left_out_with_their_connections() {
        let rows = rows(RULES).unwrap();
        let seen: Vec<(&str, &str, u16)> = rows
            .iter()
            .map(|row| (row.from.as_str(), row.to.as_str(), row.port))
            .collect();
        assert_eq!(seen, [("b", "a", 5000), ("a", "b", 8472)]);
        let left = without(RULES, &rows[1]).unwrap();
        let drop = "ip saddr { 10.77.1.11, 10.77.1.21 } ip daddr 10.77.2.22 udp dport 8472 counter drop\n\t\tct state";
        assert!(
            left.contains(drop) && !left.contains("comment \"y\""),
            "{left}"
        );
        assert!(left.contains("comment \"x\""), "{left}");
        assert!(without(&left, &rows[1]).is_err());
    }
}
