//! etcd: a member with TLS on every listener, and the client that asks it.

use super::builder::{Access, HostBuilder, UnitSpec, own};
use super::command_line::flags;
use super::error::DesiredError;
use super::materials::ETCD_CA;
use super::types::{Change, Condition, EtcdMembership, Stage};
use crate::inventory::{Component, Host, Role};
use crate::ports::numbers::{ETCD_CLIENT_PORT, ETCD_PEER_PORT};

/// Twice etcd's own default of 4 GiB: clusters outgrow that one with events
/// and custom resources, and upstream advises at most 8 GiB.
const QUOTA_BYTES: u64 = 8 << 30;

const CA: &str = "/etc/etcd/pki/ca.crt";
const SERVER: &str = "/etc/etcd/pki/server.crt";
const SERVER_KEY: &str = "/etc/etcd/pki/server.key";
const PEER: &str = "/etc/etcd/pki/peer.crt";
const PEER_KEY: &str = "/etc/etcd/pki/peer.key";

/// The client URL of a member.
pub fn client_url(member: &Host) -> String {
    format!("https://{}:{ETCD_CLIENT_PORT}", member.address)
}

fn peer_url(member: &Host) -> String {
    format!("https://{}:{ETCD_PEER_PORT}", member.address)
}

/// Client URLs of the members that started together and of those that the
/// inventory names.
pub fn endpoints(builder: &HostBuilder<'_>) -> Vec<String> {
    builder
        .inputs
        .inventory
        .etcd_members()
        .into_iter()
        .map(client_url)
        .collect()
}

/// The client's certificate and tools, on masters and members.
///
/// # Errors
/// When the bundle lacks a file.
pub fn client(builder: &mut HostBuilder<'_>) -> Result<(), DesiredError> {
    builder.binary("etcdctl")?;
    builder.binary("etcdutl")?;
    let name = own("etcd-client", builder.host);
    builder.certificate(CA, ETCD_CA);
    builder.certificate("/etc/etcd/pki/client.crt", &name);
    builder.key("/etc/etcd/pki/client.key", &name, Access::ROOT);
    Ok(())
}

/// A member of etcd.
///
/// # Errors
/// When the bundle lacks a file.
pub fn member(builder: &mut HostBuilder<'_>) -> Result<(), DesiredError> {
    builder.user("etcd");
    builder.binary("etcd")?;
    let host = builder.host;
    let (server, peer) = (own("etcd-server", host), own("etcd-peer", host));
    builder.certificate(CA, ETCD_CA);
    builder.certificate(SERVER, &server);
    builder.key(SERVER_KEY, &server, Access::only("etcd"));
    builder.certificate(PEER, &peer);
    builder.key(PEER_KEY, &peer, Access::only("etcd"));

    let inventory = builder.inputs.inventory;
    // Read only while there is no data. A member that joins must name all that
    // are there by then, itself included, and no other:
    // `ValidateClusterAndAssignIDs` in etcd's server/etcdserver/api/membership/cluster.go.
    let decisions = &builder.inputs.site.decisions;
    let place = |name: &String| decisions.etcd_joined.iter().position(|known| known == name);
    let joins = place(&host.name);
    let is_there_by_then = |name: &String| match (place(name), joins) {
        (Some(its), Some(own)) => its <= own,
        (Some(_), None) => false,
        (None, _) => decisions.etcd_bootstrap.contains(name),
    };
    let first: Vec<String> = inventory
        .etcd_members()
        .into_iter()
        .filter(|member| is_there_by_then(&member.name))
        .map(|member| format!("{}={}", member.name, peer_url(member)))
        .collect();
    let state = match joins {
        None => "new",
        Some(_) => "existing",
    };
    builder.etcd(EtcdMembership {
        peer_url: peer_url(host),
        client_url: client_url(host),
        joins,
    });
    let arguments = builder.overridden_flags(
        Component::Etcd,
        flags([
            ("name", host.name.clone()),
            ("data-dir", crate::layout::ETCD.into()),
            ("initial-cluster", first.join(",")),
            ("initial-cluster-state", state.into()),
            ("initial-cluster-token", inventory.cluster.name.clone()),
            ("initial-advertise-peer-urls", peer_url(host)),
            ("listen-peer-urls", peer_url(host)),
            ("advertise-client-urls", client_url(host)),
            (
                "listen-client-urls",
                format!("{},https://127.0.0.1:{ETCD_CLIENT_PORT}", client_url(host)),
            ),
            ("client-cert-auth", "true".into()),
            ("trusted-ca-file", CA.into()),
            ("cert-file", SERVER.into()),
            ("key-file", SERVER_KEY.into()),
            ("peer-client-cert-auth", "true".into()),
            ("peer-trusted-ca-file", CA.into()),
            ("peer-cert-file", PEER.into()),
            ("peer-key-file", PEER_KEY.into()),
            ("quota-backend-bytes", QUOTA_BYTES.to_string()),
            ("feature-gates", "InitialCorruptCheck=true".into()),
        ]),
    );
    let text = builder.unit_text(
        "etcd",
        include_str!("../../templates/systemd/etcd.service"),
        "etcd",
        &arguments,
    )?;
    let ready = Condition::EtcdHealthy {
        endpoints: endpoints(builder),
    };
    builder.unit(UnitSpec {
        name: "etcd.service",
        stage: Stage::Etcd,
        text,
        reads: &[CA],
        follows: &[SERVER, SERVER_KEY, PEER, PEER_KEY],
        binaries: &["etcd"],
        change: Change::Restart,
        ready: Some(ready),
    });
    debug_assert!(host.has(Role::Etcd));
    Ok(())
}
