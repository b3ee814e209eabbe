//! Requests of clients: decoded and translated as their routes do it.
//!
//! Whatever the bytes, there is a translation or an error that blames the client; what is translated
//! is JSON that an OpenAI server could read.

use std::time::SystemTime;

use ollama_openai_proxy::api::anthropic::request::{GO_TYPE_NAME, MessagesRequest};
use ollama_openai_proxy::api::ollama::decode;
use ollama_openai_proxy::api::ollama::manage::{
    CopyRequest, CreateRequest, DeleteRequest, TransferRequest, model_or_name,
};
use ollama_openai_proxy::api::ollama::request::{
    ChatRequest, EmbedRequest, EmbeddingRequest, GenerateRequest, ShowRequest,
};
use ollama_openai_proxy::api::openai::responses::ResponsesRequest;
use ollama_openai_proxy::api::wire::keep_alive::KeepAlive;
use ollama_openai_proxy::backends::names;
use ollama_openai_proxy::error::Result;
use ollama_openai_proxy::models::model::{Model, RenderContext};
use ollama_openai_proxy::models::render::ShowOptions;
use ollama_openai_proxy::models::virtual_model;
use ollama_openai_proxy::models::virtual_model::VirtualModel;
use ollama_openai_proxy::translate::generate::{self as generating, UpstreamRequest};
use ollama_openai_proxy::translate::skipped::Skipped;
use ollama_openai_proxy::translate::{
    anthropic, chat as chatting, context_codec, embed as embedding, options,
    responses as responding, think,
};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{check_refusal, profile_of};

/// Words of JSON and of the requests.
pub const WORDS: &[&str] = &[
    "\"model\":", "\"messages\":[", "\"role\":\"user\"", "\"content\":", "\"images\":[",
    "\"tool_calls\":[", "\"function\":{", "\"arguments\":{", "\"name\":", "\"options\":{",
    "\"stop\":[", "\"num_predict\":", "\"temperature\":", "\"format\":", "\"json\"", "\"think\":",
    "\"keep_alive\":", "\"stream\":", "\"prompt\":", "\"suffix\":", "\"context\":[",
    "\"raw\":true", "\"system\":", "\"input\":", "\"type\":", "\"text\"", "\"image_url\":",
    "\"tool_use\"", "\"tool_result\"", "\"max_tokens\":", "\"from\":", "\"template\":",
    "\"license\":", "\"parameters\":", "\"call_id\":", "\"function_call\"", "null", "true",
    "false", "{", "}", "[", "]", ",", ":", "\"", "-1", "0", "1e999", "1.5", "9223372036854775808",
    "\\u0000", "\\ud800", "\\udc00", "\\u00e9", "data:image/png;base64,", "iVBORw0KGgo=", "/9j/",
    "UklGRg==", "é", "\u{2028}",
];

/// Serialises for the upstream as the client does, and reads it again. Numbers of the client's own
/// are passed on as they were written, and may be above what is read here: then this is null.
pub(super) fn sent(request: &impl Serialize) -> Value {
    let bytes = serde_json::to_vec(request).expect("a request is JSON");
    serde_json::from_slice::<&RawValue>(&bytes).expect("what is sent can be read");
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// What any server of chat completions relies on.
pub(super) fn check_chat(request: &Value, id: &str) {
    if request.is_null() {
        return;
    }
    assert_eq!(request["model"], id);
    assert!(request["stream"].is_boolean());
    let messages = request["messages"].as_array().expect("messages");
    for message in messages {
        let role = message["role"].as_str().expect("a role");
        assert_eq!(role, role.to_lowercase(), "roles are in lower case");
        match &message["content"] {
            Value::String(_) | Value::Null => {}
            Value::Array(parts) => {
                assert!(!parts.is_empty(), "a list without parts");
                parts.iter().for_each(|part| assert!(part["type"].is_string(), "{part}"));
            }
            other => panic!("content that is {other}"),
        }
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            assert!(call["id"].is_string() && call["type"] == "function", "{call}");
            assert!(call["function"]["name"].is_string(), "{call}");
            let arguments = call["function"]["arguments"].as_str().expect("a text");
            assert!(serde_json::from_str::<&RawValue>(arguments).is_ok(), "{arguments}");
        }
    }
    for tool in request["tools"].as_array().into_iter().flatten() {
        assert!(tool["type"].is_string() && tool["function"]["name"].is_string(), "{tool}");
    }
}

/// Checks the error of a client's request.
fn judge(result: Result<()>) {
    if let Err(error) = result {
        check_refusal(&error);
    }
}

/// A virtual model that brings something of everything.
fn overlay() -> VirtualModel {
    let mut model = VirtualModel::alias("mario", "base", SystemTime::UNIX_EPOCH);
    model.system = "Be brief.".into();
    model
}

/// `POST /api/chat`.
pub fn chat(data: &[u8]) {
    let translate = || {
        let text = decode::decode_body(data.to_vec())?;
        let mut request: ChatRequest<'_> = decode::parse(&text, "ChatRequest")?;
        think::parse(request.think.as_ref())?;
        chatting::check_body(&request)?;
        check_sent_chat(&request, data)?;
        let overlay = overlay();
        overlay.apply_to_options(&mut request.options);
        overlay.apply_to_chat(&mut request);
        check_sent_chat(&request, data)
    };
    judge(translate());
}

fn check_sent_chat(request: &ChatRequest<'_>, data: &[u8]) -> Result<()> {
    let id = request.model.as_deref().unwrap_or_default();
    let translated = chatting::to_openai(request, id, profile_of(data))?;
    let value = sent(&translated);
    check_chat(&value, id);
    let said = request.messages.iter().flatten().filter_map(|it| it.content.as_deref());
    for said in said.filter(|said| !said.is_empty()) {
        let kept = translated.messages.iter().any(|it| it.as_text().contains(said));
        assert!(kept, "what was said is lost: {said:?}");
    }
    Ok(())
}

/// `POST /api/generate`.
pub fn generate(data: &[u8]) {
    let translate = || {
        let text = decode::decode_body(data.to_vec())?;
        let mut request: GenerateRequest<'_> = decode::parse(&text, "GenerateRequest")?;
        think::parse(request.think.as_ref())?;
        generating::check_body(&request)?;
        generating::check_raw(&request)?;
        let overlay = overlay();
        overlay.apply_to_generate(&mut request);
        let id = request.model.as_deref().unwrap_or_default();
        let stored = overlay.stored_messages();
        let translated = generating::to_openai(&request, &stored, (id, None), profile_of(data))?;
        match &translated {
            UpstreamRequest::Chat(request) => check_chat(&sent(request), id),
            UpstreamRequest::Completion(request) | UpstreamRequest::Fim(request) => {
                let value = sent(request);
                let is_whole = value["model"] == id && value["prompt"].is_string();
                assert!(is_whole || value.is_null(), "{value}");
            }
            UpstreamRequest::Infill(request) => assert!(!sent(request).is_array()),
        }
        let memory = generating::build_conversation(&request, &stored).expect("translated before");
        if let Some(memory) = memory {
            let numbers: Vec<i64> = memory.encode().into_iter().map(i64::from).collect();
            let again =
                context_codec::Conversation::from_messages(&context_codec::decode(&numbers))
                    .encode();
            assert_eq!(again, numbers.iter().map(|it| *it as i32).collect::<Vec<_>>());
        }
        Ok(())
    };
    judge(translate());
}

/// `POST /api/embed` and `POST /api/embeddings`.
pub fn embed(data: &[u8]) {
    let many = || {
        let text = decode::decode_body(data.to_vec())?;
        let request: EmbedRequest<'_> = decode::parse(&text, "EmbedRequest")?;
        options::parse(request.options.as_ref())?;
        let inputs = embedding::parse_inputs(request.input)?;
        let count = inputs.len();
        let value = sent(&embedding::to_openai("m", inputs));
        match &value["input"] {
            Value::String(text) => assert!(count == 1 && !text.is_empty()),
            Value::Array(texts) => {
                assert_eq!(texts.len(), count);
                let is_full = |text: &Value| text.as_str().is_some_and(|text| !text.is_empty());
                assert!(texts.iter().all(is_full), "{value}");
            }
            other => panic!("input that is {other}"),
        }
        Ok(())
    };
    judge(many());
    let one = || {
        let text = decode::decode_body(data.to_vec())?;
        let request: EmbeddingRequest<'_> = decode::parse(&text, "EmbeddingRequest")?;
        options::parse(request.options.as_ref())?;
        let stay = request.keep_alive.as_ref().map(KeepAlive::from_json);
        assert!(!matches!(stay, Some(Err(reason)) if reason.is_empty()));
        let prompt = request.prompt.as_deref().unwrap_or_default();
        sent(&embedding::to_openai("m", vec![prompt.into()]));
        Ok(())
    };
    judge(one());
}

/// `POST /api/create`, `show`, `copy`, `delete`, `pull` and `push`.
pub fn manage(data: &[u8]) {
    judge(create(data));
    let others = || {
        let text = decode::decode_body(data.to_vec())?;
        decode::parse::<ShowRequest<'_>>(&text, "ShowRequest")?;
        decode::parse::<CopyRequest<'_>>(&text, "CopyRequest")?;
        let request: DeleteRequest<'_> = decode::parse(&text, "DeleteRequest")?;
        let name = model_or_name(request.model.as_ref(), request.name.as_ref());
        assert_eq!(name, name.trim());
        decode::parse::<TransferRequest<'_>>(&text, "PullRequest").map(drop)
    };
    judge(others());
}

/// A created model can be stored in a state file, and is read back unchanged.
fn create(data: &[u8]) -> Result<()> {
    let text = decode::decode_body(data.to_vec())?;
    let request: CreateRequest<'_> = decode::parse(&text, "CreateRequest")?;
    virtual_model::validate_request(&request)?;
    let name = model_or_name(request.model.as_ref(), request.name.as_ref());
    let is_name = names::validate(name).is_ok() && names::is_valid(name);
    let name = if is_name { name } else { "mario" };
    let model =
        VirtualModel::alias(name, "base", SystemTime::UNIX_EPOCH).apply_request(&request)?;
    let state = serde_json::to_string(&model).expect("JSON");
    let read: VirtualModel = serde_json::from_str(&state).expect("the state can be read");
    assert_eq!(serde_json::to_string(&read).expect("JSON"), state);
    read.validate().expect("what was made is good");
    let setting = RenderContext {
        base_url: "http://localhost:8080/v1",
        started_at: SystemTime::UNIX_EPOCH,
        default_context_length: 4096,
        utc_offset: |_| 0,
    };
    let shown = read.render_show(&Model::from_id("base"), &setting, &ShowOptions::default());
    let shown = sent(&shown);
    assert!(shown.is_null() || shown["modelfile"].is_string() && shown["details"].is_object());
    assert!(!virtual_model::progress_lines(&request, "sha256:0", &read).is_empty());
    let mut chat: ChatRequest<'_> = ChatRequest::default();
    read.apply_to_options(&mut chat.options);
    read.apply_to_chat(&mut chat);
    let translated = chatting::to_openai(&chat, "base", profile_of(data));
    check_chat(&sent(&translated.expect("what was checked can be sent")), "base");
    Ok(())
}

/// `POST /v1/messages`.
pub fn messages(data: &[u8]) {
    let translate = || {
        let text = decode::decode_body(data.to_vec())?;
        let request: MessagesRequest<'_> = decode::parse(&text, GO_TYPE_NAME)?;
        anthropic::validate(&request, true)?;
        let chat = anthropic::to_ollama(&request, &mut Skipped::default())?;
        think::parse(chat.think.as_ref())?;
        let id = request.model.as_deref().unwrap_or_default();
        let upstream = anthropic::to_openai(&request, &chat, id, profile_of(data))?;
        check_chat(&sent(&upstream), id);
        assert!(anthropic::estimate_tokens(&chat) > 0);
        Ok(())
    };
    judge(translate());
}

/// `POST /v1/responses`, where the upstream has only chat completions.
pub fn responses(data: &[u8]) {
    let translate = || {
        let text = decode::decode_body(data.to_vec())?;
        let request: ResponsesRequest<'_> = decode::parse(&text, "openai.ResponsesRequest")?;
        let translated = responding::to_chat(&request)?;
        think::parse(translated.chat.think.as_ref())?;
        let id = request.model.as_deref().unwrap_or_default();
        let upstream = responding::to_openai(&translated, id, profile_of(data))?;
        check_chat(&sent(&upstream), id);
        Ok(())
    };
    judge(translate());
}
