//! Random numbers that a seed repeats.

use crate::shell;
use anyhow::{Context as _, Result};
use std::time::{SystemTime, UNIX_EPOCH};

/// splitmix64.
pub struct Random(u64);

impl Random {
    /// From `COFFERDAM_SEED`, else from the clock; says which.
    pub fn seeded() -> Result<Self> {
        let by_clock = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(1, |since| since.as_secs())
        };
        let seed = match std::env::var("COFFERDAM_SEED") {
            Ok(seed) => seed.parse().context("COFFERDAM_SEED is no number")?,
            Err(_) => by_clock(),
        };
        shell::say(&format!("        seed {seed}"));
        Ok(Self::of(seed))
    }

    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// The next one, below the limit.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }
}
