//! An upstream's response to the client, as it arrives.
//!
//! Line by line for a stream, in one object otherwise, whichever way the upstream sent it. Never translates:
//! that is the part of [`ResponseTranslator`] and the encoders. A write that fails drops the upstream's
//! stream on the way out, which ends the call at once.
//! A stream of events begins as soon as the upstream has accepted the request, or half a second later, so
//! that a failure which comes first has a status; lines begin with the first token, as Ollama's do.
//! Invariant: everything that has arrived is written before the next wait.

use std::borrow::Cow;
use std::time::Instant;

use super::client_stream::{ClientStream, format_now};
use super::model_request::PendingReply;
use super::{Context, ModelUse, client_stream};
use crate::error::Result;
use crate::http::exchange::ContentType;
use crate::translate::stream::{Completion, Delta, Encoder, ResponseOptions, ResponseTranslator};
use crate::upstream::{EventStream, ThinkingMemory, UpstreamResponse, Waited};

/// Passes a response on. A stream that fails after it has begun ends as its route has it.
pub(super) fn relay<E: Encoder>(
    context: &mut Context<'_>,
    encoder: &mut E,
    reply: PendingReply<'_>,
) -> Result<()> {
    let result = relay_response(context, encoder, reply);
    result.or_else(|error| client_stream::fail(context, encoder, error))
}

fn relay_response<E: Encoder>(
    context: &mut Context<'_>,
    encoder: &mut E,
    mut reply: PendingReply<'_>,
) -> Result<()> {
    context.name_upstream();
    let upstream = reply.in_use.upstream.clone();
    let (memory, client) = (&upstream.thinking_memory, &upstream.client);
    let seed = context.trace.request_id.clone();
    let model = context.trace.model.clone();
    let options = response_options(&mut reply, memory, (&seed, &model));
    let PendingReply { response, templated_model, stream, mut in_use, .. } = reply;
    in_use.was_answered = true;
    let mut state = ResponseTranslator::new(options, &client.redactor);
    let text;
    let (mut delta, mut events) = match response {
        UpstreamResponse::Whole(body) => {
            text = body;
            (state.on_body(&text)?, None)
        }
        UpstreamResponse::Stream(events) => (Delta::default(), Some(events)),
    };
    if stream && E::IS_SSE {
        context.exchange.start_events();
    }
    let mut out = ClientStream::new(context, encoder);
    match &mut events {
        Some(events) if stream => pump(&mut out, &in_use, events, &mut state)?,
        Some(events) => delta = collect_deltas(&mut out, events, &mut state)?,
        None if stream => out.write(&format_now(), std::mem::take(&mut delta)),
        None => {}
    }
    let ClientStream { context, encoder, .. } = &mut out;
    // Where a stop string ended the text here, the upstream writes on until its connection closes.
    let events = events.filter(|_| !state.is_stopped());
    let completion = state.finish(
        context.trace.time_to_last_attempt(context.received_at),
        context.received_at.elapsed(),
    )?;
    let tokens = (completion.metrics.prompt_eval_count, completion.metrics.eval_count);
    context.trace.set_tokens(tokens);
    context.trace.cached_tokens = completion.metrics.prompt_eval_cached_count;
    context.trace.known_model = Some(in_use.id.clone());
    let rest = state.flush();
    if !stream {
        encoder.collect(&rest);
    }
    delta.append(rest);
    if !stream && state.has_answer_in_reasoning() {
        delta.thinking = Cow::Borrowed("");
    }
    remember_thinking(memory, &state, templated_model.as_deref());
    // Before the client can know that the response ended.
    client.tool_call_extras.save(&in_use.id, state.extras());
    out.encoder.check_complete(&delta)?;
    if stream {
        end_stream(out, &completion, delta, (in_use, events))
    } else {
        send_whole(out, &completion, delta, (in_use, events))
    }
}

/// What the request, and earlier responses of the model, mean for the response. `seed` is the request's
/// id, `model` the name as the client sent it.
fn response_options<'r>(
    reply: &mut PendingReply<'_>,
    memory: &ThinkingMemory,
    (seed, model): (&'r str, &'r str),
) -> ResponseOptions<'r> {
    let begins_in_thinking = |model: &String| memory.begins_in_thinking(model, Instant::now());
    ResponseOptions {
        think: reply.think,
        logprobs: reply.logprobs,
        id_seed: seed,
        model: Some(model),
        effects: std::mem::take(&mut reply.effects),
        wants_json: reply.wants_json,
        begins_in_thinking: reply.templated_model.as_ref().is_some_and(begins_in_thinking),
    }
}

/// Keeps what a complete response has shown of the upstream's reasoning.
fn remember_thinking(
    memory: &ThinkingMemory,
    state: &ResponseTranslator<'_>,
    templated_model: Option<&str>,
) {
    if let Some(field) = state.reasoning_field() {
        memory.record_field(field, Instant::now());
    }
    if let (Some(model), Some(is_lone)) = (templated_model, state.lone_closing_tag()) {
        memory.record_lone_tag(model, is_lone, Instant::now());
    }
}

/// Ends a stream with what was held back until now. The use of the model ends before the client can know
/// that the response did.
fn end_stream<E: Encoder>(
    mut out: ClientStream<'_, '_, E>,
    completion: &Completion,
    rest: Delta<'_>,
    (in_use, events): (ModelUse<'_>, Option<Box<EventStream>>),
) -> Result<()> {
    out.finish(rest, completion);
    drop(in_use);
    out.context.exchange.end()?;
    if let Some(events) = events {
        events.drain();
    }
    Ok(())
}

/// Sends the one object of a whole response.
fn send_whole<E: Encoder>(
    ClientStream { context, encoder, .. }: ClientStream<'_, '_, E>,
    completion: &Completion,
    whole: Delta<'_>,
    (in_use, events): (ModelUse<'_>, Option<Box<EventStream>>),
) -> Result<()> {
    let mut out = Vec::with_capacity(1024);
    encoder.encode_whole(&mut out, &format_now(), &whole, completion);
    if let Some(events) = events {
        events.drain();
    }
    drop(in_use);
    if E::IS_SSE {
        // JSON below `/v1` ends in a line feed, as Ollama's does.
        out.push(b'\n');
        return context.exchange.respond(200, ContentType::BARE_JSON, &out);
    }
    context.exchange.respond(200, ContentType::JSON, &out)
}

/// Writes events as lines until the terminal one. Events that arrived together have the same time.
fn pump<E: Encoder>(
    out: &mut ClientStream<'_, '_, E>,
    in_use: &ModelUse<'_>,
    events: &mut EventStream,
    state: &mut ResponseTranslator<'_>,
) -> Result<()> {
    loop {
        let (elapsed, now) = (out.context.received_at.elapsed(), format_now());
        while let Some(event) = events.try_next()? {
            for piece in state.take_pieces(event, elapsed)?.into_iter().flatten() {
                if !piece.calls.is_empty() {
                    // Some clients leave as soon as they know a call.
                    let client = &in_use.upstream.client;
                    client.tool_call_extras.save(&in_use.id, state.extras());
                }
                out.write(&now, piece);
            }
            if state.is_done() {
                return Ok(());
            }
        }
        let written = out.context.exchange.unsent_bytes();
        out.flush(elapsed, &now)?;
        match E::KEEPS_ANSWER {
            true => events.hold_collected()?,
            false => events.hold(state.call_bytes())?,
        }
        out.context.before_wait(elapsed, written);
        if !wait_for_events(events, state, out.wake_at(elapsed))? {
            return Ok(());
        }
    }
}

/// Collects a stream of which the client wants a whole response.
fn collect_deltas<E: Encoder>(
    out: &mut ClientStream<'_, '_, E>,
    events: &mut EventStream,
    state: &mut ResponseTranslator<'_>,
) -> Result<Delta<'static>> {
    let mut whole = Delta::default();
    loop {
        let after = out.context.received_at.elapsed();
        while let Some(event) = events.try_next()? {
            for piece in state.take_pieces(event, after)?.into_iter().flatten() {
                out.context.trace.live.count(1);
                out.encoder.collect(&piece);
                whole.append(piece);
            }
        }
        events.check_size()?;
        if state.is_done() || !wait_for_events(events, state, None)? {
            return Ok(whole);
        }
    }
}

/// Waits for more, but not longer than until `wake_at`; `false` if nothing more comes. A failure behind the
/// end of the response is not an error.
fn wait_for_events(
    events: &mut EventStream,
    state: &ResponseTranslator<'_>,
    wake_at: Option<Instant>,
) -> Result<bool> {
    match events.wait_until(wake_at) {
        Err(_) if state.is_complete() => Ok(false),
        waited => Ok(waited? != Waited::End),
    }
}
