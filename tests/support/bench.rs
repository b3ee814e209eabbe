//! A proxy with its upstream for table tests: the upstream request of a client's request, how a
//! request is refused, and the client's view of a scripted response.
//!
//! A row contains only the changes to a request that would succeed.

use serde_json::{Value, json};

use super::proxy::Proxy;
use super::raw::Answer;
use super::upstream::{self, Step, Upstream, ending, frame, stream_head};

pub const CHAT: &str = "/api/chat";
pub const GENERATE: &str = "/api/generate";
pub const EMBED: &str = "/api/embed";
pub const EMBEDDINGS: &str = "/api/embeddings";
pub const MESSAGES: &str = "/v1/messages";

pub const TEXT: &[&str] = &[CHAT, GENERATE];
pub const INFERENCE: &[&str] = &[CHAT, GENERATE, EMBED, EMBEDDINGS];

/// A list by which llama.cpp is known.
pub const LLAMA: &str = r#"{"data":[{"id":"m","owned_by":"llamacpp"}]}"#;

/// An answer that will do for every route.
const ANSWER: &str = r#"{"choices":[{"message":{"content":"ok"},"finish_reason":"stop"}],
    "data":[{"embedding":[3,4]}],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}"#;

/// A request that succeeds, with these members changed; null stays null.
pub fn request(route: &str, change: &Value) -> Value {
    let body = match route {
        CHAT => json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]}),
        MESSAGES => json!({"model": "m", "max_tokens": 64,
            "messages": [{"role": "user", "content": "Hi"}]}),
        EMBED => json!({"model": "m", "input": "Hi"}),
        _ => json!({"model": "m", "prompt": "Hi"}),
    };
    with(body, change)
}

/// An object with the members of another one, which replace its own.
pub fn with(mut object: Value, members: &Value) -> Value {
    for (name, value) in members.as_object().expect("an object") {
        object[name] = value.clone();
    }
    object
}

/// A stream of these deltas.
pub fn deltas(deltas: &[Value]) -> Vec<Step> {
    let chunk = |delta: &Value| json!({"choices": [{"index": 0, "delta": delta}]});
    chunks(&deltas.iter().map(chunk).collect::<Vec<_>>())
}

/// A stream of these chunks.
pub fn chunks(chunks: &[Value]) -> Vec<Step> {
    let mut steps = vec![stream_head()];
    steps.extend(chunks.iter().map(|chunk| frame(&format!("data: {chunk}\n\n"))));
    steps.extend(ending());
    steps
}

/// Members whose values differ from one time to the next.
const CHANGING: &[&str] = &[
    "created_at", "total_duration", "load_duration", "prompt_eval_duration", "eval_duration",
    "context",
];

/// The text of an answer with a `_` for each value that differs from one time to the next.
pub fn masked(body: &str) -> String {
    let mut out = body.to_owned();
    for name in CHANGING {
        let mark = format!("\"{name}\":");
        let mut pieces = out.split(&mark);
        let mut text = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let end = match piece.strip_prefix('[') {
                Some(list) => list.find(']').map(|end| end + 2),
                None => piece.find([',', '}']),
            };
            text.extend([&mark, "_", &piece[end.expect("a value ends")..]]);
        }
        out = text;
    }
    out
}

pub struct Bench {
    pub upstream: Upstream,
    pub proxy: Proxy,
}

impl Bench {
    /// Over an upstream of no known family.
    pub fn new() -> Self {
        let upstream = Upstream::start();
        let proxy = Proxy::with(&upstream, |config| config.retry.max_retries = 0);
        Self { upstream, proxy }
    }

    /// Over an upstream with this model list.
    pub fn over(list: &str) -> Self {
        let bench = Self::new();
        bench.upstream.list(list);
        bench
    }

    pub fn get(&self, path: &str) -> Value {
        self.proxy.client().get(path).answer().json()
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.proxy.client().post(path, body.to_string()).answer()
    }

    /// Asks with a changed request.
    pub fn ask(&self, route: &str, change: &Value) -> Answer {
        self.post(route, &request(route, change))
    }

    /// What goes upstream for a changed request, as it was written.
    pub fn written(&self, route: &str, change: &Value) -> String {
        self.upstream.script(vec![upstream::json(ANSWER)]);
        let answer = self.ask(route, change);
        assert_eq!(answer.status(), 200, "{route} {change}: {}", answer.body);
        self.upstream.request().body
    }

    /// The same as a value.
    pub fn sent(&self, route: &str, change: &Value) -> Value {
        serde_json::from_str(&self.written(route, change)).expect("the proxy sends JSON")
    }

    /// What goes upstream beside what every request has.
    pub fn added(&self, route: &str, change: &Value) -> Value {
        let mut sent = self.sent(route, change);
        let members = sent.as_object_mut().expect("an object");
        for name in
            ["model", "messages", "stream", "stream_options", "input", "encoding_format", "prompt"]
        {
            members.remove(name);
        }
        sent
    }

    /// Sees that a changed request is refused, without the upstream.
    pub fn refused(&self, route: &str, change: &Value, status: u16, text: &str) {
        let answer = self.ask(route, change);
        let found = (answer.status(), answer.error());
        assert_eq!(found, (status, text.to_owned()), "{route} {change}");
        let kind = answer.head.header("content-type");
        assert_eq!(kind, Some("application/json; charset=utf-8"), "{route} {change}");
        assert!(self.upstream.is_idle(), "the upstream is not asked: {route} {change}");
    }

    /// What a client gets for what the upstream plays.
    pub fn played(&self, route: &str, change: &Value, steps: Vec<Step>) -> Answer {
        self.upstream.script(steps);
        let answer = self.ask(route, change);
        assert_eq!(answer.status(), 200, "{route} {change}: {}", answer.body);
        self.upstream.request();
        answer
    }
}
