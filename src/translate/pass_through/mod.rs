//! An OpenAI request that goes to the upstream without being translated.
//!
//! The upstream speaks the same protocol, so a body goes on byte for byte. If only the model has
//! another name upstream, the name is replaced where it stands; if more changes (the defaults of a
//! virtual model, results in another order than their calls, a repair after a refusal), the object is written anew from its members, each as
//! the client wrote it. Members unknown to the proxy pass unchanged. Pure.

pub mod result_order;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::Range;

use crate::api::ollama::decode;
use crate::api::openai::raw_object::{self, RawObject};
use crate::error::{Error, Result};

/// The upstream endpoint that a body is for.
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
    /// `responses/compact`
    ResponsesCompact,
}

impl Endpoint {
    /// The path below the base URL.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "chat/completions",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::Responses => "responses",
            Self::ResponsesCompact => "responses/compact",
        }
    }

    /// The Go type that Ollama reads the request into, for error texts.
    fn go_type(self) -> &'static str {
        match self {
            Self::Chat => "ChatCompletionRequest",
            Self::Completions => "CompletionRequest",
            Self::Embeddings => "EmbedRequest",
            Self::Responses => "ResponsesRequest",
            Self::ResponsesCompact => "ResponsesCompactRequest",
        }
    }
}

/// A body and the changes to it.
pub struct PassBody<'a> {
    text: &'a str,
    pub(crate) object: RawObject<'a>,
    /// The model as the client named it.
    requested_model: Option<String>,
    /// The upstream's id of the model.
    model: String,
    edit: Edit,
}

/// How far the body to send differs from the client's.
enum Edit {
    Unchanged,
    /// Only the name of the model differs; its value stands at this range.
    ModelName(Range<usize>),
    /// The object is written anew.
    Rewrite,
}

impl<'a> PassBody<'a> {
    /// Reads the members of a body.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] in Go's words.
    pub fn parse(text: &'a str, endpoint: Endpoint) -> Result<Self> {
        let object: RawObject<'a> = decode::parse(text, endpoint.go_type())?;
        // Go matches keys in any case, ignores null, and lets the last duplicate win.
        let names = object.members().filter(|(key, value)| is_model_key(key) && *value != "null");
        let requested_model =
            names.last().map(|(_, value)| parse_model_name(value, endpoint)).transpose()?;
        Ok(Self { text, object, requested_model, model: String::new(), edit: Edit::Unchanged })
    }

    /// The model as the client named it.
    pub fn requested_model(&self) -> Option<&str> {
        self.requested_model.as_deref()
    }

    /// The upstream's id of the model.
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
            [("model", Cow::Borrowed(value))] => {
                Edit::ModelName(raw_object::subslice_range(self.text.as_bytes(), value))
            }
            _ => Edit::Rewrite,
        };
        self.object.canonicalize_key("model");
        self.object.set("model", raw_object::quote_json(id));
    }

    /// The members, to be changed; the body is then written anew.
    pub(crate) fn object_mut(&mut self) -> &mut RawObject<'a> {
        self.edit = Edit::Rewrite;
        &mut self.object
    }

    /// The body to send upstream.
    pub fn to_bytes(&self) -> Cow<'a, [u8]> {
        match &self.edit {
            Edit::Unchanged => Cow::Borrowed(self.text.as_bytes()),
            Edit::ModelName(range) => {
                let (before, after) = (&self.text[..range.start], &self.text[range.end..]);
                let model = raw_object::quote_json(&self.model);
                Cow::Owned([before, &model, after].concat().into_bytes())
            }
            Edit::Rewrite => Cow::Owned(self.object.to_json().into_bytes()),
        }
    }
}

/// A chat message that consists of text.
pub(crate) fn encode_message(role: &str, text: &str) -> String {
    let (role, text) = (raw_object::quote_json(role), raw_object::quote_json(text));
    format!("{{\"role\":{role},\"content\":{text}}}")
}

fn is_model_key(key: &str) -> bool {
    key.eq_ignore_ascii_case("model")
}

fn parse_model_name(value: &str, endpoint: Endpoint) -> Result<String> {
    let kind = decode::go_type_of(value);
    if kind != "string" {
        return Err(Error::invalid_request(format!(
            "json: cannot unmarshal {kind} into Go struct field {}.model of type string",
            endpoint.go_type()
        )));
    }
    let reason = "invalid character in string escape code";
    serde_json::from_str(value).map_err(|_| Error::invalid_request(reason))
}
