//! A real Ollama among the upstreams: chat, generate and embeddings in its own protocol, byte for byte.

use crate::support::ollama::error as upstream_error;
use crate::support::ollama::*;
use crate::support::*;

/// Requests as no JSON library would write them, with members that nobody here knows.
const CHAT: &str = "{ \"zeta\" : 1.50,\n\t\"model\" :\"llama3.2\", \"messages\":[ {\"role\":\"user\",\
                    \"content\":\"\\u00e9 \",\"new\":[ 1e2 ]} ],\"options\":{\"num_ctx\":9,\"new\":{}},\
                    \"keep_alive\":\"1h\",\"think\":\"ultra\",\"unknown\":{\"model\":\"llama3.2\"} }\n";
const GENERATE: &str =
    "{\"model\": \"llama3.2\" ,\"prompt\":\"a\",\"raw\":true,\"context\":[1,2],\"x\":1.0}";
const EMBED: &str =
    "{\"model\":\"llama3.2\",\"input\":[ \"a\" ],\"dimensions\":2,\"truncate\":false,\"x\":1.0}";
const EMBEDDINGS: &str = "{\"model\":\"llama3.2\", \"prompt\":\"a\"}";

const REQUESTS: [(&str, &str); 4] = [
    ("/api/chat", CHAT),
    ("/api/generate", GENERATE),
    ("/api/embed", EMBED),
    ("/api/embeddings", EMBEDDINGS),
];

/// Lines of a stream, with spaces and members that nobody here writes.
const LINES: [&str; 3] = [
    "{\"model\":\"llama3.2\", \"message\":{\"model\":\"llama3.2\",\"content\":\"\\u00e9\"},\"new\":1.50,\"done\":false}\n",
    "{\"created_at\":\"x\",\"model\" : \"llama3.2\",\"response\":\"\\\"model\\\":\",\"done\":false}\r\n",
    "{\"model\":\"llama3.2\",\"done\":true,\"done_reason\":\"stop\",\"prompt_eval_count\":11,\"eval_count\":3}\n",
];

fn lines() -> Vec<Step> {
    let frames = LINES.iter().map(|line| frame(line));
    [lines_head()].into_iter().chain(frames).chain([last_frame()]).collect()
}

/// The body with another name of the model.
fn named(body: &str, name: &str) -> String {
    body.replacen("\"llama3.2\"", &format!("\"{name}\""), 1)
}

#[test]
fn a_request_and_its_answer_pass_as_they_are() {
    let ollama = Ollama::start();
    let proxy = ollama.proxy();
    let body = "{ \"embeddings\":[ [0.60,-8E-1] ],\"model\":\"other\",\"new\":null }";
    for (path, request) in REQUESTS {
        ollama.script(object(body));
        let answer = proxy.ask(path, request);
        answer.assert_body(200, body);
        assert_eq!(answer.head.header("content-type"), Some("application/json; charset=utf-8"));
        let asked = ollama.request();
        assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", path));
        assert_eq!(asked.body, request, "{path}");
    }
    for (path, request) in &REQUESTS[..2] {
        ollama.script(lines());
        let answer = proxy.ask(path, request);
        answer.assert_body(200, &LINES.concat());
        assert_eq!(answer.head.header("content-type"), Some("application/x-ndjson"));
        assert_eq!(ollama.request().body, *request);
    }
}

#[test]
fn spellings_that_ollama_takes_for_the_same_name_are_left_alone() {
    let ollama = Ollama::start();
    let proxy = ollama.proxy();
    for name in ["LLAMA3.2", "llama3.2:latest", "library/llama3.2", " llama3.2 ", "llama3.2:local"]
    {
        let request = named(CHAT, name);
        ollama.script(object("{}"));
        proxy.ask("/api/chat", &request).assert_body(200, "{}");
        assert_eq!(ollama.request().body, request);
    }
}

#[test]
fn only_the_name_changes_where_the_client_has_another_one() {
    let (ollama, other) = (Ollama::start(), Upstream::start());
    let servers = vec![ollama_server("lab", &ollama), server("other", &other)];
    let fast = configured("fast", &["lab/llama3.2:latest"], |_| {});
    let proxy = several(servers, vec![fast]);
    for name in ["lab/llama3.2", "fast", "Fast:latest"] {
        for (path, request) in REQUESTS {
            ollama.script(object(r#"{ "model" : "up","x":{"model":"up"} }"#));
            let expected = format!(r#"{{ "model" : "{name}","x":{{"model":"up"}} }}"#);
            proxy.ask(path, named(request, name)).assert_body(200, &expected);
            assert_eq!(ollama.request().body, named(request, "llama3.2:latest"), "{path}");
        }
        ollama.script(lines());
        let answer = proxy.ask("/api/chat", named(CHAT, name));
        let expected: String = LINES.iter().map(|line| named(line, name)).collect();
        answer.assert_body(200, &expected);
        ollama.request();
    }
    assert!(other.is_idle());
}

#[test]
fn each_line_is_a_chunk_and_leaves_at_once() {
    let ollama = Ollama::start();
    let fast = configured("fast", &["lab/llama3.2:latest"], |_| {});
    let proxy = several(vec![ollama_server("lab", &ollama)], vec![fast]);
    for name in ["llama3.2", "fast"] {
        let (go, told) = bounded(1);
        let (start, end) = LINES[1].split_at(40);
        ollama.script(vec![
            lines_head(),
            frame(LINES[0]),
            Step::Wait(told.clone()),
            // A line in two pieces, and two lines in one.
            frame(start),
            frame(&format!("{end}{}", LINES[2])),
            Step::Wait(told),
            last_frame(),
        ]);
        let mut client = proxy.client();
        assert_eq!(client.post("/api/chat", named(CHAT, name)).head().status, 200);
        assert_eq!(client.frame(), Some(named(LINES[0], name)));
        go.send(()).expect("it waits");
        assert_eq!(client.frame(), Some(named(LINES[1], name)));
        assert_eq!(client.frame(), Some(named(LINES[2], name)));
        go.send(()).expect("it waits");
        assert_eq!(client.frame(), None);
        ollama.request();
    }
}

#[test]
fn ollama_s_own_errors_are_the_client_s_and_nothing_is_checked_before() {
    let ollama = Ollama::start();
    let proxy = ollama.proxy();
    for (code, text, path, request) in [
        (400, "invalid input type", "/api/embed", r#"{"model":"llama3.2","input":{"a":1}}"#),
        (400, "bad", "/api/chat", r#"{"model":"llama3.2","messages":5,"top_logprobs":99}"#),
        (400, "bad", "/api/chat", r#"{"model":"llama3.2","messages":[],"keep_alive":"1d"}"#),
        (400, "\"llama3.2\" does not support thinking", "/api/chat", CHAT),
        (404, "model 'nobody' not found", "/api/generate", r#"{"model":"nobody","prompt":"a"}"#),
        (500, "option \"seed\" must be of type integer", "/api/generate", GENERATE),
        (400, "raw mode", "/api/generate", r#"{"model":"llama3.2","raw":true,"system":"s"}"#),
    ] {
        ollama.script(upstream_error(code, text));
        let answer = proxy.ask(path, request);
        answer.assert_error(code, text);
        assert_eq!(ollama.request().body, request);
        assert!(ollama.is_idle(), "{text}: asked once");
    }
    // A server that is busy is asked again.
    ollama.script(upstream_error(503, "server busy")).script(object("{}"));
    proxy.ask("/api/chat", CHAT).assert_body(200, "{}");
}

#[test]
fn a_key_in_an_error_is_masked() {
    let ollama = Ollama::start();
    let proxy = ollama.proxy();
    ollama.script(upstream_error(401, &format!("bad key {KEY}")));
    let answer = proxy.ask("/api/chat", CHAT);
    assert!(answer.status() == 401 && !answer.body.contains(KEY), "{}", answer.body);
    assert!(answer.error().starts_with("bad key "));
}

#[test]
fn a_model_is_loaded_and_unloaded_there() {
    let ollama = Ollama::start();
    let proxy = ollama.proxy();
    for (path, request) in [
        ("/api/chat", r#"{"model":"llama3.2"}"#),
        ("/api/generate", r#"{"model":"llama3.2","keep_alive":0}"#),
        ("/api/embed", r#"{"model":"llama3.2","input":[]}"#),
    ] {
        ollama.script(object(r#"{"done_reason":"load"}"#));
        proxy.ask(path, request).assert_body(200, r#"{"done_reason":"load"}"#);
        assert_eq!(ollama.request().body, request);
    }
}

#[test]
fn the_defaults_of_a_model_of_the_configuration_apply() {
    let ollama = Ollama::start();
    let mario = configured("mario", &["lab/llama3.2:latest"], |model| {
        model.system = "You are Mario.".into();
        model.parameters = json!({"num_ctx": 9}).as_object().expect("an object").clone();
    });
    let proxy = several(vec![ollama_server("lab", &ollama)], vec![mario]);
    let sent = |path: &str, request: &str| {
        ollama.script(object(r#"{"model":"llama3.2:latest"}"#));
        proxy.ask(path, request).assert_body(200, r#"{"model":"mario"}"#);
        ollama.request().body
    };
    assert_eq!(
        sent("/api/chat", r#"{"model":"mario", "messages":[{"role":"user"}],"keep_alive":-1}"#),
        r#"{"model":"llama3.2:latest", "messages":[{"role":"system","content":"You are Mario."},{"role":"user"}],"keep_alive":-1,"options":{"num_ctx":9}}"#
    );
    assert_eq!(
        sent("/api/generate", r#"{"model":"mario","prompt":"a","options":{"num_ctx":1}}"#),
        r#"{"model":"llama3.2:latest","prompt":"a","options":{"num_ctx":1},"system":"You are Mario."}"#
    );
    assert_eq!(
        sent("/api/embed", r#"{"model":"mario","input":"a"}"#),
        r#"{"model":"llama3.2:latest","input":"a","options":{"num_ctx":9}}"#
    );
}

#[test]
fn openai_s_and_anthropic_s_routes_go_to_v1() {
    let ollama = Ollama::start();
    let proxy = ollama.proxy();
    let body = r#"{"model":"llama3.2","max_tokens":5,"messages":[{"role":"user","content":"a"}]}"#;
    for path in ["/v1/chat/completions", "/v1/messages"] {
        ollama.script(completion("ok"));
        let answer = proxy.ask(path, body);
        assert!(answer.status() == 200 && answer.body.contains("ok"), "{path}: {}", answer.body);
        assert_eq!(ollama.request().path, "/v1/chat/completions");
    }
}

#[test]
fn a_path_before_v1_is_kept() {
    let ollama = Ollama::start();
    let base = ollama.base_url().replace("/v1", "/ollama/v1?key=a");
    let proxy = Proxy::at(&base, is_ollama);
    ollama.script(object("{}"));
    proxy.ask("/api/chat", CHAT).assert_body(200, "{}");
    assert_eq!(ollama.request().path, "/ollama/api/chat?key=a");
}

/// A chat, and what an OpenAI-compatible server gets of it.
const PLAIN: &str =
    r#"{"model":"both","stream":false,"messages":[{"role":"user","content":"Hi"}],"new":1}"#;

#[test]
fn the_next_upstream_gets_the_request_in_its_own_form() {
    let (ollama, other) = (Ollama::start(), Upstream::start());
    let servers = || vec![ollama_server("lab", &ollama), server("other", &other)];
    for uses in [["lab/llama3.2:latest", "other/m"], ["other/m", "lab/llama3.2:latest"]] {
        let proxy = several(servers(), vec![configured("both", &uses, |_| {})]);
        let is_first = uses[0].starts_with("lab");
        let ok = r#"{"model":"llama3.2:latest","message":{"content":"native"}}"#;
        if is_first {
            ollama.script(upstream_error(503, "server busy"));
            other.script(completion("translated"));
        } else {
            other.script(vec![status(500, &[], "{}")]);
            ollama.script(object(ok));
        }
        let answer = proxy.ask("/api/chat", PLAIN);
        assert_eq!((answer.status(), &answer.json()["model"]), (200, &json!("both")));
        let text = if is_first { "translated" } else { "native" };
        assert_eq!(answer.json()["message"]["content"], text);
        assert_eq!(ollama.request().body, PLAIN.replace("both", "llama3.2:latest"));
        let asked = other.request();
        assert_eq!(
            (asked.path.as_str(), &asked.json()["model"]),
            ("/v1/chat/completions", &json!("m"))
        );
        assert_eq!(asked.json()["new"], Value::Null);
        assert!(ollama.is_idle() && other.is_idle());
    }
}

#[test]
fn generate_and_embed_fail_over_too_and_streams_before_their_first_line() {
    let (ollama, other) = (Ollama::start(), Upstream::start());
    let servers = vec![ollama_server("lab", &ollama), server("other", &other)];
    let both = configured("both", &["lab/llama3.2:latest", "other/m"], |_| {});
    let proxy = several(servers, vec![both]);
    ollama.script(vec![Step::Close]);
    other.script(stream(&["one"]));
    let answer = proxy.ask("/api/generate", r#"{"model":"both","prompt":"a"}"#);
    assert_eq!(answer.lines()[0]["response"], "one");
    ollama.script(upstream_error(404, "model 'llama3.2:latest' not found"));
    other.script(vec![json(
        r#"{"data":[{"index":0,"embedding":[1.0]}],"usage":{"prompt_tokens":1}}"#,
    )]);
    let answer = proxy.ask("/api/embed", r#"{"model":"both","input":"a"}"#);
    assert_eq!(answer.json()["embeddings"], json!([[1.0]]));
    ollama.script(vec![lines_head(), Step::Close]);
    other.script(stream(&["two"]));
    let answer = proxy.ask("/api/generate", r#"{"model":"both","prompt":"a"}"#);
    assert_eq!(answer.lines()[0]["response"], "two");
    // What is wrong with the request is told at once.
    for _ in 0..3 {
        ollama.request();
        other.request();
    }
    ollama.script(upstream_error(400, "bad"));
    proxy.ask("/api/chat", PLAIN).assert_error(400, "bad");
    // What only an Ollama can do is asked of no other server.
    ollama.request();
    ollama.script(upstream_error(500, "out of memory"));
    proxy.ask("/api/chat", r#"{"model":"both"}"#).assert_error(500, "out of memory");
    for (path, request) in [
        ("/api/chat", PLAIN.replace("\"new\"", "\"_debug_render_only\":true,\"new\"")),
        ("/api/chat", PLAIN.replace("\"new\"", "\"keep_alive\":\"1d\",\"new\"")),
        ("/api/generate", GENERATE.replace("llama3.2", "both").replace("raw", "think\":5,\"raw")),
        ("/api/embed", r#"{"model":"both","input":"a","keep_alive":"1d"}"#.to_owned()),
    ] {
        ollama.request();
        ollama.script(upstream_error(500, "its own"));
        proxy.ask(path, request).assert_error(500, "its own");
    }
    assert!(other.is_idle());
}

#[test]
fn a_stream_that_breaks_off_ends_with_a_line_that_says_so() {
    let ollama = Ollama::start();
    let proxy = ollama.proxy();
    ollama.script(vec![lines_head(), frame(LINES[0]), frame("{\"model\":"), Step::Close]);
    let answer = proxy.ask("/api/chat", CHAT);
    assert_eq!(answer.status(), 200);
    let (first, last) = answer.body.split_at(LINES[0].len());
    assert_eq!(first, LINES[0]);
    let error: Value = serde_json::from_str(last).expect("one line");
    assert!(error["error"].as_str().is_some_and(|text| !text.is_empty()), "{last}");
}

/// The metrics once all requests have been counted, which is after their responses.
fn metrics(proxy: &Proxy) -> String {
    while proxy.server.active_requests() > 0 {
        std::thread::yield_now();
    }
    proxy.fetch("/metrics").body
}

#[test]
fn an_error_line_passes_and_is_counted() {
    let ollama = Ollama::start();
    let proxy = ollama.proxy();
    let line = "{\"error\":\"the runner stopped\"}\n";
    ollama.script(vec![lines_head(), frame(LINES[0]), frame(line), last_frame()]);
    proxy.ask("/api/chat", CHAT).assert_body(200, &format!("{}{line}", LINES[0]));
    let metrics = metrics(&proxy);
    let counted =
        metrics.lines().any(|line| line.contains("upstream_in_band") && line.ends_with(" 1"));
    assert!(counted, "{metrics}");
}

#[test]
fn the_tokens_of_the_last_line_are_counted() {
    let ollama = Ollama::start();
    let proxy = ollama.proxy();
    ollama.script(lines());
    proxy.ask("/api/chat", CHAT);
    let metrics = metrics(&proxy);
    for count in [11, 3] {
        let is_count = |line: &str| line.contains("token") && line.ends_with(&format!(" {count}"));
        assert!(metrics.lines().any(is_count), "{count}: {metrics}");
    }
}

#[test]
fn a_client_that_leaves_ends_the_work() {
    for has_line in [false, true] {
        let ollama = Ollama::start();
        let proxy = ollama.proxy();
        let (closed, is_closed) = bounded(1);
        let begun = if has_line { vec![lines_head(), frame(LINES[0])] } else { Vec::new() };
        ollama.script(begun.into_iter().chain([Step::UntilClosed(closed)]).collect());
        let mut client = proxy.client();
        client.post("/api/chat", CHAT);
        ollama.request();
        if has_line {
            client.head();
            client.frame();
        }
        drop(client);
        is_closed.recv_timeout(HANG).expect("the call ends");
    }
}

#[test]
fn a_long_answer_is_passed_on_without_being_held() {
    let ollama = Ollama::start();
    let fast = configured("fast", &["lab/llama3.2:latest"], |_| {});
    let proxy = several(vec![ollama_server("lab", &ollama)], vec![fast]);
    let (go, told) = bounded(1);
    let start = "{\"model\":\"llama3.2:latest\",\"embeddings\":[[";
    let rest = format!("{}1]],\"prompt_eval_count\":7}}", "0.5,".repeat(50_000));
    let length = start.len() + rest.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{start}"
    );
    let rest_sent = Step::Send(rest.clone().into_bytes());
    ollama.script(vec![Step::Send(head.into_bytes()), Step::Wait(told), rest_sent]);
    let mut client = proxy.client();
    assert_eq!(client.post("/api/embed", named(EMBED, "fast")).head().status, 200);
    let first = client.frame().expect("the beginning");
    assert_eq!(first, start.replace("llama3.2:latest", "fast"));
    go.send(()).expect("it waits");
    assert!(client.rest_of_stream() == rest);
}

#[test]
fn an_ollama_is_found_out_by_its_version() {
    let ollama = Ollama::start();
    let proxy = Proxy::start(&ollama);
    proxy.tags();
    let asked =
        |ollama: &Ollama| ollama.asides().iter().filter(|it| it.path == "/api/version").count();
    assert_eq!(asked(&ollama), 1);
    ollama.script(object("{}"));
    proxy.ask("/api/chat", CHAT).assert_body(200, "{}");
    assert_eq!(ollama.request().path, "/api/chat");
    proxy.tags();
    assert_eq!(asked(&ollama), 0, "once");
}

#[test]
fn the_first_request_finds_out_what_the_upstreams_of_a_file_are() {
    let (ollama, other) = (Ollama::start(), Upstream::start());
    let alone = || vec![server("lab", &ollama)];
    let among = || vec![server("other", &other), server("lab", &ollama)];
    for servers in [alone(), among()] {
        let proxy = several(servers, Vec::new());
        ollama.script(object("{}"));
        let answer = proxy.ask("/api/chat", CHAT);
        answer.assert_body(200, "{}");
        assert_eq!(answer.head.header("x-upstream"), Some("lab"));
        let asked = ollama.request();
        assert_eq!((asked.path.as_str(), asked.body.as_str()), ("/api/chat", CHAT));
    }
    assert!(other.is_idle());
}

#[test]
fn an_upstream_without_a_list_is_looked_at_once() {
    let upstream = Upstream::start();
    upstream.script_lists();
    upstream.judge(|request| {
        request.path.ends_with("/models").then(|| vec![status(404, &[], "no list")])
    });
    let proxy = Proxy::at("http://127.0.0.1:9/v1", |config| {
        config.upstreams = vec![server("lab", &upstream)];
        // So that nothing is remembered of the list that failed.
        config.models_ttl = std::time::Duration::ZERO;
    });
    for is_first in [true, false, false] {
        upstream.script(completion("ok"));
        assert_eq!(proxy.ask("/api/chat", chat_whole("Hi")).status(), 200);
        if is_first {
            assert!(upstream.request().path.ends_with("/models"));
        }
        assert!(upstream.request().path.ends_with("/chat/completions") && upstream.is_idle());
    }
}

#[test]
fn other_servers_are_not_mistaken_for_an_ollama() {
    let list = |owner: &str| json!({"data": [{"id": "m", "owned_by": owner}]}).to_string();
    let version = r#"{"version":"0.40.16"}"#;
    for (list, version, root) in [
        (list("me"), None, None),
        (list("me"), Some(r#"{"version":"b4567"}"#), None),
        (list("me"), Some(r#"{"error":"Unexpected endpoint or method."}"#), None),
        (list("me"), Some(version), Some("<html>KoboldAI Lite</html>")),
        (list("llamacpp"), Some(version), None),
        (list("vllm"), Some(version), None),
    ] {
        let (upstream, proxy) = pair();
        upstream.list(&list);
        version.iter().for_each(|body| upstream.side("/api/version", body));
        root.iter().for_each(|body| upstream.side("/", body));
        proxy.tags();
        upstream.script(completion("ok"));
        assert_eq!(proxy.ask("/api/chat", chat_whole("Hi")).status(), 200);
        assert_eq!(upstream.request().path, "/v1/chat/completions", "{list} {version:?}");
    }
    // A reverse proxy may hide the root.
    let (upstream, proxy) = pair();
    upstream.side("/api/version", version);
    proxy.tags();
    upstream.script(object("{}"));
    proxy.ask("/api/chat", chat_whole("Hi")).assert_body(200, "{}");
    assert_eq!(upstream.request().path, "/api/chat");
}

#[test]
fn what_the_operator_adds_to_each_request_is_added_here_too() {
    let ollama = Ollama::start();
    let mut lab = ollama_server("lab", &ollama);
    lab.extra_body = json!({"keep_alive": -1, "x": 5}).as_object().expect("an object").clone();
    let proxy = several(vec![lab], Vec::new());
    ollama.script(object("{}"));
    proxy.ask("/api/generate", GENERATE);
    let expected = GENERATE.replace('}', ",\"keep_alive\":-1}");
    assert_eq!(ollama.request().body, expected, "only what is missing");
}
