//! Malformed input: refused as Ollama refuses it, or accepted, but never a panic, a hang or a 5xx
//! that Ollama would not send. After each request the same connection serves a valid one.

use crate::support::members::{MANAGEMENT, VALUES, least, method, refusal, requests, sample, with};
use crate::support::*;

use crate::support::members::Kind::{Skipped, Text};

/// A proxy whose upstream accepts every request, and one connection to it.
struct Bench {
    upstream: Upstream,
    client: Client,
    _proxy: Proxy,
}

impl Bench {
    fn new() -> Self {
        let (upstream, proxy) = asking_once();
        Self { client: proxy.client(), upstream, _proxy: proxy }
    }

    /// Sends a request, and checks that a valid one is served after it.
    fn ask(&mut self, route: &str, body: &str) -> Answer {
        let answer = self.once(route, body);
        let after = self.once("/api/chat", &chat_whole("Hi"));
        assert_eq!(after.status(), 200, "after {route} {body}: {}", after.body);
        assert_eq!(after.json()["message"]["content"], "ok", "after {route} {body}");
        answer
    }

    fn once(&mut self, route: &str, body: &str) -> Answer {
        self.upstream.script(vec![upstream::json(
            r#"{"choices":[{"message":{"content":"ok"},"finish_reason":"stop"}],"data":[{"embedding":[1]}]}"#,
        )]);
        self.send(route, body)
    }

    /// Sends a request. A model to delete is created first.
    fn send(&mut self, route: &str, body: impl AsRef<[u8]>) -> Answer {
        if route == "/api/delete" {
            let copy = least("/api/copy").to_string();
            assert_eq!(self.client.post("/api/copy", copy).answer().status(), 200);
        }
        self.client.call(method(route), route, body).answer()
    }
}

#[test]
fn a_wrong_type_is_refused_for_every_member() {
    let mut bench = Bench::new();
    for (route, request, fields) in &requests() {
        for (field, kind) in fields {
            for (value, of) in VALUES {
                let body = with(route, field, value);
                let answer = bench.ask(route, &body);
                match refusal(request, field, *kind, value, of) {
                    Some((code, begins)) => {
                        assert_eq!(answer.status(), code, "{route} {body}: {}", answer.body);
                        let error = answer.error();
                        assert!(error.starts_with(&begins), "{route} {body}: {error}");
                    }
                    None => is_no_failure(&answer, route, &body),
                }
            }
        }
    }
}

/// The members of a request type, read from its source.
fn members(name: &str) -> Vec<&'static str> {
    const SOURCES: &[&str] = &[
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/api/ollama/request.rs")),
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/api/ollama/manage.rs")),
    ];
    let start = format!("pub struct {name}<");
    let found = SOURCES.iter().find_map(|source| source.split_once(&start));
    let body = found.expect(name).1.split("\n    }").next().expect("its members");
    let members = body.lines().filter_map(|line| line.trim().strip_prefix("pub "));
    members.filter_map(|line| line.split_once(": ")).map(|(member, _)| member).collect()
}

#[test]
fn the_table_of_members_is_complete() {
    let places = [
        ("Message", "ChatRequest", "messages."),
        ("ToolCall", "ChatRequest", "messages.tool_calls."),
        ("FunctionCall", "ChatRequest", "messages.tool_calls.function."),
        ("Tool", "ChatRequest", "tools."),
        ("FunctionDefinition", "ChatRequest", "tools.function."),
        ("MessageRequest", "CreateRequest", "messages."),
        ("ToolCall", "CreateRequest", "messages.tool_calls."),
        ("FunctionCall", "CreateRequest", "messages.tool_calls.function."),
    ];
    let all = requests();
    let requests = all.iter().map(|(_, request, _)| match *request {
        "PullRequest" | "PushRequest" => ("TransferRequest", *request, ""),
        request => (request, request, ""),
    });
    for (name, request, prefix) in requests.chain(places) {
        let members = members(name);
        assert!(!members.is_empty(), "{name}");
        let (.., fields) = all.iter().find(|(_, known, _)| *known == request).expect("a route");
        for member in &members {
            let member = format!("{prefix}{member}");
            assert!(fields.iter().any(|(field, _)| *field == member), "{request}.{member}");
        }
        // The table names no other members.
        for (field, _) in fields.iter().filter(|(_, kind)| *kind != Skipped) {
            let member = field.strip_prefix(prefix).filter(|member| !member.contains('.'));
            assert!(member.is_none_or(|member| members.contains(&member)), "{request}.{field}");
        }
    }
}

/// How the progress of a failed transfer ends: with status 200 after the lines of a stream, else with
/// 500.
const ENDINGS: &[&str] = &[
    "pull model manifest: file does not exist",
    "push is not supported: ",
    "open ",
    "insecure protocol http",
];

/// Asserts that the request is accepted, or refused with a status that Ollama has for it.
#[track_caller]
fn is_no_failure(answer: &Answer, route: &str, body: &str) {
    let manages = MANAGEMENT.contains(&route);
    let is_option = answer.body.starts_with(r#"{"error":"option "#);
    let is_ending = |error: &str| manages && ENDINGS.iter().any(|end| error.starts_with(end));
    match answer.status() {
        200 if manages => {
            let errors: Vec<Value> =
                answer.body.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            let errors: Vec<&str> =
                errors.iter().filter_map(|line| line["error"].as_str()).collect();
            let expected = errors.len() <= 1 && errors.iter().all(|error| is_ending(error));
            assert!(expected, "{route} {body}: {}", answer.body);
        }
        200 => assert!(!answer.body.contains("\"error\""), "{route} {body}: {}", answer.body),
        400 | 404 => assert_ne!(answer.error(), "", "{route} {body}"),
        500 if is_option && !manages => {}
        500 if is_ending(&answer.error()) => {}
        other => panic!("{other} for {route} {body}: {}", answer.body),
    }
}

#[test]
fn a_body_of_another_type_is_refused() {
    let mut bench = Bench::new();
    for (route, request, _) in &requests() {
        for (value, of) in VALUES.iter().filter(|(_, of)| !["null", "object"].contains(of)) {
            let answer = bench.ask(route, value);
            assert_eq!(answer.status(), 400, "{route} {value}: {}", answer.body);
            let text = format!("json: cannot unmarshal {of} into Go value of type api.{request}");
            assert_eq!(answer.error(), text, "{route} {value}");
        }
        for number in ["1e400", "-1e400", "[1e400]", r#"{"model":1e400}"#] {
            assert_eq!(bench.ask(route, number).status(), 400, "{route} {number}");
        }
    }
}

#[test]
fn a_body_cut_at_any_byte_is_refused() {
    let mut bench = Bench::new();
    for (route, ..) in &requests() {
        let whole = sample(route);
        let answer = bench.ask(route, &whole);
        assert_eq!(answer.status(), 200, "{route} {whole}: {}", answer.body);
        for cut in 0..whole.len() {
            // The cut may be inside a character.
            let answer = bench.send(route, &whole.as_bytes()[..cut]);
            let expected = if cut == 0 { "missing request body" } else { "unexpected EOF" };
            assert_eq!(
                (answer.status(), answer.error().as_str()),
                (400, expected),
                "{route} {cut}"
            );
        }
        assert_eq!(bench.ask(route, &whole).status(), 200, "{route}, at last");
    }
}

#[test]
fn a_sample_with_any_byte_replaced_is_no_failure() {
    let mut bench = Bench::new();
    for (route, ..) in &requests() {
        let whole = sample(route).into_bytes();
        for at in 0..whole.len() {
            for byte in [b'"', b'}', b'\\', 0, 0xff] {
                let mut body = whole.clone();
                body[at] = byte;
                let shown = String::from_utf8_lossy(&body).into_owned();
                bench.upstream.script(vec![upstream::answer("ok")]);
                let answer = bench.send(route, body);
                // The upstream's chat response is invalid for embeddings.
                let is_nonsense = answer.status() == 502 && answer.body.contains("embeddings");
                if !is_nonsense {
                    is_no_failure(&answer, route, &shown);
                }
            }
        }
        assert_eq!(bench.ask("/api/show", r#"{"model":"m"}"#).status(), 200);
    }
}

#[test]
fn empty_strings_are_taken_everywhere() {
    let mut bench = Bench::new();
    for (route, request, fields) in &requests() {
        let empty = |prefix: &str| {
            let texts = fields.iter().filter(|(_, kind)| *kind == Text);
            let members = texts.filter_map(|(field, _)| field.strip_prefix(prefix));
            let members = members.filter(|member| !member.contains('.'));
            members.map(|member| (member.to_owned(), Value::from(""))).collect::<Value>()
        };
        // Without a name there is no model; with one, the rest may be empty.
        let mut body = empty("");
        let answer = bench.ask(route, &body.to_string());
        assert!([400, 404].contains(&answer.status()), "{route} {body}: {}", answer.body);
        for (member, value) in least(route).as_object().expect("an object") {
            body[member] = value.clone();
        }
        if fields.iter().any(|(field, _)| *field == "messages") {
            body["messages"] = json!([empty("messages."), {"role": "user", "content": ""}]);
        }
        body["keep_alive"] = Value::Null;
        let answer = bench.ask(route, &body.to_string());
        assert_eq!(answer.status(), 200, "{request} {body}: {}", answer.body);
    }
}
