//! What is in pieces, written in few writes.
//!
//! Each write costs a system call, and may be a packet of its own; so small pieces go together, and
//! only what is large goes as it is, because copying it would cost more. Invariant: the pieces are
//! written in their order, once each.

use std::io::{self, Write};

use super::Exchange;
use crate::error::{Error, Result};
use crate::net::connection_guard::ResponseState;

/// Bytes that go together in one write, at most; a piece of so many goes alone.
const WRITE_CAPACITY: usize = 64 * 1024;

impl Exchange {
    /// One write unless it is large, so that a client sees whole lines. After it, the answer is at
    /// `next`.
    pub(super) fn send_pieces(
        &mut self,
        writer: &mut dyn Write,
        pieces: (&[u8], &[&[u8]]),
        next: ResponseState,
    ) -> Result<()> {
        let mut write = |already_sent: usize| {
            write_coalesced(writer, pieces, already_sent).and_then(|()| writer.flush())
        };
        let written = match &mut self.handle {
            Some(ticket) => {
                if next == ResponseState::Other {
                    ticket.release_client_slot();
                }
                ticket.in_flight().write_response(next, write)
            }
            None => write(0),
        };
        written.map_err(Error::ClientDisconnected)
    }
}

/// Whether all of it goes together.
pub(super) fn fits_one_write(pieces: &[&[u8]]) -> bool {
    pieces.iter().map(|piece| piece.len()).sum::<usize>() < WRITE_CAPACITY
}

/// Writes `first` but for its first `ahead` bytes, and then the others.
fn write_coalesced(
    writer: &mut dyn Write,
    (first, others): (&[u8], &[&[u8]]),
    already_sent: usize,
) -> io::Result<()> {
    if others.is_empty() {
        return writer.write_all(&first[already_sent..]);
    }
    let mut batch = Vec::with_capacity(WRITE_CAPACITY);
    for piece in [&first[already_sent..]].iter().chain(others) {
        if batch.len() + piece.len() > WRITE_CAPACITY && !batch.is_empty() {
            writer.write_all(&batch)?;
            batch.clear();
        }
        if piece.len() < WRITE_CAPACITY {
            batch.extend_from_slice(piece);
        } else {
            writer.write_all(piece)?;
        }
    }
    if batch.is_empty() { Ok(()) } else { writer.write_all(&batch) }
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
            write_coalesced(&mut written, (pieces[0], &pieces[1..]), ahead)
                .expect("a Vec takes all");
            assert!(written.0 == all[ahead..], "{lengths:?}");
            assert_eq!(written.1, writes, "{lengths:?}");
        };
        check(&[300], 0, &[300]);
        check(&[300], 1, &[299]);
        check(&[300, 5000, 0, 7], 1, &[5306]);
        check(&[300, WRITE_CAPACITY - 300], 0, &[WRITE_CAPACITY]);
        check(&[300, WRITE_CAPACITY - 299], 0, &[300, WRITE_CAPACITY - 299]);
        check(&[300, 5_000_000, 1, 2], 0, &[300, 5_000_000, 3]);
        check(&[10, 30_000, 30_000, 30_000, 70_000, 1], 0, &[60_010, 30_000, 70_000, 1]);
    }
}
