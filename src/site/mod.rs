//! The site: a directory on the jump host for one cluster, with its keys,
//! host keys, decisions and journal.

mod store;
pub mod types;

pub use store::{Site, SiteLock};
pub use types::*;
