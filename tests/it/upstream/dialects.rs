//! The test list of openai-wire.md, appendix B, over real sockets: what is not about streams.
//!
//! | line | held by |
//! | --- | --- |
//! | 12 an option that is absent | `rows_5.rs` `an_option_that_is_null_or_not_set_is_left_to_the_upstream` |
//! | 12 an option with its neutral value | here |
//! | 13 to 17 parameters that are refused | `adapt.rs` |
//! | 27 lists | `golden/models`, `src/translate/models/list.rs` |
//! | 28 to 30 embeddings | `embeddings.rs`, `batches.rs` |
//! | 18 `json` with and without the word | `golden/chat/request-format-json-openai`, `-asked` |
//! | 18 schemas that can be strict and that cannot; LM Studio | here, `src/translate/format.rs` |
//! | 19 each `think` for each family | `src/translate/think.rs` `each_family_is_told_in_its_own_words`, `golden/chat/request-think-*`, `rows_5.rs` `each_form_of_think_is_told_as_the_family_understands_it` |
//! | 20 results without ids, the same function twice, images of a result | here; `tools.rs` `a_round_trip_without_any_ids_is_linked` |
//! | 21 `num_predict`; an explicit limit for `completions` | here |
//! | 22 the eleven shapes | here |
//! | 23 quota | `retry.rs` `a_spent_quota_is_not_tried_again` |
//! | 23 `retry-after-ms`, a date in the past | `retry.rs` `the_delay_that_the_upstream_asks_for_wins` |
//! | 23 `retry-after: 3600` | `retry.rs` `who_asks_for_too_long_a_delay_is_not_asked_again_and_the_client_learns_it` |
//! | 23 `x-should-retry: false` | `retry.rs` `x_should_retry_decides` |
//! | 24 `Loading model` | here; its bound in `retry.rs` `a_model_that_never_loads_is_given_up_after_five_minutes` |
//! | 25 the key in errors | here, `upstream_errors.rs` `the_key_goes_upstream_and_never_comes_back` |
//! | 25 the key in the log | `binary.rs` `the_log_holds_no_key_no_prompt_and_no_answer_at_any_level` |
//! | 26 200 with an error, 404 without JSON, unknown model | here, `upstream_errors.rs` |
//! | 31 each signature | `src/translate/media.rs` `every_signature_tells_its_kind`, `kinds_without_a_meaning_are_refused_by_name` |
//! | 31 data URLs, broken base64 | here, `media.rs` `every_form_of_an_image_becomes_a_part`, `src/translate/media.rs` |
//! | 32 durations | here, `src/translate/metrics.rs` |

use std::time::Duration;

use crate::support::bench::{Bench, CHAT, GENERATE, LLAMA, chunks};
use crate::support::proxy::{KEY, Proxy};
use crate::support::raw::{Answer, chat};
use crate::support::upstream::{Step, Upstream, answer, delta, frame, json as whole, last_frame};
use crate::support::upstream::{status, stream_head, typed};
use serde_json::{Value, json};

const LM_STUDIO: &str = r#"{"data":[{"id":"m","owned_by":"organization_owner"}]}"#;
const SGLANG: &str = r#"{"data":[{"id":"m","owned_by":"sglang"}]}"#;
const PNG: &str = "iVBORw0KGgoAAAANSUhEUg==";

/// What a client gets for what the upstream plays, of any status.
fn answered(step: Step) -> Answer {
    let bench = Bench::new();
    bench.upstream.script(vec![step]);
    bench.ask(CHAT, &json!({}))
}

fn check_error(step: Step, status: u16, message: &str) {
    let answer = answered(step);
    assert_eq!((answer.status(), answer.error().as_str()), (status, message));
}

#[test]
fn line_12_neutral_values_are_left_out() {
    let llama = Bench::over(LLAMA);
    for (name, neutral) in [
        ("num_predict", json!(-1)),
        ("seed", json!(-1)),
        ("min_p", json!(0)),
        ("typical_p", json!(1)),
        ("presence_penalty", json!(0)),
        ("frequency_penalty", json!(0)),
        ("repeat_penalty", json!(1.0)),
        ("stop", json!([])),
        ("stop", json!([""])),
    ] {
        let change = json!({"options": {name: neutral}});
        assert_eq!(llama.added(CHAT, &change), json!({}), "{change}");
    }
    let change = json!({"options": {"temperature": 0, "top_k": 0, "repeat_last_n": 0}});
    let kept = json!({"temperature": 0, "top_k": 0, "repeat_last_n": 0});
    assert_eq!(llama.added(CHAT, &change), kept);
    let change = json!({"options": {"top_k": 0}});
    assert_eq!(Bench::over(SGLANG).added(CHAT, &change), json!({"top_k": -1}));
    assert_eq!(Bench::new().added(CHAT, &change), json!({}));
}

#[test]
fn line_18_a_schema_is_strict_where_it_can_be() {
    let bench = Bench::new();
    let schema = |required: Value, closed: Value| json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": required, "additionalProperties": closed});
    for (required, closed, strict) in [
        (json!(["a"]), json!(false), json!(true)),
        (json!([]), json!(false), Value::Null),
        (json!(["a"]), json!(true), Value::Null),
    ] {
        let added = bench.added(CHAT, &json!({"format": schema(required, closed)}));
        assert_eq!(added["response_format"]["json_schema"]["strict"], strict, "{added}");
    }
}

#[test]
fn line_18_lm_studio_gets_a_schema_for_plain_json() {
    let bench = Bench::over(LM_STUDIO);
    // The family is asked for once it matters, and known from then on.
    bench.added(CHAT, &json!({"options": {"top_k": 1}}));
    let added = bench.added(CHAT, &json!({"format": "json"}));
    assert_eq!(added["response_format"]["type"], "json_schema", "{added}");
    assert_eq!(added["response_format"]["json_schema"]["schema"], json!({"type": "object"}));
}

#[test]
fn line_20_results_without_ids_find_their_calls_and_images_find_a_user() {
    let call = json!({"function": {"name": "f", "arguments": {}}});
    let sent = Bench::new().sent(
        CHAT,
        &json!({"messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "", "tool_calls": [call, call]},
            {"role": "tool", "content": "1", "images": [PNG]},
            {"role": "tool", "content": "2"}]}),
    );
    let messages = &sent["messages"];
    let calls = &messages[1]["tool_calls"];
    assert_ne!(calls[0]["id"], calls[1]["id"]);
    for place in [0, 1] {
        assert_eq!(messages[2 + place]["tool_call_id"], calls[place]["id"], "{sent}");
        assert_eq!(messages[2 + place]["content"], (place + 1).to_string());
    }
    assert_eq!(messages[4]["role"], "user");
    let url = format!("data:image/png;base64,{PNG}");
    let image = messages[4]["content"].as_array().expect("a list").last().expect("a part").clone();
    assert_eq!(image, json!({"type": "image_url", "image_url": {"url": url}}));
}

#[test]
fn line_21_a_limit_is_sent_when_it_is_one_and_always_to_completions() {
    let bench = Bench::new();
    for (limit, expected) in
        [(-1, json!({})), (-2, json!({})), (0, json!({})), (1, json!({"max_tokens": 1}))]
    {
        let change = json!({"options": {"num_predict": limit}});
        assert_eq!(bench.added(CHAT, &change), expected, "{limit}");
        let raw = json!({"raw": true, "options": {"num_predict": limit}});
        let sent = bench.added(GENERATE, &raw);
        let explicit = if limit == 1 { 1 } else { 4096 };
        assert_eq!(sent, json!({"max_tokens": explicit}), "{limit}");
    }
}

#[test]
fn line_22_every_shape_of_an_error_becomes_ollamas() {
    for (code, body, message) in [
        (400, r#"{"error":{"message":"m","type":"t","param":"p","code":"c"}}"#, "m"),
        (400, r#"{"error":{"message":"m","type":"t"}}"#, "m"),
        (400, r#"{"error":{"message":"m","type":"BadRequestError","param":null,"code":400}}"#, "m"),
        (400, r#"{"error":{"code":400,"message":"m","type":"t","n_ctx":512}}"#, "m"),
        (400, r#"{"error":{"message":"m","type":"None","param":"None","code":"400"}}"#, "m"),
        (400, r#"{"object":"error","message":"m","type":"t","param":null,"code":400}"#, "m"),
        (
            429,
            r#"{"error":{"code":429,"message":"outer","metadata":{"raw":"{\"error\":{\"message\":\"m\"}}","provider_name":"P"}},"user_id":"u"}"#,
            "m",
        ),
        (
            400,
            r#"[{"error":{"code":400,"message":"m","status":"INVALID_ARGUMENT","details":[]}}]"#,
            "m",
        ),
        (400, r#"{"code":"Client specified an invalid argument","error":"m"}"#, "m"),
        (401, r#"{"error":"m"}"#, "m"),
        (422, r#"{"error":"m","error_type":"validation"}"#, "m"),
        (400, r#"{"detail":"m"}"#, "m"),
        (422, r#"{"detail":[{"loc":["body","x"],"msg":"m","type":"t"}]}"#, "x: m"),
        (400, r#"{"message":"m"}"#, "m"),
        (400, r#"{"error_description":"m"}"#, "m"),
        (400, r#"{"msg":"m"}"#, "m"),
    ] {
        check_error(status(code, &[], body), code, message);
    }
    check_error(
        typed(422, "text/plain", &[], "Failed to deserialize"),
        422,
        "Failed to deserialize",
    );
    let page = "<html><style>a{}</style><body><h1>502</h1>Bad Gateway</body></html>";
    check_error(typed(502, "text/html", &[], page), 502, "502 Bad Gateway");
    check_error(status(401, &[], ""), 401, "upstream returned HTTP 401");
}

#[test]
fn line_24_a_model_that_is_loading_is_waited_for() {
    let upstream = Upstream::start();
    let loading = r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#;
    for _ in 0..3 {
        upstream.script(vec![status(503, &[], loading)]);
    }
    upstream.script(vec![answer("ok")]);
    // Fewer retries than the model takes.
    let proxy = Proxy::with(&upstream, |config| config.retry.max = 1);
    let lines = proxy.client().post(CHAT, chat("Hi")).answer().lines();
    assert_eq!(lines[0]["message"]["content"], "ok");
    assert_eq!(proxy.sleeps.try_iter().collect::<Vec<_>>(), [Duration::from_secs(1); 3]);
}

#[test]
fn line_25_a_key_that_comes_back_within_a_stream_is_masked() {
    let error =
        format!("data: {{\"error\":{{\"message\":\"bad key {KEY}, sk-abcdef123456\"}}}}\n\n");
    let masked = json!({"error": "bad key ***, sk-***"});
    let bench = Bench::new();
    bench.upstream.script(vec![stream_head(), frame(&error), last_frame()]);
    let first = bench.ask(CHAT, &json!({}));
    assert_eq!(first.json(), masked);
    let later = vec![stream_head(), delta("a"), frame(&error), last_frame()];
    assert_eq!(bench.played(CHAT, &json!({}), later).lines()[1], masked);
    let wrapped =
        format!(r#"{{"error":{{"message":"o","metadata":{{"raw":"{{\"error\":\"{KEY}\"}}"}}}}}}"#);
    check_error(status(400, &[], &wrapped), 400, "***");
}

#[test]
fn line_26_an_error_in_a_success_a_wrong_url_and_an_unknown_model_are_told_apart() {
    let route = "Unexpected endpoint or method. (POST /v1/chat/completions)";
    check_error(whole(&json!({"error": route}).to_string()), 502, route);
    check_error(whole(r#"{"error":"No models loaded"}"#), 502, "No models loaded");
    let hint = "upstream returned 404 for POST /v1/chat/completions; check the base URL";
    check_error(typed(404, "text/plain", &[], "nothing here"), 502, hint);
    check_error(status(404, &[], ""), 502, hint);
    let unknown =
        r#"{"error":{"message":"The model `m` does not exist","code":"model_not_found"}}"#;
    check_error(status(404, &[], unknown), 404, "model 'm' not found");
    check_error(whole(unknown), 404, "model 'm' not found");
    check_error(
        status(400, &[], r#"{"error":{"message":"m is not a valid model ID","code":400}}"#),
        404,
        "model 'm' not found",
    );
}

#[test]
fn errors_of_the_request_are_the_clients_also_where_llama_cpp_blames_itself() {
    let llama = |kind: &str, message: &str| {
        let error = json!({"error": {"code": 500, "message": message, "type": kind}});
        status(500, &[], &error.to_string())
    };
    let image = "image input is not supported - hint: you may need to provide the mmproj";
    check_error(llama("server_error", image), 400, image);
    let long = "the request exceeds the available context size";
    check_error(llama("exceed_context_size_error", long), 400, long);
    check_error(llama("server_error", "slot failed"), 500, "slot failed");
}

#[test]
fn line_31_broken_base64_is_refused_and_a_data_url_is_taken() {
    let bench = Bench::new();
    let message = |image: &str| json!({"messages": [{"role": "user", "images": [image]}]});
    for broken in ["!!!!", "iVBOR*", "data:image/png;base64,???"] {
        let answer = bench.ask(CHAT, &message(broken));
        assert_eq!(answer.status(), 400, "{broken}");
        assert!(answer.error().contains("illegal base64 data"), "{}", answer.body);
    }
    assert!(bench.upstream.is_idle());
    let url = format!("data:image/png;base64,{PNG}");
    let sent = bench.sent(CHAT, &message(&url));
    assert_eq!(sent["messages"][0]["content"][0]["image_url"]["url"], url);
}

#[test]
fn line_32_durations_are_measured_converted_or_not_split() {
    let last = |list: &[Value]| {
        let lines = Bench::new().played(CHAT, &json!({}), chunks(list)).lines();
        lines.last().expect("lines").clone()
    };
    let text = |text: &str| json!({"choices": [{"index": 0, "delta": {"content": text}}]});
    let with = |name: &str, value: Value| json!({"choices": [], name: value});
    let check = |list: &[Value], prompt: u64, answer: u64| {
        let line = last(list);
        let found = (&line["prompt_eval_duration"], &line["eval_duration"]);
        assert_eq!(found, (&json!(prompt), &json!(answer)), "{list:?}");
    };
    let llama = json!({"prompt_ms": 1.5, "predicted_ms": 2.5, "prompt_n": 1, "predicted_n": 2});
    check(&[text("a"), with("timings", llama)], 1_500_000, 2_500_000);
    let vllm =
        json!({"time_to_first_token_ms": 3.5, "queue_time_ms": 1, "generation_time_ms": 4.25});
    check(&[text("a"), with("metrics", vllm)], 2_500_000, 4_250_000);
    // All of the answer in one event: nothing is known of the time before it.
    let line = last(&[text("a")]);
    let number = |name: &str| line[name].as_u64().expect(name);
    assert_eq!(number("prompt_eval_duration"), 1);
    assert!(number("eval_duration") > 1 && number("eval_duration") <= number("total_duration"));
    let groq = json!({"usage": {"prompt_time": 0.25, "completion_time": 0.5, "prompt_tokens": 5, "completion_tokens": 2}});
    let answer = json!({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], "x_groq": groq});
    let bench = Bench::new();
    let line =
        bench.played(CHAT, &json!({"stream": false}), vec![whole(&answer.to_string())]).json();
    let found = (&line["prompt_eval_duration"], &line["eval_duration"]);
    assert_eq!(found, (&json!(250_000_000), &json!(500_000_000)));
}
