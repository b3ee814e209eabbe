//! Ordinary mistakes, and what the program says about each: what happened, why, and what to do.

use std::fs;
use std::path::PathBuf;

use crate::support::program::{Running, program, run};
use crate::support::*;

/// An address of the range for documentation, which no machine has (RFC 5737).
const FOREIGN: &str = "192.0.2.1:11434";

/// What a start says that fails.
fn fails(args: &[&str], env: &[(&str, &str)]) -> String {
    let mut command = program();
    command.env("OPENAI_API_KEY", "sk-a-key").env("HOME", env!("CARGO_TARGET_TMPDIR"));
    let (code, _, told) = run(command.args(args).envs(env.iter().copied()));
    assert_eq!(code, Some(1), "{told}");
    told
}

#[test]
fn a_wrong_option_is_told_with_the_one_that_may_be_meant() {
    let told = |args: &[&str]| fails(args, &[]);
    assert_eq!(told(&["--prot", "1"]), "Error: unknown option --prot: did you mean --port?\n");
    assert_eq!(told(&["--chekc"]), "Error: unknown option --chekc: did you mean --check?\n");
    assert_eq!(told(&["--colour"]), "Error: unknown option --colour (see --help)\n");
    let serve = "Error: unexpected argument \"serve\": the program serves without one\n";
    assert_eq!(told(&["serve"]), serve);
}

#[test]
fn an_address_that_cannot_be_listened_on_is_told_after_the_warnings_with_what_to_do() {
    let told = fails(&[], &[("OLLAMA_HOST", FOREIGN)]);
    let lines: Vec<&str> = told.lines().collect();
    assert!(lines[0].contains("[WARN] anyone who can reach this address"), "{told}");
    let error = format!("Error: listen tcp {FOREIGN}: bind: cannot assign requested address");
    let advice = "Error: this machine does not have that address: check OLLAMA_HOST \
                  (0.0.0.0 is all interfaces)";
    assert_eq!(lines[1..], [error.as_str(), advice], "{told}");
    let name = fails(&[], &[("OLLAMA_HOST", "nowhere.invalid:1")]);
    let begin = "Error: listen tcp nowhere.invalid:1: cannot resolve the host name: ";
    assert!(name.contains(begin) && name.ends_with("the address to listen on\n"), "{name}");
}

#[test]
fn a_file_that_cannot_be_read_is_told_without_numbers_of_the_system() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("mistakes-files");
    fs::create_dir_all(&folder).expect("a folder");
    let text = folder.join("state.json");
    fs::write(&text, b"\xff\xfe").expect("writable");
    let (folder, text) = (folder.to_str().expect("UTF-8"), text.to_str().expect("UTF-8"));
    let free = ("OLLAMA_HOST", "127.0.0.1:0");
    for (variable, value, expected) in [
        ("PROXY_STATE", folder, format!("state file {folder} cannot be read: it is a folder")),
        (
            "PROXY_STATE",
            text,
            format!("state file {text} is not UTF-8 text: repair it, or move it"),
        ),
        ("PROXY_CONFIG", folder, "cannot read the file: it is a folder".to_owned()),
        ("PROXY_API_KEYS_FILE", folder, "cannot read the file: it is a folder".to_owned()),
        ("OPENAI_API_KEY_FILE", folder, "cannot read the file: it is a folder".to_owned()),
        ("UPSTREAM_CA_FILE", folder, "cannot read the file: it is a folder".to_owned()),
        ("UPSTREAM_CA_FILE", "nowhere.pem", "UPSTREAM_CA_FILE: no such file".to_owned()),
    ] {
        let mut env = vec![free, (variable, value)];
        if variable == "OPENAI_API_KEY_FILE" {
            env.push(("OPENAI_API_KEY", ""));
        }
        let told = fails(&[], &env);
        assert!(told.contains(&expected) && !told.contains("os error"), "{variable}: {told}");
    }
}

#[test]
fn a_refusal_of_the_upstream_is_told_in_words_and_without_its_text() {
    let upstream = Upstream::start();
    for code in [401, 402, 403, 404, 429, 500] {
        upstream.script(vec![status(code, &[], r#"{"error":{"message":"a secret"}}"#)]);
    }
    let mut command = program();
    command.env("OPENAI_BASE_URL", upstream.base_url()).env("RETRY_MAX", "0");
    let running = Running::start(&mut command);
    for code in [401, 402, 403, 404, 429, 500] {
        let answer = Client::connect(running.addr).post("/api/chat", chat("Hi")).answer();
        assert_eq!(answer.status(), code);
    }
    let log = running.stop();
    for (code, hint) in [
        (401, " (its key is missing or wrong)"),
        (402, " (the account has no credit left)"),
        (403, " (its key does not allow this)"),
        (404, " (it does not have the model or the path)"),
        (429, " (too many requests)"),
        (500, ""),
    ] {
        let line = format!("chat failed: the upstream returned status {code}{hint}, attempt 1");
        assert!(log.contains(&line), "{line}: {log}");
    }
    assert!(!log.contains("a secret"), "{log}");
}

#[test]
fn a_host_name_that_does_not_exist_is_named_to_the_operator_and_not_to_clients() {
    let env = [("OPENAI_BASE_URL", "http://nowhere.invalid/v1"), ("RETRY_MAX", "0")];
    let mut command = program();
    let (code, told, _) = run(command.args(["--check", "--port", "0"]).envs(env));
    let words = "cannot resolve the host name nowhere.invalid: ";
    assert!(code == Some(1) && told.contains(words), "{told}");
    let running = Running::start(program().envs(env));
    let answer = Client::connect(running.addr).post("/api/chat", chat("Hi")).answer();
    let text = "cannot reach the upstream: cannot resolve the host name: ";
    assert!(answer.error().starts_with(text) && !answer.error().contains("nowhere"));
    let log = running.stop();
    assert!(log.contains(&format!("chat failed: {words}")), "{log}");
}

#[test]
fn what_to_do_about_a_foreign_host_or_origin_is_told_once() {
    let upstream = Upstream::start();
    let running = Running::start(program().env("OPENAI_BASE_URL", upstream.base_url()));
    for lines in ["Host: ollama.example.com", "Host: localhost\r\nOrigin: https://a.test"] {
        for _ in 0..2 {
            let mut client = Client::connect(running.addr);
            client.send(format!("GET /api/tags HTTP/1.1\r\n{lines}\r\n\r\n"));
            assert_eq!(client.answer().status(), 403);
        }
    }
    let log = running.stop();
    for advice in [
        " host \"ollama.example.com\" is not local: let the reverse proxy send \"Host: localhost\"",
        " origin \"https://a.test\" is not allowed: add it to OLLAMA_ORIGINS",
    ] {
        assert_eq!(log.matches(advice).count(), 1, "{log}");
    }
    assert_eq!(log.matches(" access=").count(), 4, "{log}");
}

#[test]
fn a_stop_says_for_how_many_requests_it_waits_and_for_how_long_it_did() {
    let upstream = Upstream::start();
    let (_go_on, steps) = upstream::halting();
    upstream.script(steps);
    let mut command = program();
    command.env("OPENAI_BASE_URL", upstream.base_url()).env("SHUTDOWN_GRACE", "0.5");
    let mut running = Running::start(&mut command);
    let mut client = Client::connect(running.addr);
    client.post("/api/chat", chat("Hi")).head();
    client.frame();
    running.signal("TERM");
    let (code, log) = running.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("shutting down: waiting for 1 request\n"), "{log}");
    assert!(log.contains("some responses were cut off after 0.5 s (SHUTDOWN_GRACE)\n"), "{log}");
}
