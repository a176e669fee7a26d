//! Simulated hosts behind the [`crate::host::Host`] trait: files that may not
//! be synced yet, units with the inputs that their processes started with,
//! registries, etcd's quorum, nodes, power cuts, killed agents and lost
//! answers. Plans and runs of them are proven on these in thousands of worlds;
//! timing and failed requests are not.
//!
//! Everything is deterministic for a seed. What the model knows of Kubernetes
//! is in [`cluster`], each rule in one place. Every fault that is met on real
//! hosts should become a rule here, else the model only confirms itself.

mod apply;
pub mod bundle;
mod cluster;
mod disruption;
mod etcd;
mod facts;
mod host;
pub mod machine;
mod registry;
pub mod site;
mod skew;
mod software;
mod verb;
pub mod world;
mod zones;

pub use bundle::{NEXT_MINOR, SimulatedBundle, bundle_view};
pub use machine::{Disk, Machine, MachineOptions};
pub use site::SimulatedSite;
pub use verb::{Planned, Ran, Simulation};
pub use world::{EndState, Fault, FaultKind};
