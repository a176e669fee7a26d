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
    // Whoever is a member now, all of it begins anew.
    if desired.restore.is_some() {
        return Vec::new();
    }
    let mut findings: Vec<Finding> = etcd.strangers().collect();
    findings.extend(etcd.lost());
    findings.extend(etcd.hindered());
    findings
}

/// Members whose data is gone while others have theirs. Those refuse them; and out
/// of their reach, such members would begin a cluster of their own.
pub(super) fn data(question: &Question) -> Vec<Finding> {
    let Some(desired) = question.desired.filter(|desired| desired.restore.is_none()) else {
        return Vec::new();
    };
    let holds = |name: &String| {
        question
            .facts
            .get(name)
            .is_some_and(|facts| facts.etcd_data)
    };
    if !question.was_installed || !desired.hosts.keys().any(holds) {
        return Vec::new();
    }
    let known = membership::members(question.facts.values());
    let hosts = desired.hosts.iter();
    let empty = hosts.filter_map(|(name, host)| {
        let facts = question.facts.get(name)?;
        let is_member = standing(host, Some(facts), known) == Some(Standing::Voter);
        let etcd = host
            .etcd
            .as_ref()
            .filter(|_| is_member && !facts.etcd_data)?;
        let mut members = known.unwrap_or_default().iter();
        let member = members.find(|member| member.peer_urls.contains(&etcd.peer_url));
        Some((name, member))
    });
    let finding = |(name, member): (&String, Option<&EtcdMember>)| Finding {
        host: name.clone(),
        found: "it is a member of etcd, and its data is gone".to_owned(),
        remedy: match member {
            Some(member) => format!(
                "remove the member (`cofferdam etcdctl -- member remove {}`) and give the host \
                 another name in the inventory: it joins as a new one",
                member.id
            ),
            None => "where etcd has no majority any more, begin it anew from a snapshot: \
                     `cofferdam etcd snapshots`, `cofferdam etcd restore`"
                .to_owned(),
        },
    };
    empty.map(finding).collect()
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
