//! Errors of `/v1/messages`: statuses, error types, and a wrong JSON type in the members of a request.

use super::messages::{COUNT, PLAIN, error, streamed};
use crate::support::members::VALUES;
use crate::support::*;

#[test]
fn an_error_before_the_first_event_has_a_status_and_anthropic_s_shape() {
    let check = |status: u16, told: u16, kind: &str| {
        let bench = Bench::new();
        let body = r#"{"error":{"message":"No.","type":"x"}}"#;
        for change in [json!({}), streamed()] {
            bench.upstream.script(vec![upstream::status(status, &[], body)]);
            let answer = bench.ask(MESSAGES, &change);
            assert_eq!(error(&answer), (told, kind.to_owned(), "No.".to_owned()), "{change}");
        }
    };
    check(400, 400, "invalid_request_error");
    check(401, 401, "authentication_error");
    check(402, 402, "billing_error");
    check(403, 403, "permission_error");
    check(429, 429, "rate_limit_error");
    check(500, 500, "api_error");
    check(503, 529, "overloaded_error");
    check(529, 529, "overloaded_error");
    let bench = Bench::new();
    let refusal = frame("data: {\"error\":{\"message\":\"slow down\",\"code\":429}}\n\n");
    bench.upstream.script(vec![stream_head(), refusal, last_frame()]);
    let told = error(&bench.ask(MESSAGES, &streamed()));
    assert_eq!(told, (429, "rate_limit_error".into(), "slow down".into()));
}

#[test]
fn a_prompt_that_exceeds_the_context_is_told_in_anthropic_s_words() {
    let told = |message: &str| {
        let bench = Bench::new();
        let body = json!({"error": {"message": message, "type": "x"}}).to_string();
        [json!({}), streamed()].map(|change| {
            bench.upstream.script(vec![upstream::status(400, &[], &body)]);
            let (status, kind, message) = error(&bench.ask(MESSAGES, &change));
            assert_eq!((status, &*kind), (400, "invalid_request_error"), "{message} {change}");
            message
        })
    };
    let check = |message: &str, expected: &str| assert_eq!(told(message), [expected; 2]);
    let counted = "prompt is too long: 946 tokens > 256 maximum";
    let llama_cpp = "request (946 tokens) exceeds the available context size (256 tokens), try \
                     increasing it";
    check(llama_cpp, counted);
    check(
        &format!(
            "litellm.ContextWindowExceededError: litellm.BadRequestError: \
             ContextWindowExceededError: OpenAIException - {llama_cpp}\nmodel=m."
        ),
        counted,
    );
    check(
        "This model's maximum context length is 256 tokens. However, you requested 1010 tokens (946 in \
         the messages, 64 in the completion).",
        counted,
    );
    check(
        "Requested token count exceeds the model's maximum context length of 256 tokens.",
        "prompt is too long: 257 tokens > 256 maximum",
    );
    // The numbers are required: what is missing is an estimate.
    let estimated = "prompt is too long: 2 tokens > 1 maximum";
    check("Your input exceeds the context window of this model.", estimated);
    check("Prompt is too long", estimated);
    check("No.", "No.");
}

#[test]
fn a_limit_that_does_not_fit_beside_the_prompt_is_lowered() {
    let bench = Bench::new();
    bench.upstream.judge(|request| {
        let limit = request.json()["max_tokens"].as_u64().unwrap_or(0);
        let text = format!(
            "'max_tokens' or 'max_completion_tokens' is too large: {limit}. This model's maximum context \
             length is 40000 tokens and your request has 30000 input tokens ({limit} > 40000 - 30000)."
        );
        let refusal = status(400, &[], &json!({"error": {"message": text}}).to_string());
        Some(vec![if limit > 10_000 { refusal } else { upstream::answer("ok") }])
    });
    let answer = bench.ask(MESSAGES, &json!({"max_tokens": 32_000}));
    assert_eq!(answer.status(), 200, "{}", answer.body);
    bench.upstream.request();
    let lowered = bench.upstream.request().json()["max_tokens"].as_u64().expect("a limit");
    assert!((1..=10_000).contains(&lowered), "{lowered}");
}

#[test]
fn a_rate_limit_keeps_the_time_to_wait() {
    let bench = Bench::new();
    let slow = status(429, &[("retry-after", "77")], r#"{"error":{"message":"slow"}}"#);
    bench.upstream.script(vec![slow]);
    let answer = bench.ask(MESSAGES, &json!({}));
    assert_eq!(answer.head.header("retry-after"), Some("77"));
    assert_eq!(error(&answer), (429, "rate_limit_error".into(), "slow".into()));
}

#[test]
fn an_overload_within_a_stream_is_told_by_its_type() {
    let bench = Bench::new();
    let failure = frame("data: {\"error\":{\"message\":\"busy\",\"code\":503}}\n\n");
    let steps = vec![stream_head(), delta("one"), failure, last_frame()];
    let events = bench.played(MESSAGES, &streamed(), steps).events();
    let last = events.last().expect("events");
    let told = json!({"type": "overloaded_error", "message": "busy"});
    assert_eq!((&last["type"], &last["error"]), (&"error".into(), &told));
}

#[test]
fn an_unknown_model_is_not_found() {
    let bench = Bench::new();
    let body = r#"{"error":{"message":"The model does not exist","code":"model_not_found"}}"#;
    bench.upstream.script(vec![upstream::status(404, &[], body)]);
    let told = error(&bench.ask(MESSAGES, &json!({"model": "nope"})));
    assert_eq!(told, (404, "not_found_error".into(), "model: nope".into()));
}

#[test]
fn what_the_model_cannot_do_is_told_as_on_a_chat() {
    let refused = |list: &str, change: Value, status: u16, kind: &str, message: &str| {
        let bench = Bench::over(list);
        let told = error(&bench.ask(MESSAGES, &change));
        assert_eq!(told, (status, kind.to_owned(), message.to_owned()), "{change}");
        assert!(bench.upstream.is_idle(), "the upstream is not asked: {change}");
    };
    let invalid = "invalid_request_error";
    refused(
        upstream::MODELS,
        json!({"model": "text-embed"}),
        400,
        invalid,
        "\"text-embed\" does not support chat",
    );
    let tools = json!([{"name": "f", "input_schema": {"type": "object"}}]);
    let no_tools = "registry.ollama.ai/library/m:latest does not support tools";
    refused(PLAIN, json!({"tools": tools}), 400, invalid, no_tools);
    refused(upstream::MODELS, json!({"model": "b c"}), 400, invalid, "invalid model name");
    let cloud = "ollama cloud is disabled: remote model is unavailable";
    refused(upstream::MODELS, json!({"model": "m:cloud"}), 403, "permission_error", cloud);
}

/// Members that hold for the whole request, the Go type of each, and the JSON types that are taken for
/// it. What is inside of them is read leniently (`any_input.rs`).
const MEMBERS: &[(&str, &str, &[&str])] = &[
    ("model", "string", &["string"]),
    ("max_tokens", "int", &["number"]),
    ("messages", "slice", &["array"]),
    ("messages.content", "[]anthropic.ContentBlock", &["string", "array", "object"]),
    ("system", "[]anthropic.ContentBlock", &["string", "array", "object"]),
    ("stream", "bool", &["bool"]),
    ("temperature", "float64", &["number"]),
    ("top_p", "float64", &["number"]),
    ("top_k", "int", &["number"]),
    ("stop_sequences", "slice", &["array"]),
    ("tools", "slice", &["array"]),
];

/// A good request with this value at this place.
fn with(member: &str, value: &str) -> String {
    const MARK: &str = "the value";
    let mut body = request(MESSAGES, &json!({"tools": [{"name": "f"}]}));
    body["messages"][0]["content"] = json!([{"type": "text", "text": "Hi"}]);
    let mut place = &mut body;
    for name in member.split('.') {
        if place.is_array() {
            place = &mut place[0];
        }
        place = &mut place[name];
    }
    *place = MARK.into();
    body.to_string().replace(&format!("{MARK:?}"), value)
}

#[test]
fn a_wrong_type_is_refused_for_every_member_and_the_connection_serves_again() {
    let (upstream, proxy) = asking_once();
    let mut client = proxy.client();
    let mut refused = 0;
    for (member, wanted, taken) in MEMBERS {
        for (value, of) in VALUES {
            upstream.script(vec![upstream::answer("ok")]);
            let body = with(member, value);
            let answer = client.post(MESSAGES, &body).answer();
            if *of == "null" || taken.contains(of) {
                // Taken as a value; what it says may still be refused.
                let whole = matches!(answer.status(), 200 | 400 | 404);
                let fits =
                    !answer.body.contains(&format!("MessagesRequest.{member} of type {wanted}"));
                assert!(whole && fits, "{body}: {}", answer.body);
                continue;
            }
            let text = format!(
                "json: cannot unmarshal {of} into Go struct field MessagesRequest.{member} of type {wanted}"
            );
            assert_eq!(error(&answer), (400, "invalid_request_error".into(), text), "{body}");
            refused += 1;
        }
    }
    assert!(refused > 60, "{refused}");
}

#[test]
fn what_is_no_request_is_refused_in_go_s_words() {
    let bench = Bench::new();
    for route in [MESSAGES, COUNT] {
        for (body, text) in [
            ("", "EOF"),
            ("{bad", "invalid character 'b' looking for beginning of object key string"),
            (r#"{"model":"x""#, "unexpected EOF"),
            ("[]", "json: cannot unmarshal array into Go value of type anthropic.MessagesRequest"),
            ("null", "model is required"),
            (r#"{"model":"m","max_tokens":1,"messages":[]}"#, "messages is required"),
        ] {
            let answer = bench.proxy.ask(route, body);
            let told = (400, "invalid_request_error".to_owned(), text.to_owned());
            assert_eq!(error(&answer), told, "{route} {body}");
        }
    }
    assert!(bench.upstream.is_idle());
}
