//! Stream chunks to lines: each step alone, then the whole path of `handlers::relay`.

use std::time::{Duration, SystemTime};

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use ollama_openai_proxy::api::ollama::decode;
use ollama_openai_proxy::api::openai::responses::ResponsesRequest;
use ollama_openai_proxy::api::wire::sse::{Decoder, Event};
use ollama_openai_proxy::observe::redact::Redactor;
use ollama_openai_proxy::observe::timestamp;
use ollama_openai_proxy::translate::anthropic::stream::MessageEncoder;
use ollama_openai_proxy::translate::chat::ChatEncoder;
use ollama_openai_proxy::translate::generate::{self, GenerateEncoder};
use ollama_openai_proxy::translate::responses::response_object::{RequestEcho, ResponseIds};
use ollama_openai_proxy::translate::responses::stream::ResponseEncoder;
use ollama_openai_proxy::translate::stream::{
    Completion, Delta, Encoder, ResponseOptions, ResponseTranslator,
};
use ollama_openai_proxy::translate::tool_names::ToolNames;

use crate::inputs::{self, CALLS, KINDS, Kind, MODEL, TOKENS};

/// Bytes of one read.
const READ: usize = 8 * 1024;

/// When a token comes; what is measured from it is of no interest here.
const NOW: Duration = Duration::from_millis(7);

/// The state of an answer to a client that asked for all that comes.
pub fn state<'a>(kind: Kind, redactor: &'a Redactor) -> ResponseTranslator<'a> {
    let logprobs = (kind == Kind::Logprobs).then_some(5);
    let (seed, model) = ("req_0123456789abcdef", Some(MODEL));
    ResponseTranslator::new(
        ResponseOptions { logprobs, id_seed: seed, model, ..ResponseOptions::default() },
        redactor,
    )
}

pub fn chat() -> impl Encoder {
    ChatEncoder { model: MODEL }
}

/// The encoder with the memory from which the last line's `context` is made.
pub fn generate() -> impl Encoder {
    let body = inputs::generate().to_string();
    let request = decode::parse(&body, "GenerateRequest").expect("a request");
    let memory = generate::build_conversation(&request, &[]).expect("a good request");
    GenerateEncoder::new(MODEL, memory)
}

pub fn anthropic() -> impl Encoder {
    MessageEncoder::new(MODEL, "req_0123456789abcdef", 19)
}

pub fn responses() -> impl Encoder {
    let body = r#"{"model":"gpt-4o-mini","input":"Why is the sky blue?","stream":true}"#;
    let request: ResponsesRequest<'_> =
        decode::parse(body, "openai.ResponsesRequest").expect("a request");
    ResponseEncoder::new(
        RequestEcho::from_request(&request, MODEL),
        ResponseIds::new(7),
        ToolNames::default(),
    )
}

fn now() -> String {
    timestamp::to_rfc3339(SystemTime::now())
}

/// A chunk to what it adds, without decoder and encoder.
#[divan::bench(args = KINDS)]
fn on_event(bencher: Bencher<'_, '_>, kind: Kind) {
    let (body, redactor) = (inputs::stream(kind), Redactor::default());
    let events = inputs::events(&body);
    let run = |state: &mut ResponseTranslator<'_>| {
        let mut shown = 0;
        for data in divan::black_box(&events) {
            let delta = state.on_event(Event::Data(data), NOW).expect("no error came");
            shown += usize::from(divan::black_box(&delta).is_some());
        }
        shown
    };
    let expected = if kind == Kind::Tools { 0 } else { TOKENS };
    assert_eq!(run(&mut state(kind, &redactor)), expected);
    bencher
        .counter(BytesCount::new(body.len()))
        .counter(ItemsCount::new(TOKENS))
        .with_inputs(|| state(kind, &redactor))
        .bench_refs(run);
}

/// What a chunk adds to a line, and nothing else.
mod delta {
    use super::*;

    const SHOWN: [Kind; 4] = [Kind::OpenAi, Kind::DeepSeek, Kind::Logprobs, Kind::Escaped];

    #[divan::bench(args = SHOWN)]
    fn chat(bencher: Bencher<'_, '_>, kind: Kind) {
        encode(bencher, kind, super::chat);
    }

    #[divan::bench(args = SHOWN)]
    fn generate(bencher: Bencher<'_, '_>, kind: Kind) {
        encode(bencher, kind, super::generate);
    }

    #[divan::bench(args = SHOWN)]
    fn anthropic(bencher: Bencher<'_, '_>, kind: Kind) {
        encode(bencher, kind, super::anthropic);
    }

    #[divan::bench(args = SHOWN)]
    fn responses(bencher: Bencher<'_, '_>, kind: Kind) {
        encode(bencher, kind, super::responses);
    }

    fn encode<E: Encoder>(bencher: Bencher<'_, '_>, kind: Kind, encoder: impl Fn() -> E + Sync) {
        let (body, redactor, now) = (inputs::stream(kind), Redactor::default(), now());
        let mut state = state(kind, &redactor);
        let events = inputs::events(&body);
        let read = |data| state.on_event(Event::Data(data), NOW).expect("no error came");
        let deltas: Vec<Delta<'_>> = events.into_iter().filter_map(read).collect();
        assert_eq!(deltas.len(), TOKENS);
        bencher
            .counter(ItemsCount::new(TOKENS))
            .with_inputs(|| (encoder(), Vec::with_capacity(READ)))
            .bench_local_values(|(mut encoder, mut line)| {
                for delta in divan::black_box(&deltas) {
                    line.clear();
                    encoder.encode_delta(&mut line, &now, delta);
                    divan::black_box(&line);
                }
                (encoder, line)
            });
    }
}

/// Bytes to lines: decoder, state, encoder and clock.
mod whole_way {
    use super::*;

    #[divan::bench(args = KINDS)]
    fn chat(bencher: Bencher<'_, '_>, kind: Kind) {
        go(bencher, kind, super::chat);
    }

    #[divan::bench(args = KINDS)]
    fn generate(bencher: Bencher<'_, '_>, kind: Kind) {
        go(bencher, kind, super::generate);
    }

    #[divan::bench(args = KINDS)]
    fn anthropic(bencher: Bencher<'_, '_>, kind: Kind) {
        go(bencher, kind, super::anthropic);
    }

    #[divan::bench(args = KINDS)]
    fn responses(bencher: Bencher<'_, '_>, kind: Kind) {
        go(bencher, kind, super::responses);
    }

    fn go<E: Encoder>(bencher: Bencher<'_, '_>, kind: Kind, encoder: impl Fn() -> E + Sync) {
        let (body, redactor) = (inputs::stream(kind), Redactor::default());
        let (_, outcome) = relay(&body, state(kind, &redactor), &mut encoder());
        assert_eq!(outcome.metrics.eval_count, TOKENS as u64);
        bencher
            .counter(BytesCount::new(body.len()))
            .counter(ItemsCount::new(TOKENS))
            .with_inputs(|| (state(kind, &redactor), encoder()))
            .bench_values(|(state, mut encoder)| {
                relay(divan::black_box(&body), state, &mut encoder)
            });
    }

    fn relay(
        body: &[u8],
        mut state: ResponseTranslator<'_>,
        encoder: &mut impl Encoder,
    ) -> (usize, Completion) {
        let (mut decoder, mut out) = (Decoder::new(), Vec::with_capacity(READ));
        let (mut shown, mut calls) = (0, 0);
        'reads: for piece in body.chunks(READ) {
            decoder.push(piece);
            while let Some(event) = decoder.next_event().expect("small events") {
                if let Some(delta) = state.on_event(event, NOW).expect("no error came") {
                    shown += 1;
                    encoder.encode_delta(&mut out, &now(), &delta);
                }
                if let Some(delta) = state.take_complete_calls() {
                    calls += delta.calls.len();
                    encoder.encode_delta(&mut out, &now(), &delta);
                }
                if state.is_done() {
                    break 'reads;
                }
            }
            divan::black_box(&out);
            out.clear();
        }
        let outcome = state.finish(Duration::ZERO, NOW).expect("a whole answer");
        encoder.encode_final(&mut out, &now(), &Delta::default(), &outcome);
        divan::black_box(&out);
        assert!(shown == TOKENS || calls == CALLS, "{shown} tokens and {calls} calls");
        (shown, outcome)
    }
}
