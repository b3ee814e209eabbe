//! A request that is passed on as it is, as far as nothing in it must change (ollama-api.md 14).
//!
//! The upstream speaks OpenAI's protocol itself, so a body goes on as the very same bytes; where only
//! the model has another name there, that name is put in its place; and where a virtual model lies
//! over it or a member is refused, it is put together anew from its members as they were written.
//! Members that nobody knows here pass like all others. Pure.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::cell::OnceCell;
use std::ops::Range;

use serde_json::{Map, Value};

use super::{history, options};
use crate::api::ollama::decode;
use crate::api::openai::raw_object;
use crate::api::openai::raw_object::RawObject;
use crate::api::openai::request::ResponseFormat;
use crate::backends::profiles::Profile;
use crate::error::{Error, Result};
use crate::models::virtual_model::VirtualModel;

/// Which of the upstream's endpoints a body is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `chat/completions`
    Chat,
    /// `completions`
    Completions,
    /// `embeddings`
    Embeddings,
    /// `responses`
    Responses,
}

impl Endpoint {
    /// Below the base URL.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "chat/completions",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::Responses => "responses",
        }
    }

    /// Ollama's name of the request, for errors.
    fn go_type(self) -> &'static str {
        match self {
            Self::Chat => "ChatCompletionRequest",
            Self::Completions => "CompletionRequest",
            Self::Embeddings => "EmbedRequest",
            Self::Responses => "ResponsesRequest",
        }
    }
}

/// A body and what is to be changed in it.
pub struct PassBody<'a> {
    text: &'a str,
    pub(crate) object: RawObject<'a>,
    /// As the client named it.
    requested_model: Option<String>,
    /// The upstream's id.
    model: String,
    edit: Edit,
    /// What a refusal can be about, read only when there is one.
    pub(crate) sampling: OnceCell<Map<String, Value>>,
    pub(crate) format: OnceCell<Option<ResponseFormat<'static>>>,
}

/// How far a body differs from what was sent.
enum Edit {
    Unchanged,
    /// Only in the name of the model, which stands here.
    ModelName(Range<usize>),
    /// In more.
    Rewrite,
}

impl<'a> PassBody<'a> {
    /// Reads the members of a body.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] in Go's words.
    pub fn parse(text: &'a str, endpoint: Endpoint) -> Result<Self> {
        let object: RawObject<'a> = decode::parse(text, endpoint.go_type())?;
        let spelled = |(key, value): &(&str, &Cow<'_, str>)| {
            key.eq_ignore_ascii_case("model") && value.as_ref() != "null"
        };
        let sent = match object.members().filter(spelled).last() {
            Some((_, value)) => Some(parse_model_name(value, endpoint)?),
            None => None,
        };
        Ok(Self {
            text,
            object,
            requested_model: sent,
            model: String::new(),
            edit: Edit::Unchanged,
            sampling: OnceCell::new(),
            format: OnceCell::new(),
        })
    }

    /// The model as the client named it.
    #[must_use]
    pub fn requested_model(&self) -> Option<&str> {
        self.requested_model.as_deref()
    }

    /// The upstream's id of the model.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Names the model as the upstream does.
    pub fn set_model(&mut self, id: &str) {
        id.clone_into(&mut self.model);
        let spellings: Vec<_> =
            self.object.members().filter(|(key, _)| is_model_key(key)).collect();
        self.edit = match spellings[..] {
            [("model", _)] if self.requested_model.as_deref() == Some(id) => return,
            [("model", Cow::Borrowed(value))] => Edit::ModelName(subslice_range(self.text, value)),
            _ => Edit::Rewrite,
        };
        self.object.canonicalize_key("model");
        self.object.set("model", raw_object::quote_json(id));
    }

    /// The members, to be changed.
    pub(crate) fn object_mut(&mut self) -> &mut RawObject<'a> {
        self.edit = Edit::Rewrite;
        (self.sampling, self.format) = (OnceCell::new(), OnceCell::new());
        &mut self.object
    }

    /// Whether it is still what the client sent, byte for byte.
    #[must_use]
    pub fn is_unmodified(&self) -> bool {
        matches!(self.edit, Edit::Unchanged)
    }

    /// What is sent upstream.
    #[must_use]
    pub fn to_bytes(&self) -> Cow<'a, [u8]> {
        match &self.edit {
            Edit::Unchanged => Cow::Borrowed(self.text.as_bytes()),
            Edit::ModelName(place) => {
                let (before, after) = (&self.text[..place.start], &self.text[place.end..]);
                Cow::Owned(
                    [before, &raw_object::quote_json(&self.model), after].concat().into_bytes(),
                )
            }
            Edit::Rewrite => Cow::Owned(self.object.to_json().into_bytes()),
        }
    }

    /// Adds what a virtual model brings and the request does not say: for a chat the system prompt,
    /// the stored messages and the options, for a response the prompt as `instructions` and the
    /// options, for a completion the options.
    ///
    /// # Errors
    /// None that a stored model could make: what it holds was checked.
    pub fn apply_defaults(
        &mut self,
        model: &VirtualModel,
        endpoint: Endpoint,
        profile: &Profile,
    ) -> Result<()> {
        match endpoint {
            Endpoint::Chat => self.apply_default_messages(model)?,
            Endpoint::Responses
                if !model.system.is_empty() && !self.object.has_value("instructions") =>
            {
                self.object_mut().set("instructions", raw_object::quote_json(&model.system));
            }
            Endpoint::Completions | Endpoint::Responses | Endpoint::Embeddings => {}
        }
        if endpoint == Endpoint::Embeddings || model.parameters.is_empty() {
            return Ok(());
        }
        let options = options::parse(Some(&model.parameters))?.for_chat(profile);
        for (name, value) in options {
            let limit = ["max_tokens", "max_completion_tokens", "max_output_tokens"];
            let is_limit = limit.contains(&name.as_str());
            let name = match endpoint {
                Endpoint::Completions if is_limit => "max_tokens",
                Endpoint::Responses if is_limit => "max_output_tokens",
                // The others are no members of a response's request.
                Endpoint::Responses if !["temperature", "top_p"].contains(&name.as_str()) => {
                    continue;
                }
                _ => name.as_str(),
            };
            let says = |name: &&str| self.object.has_value(name);
            if !(is_limit && limit.iter().any(says) || says(&name)) {
                self.object_mut().set(name, value.to_string());
            }
        }
        Ok(())
    }

    fn apply_default_messages(&mut self, model: &VirtualModel) -> Result<()> {
        let Some(own) = self.object.get("messages").and_then(raw_object::parse_items) else {
            return Ok(());
        };
        let role = |message: &str| RawObject::parse(message).and_then(|it| it.get_string("role"));
        let first = own.first().and_then(|message| role(message)).unwrap_or_default();
        let instructed = ["system", "developer"].iter().any(|it| first.eq_ignore_ascii_case(it));
        let mut messages = Vec::with_capacity(own.len() + model.messages.len() + 1);
        if !model.system.is_empty() && !instructed {
            messages.push(encode_message("system", &model.system));
        }
        let stored = model.stored_messages();
        for message in history::to_openai(&stored)? {
            let text = serde_json::to_string(&message);
            messages.push(text.map_err(|_| Error::Internal("a message that is no JSON"))?);
        }
        if messages.is_empty() {
            return Ok(());
        }
        messages.extend(own.into_iter().map(str::to_owned));
        let messages = raw_object::join_items(&messages);
        self.object_mut().set("messages", messages);
        Ok(())
    }
}

/// A message of text.
#[must_use]
pub(crate) fn encode_message(role: &str, text: &str) -> String {
    format!(
        "{{\"role\":{},\"content\":{}}}",
        raw_object::quote_json(role),
        raw_object::quote_json(text)
    )
}

fn is_model_key(key: &str) -> bool {
    key.eq_ignore_ascii_case("model")
}

fn parse_model_name(value: &str, endpoint: Endpoint) -> Result<String> {
    let kind = match value.as_bytes().first() {
        Some(b'"') => {
            return serde_json::from_str(value)
                .map_err(|_| Error::invalid_request("invalid character in string escape code"));
        }
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b't' | b'f') => "bool",
        _ => "number",
    };
    let place = endpoint.go_type();
    Err(Error::invalid_request(format!(
        "json: cannot unmarshal {kind} into Go struct field {place}.model of type string"
    )))
}

/// Where a part of a text stands in it.
fn subslice_range(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - text.as_ptr().addr();
    start..start + part.len()
}
