//! Trying again what may work the next time.

use anyhow::{Error, Result};
use std::time::Duration;

/// Tries in all. With the pauses between them that bridges a server's restart.
const ATTEMPTS: u32 = 4;
/// Pause after the first failure; it doubles each time: 0.5, 1 and 2 s.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Why one try failed.
#[derive(Debug)]
pub(in crate::bundle) enum Failure {
    /// The link or the server had a bad moment.
    Passing(Error),
    /// It will fail the same way again.
    Lasting(Error),
}

/// Runs a request until it succeeds or fails for good. The error is the last one.
pub(in crate::bundle) async fn with_retries<T, F>(attempt: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T, Failure>>,
{
    with_retries_while(&|| 0, attempt).await
}

/// The same, where tries count anew once one has brought something: `done` says how
/// much there is.
pub(super) async fn with_retries_while<T, F>(
    done: &(dyn Fn() -> u64 + Sync),
    mut attempt: impl FnMut() -> F,
) -> Result<T>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut pause = FIRST_PAUSE;
    let mut number = 1;
    let mut before = done();
    loop {
        let failed = match attempt().await {
            Ok(value) => return Ok(value),
            Err(Failure::Lasting(error)) => return Err(error),
            Err(Failure::Passing(error)) => error,
        };
        if done() > before {
            (before, number, pause) = (done(), 1, FIRST_PAUSE);
        }
        if number >= ATTEMPTS {
            return Err(failed.context(format!("giving up after {ATTEMPTS} tries")));
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    async fn run(failures: u32, lasting: bool) -> (Result<u32>, u32) {
        let mut tries = 0;
        let result = with_retries(|| {
            tries += 1;
            let number = tries;
            async move {
                let error = anyhow!("failure {number}");
                match number > failures {
                    true => Ok(number),
                    false if lasting => Err(Failure::Lasting(error)),
                    false => Err(Failure::Passing(error)),
                }
            }
        })
        .await;
        (result, tries)
    }

    #[tokio::test]
    async fn passing_failures_are_tried_again_up_to_a_limit() {
        assert_eq!(run(1, false).await.0.unwrap(), 2);
        let (result, tries) = run(1, true).await;
        assert!(result.is_err());
        assert_eq!(tries, 1);
    }

    /// A link that breaks often but brings something each time is not given up.
    #[tokio::test(start_paused = true)]
    async fn tries_count_anew_once_something_came() {
        let done = std::sync::atomic::AtomicU64::new(0);
        let order = std::sync::atomic::Ordering::Relaxed;
        let run = async |last: u64| {
            done.store(0, order);
            let attempt = || async {
                let now = done.load(order);
                if now == 20 {
                    return Ok(now);
                }
                done.store((now + 1).min(last), order);
                Err(Failure::Passing(anyhow!("cut off")))
            };
            with_retries_while(&|| done.load(order), attempt).await
        };
        assert_eq!(run(20).await.unwrap(), 20);
        let error = run(19).await.unwrap_err();
        assert!(error.to_string().contains("giving up"), "{error}");
    }
}
