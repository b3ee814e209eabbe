//! The metrics count what happened, and no client can make their number grow without bound.

use super::*;

const OK: RequestRecord<'static> = RequestRecord {
    route: Some("/api/chat"),
    model: "m",
    known_model: Some("m"),
    status: Some(200),
    error_kind: None,
    client_left: false,
    denial: None,
    duration: Duration::from_millis(20),
    time_to_first_line: Some(Duration::from_millis(10)),
    tokens: (5, 2),
};

fn render(metrics: &Metrics) -> String {
    metrics.render(&[], &[], "0", SystemTime::UNIX_EPOCH)
}

#[track_caller]
fn has(text: &str, line: &str) {
    assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
}

#[test]
fn a_request_counts_once_by_route_model_and_status() {
    let metrics = Metrics::default();
    metrics.record_request(&OK);
    metrics.record_request(&RequestRecord {
        model: "m:latest",
        known_model: Some("m:latest"),
        ..OK
    });
    metrics.record_request(&RequestRecord {
        status: Some(502),
        error_kind: Some("connect"),
        tokens: (0, 0),
        ..OK
    });
    metrics.record_request(&RequestRecord {
        route: None,
        model: "",
        status: Some(404),
        time_to_first_line: None,
        ..OK
    });
    metrics.record_request(&RequestRecord { status: None, client_left: true, ..OK });
    let text = render(&metrics);
    let requests = "ollama_proxy_requests_total";
    has(&text, &format!("{requests}{{route=\"/api/chat\",model=\"m\",status=\"200\"}} 2"));
    has(&text, &format!("{requests}{{route=\"/api/chat\",model=\"m\",status=\"502\"}} 1"));
    has(&text, &format!("{requests}{{route=\"/api/chat\",model=\"m\",status=\"0\"}} 1"));
    has(&text, &format!("{requests}{{route=\"other\",model=\"\",status=\"404\"}} 1"));
    has(&text, "ollama_proxy_request_errors_total{kind=\"connect\"} 1");
    has(&text, "ollama_proxy_clients_left_total 1");
    has(&text, "ollama_proxy_tokens_total{model=\"m\",kind=\"prompt\"} 15");
    has(&text, "ollama_proxy_tokens_total{model=\"m\",kind=\"completion\"} 6");
    has(&text, "ollama_proxy_request_duration_seconds_count{route=\"/api/chat\"} 4");
    has(&text, "ollama_proxy_time_to_first_token_seconds_count{model=\"m\"} 4");
}

#[test]
fn only_streams_of_text_have_a_first_token() {
    let metrics = Metrics::default();
    metrics.record_request(&RequestRecord { route: Some("/api/pull"), ..OK });
    metrics.record_request(&RequestRecord { time_to_first_line: None, ..OK });
    assert!(!render(&metrics).contains("first_token_seconds_count"));
}

#[test]
fn a_name_that_no_upstream_answered_for_is_not_told() {
    let metrics = Metrics::default();
    metrics.record_request(&RequestRecord {
        model: "x\"}\n",
        known_model: None,
        status: Some(404),
        ..OK
    });
    metrics.record_request(&RequestRecord { model: "unasked", known_model: None, ..OK });
    metrics.record_request(&RequestRecord {
        known_model: Some(&"l".repeat(MAX_NAME_BYTES + 1)),
        ..OK
    });
    metrics.record_request(&RequestRecord { known_model: Some(OTHER), ..OK });
    let text = render(&metrics);
    has(&text, "ollama_proxy_requests_total{route=\"/api/chat\",model=\"other\",status=\"200\"} 3");
    assert!(!text.contains("unasked") && !text.contains("lll") && !text.contains("x\\\""));
    let known_model = Some("x\"}\n");
    metrics.record_request(&RequestRecord { model: "x", known_model, ..OK });
    metrics.record_request(&RequestRecord {
        model: "x\"}\n",
        known_model: None,
        status: Some(500),
        ..OK
    });
    has(
        &render(&metrics),
        "ollama_proxy_requests_total{route=\"/api/chat\",model=\"x\\\"}\\n\",status=\"500\"} 1",
    );
}

#[test]
fn no_client_can_make_it_grow_without_end() {
    let metrics = Metrics::default();
    for number in 0..20_000_u16 {
        let name = format!("model-{number}");
        metrics.record_request(&RequestRecord { model: &name, known_model: Some(&name), ..OK });
        // A model that is known, and a status that an upstream made up.
        metrics.record_request(&RequestRecord {
            known_model: Some("model-1"),
            status: Some(number % 5000),
            ..OK
        });
    }
    let finished = lock(&metrics.requests);
    assert_eq!(finished.models.len(), MAX_MODELS + 1, "these and `other`");
    assert!(finished.counts.len() <= MAX_SERIES + 100, "{}", finished.counts.len());
    assert_eq!(finished.counts.values().sum::<u64>(), 40_000, "and yet all are counted");
    assert_eq!(finished.durations.len(), 1);
}

#[test]
fn it_is_ready_unless_there_is_a_reason() {
    let metrics = Metrics::new(1, 1, &["no_key"]);
    let (closed, open) = ([CircuitState::Closed], [CircuitState::Open]);
    assert_eq!(metrics.check_ready(&closed), Ok(()));
    assert_eq!(metrics.check_ready(&[CircuitState::HalfOpen]), Ok(()), "or nobody would ever try");
    assert_eq!(metrics.check_ready(&open), Err("the upstream does not answer"));
    assert_eq!(metrics.check_ready(&[open[0]; 2]), Err("no upstream answers"));
    assert_eq!(metrics.check_ready(&[open[0], closed[0]]), Ok(()), "one is enough");
    let busy = metrics.busy_workers.track();
    assert_eq!(metrics.check_ready(&closed), Ok(()));
    let _queued = metrics.queued_requests.track();
    assert_eq!(metrics.check_ready(&closed), Err("workers and queue are full"));
    drop(busy);
    assert_eq!(metrics.check_ready(&closed), Ok(()));
    metrics.mark_stopping();
    assert_eq!(metrics.check_ready(&closed), Err("the server is shutting down"));
}

#[test]
fn a_gauge_never_shows_fewer_than_none() {
    let gauge = Gauge::default();
    gauge.dec();
    assert_eq!(gauge.get(), 0);
    gauge.set(7);
    assert_eq!(gauge.get(), 7);
}

#[test]
fn keys_have_metrics_by_their_names_and_without_names_there_are_none() {
    let metrics = Metrics::default();
    assert!(!render(&metrics).contains("_key_"));
    let refused =
        [("requests_per_minute", 3), ("tokens_per_day", 0), ("max_parallel", 0), ("x", 1)];
    let (name, tokens_today) = ("alice", Some(9));
    let key = KeyMetrics { name, requests: 5, refused, tokens: (7, 2), in_flight: 1, tokens_today };
    let other = KeyMetrics { name: "bob", tokens_today: None, ..key };
    let text = metrics.render(&[], &[key, other], "0", SystemTime::UNIX_EPOCH);
    for line in [
        "ollama_proxy_key_requests_total{key=\"alice\"} 5",
        "ollama_proxy_key_refused_total{key=\"alice\",reason=\"requests_per_minute\"} 3",
        "ollama_proxy_key_refused_total{key=\"bob\",reason=\"x\"} 1",
        "ollama_proxy_key_tokens_total{key=\"alice\",kind=\"prompt\"} 7",
        "ollama_proxy_key_tokens_total{key=\"alice\",kind=\"completion\"} 2",
        "ollama_proxy_key_requests_in_flight{key=\"alice\"} 1",
        "ollama_proxy_key_tokens_today{key=\"alice\"} 9",
        "ollama_proxy_access_refused_total{reason=\"max_parallel\"} 0",
    ] {
        has(&text, line);
    }
    assert!(!text.contains("tokens_today{key=\"bob\"}"));
}
