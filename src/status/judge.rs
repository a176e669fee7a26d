//! From what was seen to how things stand.

use super::{
    EtcdStatus, Health, HostStatus, NodeStatus, Part, Problem, Seen, Status, api_ready,
    has_ready_api_server, holds, registry_serving,
};
use crate::facts::{EtcdFacts, HostFacts, UnitFacts};
use crate::inventory::{Host, Inventory, Role};

/// etcd answers reads and writes of its clients within milliseconds of the
/// leader; a member that lags by more than a batch of entries is not in step.
/// Proposals in flight under load are some dozens.
const IN_STEP: u64 = 1000;

/// How a cluster stands.
pub fn judge(inventory: &Inventory, seen: &Seen) -> Status {
    let etcd = etcd_facts(inventory, seen);
    let mut problems = Vec::new();
    if let Some(problem) = no_api_server(inventory, seen) {
        problems.push(problem);
    }
    problems.extend(no_majority(inventory, seen, etcd));
    let is_broken = !problems.is_empty();
    problems.extend(etcd.into_iter().flat_map(alarms));
    let mut hosts: Vec<HostStatus> = Vec::new();
    for zone in &inventory.zones {
        for host in inventory.hosts.iter().filter(|host| host.zone == zone.name) {
            hosts.push(host_status(host, seen, etcd, &mut problems));
        }
    }
    let health = match (is_broken, problems.is_empty()) {
        (true, _) => Health::Broken,
        (false, true) => Health::Fine,
        (false, false) => Health::Degraded,
    };
    Status {
        cluster: inventory.cluster.name.clone(),
        health,
        version: seen
            .cluster
            .as_ref()
            .and_then(|cluster| cluster.version.clone()),
        hosts,
        problems,
    }
}

fn facts_of<'a>(seen: &'a Seen, host: &Host) -> Option<&'a HostFacts> {
    seen.hosts.get(&host.name)?.as_ref().ok()
}

/// etcd as the member sees it that knows most of the others.
fn etcd_facts<'a>(inventory: &Inventory, seen: &'a Seen) -> Option<&'a EtcdFacts> {
    let members = inventory.etcd_members().into_iter();
    members
        .filter_map(|host| facts_of(seen, host)?.etcd.as_ref())
        .filter(|etcd| etcd.error.is_none())
        .max_by_key(|etcd| {
            etcd.members
                .iter()
                .filter(|each| each.status.is_some())
                .count()
        })
}

fn no_api_server(inventory: &Inventory, seen: &Seen) -> Option<Problem> {
    let masters = inventory.control_plane();
    let is_ready =
        |host: &&&Host| facts_of(seen, host).is_some_and(|facts| has_ready_api_server(host, facts));
    if masters.iter().find(is_ready).is_some() {
        return None;
    }
    Some(Problem {
        host: None,
        message: "no API server is ready".to_owned(),
        hint: Some(
            "on a master: `systemctl status etcd kube-apiserver` and `journalctl -u kube-apiserver`"
                .to_owned(),
        ),
    })
}

/// Whether fewer members of etcd answer than writes need, so far as any of
/// them could be asked.
fn no_majority(inventory: &Inventory, seen: &Seen, etcd: Option<&EtcdFacts>) -> Option<Problem> {
    let members = inventory.etcd_members().len();
    let (answer, voters) = match etcd {
        Some(etcd) => {
            let voters = etcd.members.iter().filter(|member| !member.learner);
            let count = voters.clone().count();
            let answer = voters.filter(|member| member.status.is_some()).count();
            (answer, count.max(1))
        }
        None => (0, members),
    };
    let needed = voters / 2 + 1;
    // Members that nobody could ask may be well: it is the way to them that is
    // cut off then.
    let was_asked = inventory
        .etcd_members()
        .iter()
        .any(|host| facts_of(seen, host).is_some());
    if answer >= needed || !was_asked {
        return None;
    }
    Some(Problem {
        host: None,
        message: format!(
            "etcd has no majority: {answer} of {voters} members answer, {needed} must"
        ),
        hint: Some("start its hosts, then look at `journalctl -u etcd` on each".to_owned()),
    })
}

fn alarms(etcd: &EtcdFacts) -> impl Iterator<Item = Problem> {
    etcd.alarms.iter().map(|alarm| Problem {
        host: None,
        message: format!("etcd has raised the alarm {alarm}"),
        hint: Some("see https://etcd.io/docs/latest/op-guide/maintenance/".to_owned()),
    })
}

fn host_status(
    host: &Host,
    seen: &Seen,
    etcd: Option<&EtcdFacts>,
    problems: &mut Vec<Problem>,
) -> HostStatus {
    let facts = facts_of(seen, host);
    let mut tell = |message: String, hint: Option<String>| {
        problems.push(Problem {
            host: Some(host.name.clone()),
            message,
            hint,
        });
    };
    if let Some(Err(unreached)) = seen.hosts.get(&host.name) {
        tell(unreached.reason.clone(), unreached.hint.clone());
    }
    if let Some(facts) = facts {
        for (name, unit) in facts.units.iter().filter(|(_, unit)| is_down(unit)) {
            tell(
                format!("{name} is {} ({})", unit.active, unit.sub),
                Some(format!("`journalctl -u {name}` on {}", host.name)),
            );
        }
        for unmet in &facts.unmet {
            tell(unmet.reason.clone(), None);
        }
    }
    let served = |condition| match facts {
        Some(facts) if holds(facts, &condition) => Part::Up,
        Some(_) => Part::Down,
        None => Part::Unknown,
    };
    let etcd = host.has(Role::Etcd).then(|| etcd_status(host, etcd));
    if let Some(etcd) = &etcd
        && facts.is_some()
    {
        match (etcd.state, etcd.entries_behind) {
            (Part::Down, _) => tell("its etcd member does not answer".to_owned(), None),
            (_, Some(behind)) if behind > IN_STEP => {
                tell(format!("its etcd member is {behind} entries behind"), None);
            }
            _ => {}
        }
    }
    let node = host.is_node().then(|| {
        let (status, problem) = node_status(host, seen);
        if let Some(problem) = problem {
            tell(
                problem,
                Some(format!("`journalctl -u kubelet` on {}", host.name)),
            );
        }
        status
    });
    HostStatus {
        name: host.name.clone(),
        zone: host.zone.clone(),
        address: host.address.to_string(),
        reached: facts.is_some(),
        bundle: facts
            .and_then(|facts| facts.generation.as_ref())
            .map(|generation| generation.bundle.clone()),
        api_server: host
            .has(Role::ControlPlane)
            .then(|| served(api_ready(host))),
        emulated: facts
            .and_then(|facts| facts.units.get("kube-apiserver.service"))
            .and_then(|unit| unit.emulated.clone()),
        registry: host
            .has(Role::Registry)
            .then(|| served(registry_serving(host))),
        etcd,
        node,
    }
}

/// Whether a unit that is to run does not.
fn is_down(unit: &UnitFacts) -> bool {
    unit.load == "loaded" && unit.active != "active"
}

fn etcd_status(host: &Host, etcd: Option<&EtcdFacts>) -> EtcdStatus {
    let newest = etcd.and_then(|etcd| {
        let statuses = etcd.members.iter().filter_map(|each| each.status.as_ref());
        statuses.map(|status| status.raft_index).max()
    });
    let member = etcd.and_then(|etcd| {
        let mut members = etcd.members.iter();
        members.find(|member| member.name == host.name)
    });
    let status = member.and_then(|member| member.status.as_ref());
    EtcdStatus {
        state: match (etcd, status) {
            (None, _) => Part::Unknown,
            (Some(_), Some(_)) => Part::Up,
            (Some(_), None) => Part::Down,
        },
        leader: etcd.is_some_and(|etcd| etcd.leader.as_deref() == Some(&host.name)),
        learner: member.is_some_and(|member| member.learner),
        version: status.map(|status| status.version.clone()),
        entries_behind: status
            .zip(newest)
            .map(|(status, newest)| newest.saturating_sub(status.applied_index)),
        database_bytes: status.map(|status| status.database_bytes),
    }
}

/// A node, and what is wrong with it.
fn node_status(host: &Host, seen: &Seen) -> (NodeStatus, Option<String>) {
    let unknown = NodeStatus {
        state: Part::Unknown,
        kubelet_version: None,
        unschedulable: false,
    };
    let Some(cluster) = &seen.cluster else {
        return (unknown, None);
    };
    let Some(node) = cluster.nodes.get(&host.name) else {
        let state = Part::Down;
        let message = "the cluster has no node of this name".to_owned();
        return (NodeStatus { state, ..unknown }, Some(message));
    };
    let status = NodeStatus {
        state: if node.ready { Part::Up } else { Part::Down },
        kubelet_version: Some(node.kubelet_version.clone()),
        unschedulable: node.unschedulable,
    };
    let problem = match (node.ready, node.unschedulable) {
        (false, _) => Some(format!("the node is not ready: {}", node.message)),
        (true, true) if node.cordoned_by_us => Some(
            "the node is cordoned by an upgrade that did not come to its end: run it again"
                .to_owned(),
        ),
        (true, true) => Some("the node is cordoned".to_owned()),
        (true, false) => None,
    };
    (status, problem)
}
