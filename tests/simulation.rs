//! Invariants of runs, on simulated hosts: resume, idempotence, quorum, and
//! that a run does what its plan says.

#![expect(clippy::unwrap_used, reason = "a test helper may stop the test")]

mod simulation {
    pub mod faults;
    pub mod runs;
    pub mod upgrades;
    pub mod wanted;
    pub mod worlds;
    pub mod zones;
}
