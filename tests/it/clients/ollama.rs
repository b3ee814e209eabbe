//! What editors and assistants send to Ollama's routes on connect and in a chat, and what they read of
//! the responses. Their requests to `/v1` are in `agents.rs`.

use super::replay::Read::{Absent, As, Digest, Holds, Part, Positive, Text, Version, Window};
use super::replay::{Reads, forwarded, get, is, local, replay, usage};
use crate::support::*;

/// A stream with one call of `name`, in fragments.
fn calling(name: &str, arguments: &str) -> Vec<Step> {
    let first = json!({"index": 0, "id": "call_up", "type": "function",
                       "function": {"name": name, "arguments": ""}});
    deltas(&[
        json!({"role": "assistant", "content": null, "tool_calls": [first]}),
        json!({"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]}),
    ])
}

#[test]
fn vs_code_copilot_finds_its_models() {
    let headers = "User-Agent: GitHubCopilotChat/0.33.1\r\nAuthorization: Bearer \r\n\
                   Content-Type: application/json\r\n";
    let show = |name: &'static str, window: u64| {
        let reads = [
            ("/capabilities", Holds("completion")),
            ("/capabilities", Holds("tools")),
            ("/model_info", Window(window)),
            // The name that the user sees.
            is("/model_info/general.basename", name),
            ("/remote_model", Absent),
        ];
        local("POST /api/show", json!({"model": name}), reads)
    };
    let tags = [is("/models/1/model", "m:latest"), is("/models/2/model", "tagged:8b")];
    let rows = [
        get("GET /api/version", [("/version", Version)]),
        get("GET /api/tags", tags),
        show("m:latest", 32_768),
        show("tagged:8b", 8192),
    ];
    replay(headers, rows);
}

#[test]
fn open_webui_connects_chats_and_unloads() {
    let headers = "User-Agent: Python/3.11 aiohttp/3.12\r\nAccept: */*\r\n\
                   X-OpenWebUI-User-Name: Ann\r\nX-OpenWebUI-User-Id: 1\r\n\
                   Content-Type: application/json\r\n";
    let messages = json!([{"role": "user", "content": "Hello"}]);
    let chat = json!({"model": "m:latest", "stream": true, "tools": [], "options": {},
        "messages": messages});
    let mut lines = usage();
    lines.push(is("/lines/0/message/content", "Hi"));
    let sent = [is("/model", "m"), ("/tools", Absent), is("/messages", messages)];
    let loaded = [
        is("/models/0/model", "m:latest"),
        ("/models/0/digest", Digest),
        ("/models/0/expires_at", Text),
        ("/models/1", Absent),
    ];
    let unload = json!({"model": "m:latest", "keep_alive": 0, "prompt": ""});
    let unloaded = [is("/done", true), is("/done_reason", "unload")];
    let rows = [
        get("GET /api/version", [("/version", Version)]),
        // It appends `:latest` and wants to find the result.
        get("GET /api/tags", [is("/models/1/model", "m:latest")]),
        get("GET /api/ps", [is("/models", json!([]))]),
        forwarded("POST /api/chat", chat, stream(&["Hi", "."]), lines, sent),
        get("GET /api/ps", loaded),
        local("POST /api/generate", unload, unloaded),
        get("GET /api/ps", [is("/models", json!([]))]),
    ];
    replay(headers, rows);
}

#[test]
fn home_assistant_turns_on_a_light() {
    let headers = "User-Agent: ollama-python/0.5.1 (x86_64 linux) Python/3.13\r\n\
                   Accept: application/json\r\nAuthorization: Bearer its-users-key\r\n\
                   Content-Type: application/json\r\n";
    let tool = json!({"type": "function", "function": {"name": "HassTurnOn", "description": "On.",
        "parameters": {"type": "object", "properties": {"name": {"type": "string"}}}}});
    let system = json!({"role": "system", "content": "You are a voice assistant."});
    let user = json!({"role": "user", "content": "Turn on the lamp"});
    let request = |messages: Value| {
        json!({"model": "m:latest", "messages": messages, "tools": [tool], "stream": true,
               "keep_alive": "-1s", "think": false, "options": {"num_ctx": 8192.0}})
    };
    // Neither `tool_name` nor an id comes back with the result.
    let history = json!([system, user,
        {"role": "assistant", "content": "", "tool_calls": [
            {"function": {"name": "HassTurnOn", "arguments": {"name": "lamp"}}}]},
        {"role": "tool", "content": "{\"success\":true}"}]);
    let called = [
        is("/lines/0/message/tool_calls/0/function/name", "HassTurnOn"),
        is("/lines/0/message/tool_calls/0/function/arguments", json!({"name": "lamp"})),
        is("/lines/0/done", false),
        ("/last/message/tool_calls", Absent),
        is("/last/done", true),
    ];
    let linked = [
        is("/messages/2/tool_calls/0/type", "function"),
        ("/messages/2/tool_calls/0/id", Text),
        is("/messages/2/tool_calls/0/function/arguments", "{\"name\":\"lamp\"}"),
        is("/messages/3/role", "tool"),
        ("/messages/3/tool_call_id", As("/messages/2/tool_calls/0/id")),
        ("/options", Absent),
    ];
    let call = calling("HassTurnOn", "{\"name\": \"lamp\"}");
    let sent = [is("/tools/0", tool.clone())];
    let rows = [
        get("GET /api/tags", [is("/models/1/model", "m:latest")]),
        forwarded("POST /api/chat", request(json!([system, user])), call, called, sent),
        forwarded("POST /api/chat", request(history), stream(&["Done."]), usage(), linked),
        // It polls this every half minute.
        get("GET /api/ps", [is("/models/0/model", "m:latest")]),
    ];
    replay(headers, rows);
}

#[test]
fn zed_reads_its_strict_types() {
    let headers = "User-Agent: Zed/0.200.0\r\nContent-Type: application/json\r\n";
    let chat = json!({
        "model": "m:latest", "stream": true, "keep_alive": -1, "tools": [], "think": null,
        "options": {"num_ctx": 16384, "num_predict": null, "stop": [], "temperature": 1.0, "top_p": null},
        "messages": [{"role": "system", "content": "Brief."},
                     {"role": "user", "content": "Hello", "images": null}]
    });
    let tags = [
        is("/models/1/name", "m:latest"),
        ("/models/1/modified_at", Text),
        is("/models/1/size", 0),
        ("/models/1/digest", Digest),
        ("/models/1/details/format", Text),
        ("/models/1/details/family", Text),
        is("/models/1/details/parameter_size", ""),
        is("/models/1/details/quantization_level", ""),
    ];
    let mut lines = usage();
    lines.extend([
        is("/lines/0/model", "m:latest"),
        ("/lines/0/created_at", Text),
        is("/lines/0/done", false),
        is("/lines/0/message/role", "assistant"),
        is("/lines/0/message/content", "Hi"),
        is("/last/message/role", "assistant"),
    ]);
    let sent = [("/tools", Absent), ("/stop", Absent), is("/temperature", 1.0)];
    let shown = [("/capabilities", Holds("tools")), ("/model_info", Window(32_768))];
    let rows = [
        get("GET /api/tags", tags),
        local("POST /api/show", json!({"model": "m:latest"}), shown),
        forwarded("POST /api/chat", chat, stream(&["Hi"]), lines, sent),
    ];
    replay(headers, rows);
}

#[test]
fn continue_chats_and_embeds() {
    let headers = "User-Agent: node-fetch\r\nContent-Type: application/json\r\n\
                   Authorization: Bearer none\r\n";
    let chat = json!({
        "model": "m", "stream": true, "keep_alive": 1800, "raw": false,
        "options": {"num_ctx": 32768, "num_predict": 2048, "stop": ["<|end|>"]},
        "messages": [{"role": "user", "content": "Hello"}]
    });
    let mut lines = usage();
    // It tests `"error" in line` for each line.
    lines.extend([("/lines/0/error", Absent), ("/last/error", Absent)]);
    let sent = [is("/max_tokens", 2048), is("/stop", json!(["<|end|>"]))];
    let vectors = upstream::json(
        r#"{"object":"list","data":[{"index":0,"embedding":[0.6,0.8]}],"usage":{"prompt_tokens":1,"total_tokens":1}}"#,
    );
    let embed = json!({"model": "text-embed", "input": ["a"]});
    let embedded =
        [("/embeddings/0/0", Positive), ("/embeddings/1", Absent), is("/prompt_eval_count", 1)];
    let rows = [
        local("POST /api/show", json!({"name": "m"}), [("/template", Text)]),
        get("GET /api/tags", [is("/models/1/name", "m:latest")]),
        forwarded("POST /api/chat", chat, stream(&["Hi"]), lines, sent),
        forwarded("POST /api/embed", embed, vec![vectors], embedded, [is("/input", json!(["a"]))]),
    ];
    replay(headers, rows);
}

/// `@langchain/ollama` 1.x (`utils.js`, `convertAMessagesToOllama`) drops the calls of an assistant's
/// message whose content is a string, and the name and id of each result.
fn langchain_js_agent(user_agent: &str, tools: Value, question: &str, rounds: &[(&str, &str)]) {
    let headers = format!(
        "Content-Type: application/json\r\nAccept: application/json\r\nUser-Agent: {user_agent}\r\n"
    );
    let mut messages = vec![
        json!({"role": "system", "content": "You are a helpful assistant"}),
        json!({"role": "user", "content": question}),
    ];
    let request = |messages: &[Value]| {
        json!({"model": "m:latest", "keep_alive": "5m", "options": {"num_ctx": 2048},
            "tools": tools, "messages": messages, "stream": true})
    };
    let mut rows = Vec::new();
    for (name, result) in rounds {
        let called = vec![is("/lines/0/message/tool_calls/0/function/name", *name)];
        let call = calling(name, "{\"input\": \"x\"}");
        let sent = linked(&messages, rounds);
        rows.push(forwarded("POST /api/chat", request(&messages), call, called, sent));
        messages.push(json!({"role": "assistant", "content": ""}));
        messages.push(json!({"role": "tool", "content": result}));
    }
    let sent = linked(&messages, rounds);
    rows.push(forwarded("POST /api/chat", request(&messages), stream(&["Done."]), usage(), sent));
    replay(&headers, rows);
}

/// The places in the upstream's request: each result answers a call of the right function.
fn linked(messages: &[Value], rounds: &[(&str, &str)]) -> Reads {
    const PLACES: [[&str; 4]; 2] = [
        [
            "/messages/2/tool_calls/0/function/name",
            "/messages/2/tool_calls/0/id",
            "/messages/3/tool_call_id",
            "/messages/3",
        ],
        [
            "/messages/4/tool_calls/0/function/name",
            "/messages/4/tool_calls/0/id",
            "/messages/5/tool_call_id",
            "/messages/5",
        ],
    ];
    let results = (messages.len() - 2) / 2;
    let mut reads = vec![is("/messages/0/role", "system"), is("/messages/1/role", "user")];
    for ([function, id, answered, message], (name, result)) in
        PLACES.into_iter().zip(rounds).take(results)
    {
        reads.push(is(function, *name));
        reads.push((id, Text));
        reads.push((answered, As(id)));
        reads.push((message, Part(json!({"role": "tool", "content": result}))));
    }
    reads
}

#[test]
fn n8n_s_agent_calls_its_only_tool_and_goes_on() {
    let tools = json!([{"type": "function", "function": {"name": "Wikipedia",
        "description": "A tool for interacting with and fetching data from the Wikipedia API.",
        "parameters": {"type": "object", "properties": {"input": {"type": "string"}},
            "additionalProperties": false, "$schema": "http://json-schema.org/draft-07/schema#"}}}]);
    let rounds = [("Wikipedia", "Page: Bergen\nSummary: a city"), ("Wikipedia", "Page: Oslo")];
    langchain_js_agent("node", tools, "Compare Bergen and Oslo", &rounds);
}

#[test]
fn flowise_s_agent_calls_one_of_several_tools_and_goes_on() {
    let tool = |name: &str, description: &str| {
        json!({"type": "function", "function": {"name": name, "description": description,
            "parameters": {"type": "object", "properties": {"input": {"type": "string"}}}}})
    };
    let tools = json!([
        tool("calculator", "Useful for getting the result of a math expression."),
        tool("current_date_time", "Useful to get the current day, date and time."),
    ]);
    let date = r#"{"date":"2026-11-30T08:00:00Z","day":"Monday"}"#;
    let rounds = [("current_date_time", date), ("calculator", "30")];
    let question = "What is the date of today? Add 29 with the calculator.";
    langchain_js_agent("node-fetch", tools, question, &rounds);
}
