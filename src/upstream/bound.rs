//! How long one piece of an answer may take, however it drips.
//!
//! ureq bounds a silence. That is right between the events of a stream, which may go on for hours, and
//! wrong for what has an end: a body, or an event that has begun, could be sent a byte at a time for
//! ever. Only the time that is spent waiting for the upstream counts, never a client that reads slowly.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::agent::in_body;
use super::transport::{buffered_only, with_patience};
use crate::error::{Error, Phase, Result};

/// Bytes that one read takes from a whole body.
const READ_BYTES: usize = 8 * 1024;

/// A bound on the time that reads may take together.
#[derive(Debug)]
pub(super) struct Bound {
    timeout: Duration,
    spent: Duration,
}

impl Bound {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { timeout, spent: Duration::ZERO }
    }

    /// Something is complete: the next one has all its time.
    pub(super) fn renew(&mut self) {
        self.spent = Duration::ZERO;
    }

    /// Reads what comes next.
    ///
    /// # Errors
    /// Those of a body, and [`Error::UpstreamTimeout`] when no time is left.
    pub(super) fn read(&mut self, reader: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
        let left = self.timeout.saturating_sub(self.spent);
        if left.is_zero() {
            return Err(Error::UpstreamTimeout { phase: Phase::Body });
        }
        let began = Instant::now();
        let read = loop {
            match with_patience(left, || reader.read(buffer)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.spent += began.elapsed();
        read.map_err(in_body)
    }

    /// Reads to the end, but no more than `most` bytes, and leaves what it read in `bytes`, whatever
    /// comes of it.
    ///
    /// # Errors
    /// As [`Bound::read`].
    pub(super) fn read_all(
        &mut self,
        reader: &mut impl Read,
        most: u64,
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        let mut reader = reader.take(most);
        let mut buffer = [0; READ_BYTES];
        loop {
            match self.read(&mut reader, &mut buffer)? {
                0 => return Ok(()),
                length => bytes.extend_from_slice(&buffer[..length]),
            }
        }
    }
}

/// Fills a buffer, of which the first `filled` bytes were just read, with what has come together with
/// them; tells how much there is, and what went wrong behind it. Never waits.
pub(super) fn gather(
    reader: &mut impl Read,
    buffer: &mut [u8],
    mut filled: usize,
) -> (usize, Option<Error>) {
    while filled < buffer.len() {
        match buffered_only(|| reader.read(&mut buffer[filled..])) {
            // The end is found out by the next wait.
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return (filled, Some(in_body(error))),
        }
    }
    (filled, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::transport::is_buffered_only;

    /// Takes some time for each byte.
    struct Drip(usize);

    impl Read for Drip {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            std::thread::sleep(Duration::from_millis(2));
            self.0 = self.0.saturating_sub(1);
            buffer[0] = b'x';
            Ok(usize::from(self.0 > 0))
        }
    }

    #[test]
    fn what_drips_is_cut_and_what_ends_in_time_is_not() {
        let mut bytes = Vec::new();
        let cut =
            Bound::new(Duration::from_millis(20)).read_all(&mut Drip(1 << 30), 99, &mut bytes);
        assert!(matches!(cut, Err(Error::UpstreamTimeout { phase: Phase::Body })), "{cut:?}");
        assert!(!bytes.is_empty() && bytes.len() < 20);
        bytes.clear();
        let mut long = Bound::new(Duration::from_secs(600));
        assert!(long.read_all(&mut Drip(5), 99, &mut bytes).is_ok());
        assert_eq!(bytes, b"xxxx");
        bytes.clear();
        assert!(long.read_all(&mut Drip(50), 3, &mut bytes).is_ok());
        assert_eq!(bytes, b"xxx");
    }

    #[test]
    fn what_is_complete_gives_the_next_one_all_its_time() {
        let mut bound = Bound::new(Duration::from_millis(10));
        let mut buffer = [0];
        for _ in 0..20 {
            assert_eq!(bound.read(&mut Drip(2), &mut buffer).expect("in time"), 1);
            bound.renew();
        }
    }

    /// Gives these pieces, and then `end`, to whoever does not want to wait.
    struct Pieces(Vec<&'static [u8]>, Option<io::Error>);

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            assert!(is_buffered_only(), "it may not wait");
            let Some(piece) = self.0.first_mut() else { return self.1.take().map_or(Ok(0), Err) };
            let length = piece.len().min(buffer.len());
            buffer[..length].copy_from_slice(&piece[..length]);
            *piece = &piece[length..];
            self.0.retain(|piece| !piece.is_empty());
            Ok(length)
        }
    }

    #[test]
    fn what_has_come_is_gathered_without_waiting() {
        let would_block = || Some(io::ErrorKind::WouldBlock.into());
        let check = |pieces: Vec<&'static [u8]>, end, expected: &[u8], fails: bool| {
            let mut buffer = *b"ab......";
            let (filled, failure) = gather(&mut Pieces(pieces, end), &mut buffer, 2);
            assert_eq!((&buffer[..filled], failure.is_some()), (expected, fails));
        };
        check(vec![], would_block(), b"ab", false);
        check(vec![b"c", b"de"], would_block(), b"abcde", false);
        check(vec![b"c"], None, b"abc", false);
        check(vec![b"c", b"defghij"], would_block(), b"abcdefgh", false);
        check(vec![b"c"], Some(io::ErrorKind::ConnectionReset.into()), b"abc", true);
    }
}
