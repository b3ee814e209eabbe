//! Whole conversations of VS Code Copilot, Claude Code and Codex over OpenAI's and Anthropic's
//! routes, each on one connection.
//!
//! The shapes of requests follow the public API references of the two protocols;
//! nobody's traffic was recorded. What each member becomes is held elsewhere, by pairs; here is
//! whether a whole conversation goes through.

use crate::support::*;

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";

/// A client program: its connection, and the headers it always sends.
struct Program {
    upstream: Upstream,
    client: Client,
    headers: &'static str,
}

impl Program {
    fn start(headers: &'static str) -> (Self, Proxy) {
        let (upstream, proxy) = pair();
        upstream.list(r#"{"data":[{"id":"gpt-4o","owned_by":"me"}]}"#);
        let client = proxy.client();
        (Self { upstream, client, headers }, proxy)
    }

    fn ask(&mut self, request: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (method, path) = request.split_once(' ').expect("a method and a path");
        let host = "localhost:11434";
        let answer = self.client.with_host(host, method, path, self.headers, body).answer();
        assert_eq!(answer.status(), 200, "{request}: {}", answer.body);
        answer
    }

    /// Sends a request that the proxy answers by itself.
    fn local(&mut self, request: &str, body: &Value) -> Value {
        let answer = self.ask(request, body).json();
        assert!(self.upstream.is_idle(), "{request} asked the upstream");
        answer
    }

    /// A turn of a conversation: the client's response, and the upstream's request.
    fn turn(&mut self, request: &str, body: &Value, steps: Vec<Step>) -> (Answer, Recorded) {
        self.upstream.script(steps);
        let answer = self.ask(request, body);
        assert_eq!(answer.head.header("content-type"), Some("text/event-stream"), "{request}");
        let asked = self.upstream.request();
        let key = format!("Bearer {KEY}");
        assert_eq!(
            asked.header("authorization"),
            Some(key.as_str()),
            "the proxy's key, not the client's"
        );
        (answer, asked)
    }
}

/// A stream of these deltas as an upstream sends it, and the bytes of its body.
fn said(deltas: &[Value]) -> (Vec<Step>, String) {
    let chunk = |delta: &Value| {
        let choice = json!({"index": 0, "delta": delta});
        format!("data: {}\n\n", json!({"id": "up", "choices": [choice]}))
    };
    let chunks: Vec<String> = deltas.iter().map(chunk).collect();
    let mut steps = vec![stream_head()];
    steps.extend(chunks.iter().map(|chunk| frame(chunk)));
    steps.extend(ending());
    (steps, chunks.concat())
}

/// A thought and then a call of the tool, in fragments.
fn thought_and_call(name: &str, arguments: [&str; 2]) -> Vec<Step> {
    let fragment =
        |text: &str| json!({"tool_calls": [{"index": 0, "function": {"arguments": text}}]});
    let first = json!({"index": 0, "id": "call_up", "type": "function",
                       "function": {"name": name, "arguments": ""}});
    let deltas = [
        json!({"role": "assistant", "reasoning_content": "Look first."}),
        json!({"tool_calls": [first]}),
        fragment(arguments[0]),
        fragment(arguments[1]),
    ];
    said(&deltas).0
}

fn text(text: &str) -> Vec<Step> {
    said(&[json!({"role": "assistant", "content": text})]).0
}

/// The parts of all events of a kind, joined.
fn joined(events: &[Value], kind: &str, part: &str) -> String {
    let ours = events.iter().filter(|event| event["type"] == kind);
    ours.filter_map(|event| event.pointer(part)?.as_str()).collect()
}

#[test]
fn vs_code_copilot_connects_and_chats() {
    let headers = "User-Agent: GitHubCopilotChat/0.33.1\r\nAuthorization: Bearer \r\n\
                   Content-Type: application/json\r\n";
    let (mut code, _proxy) = Program::start(headers);
    assert!(code.local("GET /api/version", &Value::Null)["version"].is_string());
    let tags = code.local("GET /api/tags", &Value::Null);
    let id = tags["models"][0]["model"].clone();
    assert_eq!(id, "gpt-4o:latest");
    let shown = code.local("POST /api/show", &json!({"model": id}));
    assert!(shown["capabilities"].as_array().is_some_and(|list| list.contains(&json!("tools"))));
    let tool = json!({"type": "function", "function": {"name": "read_file", "description": "Read.",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}}}});
    let mut messages = json!([{"role": "system", "content": "You are an assistant."},
                              {"role": "user", "content": [{"type": "text", "text": "Read a.rs"}]}]);
    let call = json!({"index": 0, "id": "call_up", "type": "function",
        "function": {"name": "read_file", "arguments": "{\"path\":\"a.rs\"}"}});
    let turns = [json!({"role": "assistant", "tool_calls": [call]}), json!({"content": "Empty."})];
    for delta in turns {
        let mut body = json!({"model": id, "messages": messages, "stream": true, "n": 1,
            "stream_options": {"include_usage": true}, "temperature": 0.1, "top_p": 1,
            "max_tokens": 4096, "tools": [tool], "tool_choice": "auto"});
        let (steps, bytes) = said(&[delta]);
        let (answer, asked) = code.turn(&format!("POST {CHAT}"), &body, steps);
        assert!(answer.body.starts_with(&bytes), "{}", answer.body);
        assert!(answer.body.ends_with("data: [DONE]\n\n"), "{}", answer.body);
        body["model"] = "gpt-4o".into();
        assert_eq!((asked.path.as_str(), asked.json()), (CHAT, body));
        let call = json!({"id": "call_up", "type": "function", "function": call["function"]});
        let list = messages.as_array_mut().expect("a list");
        list.push(json!({"role": "assistant", "content": "", "tool_calls": [call]}));
        list.push(json!({"role": "tool", "tool_call_id": "call_up", "content": ""}));
    }
}

/// A turn as Claude Code asks for it.
fn claude_request(messages: &Value) -> Value {
    let cache = json!({"type": "ephemeral"});
    json!({
        "model": "gpt-4o:latest", "max_tokens": 32000, "stream": true, "messages": messages,
        "system": [
            {"type": "text", "text": "You are a coding agent.", "cache_control": cache},
            {"type": "text", "text": "\nBe brief.", "cache_control": cache}
        ],
        "tools": [{"name": "Bash", "description": "Run a command.", "cache_control": cache,
            "input_schema": {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object",
                "properties": {"command": {"type": "string"}}, "required": ["command"],
                "additionalProperties": false}}],
        "thinking": {"type": "enabled", "budget_tokens": 31999},
        "metadata": {"user_id": "user_1_account_2_session_3"}
    })
}

const CLAUDE: &str = "User-Agent: claude-cli/2.0.0 (external, cli)\r\nAccept: application/json\r\n\
                      anthropic-version: 2023-06-01\r\nx-api-key: theirs\r\n\
                      anthropic-beta: interleaved-thinking-2025-05-14\r\nx-app: cli\r\n\
                      X-Stainless-Lang: js\r\nX-Stainless-Retry-Count: 0\r\n\
                      Content-Type: application/json\r\n";

#[test]
fn claude_code_counts_and_runs_a_command() {
    let (mut claude, _proxy) = Program::start(CLAUDE);
    let first = json!({"type": "text", "text": "List the files.",
                       "cache_control": {"type": "ephemeral"}});
    let mut messages = json!([{"role": "user", "content": [first]}]);
    let mut count = claude_request(&messages);
    for name in ["max_tokens", "stream", "metadata"] {
        count.as_object_mut().expect("an object").remove(name);
    }
    let counted = claude.local("POST /v1/messages/count_tokens?beta=true", &count);

    let path = "POST /v1/messages?beta=true";
    let steps = thought_and_call("Bash", ["{\"comm", "and\": \"ls\"}"]);
    let (answer, asked) = claude.turn(path, &claude_request(&messages), steps);
    let told = answer.events();
    assert_eq!(told[0]["message"]["usage"]["input_tokens"], counted["input_tokens"]);
    assert_eq!(told[0]["message"]["model"], "gpt-4o:latest");
    let delta = "content_block_delta";
    assert_eq!(joined(&told, delta, "/delta/thinking"), "Look first.");
    let input = joined(&told, delta, "/delta/partial_json");
    let input: Value = serde_json::from_str(&input).expect("the arguments are whole");
    assert_eq!(input, json!({"command": "ls"}));
    let starts = told.iter().filter(|event| event["type"] == "content_block_start");
    let blocks: Vec<&Value> = starts.map(|event| &event["content_block"]).collect();
    assert_eq!((&blocks[0]["type"], &blocks[1]["type"]), (&"thinking".into(), &"tool_use".into()));
    assert_eq!(blocks[1]["name"], "Bash");
    assert_eq!(told[told.len() - 2]["delta"]["stop_reason"], "tool_use");
    assert_eq!(told[told.len() - 1]["type"], "message_stop");
    let sent = asked.json();
    assert_eq!((asked.path.as_str(), &sent["model"]), (CHAT, &"gpt-4o".into()));
    let system = json!({"role": "system", "content": "You are a coding agent.\n\nBe brief."});
    let user = json!({"role": "user", "content": "List the files."});
    assert_eq!(sent["messages"], json!([system, user]));
    let schema = &claude_request(&messages)["tools"][0]["input_schema"];
    assert_eq!(&sent["tools"][0]["function"]["parameters"], schema);
    // gpt-4o has no reasoning: the request is accepted, and no parameter that gpt-4o refuses is sent.
    for name in ["cache_control", "metadata", "budget_tokens", "input_schema", "reasoning_effort"] {
        assert!(!asked.body.contains(name), "{name} in {}", asked.body);
    }

    let id = blocks[1]["id"].clone();
    let list = messages.as_array_mut().expect("a list");
    list.push(json!({"role": "assistant", "content": [
        {"type": "thinking", "thinking": "Look first.", "signature": ""},
        {"type": "tool_use", "id": id, "name": "Bash", "input": input}]}));
    list.push(json!({"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": id, "content": "a.rs", "is_error": false},
        {"type": "text", "text": "Go on."}]}));
    let (answer, asked) = claude.turn(path, &claude_request(&messages), text("One file."));
    assert_eq!(joined(&answer.events(), delta, "/delta/text"), "One file.");
    let sent = asked.json();
    assert_eq!(sent["messages"][2]["tool_calls"][0]["id"], id);
    assert_eq!(sent["messages"][3], json!({"role": "tool", "tool_call_id": id, "content": "a.rs"}));
    assert_eq!(sent["messages"][4], json!({"role": "user", "content": "Go on."}));
}

const CODEX: &str = "User-Agent: codex_cli_rs/0.50.0\r\nAccept: text/event-stream\r\n\
                     Authorization: Bearer theirs\r\noriginator: codex_cli_rs\r\n\
                     session_id: 5f0c\r\nContent-Type: application/json\r\n";

/// A turn as Codex asks for it.
fn codex_request(input: &Value) -> Value {
    json!({
        "model": "gpt-4o", "instructions": "You are a coding agent.", "input": input,
        "tools": [{"type": "function", "name": "shell", "description": "Run.", "strict": false,
            "parameters": {"type": "object", "properties": {"command": {"type": "array",
                "items": {"type": "string"}}}, "required": ["command"]}}],
        "tool_choice": "auto", "parallel_tool_calls": false,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "include": ["reasoning.encrypted_content"], "store": false, "stream": true,
        "prompt_cache_key": "5f0c"
    })
}

/// What its user says, as an item.
fn codex_says(role: &str, text: &str) -> Value {
    json!({"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]})
}

#[test]
fn codex_runs_a_command_over_an_upstream_without_responses() {
    let (mut codex, _proxy) = Program::start(CODEX);
    let mut input = json!([codex_says("developer", "Be brief."), codex_says("user", "List.")]);
    let path = format!("POST {RESPONSES}");
    codex.upstream.script(vec![status(404, &[], r#"{"detail":"Not Found"}"#)]);
    let steps = thought_and_call("shell", ["{\"command\":", "[\"ls\"]}"]);
    let (answer, asked) = codex.turn(&path, &codex_request(&input), steps);
    assert_eq!((asked.path.as_str(), asked.json()), (RESPONSES, codex_request(&input)));
    let told = answer.events();
    let numbers: Vec<&Value> = told.iter().map(|event| &event["sequence_number"]).collect();
    assert_eq!(json!(numbers), json!((0..told.len()).collect::<Vec<_>>()));
    let done = told.iter().filter(|event| event["type"] == "response.output_item.done");
    let items: Vec<Value> = done.map(|event| event["item"].clone()).collect();
    assert_eq!(items.len(), 2, "a thought and a call: {items:?}");
    assert_eq!(items[0]["summary"][0]["text"], "Look first.");
    assert_eq!(items[1]["name"], "shell");
    assert_eq!(items[1]["arguments"], "{\"command\":[\"ls\"]}");
    let last = &told[told.len() - 1];
    assert_eq!(last["type"], "response.completed");
    assert_eq!(last["response"]["usage"]["total_tokens"], 7);
    let asked = codex.upstream.request();
    let sent = asked.json();
    assert_eq!((asked.path.as_str(), &sent["reasoning_effort"]), (CHAT, &"medium".into()));
    assert_eq!(sent["tools"][0]["function"]["name"], "shell");
    for name in ["include", "store", "prompt_cache_key", "instructions", "input"] {
        assert_eq!(sent[name], Value::Null, "{name} in {sent}");
    }

    let call = items[1]["call_id"].clone();
    let list = input.as_array_mut().expect("a list");
    list.extend(items);
    list.push(json!({"type": "function_call_output", "call_id": call, "output": "a.rs"}));
    let (answer, asked) = codex.turn(&path, &codex_request(&input), text("One file."));
    assert_eq!(asked.path, CHAT, "the missing route is remembered");
    let told = answer.events();
    assert_eq!(joined(&told, "response.output_text.delta", "/delta"), "One file.");
    let messages = asked.json()["messages"].clone();
    assert_eq!(
        messages[0],
        json!({"role": "system", "content": "You are a coding agent.\n\nBe brief."})
    );
    let roles: Vec<&str> =
        messages.as_array().expect("a list").iter().filter_map(|it| it["role"].as_str()).collect();
    assert_eq!(roles[1..], ["user", "assistant", "tool"], "{messages}");
    assert_eq!(messages[2]["tool_calls"][0]["id"], call);
    let result = json!({"role": "tool", "tool_call_id": call, "content": "a.rs"});
    assert_eq!(messages[3], result);
}

#[test]
fn codex_gets_the_very_events_of_an_upstream_that_has_responses() {
    let (mut codex, _proxy) = Program::start(CODEX);
    let request = codex_request(&json!([codex_says("user", "Hello")]));
    let bytes = "event: response.created\ndata: {\"type\": \"response.created\", \"response\": {}}\n\n\
                 event: response.completed\ndata: {\"type\":\"response.completed\",\"new\":1}\n\n";
    let steps = vec![stream_head(), frame(bytes), crate::support::upstream::last_frame()];
    let (answer, asked) = codex.turn(&format!("POST {RESPONSES}"), &request, steps);
    assert_eq!(answer.body, bytes);
    assert_eq!((asked.path.as_str(), asked.body), (RESPONSES, request.to_string()));
}
