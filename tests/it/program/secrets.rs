//! Where keys, prompts and answers may stand, and where not: the program at its loudest, on every
//! route and through every failure, and then a search through all that it has said.
//!
//! Each secret is a mark. The keys may stand nowhere; prompts and answers only in answers to clients,
//! and in the log where `LOG_BODIES` asks for them; what makes a model may stand in the state file.

use crate::support::*;
use std::fs;
use std::net::Shutdown;
use std::path::PathBuf;
use std::process::Command;

use crate::support::program::{Running, program, run};
use crate::support::reserved::Reserved;
use crossbeam_channel::{Receiver, bounded};
use ollama_openai_proxy::config::Config;
use ollama_openai_proxy::handlers::ROUTES;
use ollama_openai_proxy::observe::logging;
use ollama_openai_proxy::observe::redact::Redactor;
use ollama_openai_proxy::upstream::RetryEnv;

const UPSTREAM_KEY: &str = "upstream-key-5ec2e7a1";
const OWN_KEY: &str = "own-key-5ec2e7b2";
const FILE_KEY: &str = "file-key-5ec2e7c3";
const WRONG_KEY: &str = "wrong-key-5ec2e7d4";
const PROMPT: &str = "promptmark5ec2e7";
const ANSWER: &str = "answermark5ec2e7";

/// What may be logged in no case. Wrong keys are nobody's, but may be right elsewhere.
const KEYS: [&str; 4] = [UPSTREAM_KEY, OWN_KEY, FILE_KEY, WRONG_KEY];

type Steps = Vec<Step>;

/// The program under test, its upstream, and what clients were told.
struct Stage {
    upstream: Upstream,
    running: Running,
    state: PathBuf,
    answers: Vec<String>,
}

/// All that was said in the end.
struct Said {
    log: String,
    answers: String,
    state: String,
}

impl Stage {
    fn start(name: &str, more: &[(&str, &str)]) -> Self {
        let upstream = Upstream::start();
        let (mut command, state) = command(name, &upstream.base_url());
        let running = Running::start(command.envs(more.iter().copied()));
        Self { upstream, running, state, answers: Vec::new() }
    }

    fn client(&self) -> Client {
        Client::connect(self.running.addr)
    }

    /// Asks with a good key; the upstream plays these scripts, all of them.
    fn ask(&mut self, method: &str, target: &str, body: &str, scripts: Vec<Steps>) -> String {
        self.ask_with(
            &format!("Authorization: Bearer {OWN_KEY}\r\n"),
            method,
            target,
            body,
            scripts,
        )
    }

    fn ask_with(
        &mut self,
        lines: &str,
        method: &str,
        target: &str,
        body: &str,
        scripts: Vec<Steps>,
    ) -> String {
        let number = scripts.len();
        for script in scripts {
            self.upstream.script(script);
        }
        let mut client = self.client();
        send(&mut client, lines, method, target, body);
        let told = if method == "HEAD" {
            format!("{:?}", client.head())
        } else {
            let told = client.answer();
            format!("{:?} {}", told.head, told.body)
        };
        for _ in 0..number {
            self.upstream.request();
        }
        assert!(self.upstream.is_idle(), "{method} {target} asked more than was expected");
        self.answers.push(told.clone());
        told
    }

    /// Asks with a good key, however often the upstream is asked for that.
    fn ask_any(&mut self, method: &str, target: &str, body: &str) -> String {
        let mut client = self.client();
        let lines = format!("Authorization: Bearer {OWN_KEY}\r\n");
        send(&mut client, &lines, method, target, body);
        let told = client.answer();
        let told = format!("{:?} {}", told.head, told.body);
        while !self.upstream.is_idle() {
            self.upstream.request();
        }
        self.answers.push(told.clone());
        told
    }

    fn chat(&mut self, steps: Steps) -> String {
        self.ask("POST", "/api/chat", &chat(PROMPT), vec![steps])
    }

    fn end(self) -> Said {
        let log = self.running.stop();
        let state = fs::read_to_string(&self.state).unwrap_or_default();
        Said { log, answers: self.answers.join("\n"), state }
    }
}

/// The program with all its keys, at the level of trace, and its fresh state file.
fn command(name: &str, base: &str) -> (Command, PathBuf) {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("secrets-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("keys"), format!("{FILE_KEY}\n")).expect("a file");
    let state = folder.join("state.json");
    let mut command = program();
    command
        .env("OPENAI_BASE_URL", format!("{base}?key={UPSTREAM_KEY}"))
        .env("OPENAI_API_KEY", UPSTREAM_KEY)
        .env("PROXY_API_KEYS", OWN_KEY)
        .env("PROXY_API_KEYS_FILE", folder.join("keys"))
        .env("PROXY_STATE", &state)
        .env("LOG_LEVEL", "trace")
        .env("RUST_LOG", "trace")
        .env("RUST_BACKTRACE", "full")
        .env("RETRY_MAX", "1")
        .env("RETRY_INITIAL_MS", "0")
        .env("RETRY_MAX_MS", "0")
        .env("MAX_BODY_BYTES", "8M");
    (command, state)
}

fn send(client: &mut Client, lines: &str, method: &str, target: &str, body: &str) {
    let length = body.len();
    let kind = match body.starts_with("--") {
        true => "multipart/form-data; boundary=b",
        false => "application/json",
    };
    client.send(format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\n{lines}Content-Type: {kind}\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    ));
}

/// A plausible request for each path of the router's table, and what the upstream says to it.
fn sample(path: &str) -> (&str, String, Vec<Steps>) {
    let model = r#"{"model":"m"}"#;
    let vector = r#"{"data":[{"index":0,"embedding":[0.6,0.8]}],"usage":{"prompt_tokens":1}}"#;
    let input = format!(r#"{{"model":"m","input":"{PROMPT}","prompt":"{PROMPT}"}}"#);
    let form = format!(
        "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b\r\n\
         Content-Disposition: form-data; name=\"prompt\"\r\n\r\n{PROMPT}\r\n--b--\r\n"
    );
    let with = |members: &str| model.replacen('}', members, 1);
    let text = || vec![json(&format!(r#"{{"text":"{ANSWER}"}}"#))];
    let (body, scripts) = match path {
        "/api/chat" => (chat(PROMPT), vec![stream(&[ANSWER])]),
        "/api/generate" => (input, vec![stream(&[ANSWER])]),
        "/api/embed" | "/api/embeddings" | "/v1/embeddings" => (input, vec![vec![json(vector)]]),
        "/v1/chat/completions" => (chat(PROMPT), vec![stream(&[ANSWER])]),
        "/v1/completions" | "/v1/responses" => (input, vec![text()]),
        "/v1/audio/transcriptions" => (form, vec![text()]),
        "/v1/messages" => {
            (chat(PROMPT).replacen('{', "{\"max_tokens\":9,", 1), vec![vec![answer(ANSWER)]])
        }
        "/v1/messages/count_tokens" => (chat(PROMPT), Vec::new()),
        "/api/create" => {
            (format!(r#"{{"model":"made","from":"m","system":"{PROMPT}"}}"#), Vec::new())
        }
        "/api/copy" => (r#"{"source":"made","destination":"copied"}"#.to_owned(), Vec::new()),
        "/api/delete" => (r#"{"model":"copied"}"#.to_owned(), Vec::new()),
        "/api/show" | "/api/pull" | "/api/push" => {
            (with(&format!(r#","system":"{PROMPT}"}}"#)), Vec::new())
        }
        "/api/experimental/web_search" | "/api/experimental/web_fetch" => {
            (format!(r#"{{"query":"{PROMPT}","url":"{PROMPT}"}}"#), Vec::new())
        }
        "/api/blobs/:digest" => (PROMPT.to_owned(), Vec::new()),
        "/api/me" | "/api/signout" | "/api/user/keys/:encodedKey" => (String::new(), Vec::new()),
        _ => (String::new(), Vec::new()),
    };
    let target = match path {
        "/api/blobs/:digest" => "/api/blobs/sha256:00",
        "/api/user/keys/:encodedKey" => "/api/user/keys/c3No",
        "/v1/models/*model" => "/v1/models/m",
        path => path,
    };
    (target, body, scripts)
}

/// Every route, by each of its methods; a route that takes a body has a sample with the prompt.
fn every_route(stage: &mut Stage) {
    const WITHOUT_PROMPT: [&str; 5] =
        ["/api/copy", "/api/delete", "/api/me", "/api/signout", "/api/user/keys/:encodedKey"];
    for route in ROUTES {
        let path = route.pattern;
        for method in route.methods() {
            let (target, body, scripts) = sample(path);
            let takes_body = matches!(method, "POST" | "DELETE" | "PUT");
            let has_prompt = body.contains(PROMPT) || WITHOUT_PROMPT.contains(&path);
            assert!(!takes_body || has_prompt, "{method} {path} needs a sample here");
            let body = if takes_body { body } else { String::new() };
            let target = format!("{target}?q={PROMPT}&key={OWN_KEY}");
            let told = stage.ask(method, &target, &body, scripts);
            assert!(!told.contains("status: 405"), "{method} {path}: {told}");
            let wrong =
                [format!("Authorization: Bearer {WRONG_KEY}\r\nX-Api-Key: {WRONG_KEY}\r\n")];
            stage.ask_with(&wrong[0], method, &target, &body, Vec::new());
        }
    }
    // The other ways of a key, and the key of the file.
    for line in [
        format!("x-api-key: {FILE_KEY}\r\n"),
        format!("Authorization: bearer {FILE_KEY}\r\n"),
        // me:own-key-5ec2e7b2
        "Authorization: Basic bWU6b3duLWtleS01ZWMyZTdiMg==\r\n".to_owned(),
    ] {
        let told = stage.ask_with(&line, "GET", "/api/version", "", Vec::new());
        assert!(told.contains("status: 200"), "{told}");
    }
}

/// What the upstream can do wrong.
fn every_failure_of_the_upstream(stage: &mut Stage) {
    let keys = KEYS.join(" ");
    let echo = |status_code: u16, headers: &[(&str, &str)]| {
        let text = format!(
            r#"{{"error":{{"message":"{UPSTREAM_KEY} or {OWN_KEY} or {FILE_KEY}","code":"{PROMPT}"}}}}"#
        );
        vec![status(status_code, headers, &text)]
    };
    let ids = [("x-request-id", OWN_KEY), ("cf-ray", UPSTREAM_KEY)];
    for code in [400, 401, 403, 404, 422] {
        stage.chat(echo(code, &ids));
        stage.ask("POST", "/v1/chat/completions", &chat(PROMPT), vec![echo(code, &ids)]);
        let messages = chat(PROMPT).replacen('{', "{\"max_tokens\":9,", 1);
        stage.ask("POST", "/v1/messages", &messages, vec![echo(code, &ids)]);
    }
    for code in [429, 500, 503] {
        let twice = vec![echo(code, &ids), echo(code, &[])];
        stage.ask("POST", "/api/chat", &chat(PROMPT), twice);
        let twice = vec![echo(code, &ids), echo(code, &[])];
        stage.ask("POST", "/v1/chat/completions", &chat(PROMPT), twice);
    }
    // A parameter that is refused, and the request that is mended.
    let seed = chat_whole(PROMPT).replacen('{', r#"{"options":{"seed":1},"#, 1);
    let refusal = format!(r#"{{"error":"Unrecognized request argument supplied: seed {PROMPT}"}}"#);
    let scripts = vec![vec![status(400, &[], &refusal)], vec![answer(ANSWER)]];
    stage.ask("POST", "/api/chat", &seed, scripts);
    // Nonsense in place of an answer, whole and in a stream; what is skipped is no error.
    let whole = chat_whole(PROMPT);
    let nonsense = [
        format!("{ANSWER} {keys}"),
        format!(r#"{{"{ANSWER}":"#),
        format!(r#""{ANSWER}""#),
        format!(r#"{{"choices":"{ANSWER}"}}"#),
        format!(r#"{{"choices":[{{"message":{{"content":{{"{ANSWER}":1}}}}}}]}}"#),
        format!(r#"["{ANSWER}"]"#),
    ];
    for text in &nonsense {
        stage.ask("POST", "/api/chat", &whole, vec![vec![json(text)]]);
        let mut steps = vec![stream_head(), frame(&format!("data: {text}\n\n")), delta(ANSWER)];
        steps.extend(ending());
        stage.chat(steps);
        let input = format!(r#"{{"model":"m","input":"{PROMPT}"}}"#);
        stage.ask("POST", "/api/embed", &input, vec![vec![json(text)]]);
    }
    // A call that makes no sense.
    let call = format!(
        r#"{{"index":0,"id":"c","function":{{"name":"{ANSWER}","arguments":"[\"{ANSWER}\"]"}}}}"#
    );
    let call = format!(r#"data: {{"choices":[{{"index":0,"delta":{{"tool_calls":[{call}]}}}}]}}"#);
    let mut steps = vec![stream_head(), frame(&format!("{call}\n\n"))];
    steps.extend(ending());
    let told = stage.chat(steps);
    assert!(told.contains("invalid tool call arguments"), "{told}");
    // Errors within a stream, and streams that break off in each of their stages.
    let told = format!(r#"{{"error":{{"message":"{UPSTREAM_KEY} {OWN_KEY} {PROMPT} {ANSWER}"}}}}"#);
    let events = [format!("data: {told}\n\n"), format!("event: error\ndata: {told}\n\n")];
    for event in &events {
        stage.chat(vec![stream_head(), delta(ANSWER), frame(event), last_frame()]);
        stage.chat(vec![stream_head(), frame(event), last_frame()]);
    }
    stage.ask("POST", "/api/chat", &whole, vec![vec![json(&told)]]);
    stage.chat(vec![stream_head(), delta(ANSWER), Step::Close]);
    stage.chat(vec![stream_head(), delta(ANSWER), Step::Send(format!("zz{ANSWER}\r\n").into())]);
    stage.chat(vec![stream_head(), delta(ANSWER), Step::Reset]);
    let junk = || vec![Step::Send(format!("{ANSWER} {keys}\r\n\r\n").into()), Step::Close];
    stage.chat(junk());
    let closed = |stage: &mut Stage, path: &str| {
        // A connection that was kept is tried once more at once.
        stage.upstream.script(vec![Step::Close]).script(vec![Step::Close]);
        let told = stage.ask_any("POST", path, &chat(PROMPT));
        assert!(told.contains("status: 50"), "{told}");
    };
    closed(stage, "/api/chat");
    closed(stage, "/v1/chat/completions");
}

/// What the client can do wrong.
fn every_failure_of_the_client(stage: &mut Stage) {
    let prompt = chat(PROMPT);
    let wrong = [
        format!(r#"{{"model":"m","messages":"{PROMPT}"}}"#),
        format!(r#"{{"model":"m","{PROMPT}"#),
        format!(r#"{{"model":"m","messages":[],"options":{{"seed":"{PROMPT}"}}}}"#),
        format!(r#"{{"model":"m","messages":[],"format":"{PROMPT}"}}"#),
        format!(r#"{{"model":"m","messages":[],"think":"{PROMPT}"}}"#),
        format!(r#"{{"model":"m","messages":[],"keep_alive":"{PROMPT}"}}"#),
        format!(r#"{{"model":"m","messages":[{{"role":"user","images":["{PROMPT}!"]}}]}}"#),
        format!(r#"{{"model":"","input":"{PROMPT}"}}"#),
        format!(r#"{{"model":"made","from":"m","template":"{{{{ {PROMPT}"}}"#),
        PROMPT.to_owned(),
    ];
    for route in ROUTES.iter().filter(|route| route.methods().any(|method| method == "POST")) {
        for body in &wrong {
            let target = sample(route.pattern).0;
            let lines = [format!("Authorization: Bearer {OWN_KEY}\r\n"), String::new()];
            for line in &lines {
                let mut client = stage.client();
                send(&mut client, line, route.methods().last().expect("one"), target, body);
                let told = client.answer();
                stage.answers.push(format!("{:?} {}", told.head, told.body));
            }
        }
    }
    while !stage.upstream.is_idle() {
        stage.upstream.request();
    }
    // Paths and methods that are none, a query, a path that is a key, and a redirect.
    for (method, target) in [
        ("GET", format!("/nothing?{PROMPT}={OWN_KEY}")),
        ("PUT", "/api/chat".to_owned()),
        ("POST", format!("/{OWN_KEY}/{UPSTREAM_KEY}")),
        ("GET", format!("/v1/models/{FILE_KEY}")),
        ("POST", format!("http://me:{OWN_KEY}@localhost/api/version?{PROMPT}")),
    ] {
        let told = stage.ask(method, &target, &prompt, Vec::new());
        assert!(told.contains("status: 40"), "{told}");
        // What a client wrote itself is told to it, where it is the name of a model.
        stage.answers.retain(|told| !told.contains(FILE_KEY));
    }
    stage.ask("POST", "/api/tags/", &prompt, Vec::new());
    // A key in the place of a model's name; the answer names it, the log does not.
    let named = prompt.replacen("\"m\"", &format!("{OWN_KEY:?}"), 1);
    for path in ["/api/chat", "/v1/chat/completions"] {
        stage.ask("POST", path, &named, vec![stream(&[ANSWER])]);
        stage.answers.pop();
    }
    // A key of ours within a success is the client's own, and is not looked for in what is passed on.
    let (first, second) = OWN_KEY.split_at(7);
    let steps = vec![
        stream_head(),
        frame(&format!("data: {ANSWER} {first}")),
        frame(&format!("{second}\n\ndata: [DONE]\n\n")),
        last_frame(),
    ];
    stage.ask("POST", "/v1/chat/completions", &prompt, vec![steps]);
    stage.answers.pop();
    // A body that is too large, one that breaks off, a head that is none, a client that leaves.
    let auth = format!("Authorization: Bearer {OWN_KEY}\r\n");
    let mut client = stage.client();
    client.send(format!(
        "POST /api/chat HTTP/1.1\r\nHost: localhost\r\n{auth}Content-Length: 9000000\r\n\r\n{PROMPT}"
    ));
    assert_eq!(client.answer().status(), 413);
    for head in [
        format!("POST /api/chat HTTP/1.1\r\nHost: localhost\r\n{auth}Content-Length: 5000\r\n\r\n"),
        format!(
            "POST /api/chat HTTP/1.1\r\nHost: localhost\r\n{auth}Transfer-Encoding: chunked\r\n\r\n"
        ),
        format!("{PROMPT} {OWN_KEY}\r\n{auth}\r\n"),
        format!("GET / HTTP/9.9\r\n{auth}\r\n"),
    ] {
        let mut client = stage.client();
        client.send(format!("{head}{PROMPT}"));
        let _ = client.stream().shutdown(Shutdown::Write);
        let told = client.rest();
        stage.answers.push(told);
    }
    let (go_on, told) = bounded::<()>(0);
    let mut steps = vec![stream_head(), delta(ANSWER), Step::Wait(told)];
    steps.extend((0..200).map(|_| delta(&ANSWER.repeat(100))));
    stage.upstream.script(steps);
    let mut client = stage.client();
    send(&mut client, &auth, "POST", "/api/chat", &prompt);
    client.head();
    client.frame();
    stage.upstream.request();
    drop(client);
    drop(go_on);
    // Large ones that stream through, and compressed ones that are none.
    let large = chat(&format!("{PROMPT} {}", "x".repeat(2 << 20)));
    stage.ask("POST", "/v1/chat/completions", &large, vec![stream(&[ANSWER])]);
    let packed = format!("{auth}Content-Encoding: zstd\r\n");
    stage.ask_with(&packed, "POST", "/v1/responses", &prompt, Vec::new());
}

/// Everything, with these settings besides.
fn everything(name: &str, more: &[(&str, &str)]) -> Said {
    let mut stage = Stage::start(name, more);
    every_route(&mut stage);
    every_failure_of_the_upstream(&mut stage);
    every_failure_of_the_client(&mut stage);
    stage.end()
}

#[track_caller]
fn absent(marks: &[&str], what: &str, text: &str) {
    for mark in marks {
        let line = text.lines().find(|line| line.contains(mark));
        assert!(line.is_none(), "{mark} in {what}: {}", line.unwrap_or_default());
    }
}

/// The parts of the log that only `LOG_BODIES` asks for.
const BODIES: [&str; 6] = [
    "request of the client, ",
    "beginning of the client's request, ",
    "request to the upstream, ",
    "answer of the upstream, ",
    "event of the upstream, ",
    "error of the upstream, ",
];

#[test]
fn keys_prompts_and_answers_are_nowhere_in_the_log() {
    let said = everything("quiet", &[]);
    absent(&KEYS, "the log", &said.log);
    absent(&[PROMPT, ANSWER], "the log", &said.log);
    absent(&BODIES, "the log", &said.log);
    absent(&KEYS, "an answer", &said.answers);
    absent(&KEYS, "the state file", &said.state);
    // What is searched is what was said.
    assert!(said.answers.contains(ANSWER) && said.state.contains(PROMPT));
    assert!(said.log.contains("[DEBUG]") && said.log.contains("model=\"***\""), "{}", said.log);
    for kind in [
        "unauthorized", "invalid_request", "unknown_route", "method_not_allowed", "body_too_large",
        "body_broken", "upstream_status: 401", "upstream_protocol", "upstream_closed",
        "upstream_in_band", "disconnected", "client_gone", "model_not_found",
    ] {
        assert!(said.log.contains(&format!("error={kind}")), "{kind} did not happen");
    }
    for what in ["upstream's own ids", "seed is left out", "is skipped", "is refused: it brings no"]
    {
        assert!(said.log.contains(what), "{what} did not happen");
    }
}

#[test]
fn bodies_are_logged_where_that_is_asked_for_and_keys_are_not() {
    let said = everything("loud", &[("LOG_BODIES", "1")]);
    absent(&KEYS[..3], "the log", &said.log);
    absent(&KEYS, "an answer", &said.answers);
    assert!(said.log.contains("[WARN] LOG_BODIES is on: the log will hold prompts and answers"));
    for part in BODIES {
        let mut lines = said.log.lines().filter(|line| line.contains(part));
        assert!(lines.any(|line| line.contains(PROMPT) || line.contains(ANSWER)), "{part}");
        assert!(said.log.lines().all(|line| !line.contains(part) || line.contains("[TRACE]")));
    }
    let longest = said.log.lines().map(str::len).max();
    assert!(longest.is_some_and(|length| length < 40_000), "{longest:?}");
}

#[test]
fn bodies_are_logged_at_no_other_level_than_trace() {
    let more = [("LOG_BODIES", "1"), ("LOG_LEVEL", "debug")];
    let mut stage = Stage::start("debug", &more);
    every_route(&mut stage);
    let said = stage.end();
    absent(&KEYS, "the log", &said.log);
    absent(&[PROMPT, ANSWER], "the log", &said.log);
    assert!(said.log.contains("LOG_BODIES is on: it does nothing unless LOG_LEVEL is trace"));
}

/// A script that says nothing more after `steps` until the other end is dropped.
fn silent(mut steps: Steps, told: &Receiver<()>) -> Steps {
    steps.push(Step::Wait(told.clone()));
    steps
}

#[test]
fn an_upstream_that_is_silent_or_down_gives_nothing_away() {
    for bodies in ["0", "1"] {
        let more = [("REQUEST_TIMEOUT", "0.5"), ("RETRY_MAX", "0"), ("LOG_BODIES", bodies)];
        let mut stage = Stage::start(&format!("silent-{bodies}"), &more);
        let (go_on, told) = bounded::<()>(0);
        for path in ["/api/chat", "/v1/chat/completions"] {
            for steps in [vec![], vec![stream_head(), delta(ANSWER)]] {
                stage.ask("POST", path, &chat(PROMPT), vec![silent(steps, &told)]);
            }
        }
        drop(go_on);
        let said = stage.end();
        check_failed(&said, "timeout: Head", bodies == "1");
        assert!(said.log.contains("timeout: Body"), "{}", said.log);

        let gone = Reserved::new();
        let (mut command, state) = command(&format!("down-{bodies}"), &gone.base_url());
        let running = Running::start(command.envs(more));
        let (upstream, answers) = (Upstream::start(), Vec::new());
        let mut stage = Stage { upstream, running, state, answers };
        for path in ["/api/chat", "/v1/chat/completions", "/v1/messages", "/api/embed"] {
            let body = chat(PROMPT).replacen('{', r#"{"max_tokens":9,"input":"Hi","#, 1);
            stage.ask("POST", path, &body, Vec::new());
        }
        for path in ["/api/tags", "/openai/health", "/health", "/api/ps"] {
            stage.ask("GET", path, "", Vec::new());
        }
        check_failed(&stage.end(), "connect: ", bodies == "1");
    }
}

#[track_caller]
fn check_failed(said: &Said, kind: &str, bodies: bool) {
    assert!(said.log.contains(&format!("error={kind}")), "{}", said.log);
    absent(&KEYS, "the log", &said.log);
    absent(&KEYS, "an answer", &said.answers);
    assert_eq!(said.log.contains(PROMPT), bodies, "{}", said.log);
    absent(if bodies { &[] } else { &[PROMPT, ANSWER] }, "the log", &said.log);
}

#[test]
fn a_check_and_a_start_that_fails_give_no_key_away() {
    let upstream = Upstream::start();
    let check = |more: &[&str]| {
        let (mut command, _) = command("check", &upstream.base_url());
        let (_, out, err) = run(command.arg("--check").args(more));
        absent(&KEYS, "a check", &format!("{out}{err}"));
        out
    };
    upstream.list(&format!(r#"{{"data":[{{"id":"m"}},{{"id":"{OWN_KEY}"}}]}}"#));
    let good = check(&["--log-bodies=1"]);
    assert!(good.contains("upstream: ok") && good.contains("\nPROXY_API_KEYS=***\n"), "{good}");
    assert!(good.contains("\nwarning: LOG_BODIES is on"), "{good}");
    upstream.script_lists();
    let text = format!(r#"{{"error":"{UPSTREAM_KEY} or {OWN_KEY} or {FILE_KEY}"}}"#);
    upstream.script(vec![status(401, &[], &text)]);
    assert!(check(&[]).contains("upstream: *** or *** or ***"));
    let in_wrong_places = [
        &[format!("--port={OWN_KEY}")][..],
        &[format!("--host={UPSTREAM_KEY}@{OWN_KEY}")],
        &[format!("--log-level={OWN_KEY}"), WRONG_KEY.to_owned(), format!("-{WRONG_KEY}")],
        &[format!("--proxy-api-keys={OWN_KEY} {WRONG_KEY}")],
        &[format!("--base-url={UPSTREAM_KEY}:{OWN_KEY}")],
        &[format!("--base-url=http://me:{WRONG_KEY}@h/v1?{WRONG_KEY}#{WRONG_KEY}")],
        &[format!("--proxy-api-keys-file=/nowhere/{WRONG_KEY}")],
    ];
    for wrong in in_wrong_places {
        let (mut command, state) = command("wrong", &upstream.base_url());
        // What the file of keys holds is not known yet when options are judged.
        let (code, out, err) = run(command.args(wrong));
        assert_eq!((code, out.as_str()), (Some(1), ""), "{wrong:?}");
        absent(&KEYS, "an error at the start", &err);
        assert!(!state.exists());
    }
    let (mut command, state) = command("damaged", &upstream.base_url());
    for text in [
        format!(r#"{{"version":1,"models":["{PROMPT}"]}}"#),
        format!(r#"{{"version":1,"models":[{{"name":"{PROMPT}","from":1}}]}}"#),
        format!("{PROMPT} {OWN_KEY}"),
    ] {
        fs::write(&state, text).expect("a file");
        let (code, out, err) = run(&mut command);
        assert_eq!((code, out.as_str()), (Some(1), ""));
        assert!(err.contains(": repair it, or move it away"), "{err}");
        absent(&[PROMPT, OWN_KEY], "an error at the start", &err);
    }
}

/// Set in the process that is to panic.
const CHILD: &str = "SECRETS_TEST_CHILD";

/// A panic as the core library words it: it quotes the text that could not be cut.
fn panic_as_core_does() -> f64 {
    let text = format!("é{PROMPT}{OWN_KEY}{ANSWER}");
    let cut = &text[std::hint::black_box(1)..];
    cut.len() as f64
}

#[test]
fn a_panic_tells_its_place_and_nothing_of_what_it_quotes() {
    if std::env::var_os(CHILD).is_some() {
        return panic_in_a_worker();
    }
    // The name of this module without that of the program.
    let (_, here) = module_path!().split_once("::").expect("a path");
    let name = format!("{here}::a_panic_tells_its_place_and_nothing_of_what_it_quotes");
    let own = std::env::current_exe().expect("this program");
    let mut command = Command::new(own);
    let (code, out, log) = run(command.args(["--exact", &name, "--nocapture"]).env(CHILD, "1"));
    assert_eq!(code, Some(0), "{out}{log}");
    assert!(log.contains(concat!("panicked at ", file!(), ":")), "{log}");
    assert!(log.contains("error=internal: a handler panicked"), "{log}");
    let all = format!("{out}{log}");
    absent(&[PROMPT, ANSWER, OWN_KEY, proxy::KEY], "what a panic says", &all);
    // The message that is left out would hold all of them.
    let caught = std::panic::catch_unwind(panic_as_core_does).expect_err("a panic");
    let told = caught.downcast_ref::<String>().expect("a formatted message");
    assert!(told.contains(PROMPT) && told.contains(OWN_KEY), "{told}");
}

/// The child's part: the log of the program, and its server with a worker that panics.
fn panic_in_a_worker() {
    logging::init(log::LevelFilter::Trace, Redactor::default());
    let upstream = Upstream::start();
    upstream.script(vec![status(500, &[], "{}")]);
    let jitter = Box::new(panic_as_core_does);
    let pacing = RetryEnv { sleep: Box::new(|_| true), jitter };
    let (server, _stop) = proxy::start(&upstream.base_url(), |_: &mut Config| {}, pacing);
    let mut client = Client::connect(server.local_addr());
    assert_eq!(client.post("/api/chat", chat(PROMPT)).answer().status(), 500);
    assert!(server.drain());
    logging::flush();
}
