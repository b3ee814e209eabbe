//! The buffers of a connection to the upstream, as small as what goes through them.
//!
//! ureq writes what is to be sent into one and reads what has come from the other. Both begin small
//! and are large where a transfer fills them: what comes in one piece is best read in one. One that
//! holds nothing is given back, so that a kept connection has none and a live stream has what its
//! events need. What is sent first is held back, for what follows it, or for the first wait.
//! Invariant: nothing is lost or reordered; what is held is sent before anything is awaited.

use ureq::unversioned::transport::Buffers;

/// Bytes that an input buffer begins with: some twenty chunks.
const FIRST_INPUT: usize = 4 * 1024;
/// Bytes that an output buffer begins with: most requests, their head included.
const FIRST_OUTPUT: usize = 8 * 1024;
/// Bytes that either may grow to.
const MOST: usize = 64 * 1024;
/// The most that is held back for what follows it: a head.
const MOST_HELD: usize = 4 * 1024;
/// Bytes that ureq gets beside the output, for the pieces of a body whose length nobody knows.
const SPARE: usize = FIRST_INPUT;

/// Both buffers of a connection.
#[derive(Debug, Default)]
pub(in crate::upstream) struct TcpBuffers {
    /// What has come is in `start..end`.
    input: Vec<u8>,
    start: usize,
    end: usize,
    /// How large the input buffer is to be.
    wanted: usize,
    /// How much the latest read brought.
    latest: usize,
    /// Whether the latest look at the input took some of it.
    progress: bool,
    /// What is held back comes first.
    output: Vec<u8>,
    held: usize,
    /// Nothing was sent yet since something was awaited.
    is_fresh: bool,
    /// The output buffer was too small for what was sent.
    is_large: bool,
}

impl TcpBuffers {
    pub(in crate::upstream) fn new() -> Self {
        Self { wanted: FIRST_INPUT, is_fresh: true, ..Self::default() }
    }

    /// Takes the first `amount` bytes behind those that are held; whether they may wait. If not, all
    /// of them are to be sent.
    pub(in crate::upstream) fn hold(&mut self, amount: usize) -> bool {
        self.is_large |= self.held + amount == self.output.len();
        self.held += amount;
        std::mem::take(&mut self.is_fresh) && self.held <= MOST_HELD
    }

    /// What is to be sent.
    pub(in crate::upstream) fn held(&self) -> &[u8] {
        &self.output[..self.held]
    }

    /// It was sent.
    pub(in crate::upstream) fn sent(&mut self) {
        self.held = 0;
    }

    /// Something is awaited: nothing more is sent for the time being.
    pub(in crate::upstream) fn awaits(&mut self) {
        self.output = Vec::new();
        (self.is_fresh, self.is_large) = (true, false);
    }

    /// The connection is kept, and nothing is to come.
    pub(in crate::upstream) fn rest(&mut self) {
        if self.start == self.end {
            *self = Self::new();
        }
    }

    /// Whether there was too little room for what came, as far as one can tell, and may be more.
    pub(in crate::upstream) fn lacks_room(&self) -> bool {
        self.is_full() && self.end < MOST
    }

    fn is_full(&self) -> bool {
        self.end == self.input.len() && self.end > 0
    }

    /// Makes room behind the input, at least `least` bytes.
    fn make_room(&mut self, least: usize) {
        if self.is_full() {
            self.wanted = MOST;
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            // A burst is over.
            if self.wanted > FIRST_INPUT && self.latest < FIRST_INPUT {
                self.wanted = FIRST_INPUT;
                self.input = Vec::new();
            }
        }
        // Moving is cheap where little is left.
        if self.start > 0 && self.input.len() - self.end < self.wanted / 2 {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let size = self.wanted.max(self.end + least);
        if self.input.len() < size {
            self.input.resize(size, 0);
        }
    }
}

impl Buffers for TcpBuffers {
    fn output(&mut self) -> &mut [u8] {
        let size = if self.is_large { MOST } else { FIRST_OUTPUT };
        if self.output.len() < size {
            self.output.resize(size, 0);
        }
        &mut self.output[self.held..]
    }

    fn input(&self) -> &[u8] {
        &self.input[self.start..self.end]
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        self.make_room(1);
        &mut self.input[self.end..]
    }

    fn input_appended(&mut self, amount: usize) {
        self.latest = amount;
        self.end = (self.end + amount).min(self.input.len());
    }

    fn input_consume(&mut self, amount: usize) {
        self.progress = amount > 0;
        self.start = (self.start + amount).min(self.end);
    }

    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        self.output();
        self.make_room(SPARE);
        (&mut self.input[self.end..], &mut self.output[self.held..])
    }

    fn can_use_input(&self) -> bool {
        self.start < self.end && self.progress
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As much as fits of `bytes` arrives.
    fn arrive(buffers: &mut TcpBuffers, bytes: &[u8]) -> usize {
        let room = buffers.input_append_buf();
        let length = room.len().min(bytes.len());
        assert!(length > 0, "there is always room");
        room[..length].copy_from_slice(&bytes[..length]);
        buffers.input_appended(length);
        length
    }

    #[test]
    fn input_comes_out_as_it_went_in_whatever_is_taken_when() {
        let bytes: Vec<u8> = (0..300_000_u32).map(|number| (number % 251) as u8).collect();
        for (piece, taken) in [(1, 1), (700, 3000), (4096, 4095), (70_000, 5), (9000, 9001)] {
            let mut buffers = TcpBuffers::new();
            let (mut arrived, mut out) = (0, Vec::new());
            while out.len() < bytes.len() {
                if arrived < bytes.len() {
                    let end = bytes.len().min(arrived + piece);
                    arrived += arrive(&mut buffers, &bytes[arrived..end]);
                }
                // A reader that falls behind catches up: what it leaves has a bound in ureq, too.
                let behind = buffers.input().len() > 20_000 || arrived == bytes.len();
                let amount = buffers.input().len().min(if behind { 20_001 } else { taken });
                out.extend_from_slice(&buffers.input()[..amount]);
                buffers.input_consume(amount);
            }
            assert!(out == bytes, "{piece} {taken}");
            assert!(buffers.input.len() <= 2 * MOST);
        }
    }

    #[test]
    fn a_stream_of_small_pieces_keeps_a_small_buffer_and_a_fast_one_gets_a_large_one() {
        let mut small = TcpBuffers::new();
        for _ in 0..1000 {
            let length = arrive(&mut small, &[b'x'; 250]);
            small.input_consume(length);
        }
        assert_eq!(small.input.len(), FIRST_INPUT);
        let mut large = TcpBuffers::new();
        for _ in 0..10 {
            let length = arrive(&mut large, &[b'x'; 100_000]);
            large.input_consume(length);
        }
        assert_eq!(large.input.len(), MOST);
        for _ in 0..2 {
            assert_eq!(arrive(&mut large, b"slow"), 4);
            large.input_consume(4);
        }
        assert_eq!(large.input.len(), FIRST_INPUT, "a burst is over");
        large.rest();
        assert_eq!((large.input.len(), large.output.len()), (0, 0), "a kept connection has none");
    }

    #[test]
    fn what_is_sent_first_waits_for_what_follows() {
        let mut buffers = TcpBuffers::new();
        let write = |buffers: &mut TcpBuffers, bytes: &[u8]| {
            buffers.output()[..bytes.len()].copy_from_slice(bytes);
            buffers.hold(bytes.len())
        };
        assert!(write(&mut buffers, b"head"));
        assert!(!write(&mut buffers, b"body"));
        assert_eq!(buffers.held(), b"headbody");
        buffers.sent();
        assert!(!write(&mut buffers, b"more"), "only the first one waits");
        assert_eq!(buffers.held(), b"more");
        buffers.sent();
        buffers.awaits();
        assert!(write(&mut buffers, b"next"));
        buffers.sent();
        buffers.awaits();
        assert!(!write(&mut buffers, &[b'x'; MOST_HELD + 1]), "it is no head");
    }

    #[test]
    fn a_large_body_gets_a_large_buffer() {
        let mut buffers = TcpBuffers::new();
        let length = buffers.output().len();
        assert!(!buffers.hold(length));
        buffers.sent();
        assert_eq!(buffers.output().len(), MOST);
        let (spare, output) = buffers.tmp_and_output();
        assert!(spare.len() >= SPARE && output.len() == MOST);
    }
}
