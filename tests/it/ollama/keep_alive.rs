//! `keep_alive`: accepted forms, how long a model stays loaded, and the errors for invalid values.

use crate::support::*;
use ollama_openai_proxy::api::wire::keep_alive::{KeepAlive, MAX_DURATION};
use ollama_openai_proxy::observe::timestamp;
use std::time::{Duration, SystemTime};

/// Asserts that the one loaded model expires `time` after `used` ran. The clock is read before and after
/// it, and the expiry lies between the two results.
fn expires_after(bench: &Bench, time: Duration, used: impl FnOnce(), row: &str) {
    let before = SystemTime::now();
    used();
    let after = SystemTime::now();
    let running = bench.get("/api/ps");
    let expires = running["models"][0]["expires_at"].as_str().expect("it is loaded");
    let expires = timestamp::parse_rfc3339(expires).expect("a time");
    assert!((before + time..=after + time).contains(&expires), "{row}: {running}");
}

#[test]
fn a_model_stays_as_long_as_keep_alive_says() {
    let bench = Bench::new();
    let hour = Duration::from_secs(3600);
    for (given, time) in [
        (json!(3600), hour),
        (json!(33.0), Duration::from_secs(33)),
        (json!(5400.5), Duration::from_millis(5_400_500)),
        (json!("5m"), hour / 12),
        (json!("5m0s"), hour / 12),
        (json!("1h30m"), hour * 3 / 2),
        (json!("1.5h"), hour * 3 / 2),
        (json!("24h"), hour * 24),
        // Every unit.
        (json!("3600000000000ns"), hour),
        (json!("3600000000us"), hour),
        (json!("3600000000\u{b5}s"), hour),
        (json!("3600000ms"), hour),
        (json!("3600s"), hour),
        (json!("60m"), hour),
        (json!("1h"), hour),
        // Forever.
        (json!(-1), MAX_DURATION),
        (json!(-0.5), MAX_DURATION),
        (json!("-1m"), MAX_DURATION),
        (json!("-1s"), MAX_DURATION),
    ] {
        for route in TEXT {
            let load = json!({"prompt": "", "messages": [], "keep_alive": given});
            let load = || assert_eq!(bench.ask(route, &load).status(), 200, "{given}");
            expires_after(&bench, time, load, &format!("{route} {given}"));
        }
    }
}

#[test]
fn every_use_counts_and_without_a_word_the_default_does_for_a_model_that_is_loaded() {
    let minutes = |count: u64| Duration::from_secs(60 * count);
    let (upstream, proxy) = pair_with(|config| config.keep_alive = KeepAlive::For(minutes(7)));
    let bench = Bench { upstream, proxy };
    for route in INFERENCE {
        for (change, time) in [
            (json!({}), minutes(7)),
            (json!({"keep_alive": null}), minutes(7)),
            (json!({"keep_alive": "9m"}), minutes(9)),
        ] {
            let ask = || drop(bench.sent(route, &change));
            expires_after(&bench, time, ask, &format!("{route} {change}"));
            bench.post(GENERATE, &json!({"model": "m", "keep_alive": 0}));
        }
    }
}

#[test]
fn a_loaded_model_keeps_its_time_until_another_one_is_said() {
    let bench = Bench::new();
    let hours = |count: u64| Duration::from_secs(3600 * count);
    for (change, time) in [
        (json!({"keep_alive": "3h"}), hours(3)),
        (json!({}), hours(3)),
        (json!({"keep_alive": null}), hours(3)),
        (json!({"keep_alive": "2h"}), hours(2)),
        (json!({}), hours(2)),
    ] {
        for route in INFERENCE {
            expires_after(&bench, time, || drop(bench.sent(route, &change)), &change.to_string());
        }
    }
}

#[test]
fn forever_shows_as_a_year_far_away() {
    let bench = Bench::new();
    bench.sent(CHAT, &json!({"keep_alive": -1}));
    let expires = bench.get("/api/ps")["models"][0]["expires_at"].clone();
    let year = expires.as_str().and_then(|time| time.get(..4)?.parse::<u32>().ok());
    // 292 years from now; valid for two centuries.
    assert!(year.is_some_and(|year| (2317..2517).contains(&year)), "{expires}");
}

#[test]
fn a_short_time_is_a_time_too() {
    let bench = Bench::new();
    for short in [json!("300ms"), json!(0.5)] {
        bench.sent(CHAT, &json!({"keep_alive": -1}));
        bench.sent(CHAT, &json!({"keep_alive": short}));
        let load = bench.post(GENERATE, &json!({"model": "m", "keep_alive": short}));
        assert_eq!(load.json()["done_reason"], "load", "{short}");
    }
    // The model may have expired already; in any case it is no longer loaded forever.
    let soon = SystemTime::now() + Duration::from_secs(60);
    for model in bench.get("/api/ps")["models"].as_array().expect("a list") {
        let expires = timestamp::parse_rfc3339(model["expires_at"].as_str().expect("a time"));
        assert!(expires.is_some_and(|expires| expires < soon), "{model}");
    }
}

#[test]
fn zero_unloads_after_the_answer() {
    let bench = Bench::new();
    for route in INFERENCE {
        for zero in [json!(0), json!(0.0), json!("0"), json!("0s"), json!("-0s")] {
            bench.sent(route, &json!({"keep_alive": "1h"}));
            assert_eq!(bench.get("/api/ps")["models"][0]["name"], "m:latest");
            // The request still goes upstream.
            bench.sent(route, &json!({"keep_alive": zero}));
            assert_eq!(bench.get("/api/ps"), json!({"models": []}), "{route} {zero}");
        }
    }
}

#[test]
fn a_keep_alive_that_is_none_is_refused_in_go_s_words() {
    let bench = Bench::new();
    for (given, text) in [
        (json!("10"), r#"time: missing unit in duration "10""#),
        (json!("-1"), r#"time: missing unit in duration "-1""#),
        (json!("abc"), r#"time: invalid duration "abc""#),
        (json!(""), r#"time: invalid duration """#),
        (json!("1d"), r#"time: unknown unit "d" in duration "1d""#),
        (json!(true), "Unsupported type: 'bool'"),
        (json!(["5m"]), "Unsupported type: '[]interface {}'"),
        (json!({"a": 1}), "Unsupported type: 'map[string]interface {}'"),
    ] {
        for route in INFERENCE {
            bench.refused(route, &json!({"keep_alive": given}), 400, text);
        }
    }
}
