//! A whole answer, which need not be in one piece.
//!
//! What is passed on stays where it came, in the upstream's bodies: it is most of the answer, and a copy
//! would cost as much as all the rest. Invariant: the pieces, one after the other, are the answer.

use std::ops::Range;

/// What is written here, and what is passed on between it.
pub struct Pieces {
    /// What is written here.
    pub(super) written: Vec<u8>,
    slices: Vec<BodySlice>,
    bodies: Vec<String>,
}

/// A part of a body.
struct BodySlice {
    /// Before which byte of the text it stands.
    offset: usize,
    body_index: usize,
    range: Range<usize>,
}

impl Pieces {
    /// An answer that begins so.
    pub(super) fn new(written: Vec<u8>) -> Self {
        Self { written, slices: Vec::new(), bodies: Vec::new() }
    }

    /// Appends a part of the body that is kept next.
    pub(super) fn push_slice(&mut self, place: Range<usize>) {
        self.slices.push(BodySlice {
            offset: self.written.len(),
            body_index: self.bodies.len(),
            range: place,
        });
    }

    /// Keeps the body that parts were passed of.
    pub(super) fn push_body(&mut self, body: String) {
        self.bodies.push(body);
    }

    /// All of it.
    #[must_use]
    pub fn as_slices(&self) -> Vec<&[u8]> {
        let mut pieces = Vec::with_capacity(self.slices.len() * 2 + 1);
        let mut from = 0;
        for BodySlice { offset: before, body_index: body, range: place } in &self.slices {
            pieces.push(&self.written[from..*before]);
            pieces.push(&self.bodies[*body].as_bytes()[place.clone()]);
            from = *before;
        }
        pieces.push(&self.written[from..]);
        pieces
    }

    /// All of it in one piece.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.as_slices().concat()
    }
}
