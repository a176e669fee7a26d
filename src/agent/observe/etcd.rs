//! etcd as this host's client sees it.

use crate::agent::etcdctl::{self, Member, hex};
use crate::agent::root::Root;
use crate::facts::{EtcdFacts, EtcdMember, EtcdMemberStatus};
use anyhow::Result;
use futures_util::future::join_all;
use serde::Deserialize;
use std::time::Duration;

/// Members that are up answer in milliseconds; one that is down must not hold
/// the whole observation up.
const QUESTION_LIMIT: Duration = Duration::from_secs(3);

pub(super) async fn observe(root: &Root, endpoints: &[String]) -> Option<EtcdFacts> {
    if endpoints.is_empty() || !etcdctl::is_available(root) {
        return None;
    }
    let ask = |endpoints: &[String], arguments: [&str; 2]| {
        let program = etcdctl::program(root, endpoints, QUESTION_LIMIT);
        let arguments = arguments.map(str::to_owned);
        async move {
            let program = program?.arguments(arguments).arguments(["-w", "json"]);
            program.finish().await
        }
    };
    // etcdctl asks one endpoint after the other, and waits for each that is off.
    let statuses = endpoints
        .iter()
        .map(|endpoint| ask(std::slice::from_ref(endpoint), ["endpoint", "status"]));
    let (members, statuses, alarms) = tokio::join!(
        ask(endpoints, ["member", "list"]),
        join_all(statuses),
        ask(endpoints, ["alarm", "list"]),
    );
    let text = |answer: Result<crate::agent::command::Finished>| {
        answer.map(|finished| (finished.stdout, finished.stderr))
    };
    // Who belongs to etcd is known also where members that are off kept the
    // other answers from coming in time.
    let output = |answer: Result<(String, String)>| answer.unwrap_or_default().0;
    let statuses = statuses.into_iter().map(|answer| output(text(answer)));
    let statuses: Vec<String> = statuses.collect();
    let alarms = output(text(alarms));
    Some(
        text(members)
            .and_then(|members| summarize(&members, &statuses, &alarms))
            .unwrap_or_else(|error| unknown(&error)),
    )
}

fn unknown(error: &anyhow::Error) -> EtcdFacts {
    EtcdFacts {
        error: Some(format!("{error:#}")),
        ..EtcdFacts::default()
    }
}

#[derive(Deserialize)]
struct EndpointStatus {
    #[serde(rename = "Status")]
    status: MemberStatus,
}

#[derive(Deserialize)]
struct MemberStatus {
    header: StatusHeader,
    #[serde(default)]
    version: String,
    #[serde(default)]
    leader: u64,
    #[serde(default, rename = "raftIndex")]
    raft_index: u64,
    #[serde(default, rename = "raftAppliedIndex")]
    applied_index: u64,
    #[serde(default, rename = "dbSize")]
    database_bytes: u64,
    #[serde(default)]
    errors: Vec<String>,
}

#[derive(Deserialize)]
struct StatusHeader {
    member_id: u64,
}

#[derive(Deserialize)]
struct AlarmList {
    #[serde(default)]
    alarms: Vec<Alarm>,
}

#[derive(Deserialize)]
struct Alarm {
    #[serde(default, rename = "memberID")]
    member_id: u64,
    #[serde(default)]
    alarm: serde_json::Value,
}

/// Joins the three answers. Healthy means that every voting member answers,
/// has nothing to complain about, and names the same leader.
fn summarize(members: &(String, String), statuses: &[String], alarms: &str) -> Result<EtcdFacts> {
    let members = etcdctl::parse_members(&members.0, &members.1)?;
    // `endpoint status` is empty for members that don't answer.
    let read = |status: &String| serde_json::from_str::<Vec<EndpointStatus>>(status);
    let statuses = statuses.iter().flat_map(read).flatten();
    let statuses: Vec<EndpointStatus> = statuses.collect();
    let alarms: Vec<Alarm> = serde_json::from_str::<AlarmList>(alarms)
        .map(|list| list.alarms)
        .unwrap_or_default();
    let name_of = |id: u64| {
        members
            .iter()
            .find(|member| member.id == id)
            .map_or_else(|| hex(id), |member| member.name.clone())
    };
    let leader = statuses
        .iter()
        .map(|each| each.status.leader)
        .find(|leader| *leader != 0);
    let complaint = |member: &Member| {
        let name = match member.name.is_empty() {
            true => member.peer_urls.join(", "),
            false => member.name.clone(),
        };
        let found = statuses
            .iter()
            .find(|each| each.status.header.member_id == member.id);
        match found.map(|each| &each.status) {
            None => Some(format!("{name} does not answer")),
            Some(status) if !status.errors.is_empty() => {
                Some(format!("{name} says: {}", status.errors.join(", ")))
            }
            Some(status) if status.leader == 0 => Some(format!("{name} knows no leader")),
            Some(status) if Some(status.leader) != leader => {
                let other = name_of(status.leader);
                Some(format!("{name} follows {other}, others do not"))
            }
            Some(_) => None,
        }
    };
    let voters = members.iter().filter(|member| !member.is_learner);
    let complaints: Vec<String> = voters.filter_map(complaint).collect();
    Ok(EtcdFacts {
        unhealthy: (!complaints.is_empty()).then(|| complaints.join("; ")),
        leader: leader.map(name_of),
        version: statuses
            .iter()
            .map(|each| each.status.version.clone())
            .min(),
        alarms: alarms
            .iter()
            .map(|alarm| {
                format!(
                    "{} on {}",
                    alarm_name(&alarm.alarm),
                    name_of(alarm.member_id)
                )
            })
            .collect(),
        error: None,
        members: members
            .into_iter()
            .map(|member| EtcdMember {
                id: hex(member.id),
                status: statuses
                    .iter()
                    .find(|each| each.status.header.member_id == member.id)
                    .map(|each| member_status(&each.status)),
                name: member.name,
                peer_urls: member.peer_urls,
                learner: member.is_learner,
            })
            .collect(),
    })
}

fn member_status(status: &MemberStatus) -> EtcdMemberStatus {
    EtcdMemberStatus {
        version: status.version.clone(),
        raft_index: status.raft_index,
        applied_index: status.applied_index,
        database_bytes: status.database_bytes,
    }
}

fn alarm_name(alarm: &serde_json::Value) -> String {
    match alarm.as_u64() {
        Some(1) => "NOSPACE".to_owned(),
        Some(2) => "CORRUPT".to_owned(),
        _ => alarm
            .as_str()
            .map_or_else(|| alarm.to_string(), str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBERS: &str = r#"{"header":{"cluster_id":1,"member_id":17,"raft_term":2},"members":[
        {"ID":17,"name":"m1","peerURLs":["https://10.77.1.11:2380"],"clientURLs":["https://10.77.1.11:2379"]},
        {"ID":18,"name":"m2","peerURLs":["https://10.77.2.11:2380"],"isLearner":true}]}"#;
    const STATUS: &str = r#"[
        {"Endpoint":"https://10.77.1.11:2379","Status":{"header":{"member_id":17},"version":"3.6.16","dbSize":4096,"leader":17,"raftIndex":90,"raftAppliedIndex":90}},
        {"Endpoint":"https://10.77.2.11:2379","Status":{"header":{"member_id":18},"version":"3.6.15","dbSize":8192,"leader":17,"raftIndex":90,"raftAppliedIndex":70}}]"#;

    fn summary(members: &str, status: &str, alarms: &str) -> Result<EtcdFacts> {
        let members = (members.to_owned(), "refused".to_owned());
        summarize(&members, &[status.to_owned()], alarms)
    }

    /// As etcdctl does: one endpoint after the other, each that is off after
    /// two seconds.
    const ETCDCTL: &str = r#"
case "$*" in
  *member*) echo '{"members":[{"ID":1,"name":"m1"},{"ID":2,"name":"m2"},{"ID":3,"name":"m3"},{"ID":4,"name":"m4"},{"ID":5,"name":"m5"}]}' ;;
  *alarm*) echo '{}' ;;
  *)
    answers=
    for endpoint in $(echo "${1#--endpoints=}" | tr , ' '); do
      case "$endpoint" in
        4|5) sleep 2 ;;
        *) answers="$answers${answers:+,}{\"Status\":{\"header\":{\"member_id\":$endpoint},\"leader\":1}}" ;;
      esac
    done
    echo "[$answers]" ;;
esac"#;

    #[tokio::test]
    async fn those_that_are_off_hold_up_no_answer_of_the_others() {
        let host = crate::agent::test_host::TestHost::new();
        host.binary("etcdctl", ETCDCTL);
        host.write("/etc/etcd/pki/client.crt", "");
        let endpoints = ["1", "2", "3", "4", "5"].map(str::to_owned);
        let facts = observe(&host.root, &endpoints).await.unwrap();
        let unhealthy = facts.unhealthy.as_deref();
        assert_eq!(unhealthy, Some("m4 does not answer; m5 does not answer"));
        assert_eq!(facts.leader.as_deref(), Some("m1"));
    }

    #[test]
    fn joins_members_status_and_alarms() {
        let alarms = r#"{"header":{},"alarms":[{"memberID":18,"alarm":1}]}"#;
        let facts = summary(MEMBERS, STATUS, alarms).unwrap();
        assert_eq!(facts.unhealthy, None);
        assert_eq!(facts.leader.as_deref(), Some("m1"));
        assert_eq!(facts.version.as_deref(), Some("3.6.15"));
        assert_eq!(facts.alarms, ["NOSPACE on m2"]);
        assert_eq!(facts.members[1].id, "12");
        assert!(facts.members[1].learner);
        let status = facts.members[1].status.as_ref().unwrap();
        assert_eq!(
            (
                status.raft_index,
                status.applied_index,
                status.database_bytes
            ),
            (90, 70, 8192)
        );
    }

    fn voting(members: &str) -> String {
        members.replace(r#","isLearner":true"#, "")
    }

    #[test]
    fn who_sees_it_otherwise_is_named() {
        let members = voting(MEMBERS);
        for (leader, errors, expected) in [
            (0, "[]", "m2 knows no leader"),
            (18, "[]", "m2 follows m2, others do not"),
            (17, r#"["NOSPACE"]"#, "m2 says: NOSPACE"),
        ] {
            let status = format!(
                r#"[{{"Status":{{"header":{{"member_id":17}},"leader":17}}}},
                    {{"Status":{{"header":{{"member_id":18}},"leader":{leader},"errors":{errors}}}}}]"#
            );
            let facts = summary(&members, &status, "{}").unwrap();
            assert_eq!(facts.unhealthy.as_deref(), Some(expected));
        }
    }

    #[test]
    fn one_silent_member_is_not_healthy_and_nobody_is_an_error() {
        let one = r#"[{"Status":{"header":{"member_id":17},"version":"3.6.16","leader":17}}]"#;
        let facts = summary(&voting(MEMBERS), one, "{}").unwrap();
        let complaint = facts.unhealthy.as_deref();
        assert_eq!(complaint, Some("m2 does not answer"));
        assert_eq!(facts.leader.as_deref(), Some("m1"));
        // One without a vote takes nothing away.
        let facts = summary(MEMBERS, one, "{}").unwrap();
        assert_eq!(facts.unhealthy, None);
        assert!(facts.members[1].status.is_none());
        let error = summary("", "", "").unwrap_err();
        assert!(format!("{error:#}").contains("refused"), "{error:#}");
    }
}
