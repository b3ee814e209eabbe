//! Decides what may be done about a rejection.
//!
//! A rejection is of one or more kinds ([`super::kinds`]), names members, or speaks of a value. Each of
//! these has its repairs. Never given up: the model, the tools, the words of the conversation, and that
//! the response is JSON. Invariant: what depends on a client's own schema is learnt for that schema only.

use super::document::Document;
use super::inner;
use super::kinds::{self, Kind, Topic};
use super::refusal::{self, RejectedField};
use super::repairs::{
    EFFORT_FIELD, Repair, Scope, TEMPLATE_KWARGS, TOKEN_LIMIT_FIELDS, ends_with_prefill,
    hash_schemas, is_token_limit,
};
use super::response_format::{self, FormatKind};
use super::values;
use crate::api::openai::request::CONTINUE_FINAL_MESSAGE;
use crate::backends::errors::ErrorDetails;

/// A repair and how far it holds.
pub type Planned = (Repair, Scope);

/// Parameters that may be removed: without them the model's own default applies.
pub(super) const OPTIONAL_PARAMETERS: &[&str] = &[
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
    "logit_bias",
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
    "enable_thinking",
    "ttl",
    "encoding_format",
    "user",
    "metadata",
    "store",
    "service_tier",
    "verbosity",
    "prompt_cache_key",
    "safety_identifier",
];

/// Members that must stay.
const FIXED_MEMBERS: &[&str] =
    &["model", "messages", "tools", "functions", "input", "prompt", "suffix", "response_format"];

/// Efforts from the least to the greatest.
const EFFORT_LEVELS: &[&str] = &["none", "minimal", "low", "medium", "high", "xhigh", "max"];

/// The repairs for a rejection, best first. Those of one list are made together.
pub fn plan(details: &ErrorDetails, document: &mut Document<'_>) -> Vec<Vec<Planned>> {
    let text = kinds::plain_text(details);
    let mut out = Vec::new();
    // Schemas and formats are mentioned in many rejections, so they come after the members.
    let is_late = |kind: &Kind| matches!(kind, Kind::ToolSchema | Kind::Format);
    let (late, early): (Vec<Kind>, Vec<Kind>) = kinds::find(details).into_iter().partition(is_late);
    out.extend(early.into_iter().flat_map(|kind| plan_kind(kind, &text, document)));
    let (named, must_stay) = plan_named_members(details, document);
    out.extend((!named.is_empty()).then_some(named));
    out.extend(late.into_iter().flat_map(|kind| plan_kind(kind, &text, document)));
    if !must_stay {
        let parameters = document.parameters();
        let value = values::plan_value_repair(details, &text, &parameters);
        let value = value.into_iter().map(|repair| vec![with_scope(repair)]);
        out.extend(value);
        out.extend(plan_denied_members(&text, document));
    }
    if is_about_stream(details) {
        // A whole response is what may be wrong with it.
        out.push(vec![(Repair::Stream, Scope::Model)]);
    }
    out
}

/// True if a rejection names a member that must stay, so that only the client can do something.
pub fn blames_fixed_member(details: &ErrorDetails, document: &mut Document<'_>) -> bool {
    plan_named_members(details, document).1
}

/// True if a rejection may be about the request for a stream.
pub fn is_about_stream(details: &ErrorDetails) -> bool {
    // "upstream" and `stream_options` are something else.
    let says_stream = |text: &str| {
        let text = text.to_ascii_lowercase();
        let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.any(|word| word.starts_with("stream") && word != "stream_options")
    };
    let named = details.param.iter().chain(details.field_errors.iter().map(|field| &field.path));
    let mut named = named.filter(|path| !path.is_empty()).peekable();
    if named.peek().is_some() {
        return named.any(|path| says_stream(path));
    }
    says_stream(&details.message) && !kinds::find(details).contains(&Kind::OnlyStreams)
}

fn with_scope(repair: Repair) -> Planned {
    let scope = match &repair {
        Repair::LowerLimit { is_fixed: false, .. } => Scope::Request,
        Repair::Omit(member) if is_token_limit(member) => Scope::Request,
        _ => Scope::Model,
    };
    (repair, scope)
}

/// Leaves out the token limit, so that the upstream's own applies.
pub(super) fn omit_limit(document: &Document<'_>) -> Planned {
    let sent = TOKEN_LIMIT_FIELDS.iter().find(|member| document.has(member));
    with_scope(Repair::omit(sent.unwrap_or(&TOKEN_LIMIT_FIELDS[0])))
}

fn plan_kind(kind: Kind, text: &str, document: &mut Document<'_>) -> Vec<Vec<Planned>> {
    let repair = match kind {
        Kind::CustomTools => Repair::CustomTools,
        Kind::EffortWithTools => Repair::DisableEffortWithTools,
        Kind::Arguments => Repair::MendArguments,
        Kind::Pairs => Repair::PairCalls,
        Kind::CallIds => Repair::ShortenIds,
        Kind::ToolNames => Repair::LegalNames,
        Kind::ThoughtSignature => Repair::SkipThoughtSignatures,
        Kind::EchoReasoning => Repair::EchoReasoning,
        Kind::UserAfterTool => Repair::SeparateResults,
        Kind::LateSystem => Repair::SystemFirst,
        Kind::NoSystemRole => Repair::FoldSystemIntoUser,
        Kind::Alternate => Repair::MergeNeighbours,
        Kind::NoUser => Repair::AddUser,
        Kind::EmptyTurn => Repair::DropEmptyTurns,
        Kind::FormatWithTools => Repair::FormatToPrompt,
        Kind::JsonWord if response_format::find(document).is_some() => Repair::MentionJson,
        Kind::JsonWord => return Vec::new(),
        Kind::OnlyStreams => Repair::Stream,
        Kind::CacheMarks => Repair::DropCacheMarks,
        Kind::SchemaRoot => {
            return vec![vec![(Repair::WrapRoot, Scope::Schemas(hash_schemas(document)))]];
        }
        Kind::ToolSchema => {
            return vec![vec![(Repair::ReduceSchemas, Scope::Schemas(hash_schemas(document)))]];
        }
        Kind::Prefill => return plan_prefill(text, document).into_iter().collect(),
        Kind::Format => return plan_format(text, document),
    };
    vec![vec![(repair, Scope::Model)]]
}

/// The next weaker formats, as long as the response is sure to be JSON.
fn plan_format(text: &str, document: &mut Document<'_>) -> Vec<Vec<Planned>> {
    let own = Scope::Schemas(hash_schemas(document));
    let is_about_type = kinds::says(text, Topic::FormatType);
    let is_bad = kinds::says(text, Topic::BadSchema);
    let scope = if is_about_type && !is_bad { Scope::Model } else { own };
    match response_format::find(document) {
        Some(FormatKind::Schema { .. }) if scope == Scope::Model && !text.contains("strict") => {
            vec![vec![(Repair::SchemaToPrompt, scope)]]
        }
        Some(FormatKind::Schema { is_strict: true }) => vec![vec![(Repair::DropStrict, scope)]],
        Some(FormatKind::Schema { .. }) if is_bad => vec![vec![(Repair::ReduceSchemas, own)]],
        Some(FormatKind::Schema { .. }) => {
            vec![vec![(Repair::ReduceSchemas, own)], vec![(Repair::SchemaToPrompt, own)]]
        }
        Some(FormatKind::Object) if text.contains("json_schema") => {
            vec![vec![(Repair::ObjectToSchema, Scope::Model)]]
        }
        _ => Vec::new(),
    }
}

/// What continues the assistant's message at the end.
fn plan_prefill(text: &str, document: &mut Document<'_>) -> Option<Vec<Planned>> {
    if !ends_with_prefill(document) {
        return None;
    }
    let has_switch = document.has(CONTINUE_FINAL_MESSAGE[0].0);
    let kwargs = document.value(TEMPLATE_KWARGS);
    let is_thinking_off = kwargs.is_some_and(|kwargs| kwargs["enable_thinking"] == false);
    let repair = if kinds::says(text, Topic::Continuation) && !has_switch {
        Repair::ContinueFinalMessage
    } else if kinds::says(text, Topic::Reasoning) && !is_thinking_off {
        Repair::DisableThinkingForPrefill
    } else {
        Repair::AskToGoOn
    };
    Some(vec![(repair, Scope::Model)])
}

/// The repairs for the members that a rejection names, and whether one of them must stay.
fn plan_named_members(details: &ErrorDetails, document: &mut Document<'_>) -> (Vec<Planned>, bool) {
    let mut out = Vec::new();
    for named in refusal::find_rejected_fields(details) {
        let root = named.path.split(['.', '[']).next().unwrap_or_default();
        if named.path.ends_with(".role") {
            out.extend(plan_role(document));
        } else if named.path.contains("reasoning") && root == "messages" {
            out.push((Repair::DropReasoning, Scope::Model));
        } else if let Some(place) = inner::find_place(&named.path) {
            out.push((Repair::OmitInner(place), Scope::Model));
        } else if document.has(root) {
            match plan_member(root, &named, document) {
                Some(repair) => out.push(repair),
                // With one member that must stay, the request is rejected again.
                None => return (Vec::new(), FIXED_MEMBERS.contains(&root)),
            }
        }
    }
    (out, false)
}

fn plan_role(document: &mut Document<'_>) -> Option<Planned> {
    let turns = if document.route.is_chat { document.turns() } else { return None };
    let repair = if turns.iter().any(|turn| turn.is("system")) {
        Repair::UseDeveloperRole
    } else if turns.iter().any(|turn| turn.is("developer")) {
        Repair::FoldSystemIntoUser
    } else {
        return None;
    };
    Some((repair, Scope::Model))
}

fn plan_member(member: &str, named: &RejectedField, document: &Document<'_>) -> Option<Planned> {
    if let Some(at) = TOKEN_LIMIT_FIELDS.iter().position(|limit| *limit == member) {
        let (from, to) = (TOKEN_LIMIT_FIELDS[at], TOKEN_LIMIT_FIELDS[1 - at]);
        let other = named.replacement.as_deref().is_none_or(|name| name == to);
        return other.then_some((Repair::Rename { from, to }, Scope::Model));
    }
    if member == EFFORT_FIELD
        && let Some(serde_json::Value::String(from)) = document.value(EFFORT_FIELD)
        && let Some(to) = find_nearest_effort(&from, &named.allowed_values)
    {
        return Some((Repair::SetEffort { from, to }, Scope::Model));
    }
    if OPTIONAL_PARAMETERS.contains(&member) {
        return Some((Repair::omit(member), Scope::Model));
    }
    // Ollama ignores what it does not know.
    let is_passed = document.route.is_passed;
    (!FIXED_MEMBERS.contains(&member) && is_passed).then_some((Repair::OmitForeign, Scope::Model))
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

/// The members of which a sentence says that they may not be sent, not with another, or not with this
/// value. Of two that exclude each other the temperature stays.
fn plan_denied_members(text: &str, document: &Document<'_>) -> Option<Vec<Planned>> {
    if !kinds::says(text, Topic::Denial) || kinds::says(text, Topic::OutOfRange) {
        return None;
    }
    let is_named = |member: &&&str| document.has(member) && values::has_word(text, member);
    let named: Vec<&str> = OPTIONAL_PARAMETERS.iter().filter(is_named).copied().collect();
    let stays = named.first().filter(|_| named.len() > 1);
    let stays = stays.filter(|_| kinds::says(text, Topic::Exclusion)).copied();
    let repair = |member: &str| match stays {
        Some(other) => Repair::OmitBeside { member: member.to_owned(), other: other.to_owned() },
        None => Repair::omit(member),
    };
    let others = named.iter().filter(|member| Some(**member) != stays);
    // "Invalid" may be said of this client's value only.
    let is_lasting = kinds::says(text, Topic::Unsupported) || stays.is_some();
    let scope = if is_lasting { Scope::Model } else { Scope::Request };
    let planned: Vec<Planned> = others.map(|member| (repair(member), scope)).collect();
    (!planned.is_empty()).then_some(planned)
}
