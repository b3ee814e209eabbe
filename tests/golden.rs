//! Golden pairs: what goes in beside what must come out, as files.
//!
//! Each folder `tests/golden/<endpoint>/<case>/` holds some of these pairs:
//!
//! - `request.ollama.json` and `request.openai.json` (compared as values), or `request.error.json`;
//! - `answer.openai.json` and `answer.ollama.json` (compared as bytes);
//! - `stream.sse` and `stream.ndjson` (compared as bytes, and checked against the rules of
//!   ollama-api.md 7);
//! - `request.ollama.json` of a create, over `base.json` (the state of the model that it names) or
//!   over the upstream's model `base`, with `state.json` and `show.json` (compared as bytes);
//! - `list.openai.json`, and `side.json` where the family tells more beside its list, with
//!   `tags.json`, `show.json` and `ps.json` (compared as bytes). The families have a folder each;
//!   those that a list does not tell apart are named by `profile`.
//!
//! `case.json` may name the upstream's family (`profile`), its `id` for the model, `think`, and how many
//! alternatives per token are wanted (`logprobs`), or the strings that end the text here (`stop`); `infill` says that the answer is one of llama.cpp's
//! `/infill`. The
//! clock is the driver's: the request is sent after 1 ms, event number n comes after n times 10 ms,
//! and everything has ended after 1 s. `UPDATE_GOLDEN=1` rewrites what comes out; the difference is
//! for review.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ollama_openai_proxy::error::{Error, Result};
use ollama_openai_proxy::ndjson;
use ollama_openai_proxy::ollama::answer::{EmbedMetrics, ErrorAnswer, List};
use ollama_openai_proxy::ollama::decode;
use ollama_openai_proxy::ollama::manage::CreateRequest;
use ollama_openai_proxy::ollama::request::{
    ChatRequest, EmbedRequest, EmbeddingRequest, GenerateRequest,
};
use ollama_openai_proxy::profile::{self, GENERIC, Profile};
use ollama_openai_proxy::redact::Redactor;
use ollama_openai_proxy::sse::{Decoder, Event};
use ollama_openai_proxy::translate::chat::{self, ChatEncoder};
use ollama_openai_proxy::translate::embed::Answer;
use ollama_openai_proxy::translate::generate::{self, Generate, GenerateEncoder};
use ollama_openai_proxy::translate::models::{self, Setting, Told};
use ollama_openai_proxy::translate::stream::{AnswerStream, Delta, Encoder, Wanted};
use ollama_openai_proxy::translate::virtual_model::{self, VirtualModel};
use ollama_openai_proxy::translate::{embed, infill, think};
use serde_json::{Value, json};

const NOW: &str = "2026-01-02T03:04:05.6Z";
const SENT: Duration = Duration::from_millis(1);
const END: Duration = Duration::from_secs(1);

struct Case {
    folder: PathBuf,
    settings: Value,
    update: bool,
}

impl Case {
    fn new(folder: PathBuf) -> Self {
        let settings = fs::read_to_string(folder.join("case.json")).unwrap_or_else(|_| "{}".into());
        let settings = serde_json::from_str(&settings).expect("case.json is JSON");
        Self { folder, settings, update: std::env::var_os("UPDATE_GOLDEN").is_some() }
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.folder.join(name)).ok()
    }

    fn setting(&self, name: &str) -> Option<&str> {
        self.settings[name].as_str()
    }

    fn profile(&self) -> &'static Profile {
        let Some(name) = self.setting("profile") else { return &GENERIC };
        let found = profile::by_name(name).or_else(|| profile::by_owner(name));
        found.or_else(|| profile::by_host(name)).expect("a known family")
    }

    fn wanted(&self) -> Wanted<'static> {
        let think = think::read(self.settings.get("think")).expect("a valid think");
        let logprobs = self.settings["logprobs"].as_u64().map(|top| top as usize);
        let stop = self.settings["stop"].as_array().into_iter().flatten();
        let stop = stop.map(|stop| stop.as_str().expect("a text").to_owned()).collect();
        Wanted { think, logprobs, seed: "golden", model: Some("m"), stop }
    }

    fn redactor(&self) -> Redactor {
        Redactor::default()
    }

    /// The chunk for an event or body of `/infill`.
    fn chunk(&self, data: &str) -> Option<String> {
        (self.settings["infill"] == true).then(|| infill::to_chunk(data)).flatten()
    }

    fn bytes(&self, name: &str, found: &[u8]) {
        let found = String::from_utf8(found.to_vec()).expect("UTF-8");
        if self.update {
            fs::write(self.folder.join(name), found).expect("writable");
        } else {
            let expected = self.read(name).unwrap_or_default();
            assert_eq!(found, expected, "{}/{name}", self.folder.display());
        }
    }

    fn value(&self, name: &str, found: &Value) {
        if self.update {
            let text = serde_json::to_string_pretty(found).expect("JSON") + "\n";
            fs::write(self.folder.join(name), text).expect("writable");
        } else {
            let expected = self.read(name).unwrap_or_default();
            let expected: Value = serde_json::from_str(&expected).unwrap_or_default();
            assert_eq!(found, &expected, "{}/{name}", self.folder.display());
        }
    }

    fn request(&self, translated: Result<Value>) {
        match translated {
            Ok(value) => self.value("request.openai.json", &value),
            Err(error) => {
                let found = json!({"status": error.status(), "error": error.message()});
                self.value("request.error.json", &found);
            }
        }
    }

    fn whole(&self, encoder: &mut impl Encoder) {
        let Some(body) = self.read("answer.openai.json") else { return };
        let redactor = self.redactor();
        let mut state = AnswerStream::new(self.wanted(), &redactor);
        let mut out = Vec::new();
        let body = self.chunk(&body).unwrap_or(body);
        let ended = state.on_whole(&body).and_then(|rest| {
            encoder.last(&mut out, NOW, &rest, &state.finish(SENT, END)?);
            Ok(())
        });
        if let Err(error) = ended {
            out = ndjson::to_vec(&ErrorAnswer { error: &error.message() });
        }
        self.bytes("answer.ollama.json", &out);
    }

    fn stream(&self, encoder: &mut impl Encoder) {
        let Some(body) = self.read("stream.sse") else { return };
        let redactor = self.redactor();
        let mut state = AnswerStream::new(self.wanted(), &redactor);
        let mut out = Vec::new();
        if let Err(error) = play(self, &body, &mut state, encoder, &mut out) {
            ndjson::append_line(&mut out, &ErrorAnswer { error: &error.message() });
        }
        check_rules(&String::from_utf8_lossy(&out), &self.folder);
        self.bytes("stream.ndjson", &out);
    }
}

fn play(
    case: &Case,
    body: &str,
    state: &mut AnswerStream<'_>,
    encoder: &mut impl Encoder,
    out: &mut Vec<u8>,
) -> Result<()> {
    let mut decoder = Decoder::new();
    decoder.push(body.as_bytes());
    decoder.finish();
    let mut now = Duration::ZERO;
    while let Some(event) = decoder.next_event()? {
        now += Duration::from_millis(10);
        let mapped = match event {
            Event::Data(data) => case.chunk(&String::from_utf8_lossy(data)),
            Event::Error(_) => None,
        };
        let event = mapped.as_ref().map_or(event, |mapped| Event::Data(mapped.as_bytes()));
        let deltas = [state.on_event(event, now)?, state.take_calls()?];
        for delta in deltas.iter().flatten().filter(|delta| !delta.is_empty()) {
            encoder.delta(out, NOW, delta);
        }
    }
    let outcome = state.finish(SENT, END)?;
    let rest = state.rest()?;
    if !rest.is_empty() {
        encoder.delta(out, NOW, &rest);
    }
    encoder.last(out, NOW, &Delta::default(), &outcome);
    out.push(b'\n');
    Ok(())
}

/// The rules that hold for every stream (ollama-api.md 7).
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

fn cases(endpoint: &str) -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(endpoint);
    let mut folders: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|_| panic!("{} is missing", folder.display()))
        .map(|entry| entry.expect("readable").path())
        .collect();
    folders.sort();
    assert!(!folders.is_empty());
    folders.into_iter().map(Case::new).collect()
}

fn to_value(request: &impl serde::Serialize) -> Value {
    serde_json::to_value(request).expect("serialisable")
}

#[test]
fn chat_cases() {
    for case in cases("chat") {
        let text = case.read("request.ollama.json").unwrap_or_else(|| r#"{"model":"m"}"#.into());
        let translated = decode::text(text.clone().into_bytes()).and_then(|text| {
            let request: ChatRequest<'_> = decode::parse(&text, "ChatRequest")?;
            let id = case.setting("id").or(request.model.as_deref()).unwrap_or_default();
            think::read(request.think.as_ref())?;
            chat::to_openai(&request, id, case.profile()).map(|it| to_value(&it))
        });
        if case.read("request.ollama.json").is_some() {
            case.request(translated);
        }
        case.whole(&mut ChatEncoder { model: "m" });
        case.stream(&mut ChatEncoder { model: "m" });
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
                    .and_then(|()| generate::to_openai(request, &[], id, case.profile()));
                translated.map(|it| match it {
                    Generate::Chat(it) => {
                        json!({"path": "chat/completions", "body": to_value(&it)})
                    }
                    Generate::Completion(it) => {
                        json!({"path": "completions", "body": to_value(&it)})
                    }
                    Generate::Fim(it) => {
                        json!({"path": "fim/completions", "body": to_value(&it)})
                    }
                    Generate::Infill(it) => json!({"path": "/infill", "body": to_value(&it)}),
                })
            }
            Err(error) => Err(Error::invalid(error.message())),
        };
        if case.read("request.ollama.json").is_some() {
            case.request(translated);
        }
        if let Ok(request) = &request {
            let memory = || generate::remembered(request, &[]).expect("valid");
            case.whole(&mut GenerateEncoder::new("m", memory()));
            case.stream(&mut GenerateEncoder::new("m", memory()));
        }
    }
}

#[test]
fn embed_cases() {
    for case in cases("embed") {
        let text = case.read("request.ollama.json").expect("a request");
        let request: EmbedRequest<'_> = decode::parse(&text, "EmbedRequest").expect("valid");
        let inputs = embed::inputs(request.input).expect("valid");
        let count = inputs.len();
        case.request(Ok(to_value(&embed::to_openai("m", inputs))));
        let Some(body) = case.read("answer.openai.json") else { continue };
        let mut answer = Answer::embed("m", request.dimensions.map(|dimensions| dimensions.0));
        let written = answer.add(&body, count).map(|tokens| {
            answer.finish(Some(EmbedMetrics {
                total_duration: 9,
                load_duration: 1,
                prompt_eval_count: tokens.unwrap_or(0),
            }))
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
        let mut answer = Answer::embeddings();
        let written = answer.add(&body, 1).map(|_| answer.finish(None));
        case.bytes("answer.ollama.json", &written_or_error(written));
    }
}

/// What a client reads of an answer, or in place of it.
fn written_or_error(written: Result<Vec<u8>>) -> Vec<u8> {
    written.unwrap_or_else(|error| ndjson::to_vec(&ErrorAnswer { error: &error.message() }))
}

#[test]
fn model_cases() {
    let setting = Setting {
        base: "http://localhost:8080/v1",
        started: SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045),
        context_length: models::DEFAULT_CONTEXT_LENGTH,
        zone: |_| 0,
    };
    for case in cases("models") {
        let list = models::read_list(&case.read("list.openai.json").expect("a list"));
        let mut list = list.expect("a list");
        if case.setting("profile").is_some() {
            list.is_of(case.profile());
        }
        let name = case.folder.file_name().expect("a folder").to_string_lossy().into_owned();
        if let Some(told) = case.read("side.json") {
            let side = list.side().expect("somebody to ask");
            list.learn(&Told::read(side, &told).expect("an answer of this family"));
        }
        let family = list.profile.map_or("generic", |profile| profile.name);
        assert!(name.starts_with(family), "{name} is taken for {family}");
        let list = list.settled();
        let tags = List { models: list.iter().map(|model| model.tag(&setting)).collect() };
        case.bytes("tags.json", &ndjson::to_vec(&tags));
        let first = list.first().expect("a model");
        let asked = models::Asked { name: &first.id, ..models::Asked::default() };
        case.bytes("show.json", &ndjson::to_vec(&first.show(&setting, &asked)));
        case.bytes("ps.json", &ndjson::to_vec(&first.process(&setting, setting.started, None)));
    }
}

#[test]
fn create_cases() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045);
    let setting = Setting {
        base: "http://localhost:8080/v1",
        started: now,
        context_length: models::DEFAULT_CONTEXT_LENGTH,
        zone: |_| 0,
    };
    for case in cases("create") {
        let text = case.read("request.ollama.json").expect("a request");
        let base = case.read("base.json").map(|base| {
            let base: VirtualModel = serde_json::from_str(&base).expect("a virtual model");
            base.check().expect("a good one");
            base
        });
        let made = decode::text(text.into_bytes()).and_then(|text| {
            let request: CreateRequest<'_> = decode::parse(&text, "CreateRequest")?;
            virtual_model::check(&request)?;
            let name = request.model.as_deref().unwrap_or_default();
            let model = match &base {
                Some(base) => base.copied(name, now),
                None => VirtualModel::alias(name, "base", now),
            };
            model.changed(&request)
        });
        match made {
            Ok(model) => {
                let state = serde_json::to_string_pretty(&model).expect("JSON") + "\n";
                case.bytes("state.json", state.as_bytes());
                let asked = models::Asked { name: "mario", ..models::Asked::default() };
                let shown = model.show(&models::Model::unlisted("base"), &setting, &asked);
                case.bytes("show.json", &ndjson::to_vec(&shown));
            }
            Err(error) => {
                let found = json!({"status": error.status(), "error": error.message()});
                case.value("request.error.json", &found);
            }
        }
    }
}
