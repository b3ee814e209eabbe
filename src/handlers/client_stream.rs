//! The stream of one client, as an encoder writes it.
//!
//! Begins it, adds deltas, shows in silence that it is alive, and writes a failure as the events of its
//! route. Never waits and never translates. Invariant: an encoder's first bytes are those of
//! [`Encoder::encode_start`], and nothing follows those of [`Encoder::encode_failure`].

use std::time::{Duration, Instant, SystemTime};

use super::Context;
use super::keepalive::SilenceTimer;
use crate::error::{Error, Result};
use crate::observe::timestamp;
use crate::translate::stream::{Completion, Delta, Encoder};

/// What a client gets line by line, or event by event.
pub(super) struct ClientStream<'r, 'c, E> {
    pub context: &'r mut Context<'c>,
    pub encoder: &'r mut E,
    line: Vec<u8>,
    timer: SilenceTimer,
    has_started: bool,
}

impl<'r, 'c, E: Encoder> ClientStream<'r, 'c, E> {
    /// A stream of which nothing is written.
    pub(super) fn new(context: &'r mut Context<'c>, encoder: &'r mut E) -> Self {
        // A client of Ollama gets nothing before the first token, and one that gets all at the end would
        // find an error behind a good status.
        let shows_silence = E::IS_SSE && context.exchange.sends_at_once();
        let interval = shows_silence.then_some(context.app.settings.keepalive.start_after);
        let timer = context.silence_timer(interval);
        Self { context, encoder, line: Vec::with_capacity(512), timer, has_started: false }
    }

    /// Buffers the line of a delta, if the delta adds anything. Tool calls get a line of their own, as in
    /// Ollama.
    pub(super) fn write(&mut self, now: &str, mut delta: Delta<'_>) {
        let calls = std::mem::take(&mut delta.calls);
        if delta.fits_in_line() {
            self.write_line(now, &delta);
        } else {
            delta.split_into_lines().iter().for_each(|delta| self.write_line(now, delta));
        }
        self.write_line(now, &Delta { calls, ..Delta::default() });
    }

    fn write_line(&mut self, now: &str, delta: &Delta<'_>) {
        if !delta.is_empty() {
            // One frame holds the beginning and the first delta.
            self.begin_line(now);
            self.encoder.encode_delta(&mut self.line, now, delta);
            self.context.exchange.push_line(&self.line);
            self.context.trace.live.count(1);
        }
    }

    /// Empties the line, but for the beginning of the stream if nothing was written before.
    fn begin_line(&mut self, now: &str) {
        self.line.clear();
        if !std::mem::replace(&mut self.has_started, true) {
            self.encoder.encode_start(&mut self.line, now);
        }
    }

    /// Sends what is buffered; in a silence that has lasted, what shows that the stream is alive.
    ///
    /// # Errors
    /// [`Error::ClientDisconnected`].
    pub(super) fn flush(&mut self, elapsed: Duration, now: &str) -> Result<()> {
        let is_due = self.timer.is_due(elapsed);
        if is_due && !self.context.exchange.has_unsent() {
            let has_started = self.has_started;
            self.begin_line(now);
            if has_started {
                self.encoder.encode_keepalive(&mut self.line);
            }
            self.context.exchange.push_filler(&self.line);
        }
        if is_due || self.context.exchange.has_unsent() {
            self.timer.restart(elapsed, self.context.app.settings.keepalive.event_after);
        }
        self.context.exchange.flush()
    }

    /// When a wait that begins now is to end, so that the silence can be shown.
    pub(super) fn wake_at(&self, elapsed: Duration) -> Option<Instant> {
        self.timer.wake_at(elapsed)
    }

    /// Buffers what ends a complete response, after what was held back until now.
    pub(super) fn finish(&mut self, rest: Delta<'_>, completion: &Completion) {
        let now = format_now();
        self.write(&now, rest);
        self.begin_line(&now);
        self.encoder.encode_final(&mut self.line, &now, &Delta::default(), completion);
        if !E::IS_SSE {
            self.line.push(b'\n');
        }
        self.context.exchange.push_line(&self.line);
    }
}

/// Ends a stream that failed with the events of its route, if it has begun and the route has such events.
/// Otherwise the failure is returned.
pub(super) fn fail<E: Encoder>(
    context: &mut Context<'_>,
    encoder: &mut E,
    error: Error,
) -> Result<()> {
    let mut events = Vec::new();
    let is_told = error.status().is_some()
        && context.exchange.has_begun()
        && encoder.encode_failure(&mut events, &format_now(), &error);
    if !is_told {
        return Err(error);
    }
    context.exchange.push_line(&events);
    // If the client is gone, too, the upstream failed before.
    let _ = context.exchange.end();
    context.trace.reported_error = Some(error);
    Ok(())
}

pub(super) fn format_now() -> String {
    timestamp::to_rfc3339(SystemTime::now())
}
