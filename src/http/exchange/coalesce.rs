//! What is in pieces, written in few writes.
//!
//! Each write costs a system call, and may be a packet of its own; so small pieces go together, and
//! only what is large goes as it is, because copying it would cost more. Invariant: the pieces are
//! written in their order, once each.

use std::io::{self, Write};

use super::Exchange;
use crate::error::{Error, Result};
use crate::net::connection_guard::Wire;

/// Bytes that go together in one write, at most; a piece of so many goes alone.
const TOGETHER: usize = 64 * 1024;

impl Exchange {
    /// One write unless it is large, so that a client sees whole lines. After it, the answer is at
    /// `next`.
    pub(super) fn send(
        &mut self,
        writer: &mut dyn Write,
        pieces: (&[u8], &[&[u8]]),
        next: Wire,
    ) -> Result<()> {
        let mut write = |ahead: usize| write(writer, pieces, ahead).and_then(|()| writer.flush());
        let written = match &mut self.ticket {
            Some(ticket) => {
                if next == Wire::Other {
                    ticket.ending();
                }
                ticket.in_hand().send(next, write)
            }
            None => write(0),
        };
        written.map_err(Error::DownstreamGone)
    }
}

/// Whether all of it goes together.
pub(super) fn is_small(pieces: &[&[u8]]) -> bool {
    pieces.iter().map(|piece| piece.len()).sum::<usize>() < TOGETHER
}

/// Writes `first` but for its first `ahead` bytes, and then the others.
fn write(
    writer: &mut dyn Write,
    (first, others): (&[u8], &[&[u8]]),
    ahead: usize,
) -> io::Result<()> {
    if others.is_empty() {
        return writer.write_all(&first[ahead..]);
    }
    let mut together = Vec::with_capacity(TOGETHER);
    for piece in [&first[ahead..]].iter().chain(others) {
        if together.len() + piece.len() > TOGETHER && !together.is_empty() {
            writer.write_all(&together)?;
            together.clear();
        }
        if piece.len() < TOGETHER {
            together.extend_from_slice(piece);
        } else {
            writer.write_all(piece)?;
        }
    }
    if together.is_empty() { Ok(()) } else { writer.write_all(&together) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes how long each write was.
    #[derive(Default)]
    struct Writes(Vec<u8>, Vec<usize>);

    impl Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.extend_from_slice(bytes);
            self.1.push(bytes.len());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn pieces_are_written_in_order_and_in_few_writes() {
        let check = |lengths: &[usize], ahead: usize, writes: &[usize]| {
            let all: Vec<u8> = (0_u8..251).cycle().take(lengths.iter().sum()).collect();
            let mut rest = all.as_slice();
            let split = lengths.iter().map(|length| rest.split_off(..*length).expect("enough"));
            let pieces: Vec<&[u8]> = split.collect();
            let mut written = Writes::default();
            write(&mut written, (pieces[0], &pieces[1..]), ahead).expect("a Vec takes all");
            assert!(written.0 == all[ahead..], "{lengths:?}");
            assert_eq!(written.1, writes, "{lengths:?}");
        };
        check(&[300], 0, &[300]);
        check(&[300], 1, &[299]);
        check(&[300, 5000, 0, 7], 1, &[5306]);
        check(&[300, TOGETHER - 300], 0, &[TOGETHER]);
        check(&[300, TOGETHER - 299], 0, &[300, TOGETHER - 299]);
        check(&[300, 5_000_000, 1, 2], 0, &[300, 5_000_000, 3]);
        check(&[10, 30_000, 30_000, 30_000, 70_000, 1], 0, &[60_010, 30_000, 70_000, 1]);
    }
}
