//! Virtual models, created with `/api/create` or `/api/copy`: an upstream model with a name of its
//! own, and defaults such as a system prompt, options and first messages.
//!
//! This module defines them and checks and applies create requests; `defaults` applies a model to
//! requests, `render` shows it. A model created from a virtual one copies its contents and refers to
//! the same upstream model, so deleting the former changes nothing. Pure: [`crate::models::store`]
//! stores them. Invariant: [`crate::translate::options`] accepts the parameters, and chat requests
//! accept the messages.
//!
//! # Modelfiles
//!
//! A Modelfile written for Ollama works: `ollama create mario -f Modelfile` with `FROM gpt-4o`
//! makes a model that exists in the proxy only. It is listed and shown, and can be copied, deleted
//! and used as the base of another one.
//!
//! - The first messages precede those of every chat. System prompt and default options apply unless
//!   the request sets its own; a raw or continued prompt gets no system prompt.
//! - `TEMPLATE` (its block structure is checked), `RENDERER`, `PARSER`, `REQUIRES` and `LICENSE`
//!   are stored and shown, but not used: the upstream renders prompts.
//! - Files, adapters, quantization and remote hosts are refused by name.
//! - A virtual model hides an upstream's model of the same name until it is deleted.
//! - A copy of an upstream's model is another name for it. Models of the upstream cannot be
//!   deleted.
//! - On `/v1/completions` only the options apply; on `/v1/responses` the system prompt, as
//!   `instructions`, and temperature, `top_p` and token limit; on `/v1/embeddings` nothing.

mod defaults;
mod native_defaults;
mod pass_defaults;
mod render;

pub use self::native_defaults::NativeRoute;

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::api::ollama::decode::{self, non_empty};
use crate::api::ollama::manage::{CreateRequest, MessageRequest, StoredMessage};
use crate::api::ollama::request::Message;
use crate::api::wire::digest::sha256_hex;
use crate::api::wire::ndjson;
use crate::backends::names;
use crate::error::{Error, Result};
use crate::observe::timestamp;
use crate::translate::{history, options, template};

/// A virtual model. Its serialized form is the format of the state file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VirtualModel {
    /// The display name, with a tag.
    pub name: String,
    /// The upstream's id, unchanged.
    pub from: String,
    /// The time of creation in RFC 3339 format.
    pub modified_at: String,
    /// The system prompt.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub system: String,
    /// A template in Go's syntax, checked at creation; shown but not used.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub template: String,
    /// The name of Ollama's prompt renderer; shown but not used.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub renderer: String,
    /// The name of Ollama's response parser; shown but not used.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub parser: String,
    /// The oldest version of Ollama that can run the model; shown but not used.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub requires: String,
    /// License texts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub license: Vec<String>,
    /// Default options.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub parameters: Map<String, Value>,
    /// Messages that precede every conversation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Box<RawValue>>,
}

impl VirtualModel {
    /// Another name for an upstream model. `name` may have any spelling.
    pub fn alias(name: &str, from: &str, now: SystemTime) -> Self {
        Self {
            name: names::display_name(names::strip_default_prefixes(name)),
            from: from.to_owned(),
            modified_at: timestamp::to_rfc3339(now),
            ..Self::default()
        }
    }

    /// The same model under another name.
    pub fn copy_as(&self, name: &str, now: SystemTime) -> Self {
        let alias = Self::alias(name, &self.from, now);
        Self { name: alias.name, modified_at: alias.modified_at, ..self.clone() }
    }

    /// Overrides the fields that a create request sets.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] for an invalid template, and for parameters, messages and licenses
    /// of the wrong type.
    pub fn apply_request(mut self, request: &CreateRequest<'_>) -> Result<Self> {
        if let Some(template) = non_empty(request.template.as_deref()) {
            template::check(template)
                .map_err(|text| Error::invalid_request(format!("template error: {text}")))?;
        }
        let texts = [
            (&mut self.system, &request.system),
            (&mut self.template, &request.template),
            (&mut self.renderer, &request.renderer),
            (&mut self.parser, &request.parser),
            (&mut self.requires, &request.requires),
        ];
        for (field, text) in texts {
            if let Some(text) = non_empty(text.as_deref()) {
                text.clone_into(field);
            }
        }
        if let Some(license) = request.license {
            self.license = parse_licenses(license)?;
        }
        if let Some(messages) = request.messages.as_ref().filter(|list| !list.is_empty()) {
            self.messages = messages
                .iter()
                .map(|message| normalize_message(message.get()))
                .collect::<Result<_>>()?;
        }
        self.parameters.extend(parse_parameters(request.parameters.as_ref())?);
        Ok(self)
    }

    /// Checks the invariant for a model that was read from a file.
    ///
    /// # Errors
    /// What is wrong, without quoting anything of the model but its name.
    pub fn validate(&self) -> std::result::Result<(), String> {
        let Self { name, from, modified_at, parameters, messages, .. } = self;
        let full_name = names::display_name(names::strip_default_prefixes(name));
        let is_invalid = |message: &str| normalize_message(message).is_err();
        let problems = [
            (full_name != *name || names::validate(name).is_err(), "an invalid name"),
            (from.is_empty(), "an empty \"from\""),
            (
                timestamp::parse_rfc3339(modified_at).is_none(),
                "an invalid \"modified_at\" (not RFC 3339)",
            ),
            (options::parse(Some(parameters)).is_err(), "invalid parameters"),
            (messages.iter().map(|it| it.get()).any(is_invalid), "an invalid message"),
        ];
        match problems.iter().find(|(is_present, _)| *is_present) {
            Some((_, what)) => Err(format!("the model {name:?} has {what}")),
            None => Ok(()),
        }
    }
}

/// Rejects create requests that Ollama rejects, in Ollama's order of checks, and those that a proxy
/// cannot serve.
///
/// # Errors
/// [`Error::InvalidRequest`] with Ollama's text, [`Error::Unsupported`] with the member's name.
pub fn validate_request(request: &CreateRequest<'_>) -> Result<()> {
    let lists = [
        ("files", &request.files),
        ("adapters", &request.adapters),
        ("draft_files", &request.draft_files),
    ];
    for (path, digest) in lists.iter().flat_map(|(_, list)| list.iter().flatten()) {
        check_file(path, digest.as_deref())?;
    }
    let has_files = request.files.as_ref().is_some_and(|files| !files.is_empty());
    if has_text(request.draft_quantize.as_deref()) && request.draft_files.is_none() {
        return Err(Error::invalid_request("--draft-quantize requires a DRAFT model"));
    }
    if !has_files && !has_text(request.from.as_deref().map(str::trim)) {
        return Err(Error::invalid_request("neither 'from' or 'files' was specified"));
    }
    if let Some((name, _)) =
        lists.iter().find(|(_, list)| list.as_ref().is_some_and(|list| !list.is_empty()))
    {
        return Err(unsupported_error(name));
    }
    let texts = [
        ("quantize", request.quantize.as_deref()),
        ("quantization", request.quantization.as_deref()),
        ("draft_quantize", request.draft_quantize.as_deref()),
        ("remote_host", request.remote_host.as_deref()),
    ];
    match texts.iter().find(|(_, text)| has_text(*text)) {
        Some((name, _)) => Err(unsupported_error(name)),
        None => Ok(()),
    }
}

fn has_text(text: Option<&str>) -> bool {
    non_empty(text).is_some()
}

/// Ollama's progress messages for a create request: the layer of the base model, one layer for each
/// part that the request sets, and the end.
pub fn progress_lines(
    request: &CreateRequest<'_>,
    base: &str,
    created: &VirtualModel,
) -> Vec<String> {
    let parts = [
        (has_text(request.template.as_deref()), ndjson::to_vec(&created.template)),
        (has_text(request.system.as_deref()), ndjson::to_vec(&created.system)),
        (request.license.is_some(), ndjson::to_vec(&created.license)),
        (request.parameters.is_some(), ndjson::to_vec(&created.parameters)),
        (request.messages.is_some(), ndjson::to_vec(&created.messages)),
    ];
    let mut lines = vec![format!("using existing layer sha256:{base}")];
    for (_, part) in parts.iter().filter(|(is_new, _)| *is_new) {
        lines.push(format!("creating new layer sha256:{}", sha256_hex(part)));
    }
    lines.extend(["writing manifest".to_owned(), "success".to_owned()]);
    lines
}

fn check_file(path: &str, digest: Option<&str>) -> Result<()> {
    let leaves_directory = path.split(['/', '\\']).any(|step| step == "..");
    if path.is_empty() || path.starts_with(['/', '\\']) || leaves_directory {
        return Err(Error::invalid_request("file path must be relative"));
    }
    match non_empty(digest) {
        None => Err(Error::invalid_request("invalid digest format")),
        Some(_) => Ok(()),
    }
}

fn unsupported_error(member: &str) -> Error {
    Error::Unsupported(format!(
        "{member:?} is not supported: this proxy stores no model files; create the model \
             \"from\" one of the upstream's"
    ))
}

/// Parses `license`, a string or an array of strings.
fn parse_licenses(license: &RawValue) -> Result<Vec<String>> {
    let text = |value| match value {
        Value::String(text) => Some(text),
        _ => None,
    };
    let texts = match serde_json::from_str(license.get()) {
        Ok(Value::String(text)) if text.is_empty() => Some(Vec::new()),
        Ok(Value::String(text)) => Some(vec![text]),
        Ok(Value::Array(values)) => values.into_iter().map(text).collect(),
        _ => None,
    };
    texts.ok_or_else(|| Error::invalid_request("license must be a string or a list of strings"))
}

/// Go's description of a message of the wrong type in a create request.
const GO_MESSAGE_FIELD: &str = "Go struct field CreateRequest.messages of type api.Message";

/// Checks a message and converts it to its stored form.
///
/// # Errors
/// [`Error::InvalidRequest`] with Ollama's text.
pub fn normalize_message(message: &str) -> Result<Box<RawValue>> {
    // A message that a chat request would reject is rejected here, with the path that Go would name.
    let as_sent: Message<'_> =
        decode::parse(message, "CreateRequest.messages").map_err(|error| {
            let (value, field) = ("Go value of type api.CreateRequest.messages", GO_MESSAGE_FIELD);
            Error::invalid_request(error.message().replace(value, field))
        })?;
    history::to_openai(std::slice::from_ref(&as_sent))?;
    let message: MessageRequest<'_> = decode::parse(message, "CreateRequest.messages")?;
    let role = message.role.as_deref().unwrap_or_default().to_lowercase();
    let text = ndjson::to_vec(&StoredMessage {
        role: &role,
        content: message.content.as_deref().unwrap_or_default(),
        thinking: message.thinking.as_deref().unwrap_or_default(),
        images: message.images.as_deref().unwrap_or_default(),
        tool_calls: message.tool_calls.as_deref().unwrap_or_default(),
        tool_name: message.tool_name.as_deref().unwrap_or_default(),
        tool_call_id: message.tool_call_id.as_deref().unwrap_or_default(),
    });
    String::from_utf8(text)
        .ok()
        .and_then(|text| RawValue::from_string(text).ok())
        .ok_or(Error::Internal("cannot serialize a message"))
}

/// Checks the default options. As in a Modelfile, `stop` may be a single string.
///
/// # Errors
/// [`Error::InvalidRequest`] that names the option and its type.
pub fn parse_parameters(parameters: Option<&Map<String, Value>>) -> Result<Map<String, Value>> {
    let mut out = parameters.cloned().unwrap_or_default();
    out.retain(|_, value| !value.is_null());
    if let Some(stop) = out.get_mut("stop").filter(|stop| stop.is_string()) {
        *stop = Value::Array(vec![stop.take()]);
    }
    match options::parse(Some(&out)) {
        Ok(_) => Ok(out),
        Err(error) => Err(Error::invalid_request(error.message())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(body: &str) -> String {
        let request: CreateRequest<'_> = decode::parse(body, "CreateRequest").expect("a request");
        let base = VirtualModel::alias("x", "base", SystemTime::UNIX_EPOCH);
        let made = validate_request(&request).and_then(|()| base.apply_request(&request));
        let error = made.expect_err(body);
        assert_eq!(error.status(), Some(400), "{body}");
        error.message()
    }

    #[test]
    fn what_ollama_refuses_is_refused_in_its_words() {
        let check = |body: &str, expected: &str| assert_eq!(refusal(body), expected, "{body}");
        let neither = "neither 'from' or 'files' was specified";
        check("{}", neither);
        check(r#"{"from":"","files":{}}"#, neither);
        check(r#"{"from":" ","system":"x"}"#, neither);
        check(r#"{"files":{"/a":"sha256:0"}}"#, "file path must be relative");
        check(r#"{"files":{"../a":"sha256:0"}}"#, "file path must be relative");
        check(r#"{"from":"b","adapters":{"a":""}}"#, "invalid digest format");
        check(r#"{"from":"b","draft_quantize":"q4_0"}"#, "--draft-quantize requires a DRAFT model");
        let hot = r#"{"from":"b","parameters":{"temperature":"hot"}}"#;
        check(hot, "option \"temperature\" must be of type float32");
        let number = |field: &str| {
            format!("json: cannot unmarshal number into Go struct field CreateRequest.{field}")
        };
        let content = r#"{"from":"b","messages":[{"role":"user","content":5}]}"#;
        check(content, &number("messages.content of type string"));
        let arguments = r#"{"from":"b","messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f",
                "arguments":[1]}}]}]}"#;
        check(arguments, "Value looks like object, but can't find closing '}' symbol");
        let template = r#"{"from":"b","template":"{{ .Prompt }","license":5}"#;
        check(template, "template error: template: :1: unexpected \"}\" in operand");
        check(r#"{"from":"b","messages":[1]}"#, &number("messages of type api.Message"));
        check(r#"{"from":"b","license":5}"#, "license must be a string or a list of strings");
    }

    #[test]
    fn what_a_proxy_cannot_do_is_refused_by_name() {
        for member in [
            r#""files":{"a.gguf":"sha256:0"}"#,
            r#""adapters":{"a.gguf":"sha256:0"}"#,
            r#""draft_files":{"a.gguf":"sha256:0"}"#,
            r#""quantize":"q4_0""#,
            r#""quantization":"q4_0""#,
            r#""remote_host":"http://h""#,
        ] {
            let message = refusal(&format!("{{\"from\":\"b\",{member}}}"));
            let name = member.split(':').next().unwrap_or_default();
            assert!(message.starts_with(&format!("{name} is not supported")), "{message}");
        }
    }

    #[test]
    fn empty_members_are_none() {
        let body = r#"{"from":"b","quantize":"","files":{},"adapters":null,"remote_host":"",
            "system":"","template":"","renderer":"","parser":"","requires":"","messages":[],"parameters":{"seed":null},"license":""}"#;
        let request: CreateRequest<'_> = decode::parse(body, "CreateRequest").expect("a request");
        validate_request(&request).expect("nothing to refuse");
        let base = VirtualModel::alias("x", "b", SystemTime::UNIX_EPOCH);
        let made = base.clone().apply_request(&request).expect("made");
        assert_eq!(ndjson::to_vec(&made), ndjson::to_vec(&base));
    }

    #[test]
    fn a_model_from_another_keeps_what_is_not_said_anew() {
        let changed = |base: VirtualModel, body: &str| {
            let request: CreateRequest<'_> = decode::parse(body, "C").expect("a request");
            base.apply_request(&request).expect("made")
        };
        let first = changed(
            VirtualModel::alias("a", "base", SystemTime::UNIX_EPOCH),
            r#"{"system":"S","template":"T","renderer":"R","parser":"P","requires":"0.1.0",
                "license":["L","M"],"parameters":{"seed":1,"top_k":2,"stop":"x"},
                "messages":[{"ROLE":"User","content":"hi","extra":1}]}"#,
        );
        let second = changed(
            first.copy_as("registry.ollama.ai/library/b", SystemTime::UNIX_EPOCH),
            r#"{"system":"T","parser":"Q","template":"","parameters":{"seed":3}}"#,
        );
        assert_eq!((second.name.as_str(), second.from.as_str()), ("b:latest", "base"));
        assert_eq!((second.system.as_str(), second.license.len()), ("T", 2));
        assert_eq!((second.template.as_str(), second.renderer.as_str()), ("T", "R"));
        assert_eq!((second.parser.as_str(), second.requires.as_str()), ("Q", "0.1.0"));
        let parameters = Value::Object(second.parameters.clone()).to_string();
        assert_eq!(parameters, r#"{"seed":3,"stop":["x"],"top_k":2}"#);
        assert_eq!(second.messages[0].get(), r#"{"role":"user","content":"hi"}"#);
        second.validate().expect("the invariant");
    }

    #[test]
    fn a_damaged_model_is_told_by_its_name() {
        let good = VirtualModel::alias("a", "b", SystemTime::UNIX_EPOCH);
        let check = |change: fn(&mut VirtualModel), expected: &str| {
            let mut model = good.clone();
            change(&mut model);
            let told = model.validate().expect_err(expected);
            assert!(told.ends_with(expected), "{told}");
        };
        good.validate().expect("good");
        check(|it| it.name = "a".into(), "an invalid name");
        check(|it| it.from.clear(), "an empty \"from\"");
        check(|it| it.modified_at = "soon".into(), "an invalid \"modified_at\" (not RFC 3339)");
        check(|it| drop(it.parameters.insert("seed".into(), "x".into())), "invalid parameters");
        let five = |it: &mut VirtualModel| {
            it.messages = vec![RawValue::from_string("5".into()).expect("JSON")];
        };
        check(five, "an invalid message");
    }
}
