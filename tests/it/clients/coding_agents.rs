//! What coding agents beside Claude Code and Codex ask at their start and in a session, and the details of
//! an answer over which each of them stumbles.

use super::replay::Read::{Absent, Holds, Is, Text, Version, Window};
use super::replay::{Reads, forwarded, get, is, local, replay, usage};
use crate::support::*;

const JSON: &str = "Content-Type: application/json\r\nAuthorization: Bearer ollama\r\n";

/// A stream of `/api/chat` with one call.
fn calling() -> Vec<Step> {
    let call = json!({"index": 0, "id": "call_up", "type": "function",
        "function": {"name": "read_file", "arguments": "{\"path\":\"a\"}"}});
    deltas(&[json!({"role": "assistant", "content": null, "tool_calls": [call]})])
}

fn tool() -> Value {
    json!({"type": "function", "function": {"name": "read_file", "description": "Reads.",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}}})
}

/// A chat in OpenAI's own form, and what the client gets: the upstream's answer, byte for byte.
fn passed(headers: &str, body: &Value, upstream: &[Value]) -> (Value, String) {
    let (scripted, proxy) = pair();
    let events: Vec<String> = upstream.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
    let mut steps = vec![stream_head()];
    steps.extend(events.iter().map(|event| frame(event)));
    steps.extend([frame("data: [DONE]\n\n"), last_frame()]);
    scripted.script(steps);
    let mut client = proxy.client();
    let text = body.to_string();
    let answer = client
        .with_host("localhost:11434", "POST", "/v1/chat/completions", headers, &text)
        .any_answer("POST");
    assert_eq!(answer.status(), 200, "{}", answer.body);
    assert_eq!(answer.body, format!("{}data: [DONE]\n\n", events.concat()));
    (scripted.request().json(), answer.body)
}

fn chunk(delta: &Value, reason: Option<&str>) -> Value {
    json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})
}

#[test]
fn codex_oss_finds_its_server_and_its_model_or_pulls_it() {
    let headers = "User-Agent: codex_cli_rs/0.171.0\r\nContent-Type: application/json\r\n";
    let pulled: Reads = vec![is("/last/status", "success")];
    let rows = [
        get("GET /v1/models", [is("/object", "list")]),
        get("GET /api/version", [("/version", Version)]),
        get("GET /api/tags", [is("/models/1/name", "m:latest")]),
        local("POST /api/pull", json!({"model": "m", "stream": true}), pulled),
    ];
    replay(headers, rows);
}

#[test]
fn the_version_is_three_plain_numbers_that_every_client_reads() {
    let (_upstream, proxy) = pair();
    let version = proxy.get("/api/version")["version"].as_str().expect("a text").to_owned();
    let parts: Vec<u32> = version.split('.').map(|part| part.parse().expect("a number")).collect();
    // Copilot in VS Code asks for 0.6.4, Codex for 0.13.4, clients of speech for 0.40.8.
    assert!(parts.len() == 3 && parts.as_slice() >= [0, 40, 8].as_slice(), "{version}");
}

#[test]
fn a_huge_window_of_cline_and_zed_does_no_harm() {
    let headers = "User-Agent: cline\r\nContent-Type: application/json\r\n";
    for num_ctx in [json!(32_768), json!(131_072), json!(1_048_576), json!(262_144.0)] {
        let chat = json!({"model": "m", "stream": true, "options": {"num_ctx": num_ctx},
            "messages": [{"role": "user", "content": "Hi"}]});
        let sent = [("/num_ctx", Absent), ("/options", Absent), ("/max_tokens", Absent)];
        let rows = [
            get("GET /api/tags", [is("/models/1/model", "m:latest")]),
            forwarded("POST /api/chat", chat, stream(&["Hi"]), usage(), sent),
        ];
        replay(headers, rows);
    }
}

#[test]
fn roo_and_kilo_find_tools_and_the_window_and_call() {
    let headers = "User-Agent: ollama-js/0.6.0 (x64 linux Node.js/v20.0.0)\r\nContent-Type: application/json\r\n";
    let shown = [
        ("/capabilities", Holds("tools")),
        ("/model_info", Window(8192)),
        // `num_ctx` would stand here, and is none of a model that was not created.
        ("/parameters", Absent),
    ];
    let chat = json!({"model": "tagged:8b", "stream": true, "tools": [tool()],
        "options": {"temperature": 0}, "messages": [{"role": "user", "content": "Read a"}]});
    let called = [
        is("/lines/0/message/tool_calls/0/function/name", "read_file"),
        is("/lines/0/message/tool_calls/0/function/arguments", json!({"path": "a"})),
        is("/last/done", true),
    ];
    let rows = [
        get("GET /api/tags", [is("/models/2/model", "tagged:8b")]),
        local("POST /api/show", json!({"model": "tagged:8b"}), shown),
        forwarded("POST /api/chat", chat, calling(), called, [is("/tools/0", tool())]),
    ];
    replay(headers, rows);
}

#[test]
fn aider_reads_the_window_and_sends_it_back() {
    let headers = "User-Agent: litellm/1.80\r\nContent-Type: application/json\r\n";
    let chat = json!({"model": "tagged:8b", "stream": true, "options": {"num_ctx": 8192},
        "messages": [{"role": "system", "content": "Act as a developer."},
                     {"role": "user", "content": "Fix it."}]});
    let rows = [
        local("POST /api/show", json!({"name": "tagged:8b"}), [("/model_info", Window(8192))]),
        forwarded("POST /api/chat", chat, stream(&["Hi"]), usage(), [("/num_ctx", Absent)]),
    ];
    replay(headers, rows);
}

#[test]
fn a_created_model_tells_zed_and_roo_its_window_in_its_parameters() {
    let (_upstream, proxy) = pair();
    let made = json!({"model": "wide", "from": "m", "parameters": {"num_ctx": 65_536}});
    assert_eq!(proxy.post("/api/create", &made).status(), 200);
    let shown = proxy.show("wide");
    let parameters = shown["parameters"].as_str().expect("a text");
    assert_eq!(parameters.split_whitespace().collect::<Vec<_>>(), ["num_ctx", "65536"]);
}

#[test]
fn continue_sees_whether_a_model_fills_in() {
    let list = r#"{"data":[{"id":"m"},{"id":"codestral-latest"}]}"#;
    let bench = Bench::over(list);
    let fills_in = |name: &str| {
        let shown = bench.post("/api/show", &json!({"name": name})).json();
        let template = shown["template"].as_str().expect("a text").contains(".Suffix");
        assert_eq!(
            template,
            shown["capabilities"].as_array().expect("a list").contains(&json!("insert"))
        );
        template
    };
    assert!(fills_in("codestral-latest") && !fills_in("m"));
}

#[test]
fn goose_pi_and_qwen_code_may_send_what_only_openai_knows() {
    let body = json!({"model": "m", "stream": true, "store": false, "max_completion_tokens": 4096,
        "reasoning_effort": "medium", "stream_options": {"include_usage": true},
        "options": {"num_predict": 128}, "tools": [tool()],
        "messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]});
    let (sent, _) = passed(
        JSON,
        &body,
        &[chunk(&json!({"content": "Hi"}), None), chunk(&json!({}), Some("stop"))],
    );
    assert_eq!(sent, body, "the upstream decides");
}

#[test]
fn opencode_crush_droid_and_kimi_get_the_chunks_of_the_upstream() {
    let call = json!({"index": 0, "id": "call_up", "type": "function",
        "function": {"name": "read_file", "arguments": "{}"}});
    let body = json!({"model": "m", "stream": true, "tools": [tool()],
        "messages": [{"role": "user", "content": "Read a"}]});
    let usage = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [],
        "usage": {"prompt_tokens": 31, "prompt_tokens_details": {"cached_tokens": 30}, "completion_tokens": 11,
            "total_tokens": 42},
        "timings": {"prompt_n": 31, "prompt_ms": 1.5, "predicted_n": 11, "predicted_per_second": 50.25}});
    let chunks =
        [chunk(&json!({"tool_calls": [call]}), None), chunk(&json!({}), Some("tool_calls")), usage];
    let (_, answer) = passed(JSON, &body, &chunks);
    for needed in [
        "\"id\":\"call_up\"",
        "\"index\":0",
        "\"finish_reason\":\"tool_calls\"",
        "[DONE]",
        "\"timings\"",
    ] {
        assert!(answer.contains(needed), "{needed}");
    }
}

#[test]
fn results_of_parallel_calls_go_up_in_the_order_of_the_calls_on_openai_s_own_route() {
    let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "read_file", "arguments": "{}"}});
    let result = |id: &str| json!({"role": "tool", "tool_call_id": id, "content": id});
    let calls = json!({"role": "assistant", "content": null, "tool_calls": [call("a"), call("b")]});
    let messages = json!([{"role": "user", "content": "Hi"}, calls, result("b"), result("a")]);
    let body = json!({"model": "m", "stream": true, "messages": messages});
    let (sent, _) = passed(JSON, &body, &[chunk(&json!({"content": "Hi"}), Some("stop"))]);
    assert_eq!(sent["messages"][2], result("a"));
    assert_eq!(sent["messages"][3], result("b"));
    assert_eq!(sent["messages"][1], calls);
}

#[test]
fn routes_of_ollama_s_cloud_and_its_desktop_are_unknown_here() {
    let headers = "User-Agent: Codex Desktop\r\nContent-Type: application/json\r\n";
    let unknown = || vec![("", Is("404 page not found".into()))];
    let rows = [
        get("GET /api/balance", unknown()).with_status(404),
        get("GET /api/usage?range=24h&scope=self", unknown()).with_status(404),
        get("GET /api/codex/v1/models", unknown()).with_status(404),
        local("POST /api/codex/v1/responses", json!({"model": "m"}), unknown()).with_status(404),
        get("GET /v1/systemone", unknown()).with_status(404),
    ];
    replay(headers, rows);
    let upstream_s_404 = status(404, &[], r#"{"error":{"message":"no such route"}}"#);
    let decide = json!({"model": "m", "state": "x", "questions": {"q": {"type": "noul", "instructions": "?"}}});
    let row = forwarded(
        "POST /v1/systemone",
        decide,
        vec![upstream_s_404],
        [("/error/message", Text)],
        [],
    );
    replay(JSON, [row.with_status(404)]);
}
