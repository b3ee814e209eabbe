//! A whole answer, which need not be in one piece.
//!
//! What is passed on stays where it came, in the upstream's bodies: it is most of the answer, and a copy
//! would cost as much as all the rest. Invariant: the pieces, one after the other, are the answer.

use std::ops::Range;

/// What is written here, and what is passed on between it.
pub struct Whole {
    /// What is written here.
    pub(super) text: Vec<u8>,
    passed: Vec<Passed>,
    bodies: Vec<String>,
}

/// A part of a body.
struct Passed {
    /// Before which byte of the text it stands.
    before: usize,
    body: usize,
    place: Range<usize>,
}

impl Whole {
    /// An answer that begins so.
    pub(super) fn new(text: Vec<u8>) -> Self {
        Self { text, passed: Vec::new(), bodies: Vec::new() }
    }

    /// Appends a part of the body that is kept next.
    pub(super) fn pass(&mut self, place: Range<usize>) {
        self.passed.push(Passed { before: self.text.len(), body: self.bodies.len(), place });
    }

    /// Keeps the body that parts were passed of.
    pub(super) fn keep(&mut self, body: String) {
        self.bodies.push(body);
    }

    /// All of it.
    #[must_use]
    pub fn pieces(&self) -> Vec<&[u8]> {
        let mut pieces = Vec::with_capacity(self.passed.len() * 2 + 1);
        let mut from = 0;
        for Passed { before, body, place } in &self.passed {
            pieces.push(&self.text[from..*before]);
            pieces.push(&self.bodies[*body].as_bytes()[place.clone()]);
            from = *before;
        }
        pieces.push(&self.text[from..]);
        pieces
    }

    /// All of it in one piece.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.pieces().concat()
    }
}
