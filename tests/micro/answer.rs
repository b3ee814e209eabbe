//! Whole responses: one upstream body to one object.

use std::time::Duration;

use divan::Bencher;
use divan::counter::BytesCount;
use ollama_openai_proxy::observe::redact::Redactor;
use ollama_openai_proxy::translate::stream::Encoder;

use crate::inputs::{self, Kind, TOKENS};
use crate::tokens::{self, state};

const KINDS: [Kind; 4] = [Kind::OpenAi, Kind::DeepSeek, Kind::Tools, Kind::Escaped];

#[divan::bench(args = KINDS)]
fn chat(bencher: Bencher<'_, '_>, kind: Kind) {
    go(bencher, kind, tokens::chat);
}

#[divan::bench(args = KINDS)]
fn generate(bencher: Bencher<'_, '_>, kind: Kind) {
    go(bencher, kind, tokens::generate);
}

#[divan::bench(args = KINDS)]
fn anthropic(bencher: Bencher<'_, '_>, kind: Kind) {
    go(bencher, kind, tokens::anthropic);
}

#[divan::bench(args = KINDS)]
fn responses(bencher: Bencher<'_, '_>, kind: Kind) {
    go(bencher, kind, tokens::responses);
}

fn go<E: Encoder>(bencher: Bencher<'_, '_>, kind: Kind, encoder: impl Fn() -> E + Sync) {
    const NOW: &str = "2026-11-24T10:15:03.123456789Z";
    let (body, redactor) = (inputs::whole(kind), Redactor::default());
    bencher
        .counter(BytesCount::new(body.len()))
        .with_inputs(|| (state(kind, &redactor), encoder()))
        .bench_values(|(mut state, mut encoder)| {
            let rest = state.on_body(divan::black_box(&body)).expect("an answer");
            let outcome = state.finish(Duration::ZERO, Duration::ZERO).expect("a whole answer");
            assert_eq!(outcome.metrics.eval_count, TOKENS as u64);
            let mut out = Vec::with_capacity(1024);
            encoder.encode_whole(&mut out, NOW, &rest, &outcome);
            out
        });
}
