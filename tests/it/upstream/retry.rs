//! Retries: what is retried, how often and after which delay. The sleep function is the test's own,
//! so no test waits.

use crate::support::reserved::Reserved;
use crate::support::*;
use ollama_openai_proxy::upstream::RetryEnv;
use std::time::Duration;

struct Outcome {
    answer: Answer,
    attempts: usize,
    sleeps: Vec<Duration>,
}

fn ask(scripts: Vec<Vec<Step>>) -> Outcome {
    let (upstream, proxy) = pair();
    for script in scripts {
        upstream.script(script);
    }
    let answer = proxy.ask("/api/chat", chat_whole("Hi"));
    let mut attempts = 0;
    while !upstream.is_idle() {
        upstream.request();
        attempts += 1;
    }
    Outcome { answer, attempts, sleeps: proxy.sleeps.try_iter().collect() }
}

fn seconds(list: &[f64]) -> Vec<Duration> {
    list.iter().copied().map(Duration::from_secs_f64).collect()
}

const ERROR: &str = r#"{"error":{"message":"not now","type":"t","param":null,"code":null}}"#;

#[test]
fn passing_failures_are_tried_again_until_one_answer_is_good() {
    for code in [408, 409, 424, 429, 500, 502, 503, 504, 524, 529] {
        let it = ask(vec![vec![status(code, &[], ERROR)], vec![answer("ok")]]);
        assert_eq!((it.answer.status(), it.attempts), (200, 2), "{code}");
        assert_eq!(it.answer.json()["message"]["content"], "ok");
        assert_eq!(it.sleeps, seconds(&[1.0]), "{code}");
    }
}

#[test]
fn after_three_retries_the_last_error_is_told() {
    let scripts = (0..5).map(|_| vec![status(503, &[], ERROR)]).collect();
    let it = ask(scripts);
    assert_eq!((it.answer.status(), it.answer.error().as_str()), (503, "not now"));
    assert_eq!(it.attempts, 4);
    assert_eq!(it.sleeps, seconds(&[1.0, 2.0, 4.0]));
}

#[test]
fn lasting_failures_are_not_tried_again() {
    for code in [400, 401, 402, 403, 405, 413, 422, 501] {
        // A policy: a request that is only rejected is sent in another form.
        let error = r#"{"error":{"message":"not now","code":"content_filter"}}"#;
        let it = ask(vec![vec![status(code, &[], error)], vec![answer("never")]]);
        assert_eq!((it.answer.status(), it.attempts), (code, 1));
        assert_eq!(it.answer.error(), "not now");
        assert!(it.sleeps.is_empty());
    }
}

#[test]
fn a_spent_quota_is_not_tried_again() {
    let quota = r#"{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","code":"insufficient_quota"}}"#;
    let it = ask(vec![vec![status(429, &[], quota)]]);
    assert_eq!((it.answer.status(), it.attempts), (429, 1));
    assert_eq!(it.answer.error(), "You exceeded your current quota");
}

#[test]
fn permanent_errors_of_llama_cpp_are_not_tried_again() {
    let text = r#"{"error":{"code":500,"message":"image input is not supported - hint: if this is unexpected, you may need to provide the mmproj","type":"server_error"}}"#;
    assert_eq!(ask(vec![vec![status(500, &[], text)]]).attempts, 1);
}

#[test]
fn the_delay_that_the_upstream_asks_for_wins() {
    let check = |headers: &[(&str, &str)], expected: &[f64]| {
        let it = ask(vec![vec![status(429, headers, ERROR)], vec![answer("ok")]]);
        assert_eq!((it.answer.status(), it.sleeps), (200, seconds(expected)), "{headers:?}");
    };
    check(&[("Retry-After", "7")], &[7.0]);
    check(&[("Retry-After", "0.5")], &[0.5]);
    check(&[("retry-after-ms", "1500"), ("retry-after", "60")], &[1.5]);
    check(&[("Retry-After", "Thu, 01 Jan 1970 00:00:00 GMT")], &[1.0]);
    check(&[("Retry-After", "soon")], &[1.0]);
}

#[test]
fn a_delay_that_only_the_message_asks_for_counts_too() {
    let error = |text: &str| format!(r#"{{"error":{{"message":"{text}","type":"tokens"}}}}"#);
    let check = |headers: &[(&str, &str)], text: &str, expected: f64| {
        let it = ask(vec![vec![status(429, headers, &error(text))], vec![answer("ok")]]);
        assert_eq!((it.answer.status(), it.sleeps), (200, seconds(&[expected])), "{text}");
    };
    check(&[], "Rate limit reached. Please try again in 1.2s.", 1.2);
    check(&[], "Rate limit reached. Please try again in 350ms.", 0.35);
    check(&[("Retry-After", "7")], "Please try again in 1.2s.", 7.0);
    let long = ask(vec![vec![status(429, &[], &error("Please try again in 6m0.5s."))]]);
    assert_eq!((long.answer.status(), long.attempts), (429, 1));
    assert_eq!(long.answer.head.header("retry-after"), Some("361"));
}

#[test]
fn a_server_that_is_loading_its_model_is_asked_each_second_beside_all_other_retries() {
    let loading = r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#;
    let mut scripts: Vec<_> = (0..7).map(|_| vec![status(503, &[], loading)]).collect();
    scripts.insert(3, vec![status(502, &[], ERROR)]);
    scripts.push(vec![answer("ok")]);
    let it = ask(scripts);
    assert_eq!((it.answer.status(), it.attempts), (200, 9));
    assert_eq!(it.sleeps, seconds(&[1.0; 8]));
}

#[test]
fn a_model_that_never_loads_is_given_up_after_five_minutes() {
    let loading = r#"{"error":{"code":503,"message":"Loading model"}}"#;
    let it = ask((0..302).map(|_| vec![status(503, &[], loading)]).collect());
    assert_eq!((it.answer.status(), it.answer.error().as_str()), (503, "Loading model"));
    assert_eq!((it.attempts, it.sleeps.len()), (301, 300));
}

#[test]
fn a_request_that_is_too_large_is_not_tried_again_whatever_it_is_called() {
    let text = r#"{"error":{"message":"Request too large for model `m`: Limit 6000, Requested 8000. Please try again in 1s.","type":"tokens","code":"rate_limit_exceeded"}}"#;
    for code in [413, 429] {
        let it = ask(vec![vec![status(code, &[], text)]]);
        assert_eq!((it.answer.status(), it.attempts, it.sleeps.len()), (code, 1, 0));
    }
}

#[test]
fn a_delay_as_a_date_is_understood() {
    let date = httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(90));
    let it = ask(vec![vec![status(503, &[("Retry-After", &date)], ERROR)], vec![answer("ok")]]);
    assert_eq!(it.sleeps.len(), 1);
    let slept = it.sleeps[0];
    assert!(slept > Duration::from_secs(60) && slept <= Duration::from_secs(90), "{slept:?}");
}

#[test]
fn who_asks_for_too_long_a_delay_is_not_asked_again_and_the_client_learns_it() {
    let it = ask(vec![vec![status(429, &[("Retry-After", "3600")], ERROR)]]);
    assert_eq!((it.answer.status(), it.attempts), (429, 1));
    assert_eq!(it.answer.head.header("retry-after"), Some("3600"));
}

#[test]
fn x_should_retry_decides() {
    let no = ask(vec![vec![status(500, &[("x-should-retry", "false")], ERROR)]]);
    assert_eq!((no.answer.status(), no.attempts), (500, 1));
    let yes =
        ask(vec![vec![status(400, &[("x-should-retry", "true")], ERROR)], vec![answer("ok")]]);
    assert_eq!((yes.answer.status(), yes.attempts), (200, 2));
}

#[test]
fn a_connection_closed_before_the_answer_is_tried_again_at_once() {
    for end in [Step::Close, Step::Reset] {
        let it = ask(vec![vec![end], vec![answer("ok")]]);
        assert_eq!((it.answer.status(), it.attempts), (200, 2));
        assert_eq!(it.sleeps, [Duration::ZERO]);
    }
}

#[test]
fn a_refused_connection_is_tried_again_and_then_told() {
    let nobody = Reserved::new();
    let proxy = Proxy::at(&nobody.base_url(), |_| {});
    let answer = proxy.ask("/api/chat", chat("Hi"));
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.error(), "cannot reach the upstream: connection refused");
    assert_eq!(proxy.sleeps.try_iter().collect::<Vec<_>>(), seconds(&[1.0, 2.0, 4.0]));
}

#[test]
fn an_unknown_host_is_told() {
    let proxy = Proxy::at("http://no-such-host.invalid/v1", |config| config.retry.max_retries = 0);
    let answer = proxy.ask("/api/chat", chat("Hi"));
    assert_eq!(answer.status(), 502);
    let told = "cannot reach the upstream: cannot resolve the host name: ";
    assert!(answer.error().starts_with(told), "{}", answer.error());
}

#[test]
fn a_head_that_does_not_come_in_time_is_a_timeout() {
    let (upstream, proxy) = pair_with(|config| {
        config.request_timeout = Duration::from_millis(100);
        config.retry.max_retries = 1;
    });
    let (_keep, never) = bounded(0);
    let (_keep_too, never_too) = bounded(0);
    upstream.script(vec![Step::Wait(never)]).script(vec![Step::Wait(never_too)]);
    proxy
        .ask("/api/chat", chat_whole("Hi"))
        .assert_error(504, "no response from the upstream within REQUEST_TIMEOUT");
    assert_eq!(proxy.sleeps.len(), 1);
}

#[test]
fn silence_within_a_stream_is_a_timeout_and_not_tried_again() {
    let (upstream, proxy) = pair_with(|config| {
        config.request_timeout = Duration::from_millis(100);
    });
    let (_keep, never) = bounded(0);
    upstream.script(vec![stream_head(), delta("one"), Step::Wait(never)]);
    let lines = proxy.ask("/api/chat", chat("Hi")).lines();
    let error = "the upstream sent nothing for REQUEST_TIMEOUT in the middle of its response";
    assert_eq!(lines.last().expect("lines"), &serde_json::json!({"error": error}));
    upstream.request();
    assert!(upstream.is_idle() && proxy.sleeps.is_empty());
}

#[test]
fn nothing_is_tried_again_after_the_first_line() {
    let (upstream, proxy) = pair();
    upstream.script(vec![stream_head(), delta("one"), Step::Close]).script(vec![answer("never")]);
    let lines = proxy.ask("/api/chat", chat("Hi")).lines();
    assert_eq!(lines.len(), 2);
    upstream.request();
    assert!(upstream.is_idle() && proxy.sleeps.is_empty());
}

#[test]
fn the_numbers_are_configurable() {
    let (upstream, proxy) = pair_with(|config| {
        config.retry.max_retries = 4;
        config.retry.initial_delay = Duration::from_millis(100);
        config.retry.max_delay = Duration::from_millis(300);
    });
    for _ in 0..9 {
        upstream.script(vec![status(500, &[], ERROR)]);
    }
    assert_eq!(proxy.ask("/api/chat", chat("Hi")).status(), 500);
    let sleeps: Vec<_> = proxy.sleeps.try_iter().collect();
    assert_eq!(sleeps, seconds(&[0.1, 0.2, 0.3, 0.3]));
}

#[test]
fn a_sleep_that_is_ended_by_the_stop_sign_ends_the_request() {
    let upstream = Upstream::start();
    upstream.script(vec![status(500, &[], ERROR)]);
    let pacing = RetryEnv { sleep: Box::new(|_| false), jitter: Box::new(|| 0.0) };
    let (server, _stop) = proxy::start(&upstream.base_url(), |_| {}, pacing);
    let mut client = crate::support::raw::Client::connect(server.local_addr());
    client.post("/api/chat", chat("Hi")).answer().assert_error(503, "server is shutting down");
}

#[test]
fn attempts_and_failures_are_counted() {
    let (upstream, proxy) = pair();
    upstream.script(vec![status(500, &[], ERROR)]).script(upstream::stream(&["ok"]));
    let mut client = proxy.client();
    client.post("/api/chat", chat("Hi")).answer();
    let health = client.get("/openai/health").answer();
    assert_eq!(health.status(), 200);
    let health = health.json();
    assert_eq!((&health["status"], &health["models_available"]), (&"healthy".into(), &3.into()));
    assert_eq!((&health["request_count"], &health["error_count"]), (&3.into(), &1.into()));
    assert!((health["error_rate"].as_f64().expect("a number") - 1.0 / 3.0).abs() < 1e-9);
}

#[test]
fn a_model_that_is_loading_is_waited_for() {
    // Fewer retries than the model takes.
    let (upstream, proxy) = pair_with(|config| config.retry.max_retries = 1);
    let loading = r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#;
    for _ in 0..3 {
        upstream.script(vec![status(503, &[], loading)]);
    }
    upstream.script(vec![answer("ok")]);
    let lines = proxy.ask(CHAT, chat("Hi")).lines();
    assert_eq!(lines[0]["message"]["content"], "ok");
    assert_eq!(proxy.sleeps.try_iter().collect::<Vec<_>>(), [Duration::from_secs(1); 3]);
}
