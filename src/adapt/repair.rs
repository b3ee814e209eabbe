//! What may be done about a refusal, and doing it (openai-wire.md 3.4 to 3.6, 3.9).
//!
//! A member is renamed, given a value that the upstream takes, or left out so that the model's own
//! default holds. Never touched: the model, the tools, the words of the conversation, a limit that was
//! asked for, and that an answer is to be JSON. Knows nothing of connections.

use std::fmt;

use serde_json::{Map, Value};

use super::refusal::{self, Named};
use crate::openai::request::{
    ChatRequest, CompletionRequest, EmbeddingRequest, InfillRequest, Message, ResponseFormat,
};
use crate::translate::format;
use crate::upstream_error::Details;

/// One change to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// A parameter is left out; `stop` is then watched for in the answer, and `logprobs` takes its
    /// alternatives along.
    LeaveOut(&'static str),
    /// The limit of tokens goes by its other name.
    Rename {
        /// The refused name.
        from: &'static str,
        /// The other one.
        to: &'static str,
    },
    /// `reasoning_effort` gets the nearest value that is allowed.
    Effort {
        /// The refused value.
        from: String,
        /// The nearest one.
        to: String,
    },
    /// The model reasons or calls tools, not both: it does not reason while there are tools.
    NoEffortWithTools,
    /// Instructions come from the `developer` and not from the `system`.
    DeveloperRole,
    /// Instructions stand at the beginning of the first user's message.
    FoldSystem,
    /// A schema is no longer said to be strict.
    NotStrict,
    /// Any JSON object is asked for by a schema.
    ObjectAsSchema,
    /// A schema is told in words, and any JSON object asked for.
    SchemaAsWords,
    /// The word "JSON" stands in a message, as some servers insist.
    JsonWord,
}

impl Repair {
    /// Whether it takes another one back.
    #[must_use]
    pub fn undoes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Rename { from, to }, Self::Rename { from: back, to: forth }) => {
                from == forth && to == back
            }
            _ => false,
        }
    }
}

/// Parameters that may be left out: without them the model's own default holds.
const OPTIONAL: &[&str] = &[
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "seed",
    "random_seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "repeat_penalty",
    "repetition_penalty",
    "repeat_last_n",
    "n_keep",
    "logprobs",
    "top_logprobs",
    "stream_options",
    "parallel_tool_calls",
    "chat_template_kwargs",
    "reasoning_effort",
    "reasoning",
    "reasoning_format",
    "thinking",
    "ttl",
    "encoding_format",
];

/// The two names of the limit.
const LIMITS: [&str; 2] = ["max_tokens", "max_completion_tokens"];

/// Efforts from the least to the most.
const EFFORTS: &[&str] = &["none", "minimal", "low", "medium", "high", "xhigh", "max"];

const EFFORT: &str = "reasoning_effort";

/// A request that can be repaired.
pub trait Adaptable {
    /// The upstream's id of the model.
    fn model(&self) -> &str;

    /// The parameters beside those that every request has, where there can be any.
    fn sampling(&self) -> Option<&Map<String, Value>>;

    /// Whether a member outside of [`Adaptable::sampling`] is sent.
    fn has(&self, member: &str) -> bool;

    /// The conversation's roles; none where there is no conversation.
    fn has_role(&self, role: &str) -> bool;

    /// The wanted form of the answer.
    fn format(&self) -> Option<&ResponseFormat<'_>>;

    /// Makes a change; whether there was anything to change.
    fn apply(&mut self, repair: &Repair) -> bool;

    /// Whether a member is sent.
    fn sends(&self, member: &str) -> bool {
        self.sampling().is_some_and(|sampling| sampling.contains_key(member)) || self.has(member)
    }
}

/// What may be done about a refusal; nothing where only a person can.
#[must_use]
pub fn repairs(details: &Details, request: &impl Adaptable) -> Vec<Repair> {
    let text = details.message.to_ascii_lowercase();
    if let Some(repair) = by_sentence(&text, request) {
        return vec![repair];
    }
    let blames_format = details.param.as_deref().is_some_and(is_format);
    if request.format().is_some() && (blames_format || is_format(&text)) {
        return of_format(&text, request).into_iter().collect();
    }
    let mut out = Vec::new();
    for named in refusal::named(details) {
        let root = named.path.split(['.', '[']).next().unwrap_or_default();
        if named.path.ends_with(".role") {
            out.extend(of_role(request));
        } else if request.sends(root) {
            match of_member(root, &named, request) {
                Some(repair) => out.push(repair),
                // One member that must stay is enough to be refused again.
                None => return Vec::new(),
            }
        }
    }
    out
}

/// Refusals that are known by a whole sentence.
fn by_sentence(text: &str, request: &impl Adaptable) -> Option<Repair> {
    let says = |words: &str| text.contains(words);
    if says("function tools with reasoning_effort are not supported") && request.has("tools") {
        return Some(Repair::NoEffortWithTools);
    }
    if says("system role not supported") || says("system role is not supported") {
        return Some(Repair::FoldSystem).filter(|_| request.has_role("system"));
    }
    let word = says("must contain the word 'json'") && request.format().is_some();
    word.then_some(Repair::JsonWord)
}

fn is_format(text: &str) -> bool {
    ["response_format", "json_schema", "json_object"].iter().any(|word| text.contains(word))
}

/// The next step down, as long as the answer is sure to be JSON.
fn of_format(text: &str, request: &impl Adaptable) -> Option<Repair> {
    if text.contains("mutually exclusive") {
        return None;
    }
    match request.format()? {
        ResponseFormat::JsonSchema { json_schema } if json_schema.strict.is_some() => {
            Some(Repair::NotStrict)
        }
        // The schema itself is wrong, which its writer must learn.
        ResponseFormat::JsonSchema { .. } if text.contains("invalid schema") => None,
        ResponseFormat::JsonSchema { .. } => Some(Repair::SchemaAsWords),
        ResponseFormat::JsonObject => {
            text.contains("json_schema").then_some(Repair::ObjectAsSchema)
        }
        // TGI's own form, sent to nobody else.
        ResponseFormat::Json { .. } => None,
    }
}

fn of_role(request: &impl Adaptable) -> Option<Repair> {
    if request.has_role("system") {
        Some(Repair::DeveloperRole)
    } else {
        request.has_role("developer").then_some(Repair::FoldSystem)
    }
}

fn of_member(member: &str, named: &Named, request: &impl Adaptable) -> Option<Repair> {
    if let Some(at) = LIMITS.iter().position(|limit| *limit == member) {
        let (from, to) = (LIMITS[at], LIMITS[1 - at]);
        let other = named.instead.as_deref().is_none_or(|name| name == to);
        return other.then_some(Repair::Rename { from, to });
    }
    if member == EFFORT
        && let Some(from) = request.sampling().and_then(|sampling| sampling.get(EFFORT)?.as_str())
        && let Some(to) = nearest(from, &named.allowed)
    {
        return Some(Repair::Effort { from: from.to_owned(), to });
    }
    let member = OPTIONAL.iter().find(|known| **known == member)?;
    Some(Repair::LeaveOut(if *member == "top_logprobs" { "logprobs" } else { member }))
}

/// The allowed effort that is nearest to the refused one; where two are as near, the smaller.
fn nearest(refused: &str, allowed: &[String]) -> Option<String> {
    let place = |word: &str| EFFORTS.iter().position(|known| *known == word);
    let wanted = place(refused)?;
    let known = allowed.iter().filter(|word| *word != refused);
    let ranked = known.filter_map(|word| Some((place(word)?.abs_diff(wanted), place(word)?, word)));
    match ranked.min() {
        // Groq's Qwen knows "none" and "default" only.
        Some((_, 0, _)) if wanted > 0 && allowed.iter().any(|word| word == "default") => {
            Some("default".to_owned())
        }
        Some((_, _, word)) => Some(word.clone()),
        None => None,
    }
}

/// Changes to parameters, which all requests share; `None` for other changes.
fn apply_to_sampling(sampling: &mut Map<String, Value>, repair: &Repair) -> Option<bool> {
    Some(match repair {
        Repair::LeaveOut("logprobs") => {
            let top = sampling.remove("top_logprobs").is_some();
            sampling.remove("logprobs").is_some() || top
        }
        Repair::LeaveOut(member) => sampling.remove(*member).is_some(),
        Repair::Rename { from, to } => match sampling.remove(*from) {
            Some(limit) => {
                sampling.insert((*to).to_owned(), limit);
                true
            }
            None => false,
        },
        Repair::Effort { from, to } => match sampling.get_mut(EFFORT) {
            Some(effort) if effort == from => {
                *effort = Value::from(to.as_str());
                true
            }
            _ => false,
        },
        _ => return None,
    })
}

/// Takes the stop sequences out; they are watched for in the answer instead (3.6).
fn watch(sampling: &mut Map<String, Value>, watched: &mut Vec<String>) -> bool {
    let stop = sampling.remove("stop");
    let texts = stop.as_ref().and_then(Value::as_array).into_iter().flatten();
    watched.extend(texts.filter_map(Value::as_str).map(str::to_owned));
    stop.is_some()
}

impl Adaptable for ChatRequest<'_> {
    fn model(&self) -> &str {
        self.model
    }

    fn sampling(&self) -> Option<&Map<String, Value>> {
        Some(&self.sampling)
    }

    fn has(&self, member: &str) -> bool {
        match member {
            "model" | "messages" | "stream" => true,
            "tools" => !self.tools.is_empty(),
            "stream_options" => self.stream_options.is_some(),
            "response_format" => self.response_format.is_some(),
            _ => false,
        }
    }

    fn has_role(&self, role: &str) -> bool {
        self.messages.iter().any(|message| message.role == role)
    }

    fn format(&self) -> Option<&ResponseFormat<'_>> {
        self.response_format.as_ref()
    }

    fn apply(&mut self, repair: &Repair) -> bool {
        match repair {
            Repair::LeaveOut("stream_options") => self.stream_options.take().is_some(),
            Repair::LeaveOut("stop") => watch(&mut self.sampling, &mut self.watched_stop),
            Repair::NoEffortWithTools => {
                let changes = !self.tools.is_empty()
                    && self.sampling.get(EFFORT).is_none_or(|effort| effort != "none");
                if changes {
                    self.sampling.insert(EFFORT.to_owned(), "none".into());
                }
                changes
            }
            Repair::DeveloperRole => {
                let system = self.messages.iter_mut().filter(|message| message.role == "system");
                system.map(|message| message.role = "developer".into()).count() > 0
            }
            Repair::FoldSystem => fold_system(&mut self.messages),
            Repair::NotStrict
            | Repair::ObjectAsSchema
            | Repair::SchemaAsWords
            | Repair::JsonWord => self.apply_to_format(repair),
            Repair::LeaveOut(_) | Repair::Rename { .. } | Repair::Effort { .. } => {
                apply_to_sampling(&mut self.sampling, repair).unwrap_or(false)
            }
        }
    }
}

impl ChatRequest<'_> {
    fn apply_to_format(&mut self, repair: &Repair) -> bool {
        let Some(format) = &mut self.response_format else { return false };
        match (repair, &mut *format) {
            (Repair::NotStrict, ResponseFormat::JsonSchema { json_schema }) => {
                json_schema.strict.take().is_some()
            }
            (Repair::ObjectAsSchema, ResponseFormat::JsonObject) => match format::any_object() {
                Some(object) => {
                    *format = object;
                    true
                }
                None => false,
            },
            (Repair::SchemaAsWords, ResponseFormat::JsonSchema { json_schema }) => {
                let words = format!(
                    "Answer with JSON that this JSON Schema allows, and with nothing else: {}",
                    json_schema.schema.get()
                );
                *format = ResponseFormat::JsonObject;
                self.messages.insert(0, Message::text("system", words));
                true
            }
            (Repair::JsonWord, _) => {
                let has_word = |message: &Message<'_>| message.as_text().contains("JSON");
                let lacks = !self.messages.iter().any(has_word);
                if lacks {
                    self.messages.insert(0, Message::text("system", format::JSON_WORD));
                }
                lacks
            }
            _ => false,
        }
    }
}

/// Moves all instructions to the beginning of the first user's message.
fn fold_system(messages: &mut Vec<Message<'_>>) -> bool {
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

impl Adaptable for CompletionRequest<'_> {
    fn model(&self) -> &str {
        self.model
    }

    fn sampling(&self) -> Option<&Map<String, Value>> {
        Some(&self.sampling)
    }

    fn has(&self, member: &str) -> bool {
        match member {
            "model" | "prompt" | "stream" => true,
            "suffix" => self.suffix.is_some(),
            "stream_options" => self.stream_options.is_some(),
            "response_format" => self.response_format.is_some(),
            _ => false,
        }
    }

    fn has_role(&self, _: &str) -> bool {
        false
    }

    /// There is no message in which a schema could be told.
    fn format(&self) -> Option<&ResponseFormat<'_>> {
        None
    }

    fn apply(&mut self, repair: &Repair) -> bool {
        match repair {
            Repair::LeaveOut("stream_options") => self.stream_options.take().is_some(),
            Repair::LeaveOut("stop") => watch(&mut self.sampling, &mut self.watched_stop),
            _ => apply_to_sampling(&mut self.sampling, repair).unwrap_or(false),
        }
    }
}

impl Adaptable for InfillRequest<'_> {
    fn model(&self) -> &str {
        self.model
    }

    fn sampling(&self) -> Option<&Map<String, Value>> {
        Some(&self.sampling)
    }

    fn has(&self, member: &str) -> bool {
        ["model", "input_prefix", "input_suffix", "stream", "json_schema"].contains(&member)
    }

    fn has_role(&self, _: &str) -> bool {
        false
    }

    fn format(&self) -> Option<&ResponseFormat<'_>> {
        None
    }

    fn apply(&mut self, repair: &Repair) -> bool {
        // llama.cpp takes stop sequences here, and nobody would watch for them.
        *repair != Repair::LeaveOut("stop")
            && apply_to_sampling(&mut self.sampling, repair).unwrap_or(false)
    }
}

impl Adaptable for EmbeddingRequest<'_> {
    fn model(&self) -> &str {
        self.model
    }

    fn sampling(&self) -> Option<&Map<String, Value>> {
        None
    }

    fn has(&self, member: &str) -> bool {
        match member {
            "model" | "input" => true,
            "encoding_format" => self.encoding_format.is_some(),
            _ => false,
        }
    }

    fn has_role(&self, _: &str) -> bool {
        false
    }

    fn format(&self) -> Option<&ResponseFormat<'_>> {
        None
    }

    fn apply(&mut self, repair: &Repair) -> bool {
        *repair == Repair::LeaveOut("encoding_format") && self.encoding_format.take().is_some()
    }
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeaveOut(member) => write!(f, "{member} is left out"),
            Self::Rename { from, to } => write!(f, "{from} is sent as {to}"),
            Self::Effort { from, to } => write!(f, "{EFFORT} {from} is sent as {to}"),
            Self::NoEffortWithTools => write!(f, "{EFFORT} is none where there are tools"),
            Self::DeveloperRole => f.write_str("the system speaks as developer"),
            Self::FoldSystem => f.write_str("the system prompt goes to the first user's message"),
            Self::NotStrict => f.write_str("response_format is not strict"),
            Self::ObjectAsSchema => f.write_str("json_object is sent as a json_schema"),
            Self::SchemaAsWords => f.write_str("a json_schema is told in words"),
            Self::JsonWord => f.write_str("the word JSON is in a message"),
        }
    }
}

#[cfg(test)]
mod tests;
