//! Makes repairs to each kind of request of our own.
//!
//! What to repair is decided in `plan`. Invariant: a repair returns `true` only if it changed the request;
//! it never drops a message or a tool, nor that the response is JSON.

use serde_json::{Map, Value};

use super::plan::{EFFORT_FIELD, Repair, Repairable};
use crate::api::openai::request::{
    ChatRequest, CompletionRequest, EmbeddingRequest, InfillRequest, Message, ResponseFormat,
    StreamOptions,
};
use crate::translate::format;

/// Repairs of parameters, which all kinds of requests share; `None` for other repairs.
fn apply_to_sampling(sampling: &mut Map<String, Value>, repair: &Repair) -> Option<bool> {
    Some(match repair {
        Repair::Omit("logprobs") => {
            let top = sampling.remove("top_logprobs").is_some();
            sampling.remove("logprobs").is_some() || top
        }
        Repair::Omit(member) => sampling.remove(*member).is_some(),
        Repair::Rename { from, to } => match sampling.remove(*from) {
            Some(limit) => {
                sampling.insert((*to).to_owned(), limit);
                true
            }
            None => false,
        },
        Repair::SetEffort { from, to } => match sampling.get_mut(EFFORT_FIELD) {
            Some(effort) if effort == from => {
                *effort = Value::from(to.as_str());
                true
            }
            _ => false,
        },
        _ => return None,
    })
}

/// Removes the stop sequences. They are watched for in the response instead, which becomes a stream, so
/// that it can be ended where one matches.
fn watch_stop_locally(
    sampling: &mut Map<String, Value>,
    watched: &mut Vec<String>,
    stream: &mut bool,
    stream_options: &mut Option<StreamOptions>,
) -> bool {
    let Some(stop) = sampling.remove("stop") else { return false };
    let texts = stop.as_array().into_iter().flatten();
    watched.extend(texts.filter_map(Value::as_str).map(str::to_owned));
    if !std::mem::replace(stream, true) {
        *stream_options = StreamOptions::for_stream(true);
    }
    true
}

impl Repairable for ChatRequest<'_> {
    fn model(&self) -> &str {
        self.model
    }

    fn sampling(&self) -> Option<&Map<String, Value>> {
        Some(&self.sampling)
    }

    fn has_fixed_field(&self, member: &str) -> bool {
        match member {
            "model" | "messages" | "stream" => true,
            "tools" => !self.tools.is_empty(),
            "tool_choice" => self.tool_choice.is_some(),
            "stream_options" => self.stream_options.is_some(),
            "response_format" => self.response_format.is_some(),
            _ => false,
        }
    }

    fn has_role(&self, role: &str) -> bool {
        self.messages.iter().any(|message| message.role == role)
    }

    fn response_format(&self) -> Option<&ResponseFormat<'_>> {
        self.response_format.as_ref()
    }

    fn apply(&mut self, repair: &Repair) -> bool {
        match repair {
            Repair::Omit("stream_options") => self.stream_options.take().is_some(),
            // Ollama itself ignores it.
            Repair::Omit("tool_choice") => self.tool_choice.take().is_some(),
            Repair::Omit("stop") => {
                let Self { sampling, watched_stop, stream, stream_options, .. } = self;
                watch_stop_locally(sampling, watched_stop, stream, stream_options)
            }
            Repair::DisableEffortWithTools => {
                let changes = !self.tools.is_empty()
                    && self.sampling.get(EFFORT_FIELD).is_none_or(|effort| effort != "none");
                if changes {
                    self.sampling.insert(EFFORT_FIELD.to_owned(), "none".into());
                }
                changes
            }
            Repair::UseDeveloperRole => {
                let system = self.messages.iter_mut().filter(|message| message.role == "system");
                system.map(|message| message.role = "developer".into()).count() > 0
            }
            Repair::FoldSystemIntoUser => fold_system_into_user(&mut self.messages),
            Repair::DropStrict
            | Repair::ObjectToSchema
            | Repair::SchemaToPrompt
            | Repair::MentionJson => self.apply_to_format(repair),
            Repair::Omit(_) | Repair::Rename { .. } | Repair::SetEffort { .. } => {
                apply_to_sampling(&mut self.sampling, repair).unwrap_or(false)
            }
        }
    }
}

impl ChatRequest<'_> {
    fn apply_to_format(&mut self, repair: &Repair) -> bool {
        let Some(format) = &mut self.response_format else { return false };
        match (repair, &mut *format) {
            (Repair::DropStrict, ResponseFormat::JsonSchema { json_schema }) => {
                json_schema.strict.take().is_some()
            }
            (Repair::ObjectToSchema, ResponseFormat::JsonObject) => {
                match format::any_object_format() {
                    Some(object) => {
                        *format = object;
                        true
                    }
                    None => false,
                }
            }
            (Repair::SchemaToPrompt, ResponseFormat::JsonSchema { json_schema }) => {
                let words = format::schema_to_instruction(json_schema.schema.get());
                *format = ResponseFormat::JsonObject;
                self.messages.insert(0, Message::text("system", words));
                true
            }
            (Repair::MentionJson, _) => {
                let has_word = |message: &Message<'_>| message.as_text().contains("JSON");
                let lacks = !self.messages.iter().any(has_word);
                if lacks {
                    self.messages.insert(0, Message::text("system", format::JSON_INSTRUCTION));
                }
                lacks
            }
            _ => false,
        }
    }
}

/// Moves all instructions to the beginning of the first user message.
fn fold_system_into_user(messages: &mut Vec<Message<'_>>) -> bool {
    let is_system = |message: &Message<'_>| message.role == "system" || message.role == "developer";
    let texts: Vec<String> =
        messages.iter().filter(|it| is_system(it)).map(|it| it.as_text().to_owned()).collect();
    if texts.is_empty() {
        return false;
    }
    let text = texts.join("\n\n");
    messages.retain(|message| !is_system(message));
    match messages.iter_mut().find(|message| message.role == "user") {
        Some(user) => {
            let said = user.as_text();
            let whole = if said.is_empty() { text } else { format!("{text}\n\n{said}") };
            user.content = std::mem::take(&mut user.content).with_text(whole);
        }
        None => messages.insert(0, Message::text("user", text)),
    }
    true
}

impl Repairable for CompletionRequest<'_> {
    fn model(&self) -> &str {
        self.model
    }

    fn sampling(&self) -> Option<&Map<String, Value>> {
        Some(&self.sampling)
    }

    fn has_fixed_field(&self, member: &str) -> bool {
        match member {
            "model" | "prompt" | "stream" => true,
            "suffix" => self.suffix.is_some(),
            "stream_options" => self.stream_options.is_some(),
            "response_format" => self.response_format.is_some(),
            _ => false,
        }
    }

    fn apply(&mut self, repair: &Repair) -> bool {
        match repair {
            Repair::Omit("stream_options") => self.stream_options.take().is_some(),
            Repair::Omit("stop") => {
                let Self { sampling, watched_stop, stream, stream_options, .. } = self;
                watch_stop_locally(sampling, watched_stop, stream, stream_options)
            }
            _ => apply_to_sampling(&mut self.sampling, repair).unwrap_or(false),
        }
    }
}

impl Repairable for InfillRequest<'_> {
    fn model(&self) -> &str {
        self.model
    }

    fn sampling(&self) -> Option<&Map<String, Value>> {
        Some(&self.sampling)
    }

    fn has_fixed_field(&self, member: &str) -> bool {
        ["model", "input_prefix", "input_suffix", "stream", "json_schema"].contains(&member)
    }

    fn apply(&mut self, repair: &Repair) -> bool {
        // llama.cpp accepts stop sequences here, and nothing would watch for them.
        *repair != Repair::Omit("stop")
            && apply_to_sampling(&mut self.sampling, repair).unwrap_or(false)
    }
}

impl Repairable for EmbeddingRequest<'_> {
    fn model(&self) -> &str {
        self.model
    }

    fn has_fixed_field(&self, member: &str) -> bool {
        match member {
            "model" | "input" => true,
            "encoding_format" => self.encoding_format.is_some(),
            _ => false,
        }
    }

    fn apply(&mut self, repair: &Repair) -> bool {
        *repair == Repair::Omit("encoding_format") && self.encoding_format.take().is_some()
    }
}
