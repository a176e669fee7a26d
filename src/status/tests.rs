use super::*;
use crate::facts::{
    EtcdFacts, EtcdMember, EtcdMemberStatus, Generation, NodeFacts, UnitFacts, UnmetCondition,
};

const INVENTORY: &str = "[cluster]\nname = \"lab\"\n[zones.a]\n[zones.b]\n[zones.c]\n\
    [[hosts]]\nname = \"m1\"\naddress = \"10.77.1.11\"\nzone = \"a\"\nroles = [\"control-plane\"]\n\
    [[hosts]]\nname = \"m2\"\naddress = \"10.77.2.12\"\nzone = \"b\"\nroles = [\"control-plane\"]\n\
    [[hosts]]\nname = \"m3\"\naddress = \"10.77.3.13\"\nzone = \"c\"\nroles = [\"control-plane\"]\n\
    [[hosts]]\nname = \"w1\"\naddress = \"10.77.1.21\"\nzone = \"a\"\nroles = [\"worker\"]\n";

fn inventory() -> Inventory {
    crate::inventory::parse(INVENTORY, camino::Utf8Path::new("inventory.toml")).unwrap()
}

fn unit(active: &str) -> UnitFacts {
    UnitFacts {
        load: "loaded".to_owned(),
        active: active.to_owned(),
        sub: if active == "active" {
            "running"
        } else {
            "auto-restart"
        }
        .to_owned(),
        ..UnitFacts::default()
    }
}

/// etcd in which only some members answer.
fn etcd(answering: &[&str]) -> EtcdFacts {
    let member = |name: &str| EtcdMember {
        id: name.to_owned(),
        name: name.to_owned(),
        peer_urls: Vec::new(),
        learner: false,
        status: answering.contains(&name).then(|| EtcdMemberStatus {
            version: "3.6.16".to_owned(),
            raft_index: 5000,
            applied_index: 5000,
            database_bytes: 4 << 20,
        }),
    };
    EtcdFacts {
        members: ["m1", "m2", "m3"].map(member).into(),
        unhealthy: (answering.len() < 3).then(|| "a member does not answer".to_owned()),
        leader: answering.first().map(|name| (*name).to_owned()),
        ..EtcdFacts::default()
    }
}

/// All is well.
fn seen() -> Seen {
    let mut seen = Seen::default();
    let mut cluster = ClusterFacts {
        version: Some("v1.36.0".to_owned()),
        ..ClusterFacts::default()
    };
    for host in &inventory().hosts {
        let mut facts = HostFacts {
            generation: Some(Generation {
                bundle: "kubernetes-1.36 1.36.0".to_owned(),
                ..Generation::default()
            }),
            ..HostFacts::default()
        };
        facts
            .units
            .insert("kubelet.service".to_owned(), unit("active"));
        facts.etcd = host.has(Role::Etcd).then(|| etcd(&["m1", "m2", "m3"]));
        seen.hosts.insert(host.name.clone(), Ok(facts));
        let node = NodeFacts {
            ready: true,
            kubelet_version: "v1.36.0".to_owned(),
            ..NodeFacts::default()
        };
        cluster.nodes.insert(host.name.clone(), node);
    }
    seen.cluster = Some(cluster);
    seen
}

fn facts<'a>(seen: &'a mut Seen, host: &str) -> &'a mut HostFacts {
    seen.hosts.get_mut(host).unwrap().as_mut().unwrap()
}

fn lose(seen: &mut Seen, host: &str) {
    let unreached = Unreached {
        reason: format!("connecting to {host}: opening a TCP connection took longer than 10 s"),
        hint: Some(format!("check that {host} is up")),
    };
    seen.hosts.insert(host.to_owned(), Err(unreached));
}

fn told(seen: &Seen) -> (Health, String) {
    let status = judge(&inventory(), seen);
    (status.health, text(&status))
}

#[test]
fn a_control_plane_that_soaks_is_told() {
    let mut seen = seen();
    seen.cluster.as_mut().unwrap().version = Some("v1.37.0".to_owned());
    let server = UnitFacts {
        emulated: Some("1.36".to_owned()),
        ..unit("active")
    };
    let units = &mut facts(&mut seen, "m1").units;
    units.insert("kube-apiserver.service".to_owned(), server);
    let (health, text) = told(&seen);
    assert_eq!(health, Health::Fine);
    assert_eq!(
        text.lines().next().unwrap(),
        "lab: fine, Kubernetes v1.37.0, behaving as 1.36 until `cofferdam upgrade --finish`"
    );
}

#[test]
fn a_cluster_that_is_well() {
    let (health, text) = told(&seen());
    assert_eq!(health, Health::Fine);
    insta::assert_snapshot!(text, @r"
    lab: fine, Kubernetes v1.36.0

    zone  host  etcd    API server  registry  node
    a     m1    leader  ready       serves    Ready v1.36.0
          w1    -       -           -         Ready v1.36.0
    b     m2    member  ready       serves    Ready v1.36.0
    c     m3    member  ready       serves    Ready v1.36.0
    ");
}

#[test]
fn a_zone_that_is_cut_off_degrades_it() {
    let mut seen = seen();
    lose(&mut seen, "m2");
    for host in ["m1", "m3"] {
        facts(&mut seen, host).etcd = Some(etcd(&["m1", "m3"]));
    }
    let cluster = seen.cluster.as_mut().unwrap();
    let node = cluster.nodes.get_mut("m2").unwrap();
    node.ready = false;
    node.message = "Kubelet stopped posting node status.".to_owned();
    let (health, text) = told(&seen);
    assert_eq!(health, Health::Degraded);
    insta::assert_snapshot!(text, @r"
    lab: degraded, Kubernetes v1.36.0

    zone  host              etcd    API server  registry  node
    a     m1                leader  ready       serves    Ready v1.36.0
          w1                -       -           -         Ready v1.36.0
    b     m2 (not reached)  DOWN    ?           ?         NotReady v1.36.0
    c     m3                member  ready       serves    Ready v1.36.0

    connecting to m2: opening a TCP connection took longer than 10 s
      check that m2 is up
    m2: the node is not ready: Kubelet stopped posting node status.
      `journalctl -u kubelet` on m2
    ");
}

#[test]
fn without_a_majority_it_is_broken() {
    let mut seen = seen();
    lose(&mut seen, "m2");
    lose(&mut seen, "m3");
    let m1 = facts(&mut seen, "m1");
    m1.etcd = Some(etcd(&["m1"]));
    m1.units
        .insert("kube-apiserver.service".to_owned(), unit("activating"));
    m1.unmet.push(UnmetCondition {
        condition: Condition::ApiReady {
            address: "10.77.1.11:6443".to_owned(),
        },
        reason: "the API server at 10.77.1.11:6443 is not ready: it refuses connections".to_owned(),
    });
    seen.cluster = None;
    let (health, text) = told(&seen);
    assert_eq!(health, Health::Broken);
    insta::assert_snapshot!(text, @r"
    lab: broken

    zone  host              etcd    API server  registry  node
    a     m1                leader  DOWN        serves    ?
          w1                -       -           -         ?
    b     m2 (not reached)  DOWN    ?           ?         ?
    c     m3 (not reached)  DOWN    ?           ?         ?

    no API server is ready
      on a master: `systemctl status etcd kube-apiserver` and `journalctl -u kube-apiserver`
    etcd has no majority: 1 of 3 members answer, 2 must
      start its hosts, then look at `journalctl -u etcd` on each
    m1: kube-apiserver.service is activating (auto-restart)
      `journalctl -u kube-apiserver.service` on m1
    m1: the API server at 10.77.1.11:6443 is not ready: it refuses connections
    connecting to m2: opening a TCP connection took longer than 10 s
      check that m2 is up
    connecting to m3: opening a TCP connection took longer than 10 s
      check that m3 is up
    ");
}

#[test]
fn what_degrades_a_cluster() {
    type Change = fn(&mut Seen);
    let cases: [(&str, Change, &str); 5] = [
        (
            "an alarm",
            |seen| {
                let etcd = facts(seen, "m2").etcd.as_mut().unwrap();
                etcd.alarms.push("NOSPACE on m1".to_owned());
                facts(seen, "m1").etcd = None;
                facts(seen, "m3").etcd = None;
            },
            "etcd has raised the alarm NOSPACE on m1",
        ),
        (
            "a member that lags",
            |seen| {
                for host in ["m1", "m2", "m3"] {
                    let etcd = facts(seen, host).etcd.as_mut().unwrap();
                    etcd.members[1].status.as_mut().unwrap().applied_index = 100;
                }
            },
            "m2: its etcd member is 4900 entries behind",
        ),
        (
            "a unit",
            |seen| {
                let units = &mut facts(seen, "w1").units;
                units.insert("kubelet.service".to_owned(), unit("failed"));
            },
            "w1: kubelet.service is failed (auto-restart)",
        ),
        (
            "a cordoned node",
            |seen| {
                let cluster = seen.cluster.as_mut().unwrap();
                cluster.nodes.get_mut("w1").unwrap().unschedulable = true;
            },
            "w1: the node is cordoned",
        ),
        (
            "a node that is not there",
            |seen| {
                seen.cluster.as_mut().unwrap().nodes.remove("w1");
            },
            "w1: the cluster has no node of this name",
        ),
    ];
    for (name, change, expected) in cases {
        let mut seen = seen();
        change(&mut seen);
        let (health, text) = told(&seen);
        assert_eq!(health, Health::Degraded, "{name}");
        assert!(text.contains(expected), "{name}:\n{text}");
    }
}

#[test]
fn a_jump_host_that_reaches_nobody_calls_nothing_fine() {
    let mut seen = seen();
    for host in ["m1", "m2", "m3", "w1"] {
        lose(&mut seen, host);
    }
    seen.cluster = None;
    assert_eq!(told(&seen).0, Health::Broken);
}

#[test]
fn only_what_a_host_has_is_asked_of_it() {
    let inventory = inventory();
    let asked = |name| observe_request(&inventory, inventory.host(name).unwrap());
    assert_eq!(asked("m1").conditions.len(), 2);
    assert_eq!(asked("m1").etcd_endpoints.len(), 3);
    assert!(asked("w1").conditions.is_empty() && asked("w1").etcd_endpoints.is_empty());
}
