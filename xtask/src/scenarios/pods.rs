//! What pods, Services and the cluster's own tools must do.

use crate::lab::{Kind, Lab};
use crate::product::{Product, wait_until};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::time::Duration;

/// Pods come up within this on two cores that everything shares.
const PODS_LIMIT: Duration = Duration::from_secs(120);
/// The workers of all labs but the smallest, in zones a and b.
const WORKERS: [&str; 2] = ["w1", "w2"];
/// Bytes that cross zones through a ClusterIP.
const LARGE: usize = 10 << 20;

/// A namespace, a Service over all web servers, and a client on every node
/// that takes pods.
const CLIENT: &str = include_str!("client.yaml");
/// A web server pinned to the node `NODE`, behind a Service of its own.
const WEB: &str = include_str!("web.yaml");

/// Deploys the test pods on the given nodes and waits for them.
pub fn deploy_on(product: &Product, nodes: &[&str]) -> Result<()> {
    let webs: String = nodes.iter().map(|node| WEB.replace("NODE", node)).collect();
    product.apply(&format!("{CLIENT}{webs}"))?;
    let mut names = vec!["daemonset/client".to_owned()];
    names.extend(nodes.iter().map(|node| format!("deployment/web-{node}")));
    for name in names {
        let arguments = ["rollout", "status", &name, "-n", "check", "--timeout=120s"];
        product
            .kubectl(&arguments)
            .with_context(|| format!("waiting for {name}"))?;
    }
    Ok(())
}

fn deploy(product: &Product) -> Result<()> {
    deploy_on(product, &WORKERS)
}

/// A Service that answers from a pod in another zone.
pub fn service_across_zones(product: &Product) -> Result<()> {
    deploy(product)?;
    let client = pod_on(product, "client", "w1")?;
    wait_until("web-w2 from w1", PODS_LIMIT, || {
        let answer = fetch(
            product,
            &client,
            "http://web-w2.check.svc.cluster.local:8080/name",
        )?;
        ensure!(
            answer.trim() == "w2",
            "the Service web-w2 answered {answer:?}"
        );
        Ok(())
    })?;
    crate::shell::say("a pod on w1 (zone a) reached the Service web-w2, whose pod is in zone b");
    Ok(())
}

/// Name of the pod of a set on a node.
pub fn pod_on(product: &Product, set: &str, node: &str) -> Result<String> {
    let (selector, field) = (format!("app={set}"), format!("spec.nodeName={node}"));
    let name = product.kubectl(&[
        "get",
        "pod",
        "-n",
        "check",
        "-l",
        &selector,
        "--field-selector",
        &field,
        "-o",
        "jsonpath={.items[0].metadata.name}",
    ])?;
    ensure!(!name.is_empty(), "no {set} pod on {node}");
    Ok(name)
}

/// The address of a pod; after a boot it is a while before it has one again.
fn pod_address(product: &Product, pod: &str) -> Result<String> {
    let address = product.kubectl(&[
        "get",
        "pod",
        "-n",
        "check",
        pod,
        "-o",
        "jsonpath={.status.podIP}",
    ])?;
    ensure!(!address.is_empty(), "{pod} has no address");
    Ok(address)
}

/// A pod on a node whose image is asked for at the registries again, though
/// the node has it.
pub fn pull_anew(product: &Product, node: &str) -> Result<()> {
    let image = product.kubectl(&[
        "get",
        "daemonset",
        "-n",
        "check",
        "client",
        "-o",
        "jsonpath={.spec.template.spec.containers[0].image}",
    ])?;
    let overrides = format!("--overrides={{\"spec\":{{\"nodeName\":\"{node}\"}}}}");
    product.kubectl(&[
        "run",
        "pull",
        "-n",
        "check",
        "--image",
        &image,
        "--image-pull-policy=Always",
        "--restart=Never",
        &overrides,
        "--",
        "true",
    ])?;
    let result = wait_until("a pull", PODS_LIMIT, || {
        let phase = [
            "get",
            "pod",
            "-n",
            "check",
            "pull",
            "-o",
            "jsonpath={.status}",
        ];
        let status = product.kubectl(&phase)?;
        ensure!(status.contains("\"phase\":\"Succeeded\""), "{status}");
        Ok(())
    });
    product.kubectl(&["delete", "pod", "-n", "check", "pull", "--wait=false"])?;
    result
}

/// Fetches an address from within a pod.
pub fn fetch(product: &Product, pod: &str, address: &str) -> Result<String> {
    product.kubectl(&[
        "exec", "-n", "check", pod, "--", "wget", "-q", "-O", "-", address,
    ])
}

/// Every way that pods and hosts talk, across zones and within.
pub fn network(product: &Product) -> Result<()> {
    deploy(product)?;
    for from in WORKERS {
        let client = pod_on(product, "client", from)?;
        for to in WORKERS {
            // Asked anew each time: after a boot the API tells the pod's former
            // address until kubelet has started the pod again.
            let answer = wait_until("pod address", PODS_LIMIT, || {
                let web = pod_on(product, "web", to)?;
                let address = pod_address(product, &web)?;
                fetch(product, &client, &format!("http://{address}:8080/name"))
            })
            .with_context(|| format!("pod address of web-{to} from a pod on {from}"))?;
            ensure!(
                answer.trim() == to,
                "pod address from {from} to {to}: {answer:?}"
            );
            let service = cluster_ip(product, &format!("web-{to}"))?;
            let ways = [
                ("ClusterIP", format!("http://{service}:8080/name")),
                ("Service name", format!("http://web-{to}:8080/name")),
                (
                    "full name",
                    format!("http://web-{to}.check.svc.cluster.local:8080/name"),
                ),
            ];
            for (way, url) in ways {
                let answer = wait_until(way, PODS_LIMIT, || fetch(product, &client, &url))
                    .with_context(|| format!("{way} of web-{to} from a pod on {from}"))?;
                ensure!(answer.trim() == to, "{way} from {from} to {to}: {answer:?}");
            }
        }
    }
    Ok(())
}

/// A pod reaches itself through its own Service, which needs hairpin.
pub fn own_service(product: &Product) -> Result<()> {
    deploy(product)?;
    for node in WORKERS {
        let web = pod_on(product, "web", node)?;
        let service = cluster_ip(product, &format!("web-{node}"))?;
        let answer = fetch(product, &web, &format!("http://{service}:8080/name"))?;
        ensure!(
            answer.trim() == node,
            "a pod on {node} through its own Service: {answer:?}"
        );
    }
    Ok(())
}

/// Ten megabytes through a ClusterIP whose pod is in another zone.
pub fn large_transfer(product: &Product) -> Result<()> {
    deploy(product)?;
    let client = pod_on(product, "client", "w1")?;
    let service = cluster_ip(product, "web-w2")?;
    let script = format!("wget -q -O - http://{service}:8080/large | wc -c");
    let counted = product.kubectl(&["exec", "-n", "check", &client, "--", "sh", "-c", &script])?;
    ensure!(
        counted.trim() == LARGE.to_string(),
        "{} of {LARGE} bytes came",
        counted.trim()
    );
    Ok(())
}

/// The cluster IP of a test Service.
pub fn cluster_ip(product: &Product, service: &str) -> Result<String> {
    product.kubectl(&[
        "get",
        "service",
        "-n",
        "check",
        service,
        "-o",
        "jsonpath={.spec.clusterIP}",
    ])
}

/// DNS answers for names in and of the cluster.
pub fn dns(product: &Product) -> Result<()> {
    deploy(product)?;
    for node in WORKERS {
        let client = pod_on(product, "client", node)?;
        let name = "kubernetes.default.svc.cluster.local";
        let answer = product.kubectl(&["exec", "-n", "check", &client, "--", "nslookup", name])?;
        ensure!(answer.contains("10.96.0.1"), "nslookup on {node}: {answer}");
    }
    Ok(())
}

/// `kubectl logs`, `exec` and `top nodes`.
pub fn kubectl_tools(product: &Product) -> Result<()> {
    deploy(product)?;
    let web = pod_on(product, "web", "w2")?;
    let logs = product.kubectl(&["logs", "-n", "check", &web])?;
    ensure!(logs.contains("serving as w2"), "logs of {web}: {logs:?}");
    let said = product.kubectl(&["exec", "-n", "check", &web, "--", "cat", "/www/name"])?;
    ensure!(said.trim() == "w2", "exec in {web}: {said:?}");
    wait_until("top nodes", PODS_LIMIT, || {
        let table = product.kubectl(&["top", "nodes", "--no-headers"])?;
        for host in Lab::open()?.hosts() {
            let node = &host.name;
            let line = table.lines().find(|line| line.starts_with(node));
            let line = line.with_context(|| format!("no line for {node}:\n{table}"))?;
            ensure!(!line.contains("unknown"), "{line}");
        }
        Ok(())
    })
}

/// Replicas of each add-on stand in at least two zones.
pub fn add_ons_spread(product: &Product) -> Result<()> {
    let lab = Lab::open()?;
    for set in ["kube-dns", "metrics-server"] {
        let selector = format!("k8s-app={set}");
        let fields = "jsonpath={range .items[*]}{.spec.nodeName}{\"\\n\"}{end}";
        let nodes = product.kubectl(&[
            "get",
            "pods",
            "-n",
            "kube-system",
            "-l",
            &selector,
            "-o",
            fields,
        ])?;
        let zones: BTreeSet<&str> = nodes
            .lines()
            .filter_map(|node| lab.hosts().iter().find(|host| host.name == node))
            .map(|host| host.zone.as_str())
            .collect();
        ensure!(zones.len() >= 2, "{set} stands on {nodes:?}");
    }
    Ok(())
}

/// Nodes are Ready and labelled with zone and role.
pub fn nodes_ready(product: &Product) -> Result<()> {
    let json = product.kubectl(&["get", "nodes", "-o", "json"])?;
    let list: serde_json::Value = serde_json::from_str(&json)?;
    let nodes = list["items"].as_array().context("no list of nodes")?;
    for host in Lab::open()?.hosts() {
        let (name, zone) = (host.name.as_str(), host.zone.as_str());
        let role = match host.kind {
            Kind::Master => "control-plane",
            Kind::Worker => "worker",
            Kind::Witness => continue,
        };
        let node = nodes.iter().find(|node| node["metadata"]["name"] == name);
        let node = node.with_context(|| format!("no node {name}"))?;
        let conditions = node["status"]["conditions"]
            .as_array()
            .context("no conditions")?;
        let ready = conditions
            .iter()
            .find(|condition| condition["type"] == "Ready");
        ensure!(
            ready.is_some_and(|ready| ready["status"] == "True"),
            "{name} is not Ready"
        );
        let labels = &node["metadata"]["labels"];
        ensure!(
            labels["topology.kubernetes.io/zone"] == zone,
            "zone of {name}: {labels}"
        );
        let role = format!("node-role.kubernetes.io/{role}");
        ensure!(labels.get(&role).is_some(), "{name} lacks {role}");
    }
    Ok(())
}

/// A Secret, read raw from etcd, is ciphertext.
pub fn secrets_encrypted(product: &Product) -> Result<()> {
    let plain = "cofferdam-was-here-in-the-clear";
    product.kubectl(&[
        "delete",
        "secret",
        "raw",
        "-n",
        "default",
        "--ignore-not-found",
    ])?;
    let literal = format!("--from-literal=value={plain}");
    product.kubectl(&[
        "create", "secret", "generic", "raw", "-n", "default", &literal,
    ])?;
    let raw = product.etcdctl(&["get", "/registry/secrets/default/raw", "--print-value-only"])?;
    ensure!(
        raw.contains("k8s:enc:secretbox:v1:"),
        "etcd holds no secretbox value"
    );
    if raw.contains(plain) {
        bail!("the Secret lies in etcd in the clear");
    }
    product.kubectl(&["delete", "secret", "raw", "-n", "default"])?;
    Ok(())
}
