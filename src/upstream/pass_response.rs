//! A response to a request that was passed on: its head, and its body whole or in pieces.
//!
//! Never says where the pieces come from. Invariant: keys in heads and errors are masked.

use std::borrow::Cow;
use std::time::Instant;

use ureq::http::header::HeaderMap;

use super::transport::agent::header_texts;
use crate::api::openai::pass_head::PassHead;
use crate::backends::errors;
use crate::error::{Error, Result};
use crate::observe::redact::Redactor;

/// A response for the client, possibly an error.
pub struct PassResponse {
    /// Its head.
    pub head: PassHead,
    /// Its body.
    pub body: PassResponseBody,
    /// The error that it reports, if it is one.
    pub error: Option<Error>,
}

/// The body of a [`PassResponse`].
pub enum PassResponseBody {
    /// All of it.
    Whole(Vec<u8>),
    /// As it arrives. Dropping it closes the upstream's connection.
    Stream(Box<dyn PassPieces>),
}

/// What comes next of a body.
pub enum Piece<'a> {
    /// Some bytes.
    Bytes(&'a [u8]),
    /// Nothing until now.
    Silence,
    /// Nothing more.
    End,
}

/// The pieces of a body.
pub trait PassPieces {
    /// Waits for the next piece, but not longer than until `wake_at`, if that is a time.
    ///
    /// # Errors
    /// [`Error::UpstreamTimeout`] after too long a silence or for a line, or a body without lines,
    /// that takes too long; [`Error::IncompleteStream`] when the connection broke, or when a stream of
    /// events that only its connection delimits ended too early.
    fn next_piece(&mut self, wake_at: Option<Instant>) -> Result<Piece<'_>>;

    /// The error that an event reported, for the log.
    fn reported_error(&self) -> Option<Error>;
}

impl PassResponse {
    pub(super) fn head(status: u16, headers: &HeaderMap, redactor: &Redactor) -> PassHead {
        let mut head = PassHead::from_headers(status, header_texts(headers));
        for (_, value) in &mut head.headers {
            *value = redactor.redact(value).into_owned();
        }
        head
    }

    /// An error, of which `body` was read.
    pub(super) fn whole(head: PassHead, body: Vec<u8>, redactor: &Redactor) -> Self {
        let redacted = match redactor.redact(&String::from_utf8_lossy(&body)) {
            Cow::Owned(redacted) => Some(redacted.into_bytes()),
            Cow::Borrowed(_) => None,
        };
        let body = PassResponseBody::Whole(redacted.unwrap_or(body));
        Self { head, body, error: None }
    }

    /// Whether the upstream says that it has no such route, and not only no such model.
    pub fn is_unknown_route(&self) -> bool {
        match &self.body {
            PassResponseBody::Whole(body) => errors::is_unknown_route(self.head.status, body),
            PassResponseBody::Stream(_) => false,
        }
    }
}
