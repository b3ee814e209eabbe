//! The members of every request that Ollama reads, with their types: the table that invalid input is
//! generated from, and the expected errors.
//!
//! Members that Ollama types but that mean nothing to a proxy may be taken whatever they are; they
//! are [`Kind::Skipped`] here. Knows nothing of sockets.

use serde_json::{Value, json};

/// The right type of a member.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
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
    /// The stop sequences of a model that is made: a list, or one as in a Modelfile.
    Stops,
    /// A string or a list of strings, by another rule of its own.
    License,
    /// Typed by Ollama and skipped here: taken, or refused as Ollama refuses it.
    Skipped,
}
use Kind::{
    Any, Bool, BoolOption, Duration, FloatOption, Format, Input, Int, IntOption, License, List,
    ListOption, Object, Skipped, Stops, Text, Think,
};

/// Members of one type, by blanks; a member inside another one has its path.
type Group = (Kind, &'static str);

/// The members of a message, in a chat and in a model that is made.
const MESSAGES: &[Group] = &[
    (List, "messages messages.images messages.tool_calls"),
    (Text, "messages.role messages.content messages.thinking messages.tool_name"),
    (Text, "messages.tool_call_id messages.tool_calls.id messages.tool_calls.function.name"),
    (Object, "messages.tool_calls.function"),
    (Int, "messages.tool_calls.function.index"),
    (Any, "messages.tool_calls.function.arguments"),
];

/// What chat and generate have in common.
const INFERENCE: &[Group] = &[
    (Text, "model"),
    (Format, "format"),
    (Object, "options"),
    (ListOption, "options.stop"),
    (Duration, "keep_alive"),
    (Think, "think"),
    (Bool, "stream truncate shift logprobs _debug_render_only"),
    (Int, "top_logprobs"),
];

const CHAT: &[Group] = &[
    (List, "tools"),
    (Object, "tools.function tools.function.parameters"),
    (Text, "tools.function.name tools.function.description"),
    (IntOption, "options.seed options.top_k options.num_predict"),
    (FloatOption, "options.temperature options.top_p options.repeat_penalty"),
    (BoolOption, "options.use_mmap"),
];

const GENERATE: &[Group] = &[
    (Text, "prompt suffix system template"),
    (List, "context images"),
    (Bool, "raw"),
    (IntOption, "options.num_ctx"),
    (FloatOption, "options.min_p"),
];

const EMBEDDING: &[Group] = &[
    (Text, "model"),
    (Object, "options"),
    (IntOption, "options.num_ctx"),
    (Duration, "keep_alive"),
];

const CREATE: &[Group] = &[
    (Text, "model name from remote_host template system quantize quantization draft_quantize"),
    (Text, "renderer parser requires"),
    (Object, "files adapters draft_files parameters"),
    (License, "license"),
    (IntOption, "parameters.seed parameters.num_ctx"),
    (FloatOption, "parameters.temperature parameters.min_p"),
    (BoolOption, "parameters.use_mmap"),
    (Stops, "parameters.stop"),
    (Bool, "stream"),
    // An object to Ollama, for stubs of remote models.
    (Skipped, "info"),
];

/// Ollama types the last two as texts, and does not use them either.
const TRANSFER: &[Group] =
    &[(Text, "model name"), (Bool, "insecure stream"), (Skipped, "username password")];

/// A route, Go's name of its request, and the request's members in groups.
const REQUESTS: &[(&str, &str, &[&[Group]])] = &[
    ("/api/chat", "ChatRequest", &[INFERENCE, MESSAGES, CHAT]),
    ("/api/generate", "GenerateRequest", &[INFERENCE, GENERATE]),
    (
        "/api/embed",
        "EmbedRequest",
        &[EMBEDDING, &[(Input, "input"), (Bool, "truncate"), (Int, "dimensions")]],
    ),
    ("/api/embeddings", "EmbeddingRequest", &[EMBEDDING, &[(Text, "prompt")]]),
    (
        "/api/show",
        "ShowRequest",
        &[&[(Text, "model name system"), (Bool, "verbose"), (Object, "options")]],
    ),
    ("/api/create", "CreateRequest", &[CREATE, MESSAGES]),
    ("/api/copy", "CopyRequest", &[&[(Text, "source destination")]]),
    ("/api/delete", "DeleteRequest", &[&[(Text, "model name")]]),
    ("/api/pull", "PullRequest", &[TRANSFER]),
    ("/api/push", "PushRequest", &[TRANSFER]),
];

/// A route, Go's name of its request, and the request's members with their right types.
pub type Request = (&'static str, &'static str, Vec<(&'static str, Kind)>);

/// Every request that Ollama reads.
pub fn requests() -> Vec<Request> {
    let expand = |(kind, names): &Group| -> Vec<(&'static str, Kind)> {
        names.split(' ').map(|name| (name, *kind)).collect()
    };
    let members = |groups: &[&[Group]]| groups.concat().iter().flat_map(expand).collect();
    REQUESTS.iter().map(|(route, name, groups)| (*route, *name, members(groups))).collect()
}

/// The routes that manage models. The proxy answers them by itself.
pub const MANAGEMENT: &[&str] =
    &["/api/create", "/api/copy", "/api/delete", "/api/pull", "/api/push"];

/// The method of a route.
pub fn method(route: &str) -> &'static str {
    if route == "/api/delete" { "DELETE" } else { "POST" }
}

/// One value of each JSON type and of what is inside; with Go's name of its type.
pub const VALUES: &[(&str, &str)] = &[
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
pub fn refusal(
    request: &str,
    field: &str,
    kind: Kind,
    value: &str,
    of: &str,
) -> Option<(u16, String)> {
    let bad_option = |right: &[&str]| {
        // Those of a model that is made are checked before it is.
        let (status, option) = match field.split_once('.') {
            Some(("parameters", option)) => (400, option),
            _ => (500, field.trim_start_matches("options.")),
        };
        let text = format!("option {option:?} must be ");
        (!right.contains(&of)).then_some((status, text))
    };
    let mismatch = |right: &str| {
        let text = format!("json: cannot unmarshal {of} into Go struct field {request}.{field} of");
        (of != right).then_some((400, text))
    };
    if of == "null" {
        return None;
    }
    match kind {
        Any | Skipped => None,
        Text => mismatch("string"),
        Bool => mismatch("bool"),
        Int => mismatch("number"),
        List => mismatch("array"),
        Object => mismatch("object"),
        IntOption | FloatOption => bad_option(&["number"]),
        ListOption => bad_option(&["array"]),
        BoolOption => bad_option(&["bool"]),
        Stops => bad_option(&["array", "string"]),
        License => {
            let text = "license must be a string or a list of strings";
            (of != "string" && of != "array").then_some((400, text.into()))
        }
        Input => (of != "string" && of != "array").then_some((400, "invalid input type".into())),
        Duration => {
            (of != "string" && of != "number").then_some((400, "Unsupported type: ".into()))
        }
        Think => match of {
            "bool" | "string" => None,
            _ => Some((400, "think must be a boolean or string".into())),
        },
        Format => match value {
            r#""""# => None,
            _ => (of != "object").then_some((500, "invalid format: ".into())),
        },
    }
}

/// A request that succeeds. What is deleted has to be there.
pub fn good(route: &str) -> Value {
    let mut body = least(route);
    match route {
        "/api/chat" => body["messages"] = json!([{"role": "user", "content": "Hi"}]),
        "/api/embed" => body["input"] = "Hi".into(),
        "/api/generate" | "/api/embeddings" => body["prompt"] = "Hi".into(),
        _ => {}
    }
    body
}

/// The minimal request that names its models.
pub fn least(route: &str) -> Value {
    match route {
        "/api/create" => json!({"model": "made", "from": "m"}),
        "/api/copy" => json!({"source": "m", "destination": "made"}),
        "/api/delete" => json!({"model": "made"}),
        _ => json!({"model": "m"}),
    }
}

/// A good request as text, with the text `value` at `field`.
pub fn with(route: &str, field: &str, value: &str) -> String {
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

/// A request with everything in it.
pub fn sample(route: &str) -> String {
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
        "/api/create" => {
            json!({"model": "made", "from": "m", "system": "é\u{1f600}\n\"\\", "license": ["a", "b"],
            "template": "{{ .Prompt }}", "parameters": options, "messages": [
            {"role": "user", "content": "é"}, {"role": "assistant", "content": "b"}], "stream": true})
        }
        "/api/copy" => json!({"source": "m", "destination": "made", "é\u{1f600}\n": [1, null]}),
        "/api/delete" => json!({"model": "made", "name": "é\u{1f600}\n"}),
        "/api/pull" => {
            json!({"model": "m", "name": "", "insecure": true, "username": "é", "stream": false})
        }
        "/api/push" => json!({"model": "m", "name": "é\u{1f600}\n", "stream": true}),
        _ => json!({"model": "m", "verbose": true, "system": "é\u{1f600}\n"}),
    };
    body.to_string()
}
