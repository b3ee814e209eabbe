//! Limits of client keys with names: requests in a minute, tokens in a day, requests at once.

use ollama_openai_proxy::config::Config;
use ollama_openai_proxy::http::client_keys::ClientKeys;

use crate::support::upstream::{self, answer, json as json_step};
use crate::support::*;

const ALICE: &str = "Authorization: Bearer alice-key-1\r\n";
const BOB: &str = "Authorization: Bearer bobby-key-2\r\n";

/// A proxy whose file of keys has these lines.
fn keyed(lines: &str) -> (Upstream, Proxy) {
    pair_with(with_keys(lines))
}

fn with_keys(lines: &str) -> impl FnOnce(&mut Config) {
    let keys = ClientKeys::parse_file(lines.as_bytes()).expect("keys");
    |config| config.proxy_api_keys = keys
}

fn ask(proxy: &Proxy, lines: &str, path: &str, body: &str) -> Answer {
    proxy.client().with("POST", path, lines, body).answer()
}

fn fetch(proxy: &Proxy, lines: &str, path: &str) -> Answer {
    proxy.client().with("GET", path, lines, "").answer()
}

/// The value of a series of `/metrics`, if it is there.
fn metric(proxy: &Proxy, series: &str) -> Option<u64> {
    let answer = fetch(proxy, BOB, "/metrics");
    let line = answer.body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().expect("a number"))
}

/// Waits until a series has a value.
fn wait_for(proxy: &Proxy, series: &str, value: u64) {
    let deadline = std::time::Instant::now() + HANG;
    while metric(proxy, series) != Some(value) {
        assert!(std::time::Instant::now() < deadline, "{series} is not {value}");
        std::thread::yield_now();
    }
}

fn whole(text: &str) -> String {
    json!({"model": "m", "stream": false, "messages": [{"role": "user", "content": text}]})
        .to_string()
}

fn messages() -> String {
    whole("Hi").replacen('{', "{\"max_tokens\":9,", 1)
}

/// The seconds of `Retry-After`.
fn retry_after(answer: &Answer) -> u64 {
    answer.head.header("retry-after").expect("it tells").parse().expect("seconds")
}

#[test]
fn requests_beyond_those_of_a_minute_get_429_in_the_shape_of_their_protocol() {
    let (upstream, proxy) = keyed("alice:alice-key-1 requests_per_minute=3\nbobby-key-2\n");
    for path in ["/api/chat", "/v1/chat/completions", "/v1/messages"] {
        upstream.script(vec![answer("ok")]);
        let body = if path == "/v1/messages" { messages() } else { whole("Hi") };
        assert_eq!(ask(&proxy, ALICE, path, &body).status(), 200, "{path}");
        upstream.request();
    }
    const TEXT: &str = "rate limit reached: this key is allowed 3 requests a minute; try again in ";
    for path in [
        "/api/chat", "/api/generate", "/api/embed", "/v1/chat/completions", "/v1/completions",
        "/v1/embeddings", "/v1/responses", "/v1/responses/compact", "/v1/audio/transcriptions",
        "/v1/messages", "/v1/rerank",
    ] {
        let refused = ask(&proxy, ALICE, path, &messages());
        assert_eq!(refused.status(), 429, "{path}");
        assert!((1..=60).contains(&retry_after(&refused)), "{path}");
        // The official clients wait as long as they are told.
        assert_eq!(refused.head.header("x-should-retry"), None, "{path}");
        let told = refused.json();
        if path.starts_with("/api") {
            let text = told["error"].as_str().expect("a text");
            assert!(text.starts_with(TEXT), "{text}");
            continue;
        }
        let error = &told["error"];
        assert!(error["message"].as_str().is_some_and(|it| it.starts_with(TEXT)), "{told}");
        if path == "/v1/messages" {
            assert_eq!(
                (&told["type"], &error["type"]),
                (&json!("error"), &json!("rate_limit_error"))
            );
        } else {
            let kind = (&error["type"], &error["code"], &error["param"]);
            assert_eq!(kind, (&json!("requests"), &json!("rate_limit_exceeded"), &Value::Null));
        }
    }
    // Nothing else counts, and another key is not concerned.
    for path in [
        "/api/tags", "/api/ps", "/api/version", "/v1/models", "/v1/models/m", "/health", "/ready",
        "/openai/health", "/metrics",
    ] {
        assert_eq!(fetch(&proxy, ALICE, path).status(), 200, "{path}");
    }
    assert_eq!(ask(&proxy, ALICE, "/api/show", r#"{"model":"m"}"#).status(), 200);
    assert_eq!(ask(&proxy, ALICE, "/v1/messages/count_tokens", &messages()).status(), 200);
    upstream.script(vec![answer("ok")]);
    assert_eq!(ask(&proxy, BOB, "/api/chat", &whole("Hi")).status(), 200);
    upstream.request();
    assert!(upstream.is_idle(), "nothing of the refused requests went up");
    assert_eq!(metric(&proxy, "ollama_proxy_key_requests_total{key=\"alice\"}"), Some(3));
    let refused = "ollama_proxy_key_refused_total{key=\"alice\",reason=\"requests_per_minute\"}";
    assert_eq!(metric(&proxy, refused), Some(11));
    let refused = "ollama_proxy_access_refused_total{reason=\"requests_per_minute\"}";
    assert_eq!(metric(&proxy, refused), Some(11));
}

#[test]
fn each_way_to_send_a_key_is_the_same_key() {
    let (upstream, proxy) = keyed("alice:alice-key-1 requests_per_minute=4\nbobby-key-2\n");
    // me:alice-key-1, and alice:alice-key-1 as its user would write it
    let ways = [
        ALICE,
        "x-api-key: alice-key-1\r\n",
        "X-API-KEY: alice:alice-key-1\r\n",
        "Authorization: Basic bWU6YWxpY2Uta2V5LTE=\r\n",
    ];
    for way in ways {
        upstream.script(vec![answer("ok")]);
        assert_eq!(ask(&proxy, way, "/api/chat", &whole("Hi")).status(), 200, "{way}");
    }
    for way in ways {
        assert_eq!(ask(&proxy, way, "/api/chat", &whole("Hi")).status(), 429, "{way}");
    }
}

#[test]
fn the_tokens_of_a_day_count_on_each_route_before_the_client_knows_that_the_answer_ended() {
    // The scripted answers have 5 tokens in and 2 out.
    for (path, script) in [
        ("/api/chat", upstream::stream(&["ok"])),
        ("/api/generate", upstream::stream(&["ok"])),
        ("/v1/messages", upstream::stream(&["ok"])),
        ("/v1/chat/completions", upstream::stream(&["ok"])),
        ("/v1/completions", upstream::stream(&["ok"])),
        (
            "/v1/embeddings",
            vec![json_step(
                r#"{"data":[{"index":0,"embedding":[0.5]}],"usage":{"prompt_tokens":7,"total_tokens":7}}"#,
            )],
        ),
        (
            "/api/embed",
            vec![json_step(
                r#"{"data":[{"index":0,"embedding":[0.5]}],"usage":{"prompt_tokens":7,"total_tokens":7}}"#,
            )],
        ),
        (
            "/v1/responses",
            vec![json_step(
                r#"{"object":"response","output":[],"usage":{"input_tokens":5,"output_tokens":2}}"#,
            )],
        ),
    ] {
        let (upstream, proxy) = keyed("alice:alice-key-1 tokens_per_day=7\nbobby-key-2\n");
        let body = json!({"model": "m", "stream": true, "max_tokens": 9, "prompt": "Hi",
            "input": "Hi", "messages": [{"role": "user", "content": "Hi"}]});
        upstream.script(script);
        let served = ask(&proxy, ALICE, path, &body.to_string());
        assert_eq!(served.status(), 200, "{path} {}", served.body);
        let refused = ask(&proxy, ALICE, path, &body.to_string());
        assert_eq!(refused.status(), 429, "{path} {}", refused.body);
        assert!((1..=86_400).contains(&retry_after(&refused)), "{path}");
        assert!(refused.body.contains("7 tokens a day (UTC)"), "{}", refused.body);
        if path.starts_with("/v1") {
            // The official clients would ask twice more within seconds.
            assert_eq!(refused.head.header("x-should-retry"), Some("false"), "{path}");
        }
        if path == "/v1/chat/completions" {
            assert_eq!(refused.json()["error"]["type"], "tokens");
        }
        assert_eq!(
            metric(&proxy, "ollama_proxy_key_tokens_today{key=\"alice\"}"),
            Some(7),
            "{path}"
        );
    }
}

#[test]
fn what_a_stream_used_counts_also_when_its_client_leaves_or_nobody_tells_the_tokens() {
    let (upstream, proxy) = keyed("alice:alice-key-1 tokens_per_day=3\nbobby-key-2\n");
    let (go_on, steps) = upstream::halting();
    upstream.script(steps);
    let mut client = proxy.client();
    client.with("POST", "/api/chat", ALICE, chat("Hi")).head();
    client.frame();
    drop(client);
    drop(go_on);
    let in_flight = "ollama_proxy_key_requests_in_flight{key=\"alice\"}";
    wait_for(&proxy, in_flight, 0);
    assert!(metric(&proxy, "ollama_proxy_key_tokens_today{key=\"alice\"}") >= Some(3));
    assert_eq!(ask(&proxy, ALICE, "/api/chat", &whole("Hi")).status(), 429);
    // Without counts, each event is a token.
    let (upstream, proxy) = keyed("alice:alice-key-1 tokens_per_day=9\nbobby-key-2\n");
    let mut steps = vec![upstream::stream_head()];
    steps.extend((0..20).map(|_| upstream::delta("x")));
    steps.extend([upstream::frame("data: [DONE]\n\n"), upstream::last_frame()]);
    upstream.script(steps);
    let served = ask(&proxy, ALICE, "/v1/chat/completions", &chat("Hi"));
    assert_eq!(served.status(), 200);
    wait_for(&proxy, in_flight, 0);
    assert!(metric(&proxy, "ollama_proxy_key_tokens_today{key=\"alice\"}") >= Some(20));
}

#[test]
fn requests_at_once_have_places_that_are_given_back_whatever_ends_them() {
    let (upstream, proxy) = keyed("alice:alice-key-1 max_parallel=1\nbobby-key-2\n");
    let in_flight = "ollama_proxy_key_requests_in_flight{key=\"alice\"}";
    let refuse = || {
        let refused = ask(&proxy, ALICE, "/v1/chat/completions", &whole("Hi"));
        assert_eq!((refused.status(), retry_after(&refused)), (429, 1));
        assert!(refused.body.contains("1 request at the same time"), "{}", refused.body);
    };
    // A stream, to its end.
    let (go_on, steps) = upstream::halting();
    upstream.script(steps);
    let mut client = proxy.client();
    client.with("POST", "/api/chat", ALICE, chat("Hi")).head();
    client.frame();
    refuse();
    assert_eq!(metric(&proxy, in_flight), Some(1));
    drop(go_on);
    client.rest_of_stream();
    // At once, on the same connection and on others.
    for round in 0..20 {
        upstream.script(vec![answer("ok")]);
        let served = client.with("POST", "/api/chat", ALICE, whole("Hi")).answer();
        assert_eq!(served.status(), 200, "{round}");
        upstream.script(upstream::stream(&["ok"]));
        let served = ask(&proxy, ALICE, "/api/chat", &chat("Hi"));
        assert_eq!(served.status(), 200, "{round}");
    }
    // A client that leaves.
    let (go_on, steps) = upstream::halting();
    upstream.script(steps);
    let mut client = proxy.client();
    client.with("POST", "/v1/chat/completions", ALICE, chat("Hi")).head();
    refuse();
    drop(client);
    wait_for(&proxy, in_flight, 0);
    drop(go_on);
    // Errors of the client, of the upstream, and in a stream.
    for body in ["", "{", r#"{"model":"m","messages":"x"}"#, r#"{"model":""}"#] {
        assert!(ask(&proxy, ALICE, "/api/chat", body).status() >= 400, "{body}");
    }
    for script in [
        vec![upstream::status(400, &[], r#"{"error":"no"}"#)],
        vec![upstream::stream_head(), upstream::delta("a"), upstream::Step::Close],
    ] {
        upstream.clear();
        upstream.script(script);
        proxy.client().with("POST", "/api/chat", ALICE, chat("Hi")).any_answer("POST");
    }
    wait_for(&proxy, in_flight, 0);
    upstream.clear();
    upstream.script(vec![answer("ok")]);
    assert_eq!(ask(&proxy, ALICE, "/api/chat", &whole("Hi")).status(), 200);
}

#[test]
fn a_request_that_finds_the_queue_full_gives_its_place_back() {
    let keys = "alice:alice-key-1 max_parallel=1\nbobby-key-2\n";
    let (proxy, busy) = full_queue(BOB, with_keys(keys));
    for round in 0..3 {
        let refused = ask(&proxy, ALICE, "/api/chat", &whole("Hi"));
        assert_eq!(refused.status(), 503, "{round} {}", refused.body);
    }
    assert_eq!(busy.answer().status(), 200);
}

#[test]
fn without_names_nothing_is_counted() {
    let (upstream, proxy) = keyed("alice-key-1\nbobby-key-2\n");
    upstream.script(vec![answer("ok")]);
    assert_eq!(ask(&proxy, ALICE, "/api/chat", &whole("Hi")).status(), 200);
    let text = fetch(&proxy, ALICE, "/metrics").body;
    for word in ["_key_", "requests_per_minute", "max_parallel", "model_not_allowed"] {
        assert!(!text.contains(word), "{word}");
    }
}

#[test]
fn a_panic_gives_the_place_back() {
    let upstream = Upstream::start();
    for _ in 0..3 {
        upstream.script(vec![upstream::status(500, &[], "{}")]);
    }
    upstream.script(vec![answer("ok")]);
    let pacing = ollama_openai_proxy::upstream::RetryEnv {
        sleep: Box::new(|_| true),
        jitter: Box::new(|| panic!("on purpose")),
    };
    let keys = with_keys("alice:alice-key-1 max_parallel=1\n");
    let (server, _stop) = proxy::start(&upstream.base_url(), keys, pacing);
    for expected in [500, 500, 500, 200] {
        let mut client = Client::connect(server.local_addr());
        let told = client.with("POST", "/api/chat", ALICE, whole("Hi")).answer();
        assert_eq!(told.status(), expected, "{}", told.body);
    }
}
