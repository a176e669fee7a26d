//! Every wait of the proxy.

use std::time::Duration;

/// How long the proxy waits for what. Tests shorten them; everybody else uses
/// [`Timings::default`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// From the start of one probe to the start of the next.
    pub probe_interval: Duration,
    /// For an answer on the probe's established connection.
    pub probe_answer: Duration,
    /// For a TLS handshake and an answer on a new connection of the probe.
    pub probe_first_answer: Duration,
    /// For a TCP connection to one API server.
    pub dial: Duration,
    /// For a connection to any API server, on behalf of one client.
    pub dial_all: Duration,
    /// Between two rounds through all API servers for one client.
    pub dial_round_pause: Duration,
    /// Of one client, for some API server to become ready, before it is given
    /// one that isn't.
    pub ready_hold: Duration,
    /// A server that answers but isn't ready for longer than this isn't just
    /// starting or ending, and nobody is held for its sake.
    pub longest_start: Duration,
    /// A server that answers but isn't ready for longer than this, while another
    /// is, isn't just ending: what its watches tell may be out of date.
    pub outdated_after: Duration,
    /// Silence of a host after which its connections are reset.
    pub reset_after: Duration,
    /// At the start, for the first probe of every API server.
    pub first_probes: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            // New connections should leave a server within about a second of
            // its readiness turning false; API servers keep serving for several
            // seconds then. One small request a second over a kept connection
            // costs an API server little, also from hundreds of nodes.
            probe_interval: Duration::from_secs(1),
            // A healthy server answers in milliseconds; after this the probe
            // dials again, to tell a slow server from a dead host.
            probe_answer: Duration::from_secs(1),
            // A handshake on a host that is short of processors takes longer.
            probe_first_answer: Duration::from_secs(2),
            // Many times the round trip between zones of one site.
            dial: Duration::from_secs(1),
            // Kubernetes' clients give up a TLS handshake after 10 s. Until
            // shortly before that it is kinder to hold a connection than to
            // refuse it: the only API server may just be restarting.
            dial_all: Duration::from_secs(8),
            dial_round_pause: Duration::from_millis(250),
            // An API server answers seconds before its roles are loaded, and
            // refuses (403) what it will grant then; clients that are refused
            // back off for far longer than they are held here. It leaves time
            // for dials within `dial_all`.
            ready_hold: Duration::from_secs(6),
            // Roles and caches are loaded within this also on a busy host.
            longest_start: Duration::from_secs(60),
            // An API server that ends closes its port within seconds; one whose
            // etcd is gone goes on for ever, and its watches say nothing.
            outdated_after: Duration::from_secs(30),
            // Longer than a lost packet and its retransmissions, far shorter
            // than the half minute that clients need to notice by themselves.
            reset_after: Duration::from_secs(3),
            // Nobody gains by waiting longer: an unprobed server is dialed too.
            first_probes: Duration::from_millis(1500),
        }
    }
}
