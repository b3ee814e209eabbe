//! What known clients send on connect and in a chat, and what they read of the answers: one table
//! for each.
//!
//! A row is a request, what the upstream does meanwhile, and the places in the answer (and in what
//! went upstream) that the client looks at. All rows of a client go over one connection, as its HTTP
//! library would send them. What these clients do on `/v1` is not here.

use crate::support::*;

/// What must stand in a place.
enum Read {
    /// Exactly this.
    Is(Value),
    /// A string with something in it.
    Text,
    /// A number above 0.
    Positive,
    /// A list with this string among others.
    Holds(&'static str),
    /// Nothing at all.
    Absent,
    /// Dot-separated numbers, at least 0.6.4.
    Version,
    /// 64 hex digits.
    Digest,
    /// What stands in this other place.
    As(&'static str),
    /// An object whose `<general.architecture>.context_length` is this.
    Window(u64),
}

use Read::{Absent, As, Digest, Holds, Is, Positive, Text, Version, Window};

impl Read {
    fn is_met_by(&self, value: Option<&Value>, body: &Value) -> bool {
        let Some(value) = value else { return matches!(self, Absent) };
        match self {
            As(other) => body.pointer(other) == Some(value),
            Is(expected) => value == expected,
            Text => value.as_str().is_some_and(|text| !text.is_empty()),
            Positive => value.as_f64().is_some_and(|number| number > 0.0),
            Holds(item) => value.as_array().is_some_and(|list| list.contains(&json!(item))),
            Absent => false,
            Version => value.as_str().is_some_and(is_new_enough),
            Digest => value.as_str().is_some_and(|text| {
                text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
            }),
            Window(length) => value["general.architecture"]
                .as_str()
                .is_some_and(|name| value[format!("{name}.context_length")] == *length),
        }
    }
}

/// VS Code compares the numbers with 0.6.4; Open WebUI makes an int of each part.
fn is_new_enough(version: &str) -> bool {
    let parts: Option<Vec<u32>> = version.split('.').map(|part| part.parse().ok()).collect();
    parts.is_some_and(|parts| parts.len() == 3 && parts.as_slice() >= [0, 6, 4].as_slice())
}

/// One request of a client.
struct Row {
    request: &'static str,
    body: Value,
    /// What the upstream does; empty when it must not be asked.
    upstream: Vec<Step>,
    status: u16,
    /// Places in the answer, by JSON pointer; a stream is a list of lines, `/last` its last.
    reads: Vec<(&'static str, Read)>,
    /// Places in what went upstream.
    sent: Vec<(&'static str, Read)>,
}

/// A row that asks for something the proxy knows by itself.
fn local(request: &'static str, body: Value, reads: Vec<(&'static str, Read)>) -> Row {
    Row { request, body, upstream: vec![], status: 200, reads, sent: vec![] }
}

fn replay(headers: &str, rows: Vec<Row>) {
    let (upstream, proxy) = pair();
    let mut client = proxy.client();
    for row in rows {
        let is_forwarded = !row.upstream.is_empty();
        if is_forwarded {
            upstream.script(row.upstream);
        }
        let (status, body) = ask(&mut client, row.request, headers, &row.body);
        assert_eq!(status, row.status, "{}: {body}", row.request);
        check(row.request, &body, &row.reads);
        if is_forwarded {
            check("sent upstream", &upstream.request().json(), &row.sent);
        }
        assert!(upstream.is_idle(), "{} asked the upstream", row.request);
    }
}

fn ask(client: &mut Client, request: &str, headers: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let length = body.len();
    client.send(format!(
        "{request} HTTP/1.1\r\nHost: localhost:11434\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    ));
    if request.starts_with("HEAD ") {
        return (client.head().status, Value::Null);
    }
    let answer = client.answer();
    (answer.status(), value(&answer))
}

/// A stream as a list of its lines, with the last one also by name; text as a string.
fn value(answer: &Answer) -> Value {
    if answer.head.header("content-type") == Some("application/x-ndjson") {
        let lines = answer.lines();
        let last = lines.last().expect("a line").clone();
        return json!({"lines": lines, "last": last});
    }
    serde_json::from_str(&answer.body).unwrap_or_else(|_| Value::from(answer.body.as_str()))
}

fn check(what: &str, body: &Value, reads: &[(&'static str, Read)]) {
    for (pointer, read) in reads {
        let found = body.pointer(pointer);
        assert!(read.is_met_by(found, body), "{what}: {pointer} is {found:?} in {body}");
    }
}

/// A stream with one call of `name`, in fragments.
fn calling(name: &str, arguments: &str) -> Vec<Step> {
    let chunk = |delta: Value| {
        frame(&format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": delta}]})))
    };
    let first = json!({"index": 0, "id": "call_up", "type": "function",
                       "function": {"name": name, "arguments": ""}});
    let mut steps = vec![
        stream_head(),
        chunk(json!({"role": "assistant", "content": null, "tool_calls": [first]})),
        chunk(json!({"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]})),
    ];
    steps.extend(ending());
    steps
}

/// What every client reads of the last line.
fn usage() -> Vec<(&'static str, Read)> {
    vec![
        ("/last/done", Is(json!(true))),
        ("/last/done_reason", Is(json!("stop"))),
        ("/last/message/content", Is(json!(""))),
        ("/last/prompt_eval_count", Is(json!(5))),
        ("/last/eval_count", Is(json!(2))),
        ("/last/eval_duration", Positive),
        ("/last/total_duration", Positive),
    ]
}

#[test]
fn vs_code_copilot_finds_its_models() {
    let headers = "User-Agent: GitHubCopilotChat/0.33.1\r\nAuthorization: Bearer \r\n\
                   Content-Type: application/json\r\n";
    let show = |name: &'static str, window: u64| {
        let reads = vec![
            ("/capabilities", Holds("completion")),
            ("/capabilities", Holds("tools")),
            ("/model_info", Window(window)),
            // What its user sees.
            ("/model_info/general.basename", Is(json!(name))),
            ("/remote_model", Absent),
        ];
        local("POST /api/show", json!({"model": name}), reads)
    };
    let tags = vec![
        ("/models/1/model", Is(json!("m:latest"))),
        ("/models/2/model", Is(json!("tagged:8b"))),
    ];
    replay(
        headers,
        vec![
            local("GET /api/version", Value::Null, vec![("/version", Version)]),
            local("GET /api/tags", Value::Null, tags),
            show("m:latest", 32_768),
            show("tagged:8b", 8192),
        ],
    );
}

#[test]
fn open_webui_connects_chats_and_unloads() {
    let headers = "User-Agent: Python/3.11 aiohttp/3.12\r\nAccept: */*\r\n\
                   X-OpenWebUI-User-Name: Ann\r\nX-OpenWebUI-User-Id: 1\r\n\
                   Content-Type: application/json\r\n";
    let chat = json!({
        "model": "m:latest", "stream": true, "tools": [], "options": {},
        "messages": [{"role": "user", "content": "Hello"}]
    });
    let mut chunks = usage();
    chunks.push(("/lines/0/message/content", Is(json!("Hi"))));
    let sent = vec![
        ("/model", Is(json!("m"))),
        ("/tools", Absent),
        ("/messages", Is(json!([{"role": "user", "content": "Hello"}]))),
    ];
    let loaded = vec![
        ("/models/0/model", Is(json!("m:latest"))),
        ("/models/0/digest", Digest),
        ("/models/0/expires_at", Text),
        ("/models/1", Absent),
    ];
    let unload = json!({"model": "m:latest", "keep_alive": 0, "prompt": ""});
    let unloaded = vec![("/done", Is(json!(true))), ("/done_reason", Is(json!("unload")))];
    replay(
        headers,
        vec![
            local("GET /api/version", Value::Null, vec![("/version", Version)]),
            // It appends `:latest` and wants to find the result.
            local("GET /api/tags", Value::Null, vec![("/models/1/model", Is(json!("m:latest")))]),
            local("GET /api/ps", Value::Null, vec![("/models", Is(json!([])))]),
            Row {
                request: "POST /api/chat",
                body: chat,
                upstream: stream(&["Hi", "."]),
                status: 200,
                reads: chunks,
                sent,
            },
            local("GET /api/ps", Value::Null, loaded),
            local("POST /api/generate", unload, unloaded),
            local("GET /api/ps", Value::Null, vec![("/models", Is(json!([])))]),
        ],
    );
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
    let called = vec![
        ("/lines/0/message/tool_calls/0/function/name", Is(json!("HassTurnOn"))),
        ("/lines/0/message/tool_calls/0/function/arguments", Is(json!({"name": "lamp"}))),
        ("/lines/0/done", Is(json!(false))),
        ("/last/message/tool_calls", Absent),
        ("/last/done", Is(json!(true))),
    ];
    let linked = vec![
        ("/messages/2/tool_calls/0/type", Is(json!("function"))),
        ("/messages/2/tool_calls/0/id", Text),
        ("/messages/2/tool_calls/0/function/arguments", Is(json!("{\"name\":\"lamp\"}"))),
        ("/messages/3/role", Is(json!("tool"))),
        ("/messages/3/tool_call_id", As("/messages/2/tool_calls/0/id")),
        ("/options", Absent),
    ];
    replay(
        headers,
        vec![
            local("GET /api/tags", Value::Null, vec![("/models/1/model", Is(json!("m:latest")))]),
            Row {
                request: "POST /api/chat",
                body: request(json!([system, user])),
                upstream: calling("HassTurnOn", "{\"name\": \"lamp\"}"),
                status: 200,
                reads: called,
                sent: vec![("/tools/0", Is(tool.clone()))],
            },
            Row {
                request: "POST /api/chat",
                body: request(history),
                upstream: stream(&["Done."]),
                status: 200,
                reads: usage(),
                sent: linked,
            },
            // It polls this every half minute.
            local("GET /api/ps", Value::Null, vec![("/models/0/model", Is(json!("m:latest")))]),
        ],
    );
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
    let tags = vec![
        ("/models/1/name", Is(json!("m:latest"))),
        ("/models/1/modified_at", Text),
        ("/models/1/size", Positive),
        ("/models/1/digest", Digest),
        ("/models/1/details/format", Text),
        ("/models/1/details/family", Text),
        ("/models/1/details/parameter_size", Text),
        ("/models/1/details/quantization_level", Text),
    ];
    let mut lines = usage();
    lines.extend([
        ("/lines/0/model", Is(json!("m:latest"))),
        ("/lines/0/created_at", Text),
        ("/lines/0/done", Is(json!(false))),
        ("/lines/0/message/role", Is(json!("assistant"))),
        ("/lines/0/message/content", Is(json!("Hi"))),
        ("/last/message/role", Is(json!("assistant"))),
    ]);
    let sent = vec![("/tools", Absent), ("/stop", Absent), ("/temperature", Is(json!(1.0)))];
    let shown = vec![("/capabilities", Holds("tools")), ("/model_info", Window(32_768))];
    replay(
        headers,
        vec![
            local("GET /api/tags", Value::Null, tags),
            local("POST /api/show", json!({"model": "m:latest"}), shown),
            Row {
                request: "POST /api/chat",
                body: chat,
                upstream: stream(&["Hi"]),
                status: 200,
                reads: lines,
                sent,
            },
        ],
    );
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
    // `"error" in line` is what it asks of each; that the last one ends is checked for all.
    lines.extend([("/lines/0/error", Absent), ("/last/error", Absent)]);
    let sent = vec![("/max_tokens", Is(json!(2048))), ("/stop", Is(json!(["<|end|>"])))];
    let vectors = crate::support::upstream::json(
        r#"{"object":"list","data":[{"index":0,"embedding":[0.6,0.8]}],"usage":{"prompt_tokens":1,"total_tokens":1}}"#,
    );
    replay(
        headers,
        vec![
            local("POST /api/show", json!({"name": "m"}), vec![("/template", Text)]),
            local("GET /api/tags", Value::Null, vec![("/models/1/name", Is(json!("m:latest")))]),
            Row {
                request: "POST /api/chat",
                body: chat,
                upstream: stream(&["Hi"]),
                status: 200,
                reads: lines,
                sent,
            },
            Row {
                request: "POST /api/embed",
                body: json!({"model": "text-embed", "input": ["a"]}),
                upstream: vec![vectors],
                status: 200,
                reads: vec![
                    ("/embeddings/0/0", Positive),
                    ("/embeddings/1", Absent),
                    ("/prompt_eval_count", Is(json!(1))),
                ],
                sent: vec![("/input", Is(json!(["a"])))],
            },
        ],
    );
}

const CLI: &str = "User-Agent: ollama/0.32.15 (amd64 linux) Go/go1.26.0\r\n\
                   Accept: application/json\r\nContent-Type: application/json\r\n";

/// What the Go client writes for a request to show a model.
fn go_show(name: &str) -> Value {
    json!({"model": "", "system": "", "template": "", "verbose": false, "options": null, "name": name})
}

/// A generate request with the zero values that the Go client writes.
fn go_generate(prompt: &str, keep_alive: &Value) -> Value {
    json!({"model": "m", "prompt": prompt, "suffix": "", "system": "", "template": "", "context": null,
           "format": "", "keep_alive": keep_alive, "options": null})
}

#[test]
fn the_cli_lists_and_shows() {
    let unknown = Row {
        // This is what makes it pull.
        status: 404,
        ..local(
            "POST /api/show",
            go_show("nope"),
            vec![("/error", Is(json!("model 'nope:latest' not found")))],
        )
    };
    let listed = vec![
        ("/models/0/name", Text),
        ("/models/0/digest", Digest),
        ("/models/0/size", Positive),
        ("/models/0/modified_at", Text),
        ("/models/0/remote_model", Absent),
    ];
    let shown = vec![
        ("/details/family", Text),
        ("/model_info", Window(32_768)),
        ("/capabilities", Holds("completion")),
        ("/remote_host", Absent),
    ];
    replay(
        CLI,
        vec![
            local("HEAD /", Value::Null, vec![]),
            local("GET /api/tags", Value::Null, listed),
            local("HEAD /", Value::Null, vec![]),
            local("POST /api/show", go_show("m"), shown),
            unknown,
            local("GET /api/version", Value::Null, vec![("/version", Version)]),
        ],
    );
}

#[test]
fn the_cli_runs_and_stops_a_model() {
    let loaded = vec![("/done_reason", Is(json!("load"))), ("/response", Is(json!("")))];
    let stopped = vec![("/done_reason", Is(json!("unload")))];
    let message = json!({"role": "user", "content": "Hello"});
    let chat = json!({"model": "m", "messages": [message], "format": "", "keep_alive": "5m0s",
                      "options": {}, "tools": null});
    let running = vec![
        ("/models/0/name", Is(json!("m:latest"))),
        ("/models/0/digest", Digest),
        ("/models/0/size_vram", Positive),
        ("/models/0/context_length", Is(json!(32_768))),
        ("/models/0/expires_at", Text),
    ];
    replay(
        CLI,
        vec![
            local("HEAD /", Value::Null, vec![]),
            local("POST /api/show", go_show("m"), vec![("/capabilities", Holds("completion"))]),
            local("POST /api/generate", go_generate("", &json!("5m0s")), loaded),
            Row {
                request: "POST /api/chat",
                body: chat,
                upstream: stream(&["Hi"]),
                status: 200,
                reads: usage(),
                sent: vec![
                    ("/messages", Is(json!([message]))),
                    ("/response_format", Absent),
                    ("/tools", Absent),
                ],
            },
            Row {
                request: "POST /api/generate",
                body: go_generate("Hello", &json!(-1)),
                upstream: stream(&["Hi"]),
                status: 200,
                reads: vec![
                    ("/lines/0/response", Is(json!("Hi"))),
                    ("/last/response", Is(json!(""))),
                    ("/last/context/0", Positive),
                ],
                sent: vec![("/messages", Is(json!([message]))), ("/suffix", Absent)],
            },
            local("GET /api/ps", Value::Null, running),
            local("POST /api/generate", go_generate("", &json!("0s")), stopped),
            local("GET /api/ps", Value::Null, vec![("/models", Is(json!([])))]),
        ],
    );
}

#[test]
fn the_cli_creates_copies_pulls_and_removes() {
    let create = json!({"model": "own", "from": "m", "system": "Brief.", "files": null,
                        "adapters": null, "messages": null, "parameters": null});
    let pull = |name: &str| json!({"model": "", "insecure": false, "name": name});
    let failed = vec![
        ("/lines/0/status", Is(json!("pulling manifest"))),
        ("/last/error", Is(json!("pull model manifest: file does not exist"))),
    ];
    let gone =
        Row { status: 404, ..local("POST /api/show", go_show("own"), vec![("/error", Text)]) };
    replay(
        CLI,
        vec![
            local("POST /api/create", create, vec![("/last/status", Is(json!("success")))]),
            local("POST /api/show", go_show("own"), vec![("/system", Is(json!("Brief.")))]),
            // Its answer is empty.
            local(
                "POST /api/copy",
                json!({"source": "own", "destination": "b"}),
                vec![("", Is(json!("")))],
            ),
            local("POST /api/pull", pull("m"), vec![("/last/status", Is(json!("success")))]),
            local("POST /api/pull", pull("nope"), failed),
            local(
                "DELETE /api/delete",
                json!({"model": "", "name": "own"}),
                vec![("", Is(json!("")))],
            ),
            gone,
            local("POST /api/show", go_show("b"), vec![("/system", Is(json!("Brief.")))]),
        ],
    );
}

#[test]
fn errors_before_and_within_a_stream_are_told_as_clients_read_them() {
    let chat = json!({"model": "m", "messages": [{"role": "user", "content": "Hello"}]});
    let refusal = r#"{"error":{"message":"Too fast.","type":"requests","code":"rate_limit"}}"#;
    let broken = vec![
        stream_head(),
        crate::support::upstream::delta("Half"),
        frame("data: {\"error\":{\"message\":\"The model gave up.\"}}\n\n"),
        crate::support::upstream::last_frame(),
    ];
    let row = |upstream: Vec<Step>, status: u16, reads: Vec<(&'static str, Read)>| Row {
        request: "POST /api/chat",
        body: chat.clone(),
        upstream,
        status,
        reads,
        sent: vec![],
    };
    let refused = crate::support::upstream::status(400, &[], refusal);
    let whole = Row {
        body: {
            let mut body = chat.clone();
            body["stream"] = json!(false);
            body
        },
        ..row(vec![answer("Hi")], 200, vec![("/message/content", Is(json!("Hi")))])
    };
    replay(
        CLI,
        vec![
            row(vec![refused], 400, vec![("/error", Is(json!("Too fast.")))]),
            row(
                broken,
                200,
                vec![
                    ("/lines/0/message/content", Is(json!("Half"))),
                    ("/last/error", Text),
                    ("/last/done", Absent),
                ],
            ),
            // The connection is as good as new.
            whole,
        ],
    );
}
