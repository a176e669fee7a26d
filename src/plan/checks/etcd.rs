//! Members of etcd as it lists them, against those of the inventory. What
//! can't be put right by a run is refused before one: votes must neither be
//! lost nor miscounted.

use super::{Finding, Question};
use crate::desired::Desired;
use crate::facts::EtcdMember;
use crate::layout;
use crate::plan::membership::{self, Standing, standing};

pub(super) fn members(question: &Question) -> Vec<Finding> {
    let Some(desired) = question.desired else {
        return Vec::new();
    };
    let Some(known) = membership::members(question.facts.values()) else {
        return Vec::new();
    };
    let etcd = Etcd {
        question,
        desired,
        known,
    };
    let mut findings: Vec<Finding> = etcd.strangers().collect();
    findings.extend(etcd.lost());
    findings.extend(etcd.hindered());
    findings
}

struct Etcd<'a> {
    question: &'a Question<'a>,
    desired: &'a Desired,
    /// Not empty.
    known: &'a [EtcdMember],
}

impl Etcd<'_> {
    fn knows(&self, peer_url: &String) -> bool {
        let mut known = self.known.iter();
        known.any(|member| member.peer_urls.contains(peer_url))
    }

    fn standing(&self, host: &str) -> Option<Standing> {
        let desired = self.desired.hosts.get(host)?;
        standing(desired, self.question.facts.get(host), Some(self.known))
    }

    /// Hosts that are to be members, with their place among those that join.
    fn wanted(&self) -> impl Iterator<Item = (&String, &String, Option<usize>)> {
        self.desired.hosts.iter().filter_map(|(name, host)| {
            let etcd = host.etcd.as_ref()?;
            Some((name, &etcd.peer_url, etcd.joins))
        })
    }

    /// Members that have no such role in the inventory: ending them would take
    /// votes away, and who joins must name them.
    fn strangers(&self) -> impl Iterator<Item = Finding> {
        let is_wanted = |member: &EtcdMember| {
            self.wanted()
                .any(|(_, peer_url, _)| member.peer_urls.contains(peer_url))
        };
        let teller = self.question.facts.iter().find_map(|(name, facts)| {
            let list = &facts.etcd.as_ref()?.members;
            (!list.is_empty()).then(|| name.clone())
        });
        let strangers = self.known.iter().filter(move |member| !is_wanted(member));
        strangers.filter_map(move |member| {
            let name = match member.name.as_str() {
                "" => member.id.as_str(),
                name => name,
            };
            Some(Finding {
                host: teller.clone()?,
                found: format!(
                    "etcd has a member that the inventory does not name: {name} ({})",
                    member.peer_urls.join(", ")
                ),
                remedy: format!(
                    "give its host the role `etcd`; or, if it is to go and the others keep a \
                     majority, remove it first: `cofferdam etcdctl -- member remove {}`",
                    member.id
                ),
            })
        })
    }

    /// Members that etcd had once and has no longer.
    fn lost(&self) -> impl Iterator<Item = Finding> {
        let last_voter = self
            .wanted()
            .filter(|(name, ..)| self.standing(name) == Some(Standing::Voter))
            .filter_map(|(_, _, joins)| joins)
            .max();
        self.wanted().filter_map(move |(name, peer_url, joins)| {
            let was_before = joins.is_none() || joins < last_voter;
            (was_before && !self.knows(peer_url)).then(|| Finding {
                host: name.clone(),
                found: "it was a member of etcd, which has it no longer".to_owned(),
                remedy: "give the host another name in the inventory, and it joins as a new one"
                    .to_owned(),
            })
        })
    }

    /// Hosts that can't join as things are.
    fn hindered(&self) -> impl Iterator<Item = Finding> {
        let left_out: Vec<&str> = self
            .wanted()
            .map(|(name, ..)| name.as_str())
            .filter(|name| !self.question.facts.contains_key(*name))
            .collect();
        self.wanted().filter_map(move |(name, _, joins)| {
            joins?;
            let facts = self.question.facts.get(name)?;
            let standing = self.standing(name)?;
            if standing == Standing::Absent && facts.etcd_data {
                return Some(Finding {
                    host: name.clone(),
                    found: "it holds data of a member that etcd does not know".to_owned(),
                    remedy: format!("move {}/member there out of the way", layout::ETCD),
                });
            }
            let missing = left_out.first().filter(|_| standing != Standing::Voter)?;
            Some(Finding {
                host: name.clone(),
                found: format!("it is to join etcd, which takes nobody while {missing} is gone"),
                remedy: format!(
                    "bring {missing} back, or take {name} out of the inventory for now"
                ),
            })
        })
    }
}
