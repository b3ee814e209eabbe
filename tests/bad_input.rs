//! Input that no client should send: refused as Ollama refuses it, or taken, and never a panic, a
//! hang or a 5xx that Ollama would not give. After each request the same connection serves a good
//! one.

mod support;

use serde_json::{Value, json};
use support::proxy::Proxy;
use support::raw::{Answer, Client, chat_whole};
use support::upstream::{self, Upstream, status};

/// The right type of a member.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Text,
    Bool,
    Int,
    List,
    Object,
    /// Whatever the upstream makes of it.
    Any,
    /// A string or a list of strings, by a rule of its own.
    Input,
    /// `"json"` or a schema, by a rule of its own.
    Format,
    /// Seconds or a duration, by a rule of its own.
    Duration,
    /// A flag or a level, by a rule of its own.
    Think,
    /// An option that is a whole number.
    IntOption,
    /// An option that is any number.
    FloatOption,
    /// The option that is a list.
    ListOption,
    /// The option that is a flag.
    BoolOption,
}
use Kind::{
    Any, Bool, BoolOption, Duration, FloatOption, Format, Input, Int, IntOption, List, ListOption,
    Object, Text, Think,
};

/// Members and their right types.
type Fields = &'static [(&'static str, Kind)];

/// Every member of every request: the one table from which wrong types are made.
/// A route, Go's name of its request, and the request's members.
const FIELDS: &[(&str, &str, Fields)] = &[
    (
        "/api/chat",
        "ChatRequest",
        &[
            ("model", Text),
            ("messages", List),
            ("messages.role", Text),
            ("messages.content", Text),
            ("messages.thinking", Text),
            ("messages.images", List),
            ("messages.tool_name", Text),
            ("messages.tool_call_id", Text),
            ("messages.tool_calls", List),
            ("messages.tool_calls.id", Text),
            ("messages.tool_calls.function", Object),
            ("messages.tool_calls.function.index", Int),
            ("messages.tool_calls.function.name", Text),
            ("messages.tool_calls.function.arguments", Any),
            ("tools", List),
            ("tools.function", Object),
            ("tools.function.name", Text),
            ("tools.function.description", Text),
            ("tools.function.parameters", Object),
            ("format", Format),
            ("options", Object),
            ("options.seed", IntOption),
            ("options.top_k", IntOption),
            ("options.num_predict", IntOption),
            ("options.temperature", FloatOption),
            ("options.top_p", FloatOption),
            ("options.repeat_penalty", FloatOption),
            ("options.stop", ListOption),
            ("options.use_mmap", BoolOption),
            ("stream", Bool),
            ("keep_alive", Duration),
            ("think", Think),
            ("truncate", Bool),
            ("shift", Bool),
            ("logprobs", Bool),
            ("top_logprobs", Int),
            ("_debug_render_only", Bool),
        ],
    ),
    (
        "/api/generate",
        "GenerateRequest",
        &[
            ("model", Text),
            ("prompt", Text),
            ("suffix", Text),
            ("system", Text),
            ("template", Text),
            ("context", List),
            ("raw", Bool),
            ("images", List),
            ("format", Format),
            ("options", Object),
            ("options.num_ctx", IntOption),
            ("options.min_p", FloatOption),
            ("options.stop", ListOption),
            ("stream", Bool),
            ("keep_alive", Duration),
            ("think", Think),
            ("truncate", Bool),
            ("shift", Bool),
            ("logprobs", Bool),
            ("top_logprobs", Int),
            ("_debug_render_only", Bool),
        ],
    ),
    (
        "/api/embed",
        "EmbedRequest",
        &[
            ("model", Text),
            ("input", Input),
            ("truncate", Bool),
            ("dimensions", Int),
            ("options", Object),
            ("options.num_ctx", IntOption),
            ("keep_alive", Duration),
        ],
    ),
    (
        "/api/embeddings",
        "EmbeddingRequest",
        &[
            ("model", Text),
            ("prompt", Text),
            ("options", Object),
            ("options.num_ctx", IntOption),
            ("keep_alive", Duration),
        ],
    ),
    (
        "/api/show",
        "ShowRequest",
        &[
            ("model", Text),
            ("name", Text),
            ("system", Text),
            ("verbose", Bool),
            ("options", Object),
        ],
    ),
];

/// One value of each JSON type and of what is inside; with Go's name of its type.
const VALUES: &[(&str, &str)] = &[
    ("null", "null"),
    ("5", "number"),
    ("-1", "number"),
    ("1.5", "number"),
    ("99999999999999999999999", "number"),
    (r#""x""#, "string"),
    (r#""""#, "string"),
    (r#""\u0000\ud800é""#, "string"),
    ("true", "bool"),
    ("false", "bool"),
    ("[]", "array"),
    ("[1]", "array"),
    (r#"["x"]"#, "array"),
    (r#"[""]"#, "array"),
    ("[null]", "array"),
    ("[{}]", "array"),
    ("[[]]", "array"),
    ("{}", "object"),
    (r#"{"a":{"b":[1]}}"#, "object"),
];

/// What is expected of a value: `None` where it is taken, or refused for what is inside it.
fn refusal(request: &str, field: &str, kind: Kind, value: &str, of: &str) -> Option<(u16, String)> {
    let option = field.trim_start_matches("options.");
    let bad_option = |right: &[&str]| {
        let text = format!("option {option:?} must be ");
        (!right.contains(&of)).then_some((500, text))
    };
    let mismatch = |right: &str| {
        let text = format!("json: cannot unmarshal {of} into Go struct field {request}.{field} of");
        (of != right).then_some((400, text))
    };
    if of == "null" {
        return None;
    }
    match kind {
        Any => None,
        Text => mismatch("string"),
        Bool => mismatch("bool"),
        Int => mismatch("number"),
        List => mismatch("array"),
        Object => mismatch("object"),
        IntOption | FloatOption => bad_option(&["number"]),
        ListOption => bad_option(&["array"]),
        BoolOption => bad_option(&["bool"]),
        Input => (of != "string" && of != "array").then_some((400, "invalid input type".into())),
        Duration => {
            (of != "string" && of != "number").then_some((400, "Unsupported type: ".into()))
        }
        Think => match of {
            "bool" => None,
            "string" => Some((400, "invalid think value: ".into())),
            _ => Some((400, "think must be a boolean or string".into())),
        },
        Format => match value {
            r#""""# => None,
            _ => (of != "object").then_some((500, "invalid format: ".into())),
        },
    }
}

/// A request that succeeds.
fn good(route: &str) -> Value {
    match route {
        "/api/chat" => json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]}),
        "/api/embed" => json!({"model": "m", "input": "Hi"}),
        "/api/show" => json!({"model": "m"}),
        _ => json!({"model": "m", "prompt": "Hi"}),
    }
}

/// A good request as text, with the text `value` at `field`.
fn with(route: &str, field: &str, value: &str) -> String {
    const MARK: &str = "the value";
    let mut body = good(route);
    let mut place = &mut body;
    for name in field.split('.') {
        if ["messages", "tools", "tool_calls"].contains(&name) && !field.ends_with(name) {
            place = &mut place[name];
            if place.is_null() {
                *place = json!([{}]);
            }
            place = &mut place[0];
        } else {
            place = &mut place[name];
        }
    }
    *place = MARK.into();
    if field.starts_with("messages.tool_calls") {
        body["messages"][0]["role"] = "assistant".into();
    }
    body.to_string().replace(&format!("{MARK:?}"), value)
}

/// A proxy whose upstream has a good answer for everything, and one connection to it.
struct Bench {
    upstream: Upstream,
    client: Client,
    _proxy: Proxy,
}

impl Bench {
    fn new() -> Self {
        let upstream = Upstream::start();
        let proxy = Proxy::with(&upstream, |config| config.retry.max = 0);
        Self { client: proxy.client(), upstream, _proxy: proxy }
    }

    /// Asks, and sees that a good request is served after it.
    fn ask(&mut self, route: &str, body: &str) -> Answer {
        let answer = self.once(route, body);
        let after = self.once("/api/chat", &chat_whole("Hi"));
        assert_eq!(after.status(), 200, "after POST {route} {body}: {}", after.body);
        assert_eq!(after.json()["message"]["content"], "ok", "after POST {route} {body}");
        answer
    }

    fn once(&mut self, route: &str, body: &str) -> Answer {
        self.upstream.script(vec![upstream::json(
            r#"{"choices":[{"message":{"content":"ok"},"finish_reason":"stop"}],"data":[{"embedding":[1]}]}"#,
        )]);
        self.client.post(route, body).answer()
    }
}

#[test]
fn a_wrong_type_is_refused_for_every_member() {
    let mut bench = Bench::new();
    for (route, request, fields) in FIELDS {
        for (field, kind) in *fields {
            for (value, of) in VALUES {
                let body = with(route, field, value);
                let answer = bench.ask(route, &body);
                match refusal(request, field, *kind, value, of) {
                    Some((code, begins)) => {
                        assert_eq!(answer.status(), code, "POST {route} {body}: {}", answer.body);
                        let error = answer.error();
                        assert!(error.starts_with(&begins), "POST {route} {body}: {error}");
                    }
                    None => is_no_failure(&answer, route, &body),
                }
            }
        }
    }
}

#[test]
fn the_table_of_members_is_complete() {
    const SOURCE: &str = include_str!("../src/ollama/request.rs");
    let places = [
        ("Message", "ChatRequest", "messages."),
        ("ToolCall", "ChatRequest", "messages.tool_calls."),
        ("FunctionCall", "ChatRequest", "messages.tool_calls.function."),
        ("Tool", "ChatRequest", "tools."),
        ("FunctionDefinition", "ChatRequest", "tools.function."),
    ];
    let requests = FIELDS.iter().map(|(_, request, _)| (*request, *request, ""));
    for (name, request, prefix) in requests.chain(places) {
        let start = SOURCE.find(&format!("pub struct {name}<")).expect("a request");
        let body = SOURCE[start..].split("\n    }").next().expect("its members");
        let members = body.lines().filter_map(|line| line.trim().strip_prefix("pub "));
        let mut count = 0;
        for member in members.filter_map(|line| line.split_once(": ")).map(|(member, _)| member) {
            let (_, _, fields) =
                FIELDS.iter().find(|(_, known, _)| *known == request).expect("a route");
            let member = format!("{prefix}{member}");
            assert!(fields.iter().any(|(field, _)| *field == member), "{request}.{member}");
            count += 1;
        }
        assert!(count > 0, "{name}");
    }
}

/// Taken, or refused by a status that Ollama has for it.
#[track_caller]
fn is_no_failure(answer: &Answer, route: &str, body: &str) {
    let is_option = answer.body.starts_with(r#"{"error":"option "#);
    match answer.status() {
        200 => assert!(!answer.body.contains("\"error\""), "POST {route} {body}: {}", answer.body),
        400 | 404 => assert_ne!(answer.error(), "", "POST {route} {body}"),
        500 if is_option => {}
        other => panic!("{other} for POST {route} {body}: {}", answer.body),
    }
}

#[test]
fn a_body_of_another_type_is_refused() {
    let mut bench = Bench::new();
    for (route, request, _) in FIELDS {
        for (value, of) in VALUES.iter().filter(|(_, of)| !["null", "object"].contains(of)) {
            let answer = bench.ask(route, value);
            assert_eq!(answer.status(), 400, "POST {route} {value}: {}", answer.body);
            let text = format!("json: cannot unmarshal {of} into Go value of type api.{request}");
            assert_eq!(answer.error(), text, "POST {route} {value}");
        }
        for number in ["1e400", "-1e400", "[1e400]", r#"{"model":1e400}"#] {
            assert_eq!(bench.ask(route, number).status(), 400, "POST {route} {number}");
        }
    }
}

/// A request with everything in it.
fn sample(route: &str) -> String {
    let options = json!({"seed": 42, "temperature": 0.5, "stop": ["a", "b"], "use_mmap": true});
    let body = match route {
        "/api/chat" => {
            json!({"model": "m", "stream": false, "think": null, "format": {"type": "object"},
            "messages": [{"role": "system", "content": "é\u{1f600}\n\"\\"}, {"role": "user", "content": "Hi"}],
            "options": options, "keep_alive": "5m"})
        }
        "/api/generate" => {
            json!({"model": "m", "prompt": "Hi", "system": "é\u{1f600}\n", "context": [1, -2],
            "stream": true, "options": options, "keep_alive": -1})
        }
        "/api/embed" => {
            json!({"model": "m", "input": ["é\u{1f600}\n"], "truncate": true, "dimensions": 1,
            "options": options})
        }
        "/api/embeddings" => json!({"model": "m", "prompt": "é\u{1f600}\n", "options": options}),
        _ => json!({"model": "m", "verbose": true, "system": "é\u{1f600}\n"}),
    };
    body.to_string()
}

#[test]
fn a_body_cut_at_any_byte_is_refused() {
    let mut bench = Bench::new();
    for (route, ..) in FIELDS {
        let whole = sample(route);
        let answer = bench.ask(route, &whole);
        assert_eq!(answer.status(), 200, "POST {route} {whole}: {}", answer.body);
        for cut in 0..whole.len() {
            // A cut inside a character is a cut, too.
            bench.client.post(route, &whole.as_bytes()[..cut]);
            let answer = bench.client.answer();
            let expected = if cut == 0 { "missing request body" } else { "unexpected EOF" };
            assert_eq!(
                (answer.status(), answer.error().as_str()),
                (400, expected),
                "{route} {cut}"
            );
        }
        assert_eq!(bench.ask(route, &whole).status(), 200, "POST {route}, at last");
    }
}

#[test]
fn a_sample_with_any_byte_replaced_is_no_failure() {
    let mut bench = Bench::new();
    for (route, ..) in FIELDS {
        let whole = sample(route).into_bytes();
        for at in 0..whole.len() {
            for byte in [b'"', b'}', b'\\', 0, 0xff] {
                let mut body = whole.clone();
                body[at] = byte;
                let shown = String::from_utf8_lossy(&body).into_owned();
                bench.upstream.script(vec![upstream::answer("ok")]);
                let answer = bench.client.post(route, body).answer();
                // An upstream's chat answer is no answer for embeddings.
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
    for (route, _, fields) in FIELDS {
        let mut body = json!({});
        for (field, kind) in *fields {
            if *kind == Text && !field.contains('.') {
                body[field] = "".into();
            }
        }
        // Without a name there is no model; with one, the rest may be empty.
        let answer = bench.ask(route, &body.to_string());
        assert!([400, 404].contains(&answer.status()), "POST {route} {body}: {}", answer.body);
        body["model"] = "m".into();
        body["keep_alive"] = Value::Null;
        if *route == "/api/chat" {
            body["messages"] =
                json!([{"role": "", "content": ""}, {"role": "user", "content": ""}]);
        }
        let answer = bench.ask(route, &body.to_string());
        assert_eq!(answer.status(), 200, "POST {route} {body}: {}", answer.body);
    }
}

#[test]
fn unknown_roles_reach_the_upstream_in_lower_case() {
    let upstream = Upstream::start();
    upstream.script(vec![upstream::answer("ok")]);
    let proxy = Proxy::start(&upstream);
    let body = json!({"model": "m", "stream": false, "messages": [
        {"role": "Narrator", "content": "a"}, {"role": "DEVELOPER", "content": "b"},
        {"role": "", "content": "c"}, {"content": "d"}]});
    let answer = proxy.client().post("/api/chat", body.to_string()).answer();
    assert_eq!(answer.status(), 200, "{}", answer.body);
    let sent = upstream.request().json();
    let roles: Vec<_> = sent["messages"].as_array().expect("a list").iter().collect();
    let role = |at: usize| roles[at]["role"].as_str().expect("a role");
    assert_eq!([role(0), role(1), role(2), role(3)], ["narrator", "developer", "", ""]);
}

#[test]
fn a_history_of_a_thousand_messages_arrives_in_order() {
    let upstream = Upstream::start();
    upstream.script(vec![upstream::answer("ok")]);
    let proxy = Proxy::start(&upstream);
    let messages: Vec<Value> = (0..1000)
        .map(|number| {
            let role = if number % 2 == 0 { "user" } else { "assistant" };
            json!({"role": role, "content": format!("message {number}")})
        })
        .collect();
    let body = json!({"model": "m", "stream": false, "messages": messages});
    let answer = proxy.client().post("/api/chat", body.to_string()).answer();
    assert_eq!(answer.status(), 200, "{}", answer.body);
    assert_eq!(upstream.request().json()["messages"], Value::from(messages));
}

/// Vectors for the inputs from `first` on: each says its number, and they come in reverse.
fn vectors(first: usize, count: usize) -> String {
    let data: Vec<Value> = (0..count)
        .rev()
        .map(|index| json!({"index": index, "embedding": [first + index, 1]}))
        .collect();
    json!({"data": data, "usage": {"prompt_tokens": count, "total_tokens": count}}).to_string()
}

/// A list of numbered inputs.
fn inputs(count: usize) -> String {
    let inputs: Vec<String> = (0..count).map(|number| format!("input {number}")).collect();
    json!({"model": "e", "input": inputs}).to_string()
}

/// The numbers that the vectors of an answer say.
fn numbers(answer: &Answer) -> Vec<usize> {
    assert_eq!(answer.status(), 200, "{}", answer.body);
    let number = |vector: &Value| {
        let (x, y) = (vector[0].as_f64().expect("a number"), vector[1].as_f64().expect("a number"));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A small number.
        let number = (x / y).round() as usize;
        number
    };
    answer.json()["embeddings"].as_array().expect("a list").iter().map(number).collect()
}

#[test]
fn five_thousand_inputs_go_upstream_in_batches_and_come_back_in_order() {
    let upstream = Upstream::start();
    let sizes: Vec<usize> = std::iter::repeat_n(256, 19).chain([136]).collect();
    let mut first = 0;
    for size in &sizes {
        upstream.script(vec![upstream::json(&vectors(first, *size))]);
        first += size;
    }
    let proxy = Proxy::start(&upstream);
    let answer = proxy.client().post("/api/embed", inputs(5000)).answer();
    assert_eq!(numbers(&answer), (0..5000).collect::<Vec<_>>());
    assert_eq!(answer.json()["prompt_eval_count"], 5000, "the counts are summed");
    let mut next = 0;
    for size in sizes {
        let sent = upstream.request().json();
        let sent = sent["input"].as_array().expect("a list").clone();
        assert_eq!(sent.len(), size);
        assert_eq!(sent[0], format!("input {next}"));
        next += size;
    }
    assert!(upstream.is_idle());
}

#[test]
fn a_batch_that_is_too_large_is_halved_until_it_fits() {
    let upstream = Upstream::start();
    let refused = r#"{"error":{"message":"input batch size N > maximum allowed batch size 4"}}"#;
    upstream.script(vec![status(422, &[], refused)]);
    let in_one = r#"{"error":{"message":"at most 4 requests can be in one batch"}}"#;
    upstream.script(vec![status(400, &[], in_one)]);
    for (first, count) in [(0, 2), (2, 2), (4, 2), (6, 2), (8, 2)] {
        upstream.script(vec![upstream::json(&vectors(first, count))]);
    }
    let proxy = Proxy::start(&upstream);
    let answer = proxy.client().post("/api/embed", inputs(10)).answer();
    assert_eq!(numbers(&answer), (0..10).collect::<Vec<_>>());
    let sizes: Vec<usize> = (0..7)
        .map(|_| upstream.request().json()["input"].as_array().expect("a list").len())
        .collect();
    assert_eq!(sizes, [10, 5, 2, 2, 2, 2, 2]);
    assert!(upstream.is_idle());
}

#[test]
fn one_failing_batch_fails_all() {
    let upstream = Upstream::start();
    upstream.script(vec![upstream::json(&vectors(0, 256))]);
    upstream.script(vec![status(400, &[], r#"{"error":{"message":"no"}}"#)]);
    let proxy = Proxy::start(&upstream);
    let answer = proxy.client().post("/api/embed", inputs(300)).answer();
    assert_eq!((answer.status(), answer.error().as_str()), (400, "no"));
    // A single input that is too large for a batch cannot be split.
    let single = r#"{"error":{"message":"batch size 1 is too large"}}"#;
    upstream.script(vec![status(400, &[], single)]);
    let answer = proxy.client().post("/api/embed", inputs(1)).answer();
    assert_eq!((answer.status(), answer.error().as_str()), (400, "batch size 1 is too large"));
}

#[test]
fn inputs_that_are_long_together_are_sent_apart() {
    let upstream = Upstream::start();
    upstream.script(vec![upstream::json(&vectors(0, 1))]);
    upstream.script(vec![upstream::json(&vectors(1, 1))]);
    let proxy = Proxy::start(&upstream);
    let body = json!({"model": "e", "input": ["a".repeat(400_000), "b".repeat(400_000)]});
    let answer = proxy.client().post("/api/embed", body.to_string()).answer();
    assert_eq!(numbers(&answer), [0, 1]);
}
