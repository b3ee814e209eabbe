//! Models that only `/responses` serves: the same conversation goes there, and the answer comes back in
//! the form of the client's route.

use crate::support::*;

const REFUSAL: &str =
    "This model is only supported in v1/responses and not in v1/chat/completions.";

fn refusal(message: &str, param: Value, code: Value) -> String {
    json!({"error": {"message": message, "type": "invalid_request_error", "param": param,
        "code": code}})
    .to_string()
}

/// An upstream that refuses chats with this status and body; `/responses` takes the scripts.
fn responses_only(code: u16, body: String) -> (Upstream, Proxy) {
    let (upstream, proxy) = pair();
    upstream.judge(move |request| {
        request.path.ends_with("/chat/completions").then(|| vec![status(code, &[], &body)])
    });
    (upstream, proxy)
}

fn of_openai() -> (Upstream, Proxy) {
    responses_only(404, refusal(REFUSAL, "model".into(), Value::Null))
}

fn usage() -> Value {
    json!({"input_tokens": 5, "input_tokens_details": {"cached_tokens": 3}, "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 1}, "total_tokens": 7})
}

/// Reasoning, a text and a call, as items of the output.
fn output() -> Value {
    json!([
        {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "message", "id": "msg", "role": "assistant",
            "content": [{"type": "output_text", "text": "Hello", "annotations": []}]},
        {"type": "function_call", "id": "fc", "call_id": "call_1", "name": "f",
            "arguments": "{\"x\":1}"},
    ])
}

fn response(status: &str, output: &Value) -> Value {
    json!({"id": "resp_1", "object": "response", "created_at": 1700000000, "model": "m",
        "status": status, "output": output, "usage": usage()})
}

fn whole() -> Vec<Step> {
    vec![upstream::json(&response("completed", &output()).to_string())]
}

fn event(kind: &str, more: &Value) -> Step {
    let mut data = json!({"type": kind});
    for (name, value) in more.as_object().expect("an object") {
        data[name] = value.clone();
    }
    frame(&format!("event: {kind}\ndata: {data}\n\n"))
}

/// The same answer as a stream; it ends without `[DONE]`.
fn streamed() -> Vec<Step> {
    let items = output();
    let mut call = items[2].clone();
    call["arguments"] = "".into();
    let at = |place: u64, more: &Value| with(json!({"output_index": place}), more);
    let text = |text: &str| event("response.output_text.delta", &at(1, &json!({"delta": text})));
    let arguments = |piece: &str| {
        event("response.function_call_arguments.delta", &at(2, &json!({"delta": piece})))
    };
    vec![
        stream_head(),
        event("response.created", &json!({"response": response("in_progress", &json!([]))})),
        event("response.reasoning_summary_text.delta", &at(0, &json!({"delta": "hm"}))),
        event("response.output_item.done", &at(0, &json!({"item": items[0]}))),
        text("Hel"),
        text("lo"),
        event("response.output_item.done", &at(1, &json!({"item": items[1]}))),
        event("response.output_item.added", &at(2, &json!({"item": call}))),
        arguments("{\"x\""),
        arguments(":1}"),
        event("response.output_item.done", &at(2, &json!({"item": items[2]}))),
        event("response.completed", &json!({"response": response("completed", &items)})),
        last_frame(),
    ]
}

/// The request that reached `/responses`.
fn request_of(upstream: &Upstream) -> Value {
    let request = upstream.request();
    assert!(request.path.ends_with("/v1/responses"), "{}", request.path);
    assert!(request.header("authorization").is_some_and(|key| key.contains(KEY)));
    let body = request.json();
    assert_eq!(body["store"], false);
    assert!(body.get("messages").is_none() && body.get("stream_options").is_none(), "{body}");
    body
}

fn refused(upstream: &Upstream) {
    assert!(upstream.request().path.ends_with("/chat/completions"));
}

#[test]
fn a_chat_goes_to_responses_and_comes_back_as_ollama_s() {
    let (upstream, proxy) = of_openai();
    upstream.script(streamed()).script(whole());
    let image = "iVBORw0KGgo=";
    let tool = json!({"type": "function", "function": {"name": "f", "description": "d",
        "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}});
    let body = json!({"model": "m", "tools": [tool], "format": {"type": "object"},
        "options": {"num_predict": 50, "temperature": 0.5, "seed": 7},
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Look", "images": [image]},
            {"role": "assistant", "content": "", "tool_calls": [{"id": "c",
                "function": {"name": "f", "arguments": {"x": 2}}}]},
            {"role": "tool", "content": "42", "tool_name": "f", "tool_call_id": "c"},
            {"role": "user", "content": "Go on"}]});
    let told = proxy.post("/api/chat", &body);
    assert_eq!(told.status(), 200, "{}", told.body);
    let lines = told.lines();
    let text: String =
        lines.iter().map(|line| line["message"]["content"].as_str().unwrap_or_default()).collect();
    let thinking = lines.iter().find_map(|line| line["message"]["thinking"].as_str());
    let call = lines.iter().find_map(|line| line["message"]["tool_calls"].get(0)).expect("a call");
    assert_eq!((text.as_str(), thinking), ("Hello", Some("hm")));
    assert_eq!(
        (&call["function"]["name"], &call["function"]["arguments"]),
        (&json!("f"), &json!({"x": 1}))
    );
    let last = lines.last().expect("a line");
    assert_eq!(
        (&last["done"], &last["prompt_eval_count"], &last["eval_count"]),
        (&json!(true), &json!(5), &json!(2))
    );
    refused(&upstream);
    let sent = request_of(&upstream);
    assert_eq!((&sent["stream"], &sent["instructions"]), (&json!(true), &json!("Be brief.")));
    assert_eq!((&sent["max_output_tokens"], &sent["temperature"]), (&json!(50), &json!(0.5)));
    assert!(sent.get("seed").is_none() && sent.get("max_tokens").is_none());
    let input = sent["input"].as_array().expect("a list");
    assert_eq!(input[0]["content"][0], json!({"type": "input_text", "text": "Look"}));
    assert_eq!(input[0]["content"][1]["type"], "input_image");
    assert!(input[0]["content"][1]["image_url"].as_str().is_some_and(|it| it.ends_with(image)));
    assert_eq!(
        input[1],
        json!({"type": "function_call", "call_id": "c", "name": "f",
        "arguments": "{\"x\":2}"})
    );
    assert_eq!(input[2], json!({"type": "function_call_output", "call_id": "c", "output": "42"}));
    assert_eq!(input[3]["content"][0]["text"], "Go on");
    assert_eq!(
        sent["tools"][0],
        json!({"type": "function", "name": "f", "description": "d",
        "parameters": tool["function"]["parameters"], "strict": false})
    );
    assert_eq!(sent["text"]["format"]["type"], "json_schema");
    assert_eq!(sent["text"]["format"]["schema"], json!({"type": "object"}));
    // From then on, it is asked there at once.
    let told = proxy.post("/api/chat", &with(body, &json!({"stream": false}))).json();
    assert_eq!(
        (&told["message"]["content"], &told["message"]["thinking"]),
        (&json!("Hello"), &json!("hm"))
    );
    assert_eq!(told["message"]["tool_calls"][0]["function"]["arguments"], json!({"x": 1}));
    assert_eq!(
        (&told["prompt_eval_count"], &told["prompt_eval_cached_count"]),
        (&json!(5), &json!(3))
    );
    assert!(request_of(&upstream)["stream"] != true && upstream.is_idle());
}

#[test]
fn generate_and_messages_go_to_responses_too() {
    let (upstream, proxy) = of_openai();
    upstream.script(whole()).script(streamed()).script(whole()).script(streamed());
    let body = json!({"model": "m", "prompt": "Hi", "stream": false});
    assert_eq!(proxy.post("/api/generate", &body).json()["response"], "Hello");
    refused(&upstream);
    assert_eq!(request_of(&upstream)["input"][0]["content"][0]["text"], "Hi");
    let lines = proxy.post("/api/generate", &json!({"model": "m", "prompt": "Hi"})).lines();
    let text: String =
        lines.iter().map(|line| line["response"].as_str().unwrap_or_default()).collect();
    assert_eq!(text, "Hello");
    request_of(&upstream);
    let body = json!({"model": "m", "max_tokens": 20, "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}]});
    let told = proxy.post("/v1/messages", &body).json();
    let kinds: Vec<&Value> =
        told["content"].as_array().expect("a list").iter().map(|block| &block["type"]).collect();
    assert_eq!(kinds, ["thinking", "text", "tool_use"], "{told}");
    assert_eq!(
        (&told["stop_reason"], &told["content"][2]["input"]),
        (&json!("tool_use"), &json!({"x": 1}))
    );
    assert_eq!(told["usage"]["output_tokens"], 2);
    let sent = request_of(&upstream);
    assert_eq!(sent["max_output_tokens"], 20);
    let told = proxy.post("/v1/messages", &with(body, &json!({"stream": true})));
    assert!(told.body.contains("message_stop") && told.body.contains("tool_use"), "{}", told.body);
    request_of(&upstream);
    assert!(upstream.is_idle());
}

#[test]
fn a_passed_on_chat_gets_a_completion() {
    let (upstream, proxy) = of_openai();
    upstream.script(whole()).script(whole());
    let tool =
        json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}});
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "tools": [tool],
        "tool_choice": {"type": "function", "function": {"name": "f"}}, "reasoning_effort": "low",
        "max_completion_tokens": 30});
    for is_first in [true, false] {
        let told = proxy.post("/v1/chat/completions", &body);
        assert_eq!(
            (told.status(), told.head.header("content-type")),
            (200, Some("application/json"))
        );
        let told = told.json();
        assert_eq!(
            (&told["object"], &told["id"], &told["model"]),
            (&json!("chat.completion"), &json!("resp_1"), &json!("m"))
        );
        let choice = &told["choices"][0];
        assert_eq!(
            (&choice["finish_reason"], &choice["message"]["content"]),
            (&json!("tool_calls"), &json!("Hello"))
        );
        assert_eq!(
            choice["message"]["tool_calls"],
            json!([{"id": "call_1", "type": "function",
            "function": {"name": "f", "arguments": "{\"x\":1}"}}])
        );
        assert_eq!(
            (
                &told["usage"]["prompt_tokens"],
                &told["usage"]["prompt_tokens_details"]["cached_tokens"]
            ),
            (&json!(5), &json!(3))
        );
        if is_first {
            refused(&upstream);
        }
        let sent = request_of(&upstream);
        assert_eq!(sent["tool_choice"], json!({"type": "function", "name": "f"}));
        assert_eq!(
            (&sent["reasoning"], &sent["max_output_tokens"]),
            (&json!({"effort": "low"}), &json!(30))
        );
        assert!(upstream.is_idle());
    }
}

/// The data of a stream's events, without `[DONE]`, which must come last.
fn chunks(told: &Answer) -> Vec<Value> {
    assert_eq!(told.head.header("content-type"), Some("text/event-stream"), "{}", told.body);
    let data: Vec<&str> =
        told.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let (done, chunks) = data.split_last().expect("events");
    assert_eq!(*done, "[DONE]");
    chunks.iter().map(|chunk| serde_json::from_str(chunk).expect("JSON")).collect()
}

#[test]
fn a_passed_on_chat_ends_at_its_stop_sequences() {
    let (upstream, proxy) = of_openai();
    let chat =
        json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stop": ["l"]});
    upstream.script(whole()).script(streamed()).script(streamed());
    let told = proxy.post("/v1/chat/completions", &chat).json();
    let choice = &told["choices"][0];
    assert_eq!(
        (&choice["message"]["content"], &choice["finish_reason"]),
        (&json!("He"), &json!("stop"))
    );
    assert!(choice["message"].get("tool_calls").is_none(), "{choice}");
    let stream = with(chat, &json!({"stream": true, "stop": "ello"}));
    let told = chunks(&proxy.post("/v1/chat/completions", &stream));
    let text: String =
        told.iter().filter_map(|it| it["choices"][0]["delta"]["content"].as_str()).collect();
    let last = &told.last().expect("chunks")["choices"][0];
    assert_eq!((text.as_str(), &last["finish_reason"]), ("H", &json!("stop")));
    assert!(!told.iter().any(|it| it["choices"][0]["delta"].get("tool_calls").is_some()));
    // A sequence that does not come changes nothing.
    let other = with(stream, &json!({"stop": ["loo"]}));
    let told = chunks(&proxy.post("/v1/chat/completions", &other));
    let text: String =
        told.iter().filter_map(|it| it["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, "Hello");
}

#[test]
fn a_passed_on_stream_gets_chunks() {
    let (upstream, proxy) = of_openai();
    upstream.script(streamed()).script(streamed());
    let body =
        json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": true});
    let plain = chunks(&proxy.post("/v1/chat/completions", &body));
    refused(&upstream);
    assert_eq!(request_of(&upstream)["stream"], true);
    assert!(plain.iter().all(|chunk| chunk["object"] == "chat.completion.chunk"
        && chunk["id"] == "resp_1"
        && chunk.get("usage").is_none()));
    let delta = |place: usize| &plain[place]["choices"][0]["delta"];
    assert_eq!(delta(0)["role"], "assistant");
    let texts = |member: &str| -> String {
        (0..plain.len()).filter_map(|place| delta(place)[member].as_str()).collect()
    };
    assert_eq!((texts("reasoning_content").as_str(), texts("content").as_str()), ("hm", "Hello"));
    let calls: Vec<&Value> =
        (0..plain.len()).filter_map(|place| delta(place)["tool_calls"].get(0)).collect();
    assert!(calls.iter().all(|call| call["index"] == 0));
    assert_eq!((&calls[0]["id"], &calls[0]["function"]["name"]), (&json!("call_1"), &json!("f")));
    let arguments: String =
        calls.iter().filter_map(|call| call["function"]["arguments"].as_str()).collect();
    assert_eq!(arguments, "{\"x\":1}");
    assert_eq!(plain.last().expect("chunks")["choices"][0]["finish_reason"], "tool_calls");
    let counted = with(body, &json!({"stream_options": {"include_usage": true}}));
    let counted = chunks(&proxy.post("/v1/chat/completions", &counted));
    let last = counted.last().expect("chunks");
    assert_eq!((&last["choices"], &last["usage"]["total_tokens"]), (&json!([]), &json!(7)));
    assert_eq!(counted.len(), plain.len() + 1);
    request_of(&upstream);
    assert!(upstream.is_idle());
}

#[test]
fn other_words_and_statuses_mean_the_same() {
    for (code, body) in [
        (
            400,
            refusal(
                "model \"m\" is not accessible via the /chat/completions endpoint",
                Value::Null,
                "unsupported_api_for_model".into(),
            ),
        ),
        (
            400,
            refusal(
                "The chatCompletion operation does not work with the specified model, m.",
                Value::Null,
                "OperationNotSupported".into(),
            ),
        ),
        (
            404,
            refusal(
                "m: please call the Responses API, chat completions cannot serve this model",
                Value::Null,
                Value::Null,
            ),
        ),
        (422, json!({"detail": "Model m is reachable at /v1/responses only"}).to_string()),
    ] {
        for route in ["/api/chat", "/v1/chat/completions"] {
            let (upstream, proxy) = responses_only(code, body.clone());
            upstream.script(whole());
            let told = proxy.ask(route, chat_whole("Hi"));
            assert!(told.status() == 200 && told.body.contains("Hello"), "{body}: {}", told.body);
            refused(&upstream);
            request_of(&upstream);
            assert!(upstream.is_idle());
        }
    }
}

#[test]
fn where_the_other_route_is_missing_the_first_refusal_is_told() {
    let (upstream, proxy) = of_openai();
    for route in ["/api/chat", "/v1/messages"] {
        upstream.script(vec![status(404, &[], r#"{"detail":"Not Found"}"#)]);
        let body = json!({"model": "m", "stream": false, "max_tokens": 5,
            "messages": [{"role": "user", "content": "Hi"}]});
        let told = proxy.post(route, &body);
        assert!(told.status() == 400 && told.body.contains(REFUSAL), "{}", told.body);
    }
    upstream.script(vec![status(404, &[], r#"{"detail":"Not Found"}"#)]);
    let told = proxy.ask("/v1/chat/completions", chat_whole("Hi"));
    assert_eq!((told.status(), &told.json()["error"]["message"]), (400, &json!(REFUSAL)));
}

#[test]
fn a_refusal_of_the_other_route_is_repaired() {
    let (upstream, proxy) = of_openai();
    upstream.script(vec![unsupported("temperature", "")]).script(whole()).script(whole());
    let body = json!({"model": "m", "stream": false, "options": {"temperature": 0.5},
        "messages": [{"role": "user", "content": "Hi"}]});
    for expected in [3, 1] {
        assert_eq!(proxy.post("/api/chat", &body).json()["message"]["content"], "Hello");
        let sent: Vec<Recorded> =
            std::iter::from_fn(|| (!upstream.is_idle()).then(|| upstream.request())).collect();
        assert_eq!(sent.len(), expected);
        assert!(sent.last().expect("a request").json().get("temperature").is_none());
    }
    // What is the client's own mistake is told in the words of the route that knows it.
    let text = "Invalid image.";
    upstream.script(vec![status(400, &[], &refusal(text, "input".into(), Value::Null))]);
    proxy.post("/api/chat", &body).assert_error(400, text);
}

#[test]
fn failures_inside_a_stream_are_told_and_none_looks_complete() {
    let (upstream, proxy) = of_openai();
    let text = || {
        let delta = json!({"output_index": 0, "delta": "Hel"});
        event("response.output_text.delta", &delta)
    };
    let failed =
        json!({"status": "failed", "error": {"code": "server_error", "message": "broken"}});
    let ask = |last: Vec<Step>, route: &str, stream: bool| {
        upstream.script([vec![stream_head(), text()], last].into_iter().flatten().collect());
        let body = json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]});
        proxy.post(route, &body)
    };
    let fails = || vec![event("response.failed", &json!({"response": failed})), last_frame()];
    for route in ["/api/chat", "/v1/chat/completions"] {
        let told = ask(fails(), route, true);
        assert!(told.body.contains("broken") && !told.body.contains("[DONE]"), "{}", told.body);
        assert!(!told.body.contains("\"done\":true"), "{}", told.body);
        let told = ask(fails(), route, false);
        assert!(told.status() >= 500 && told.body.contains("broken"), "{}", told.body);
        let told = ask(vec![last_frame()], route, false);
        assert_eq!(told.status(), 502, "{}", told.body);
    }
}

#[test]
fn a_limit_ends_with_length_and_stops_are_watched_for() {
    let (upstream, proxy) = of_openai();
    let cut = json!([{"type": "message", "content": [{"type": "output_text", "text": "Hel"}]}]);
    let mut response = response("incomplete", &cut);
    response["incomplete_details"] = json!({"reason": "max_output_tokens"});
    upstream.script(vec![upstream::json(&response.to_string())]);
    let told = proxy.ask("/api/chat", chat_whole("Hi")).json();
    assert_eq!(
        (&told["message"]["content"], &told["done_reason"]),
        (&json!("Hel"), &json!("length"))
    );
    upstream.script(streamed());
    let body = json!({"model": "m", "stream": false, "options": {"stop": ["lo"]},
        "messages": [{"role": "user", "content": "Hi"}]});
    assert_eq!(proxy.post("/api/chat", &body).json()["message"]["content"], "Hel");
    refused(&upstream);
    request_of(&upstream);
    assert!(request_of(&upstream).get("stop").is_none());
}

#[test]
fn a_limit_below_the_least_of_the_route_is_raised() {
    for route in ["/api/generate", "/v1/chat/completions"] {
        let (upstream, proxy) = of_openai();
        let text = "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, \
                    but got 5 instead.";
        let low = refusal(text, "max_output_tokens".into(), "integer_below_min_value".into());
        upstream.script(vec![status(400, &[], &low)]).script(whole()).script(whole());
        let body = json!({"model": "m", "stream": false, "prompt": "Hi", "max_tokens": 5,
            "messages": [{"role": "user", "content": "Hi"}], "options": {"num_predict": 5}});
        for limits in [vec![5, 16], vec![16]] {
            let told = proxy.post(route, &body);
            assert!(told.status() == 200 && told.body.contains("Hello"), "{}", told.body);
            if limits.len() > 1 {
                refused(&upstream);
            }
            for limit in limits {
                assert_eq!(request_of(&upstream)["max_output_tokens"], limit, "{route}");
            }
            assert!(upstream.is_idle());
        }
    }
}

#[test]
fn azure_has_the_route_beside_its_deployments() {
    let upstream = Upstream::start();
    let azure = "The chatCompletion operation does not work with the specified model, m.";
    let body = refusal(azure, Value::Null, "OperationNotSupported".into());
    upstream.script(vec![status(400, &[], &body)]).script(whole());
    let base = upstream.base_url().replace("/v1", "/openai");
    let proxy = Proxy::at(&format!("{base}?api-version=2025-04-01-preview"), |_| {});
    assert!(proxy.ask("/api/chat", chat_whole("Hi")).body.contains("Hello"));
    assert!(upstream.request().path.contains("/deployments/m/chat/completions"));
    assert_eq!(upstream.request().path, "/openai/responses?api-version=2025-04-01-preview");
}

#[test]
fn a_large_upload_learns_the_route_for_the_next_one() {
    let (upstream, proxy) = of_openai();
    upstream.script(whole());
    let large = chat_whole(&"x".repeat(1_500_000));
    // The first one streams through, and nothing of it is kept.
    assert_eq!(proxy.ask("/v1/chat/completions", &large).status(), 400);
    let told = proxy.ask("/v1/chat/completions", &large);
    assert_eq!(told.json()["choices"][0]["message"]["content"], "Hello");
    refused(&upstream);
    request_of(&upstream);
    assert!(upstream.is_idle());
}
