//! Parameters that an upstream refuses: the request is repaired and sent again at once, the repair
//! is remembered, and errors that only the user can fix go back to the client.

use crate::support::*;
use ollama_openai_proxy::backends::profiles;

const VLLM: &str = r#"{"data":[{"id":"m","owned_by":"vllm"},{"id":"n","owned_by":"vllm"}]}"#;

/// A refusal in OpenAI's shape.
fn openai(message: &str, param: &str, code: &str) -> String {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({"error": {"message": message, "type": "invalid_request_error", "param": some(param),
        "code": some(code)}})
    .to_string()
}

fn unrecognized(name: &str) -> String {
    openai(&format!("Unrecognized request argument supplied: {name}"), "", "")
}

fn refuse(upstream: &Upstream, body: &str) {
    upstream.script(vec![status(400, &[], body)]);
}

fn chat(proxy: &Proxy, more: &Value) -> Answer {
    let body = json!({"model": "m", "stream": false,
        "messages": [{"role": "user", "content": "Hello"}]});
    proxy.post("/api/chat", &with(body, more))
}

/// All parameters that a family like vLLM is sent.
fn options() -> Value {
    json!({"options": {"num_predict": 5, "temperature": 0.5, "top_k": 3, "min_p": 0.1, "seed": 7,
        "repeat_penalty": 1.2, "frequency_penalty": 0.5, "presence_penalty": 0.5}})
}

/// The names of the parameters that were sent.
fn parameters(request: &Recorded) -> Vec<String> {
    let always = ["messages", "model", "stream"];
    let names = request.json().as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    names.into_iter().filter(|name| !always.contains(&name.as_str())).collect()
}

#[test]
fn a_renamed_limit_is_sent_by_its_new_name_at_once_and_from_then_on() {
    let (upstream, proxy) = pair();
    let limit = json!({"options": {"num_predict": 5}});
    upstream.script(vec![unsupported("max_tokens", " Use 'max_completion_tokens' instead.")]);
    upstream.script(vec![answer("Hi")]).script(vec![answer("Hi again")]);
    assert_eq!(chat(&proxy, &limit).json()["message"]["content"], "Hi");
    assert_eq!(parameters(&upstream.request()), ["max_tokens"]);
    assert_eq!(upstream.request().json()["max_completion_tokens"], 5);
    assert_eq!(chat(&proxy, &limit).json()["message"]["content"], "Hi again");
    assert_eq!(parameters(&upstream.request()), ["max_completion_tokens"]);
    assert!(upstream.is_idle() && proxy.sleeps.is_empty(), "no retry delay");
}

#[test]
fn every_backend_s_words_are_understood() {
    let check = |body: &str, gone: &[&str]| {
        let (upstream, proxy) = pair();
        upstream.list(VLLM);
        refuse(&upstream, body);
        upstream.script(vec![answer("Hi")]);
        let told = chat(&proxy, &options());
        assert_eq!(told.status(), 200, "{body}: {}", told.body);
        let all = parameters(&upstream.request());
        let left: Vec<_> = all.into_iter().filter(|name| !gone.contains(&name.as_str())).collect();
        assert_eq!(parameters(&upstream.request()), left, "{body}");
        assert!(upstream.is_idle());
    };
    check(&unrecognized("top_k"), &["top_k"]);
    check(&openai("Unknown parameter: 'min_p'.", "min_p", "unknown_parameter"), &["min_p"]);
    let temperature = "Unsupported value: 'temperature' does not support 0.5 with this model. Only \
                       the default (1) value is supported.";
    check(&openai(temperature, "temperature", "unsupported_value"), &["temperature"]);
    check(r#"{"error":{"message":"property 'top_k' is unsupported","type":"x"}}"#, &["top_k"]);
    let xai = "Argument not supported on this model: presencePenalty";
    let xai = json!({"code": "Client specified an invalid argument", "error": xai});
    check(&xai.to_string(), &["presence_penalty"]);
    let line = |name: &str| {
        format!("Invalid JSON payload received. Unknown name \"{name}\": Cannot find field.")
    };
    let both = format!("{}\n{}", line("top_k"), line("frequency_penalty"));
    let gemini = json!([{"error": {"code": 400, "message": both, "status": "INVALID_ARGUMENT"}}]);
    check(&gemini.to_string(), &["top_k", "frequency_penalty"]);
    let extra = |name: &str| json!({"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"});
    let fastapi = json!({"detail": [extra("seed"), extra("repetition_penalty")]});
    check(&fastapi.to_string(), &["seed", "repetition_penalty"]);
    let litellm = r#"{"error":{"message":"x does not support parameters: ['top_k', 'seed'], for model=m","code":"400"}}"#;
    check(litellm, &["top_k", "seed"]);
}

#[test]
fn a_422_is_a_refusal_too_and_others_are_not() {
    for (code, attempts) in [(422, 2), (401, 1), (403, 1), (404, 1)] {
        let (upstream, proxy) = pair();
        upstream.script(vec![status(code, &[], &unrecognized("seed"))]);
        upstream.script(vec![answer("Hi")]);
        chat(&proxy, &json!({"options": {"seed": 1}}));
        for _ in 0..attempts {
            upstream.request();
        }
        assert!(upstream.is_idle(), "{code}");
    }
}

#[test]
fn a_value_out_of_range_goes_back_to_who_set_it() {
    let (upstream, proxy) = pair();
    let text = "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got \
                3 instead.";
    refuse(&upstream, &openai(text, "temperature", "decimal_above_max_value"));
    chat(&proxy, &json!({"options": {"temperature": 3}})).assert_error(400, text);
    upstream.request();
    assert!(upstream.is_idle());
}

#[test]
fn one_refusal_after_the_other_is_mended_and_none_twice() {
    let (upstream, proxy) = pair();
    upstream.list(VLLM);
    for name in ["top_k", "min_p", "seed"] {
        refuse(&upstream, &unrecognized(name));
    }
    upstream.script(vec![answer("Hi")]);
    assert_eq!(chat(&proxy, &options()).status(), 200);
    let sent: Vec<usize> = (0..4).map(|_| parameters(&upstream.request()).len()).collect();
    assert_eq!(sent, [8, 7, 6, 5]);
    // The same refusal again, though nothing of it was sent: no loop.
    refuse(&upstream, &unrecognized("seed"));
    refuse(&upstream, &unrecognized("seed"));
    chat(&proxy, &options()).assert_error(400, "Unrecognized request argument supplied: seed");
    assert_eq!(parameters(&upstream.request()).len(), 5);
    // The plainest form was the last attempt.
    assert!(parameters(&upstream.request()).is_empty() && upstream.is_idle());
}

#[test]
fn a_request_is_mended_a_few_times_and_no_more() {
    let (upstream, proxy) = pair();
    upstream.list(VLLM);
    let names = ["top_k", "min_p", "seed", "temperature", "presence_penalty"];
    for name in names {
        refuse(&upstream, &unrecognized(name));
    }
    refuse(&upstream, &unrecognized("model"));
    let told = chat(&proxy, &options());
    assert_eq!(told.error(), "Unrecognized request argument supplied: top_k", "the first one");
    let sent = names.map(|_| parameters(&upstream.request()).len());
    assert_eq!(sent, [8, 7, 6, 5, 4]);
    assert!(parameters(&upstream.request()).is_empty(), "the plainest form");
    assert!(upstream.is_idle());
}

#[test]
fn what_was_learnt_holds_for_one_model_and_for_every_way_to_ask_it() {
    let (upstream, proxy) = pair();
    upstream.list(VLLM);
    refuse(&upstream, &unrecognized("top_k"));
    upstream.script(stream(&["Hi"]));
    let ask = |path: &str, model: &str| {
        let body = json!({"model": model, "prompt": "Hi", "options": {"top_k": 3},
            "messages": [{"role": "user", "content": "Hi"}]});
        assert_eq!(proxy.post(path, &body).status(), 200);
        parameters(&upstream.request())
    };
    let with = ["stream_options", "top_k"];
    assert_eq!(ask("/api/chat", "m"), with);
    assert_eq!(parameters(&upstream.request()), ["stream_options"]);
    upstream.script(stream(&["Hi"]));
    assert_eq!(ask("/api/generate", "m"), ["stream_options"], "the same endpoint");
    upstream.script(stream(&["Hi"]));
    assert_eq!(ask("/api/chat", "n"), with, "another model may take it");
}

#[test]
fn a_learnt_repair_changes_only_what_it_was_about() {
    let (upstream, proxy) = pair();
    let think = |level: &str| json!({"think": level});
    let text = "'reasoning_effort' : value is not one of the allowed values [`low`,`medium`]";
    refuse(&upstream, &openai(text, "", ""));
    upstream.script(vec![answer("Hi")]).script(vec![answer("Hi")]).script(vec![answer("Hi")]);
    chat(&proxy, &think("max"));
    assert_eq!(upstream.request().json()["reasoning_effort"], "high");
    assert_eq!(upstream.request().json()["reasoning_effort"], "medium");
    chat(&proxy, &think("low"));
    assert_eq!(upstream.request().json()["reasoning_effort"], "low");
    chat(&proxy, &think("max"));
    assert_eq!(upstream.request().json()["reasoning_effort"], "medium");
}

#[test]
fn a_prompt_that_is_too_long_after_a_repair_is_told_and_the_repair_is_known() {
    let (upstream, proxy) = pair();
    let overflow = openai(
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
        "messages",
        "context_length_exceeded",
    );
    let body = json!({"model": "m", "seed": 7, "messages": [{"role": "user", "content": "Hello"}]});
    for attempts in [2, 1] {
        if attempts == 2 {
            refuse(&upstream, &unrecognized("seed"));
        }
        refuse(&upstream, &overflow);
        let answer = proxy.post("/v1/chat/completions", &body);
        assert_eq!(answer.status(), 400);
        assert_eq!(answer.json()["error"]["code"], "context_length_exceeded");
        let sent: Vec<Recorded> = (0..attempts).map(|_| upstream.request()).collect();
        assert!(sent[attempts - 1].json().get("seed").is_none(), "repaired");
    }
    assert!(upstream.is_idle());
}

#[test]
fn members_of_messages_and_tools_that_are_refused_by_their_place_go_everywhere() {
    let (upstream, proxy) = pair();
    let body = json!({"model": "m", "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Hi", "note": 1}], "__agentSource": "a"},
        {"role": "assistant", "content": "Hello", "__agentSource": "b"},
        {"role": "user", "content": "Go on"}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}, "later": true}}]});
    let paths =
        ["messages[0].__agentSource", "messages[0].content[0].note", "tools[0].function.later"];
    for path in paths {
        refuse(
            &upstream,
            &openai(&format!("Unknown parameter: '{path}'."), path, "unknown_parameter"),
        );
    }
    for attempts in [4, 1] {
        upstream.script(vec![answer("Hi")]);
        assert_eq!(proxy.post("/v1/chat/completions", &body).status(), 200);
        let sent: Vec<Recorded> = (0..attempts).map(|_| upstream.request()).collect();
        let last = sent[attempts - 1].json().to_string();
        for name in ["__agentSource", "note", "later"] {
            assert!(!last.contains(name), "{last}");
        }
    }
    assert!(upstream.is_idle());
}

#[test]
fn nothing_is_learnt_from_a_repair_that_did_not_help() {
    let (upstream, proxy) = pair();
    let seed = json!({"options": {"seed": 1}});
    refuse(&upstream, &unrecognized("seed"));
    upstream.script(vec![status(403, &[], &openai("no", "", ""))]);
    assert_eq!(chat(&proxy, &seed).status(), 403);
    upstream.script(vec![answer("Hi")]);
    chat(&proxy, &seed);
    for expected in [vec!["seed"], vec![], vec!["seed"]] {
        assert_eq!(parameters(&upstream.request()), expected);
    }
}

#[test]
fn passing_failures_are_still_tried_again_between_repairs() {
    let (upstream, proxy) = pair();
    upstream.script(vec![status(503, &[], "{}")]);
    refuse(&upstream, &unrecognized("seed"));
    upstream.script(vec![status(503, &[], "{}")]).script(vec![answer("Hi")]);
    assert_eq!(chat(&proxy, &json!({"options": {"seed": 1}})).status(), 200);
    for expected in [vec!["seed"], vec!["seed"], vec![], vec![]] {
        assert_eq!(parameters(&upstream.request()), expected);
    }
    assert_eq!(proxy.sleeps.len(), 2);
}

#[test]
fn tools_images_and_the_form_of_an_answer_are_never_dropped() {
    let tools = json!({"tools": [{"type": "function", "function": {"name": "f"}}]});
    let image = json!({"messages": [{"role": "user", "content": "x", "images": ["iVBORw0KGgo="]}]});
    let check = |more: &Value, body: &str, text: &str| {
        let (upstream, proxy) = pair();
        refuse(&upstream, body);
        chat(&proxy, more).assert_error(400, text);
        upstream.request();
        assert!(upstream.is_idle(), "{body}");
    };
    let text = "Unknown parameter: 'tools'.";
    check(&tools, &openai(text, "tools", "unknown_parameter"), text);
    let text = "Invalid image URL: 'messages[0].content[1].image_url.url'. Expected a base64-encoded \
                data URL";
    check(&image, &openai(text, "messages[0].content[1].image_url.url", "invalid_value"), text);
    let text = "Unknown parameter: 'response_format'.";
    check(&json!({"format": "json"}), &openai(text, "response_format", "unknown_parameter"), text);
}

#[test]
fn a_schema_that_is_not_taken_is_told_in_words() {
    let (upstream, proxy) = pair();
    let schema = json!({"format": {"type": "object", "properties": {"a": {"type": "string"}}}});
    refuse(&upstream, &openai("This response_format type is unavailable now", "", ""));
    upstream.script(vec![answer("{}")]).script(vec![answer("{}")]);
    assert_eq!(chat(&proxy, &schema).json()["message"]["content"], "{}");
    assert_eq!(upstream.request().json()["response_format"]["type"], "json_schema");
    let second = upstream.request().json();
    assert_eq!(second["response_format"], json!({"type": "json_object"}));
    let words = second["messages"][0]["content"].as_str().expect("a text");
    assert!(words.contains(r#""properties":{"a":{"type":"string"}}"#), "{words}");
    chat(&proxy, &schema);
    assert_eq!(upstream.request().json(), second, "and from then on");
}

/// llama-cpp-python 0.3.36 tells a validation error with status 500.
#[test]
fn a_schema_that_a_500_refuses_is_told_in_words_at_once() {
    let text = "[{'type': 'literal_error', 'loc': ('body', 'response_format', 'type'), 'msg': \"Input \
                should be 'text' or 'json_object'\", 'input': 'json_schema', 'ctx': {'expected': \
                \"'text' or 'json_object'\"}}]";
    let body = json!({"error": {"message": text, "type": "internal_server_error", "param": null,
        "code": null}});
    let (upstream, proxy) = pair();
    let schema = json!({"format": {"type": "object", "properties": {"a": {"type": "string"}}}});
    upstream.script(vec![status(500, &[], &body.to_string())]);
    upstream.script(vec![answer("{}")]).script(vec![answer("{}")]);
    for _ in 0..2 {
        assert_eq!(chat(&proxy, &schema).json()["message"]["content"], "{}");
    }
    assert_eq!(upstream.request().json()["response_format"]["type"], "json_schema");
    for _ in 0..2 {
        let sent = upstream.request().json();
        assert_eq!(sent["response_format"], json!({"type": "json_object"}));
        assert!(sent["messages"][0]["content"].as_str().expect("a text").contains(r#""a":{"#));
    }
    assert!(upstream.is_idle() && proxy.sleeps.is_empty(), "no retry delay");
}

#[test]
fn refused_stop_sequences_are_watched_for_and_end_the_upstream_s_stream() {
    for (whole, path) in [(false, "/api/chat"), (true, "/api/chat"), (true, "/api/generate")] {
        let (upstream, proxy) = pair();
        upstream.script(vec![unsupported("stop", "")]);
        // The sequence comes in two pieces, and what is behind it is never asked for.
        let (closed, is_closed) = bounded(1);
        upstream.script(vec![
            stream_head(),
            delta("One. E"),
            delta("ND and more"),
            Step::UntilClosed(closed),
        ]);
        let body = json!({"model": "m", "prompt": "x", "stream": !whole,
            "messages": [{"role": "user", "content": "x"}], "options": {"stop": ["END", "zzz"]}});
        let told = proxy.post(path, &body);
        assert_eq!(told.status(), 200, "{}", told.body);
        let lines: Vec<Value> =
            told.body.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let text = |line: &Value| {
            let text = line["message"]["content"].as_str().or(line["response"].as_str());
            text.unwrap_or_default().to_owned()
        };
        assert_eq!(lines.iter().map(text).collect::<String>(), "One. ");
        let last = lines.last().expect("a line");
        assert_eq!((&last["done"], &last["done_reason"]), (&true.into(), &"stop".into()));
        is_closed.recv_timeout(HANG).expect("the upstream's connection is closed");
        assert_eq!(upstream.request().json()["stop"], json!(["END", "zzz"]));
        let second = upstream.request().json();
        assert_eq!((second.get("stop"), &second["stream"]), (None, &true.into()));
    }
}

#[test]
fn more_stop_sequences_than_a_family_takes_are_watched_for() {
    let (upstream, proxy) =
        pair_with(|config| config.upstream.profile = profiles::find_by_name("openai"));
    let stop = json!({"options": {"stop": ["1", "2", "3", "4", "5"]}});
    upstream.script(stream(&["a5b"]));
    assert_eq!(chat(&proxy, &stop).json()["message"]["content"], "a");
    assert_eq!(upstream.request().json()["stop"], json!(["1", "2", "3", "4"]));
}

#[test]
fn embeddings_do_without_their_format() {
    let (upstream, proxy) = pair();
    let text = "litellm.UnsupportedParamsError: x does not support parameters: ['encoding_format']";
    refuse(&upstream, &openai(text, "", "400"));
    upstream.script(vec![upstream::json(r#"{"data":[{"embedding":[1]}]}"#)]);
    let body = json!({"model": "text-embed", "input": "x"}).to_string();
    assert_eq!(proxy.ask("/api/embed", body).status(), 200);
    assert_eq!(upstream.request().json()["encoding_format"], "float");
    assert!(upstream.request().json().get("encoding_format").is_none());
    // What was learnt of one model holds for it alone.
    for (model, format) in [("text-embed", None), ("m", Some(json!("float")))] {
        upstream.script(vec![upstream::json(r#"{"data":[{"embedding":[1]}]}"#)]);
        let body = json!({"model": model, "input": "x"}).to_string();
        assert_eq!(proxy.ask("/api/embed", body).status(), 200);
        assert_eq!(upstream.request().json().get("encoding_format"), format.as_ref(), "{model}");
    }
}
