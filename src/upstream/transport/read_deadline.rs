//! A deadline for a whole piece of a response, however slowly its bytes arrive.
//!
//! ureq bounds each silence. That suits the time between the events of a stream, which may last for hours,
//! but a body, or an event that has begun, could arrive a byte at a time without end. Never counts the time
//! of a client that reads slowly. Invariant: only time spent waiting for the upstream counts.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::errors::map_body_error;
use super::workarounds::{waking_at, with_read_timeout, without_blocking};
use crate::error::{Error, Result, TimeoutPhase};
use crate::net::sys;

/// The first size of a buffer for a body of unknown length, and the least by which it grows.
const INITIAL_BODY_BYTES: usize = 8 * 1024;

/// The most by which it grows at once, because growth is zeroed and so uses memory.
const MAX_GROWTH_BYTES: usize = 256 * 1024;

/// The most that is read at once.
const MAX_READ_BYTES: usize = 64 * 1024;

/// The largest buffer allocated for a `content-length`, which may be false.
const MAX_PREALLOCATED_BYTES: usize = 16 * 1024 * 1024;

/// A bound on the total time of several reads.
#[derive(Debug)]
pub(in crate::upstream) struct ReadDeadline {
    timeout: Duration,
    elapsed: Duration,
}

impl ReadDeadline {
    pub(in crate::upstream) fn new(timeout: Duration) -> Self {
        Self { timeout, elapsed: Duration::ZERO }
    }

    /// Starts anew: a piece is complete.
    pub(in crate::upstream) fn reset(&mut self) {
        self.elapsed = Duration::ZERO;
    }

    /// Reads the next bytes.
    ///
    /// # Errors
    /// Failures of the body, and [`Error::UpstreamTimeout`] when no time is left.
    pub(in crate::upstream) fn read(
        &mut self,
        reader: &mut impl Read,
        buffer: &mut [u8],
    ) -> Result<usize> {
        // Without such a time it never wakes.
        self.read_until(reader, buffer, None).map(Option::unwrap_or_default)
    }

    /// The same, but stops waiting at `wake_at` and returns `None` then; the time that was waited counts.
    ///
    /// # Errors
    /// As [`ReadDeadline::read`].
    pub(in crate::upstream) fn read_until(
        &mut self,
        reader: &mut impl Read,
        buffer: &mut [u8],
        wake_at: Option<Instant>,
    ) -> Result<Option<usize>> {
        let left = self.timeout.saturating_sub(self.elapsed);
        if left.is_zero() {
            return Err(Error::UpstreamTimeout(TimeoutPhase::Body));
        }
        let began = Instant::now();
        let read = loop {
            let mut read = || with_read_timeout(left, || reader.read(buffer));
            let read = match wake_at {
                Some(at) => waking_at(at, read),
                None => read(),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if wake_at.is_some() && error.kind() == io::ErrorKind::WouldBlock => {
                    break Ok(None);
                }
                read => break read.map(Some),
            }
        };
        self.elapsed += began.elapsed();
        read.map_err(map_body_error)
    }

    /// Reads to the end, but at most `max_bytes`, into the empty `bytes`, which also holds what was read
    /// before an error. `reserve` is told before each read how many bytes there may be behind it.
    ///
    /// # Errors
    /// As [`ReadDeadline::read`], and those of `reserve`.
    pub(in crate::upstream) fn read_to_end(
        &mut self,
        reader: &mut impl Read,
        (max_bytes, declared_length): (u64, Option<u64>),
        bytes: &mut Vec<u8>,
        reserve: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let declared_length =
            declared_length.map_or(0, |length| usize::try_from(length).unwrap_or(usize::MAX));
        // One byte more, because the read behind the last byte finds the end. Large allocations come
        // zeroed from the system, and their unused pages use no memory.
        *bytes = vec![
            0;
            declared_length.min(MAX_PREALLOCATED_BYTES)
                + if declared_length > 0 { 1 } else { INITIAL_BODY_BYTES }
        ];
        sys::advise_huge_pages(bytes);
        let mut reader = reader.take(max_bytes);
        let mut filled = 0;
        let ended = loop {
            if filled == bytes.len() {
                bytes.resize(filled + filled.clamp(INITIAL_BODY_BYTES, MAX_GROWTH_BYTES), 0);
            }
            let end = bytes.len().min(filled + MAX_READ_BYTES);
            match reserve(end).and_then(|()| self.read(&mut reader, &mut bytes[filled..end])) {
                Ok(0) => break Ok(()),
                Ok(length) => filled += length,
                Err(error) => break Err(error),
            }
        };
        bytes.truncate(filled);
        ended
    }
}

/// Fills a buffer, of which the first `filled` bytes were just read, with what has arrived together with
/// them; returns how many bytes it holds, and the error behind them. Never waits.
pub(in crate::upstream) fn fill_available(
    reader: &mut impl Read,
    buffer: &mut [u8],
    mut filled: usize,
) -> (usize, Option<Error>) {
    while filled < buffer.len() {
        match without_blocking(|| reader.read(&mut buffer[filled..])) {
            // The next read that waits reports the end.
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return (filled, Some(map_body_error(error))),
        }
    }
    (filled, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::transport::workarounds::is_nonblocking;

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
        let cut = ReadDeadline::new(Duration::from_millis(20)).read_to_end(
            &mut Drip(1 << 30),
            (99, None),
            &mut bytes,
            &mut |_| Ok(()),
        );
        assert!(matches!(cut, Err(Error::UpstreamTimeout(TimeoutPhase::Body))), "{cut:?}");
        assert!(!bytes.is_empty() && bytes.len() < 20);
        bytes.clear();
        let mut long = ReadDeadline::new(Duration::from_secs(600));
        assert!(long.read_to_end(&mut Drip(5), (99, None), &mut bytes, &mut |_| Ok(())).is_ok());
        assert_eq!(bytes, b"xxxx");
        bytes.clear();
        assert!(long.read_to_end(&mut Drip(50), (3, None), &mut bytes, &mut |_| Ok(())).is_ok());
        assert_eq!(bytes, b"xxx");
    }

    #[test]
    fn a_body_is_read_whole_whatever_length_was_told() {
        let mut bound = ReadDeadline::new(Duration::from_secs(600));
        let mut check = |length: usize, most: usize, told: Option<u64>| {
            let body: Vec<u8> = (0..=255).cycle().take(length).collect();
            let mut read = Vec::new();
            let done = bound.read_to_end(
                &mut body.as_slice(),
                (most as u64, told),
                &mut read,
                &mut |_| Ok(()),
            );
            assert!(done.is_ok() && read == body[..length.min(most)], "{length} {told:?}");
            read.capacity()
        };
        for length in
            [0, 1, INITIAL_BODY_BYTES - 1, INITIAL_BODY_BYTES, INITIAL_BODY_BYTES + 1, 5_400_000]
        {
            let true_length = length as u64;
            check(length, 1 << 30, None);
            let capacity = check(length, 1 << 30, Some(true_length));
            assert!(length == 0 || capacity == length + 1, "no more room than is needed");
            check(length, 1 << 30, Some(true_length / 2));
            check(length, length / 2, Some(true_length));
        }
        // A lie gets no more than is trusted.
        assert_eq!(check(5, 1 << 30, Some(u64::MAX)), MAX_PREALLOCATED_BYTES + 1);
        check(
            MAX_PREALLOCATED_BYTES + 70_000,
            1 << 30,
            Some(MAX_PREALLOCATED_BYTES as u64 + 70_000),
        );
    }

    #[test]
    fn what_is_complete_gives_the_next_one_all_its_time() {
        let mut bound = ReadDeadline::new(Duration::from_millis(10));
        let mut buffer = [0];
        for _ in 0..20 {
            assert_eq!(bound.read(&mut Drip(2), &mut buffer).expect("in time"), 1);
            bound.reset();
        }
    }

    /// Returns these pieces, then the error; only a non-blocking read may call it.
    struct Pieces(Vec<&'static [u8]>, Option<io::Error>);

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            assert!(is_nonblocking(), "it may not wait");
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
            let (filled, failure) = fill_available(&mut Pieces(pieces, end), &mut buffer, 2);
            assert_eq!((&buffer[..filled], failure.is_some()), (expected, fails));
        };
        check(vec![], would_block(), b"ab", false);
        check(vec![b"c", b"de"], would_block(), b"abcde", false);
        check(vec![b"c"], None, b"abc", false);
        check(vec![b"c", b"defghij"], would_block(), b"abcdefgh", false);
        check(vec![b"c"], Some(io::ErrorKind::ConnectionReset.into()), b"abc", true);
    }
}
