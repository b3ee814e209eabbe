//! Client keys with names in the real program: what a restart and a reload leave of their counts, what a
//! check and the log tell of them, and what two processes on one state file do.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::reload::{Folder, wait_until};
use crate::support::program::{Running, run};
use crate::support::upstream::stream;
use crate::support::*;

const KEY_ALICE: &str = "alice-s3cret-key-1";
const KEY_BOB: &str = "bob-s3cret-key-2";

/// A program with these client keys, and a state file.
fn command(folder: &Folder, upstream: &Upstream, keys: &str) -> Command {
    let keys = folder.write("keys", keys);
    let _ = fs::set_permissions(&keys, std::os::unix::fs::PermissionsExt::from_mode(0o600));
    let mut command = folder.program();
    command.env("OPENAI_BASE_URL", upstream.base_url()).env("OPENAI_API_KEY", KEY);
    command.env("PROXY_API_KEYS_FILE", keys).env("PROXY_STATE", folder.path().join("state.json"));
    command
}

/// Asks as one of the keys; 5 tokens in, 2 out.
fn chat_as(running: &Running, upstream: &Upstream, key: &str) -> Answer {
    upstream.clear();
    upstream.script(stream(&["ok"]));
    let line = format!("Authorization: Bearer {key}\r\n");
    Client::connect(running.addr).with("POST", "/api/chat", &line, chat("Hi")).answer()
}

fn fetch_as(running: &Running, key: &str, path: &str) -> Answer {
    let line = format!("Authorization: Bearer {key}\r\n");
    Client::connect(running.addr).with("GET", path, &line, "").answer()
}

/// What the state file says that a key has used.
fn stored(path: &Path, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let state: Value = serde_json::from_str(&text).unwrap_or_default();
    state["key_tokens"]["tokens"][name].as_u64().unwrap_or_default()
}

#[test]
fn the_tokens_of_the_day_survive_a_restart_and_nothing_else_in_the_file_is_lost() {
    let (upstream, folder) = (Upstream::start(), Folder::new("key-restart"));
    let path = folder.write("state.json", "{\"version\":1,\"models\":[]}\n");
    let keys = format!("alice:{KEY_ALICE} tokens_per_day=20\nbob:{KEY_BOB}\n");
    let running = Running::start(&mut command(&folder, &upstream, &keys));
    let body = json!({"model": "made", "from": "m", "stream": false}).to_string();
    let line = format!("Authorization: Bearer {KEY_BOB}\r\n");
    let made = Client::connect(running.addr).with("POST", "/api/create", &line, body).answer();
    assert_eq!(made.status(), 200, "{}", made.body);
    assert_eq!(chat_as(&running, &upstream, KEY_ALICE).status(), 200);
    assert_eq!(chat_as(&running, &upstream, KEY_BOB).status(), 200);
    wait_until("the file", || stored(&path, "alice") == 7);
    assert_eq!(chat_as(&running, &upstream, KEY_ALICE).status(), 200);
    // What was not written yet is written at the end.
    running.stop();
    assert_eq!(stored(&path, "alice"), 14);
    let text = fs::read_to_string(&path).expect("a file");
    assert!(!text.contains("bob") && !text.contains("s3cret") && text.contains("made"), "{text}");
    let running = Running::start(&mut command(&folder, &upstream, &keys));
    assert_eq!(chat_as(&running, &upstream, KEY_ALICE).status(), 200);
    let refused = chat_as(&running, &upstream, KEY_ALICE);
    assert_eq!(refused.status(), 429, "{}", refused.body);
    assert!(fetch_as(&running, KEY_BOB, "/api/tags").body.contains("made:latest"));
    running.stop();
    // Those of an earlier day are over.
    let text = fs::read_to_string(&path).expect("a file");
    let day = text.split("\"day\": \"").nth(1).and_then(|rest| rest.get(..10)).expect("a day");
    fs::write(&path, text.replace(day, "2026-01-01")).expect("written");
    let running = Running::start(&mut command(&folder, &upstream, &keys));
    assert_eq!(chat_as(&running, &upstream, KEY_ALICE).status(), 200);
    running.stop();
    assert_eq!(stored(&path, "alice"), 7);
}

#[test]
fn two_processes_on_one_file_add_up_what_a_key_used() {
    let (upstream, folder) = (Upstream::start(), Folder::new("key-shared"));
    let path = folder.path().join("state.json");
    let keys = format!("alice:{KEY_ALICE} tokens_per_day=1000\n");
    let first = Running::start(&mut command(&folder, &upstream, &keys));
    let second = Running::start(&mut command(&folder, &upstream, &keys));
    for _ in 0..3 {
        assert_eq!(chat_as(&first, &upstream, KEY_ALICE).status(), 200);
        assert_eq!(chat_as(&second, &upstream, KEY_ALICE).status(), 200);
    }
    let (one, other) = (first.stop(), second.stop());
    assert_eq!(stored(&path, "alice"), 42);
    assert!(!one.contains("not saved") && !other.contains("not saved"), "{one}{other}");
}

#[test]
fn a_file_that_cannot_be_written_fails_no_request_and_is_told_once() {
    let (upstream, folder) = (Upstream::start(), Folder::new("key-unwritable"));
    let path = folder.path().join("state.json");
    let keys = format!("alice:{KEY_ALICE} tokens_per_day=30\n");
    let running = Running::start(&mut command(&folder, &upstream, &keys));
    // It was damaged by somebody.
    fs::write(&path, "{").expect("written");
    for _ in 0..5 {
        assert_eq!(chat_as(&running, &upstream, KEY_ALICE).status(), 200);
    }
    assert_eq!(chat_as(&running, &upstream, KEY_ALICE).status(), 429);
    assert_eq!(fs::read_to_string(&path).expect("there"), "{");
    let log = running.stop();
    let lines = log.matches("the tokens that keys used today are not saved: ").count();
    // Once while it runs, and once at the end.
    assert!((1..=2).contains(&lines), "{log}");
}

#[test]
fn without_a_limit_of_tokens_no_file_is_written() {
    let (upstream, folder) = (Upstream::start(), Folder::new("key-no-file"));
    let keys = format!("alice:{KEY_ALICE} max_parallel=3 models=*\nbob:{KEY_BOB}\n");
    let running = Running::start(&mut command(&folder, &upstream, &keys));
    for key in [KEY_ALICE, KEY_BOB] {
        assert_eq!(chat_as(&running, &upstream, key).status(), 200);
    }
    running.stop();
    assert!(!folder.path().join("state.json").exists());
}

#[test]
fn a_reload_reads_new_limits_and_keeps_what_a_name_has_used() {
    let (upstream, folder) = (Upstream::start(), Folder::new("key-reload"));
    let keys = |alice: &str| format!("alice:{alice}\n{KEY_BOB}\n");
    let first = keys(&format!("{KEY_ALICE} requests_per_minute=3"));
    let running = Running::start(&mut command(&folder, &upstream, &first));
    let as_bob = |running: &Running| fetch_as(running, KEY_BOB, "/metrics").body;
    let reload_with = |text: &str| {
        folder.write("keys", text);
        let ok = |text: String| {
            let line =
                text.lines().find(|it| it.starts_with("ollama_proxy_reloads_total{result=\"ok\"}"));
            line.map(str::to_owned)
        };
        let before = ok(as_bob(&running));
        running.signal("HUP");
        wait_until("the reload", || ok(as_bob(&running)) != before);
    };
    let (go_on, steps) = upstream::halting();
    upstream.script(steps);
    let line = format!("Authorization: Bearer {KEY_ALICE}\r\n");
    let mut client = Client::connect(running.addr);
    client.with("POST", "/api/chat", &line, chat("Hi")).head();
    assert_eq!(chat_as(&running, &upstream, KEY_ALICE).status(), 200);
    // Another key of the same name, and another limit.
    reload_with(&keys("another-s3cret-3 requests_per_minute=3"));
    assert_eq!(chat_as(&running, &upstream, KEY_ALICE).status(), 401);
    assert_eq!(chat_as(&running, &upstream, "another-s3cret-3").status(), 200);
    assert_eq!(chat_as(&running, &upstream, "another-s3cret-3").status(), 429);
    reload_with(&keys("another-s3cret-3 max_parallel=1"));
    assert!(chat_as(&running, &upstream, "another-s3cret-3").body.contains("at the same time"));
    drop(go_on);
    client.rest_of_stream();
    assert_eq!(chat_as(&running, &upstream, "another-s3cret-3").status(), 200);
    let told = as_bob(&running);
    assert!(told.contains("ollama_proxy_key_requests_total{key=\"alice\"} 4"), "{told}");
    reload_with(&keys("another-s3cret-3 models=none"));
    assert_eq!(chat_as(&running, &upstream, "another-s3cret-3").status(), 403);
    // A mistake changes nothing, and is told without the key.
    folder.write("keys", &keys("another-s3cret-3 models=m max_parallel=0"));
    running.signal("HUP");
    let failed = "ollama_proxy_reloads_total{result=\"failed\"} 1";
    wait_until("the failure", || as_bob(&running).contains(failed));
    assert_eq!(chat_as(&running, &upstream, "another-s3cret-3").status(), 403);
    let log = running.stop();
    let mistake = "PROXY_API_KEYS_FILE: line 1: max_parallel: expected a whole number from 1 to ";
    assert!(log.contains(mistake) && !log.contains("s3cret"), "{log}");
}

#[test]
fn the_line_of_a_request_has_the_name_of_its_key_and_why_it_was_refused() {
    let (upstream, folder) = (Upstream::start(), Folder::new("key-line"));
    let keys = format!("alice:{KEY_ALICE} requests_per_minute=2 models=m\nnobody-s3cret-9\n");
    for format in ["text", "json"] {
        let mut command = command(&folder, &upstream, &keys);
        let running = Running::start(command.env("LOG_FORMAT", format));
        assert_eq!(chat_as(&running, &upstream, KEY_ALICE).status(), 200);
        let line = format!("x-api-key: {KEY_ALICE}\r\n");
        let body = chat("Hi").replace("\"m\"", "\"other\"");
        let path = "/v1/chat/completions";
        let refused = Client::connect(running.addr).with("POST", path, &line, body).answer();
        assert_eq!(refused.status(), 403);
        assert_eq!(chat_as(&running, &upstream, KEY_ALICE).status(), 429);
        assert_eq!(chat_as(&running, &upstream, "nobody-s3cret-9").status(), 200);
        let log = running.stop();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("/chat")).collect();
        let (key, reasons) = match format {
            "text" => (
                " key=alice ",
                [
                    "",
                    "access=model_not_allowed error=model_not_allowed",
                    "access=requests_per_minute error=requests_per_minute",
                    "",
                ],
            ),
            _ => (
                "\"key\":\"alice\"",
                ["", "\"access\":\"model_not_allowed\"", "\"access\":\"requests_per_minute\"", ""],
            ),
        };
        assert_eq!(lines.len(), 4, "{log}");
        let of = |status: &str| {
            let (text, json) = (format!(" status={status} "), format!("\"status\":{status},"));
            lines.iter().filter(move |it| it.contains(&text) || it.contains(&json)).copied()
        };
        // A refusal is told by another thread.
        let mut served = of("200");
        let (first, last) = (served.next().expect("a line"), served.next().expect("a line"));
        let in_order =
            [first, of("403").next().expect("a line"), of("429").next().expect("a line"), last];
        // The model that was refused is named.
        assert!(in_order[1].contains("\"other\""), "{}", in_order[1]);
        for (at, (line, reason)) in in_order.iter().zip(reasons).enumerate() {
            assert_eq!(line.contains(key), at < 3, "{line}");
            assert!(line.contains(reason) && !line.contains("s3cret"), "{line}");
            assert_eq!(line.contains("access"), !reason.is_empty(), "{line}");
        }
    }
}

#[test]
fn a_check_tells_how_many_keys_there_are_and_what_those_with_names_may() {
    let (upstream, folder) = (Upstream::start(), Folder::new("key-check"));
    let file = format!(
        "alice:{KEY_ALICE} requests_per_minute=2 models=m,tagged*\nbob:{KEY_BOB}\nnobody-s3cret-9\n"
    );
    let config = folder.write(
        "proxy.toml",
        "[[key]]\nname = \"carol\"\nkey = \"${CAROL}\"\ntokens_per_day = 1000\n",
    );
    let mut command = command(&folder, &upstream, &file);
    command
        .env("PROXY_CONFIG", config)
        .env("CAROL", "carol-s3cret-4")
        .env("OLLAMA_HOST", "127.0.0.1:0");
    let (code, out, err) = run(command.arg("--check"));
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let expected = "\nkeys: 4, with names: 3\nkey carol: tokens_per_day=1000\n\
                    key alice: models=m,tagged* requests_per_minute=2\nkey bob: no limits\n";
    assert!(out.contains(expected) && !out.contains("s3cret"), "{out}");
    let (_, out, _) = run(command.arg("--json"));
    let told: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(told["keys"]["count"], 4);
    let alice = json!({"name": "alice", "models": ["m", "tagged*"], "requests_per_minute": 2,
        "tokens_per_day": null, "max_parallel": null});
    assert_eq!(told["keys"]["named"][1], alice);
    assert!(!out.contains("s3cret"), "{out}");
    // The same key twice, with a limit and without it.
    let limited = format!("bob:{KEY_BOB} max_parallel=1\n{KEY_ALICE}\n");
    folder.write("keys", &limited);
    let (code, _, err) = run(command.env("PROXY_API_KEYS", KEY_BOB));
    assert_eq!(code, Some(1), "{err}");
    assert!(
        err.contains("the same key is set under another name") && !err.contains("s3cret"),
        "{err}"
    );
}
