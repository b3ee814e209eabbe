//! The changes that may be made to a request.
//!
//! Which one helps is decided in [`super::plan`]. Invariant: [`Repair::apply`] returns true only if it
//! changed the request, and no repair loses a word, an image, a tool or the wish for JSON.

use serde_json::{Map, Value};

use super::document::{Document, RESPONSE_FORMAT, TOOLS};
use super::turn::Turn;
use super::{calls, context, custom_tools, edges, inner, order, response_format, schemas};
use crate::api::openai::members::MEMBERS;
use crate::api::openai::raw_object;
use crate::api::openai::raw_object::{RawObject, quote_json};
use crate::api::openai::request::CONTINUE_FINAL_MESSAGE;
use crate::api::wire::digest::sha256_hex;

/// The two names of the token limit.
pub(super) const TOKEN_LIMIT_FIELDS: [&str; 2] = ["max_tokens", "max_completion_tokens"];

pub(super) const EFFORT_FIELD: &str = "reasoning_effort";

/// The variables of a chat template (vLLM, SGLang, llama.cpp).
pub(super) const TEMPLATE_KWARGS: &str = "chat_template_kwargs";

/// The mark of the prompt cache (Anthropic API reference, prompt caching).
const CACHE_MARK: &str = "cache_control";

/// The request for a continuation, where the upstream accepts no assistant's message at the end.
const GO_ON: &str = "Go on exactly where your last message stops. Repeat nothing of it.";

/// One change to a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Repair {
    /// Removes a parameter. `stop` is then watched for in the response, and `top_logprobs` is removed
    /// with `logprobs`.
    Omit(String),
    /// Removes a parameter where another one is sent, too.
    OmitBeside {
        /// What is removed.
        member: String,
        /// What stays.
        other: String,
    },
    /// Removes all members that OpenAI's API does not have.
    OmitForeign,
    /// Removes a member from all messages or tools, by its place.
    OmitInner(String),
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
    /// Raises the token limit to the least that the upstream takes.
    RaiseLimit(u64),
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
    /// One system message in front; later ones are told by the user.
    SystemFirst,
    /// Joins neighbours of one role.
    MergeNeighbours,
    /// An assistant's message between a result and a user's.
    SeparateResults,
    /// A user's message where there is none.
    AddUser,
    /// Takes out messages without content.
    DropEmptyTurns,
    /// Short ids of calls.
    ShortenIds,
    /// Functions in place of tools that take free text.
    CustomTools,
    /// Names of functions that every upstream takes.
    LegalNames,
    /// Arguments of calls that are JSON objects.
    MendArguments,
    /// Calls and results in pairs.
    PairCalls,
    /// Schemas with Ollama's keywords only.
    ReduceSchemas,
    /// Reasoning with the calls that it led to.
    EchoReasoning,
    /// No reasoning in the history.
    DropReasoning,
    /// A signature with each call that lacks one.
    SkipThoughtSignatures,
    /// No marks of the prompt cache.
    DropCacheMarks,
    /// Removes `strict` from a schema.
    DropStrict,
    /// Replaces `json_object` by a schema that allows any object.
    ObjectToSchema,
    /// Puts a schema into the prompt, and asks for any JSON object.
    SchemaToPrompt,
    /// Tells the format in the prompt only, while there are tools.
    FormatToPrompt,
    /// Wraps a schema whose root is no object.
    WrapRoot,
    /// Adds the word "JSON" to the messages, which some servers require.
    MentionJson,
    /// Asks for a stream.
    Stream,
    /// Drops the oldest turns of a conversation that is clearly longer than this.
    FitWindow {
        /// What the window has room for, in bytes of messages.
        bytes: usize,
    },
}

/// What a repair depends on besides the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Nothing: it helps every request of the model.
    Model,
    /// The client's own schemas, of which this is the hash: it says nothing about other clients.
    Schemas(u64),
    /// This request alone.
    Request,
}

impl Repair {
    /// Removes a parameter.
    pub(super) fn omit(member: &str) -> Self {
        Self::Omit(if member == "top_logprobs" { "logprobs" } else { member }.to_owned())
    }

    /// Bytes of the texts that it holds.
    pub(super) fn text_bytes(&self) -> usize {
        match self {
            Self::Omit(member) | Self::OmitInner(member) => member.len(),
            Self::OmitBeside { member, other } => member.len() + other.len(),
            Self::SetEffort { from, to } => from.len() + to.len(),
            _ => 0,
        }
    }

    /// Whether it undoes another repair.
    pub fn is_inverse_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Rename { from, to }, Self::Rename { from: back, to: forth }) => {
                from == forth && to == back
            }
            (Self::Omit(member), Self::LowerLimit { .. }) => is_token_limit(member),
            // The latest estimate counts.
            (Self::FitWindow { .. }, Self::FitWindow { .. }) => self != other,
            _ => false,
        }
    }

    /// The kind of change, for the metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Omit(_)
            | Self::OmitBeside { .. }
            | Self::OmitForeign
            | Self::OmitInner(_)
            | Self::Rename { .. } => "parameter",
            Self::SetEffort { .. } | Self::DisableEffortWithTools | Self::SetToNearest { .. } => {
                "value"
            }
            Self::LowerLimit { .. } | Self::RaiseLimit(_) => "limit",
            Self::LimitStops(_) => "stop",
            Self::ContinueFinalMessage | Self::DisableThinkingForPrefill | Self::AskToGoOn => {
                "prefill"
            }
            Self::UseDeveloperRole
            | Self::FoldSystemIntoUser
            | Self::SystemFirst
            | Self::MergeNeighbours
            | Self::SeparateResults
            | Self::AddUser
            | Self::DropEmptyTurns => "messages",
            Self::ShortenIds => "call_ids",
            Self::CustomTools => "custom_tools",
            Self::LegalNames => "tool_names",
            Self::MendArguments => "call_arguments",
            Self::PairCalls => "call_pairs",
            Self::ReduceSchemas => "schemas",
            Self::EchoReasoning | Self::DropReasoning | Self::SkipThoughtSignatures => "reasoning",
            Self::DropCacheMarks => "cache_marks",
            Self::DropStrict
            | Self::ObjectToSchema
            | Self::SchemaToPrompt
            | Self::FormatToPrompt
            | Self::WrapRoot
            | Self::MentionJson => "format",
            Self::Stream => "stream",
            Self::FitWindow { .. } => "truncated",
        }
    }

    /// Makes the repair; returns whether that changed anything.
    pub fn apply(&self, document: &mut Document<'_>) -> bool {
        match self {
            Self::Omit(member) => omit(document, member),
            Self::OmitBeside { member, other } => document.has(other) && document.remove(member),
            Self::OmitForeign => omit_foreign(document),
            Self::OmitInner(place) => inner::omit(document, place),
            Self::Rename { from, to } => document.has(from) && document.rename(from, to),
            Self::SetEffort { from, to } => {
                let is_sent = document.value(EFFORT_FIELD).is_some_and(|it| it == from.as_str());
                is_sent && set(document, EFFORT_FIELD, quote_json(to))
            }
            Self::DisableEffortWithTools => {
                document.has_tools() && set(document, EFFORT_FIELD, "\"none\"".to_owned())
            }
            Self::LowerLimit { to, .. } => lower_limit(document, *to),
            Self::RaiseLimit(to) => raise_limit(document, *to),
            Self::LimitStops(most) => watch_stops(document, *most),
            Self::SetToNearest { member, value } => {
                let sent = document.value(member);
                let is_edge = sent.is_some_and(|sent| edges::is_at_edge(member, &sent));
                is_edge && set(document, member, (*value).to_owned())
            }
            Self::ContinueFinalMessage => {
                ends_with_prefill(document)
                    && CONTINUE_FINAL_MESSAGE
                        .map(|(name, value)| set(document, name, value.to_string()))
                        .contains(&true)
            }
            Self::DisableThinkingForPrefill => {
                ends_with_prefill(document) && disable_thinking(document)
            }
            Self::AskToGoOn => ask_to_go_on(document),
            Self::ReduceSchemas => schemas::reduce_all(document),
            Self::CustomTools => custom_tools::use_functions(document),
            Self::LegalNames => calls::use_legal_names(document),
            Self::MendArguments => calls::mend_arguments(document),
            Self::DropStrict => response_format::drop_strict(document),
            Self::ObjectToSchema => response_format::object_to_schema(document),
            Self::SchemaToPrompt => response_format::schema_to_prompt(document),
            Self::FormatToPrompt => {
                document.has_tools() && response_format::format_to_prompt(document)
            }
            Self::WrapRoot => response_format::wrap_root(document),
            Self::MentionJson => response_format::mention_json(document),
            Self::Stream => {
                document.route.can_collect && !document.rejects_streams && document.use_stream()
            }
            Self::FitWindow { bytes } => context::fit(document, *bytes),
            Self::DropCacheMarks => drop_all_cache_marks(document),
            _ => self.apply_to_messages(document),
        }
    }

    fn apply_to_messages(&self, document: &mut Document<'_>) -> bool {
        if !document.route.is_chat {
            return false;
        }
        let turns = document.turns();
        let changed = match self {
            Self::UseDeveloperRole => order::use_developer_role(turns),
            Self::FoldSystemIntoUser => order::fold_system_into_user(turns),
            Self::SystemFirst => order::put_system_first(turns),
            Self::MergeNeighbours => order::merge_neighbours(turns),
            Self::SeparateResults => order::separate_results(turns),
            Self::AddUser => order::add_user(turns),
            Self::DropEmptyTurns => order::drop_empty_turns(turns),
            Self::ShortenIds => calls::shorten_ids(turns),
            Self::PairCalls => calls::pair_calls(turns),
            Self::EchoReasoning => calls::echo_reasoning(turns),
            Self::DropReasoning => calls::drop_reasoning(turns),
            Self::SkipThoughtSignatures => calls::skip_thought_signatures(turns),
            _ => false,
        };
        if changed {
            document.mark_changed();
        }
        changed
    }
}

pub(super) fn is_token_limit(member: &str) -> bool {
    TOKEN_LIMIT_FIELDS.contains(&member)
}

/// The hash of what clients define themselves: the tools and the format.
pub(super) fn hash_schemas(document: &Document<'_>) -> u64 {
    let texts = [TOOLS, RESPONSE_FORMAT].map(|member| document.get(member).unwrap_or_default());
    let digest = sha256_hex(texts.join("\n").as_bytes());
    u64::from_str_radix(&digest[..16], 16).unwrap_or_default()
}

/// Sets a member; returns whether it had another value.
fn set(document: &mut Document<'_>, member: &str, value: String) -> bool {
    let changes = document.get(member) != Some(value.as_str());
    if changes {
        document.set(member, value);
    }
    changes
}

fn omit(document: &mut Document<'_>, member: &str) -> bool {
    match member {
        "stop" => watch_stops(document, 0),
        "logprobs" => {
            ["logprobs", "top_logprobs"].map(|member| document.remove(member)).contains(&true)
        }
        "continue_final_message" | "add_generation_prompt" => {
            CONTINUE_FINAL_MESSAGE.map(|(member, _)| document.remove(member)).contains(&true)
        }
        // Only a forced choice is refused; `none` must stay.
        "tool_choice" => document.get(member) != Some("\"none\"") && document.remove(member),
        _ => document.remove(member),
    }
}

fn omit_foreign(document: &mut Document<'_>) -> bool {
    let foreign = document.names().into_iter().filter(|it| !MEMBERS.contains(&it.as_str()));
    foreign.filter(|member| document.remove(member)).count() > 0
}

fn lower_limit(document: &mut Document<'_>, to: u64) -> bool {
    let lowered = TOKEN_LIMIT_FIELDS.map(|member| {
        let asked = document.value(member).and_then(|limit| limit.as_u64());
        asked.is_some_and(|asked| asked > to) && set(document, member, to.to_string())
    });
    lowered.contains(&true)
}

fn raise_limit(document: &mut Document<'_>, to: u64) -> bool {
    let raised = TOKEN_LIMIT_FIELDS.map(|member| {
        let asked = document.value(member).and_then(|limit| limit.as_u64());
        asked.is_some_and(|asked| asked < to) && set(document, member, to.to_string())
    });
    raised.contains(&true)
}

/// Removes all stop sequences but the first `most`. All are watched for in the response, which becomes a
/// stream, so that it can be ended where one matches.
fn watch_stops(document: &mut Document<'_>, most: usize) -> bool {
    let Some(Value::Array(mut stop)) = document.value("stop") else { return false };
    if stop.len() <= most || !document.route.rewrites_response {
        return false;
    }
    let texts: Vec<String> = stop.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    stop.truncate(most);
    // All of them may be watched for already.
    if !std::mem::take(&mut document.effects.sent_stop) {
        document.effects.watched_stop.extend(texts);
    }
    if stop.is_empty() {
        document.remove("stop");
    } else {
        document.set("stop", Value::from(stop).to_string());
    }
    if !document.rejects_streams {
        document.use_stream();
    }
    true
}

pub(super) fn ends_with_prefill(document: &mut Document<'_>) -> bool {
    document.route.is_chat && document.turns().last().is_some_and(Turn::is_prefill)
}

/// Sets the switch that chat templates read for reasoning; `false` if it was set already.
fn disable_thinking(document: &mut Document<'_>) -> bool {
    let kwargs = document.value(TEMPLATE_KWARGS).unwrap_or_else(|| Value::Object(Map::new()));
    let Value::Object(mut kwargs) = kwargs else { return false };
    let changes = kwargs.insert("enable_thinking".to_owned(), false.into()) != Some(false.into());
    changes && set(document, TEMPLATE_KWARGS, Value::Object(kwargs).to_string())
}

pub(super) fn ask_to_go_on(document: &mut Document<'_>) -> bool {
    let is_continued = ends_with_prefill(document);
    if is_continued {
        for (member, _) in CONTINUE_FINAL_MESSAGE {
            document.remove(member);
        }
        document.turns().push(Turn::text("user", GO_ON));
        document.mark_changed();
    }
    is_continued
}

/// Removes the marks of the prompt cache from messages and tools.
pub(super) fn drop_all_cache_marks(document: &mut Document<'_>) -> bool {
    let unmarked = document.get(TOOLS).filter(|tools| tools.contains(CACHE_MARK));
    let unmarked = unmarked.and_then(raw_object::parse_items).map(|tools| {
        let tools: Vec<String> = tools.into_iter().map(without_mark).collect();
        raw_object::join_items(&tools)
    });
    let mut changed = unmarked.is_some_and(|tools| set(document, TOOLS, tools));
    if document.route.is_chat && drop_cache_marks(document.turns()) {
        document.mark_changed();
        changed = true;
    }
    changed
}

/// The same for messages; a list of texts becomes one text.
fn drop_cache_marks(turns: &mut [Turn<'_>]) -> bool {
    let mut changed = false;
    for turn in turns {
        changed |= turn.object.remove(CACHE_MARK);
        let Some(parts) = turn.parts() else { continue };
        let unmarked: Vec<String> = parts.iter().map(|part| without_mark(part)).collect();
        if unmarked == parts {
            continue;
        }
        let unmarked = raw_object::join_items(&unmarked);
        turn.object.set("content", unmarked);
        if !turn.has_media() {
            let text = turn.as_text();
            turn.set_text(&text);
        }
        changed = true;
    }
    changed
}

/// A part or a tool without its mark; one without a mark keeps its text.
fn without_mark(object: &str) -> String {
    match RawObject::parse(object).filter(|object| object.get(CACHE_MARK).is_some()) {
        Some(mut marked) => {
            marked.remove(CACHE_MARK);
            marked.to_json()
        }
        None => object.to_owned(),
    }
}
