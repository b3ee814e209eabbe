//! The program itself: options, exit status, signals, and what it writes to its log.

use std::io::{Read, Write};

use crate::support::program::{Running, program, run};
use crate::support::proxy::KEY;
use crate::support::raw::{Client, chat};
use crate::support::reserved::Reserved;
use crate::support::upstream::{self, Step, Upstream, delta, json, status, stream_head};
use crossbeam_channel::bounded;

#[test]
fn help_and_version_need_no_configuration() {
    for flag in ["--help", "-h"] {
        let (code, out, err) = run(program().arg(flag));
        assert_eq!((code, err.as_str()), (Some(0), ""));
        assert!(out.contains("--base-url") && out.contains("OPENAI_API_KEY"), "{out}");
    }
    let (code, out, _) = run(program().arg("--version"));
    assert_eq!(
        (code, out),
        (Some(0), format!("ollama-openai-proxy {}\n", env!("CARGO_PKG_VERSION")))
    );
}

#[test]
fn a_missing_key_is_one_sentence_that_says_what_to_do() {
    let (code, out, err) = run(&mut program());
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.starts_with("Error: ") && err.contains("OPENAI_API_KEY"), "{err}");
    assert_eq!(err.lines().count(), 1);
}

#[test]
fn bad_values_are_reported_together() {
    let mut command = program();
    command.args(["--port", "70000", "--base-url", "ftp://x"]).env("REQUEST_TIMEOUT", "0");
    let (code, _, err) = run(command.env("LOG_LEVEL", "loud"));
    assert_eq!((code, err.lines().count()), (Some(1), 4), "{err}");
    for name in ["--port", "--base-url", "REQUEST_TIMEOUT", "LOG_LEVEL"] {
        assert!(
            err.lines().any(|line| line.starts_with("Error: ") && line.contains(name)),
            "{err}"
        );
    }
}

#[test]
fn a_check_shows_the_configuration_and_asks_the_upstream() {
    let upstream = Upstream::start();
    let check = || {
        let mut command = program();
        command.arg("--check").env("OPENAI_API_KEY", KEY);
        run(command.env("OPENAI_BASE_URL", upstream.base_url()))
    };
    let (code, out, _) = check();
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains(&upstream.base_url()) && out.contains("tagged:8b"), "{out}");
    assert!(!out.contains(KEY), "{out}");
    assert!(out.contains("UPSTREAM_PROFILE=auto") && out.contains("family generic"), "{out}");
    let mut command = program();
    command.args(["--check", "--profile=vLLM"]).env("OPENAI_BASE_URL", upstream.base_url());
    let (_, out, _) = run(&mut command);
    assert!(out.contains("UPSTREAM_PROFILE=vllm") && out.contains("family vllm"), "{out}");
    upstream.script_lists();
    upstream.script(vec![status(401, &[], &format!("{{\"error\":\"bad key {KEY}\"}}"))]);
    let (code, out, _) = check();
    assert_eq!(code, Some(1));
    assert!(out.contains("bad key ***") && !out.contains(KEY), "{out}");
}

#[test]
fn a_file_in_the_working_directory_is_read_and_the_environment_wins() {
    let upstream = Upstream::start();
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("with-dotenv");
    std::fs::create_dir_all(&folder).expect("a folder");
    let lines =
        format!("OPENAI_BASE_URL={}\nREQUEST_TIMEOUT=11\nPROXY_WORKERS='7'\n", upstream.base_url());
    std::fs::write(folder.join(".env"), lines).expect("a file");
    let mut command = program();
    command.current_dir(&folder).arg("--check").env("REQUEST_TIMEOUT", "12");
    let (code, out, err) = run(&mut command);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("REQUEST_TIMEOUT=12") && out.contains("PROXY_WORKERS=7"), "{out}");
}

#[test]
fn long_names_and_paths_do_not_flood_the_log() {
    let upstream = Upstream::start();
    let mut program = Running::start(program().env("OPENAI_BASE_URL", upstream.base_url()));
    let mut client = Client::connect(program.addr);
    let long = "x".repeat(50_000);
    let body = chat("Hi").replacen("\"m\"", &format!("\"{long}\""), 1);
    let answer = client.post("/api/chat", body).answer();
    assert_eq!((answer.status(), answer.error().as_str()), (400, "invalid model name"));
    assert_eq!(client.get(&format!("/{}", &long[..15_000])).answer().status(), 404);
    program.signal("TERM");
    let (_, log) = program.end();
    assert!(log.len() < 2_000, "{} bytes", log.len());
}

#[test]
fn a_port_that_is_taken_is_told() {
    let upstream = Upstream::start();
    let taken = std::net::TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    for host in ["127.0.0.1", ""] {
        let addr = format!("{host}:{port}");
        let (code, _, err) =
            run(program().env("OLLAMA_HOST", &addr).env("OPENAI_BASE_URL", upstream.base_url()));
        assert_eq!(code, Some(1));
        let told = format!("Error: listen tcp {addr}: bind: address already in use");
        assert!(err.lines().any(|line| line == told), "{err}");
    }
}

#[test]
fn a_repair_is_one_line_in_the_log_and_so_is_a_refusal_that_stays() {
    let upstream = Upstream::start();
    let refusal = |text: &str| vec![status(400, &[], &format!("{{\"error\":\"{text}\"}}"))];
    let seed = "Unrecognized request argument supplied: seed";
    upstream.script(refusal(seed)).script(vec![upstream::answer("Hi")]);
    upstream.script(refusal("no, because"));
    let mut command = program();
    command.env("OPENAI_BASE_URL", upstream.base_url()).env("OPENAI_API_KEY", KEY);
    // As many as fit into any limit, of which a warning would tell.
    let mut program = Running::start(command.env("MAX_CONNECTIONS", "100"));
    for expected in [200, 400] {
        let body = crate::support::raw::chat_whole("a secret").replacen(
            '{',
            r#"{"options":{"seed":1},"#,
            1,
        );
        let told = Client::connect(program.addr).post("/api/chat", body).answer();
        assert_eq!(told.status(), expected);
    }
    program.signal("TERM");
    let (_, log) = program.end();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("[WARN]")).collect();
    assert_eq!(warnings.len(), 2, "{log}");
    assert!(warnings[0].ends_with("the upstream refused a parameter: seed is left out"), "{log}");
    assert!(warnings[1].ends_with("upstream_status: 400 attempt=1 no further attempt"), "{log}");
    assert!(!log.contains("a secret"), "{log}");
}

#[test]
fn times_of_models_are_told_in_the_local_zone_and_those_of_answers_in_utc() {
    let upstream = Upstream::start();
    upstream.script(vec![upstream::answer("Hi")]);
    // A zone that needs no file, half an hour off and without summer time.
    let mut command = program();
    command.env("OPENAI_BASE_URL", upstream.base_url()).env("TZ", "XYZ-5:30");
    let running = Running::start(&mut command);
    let client = || Client::connect(running.addr);
    let told = client().post("/api/chat", crate::support::raw::chat_whole("Hi")).answer().json();
    assert!(told["created_at"].as_str().is_some_and(|it| it.ends_with('Z')), "{told}");
    for (path, member) in [("/api/tags", "modified_at"), ("/api/ps", "expires_at")] {
        let told = client().get(path).answer().json();
        let time = told["models"][0][member].as_str().expect(member).to_owned();
        assert!(time.ends_with("+05:30"), "{path}: {time}");
    }
    let tags = client().get("/api/tags").answer().json();
    let known =
        tags["models"].as_array().expect("a list").iter().find(|it| it["name"] == "m:latest");
    assert_eq!(known.expect("listed")["modified_at"], "2023-11-15T03:43:20+05:30");
}

#[test]
fn a_signal_lets_running_answers_finish_and_ends_well() {
    for signal in ["TERM", "INT"] {
        let upstream = Upstream::start();
        let (go_on, steps) = upstream::halting();
        upstream.script(steps);
        let mut program = Running::start(program().env("OPENAI_BASE_URL", upstream.base_url()));
        let mut client = Client::connect(program.addr);
        client.post("/api/chat", chat("Hi")).head();
        client.frame();
        program.signal(signal);
        while std::net::TcpStream::connect(program.addr).is_ok() {
            std::thread::yield_now();
        }
        drop(go_on);
        assert!(client.frame().expect("a line").contains("two"));
        assert!(client.frame().expect("a line").contains("\"done\":true"));
        assert_eq!(client.frame(), None);
        let (code, log) = program.end();
        assert_eq!(code, Some(0), "{log}");
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let upstream = Upstream::start();
    let (_go_on, told) = bounded(0);
    upstream.script(vec![stream_head(), delta("one"), Step::Wait(told)]);
    let mut program = Running::start(program().env("OPENAI_BASE_URL", upstream.base_url()));
    let mut client = Client::connect(program.addr);
    client.post("/api/chat", chat("Hi")).head();
    client.frame();
    program.signal("TERM");
    while std::net::TcpStream::connect(program.addr).is_ok() {
        std::thread::yield_now();
    }
    program.signal("TERM");
    let (code, log) = program.end();
    assert_eq!(code, Some(128 + 15), "{log}");
}

#[test]
fn the_log_holds_no_key_no_prompt_and_no_answer_at_any_level() {
    let upstream = Upstream::start();
    let echo = format!("{{\"error\":{{\"message\":\"{KEY} PROMPT\"}}}}");
    upstream
        .script(upstream::stream(&["ANSWER"]))
        .script(vec![upstream::answer("ANSWER")])
        .script(vec![status(400, &[], &echo)])
        .script(vec![json(&echo)])
        .script(vec![stream_head(), delta("ANSWER"), Step::Close])
        .script(vec![json("ANSWER")]);
    let mut command = program();
    command.env("OPENAI_API_KEY", KEY).env("LOG_LEVEL", "trace").env("RUST_BACKTRACE", "1");
    let mut program = Running::start(command.env("OPENAI_BASE_URL", upstream.base_url()));
    let mut client = Client::connect(program.addr);
    for _ in 0..6 {
        client.post("/api/chat", chat("PROMPT")).answer();
    }
    client.post("/api/chat", "{\"model\":\"m\",\"messages\":\"PROMPT").answer();
    client.post("/api/show", "{\"model\":\"m\"}").answer();
    program.signal("TERM");
    let (code, log) = program.end();
    assert_eq!(code, Some(0));
    assert!(log.contains("POST \"/api/chat\" model=\"m\" status=200 attempts=1"), "{log}");
    assert!(log.contains("chat_stream begins") && log.contains("tokens=5+2"), "{log}");
    for secret in [KEY, "PROMPT", "ANSWER"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

#[test]
fn a_damaged_state_file_is_an_error_at_the_start_and_stays_as_it_is() {
    let upstream = Upstream::start();
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("damaged-state.json");
    std::fs::write(&path, "{\"version\":1,").expect("a file");
    for flag in [None, Some("--check")] {
        let mut command = program();
        command.args(flag).arg("--state").arg(&path);
        let (code, out, err) = run(command.env("OPENAI_BASE_URL", upstream.base_url()));
        assert_eq!(code, Some(1), "{out}{err}");
        let told = format!("the state file {} is damaged: no JSON at line 1", path.display());
        assert!(format!("{out}{err}").contains(&told), "{out}{err}");
    }
    assert_eq!(std::fs::read_to_string(&path).expect("there"), "{\"version\":1,");
}

#[test]
fn what_clients_cost_for_good_is_had_back_by_beginning_anew() {
    let upstream = Upstream::start();
    let reserved = Reserved::new();
    let addr = reserved.addr();
    let mut command = program();
    command.env("OPENAI_BASE_URL", upstream.base_url()).env("OLLAMA_HOST", addr.to_string());
    command.env("SHUTDOWN_GRACE", "1");
    let mut program = Running::start(&mut command);
    // Sizes that nobody can hold, and that tiny_http would try to.
    for _ in 0..256 {
        let mut client = Client::connect(addr);
        client.send("POST /api/chat HTTP/1.1\r\nContent-Length: 1000000000000000\r\n\r\n{");
        assert_eq!(client.answer().status(), 413);
    }
    let serves = || {
        let mut stream = std::net::TcpStream::connect(addr).ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.ends_with("Ollama is running").then_some(())
    };
    let threads = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", program.id())).expect("it lives");
        tasks.count()
    };
    // The old one has more than 256 threads.
    let deadline = std::time::Instant::now() + crate::support::HANG;
    while threads() > 200 || serves().is_none() {
        assert!(std::time::Instant::now() < deadline, "it never begins anew");
        std::thread::yield_now();
    }
    program.signal("TERM");
    let (code, log) = program.end();
    assert_eq!(code, Some(0));
    assert_eq!(log.matches("listening on").count(), 2, "{log}");
}
