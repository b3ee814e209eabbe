//! Requests that end in an error: each counts once by its kind, and its line says so, on every route, whether
//! the error comes before the first byte of the response or behind it; all others count as none.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::support::ollama::{Ollama, lines_head};
use crate::support::program::{Running, program};
use crate::support::*;
use ollama_openai_proxy::handlers::ROUTES;

const ERROR: &str = r#"{"error":{"message":"overloaded"}}"#;

/// How the upstream answers, and the response's name.
type Script = (&'static str, fn() -> Vec<Step>);

/// The body of a whole response without a length, of this type.
fn chunked(kind: &str, body: &str) -> Vec<Step> {
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n");
    vec![Step::Send(head.into()), frame(body), last_frame()]
}

/// A stream with this event behind its first text.
fn event_behind(event: &str) -> Vec<Step> {
    ended(vec![stream_head(), delta("a"), frame(event)])
}

const SCRIPTS: &[Script] = &[
    ("served", || upstream::stream(&["a", "b"])),
    ("served whole", || vec![answer("a")]),
    ("vectors", || vec![json(r#"{"data":[{"embedding":[1.0]}],"usage":{"prompt_tokens":1}}"#)]),
    ("400", || vec![status(400, &[], ERROR)]),
    ("401", || vec![status(401, &[], ERROR)]),
    ("404", || vec![status(404, &[], r#"{"error":{"message":"The model `m` does not exist"}}"#)]),
    ("404 for the route", || vec![typed(404, "text/plain", &[], "404 page not found")]),
    ("429", || vec![status(429, &[("retry-after", "60")], ERROR)]),
    ("500", || vec![status(500, &[], "{}")]),
    ("redirect", || vec![status(302, &[("location", "/x")], "")]),
    ("closed", || vec![Step::Close]),
    ("an error in a success", || vec![json(ERROR)]),
    ("an error in a success of unknown length", || chunked("application/json", ERROR)),
    ("an error as a text", || chunked("application/json", r#"{"error":"overloaded"}"#)),
    ("an error as the first event", || {
        vec![stream_head(), frame("data: {\"error\":\"no\"}\n\n"), last_frame()]
    }),
    ("an error behind a text", || event_behind(&format!("data: {ERROR}\n\n"))),
    ("an error event behind a text", || {
        event_behind("event: error\ndata: {\"type\":\"error\",\"message\":\"overloaded\"}\n\n")
    }),
    ("a failed response", || {
        event_behind(
            "data: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"x\",\"message\":\"no\"}}}\n\n",
        )
    }),
    ("cut behind a text", || vec![stream_head(), delta("a"), Step::Close]),
    ("cut in a whole response", || {
        vec![Step::Send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{".to_vec()), Step::Close]
    }),
    ("lines", || {
        let line = "{\"model\":\"m\",\"message\":{\"content\":\"a\"},\"done\":true}\n";
        vec![lines_head(), frame(line), last_frame()]
    }),
    ("an error line", || {
        let line = "{\"model\":\"m\",\"message\":{\"content\":\"a\"},\"done\":false}\n";
        vec![lines_head(), frame(line), frame("{\"error\":\"overloaded\"}\n"), last_frame()]
    }),
    ("lines that are cut", || vec![lines_head(), frame("{\"done\":false}\n"), Step::Close]),
];

/// One request, and what its response shows.
struct Asked {
    what: String,
    id: String,
    failed: bool,
}

/// Sends a request and reads all that comes.
fn ask(running: &Running, what: String, request: &str) -> Asked {
    let mut client = Client::connect(running.addr);
    client.send(request);
    let mut bytes = Vec::new();
    let _ = client.stream().read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    // A body that is not read is asked for before it is refused.
    let mut parts = text.split_once("\r\n\r\n");
    if text.starts_with("HTTP/1.1 100 ") {
        parts = parts.and_then(|(_, rest)| rest.split_once("\r\n\r\n"));
    }
    let (head, body) = parts.unwrap_or_else(|| panic!("{what}: {text:?}"));
    let status: u16 = head[9..12].parse().expect("a status");
    let head = head.to_ascii_lowercase();
    let id = head.split("x-request-id: ").nth(1).and_then(|rest| rest.get(..12)).expect("an id");
    let is_cut = match head.split("content-length: ").nth(1) {
        Some(length) => {
            let length = length.lines().next().and_then(|it| it.parse().ok()).unwrap_or(0);
            !request.starts_with("HEAD") && body.len() < length
        }
        None => head.contains("transfer-encoding") && !body.ends_with("\r\n0\r\n\r\n"),
    };
    let tells = ["\"error\":{\"", "\"error\":\"", "\"type\":\"error\"", "response.failed"];
    // The status page tells of the errors of other requests.
    let is_own = !request.starts_with("GET /status.json ");
    let tells_own = is_own && tells.iter().any(|word| body.contains(word));
    let failed = status >= 400 || is_cut || tells_own;
    Asked { what, id: id.to_owned(), failed }
}

fn request(method: &str, path: &str, kind: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// What generates on some route, with or without a stream.
fn body(stream: bool) -> String {
    json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "Hi"}],
        "prompt": "Hi", "input": "Hi", "max_tokens": 5, "query": "Hi"})
    .to_string()
}

const FORM: &str = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b--\r\n";

/// The routes that ask the upstream.
const ASKING: &[&str] = &[
    "/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/show", "/api/pull",
    "/api/push", "/api/create", "/v1/chat/completions", "/v1/completions", "/v1/embeddings",
    "/v1/responses", "/v1/responses/compact", "/v1/messages", "/v1/audio/transcriptions",
    "/v1/rerank",
];

/// The samples of a metric by their labels.
fn samples(running: &Running, name: &str) -> BTreeMap<String, u64> {
    let mut client = Client::connect(running.addr);
    let text = client.get("/metrics").answer().body;
    let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
    lines.map(|(labels, count)| (labels.to_owned(), count.parse().expect("a count"))).collect()
}

/// Asserts that failures and lines with an error are the same, and how many there are of each.
fn check(running: Running, asked: &[Asked]) {
    let count = || samples(&running, "ollama_proxy_requests_total").values().sum::<u64>();
    let deadline = Instant::now() + HANG;
    // A request is counted behind its last byte; those for the metrics count, too.
    while count() < asked.len() as u64 && Instant::now() < deadline {}
    let errors = samples(&running, "ollama_proxy_request_errors_total");
    let log = running.stop();
    let mut wrong = Vec::new();
    for Asked { what, id, failed } in asked {
        let mut lines = log
            .lines()
            .filter(|line| line.contains(&format!("] {id} ")) && line.contains(" duration_ms="));
        let line = lines.next().unwrap_or_else(|| panic!("{what}: no line of {id}\n{log}"));
        if line.contains(" error=") != *failed || lines.next().is_some() {
            wrong.push(format!("{what}: failed={failed} {line}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let failed = asked.iter().filter(|it| it.failed).count() as u64;
    assert_eq!(errors.values().sum::<u64>(), failed, "{errors:?}");
    assert!(failed > 0 && failed < asked.len() as u64);
}

/// Asks on all routes that ask an upstream for each of its answers.
fn ask_all(upstream: &Upstream, running: &Running) -> Vec<Asked> {
    let current: Arc<Mutex<Script>> = Arc::new(Mutex::new(SCRIPTS[0]));
    let script = current.clone();
    upstream.judge(move |_| Some((script.lock().expect("no panic").1)()));
    let mut asked = Vec::new();
    for path in ASKING {
        let form = path.contains("audio");
        let kind = if form { "multipart/form-data; boundary=b" } else { "application/json" };
        for (name, script) in SCRIPTS {
            for stream in [true, false] {
                *current.lock().expect("no panic") = (name, *script);
                let body = if form { FORM.to_owned() } else { body(stream) };
                let what = format!("{path} stream={stream} {name}");
                asked.push(ask(running, what, &request("POST", path, kind, &body)));
            }
        }
    }
    // A large body streams through, and is sent once.
    let text = "x".repeat(2 << 20);
    let large =
        json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": text}]});
    for (name, script) in SCRIPTS {
        *current.lock().expect("no panic") = (name, *script);
        let path = "/v1/chat/completions";
        let request = request("POST", path, "application/json", &large.to_string());
        asked.push(ask(running, format!("{path} large {name}"), &request));
    }
    asked
}

fn start(upstream: &Upstream, profile: &str) -> Running {
    let mut command = program();
    command.env("OPENAI_BASE_URL", upstream.base_url()).env("UPSTREAM_PROFILE", profile);
    Running::start(command.env("RETRY_MAX", "0"))
}

#[test]
fn whatever_an_upstream_answers_each_failed_request_counts_once_and_no_other_does() {
    let upstream = Upstream::start();
    let running = start(&upstream, "generic");
    let asked = ask_all(&upstream, &running);
    check(running, &asked);
}

#[test]
fn so_does_one_that_an_ollama_answers() {
    let ollama = Ollama::start();
    ollama.list(r#"{"object":"list","data":[{"id":"m","object":"model","owned_by":"library"}]}"#);
    let running = start(&ollama, "ollama");
    let asked = ask_all(&ollama, &running);
    check(running, &asked);
}

#[test]
fn each_request_that_the_proxy_refuses_by_itself_counts_once_on_every_route() {
    let upstream = Upstream::start();
    let mut command = program();
    command.env("OPENAI_BASE_URL", upstream.base_url()).env("MAX_BODY_BYTES", "2000");
    let running = Running::start(command.env("RETRY_MAX", "0"));
    upstream.judge(|_| Some(vec![status(400, &[], ERROR)]));
    let (large, unknown) = ("x".repeat(2001), r#"{"model":"m:cloud","messages":[],"input":""}"#);
    let mut asked = Vec::new();
    let paths = ROUTES.iter().map(|route| route.pattern.replace([':', '*'], ""));
    for path in paths.chain(["/nothing", "/v1/nothing", "/api/tags/"].map(str::to_owned)) {
        for method in ["GET", "POST", "HEAD", "DELETE", "PUT", "OPTIONS"] {
            for body in ["", "{}", "{bad", unknown, &large] {
                let what = format!("{method} {path} {:?}", &body[..body.len().min(9)]);
                asked.push(ask(&running, what, &request(method, &path, "application/json", body)));
            }
        }
    }
    // What is refused before any route is known.
    for head in [
        "Host: evil.test\r\n",
        "Host: localhost\r\nOrigin: http://evil.test\r\n",
        "Host: a\r\nHost: b\r\n",
    ] {
        let request = format!("GET /api/tags HTTP/1.1\r\n{head}Connection: close\r\n\r\n");
        asked.push(ask(&running, head.to_owned(), &request));
    }
    check(running, &asked);
}

#[test]
fn a_client_that_leaves_is_no_error_and_is_counted_apart() {
    let upstream = Upstream::start();
    let running = start(&upstream, "generic");
    let leave = |path: &str, body: &str, sent: usize| {
        let (closed, is_closed) = bounded(1);
        let waits = vec![stream_head(), delta("a"), Step::UntilClosed(closed)];
        let asks = sent == body.len();
        if asks {
            upstream.script(waits);
        }
        let mut client = Client::connect(running.addr);
        let whole = request("POST", path, "application/json", body);
        client.send(&whole[..whole.len() - body.len() + sent]);
        if asks {
            // In the middle of the response.
            client.head();
            client.frame();
            drop(client);
            is_closed.recv_timeout(HANG).expect("the upstream's response is cancelled");
        }
    };
    for path in ["/api/chat", "/v1/chat/completions", "/v1/messages", "/v1/responses"] {
        leave(path, &body(true), body(true).len());
    }
    // In the middle of its own request.
    let large = body(true).replace("Hi", &"x".repeat(5000));
    for path in ["/api/chat", "/v1/chat/completions"] {
        leave(path, &large, 2000);
    }
    let left = || samples(&running, "ollama_proxy_clients_left_total").values().sum::<u64>();
    let deadline = Instant::now() + HANG;
    while left() < 6 && Instant::now() < deadline {}
    assert_eq!(left(), 6);
    assert_eq!(samples(&running, "ollama_proxy_request_errors_total"), BTreeMap::new());
    let log = running.stop();
    assert_eq!(log.matches(" client_left=true").count(), 6, "{log}");
    assert!(!log.contains(" error="), "{log}");
}
