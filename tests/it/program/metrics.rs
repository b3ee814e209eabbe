//! `/metrics`: its format, and that its numbers match what happened.

use crate::support::*;
use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The samples by their names with their labels, as they are written.
struct Samples(BTreeMap<String, f64>);

impl Samples {
    fn of(proxy: &Proxy) -> Self {
        let answer = proxy.fetch("/metrics");
        assert_eq!((answer.status(), answer.head.header("content-type")), (200, Some(TYPE)));
        Self::read(&answer.body)
    }

    /// The samples once this many requests have been counted, beside those for the samples: an answer
    /// is counted after its client has seen its end.
    fn after(proxy: &Proxy, requests: f64) -> Self {
        let deadline = Instant::now() + HANG;
        loop {
            let samples = Self::of(proxy);
            let others = samples.0.iter().filter(|(series, _)| {
                series.starts_with("ollama_proxy_requests_total") && !series.contains("/metrics")
            });
            let counted: f64 = others.map(|(_, count)| count).sum();
            if counted >= requests {
                assert!((counted - requests).abs() < 0.5, "{counted} requests");
                return samples;
            }
            assert!(Instant::now() < deadline, "{counted} requests");
        }
    }

    /// Parses the text, and checks its format.
    fn read(text: &str) -> Self {
        let text = text.strip_suffix("# EOF\n").expect("the end is marked, and is the end");
        let (mut samples, mut families) = (BTreeMap::new(), HashSet::new());
        let (mut family, mut kind) = (String::new(), String::new());
        for line in text.lines() {
            if let Some(head) = line.strip_prefix("# ") {
                let mut words = head.splitn(3, ' ');
                let mut word = || words.next().expect("three words");
                let (what, name, rest) = (word(), word(), word());
                match what {
                    "TYPE" => {
                        assert!(families.insert(name.to_owned()), "{name} is there twice");
                        (family, kind) = (name.to_owned(), rest.to_owned());
                    }
                    "UNIT" => assert!(name == family && name.ends_with(&format!("_{rest}"))),
                    "HELP" => assert!(name == family && rest.ends_with('.'), "{line}"),
                    _ => panic!("{line}"),
                }
                continue;
            }
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let name = series.split('{').next().unwrap_or_default();
            let suffix = name.strip_prefix(&family).unwrap_or_else(|| panic!("{line} in {family}"));
            let allowed: &[&str] = match kind.as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "info" => &["_info"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => panic!("{kind}"),
            };
            assert!(allowed.contains(&suffix), "{line}");
            labels(&series[name.len()..]);
            let value: f64 = value.parse().expect("a number");
            assert!(value >= 0.0, "{line}");
            assert_eq!(samples.insert(series.to_owned(), value), None, "{series} is there twice");
        }
        Self(samples).with_whole_histograms()
    }

    /// Asserts that the buckets of each histogram grow, and that the last counts all.
    fn with_whole_histograms(self) -> Self {
        for (series, count) in self.0.iter().filter(|(series, _)| series.contains("_count")) {
            let label = series.split_once('{').expect("labels").1.trim_end_matches('}');
            let before = series.split("_count").next().unwrap_or_default();
            let buckets = format!("{before}_bucket{{{label},le=\"");
            let mut bounds: Vec<(f64, f64)> = Vec::new();
            for (series, value) in &self.0 {
                if let Some(bound) = series.strip_prefix(&buckets) {
                    let bound = bound.trim_end_matches("\"}").trim_start_matches('+');
                    bounds.push((bound.parse().expect("a bound"), *value));
                }
            }
            bounds.sort_by(|one, other| one.0.total_cmp(&other.0));
            assert!(bounds.is_sorted_by_key(|(_, value)| *value), "{series}");
            assert_eq!(bounds.last(), Some(&(f64::INFINITY, *count)), "{series}");
            assert!(self.0.contains_key(&series.replace("_count", "_sum")), "{series}");
        }
        self
    }

    #[track_caller]
    fn is(&self, series: &str, value: f64) {
        let found = self.0.get(&format!("ollama_proxy_{series}"));
        assert_eq!(found, Some(&value), "{series}\n{:#?}", self.0);
    }
}

/// Asserts that labels are formatted correctly.
fn labels(text: &str) {
    if text.is_empty() {
        return;
    }
    let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).expect("braces");
    let mut rest = inner;
    loop {
        let (name, value) = rest.split_once("=\"").expect("a label");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{text}");
        let mut escaped = false;
        let end = value.find(|character| {
            let ends = character == '"' && !escaped;
            escaped = character == '\\' && !escaped;
            ends
        });
        rest = &value[end.expect("the value ends") + 1..];
        if rest.is_empty() {
            return;
        }
        rest = rest.strip_prefix(',').expect("another label");
    }
}

#[test]
fn what_happened_is_counted() {
    let error = r#"{"error":{"message":"not now","code":"content_filter"}}"#;
    let (upstream, proxy) = pair();
    upstream
        .script(upstream::stream(&["Hel", "lo"]))
        .script(vec![status(500, &[], r#"{"error":{"message":"not now"}}"#)])
        .script(vec![answer("Hi")])
        .script(vec![status(400, &[], error)])
        .script(vec![stream_head(), delta("a"), Step::Close]);
    let mut client = proxy.client();
    assert_eq!(client.post("/api/chat", chat("Hi")).answer().status(), 200);
    assert_eq!(client.post("/api/chat", chat_whole("Hi")).answer().status(), 200);
    assert_eq!(client.post("/api/chat", chat_whole("Hi")).answer().status(), 400);
    assert_eq!(client.post("/api/chat", chat("Hi")).answer().lines().len(), 2);
    assert_eq!(client.get("/secret/path?x=y").answer().status(), 404);
    assert_eq!(client.request("HEAD", "/api/blobs/sha256:00").head().status, 400);
    assert_eq!(client.get("/api/chat").answer().status(), 405);
    let samples = Samples::after(&proxy, 7.0);
    let paths = |series: &String| series.contains("secret") || series.contains("sha256");
    assert!(!samples.0.keys().any(paths), "no path of a client's own");
    samples.is("requests_total{route=\"/api/chat\",model=\"m\",status=\"200\"}", 3.0);
    samples.is("requests_total{route=\"/api/chat\",model=\"m\",status=\"400\"}", 1.0);
    samples.is("requests_total{route=\"/api/chat\",model=\"\",status=\"405\"}", 1.0);
    samples.is("requests_total{route=\"other\",model=\"\",status=\"404\"}", 1.0);
    samples.is("requests_total{route=\"/api/blobs/:digest\",model=\"\",status=\"400\"}", 1.0);
    samples.is("request_errors_total{kind=\"upstream_status\"}", 1.0);
    samples.is("request_errors_total{kind=\"upstream_closed\"}", 1.0);
    samples.is("upstream_attempts_total{upstream=\"default\"}", 5.0);
    samples.is("upstream_retries_total{upstream=\"default\"}", 1.0);
    samples.is("upstream_failures_total{upstream=\"default\",kind=\"upstream_status\"}", 2.0);
    samples.is("upstream_failures_total{upstream=\"default\",kind=\"upstream_closed\"}", 1.0);
    samples.is("tokens_total{model=\"m\",kind=\"prompt\"}", 10.0);
    samples.is("tokens_total{model=\"m\",kind=\"completion\"}", 4.0);
    samples.is("request_duration_seconds_count{route=\"/api/chat\"}", 5.0);
    samples.is("time_to_first_token_seconds_count{model=\"m\"}", 2.0);
    samples.is("circuit_state{upstream=\"default\",state=\"closed\"}", 1.0);
    samples.is("circuit_state{upstream=\"default\",state=\"open\"}", 0.0);
    samples.is("workers", 16.0);
    samples.is("queue_limit", 512.0);
    samples.is("open_streams{upstream=\"default\"}", 0.0);
    samples.is(&format!("build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1.0);
}

#[test]
fn what_is_happening_is_seen() {
    let (upstream, proxy) = pair();
    let (go_on, told) = bounded::<()>(0);
    upstream.script(ended(vec![stream_head(), delta("one"), Step::Wait(told)]));
    let mut client = proxy.client();
    client.post("/api/chat", chat("Hi")).head();
    let samples = Samples::of(&proxy);
    samples.is("open_streams{upstream=\"default\"}", 1.0);
    samples.is("queue_length", 0.0);
    assert!(samples.0["ollama_proxy_workers_busy"] >= 1.0);
    drop(go_on);
    while client.frame().is_some() {}
    Samples::after(&proxy, 1.0).is("open_streams{upstream=\"default\"}", 0.0);
}

#[test]
fn who_is_turned_away_counts_too() {
    let (proxy, busy) = full_queue("", |_| {});
    let answer = proxy.ask("/api/generate", "{}");
    assert_eq!(answer.status(), 503);
    assert_eq!(busy.answer().lines().len(), 2);
    // The worker may not be idle yet.
    let deadline = Instant::now() + HANG;
    let samples = loop {
        let answer = proxy.fetch("/metrics");
        if answer.status() == 200 {
            break Samples::read(&answer.body);
        }
        assert!(Instant::now() < deadline);
    };
    samples.is("requests_total{route=\"/api/generate\",model=\"\",status=\"503\"}", 1.0);
    assert!(samples.0["ollama_proxy_request_errors_total{kind=\"busy\"}"] >= 1.0);
    samples.is("queue_length", 0.0);
}

#[test]
fn names_that_clients_make_up_are_not_told() {
    let (upstream, proxy) = asking_once();
    let body = |name: &str| chat("Hi").replace("\"m\"", &serde_json::Value::from(name).to_string());
    let unknown = r#"{"error":{"message":"The model does not exist","code":"model_not_found"}}"#;
    for number in 0..5 {
        upstream.script(vec![status(404, &[], unknown)]);
        let name = format!("invented-{number}");
        assert_eq!(proxy.ask("/api/chat", body(&name)).status(), 404);
    }
    // One that exists, and says a lot.
    let odd = "o\"d}\\d,x=\"";
    upstream.list(r#"{"data":[{"id":"m"},{"id":"o\"d}\\d,x=\""}]}"#);
    upstream.script(upstream::stream(&["ok"]));
    assert_eq!(proxy.ask("/api/chat", body(odd)).status(), 200);
    let samples = Samples::after(&proxy, 6.0);
    assert!(!samples.0.keys().any(|series| series.contains("invented")));
    samples.is("requests_total{route=\"/api/chat\",model=\"other\",status=\"404\"}", 5.0);
    let odd = odd.replace('\\', "\\\\").replace('"', "\\\"");
    let series = format!("requests_total{{route=\"/api/chat\",model=\"{odd}\",status=\"200\"}}");
    samples.is(&series, 1.0);
}

#[test]
fn no_route_makes_a_label_of_a_name_that_a_client_made_up() {
    let (upstream, proxy) = asking_once();
    let failed = r#"{"error":{"message":"The model does not exist","code":"model_not_found"}}"#;
    let mut requests = 0.0;
    let mut ask = |path: &str, name: &str, scripted: Option<Vec<Step>>| {
        scripted.into_iter().for_each(|steps| {
            upstream.script(steps);
        });
        let body = json!({
            "model": name, "source": "m", "destination": name, "from": "m", "input": "Hi",
            "prompt": "Hi", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]
        });
        requests += 1.0;
        proxy.post(path, &body)
    };
    for path in ["/api/pull", "/api/push", "/api/show", "/api/create", "/api/copy"] {
        ask(path, &format!("invented-{}", path.len()), None);
    }
    for path in [
        "/api/chat", "/api/generate", "/api/embed", "/v1/chat/completions", "/v1/completions",
        "/v1/embeddings", "/v1/messages",
    ] {
        ask(path, "invented", Some(vec![status(404, &[], failed)]));
        // A success that is an error.
        ask(path, "invented", Some(vec![upstream::json(failed)]));
    }
    // Spellings of a model are the model.
    for name in ["m:latest", "M", "library/m"] {
        ask("/api/chat", name, Some(upstream::stream(&["ok"])));
        assert_eq!(ask("/api/pull", name, None).lines().len(), 4, "{name}");
    }
    let samples = Samples::after(&proxy, requests);
    assert!(!samples.0.keys().any(|series| series.contains("invented")), "{:#?}", samples.0);
    samples.is("requests_total{route=\"/api/chat\",model=\"m\",status=\"200\"}", 3.0);
    samples.is("requests_total{route=\"/api/pull\",model=\"m\",status=\"200\"}", 3.0);
    samples.is("requests_total{route=\"/api/pull\",model=\"other\",status=\"200\"}", 1.0);
}

#[test]
fn every_request_that_fails_counts_as_an_error() {
    let (upstream, proxy) = asking_once();
    let failed = r#"{"error":{"message":"no"}}"#;
    let whole = |name: &str| json!({"model": name, "stream": false});
    proxy.post("/api/pull", &json!({"model": "nope"}));
    proxy.post("/api/pull", &whole("nope"));
    proxy.post("/api/push", &whole("nope"));
    proxy.post("/api/push", &json!({"model": "m"}));
    proxy.post("/api/create", &json!({"model": "new", "from": "nope"}));
    let chat = chat("Hi");
    for code in [400, 404, 429, 500] {
        upstream.script(vec![status(code, &[], failed)]);
        assert_eq!(proxy.ask("/v1/chat/completions", &chat).status(), code);
    }
    upstream.script(vec![upstream::json(failed)]);
    assert_eq!(proxy.ask("/v1/chat/completions", &chat).body, failed);
    let reported = format!("data: {failed}\n\n");
    upstream.script(ended(vec![stream_head(), delta("a"), frame(&reported)]));
    assert!(proxy.ask("/v1/chat/completions", &chat).body.contains(&reported));
    let samples = Samples::after(&proxy, 11.0);
    samples.is("request_errors_total{kind=\"model_not_found\"}", 4.0);
    samples.is("request_errors_total{kind=\"unsupported\"}", 1.0);
    samples.is("request_errors_total{kind=\"upstream_status\"}", 4.0);
    samples.is("request_errors_total{kind=\"upstream_in_band\"}", 2.0);
}

#[test]
fn a_head_is_that_of_the_text_without_it() {
    let (_upstream, proxy) = pair();
    for (path, kind) in [("/metrics", TYPE), ("/ready", "application/json; charset=utf-8")] {
        let mut client = proxy.client();
        let head = client.request("HEAD", path).head();
        assert_eq!((head.status, head.header("content-type")), (200, Some(kind)));
        assert!(head.header("content-length").is_some_and(|length| length != "0"));
        // The next response follows directly.
        assert_eq!(client.get("/health").answer().status(), 200);
        assert_eq!(client.post(path, "").answer().status(), 405);
    }
}

#[test]
fn it_is_ready_while_it_can_serve() {
    let (upstream, proxy) = pair();
    let answer = proxy.fetch("/ready");
    assert_eq!((answer.status(), answer.json()), (200, serde_json::json!({"status": "ready"})));
    assert!(upstream.is_idle(), "the upstream is not asked");
}
