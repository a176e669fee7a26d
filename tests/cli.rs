//! The real binary, as operators and scripts meet it: texts, exit codes, bad
//! input, hosts that can't be reached or trusted. No host but servers of the
//! tests' own on loopback.
#![expect(clippy::unwrap_used, reason = "in tests a panic is the report")]

#[path = "cli/bundles.rs"]
mod bundles;
#[path = "cli/carrying.rs"]
mod carrying;
#[path = "cli/help.rs"]
mod help;
#[path = "cli/hosts.rs"]
mod hosts;
#[path = "cli/input.rs"]
mod input;
#[path = "cli/json.rs"]
mod json;
#[path = "cli/programs.rs"]
mod programs;
#[path = "cli/route.rs"]
mod route;
#[path = "cli/server.rs"]
mod server;
#[path = "../src/testing/ssh_server/mod.rs"]
#[expect(dead_code, unused_imports, reason = "not every fault is needed here")]
mod ssh_server;
#[path = "cli/world.rs"]
mod world;
