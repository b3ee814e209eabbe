//! An upstream's answer to the client, as it comes.
//!
//! Invariant: everything that has arrived is written before the next wait, and nothing is held back
//! while waiting. A write that fails ends the upstream's call at once, because the stream is dropped
//! on the way out.

use std::time::{Duration, Instant, SystemTime};

use super::{Context, ModelUse, stack_trim};
use crate::error::Result;
use crate::http::exchange::ContentType;
use crate::observe::timestamp;
use crate::translate::stream::{Completion, Delta, Encoder, ResponseOptions, ResponseTranslator};
use crate::translate::think::ThinkMode;
use crate::upstream::{EventStream, UpstreamResponse};

/// Passes an answer on: line by line for `stream`, in one object otherwise, whichever way the
/// upstream sent it. The use of the model ends before the client can know that the answer did.
pub(super) fn relay(
    context: &mut Context<'_>,
    answer: UpstreamResponse,
    encoder: &mut impl Encoder,
    wanted: (ThinkMode, Option<usize>, Vec<String>),
    stream: bool,
    mut in_use: ModelUse<'_>,
) -> Result<()> {
    in_use.mark_answered();
    let app = context.app;
    let seed = context.trace.request_id.clone();
    let model = context.trace.model.clone();
    let (think, logprobs, stop) = wanted;
    let wanted = ResponseOptions { think, logprobs, id_seed: &seed, model: Some(&model), stop };
    let mut state = ResponseTranslator::new(wanted, app.client.redactor());
    if stream {
        relay_lines(context, answer, encoder, &mut state, in_use)
    } else {
        relay_whole(context, answer, encoder, &mut state, in_use)
    }
}

fn relay_lines<E: Encoder>(
    context: &mut Context<'_>,
    answer: UpstreamResponse,
    encoder: &mut E,
    state: &mut ResponseTranslator<'_>,
    in_use: ModelUse<'_>,
) -> Result<()> {
    if E::IS_SSE {
        context.exchange.start_events();
    }
    let mut line = Vec::with_capacity(512);
    let mut finished = None;
    match answer {
        UpstreamResponse::Whole(text) => {
            let delta = state.on_body(&text)?;
            write_line(context, encoder, &mut line, &format_now(), delta);
        }
        UpstreamResponse::Stream(mut events) => {
            pump(context, &mut events, encoder, state, &mut line)?;
            finished = keep_if_reusable(events, state);
        }
    }
    let outcome = finish_answer(context, state)?;
    let (rest, now) = (state.flush()?, format_now());
    write_line(context, encoder, &mut line, &now, rest);
    line.clear();
    encoder.encode_final(&mut line, &now, &Delta::default(), &outcome);
    if !E::IS_SSE {
        line.push(b'\n');
    }
    context.exchange.push_line(&line);
    drop(in_use);
    context.exchange.end()?;
    if let Some(events) = finished {
        events.drain();
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
    context.app.tool_call_extras.save(&calls);
    let mut write = |delta: &Delta<'_>| {
        if !delta.is_empty() {
            line.clear();
            encoder.encode_delta(line, now, delta);
            context.exchange.push_line(line);
        }
    };
    if delta.fits_in_line() {
        write(&delta);
    } else {
        delta.split_into_lines().iter().for_each(&mut write);
    }
    write(&Delta { calls, ..Delta::default() });
}

/// When something came.
struct ArrivalTime {
    /// Since the request was there.
    elapsed: Duration,
    /// As text.
    timestamp: String,
}

impl ArrivalTime {
    fn now(received: Instant) -> Self {
        Self { elapsed: received.elapsed(), timestamp: format_now() }
    }
}

/// Moves events to lines until the terminal one. Those that came together bear the same time.
fn pump(
    context: &mut Context<'_>,
    events: &mut EventStream,
    encoder: &mut impl Encoder,
    state: &mut ResponseTranslator<'_>,
    line: &mut Vec<u8>,
) -> Result<()> {
    loop {
        let arrival = ArrivalTime::now(context.received_at);
        while let Some(event) = events.try_next()? {
            if let Some(delta) = state.on_event(event, arrival.elapsed)? {
                write_line(context, encoder, line, &arrival.timestamp, delta);
            }
            if let Some(calls) = state.take_complete_calls()? {
                write_line(context, encoder, line, &arrival.timestamp, calls);
            }
            if state.is_done() {
                return Ok(());
            }
        }
        context.exchange.flush()?;
        stack_trim::trim_before_wait(context.trace, arrival.elapsed);
        if !wait_for_events(events, state)? {
            return Ok(());
        }
    }
}

fn relay_whole<E: Encoder>(
    context: &mut Context<'_>,
    answer: UpstreamResponse,
    encoder: &mut E,
    state: &mut ResponseTranslator<'_>,
    in_use: ModelUse<'_>,
) -> Result<()> {
    let mut out = Vec::with_capacity(1024);
    match answer {
        UpstreamResponse::Whole(text) => {
            let rest = state.on_body(&text)?;
            let outcome = finish_answer(context, state)?;
            context.app.tool_call_extras.save(&rest.calls);
            encoder.encode_whole(&mut out, &format_now(), &rest, &outcome);
        }
        UpstreamResponse::Stream(mut events) => {
            let mut rest = collect_deltas(context, &mut events, state)?;
            let events = keep_if_reusable(events, state);
            let outcome = finish_answer(context, state)?;
            rest.append(state.flush()?);
            context.app.tool_call_extras.save(&rest.calls);
            encoder.encode_whole(&mut out, &format_now(), &rest, &outcome);
            if let Some(events) = events {
                events.drain();
            }
        }
    }
    drop(in_use);
    if E::IS_SSE {
        // The answers below `/v1` end in a newline (ollama-api.md 1.2, 1.4).
        out.push(b'\n');
        return context.exchange.respond(200, ContentType::BareJson, &out);
    }
    context.exchange.respond(200, ContentType::Json, &out)
}

/// Puts a stream together that was to be a whole answer.
fn collect_deltas(
    context: &Context<'_>,
    events: &mut EventStream,
    state: &mut ResponseTranslator<'_>,
) -> Result<Delta<'static>> {
    let mut whole = Delta::default();
    loop {
        let after = context.received_at.elapsed();
        while let Some(event) = events.try_next()? {
            if let Some(delta) = state.on_event(event, after)? {
                whole.append(delta);
            }
        }
        if state.is_done() || !wait_for_events(events, state)? {
            return Ok(whole);
        }
    }
}

/// The stream, if the upstream is at its end too. Where a stop string ended the answer here, the
/// upstream goes on writing until its connection closes.
fn keep_if_reusable(
    events: Box<EventStream>,
    state: &ResponseTranslator<'_>,
) -> Option<Box<EventStream>> {
    (!state.is_stopped()).then_some(events)
}

/// Waits for more. A break behind the end of the answer is no error.
fn wait_for_events(events: &mut EventStream, state: &ResponseTranslator<'_>) -> Result<bool> {
    match events.wait_for_data() {
        Err(_) if state.is_complete() => Ok(false),
        other => other,
    }
}

fn finish_answer(context: &mut Context<'_>, state: &ResponseTranslator<'_>) -> Result<Completion> {
    let outcome = state.finish(context.time_to_last_attempt(), context.received_at.elapsed())?;
    context.trace.tokens = (outcome.metrics.prompt_eval_count, outcome.metrics.eval_count);
    Ok(outcome)
}

fn format_now() -> String {
    timestamp::to_rfc3339(SystemTime::now())
}
