//! `LOG_FORMAT`: every line of JSON parses, and tells what the text line tells.

use std::net::TcpListener;

use serde_json::Value;

use crate::support::program::{Running, program, run};
use crate::support::*;

/// The longest line, as the module's documentation says.
const MAX_LINE_BYTES: usize = 4096;

/// The program with an upstream, logging in this form.
fn logging(upstream: &Upstream, format: &str) -> Running {
    let mut command = program();
    command.env("OPENAI_BASE_URL", upstream.base_url()).env("OPENAI_API_KEY", KEY);
    // Below any limit of descriptors, so that no warning is logged.
    command.env("MAX_CONNECTIONS", "100").env("RETRY_MAX", "0");
    Running::start(command.env("LOG_FORMAT", format))
}

/// The objects of a log of which each line must be one.
fn objects(log: &str) -> Vec<Value> {
    let parse = |line: &str| {
        assert!(line.len() < MAX_LINE_BYTES, "{} bytes", line.len());
        let value: Value = serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"));
        for name in ["time", "level", "message"] {
            assert!(value[name].is_string(), "{name} in {line}");
        }
        value
    };
    log.lines().map(parse).collect()
}

/// The lines about requests.
fn requests(log: &str) -> Vec<Value> {
    objects(log).into_iter().filter(|it| it["message"] == "request").collect()
}

#[test]
fn a_request_is_one_object_with_all_that_is_known_of_it() {
    let upstream = Upstream::start();
    let usage = r#""usage":{"prompt_tokens":50,"completion_tokens":7,"total_tokens":57,"prompt_tokens_details":{"cached_tokens":32}}"#;
    let choice =
        r#"{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"Hi"}}"#;
    let whole = format!(r#"{{"id":"c","object":"chat.completion","choices":[{choice}],{usage}}}"#);
    upstream.script(vec![json(&whole)]).script(upstream::stream(&["Hi"]));
    let running = logging(&upstream, "json");
    let ask = |body: String| Client::connect(running.addr).post("/api/chat?x=1", body).answer();
    let answer = ask(chat_whole("A PROMPT"));
    assert_eq!(answer.status(), 200);
    let sent = upstream.request().header("x-request-id").expect("an id").to_owned();
    assert_eq!(ask(chat("A PROMPT")).status(), 200);
    let log = running.stop();
    let mut found = requests(&log);
    found.sort_by_key(|it| it["tokens_in"] != 50);
    assert_eq!(found.len(), 2, "{log}");
    let first = &found[0];
    for (name, expected) in [
        ("level", json!("info")),
        ("method", json!("POST")),
        ("path", json!("/api/chat")),
        ("route", json!("/api/chat")),
        ("model", json!("m")),
        ("upstream", json!("default")),
        ("upstream_request_id", json!(sent)),
        ("client", json!("127.0.0.1")),
        ("status", json!(200)),
        ("attempts", json!(1)),
        ("tokens_in", json!(50)),
        ("tokens_out", json!(7)),
        ("tokens_cached", json!(32)),
        ("bytes", json!(answer.body.len())),
    ] {
        assert_eq!(first[name], expected, "{name} in {first}");
    }
    assert!(first["request_id"].as_str().is_some_and(|id| id.starts_with("req_")), "{first}");
    assert!(first["duration_ms"].is_u64(), "{first}");
    // Only a stream has a first token, and what does not apply is left out.
    for absent in ["time_to_first_token_ms", "error", "access", "client_left"] {
        assert!(first.get(absent).is_none(), "{absent} in {first}");
    }
    let (first_token, end) = (&found[1]["time_to_first_token_ms"], &found[1]["duration_ms"]);
    assert!(first_token.as_u64() <= end.as_u64() && first_token.is_u64(), "{}", found[1]);
    assert!(found[1].get("tokens_cached").is_none(), "{}", found[1]);
    assert!(!log.contains("PROMPT") && !log.contains(KEY), "{log}");
}

/// Requests with all that could break a line.
fn ask_hard_things(addr: std::net::SocketAddr) {
    let send = |head: Vec<u8>| {
        let mut client = Client::connect(addr);
        client.send(head);
        client.answer();
    };
    let long = "x".repeat(20_000);
    for name in
        ["a \"quoted\" \\ name", "two\nlines\r\n", "\u{1b}[31mred\u{7f}\u{2028}", "é😀", &long]
    {
        let body = json!({"model": name, "messages": [{"role": "user", "content": "Hi"}]});
        Client::connect(addr).post("/api/chat", body.to_string()).answer();
        Client::connect(addr).post("/v1/chat/completions", body.to_string()).answer();
    }
    send(b"GET /\"quotes\"/%00%0a\\ HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec());
    send(
        b"GET /api/tags HTTP/1.1\r\nHost: localhost\r\nOrigin: http://\"evil\\\".test\r\n\r\n"
            .to_vec(),
    );
    send(format!("GET /api/tags HTTP/1.1\r\nHost: {}.test\r\n\r\n", &long[..2000]).into_bytes());
    send(format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", &long[..9000]).into_bytes());
    // No text in UTF-8, neither as a body nor as an answer.
    Client::connect(addr).post("/api/chat", b"{\"model\":\"\xff\xfe\",\"messages\":[]}").answer();
}

#[test]
fn every_line_is_an_object_whatever_clients_and_upstreams_send() {
    let upstream = Upstream::start();
    let bad = "{\"error\":{\"message\":\"\\\"no\\\"\\n\\u001b[31m \\\\ \\u2028 x\"}}";
    upstream.judge(move |_| Some(vec![status(400, &[], bad)]));
    for format in ["json", "auto"] {
        let running = logging(&upstream, format);
        ask_hard_things(running.addr);
        let log = running.stop();
        let found = requests(&log);
        assert_eq!(found.len(), 15, "{log}");
        let member =
            |name: &str| found.iter().filter_map(|it| it[name].as_str()).collect::<Vec<_>>();
        assert!(member("origin").contains(&"http://\"evil\\\".test"), "{log}");
        assert!(
            member("access").contains(&"origin") && member("access").contains(&"host"),
            "{log}"
        );
        assert!(member("path").contains(&"/\"quotes\"/%00%0a\\"), "{log}");
        assert!(member("error").len() == found.len(), "{log}");
        assert!(!log.contains('\u{1b}'), "{log}");
        assert!(
            objects(&log)[0]["message"].as_str().is_some_and(|it| it.starts_with("listening on "))
        );
    }
}

#[test]
fn text_tells_the_same_facts_as_json() {
    let upstream = Upstream::start();
    let failed = || vec![status(500, &[], r#"{"error":{"message":"no"}}"#)];
    let mut told = Vec::new();
    for format in ["text", "json"] {
        upstream.script(upstream::stream(&["Hi"])).script(failed());
        let running = logging(&upstream, format);
        for path in ["/api/chat", "/api/chat"] {
            Client::connect(running.addr).post(path, chat("Hi")).answer();
        }
        Client::connect(running.addr).get("/api/tags").answer();
        told.push(running.stop());
    }
    let mut lines: Vec<&str> =
        told[0].lines().filter(|line| line.contains(" duration_ms=")).collect();
    let mut objects = requests(&told[1]);
    // A line is written behind the response, so the next one may come before it.
    lines.sort_by_key(|line| (line.contains("/api/tags"), line.contains("status=500")));
    objects.sort_by_key(|it| (it["path"] == "/api/tags", it["status"] == 500));
    assert_eq!(lines.len(), 3, "{}", told[0]);
    assert_eq!(objects.len(), 3, "{}", told[1]);
    for (line, object) in lines.into_iter().zip(objects) {
        for (name, value) in object.as_object().expect("an object") {
            let pair = match (name.as_str(), value.as_str()) {
                ("message", _) => continue,
                ("time" | "request_id", _) => continue,
                ("level", Some(level)) => format!(" [{}] req_", level.to_uppercase()),
                ("method", Some(method)) => format!(" {method} \"/"),
                ("path", Some(path)) => format!(" {path:?} model="),
                ("model", Some(model)) => format!(" model={model:?} "),
                ("bytes" | "duration_ms" | "time_to_first_token_ms" | "upstream_request_id", _) => {
                    format!(" {name}=")
                }
                ("tokens_in", _) => format!(" tokens={value}+"),
                ("tokens_out", _) => format!("+{value}"),
                (_, Some(text)) => format!(" {name}={text}"),
                (_, None) => format!(" {name}={value}"),
            };
            assert!(line.contains(&pair), "{pair} is not in {line}");
        }
    }
}

#[test]
fn a_start_that_fails_is_an_object_too_and_text_stays_the_default() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let start = |format: Option<&str>| {
        let mut command = program();
        command.env("OPENAI_BASE_URL", "http://127.0.0.1:9/v1").env("OLLAMA_HOST", &address);
        command.envs(format.map(|format| ("LOG_FORMAT", format)));
        run(command.env("MAX_CONNECTIONS", "100"))
    };
    let (code, _, log) = start(Some("json"));
    let found = objects(&log);
    let last = found.last().expect("a line");
    assert_eq!((code, &last["level"]), (Some(1), &json!("error")), "{log}");
    assert!(last["message"].as_str().is_some_and(|it| it.contains("bind: address already in use")));
    for format in [None, Some("text")] {
        let (code, _, log) = start(format);
        assert!(code == Some(1) && log.contains("Error: listen tcp "), "{log}");
    }
    let (code, _, log) = start(Some("yaml"));
    assert_eq!(code, Some(1));
    assert!(log.starts_with("Error: ") && log.contains("expected text, json or auto"), "{log}");
}
