//! Errors of Ollama's routes, one row each (Ollama `server/routes.go`, v0.32.15).
//!
//! A row says which routes it is about, what is changed in a request that would succeed, what the
//! upstream answers if it is asked at all, and the status and text that a client then reads. Every
//! row runs against a proxy and an upstream of its own.

use crate::support::*;

const SHOW: &str = "/api/show";

const ALL: &[&str] = &[CHAT, GENERATE, EMBED, EMBEDDINGS, SHOW];

/// The body of a request.
enum Body {
    /// These bytes.
    Raw(&'static str),
    /// A good request with these members changed; null takes one away.
    Changed(Value),
}

struct Row {
    routes: &'static [&'static str],
    body: Body,
    /// The upstream's model list, where it matters.
    list: Option<&'static str>,
    /// The upstream's answer; it must not be asked without one.
    upstream: Option<(u16, Value)>,
    status: u16,
    text: &'static str,
}

fn row(routes: &'static [&'static str], change: Value, status: u16, text: &'static str) -> Row {
    Row { routes, body: Body::Changed(change), list: None, upstream: None, status, text }
}

fn raw(body: &'static str, text: &'static str) -> Row {
    Row { body: Body::Raw(body), ..row(ALL, Value::Null, 400, text) }
}

impl Row {
    fn answered(self, status: u16, body: Value) -> Self {
        Self { upstream: Some((status, body)), ..self }
    }

    fn listed(self, list: &'static str) -> Self {
        Self { list: Some(list), ..self }
    }

    fn body(&self, route: &str) -> String {
        let change = match &self.body {
            Body::Raw(body) => return (*body).to_owned(),
            Body::Changed(change) => change,
        };
        let mut body = good(route);
        for (name, value) in change.as_object().into_iter().flatten() {
            if value.is_null() {
                body.as_object_mut().expect("an object").remove(name);
            } else {
                body[name] = value.clone();
            }
        }
        body.to_string()
    }

    fn check(&self) {
        for route in self.routes {
            let (upstream, proxy) = asking_once();
            if let Some(list) = self.list {
                upstream.list(list);
            }
            if let Some((code, body)) = &self.upstream {
                upstream.script(vec![status(*code, &[], &body.to_string())]);
            }
            let body = self.body(route);
            let answer = proxy.ask(route, &body);
            let found = (answer.status(), answer.error());
            assert_eq!(found, (self.status, self.text.to_owned()), "POST {route} {body}");
            let kind = answer.head.header("content-type");
            assert_eq!(kind, Some("application/json; charset=utf-8"), "POST {route} {body}");
            if self.upstream.is_some() {
                upstream.request();
            }
            assert!(upstream.is_idle(), "the upstream is not asked: POST {route} {body}");
        }
    }
}

/// A request that succeeds.
fn good(route: &str) -> Value {
    match route {
        SHOW => json!({"model": "m"}),
        _ => request(route, &json!({})),
    }
}

/// An upstream's error for an unknown model.
fn unknown() -> Value {
    let message = "The model `nope` does not exist or you do not have access to it.";
    json!({"error": {"message": message, "type": "invalid_request_error", "param": null,
        "code": "model_not_found"}})
}

fn said(message: &str) -> Value {
    json!({"error": {"message": message, "type": "server_error", "param": null, "code": null}})
}

const VLLM: &str = r#"{"data":[{"id":"m","owned_by":"vllm"}]}"#;

const PLAIN: &str = r#"{"data":[{"id":"m","supported_parameters":["temperature"]}]}"#;

const BAD_FORMAT: &str =
    r#"invalid format: "\"xml\""; expected "json" or a valid JSON Schema object"#;

const BAD_FLOAT: &str = "option \"temperature\" must be of type float32";

const BAD_TEMPLATE: &str = "template: :1: unexpected \"}\" in operand";

const RAW_CONFLICT: &str = "raw mode does not support template, system, or context";

const NO_INSERT: &str = "registry.ollama.ai/library/m:latest does not support insert";

const TOO_LONG: &str = "This model's maximum context length is 8 tokens. However, your messages \
                        resulted in 9 tokens.";

#[test]
fn a_request_without_faults_has_none() {
    for route in ALL {
        let upstream = Upstream::start();
        upstream.script(vec![upstream::json(
            r#"{"choices":[{"message":{"content":"ok"},"finish_reason":"stop"}],"data":[{"embedding":[1]}]}"#,
        )]);
        let answer = Proxy::start(&upstream).client().post(route, good(route).to_string()).answer();
        assert_eq!(answer.status(), 200, "{route}: {}", answer.body);
    }
}

#[test]
fn bodies_that_cannot_be_read() {
    raw("", "missing request body").check();
    raw("{bad", "invalid character 'b' looking for beginning of object key string").check();
    raw("hello", "invalid character 'h' looking for beginning of value").check();
    raw(r#"{"model":"x""#, "unexpected EOF").check();
    for (route, request) in ALL.iter().zip(["Chat", "Generate", "Embed", "Embedding", "Show"]) {
        let text = "json: cannot unmarshal number into Go struct field";
        let text = format!("{text} {request}Request.model of type string");
        row(std::slice::from_ref(route), json!({"model": 5}), 400, text.leak()).check();
    }
}

#[test]
fn models_that_are_not_named() {
    for missing in [json!({"model": null}), json!({"model": ""}), json!({"model": "  "})] {
        row(&[CHAT, SHOW, EMBEDDINGS], missing.clone(), 400, "model is required").check();
        row(&[GENERATE, EMBED], missing, 404, "model '' not found").check();
    }
    for body in ["{}", "null"] {
        let row = |routes, status, text| Row { routes, status, text, ..raw(body, "") };
        row(&[CHAT, SHOW, EMBEDDINGS], 400, "model is required").check();
        row(&[GENERATE, EMBED], 404, "model '' not found").check();
    }
}

#[test]
fn names_that_are_none() {
    for name in ["m:", "/m", ":m", "m/"] {
        row(ALL, json!({"model": name}), 400, "invalid model name").check();
    }
}

#[test]
fn models_that_are_unknown() {
    let nope = || json!({"model": "nope"});
    let unknown = |routes, text| row(routes, nope(), 404, text).answered(404, unknown());
    unknown(TEXT, "model 'nope' not found").check();
    unknown(&[EMBED, EMBEDDINGS], "model \"nope\" not found, try pulling it first").check();
    row(&[SHOW], nope(), 404, "model 'nope:latest' not found").check();
    // A listed model that the upstream does not know any more.
    row(TEXT, json!({}), 404, "model 'm' not found").answered(404, self::unknown()).check();
    let text = "model \"m\" not found, try pulling it first";
    row(&[EMBED, EMBEDDINGS], json!({}), 404, text).answered(404, self::unknown()).check();
    // The error contains the name as it was sent.
    let tagged = json!({"model": "nope:1b"});
    row(TEXT, tagged, 404, "model 'nope:1b' not found").answered(404, self::unknown()).check();
    // Some servers accept any name; the list shows that the model does not exist.
    let one = r#"{"data":[{"id":"m","owned_by":"llamacpp","aliases":["other"]}]}"#;
    let nope_at = || json!({"model": "nope:latest"});
    row(TEXT, nope_at(), 404, "model 'nope:latest' not found").listed(one).check();
    let text = "model \"nope:latest\" not found, try pulling it first";
    row(&[EMBED, EMBEDDINGS], nope_at(), 404, text).listed(one).check();
    let known = json!({"model": "other:latest"});
    row(TEXT, known, 418, "asked").listed(one).answered(418, said("asked")).check();
    // A load checks the list only.
    let load = json!({"model": "nope", "prompt": "", "messages": null});
    row(TEXT, load, 404, "model 'nope' not found").check();
}

#[test]
fn members_that_are_out_of_range() {
    for number in [-1, 21] {
        let text = "top_logprobs must be between 0 and 20";
        row(TEXT, json!({"top_logprobs": number}), 400, text).check();
    }
    row(TEXT, json!({"options": {"temperature": "hot"}}), 500, BAD_FLOAT).check();
    row(&[EMBED, EMBEDDINGS], json!({"options": {"temperature": "hot"}}), 500, BAD_FLOAT).check();
    let integer = "option \"num_predict\" must be of type integer";
    row(INFERENCE, json!({"options": {"num_predict": "5"}}), 500, integer).check();
    row(TEXT, json!({"format": "xml"}), 500, BAD_FORMAT).check();
    row(&[GENERATE], json!({"template": "{{ .Prompt }"}), 500, BAD_TEMPLATE).check();
    let no_end = "template: :2: unexpected EOF";
    row(&[GENERATE], json!({"template": "{{ if .System }}\n"}), 500, no_end).check();
    let think = "think must be a boolean or string";
    row(TEXT, json!({"think": 5}), 400, think).check();
    for input in [json!(5), json!({"a": 1}), json!(["a", 1]), json!(["a", null]), json!(true)] {
        row(&[EMBED], json!({"input": input}), 400, "invalid input type").check();
    }
}

#[test]
fn members_that_exclude_each_other() {
    for other in ["template", "system"] {
        row(&[GENERATE], json!({"raw": true, other: "x"}), 400, RAW_CONFLICT).check();
    }
    row(&[GENERATE], json!({"raw": true, "context": [1]}), 400, RAW_CONFLICT).check();
}

#[test]
fn things_that_a_model_cannot_do() {
    row(&[GENERATE], json!({"suffix": "x"}), 400, NO_INSERT).listed(VLLM).check();
    // Ollama checks capabilities before a load as well.
    let load = || json!({"prompt": null, "messages": null});
    let with = |mut change: Value, name: &str, value: Value| {
        change[name] = value;
        change
    };
    for change in [json!({}), load()] {
        let embeds = |name: &str| with(change.clone(), "model", name.into());
        for name in ["text-embed", "text-embed:latest", "nomic-embed-text:v1.5"] {
            let text = |route: &str| -> &'static str {
                format!("{name:?} does not support {route}").leak()
            };
            let list = r#"{"data":[{"id":"text-embed"},{"id":"nomic-embed-text:v1.5"}]}"#;
            row(&[CHAT], embeds(name), 400, text("chat")).listed(list).check();
            row(&[GENERATE], embeds(name), 400, text("generate")).listed(list).check();
        }
        let no_thinking = "\"m\" does not support thinking";
        for think in [json!(true), json!("low")] {
            let change = with(change.clone(), "think", think);
            row(TEXT, change, 400, no_thinking).listed(PLAIN).check();
        }
        let tools = json!([{"type": "function", "function": {"name": "f"}}]);
        let no_tools = "registry.ollama.ai/library/m:latest does not support tools";
        row(&[CHAT], with(change, "tools", tools), 400, no_tools).listed(PLAIN).check();
    }
    // A name with the tag `latest` makes the proxy fetch the list; a cached list serves any name.
    let tag = || json!({"model": "m:latest"});
    let draws = r#"{"data":[{"id":"m","type":"image"}]}"#;
    let no_images = "image generation models are not currently supported";
    row(&[GENERATE], tag(), 400, no_images).listed(draws).check();
    let no_chat = "\"m:latest\" does not support chat";
    row(&[CHAT], tag(), 400, no_chat).listed(draws).check();
    let kind = r#"{"data":[{"id":"m","type":"rerank"}]}"#;
    row(&[CHAT], tag(), 400, no_chat).listed(kind).check();
}

#[test]
fn what_nobody_denies_is_tried() {
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    for list in
        [upstream::MODELS, r#"{"data":[{"id":"m","supported_parameters":["tools","reasoning"]}]}"#]
    {
        for change in [json!({"think": true}), json!({"think": "high"}), json!({"tools": tools})] {
            row(&[CHAT], change, 418, "asked").listed(list).answered(418, said("asked")).check();
        }
    }
    // `think: false` needs no capability, and an unload needs none.
    row(TEXT, json!({"think": false}), 418, "asked")
        .listed(PLAIN)
        .answered(418, said("asked"))
        .check();
    let upstream = Upstream::start();
    let unload = json!({"model": "text-embed", "keep_alive": 0, "raw": true, "system": "x"});
    for route in TEXT {
        let answer = Proxy::start(&upstream).client().post(route, unload.to_string()).answer();
        assert_eq!(answer.json()["done_reason"], "unload", "{route}");
    }
}

#[test]
fn images_that_are_none() {
    let check = |image: Value, text| {
        row(&[GENERATE], json!({"images": [image]}), 400, text).check();
        let message = json!([{"role": "user", "content": "Hi", "images": [image]}]);
        row(&[CHAT], json!({"messages": message}), 400, text).check();
    };
    check(json!("data:image/png,x"), "illegal base64 data at input byte 4");
    check(json!("illegal!"), "illegal base64 data at input byte 7");
    check(json!("AAAAA"), "illegal base64 data at input byte 4");
    check(json!(""), "image data is empty");
}

#[test]
fn failures_of_the_backend() {
    for code in [400, 401, 403, 413, 422, 429, 500, 502, 503, 504] {
        // Of a policy, which no other form of the request changes.
        let reason = "the reason: content policy";
        row(INFERENCE, json!({}), code, reason).answered(code, said(reason)).check();
    }
    row(TEXT, json!({}), 400, TOO_LONG).answered(400, said(TOO_LONG)).check();
    let too_long = "the input length exceeds the context length";
    let uncut = || json!({"truncate": false});
    row(&[EMBED], uncut(), 400, too_long).answered(400, said(TOO_LONG)).check();
    let physical = "input (596 tokens) is too large to process. increase the physical batch size \
                    (current batch size: 512)";
    row(&[EMBED], uncut(), 400, too_long).answered(500, said(physical)).check();
    row(&[EMBED], uncut(), 400, "another reason").answered(400, said("another reason")).check();
}

/// Each row has two faults; the response names the one that Ollama checks first.
#[test]
fn the_first_fault_is_told() {
    let top = "top_logprobs must be between 0 and 20";
    // Body, then `top_logprobs`, then the name.
    row(TEXT, json!({"top_logprobs": 21, "model": ""}), 400, top).check();
    row(TEXT, json!({"top_logprobs": 21, "options": {"temperature": "hot"}}), 400, top).check();
    let wrong =
        "json: cannot unmarshal string into Go struct field ChatRequest.stream of type bool";
    row(&[CHAT], json!({"top_logprobs": 21, "stream": "no"}), 400, wrong).check();
    let keep = json!({"keep_alive": "abc", "model": "", "top_logprobs": 21});
    row(INFERENCE, keep, 400, "time: invalid duration \"abc\"").check();
    // Images and calls are part of the body.
    let (base64, image) = ("illegal base64 data at input byte 0", json!(["!"]));
    let arguments = "Value looks like object, but can't find closing '}' symbol";
    let call = json!({"function": {"name": "f", "arguments": "x"}});
    for wrong in [
        json!({"model": ""}),
        json!({"top_logprobs": 21}),
        json!({"options": {"temperature": "hot"}}),
        json!({"think": true}),
        json!({"raw": true, "system": "x"}),
        json!({"prompt": ""}),
    ] {
        let with = |name: &str, value: Value| {
            let mut changed = wrong.clone();
            changed[name] = value;
            changed
        };
        row(&[GENERATE], with("images", image.clone()), 400, base64).listed(PLAIN).check();
        let messages = json!([{"role": "user", "content": "Hi", "images": image}]);
        row(&[CHAT], with("messages", messages), 400, base64).listed(PLAIN).check();
        let messages = json!([{"role": "assistant", "tool_calls": [call]}]);
        row(&[CHAT], with("messages", messages), 400, arguments).listed(PLAIN).check();
    }
    // The name is checked before the options.
    let options = || json!({"temperature": "hot"});
    row(&[CHAT, EMBEDDINGS], json!({"model": "", "options": options()}), 400, "model is required")
        .check();
    row(&[GENERATE, EMBED], json!({"model": "", "options": options()}), 404, "model '' not found")
        .check();
    row(INFERENCE, json!({"model": "m:", "options": options()}), 400, "invalid model name").check();
    row(&[EMBED], json!({"model": "", "input": 5}), 404, "model '' not found").check();
    // A load checks the same, an unload checks none of it.
    let load = json!({"raw": true, "system": "x", "prompt": "", "options": options()});
    row(&[GENERATE], load, 400, RAW_CONFLICT).check();
    // The raw conflict before the model's abilities, these before the options, then the template, and
    // the format last.
    let raw = json!({"raw": true, "system": "x", "think": true});
    row(&[GENERATE], raw, 400, RAW_CONFLICT).listed(PLAIN).check();
    let raw = json!({"raw": true, "system": "x", "options": options(), "format": "xml"});
    row(&[GENERATE], raw, 400, RAW_CONFLICT).check();
    let insert = json!({"suffix": "x", "options": options()});
    row(&[GENERATE], insert, 400, NO_INSERT).listed(VLLM).check();
    row(TEXT, json!({"options": options(), "format": "xml"}), 500, BAD_FLOAT).check();
    let cannot = json!({"think": true, "options": options()});
    row(TEXT, cannot, 400, "\"m\" does not support thinking").listed(PLAIN).check();
    let embeds = json!({"model": "text-embed", "options": options()});
    row(&[CHAT], embeds, 400, "\"text-embed\" does not support chat").check();
    let template = || json!("{{ .Prompt }");
    let raw = json!({"raw": true, "template": template()});
    row(&[GENERATE], raw, 400, RAW_CONFLICT).check();
    let insert = json!({"suffix": "x", "template": template()});
    row(&[GENERATE], insert, 400, NO_INSERT).listed(VLLM).check();
    let all = json!({"options": options(), "template": template(), "format": "xml"});
    row(&[GENERATE], all, 500, BAD_FLOAT).check();
    let both = json!({"template": template(), "format": "xml"});
    row(&[GENERATE], both, 500, BAD_TEMPLATE).check();
    // The type of the input before the model and the options.
    let input = json!({"model": "nope", "input": 5, "options": options()});
    row(&[EMBED], input, 400, "invalid input type").check();
    // An unload checks only the model.
    let unload = json!({"model": "nope", "prompt": "", "messages": null, "keep_alive": 0,
        "options": options(), "format": "xml"});
    row(TEXT, unload, 404, "model 'nope' not found").check();
}
