//! CORS: which origins are allowed, and which headers a page can read of each response.

use crate::support::*;
use ollama_openai_proxy::config::Config;
use ollama_openai_proxy::http::cors::CorsPolicy;
use ollama_openai_proxy::upstream::RetryEnv;

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

pub(super) const NEAR: &str = "http://localhost:3000";

pub(super) const FAR: &str = "https://evil.test";

/// Sends a request without a body; `headers` are whole lines.
pub(super) fn send(client: &mut Client, method: &str, path: &str, headers: &[String]) -> Answer {
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    client.send(format!("{method} {path} HTTP/1.1\r\n{headers}\r\n")).answer()
}

/// Sends a request without a body from a page to `localhost`.
pub(super) fn from(client: &mut Client, origin: &str, method: &str, path: &str) -> Answer {
    let lines = ["Host: localhost:11434".to_owned(), format!("Origin: {origin}")];
    send(client, method, path, &lines)
}

/// Sends a chat request from a page.
fn chat_from(client: &mut Client, origin: &str, body: &str) -> Answer {
    client.with("POST", "/api/chat", &format!("Origin: {origin}\r\n"), body).answer()
}

/// All values of a header, in order.
fn all<'a>(head: &'a Head, name: &str) -> Vec<&'a str> {
    let named = head.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
    named.map(|(_, value)| value.as_str()).collect()
}

/// The CORS headers of an answer: what is allowed, and `Vary`.
fn cors(answer: &Answer) -> (Vec<&str>, Vec<&str>) {
    (all(&answer.head, "access-control-allow-origin"), all(&answer.head, "vary"))
}

fn origins(entries: &str) -> impl FnOnce(&mut Config) {
    let origins = CorsPolicy::parse(entries).expect("good entries");
    |config| config.origins = origins
}

#[track_caller]
pub(super) fn assert_empty(answer: &Answer, status: u16) {
    answer.assert_body(status, "");
    assert_eq!(answer.head.header("content-type"), None);
    let length = (status != 204).then_some("0");
    assert_eq!(answer.head.header("content-length"), length, "a 204 has no length");
}

#[test]
fn without_an_origin_there_are_no_cors_headers() {
    let proxy = Proxy::start(&Upstream::start());
    let mut client = proxy.client();
    for path in ["/", "/api/version", "/nothing"] {
        let answer = client.get(path).answer();
        assert_eq!(cors(&answer), (vec![], vec![]), "{path}");
        assert_eq!(answer.head.header("access-control-allow-methods"), None);
    }
}

#[test]
fn the_same_origin_is_not_cross_origin() {
    let proxy = Proxy::start(&Upstream::start());
    let mut client = proxy.client();
    for origin in ["http://printer.local:11434", "https://printer.local:11434"] {
        let lines = ["Host: printer.local:11434".to_owned(), format!("Origin: {origin}")];
        let answer = send(&mut client, "GET", "/api/version", &lines);
        assert_eq!(answer.status(), 200, "not among the allowed, and not asked: {origin}");
        assert_eq!(cors(&answer), (vec![], vec![]));
    }
    let lines = ["Host: printer.local".to_owned(), "Origin: http://printer.local:1".to_owned()];
    assert_empty(&send(&mut client, "GET", "/api/version", &lines), 403);
}

#[test]
fn a_foreign_origin_is_refused_whatever_it_asks_for() {
    let (upstream, proxy) = pair();
    let mut client = proxy.client();
    for origin in [FAR, "null", "chrome-extension://abc", "http://192.168.1.5:3000", "http://[::1]"]
    {
        for (method, path) in [
            ("GET", "/"),
            ("GET", "/api/version"),
            ("GET", "/nothing"),
            ("GET", "/api/tags/"),
            ("DELETE", "/api/chat"),
            ("OPTIONS", "/api/chat"),
        ] {
            let answer = from(&mut client, origin, method, path);
            assert_empty(&answer, 403);
            assert_eq!(cors(&answer), (vec![], vec![]), "{origin} {method} {path}");
        }
    }
    assert_empty(&chat_from(&mut client, FAR, &chat("Hi")), 403);
    assert_eq!(client.get("/").answer().status(), 200, "the connection stays usable");
    assert!(upstream.is_idle(), "the upstream gets no request");
}

#[test]
fn a_refusal_does_not_wait_for_the_body() {
    let (upstream, proxy) = pair();
    for framing in
        ["Content-Length: 5000000", "Transfer-Encoding: chunked", "Content-Length: 99999999999"]
    {
        for lines in [format!("Host: localhost\r\nOrigin: {FAR}"), "Host: evil.test".to_owned()] {
            // The body is never sent.
            let mut client = proxy.client();
            client.send(format!("POST /api/chat HTTP/1.1\r\n{lines}\r\n{framing}\r\n\r\n"));
            let answer = client.answer();
            assert_empty(&answer, 403);
            assert_eq!(answer.head.header("connection"), Some("close"), "{framing}");
        }
    }
    assert_eq!(proxy.fetch("/").status(), 200);
    assert!(upstream.is_idle());
}

#[test]
fn a_preflight_is_answered_for_any_path_and_host() {
    let proxy = Proxy::start(&Upstream::start());
    let mut client = proxy.client();
    for (path, host) in [
        ("/api/chat", "localhost"),
        ("/nothing", "127.0.0.1:11434"),
        ("/api/tags/", "evil.test"),
        ("/v1/chat/completions", "localhost"),
    ] {
        let lines = [
            format!("Host: {host}"),
            format!("Origin: {NEAR}"),
            "Access-Control-Request-Method: POST".to_owned(),
            "Access-Control-Request-Headers: x-api-key".to_owned(),
        ];
        let answer = send(&mut client, "OPTIONS", path, &lines);
        assert_empty(&answer, 204);
        let header = |name: &str| answer.head.header(name);
        assert_eq!(
            header("access-control-allow-methods"),
            Some("GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS")
        );
        assert_eq!(
            header("access-control-allow-headers"),
            Some(
                "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,\
                 X-Stainless-Arch,X-Stainless-Async,X-Stainless-Custom-Poll-Interval,\
                 X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-Os,\
                 X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,\
                 X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout"
            )
        );
        assert_eq!(header("access-control-max-age"), Some("43200"));
        let vary = ["Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers"];
        assert_eq!(cors(&answer), (vec![NEAR], vary.to_vec()), "{path}");
        for absent in ["expose-headers", "allow-credentials", "allow-private-network"] {
            assert_eq!(header(&format!("access-control-{absent}")), None);
        }
    }
}

#[test]
fn the_headers_of_a_preflight_come_in_ollama_s_order() {
    let proxy = Proxy::start(&Upstream::start());
    let answer = from(&mut proxy.client(), NEAR, "OPTIONS", "/api/chat");
    let is_cors = |name: &str| name.to_ascii_lowercase().starts_with("access-control-");
    let headers = answer.head.headers.iter().filter(|(name, _)| is_cors(name) || name == "Vary");
    let names: Vec<&str> = headers.map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "Access-Control-Allow-Methods",
            "Access-Control-Allow-Headers",
            "Access-Control-Max-Age",
            "Access-Control-Allow-Origin",
            "Vary",
            "Vary",
            "Vary",
        ]
    );
}

#[test]
fn every_answer_to_an_allowed_origin_says_so() {
    let (upstream, proxy) = pair_with(|config| config.max_body_bytes = 10_000);
    upstream
        .script(upstream::stream(&["a", "b"]))
        .script(vec![upstream::answer("ok")])
        .script(vec![status(403, &[], r#"{"error":{"message":"no"}}"#)])
        .script(vec![stream_head(), delta("a"), Step::Close]);
    let mut client = proxy.client();
    let check = |answer: Answer, status: u16| {
        assert_eq!(answer.status(), status, "{}", answer.body);
        assert_eq!(cors(&answer), (vec![NEAR], vec!["Origin"]), "{}", answer.body);
        assert_eq!(answer.head.header("access-control-allow-methods"), None);
    };
    check(chat_from(&mut client, NEAR, &chat("Hi")), 200);
    check(chat_from(&mut client, NEAR, &chat_whole("Hi")), 200);
    check(chat_from(&mut client, NEAR, &chat("Hi")), 403);
    let broken = chat_from(&mut client, NEAR, &chat("Hi"));
    assert!(broken.lines().last().is_some_and(|line| line["error"].is_string()));
    check(broken, 200);
    check(chat_from(&mut client, NEAR, ""), 400);
    for (method, path, status) in [
        ("GET", "/", 200),
        ("GET", "/api/tags", 200),
        ("GET", "/nothing", 404),
        ("GET", "/api/chat", 405),
        ("GET", "/api/tags/", 301),
    ] {
        check(from(&mut client, NEAR, method, path), status);
    }
    let lines = ["Host: evil.test".to_owned(), format!("Origin: {NEAR}")];
    check(send(&mut client, "GET", "/", &lines), 403);
    check(chat_from(&mut client, NEAR, &chat(&"x".repeat(20_000))), 413);
}

#[test]
fn a_page_can_read_that_the_proxy_is_busy_and_still_ask_beforehand() {
    let (proxy, _busy) = full_queue("", |_| {});
    let mut client = proxy.client();
    let answer = from(&mut client, NEAR, "GET", "/api/tags");
    assert_eq!((answer.status(), cors(&answer)), (503, (vec![NEAR], vec!["Origin"])));
    assert_empty(&from(&mut client, NEAR, "OPTIONS", "/api/chat"), 204);
    assert_empty(&from(&mut client, FAR, "GET", "/api/tags"), 403);
}

#[test]
fn a_panic_is_readable_too() {
    let upstream = Upstream::start();
    upstream.script(vec![status(500, &[], "{}")]);
    let pacing = RetryEnv { sleep: Box::new(|_| true), jitter: Box::new(|| panic!("on purpose")) };
    let (server, _stop) = proxy::start(&upstream.base_url(), |_| {}, pacing);
    let mut client = Client::connect(server.local_addr());
    let answer = chat_from(&mut client, NEAR, &chat("Hi"));
    assert_eq!((answer.status(), cors(&answer)), (500, (vec![NEAR], vec!["Origin"])));
}

#[test]
fn the_defaults_are_those_of_ollama_and_entries_come_on_top() {
    let check = |entries: &str, allowed: &[&str], refused: &[&str]| {
        let proxy = Proxy::with(&Upstream::start(), origins(entries));
        let mut client = proxy.client();
        for (list, status) in [(allowed, 200), (refused, 403)] {
            for origin in list {
                let answer = from(&mut client, origin, "GET", "/api/version");
                assert_eq!(answer.status(), status, "{entries:?} {origin}");
            }
        }
    };
    let defaults = [
        "http://localhost", "https://localhost:8443", "http://127.0.0.1:5173", "https://127.0.0.1",
        "http://0.0.0.0", "https://0.0.0.0:1", "app://obsidian.md", "file://", "tauri://localhost",
        "vscode-webview://1a2b3c", "vscode-file://vscode-app",
    ];
    check("", &defaults, &[FAR, "null", "http://localhost.evil.test", "moz-extension://x"]);
    check(FAR, &defaults, &["http://evil.test"]);
    check(
        "https://Chat.Example.com,http://192.168.1.*,*.intra.test,http://a.*:80",
        &[
            "https://chat.example.com", "http://192.168.1.5:3000", "https://x.intra.test",
            "http://a.b.c:80", "http://localhost:1",
        ],
        &["https://chat.example.com:444", "http://192.168.2.5", "http://a.b.c:81"],
    );
    check("chrome-extension://*,moz-extension://*", &["chrome-extension://a"], &["null"]);
    check("*", &[FAR, "null", "moz-extension://x"], &[]);
}

#[test]
fn a_star_is_told_as_a_star_without_vary() {
    let proxy = Proxy::with(&Upstream::start(), origins("*"));
    let mut client = proxy.client();
    let answer = from(&mut client, FAR, "GET", "/api/version");
    assert_eq!((answer.status(), cors(&answer)), (200, (vec!["*"], vec![])));
    let answer = from(&mut client, "null", "OPTIONS", "/api/chat");
    assert_empty(&answer, 204);
    assert_eq!(cors(&answer), (vec!["*"], vec![]));
    assert!(answer.head.header("access-control-allow-headers").is_some());
}

#[test]
fn an_origin_cannot_write_headers() {
    let proxy = Proxy::start(&Upstream::start());
    for origin in ["app://a\nSet-Cookie: b", "app://a\rSet-Cookie: b"] {
        let answer = from(&mut proxy.client(), origin, "GET", "/");
        answer.assert_body(400, "400 Bad Request");
        assert_eq!(answer.head.header("set-cookie"), None);
    }
}
