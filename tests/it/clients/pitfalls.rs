//! Each row of the table in ollama-api.md 18.12, "What real clients trip over", as one test.
//!
//! What those rows say of `/v1` is held by `replay_v1.rs`.

use std::io::Read;
use std::time::Duration;

use crate::support::proxy::{Proxy, pair};
use crate::support::raw::{Answer, COUNTERS, chat, chat_whole};
use crate::support::upstream::{self, Step, Upstream, answer, ending, frame, stream, stream_head};
use crossbeam_channel::{RecvTimeoutError, bounded};
use serde_json::{Value, json};
use socket2::SockRef;

fn post(proxy: &Proxy, path: &str, body: &Value) -> Answer {
    proxy.client().post(path, body.to_string()).answer()
}

fn get(proxy: &Proxy, path: &str) -> Value {
    proxy.client().get(path).answer().json()
}

fn show(proxy: &Proxy, name: &str) -> Value {
    post(proxy, "/api/show", &json!({"model": name})).json()
}

/// What goes upstream for a chat request with these members on top of the least.
fn sent(more: &Value) -> Value {
    let (upstream, proxy) = pair();
    let mut body = json!({"model": "m", "stream": false,
                          "messages": [{"role": "user", "content": "Hello"}]});
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    upstream.script(vec![answer("Hi")]);
    let answer = post(&proxy, "/api/chat", &body);
    assert_eq!(answer.status(), 200, "{body}: {}", answer.body);
    upstream.request().json()
}

/// A stream of these deltas.
fn deltas(deltas: &[Value]) -> Vec<Step> {
    let chunk = |delta: &Value| {
        frame(&format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": delta}]})))
    };
    let mut steps = vec![stream_head()];
    steps.extend(deltas.iter().map(chunk));
    steps.extend(ending());
    steps
}

/// A stream with two calls.
fn calls() -> Vec<Step> {
    let call = |index: usize, arguments: &str| {
        json!({"tool_calls": [{"index": index, "id": format!("call_{index}"), "type": "function",
                               "function": {"name": "f", "arguments": arguments}}]})
    };
    deltas(&[
        json!({"role": "assistant", "content": null}),
        call(0, "{\"a\": 1}"),
        call(1, "{\"a\": 2}"),
    ])
}

fn tools() -> Value {
    json!([{"type": "function", "function": {"name": "f", "parameters": {
        "type": "object", "properties": {"a": {"type": "integer"}}}}}])
}

/// The lines of a chat over what the upstream plays.
fn chat_lines(steps: Vec<Step>) -> Vec<Value> {
    let upstream = Upstream::start();
    upstream.script(steps);
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "Hello"}],
                      "tools": tools()});
    post(&Proxy::start(&upstream), "/api/chat", &body).lines()
}

#[test]
fn line_separators_are_escaped() {
    let upstream = Upstream::start();
    upstream.script(stream(&["a\u{2028}b\u{2029}c\u{85}d"]));
    let answer = Proxy::start(&upstream).client().post("/api/chat", chat("x")).answer();
    assert!(!answer.body.contains(['\u{2028}', '\u{2029}', '\u{85}']), "{:?}", answer.body);
    assert_eq!(answer.lines()[0]["message"]["content"], "a\u{2028}b\u{2029}c\u{85}d");
}

#[test]
fn every_line_is_a_frame_of_its_own() {
    let (upstream, proxy) = pair();
    for path in ["/api/chat", "/api/generate"] {
        upstream.script(stream(&["one", " two", " three"]));
        let body = json!({"model": "m", "prompt": "x",
                          "messages": [{"role": "user", "content": "x"}]});
        let mut client = proxy.client();
        client.post(path, body.to_string()).head();
        let frames: Vec<String> = std::iter::from_fn(|| client.frame()).collect();
        assert_eq!(frames.len(), 4, "{frames:?}");
        for frame in frames {
            assert_eq!(frame.find('\n'), Some(frame.len() - 1), "{frame:?}");
            assert!(serde_json::from_str::<Value>(&frame).is_ok(), "{frame:?}");
        }
    }
}

#[test]
fn no_line_is_blank_and_none_has_an_error_key() {
    for steps in [stream(&["Hi", ""]), calls()] {
        let upstream = Upstream::start();
        upstream.script(steps);
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}],
                          "tools": tools()});
        let answer = post(&Proxy::start(&upstream), "/api/chat", &body);
        assert!(answer.body.ends_with('\n') && !answer.body.contains("\n\n"), "{:?}", answer.body);
        assert!(answer.lines().iter().all(|line| line.get("error").is_none()));
    }
}

#[test]
fn content_is_always_a_string() {
    let thinking = deltas(&[json!({"reasoning_content": "Hm."}), json!({"content": "Hi"})]);
    for steps in [stream(&["Hi"]), calls(), thinking, stream(&[])] {
        for line in chat_lines(steps) {
            assert!(line["message"]["content"].is_string(), "{line}");
        }
    }
    let upstream = Upstream::start();
    upstream.script(vec![upstream::json(
        r#"{"choices":[{"message":{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]},"finish_reason":"tool_calls"}]}"#,
    )]);
    let answer = Proxy::start(&upstream).client().post("/api/chat", chat_whole("x")).answer();
    assert_eq!(answer.json()["message"]["content"], "");
}

#[test]
fn all_counters_are_there() {
    let (upstream, proxy) = pair();
    for path in ["/api/chat", "/api/generate"] {
        upstream.script(stream(&["Hi"])).script(vec![answer("Hi")]);
        for is_stream in [true, false] {
            let body = json!({"model": "m", "prompt": "x", "stream": is_stream,
                              "messages": [{"role": "user", "content": "x"}]});
            let answer = post(&proxy, path, &body);
            let last: Value = serde_json::from_str(answer.body.lines().last().expect("a line"))
                .expect("a JSON line");
            for name in COUNTERS {
                assert!(last[name].as_u64().is_some_and(|count| count > 0), "{name}: {last}");
            }
        }
    }
    let vectors = r#"{"data":[{"index":0,"embedding":[3.0,4.0]}],"usage":{"prompt_tokens":1}}"#;
    upstream.script(vec![upstream::json(vectors)]);
    let answer = post(&proxy, "/api/embed", &json!({"model": "text-embed", "input": "a"})).json();
    for name in ["total_duration", "load_duration", "prompt_eval_count"] {
        assert!(answer[name].as_u64().is_some_and(|count| count > 0), "{name}: {answer}");
    }
}

#[test]
fn generate_ends_with_a_context_of_small_ints() {
    let (upstream, proxy) = pair();
    upstream.script(vec![answer("Hi")]);
    let body = json!({"model": "m", "prompt": "h\u{e9}llo \u{1f600}", "stream": false});
    let answer = post(&proxy, "/api/generate", &body).json();
    let context = answer["context"].as_array().expect("a list");
    assert!(!context.is_empty());
    let is_small = |item: &Value| item.as_i64().is_some_and(|item| i32::try_from(item).is_ok());
    assert!(context.iter().all(is_small), "{context:?}");
}

/// The history of two calls with these results; what went upstream.
fn linked(ids: [Option<&str>; 2], results: &Value) -> Value {
    let call = |id: Option<&str>, name: &str| {
        let mut call = json!({"function": {"name": name, "arguments": {}}});
        if let Some(id) = id {
            call["id"] = json!(id);
        }
        call
    };
    let mut messages = vec![
        json!({"role": "user", "content": "x"}),
        json!({"role": "assistant", "content": "",
               "tool_calls": [call(ids[0], "f"), call(ids[1], "g")]}),
    ];
    messages.extend(results.as_array().expect("a list").iter().cloned());
    sent(&json!({"messages": messages}))["messages"].clone()
}

#[test]
fn tool_results_find_their_calls_by_id_then_name_then_order() {
    let first = |more: Value| {
        let mut message = json!({"role": "tool", "content": "of f"});
        message.as_object_mut().expect("made here").extend(
            more.as_object()
                .expect("an object")
                .iter()
                .map(|(name, it)| (name.clone(), it.clone())),
        );
        message
    };
    let second = json!({"role": "tool", "content": "of g"});
    let with = |name: &str, value: &str| {
        let mut message = second.clone();
        message[name] = json!(value);
        message
    };
    let ids = [Some("1"), Some("2")];
    let none = [None, None];
    for (ids, results) in [
        (ids, json!([with("tool_call_id", "2"), first(json!({"tool_call_id": "1"}))])),
        (none, json!([with("tool_name", "g"), first(json!({"tool_name": "f"}))])),
        (none, json!([first(json!({})), second])),
        // litellm makes ids up that match nothing.
        (none, json!([first(json!({"tool_call_id": "?"})), with("tool_call_id", "??")])),
    ] {
        let messages = linked(ids, &results);
        let calls = messages[1]["tool_calls"].as_array().expect("calls");
        assert_ne!(calls[0]["id"], calls[1]["id"], "{messages}");
        for message in &messages.as_array().expect("a list")[2..] {
            let index = usize::from(message["content"] == "of g");
            assert!(calls[index]["id"].as_str().is_some_and(|id| !id.is_empty()), "{messages}");
            assert_eq!(message["tool_call_id"], calls[index]["id"], "{messages}");
        }
    }
}

#[test]
fn arguments_are_an_object_here_and_a_string_there() {
    let lines = chat_lines(calls());
    let told: Vec<&Value> = lines
        .iter()
        .filter_map(|line| line["message"]["tool_calls"].as_array())
        .flatten()
        .collect();
    assert_eq!(told.len(), 2, "{lines:?}");
    for (index, call) in told.iter().enumerate() {
        assert_eq!(call["function"]["arguments"], json!({"a": index + 1}));
        assert_eq!(call["function"]["index"], json!(index));
    }
    let messages = json!([{"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [
            {"type": "Function", "function": {"name": "f", "arguments": {"a": 1}}}]},
        {"role": "tool", "content": "1"}]);
    let call = sent(&json!({"messages": messages}))["messages"][1]["tool_calls"][0].clone();
    assert_eq!(call["type"], "function");
    assert_eq!(call["function"]["arguments"], "{\"a\":1}");
}

#[test]
fn what_is_empty_stays_here() {
    let messages = json!([
        {"role": "user", "content": "x", "images": [], "tool_calls": null, "thinking": null},
        {"role": "assistant", "content": "y", "tool_calls": [], "thinking": "Hm.", "images": null,
         "tool_name": ""},
        {"role": "user", "content": "z", "images": null, "tool_calls": []}]);
    let body = sent(&json!({"messages": messages, "tools": [], "format": "", "options": null,
                            "keep_alive": null, "think": null}));
    let expected = json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"},
                          {"role": "user", "content": "z"}]);
    assert_eq!(body["messages"], expected);
    for name in ["tools", "format", "response_format", "options", "think", "reasoning_effort"] {
        assert!(body.get(name).is_none(), "{name}: {body}");
    }
}

#[test]
fn a_message_needs_no_content() {
    let picture = "iVBORw0KGgoAAAANSUhEUg==";
    let body = sent(&json!({"messages": [{"role": "user", "images": [picture]}]}));
    assert_eq!(body["messages"][0]["content"][0]["type"], "image_url");
    let messages = json!([{"role": "user", "content": "x"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
        {"role": "tool", "content": "1"}]);
    let body = sent(&json!({"messages": messages}));
    assert_eq!(body["messages"][1]["tool_calls"][0]["function"]["name"], "f");
}

#[test]
fn top_level_settings_of_the_ai_sdk_are_ignored() {
    let body = sent(&json!({"temperature": 0.5, "top_p": 0.5, "max_output_tokens": 9,
                            "tool_choice": "auto"}));
    for name in ["temperature", "top_p", "max_output_tokens", "max_tokens", "tool_choice"] {
        assert!(body.get(name).is_none(), "{name}: {body}");
    }
}

#[test]
fn names_are_listed_with_a_tag_and_known_in_every_spelling() {
    let (_upstream, proxy) = pair();
    let list = get(&proxy, "/api/tags");
    for model in list["models"].as_array().expect("a list") {
        assert!(model["name"].as_str().is_some_and(|name| name.contains(':')), "{model}");
    }
    for (name, id) in [("m", "m"), ("m:latest", "m"), ("M:latest", "m"), ("tagged:8b", "tagged:8b")]
    {
        assert_eq!(sent(&json!({"model": name}))["model"], id);
        assert!(show(&proxy, name)["capabilities"].is_array(), "{name}");
    }
}

#[test]
fn digests_differ_are_stable_and_follow_the_capabilities() {
    let upstream = Upstream::start();
    let digests = || {
        let list = get(&Proxy::start(&upstream), "/api/tags");
        let models = list["models"].as_array().expect("a list").clone();
        let mut digests: Vec<(Value, String)> = models
            .into_iter()
            .map(|it| (it["name"].clone(), it["digest"].as_str().expect("a digest").to_owned()))
            .collect();
        digests.sort_by_key(|(name, _)| name.to_string());
        digests
    };
    upstream.list(r#"{"data":[{"id":"a"},{"id":"b"}]}"#);
    let before = digests();
    assert_eq!(before, digests());
    assert_ne!(before[0].1, before[1].1);
    for (_, digest) in &before {
        assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
    upstream.list(r#"{"data":[{"id":"a","type":"embedding"},{"id":"b"}]}"#);
    let after = digests();
    assert_ne!(after[0].1, before[0].1, "the capabilities changed");
    assert_eq!(after[1].1, before[1].1);
}

#[test]
fn capabilities_are_always_there_and_of_the_known_ones() {
    const KNOWN: &[&str] =
        &["completion", "tools", "vision", "thinking", "embedding", "insert", "audio"];
    let proxy = Proxy::start(&Upstream::start());
    for name in ["m", "tagged:8b", "text-embed"] {
        let shown = show(&proxy, name);
        let told: Vec<&str> = shown["capabilities"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert!(!told.is_empty() && told.iter().all(|one| KNOWN.contains(one)), "{told:?}");
        let is_embedding = name == "text-embed";
        assert_eq!(told.contains(&"embedding"), is_embedding, "{name}: {told:?}");
        assert_eq!(told.contains(&"completion"), !is_embedding, "{name}: {told:?}");
    }
}

#[test]
fn tools_are_claimed_when_nothing_is_known() {
    let shown = show(&Proxy::start(&Upstream::start()), "m");
    assert!(shown["capabilities"].as_array().is_some_and(|list| list.contains(&json!("tools"))));
}

#[test]
fn model_info_has_the_three_keys() {
    let proxy = Proxy::start(&Upstream::start());
    for (name, length) in [("m", 32_768), ("m:latest", 32_768), ("tagged:8b", 8192)] {
        let info = show(&proxy, name)["model_info"].clone();
        let architecture = info["general.architecture"].as_str().expect("a string");
        assert_eq!(info[format!("{architecture}.context_length")], length);
        assert_eq!(info["general.basename"], name);
    }
}

#[test]
fn the_template_names_tools() {
    let shown = show(&Proxy::start(&Upstream::start()), "m");
    assert!(shown["template"].as_str().is_some_and(|text| text.contains("tools")), "{shown}");
}

#[test]
fn details_are_strings_and_entries_are_dated() {
    const DETAILS: &[&str] = &["format", "family", "parameter_size", "quantization_level"];
    let proxy = Proxy::start(&Upstream::start());
    let is_text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    for model in get(&proxy, "/api/tags")["models"].as_array().expect("a list") {
        assert!(is_text(&model["modified_at"]) && is_text(&model["digest"]), "{model}");
        assert!(model["size"].is_u64(), "{model}");
        let shown = show(&proxy, model["name"].as_str().expect("a name"));
        for name in DETAILS {
            assert!(is_text(&model["details"][name]), "{name}: {model}");
            assert!(is_text(&shown["details"][name]), "{name}: {shown}");
        }
    }
}

#[test]
fn ps_has_the_names_and_digests_of_tags() {
    let proxy = Proxy::start(&Upstream::start());
    post(&proxy, "/api/generate", &json!({"model": "m", "keep_alive": "10m"}));
    let running = get(&proxy, "/api/ps")["models"][0].clone();
    let list = get(&proxy, "/api/tags");
    let listed = list["models"].as_array().expect("a list");
    let same = listed.iter().find(|model| model["name"] == "m:latest").expect("listed");
    assert_eq!((&running["name"], &running["digest"]), (&same["name"], &same["digest"]));
    assert!(running["expires_at"].as_str().is_some_and(|time| !time.is_empty()));
}

#[test]
fn load_and_unload_are_answered_here_as_one_json_object() {
    let (upstream, proxy) = pair();
    for (path, body, reason) in [
        ("/api/generate", json!({"model": "m"}), "load"),
        ("/api/generate", json!({"model": "m", "prompt": ""}), "load"),
        ("/api/generate", json!({"model": "m", "prompt": "", "keep_alive": 0}), "unload"),
        ("/api/chat", json!({"model": "m"}), "load"),
        ("/api/chat", json!({"model": "m", "messages": [], "keep_alive": "0s"}), "unload"),
    ] {
        let answer = post(&proxy, path, &body);
        let kind = answer.head.header("content-type").expect("a type");
        assert!(kind.starts_with("application/json"), "{kind}");
        assert_eq!(answer.json()["done_reason"], reason, "{body}");
    }
    assert!(upstream.is_idle());
}

#[test]
fn errors_are_one_text_in_json() {
    let (upstream, proxy) = pair();
    let detail = r#"{"detail":[{"loc":["body"],"msg":"field required"}]}"#;
    let nested = r#"{"error":{"message":"{\"error\":{\"message\":\"inner\"}}"}}"#;
    for (status, body) in [(400, detail), (400, nested), (422, "{}"), (404, "Not Found")] {
        upstream.script(vec![upstream::status(status, &[], body)]);
        let answer = proxy.client().post("/api/chat", chat("x")).answer();
        assert!((400..600).contains(&answer.status()), "{body}");
        let kind = answer.head.header("content-type").expect("a type");
        assert!(kind.starts_with("application/json"), "{kind}");
        let text = answer.error();
        assert!(!text.is_empty() && !text.starts_with('{'), "{body}: {text}");
        upstream.request();
    }
    let broken = vec![stream_head(), upstream::delta("Half"), Step::Close];
    upstream.script(broken);
    let lines = proxy.client().post("/api/chat", chat("x")).answer().lines();
    let last = lines.last().expect("a line");
    assert!(last["error"].is_string() && last.get("done").is_none(), "{last}");
}

#[test]
fn unknown_models_are_404_to_show_and_an_error_line_to_pull() {
    let proxy = Proxy::start(&Upstream::start());
    let answer = post(&proxy, "/api/show", &json!({"model": "nope"}));
    assert_eq!(answer.status(), 404);
    assert!(answer.error().contains("not found"));
    let answer = post(&proxy, "/api/pull", &json!({"model": "nope"}));
    assert_eq!(answer.status(), 200);
    let last = answer.lines().pop().expect("a line");
    assert!(last["error"].is_string() && last.get("status").is_none(), "{last}");
}

#[test]
fn name_counts_where_model_is_missing_or_empty() {
    let proxy = Proxy::start(&Upstream::start());
    for more in [json!({}), json!({"model": ""})] {
        let named = |name: &str, from: Option<&str>| {
            let mut body = more.clone();
            body["name"] = json!(name);
            body["from"] = json!(from);
            body["stream"] = json!(false);
            body
        };
        let shown = post(&proxy, "/api/show", &named("m", None)).json();
        assert_eq!(shown["model_info"]["general.basename"], "m");
        let success = json!({"status": "success"});
        assert_eq!(post(&proxy, "/api/pull", &named("m", None)).json(), success);
        assert_eq!(post(&proxy, "/api/create", &named("own", Some("m"))).json(), success);
        let body = named("own", None).to_string();
        let length = body.len();
        let head = format!(
            "DELETE /api/delete HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
        );
        assert_eq!(proxy.client().send(head + &body).answer().status(), 200);
        assert_eq!(post(&proxy, "/api/show", &named("own", None)).status(), 404);
    }
}

#[test]
fn reasoning_is_shown_unless_think_is_false() {
    let ways = || {
        vec![
            deltas(&[json!({"reasoning_content": "Hm."}), json!({"content": "Hi"})]),
            deltas(&[json!({"reasoning": "Hm."}), json!({"content": "Hi"})]),
            stream(&["<thi", "nk>Hm.</th", "ink>Hi"]),
        ]
    };
    for think in [Value::Null, json!(true), json!("low"), json!(false)] {
        for steps in ways() {
            let upstream = Upstream::start();
            upstream.script(steps);
            let body = json!({"model": "m", "think": think,
                              "messages": [{"role": "user", "content": "x"}]});
            let lines = post(&Proxy::start(&upstream), "/api/chat", &body).lines();
            let join = |name: &str| -> String {
                lines.iter().filter_map(|line| line["message"][name].as_str()).collect()
            };
            let thought = if think == json!(false) { "" } else { "Hm." };
            assert_eq!(
                (join("content").as_str(), join("thinking").trim()),
                ("Hi", thought),
                "{lines:?}"
            );
        }
    }
}

#[test]
fn negative_limits_zeros_and_every_keep_alive_are_understood() {
    let body = sent(&json!({"options": {"num_predict": -1, "temperature": 0, "seed": 0}}));
    assert!(body.get("max_tokens").is_none() && body.get("max_completion_tokens").is_none());
    assert_eq!((&body["temperature"].as_f64(), &body["seed"]), (&Some(0.0), &json!(0)));
    let proxy = Proxy::start(&Upstream::start());
    for keep in [json!(300), json!("5m0s"), json!("-1m"), json!(-1), json!(0.5), json!(33.0)] {
        let answer = post(&proxy, "/api/generate", &json!({"model": "m", "keep_alive": keep}));
        assert_eq!(answer.json()["done_reason"], "load", "{keep}");
    }
}

#[test]
fn images_get_their_type_from_their_bytes_and_may_be_large() {
    let url = |image: String| {
        let message = json!({"role": "user", "content": "x", "images": [image]});
        let parts = sent(&json!({"messages": [message]}))["messages"][0]["content"].clone();
        parts[1]["image_url"]["url"].as_str().expect("a URL").to_owned()
    };
    let png = "iVBORw0KGgoAAAANSUhEUg==".to_owned();
    assert_eq!(url(png.clone()), format!("data:image/png;base64,{png}"));
    assert!(url("/9j/4AAQSkZJRgAB".to_owned()).starts_with("data:image/jpeg;base64,"));
    let large = format!("iVBORw0KGgoAAAAN{}", "AAAA".repeat(1 << 20));
    assert!(url(large.clone()).ends_with(&large));
}

#[test]
fn the_root_and_the_version_are_as_everybody_expects() {
    let proxy = Proxy::start(&Upstream::start());
    assert_eq!(proxy.client().get("/").answer().body, "Ollama is running");
    for path in ["/", "/api/version", "/api/tags"] {
        assert_eq!(proxy.client().request("HEAD", path).head().status, 200, "{path}");
    }
    let version = get(&proxy, "/api/version")["version"].clone();
    let parts: Vec<u32> = version
        .as_str()
        .expect("a string")
        .split('.')
        .map(|part| part.parse().expect("digits"))
        .collect();
    assert!(parts.len() == 3 && parts.as_slice() >= [0, 6, 4].as_slice(), "{version}");
}

#[test]
fn any_content_type_and_any_bearer_token_will_do() {
    let (upstream, proxy) = pair();
    let body = chat_whole("x");
    for headers in [
        "",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: text/plain;charset=UTF-8\r\n",
        "Content-Type: application/octet-stream\r\n",
        "Authorization: Bearer \r\n",
        "Authorization: Bearer a-users-key\r\n",
    ] {
        upstream.script(vec![answer("Hi")]);
        let length = body.len();
        let head = format!(
            "POST /api/chat HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n"
        );
        let answer = proxy.client().send(head + &body).answer();
        assert_eq!(answer.json()["message"]["content"], "Hi", "{headers}");
        let key = upstream.request().header("authorization").map(str::to_owned);
        assert_eq!(key, Some(format!("Bearer {}", crate::support::proxy::KEY)), "{headers}");
    }
}

#[test]
fn upgrades_are_ignored_and_expectations_met() {
    let (upstream, proxy) = pair();
    let body = chat_whole("x");
    let length = body.len();
    upstream.script(vec![answer("Hi")]).script(vec![answer("Hi")]);
    let upgrade =
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
    let head = format!(
        "POST /api/chat HTTP/1.1\r\nHost: localhost\r\n{upgrade}Content-Length: {length}\r\n\r\n"
    );
    assert_eq!(proxy.client().send(head + &body).answer().status(), 200);
    let head = format!(
        "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
    );
    let mut client = proxy.client();
    client.send(head);
    // The body follows only once it is asked for.
    let mut interim = Vec::new();
    while !interim.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.stream().read_exact(&mut byte).expect("an interim answer");
        interim.push(byte[0]);
    }
    assert!(interim.starts_with(b"HTTP/1.1 100 "), "{interim:?}");
    client.send(body);
    assert_eq!(client.answer().status(), 200);
}

#[test]
fn browsers_and_editors_may_ask() {
    let proxy = Proxy::start(&Upstream::start());
    for origin in ["http://localhost:3000", "app://obsidian.md", "vscode-webview://x"] {
        let ask = |request: &str| {
            let more = "Access-Control-Request-Method: POST\r\n";
            let head = format!(
                "{request} HTTP/1.1\r\nHost: 127.0.0.1:11434\r\nOrigin: {origin}\r\n{more}\r\n"
            );
            proxy.client().send(head).head()
        };
        for (request, status) in [("OPTIONS /api/chat", 204), ("GET /api/tags", 200)] {
            let head = ask(request);
            assert_eq!(head.status, status, "{origin}: {request}");
            assert_eq!(head.header("access-control-allow-origin"), Some(origin), "{request}");
        }
    }
}

#[test]
fn the_upstream_stops_when_the_client_leaves() {
    let upstream = Upstream::start();
    let (told, closed) = bounded(1);
    let (go_on, wait) = bounded(0);
    let mut steps = vec![stream_head(), upstream::delta("one"), Step::Wait(wait)];
    // More than the sockets between them hold.
    steps.extend((0..256).map(|_| upstream::delta(&"x".repeat(1 << 16))));
    steps.push(Step::UntilClosed(told));
    upstream.script(steps);
    let proxy = Proxy::start(&upstream);
    let mut client = proxy.client();
    client.post("/api/chat", chat("x")).head();
    client.frame();
    SockRef::from(client.stream()).set_linger(Some(Duration::ZERO)).expect("a socket");
    drop(client);
    drop(go_on);
    // Either the upstream's own writes fail, or it sees the close: both drop its end.
    assert_ne!(closed.recv_timeout(crate::support::HANG), Err(RecvTimeoutError::Timeout));
}

#[test]
fn unlisted_names_are_forwarded_and_a_404_is_told_in_ollama_s_words() {
    let (upstream, proxy) = pair();
    let vectors = r#"{"data":[{"index":0,"embedding":[1.0]}],"usage":{"prompt_tokens":1}}"#;
    let missing =
        r#"{"error":{"message":"The model `x` does not exist","code":"model_not_found"}}"#;
    for path in ["/api/chat", "/api/generate", "/api/embed"] {
        let good = if path == "/api/embed" { upstream::json(vectors) } else { answer("Hi") };
        upstream.script(vec![good]);
        let body = json!({"model": "x:latest", "stream": false, "prompt": "x", "input": "x",
                          "messages": [{"role": "user", "content": "x"}]});
        assert_eq!(post(&proxy, path, &body).status(), 200, "{path}");
        assert_eq!(upstream.request().json()["model"], "x", "{path}");
        upstream.script(vec![upstream::status(404, &[], missing)]);
        let answer = post(&proxy, path, &body);
        assert_eq!(answer.status(), 404, "{path}");
        assert!(answer.error().contains("not found"), "{path}: {}", answer.body);
        upstream.request();
    }
    assert_eq!(post(&proxy, "/api/show", &json!({"model": "x"})).status(), 404);
}
