//! A client's request to the upstream's, from bytes to bytes.

use divan::Bencher;
use divan::counter::BytesCount;
use ollama_openai_proxy::api::ollama::decode;
use ollama_openai_proxy::api::ollama::request::{ChatRequest, EmbedRequest, GenerateRequest};
use ollama_openai_proxy::api::openai::request_body::{BorrowedParts, RequestBody};
use ollama_openai_proxy::backends::profiles;
use ollama_openai_proxy::backends::profiles::Profile;
use ollama_openai_proxy::translate::generate::UpstreamRequest;
use ollama_openai_proxy::translate::{chat, embed, generate};
use serde_json::Value;

use crate::inputs::{self, MODEL};

/// The family for which nothing is special.
fn profile() -> &'static Profile {
    profiles::find_by_name("openai").expect("a family")
}

#[divan::bench]
fn chat_short(bencher: Bencher<'_, '_>) {
    translate(bencher, &inputs::short_chat(), one_chat);
}

#[divan::bench]
fn chat_of_40_messages(bencher: Bencher<'_, '_>) {
    translate(bencher, &inputs::conversation(), one_chat);
}

#[divan::bench]
fn chat_with_10_tools(bencher: Bencher<'_, '_>) {
    translate(bencher, &inputs::with_tools(), one_chat);
}

#[divan::bench]
fn chat_with_an_image(bencher: Bencher<'_, '_>) {
    translate(bencher, &inputs::with_image(), one_chat);
}

#[divan::bench]
fn generate_short(bencher: Bencher<'_, '_>) {
    translate(bencher, &inputs::generate(), |body| {
        let text = decode::decode_body(body).expect("a body");
        let request: GenerateRequest<'_> =
            decode::parse(&text, "GenerateRequest").expect("a request");
        let upstream =
            generate::to_openai(&request, &[], (MODEL, None), profile()).expect("a good one");
        let UpstreamRequest::Chat(upstream) = upstream else { panic!("not for chat") };
        sent(&upstream)
    });
}

#[divan::bench]
fn embed_of_256_inputs(bencher: Bencher<'_, '_>) {
    translate(bencher, &inputs::embed(), |body| {
        let text = decode::decode_body(body).expect("a body");
        let request: EmbedRequest<'_> = decode::parse(&text, "EmbedRequest").expect("a request");
        let inputs = embed::parse_inputs(request.input).expect("texts");
        assert_eq!(inputs.len(), 256);
        sent(&embed::to_openai(MODEL, inputs))
    });
}

fn translate(bencher: Bencher<'_, '_>, body: &Value, translate: fn(Vec<u8>) -> usize) {
    let body = body.to_string().into_bytes();
    bencher
        .counter(BytesCount::new(body.len()))
        .with_inputs(|| body.clone())
        .bench_values(translate);
}

fn one_chat(body: Vec<u8>) -> usize {
    let text = decode::decode_body(body).expect("a body");
    let request: ChatRequest<'_> = decode::parse(&text, "ChatRequest").expect("a request");
    let upstream = chat::to_openai(&request, MODEL, profile()).expect("a good request");
    sent(&upstream)
}

/// Serializes the body, and returns its length.
fn sent(request: &impl BorrowedParts) -> usize {
    let body = RequestBody::from_request(request).expect("no maps with odd keys");
    divan::black_box(&body).len()
}
