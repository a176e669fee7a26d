//! Members of etcd, and who of them the inventory names.

use super::{Finding, Question};
use crate::desired::EtcdMembership;
use crate::facts::EtcdMember;
use crate::plan::membership::{self, Standing, standing};

/// A member that joins must name all others at its first start, and cofferdam
/// knows only those of the inventory.
pub(super) fn members(question: &Question) -> Vec<Finding> {
    let Some(desired) = question.desired else {
        return Vec::new();
    };
    let Some(known) = membership::members(question.facts.values()) else {
        return Vec::new();
    };
    let wanted: Vec<&EtcdMembership> = desired
        .hosts
        .values()
        .filter_map(|host| host.etcd.as_ref())
        .collect();
    let is_wanted = |member: &&EtcdMember| {
        wanted
            .iter()
            .any(|wanted| member.peer_urls.contains(&wanted.peer_url))
    };
    let strangers: Vec<&EtcdMember> = known.iter().filter(|member| !is_wanted(member)).collect();
    let Some(stranger) = strangers.first() else {
        return Vec::new();
    };
    let joining = desired.hosts.iter().find(|(name, host)| {
        let facts = question.facts.get(*name);
        standing(host, facts, Some(known)) == Some(Standing::Absent)
    });
    let finding = joining.map(|(name, _)| Finding {
        host: name.clone(),
        found: format!(
            "it is to join etcd, which has a member that the inventory does not name: {} ({})",
            stranger.name,
            stranger.peer_urls.join(", ")
        ),
        remedy: format!(
            "add its host to the inventory, or remove the member first: \
             `cofferdam etcdctl -- member remove {}`",
            stranger.id
        ),
    });
    finding.into_iter().collect()
}
