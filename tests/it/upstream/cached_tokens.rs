//! Token counts of the upstream's prompt cache, on every route that counts tokens.

use crate::support::*;

/// Places in an object, and the counts there.
type Counts = &'static [(&'static str, u64)];

/// The request of each route, and where its last object has which counts.
const ROUTES: &[(&str, &str, Counts)] = &[
    (
        "/api/chat",
        r#"{"model":"m","messages":[{"role":"user","content":"Hi"}],"stream":STREAM}"#,
        &[("/prompt_eval_count", 25), ("/prompt_eval_cached_count", 20)],
    ),
    (
        "/api/generate",
        r#"{"model":"m","prompt":"Hi","stream":STREAM}"#,
        &[("/prompt_eval_count", 25), ("/prompt_eval_cached_count", 20)],
    ),
    (
        "/v1/messages",
        r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi"}],"stream":STREAM}"#,
        &[
            ("/usage/input_tokens", 2),
            ("/usage/cache_read_input_tokens", 20),
            ("/usage/cache_creation_input_tokens", 3),
        ],
    ),
    (
        "/v1/responses",
        r#"{"model":"m","input":"Hi","stream":STREAM}"#,
        &[("/usage/input_tokens", 25), ("/usage/input_tokens_details/cached_tokens", 20)],
    ),
];

const USAGE: &str = r#"{"prompt_tokens":25,"completion_tokens":2,"total_tokens":27,"prompt_tokens_details":{"cached_tokens":20,"cache_write_tokens":3}}"#;

/// A refusal of the route, so that it is translated.
const NO_ROUTE: &str = r#"{"error":{"message":"File Not Found","type":"not_found_error"}}"#;

/// The answer of the upstream, whole or as a stream.
fn answered(stream: bool) -> Vec<Step> {
    if stream {
        let end = frame("data: {\"choices\":[{\"index\":0,\"finish_reason\":\"stop\"}]}\n\n");
        let usage = frame(&format!("data: {{\"choices\":[],\"usage\":{USAGE}}}\n\n"));
        return vec![stream_head(), delta("ok"), end, usage, last_frame()];
    }
    let message = r#"{"role":"assistant","content":"ok"}"#;
    let choice = format!(r#"{{"index":0,"message":{message},"finish_reason":"stop"}}"#);
    vec![json(&format!(r#"{{"choices":[{choice}],"usage":{USAGE}}}"#))]
}

/// The object of a response that has its counts.
fn counted(answer: &Answer, stream: bool) -> Value {
    let mut objects = match stream {
        false => return answer.json(),
        true if answer.body.starts_with("event: ") => named_events(&answer.body),
        true => answer.lines(),
    };
    objects.retain(|it| it["type"] != "message_stop");
    let last = objects.pop().expect("an object");
    if last["type"] == "response.completed" { last["response"].clone() } else { last }
}

#[test]
fn each_route_tells_them_in_its_own_members() {
    let (upstream, proxy) = pair();
    upstream.script(vec![status(404, &[], NO_ROUTE)]).script(answered(false));
    assert_eq!(proxy.ask("/v1/responses", r#"{"model":"m","input":"Hi"}"#).status(), 200);
    for (path, body, expected) in ROUTES {
        for stream in [false, true] {
            upstream.script(answered(stream));
            let answer = proxy.ask(path, body.replace("STREAM", &stream.to_string()));
            assert_eq!(answer.status(), 200, "{path}: {}", answer.body);
            let object = counted(&answer, stream);
            for (place, count) in *expected {
                assert_eq!(object.pointer(place), Some(&(*count).into()), "{path} {object}");
            }
        }
    }
}
