//! Fill-in-the-middle for upstreams that do not take `suffix` on `completions`.
//!
//! Some servers only take a prompt, and get the one of the model's family
//! ([`crate::backends::fim_prompts`]). Two servers have an endpoint of their own: llama.cpp has `/infill` with parameters and responses
//! of its own (`tools/server/README.md`), Mistral has `fim/completions`, which responds as a chat
//! does. Both requests are made from the one for `completions`. [`to_chunk`] turns a response of
//! `/infill` into the chunk that `translate::stream` reads. Invariant: members keep their JSON text,
//! and anything but such a response (above all an error) is left alone.

use serde_json::{Map, Value};

use crate::api::openai::raw_object::RawObject;
use crate::api::openai::request::{CompletionRequest, InfillRequest, ResponseFormat};
use crate::backends::errors::ErrorDetails;
use crate::backends::names;
use crate::backends::profiles::Profile;
use crate::error::{Error, Result};

/// The parameters that `fim/completions` accepts; it refuses a request with any other.
const FIM_PARAMETERS: &[&str] = &["max_tokens", "random_seed", "stop", "temperature", "top_p"];

/// The request for `fim/completions`: takes those parameters from `sampling`, the ones for a chat.
pub fn to_fim<'a>(
    request: CompletionRequest<'a>,
    mut sampling: Map<String, Value>,
) -> CompletionRequest<'a> {
    sampling.retain(|name, _| FIM_PARAMETERS.contains(&name.as_str()));
    CompletionRequest { stream_options: None, response_format: None, sampling, ..request }
}

/// The request for `/infill`, under llama.cpp's own names.
pub fn to_infill<'a>(
    request: CompletionRequest<'a>,
    mut sampling: Map<String, Value>,
    profile: &Profile,
) -> InfillRequest<'a> {
    if let Some(limit) = sampling.remove(profile.max_tokens) {
        sampling.insert("n_predict".into(), limit);
    }
    InfillRequest {
        model: request.model,
        input_prefix: request.prompt,
        input_suffix: request.suffix.unwrap_or_default(),
        stream: request.stream,
        sampling,
        json_schema: match request.response_format {
            Some(ResponseFormat::JsonSchema { json_schema }) => Some(json_schema.schema),
            Some(ResponseFormat::Json { value }) => Some(value),
            // The empty schema allows any JSON value.
            Some(ResponseFormat::JsonObject) => serde_json::from_str("{}").ok(),
            None => None,
        },
    }
}

/// The chunk of `completions` that corresponds to an event or a whole response of `/infill`; `None`
/// for anything else.
pub fn to_chunk(data: &str) -> Option<String> {
    let infill = RawObject::parse(data)?;
    let content = infill.get("content")?;
    if infill.has_value("error") {
        return None;
    }
    let member = |name| infill.get(name).unwrap_or("null");
    // Older servers say `stopped_limit` instead of `stop_type`.
    let is_limit = member("stop_type") == r#""limit""# || member("stopped_limit") == "true";
    let finish_reason = match member("stop") {
        "true" if is_limit => r#""length""#,
        "true" => r#""stop""#,
        _ => "null",
    };
    Some(format!(
        r#"{{"choices":[{{"index":0,"text":{content},"finish_reason":{finish_reason}}}],"usage":{{"prompt_tokens":{},"completion_tokens":{}}},"timings":{}}}"#,
        member("tokens_evaluated"),
        member("tokens_predicted"),
        member("timings"),
    ))
}

/// True if an upstream rejects a request because of `suffix`. What it names counts first, and its words
/// only where it names nothing.
pub fn is_about_suffix(rejection: &ErrorDetails) -> bool {
    let is_named = |text: &str| {
        let mut words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.any(|word| word.eq_ignore_ascii_case("suffix"))
    };
    if let Some(param) = rejection.param.as_deref().filter(|param| !param.is_empty()) {
        return is_named(param);
    }
    if !rejection.field_errors.is_empty() {
        return rejection.field_errors.iter().any(|field| is_named(&field.path));
    }
    let words =
        [Some(rejection.message.as_str()), rejection.code.as_deref(), rejection.kind.as_deref()];
    words.into_iter().flatten().any(is_named)
}

/// The error for a suffix that cannot be sent in another way: Ollama's, unless the upstream complains
/// of its length.
pub fn suffix_error(error: Error, model: &str) -> Error {
    let message = error.message().to_ascii_lowercase();
    let length_words = ["long", "length", "limit", "maximum", "exceed"];
    let is_about_length = length_words.iter().any(|word| message.contains(word));
    if is_about_length { error } else { unsupported_error(model) }
}

/// Ollama's error for a model that cannot fill in; it gives the full name of the model.
pub fn unsupported_error(model: &str) -> Error {
    Error::Unsupported(format!("{} does not support insert", names::full_name(model)))
}

/// Replaces an upstream's refusal of fill-in-the-middle as such by Ollama's error. llama.cpp refuses
/// with status 501, other servers with a message only.
///
/// # Errors
/// That of `response`, or Ollama's in its place.
pub fn map_unsupported<T>(response: Result<T>, model: &str) -> Result<T> {
    response.map_err(|error| match &error {
        Error::UpstreamStatus { status: 501, .. } => unsupported_error(model),
        Error::UpstreamStatus { status: 400 | 422, message, .. } => {
            let message = message.to_ascii_lowercase();
            let says = |word| message.contains(word);
            let about = says("suffix") || says("infill") || says("fim");
            if about && says("not") && says("support") { unsupported_error(model) } else { error }
        }
        _ => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::openai::chunk::Chunk;
    use crate::error::Retry;

    #[test]
    fn an_infill_event_is_a_chunk() {
        let check = |event: &str, text: &str, reason: Option<&str>, counts: (u64, u64)| {
            let chunk = to_chunk(event).expect("an infill event");
            let chunk = Chunk::parse(&chunk).expect("a chunk");
            let choice = &chunk.choices[0];
            assert_eq!(choice.text.as_ref().expect("text").text, text, "{event}");
            assert_eq!(choice.finish_reason.as_ref().map(|it| it.0.as_ref()), reason, "{event}");
            let usage = chunk.usage.expect("counts");
            let tokens = |count: Option<u64>| count.unwrap_or(0);
            let found = (tokens(usage.prompt_tokens), tokens(usage.completion_tokens));
            assert_eq!(found, counts, "{event}");
        };
        check(r#"{"content":"a\n\u00e9","stop":false}"#, "a\né", None, (0, 0));
        check(r#"{"content":" b"}"#, " b", None, (0, 0));
        let last = r#"{"content":"","stop":true,"stop_type":"TYPE","tokens_predicted":3,"tokens_evaluated":9}"#;
        for stop_type in ["eos", "word", "none", ""] {
            check(&last.replace("TYPE", stop_type), "", Some("stop"), (9, 3));
        }
        check(&last.replace("TYPE", "limit"), "", Some("length"), (9, 3));
        check(r#"{"content":"c","stop":true,"stopped_limit":true}"#, "c", Some("length"), (0, 0));
        check(r#"{"content":"c","stop":true,"stopped_limit":false}"#, "c", Some("stop"), (0, 0));
        check(r#"{"content":"c","stop":7,"tokens_predicted":"x"}"#, "c", None, (0, 0));
    }

    #[test]
    fn times_go_over() {
        let event = r#"{"content":"","stop":true,"timings":{"prompt_n":4,"prompt_ms":1.5}}"#;
        let chunk = to_chunk(event).expect("an infill event");
        let timings = Chunk::parse(&chunk).expect("a chunk").timings.expect("times");
        assert_eq!((timings.prompt_n, timings.prompt_ms), (Some(4), Some(1.5)));
    }

    #[test]
    fn what_is_no_infill_event_is_left_alone() {
        for data in [
            "[DONE]",
            "",
            "{}",
            "[]",
            r#"{"error":{"code":500,"message":"x"}}"#,
            r#"{"content":"","error":{"code":500,"message":"x"}}"#,
            r#"{"choices":[{"text":"a"}]}"#,
        ] {
            assert_eq!(to_chunk(data), None, "{data}");
        }
    }

    #[test]
    fn the_sentence_names_the_model_in_full() {
        let check = |model: &str, expected: &str| {
            let error = unsupported_error(model);
            assert_eq!(error.status(), Some(400));
            assert_eq!(error.message(), format!("{expected} does not support insert"));
        };
        check("m", "registry.ollama.ai/library/m:latest");
        check(" m:8b ", "registry.ollama.ai/library/m:8b");
        check("qwen/m", "registry.ollama.ai/qwen/m:latest");
        check("hf.co/qwen/m:q4", "hf.co/qwen/m:q4");
    }

    #[test]
    fn only_a_refusal_to_fill_in_is_worded_so() {
        let check = |status, message: &str, refusal: bool| {
            let message = message.to_owned();
            let error = Error::upstream_status(status, message, Retry::Never);
            let error = map_unsupported::<()>(Err(error), "m").expect_err("stays an error");
            assert_eq!(matches!(error, Error::Unsupported(_)), refusal, "{error}");
        };
        check(501, "Infill is not supported by this model: prefix token is missing.", true);
        check(501, "not implemented", true);
        check(400, "suffix is not currently supported", true);
        check(422, "suffix not supported", true);
        check(400, "Model m does not support FIM", true);
        check(400, "`suffix` is too long", false);
        check(400, "logprobs are not supported", false);
        check(500, "suffix is not supported", false);
        assert_eq!(map_unsupported(Ok(1), "m").ok(), Some(1));
    }
}
