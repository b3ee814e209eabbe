//! The SSE decoder: the same stream in pieces of several sizes.

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use ollama_openai_proxy::api::wire::sse::Decoder;

use crate::inputs::{self, Kind, TOKENS};

/// In one piece, as TLS records bring it, as packets do, and byte by byte.
#[divan::bench(args = [1 << 20, 16_384, 1_460, 1])]
fn openai(bencher: Bencher<'_, '_>, piece: usize) {
    let body = inputs::stream(Kind::OpenAi);
    assert_eq!(count(&body, piece), inputs::events(&body).len());
    bencher
        .counter(BytesCount::new(body.len()))
        .counter(ItemsCount::new(TOKENS))
        .bench(|| count(divan::black_box(&body), piece));
}

fn count(body: &[u8], piece: usize) -> usize {
    let mut decoder = Decoder::new();
    let mut events = 0;
    for piece in body.chunks(piece) {
        decoder.push(piece);
        while let Some(event) = decoder.next_event().expect("small events") {
            divan::black_box(event);
            events += 1;
        }
    }
    events
}
