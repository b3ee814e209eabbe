//! What shows of the upstreams: `X-Upstream`, the log, the metrics, `/openai/health` and `/ready`.

use std::time::Duration;

use crate::support::fleet::{server, several};
use crate::support::ollama::Ollama;
use crate::support::program::{Running, program};
use crate::support::restarting::Restarting;
use crate::support::*;
use ollama_openai_proxy::upstream::ServerSettings;
use ollama_openai_proxy::upstream::breaker::Settings;

/// A proxy in front of one upstream that has a name, and asks it once.
fn named(name: &str) -> (Upstream, Proxy) {
    let upstream = Upstream::start();
    let proxy = Proxy::with(&upstream, |config| {
        config.upstreams = vec![server(name, &upstream.base_url())];
        config.retry.max_retries = 0;
    });
    (upstream, proxy)
}

fn embeddings() -> Vec<Step> {
    let body = r#"{"data":[{"index":0,"embedding":[0.5]}],"usage":{"prompt_tokens":1}}"#;
    vec![upstream::json(body)]
}

#[test]
fn each_answer_that_comes_from_an_upstream_names_it() {
    let (upstream, proxy) = named("lab-1.x_y");
    let whole = || vec![upstream::answer("ok")];
    let no = |code: u16| vec![status(code, &[], r#"{"error":{"message":"no"}}"#)];
    let chat_stream = || upstream::stream(&["ok"]);
    let messages = json!({"model": "m", "max_tokens": 9, "messages":
        [{"role": "user", "content": "Hi"}]})
    .to_string();
    let embed = r#"{"model":"text-embed","input":"a","prompt":"a"}"#.to_owned();
    let generate = r#"{"model":"m","prompt":"Hi"}"#.to_owned();
    let rank = r#"{"model":"m","query":"a","documents":[]}"#.to_owned();
    for (path, body, steps, code) in [
        ("/api/chat", chat("Hi"), chat_stream(), 200),
        ("/api/chat", chat_whole("Hi"), whole(), 200),
        ("/api/chat", chat("Hi"), no(400), 400),
        ("/api/chat", chat("Hi"), no(503), 503),
        ("/api/chat", chat("Hi"), vec![upstream::json("nonsense")], 502),
        ("/api/generate", generate, chat_stream(), 200),
        ("/api/embed", embed.clone(), embeddings(), 200),
        ("/api/embeddings", embed.clone(), embeddings(), 200),
        ("/v1/embeddings", embed, embeddings(), 200),
        ("/v1/chat/completions", chat("Hi"), chat_stream(), 200),
        ("/v1/chat/completions", chat_whole("Hi"), whole(), 200),
        ("/v1/chat/completions", chat("Hi"), no(429), 429),
        ("/v1/messages", messages.clone(), whole(), 200),
        ("/v1/messages", messages, no(401), 401),
        ("/v1/rerank", rank, vec![upstream::json("{}")], 200),
    ] {
        // The head of another program is not ours to pass on.
        upstream.script(steps);
        let answer = proxy.ask(path, &body);
        assert_eq!(answer.status(), code, "{path}: {}", answer.body);
        let names: Vec<_> = answer.head.header("x-upstream").into_iter().collect();
        assert_eq!(names, ["lab-1.x_y"], "{path} {code}");
        upstream.request();
    }
}

#[test]
fn what_a_real_ollama_answers_in_its_own_protocol_names_it_too() {
    let ollama = Ollama::start();
    let proxy = ollama.proxy();
    let line =
        r#"{"model":"llama3.2:latest","message":{"role":"assistant","content":"ok"},"done":true}"#;
    let body = |stream: bool| {
        json!({"model": "llama3.2", "stream": stream, "messages":
            [{"role": "user", "content": "Hi"}]})
    };
    for stream in [true, false] {
        let kind = if stream { "application/x-ndjson" } else { "application/json" };
        ollama.script(vec![typed(200, kind, &[("X-Upstream", "elsewhere")], &format!("{line}\n"))]);
        let answer = proxy.post("/api/chat", &body(stream));
        assert_eq!(answer.status(), 200, "{}", answer.body);
        let names = answer.head.headers.iter().filter(|(name, _)| name == "X-Upstream");
        assert_eq!(names.map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["default"]);
        assert_eq!(ollama.request().path, "/api/chat");
    }
    ollama.script(vec![status(500, &[], r#"{"error":"no"}"#)]);
    let answer = proxy.post("/api/show", &json!({"model": "llama3.2"}));
    assert_eq!((answer.status(), answer.head.header("x-upstream")), (500, Some("default")));
}

#[test]
fn the_upstream_of_the_environment_is_named_default() {
    let (upstream, proxy) = pair();
    upstream.script(upstream::stream(&["ok"]));
    let answer = proxy.ask("/api/chat", chat("Hi"));
    assert_eq!(answer.head.header("x-upstream"), Some("default"));
}

#[test]
fn an_upstream_s_own_header_of_that_name_is_not_passed_on() {
    let (upstream, proxy) = named("lab");
    let spoofed = [("X-Upstream", "elsewhere"), ("x-upstream-2", "more"), ("openai-version", "1")];
    for code in [200, 400] {
        upstream.script(vec![status(code, &spoofed, "{}")]);
        let mut client = proxy.client();
        let answer = client.post("/v1/chat/completions", chat_whole("Hi")).answer();
        let lines = answer.head.headers.iter().filter(|(name, _)| {
            let name = name.to_ascii_lowercase();
            name.starts_with("x-upstream") || name == "openai-version"
        });
        let mut values: Vec<_> = lines.map(|(_, value)| value.as_str()).collect();
        values.sort_unstable();
        assert_eq!((answer.status(), values), (code, vec!["1", "lab"]));
    }
}

#[test]
fn answers_of_the_proxy_s_own_name_no_upstream() {
    let (_upstream, proxy) = named("lab");
    for path in ["/", "/api/version", "/api/tags", "/api/ps", "/v1/models", "/health", "/ready"] {
        let answer = proxy.fetch(path);
        assert_eq!((answer.status(), answer.head.header("x-upstream")), (200, None), "{path}");
    }
    for (path, body, code) in [
        ("/api/show", r#"{"model":"m"}"#, 200),
        ("/api/chat", r#"{"model":"m"}"#, 200),
        ("/api/chat", r#"{"model":"nowhere"}"#, 404),
        ("/api/chat", "{", 400),
        ("/api/chat", r#"{"model":"m","messages":[{"role":"user"}],"format":5}"#, 500),
        (
            "/v1/messages/count_tokens",
            r#"{"model":"m","messages":[{"role":"user","content":"a"}]}"#,
            200,
        ),
        ("/api/copy", r#"{"source":"nowhere","destination":"x"}"#, 404),
        ("/nothing", "", 404),
    ] {
        let answer = proxy.ask(path, body);
        assert_eq!((answer.status(), answer.head.header("x-upstream")), (code, None), "{path}");
    }
    let (upstream, keyed) = pair_with(|config| {
        config.proxy_api_keys =
            ollama_openai_proxy::http::client_keys::ClientKeys::parse("client-key-1")
                .expect("a key");
    });
    let answer = keyed.ask("/api/chat", chat("Hi"));
    assert_eq!((answer.status(), answer.head.header("x-upstream")), (401, None));
    assert!(upstream.is_idle());
}

/// The log of an answered request, of one that fails at the upstream, and of one that names no model.
fn logged(upstream: &Upstream, command: &mut std::process::Command) -> String {
    let no = || vec![status(500, &[], r#"{"error":{"message":"no"}}"#)];
    upstream.script(upstream::stream(&["ok"])).script(no());
    let running = Running::start(command.env("RETRY_MAX", "0"));
    let ask = |body: String| Client::connect(running.addr).post("/api/chat", body).answer();
    assert_eq!(ask(chat("Hi")).status(), 200);
    assert_eq!(ask(chat("Hi")).status(), 500);
    assert_eq!(ask(r#"{"model":"nowhere"}"#.to_owned()).status(), 404);
    running.stop()
}

/// The first line of a log that has this part.
fn line_with(log: &str, part: &str) -> String {
    let found = log.lines().find(|line| line.contains(part));
    found.unwrap_or_else(|| panic!("{part} is not in {log}")).to_owned()
}

#[test]
fn the_log_names_the_upstream_of_a_request() {
    let upstream = Upstream::start();
    let log = logged(&upstream, program().env("OPENAI_BASE_URL", upstream.base_url()));
    let line = |part: &str| line_with(&log, part);
    assert!(line("status=200").ends_with(" upstream=default"), "{log}");
    assert!(line("status=500").contains(" upstream=default "), "{log}");
    assert!(!line("status=404").contains(" upstream="), "{log}");
    assert!(
        line("giving up").contains(" chat failed: the upstream returned status 500, "),
        "{log}"
    );
}

#[test]
fn the_log_names_the_upstream_of_a_request_and_of_a_failure() {
    let name = format!("upstreams-log-{}.toml", std::process::id());
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let upstream = Upstream::start();
    let text = format!("[[upstream]]\nname = \"lab\"\nbase_url = \"{}\"\n", upstream.base_url());
    std::fs::write(&file, text).expect("a file");
    let log = logged(&upstream, program().env("PROXY_CONFIG", &file));
    let line = |part: &str| line_with(&log, part);
    assert!(line("status=200").ends_with(" upstream=lab"), "{log}");
    assert!(line("status=500").contains(" upstream=lab "), "{log}");
    assert!(!line("status=404").contains(" upstream=lab"), "{log}");
    assert!(line("giving up").contains(" chat failed: upstream \"lab\": "), "{log}");
    std::fs::remove_file(file).expect("the file");
}

#[test]
fn the_metrics_are_those_of_each_upstream() {
    let (first, second) = (Upstream::start(), Upstream::start());
    let servers = vec![server("first", &first.base_url()), server("second", &second.base_url())];
    let proxy = several(servers, |config| config.retry.max_retries = 0);
    first.script(vec![status(500, &[], r#"{"error":{"message":"no"}}"#)]);
    let (go_on, steps) = upstream::halting();
    second.script(steps);
    let mut client = proxy.client();
    let head = client.post("/api/chat", chat("Hi")).head();
    assert_eq!((head.status, head.header("x-upstream")), (200, Some("second")));
    let text = proxy.fetch("/metrics").body;
    let has = |line: &str| assert!(text.lines().any(|it| it == line), "{line} is not in {text}");
    has("ollama_proxy_upstream_failures_total{upstream=\"first\",kind=\"upstream_status\"} 1");
    assert!(!text.contains("failures_total{upstream=\"second\""), "{text}");
    for (name, moved, open) in [("first", 1, 0), ("second", 0, 1)] {
        has(&format!("ollama_proxy_circuit_state{{upstream=\"{name}\",state=\"closed\"}} 1"));
        has(&format!("ollama_proxy_upstream_in_flight{{upstream=\"{name}\"}} {open}"));
        has(&format!("ollama_proxy_open_streams{{upstream=\"{name}\"}} {open}"));
        has(&format!("ollama_proxy_circuit_refusals_total{{upstream=\"{name}\"}} 0"));
        has(&format!("ollama_proxy_upstream_failovers_total{{upstream=\"{name}\"}} {moved}"));
        assert!(text.contains(&format!("attempts_total{{upstream=\"{name}\"}} ")), "{text}");
        assert!(text.contains(&format!("list_age_seconds{{upstream=\"{name}\"}} ")), "{text}");
    }
    drop(go_on);
    while client.frame().is_some() {}
}

/// The entries of `/openai/health` by their order.
fn health(proxy: &Proxy, code: u16) -> (Value, Vec<Value>) {
    let answer = proxy.fetch("/openai/health");
    assert_eq!(answer.status(), code, "{}", answer.body);
    let health = answer.json();
    let upstreams = health["upstreams"].as_array().expect("a list").clone();
    (health, upstreams)
}

#[test]
fn one_upstream_that_answers_makes_the_health_good() {
    let (good, bad) = (Upstream::start(), Restarting::down());
    let servers = vec![server("bad", &bad.base_url()), server("good", &good.base_url())];
    let proxy = several(servers, |config| {
        config.retry.max_retries = 0;
        config.breaker = Settings {
            failure_threshold: 1,
            min_failure_span: Duration::ZERO,
            cooldown: Duration::from_secs(3600),
            max_cooldown: Duration::from_secs(3600),
            ..Settings::default()
        };
    });
    let (all, upstreams) = health(&proxy, 200);
    assert_eq!((&all["status"], &all["models_available"]), (&json!("healthy"), &json!(3)));
    assert_eq!((&all["circuit"], all.get("error")), (&json!("closed"), None));
    let told: Vec<_> = upstreams.iter().map(|it| (&it["name"], &it["status"])).collect();
    let (healthy, unhealthy) = (json!("healthy"), json!("unhealthy"));
    assert_eq!(told, [(&json!("bad"), &unhealthy), (&json!("good"), &healthy)]);
    let error = upstreams[0]["error"].as_str().expect("a reason");
    assert!(error.contains("connection refused"), "{error}");
    assert_eq!((&upstreams[0]["circuit"], &upstreams[0]["models"]), (&json!("open"), &json!(0)));
    assert_eq!((&upstreams[1]["circuit"], &upstreams[1]["models"]), (&json!("closed"), &json!(3)));
    for upstream in &upstreams {
        assert!(upstream["latency_ms"].is_u64() && upstream["in_flight"].is_u64(), "{upstream}");
        assert!(upstream["list_age_s"].is_null() && upstream.get("warning").is_none());
    }
    assert!(upstreams[1]["error"].is_null());
    assert_eq!(proxy.fetch("/ready").status(), 200, "one circuit is closed");
}

#[test]
fn without_any_upstream_the_health_says_what_is_wrong_with_each() {
    let down = [Restarting::down(), Restarting::down()];
    let servers = vec![server("a", &down[0].base_url()), server("b", &down[1].base_url())];
    let proxy = several(servers, |config| {
        config.retry.max_retries = 0;
        config.breaker.failure_threshold = 1;
        config.breaker.min_failure_span = Duration::ZERO;
        config.breaker.cooldown = Duration::from_secs(3600);
        config.breaker.max_cooldown = Duration::from_secs(3600);
    });
    let (all, _) = health(&proxy, 503);
    let error = all["error"].as_str().expect("a reason");
    assert!(
        error.starts_with("a: cannot reach the upstream") && error.contains("; b: "),
        "{error}"
    );
    assert_eq!((&all["status"], &all["circuit"]), (&json!("unhealthy"), &json!("open")));
    let answer = proxy.fetch("/ready");
    assert_eq!((answer.status(), &answer.json()["reason"]), (503, &json!("no upstream answers")));
}

#[test]
fn all_upstreams_are_asked_for_their_health_at_the_same_time() {
    let (first, second) = (Upstream::start(), Upstream::start());
    let list = || upstream::json(r#"{"data":[{"id":"m"}]}"#);
    // Each answers only when the other one was asked, too.
    let (first_sender, first_told) = bounded(0);
    let (second_sender, second_told) = bounded(0);
    for (upstream, told) in [(&first, first_told), (&second, second_told)] {
        upstream.script_lists();
        upstream.script(vec![Step::Wait(told), list()]);
    }
    let servers = vec![server("first", &first.base_url()), server("second", &second.base_url())];
    let proxy = several(servers, |_| {});
    let mut client = proxy.client();
    client.get("/openai/health");
    first.request();
    second.request();
    drop((first_sender, second_sender));
    let answer = client.answer();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.json()["models_available"], 1, "replicas of one model: {}", answer.body);
}

#[test]
fn an_upstream_that_hangs_is_waited_for_within_its_own_limit() {
    let (hanging, good, down) = (Upstream::start(), Upstream::start(), Restarting::down());
    let (_go_on, told) = bounded(0);
    hanging.script_lists();
    hanging.script(vec![Step::Wait(told)]);
    let timeout = Some(Duration::from_millis(100));
    let slow = ServerSettings { timeout, ..server("hanging", &hanging.base_url()) };
    let servers = vec![slow, server("down", &down.base_url()), server("good", &good.base_url())];
    let proxy = several(servers, |config| config.retry.max_retries = 0);
    let (_, upstreams) = health(&proxy, 200);
    let told: Vec<_> = upstreams.iter().map(|it| it["status"].as_str().expect("a word")).collect();
    assert_eq!(told, ["unhealthy", "unhealthy", "healthy"]);
    assert!(upstreams[0]["latency_ms"].as_u64().is_some_and(|it| it >= 100), "{}", upstreams[0]);
    assert!(upstreams[0]["error"].is_string() && upstreams[1]["error"].is_string());
}

#[test]
fn a_fixed_list_needs_only_an_answer_of_any_kind() {
    let (listless, other) = (Upstream::start(), Upstream::start());
    listless.script_lists();
    other.script_lists();
    for _ in 0..2 {
        listless.script(vec![status(404, &[], "no such page")]);
        other.script(vec![status(404, &[], "no such page")]);
    }
    let list = Some(vec!["m1".to_owned(), "m2".to_owned()]);
    let fixed = ServerSettings { list, ..server("fixed", &listless.base_url()) };
    let proxy = several(vec![fixed, server("other", &other.base_url())], |_| {});
    let (all, upstreams) = health(&proxy, 200);
    assert_eq!(all["models_available"], 2);
    assert_eq!((&upstreams[0]["status"], &upstreams[0]["models"]), (&json!("healthy"), &json!(2)));
    assert_eq!(upstreams[1]["status"], "unhealthy");
    let down = Restarting::down();
    let list = Some(vec!["m1".to_owned()]);
    let fixed = ServerSettings { list, ..server("fixed", &down.base_url()) };
    let proxy = several(vec![fixed], |_| {});
    assert_eq!(health(&proxy, 503).1[0]["status"], "unhealthy");
}

#[test]
fn the_health_marks_an_old_list_and_a_certificate_that_nobody_checks() {
    let upstream = Upstream::start();
    let mut server = server("lab", &upstream.base_url());
    server.tls.verify = false;
    let proxy = several(vec![server], |config| {
        config.models_ttl = Duration::ZERO;
        config.retry.max_retries = 0;
    });
    proxy.tags();
    let (_, upstreams) = health(&proxy, 200);
    assert_eq!(upstreams[0]["list_stale"], false);
    assert!(upstreams[0]["list_age_s"].is_u64());
    let warning = upstreams[0]["warning"].as_str().expect("a warning");
    assert!(warning.contains("tls_verify"), "{warning}");
    upstream.script_lists();
    proxy.tags();
    let (_, upstreams) = health(&proxy, 503);
    assert_eq!((&upstreams[0]["list_stale"], &upstreams[0]["models"]), (&json!(true), &json!(0)));
}

#[test]
fn a_young_list_of_an_upstream_that_fails_is_marked_as_old() {
    let upstream = Upstream::start();
    let proxy = several(vec![server("lab", &upstream.base_url())], |config| {
        config.retry.max_retries = 0;
    });
    proxy.tags();
    assert_eq!(health(&proxy, 200).1[0]["list_stale"], false);
    upstream.script_lists();
    assert_eq!(health(&proxy, 503).1[0]["list_stale"], true);
}

#[test]
fn no_key_shows_in_the_health() {
    let upstream = Upstream::start();
    upstream.script_lists();
    let secret = "k3y-of-the-lab-4711";
    let told = format!(r#"{{"error":{{"message":"bad key {secret}"}}}}"#);
    upstream.script(vec![status(401, &[], &told)]);
    let mut server = server("lab", &upstream.base_url());
    server.api_key = Some(ollama_openai_proxy::observe::redact::Secret::new(secret));
    let proxy = several(vec![server], |_| {});
    let answer = proxy.fetch("/openai/health");
    assert!(
        answer.body.contains("bad key ***") && !answer.body.contains(secret),
        "{}",
        answer.body
    );
}
