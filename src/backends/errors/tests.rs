//! Error responses as the supported servers send them: each shape of body, and for each error the
//! status, the message and the retry decision.

use super::*;
use crate::observe::redact::Secret;

const MODEL_NOT_FOUND: &str = "model 'x:1' not found";
const NO_MESSAGE: &str = "the upstream reported an error without a message";
const BASE_URL: &str = "upstream returned 404 for POST /v1/chat/completions; check the base URL";

fn check_details(body: &str, message: &str, kind: &str, code: &str, param: &str) {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let expected = ErrorDetails {
        message: message.to_owned(),
        kind: some(kind),
        code: some(code),
        param: some(param),
        ..ErrorDetails::default()
    };
    let found = parse_details(body.as_bytes()).map(|it| ErrorDetails {
        field_errors: Vec::new(),
        context_window: None,
        ..it
    });
    assert_eq!(found, Some(expected), "{body}");
}

fn fail(status: u16, body: &str, hints: RetryHints, model: Option<&str>) -> Error {
    let request = RequestSummary {
        method_and_path: "POST /v1/chat/completions",
        endpoint: "chat/completions",
        model,
        has_answered: false,
    };
    let redactor = Redactor::new(Some(Secret::new("topsecret-1")));
    to_error(status, body.as_bytes(), hints, request, &redactor)
}

/// The status, message and retry for an answer without hints; a model is known.
fn check(status: u16, body: &str, expected: (u16, &str, Retry)) {
    let error = fail(status, body, RetryHints::default(), Some("x:1"));
    let got = (error.status(), error.message(), error.retry());
    assert_eq!(got, (Some(expected.0), expected.1.to_owned(), expected.2), "{status} {body}");
}

fn check_unknown_model(status: u16, body: &str) {
    let error = fail(status, body, RetryHints::default(), Some("x:1"));
    assert!(matches!(error, Error::ModelNotFound(_)), "{status} {body} {error:?}");
    assert_eq!(error.message(), MODEL_NOT_FOUND);
    let error = fail(status, body, RetryHints::default(), None);
    assert!(matches!(error, Error::UpstreamStatus { .. }), "{status} {body} {error:?}");
    assert_eq!((error.status(), error.retry()), (Some(status), Retry::Never), "{status} {body}");
}

fn check_retry(status: u16, body: &str, expected: Retry) {
    let error = fail(status, body, RetryHints::default(), Some("x:1"));
    assert_eq!((error.status(), error.retry()), (Some(status), expected), "{body}");
}

/// Hints that ask for a delay of this many seconds.
fn wait(seconds: u64) -> RetryHints {
    RetryHints { retry_after: Some(Duration::from_secs(seconds)), should_retry: None }
}

/// A body in OpenAI's shape.
fn shaped(message: &str, kind: &str, code: &str) -> String {
    format!(r#"{{"error":{{"message":{message:?},"type":{kind:?},"param":null,"code":{code:?}}}}}"#)
}

#[test]
fn an_overflow_is_known_by_its_words() {
    for text in [
        "Input is too long for requested model.",
        "The input token count (9000) exceeds the maximum number of tokens allowed (8192).",
        "Token indices sequence length is longer than the specified maximum sequence length",
        "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
        "The decoder prompt (length 9000) is longer than the maximum model length of 8192.",
        "prompt is larger than the context of the model",
    ] {
        let details = ErrorDetails { message: text.to_owned(), ..ErrorDetails::default() };
        assert!(is_context_overflow(&details), "{text}");
    }
    let other = "max_tokens must be at most 4096, and the limit of requests is 5 per minute";
    let details = ErrorDetails { message: other.to_owned(), ..ErrorDetails::default() };
    assert!(!is_context_overflow(&details));
}

#[test]
fn shape_1_openai() {
    let (text, code) = ("Unsupported parameter: 'max_tokens'.", "unsupported_parameter");
    let body = r#"{"error":{"message":"Unsupported parameter: 'max_tokens'.","type":"invalid_request_error","param":"max_tokens","code":"unsupported_parameter"}}"#;
    check_details(body, text, "invalid_request_error", code, "max_tokens");
    let body = r#"{"error":{"message":"no","type":"server_error","param":null,"code":null,"innererror":{"code":"x"}}}"#;
    check_details(body, "no", "server_error", "", "");
}

#[test]
fn shape_2_groq() {
    check_details(r#"{"error":{"message":"m","type":"t"}}"#, "m", "t", "", "");
}

#[test]
fn shape_3_numeric_codes() {
    let body =
        r#"{"error":{"code":400,"message":"m","type":"exceed_context_size_error","n_ctx":512}}"#;
    check_details(body, "m", "exceed_context_size_error", "400", "");
    let body = r#"{"error":{"message":"m","type":"None","param":"None","code":"400"}}"#;
    check_details(body, "m", "None", "400", "None");
}

#[test]
fn shape_4_flat() {
    let body =
        r#"{"object":"error","message":"m","type":"BadRequestError","param":"model","code":400}"#;
    check_details(body, "m", "BadRequestError", "400", "model");
    let body = r#"{"object":"error","message":{"detail":[{"loc":["body","top_k"],"msg":"no"}]}}"#;
    check_details(body, "top_k: no", "", "", "");
}

#[test]
fn shape_5_openrouter() {
    let raw = r#"{\"error\":{\"message\":\"inner\",\"code\":\"c\",\"param\":\"p\"}}"#;
    let body = format!(
        r#"{{"error":{{"code":429,"message":"Provider returned error","metadata":{{"raw":"{raw}","provider_name":"P","error_type":"rate_limit_exceeded"}}}},"user_id":"u"}}"#
    );
    check_details(&body, "inner", "rate_limit_exceeded", "c", "p");
    let body = r#"{"error":{"code":502,"message":"outer","metadata":{"raw":"no JSON"}}}"#;
    check_details(body, "outer", "", "502", "");
    let body = r#"{"error":{"code":502,"message":"outer","metadata":{"raw":{"message":"in"}}}}"#;
    check_details(body, "in", "", "502", "");
    let body = r#"{"error":{"code":502,"message":"outer","metadata":{"raw":"{\"a\":1}"}}}"#;
    check_details(body, "outer", "", "502", "");
    let raw = r#"{\"error\":{\"code\":500}}"#;
    let body =
        format!(r#"{{"error":{{"code":502,"message":"outer","metadata":{{"raw":"{raw}"}}}}}}"#);
    check_details(&body, "outer", "", "502", "");
}

#[test]
fn shape_6_gemini() {
    let body = r#"[{"error":{"code":400,"message":"m","status":"INVALID_ARGUMENT","details":[]}}]"#;
    check_details(body, "m", "INVALID_ARGUMENT", "400", "");
}

#[test]
fn shape_7_xai() {
    let body = r#"{"code":"Client specified an invalid argument","error":"m"}"#;
    check_details(body, "m", "", "Client specified an invalid argument", "");
}

#[test]
fn shape_8_a_string() {
    check_details(r#"{"error":"Unauthorized"}"#, "Unauthorized", "", "", "");
    check_details(r#"{"error":"m","error_type":"overloaded"}"#, "m", "overloaded", "", "");
    check_details(r#""m""#, "m", "", "", "");
}

#[test]
fn shape_9_fastapi() {
    check_details(r#"{"detail":"m"}"#, "m", "", "", "");
    let list = r#"{"detail":[{"loc":["body","x"],"msg":"m","type":"extra_forbidden"},{"loc":["body","n",0],"msg":"o"}]}"#;
    check_details(list, "x: m; 0: o", "extra_forbidden", "", "x");
    check_details(r#"{"detail":{"error":{"message":"m"}}}"#, "m", "", "", "");
}

#[test]
fn a_refusal_tells_all_places_and_all_lines() {
    let check = |status, body: &str, message: &str, faults: &[(&str, &str)]| {
        let found = parse_rejection(status, body.as_bytes()).expect("a refusal");
        let known = |it: &FieldError| (it.path.clone(), it.kind.clone().unwrap_or_default());
        let known: Vec<_> = found.field_errors.iter().map(known).collect();
        let expected: Vec<_> =
            faults.iter().map(|(place, kind)| ((*place).to_owned(), (*kind).to_owned())).collect();
        assert_eq!((found.message.as_str(), known), (message, expected), "{body}");
    };
    let list = r#"{"detail":[{"type":"extra_forbidden","loc":["body","top_k"],"msg":"no"},
        {"type":"missing","loc":["body","messages",0,"content"],"msg":"m"},{"loc":["x"],"msg":"n"}]}"#;
    let expected = [("top_k", "extra_forbidden"), ("messages.0.content", "missing"), ("x", "")];
    check(422, list, "top_k: no; content: m; x: n", &expected);
    check(400, &format!(r#"{{"error":{list}}}"#), "top_k: no; content: m; x: n", &expected);
    let flat = format!(r#"{{"object":"error","message":{list}}}"#);
    check(422, &flat, "top_k: no; content: m; x: n", &expected);
    let gemini = r#"[{"error":{"code":400,"message":"Unknown name \"a\"\nUnknown name \"b\"","details":[
        {"@type":"x"},{"fieldViolations":[{"field":"p","description":"d"}]}]}},{"error":{"message":"c"}}]"#;
    check(400, gemini, "Unknown name \"a\"\nUnknown name \"b\"\nc", &[("p", "")]);
    let found = parse_rejection(400, shaped("m", "t", "c").as_bytes()).expect("a refusal");
    assert_eq!((found.code.as_deref(), found.field_errors.len()), (Some("c"), 0));
    for (status, body) in [(404, list), (500, r#"{"error":"boom"}"#), (400, "")] {
        assert_eq!(parse_rejection(status, body.as_bytes()), None, "{status}");
    }
}

#[test]
fn shape_10_plain_text_and_pages() {
    check_details("  upstream\n\n  connect   error ", "upstream connect error", "", "", "");
    check_details("a < b and <3, a > c", "a < b and <3, a > c", "", "", "");
    let page = "<!DOCTYPE html><html><!-- <p> --><head><TITLE>502 Bad\n Gateway</TITLE>\
                <STYLE>p {}</style><script>if (a > b) {}</SCRIPT></head>\r\n\
                <body><h1>502</h1>č<hr/></body></html>";
    check_details(page, "502 Bad Gateway 502 č", "", "", "");
    check_details("<p>open <script>x > y", "open", "", "", "");
    check_details("{\"error\":{\"message\":\"cut o", "{\"error\":{\"message\":\"cut o", "", "", "");
    check_details(&"č".repeat(300), &"č".repeat(200), "", "", "");
}

#[test]
fn shape_11_gateways() {
    check_details(r#"{"message":"m"}"#, "m", "", "", "");
    check_details(r#"{"error_description":"m"}"#, "m", "", "", "");
    check_details(r#"{"msg":"m"}"#, "m", "", "", "");
}

#[test]
fn mixtures_of_shapes_are_read_too() {
    check_details(r#"{"error":true,"message":"m"}"#, "m", "", "", "");
    check_details(r#"{"error":null,"message":"m","code":7,"param":"p"}"#, "m", "", "7", "p");
    check_details(r#"{"error":{"type":"t"},"message":"m"}"#, "m", "t", "", "");
    check_details(r#"{"error":{"message":"","code":"c","type":"t"}}"#, "c", "t", "c", "");
    check_details(r#"{"error":{"message":null,"code":500,"type":"t"}}"#, "t", "t", "500", "");
    check_details(r#"{"error":"{\"error\":{\"message\":\"m\"}}"}"#, "m", "", "", "");
    check_details(r#"{"type":"error","error":{"type":"t","message":"m"}}"#, "m", "t", "", "");
}

#[test]
fn bodies_that_say_nothing_give_nothing() {
    for body in [
        "",
        " \n",
        "null",
        "{}",
        "[]",
        "7",
        "true",
        "\"\"",
        "<p></p>",
        r#"{"status":"ok"}"#,
        r#"{"error":{}}"#,
        r#"{"error":{"code":500}}"#,
        r#"{"error":""}"#,
        r#"{"code":"c"}"#,
    ] {
        assert_eq!(parse_details(body.as_bytes()), None, "{body}");
        check(502, body, (502, "upstream returned HTTP 502", Retry::Backoff));
        check(401, body, (401, "upstream returned HTTP 401", Retry::Never));
        check(404, body, (502, BASE_URL, Retry::Never));
    }
    assert_eq!(parse_details(b"\xFF\xFE").map(|d| d.message), Some("\u{FFFD}\u{FFFD}".to_owned()));
}

#[test]
fn the_status_and_the_text_pass_through() {
    let body = shaped("the text", "some_error", "c");
    for status in [400, 401, 402, 403, 404, 405, 413, 418, 422, 498, 501, 505, 599] {
        check(status, &body, (status, "the text", Retry::Never));
    }
    for status in [408, 409, 424, 429, 500, 502, 503, 504, 524, 529] {
        check(status, &body, (status, "the text", Retry::Backoff));
    }
    for status in [0, 100, 204, 299, 600, 999, u16::MAX] {
        check(status, &body, (502, "the text", Retry::Never));
    }
    check(503, "busy", (503, "busy", Retry::Backoff));
    check(502, "<h1>Bad Gateway</h1>", (502, "Bad Gateway", Retry::Backoff));
}

#[test]
fn redirects_are_a_wrong_base_url() {
    for status in [300, 301, 302, 307, 308, 399] {
        let body = "<a href=\"https://u:p@other\">moved</a>";
        let told = "the upstream answered with a redirect; correct the base URL";
        check(status, body, (502, told, Retry::Never));
    }
}

#[test]
fn openai_rows() {
    let invalid = |message: &str, code: &str| shaped(message, "invalid_request_error", code);
    check_retry(400, &invalid("Unsupported parameter: 'a'", "unsupported_parameter"), Retry::Never);
    check_retry(400, &invalid("Unsupported value: 'a'", "unsupported_value"), Retry::Never);
    check_retry(400, &invalid("This model's maximum", "context_length_exceeded"), Retry::Never);
    check_retry(401, &invalid("Incorrect API key provided", "invalid_api_key"), Retry::Never);
    check_retry(403, &invalid("no access", "model_not_found"), Retry::Never);
    let unknown = "The model `x` does not exist or you do not have access to it.";
    check_unknown_model(404, &invalid(unknown, "model_not_found"));
    let unknown = "The API deployment for this resource does not exist.";
    check_unknown_model(404, &shaped(unknown, "", "DeploymentNotFound"));
    let rate =
        "Rate limit reached for x in organization y on tokens per min. Please try again in 1.2s.";
    let asked = Retry::After(Duration::from_millis(1200));
    check_retry(429, &shaped(rate, "tokens", "rate_limit_exceeded"), asked);
    let quota = "You exceeded your current quota, please check your plan and billing details.";
    check_retry(429, &shaped(quota, "insufficient_quota", "insufficient_quota"), Retry::Never);
    check_retry(429, &shaped("m", "insufficient_quota", ""), Retry::Never);
    check_retry(429, &shaped("m", "", "insufficient_quota"), Retry::Never);
    check_retry(429, &shaped(quota, "", ""), Retry::Never);
    let body = shaped("The server had an error while processing your request.", "server_error", "");
    for status in [500, 502, 503, 504] {
        check_retry(status, &body, Retry::Backoff);
    }
}

#[test]
fn rows_of_other_backends() {
    let llama = |code: u16, kind: &str, message: &str| {
        format!(r#"{{"error":{{"code":{code},"message":{message:?},"type":{kind:?}}}}}"#)
    };
    let image = "image input is not supported - hint: you may need to provide the mmproj";
    check(500, &llama(500, "server_error", image), (400, image, Retry::Never));
    let large = "input (596 tokens) is too large to process. increase the physical batch size";
    check_retry(500, &llama(500, "server_error", large), Retry::Never);
    let long = "the request exceeds the available context size, try increasing it";
    check(500, &llama(500, "exceed_context_size_error", long), (400, long, Retry::Never));
    check_retry(500, &llama(500, "server_error", "slot unavailable"), Retry::Backoff);
    check_retry(503, &llama(503, "unavailable_error", "Loading model"), Retry::Poll);
    let embed = "This server does not support embeddings. Start it with `--embeddings`";
    check_retry(501, &llama(501, "not_supported_error", embed), Retry::Never);
    check_retry(500, &llama(500, "server_error", embed), Retry::Never);
    check_retry(500, &llama(500, "not_supported_error", "m"), Retry::Never);
    check_retry(429, r#"{"error":"m","error_type":"overloaded"}"#, Retry::Backoff);
    let limit = |message: &str| shaped(message, "tokens", "rate_limit_exceeded");
    check_retry(413, &limit("Request too large"), Retry::Never);
    check_retry(429, &limit("Request too large for x"), Retry::Never);
    check_retry(402, &shaped("Insufficient Balance", "unknown_error", ""), Retry::Never);
    check_retry(429, &shaped("Insufficient credits", "", ""), Retry::Never);
    check_retry(500, &shaped("m", "", "max_tokens_per_request"), Retry::Never);
    let capacity = r#"{"message":"Service tier capacity exceeded for this model."}"#;
    check_retry(429, capacity, Retry::Backoff);
    let gemini = r#"[{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED"}}]"#;
    check_retry(429, gemini, Retry::Backoff);
}

#[test]
fn unknown_models_are_recognised_in_every_wording() {
    for body in [
        r#"{"object":"error","message":"The model `x` does not exist.","type":"NotFoundError","param":null,"code":404}"#,
        r#"{"error":{"message":"nothing here","type":"NotFoundError","param":"model","code":404}}"#,
        r#"{"error":{"message":"m","code":"model_not_found"}}"#,
        r#"{"error":"model 'x' not found"}"#,
        r#"{"error":"model \"x\" not found, try pulling it first"}"#,
        r#"{"detail":"Unknown model: x"}"#,
        r#"{"error":{"message":"Model x is not supported"}}"#,
        r#"[{"error":{"code":404,"message":"models/x is not found for API version v1beta","status":"NOT_FOUND"}}]"#,
        r#"{"error":{"message":"Not found the model x or Permission denied"}}"#,
        "model 'x' not found",
    ] {
        check_unknown_model(404, body);
    }
    for body in [
        r#"{"error":{"message":"x is not a valid model ID","code":400}}"#,
        r#"{"error":{"message":"Model Not Exist","type":"invalid_request_error"}}"#,
        r#"{"error":{"message":"m","code":"model_not_found"}}"#,
    ] {
        check_unknown_model(400, body);
    }
}

#[test]
fn an_unknown_model_is_known_by_its_words_whatever_the_status() {
    let litellm = "{'error': '/chat/completions: Invalid model name passed in model=x. Call \
                   `/v1/models` to view available models for your key.'}";
    let litellm = serde_json::json!({"error": {"message": litellm, "type": "None", "param": "None",
        "code": "400"}});
    check_unknown_model(400, &litellm.to_string());
    let transformers = r#"{"detail":"Server is pinned to '/models/a'; requested 'x'."}"#;
    check_unknown_model(400, transformers);
    for (status, code, message) in [
        (400, "unknown_model", "Unknown model: x"),
        (400, "model_not_supported", "The requested model 'x' is not supported by any provider"),
        (400, "", "litellm.BadRequestError: There are no healthy deployments for this model"),
        (422, "", "Model not found: x"),
        (422, "invalid_model", "x cannot be used"),
        (500, "", "could not find suitable inference handler for x"),
        (503, "model_not_found", "No available channel for model x under group default"),
        (400, "", "The requested model `x` does not exist"),
    ] {
        let error = serde_json::json!({"error": {"message": message, "code": code}});
        check_unknown_model(status, &error.to_string());
    }
    let blamed = r#"{"error":{"message":"x was not found here","param":"model"}}"#;
    check_unknown_model(400, blamed);
    check_unknown_model(422, blamed);
    let other = |status: u16, message: &str| {
        let body = serde_json::json!({"error": {"message": message}}).to_string();
        let error = fail(status, &body, RetryHints::default(), Some("x:1"));
        assert!(!matches!(error, Error::ModelNotFound(_)), "{status} {message}");
    };
    other(400, "tool 'x' not found in the model's request");
    other(500, "the model runner was not found");
    other(401, "Unknown model: x");
    // Refusals of a parameter, of a file, and of a gateway whose deployments are down.
    other(400, "tool_choice is not supported by any provider of this model");
    other(500, "error loading model: unknown model architecture: 'x'");
    other(503, "There are no healthy deployments for this model");
}

#[test]
fn a_missing_endpoint_is_blamed_on_the_base_url_only_while_nothing_else_was_answered() {
    let told = |has_answered: bool| {
        let request = RequestSummary {
            method_and_path: "POST /v1/embeddings",
            endpoint: "embeddings",
            model: Some("x"),
            has_answered,
        };
        let redactor = Redactor::default();
        to_error(404, b"Not Found", RetryHints::default(), request, &redactor).message()
    };
    assert_eq!(told(false), "upstream returned 404 for POST /v1/embeddings; check the base URL");
    assert_eq!(
        told(true),
        "this upstream has no embeddings endpoint (404 for POST /v1/embeddings)"
    );
}

#[test]
fn other_errors_are_not_taken_for_unknown_models() {
    let misused = "This is not a chat model and thus not supported in the v1/chat/completions \
                   endpoint. Did you mean to use v1/completions?";
    check(404, &shaped(misused, "invalid_request_error", ""), (404, misused, Retry::Never));
    let field = "Model x: 'temperature' is not supported";
    check(400, &shaped(field, "BadRequestError", ""), (400, field, Retry::Never));
    let image = "image not found for the model";
    check(400, &shaped(image, "", ""), (400, image, Retry::Never));
    check(404, &shaped("Thread not found", "", ""), (404, "Thread not found", Retry::Never));
    let missing = "model 'x' not found";
    check(500, &shaped(missing, "", ""), (500, missing, Retry::Backoff));
    let page = "<html>The model railway shop: page not found</html>";
    check(404, page, (502, BASE_URL, Retry::Never));
}

#[test]
fn a_404_for_the_route_is_a_wrong_base_url() {
    for body in [
        r#"{"detail":"Not Found"}"#,
        r#"{"detail":"Not found."}"#,
        r#"{"error":"Not Found","status":404}"#,
        r#"{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}"#,
        r#"{"error":"404 page not found"}"#,
        "404 page not found",
        r#"{"error":"Unexpected endpoint or method. (POST /x)"}"#,
        r#"{"error":{"message":"Invalid URL (POST /v1/x)","type":"invalid_request_error","param":null,"code":null}}"#,
        r#"{"error":{"message":"Unknown request URL: POST /x.","code":"unknown_url"}}"#,
        "<pre>Cannot POST /v1/chat/completions</pre>",
        r#"{"message":"Cannot POST /v1/chat/completions"}"#,
        r#"{"message":"no Route matched with those values"}"#,
        r#"{"error":{"code":"404","message":"Resource not found"}}"#,
        r#"{"message":"The requested URL /v1/models was not found."}"#,
        r#"{"message":"path not found: /v1/models/x"}"#,
        "nothing to see here",
        "",
    ] {
        check(404, body, (502, BASE_URL, Retry::Never));
    }
}

#[test]
fn refused_tools_are_told_as_ollama_does() {
    let vllm =
        "\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set";
    for (status, text) in [
        (500, "tools param requires --jinja flag"),
        (400, vllm),
        (400, "registry.ollama.ai/library/y:latest does not support tools"),
        (404, "No endpoints found that support tool use."),
    ] {
        let body = shaped(text, "server_error", "");
        let told = "registry.ollama.ai/library/x:1 does not support tools";
        check(status, &body, (400, told, Retry::Never));
        let error = fail(status, &body, RetryHints::default(), None);
        assert_eq!((error.status(), error.message()), (Some(status), text.to_owned()));
        assert_eq!(error.retry(), Retry::Never);
    }
    let choice = "x does not support this tool_choice";
    check(400, &shaped(choice, "", ""), (400, choice, Retry::Never));
}

#[test]
fn hints_decide_about_retries_within_limits() {
    let hints = |should_retry| RetryHints { retry_after: None, should_retry };
    let plain = shaped("m", "t", "c");
    let quota = shaped("m", "insufficient_quota", "");
    let check = |status, body: &str, hints: RetryHints, expected| {
        assert_eq!(fail(status, body, hints, None).retry(), expected, "{status} {hints:?} {body}");
    };
    check(500, &plain, hints(Some(false)), Retry::Never);
    check(429, &plain, hints(Some(true)), Retry::Backoff);
    check(418, &plain, hints(Some(true)), Retry::Backoff);
    check(413, &plain, hints(Some(true)), Retry::Never);
    check(501, &plain, hints(Some(true)), Retry::Never);
    check(429, &quota, hints(Some(true)), Retry::Never);
    check(302, &plain, hints(Some(true)), Retry::Never);
    let hints = |should_retry| RetryHints { should_retry, ..wait(3600) };
    let after = Duration::from_secs(3600);
    check(429, &plain, hints(None), Retry::After(after));
    check(503, &plain, hints(Some(true)), Retry::After(after));
    check(503, &plain, hints(Some(false)), Retry::Never);
    check(400, &plain, hints(None), Retry::Never);
    check(429, &quota, hints(None), Retry::Never);
}

fn upstream_details(status: u16, body: &str) -> UpstreamDetails {
    let error = fail(status, body, RetryHints::default(), Some("x:1"));
    error.details().cloned().unwrap_or_default()
}

#[test]
fn code_type_and_param_are_kept_with_keys_masked() {
    let some = |text: &str| Some(text.to_owned());
    let found = upstream_details(
        400,
        r#"{"error":{"message":"no","type":"t","param":"messages","code":"bad topsecret-1"}}"#,
    );
    assert_eq!((found.kind, found.param), (some("t"), some("messages")));
    assert!(found.code.is_some_and(|code| !code.contains("topsecret")));
    let litellm = r#"{"error":{"message":"no","type":"None","param":"None","code":"400"}}"#;
    assert_eq!(upstream_details(400, litellm), UpstreamDetails::default());
    let long = format!(r#"{{"error":{{"message":"no","code":"{}"}}}}"#, "x".repeat(300));
    assert_eq!(upstream_details(400, &long), UpstreamDetails::default());
    let in_band = r#"{"error":{"message":"too long","code":"context_length_exceeded"}}"#;
    let error = to_in_band_error(in_band, None, &Redactor::new(None));
    assert_eq!(error.details().and_then(|it| it.code.clone()), some("context_length_exceeded"));
    assert_eq!(error.context_overflow(), Some(crate::error::ContextOverflow::default()));
}

#[test]
fn an_overflow_is_told_with_its_numbers() {
    let llama = r#"{"error":{"code":400,"message":"too large for the context size","type":"exceed_context_size_error","n_prompt_tokens":5000,"n_ctx":4096}}"#;
    for status in [400, 500] {
        let overflow = upstream_details(status, llama).overflow.expect("an overflow");
        assert_eq!((overflow.prompt_tokens, overflow.context_window), (Some(5000), Some(4096)));
    }
    assert_eq!(upstream_details(400, &shaped("no", "t", "c")).overflow, None);
}

#[test]
fn an_account_without_credit_is_told_from_a_limit_per_minute() {
    let check = |status, body: &str, expected: bool, delay: Option<u64>| {
        let found = upstream_details(status, body);
        assert_eq!(found.is_out_of_quota, expected, "{body}");
        assert_eq!(found.retry_after.map(|it| it.as_secs()), delay, "{body}");
    };
    check(429, &shaped("no", "insufficient_quota", "insufficient_quota"), true, None);
    check(402, "{}", true, None);
    check(429, r#"{"error":{"message":"Insufficient balance"}}"#, true, None);
    check(429, &shaped("Rate limit reached", "tokens", "rate_limit_exceeded"), false, None);
    let gemini = "You exceeded your current quota. Please retry in 12s.";
    check(429, &shaped(gemini, "RESOURCE_EXHAUSTED", "x"), false, Some(12));
    let error = fail(429, "{}", wait(7), None);
    assert_eq!(error.details().and_then(|it| it.retry_after), Some(Duration::from_secs(7)));
}

#[test]
fn context_overflow_is_recognised() {
    let is_overflow = |message: &str, code: &str| {
        let (message, code) = (message.to_owned(), Some(code.to_owned()));
        is_context_overflow(&ErrorDetails { message, code, ..ErrorDetails::default() })
    };
    for text in [
        "This model's maximum context length is 8192 tokens. However, you requested more",
        "Input tokens exceed the configured limit of 9 tokens.",
        "the request exceeds the available context size",
        "Prompt is too long",
        "Invalid 'input[0]': maximum input length is 8192 tokens.",
        "`inputs` tokens + `max_new_tokens` must be <= 4096",
    ] {
        assert!(is_overflow(text, ""), "{text}");
    }
    assert!(is_overflow("", "context_length_exceeded"));
    assert!(is_overflow("", "exceed_context_size_error"));
    assert!(!is_overflow("Rate limit reached: too many tokens per min", ""));
    assert!(!is_overflow("no", "invalid_value"));
}

fn check_in_band(error: &str, expected: (u16, &str)) {
    let (status, details) = parse_in_band(error);
    assert_eq!((status, details.message.as_str()), expected, "{error}");
}

fn check_error_in(answer: &str, expected: Option<(u16, &str)>) {
    let found = find_in_band_error(answer).map(|it| (it.status(), it.message(), it.kind()));
    let expected = expected.map(|(status, text)| (Some(status), text.into(), "upstream_in_band"));
    assert_eq!(found, expected, "{answer}");
}

#[test]
fn errors_in_band_get_a_status() {
    check_in_band(r#"{"message":"m","code":429}"#, (429, "m"));
    check_in_band(r#"{"message":"m","code":"503"}"#, (503, "m"));
    check_in_band(r#"{"message":"m","code":200,"type":"BadRequestError"}"#, (400, "m"));
    check_in_band(r#"{"message":"m","type":"rate_limit_error"}"#, (429, "m"));
    check_in_band(r#"{"message":"m","type":"tokens","code":"rate_limit_exceeded"}"#, (429, "m"));
    let invalid = |more: &str| format!(r#"{{"message":"m","type":"invalid_request_error"{more}}}"#);
    check_in_band(&invalid(r#","code":"model_not_found""#), (404, "m"));
    check_in_band(r#"{"message":"m","type":"NotFoundError"}"#, (404, "m"));
    check_in_band(&invalid(""), (400, "m"));
    check_in_band(&invalid(r#","code":"invalid_api_key""#), (401, "m"));
    check_in_band(r#"{"message":"m","code":"context_length_exceeded"}"#, (400, "m"));
    check_in_band(r#"{"message":"prompt is too long"}"#, (400, "prompt is too long"));
    check_in_band(r#"{"message":"m","type":"overloaded_error"}"#, (503, "m"));
    check_in_band(r#"{"message":"m","type":"unavailable_error"}"#, (503, "m"));
    check_in_band(r#"{"message":"m","type":"server_error"}"#, (500, "m"));
    check_in_band(r#"{"message":"m"}"#, (500, "m"));
    check_in_band(r#""a text""#, (502, "a text"));
    check_in_band(r#"{"error":"a text"}"#, (502, "a text"));
    check_in_band(r#"{"error":"m","type":"t"}"#, (500, "m"));
    check_in_band(r#""model 'x' not found""#, (404, "model 'x' not found"));
    check_in_band("no JSON at all", (500, "no JSON at all"));
    let route = "Unexpected endpoint or method. (POST /x)";
    check_in_band(&format!("{route:?}"), (502, route));
    check_in_band("503", (503, NO_MESSAGE));
    check_in_band("7", (500, NO_MESSAGE));
    check_in_band("true", (500, NO_MESSAGE));
    check_in_band(r#"{"code":502}"#, (502, NO_MESSAGE));
    check_in_band("null", (500, NO_MESSAGE));
    check_in_band("", (500, NO_MESSAGE));
    check_in_band(r#"{"type":"overloaded_error"}"#, (503, "overloaded_error"));
}

#[test]
fn whole_bodies_with_an_error_are_judged_in_band_too() {
    check_in_band(r#"{"error":{"message":"m","code":504},"choices":[]}"#, (504, "m"));
    check_in_band(r#"{"object":"error","message":"m","code":400}"#, (400, "m"));
    check_in_band(r#"{"error":null,"code":502}"#, (502, NO_MESSAGE));
    check_in_band(r#"{"error":{"code":502}}"#, (502, NO_MESSAGE));
    check_in_band(r#"[{"error":{"message":"m","code":400}}]"#, (400, "m"));
    check_in_band(r#"{"error":null,"message":"m","code":400}"#, (400, "m"));
    check_in_band(r#"{"error":"m","error_type":"generation"}"#, (500, "m"));
    let raw = r#"{\"error\":{\"message\":\"inner\",\"code\":\"c\"}}"#;
    let body = format!(r#"{{"error":{{"code":529,"message":"m","metadata":{{"raw":"{raw}"}}}}}}"#);
    check_in_band(&body, (529, "inner"));
    let body = r#"{"code":529,"message":"m","metadata":{"raw":"{\"error\":\"inner\"}"}}"#;
    check_in_band(body, (529, "inner"));
}

#[test]
fn whole_answers_are_told_from_errors() {
    check_error_in(r#"{"error":{"message":"m","code":504},"choices":[]}"#, Some((504, "m")));
    check_error_in(r#" {"choices":[],"error":"m"} "#, Some((502, "m")));
    let route = "Unexpected endpoint or method. (POST /x)";
    check_error_in(&format!(r#"{{"error":{route:?}}}"#), Some((502, route)));
    check_error_in(r#"{"object":"error","message":"m","code":400}"#, Some((400, "m")));
    check_error_in(r#"[ {"error":{"message":"m","code":400}} ]"#, Some((400, "m")));
    check_error_in(r#"{"error":true,"message":"m"}"#, Some((500, "m")));
    check_error_in(r#"{"error":503}"#, Some((503, NO_MESSAGE)));
    for member in ["null", "false", "0", "\"\"", "\" \"", "{}", "[]", "[null]"] {
        check_error_in(&format!(r#"{{"error":{member},"object":"list","data":[]}}"#), None);
    }
    for answer in ["", "{}", "[]", "[[1,2]]", "7", "null", "<p>m</p>", r#"{"message":"m"}"#] {
        check_error_in(answer, None);
    }
    check_error_in(r#"{"error":"cut"#, None);
}

#[test]
fn errors_in_band_are_told_in_ollamas_words_where_it_has_some() {
    let check = |error: &str, model, status: u16, message: &str| {
        let redactor = Redactor::new(Some(Secret::new("topsecret-1")));
        let error = to_in_band_error(error, model, &redactor);
        assert_eq!((error.status(), error.message()), (Some(status), message.to_owned()));
    };
    let unknown = shaped("The model `x` does not exist", "", "model_not_found");
    check(&unknown, Some("x:1"), 404, MODEL_NOT_FOUND);
    check(&unknown, None, 404, "The model `x` does not exist");
    check(r#"{"error":"model 'x' not found"}"#, Some("x:1"), 404, MODEL_NOT_FOUND);
    let tools = "registry.ollama.ai/library/x:1 does not support tools";
    check(&shaped("tools param requires --jinja flag", "", ""), Some("x:1"), 400, tools);
    check(&shaped("topsecret-1", "server_error", ""), Some("x:1"), 500, "***");
}

#[test]
fn a_delay_may_be_asked_for_in_the_message_alone() {
    let after = |seconds| Retry::After(Duration::from_secs(seconds));
    let check = |status, text: &str, hints, expected| {
        assert_eq!(fail(status, &shaped(text, "t", ""), hints, None).retry(), expected, "{text}");
    };
    let slow = "Rate limit reached. Please try again in 6m0s.";
    check(429, slow, RetryHints::default(), after(360));
    check(429, slow, wait(7), after(7));
    check(400, slow, RetryHints::default(), Retry::Never);
    check(429, "Request too large. Please try again in 1s.", RetryHints::default(), Retry::Never);
}

#[test]
fn only_a_prompt_waits_for_a_model_that_is_loading() {
    let check = |status, text: &str, hints, model, expected| {
        let error = fail(status, &shaped(text, "unavailable_error", ""), hints, model);
        assert_eq!(error.retry(), expected, "{status} {text} {hints:?}");
    };
    let hints = |should_retry| RetryHints { retry_after: None, should_retry };
    let loading = "Loading model";
    check(503, loading, hints(None), Some("x"), Retry::Poll);
    check(503, "Model x is currently loading", hints(None), Some("x"), Retry::Poll);
    check(503, loading, hints(None), None, Retry::Backoff);
    check(503, loading, hints(Some(false)), Some("x"), Retry::Never);
    check(500, loading, hints(None), Some("x"), Retry::Backoff);
    check(503, "slots are busy", hints(None), Some("x"), Retry::Backoff);
    check(503, loading, wait(7), Some("x"), Retry::After(Duration::from_secs(7)));
}

#[test]
fn keys_never_reach_a_message() {
    let text = "Incorrect API key provided: sk-ab****wxyz1, yours is topsecret-1 (Bearer abc.def1)";
    let clean = "Incorrect API key provided: sk-***, yours is *** (Bearer ***)";
    for body in [
        shaped(text, "invalid_request_error", "invalid_api_key"),
        format!("{{\"error\":{text:?}}}"),
        format!("{{\"error\":{{\"code\":{text:?}}}}}"),
        text.to_owned(),
    ] {
        check(401, &body, (401, clean, Retry::Never));
    }
    let page = format!("<b>{}</b>", text.replace("topsecret", "top<i></i>secret"));
    assert!(!fail(500, &page, RetryHints::default(), None).message().contains("wxyz1"));
    let redactor = Redactor::new(Some(Secret::new("topsecret-1")));
    let request = RequestSummary {
        method_and_path: "POST /topsecret-1/v1/x",
        endpoint: "x",
        model: None,
        has_answered: false,
    };
    let error = to_error(404, b"", RetryHints::default(), request, &redactor);
    assert_eq!(error.message(), "upstream returned 404 for POST /***/v1/x; check the base URL");
}

#[test]
fn long_messages_are_cut_after_cleaning_and_between_words() {
    let message = |body: &str| fail(400, body, RetryHints::default(), None).message();
    let long = format!("{}{}", "x".repeat(4095), "č".repeat(10));
    assert_eq!(message(&shaped(&long, "", "")), "x".repeat(4095));
    assert_eq!(message(&shaped(&"x".repeat(4096), "", "")), "x".repeat(4096));
    let key_at_the_cut = format!("{}topsecret-1", "x".repeat(4090));
    assert_eq!(message(&shaped(&key_at_the_cut, "", "")), format!("{}***", "x".repeat(4090)));
    assert_eq!(message(&"č".repeat(300)), "č".repeat(200));
    let key_at_the_cut = format!("{}topsecret-1", "č".repeat(195));
    assert_eq!(message(&key_at_the_cut), format!("{}***", "č".repeat(195)));
    let words = format!("{} whole halved", "č".repeat(190));
    assert_eq!(message(&words), format!("{} whole", "č".repeat(190)));
    let words = format!("{} whole", "č".repeat(194));
    assert_eq!(message(&words), words);
    assert_eq!(message(&format!("{words} next")), words);
    let in_band_key = format!("{:?}", format!("{} topsecret-1", "x".repeat(4090)));
    check_in_band(&in_band_key, (502, &"x".repeat(4090)));
}

#[test]
fn a_missing_route_is_told_from_a_missing_model() {
    let check = |status: u16, body: &str, expected: bool| {
        assert_eq!(is_unknown_route(status, body.as_bytes()), expected, "{status} {body}");
    };
    check(405, "", true);
    check(405, r#"{"detail":"Method Not Allowed"}"#, true);
    for body in [
        "",
        "404 page not found",
        r#"{"detail":"Not Found"}"#,
        r#"{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}"#,
        r#"{"error":{"message":"Invalid URL (POST /v1/responses)"}}"#,
    ] {
        check(404, body, true);
    }
    for body in [
        r#"{"error":{"message":"The model `x` does not exist","code":"model_not_found"}}"#,
        r#"{"error":{"message":"Previous response with id 'resp_1' not found."}}"#,
    ] {
        check(404, body, false);
    }
    check(400, r#"{"detail":"Not Found"}"#, false);
    check(200, "", false);
}

#[test]
fn a_validation_error_inside_a_500_is_a_refusal_and_is_not_retried() {
    // llama-cpp-python 0.3, in the form that its log and its users quote.
    let message = "[{'type': 'literal_error', 'loc': ('body', 'response_format', 'type'), 'msg': \
                   \"Input should be 'text' or 'json_object'\", 'input': 'json_schema'}]";
    let error = serde_json::json!({"message": message, "type": "internal_server_error"});
    let body = serde_json::json!({ "error": error }).to_string();
    check(500, &body, (400, message, Retry::Never));
    let found = parse_rejection(500, body.as_bytes()).expect("a refusal");
    assert_eq!(found.message, message);
}

#[test]
fn plain_http_on_a_port_for_tls_is_known_by_the_words_of_four_servers() {
    for body in [
        "<html>\r\n<head><title>400 The plain HTTP request was sent to HTTPS port</title></head>\r\n\
         <body>\r\n<center><h1>400 Bad Request</h1></center>\r\n<center>The plain HTTP request was \
         sent to HTTPS port</center>\r\n<hr><center>nginx/1.24.0</center>\r\n</body>\r\n</html>\r\n",
        "Client sent an HTTP request to an HTTPS server.\n",
        "<p>Your browser sent a request that this server could not understand.<br />\nReason: You're \
         speaking plain HTTP to an SSL-enabled server port.<br />\n",
        "Bad Request\r\nThis combination of host and port requires TLS.\r\n",
    ] {
        assert!(wants_tls(400, body.as_bytes()), "{body}");
        assert!(!wants_tls(200, body.as_bytes()) && !wants_tls(500, body.as_bytes()), "{body}");
    }
    assert!(!wants_tls(400, b"{\"error\":\"bad request\"}") && !wants_tls(400, b""));
}

#[test]
fn a_model_of_the_responses_route_is_told_from_other_errors() {
    let check = |message: &str, param: Option<&str>, code: Option<&str>, expected: bool| {
        let error = serde_json::json!({"message": message, "type": "invalid_request_error",
            "param": param, "code": code});
        let body = serde_json::json!({ "error": error }).to_string();
        for status in [400, 404] {
            let found = parse_rejection(status, body.as_bytes());
            let found = found.is_some_and(|details| names_responses_route(&details));
            assert_eq!(found, expected, "{status} {message}");
        }
        if expected {
            super::tests::check(404, &body, (400, message, Retry::Never));
        }
    };
    let openai = "This model is only supported in v1/responses and not in v1/chat/completions.";
    check(openai, Some("model"), None, true);
    check(openai, None, None, true);
    let copilot = "model gpt-5.1-codex is not accessible via the /chat/completions endpoint";
    check(copilot, None, Some("unsupported_api_for_model"), true);
    let azure = "The chatCompletion operation does not work with the specified model, x.";
    check(azure, None, Some("OperationNotSupported"), true);
    check("Please call this model through the Responses API instead.", None, None, true);
    check("x: only /responses can serve this deployment", None, None, true);
    check("x was not found for chat completions, use v1/responses", None, None, true);
    // About a feature of a model, another route, or no model.
    let tools = "Function tools with reasoning_effort are not supported for gpt-5.4 in \
                 /v1/chat/completions. Please use /v1/responses instead.";
    check(tools, None, None, false);
    let base = "This is not a chat model and thus not supported in the v1/chat/completions endpoint. \
                Did you mean to use v1/completions?";
    check(base, Some("model"), None, false);
    check(
        "'input' is only known to the Responses API, not to models here",
        Some("input"),
        None,
        false,
    );
    check(
        "The model `x` does not exist, see /docs/responses",
        None,
        Some("model_not_found"),
        false,
    );
    check("Invalid URL (POST /v1/chat/completions)", None, None, false);
    check("The model is overloaded", None, None, false);
}
