//! Blocks, tools and settings of every type with members that are missing or of any type: never a panic,
//! never a 5xx, and the connection serves the next request. And conversations that are long.

use super::messages::COUNT;
use crate::support::members::VALUES;
use crate::support::*;
use ollama_openai_proxy::api::anthropic::request::{GO_TYPE_NAME, MessagesRequest};
use ollama_openai_proxy::api::ollama::decode;
use ollama_openai_proxy::translate::anthropic::to_ollama;
use ollama_openai_proxy::translate::skipped::Skipped;

/// A block of every type, with all its members.
fn blocks() -> Vec<Value> {
    let mark = json!({"type": "ephemeral"});
    let data = json!({"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="});
    let plain = json!({"type": "text", "media_type": "text/plain", "data": "x"});
    let texts = json!([{"type": "text", "text": "x"}]);
    let reference = json!({"type": "tool_reference", "name": "f", "tool_name": "f"});
    let mut blocks = vec![
        json!({"type": "text", "text": "x", "cache_control": mark, "citations": []}),
        json!({"type": "image", "source": data}),
        json!({"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}}),
        json!({"type": "image", "source": {"type": "file", "file_id": "f"}}),
        json!({"type": "document", "source": plain, "title": "t", "context": "c"}),
        json!({"type": "document", "source": {"type": "content", "content": texts}}),
        json!({"type": "document", "source": {"type": "url", "url": "https://x.test/a.pdf"}}),
        json!({"type": "document", "source": {"type": "base64", "media_type": "application/pdf",
            "data": "JVBERi0="}}),
        json!({"type": "document", "source": {"type": "file", "file_id": "f"}}),
        json!({"type": "search_result", "title": "t", "source": "s", "content": texts}),
        json!({"type": "thinking", "thinking": "x", "signature": "s"}),
        json!({"type": "redacted_thinking", "data": "x"}),
        json!({"type": "compaction", "content": "x"}),
        json!({"type": "mid_conv_system", "content": [{"type": "text", "text": "x"},
            {"type": "tool_addition", "tool": reference}, {"type": "tool_removal", "tool": reference}]}),
        json!({"type": "tool_addition", "tool": reference}),
        json!({"type": "tool_use", "id": "i", "name": "f", "input": {"a": 1}, "caller": {}}),
        json!({"type": "tool_result", "tool_use_id": "i", "is_error": true, "content": [texts[0],
            {"type": "image", "source": data}, {"type": "document", "source": plain}, reference,
            {"type": "search_result", "title": "t", "source": "s", "content": texts}]}),
        reference.clone(),
        json!({"type": "container_upload", "file_id": "f"}),
        json!({"type": "fallback", "from": {"model": "a"}}),
        json!({"type": "of_tomorrow", "x": [{"y": 1}]}),
    ];
    for kind in ["server_tool_use", "mcp_tool_use"] {
        blocks.push(json!({"type": kind, "id": "s", "name": "n", "input": {"q": 1}}));
    }
    for kind in [
        "web_search",
        "web_fetch",
        "code_execution",
        "bash_code_execution",
        "text_editor_code_execution",
        "tool_search",
        "advisor",
        "mcp",
        "of_tomorrow",
    ] {
        let content = json!([{"type": "web_search_result", "title": "t", "url": "u"}, texts[0],
            {"type": "x_result", "stdout": "o", "stderr": "e", "return_code": 1, "lines": ["l"],
                "error_code": "e", "tool_references": [reference], "content": plain}]);
        let kind = format!("{kind}_tool_result");
        blocks
            .push(json!({"type": kind, "tool_use_id": "s", "content": content, "is_error": false}));
    }
    blocks
}

/// A tool of every type, with all its members.
fn tools() -> Vec<Value> {
    let schema =
        json!({"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]});
    let own = json!({"type": "custom", "name": "f", "description": "d", "input_schema": schema,
        "cache_control": {"type": "ephemeral"}, "strict": true, "defer_loading": false,
        "eager_input_streaming": true, "input_examples": [{"x": "1"}], "allowed_callers": ["direct"]});
    let mut tools = vec![own, json!({"type": "mcp_toolset", "mcp_server_name": "s"})];
    for kind in [
        "web_search_20260318", "web_fetch_20260318", "code_execution_20260521",
        "tool_search_tool_bm25", "advisor_20260301", "bash_20250124", "text_editor_20250728",
        "memory_20250818", "computer_20251124", "of_tomorrow_20300101",
    ] {
        tools.push(json!({"type": kind, "name": "n", "max_uses": 5, "display_width_px": 1}));
    }
    tools
}

/// All settings with members of their own.
fn settings() -> Value {
    let schema = json!({"type": "object", "properties": {}});
    let format = json!({"type": "json_schema", "schema": schema});
    json!({"tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": true},
        "thinking": {"type": "enabled", "budget_tokens": 1024, "display": "omitted"},
        "output_config": {"effort": "high", "format": format, "task_budget": {"type": "tokens"}},
        "output_format": format, "thread": {"type": "create"}, "metadata": {"user_id": "u"},
        "context_management": {"edits": []}, "cache_control": {"type": "ephemeral"}})
}

/// The value with each of its members, at any depth, missing once and replaced once by each other value.
fn variants(value: &Value) -> Vec<String> {
    const MARK: &str = "the value";
    let mut out = Vec::new();
    for pointer in pointers(value, String::new()) {
        let mut marked = value.clone();
        *marked.pointer_mut(&pointer).expect("a place") = MARK.into();
        let marked = marked.to_string();
        let others = VALUES.iter().map(|(other, _)| marked.replace(&format!("{MARK:?}"), other));
        out.extend(others);
        let (parent, name) = pointer.rsplit_once('/').expect("a place");
        let mut without = value.clone();
        match without.pointer_mut(parent).expect("a place") {
            Value::Object(object) => drop(object.remove(name)),
            Value::Array(list) => drop(list.remove(name.parse().expect("a number"))),
            _ => unreachable!("a place is in something"),
        }
        out.push(without.to_string());
    }
    out
}

fn pointers(value: &Value, at: String) -> Vec<String> {
    let inside: Vec<(String, &Value)> = match value {
        Value::Object(object) => {
            object.iter().map(|(name, value)| (format!("{at}/{name}"), value)).collect()
        }
        Value::Array(list) => {
            list.iter().enumerate().map(|(place, value)| (format!("{at}/{place}"), value)).collect()
        }
        _ => Vec::new(),
    };
    let deeper = |(path, value): (String, &Value)| {
        let mut all = vec![path.clone()];
        all.extend(pointers(value, path));
        all
    };
    inside.into_iter().flat_map(deeper).collect()
}

/// Sends bodies, one after the other, over one connection.
struct Sender {
    proxy: Proxy,
    client: Client,
    count: usize,
    accepted: usize,
}

impl Sender {
    fn new() -> (Upstream, Self) {
        let (upstream, proxy) = asking_once();
        upstream.judge(|_| Some(vec![upstream::answer("ok")]));
        let client = proxy.client();
        (upstream, Self { proxy, client, count: 0, accepted: 0 })
    }

    /// Sees that a request is answered, or refused in Anthropic's form.
    fn send(&mut self, path: &str, body: &str) {
        let answer = self.client.post(path, body).answer();
        let status = answer.status();
        assert!(matches!(status, 200 | 400), "{body}: {status} {}", answer.body);
        if status == 400 {
            assert_eq!(super::messages::error(&answer).1, "invalid_request_error", "{body}");
        }
        self.count += 1;
        self.accepted += usize::from(status == 200);
    }
}

/// A request with this text in place of its only turn, its tools or its settings.
fn body(turns: &str, tools: &str) -> String {
    format!(r#"{{"model":"m","max_tokens":9,"messages":[{turns}],"tools":[{tools}]}}"#)
}

#[test]
fn blocks_of_every_type_may_have_members_of_any_type() {
    let (_upstream, mut sender) = Sender::new();
    let call = r#"{"type":"tool_use","id":"i","name":"f","input":{}},{"type":"server_tool_use","id":"s","name":"n","input":{}}"#;
    let first =
        format!(r#"{{"role":"user","content":"Hi"}},{{"role":"assistant","content":[{call}]}}"#);
    for block in blocks() {
        let all = variants(&block).into_iter().chain([block.to_string()]);
        for (number, block) in all.enumerate() {
            let role = ["user", "assistant", "system"][number % 3];
            let turn = format!(r#"{first},{{"role":"{role}","content":[{block}]}}"#);
            sender.send(MESSAGES, &body(&turn, ""));
            if number % 8 == 0 {
                sender.send(COUNT, &body(&turn, ""));
            }
        }
        // Alone, as the only content, in each role.
        for role in ["user", "assistant", "system", "of_tomorrow"] {
            sender
                .send(MESSAGES, &body(&format!(r#"{{"role":"{role}","content":[{block}]}}"#), ""));
        }
    }
    assert!(sender.count > 3000 && sender.accepted * 10 > sender.count * 9, "{}", sender.accepted);
    assert_eq!(sender.proxy.fetch("/api/version").status(), 200);
}

#[test]
fn tools_and_settings_of_every_type_may_have_members_of_any_type() {
    let (_upstream, mut sender) = Sender::new();
    let turn = r#"{"role":"user","content":"Hi"}"#;
    for tool in tools().iter().flat_map(variants) {
        sender.send(MESSAGES, &body(turn, &tool));
    }
    let own = tools()[0].to_string();
    for settings in variants(&settings()) {
        let start = format!(r#"{{"model":"m","max_tokens":9,"messages":[{turn}],"tools":[{own}],"#);
        let whole = start + &settings[1..];
        sender.send(MESSAGES, &whole);
    }
    assert!(sender.count > 800 && sender.accepted * 10 > sender.count * 9, "{}", sender.accepted);
}

#[test]
fn two_thousand_messages_and_two_hundred_large_tools_arrive_whole() {
    let bench = Bench::new();
    let mut turns = vec![json!({"role": "user", "content": "Begin."})];
    for number in 0..1000 {
        let id = format!("toolu_{number}");
        turns.push(json!({"role": "assistant", "content": [
            {"type": "text", "text": format!("Step {number}.")},
            {"type": "tool_use", "id": id, "name": "tool_7", "input": {"n": number}}]}));
        turns.push(json!({"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": id, "content": format!("Result {number}.")}]}));
    }
    let tools: Vec<Value> = (0..200)
        .map(|number| {
            let property = json!({"type": "string", "description": "d".repeat(4000)});
            json!({"name": format!("tool_{number}"), "description": "D.",
                "input_schema": {"type": "object", "properties": {"x": property}}})
        })
        .collect();
    let change = json!({"messages": turns, "tools": tools});
    let sent = bench.sent(MESSAGES, &change);
    let messages = sent["messages"].as_array().expect("messages");
    assert_eq!((messages.len(), sent["tools"].as_array().map(Vec::len)), (2001, Some(200)));
    for (number, pair) in messages[1..].chunks(2).enumerate() {
        assert_eq!(pair[0]["content"], format!("Step {number}."));
        assert_eq!(pair[0]["tool_calls"][0]["id"], pair[1]["tool_call_id"]);
        assert_eq!(pair[1]["content"], format!("Result {number}."));
    }
    let counted = bench.post(COUNT, &request(MESSAGES, &change)).json();
    assert!(counted["input_tokens"].as_u64().is_some_and(|tokens| tokens > 200_000), "{counted}");
}

#[test]
fn what_is_left_out_is_named_by_its_type_alone() {
    let block = |kind: &str| json!({"type": kind, "text": "secret words", "x": ["secret words"]});
    let change = json!({
        "messages": [
            {"role": "user", "content": [block("of_tomorrow"), block("secret words\n[INFO] x")]},
            {"role": "user", "content": [block("of_tomorrow"), block("redacted_thinking")]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c",
                "content": [block("text"), block("of_a_tool")]}]}],
        "tools": [{"type": "tool_20991231", "name": "secret words"}]});
    let body = request(MESSAGES, &change).to_string();
    let request: MessagesRequest<'_> = decode::parse(&body, GO_TYPE_NAME).expect("valid");
    let mut skipped = Skipped::default();
    to_ollama(&request, &mut skipped).expect("nothing is refused");
    let warnings: Vec<String> = skipped.warnings().collect();
    let expected = [
        "left out a block of a message that cannot be read",
        "left out a block of a message of the type \"of_a_tool\"",
        "left out a block of a message of the type \"of_tomorrow\"",
        "left out a tool of the type \"tool_20991231\"",
    ];
    assert_eq!(warnings, expected);
}
