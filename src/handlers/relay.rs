//! An upstream's answer to the client, as it comes.
//!
//! Invariant: everything that has arrived is written before the next wait, and nothing is held back
//! while waiting. A write that fails ends the upstream's call at once, because the stream is dropped
//! on the way out.

use std::time::{Duration, Instant, SystemTime};

use super::{Context, InUse, stack_trim};
use crate::error::Result;
use crate::http::exchange::ContentType;
use crate::observe::timestamp;
use crate::translate::stream::{AnswerStream, Delta, Encoder, Outcome, Wanted};
use crate::translate::think::Think;
use crate::upstream::{Answer, EventStream};

/// Passes an answer on: line by line for `stream`, in one object otherwise, whichever way the
/// upstream sent it. The use of the model ends before the client can know that the answer did.
pub(super) fn relay(
    context: &mut Context<'_>,
    answer: Answer,
    encoder: &mut impl Encoder,
    wanted: (Think, Option<usize>, Vec<String>),
    stream: bool,
    mut in_use: InUse<'_>,
) -> Result<()> {
    in_use.answered();
    let app = context.app;
    let seed = context.trace.request_id.clone();
    let model = context.trace.model.clone();
    let (think, logprobs, stop) = wanted;
    let wanted = Wanted { think, logprobs, seed: &seed, model: Some(&model), stop };
    let mut state = AnswerStream::new(wanted, app.client.redactor());
    if stream {
        relay_lines(context, answer, encoder, &mut state, in_use)
    } else {
        relay_whole(context, answer, encoder, &mut state, in_use)
    }
}

fn relay_lines<E: Encoder>(
    context: &mut Context<'_>,
    answer: Answer,
    encoder: &mut E,
    state: &mut AnswerStream<'_>,
    in_use: InUse<'_>,
) -> Result<()> {
    if E::EVENTS {
        context.exchange.begin_events();
    }
    let mut line = Vec::with_capacity(512);
    let mut finished = None;
    match answer {
        Answer::Whole(text) => {
            let delta = state.on_whole(&text)?;
            write_line(context, encoder, &mut line, &now(), delta);
        }
        Answer::Stream(mut events) => {
            pump(context, &mut events, encoder, state, &mut line)?;
            finished = kept(events, state);
        }
    }
    let outcome = finish(context, state)?;
    let (rest, now) = (state.rest()?, now());
    write_line(context, encoder, &mut line, &now, rest);
    line.clear();
    encoder.last(&mut line, &now, &Delta::default(), &outcome);
    if !E::EVENTS {
        line.push(b'\n');
    }
    context.exchange.line(&line);
    drop(in_use);
    context.exchange.end()?;
    if let Some(events) = finished {
        events.finish();
    }
    Ok(())
}

/// Holds back the line of a delta, if that adds anything; calls get a line of their own, as clients
/// know it from Ollama (ollama-api.md 7).
fn write_line(
    context: &mut Context<'_>,
    encoder: &mut impl Encoder,
    line: &mut Vec<u8>,
    now: &str,
    mut delta: Delta<'_>,
) {
    let calls = std::mem::take(&mut delta.calls);
    context.app.keepsakes.keep(&calls);
    let mut write = |delta: &Delta<'_>| {
        if !delta.is_empty() {
            line.clear();
            encoder.delta(line, now, delta);
            context.exchange.line(line);
        }
    };
    if delta.fits() {
        write(&delta);
    } else {
        delta.pieces().iter().for_each(&mut write);
    }
    write(&Delta { calls, ..Delta::default() });
}

/// When something came.
struct Arrival {
    /// Since the request was there.
    after: Duration,
    /// As text.
    text: String,
}

impl Arrival {
    fn now(received: Instant) -> Self {
        Self { after: received.elapsed(), text: now() }
    }
}

/// Moves events to lines until the terminal one. Those that came together bear the same time.
fn pump(
    context: &mut Context<'_>,
    events: &mut EventStream,
    encoder: &mut impl Encoder,
    state: &mut AnswerStream<'_>,
    line: &mut Vec<u8>,
) -> Result<()> {
    loop {
        let arrival = Arrival::now(context.received);
        while let Some(event) = events.ready()? {
            if let Some(delta) = state.on_event(event, arrival.after)? {
                write_line(context, encoder, line, &arrival.text, delta);
            }
            if let Some(calls) = state.take_calls()? {
                write_line(context, encoder, line, &arrival.text, calls);
            }
            if state.is_done() {
                return Ok(());
            }
        }
        context.exchange.flush()?;
        stack_trim::waits(context.trace, arrival.after);
        if !wait(events, state)? {
            return Ok(());
        }
    }
}

fn relay_whole<E: Encoder>(
    context: &mut Context<'_>,
    answer: Answer,
    encoder: &mut E,
    state: &mut AnswerStream<'_>,
    in_use: InUse<'_>,
) -> Result<()> {
    let mut out = Vec::with_capacity(1024);
    match answer {
        Answer::Whole(text) => {
            let rest = state.on_whole(&text)?;
            let outcome = finish(context, state)?;
            context.app.keepsakes.keep(&rest.calls);
            encoder.whole(&mut out, &now(), &rest, &outcome);
        }
        Answer::Stream(mut events) => {
            let mut rest = gather(context, &mut events, state)?;
            let events = kept(events, state);
            let outcome = finish(context, state)?;
            rest.append(state.rest()?);
            context.app.keepsakes.keep(&rest.calls);
            encoder.whole(&mut out, &now(), &rest, &outcome);
            if let Some(events) = events {
                events.finish();
            }
        }
    }
    drop(in_use);
    if E::EVENTS {
        // The answers below `/v1` end in a newline (ollama-api.md 1.2, 1.4).
        out.push(b'\n');
        return context.exchange.answer(200, ContentType::BareJson, &out);
    }
    context.exchange.answer(200, ContentType::Json, &out)
}

/// Puts a stream together that was to be a whole answer.
fn gather(
    context: &Context<'_>,
    events: &mut EventStream,
    state: &mut AnswerStream<'_>,
) -> Result<Delta<'static>> {
    let mut whole = Delta::default();
    loop {
        let after = context.received.elapsed();
        while let Some(event) = events.ready()? {
            if let Some(delta) = state.on_event(event, after)? {
                whole.append(delta);
            }
        }
        if state.is_done() || !wait(events, state)? {
            return Ok(whole);
        }
    }
}

/// The stream, if the upstream is at its end too. Where a stop string ended the answer here, the
/// upstream goes on writing until its connection closes.
fn kept(events: Box<EventStream>, state: &AnswerStream<'_>) -> Option<Box<EventStream>> {
    (!state.is_cut()).then_some(events)
}

/// Waits for more. A break behind the end of the answer is no error.
fn wait(events: &mut EventStream, state: &AnswerStream<'_>) -> Result<bool> {
    match events.wait() {
        Err(_) if state.is_complete() => Ok(false),
        other => other,
    }
}

fn finish(context: &mut Context<'_>, state: &AnswerStream<'_>) -> Result<Outcome> {
    let outcome = state.finish(context.sent_after(), context.received.elapsed())?;
    context.trace.tokens = (outcome.metrics.prompt_eval_count, outcome.metrics.eval_count);
    Ok(outcome)
}

fn now() -> String {
    timestamp::rfc3339(SystemTime::now())
}
