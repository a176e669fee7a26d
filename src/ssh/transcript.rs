//! What a process wrote to its standard error: the newest part, kept without
//! ever making the process wait for a reader.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

/// How much is kept. Enough for any sensible message, little enough for a
/// hundred hosts at once.
const KEPT_BYTES: usize = 256 * 1024;

/// How many lines errors show.
pub(super) const LAST_LINES: usize = 20;

/// A line longer than this is cut in errors, so that binary noise can't flood
/// the terminal.
const LINE_LIMIT: usize = 500;

/// The newest bytes of a stream, written by one task and read by others.
#[derive(Default)]
pub(super) struct Transcript {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    kept: VecDeque<u8>,
    /// How many bytes were dropped in front of `kept`.
    dropped: u64,
    ended: bool,
    reader: Option<Waker>,
}

impl Transcript {
    /// Appends; the oldest bytes go if there are too many.
    pub(super) fn append(&self, data: &[u8]) {
        let mut state = self.lock();
        state.kept.extend(data);
        let excess = state.kept.len().saturating_sub(KEPT_BYTES);
        state.kept.drain(..excess);
        state.dropped += excess as u64;
        wake(&mut state);
    }

    /// Nothing more will come.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        wake(&mut state);
    }

    /// All that is kept.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.lock().kept.iter().copied().collect()
    }

    /// The last lines, cut to a readable length, without control characters.
    pub(super) fn last_lines(&self) -> Vec<String> {
        let bytes = self.bytes();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim_end)
            .filter(|line| !line.is_empty())
            .collect();
        lines[lines.len().saturating_sub(LAST_LINES)..]
            .iter()
            .map(|line| readable(line))
            .collect()
    }

    /// Copies what stands at `position` (bytes since the start) into `buffer`,
    /// and moves `position`. A reader that fell behind goes on with the oldest
    /// byte that is kept. Nothing copied means the end.
    pub(super) fn poll_read(
        &self,
        context: &mut Context<'_>,
        position: &mut u64,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<()> {
        let mut state = self.lock();
        *position = (*position).max(state.dropped);
        let start = (*position - state.dropped) as usize;
        if start == state.kept.len() && !state.ended {
            state.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let (first, second) = state.kept.as_slices();
        let rest = if start < first.len() {
            &first[start..]
        } else {
            &second[start - first.len()..]
        };
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        *position += count as u64;
        Poll::Ready(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic while the lock is held leaves plain bytes behind, which are
        // as good as before.
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn wake(state: &mut State) {
    if let Some(reader) = state.reader.take() {
        reader.wake();
    }
}

fn readable(line: &str) -> String {
    let clean: String = line
        .chars()
        .map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        })
        .take(LINE_LIMIT)
        .collect();
    if line.chars().nth(LINE_LIMIT).is_some() {
        format!("{clean} …")
    } else {
        clean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_lines_readable() {
        let transcript = Transcript::default();
        for number in 0..100 {
            transcript.append(format!("line {number}\n\n").as_bytes());
        }
        transcript.append(b"\x1b[31mred\x07 \xff\n");
        let lines = transcript.last_lines();
        assert_eq!(lines.len(), LAST_LINES);
        assert_eq!(lines[0], "line 81");
        assert_eq!(lines[LAST_LINES - 1], " [31mred  \u{fffd}");

        transcript.append(&vec![b'x'; 10_000]);
        let lines = transcript.last_lines();
        assert_eq!(lines[LAST_LINES - 1].chars().count(), LINE_LIMIT + 2);
    }

    #[test]
    fn drops_the_oldest_bytes() {
        let transcript = Transcript::default();
        transcript.append(&vec![b'a'; KEPT_BYTES]);
        transcript.append(b"tail");
        let bytes = transcript.bytes();
        assert_eq!(bytes.len(), KEPT_BYTES);
        assert!(bytes.ends_with(b"atail"));
    }

    #[tokio::test]
    async fn a_slow_reader_goes_on_with_what_is_kept() {
        let transcript = Transcript::default();
        let mut position = 0;
        let read = async |position: &mut u64| {
            let mut space = [0_u8; 4];
            let mut buffer = tokio::io::ReadBuf::new(&mut space);
            std::future::poll_fn(|context| transcript.poll_read(context, position, &mut buffer))
                .await;
            buffer.filled().to_vec()
        };
        transcript.append(b"hello");
        assert_eq!(read(&mut position).await, b"hell");
        transcript.append(&vec![b'.'; KEPT_BYTES]);
        assert_eq!(
            read(&mut position).await,
            b"....",
            "the `o` is lost, the rest is not"
        );
        transcript.end();
        let mut total = 4;
        loop {
            let chunk = read(&mut position).await;
            if chunk.is_empty() {
                break;
            }
            total += chunk.len();
        }
        assert_eq!(total, KEPT_BYTES);
    }
}
