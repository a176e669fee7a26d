//! Helpers for tests. They use nothing of the crate, so that an integration test
//! can take one in as well: `#[path = "../src/testing/ssh_server/mod.rs"]`.

pub mod authority;
pub mod registry;
pub mod ssh_server;
