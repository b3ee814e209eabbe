//! The buffers of a connection to the upstream, sized by what passes through them.
//!
//! ureq writes requests into one and reads responses from the other. Both start small and grow when a
//! transfer fills them. An empty buffer is freed, so that a pooled connection has none and a live stream
//! has what its events need. The first write is held back until the next write, or until input is awaited,
//! so that a head and the beginning of its body go out together. Never does I/O.
//! Invariant: no byte is lost or reordered.

use ureq::unversioned::transport::Buffers;

/// The first size of the input buffer: some twenty chunks.
const INITIAL_INPUT_BYTES: usize = 4 * 1024;
/// The first size of the output buffer: most requests with their heads.
const INITIAL_OUTPUT_BYTES: usize = 8 * 1024;
/// The largest size of either.
const MAX_BUFFER_BYTES: usize = 64 * 1024;
/// The longest first write that is held back: a head.
const MAX_PENDING_BYTES: usize = 4 * 1024;
/// Scratch space that ureq gets beside the output, for pieces of a body of unknown length.
const SCRATCH_BYTES: usize = INITIAL_INPUT_BYTES;

/// Both buffers of a connection.
#[derive(Debug, Default)]
pub(in crate::upstream) struct TcpBuffers {
    /// Unread input is in `input_start..input_end`.
    input: Vec<u8>,
    input_start: usize,
    input_end: usize,
    /// The size that the input buffer is to have.
    target_input_size: usize,
    /// Bytes of the latest read.
    last_read: usize,
    /// Whether ureq consumed input when it last looked at it.
    made_progress: bool,
    /// Pending output comes first.
    output: Vec<u8>,
    pending: usize,
    /// Whether nothing was sent since input was last awaited.
    is_first_write: bool,
    /// Whether the output buffer was too small for a write.
    is_output_large: bool,
}

impl TcpBuffers {
    pub(in crate::upstream) fn new() -> Self {
        Self { target_input_size: INITIAL_INPUT_BYTES, is_first_write: true, ..Self::default() }
    }

    /// Adds the `amount` bytes that ureq wrote to the pending output; returns whether that may wait.
    /// Otherwise all of it is to be sent.
    pub(in crate::upstream) fn append_output(&mut self, amount: usize) -> bool {
        self.is_output_large |= self.pending + amount == self.output.len();
        self.pending += amount;
        std::mem::take(&mut self.is_first_write) && self.pending <= MAX_PENDING_BYTES
    }

    /// Inserts bytes at a place of the `amount` bytes that ureq wrote and that are not pending yet.
    pub(in crate::upstream) fn insert_output(&mut self, amount: usize, at: usize, bytes: &[u8]) {
        let (begin, end) = (self.pending + at, self.pending + amount);
        if self.output.len() < end + bytes.len() {
            grow(&mut self.output, end + bytes.len());
        }
        self.output.copy_within(begin..end, begin + bytes.len());
        self.output[begin..begin + bytes.len()].copy_from_slice(bytes);
    }

    /// The output to be sent.
    pub(in crate::upstream) fn pending_output(&self) -> &[u8] {
        &self.output[..self.pending]
    }

    /// The pending output was sent.
    pub(in crate::upstream) fn clear_pending(&mut self) {
        self.pending = 0;
    }

    /// Input is awaited: frees the output buffer.
    pub(in crate::upstream) fn begin_read(&mut self) {
        self.output = Vec::new();
        (self.is_first_write, self.is_output_large) = (true, false);
    }

    /// The connection goes into the pool: frees both buffers, unless there is unread input.
    pub(in crate::upstream) fn release_if_empty(&mut self) {
        if self.input_start == self.input_end {
            *self = Self::new();
        }
    }

    /// Whether the last read filled the buffer, and the buffer may grow.
    pub(in crate::upstream) fn is_short_of_room(&self) -> bool {
        self.is_input_full() && self.input_end < MAX_BUFFER_BYTES
    }

    fn is_input_full(&self) -> bool {
        self.input_end == self.input.len() && self.input_end > 0
    }

    /// Makes room for at least `least` bytes behind the input.
    fn reserve_input(&mut self, least: usize) {
        if self.is_input_full() {
            self.target_input_size = MAX_BUFFER_BYTES;
        }
        if self.input_start == self.input_end {
            (self.input_start, self.input_end) = (0, 0);
            // A burst is over.
            if self.target_input_size > INITIAL_INPUT_BYTES && self.last_read < INITIAL_INPUT_BYTES
            {
                self.target_input_size = INITIAL_INPUT_BYTES;
                self.input = Vec::new();
            }
        }
        // Moving is cheap while little input is unread.
        if self.input_start > 0 && self.input.len() - self.input_end < self.target_input_size / 2 {
            self.input.copy_within(self.input_start..self.input_end, 0);
            (self.input_start, self.input_end) = (0, self.input_end - self.input_start);
        }
        let size = self.target_input_size.max(self.input_end + least);
        if self.input.len() < size {
            grow(&mut self.input, size);
        }
    }
}

/// Makes a buffer larger, with zeros at its end. `Vec::resize` would write them one by one in an
/// executable that is optimised for size, which took 5 % of the time of a short request.
fn grow(buffer: &mut Vec<u8>, size: usize) {
    let mut larger = vec![0; size];
    larger[..buffer.len()].copy_from_slice(buffer);
    *buffer = larger;
}

impl Buffers for TcpBuffers {
    fn output(&mut self) -> &mut [u8] {
        let size = if self.is_output_large { MAX_BUFFER_BYTES } else { INITIAL_OUTPUT_BYTES };
        if self.output.len() < size {
            grow(&mut self.output, size);
        }
        &mut self.output[self.pending..]
    }

    fn input(&self) -> &[u8] {
        &self.input[self.input_start..self.input_end]
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        self.reserve_input(1);
        &mut self.input[self.input_end..]
    }

    fn input_appended(&mut self, amount: usize) {
        self.last_read = amount;
        self.input_end = (self.input_end + amount).min(self.input.len());
    }

    fn input_consume(&mut self, amount: usize) {
        self.made_progress = amount > 0;
        self.input_start = (self.input_start + amount).min(self.input_end);
    }

    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        self.output();
        self.reserve_input(SCRATCH_BYTES);
        (&mut self.input[self.input_end..], &mut self.output[self.pending..])
    }

    fn can_use_input(&self) -> bool {
        self.input_start < self.input_end && self.made_progress
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
            assert!(buffers.input.len() <= 2 * MAX_BUFFER_BYTES);
        }
    }

    #[test]
    fn room_is_short_when_a_read_has_filled_a_buffer_that_may_grow() {
        let mut buffers = TcpBuffers::new();
        assert!(!buffers.is_short_of_room(), "nothing has come");
        arrive(&mut buffers, b"x");
        assert!(!buffers.is_short_of_room());
        let mut sizes = Vec::new();
        while sizes.len() < 100 && buffers.input_end < MAX_BUFFER_BYTES {
            while !buffers.is_input_full() {
                arrive(&mut buffers, &[b'x'; 1000]);
            }
            sizes.push(buffers.input_end);
            assert_eq!(buffers.is_short_of_room(), buffers.input_end < MAX_BUFFER_BYTES);
            arrive(&mut buffers, b"x");
        }
        assert!(sizes.len() > 1 && buffers.input_end >= MAX_BUFFER_BYTES, "{sizes:?}");
        while !buffers.is_input_full() {
            arrive(&mut buffers, &[b'x'; 1000]);
        }
        assert!(!buffers.is_short_of_room(), "it is as large as it gets");
    }

    #[test]
    fn a_stream_of_small_pieces_keeps_a_small_buffer_and_a_fast_one_gets_a_large_one() {
        let mut small = TcpBuffers::new();
        for _ in 0..1000 {
            let length = arrive(&mut small, &[b'x'; 250]);
            small.input_consume(length);
        }
        assert_eq!(small.input.len(), INITIAL_INPUT_BYTES);
        let mut large = TcpBuffers::new();
        for _ in 0..10 {
            let length = arrive(&mut large, &[b'x'; 100_000]);
            large.input_consume(length);
        }
        assert_eq!(large.input.len(), MAX_BUFFER_BYTES);
        for _ in 0..2 {
            assert_eq!(arrive(&mut large, b"slow"), 4);
            large.input_consume(4);
        }
        assert_eq!(large.input.len(), INITIAL_INPUT_BYTES, "a burst is over");
        large.release_if_empty();
        assert_eq!((large.input.len(), large.output.len()), (0, 0), "a kept connection has none");
    }

    #[test]
    fn what_is_sent_first_waits_for_what_follows() {
        let mut buffers = TcpBuffers::new();
        let write = |buffers: &mut TcpBuffers, bytes: &[u8]| {
            buffers.output()[..bytes.len()].copy_from_slice(bytes);
            buffers.append_output(bytes.len())
        };
        assert!(write(&mut buffers, b"head"));
        assert!(!write(&mut buffers, b"body"));
        assert_eq!(buffers.pending_output(), b"headbody");
        buffers.clear_pending();
        assert!(!write(&mut buffers, b"more"), "only the first one waits");
        assert_eq!(buffers.pending_output(), b"more");
        buffers.clear_pending();
        buffers.begin_read();
        assert!(write(&mut buffers, b"next"));
        buffers.clear_pending();
        buffers.begin_read();
        assert!(!write(&mut buffers, &[b'x'; MAX_PENDING_BYTES + 1]), "it is no head");
    }

    #[test]
    fn bytes_are_inserted_into_what_was_written_last() {
        let mut buffers = TcpBuffers::new();
        for (before, full) in [(0, false), (4, false), (4, true)] {
            buffers = TcpBuffers::new();
            buffers.output()[..4].copy_from_slice(b"head");
            buffers.append_output(before);
            let amount = if full { buffers.output().len() } else { 6 };
            buffers.output()[..6].copy_from_slice(b"GET /x");
            buffers.insert_output(amount, 4, b"http://h");
            buffers.append_output(amount + 8);
            let pending = buffers.pending_output();
            assert_eq!(pending.len(), before + amount + 8);
            assert_eq!(&pending[before..before + 14], b"GET http://h/x");
        }
        buffers.clear_pending();
        assert_eq!(buffers.output().len(), MAX_BUFFER_BYTES, "a full buffer grows all the same");
    }

    #[test]
    fn a_large_body_gets_a_large_buffer() {
        let mut buffers = TcpBuffers::new();
        let length = buffers.output().len();
        assert!(!buffers.append_output(length));
        buffers.clear_pending();
        assert_eq!(buffers.output().len(), MAX_BUFFER_BYTES);
        let (spare, output) = buffers.tmp_and_output();
        assert!(spare.len() >= SCRATCH_BYTES && output.len() == MAX_BUFFER_BYTES);
    }
}
