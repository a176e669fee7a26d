//! Conditions that steps wait for, evaluated on the step's host.

mod cluster;
mod dns;
mod lease;
mod local;

use super::channel::NoticeSender;
use super::journal;
use super::observe::show_units;
use super::root::Root;
use crate::desired::Condition;
use crate::facts::UnmetCondition;
use crate::host::{Failure, Notice};
use crate::ports::numbers;
use anyhow::Result;
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// A wait asks quickly at first, since most things are there in a moment.
const FIRST_INTERVAL: Duration = Duration::from_millis(100);
/// Then more and more seldom, up to this.
const LAST_INTERVAL: Duration = Duration::from_secs(1);
/// So many times a unit is seen dead before it is given up.
const DEATHS: u32 = 15;
/// One look at a condition takes no longer than this.
const LOOK_LIMIT: Duration = Duration::from_secs(3);
/// What works denies within milliseconds; who is busy takes longer.
const LATE: Duration = Duration::from_secs(1);
/// Hosts are busiest while a plan's facts are gathered, since they read all
/// their content for it.
const LOOKS_FOR_SURE: u32 = 4;

/// Looks at a condition once.
///
/// # Errors
/// Why it does not hold (yet).
pub async fn check(root: &Root, condition: &Condition) -> Result<()> {
    let look = async {
        match condition {
            Condition::UnitActive { unit } => local::unit_active(root, unit).await,
            Condition::RegistryServing { address } => local::registry_serving(root, address).await,
            Condition::EtcdHealthy { endpoints } => local::etcd_healthy(root, endpoints).await,
            Condition::ApiReady { address } => local::api_ready(root, address).await,
            Condition::HealthEndpoint { port } => local::health_endpoint(*port).await,
            Condition::OverlayUp => local::overlay_up(root),
            Condition::NodeReady { name } => cluster::node_ready(root, name).await,
            Condition::WorkloadsAvailable { except } => {
                cluster::workloads_available(root, except).await
            }
            Condition::NodeHasPodAddresses { name } => {
                cluster::node_has_pod_addresses(root, name).await
            }
            Condition::DeploymentAvailable { name } => {
                cluster::deployment_available(root, name).await
            }
            Condition::ApiServiceAvailable { name } => {
                cluster::api_service_available(root, name).await
            }
            Condition::ControllerManagerLeads => lease::controller_manager_leads(root).await,
            Condition::DnsAnswers { address, domain } => dns::answers(address, domain).await,
        }
    };
    match tokio::time::timeout(LOOK_LIMIT, look).await {
        Ok(result) => result,
        Err(_) => anyhow::bail!("no answer within {} s", LOOK_LIMIT.as_secs()),
    }
}

/// Looks at conditions once, side by side, and returns those that don't hold.
pub async fn unmet(root: &Root, conditions: &[Condition]) -> Vec<UnmetCondition> {
    unmet_after(root, conditions, 1).await
}

/// The same for a plan, which is not to be made from a moment's load: what is
/// denied late, or not answered at all, is asked a few times.
pub async fn unmet_for_sure(root: &Root, conditions: &[Condition]) -> Vec<UnmetCondition> {
    unmet_after(root, conditions, LOOKS_FOR_SURE).await
}

async fn unmet_after(root: &Root, conditions: &[Condition], looks: u32) -> Vec<UnmetCondition> {
    let each = conditions.iter().map(|condition| async move {
        let mut look = 1;
        loop {
            let begin = Instant::now();
            let error = check(root, condition).await.err()?;
            if look >= looks || begin.elapsed() < LATE {
                return Some(UnmetCondition {
                    condition: condition.clone(),
                    reason: format!("{error:#}"),
                });
            }
            look += 1;
            tokio::time::sleep(LAST_INTERVAL).await;
        }
    });
    join_all(each).await.into_iter().flatten().collect()
}

/// Waits until a condition holds.
///
/// # Errors
/// If it does not within the limit: with the last reason and, where a unit of
/// this host is concerned, the last lines of its log.
pub async fn wait(
    root: &Root,
    condition: &Condition,
    limit: Duration,
    notices: &NoticeSender,
) -> Result<()> {
    let begin = Instant::now();
    let mut interval = FIRST_INTERVAL;
    let mut told = BTreeSet::new();
    let mut deaths = 0;
    let last_reason = loop {
        let reason = match check(root, condition).await {
            Ok(()) => return Ok(()),
            Err(error) => format!("{error:#}"),
        };
        // What goes back and forth is told once.
        if told.insert(reason.clone()) {
            notices.send_lossy(Notice::Waiting {
                reason: reason.clone(),
            });
        }
        if begin.elapsed() >= limit {
            break reason;
        }
        if is_dead(root, condition).await {
            deaths += 1;
            if deaths >= DEATHS {
                let unit = unit_of(condition).unwrap_or_default();
                let message = format!("{unit} dies again and again: {reason}");
                return Err(journal::failure(root, &unit, message).await.into());
            }
        }
        tokio::time::sleep(interval).await;
        interval = (interval * 3 / 2).min(LAST_INTERVAL);
    };
    let message = format!(
        "waiting for {}: not within {} s; last: {last_reason}",
        describe(condition),
        limit.as_secs()
    );
    Err(match unit_of(condition) {
        Some(unit) => journal::failure(root, &unit, message).await,
        None => Failure {
            message,
            lines: Vec::new(),
            hint: hint_of(condition),
        },
    }
    .into())
}

/// Whether what would tell its health is between two starts. Others than these
/// die for as long as what they need is on its way up.
async fn is_dead(root: &Root, condition: &Condition) -> bool {
    let Condition::HealthEndpoint { .. } = condition else {
        return false;
    };
    let Some(unit) = unit_of(condition) else {
        return false;
    };
    // One that can't be seen is not seen dying.
    let shown = show_units(root, &[unit.as_str()]).await.unwrap_or_default();
    let state = shown.get(&unit).map(|shown| shown.get("SubState"));
    state == Some("auto-restart")
}

/// What is waited for, for people.
pub fn describe(condition: &Condition) -> String {
    match condition {
        Condition::UnitActive { unit } => format!("{unit} to run as configured"),
        Condition::RegistryServing { address } => format!("the registry at {address}"),
        Condition::EtcdHealthy { endpoints } => {
            format!("etcd to be healthy at {}", endpoints.join(", "))
        }
        Condition::ApiReady { address } => format!("the API server at {address} to be ready"),
        Condition::HealthEndpoint { port } => format!("health at 127.0.0.1:{port}"),
        Condition::NodeReady { name } => format!("node {name} to be ready"),
        Condition::WorkloadsAvailable { .. } => "workloads to be as available as before".to_owned(),
        Condition::NodeHasPodAddresses { name } => format!("node {name} to have pod addresses"),
        Condition::OverlayUp => "the overlay network to be up".to_owned(),
        Condition::DeploymentAvailable { name } => format!("deployment {name} to be available"),
        Condition::ApiServiceAvailable { name } => format!("API {name} to be available"),
        Condition::ControllerManagerLeads => "a controller-manager to lead".to_owned(),
        Condition::DnsAnswers { address, .. } => format!("DNS at {address} to answer"),
    }
}

/// Where to look when no unit of this host is the reason.
fn hint_of(condition: &Condition) -> Option<String> {
    match condition {
        Condition::NodeReady { name } | Condition::NodeHasPodAddresses { name } => Some(format!(
            "look at the kubelet's log on {name}: `journalctl -u kubelet`"
        )),
        Condition::DeploymentAvailable { name } => {
            let (namespace, deployment) = name.split_once('/')?;
            Some(format!(
                "see what its pods wait for: `cofferdam kubectl -- describe pods -n {namespace}`, and `-- describe deployment {deployment} -n {namespace}`"
            ))
        }
        Condition::WorkloadsAvailable { .. } => Some(
            "see which pods don't get ready: `cofferdam kubectl -- get pods -A -o wide`".to_owned(),
        ),
        Condition::ApiServiceAvailable { name } => Some(format!(
            "see what the API server says of it: `cofferdam kubectl -- describe apiservice {name}`"
        )),
        Condition::ControllerManagerLeads => Some(
            "look at its log on masters: `journalctl -u kube-controller-manager`".to_owned(),
        ),
        Condition::DnsAnswers { .. } => Some(
            "see whether CoreDNS runs: `cofferdam kubectl -- get pods -n kube-system -o wide`; from a host without a route to Services, `cofferdam-route.service` makes one"
                .to_owned(),
        ),
        _ => None,
    }
}

/// The unit of this host whose log says why a condition does not hold.
fn unit_of(condition: &Condition) -> Option<String> {
    let unit = match condition {
        Condition::UnitActive { unit } => return Some(unit.clone()),
        Condition::RegistryServing { .. } => "registry.service",
        Condition::EtcdHealthy { .. } => "etcd.service",
        Condition::ApiReady { .. } => "kube-apiserver.service",
        Condition::OverlayUp => "flanneld.service",
        Condition::HealthEndpoint { port } => match *port {
            numbers::KUBELET_HEALTH_PORT => "kubelet.service",
            numbers::KUBE_PROXY_HEALTH_PORT => "kube-proxy.service",
            _ => return None,
        },
        Condition::NodeReady { .. }
        | Condition::WorkloadsAvailable { .. }
        | Condition::NodeHasPodAddresses { .. }
        | Condition::DeploymentAvailable { .. }
        | Condition::ApiServiceAvailable { .. }
        | Condition::ControllerManagerLeads
        | Condition::DnsAnswers { .. } => return None,
    };
    Some(unit.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::channel::notice_channel;
    use super::super::failure::failure_of;
    use super::*;

    #[tokio::test]
    async fn a_kubelet_that_only_dies_is_not_waited_for() {
        let host = crate::agent::test_host::TestHost::new();
        host.program("systemctl", "echo SubState=auto-restart");
        host.program("journalctl", "echo 'invalid evictionHard'");
        let (notices, _heard) = notice_channel();
        // Nobody answers at the port of a host that is none.
        let port = numbers::KUBELET_HEALTH_PORT;
        let condition = Condition::HealthEndpoint { port };
        let limit = Duration::from_secs(600);
        let error = wait(&host.root, &condition, limit, &notices).await;
        let failure = failure_of(&error.unwrap_err());
        assert!(
            failure
                .message
                .starts_with("kubelet.service dies again and again"),
            "{failure:?}"
        );
        assert_eq!(failure.lines, ["invalid evictionHard"]);
    }

    #[tokio::test]
    async fn a_wait_ends_with_the_last_reason_and_says_it_once() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::below(camino::Utf8Path::from_path(directory.path()).unwrap());
        let (sender, mut receiver) = notice_channel();
        let limit = Duration::from_millis(300);
        let error = wait(&root, &Condition::OverlayUp, limit, &sender)
            .await
            .unwrap_err();
        let failure = failure_of(&error);
        assert!(
            failure.message.contains("no lease of flanneld"),
            "{}",
            failure.message
        );
        drop(sender);
        let mut reasons = Vec::new();
        while let Some(notice) = receiver.recv().await {
            reasons.push(notice);
        }
        assert_eq!(reasons.len(), 1);
    }

    #[tokio::test]
    async fn reports_only_what_does_not_hold() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut question = [0; 1024];
            tokio::io::AsyncReadExt::read(&mut stream, &mut question)
                .await
                .unwrap();
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
            tokio::io::AsyncWriteExt::write_all(&mut stream, answer)
                .await
                .unwrap();
            // The client hangs up once it has read the answer.
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        };
        let root = Root::below("/nonexistent");
        let conditions = [Condition::HealthEndpoint { port }, Condition::OverlayUp];
        let (_, unmet) = tokio::join!(serve, unmet(&root, &conditions));
        assert_eq!(unmet.len(), 1);
        assert_eq!(unmet[0].condition, Condition::OverlayUp);
    }
    /// Answers each question on a new connection, the first ones not at all.
    async fn health_that_is_busy(listener: tokio::net::TcpListener, unanswered: usize) {
        let mut kept = Vec::new();
        for question in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            if question >= unanswered {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
                let mut asked = [0; 1024];
                tokio::io::AsyncReadExt::read(&mut stream, &mut asked)
                    .await
                    .unwrap();
                tokio::io::AsyncWriteExt::write_all(&mut stream, answer)
                    .await
                    .unwrap();
            }
            kept.push(stream);
        }
    }

    #[tokio::test]
    async fn a_busy_moment_is_no_fact_for_a_plan() {
        for (unanswered, looks, expected) in [(1, LOOKS_FOR_SURE, 0), (1, 1, 1)] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let server = tokio::spawn(health_that_is_busy(listener, unanswered));
            let conditions = [Condition::HealthEndpoint { port }];
            let unmet = unmet_after(&Root::below("/nonexistent"), &conditions, looks).await;
            server.abort();
            assert_eq!(unmet.len(), expected, "{unmet:?}");
        }
    }
}
