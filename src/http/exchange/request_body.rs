//! Reads the body of a request, counted against the memory that all held bodies share.
//!
//! Limits: the size that the caller passes, the [`MemoryBudget`] and, where the connection is
//! guarded, the guard's body timeout. Never decodes what it reads. Invariant: a body is read to its
//! end, or the connection closes after the response.
//!
//! [`MemoryBudget`]: crate::net::memory_budget::MemoryBudget

use std::io::{self, Read, Write};

use super::{Exchange, State, find_header};
use crate::error::{Error, Result};
use crate::http::unread_body::BodyReader;
use crate::net::connection_guard::{RequestHandle, RequestPhase};
use crate::net::memory_budget::{BudgetExceeded, Reservation, STEP_BYTES};
use crate::net::worker_pool;

/// The limit of a body that is passed on while it is read: none, also of time, as long as it arrives.
pub const UNLIMITED: usize = usize::MAX - 1;

/// A reader whose bytes count against the memory budget.
pub struct BudgetedReader<'a> {
    reader: &'a mut dyn Read,
    reservation: Option<&'a mut Reservation>,
    exceeded: Option<BudgetExceeded>,
}

impl<'a> BudgetedReader<'a> {
    /// A reader whose bytes are added to this reservation, if there is one.
    pub fn new(reader: &'a mut dyn Read, reservation: Option<&'a mut Reservation>) -> Self {
        Self { reader, reservation, exceeded: None }
    }

    /// After the end of the body: why reading stopped, if the budget has no room for the body.
    pub fn finish(mut self) -> Option<Error> {
        self.reservation.iter_mut().for_each(|reservation| reservation.end_arriving());
        Some(match self.exceeded? {
            BudgetExceeded::Exhausted => Error::Busy,
            BudgetExceeded::TooLarge(limit) => Error::BodyTooLarge(limit),
        })
    }
}

impl Read for BudgetedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        let grown = self.reservation.as_mut().map(|reservation| reservation.grow_arriving(length));
        if let Some(Err(exceeded)) = grown {
            self.exceeded = Some(exceeded);
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(length)
    }
}

impl Exchange {
    /// Reads the request's body. Every body is read before the response, so that the connection can
    /// serve another request.
    ///
    /// # Errors
    /// [`Error::BodyTooLarge`] above `limit` bytes, [`Error::BodyReadFailed`] if the body is cut
    /// short, [`Error::BodyTimeout`] if it takes too long, [`Error::Busy`] if the memory budget is
    /// exhausted.
    pub fn read_body(&mut self, limit: usize) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        let (mut reservation, mut exceeded) = (self.reservation.take(), None);
        let read = self.read_body_with(limit, &mut |reader, length| {
            body.reserve(length);
            let mut reader = BudgetedReader::new(reader, reservation.as_mut());
            let read = reader.read_to_end(&mut body).map(|read| read as u64);
            exceeded = reader.finish();
            read
        });
        if let Some(error) = exceeded {
            // Before its share of the budget, which others wait for.
            drop(body);
            return Err(error);
        }
        self.reservation = reservation;
        read.map(|()| body)
    }

    /// Counts memory that the request takes beside its body, until the response begins.
    ///
    /// # Errors
    /// [`Error::Busy`] and [`Error::RequestTooLarge`].
    pub fn charge(&mut self, bytes: usize) -> Result<()> {
        // A small request is covered by the memory of a worker.
        let bytes = bytes.saturating_sub(STEP_BYTES);
        let grown = self.reservation.as_mut().map_or(Ok(()), |reservation| reservation.grow(bytes));
        grown.map_err(|exceeded| match exceeded {
            BudgetExceeded::Exhausted => Error::Busy,
            BudgetExceeded::TooLarge(_) => Error::RequestTooLarge,
        })
    }

    /// The share of the memory budget that the body may take, for a reader that holds it itself; to be
    /// given back with [`Exchange::set_reservation`].
    pub fn take_reservation(&mut self) -> Option<Reservation> {
        self.reservation.take()
    }

    /// Keeps the share of a body until the response begins.
    pub fn set_reservation(&mut self, reservation: Option<Reservation>) {
        self.reservation = reservation;
    }

    /// Like [`Exchange::read_body`], but copies the body to `sink` instead of holding it in memory.
    ///
    /// # Errors
    /// Those of [`Exchange::read_body`] except [`Error::Busy`]; `sink` must not fail.
    pub fn copy_body(&mut self, limit: usize, mut sink: impl Write) -> Result<()> {
        self.read_body_with(limit, &mut |reader, _| io::copy(reader, &mut sink))
    }

    /// The request's `Content-Length`; `None` also once the response has begun.
    pub fn content_length(&self) -> Option<usize> {
        self.request().and_then(tiny_http::Request::body_length)
    }

    /// Like [`Exchange::read_body`], but `read` reads the body to its end. `read` gets the
    /// `Content-Length`, or 0 without one, and returns the number of bytes that it read.
    ///
    /// # Errors
    /// Those of [`Exchange::read_body`].
    pub fn read_body_with(
        &mut self,
        limit: usize,
        read: &mut dyn FnMut(&mut dyn Read, usize) -> io::Result<u64>,
    ) -> Result<()> {
        let State::Waiting(request) = &mut self.state else {
            return Err(Error::Internal("request body read after the response"));
        };
        let length = request.body_length();
        if length.is_some_and(|length| length > limit) {
            return Err(Error::BodyTooLarge(limit));
        }
        let is_chunked = find_header(request, "Transfer-Encoding").is_some();
        let is_upgrade = find_header(request, "Connection")
            .is_some_and(|value| value.to_ascii_lowercase().contains("upgrade"));
        // One byte more than the limit shows that a body is too large.
        let max_read = limit as u64 + 1;
        let in_flight = self.handle.as_ref().map(RequestHandle::in_flight);
        let set_phase = |phase| in_flight.iter().for_each(|request| request.set_phase(phase));
        let is_bounded = limit < UNLIMITED;
        set_phase(if is_bounded { RequestPhase::Reading } else { RequestPhase::Passing });
        let mut reader = request.as_reader();
        let reader = &mut BodyReader::new(&mut reader, length);
        let known_length = length.unwrap_or(0);
        // A slow client must not keep a worker from other requests. tiny_http returns the bare
        // connection if the client offers an upgrade, as Java's clients do in every first request.
        let result = worker_pool::yield_slot(|| match (is_upgrade, is_chunked) {
            (true, true) => {
                read(&mut chunked_transfer::Decoder::new(reader).take(max_read), known_length)
            }
            (true, false) => read(&mut reader.take(known_length as u64), known_length),
            (false, _) => read(&mut reader.take(max_read), known_length),
        });
        set_phase(RequestPhase::Waiting);
        if in_flight.is_some_and(|request| request.is_body_late()) {
            return Err(Error::BodyTimeout);
        }
        let is_end = |error: &io::Error| {
            use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
            let kinds = [BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof];
            kinds.contains(&error.kind())
        };
        self.is_body_cut_off = match (&result, length) {
            (Err(error), _) => is_end(error),
            (Ok(count), Some(length)) => *count < length as u64 && *count < max_read,
            (Ok(_), None) => false,
        };
        let count = result.map_err(|_| Error::BodyReadFailed)?;
        if count >= max_read {
            return Err(Error::BodyTooLarge(limit));
        }
        if length.is_some_and(|length| count < length as u64) {
            return Err(Error::BodyReadFailed);
        }
        set_phase(RequestPhase::Working);
        self.is_body_read = true;
        Ok(())
    }
}
