//! Models that only stream, for clients that want a whole response: asked as a stream, collected, and
//! remembered.

use crate::support::*;
use std::time::Duration;

const DASHSCOPE: &str =
    "This model only support stream mode, please enable the stream parameter to access the model.";

/// An upstream that refuses whole answers in these words; streams take the scripts.
fn only_streams(message: &str, param: &Value) -> (Upstream, Proxy) {
    let (upstream, proxy) = pair_with(|config| config.request_timeout = Duration::from_secs(2));
    judge(&upstream, message, param);
    (upstream, proxy)
}

fn judge(upstream: &Upstream, message: &str, param: &Value) {
    let refusal = json!({"error": {"message": message, "type": "invalid_request_error",
        "param": param, "code": "invalid_parameter_error"}})
    .to_string();
    upstream.judge(move |request| {
        if request.path.ends_with("/responses") {
            return Some(vec![status(404, &[], r#"{"detail":"Not Found"}"#)]);
        }
        (request.json()["stream"] != true).then(|| vec![status(400, &[], &refusal)])
    });
}

fn event(data: &Value) -> Step {
    frame(&format!("data: {data}\n\n"))
}

fn chunk(choices: &Value) -> Step {
    event(&json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000,
        "model": "m", "system_fingerprint": "fp_1", "choices": choices}))
}

fn delta_of(delta: &Value) -> Step {
    chunk(&json!([{"index": 0, "delta": delta, "finish_reason": null}]))
}

fn usage() -> Value {
    json!({"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7,
        "completion_tokens_details": {"reasoning_tokens": 1}})
}

/// A stream of these steps, with token counts and a reason at its end.
fn stream_of(steps: Vec<Step>, reason: &str) -> Vec<Step> {
    let mut all = vec![stream_head()];
    all.extend(steps);
    all.push(chunk(&json!([{"index": 0, "delta": {}, "finish_reason": reason}])));
    all.push(event(&json!({"id": "chatcmpl-1", "choices": [], "usage": usage()})));
    all.extend([frame("data: [DONE]\n\n"), last_frame()]);
    all
}

fn body() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "seed": 1})
}

/// The bodies that the upstream got, without those at `/responses`.
fn sent(upstream: &Upstream) -> Vec<Value> {
    let requests = std::iter::from_fn(|| (!upstream.is_idle()).then(|| upstream.request()));
    let chats = requests.filter(|request| !request.path.ends_with("/responses"));
    chats.map(|request| request.json()).collect()
}

#[test]
fn a_passed_on_chat_is_collected_into_one_completion() {
    let (upstream, proxy) = only_streams(DASHSCOPE, &Value::Null);
    let call = |call: &Value| delta_of(&json!({ "tool_calls": [call] }));
    let steps = || {
        let logprobs = json!({"content": [{"token": "Hi", "logprob": -0.25, "bytes": null, "top_logprobs": []}]});
        vec![
            delta_of(&json!({"role": "assistant", "content": ""})),
            delta_of(&json!({"reasoning_content": "h"})),
            delta_of(&json!({"reasoning_content": "m"})),
            chunk(
                &json!([{"index": 0, "delta": {"content": "Hi"}, "logprobs": logprobs, "finish_reason": null}]),
            ),
            delta_of(&json!({"content": " there"})),
            call(
                &json!({"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}),
            ),
            call(
                &json!({"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}),
            ),
            call(&json!({"index": 0, "function": {"arguments": "{\"x\""}})),
            call(&json!({"index": 0, "function": {"arguments": ":1}"}})),
        ]
    };
    upstream.script(stream_of(steps(), "tool_calls")).script(stream_of(steps(), "tool_calls"));
    let message = json!({"role": "assistant", "content": "Hi there", "reasoning_content": "hm",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}]});
    let logprobs =
        json!({"content": [{"token": "Hi", "logprob": -0.25, "bytes": null, "top_logprobs": []}]});
    let expected = json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1700000000,
        "model": "m", "system_fingerprint": "fp_1", "usage": usage(),
        "choices": [{"index": 0, "message": message, "logprobs": logprobs, "finish_reason": "tool_calls"}]});
    for attempts in [2, 1] {
        let told = proxy.post("/v1/chat/completions", &body());
        let kind = told.head.header("content-type");
        assert_eq!((told.status(), kind), (200, Some("application/json")), "{}", told.body);
        assert_eq!(told.json(), expected);
        let sent = sent(&upstream);
        assert_eq!(sent.len(), attempts, "remembered");
        let last = sent.last().expect("a request");
        assert_eq!(last["stream_options"], json!({"include_usage": true}));
        assert_eq!((&last["seed"], &last["messages"]), (&json!(1), &body()["messages"]));
    }
    assert!(proxy.sleeps.is_empty());
}

#[test]
fn a_passed_on_completion_and_several_choices_are_collected() {
    let (upstream, proxy) = only_streams(DASHSCOPE, &Value::Null);
    let text = |index: u64, text: &str, reason: &Value| {
        event(&json!({"id": "cmpl-1", "object": "text_completion", "model": "m",
            "choices": [{"index": index, "text": text, "finish_reason": reason}]}))
    };
    upstream.script(vec![
        stream_head(),
        text(0, "a", &Value::Null),
        text(1, "x", &Value::Null),
        text(0, "b", &"stop".into()),
        text(1, "y", &"length".into()),
        frame("data: [DONE]\n\n"),
        last_frame(),
    ]);
    let told = proxy.post("/v1/completions", &json!({"model": "m", "prompt": "x", "n": 2})).json();
    assert_eq!(
        told,
        json!({"id": "cmpl-1", "object": "text_completion", "model": "m", "choices": [
        {"index": 0, "text": "ab", "finish_reason": "stop"},
        {"index": 1, "text": "xy", "finish_reason": "length"}]})
    );
    let at = |index: u64, text: &str, reason: &Value| {
        chunk(&json!([{"index": index, "delta": {"content": text}, "finish_reason": reason}]))
    };
    let steps =
        vec![at(1, "one", &"stop".into()), at(0, "ze", &Value::Null), at(0, "ro", &Value::Null)];
    upstream.script(stream_of(steps, "stop"));
    let told = proxy.post("/v1/chat/completions", &with(body(), &json!({"n": 2}))).json();
    let content = |index: usize| &told["choices"][index]["message"]["content"];
    assert_eq!((content(0), content(1)), (&json!("zero"), &json!("one")));
}

#[test]
fn other_words_mean_the_same_on_each_route() {
    for (words, param) in [
        (DASHSCOPE, Value::Null),
        ("Whole replies are off for this model.", "stream".into()),
        ("qwq answers as an event stream, and in no other way", Value::Null),
        ("parameter.enable_thinking must be set to false for non-streaming calls", Value::Null),
    ] {
        for route in
            ["/api/chat", "/api/generate", "/v1/messages", "/v1/responses", "/v1/chat/completions"]
        {
            let (upstream, proxy) = only_streams(words, &param);
            upstream.script(stream(&["Hel", "lo"])).script(stream(&["Hel", "lo"]));
            let body = json!({"model": "m", "stream": false, "prompt": "Hi", "input": "Hi",
                "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]});
            for attempts in [2, 1] {
                let told = proxy.post(route, &body);
                assert!(
                    told.status() == 200 && told.json().is_object() && told.body.contains("Hello"),
                    "{route} {words}: {}",
                    told.body
                );
                let chats =
                    sent(&upstream).iter().filter(|body| body.get("messages").is_some()).count();
                assert_eq!(chats, attempts, "{route} {words}");
            }
        }
    }
}

#[test]
fn a_stream_that_the_client_wants_passes_as_it_is() {
    let (upstream, proxy) = only_streams(DASHSCOPE, &Value::Null);
    upstream.script(stream(&["one"])).script(stream(&["two"]));
    assert!(proxy.post("/v1/chat/completions", &body()).body.contains("\"chat.completion\""));
    let told = proxy.post("/v1/chat/completions", &with(body(), &json!({"stream": true})));
    assert_eq!(told.head.header("content-type"), Some("text/event-stream"));
    assert!(told.body.contains(&text_event("two")) && told.body.ends_with("data: [DONE]\n\n"));
    let last = sent(&upstream).pop().expect("a request");
    assert_eq!(last.get("stream_options"), None, "nothing of it is changed");
}

#[test]
fn what_fails_on_the_way_is_an_error_and_not_repeated() {
    let (upstream, proxy) = only_streams(DASHSCOPE, &Value::Null);
    let ask = |steps: Vec<Step>| {
        upstream.script(steps);
        let told = proxy.post("/v1/chat/completions", &body());
        sent(&upstream);
        (told.status(), told.json()["error"]["message"].as_str().unwrap_or_default().to_owned())
    };
    let broken = event(&json!({"error": {"message": "overloaded", "code": 503}}));
    let (status, text) = ask(vec![stream_head(), delta("Hel"), broken, last_frame()]);
    assert!(status >= 500 && text == "overloaded", "{status} {text}");
    let (status, text) = ask(vec![stream_head(), delta("Hel"), last_frame()]);
    assert_eq!((status, text.as_str()), (502, CUT_SHORT));
    let (status, text) = ask(vec![stream_head(), delta("Hel"), Step::Close]);
    assert_eq!((status, text.as_str()), (502, CUT_SHORT));
    let (status, _) = ask(vec![stream_head(), frame("data: [DONE]\n\n"), last_frame()]);
    assert_eq!(status, 502, "nothing came");
    let (_keep, never) = bounded(0);
    let (status, _) = ask(vec![stream_head(), delta("Hel"), Step::Wait(never)]);
    assert_eq!(status, 504, "silence");
    assert!(proxy.sleeps.is_empty());
    // A reason is enough, and whole answers of servers that do not care pass.
    let (status, _) = ask(stream(&["Hello"]));
    assert_eq!(status, 200);
    assert_eq!(ask(vec![answer("whole")]).0, 200);
    let ended = chunk(&json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]));
    assert_eq!(ask(vec![stream_head(), delta("Hello"), ended, Step::Close]).0, 200);
}

#[test]
fn who_leaves_ends_the_collecting() {
    let (upstream, proxy) = only_streams(DASHSCOPE, &Value::Null);
    let (closed, is_closed) = bounded(1);
    upstream.script(vec![stream_head(), delta("one"), Step::UntilClosed(closed)]);
    let mut client = proxy.client();
    client.post("/v1/chat/completions", body().to_string());
    assert!(upstream.request().json().get("stream").is_none());
    assert_eq!(upstream.request().json()["stream"], true);
    drop(client);
    is_closed.recv_timeout(HANG).expect("the upstream's call is cancelled");
}
