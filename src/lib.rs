//! cofferdam: installs Kubernetes behind closed firewalls from one signed
//! bundle. The pure parts (inventory, desired state, diff, order) do no I/O;
//! the edges (site, hosts, bundle reader) are thin.

pub mod agent;
pub mod bundle;
pub mod cli;
pub mod commands;
pub mod desired;
pub mod digest;
pub mod event;
pub mod execute;
pub mod facts;
pub mod host;
pub mod inventory;
pub mod layout;
pub mod output;
pub mod owned;
pub mod pki;
pub mod plan;
pub mod ports;
pub mod proxy;
pub mod registry_address;
pub mod sim;
pub mod site;
pub mod ssh;
pub mod status;
#[cfg(test)]
pub mod testing;
pub mod trusted_key;
