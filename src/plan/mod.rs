//! From desired state and facts to a plan: pure, printable, serialisable.

pub mod action;

use crate::desired::Stage;
pub use action::*;
use serde::{Deserialize, Serialize};

/// The ordered list of stages. A dry run prints this value, a run executes
/// it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub stages: Vec<StagePlan>,
}

/// A stage: its lanes run side by side, and it ends when all of them have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagePlan {
    pub stage: Stage,
    pub lanes: Vec<Lane>,
}

/// The steps of one host within a stage, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    pub host: String,
    pub steps: Vec<Step>,
}

impl Plan {
    /// All steps, stage by stage, lane by lane.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.stages
            .iter()
            .flat_map(|stage| &stage.lanes)
            .flat_map(|lane| &lane.steps)
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps().next().is_none()
    }
}
