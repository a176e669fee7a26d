//! Reading from whoever may be gone without a word.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::time::Duration;

/// Nothing came from the jump host for this long: it has lost its power, or a
/// firewall has forgotten the connection. Its own limit is as long.
const STANDSTILL: Duration = Duration::from_secs(60);

/// A reader that fails when nothing comes for too long.
pub struct Moving<F> {
    from: F,
    limit: Duration,
}

impl<F: AsFd> Moving<F> {
    pub fn new(from: F) -> Self {
        Self {
            from,
            limit: STANDSTILL,
        }
    }
}

impl<F: AsFd> Read for Moving<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = Timespec::try_from(self.limit).map_err(io::Error::other)?;
        let mut waiting = [PollFd::new(&self.from, PollFlags::IN)];
        if poll(&mut waiting, Some(&limit))? == 0 {
            let message = format!("nothing came for {} s", self.limit.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        Ok(rustix::io::read(&self.from, buffer)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_comes_is_read_to_its_end_and_silence_is_an_error() {
        let (from, mut to) = io::pipe().unwrap();
        let mut reader = Moving {
            from,
            limit: Duration::from_millis(50),
        };
        to.write_all(b"new agent").unwrap();
        let mut buffer = [0; 64];
        assert_eq!(reader.read(&mut buffer).unwrap(), 9);
        let error = reader.read(&mut buffer).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(to);
        assert_eq!(reader.read(&mut buffer).unwrap(), 0);
    }
}
