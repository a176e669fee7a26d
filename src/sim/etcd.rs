//! What the model knows of etcd: who belongs to it, who of them votes, and
//! when it serves.

use super::world::World;
use super::zones::Link;
use crate::facts::{EtcdFacts, EtcdMember, EtcdMemberStatus};
use std::collections::BTreeMap;

const ETCD: &str = "etcd.service";
const API_SERVER: &str = "kube-apiserver.service";

/// What a member is. Those that start together form the cluster once most of
/// them run; others are added, and get their vote later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vote {
    Learner,
    Voter,
}

/// Members by host. Empty until the first ones have found each other.
pub(super) type Members = BTreeMap<String, Vote>;

impl World {
    /// Hosts whose members vote, or will once they have found each other.
    pub(super) fn etcd_voters(&self) -> Vec<&str> {
        let members = &self.cluster.members;
        if !members.is_empty() {
            let voters = members.iter().filter(|(_, vote)| **vote == Vote::Voter);
            return voters.map(|(name, _)| name.as_str()).collect();
        }
        let hosts = self.desired.hosts.iter();
        hosts
            .filter(|(_, host)| host.etcd.as_ref().is_some_and(|etcd| etcd.joins.is_none()))
            .map(|(name, _)| name.as_str())
            .collect()
    }

    /// Whether a majority of the voters has joined and runs, its members in
    /// reach of each other.
    pub(super) fn etcd_has_quorum(&self) -> bool {
        let mut voters = self.etcd_voters().into_iter();
        voters.any(|name| self.reaches_quorum(name))
    }

    /// Whether the host is on the side of such a majority.
    fn reaches_quorum(&self, host: &str) -> bool {
        self.reaches_majority(host, |name| self.is_active(name, ETCD))
    }

    fn reaches_majority(&self, host: &str, counts: impl Fn(&str) -> bool) -> bool {
        let voters = self.etcd_voters();
        let counted = voters
            .iter()
            .filter(|name| counts(name) && self.reaches(host, name));
        counted.count() > voters.len() / 2
    }

    /// Whether the host's API server finds its member of etcd: the host's own
    /// where it is to have one, else any.
    pub(super) fn etcd_serves(&self, host: &str) -> bool {
        let desired = self.desired.hosts.get(host);
        let has_own = desired.is_some_and(|desired| desired.etcd.is_some());
        self.reaches_quorum(host) && (!has_own || self.is_active(host, ETCD))
    }

    /// Why those members are not healthy as a whole for the host, if they
    /// aren't. Learners answer no such question.
    pub(super) fn why_etcd_unhealthy(&self, host: &str, endpoints: &[String]) -> Option<String> {
        let voters = self.etcd_voters();
        endpoints.iter().find_map(|endpoint| {
            let hosts = self.desired.hosts.iter();
            let mut owner = hosts.filter(|(_, desired)| {
                let member = desired.etcd.as_ref();
                member.is_some_and(|member| member.client_url == *endpoint)
            });
            let healthy = owner.next().is_some_and(|(name, _)| {
                voters.contains(&name.as_str())
                    && self.reaches(host, name)
                    && self.is_active(name, ETCD)
                    && self.reaches_quorum(name)
            });
            (!healthy).then(|| format!("{endpoint}: no health"))
        })
    }

    /// A member tells that it is ready once it has joined, for which a
    /// majority of the voters has to run; all of those join together.
    pub(super) fn join_etcd_members(&mut self) {
        let joins = |world: &Self, name: &str| {
            world.is_etcd_up(name) && world.reaches_majority(name, |other| world.is_etcd_up(other))
        };
        let voters = self.etcd_voters();
        if !voters.iter().any(|name| joins(self, name)) {
            return;
        }
        if self.cluster.members.is_empty() {
            let formed = voters.iter().map(|name| ((*name).to_owned(), Vote::Voter));
            self.cluster.members = formed.collect();
        }
        let members: Vec<String> = self.cluster.members.keys().cloned().collect();
        for name in members {
            if !joins(self, &name) {
                continue;
            }
            self.activate(&name, ETCD);
            if let Some(machine) = self.machines.get_mut(&name) {
                machine.disk.etcd_data = true;
                machine.disk.etcd_of.clone_from(&self.cluster.restored);
            }
            self.cluster.had_data.insert(name);
        }
    }

    fn is_etcd_up(&self, host: &str) -> bool {
        let Some(machine) = self.machines.get(host) else {
            return false;
        };
        // A member whose data is gone is refused: the others know it with its own.
        let belongs = match machine.disk.etcd_data {
            true => machine.disk.etcd_of == self.cluster.restored,
            false => !self.cluster.had_data.contains(host),
        };
        let process = machine.memory.processes.get(ETCD);
        belongs && process.is_some_and(|process| self.now >= process.ready_at)
    }

    /// All members begin anew with the first whose data is of another restore.
    pub(super) fn restore_etcd(&mut self, token: &str) {
        if self.cluster.restored.as_deref() == Some(token) {
            return;
        }
        self.cluster.restored = Some(token.to_owned());
        self.cluster.had_data.clear();
        let hosts = self.desired.hosts.iter();
        let members = hosts.filter(|(_, host)| host.etcd.is_some());
        self.cluster.members = members
            .map(|(name, _)| (name.clone(), Vote::Voter))
            .collect();
    }

    /// Whoever leads goes on to, while a majority follows.
    pub(super) fn elect_etcd_leader(&mut self) {
        let leads = |name: &str| self.is_active(name, ETCD) && self.reaches_quorum(name);
        if self.cluster.leader.as_deref().is_some_and(leads) {
            return;
        }
        let voters = self.etcd_voters();
        let elected = voters.into_iter().find(|name| leads(name));
        self.cluster.leader = elected.map(str::to_owned);
    }

    /// Has another member lead, by its id.
    ///
    /// # Errors
    /// Why etcd refuses that.
    pub(super) fn move_etcd_leader(&mut self, host: &str, to: &str) -> Result<(), String> {
        if self.cluster.leader.as_deref() != Some(host) {
            return Err("etcdserver: not leader".to_owned());
        }
        let mut members = self.cluster.members.keys().enumerate();
        let successor = members.find(|(index, _)| format!("{index:x}") == to);
        let successor = successor.map(|(_, name)| name.clone());
        let successor = successor
            .filter(|name| self.is_active(name, ETCD) && self.reaches_quorum(name))
            .ok_or("etcdserver: bad leader transferee")?;
        for (name, machine) in &self.machines {
            let is_suspended = machine.memory.suspended.contains(API_SERVER);
            let is_asked = self.link(name) == Link::Up && !self.lost.contains(name);
            if machine.is_active(API_SERVER) && is_asked && !is_suspended {
                self.violations.push(format!(
                    "{host}: etcd's leadership was moved while {name} wrote to it"
                ));
            }
        }
        self.cluster.leader = Some(successor);
        self.cluster.handed_over.insert(host.to_owned());
        Ok(())
    }

    /// A member that nobody knows ends at its start, and leaves what it wrote. One
    /// that leads others drops what they propose while it ends.
    pub(super) fn check_etcd_start(&mut self, host: &str) {
        let is_told = self.cluster.handed_over.remove(host);
        let others = self.etcd_voters().into_iter();
        let mut others = others.filter(|other| *other != host);
        let leads = self.cluster.leader.as_deref() == Some(host) && self.is_active(host, ETCD);
        let is_followed = others.any(|other| self.is_active(other, ETCD));
        if leads && is_followed && !is_told && self.reaches_quorum(host) {
            let violation = format!("{host}: etcd was restarted while it led");
            self.violations.push(violation);
        }
        let desired = self.desired.hosts.get(host);
        let joins = desired.and_then(|desired| desired.etcd.as_ref()?.joins);
        if joins.is_some() && !self.cluster.members.contains_key(host) {
            let violation = format!("{host}: etcd was started before the others knew it");
            self.violations.push(violation);
        }
    }

    /// Makes a host known as a learner.
    ///
    /// # Errors
    /// Why etcd refuses that.
    pub(super) fn add_etcd_learner(&mut self, host: &str) -> Result<(), String> {
        if self.cluster.members.contains_key(host) {
            return Ok(());
        }
        if !self.reaches_quorum(host) {
            return Err("etcdserver: request timed out".to_owned());
        }
        // `--max-learners`, by default.
        if self
            .cluster
            .members
            .values()
            .any(|vote| *vote == Vote::Learner)
        {
            return Err("etcdserver: too many learner members in cluster".to_owned());
        }
        if self
            .etcd_voters()
            .iter()
            .any(|voter| !self.is_active(voter, ETCD) || !self.reaches(host, voter))
        {
            return Err("etcdserver: unhealthy cluster".to_owned());
        }
        self.cluster.members.insert(host.to_owned(), Vote::Learner);
        Ok(())
    }

    /// Gives a learner its vote.
    ///
    /// # Errors
    /// Why etcd refuses that.
    pub(super) fn promote_etcd_learner(&mut self, host: &str) -> Result<(), String> {
        match self.cluster.members.get(host) {
            None => Err("etcdserver: member not found".to_owned()),
            Some(Vote::Voter) => Ok(()),
            Some(Vote::Learner) if !self.reaches_quorum(host) => {
                Err("etcdserver: request timed out".to_owned())
            }
            Some(Vote::Learner) if !self.is_active(host, ETCD) => Err(
                "etcdserver: can only promote a learner member which is in sync with leader"
                    .to_owned(),
            ),
            Some(Vote::Learner) => {
                self.cluster.members.insert(host.to_owned(), Vote::Voter);
                Ok(())
            }
        }
    }

    /// What a member or master learns of etcd. Without a majority nothing can
    /// be learned.
    pub(super) fn etcd_facts(&self, host: &str) -> EtcdFacts {
        if !self.reaches_quorum(host) {
            return EtcdFacts {
                error: Some("context deadline exceeded".to_owned()),
                ..EtcdFacts::default()
            };
        }
        let members = self.cluster.members.iter().enumerate();
        let mut voters = self.etcd_voters().into_iter();
        let answers = |name: &str| self.is_active(name, ETCD) && self.reaches(host, name);
        let silent = voters.find(|name| !answers(name));
        EtcdFacts {
            unhealthy: silent.map(|name| format!("{name} does not answer")),
            leader: self.cluster.leader.clone(),
            members: members
                .filter_map(|(index, (name, vote))| {
                    let member = self.desired.hosts.get(name)?.etcd.as_ref()?;
                    Some(EtcdMember {
                        id: format!("{index:x}"),
                        name: name.clone(),
                        peer_urls: vec![member.peer_url.clone()],
                        learner: *vote == Vote::Learner,
                        status: answers(name).then(EtcdMemberStatus::default),
                    })
                })
                .collect(),
            ..EtcdFacts::default()
        }
    }
}
