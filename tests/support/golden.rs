//! What the golden tests share: the files and settings of a case, the clock, and how a stream is
//! played.
//!
//! `tests/it/golden/ollama.rs` lists the files of a folder. The clock is simulated: the request is sent
//! after 1 ms, event number n arrives after n times 10 ms, and the response ends after 1 s.
//! `UPDATE_GOLDEN=1` rewrites the expected files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ollama_openai_proxy::api::openai::request::ResponseEffects;
use ollama_openai_proxy::api::wire::sse::{Decoder, Event};
use ollama_openai_proxy::backends::profiles;
use ollama_openai_proxy::backends::profiles::{GENERIC, Profile};
use ollama_openai_proxy::error::Result;
use ollama_openai_proxy::observe::redact::Redactor;
use ollama_openai_proxy::translate::stream::{
    Completion, Delta, Encoder, ResponseOptions, ResponseTranslator,
};
use ollama_openai_proxy::translate::{infill, think};
use serde_json::{Value, json};

pub const NOW: &str = "2026-01-02T03:04:05.6Z";
const SENT: Duration = Duration::from_millis(1);
const END: Duration = Duration::from_secs(1);

/// What holds of all cases below one folder is for the driver; this is one of them.
pub struct Case {
    pub folder: PathBuf,
    settings: Value,
    update: bool,
}

impl Case {
    fn new(folder: PathBuf) -> Self {
        let settings = fs::read_to_string(folder.join("case.json")).unwrap_or_else(|_| "{}".into());
        let settings = serde_json::from_str(&settings).expect("case.json is JSON");
        Self { folder, settings, update: std::env::var_os("UPDATE_GOLDEN").is_some() }
    }

    pub fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.folder.join(name)).ok()
    }

    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings[name].as_str()
    }

    pub fn profile(&self) -> &'static Profile {
        let Some(name) = self.setting("profile") else { return &GENERIC };
        let found = profiles::find_by_name(name).or_else(|| profiles::find_by_owner(name));
        found.or_else(|| profiles::find_by_host(name)).expect("a known family")
    }

    fn wanted(&self) -> ResponseOptions<'static> {
        let think =
            think::parse(self.settings.get("think")).expect("a valid think").without_level();
        let logprobs = self.settings["logprobs"].as_u64().map(|top| top as usize);
        let stop = self.settings["stop"].as_array().into_iter().flatten();
        let watched_stop = stop.map(|stop| stop.as_str().expect("a text").to_owned()).collect();
        let effects = ResponseEffects { watched_stop, ..ResponseEffects::default() };
        let is_set = |name: &str| self.settings[name] == true;
        ResponseOptions {
            think,
            logprobs,
            id_seed: "golden",
            model: Some("m"),
            effects,
            wants_json: is_set("format"),
            begins_in_thinking: is_set("begins_in_thinking"),
        }
    }

    /// The chunk for an event or body of `/infill`.
    fn chunk(&self, data: &str) -> Option<String> {
        (self.settings["infill"] == true).then(|| infill::to_chunk(data)).flatten()
    }

    pub fn bytes(&self, name: &str, found: &[u8]) {
        let found = String::from_utf8(found.to_vec()).expect("UTF-8");
        if self.update {
            fs::write(self.folder.join(name), found).expect("writable");
        } else {
            let expected = self.read(name).unwrap_or_default();
            assert_eq!(found, expected, "{}/{name}", self.folder.display());
        }
    }

    pub fn value(&self, name: &str, found: &Value) {
        if self.update {
            let text = serde_json::to_string_pretty(found).expect("JSON") + "\n";
            fs::write(self.folder.join(name), text).expect("writable");
        } else {
            let expected = self.read(name).unwrap_or_default();
            let expected: Value = serde_json::from_str(&expected).unwrap_or_default();
            assert_eq!(found, &expected, "{}/{name}", self.folder.display());
        }
    }

    pub fn request(&self, translated: Result<Value>) {
        match translated {
            Ok(value) => self.value("request.openai.json", &value),
            Err(error) => {
                let found = json!({"status": error.status(), "error": error.message()});
                self.value("request.error.json", &found);
            }
        }
    }

    /// What a client reads of `answer.openai.json`, or why it is none.
    pub fn whole(&self, encoder: &mut impl Encoder) -> Option<Result<Vec<u8>>> {
        let body = self.read("answer.openai.json")?;
        let redactor = Redactor::default();
        let mut state = ResponseTranslator::new(self.wanted(), &redactor);
        let body = self.chunk(&body).unwrap_or(body);
        let mut out = Vec::new();
        Some(state.on_body(&body).and_then(|rest| {
            encoder.encode_whole(&mut out, NOW, &rest, &state.finish(SENT, END)?);
            Ok(out)
        }))
    }

    /// What a client reads of `stream.sse`, and how that ends.
    pub fn stream<E: Encoder>(&self, encoder: &mut E) -> Option<(Vec<u8>, Result<()>)> {
        let (body, mut out) = (self.read("stream.sse")?, Vec::new());
        let show = |delta: &Delta<'_>| encoder.encode_delta(&mut out, NOW, delta);
        let ended = self.play(&body, show).map(|(outcome, _)| {
            encoder.encode_final(&mut out, NOW, &Delta::default(), &outcome);
            if !E::IS_SSE {
                out.push(b'\n');
            }
        });
        Some((out, ended))
    }

    /// What a client that does not stream reads of `stream.sse`.
    pub fn collected(&self, encoder: &mut impl Encoder) -> Option<Result<Vec<u8>>> {
        let (body, mut out) = (self.read("stream.sse")?, Vec::new());
        let mut whole = Delta::default();
        let collect = |delta: &Delta<'_>| {
            encoder.collect(delta);
            whole.append(delta.clone());
        };
        Some(self.play(&body, collect).map(|(outcome, has_answer_in_reasoning)| {
            if has_answer_in_reasoning {
                whole.thinking = "".into();
            }
            encoder.encode_whole(&mut out, NOW, &whole, &outcome);
            out
        }))
    }

    /// Shows each delta of a stream; the result tells whether the reasoning was the answer.
    fn play(&self, body: &str, show: impl FnMut(&Delta<'_>)) -> Result<(Completion, bool)> {
        let redactor = Redactor::default();
        let mut state = ResponseTranslator::new(self.wanted(), &redactor);
        let outcome = play(self, body, &mut state, show)?;
        Ok((outcome, state.has_answer_in_reasoning()))
    }
}

fn play(
    case: &Case,
    body: &str,
    state: &mut ResponseTranslator<'_>,
    mut show: impl FnMut(&Delta<'_>),
) -> Result<Completion> {
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
        state.take_pieces(event, now)?.iter().flatten().for_each(&mut show);
    }
    let outcome = state.finish(SENT, END)?;
    let rest = state.flush();
    if !rest.is_empty() {
        show(&rest);
    }
    Ok(outcome)
}

pub fn cases(endpoint: &str) -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(endpoint);
    let mut folders: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|_| panic!("{} is missing", folder.display()))
        .map(|entry| entry.expect("readable").path())
        .collect();
    folders.sort();
    assert!(!folders.is_empty());
    folders.into_iter().map(Case::new).collect()
}

pub fn to_value(request: &impl serde::Serialize) -> Value {
    serde_json::to_value(request).expect("serialisable")
}
