//! Which scenarios there are, on which hosts, in which order.

use super::{
    Group, Hosts, Scenario, SiteOf, broken, bundle_file, damage, failures, foreign, growth, images,
    interrupt, left_behind, masters, patch, pods, refusals, restore, rooms, rows, two_platforms,
    upgrade, zones,
};

/// The default lab: one master, two workers, two zones.
const SMALL: &[Scenario] = &[
    Scenario {
        name: "a bundle is read by skopeo, oras and minisign",
        run: bundle_file::standard_tools,
    },
    Scenario {
        name: "a bundle is pushed to another registry",
        run: bundle_file::pushed_to_another_registry,
    },
    Scenario {
        name: "a build whose disk fills goes on",
        run: damage::full_disk_during_a_build,
    },
    Scenario {
        name: "a damaged bundle reaches no host",
        run: damage::some,
    },
    Scenario {
        name: "refused: a host that is off",
        run: refusals::unreachable_host,
    },
    Scenario {
        name: "refused: a changed host key",
        run: refusals::changed_host_key,
    },
    Scenario {
        name: "refused: a user who can't become root",
        run: refusals::user_without_root,
    },
    Scenario {
        name: "refused: an architecture that the bundle lacks",
        run: refusals::lacking_architecture,
    },
    Scenario {
        name: "refused: a disk too small",
        run: refusals::full_disk,
    },
    Scenario {
        name: "refused: a second run while one is going on",
        run: refusals::second_run,
    },
    Scenario {
        name: "install from bare hosts",
        run: super::install,
    },
    Scenario {
        name: "a bundle is imported by containerd's ctr",
        run: bundle_file::imported_by_containerd,
    },
    Scenario {
        name: "nodes are Ready, with zone and role",
        run: |c| pods::nodes_ready(&c.product),
    },
    Scenario {
        name: "pods and Services across zones",
        run: |c| pods::network(&c.product),
    },
    Scenario {
        name: "a ClusterIP from a host itself",
        run: failures::cluster_ip_from_hosts,
    },
    Scenario {
        name: "a pod through its own Service",
        run: |c| pods::own_service(&c.product),
    },
    Scenario {
        name: "10 MB through a ClusterIP across zones",
        run: |c| pods::large_transfer(&c.product),
    },
    Scenario {
        name: "DNS in pods",
        run: |c| pods::dns(&c.product),
    },
    Scenario {
        name: "kubectl logs, exec and top",
        run: |c| pods::kubectl_tools(&c.product),
    },
    Scenario {
        name: "Secrets are ciphertext in etcd",
        run: |c| pods::secrets_encrypted(&c.product),
    },
    Scenario {
        name: "nodes pulled from the registry",
        run: failures::registry_was_used,
    },
    Scenario {
        name: "a second install has zero steps",
        run: failures::second_install,
    },
    Scenario {
        name: "nothing tried to leave the lab",
        run: failures::nothing_left,
    },
    Scenario {
        name: "the jump host needs no root, hosts only sudo",
        run: failures::ordinary_user,
    },
    Scenario {
        name: "master off: Services go on; boot brings it back",
        run: failures::master_off,
    },
    Scenario {
        name: "all hosts off and on together",
        run: failures::all_off_and_on,
    },
];

/// Fresh hosts, and an install that doesn't come to its end at first.
const INTERRUPTED: &[Scenario] = &[Scenario {
    name: "kill -9 of CLI, agents and registry, and power cuts",
    run: interrupt::ten_blows,
}];

/// Three masters in three zones, and two workers.
const THREE_ZONES: &[Scenario] = &[
    Scenario {
        name: "install over three zones, killed once",
        run: interrupt::killed_once,
    },
    Scenario {
        name: "three zones: nodes are Ready, with zone and role",
        run: |c| pods::nodes_ready(&c.product),
    },
    Scenario {
        name: "three zones: pods and Services",
        run: |c| pods::network(&c.product),
    },
    Scenario {
        name: "three zones: a ClusterIP from a host itself",
        run: failures::cluster_ip_from_hosts,
    },
    Scenario {
        name: "three zones: a pod through its own Service",
        run: |c| pods::own_service(&c.product),
    },
    Scenario {
        name: "three zones: 10 MB through a ClusterIP",
        run: |c| pods::large_transfer(&c.product),
    },
    Scenario {
        name: "three zones: DNS in pods",
        run: |c| pods::dns(&c.product),
    },
    Scenario {
        name: "three zones: kubectl logs, exec and top",
        run: |c| pods::kubectl_tools(&c.product),
    },
    Scenario {
        name: "three zones: Secrets are ciphertext in etcd",
        run: |c| pods::secrets_encrypted(&c.product),
    },
    Scenario {
        name: "three zones: add-ons stand in different zones",
        run: |c| pods::add_ons_spread(&c.product),
    },
    Scenario {
        name: "three zones: nodes pulled from their own zone's registry",
        run: failures::registry_was_used,
    },
    Scenario {
        name: "three zones: status is fine",
        run: |c| zones::status_is_fine(&c.product),
    },
    Scenario {
        name: "three zones: a second install has zero steps",
        run: failures::second_install,
    },
    Scenario {
        name: "three zones: nothing was refused, nothing left the lab",
        run: failures::nothing_left,
    },
    Scenario {
        name: "three zones: a lost restart is found",
        run: failures::lost_restart,
    },
    Scenario {
        name: "three zones: drift is found and put back",
        run: failures::drift,
    },
    Scenario {
        name: "three zones: the jump host needs no root, hosts only sudo",
        run: failures::ordinary_user,
    },
    Scenario {
        name: "three zones: a registry stopped, another stands in",
        run: zones::registry_stopped,
    },
    Scenario {
        name: "three zones: a zone's second registry fills from its first",
        run: zones::second_registry,
    },
    Scenario {
        name: "three zones: a row of each kind removed",
        run: rows::one_of_each,
    },
    Scenario {
        name: "three zones: the first master off and on",
        run: masters::first_master_off,
    },
    Scenario {
        name: "three zones: a zone cut off and healed",
        run: zones::zone_cut,
    },
    Scenario {
        name: "three zones: all hosts off and on together",
        run: failures::all_off_and_on,
    },
    Scenario {
        name: "three zones: a kubelet that can't start stops the run",
        run: broken::a_kubelet_that_can_not_start,
    },
    Scenario {
        name: "three zones: two masters destroyed, etcd restored",
        run: restore::two_masters_destroyed,
    },
    // Last: there is no way back.
    Scenario {
        name: "three zones: upgrade to the next minor under load",
        run: upgrade::to_the_next_minor,
    },
    Scenario {
        name: "three zones: old images leave nodes and registries",
        run: images::old_ones_go,
    },
];

/// The same hosts, from one minor to the next, and all the ways between.
const UPGRADED: &[Scenario] = &[
    Scenario {
        name: "install: over three zones, to be upgraded",
        run: |c| c.product.install(),
    },
    Scenario {
        name: "upgrade: soak, back, soak and finish under load",
        run: upgrade::there_back_and_there_again,
    },
];

/// The same, to a later release and back, then over two in one call.
const HOPS: &[Scenario] = &[
    Scenario {
        name: "install: over three zones, to be upgraded",
        run: |c| c.product.install(),
    },
    Scenario {
        name: "upgrade: a patch release, back, and two hops in one call under load",
        run: patch::there_back_and_two_hops,
    },
];

/// The same, cut short again and again.
const KILLED: &[Scenario] = &[
    Scenario {
        name: "install: over three zones, to be upgraded",
        run: |c| c.product.install(),
    },
    Scenario {
        name: "upgrade: twenty random kills under load",
        run: upgrade::killed_again_and_again,
    },
];

/// The same, while hosts and zones are lost.
const STRUCK: &[Scenario] = &[
    Scenario {
        name: "install: over three zones, to be upgraded",
        run: |c| c.product.install(),
    },
    Scenario {
        name: "upgrade: hosts and zones lost while they are changed",
        run: upgrade::struck,
    },
];

/// Four workers, of which two stand in one zone.
const WORKERS_OFF: &[Scenario] = &[
    Scenario {
        name: "install: four workers, to be upgraded",
        run: |c| c.product.install(),
    },
    Scenario {
        name: "upgrade: a node that is off is left behind, and taken along later",
        run: left_behind::goes_on_and_takes_it_along,
    },
];

/// The same hosts, one after the other.
const GROWING: &[Scenario] = &[
    Scenario {
        name: "install: a master alone, from a registry of the site's own",
        run: foreign::a_master_alone,
    },
    Scenario {
        name: "growing: one master becomes three under writes",
        run: growth::one_becomes_three,
    },
    Scenario {
        name: "growing: a worker joins while the first master is off",
        run: growth::worker_joins_without_the_first_master,
    },
];

/// Two rooms and a witness elsewhere.
const ROOMS: &[Scenario] = &[
    Scenario {
        name: "install: two rooms and a witness",
        run: rooms::install,
    },
    Scenario {
        name: "two rooms: one cut off and healed",
        run: rooms::one_cut,
    },
];

/// The same at length.
const EACH_ROOM: &[Scenario] = &[
    Scenario {
        name: "install: two rooms and a witness",
        run: rooms::install,
    },
    Scenario {
        name: "two rooms: each cut off and healed, and the witness",
        run: rooms::each_cut,
    },
];

/// Long runs, outside of what runs by default.
const LOSSES: &[Scenario] = &[
    Scenario {
        name: "install over three zones",
        run: super::install,
    },
    Scenario {
        name: "each row between zones removed",
        run: rows::each,
    },
    Scenario {
        name: "each master off and on",
        run: masters::each_master_off,
    },
    Scenario {
        name: "each zone cut off and healed",
        run: zones::each_zone_cut,
    },
    Scenario {
        name: "the first master's etcd stopped, clients move on",
        run: masters::etcd_stopped,
    },
    Scenario {
        name: "two of three masters off and on",
        run: masters::majority_lost,
    },
    Scenario {
        name: "ten random kills of an install over three zones",
        run: interrupt::ten_random_kills,
    },
];

/// Bare hosts, which are to stay so.
const DAMAGED: &[Scenario] = &[Scenario {
    name: "a bundle and its parts damaged two thousand times",
    run: damage::two_thousand,
}];

/// Bare hosts; what is built for the other platform takes half an hour at first.
const TWO_PLATFORMS: &[Scenario] = &[Scenario {
    name: "a bundle of two platforms installs, and is whole for both",
    run: two_platforms::installs,
}];

/// Five masters over three zones: two of them share their zone's fate.
const FIVE: &[Scenario] = &[
    Scenario {
        name: "install: five masters over three zones",
        run: super::install,
    },
    Scenario {
        name: "five masters: a zone with two of them cut off and healed",
        run: zones::first_zone_cut,
    },
];

pub(super) const ONE_MASTER: Hosts = Hosts {
    masters: 1,
    workers: 2,
    witnesses: 0,
};
pub(super) const THREE_MASTERS: Hosts = Hosts {
    masters: 3,
    workers: 2,
    witnesses: 0,
};
const FOUR_WORKERS: Hosts = Hosts {
    masters: 1,
    workers: 4,
    witnesses: 0,
};
const FIVE_MASTERS: Hosts = Hosts {
    masters: 5,
    workers: 2,
    witnesses: 0,
};
const TWO_ROOMS: Hosts = Hosts {
    masters: 2,
    workers: 2,
    witnesses: 1,
};

pub(super) const LAB: &[Group] = &[
    Group {
        hosts: ONE_MASTER,
        scenarios: SMALL,
        site: SiteOf::Itself,
    },
    Group {
        hosts: ONE_MASTER,
        scenarios: INTERRUPTED,
        site: SiteOf::GroupBefore,
    },
    Group {
        hosts: THREE_MASTERS,
        scenarios: THREE_ZONES,
        site: SiteOf::Itself,
    },
    Group {
        hosts: THREE_MASTERS,
        scenarios: GROWING,
        site: SiteOf::Itself,
    },
    Group {
        hosts: TWO_ROOMS,
        scenarios: ROOMS,
        site: SiteOf::Itself,
    },
];

pub(super) const CHAOS: &[Group] = &[
    Group {
        hosts: THREE_MASTERS,
        scenarios: UPGRADED,
        site: SiteOf::Itself,
    },
    Group {
        hosts: THREE_MASTERS,
        scenarios: HOPS,
        site: SiteOf::Itself,
    },
    Group {
        hosts: FOUR_WORKERS,
        scenarios: WORKERS_OFF,
        site: SiteOf::Itself,
    },
    Group {
        hosts: THREE_MASTERS,
        scenarios: KILLED,
        site: SiteOf::Itself,
    },
    Group {
        hosts: THREE_MASTERS,
        scenarios: STRUCK,
        site: SiteOf::Itself,
    },
    Group {
        hosts: THREE_MASTERS,
        scenarios: LOSSES,
        site: SiteOf::Itself,
    },
    Group {
        hosts: ONE_MASTER,
        scenarios: DAMAGED,
        site: SiteOf::Itself,
    },
    Group {
        hosts: ONE_MASTER,
        scenarios: TWO_PLATFORMS,
        site: SiteOf::Itself,
    },
    Group {
        hosts: TWO_ROOMS,
        scenarios: EACH_ROOM,
        site: SiteOf::Itself,
    },
    Group {
        hosts: FIVE_MASTERS,
        scenarios: FIVE,
        site: SiteOf::Itself,
    },
];
