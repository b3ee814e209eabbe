//! Makes repairs to each kind of request of our own.
//!
//! What to repair is decided in `plan`. Invariant: a repair returns `true` only if it changed the request;
//! it never drops a message or a tool, nor that the response is JSON.

use serde_json::{Map, Value};

use super::plan::prefill::{GO_ON, TEMPLATE_KWARGS};
use super::plan::{EFFORT_FIELD, Repair, Repairable, TOKEN_LIMIT_FIELDS, is_at_edge};
use crate::api::openai::request::{
    CONTINUE_FINAL_MESSAGE, ChatRequest, CompletionRequest, EmbeddingRequest, InfillRequest,
    Message, ResponseFormat, StreamOptions,
};
use crate::translate::format;

/// Repairs of parameters, which all kinds of requests share; `None` for other repairs.
fn apply_to_sampling(sampling: &mut Map<String, Value>, repair: &Repair) -> Option<bool> {
    Some(match repair {
        Repair::Omit("logprobs") => {
            let top = sampling.remove("top_logprobs").is_some();
            sampling.remove("logprobs").is_some() || top
        }
        Repair::Omit("continue_final_message" | "add_generation_prompt") => {
            let found = CONTINUE_FINAL_MESSAGE.map(|(name, _)| sampling.remove(name).is_some());
            found.contains(&true)
        }
        Repair::Omit(member) => sampling.remove(*member).is_some(),
        Repair::LowerLimit { to, .. } => {
            let limits = TOKEN_LIMIT_FIELDS.into_iter();
            let lowered = limits.filter(|name| {
                let limit =
                    sampling.get_mut(*name).filter(|it| it.as_u64().is_some_and(|it| it > *to));
                limit.map(|limit| *limit = (*to).into()).is_some()
            });
            lowered.count() > 0
        }
        Repair::SetToNearest { member, value } => {
            let Ok(nearest) = serde_json::from_str(value) else { return Some(false) };
            match sampling.get_mut(*member) {
                Some(sent) if is_at_edge(member, sent) => {
                    *sent = nearest;
                    true
                }
                _ => false,
            }
        }
        Repair::ContinueFinalMessage => {
            let added = CONTINUE_FINAL_MESSAGE.map(|(name, value)| {
                sampling.insert(name.to_owned(), value.into()) != Some(value.into())
            });
            added.contains(&true)
        }
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

/// Sets the switch that chat templates read for reasoning; `false` if it was set already.
fn disable_thinking(sampling: &mut Map<String, Value>) -> bool {
    let kwargs = sampling.entry(TEMPLATE_KWARGS).or_insert_with(|| Value::Object(Map::new()));
    let Some(kwargs) = kwargs.as_object_mut() else { return false };
    kwargs.insert("enable_thinking".to_owned(), false.into()) != Some(false.into())
}

/// Removes all stop sequences but the first `most`. The others are watched for in the response instead,
/// which becomes a stream, so that it can be ended where one matches.
fn watch_stop_locally(
    most: usize,
    sampling: &mut Map<String, Value>,
    watched: &mut Vec<String>,
    stream: &mut bool,
    stream_options: &mut Option<StreamOptions>,
) -> bool {
    let Some(Value::Array(stop)) = sampling.get_mut("stop") else { return false };
    if stop.len() <= most {
        return false;
    }
    let others = stop.split_off(most);
    watched.extend(others.iter().filter_map(Value::as_str).map(str::to_owned));
    if stop.is_empty() {
        sampling.remove("stop");
    }
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

    fn ends_with_assistant(&self) -> bool {
        self.messages.last().is_some_and(Message::is_prefill)
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
            Repair::Omit("stop") | Repair::LimitStops(_) => {
                let most = if let Repair::LimitStops(most) = repair { *most } else { 0 };
                let Self { sampling, watched_stop, stream, stream_options, .. } = self;
                watch_stop_locally(most, sampling, watched_stop, stream, stream_options)
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
            Repair::ContinueFinalMessage if !self.ends_with_assistant() => false,
            Repair::DisableThinkingForPrefill => {
                self.ends_with_assistant() && disable_thinking(&mut self.sampling)
            }
            Repair::AskToGoOn => {
                let is_continued = self.ends_with_assistant();
                if is_continued {
                    CONTINUE_FINAL_MESSAGE
                        .iter()
                        .for_each(|(name, _)| drop(self.sampling.remove(*name)));
                    self.messages.push(Message::text("user", GO_ON));
                }
                is_continued
            }
            Repair::Omit(_)
            | Repair::Rename { .. }
            | Repair::SetEffort { .. }
            | Repair::LowerLimit { .. }
            | Repair::SetToNearest { .. }
            | Repair::ContinueFinalMessage => {
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
            Repair::Omit("stop") | Repair::LimitStops(_) => {
                let most = if let Repair::LimitStops(most) = repair { *most } else { 0 };
                let Self { sampling, watched_stop, stream, stream_options, .. } = self;
                watch_stop_locally(most, sampling, watched_stop, stream, stream_options)
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
        !matches!(repair, Repair::Omit("stop") | Repair::LimitStops(_))
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
