//! Where hosts stand on their way into etcd. Its own list of members tells, by
//! peer URL; while nobody can be asked for it, what lies on the host's disk.

use crate::desired::DesiredHost;
use crate::facts::{EtcdMember, HostFacts};

/// Where a host stands on its way into etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// etcd does not know it.
    Absent,
    /// It has all or some of the data and no vote yet; or etcd could not be
    /// asked, and it may have its vote.
    Learner,
    Voter,
}

/// etcd's list of members, by whichever host could ask for it.
pub fn members<'a>(facts: impl IntoIterator<Item = &'a HostFacts>) -> Option<&'a [EtcdMember]> {
    let mut lists = facts.into_iter().filter_map(|facts| {
        let members = facts.etcd.as_ref()?.members.as_slice();
        (!members.is_empty()).then_some(members)
    });
    lists.next()
}

/// Where a host stands; none if it is to be no member.
pub fn standing(
    host: &DesiredHost,
    facts: Option<&HostFacts>,
    members: Option<&[EtcdMember]>,
) -> Option<Standing> {
    let wanted = host.etcd.as_ref()?;
    // Those that start together find each other.
    if wanted.joins.is_none() {
        return Some(Standing::Voter);
    }
    let Some(members) = members else {
        let has_data = facts.is_some_and(|facts| facts.etcd_data);
        return Some(match has_data {
            true => Standing::Learner,
            false => Standing::Absent,
        });
    };
    let found = members
        .iter()
        .find(|member| member.peer_urls.contains(&wanted.peer_url));
    Some(match found {
        None => Standing::Absent,
        Some(member) if member.learner => Standing::Learner,
        Some(_) => Standing::Voter,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::EtcdMembership;

    #[test]
    fn the_list_of_members_tells_and_else_the_disk() {
        let host = |joins| DesiredHost {
            etcd: Some(EtcdMembership {
                peer_url: "https://10.0.0.2:2380".to_owned(),
                client_url: "https://10.0.0.2:2379".to_owned(),
                joins,
            }),
            ..DesiredHost::default()
        };
        let member = |url: &str, learner| EtcdMember {
            id: "1".to_owned(),
            // It has no name before it starts.
            name: String::new(),
            peer_urls: vec![url.to_owned()],
            learner,
            status: None,
        };
        let others = [member("https://10.0.0.1:2380", false)];
        let learns = [member("https://10.0.0.2:2380", true)];
        let votes = [member("https://10.0.0.2:2380", false)];
        let holding = |etcd_data| HostFacts {
            etcd_data,
            ..HostFacts::default()
        };
        for (joins, has_data, list, expected) in [
            (None, false, Some(&others), Standing::Voter),
            (Some(0), false, Some(&others), Standing::Absent),
            // Data of another cluster, or of a member that was removed.
            (Some(0), true, Some(&others), Standing::Absent),
            (Some(0), false, Some(&learns), Standing::Learner),
            (Some(0), true, Some(&votes), Standing::Voter),
            (Some(0), false, None, Standing::Absent),
            (Some(0), true, None, Standing::Learner),
        ] {
            let list = list.map(<[EtcdMember; 1]>::as_slice);
            let found = standing(&host(joins), Some(&holding(has_data)), list);
            assert_eq!(found, Some(expected), "{joins:?} {has_data} {list:?}");
        }
        assert_eq!(standing(&DesiredHost::default(), None, None), None);
    }
}
