//! The site: a directory on the jump host for one cluster, with its keys,
//! host keys, decisions and journal.

pub mod types;

pub use types::*;
