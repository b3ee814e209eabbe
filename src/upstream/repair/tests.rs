//! Which repairs are made for each rejection, and which are not.

use serde_json::{Value, json};

use super::document::{Document, Repairable, RouteTraits};
use super::plan::{is_about_stream, plan};
use super::session::describe_rejection;
use crate::api::ollama::decode;
use crate::api::ollama::request::ChatRequest as OllamaRequest;
use crate::api::openai::request::EmbeddingRequest;
use crate::backends::errors::ErrorDetails;
use crate::backends::profiles;
use crate::translate::{chat, format};

/// A chat request with every member that an upstream may refuse.
fn with_request(change: &Value, check: impl FnOnce(&mut Document<'_>)) {
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
    let request = chat::to_openai(&request, "gpt-5.1", openai).expect("valid");
    let text = serde_json::to_string(&request).expect("JSON");
    check(&mut Document::parse(&text, request.route()).expect("an object"));
}

/// What would be sent.
fn sent(document: &Document<'_>) -> Value {
    serde_json::from_str(&document.to_json()).expect("JSON")
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

/// Makes the first repairs that change something; returns the text of each.
fn mended(document: &mut Document<'_>, refusal: &ErrorDetails) -> Vec<String> {
    for planned in plan(refusal, document) {
        let made = planned.iter().filter(|(repair, _)| repair.apply(document));
        let made: Vec<String> = made.map(|(repair, _)| repair.to_string()).collect();
        assert!(planned.iter().all(|(repair, _)| !repair.apply(document)), "each is made once");
        if !made.is_empty() {
            return made;
        }
    }
    Vec::new()
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
        assert!(!request.has("logprobs") && !request.has("top_logprobs"));
    });
}

#[test]
fn a_choice_of_tools_is_left_out_and_the_tools_stay() {
    let text = "Unsupported parameter: 'tool_choice' is not supported with this model.";
    let refusal = details(text, "tool_choice", "unsupported_parameter");
    with_request(&json!({}), |request| {
        assert!(mended(request, &refusal).is_empty(), "nothing was chosen");
        request.set("tool_choice", "\"none\"");
        assert!(mended(request, &refusal).is_empty(), "without tools it means something else");
        request.set("tool_choice", "\"required\"");
        assert_eq!(mended(request, &refusal), ["tool_choice removed"]);
        assert!(request.has_tools());
    });
}

#[test]
fn stop_sequences_that_are_left_out_are_watched_for() {
    with_request(&json!({}), |request| {
        mended(request, &details("Argument not supported on this model: stop", "", ""));
        assert_eq!(request.effects.watched_stop, ["x", "y"]);
        assert!(!request.has("stop"));
    });
}

#[test]
fn the_limit_goes_by_its_other_name() {
    let there = "max_completion_tokens renamed to max_tokens";
    check("Unknown parameter: 'max_completion_tokens'.", "", "", &[there]);
    let text = "Unsupported parameter: 'max_completion_tokens' is not supported. Use 'max_tokens' instead.";
    check(text, "max_completion_tokens", "unsupported_parameter", &[there]);
    // Any other name would be a guess.
    let other = "Unsupported parameter: 'max_completion_tokens'. Use 'limit' instead.";
    check(other, "", "", &["max_completion_tokens removed"]);
    with_request(&json!({}), |request| {
        mended(request, &details("Unknown parameter: 'max_completion_tokens'.", "", ""));
        assert_eq!(request.get("max_tokens"), Some("9"));
    });
}

#[test]
fn an_effort_becomes_the_nearest_that_is_allowed() {
    let text = "Unsupported value: 'reasoning_effort' does not support 'xhigh' with this model. \
                Supported values are: 'none', 'low', 'medium', and 'high'.";
    let changed = "reasoning_effort changed from xhigh to high";
    check(text, "reasoning_effort", "unsupported_value", &[changed]);
    let unknown = "Unrecognized request argument supplied: reasoning_effort";
    check(unknown, "", "", &["reasoning_effort removed"]);
}

#[test]
fn tools_and_reasoning_that_exclude_each_other_keep_the_tools() {
    let text = "Function tools with reasoning_effort are not supported for gpt-5.4 in \
                /v1/chat/completions. Please use /v1/responses or set reasoning_effort to 'none'.";
    with_request(&json!({}), |request| {
        mended(request, &details(text, "", ""));
        assert_eq!(request.get("reasoning_effort"), Some("\"none\""));
        assert!(request.has_tools());
    });
    let effort = "reasoning_effort removed";
    with_request(&json!({"tools": []}), |request| {
        assert_eq!(mended(request, &details(text, "", "")), [effort]);
    });
}

#[test]
fn instructions_find_a_role_that_is_taken() {
    let text = |role: &str| {
        let text = format!("Unsupported value: 'messages[0].role' does not support '{role}'");
        details(&text, "messages[0].role", "unsupported_value")
    };
    let told = |request: &mut Document<'_>| {
        let told = request.turns().iter().map(|it| format!("{}:{}", it.role(), it.as_text()));
        told.collect::<Vec<_>>().join("|")
    };
    with_request(&json!({}), |request| {
        mended(request, &text("system"));
        assert_eq!(told(request), "developer:Be brief.|user:Hi");
        mended(request, &text("developer"));
        assert_eq!(told(request), "user:Be brief.\n\nHi");
        assert!(mended(request, &text("user")).is_empty());
    });
    with_request(&json!({}), |request| {
        mended(request, &details("System role not supported", "", ""));
        assert_eq!(told(request), "user:Be brief.\n\nHi");
    });
    let image = json!({"messages": [{"role": "system", "content": "S"},
        {"role": "user", "content": "Look", "images": ["iVBORw0KGgo="]}]});
    with_request(&image, |request| {
        mended(request, &details("System role not supported", "", ""));
        let content = &sent(request)["messages"][0]["content"];
        assert_eq!((&content[0]["text"], &content[1]["text"]), (&"S".into(), &"Look".into()));
        assert_eq!(content[2]["type"], "image_url");
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
    let kind = |request: &Document<'_>| sent(request)["response_format"]["type"].clone();
    with_request(&schema, |request| {
        let strict = details("response_format: strict is not supported", "", "");
        assert_eq!(mended(request, &strict), ["\"strict\" removed from response_format"]);
    });
    with_request(&schema, |request| {
        // No schema of any kind would be accepted.
        let told = "json_schema replaced by an instruction in the prompt";
        assert_eq!(mended(request, &refusal), [told]);
        assert_eq!(kind(request), "json_object");
        let first = request.turns()[0].as_text();
        assert!(first.contains("JSON Schema") && first.contains("additionalProperties"), "{first}");
        assert!(mended(request, &refusal).is_empty(), "it is not given up");
    });
    // Once `strict` is removed and the schema is reduced, only the client can correct it.
    let wrong = "Invalid schema for response_format 'schema': In context=(), 'x' is not permitted.";
    let wrong = details(wrong, "response_format", "");
    with_request(&schema, |request| {
        assert_eq!(mended(request, &wrong), ["\"strict\" removed from response_format"]);
        assert_eq!(mended(request, &wrong), ["schemas reduced"]);
        assert!(mended(request, &wrong).is_empty());
    });
    let object = json!({"format": "json", "messages": [{"role": "user", "content": "JSON"}]});
    let lm_studio = "'response_format.type' must be 'json_schema' or 'text'";
    with_request(&object, |request| {
        let told = "json_object replaced by a json_schema that allows any object";
        assert_eq!(mended(request, &details(lm_studio, "", "")), [told]);
        let format = &sent(request)["response_format"];
        assert_eq!(format["json_schema"]["schema"], json!({"type": "object"}));
    });
    let both = "Grammar and tools are mutually exclusive: response_format";
    with_request(&object, |request| {
        let told = "response_format replaced by an instruction beside the tools";
        assert_eq!(mended(request, &details(both, "", "")), [told]);
        assert!(request.has_tools() && request.effects.strips_fence);
    });
    with_request(&json!({}), |request| {
        assert!(mended(request, &refusal).is_empty(), "none was asked for");
    });
}

#[test]
fn a_format_that_is_not_known_goes_to_the_prompt_at_once() {
    let schema = json!({"format": {"type": "object", "properties": {"a": {"type": "string"}},
        "required": ["a"], "additionalProperties": false}});
    // llama-cpp-python.
    let text = "[{'type': 'literal_error', 'loc': ('body', 'response_format', 'type'), 'msg': \"Input \
                should be 'text' or 'json_object'\", 'input': 'json_schema', 'ctx': {'expected': \
                \"'text' or 'json_object'\"}}]\n  File \"/root/x/object/type.py\", line 376";
    with_request(&schema, |request| {
        let told = "json_schema replaced by an instruction in the prompt";
        assert_eq!(mended(request, &details(text, "", "")), [told]);
    });
}

#[test]
fn the_word_json_is_added_where_it_is_insisted_on() {
    let text = "'messages' must contain the word 'json' in some form, to use 'response_format' of \
                type 'json_object'.";
    with_request(&json!({"format": "json"}), |request| {
        // OpenAI is known to require the word, so the first request already has it.
        assert!(request.turns()[0].as_text().contains("JSON"));
        request.turns().remove(0);
        let refusal = details(text, "messages", "");
        assert_eq!(mended(request, &refusal), ["instruction to answer in JSON added"]);
        assert_eq!(request.turns()[0].as_text(), format::JSON_INSTRUCTION);
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
    let embedding =
        EmbeddingRequest { model: "e", input: vec!["a".into()], encoding_format: Some("float") };
    let text = serde_json::to_string(&embedding).expect("JSON");
    let mut document = Document::parse(&text, embedding.route()).expect("an object");
    assert!(mended(&mut document, &details("Unknown parameter: 'input'.", "", "")).is_empty());
    let refusal = details("Unknown parameter: 'encoding_format'.", "", "");
    assert_eq!(mended(&mut document, &refusal), ["encoding_format removed"]);
    assert_eq!(document.to_json(), r#"{"model":"e","input":["a"]}"#);
}

#[test]
fn members_that_may_not_be_sent_are_left_out() {
    let both = "`temperature` and `top_p` cannot both be specified for this model. Please use only \
                one.";
    check(both, "", "", &["top_p removed beside temperature"]);
    check(
        "invalid temperature: only 1 is allowed for this model",
        "",
        "",
        &["temperature removed"],
    );
    check("seed: this field is not permitted here", "", "", &["seed removed"]);
    check("temperature must be between 0 and 2, unsupported value", "", "", &[]);
    check("top_k is not supported", "", "", &[]);
    with_request(&json!({}), |request| {
        request.set("tool_choice", r#"{"type":"function","function":{"name":"f"}}"#);
        let text = "Thinking mode does not support this tool_choice";
        assert_eq!(mended(request, &details(text, "", "")), ["tool_choice removed"]);
    });
}

#[test]
fn members_of_ollama_are_left_out_all_at_once() {
    let body = r#"{"model":"m","options":{"num_ctx":1},"keep_alive":5,"messages":[],"seed":1}"#;
    let route = RouteTraits { is_chat: true, is_passed: true, ..RouteTraits::default() };
    for text in
        ["property 'options' is unsupported", "Unrecognized request argument supplied: options"]
    {
        let mut document = Document::parse(body, route).expect("an object");
        mended(&mut document, &details(text, "", ""));
        assert_eq!(document.to_json(), r#"{"model":"m","messages":[],"seed":1}"#, "{text}");
    }
}

#[test]
fn a_rejection_about_streams_is_told_from_one_that_names_the_upstream() {
    let is_about = |message: &str, param: &str| is_about_stream(&details(message, param, ""));
    assert!(is_about("Streaming is off for this model.", ""));
    assert!(is_about("`stream` is not supported", ""));
    assert!(is_about("Your organization must be verified.", "stream"));
    assert!(!is_about("The upstream provider rejected the request.", ""));
    assert!(!is_about("'stream_options' is not permitted", ""));
    assert!(!is_about("stream_options is not permitted in a stream", "stream_options"));
    assert!(!is_about("This model only supports streams.", ""), "the opposite");
}

#[test]
fn a_rejection_of_several_lines_is_told_in_one() {
    with_request(&json!({}), |request| {
        let told = describe_rejection("no\r\n2026-11-30 [INFO] all is well\u{1b}[2J", request);
        assert_eq!(told, "no  2026-11-30 [INFO] all is well [2J");
    });
}
