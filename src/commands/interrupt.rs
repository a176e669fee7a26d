//! Ctrl-C, and the same for SIGTERM: the first one stops as soon as nothing is
//! left half done, the second one leaves at once.

use super::fault::{Exit, Fault};
use crate::output::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Watches for the operator's wish to stop.
pub(super) struct Interrupt {
    token: CancellationToken,
    /// Whether steps are in hand, which are finished first.
    has_steps_in_hand: Arc<AtomicBool>,
}

impl Interrupt {
    /// Watches from now on. Needs a runtime.
    ///
    /// # Errors
    /// When signals can't be received.
    pub(super) fn watch(output: &Arc<Output>) -> Result<Self, Fault> {
        let listen = |kind| signal(kind).map_err(anyhow::Error::from);
        let mut signals = Signals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        };
        let watched = Self {
            token: CancellationToken::new(),
            has_steps_in_hand: Arc::default(),
        };
        let (token, has_steps) = (watched.token.clone(), watched.has_steps_in_hand.clone());
        let output = output.clone();
        tokio::spawn(async move {
            signals.next().await;
            token.cancel();
            if has_steps.load(Ordering::SeqCst) {
                output.say("stopping after the steps in hand; press Ctrl-C again to leave at once");
            }
            signals.next().await;
            output.clear();
            std::process::exit(i32::from(Exit::Interrupted as u8));
        });
        Ok(watched)
    }

    /// Does work that may be dropped at any moment.
    pub(super) async fn or<T>(
        &self,
        what_then: &str,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        tokio::select! {
            result = work => result,
            () = self.token.cancelled() => {
                Err(Fault::new(Exit::Interrupted, format!("interrupted: {what_then}")))
            }
        }
    }

    /// For work that stops by itself once the token is cancelled.
    pub(super) fn for_steps(&self) -> (CancellationToken, StepsInHand) {
        self.has_steps_in_hand.store(true, Ordering::SeqCst);
        (
            self.token.clone(),
            StepsInHand(self.has_steps_in_hand.clone()),
        )
    }
}

/// Ends with the steps.
pub(super) struct StepsInHand(Arc<AtomicBool>);

impl Drop for StepsInHand {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
