//! A client's request sequence as a table: each row is a request, what the upstream does meanwhile, and
//! the places in the response and in the upstream's request that the client depends on.
//!
//! All rows of a client go over one connection, as its HTTP library would send them.

use crate::support::*;

/// What must stand in a place.
#[derive(Clone)]
pub(super) enum Read {
    /// Exactly this.
    Is(Value),
    /// An object with at least these members.
    Part(Value),
    /// A string with something in it.
    Text,
    /// A number above 0.
    Positive,
    /// A list with this string among others.
    Holds(&'static str),
    /// Nothing at all.
    Absent,
    /// Dot-separated numbers, at least 0.6.4.
    Version,
    /// 64 hex digits.
    Digest,
    /// What stands in this other place.
    As(&'static str),
    /// An object whose `<general.architecture>.context_length` is this.
    Window(u64),
}
use Read::{Absent, As, Digest, Holds, Is, Part, Positive, Text, Version, Window};

/// Places, by JSON pointer, and what must stand there. A stream is an object: `lines`, and the `last` one.
pub(super) type Reads = Vec<(&'static str, Read)>;

/// A place that holds exactly this value.
pub(super) fn is(place: &'static str, value: impl Into<Value>) -> (&'static str, Read) {
    (place, Is(value.into()))
}

impl Read {
    fn is_met_by(&self, value: Option<&Value>, body: &Value) -> bool {
        let Some(value) = value else { return matches!(self, Absent) };
        match self {
            As(other) => body.pointer(other) == Some(value),
            Is(expected) => value == expected,
            Part(members) => members.as_object().is_some_and(|members| {
                members.iter().all(|(name, it)| value.get(name) == Some(it))
            }),
            Text => value.as_str().is_some_and(|text| !text.is_empty()),
            Positive => value.as_f64().is_some_and(|number| number > 0.0),
            Holds(item) => value.as_array().is_some_and(|list| list.contains(&json!(item))),
            Absent => false,
            Version => value.as_str().is_some_and(is_new_enough),
            Digest => value.as_str().is_some_and(|text| {
                text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
            }),
            Window(length) => value["general.architecture"]
                .as_str()
                .is_some_and(|name| value[format!("{name}.context_length")] == *length),
        }
    }
}

/// VS Code compares the numbers with 0.6.4; Open WebUI makes an int of each part.
fn is_new_enough(version: &str) -> bool {
    let parts: Option<Vec<u32>> = version.split('.').map(|part| part.parse().ok()).collect();
    parts.is_some_and(|parts| parts.len() == 3 && parts.as_slice() >= [0, 6, 4].as_slice())
}

/// One request of a client.
pub(super) struct Row {
    request: &'static str,
    body: Value,
    /// What the upstream does; empty when it must not be asked.
    upstream: Vec<Step>,
    status: u16,
    reads: Reads,
    /// Places in the request to the upstream.
    sent: Reads,
}

/// A request with a body that the proxy answers by itself.
pub(super) fn local(request: &'static str, body: Value, reads: impl Into<Reads>) -> Row {
    Row { request, body, upstream: vec![], status: 200, reads: reads.into(), sent: vec![] }
}

/// The same without a body.
pub(super) fn get(request: &'static str, reads: impl Into<Reads>) -> Row {
    local(request, Value::Null, reads)
}

/// A request that goes upstream.
pub(super) fn forwarded(
    request: &'static str,
    body: Value,
    upstream: Vec<Step>,
    reads: impl Into<Reads>,
    sent: impl Into<Reads>,
) -> Row {
    Row { upstream, sent: sent.into(), ..local(request, body, reads) }
}

impl Row {
    pub(super) fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }
}

/// Sends the rows with these header lines, and checks each.
pub(super) fn replay(headers: &str, rows: impl IntoIterator<Item = Row>) {
    let (upstream, proxy) = pair();
    let mut client = proxy.client();
    for row in rows {
        let is_forwarded = !row.upstream.is_empty();
        if is_forwarded {
            upstream.script(row.upstream);
        }
        let (status, body) = ask(&mut client, row.request, headers, &row.body);
        assert_eq!(status, row.status, "{}: {body}", row.request);
        check(row.request, &body, &row.reads);
        if is_forwarded {
            check("sent upstream", &upstream.request().json(), &row.sent);
        }
        assert!(upstream.is_idle(), "{} asked the upstream", row.request);
    }
}

fn ask(client: &mut Client, request: &str, headers: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let (method, path) = request.split_once(' ').expect("a method and a path");
    let answer =
        client.with_host("localhost:11434", method, path, headers, &body).any_answer(method);
    (answer.status(), value(&answer))
}

/// A stream as its lines, with the last one also by name; JSON as it is, text as a string.
fn value(answer: &Answer) -> Value {
    if answer.head.header("content-type") == Some("application/x-ndjson") {
        let lines = answer.lines();
        let last = lines.last().expect("a line").clone();
        return json!({"lines": lines, "last": last});
    }
    serde_json::from_str(&answer.body).unwrap_or_else(|_| Value::from(answer.body.as_str()))
}

fn check(what: &str, body: &Value, reads: &Reads) {
    for (pointer, read) in reads {
        let found = body.pointer(pointer);
        assert!(read.is_met_by(found, body), "{what}: {pointer} is {found:?} in {body}");
    }
}

/// What every client reads of the last line.
pub(super) fn usage() -> Reads {
    vec![
        is("/last/done", true),
        is("/last/done_reason", "stop"),
        is("/last/message/content", ""),
        is("/last/prompt_eval_count", 5),
        is("/last/eval_count", 2),
        ("/last/eval_duration", Positive),
        ("/last/total_duration", Positive),
    ]
}
