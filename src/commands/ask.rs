//! Questions to the operator.

use super::fault::{Exit, Fault};
use crate::output::Output;
use std::io::{self, BufRead, IsTerminal};

/// Asks, and takes anything but yes for no. Where nobody can answer it is
/// `refusal` that is returned, which says what to pass instead.
///
/// Dropping the future leaves a thread that still reads standard input.
pub(super) async fn confirm(output: &Output, question: &str, refusal: Fault) -> Result<(), Fault> {
    if !io::stdin().is_terminal() {
        return Err(refusal);
    }
    output.clear();
    output.ask(&format!("{question} [y/N]"));
    let read = || -> io::Result<String> {
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        Ok(answer)
    };
    let answer = tokio::task::spawn_blocking(read)
        .await
        .map_err(anyhow::Error::from)?
        .map_err(anyhow::Error::from)?;
    match is_yes(&answer) {
        true => Ok(()),
        false => Err(Fault::new(
            Exit::Interrupted,
            "not confirmed; nothing was changed",
        )),
    }
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::is_yes;

    #[test]
    fn only_yes_is_yes() {
        for answer in ["y\n", "Y\n", "yes\n", " YES \n"] {
            assert!(is_yes(answer), "{answer:?}");
        }
        for answer in ["", "\n", "n\n", "ye\n", "yes please\n", "1\n"] {
            assert!(!is_yes(answer), "{answer:?}");
        }
    }
}
