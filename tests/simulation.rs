//! Invariants of runs, on simulated hosts: resume, idempotence, quorum, and
//! that a run does what its plan says.

mod simulation {
    pub mod faults;
    pub mod runs;
    pub mod worlds;
}
