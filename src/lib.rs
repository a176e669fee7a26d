//! cofferdam: installs Kubernetes behind closed firewalls from one signed
//! bundle. The pure parts (inventory, desired state, diff, order) do no I/O;
//! the edges (site, hosts, bundle reader) are thin.

pub mod digest;
pub mod layout;
