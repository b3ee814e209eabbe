//! What may be done about a refusal (openai-wire.md 3.4 to 3.6, 3.9).
//!
//! A member is renamed, given a value that the upstream takes, or left out so that the model's own
//! default holds. Never touched: the model, the tools, the words of the conversation, a limit that was
//! asked for, and that an answer is to be JSON. Knows nothing of connections.

#[cfg(test)]
mod tests;

use std::fmt;

use serde_json::{Map, Value};

use super::refusal::{self, Named};
use crate::api::openai::request::ResponseFormat;
use crate::backends::errors::Details;

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
    "tool_choice",
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

pub(super) const EFFORT: &str = "reasoning_effort";

/// A request that can be repaired.
pub trait Adaptable {
    /// The upstream's id of the model.
    fn model(&self) -> &str;

    /// The parameters beside those that every request has, where there can be any.
    fn sampling(&self) -> Option<&Map<String, Value>> {
        None
    }

    /// Whether a member outside of [`Adaptable::sampling`] is sent.
    fn has(&self, member: &str) -> bool;

    /// Whether somebody in the conversation has this role; nobody where there is no conversation.
    fn has_role(&self, _role: &str) -> bool {
        false
    }

    /// The wanted form of the answer, where it can be changed.
    fn format(&self) -> Option<&ResponseFormat<'_>> {
        None
    }

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
