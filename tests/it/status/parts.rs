//! What the status page shows beside answers in progress: upstreams, models, requests, repairs and the
//! configuration.

use std::time::Duration;

use super::{await_recent, await_status};
use crate::support::fleet::{configured, fleet};
use crate::support::restarting::Restarting;
use crate::support::*;
use ollama_openai_proxy::http::client_keys::ClientKeys;
use ollama_openai_proxy::models::configured::Strategy;
use ollama_openai_proxy::observe::redact::Secret;
use ollama_openai_proxy::upstream::breaker::Settings;

/// A stream of two words that ends as `end` says.
fn told(end: &str) -> Vec<Step> {
    let finish = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    let last = frame(&format!("data: {finish}\n\n{end}data: [DONE]\n\n"));
    vec![stream_head(), delta("a"), delta("b"), last, last_frame()]
}

const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":12,\
                     \"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n";

#[test]
fn the_members_are_those_that_the_page_reads() {
    let proxy = Proxy::start(&Upstream::start());
    let shown = proxy.get("/status.json");
    let names: Vec<&str> =
        shown.as_object().expect("an object").keys().map(String::as_str).collect();
    for name in [
        "version", "uptime_s", "time_s", "upstreams", "models", "models_total", "live",
        "live_total", "workers", "queue", "connections", "memory", "minutes", "recent", "repairs",
        "keys", "config",
    ] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    assert_eq!(shown["version"], env!("CARGO_PKG_VERSION"));
    assert!(shown["time_s"].as_u64().is_some_and(|time| time > 1_700_000_000));
    assert_eq!((&shown["keys"], &shown["queue"]), (&json!([]), &json!(0)));
    assert_eq!(shown["workers"]["limit"], 16);
    assert!(shown["memory"]["limit"].as_u64() > shown["memory"]["held"].as_u64());
    assert!(shown["memory"]["resident"].as_u64().is_some_and(|bytes| bytes > 1 << 20));
    assert_eq!(shown["minutes"].as_array().map(Vec::len), Some(60));
    let empty =
        json!({"requests": 0, "errors": 0, "first_token_ms": null, "tokens_per_second": null});
    assert_eq!(shown["minutes"][0], empty);
}

#[test]
fn a_request_shows_with_its_tokens_also_where_it_is_passed_on() {
    let (upstream, proxy) = pair();
    let stream = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"Hi"}]}"#;
    let whole = r#"{"choices":[{"message":{"content":"a"}}],"usage":{"prompt_tokens":3,"completion_tokens":5}}"#;
    upstream.script(told(USAGE)).script(told("")).script(vec![json(whole)]).script(told(USAGE));
    for (count, route, body, tokens) in [
        (1, "/v1/chat/completions", stream.to_owned(), (9, 12)),
        // Its pieces count where the upstream does not.
        (2, "/v1/chat/completions", stream.to_owned(), (0, 2)),
        (3, "/v1/chat/completions", stream.replace("true", "false"), (3, 5)),
        (4, "/api/chat", chat("Hi"), (9, 12)),
    ] {
        let answer = proxy.ask(route, &body);
        let shown = await_recent(&proxy, count)["recent"][0].clone();
        let found = (shown["tokens_in"].as_u64(), shown["tokens_out"].as_u64());
        assert_eq!(found, (Some(tokens.0), Some(tokens.1)), "{body}");
        assert_eq!((&shown["route"], &shown["model"]), (&json!(route), &json!("m")));
        assert_eq!((&shown["upstream"], &shown["status"]), (&json!("default"), &json!(200)));
        assert_eq!((&shown["attempts"], &shown["error"]), (&json!(1), &Value::Null));
        assert_eq!(answer.head.header("x-request-id").is_some(), shown["id"].is_string());
        assert_eq!(shown["first_token_ms"].is_u64(), !body.contains("false"), "{body}");
        assert!(shown["duration_ms"].is_u64() && shown["time"].is_f64() && shown["key"].is_null());
    }
    let metrics = proxy.fetch("/metrics").body;
    for (kind, count) in [("prompt", 21), ("completion", 31)] {
        let line = format!("ollama_proxy_tokens_total{{model=\"m\",kind=\"{kind}\"}} {count}");
        assert!(metrics.lines().any(|it| it == line), "{line}\n{metrics}");
    }
    let minute = &proxy.get("/status.json")["minutes"][59];
    assert_eq!((&minute["requests"], &minute["errors"]), (&json!(4), &json!(0)));
    assert!(minute["first_token_ms"].is_u64());
}

#[test]
fn what_is_passed_on_keeps_every_byte_however_the_counts_are_cut() {
    let (upstream, proxy) = pair();
    let bytes = format!("{}{USAGE}data: [DONE]\n\n", text_event("a"));
    let at = bytes.find("completion_tokens").expect("there");
    let (first, second) = bytes.split_at(at + 3);
    upstream.script(vec![stream_head(), frame(first), frame(second), last_frame()]);
    let stream = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"Hi"}]}"#;
    let mut client = proxy.client();
    client.post("/v1/chat/completions", stream);
    assert_eq!(client.head().status, 200);
    assert_eq!(client.rest_of_stream(), bytes);
    let shown = await_recent(&proxy, 1);
    assert_eq!(shown["recent"][0]["tokens_out"], 12);
}

#[test]
fn an_upstream_that_cannot_be_reached_shows_why_and_then_its_open_circuit() {
    let upstream = Restarting::down();
    let proxy = Proxy::at(&upstream.base_url(), |config| {
        config.retry.max_retries = 0;
        config.breaker = Settings {
            failure_threshold: 3,
            min_failure_span: Duration::ZERO,
            cooldown: Duration::from_secs(3600),
            max_cooldown: Duration::from_secs(3600),
            ..Settings::default()
        };
    });
    proxy.ask("/api/chat", chat("Hi"));
    let shown = await_recent(&proxy, 1)["upstreams"][0].clone();
    assert_eq!(shown["state"], "unreachable");
    assert_eq!(shown["last_error"], "connection refused");
    assert_eq!((&shown["models"], &shown["latency_ms"]), (&json!(0), &Value::Null));
    (0..2).for_each(|_| drop(proxy.ask("/api/chat", chat("Hi"))));
    let shown = await_status(&proxy, |it| it["upstreams"][0]["circuit"] == "open");
    assert_eq!(shown["upstreams"][0]["state"], "unreachable");
}

#[test]
fn an_error_of_the_upstream_is_told_by_its_status_and_a_success_ends_the_trouble() {
    let (upstream, proxy) = asking_once();
    for (code, state) in [(503, "failing"), (401, "failing"), (400, "ok")] {
        upstream.script(vec![status(code, &[], r#"{"error":{"message":"some words of it"}}"#)]);
        upstream.script(vec![status(code, &[], r#"{"error":{"message":"some words of it"}}"#)]);
        proxy.ask("/v1/completions", r#"{"model":"m","prompt":"Hi"}"#);
        let shown = proxy.get("/status.json");
        let shown = &shown["upstreams"][0];
        assert_eq!(shown["state"], state, "{code}");
        let told = shown["last_error"].as_str().unwrap_or_default();
        assert!(told.starts_with(&format!("the upstream returned status {code}")), "{told}");
        assert!(!proxy.fetch("/status.json").body.contains("some words"));
        upstream.clear();
    }
    upstream.script(stream(&["a"]));
    proxy.ask("/api/chat", chat("Hi"));
    assert_eq!(proxy.get("/status.json")["upstreams"][0]["state"], "ok");
}

#[test]
fn looking_asks_an_upstream_for_its_list_once_and_for_nothing_else() {
    let (upstream, proxy) = pair();
    upstream.script_lists();
    let list = r#"{"data":[{"id":"one"},{"id":"gpt-4o","owned_by":"openai"}]}"#;
    upstream.script(vec![json(list)]);
    let shown = await_status(&proxy, |it| it["models_total"] == 2);
    for _ in 0..20 {
        proxy.fetch("/status.json");
    }
    let asked = upstream.request();
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("GET", "/v1/models"));
    assert!(upstream.is_idle());
    let first = &shown["upstreams"][0];
    assert_eq!((&first["models"], &first["state"]), (&json!(2), &json!("ok")));
    assert!(first["latency_ms"].is_u64() && first["list_age_s"].is_u64());
    assert_eq!((&first["list_stale"], &first["name"]), (&json!(false), &json!("default")));
    assert_eq!(first["base_url"], upstream.base_url());
    let model = &shown["models"][1];
    assert_eq!((&model["name"], &model["upstream"]), (&json!("gpt-4o"), &json!("default")));
    assert_eq!((&model["target"], &model["context_length"]), (&Value::Null, &json!(128_000)));
    assert_eq!(model["capabilities"], json!(["completion", "tools", "vision"]));
}

#[test]
fn names_show_where_they_go() {
    let fleet = fleet(&[&["a", "both"], &["both"]], |config| {
        config.models = vec![configured("mine", &["b/both", "a/a"], Strategy::Order)];
        config.models[0].context_length = Some(4096);
    });
    fleet.proxy.fetch("/api/tags");
    let create = json!({"model": "made", "from": "a", "stream": false});
    assert_eq!(fleet.proxy.post("/api/create", &create).status(), 200);
    let shown = await_status(&fleet.proxy, |it| it["models_total"] == 4);
    assert_eq!(shown["models"][0]["context_length"], 4096);
    let names = shown["models"].as_array().expect("a list").iter();
    let shown: Vec<_> = names.map(|it| [&it["name"], &it["upstream"], &it["target"]]).collect();
    let row = |name: &str, upstream: &str, target: Option<&str>| {
        [json!(name), json!(upstream), target.map_or(Value::Null, |it| json!(it))]
    };
    let expected = [
        row("mine", "b, a", Some("both")),
        row("made", "a", Some("a")),
        row("a", "a", None),
        row("both", "a, b", None),
    ];
    let expected: Vec<_> = expected.iter().map(|row| [&row[0], &row[1], &row[2]]).collect();
    assert_eq!(shown, expected);
}

#[test]
fn at_most_500_models_are_listed_and_all_are_counted() {
    let (upstream, proxy) = pair();
    let ids: Vec<String> = (0..700).map(|number| format!(r#"{{"id":"m{number}"}}"#)).collect();
    upstream.list(&format!(r#"{{"data":[{}]}}"#, ids.join(",")));
    let shown = await_status(&proxy, |it| it["models_total"] == 700);
    assert_eq!(shown["models"].as_array().map(Vec::len), Some(500));
}

#[test]
fn a_repair_shows_with_what_the_upstream_said() {
    let (upstream, proxy) = pair();
    let refusal = r#"{"error":{"message":"Unrecognized request argument supplied: seed"}}"#;
    upstream.script(vec![status(400, &[], refusal)]).script(vec![answer("Hi")]);
    let body = json!({"model": "m", "stream": false, "options": {"seed": 7},
        "messages": [{"role": "user", "content": "Hello"}]});
    assert_eq!(proxy.post("/api/chat", &body).status(), 200);
    let shown = proxy.get("/status.json")["repairs"].clone();
    let expected = json!([{"upstream": "default", "model": "m", "repair": "seed removed",
        "reason": "Unrecognized request argument supplied: seed", "age_s": 0}]);
    let mut shown = shown;
    shown[0]["age_s"] = json!(0);
    assert_eq!(shown, expected);
}

#[test]
fn the_configuration_shows_as_check_prints_it_with_keys_masked() {
    let (_upstream, proxy) = pair_with(|config| {
        config.max_queue = 77;
        config.upstream.api_key = Some(Secret::new("upstream-key-5ec2e7"));
    });
    let shown = proxy.get("/status.json");
    let value = |name: &str| {
        let config = shown["config"].as_array().expect("a list");
        let found = config.iter().find(|it| it["name"] == name).unwrap_or(&Value::Null);
        found["value"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(value("OLLAMA_MAX_QUEUE"), "77");
    assert_eq!(value("PROXY_WORKERS"), "16");
    assert!(value("OPENAI_API_KEY").starts_with("***"), "{}", value("OPENAI_API_KEY"));
    assert!(!proxy.fetch("/status.json").body.contains("5ec2e7"));
}

#[test]
fn requests_that_only_ask_how_the_server_does_are_not_among_the_last_ones() {
    let proxy = Proxy::start(&Upstream::start());
    for path in ["/", "/health", "/ready", "/metrics", "/api/version", "/status", "/status.json"] {
        proxy.fetch(path);
    }
    proxy.fetch("/api/ps");
    proxy.fetch("/nothing");
    let shown = await_recent(&proxy, 2);
    assert_eq!(
        (&shown["recent"][0]["route"], &shown["recent"][0]["error"]),
        (&json!("other"), &json!("unknown_route"))
    );
    assert_eq!(
        (&shown["recent"][1]["route"], &shown["recent"][1]["model"]),
        (&json!("/api/ps"), &Value::Null)
    );
}

#[test]
fn keys_with_names_show_what_they_use_and_one_for_some_models_sees_these_only() {
    let upstream = Upstream::start();
    upstream.list(r#"{"data":[{"id":"mine"},{"id":"other"}]}"#);
    let proxy = Proxy::with(&upstream, |config| {
        let lines =
            "alice:alice-key-1 models=mi* tokens_per_day=100\nbob:bobs-key-2\nplain-key-3\n";
        config.proxy_api_keys = ClientKeys::parse_file(lines.as_bytes()).expect("keys");
    });
    let with_key = |key: &str, method: &str, path: &str, body: &str| {
        let line = format!("x-api-key: {key}\r\n");
        proxy.client().with(method, path, &line, body).any_answer(method)
    };
    let chat = |model: &str| format!(r#"{{"model":"{model}","messages":[]}}"#);
    for (key, model, status) in [
        ("alice-key-1", "mine", 200),
        ("alice-key-1", "other", 403),
        ("bobs-key-2", "other", 200),
        ("plain-key-3", "mine", 200),
    ] {
        upstream.clear();
        upstream.script(told(USAGE));
        let body = chat(model).replacen('{', r#"{"stream":true,"#, 1);
        let answer = with_key(key, "POST", "/v1/chat/completions", &body);
        assert_eq!(answer.status(), status, "{key} {model}");
    }
    let shown = |key: &str, requests: usize| {
        let began = std::time::Instant::now();
        loop {
            let shown = with_key(key, "GET", "/status.json", "").json();
            let is_there =
                |member: &str, count| shown[member].as_array().is_some_and(|it| it.len() == count);
            if is_there("recent", requests) && !is_there("models", 0) {
                return shown;
            }
            assert!(began.elapsed() < HANG, "{shown:#}");
        }
    };
    let all = shown("plain-key-3", 4);
    let alice = json!({"name": "alice", "requests": 2, "refused": 1, "tokens_in": 9, "tokens_out": 12,
        "tokens_today": 21, "requests_per_minute": null, "tokens_per_day": 100, "max_parallel": null,
        "in_flight": 0, "models": ["mi*"]});
    assert_eq!(all["keys"][0], alice);
    assert_eq!((&all["keys"][1]["name"], &all["keys"][1]["requests"]), (&json!("bob"), &json!(1)));
    let names: Vec<_> = (0..4).map(|at| all["recent"][at]["key"].clone()).collect();
    assert_eq!(names, [Value::Null, json!("bob"), json!("alice"), json!("alice")]);
    assert_eq!((&all["models_total"], &all["recent"][2]["status"]), (&json!(2), &json!(403)));
    // Looking costs a key nothing.
    let own = shown("alice-key-1", 2);
    assert_eq!((&own["keys"], &own["models_total"]), (&json!([alice]), &json!(1)));
    assert_eq!(own["models"][0]["name"], "mine");
    let body = own.to_string();
    assert!(
        !body.contains("bob") && !body.contains("\"other\"") && !body.contains("key-2"),
        "{body}"
    );
}
