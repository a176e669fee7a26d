//! The desired state: a pure function of inventory, bundle and site. No
//! clock, no random, no I/O below this folder.

pub mod types;

pub use types::*;
