//! Which repairs are planned for each refusal, and which are not.

use serde_json::{Value, json};

use super::*;
use crate::api::ollama::decode;
use crate::api::ollama::request::ChatRequest as OllamaRequest;
use crate::api::openai::request::{ChatRequest, EmbeddingRequest, ToolChoice};
use crate::backends::profiles;
use crate::translate::{chat, format};

/// A chat request with every member that an upstream may refuse.
fn with_request(change: &Value, check: impl FnOnce(&mut ChatRequest<'_>)) {
    let mut body = json!({
        "model": "m", "stream": true, "think": "max", "logprobs": true, "top_logprobs": 2,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "options": {"temperature": 0.7, "top_p": 0.5, "num_predict": 9, "stop": ["x", "y"], "seed": 1},
        "tools": [{"type": "function", "function": {"name": "f"}}]
    });
    for (name, value) in change.as_object().expect("an object") {
        body[name] = value.clone();
    }
    let body = body.to_string();
    let request: OllamaRequest<'_> = decode::parse(&body, "ChatRequest").expect("valid");
    let openai = profiles::find_by_host("api.openai.com").expect("known");
    check(&mut chat::to_openai(&request, "gpt-5.1", openai).expect("valid"));
}

fn details(message: &str, param: &str, code: &str) -> ErrorDetails {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    ErrorDetails {
        message: message.to_owned(),
        param: some(param),
        code: some(code),
        ..ErrorDetails::default()
    }
}

/// Makes the repairs that are planned for a refusal; returns the text of each.
fn mended(request: &mut ChatRequest<'_>, refusal: &ErrorDetails) -> Vec<String> {
    let repairs = plan_repairs(refusal, request);
    for repair in &repairs {
        assert!(request.apply(repair), "{repair} changes something");
        assert!(!request.apply(repair), "{repair} is made once");
    }
    repairs.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn check(message: &str, param: &str, code: &str, expected: &[&str]) {
    with_request(&json!({}), |request| {
        assert_eq!(mended(request, &details(message, param, code)), expected, "{message}");
    });
}

#[test]
fn optional_parameters_are_left_out() {
    for name in
        ["temperature", "top_p", "seed", "stop", "logprobs", "top_logprobs", "stream_options"]
    {
        let text = format!("Unsupported parameter: '{name}' is not supported with this model.");
        let logprobs = if name == "top_logprobs" { "logprobs" } else { name };
        check(&text, name, "unsupported_parameter", &[&format!("{logprobs} removed")]);
    }
    let two = "Unrecognized request arguments supplied: seed, top_p";
    check(two, "", "", &["seed removed", "top_p removed"]);
    with_request(&json!({}), |request| {
        mended(request, &details("property 'logprobs' is unsupported", "", ""));
        assert!(!request.has_field("logprobs") && !request.has_field("top_logprobs"));
    });
}

#[test]
fn a_choice_of_tools_is_left_out_and_the_tools_stay() {
    let text = "Unsupported parameter: 'tool_choice' is not supported with this model.";
    let refusal = details(text, "tool_choice", "unsupported_parameter");
    with_request(&json!({}), |request| {
        assert!(mended(request, &refusal).is_empty(), "nothing was chosen");
        request.tool_choice = Some(ToolChoice::Mode("required"));
        assert_eq!(mended(request, &refusal), ["tool_choice removed"]);
        assert_eq!(request.tools.len(), 1);
    });
}

#[test]
fn stop_sequences_that_are_left_out_are_watched_for() {
    with_request(&json!({}), |request| {
        mended(request, &details("Argument not supported on this model: stop", "", ""));
        assert_eq!(request.watched_stop, ["x", "y"]);
        assert!(!serde_json::to_string(request).expect("JSON").contains("stop\""));
    });
}

#[test]
fn the_limit_goes_by_its_other_name() {
    let there = "max_completion_tokens renamed to max_tokens";
    check("Unknown parameter: 'max_completion_tokens'.", "", "", &[there]);
    let text = "Unsupported parameter: 'max_completion_tokens' is not supported. Use 'max_tokens' instead.";
    check(text, "max_completion_tokens", "unsupported_parameter", &[there]);
    // Any other name would be a guess.
    check("Unsupported parameter: 'max_completion_tokens'. Use 'limit' instead.", "", "", &[]);
    with_request(&json!({}), |request| {
        mended(request, &details("Unknown parameter: 'max_completion_tokens'.", "", ""));
        assert_eq!(request.sampling["max_tokens"], 9);
    });
}

#[test]
fn an_effort_becomes_the_nearest_that_is_allowed() {
    let check = |sent: &str, allowed: &[&str], expected: Option<&str>| {
        let allowed: Vec<String> = allowed.iter().map(|word| (*word).to_owned()).collect();
        assert_eq!(find_nearest_effort(sent, &allowed).as_deref(), expected, "{sent} {allowed:?}");
    };
    check("xhigh", &["low", "medium", "high"], Some("high"));
    check("minimal", &["low", "medium", "high"], Some("low"));
    check("minimal", &["none", "low"], Some("none"));
    check("none", &["low", "medium", "high"], Some("low"));
    check("medium", &["none", "default"], Some("default"));
    check("high", &["something"], None);
    check("something", &["low"], None);
    check("low", &[], None);
    let text = "Unsupported value: 'reasoning_effort' does not support 'xhigh' with this model. \
                Supported values are: 'none', 'low', 'medium', and 'high'.";
    let changed = "reasoning_effort changed from xhigh to high";
    super::tests::check(text, "reasoning_effort", "unsupported_value", &[changed]);
    let unknown = "Unrecognized request argument supplied: reasoning_effort";
    super::tests::check(unknown, "", "", &["reasoning_effort removed"]);
}

#[test]
fn tools_and_reasoning_that_exclude_each_other_keep_the_tools() {
    let text = "Function tools with reasoning_effort are not supported for gpt-5.4 in \
                /v1/chat/completions. Please use /v1/responses or set reasoning_effort to 'none'.";
    with_request(&json!({}), |request| {
        mended(request, &details(text, "", ""));
        assert_eq!((&request.sampling[EFFORT_FIELD], request.tools.len()), (&"none".into(), 1));
    });
    with_request(&json!({"tools": []}), |request| {
        assert!(plan_repairs(&details(text, "", ""), request).is_empty());
    });
}

#[test]
fn instructions_find_a_role_that_is_taken() {
    let text = |role: &str| {
        let text = format!("Unsupported value: 'messages[0].role' does not support '{role}'");
        details(&text, "messages[0].role", "unsupported_value")
    };
    let told = |request: &ChatRequest<'_>| {
        let told = request.messages.iter().map(|it| format!("{}:{}", it.role, it.as_text()));
        told.collect::<Vec<_>>().join("|")
    };
    with_request(&json!({}), |request| {
        mended(request, &text("system"));
        assert_eq!(told(request), "developer:Be brief.|user:Hi");
        mended(request, &text("developer"));
        assert_eq!(told(request), "user:Be brief.\n\nHi");
        assert!(plan_repairs(&text("user"), request).is_empty());
    });
    with_request(&json!({}), |request| {
        mended(request, &details("System role not supported", "", ""));
        assert_eq!(told(request), "user:Be brief.\n\nHi");
    });
    let image = json!({"messages": [{"role": "system", "content": "S"},
        {"role": "user", "content": "Look", "images": ["iVBORw0KGgo="]}]});
    with_request(&image, |request| {
        mended(request, &details("System role not supported", "", ""));
        let sent = serde_json::to_value(&request.messages).expect("JSON");
        assert_eq!(sent[0]["content"][0]["text"], "S\n\nLook");
        assert_eq!(sent[0]["content"][1]["type"], "image_url");
    });
    let alone = json!({"messages": [{"role": "system", "content": "S"}]});
    with_request(&alone, |request| {
        mended(request, &details("System role not supported", "", ""));
        assert_eq!(told(request), "user:S");
    });
}

#[test]
fn the_form_of_the_answer_goes_down_a_ladder_and_stays_json() {
    let schema = json!({"format": {"type": "object", "properties": {"a": {"type": "string"}},
        "required": ["a"], "additionalProperties": false}});
    let refusal = details("This response_format type is unavailable now", "", "");
    with_request(&schema, |request| {
        assert_eq!(mended(request, &refusal), ["\"strict\" removed from response_format"]);
        let told = "json_schema replaced by an instruction in the prompt";
        assert_eq!(mended(request, &refusal), [told]);
        assert!(matches!(request.response_format, Some(ResponseFormat::JsonObject)));
        let first = request.messages[0].as_text();
        assert!(first.contains("JSON Schema") && first.contains("additionalProperties"), "{first}");
        assert!(mended(request, &refusal).is_empty(), "it is not given up");
    });
    // Once `strict` is removed, an invalid schema is an error for the client, who has to correct it.
    let wrong = "Invalid schema for response_format 'schema': In context=(), 'x' is not permitted.";
    let wrong = details(wrong, "response_format", "");
    with_request(&schema, |request| {
        assert_eq!(mended(request, &wrong), ["\"strict\" removed from response_format"]);
        assert!(mended(request, &wrong).is_empty());
    });
    let object = json!({"format": "json", "messages": [{"role": "user", "content": "JSON"}]});
    let lm_studio = "'response_format.type' must be 'json_schema' or 'text'";
    with_request(&object, |request| {
        let told = "json_object replaced by a json_schema that allows any object";
        assert_eq!(mended(request, &details(lm_studio, "", "")), [told]);
        let sent = serde_json::to_value(&request.response_format).expect("JSON");
        assert_eq!(sent["json_schema"]["schema"], json!({"type": "object"}));
    });
    let both = "Grammar and tools are mutually exclusive: response_format";
    with_request(&object, |request| assert!(mended(request, &details(both, "", "")).is_empty()));
    with_request(&json!({}), |request| {
        assert!(mended(request, &refusal).is_empty(), "none was asked for");
    });
}

#[test]
fn the_word_json_is_added_where_it_is_insisted_on() {
    let text = "'messages' must contain the word 'json' in some form, to use 'response_format' of \
                type 'json_object'.";
    with_request(&json!({"format": "json"}), |request| {
        // OpenAI is known to require the word, so the first request already has it.
        assert!(request.messages[0].as_text().contains("JSON"));
        request.messages.remove(0);
        let refusal = details(text, "messages", "");
        assert_eq!(mended(request, &refusal), ["instruction to answer in JSON added"]);
        assert_eq!(request.messages[0].as_text(), format::JSON_INSTRUCTION);
    });
}

#[test]
fn what_would_change_the_meaning_is_not_done() {
    check("Unsupported parameter: 'tools' is not supported", "tools", "unsupported_parameter", &[]);
    check("Unknown parameter: 'messages[1].content[1].image_url'.", "", "", &[]);
    check("Unknown parameter: 'model'.", "model", "unknown_parameter", &[]);
    // `tools` must stay, so without `seed` the request would be refused again.
    check("Unrecognized request arguments supplied: seed, tools", "", "", &[]);
    // `min_p` was not sent, so there is nothing to leave out.
    check("Unrecognized request argument supplied: min_p", "", "", &[]);
    let above = "Invalid 'temperature': decimal above maximum value.";
    check(above, "temperature", "decimal_above_max_value", &[]);
}

#[test]
fn other_requests_are_mended_in_their_parts() {
    let mut embedding =
        EmbeddingRequest { model: "e", input: vec!["a".into()], encoding_format: Some("float") };
    let refusal = details("Unknown parameter: 'encoding_format'.", "", "");
    assert_eq!(plan_repairs(&refusal, &embedding), [Repair::Omit("encoding_format")]);
    assert!(embedding.apply(&Repair::Omit("encoding_format")));
    let sent = serde_json::to_string(&embedding).expect("JSON");
    assert_eq!(sent, r#"{"model":"e","input":["a"]}"#);
    assert!(plan_repairs(&details("Unknown parameter: 'input'.", "", ""), &embedding).is_empty());
}
