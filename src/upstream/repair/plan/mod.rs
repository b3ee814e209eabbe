//! Decides what may be done about a rejection.
//!
//! A member is renamed, set to a value that the upstream accepts, or removed so that the model's own
//! default applies. Never given up: the model, the tools, the words of the conversation, a token limit,
//! and that the response is JSON. Invariant: no repair is planned for a member that was not sent.

pub(super) mod prefill;
#[cfg(test)]
mod tests;
mod values;

use std::fmt;

use serde_json::{Map, Value};

pub(super) use self::values::is_at_edge;
use super::refusal::{self, RejectedField};
use crate::api::openai::request::ResponseFormat;
use crate::backends::errors::ErrorDetails;

/// One change to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Removes a parameter. `stop` is then watched for in the response, and `top_logprobs` is removed
    /// with `logprobs`.
    Omit(&'static str),
    /// Sends the token limit under its other name.
    Rename {
        /// The rejected name.
        from: &'static str,
        /// The other one.
        to: &'static str,
    },
    /// Sets `reasoning_effort` to the nearest allowed value.
    SetEffort {
        /// The rejected value.
        from: String,
        /// The nearest one.
        to: String,
    },
    /// Turns reasoning off, for a model that either reasons or calls tools.
    DisableEffortWithTools,
    /// Lowers the token limit.
    LowerLimit {
        /// The highest limit to send.
        to: u64,
        /// True if the model accepts no higher one, whatever the prompt.
        is_fixed: bool,
    },
    /// Sends this many stop sequences; the others are watched for in the response.
    LimitStops(usize),
    /// Sends the nearest accepted value in place of one at the edge of a parameter's range.
    SetToNearest {
        /// The parameter.
        member: &'static str,
        /// The value, a JSON number.
        value: &'static str,
    },
    /// Tells the server to continue the assistant's message at the end.
    ContinueFinalMessage,
    /// Turns reasoning off, for a server that cannot reason before it continues a message.
    DisableThinkingForPrefill,
    /// Asks for the continuation of the assistant's message in a user's message behind it.
    AskToGoOn,
    /// Sends instructions with the role `developer` instead of `system`.
    UseDeveloperRole,
    /// Moves instructions to the beginning of the first user message.
    FoldSystemIntoUser,
    /// Removes `strict` from a schema.
    DropStrict,
    /// Replaces `json_object` by a schema that allows any object.
    ObjectToSchema,
    /// Puts a schema into the prompt, and asks for any JSON object.
    SchemaToPrompt,
    /// Adds the word "JSON" to the messages, which some servers require.
    MentionJson,
}

impl Repair {
    /// Whether it undoes another repair.
    pub fn is_inverse_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Rename { from, to }, Self::Rename { from: back, to: forth }) => {
                from == forth && to == back
            }
            (Self::Omit(member), Self::LowerLimit { .. }) => TOKEN_LIMIT_FIELDS.contains(member),
            _ => false,
        }
    }

    /// Whether it depends on the model alone. Other repairs depend on the prompt as well, and say
    /// nothing about the next request.
    pub fn is_reusable(&self) -> bool {
        match self {
            Self::LowerLimit { is_fixed, .. } => *is_fixed,
            Self::Omit(member) => !TOKEN_LIMIT_FIELDS.contains(member),
            _ => true,
        }
    }
}

/// Parameters that may be removed: without them the model's own default applies.
const OPTIONAL_PARAMETERS: &[&str] = &[
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
    "continue_final_message",
    "add_generation_prompt",
    "reasoning_effort",
    "reasoning",
    "reasoning_format",
    "thinking",
    "ttl",
    "encoding_format",
];

/// The two names of the token limit.
pub(super) const TOKEN_LIMIT_FIELDS: [&str; 2] = ["max_tokens", "max_completion_tokens"];

/// Efforts from the least to the greatest.
const EFFORT_LEVELS: &[&str] = &["none", "minimal", "low", "medium", "high", "xhigh", "max"];

pub(super) const EFFORT_FIELD: &str = "reasoning_effort";

/// A request that can be repaired.
pub trait Repairable {
    /// The upstream's id of the model.
    fn model(&self) -> &str;

    /// The optional parameters, if the kind of request has some.
    fn sampling(&self) -> Option<&Map<String, Value>> {
        None
    }

    /// Whether a member other than those of [`Repairable::sampling`] is sent.
    fn has_fixed_field(&self, member: &str) -> bool;

    /// Whether the conversation ends with words of the assistant, to be continued.
    fn ends_with_assistant(&self) -> bool {
        false
    }

    /// Whether a message has this role.
    fn has_role(&self, _role: &str) -> bool {
        false
    }

    /// The requested format of the response, where it can be changed.
    fn response_format(&self) -> Option<&ResponseFormat<'_>> {
        None
    }

    /// Makes a repair; returns whether that changed anything.
    fn apply(&mut self, repair: &Repair) -> bool;

    /// Whether a member is sent.
    fn has_field(&self, member: &str) -> bool {
        self.sampling().is_some_and(|sampling| sampling.contains_key(member))
            || self.has_fixed_field(member)
    }
}

/// The repairs for a rejection; none where only a person can resolve it.
pub fn plan_repairs(details: &ErrorDetails, request: &impl Repairable) -> Vec<Repair> {
    let text = details.message.to_ascii_lowercase();
    if let Some(repair) = match_known_sentence(&text, request) {
        return vec![repair];
    }
    let blames_format = details.param.as_deref().is_some_and(mentions_response_format);
    if request.response_format().is_some() && (blames_format || mentions_response_format(&text)) {
        return plan_format_repair(&text, request).into_iter().collect();
    }
    let mut out = Vec::new();
    for named in refusal::find_rejected_fields(details) {
        let root = named.path.split(['.', '[']).next().unwrap_or_default();
        if named.path.ends_with(".role") {
            out.extend(plan_role_repair(request));
        } else if request.has_field(root) {
            match plan_field_repair(root, &named, request) {
                Some(repair) => out.push(repair),
                // With one member that must stay, the request is rejected again.
                None => return Vec::new(),
            }
        }
    }
    if out.is_empty() {
        out.extend(values::plan_value_repair(details, &text, request));
    }
    out
}

/// Leaves out the token limit, so that the upstream's own applies.
pub fn omit_limit(request: &impl Repairable) -> Repair {
    let [usual, other] = TOKEN_LIMIT_FIELDS;
    Repair::Omit(if request.has_field(usual) { usual } else { other })
}

/// Rejections that are known by a whole sentence.
fn match_known_sentence(text: &str, request: &impl Repairable) -> Option<Repair> {
    let says = |words: &str| text.contains(words);
    if says("function tools with reasoning_effort are not supported")
        && request.has_fixed_field("tools")
    {
        return Some(Repair::DisableEffortWithTools);
    }
    if says("system role not supported") || says("system role is not supported") {
        return Some(Repair::FoldSystemIntoUser).filter(|_| request.has_role("system"));
    }
    if let Some(repair) = prefill::plan_prefill_repair(text, request) {
        return Some(repair);
    }
    let word = says("must contain the word 'json'") && request.response_format().is_some();
    word.then_some(Repair::MentionJson)
}

fn mentions_response_format(text: &str) -> bool {
    ["response_format", "json_schema", "json_object"].iter().any(|word| text.contains(word))
}

/// The next weaker format, as long as the response is sure to be JSON.
fn plan_format_repair(text: &str, request: &impl Repairable) -> Option<Repair> {
    if text.contains("mutually exclusive") {
        return None;
    }
    match request.response_format()? {
        ResponseFormat::JsonSchema { json_schema } if json_schema.strict.is_some() => {
            Some(Repair::DropStrict)
        }
        // The schema itself is wrong, which the client must be told.
        ResponseFormat::JsonSchema { .. } if text.contains("invalid schema") => None,
        ResponseFormat::JsonSchema { .. } => Some(Repair::SchemaToPrompt),
        ResponseFormat::JsonObject => {
            text.contains("json_schema").then_some(Repair::ObjectToSchema)
        }
        // Sent to TGI only.
        ResponseFormat::Json { .. } => None,
    }
}

fn plan_role_repair(request: &impl Repairable) -> Option<Repair> {
    if request.has_role("system") {
        Some(Repair::UseDeveloperRole)
    } else {
        request.has_role("developer").then_some(Repair::FoldSystemIntoUser)
    }
}

fn plan_field_repair(
    member: &str,
    named: &RejectedField,
    request: &impl Repairable,
) -> Option<Repair> {
    if let Some(at) = TOKEN_LIMIT_FIELDS.iter().position(|limit| *limit == member) {
        let (from, to) = (TOKEN_LIMIT_FIELDS[at], TOKEN_LIMIT_FIELDS[1 - at]);
        let other = named.replacement.as_deref().is_none_or(|name| name == to);
        return other.then_some(Repair::Rename { from, to });
    }
    if member == EFFORT_FIELD
        && let Some(from) =
            request.sampling().and_then(|sampling| sampling.get(EFFORT_FIELD)?.as_str())
        && let Some(to) = find_nearest_effort(from, &named.allowed_values)
    {
        return Some(Repair::SetEffort { from: from.to_owned(), to });
    }
    let member = OPTIONAL_PARAMETERS.iter().find(|known| **known == member)?;
    Some(Repair::Omit(if *member == "top_logprobs" { "logprobs" } else { member }))
}

/// The allowed effort nearest to the rejected one; of two equally near ones the smaller.
fn find_nearest_effort(refused: &str, allowed: &[String]) -> Option<String> {
    let place = |word: &str| EFFORT_LEVELS.iter().position(|known| *known == word);
    let wanted = place(refused)?;
    let known = allowed.iter().filter(|word| *word != refused);
    let ranked = known.filter_map(|word| Some((place(word)?.abs_diff(wanted), place(word)?, word)));
    match ranked.min() {
        // Qwen on Groq accepts only "none" and "default".
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
            Self::Omit(member) => write!(f, "{member} removed"),
            Self::Rename { from, to } => write!(f, "{from} renamed to {to}"),
            Self::SetEffort { from, to } => write!(f, "{EFFORT_FIELD} changed from {from} to {to}"),
            Self::DisableEffortWithTools => {
                write!(f, "{EFFORT_FIELD} set to none, because the request has tools")
            }
            Self::LowerLimit { to, .. } => write!(f, "token limit lowered to {to}"),
            Self::LimitStops(most) => write!(f, "all but {most} of the stop sequences removed"),
            Self::SetToNearest { member, value } => write!(f, "{member} changed to {value}"),
            Self::ContinueFinalMessage => f.write_str("continue_final_message added"),
            Self::DisableThinkingForPrefill => {
                f.write_str("reasoning turned off to continue the last message")
            }
            Self::AskToGoOn => f.write_str("request to continue the last message added"),
            Self::UseDeveloperRole => f.write_str("system role sent as developer"),
            Self::FoldSystemIntoUser => {
                f.write_str("system prompt moved into the first user message")
            }
            Self::DropStrict => f.write_str("\"strict\" removed from response_format"),
            Self::ObjectToSchema => {
                f.write_str("json_object replaced by a json_schema that allows any object")
            }
            Self::SchemaToPrompt => {
                f.write_str("json_schema replaced by an instruction in the prompt")
            }
            Self::MentionJson => f.write_str("instruction to answer in JSON added"),
        }
    }
}
