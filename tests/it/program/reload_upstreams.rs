//! Reloads that change upstreams and models of the configuration file, and many of them under load.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::reload::{Folder, metric, reload, reloads, wait_until};
use crate::support::fleet::server;
use crate::support::program::Running;
use crate::support::restarting::Restarting;
use crate::support::*;
use ollama_openai_proxy::config::Config;
use ollama_openai_proxy::observe::redact::Secret;
use ollama_openai_proxy::upstream::ServerSettings;

/// The section of an upstream, with more lines at its end.
fn section(name: &str, upstream: &Upstream, more: &str) -> String {
    let base_url = upstream.base_url();
    format!("[[upstream]]\nname = \"{name}\"\nbase_url = \"{base_url}\"\n{more}\n")
}

/// The program with a configuration file in the folder.
fn start(folder: &Folder, text: &str) -> Running {
    let file = folder.write("proxy.toml", text);
    Running::start(
        folder
            .program()
            .env("PROXY_CONFIG", file)
            .env("RETRY_MAX", "0")
            .env("MAX_CONNECTIONS", "100"),
    )
}

fn ask(running: &Running, model: &str) -> Answer {
    let body = chat_whole("Hi").replacen("\"m\"", &format!("{model:?}"), 1);
    Client::connect(running.addr).post("/api/chat", body).answer()
}

#[test]
fn upstreams_and_models_are_added_changed_and_removed() {
    let folder = Folder::new("upstreams");
    let (first, second) = (Upstream::start(), Upstream::start());
    second.list(r#"{"data":[{"id":"extra"}]}"#);
    let mut file = section("first", &first, "api_key = \"key-of-first-1\"");
    let running = start(&folder, &file);
    // The only upstream is asked for whatever a client names.
    let unknown = r#"{"error":{"message":"no such model","code":"model_not_found"}}"#;
    first.script(vec![status(404, &[], unknown)]);
    assert_eq!(ask(&running, "extra").status(), 404);
    first.request();
    file += &section("second", &second, "");
    file += "[[model]]\nname = \"mine\"\nuse = [\"second/extra\"]\n";
    folder.write("proxy.toml", &file);
    reload(&running, "ok");
    for name in ["extra", "mine"] {
        second.script(vec![upstream::answer("ok")]);
        let answer = ask(&running, name);
        let found = (answer.status(), answer.head.header("x-upstream"));
        assert_eq!(found, (200, Some("second")), "{name}: {}", answer.body);
    }
    folder.write("proxy.toml", &section("first", &first, "api_key = \"key-of-first-2\""));
    reload(&running, "ok");
    for name in ["extra", "mine"] {
        first.script(vec![status(404, &[], unknown)]);
        assert_eq!(ask(&running, name).status(), 404, "{name}");
        first.request();
    }
    first.script(vec![upstream::answer("ok")]);
    assert_eq!(ask(&running, "m").status(), 200);
    assert_eq!(first.request().header("authorization"), Some("Bearer key-of-first-2"));
    let log = running.stop();
    for change in [
        "reloaded: upstream \"first\" kept, upstream \"second\" new",
        "reloaded: upstream \"first\" changed, upstream \"second\" removed",
    ] {
        assert!(log.contains(change), "{change} is not in {log}");
    }
    assert!(!log.contains("key-of-first"), "{log}");
}

#[test]
fn a_key_file_is_read_anew_and_its_new_key_is_masked() {
    let (folder, upstream) = (Folder::new("key-file"), Upstream::start());
    let key = folder.write("key", "key-before-1\n");
    let line = format!("api_key_file = {key:?}");
    let running = start(&folder, &section("lab", &upstream, &line));
    folder.write("key", "key-after-22\n");
    reload(&running, "ok");
    let told = r#"{"error":{"message":"no credit on key-after-22"}}"#;
    upstream.script(vec![status(402, &[], told)]);
    let answer = ask(&running, "m");
    assert_eq!(upstream.request().header("authorization"), Some("Bearer key-after-22"));
    assert!(answer.body.contains("no credit on ***"), "{}", answer.body);
    // A client's name of a model is written into the log.
    ask(&running, "key-after-22");
    let log = running.stop();
    assert!(log.contains("model=\"***\"") && !log.contains("key-after-22"), "{log}");
}

#[test]
fn a_mistake_in_the_file_changes_nothing_and_is_told_with_its_line() {
    let (folder, upstream) = (Folder::new("file-mistake"), Upstream::start());
    let running = start(&folder, &section("lab", &upstream, ""));
    folder.write("proxy.toml", "[[upstream]]\nname = \"lab\"\nbase_uri = \"http://x/v1\"\n");
    reload(&running, "failed");
    fs::remove_file(folder.path().join("proxy.toml")).expect("the file");
    reload(&running, "failed");
    upstream.script(vec![upstream::answer("ok")]);
    assert_eq!(ask(&running, "m").status(), 200);
    assert_eq!(reloads(&running, "ok"), 0);
    let log = running.stop();
    let mistake =
        log.lines().find(|line| line.contains("base_uri")).unwrap_or_else(|| panic!("{log}"));
    assert!(mistake.contains("[ERROR] reload: ") && mistake.contains("proxy.toml:3: "), "{log}");
}

#[test]
fn a_stream_of_an_upstream_that_is_removed_runs_to_its_end() {
    let folder = Folder::new("stream");
    let (first, second) = (Upstream::start(), Upstream::start());
    let (go_on, steps) = upstream::halting();
    first.script(steps);
    let running = start(&folder, &section("first", &first, ""));
    let mut client = Client::connect(running.addr);
    client.post("/api/chat", chat("Hi")).head();
    assert!(client.frame().expect("a line").contains("one"));
    folder.write("proxy.toml", &section("second", &second, ""));
    reload(&running, "ok");
    second.script(vec![upstream::answer("ok")]);
    assert_eq!(ask(&running, "m").head.header("x-upstream"), Some("second"));
    assert_eq!(metric(&running, "ollama_proxy_open_streams{upstream=\"first\"}"), 1);
    drop(go_on);
    assert!(client.frame().expect("a line").contains("two"));
    assert!(client.frame().expect("a line").contains("\"done\":true"));
    assert_eq!(client.frame(), None);
    running.stop();
}

/// A configuration whose circuits open at the first failure, for an hour.
fn config(servers: &[ServerSettings]) -> Config {
    let mut config = Config::for_base_url("http://127.0.0.1:9/v1").expect("a base URL");
    config.workers = 16;
    config.retry.max_retries = 0;
    config.breaker.failure_threshold = 1;
    config.breaker.min_failure_span = Duration::ZERO;
    config.breaker.cooldown = Duration::from_secs(3600);
    config.breaker.max_cooldown = Duration::from_secs(3600);
    config.upstreams = servers.to_vec();
    config
}

#[test]
fn an_upstream_that_is_kept_keeps_its_connections_its_circuit_and_its_list() {
    let (live, extra, down) = (Upstream::start(), Upstream::start(), Restarting::down());
    let mut servers = vec![server("live", &live.base_url()), server("down", &down.base_url())];
    let first = config(&servers);
    let proxy = Proxy::at("http://127.0.0.1:9/v1", |config| *config = first);
    let chat_with = |model: &str| {
        let body = chat_whole("Hi").replacen("\"m\"", &format!("{model:?}"), 1);
        proxy.ask("/api/chat", body).status()
    };
    let is_open = || {
        let text = proxy.fetch("/metrics").body;
        text.contains("ollama_proxy_circuit_state{upstream=\"down\",state=\"open\"} 1")
    };
    live.script(vec![upstream::answer("ok")]).script(vec![upstream::answer("ok")]);
    assert_eq!(chat_with("live/m"), 200);
    assert!(chat_with("down/m") >= 500 && is_open());
    let before = live.request().connection;
    servers.push(server("extra", &extra.base_url()));
    live.script_lists();
    proxy.server.reload(config(&servers));
    assert!(is_open(), "the circuit is kept");
    assert_eq!(chat_with("live/m"), 200);
    assert_eq!(live.request().connection, before, "the same connection, and no list before it");
    // A change of settings means another server.
    servers[1].api_key = Some(Secret::new("another-key-1"));
    proxy.server.reload(config(&servers));
    assert!(!is_open(), "a changed upstream begins anew");
}

#[test]
fn an_upstream_that_is_out_is_probed_once_a_reload_gives_it_company() {
    let (live, down) = (Upstream::start(), Restarting::down());
    let quick = |servers: &[ServerSettings]| {
        let mut config = config(servers);
        config.breaker.cooldown = Duration::from_millis(5);
        config.breaker.max_cooldown = Duration::from_millis(5);
        config
    };
    let mut servers = vec![server("down", &down.base_url())];
    let first = quick(&servers);
    let proxy = Proxy::at("http://127.0.0.1:9/v1", |config| *config = first);
    assert!(proxy.ask("/api/chat", chat_whole("Hi")).status() >= 500);
    servers.push(server("live", &live.base_url()));
    proxy.server.reload(quick(&servers));
    down.start();
    wait_until("the probe", || {
        let text = proxy.fetch("/metrics").body;
        text.contains("ollama_proxy_circuit_state{upstream=\"down\",state=\"closed\"} 1")
    });
    live.judge(|_| Some(vec![upstream::answer("ok")]));
    wait_until("a request to the first in order", || {
        let answer = proxy.ask("/api/chat", chat_whole("Hi"));
        answer.head.header("x-upstream") == Some("down")
    });
}

#[test]
fn a_hundred_reloads_under_load_lose_no_answer_and_keep_nothing() {
    const CLIENTS: usize = 4;
    const RELOADS: u64 = 100;
    let folder = Folder::new("load");
    let (kept, changed, other) = (Upstream::start(), Upstream::start(), Upstream::start());
    for upstream in [&kept, &changed, &other] {
        upstream.judge(|request| {
            let is_stream = request.body.contains("\"stream\":true");
            Some(if is_stream {
                upstream::stream(&["a", "b"])
            } else {
                vec![upstream::answer("ab")]
            })
        });
    }
    let file = |number: u64| {
        let mut text = section("kept", &kept, "");
        text += &section("changed", &changed, &format!("timeout = {}", 100 + number));
        if number % 2 == 1 {
            text += &section("other", &other, "");
        }
        text
    };
    let running = start(&folder, &file(0));
    let (is_over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let count = |what: &str| {
        fs::read_dir(format!("/proc/{}/{what}", running.id())).expect("it lives").count()
    };
    let memory = || metric(&running, "process_resident_memory_bytes");
    let load = |client: usize| {
        let mut connection = Client::connect(running.addr);
        let mut number = client;
        while !is_over.load(Ordering::Relaxed) {
            number += 1;
            let name = ["kept/m", "changed/m", "m"][number % 3];
            let body = if number.is_multiple_of(2) { chat("Hi") } else { chat_whole("Hi") };
            let body = body.replacen("\"m\"", &format!("{name:?}"), 1);
            let answer = connection.post("/api/chat", body).answer();
            assert_eq!(answer.status(), 200, "{}", answer.body);
            let is_stream = number.is_multiple_of(2);
            let lines = if is_stream { answer.lines() } else { vec![answer.json()] };
            let text: String =
                lines.iter().filter_map(|line| line["message"]["content"].as_str()).collect();
            assert_eq!((text.as_str(), &lines[lines.len() - 1]["done"]), ("ab", &json!(true)));
            answered.fetch_add(1, Ordering::Relaxed);
        }
    };
    let mut early = (0, 0, 0);
    std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS).map(|client| scope.spawn(move || load(client))).collect();
        for number in 1..=RELOADS {
            // Something is answered between any two.
            let before = answered.load(Ordering::Relaxed);
            wait_until("an answer", || {
                answered.load(Ordering::Relaxed) > before
                    || clients.iter().any(|it| it.is_finished())
            });
            folder.write("proxy.toml", &file(number));
            reload(&running, "ok");
            if number == RELOADS / 5 {
                early = (count("fd"), count("task"), memory());
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!((reloads(&running, "ok"), reloads(&running, "failed")), (RELOADS, 0));
    // Connections of clients and of removed upstreams are closed behind the last answers.
    let (descriptors, threads) = (early.0 + 4, early.1 + 4);
    wait_until("idle descriptors and threads", || {
        count("fd") <= descriptors && count("task") <= threads
    });
    let grown = memory().saturating_sub(early.2);
    assert!(grown < 16 << 20, "{grown} bytes more than after {} reloads", RELOADS / 5);
    let log = running.stop();
    assert_eq!(log.matches("[INFO] reloaded: ").count(), 100);
    assert!(!log.contains("[WARN]") && !log.contains("[ERROR]"), "{log}");
}
