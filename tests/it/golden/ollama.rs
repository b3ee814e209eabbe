//! Golden pairs of Ollama's routes: input files and the expected output files.
//!
//! Each folder `tests/golden/<endpoint>/<case>/` holds some of these pairs:
//!
//! - `request.ollama.json` and `request.openai.json` (compared as values), or `request.error.json`;
//! - `answer.openai.json` and `answer.ollama.json` (compared as bytes);
//! - `stream.sse` and `stream.ndjson` (compared as bytes, and checked against the rules of
//!   Ollama's API documentation, streaming responses);
//! - `request.ollama.json` of a create, over `base.json` (the state of the model that it names) or
//!   over the upstream's model `base`, with `state.json` and `show.json` (compared as bytes);
//! - `list.openai.json`, and `side.json` where the family tells more beside its list, with
//!   `tags.json`, `show.json` and `ps.json` (compared as bytes). The families have a folder each;
//!   those that a list does not tell apart are named by `profile`.
//!
//! `case.json` may name the upstream's family (`profile`), its `id` for the model, `think`, and how many
//! alternatives per token are wanted (`logprobs`), or the strings that end the text here (`stop`); `format`
//! says that JSON is wanted, `begins_in_thinking` that an earlier response of the model had a closing tag
//! without an opening one, `infill` that the answer is one of llama.cpp's
//! `/infill`. The
//! clock is the driver's: the request is sent after 1 ms, event number n comes after n times 10 ms,
//! and everything has ended after 1 s. `UPDATE_GOLDEN=1` rewrites what comes out; the difference is
//! for review.

use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::support::golden::{Case, cases, to_value};
use ollama_openai_proxy::api::ollama::decode;
use ollama_openai_proxy::api::ollama::manage::CreateRequest;
use ollama_openai_proxy::api::ollama::request::{
    ChatRequest, EmbedRequest, EmbeddingRequest, GenerateRequest,
};
use ollama_openai_proxy::api::ollama::response::{EmbedMetrics, ErrorResponse, ListResponse};
use ollama_openai_proxy::api::openai::request as openai;
use ollama_openai_proxy::api::openai::request_body::{
    BorrowedParts, MIN_BORROWED_BYTES, RequestBody,
};
use ollama_openai_proxy::api::wire::ndjson;
use ollama_openai_proxy::error::{Error, Result};
use ollama_openai_proxy::models::list;
use ollama_openai_proxy::models::model;
use ollama_openai_proxy::models::model::RenderContext;
use ollama_openai_proxy::models::probes::ModelFacts;
use ollama_openai_proxy::models::render::ShowOptions;
use ollama_openai_proxy::models::virtual_model;
use ollama_openai_proxy::models::virtual_model::VirtualModel;
use ollama_openai_proxy::translate::chat::{self, ChatEncoder};
use ollama_openai_proxy::translate::embed::EmbedResponseBuilder;
use ollama_openai_proxy::translate::generate::{self, GenerateEncoder, UpstreamRequest};
use ollama_openai_proxy::translate::stream::Encoder;
use ollama_openai_proxy::translate::{embed, think};
use serde_json::{Value, json};

fn whole(case: &Case, encoder: &mut impl Encoder) {
    if let Some(written) = case.whole(encoder) {
        case.bytes("answer.ollama.json", &written_or_error(written));
    }
}

fn stream(case: &Case, encoder: &mut impl Encoder) {
    let Some((mut out, ended)) = case.stream(encoder) else { return };
    if let Err(error) = ended {
        ndjson::append_line(&mut out, &ErrorResponse { error: &error.message() });
    }
    check_rules(&String::from_utf8_lossy(&out), &case.folder);
    case.bytes("stream.ndjson", &out);
}

/// The rules that hold for every stream (Ollama's API documentation, streaming responses).
fn check_rules(stream: &str, case: &Path) {
    assert!(stream.ends_with('\n'), "{}: the last line ends", case.display());
    let lines: Vec<Value> = stream
        .lines()
        .map(|line| serde_json::from_str(line).expect("every line is JSON"))
        .collect();
    let (last, before) = lines.split_last().expect("at least one line");
    for line in before {
        assert_eq!(line["done"], false, "{}: {line}", case.display());
        assert!(line.get("error").is_none() && line.get("done_reason").is_none());
    }
    let is_error = last.get("error").is_some();
    assert_eq!(is_error, last["done"] != true, "{}: {last}", case.display());
    if !is_error {
        for counter in ["total_duration", "load_duration", "prompt_eval_duration", "eval_duration"]
        {
            assert!(last[counter].as_u64().expect(counter) >= 1, "{}", case.display());
        }
        assert!(last["prompt_eval_count"].is_u64() && last["eval_count"].is_u64());
    }
    assert!(stream.lines().all(|line| line.len() < 8_000_000));
}

/// A request as a value, once its body is known to be what serde makes of it.
fn value(request: &impl BorrowedParts) -> Value {
    let body = RequestBody::from_request(request).expect("serialisable");
    let expected = serde_json::to_vec(request).expect("serialisable");
    assert!(body.pieces().collect::<Vec<_>>().concat() == expected);
    to_value(request)
}

/// The same for a chat, and again with media that are large.
fn chat_value(request: &openai::ChatRequest<'_>) -> Value {
    let mut large = request.clone();
    let mut count = 0;
    for message in &mut large.messages {
        let openai::Content::Parts(parts) = &mut message.content else { continue };
        for part in parts {
            let data = match part {
                openai::ContentPart::Text { .. } => continue,
                openai::ContentPart::InputAudio { input_audio } => &mut input_audio.data,
                openai::ContentPart::ImageUrl {
                    image_url: openai::ImageUrl { url: openai::MediaUrl::Data(url), .. },
                } => &mut url.data,
                other => panic!("Ollama's API has no such media: {other:?}"),
            };
            data.to_mut().insert_str(0, &"Ab3/".repeat(MIN_BORROWED_BYTES / 4));
            count += 1;
        }
    }
    value(&large);
    let body = RequestBody::from_request(&large).expect("serialisable");
    // Its own text before each of the media and behind the last one.
    let pieces = body.pieces().filter(|piece| !piece.is_empty()).count();
    assert_eq!(pieces, 2 * count + 1);
    value(request)
}

#[test]
fn chat_cases() {
    for case in cases("chat") {
        let text = case.read("request.ollama.json").unwrap_or_else(|| r#"{"model":"m"}"#.into());
        let translated = decode::decode_body(text.clone().into_bytes()).and_then(|text| {
            let request: ChatRequest<'_> = decode::parse(&text, "ChatRequest")?;
            let id = case.setting("id").or(request.model.as_deref()).unwrap_or_default();
            think::parse(request.think.as_ref())?;
            chat::to_openai(&request, id, case.profile()).map(|it| chat_value(&it))
        });
        if case.read("request.ollama.json").is_some() {
            case.request(translated);
        }
        whole(&case, &mut ChatEncoder { model: "m" });
        stream(&case, &mut ChatEncoder { model: "m" });
    }
}

#[test]
fn generate_cases() {
    for case in cases("generate") {
        let text = case
            .read("request.ollama.json")
            .unwrap_or_else(|| r#"{"model":"m","prompt":"Why?"}"#.into());
        let request: Result<GenerateRequest<'_>> = decode::parse(&text, "GenerateRequest");
        let translated = match &request {
            Ok(request) => {
                let id = case.setting("id").or(request.model.as_deref()).unwrap_or_default();
                let translated = generate::check_raw(request)
                    .and_then(|()| generate::to_openai(request, &[], (id, None), case.profile()));
                translated.map(|it| match it {
                    UpstreamRequest::Chat(it) => {
                        json!({"path": "chat/completions", "body": chat_value(&it)})
                    }
                    UpstreamRequest::Completion(it) => {
                        json!({"path": "completions", "body": value(&it)})
                    }
                    UpstreamRequest::Fim(it) => {
                        json!({"path": "fim/completions", "body": value(&it)})
                    }
                    UpstreamRequest::Infill(it) => json!({"path": "/infill", "body": value(&it)}),
                })
            }
            Err(error) => Err(Error::invalid_request(error.message())),
        };
        if case.read("request.ollama.json").is_some() {
            case.request(translated);
        }
        if let Ok(request) = &request {
            let memory = || generate::build_conversation(request, &[]).expect("valid");
            whole(&case, &mut GenerateEncoder::new("m", memory()));
            stream(&case, &mut GenerateEncoder::new("m", memory()));
        }
    }
}

#[test]
fn embed_cases() {
    for case in cases("embed") {
        let text = case.read("request.ollama.json").expect("a request");
        let request: EmbedRequest<'_> = decode::parse(&text, "EmbedRequest").expect("valid");
        let inputs = embed::parse_inputs(request.input).expect("valid");
        let count = inputs.len();
        case.request(Ok(to_value(&embed::to_openai("m", inputs))));
        let Some(body) = case.read("answer.openai.json") else { continue };
        let mut answer =
            EmbedResponseBuilder::for_embed("m", request.dimensions.map(|dimensions| dimensions.0));
        let written = answer.add_response(&body, count).map(|tokens| {
            let prompt_eval_count = tokens.unwrap_or(0);
            let metrics = EmbedMetrics { total_duration: 9, load_duration: 1, prompt_eval_count };
            answer.finish(Some(metrics))
        });
        case.bytes("answer.ollama.json", &written_or_error(written));
    }
}

#[test]
fn embeddings_cases() {
    for case in cases("embeddings") {
        let text = case.read("request.ollama.json").expect("a request");
        let request: EmbeddingRequest<'_> =
            decode::parse(&text, "EmbeddingRequest").expect("valid");
        let prompt = request.prompt.as_deref().unwrap_or_default();
        case.request(Ok(to_value(&embed::to_openai("m", vec![prompt.into()]))));
        let body = case.read("answer.openai.json").expect("an answer");
        let mut answer = EmbedResponseBuilder::for_embeddings();
        let written = answer.add_response(&body, 1).map(|_| answer.finish(None));
        case.bytes("answer.ollama.json", &written_or_error(written));
    }
}

/// What a client reads of an answer, or in place of it.
fn written_or_error(written: Result<Vec<u8>>) -> Vec<u8> {
    written.unwrap_or_else(|error| ndjson::to_vec(&ErrorResponse { error: &error.message() }))
}

#[test]
fn model_cases() {
    let setting = RenderContext {
        base_url: "http://localhost:8080/v1",
        started_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045),
        default_context_length: model::DEFAULT_CONTEXT_LENGTH,
        utc_offset: |_| 0,
    };
    for case in cases("models") {
        let list = list::parse_list(&case.read("list.openai.json").expect("a list"));
        let mut list = list.expect("a list");
        if case.setting("profile").is_some() {
            list.set_profile(case.profile());
        }
        let name = case.folder.file_name().expect("a folder").to_string_lossy().into_owned();
        if let Some(told) = case.read("side.json") {
            let side = list.details_probe().expect("somebody to ask");
            list.merge_facts(&ModelFacts::parse(side, &told).expect("an answer of this family"));
        }
        let family = list.profile.map_or("generic", |profile| profile.name);
        assert!(name.starts_with(family), "{name} is taken for {family}");
        let list = list.with_defaults();
        let tags =
            ListResponse { models: list.iter().map(|model| model.render_tag(&setting)).collect() };
        case.bytes("tags.json", &ndjson::to_vec(&tags));
        let first = list.first().expect("a model");
        let asked = ShowOptions { name: &first.id, ..ShowOptions::default() };
        case.bytes("show.json", &ndjson::to_vec(&first.render_show(&setting, &asked)));
        case.bytes(
            "ps.json",
            &ndjson::to_vec(&first.render_process(&setting, setting.started_at, None)),
        );
    }
}

#[test]
fn create_cases() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045);
    let setting = RenderContext {
        base_url: "http://localhost:8080/v1",
        started_at: now,
        default_context_length: model::DEFAULT_CONTEXT_LENGTH,
        utc_offset: |_| 0,
    };
    for case in cases("create") {
        let text = case.read("request.ollama.json").expect("a request");
        let base = case.read("base.json").map(|base| {
            let base: VirtualModel = serde_json::from_str(&base).expect("a virtual model");
            base.validate().expect("a good one");
            base
        });
        let made = decode::decode_body(text.into_bytes()).and_then(|text| {
            let request: CreateRequest<'_> = decode::parse(&text, "CreateRequest")?;
            virtual_model::validate_request(&request)?;
            let name = request.model.as_deref().unwrap_or_default();
            let model = match &base {
                Some(base) => base.copy_as(name, now),
                None => VirtualModel::alias(name, "base", now),
            };
            model.apply_request(&request)
        });
        match made {
            Ok(model) => {
                let state = serde_json::to_string_pretty(&model).expect("JSON") + "\n";
                case.bytes("state.json", state.as_bytes());
                let asked = ShowOptions { name: "mario", ..ShowOptions::default() };
                let shown = model.render_show(&model::Model::from_id("base"), &setting, &asked);
                case.bytes("show.json", &ndjson::to_vec(&shown));
            }
            Err(error) => {
                let found = json!({"status": error.status(), "error": error.message()});
                case.value("request.error.json", &found);
            }
        }
    }
}
