//! A response with 256 vectors of 1,536 numbers, translated to `/api/embed`.

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use ollama_openai_proxy::api::ollama::response::EmbedMetrics;
use ollama_openai_proxy::translate::embed::EmbedResponseBuilder;

use crate::inputs::{self, MODEL};

const COUNT: usize = 256;
const SIZE: usize = 1_536;

/// Vectors that are of unit length already, so that their digits pass.
#[divan::bench(sample_count = 20, sample_size = 1)]
fn of_unit_length(bencher: Bencher<'_, '_>) {
    go(bencher, true);
}

/// Vectors that must be made so.
#[divan::bench(sample_count = 20, sample_size = 1)]
fn to_be_normalised(bencher: Bencher<'_, '_>) {
    go(bencher, false);
}

fn go(bencher: Bencher<'_, '_>, unit_length: bool) {
    let body = inputs::embeddings(COUNT, SIZE, unit_length);
    let passes = |answer: &[u8]| {
        let first = body.split('[').nth(2).and_then(|it| it.split(',').next()).unwrap_or_default();
        answer.windows(first.len()).any(|window| window == first.as_bytes())
    };
    assert_eq!(passes(&translate(&body)), unit_length, "digits pass");
    bencher
        .counter(BytesCount::new(body.len()))
        .counter(ItemsCount::new(COUNT * SIZE))
        .with_inputs(|| body.clone())
        .bench_values(|body| translate(&body));
}

fn translate(body: &str) -> Vec<u8> {
    let mut answer = EmbedResponseBuilder::for_embed(MODEL, None);
    let tokens = answer.add_response(body, COUNT).expect("good vectors");
    let prompt_eval_count = tokens.unwrap_or_default();
    answer.finish(Some(EmbedMetrics { total_duration: 7, load_duration: 1, prompt_eval_count }))
}
