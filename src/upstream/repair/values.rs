//! Reads rejections of a value: a token limit above what the model can generate, more stop sequences
//! than the upstream takes, and values at the edge of a range that some servers leave out.
//!
//! Servers share no code for these, so the sentence decides: what it is about, and its numbers.
//! Invariant: a limit is never raised, and a value that the client got wrong is not touched.

use serde_json::{Map, Value};

use super::document::Document;
use super::edges::EDGES;
use super::kinds::{self, Topic};
use super::numbers::{numbers, split_window};
use super::repairs::{Repair, TOKEN_LIMIT_FIELDS};
use crate::backends::errors;
use crate::backends::errors::ErrorDetails;

/// The repair for a rejected value.
pub(super) fn plan_value_repair(
    details: &ErrorDetails,
    text: &str,
    sampling: &Map<String, Value>,
) -> Option<Repair> {
    plan_token_limit(details, text, sampling)
        .or_else(|| plan_stop_count(details, text, sampling))
        .or_else(|| plan_edge(details, text, sampling))
}

/// Numbers that every upstream takes, by the parameter (OpenAI API reference).
const USUAL_RANGES: &[(&str, f64, f64)] = &[
    ("temperature", 0.0, 2.0),
    ("top_p", 0.0, 1.0),
    ("presence_penalty", -2.0, 2.0),
    ("frequency_penalty", -2.0, 2.0),
    ("max_tokens", 1.0, f64::MAX),
    ("max_completion_tokens", 1.0, f64::MAX),
    ("n", 1.0, 128.0),
    ("top_logprobs", 0.0, 20.0),
];

/// A limit is raised no higher than this.
const MAX_LEAST_LIMIT: u64 = 64;

/// True if a parameter has a value that is wrong everywhere: that is the client's mistake.
pub(super) fn is_malformed(document: &Document<'_>) -> bool {
    USUAL_RANGES.iter().any(|(member, least, most)| {
        let value = document.value(member).filter(|value| !value.is_null());
        value.is_some_and(|value| {
            !value.as_f64().is_some_and(|number| (*least..=*most).contains(&number))
        })
    })
}

/// True if a rejection is about the member, by its fields or as a word of its text.
fn is_about(details: &ErrorDetails, text: &str, member: &str) -> bool {
    is_field(details, member) || has_word(text, member)
}

/// True if a rejection names the member in one of its fields.
fn is_field(details: &ErrorDetails, member: &str) -> bool {
    let is_root = |path: &str| path.split(['.', '[']).next() == Some(member);
    details.param.as_deref().is_some_and(is_root)
        || details.field_errors.iter().any(|error| is_root(&error.path))
}

pub(super) fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(is_part) && !text[at + word.len()..].starts_with(is_part)
    })
}

/// The repair for a limit that is below what `responses` takes (OpenAI: 16), and that other routes take.
pub(super) fn plan_raised_limit(
    details: &ErrorDetails,
    text: &str,
    document: &Document<'_>,
) -> Option<Repair> {
    if !document.is_for_responses() || !is_about(details, text, "max_output_tokens") {
        return None;
    }
    let limit = |member: &&str| document.value(member)?.as_u64();
    let asked =
        TOKEN_LIMIT_FIELDS.iter().find_map(limit).filter(|asked| *asked < MAX_LEAST_LIMIT)?;
    let least = numbers(text).into_iter().map(|(_, number)| number).filter(|it| *it > asked).min();
    least.filter(|least| *least <= MAX_LEAST_LIMIT).map(Repair::RaiseLimit)
}

fn plan_token_limit(
    details: &ErrorDetails,
    text: &str,
    sampling: &Map<String, Value>,
) -> Option<Repair> {
    let sent = |name: &&&str| sampling.get(**name).is_some_and(Value::is_number);
    let member = *TOKEN_LIMIT_FIELDS.iter().find(sent)?;
    let asked = sampling.get(member).and_then(Value::as_u64);
    let overflows = errors::is_context_overflow(details);
    let names_limit = kinds::says(text, Topic::Limit)
        || TOKEN_LIMIT_FIELDS.iter().any(|name| is_about(details, text, name));
    let is_rate = text.contains("rate limit") || text.contains("per min");
    let numbers = numbers(text);
    let names_asked = asked.is_some_and(|asked| numbers.iter().any(|(_, it)| *it == asked));
    if is_rate || !(names_limit || (overflows && names_asked)) {
        return None;
    }
    let about_prompt =
        overflows || ["prompt", "input", "context"].iter().any(|word| text.contains(word));
    let room = asked.filter(|_| about_prompt).map(|asked| find_room(text, &numbers, asked));
    let (to, is_fixed) = match room {
        // The prompt alone is too long: no limit helps.
        Some(Room::None) => return None,
        Some(Room::Tokens(left)) => (Some(left), false),
        Some(Room::Unknown) | None => {
            (numbers.iter().map(|(_, it)| *it).filter(|it| Some(*it) < asked).max(), true)
        }
    };
    match to.filter(|to| *to > 0 && asked.is_some_and(|asked| *to < asked)) {
        Some(to) => Some(Repair::LowerLimit { to, is_fixed }),
        None => Some(Repair::omit(member)),
    }
}

/// What a sentence says of the tokens that are left beside the prompt.
#[derive(Debug, PartialEq)]
enum Room {
    Unknown,
    None,
    Tokens(u64),
}

/// The window less the prompt, where a sentence has both. Besides these it may have the limit that was
/// `asked` for, and the sum of prompt and limit.
fn find_room(text: &str, numbers: &[(usize, u64)], asked: u64) -> Room {
    let (Some(window), others) = split_window(text, numbers, asked) else { return Room::Unknown };
    let is_sum = |number: u64| others.iter().any(|it| it.checked_add(asked) == Some(number));
    let prompts: Vec<u64> = others.iter().copied().filter(|number| !is_sum(*number)).collect();
    let summand = prompts.iter().copied().find(|it| {
        it.checked_add(asked).is_some_and(|sum| numbers.iter().any(|(_, it)| *it == sum))
    });
    let below = || prompts.iter().copied().filter(|prompt| *prompt < window).max();
    match (summand.or_else(below), prompts.is_empty()) {
        (Some(prompt), _) if prompt < window => Room::Tokens(window - prompt),
        (Some(_), _) | (None, false) => Room::None,
        (None, true) => Room::Unknown,
    }
}

fn plan_stop_count(
    details: &ErrorDetails,
    text: &str,
    sampling: &Map<String, Value>,
) -> Option<Repair> {
    let sent = sampling.get("stop")?.as_array()?.len() as u64;
    let is_length = |text: &str| kinds::says(text, Topic::Length);
    let is_about_length = is_length(text)
        || details.code.as_deref().is_some_and(is_length)
        || details.field_errors.iter().any(|error| error.kind.as_deref().is_some_and(is_length));
    let is_about_stop = is_field(details, "stop") || kinds::says(text, Topic::Stop);
    if !is_about_length || !is_about_stop {
        return None;
    }
    let fewer = numbers(text).into_iter().map(|(_, number)| number).filter(|it| *it < sent).max();
    match fewer.and_then(|most| usize::try_from(most).ok()).filter(|most| *most > 0) {
        Some(most) => Some(Repair::LimitStops(most)),
        None => Some(Repair::omit("stop")),
    }
}

fn plan_edge(details: &ErrorDetails, text: &str, sampling: &Map<String, Value>) -> Option<Repair> {
    let is_range = kinds::says(text, Topic::Edge);
    let (member, _, nearest) = EDGES.iter().find(|(member, is_edge, _)| {
        sampling.get(*member).and_then(Value::as_f64).is_some_and(is_edge)
            && is_about(details, text, member)
    })?;
    let repair = match nearest {
        Some(value) => Repair::SetToNearest { member, value },
        None => Repair::omit(member),
    };
    is_range.then_some(repair)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The repair for a message, of a request with these parameters.
    fn plan(sampling: Value, message: &str) -> Option<Repair> {
        let details = ErrorDetails { message: message.to_owned(), ..ErrorDetails::default() };
        let text = message.to_ascii_lowercase();
        let sampling = sampling.as_object().expect("an object");
        plan_token_limit(&details, &text, sampling)
            .or_else(|| plan_stop_count(&details, &text, sampling))
            .or_else(|| plan_edge(&details, &text, sampling))
    }

    #[track_caller]
    fn check_limit(asked: u64, message: &str, expected: Option<(u64, bool)>) {
        let repair = plan(json!({ "max_tokens": asked }), message);
        let expected = expected.map(|(to, is_fixed)| Repair::LowerLimit { to, is_fixed });
        assert_eq!(repair, expected, "{message}");
    }

    #[test]
    fn a_limit_is_lowered_to_what_the_window_leaves() {
        let left = |left| Some((left, false));
        let vllm = "'max_tokens' or 'max_completion_tokens' is too large: 4096. This model's maximum \
                    context length is 2048 tokens and your request has 10 input tokens (4096 > 2048 \
                    - 10). None";
        check_limit(4096, vllm, left(2038));
        let same = "'max_tokens' is too large: 4096. This model's maximum context length is 4096 \
                    tokens and your request has 31 input tokens (4096 > 4096 - 31).";
        check_limit(4096, same, left(4065));
        let openai = "This model's maximum context length is 4097 tokens. However, you requested \
                      4927 tokens (831 in the messages, 4096 in the completion). Please reduce the \
                      length of the messages or completion.";
        check_limit(4096, openai, left(3266));
        let tgi = "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. \
                   Given: 100 `inputs` tokens and 5000 `max_new_tokens`";
        check_limit(5000, tgi, left(3996));
        let anthropic = "input length and `max_tokens` exceed context limit: 190000 + 20000 > \
                         200000, decrease input length or `max_tokens` and try again";
        check_limit(20_000, anthropic, left(10_000));
        let groups = "Your prompt has 1,200 tokens and max_tokens is 8,000, but the context window \
                      is 8,192 tokens.";
        check_limit(8000, groups, left(6992));
    }

    #[test]
    fn a_limit_is_lowered_to_the_model_s_own() {
        let most = |most| Some((most, true));
        let openai = "max_tokens is too large: 5000. This model supports at most 4096 completion \
                      tokens, whereas you provided 5000.";
        check_limit(5000, openai, most(4096));
        let deepseek = "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]";
        check_limit(64_000, deepseek, most(8192));
        let anthropic = "max_tokens: 64000 > 8192, which is the maximum allowed number of output \
                         tokens for claude-3-5-haiku-20241022";
        check_limit(64_000, anthropic, most(8192));
        check_limit(64_000, "max_tokens must not exceed 32k for gpt-4-9000", most(32_000));
    }

    #[test]
    fn a_limit_that_no_number_replaces_is_left_out() {
        let omit = Some(Repair::omit("max_tokens"));
        let limit = || json!({"max_tokens": 9000});
        assert_eq!(plan(limit(), "max_tokens is too large"), omit);
        assert_eq!(plan(limit(), "max_tokens 9000 is out of range"), omit);
    }

    #[test]
    fn a_prompt_that_is_too_long_is_no_matter_of_the_limit() {
        let long = "This model's maximum context length is 8192 tokens. However, your messages \
                    resulted in 9000 tokens and max_tokens is 4096.";
        check_limit(4096, long, None);
        let llama = "request (9000 tokens) exceeds the available context size (8192 tokens), try \
                     increasing it";
        check_limit(4096, llama, None);
        let rate = "Request too large: limit of 6000 output tokens per minute, requested 9000";
        check_limit(9000, rate, None);
        check_limit(9, "temperature must be between 0 and 2", None);
        assert_eq!(plan(json!({}), "max_tokens is too large: 9"), None, "none was sent");
    }

    #[test]
    fn as_many_stop_sequences_are_sent_as_the_upstream_takes() {
        let stop = || json!({"stop": ["a", "b", "c", "d", "e"]});
        let check = |message: &str, expected: Option<Repair>| {
            assert_eq!(plan(stop(), message), expected, "{message}");
        };
        let openai = "Invalid 'stop': array too long. Expected an array with maximum length 4, but \
                      got an array with length 5 instead.";
        check(openai, Some(Repair::LimitStops(4)));
        let vllm = "[{'type': 'too_long', 'loc': ('body', 'stop'), 'msg': 'List should have at most \
                    4 items after validation, not 5'}]";
        check(vllm, Some(Repair::LimitStops(4)));
        check("up to 2 stop sequences are supported", Some(Repair::LimitStops(2)));
        check("too many stop sequences", Some(Repair::omit("stop")));
        check("the server had to stop: too many requests", None);
        check("stop must be a list of strings", None);
    }

    #[test]
    fn values_at_an_edge_are_moved_inside() {
        let check = |sampling: Value, message: &str, expected: Option<Repair>| {
            assert_eq!(plan(sampling, message), expected, "{message}");
        };
        let near = |member, value| Some(Repair::SetToNearest { member, value });
        let zero = || json!({"top_p": 0, "temperature": 0.0});
        check(zero(), "top_p must be in (0, 1], got 0.0.", near("top_p", "0.000001"));
        check(zero(), "`top_p` must be > 0.0 and < 1.0", near("top_p", "0.000001"));
        let strict = "`temperature` has to be a strictly positive float";
        check(zero(), strict, near("temperature", "0.01"));
        let one = "`top_p` must be > 0.0 and < 1.0";
        check(json!({"top_p": 1}), one, Some(Repair::omit("top_p")));
        let k = "top_k must be -1 (disable), or at least 1, got 0.";
        check(json!({"top_k": 0}), k, Some(Repair::omit("top_k")));
        check(json!({"top_p": 1.5, "temperature": 3}), "temperature must be between 0 and 2", None);
        check(zero(), "top_p and temperature are both there", None);
    }
}
