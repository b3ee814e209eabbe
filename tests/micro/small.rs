//! Small frequent operations: timestamps, strings, the model list.

use std::cmp::Reverse;
use std::hint::black_box;
use std::time::{Duration, SystemTime};

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use ollama_openai_proxy::api::ollama::response::ListResponse;
use ollama_openai_proxy::api::wire::ndjson;
use ollama_openai_proxy::models::list;
use ollama_openai_proxy::models::model;
use ollama_openai_proxy::models::model::RenderContext;
use ollama_openai_proxy::observe::timestamp;

use crate::inputs;

const MODELS: usize = 300;

#[divan::bench]
fn rfc3339(bencher: Bencher<'_, '_>) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_787_307_303_123_456_789);
    bencher.bench(|| timestamp::to_rfc3339(black_box(time)));
}

/// As `rfc3339`, with the question to the system in front of it.
#[divan::bench]
fn rfc3339_now() -> String {
    timestamp::to_rfc3339(SystemTime::now())
}

mod append {
    use super::*;

    #[divan::bench(args = [6, 1_000])]
    fn plain(bencher: Bencher<'_, '_>, bytes: usize) {
        go(bencher, &inputs::text(bytes));
    }

    /// Every eighth character is one that is escaped, or may be by its first byte.
    #[divan::bench(args = [6, 1_000])]
    fn escaped(bencher: Bencher<'_, '_>, bytes: usize) {
        const ODD: [char; 4] = ['<', '"', '–', '\n'];
        let odd = |(at, plain)| if at % 8 == 3 { ODD[at / 8 % ODD.len()] } else { plain };
        go(bencher, &inputs::text(bytes).chars().enumerate().map(odd).collect::<String>());
    }

    fn go(bencher: Bencher<'_, '_>, text: &str) {
        bencher
            .counter(BytesCount::new(text.len()))
            .with_inputs(|| Vec::with_capacity(8 * 1024))
            .bench_local_refs(|out| {
                out.clear();
                ndjson::append(out, &black_box(text));
            });
    }
}

/// The upstream's list, read.
#[divan::bench]
fn read_300_models(bencher: Bencher<'_, '_>) {
    let body = inputs::models(MODELS);
    bencher
        .counter(BytesCount::new(body.len()))
        .counter(ItemsCount::new(MODELS))
        .bench(|| list::parse_list(black_box(&body)).expect("a list"));
}

/// The list that was read, as `/api/tags` shows it.
#[divan::bench]
fn tags_of_300_models(bencher: Bencher<'_, '_>) {
    let list = list::parse_list(&inputs::models(MODELS)).expect("a list");
    assert_eq!(list.len(), MODELS);
    let started = SystemTime::UNIX_EPOCH + Duration::from_secs(1_787_307_303);
    let base = "http://127.0.0.1:8080/v1";
    let setting = RenderContext {
        base_url: base,
        started_at: started,
        default_context_length: 32_768,
        utc_offset: |_| 0,
    };
    bencher.counter(ItemsCount::new(MODELS)).bench(|| {
        let tag =
            |model: &model::Model| (model.modified_time(&setting), model.render_tag(&setting));
        let mut tags: Vec<_> = black_box(&list).iter().map(tag).collect();
        tags.sort_by_key(|(modified, _)| Reverse(*modified));
        let models = tags.into_iter().map(|(_, tag)| tag).collect();
        ndjson::to_vec(&ListResponse { models })
    });
}
