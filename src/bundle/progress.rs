//! How long-running work tells what it does, without knowing who is listening.

/// Receives progress. Implementations render it; they must be cheap to call and
/// may be called from several threads at once.
pub trait Progress: Send + Sync {
    /// `item` of `stage` has come to `done_bytes`, of `total_bytes` where known.
    /// An item is finished when both are equal.
    fn advance(&self, stage: &str, item: &str, done_bytes: u64, total_bytes: Option<u64>);
}

/// Drops all progress: for tests and callers without an audience.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn advance(&self, _stage: &str, _item: &str, _done_bytes: u64, _total_bytes: Option<u64>) {}
}
