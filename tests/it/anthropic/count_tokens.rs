//! `/v1/messages/count_tokens`, and the token estimate in the first event of a stream.

use super::messages::{COUNT, error, mario};
use crate::support::*;

#[test]
fn tokens_are_counted_without_the_upstream() {
    let bench = Bench::new();
    mario(&bench);
    let image = json!({"type": "image", "source": {"type": "base64", "data": "iVBORw0KGgo="}});
    let tool = json!({"name": "fn_1", "description": "12345678", "input_schema": {}});
    let call = json!({"type": "tool_use", "id": "i", "name": "name", "input": {"a": 12}});
    let user = |block: Value| json!({"messages": [{"role": "user", "content": [block]}]});
    let rows = [
        (json!({}), 1),
        (
            json!({"max_tokens": null, "messages": [{"role": "user", "content": "ä".repeat(40)}]}),
            10,
        ),
        (json!({"system": "s".repeat(38)}), 10),
        (json!({"tools": [tool]}), 4),
        (json!({"messages": [{"role": "user", "content": [image]}]}), 1601),
        (json!({"messages": [{"role": "assistant", "content": [call]}]}), 3),
        (user(json!({"type": "document", "source": {"type": "text", "data": "d".repeat(40)}})), 10),
        (
            user(json!({"type": "document", "source": {"type": "base64", "media_type":
                "application/pdf", "data": "JVBERi0x".repeat(10)}})),
            1 + 1600 + 2,
        ),
        (
            user(json!({"type": "search_result", "source": "s".repeat(12), "content":
                [{"type": "text", "text": "t".repeat(19)}]})),
            10,
        ),
        (
            user(
                json!({"type": "tool_result", "content": [{"type": "text", "text": "r".repeat(36)},
                {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}}]}),
            ),
            9 + 1600,
        ),
        (user(json!({"type": "of_tomorrow", "text": "x".repeat(400)})), 1),
        (json!({"messages": [{"role": "system", "content": "s".repeat(40)}]}), 10),
        (json!({"model": "mario"}), 5),
        (json!({"model": "nobody-has-it"}), 1),
    ];
    for (change, tokens) in rows {
        let answer = bench.post(COUNT, &request(MESSAGES, &change));
        assert_eq!(answer.status(), 200, "{change}: {}", answer.body);
        assert_eq!(answer.body, format!("{{\"input_tokens\":{tokens}}}\n"), "{change}");
    }
    let image = json!({"type": "image", "source": {"type": "base64", "data": "?"}});
    let bad = json!({"messages": [{"role": "user", "content": [image]}]});
    let (status, kind, text) = error(&bench.post(COUNT, &request(MESSAGES, &bad)));
    assert_eq!((status, &*kind), (400, "invalid_request_error"));
    assert!(text.starts_with("invalid base64 image data"), "{text}");
    assert!(bench.upstream.is_idle());
}

#[test]
fn a_stream_begins_with_the_estimate_that_the_count_gives() {
    let bench = Bench::new();
    let change = json!({"stream": true, "system": "s".repeat(400)});
    let count = bench.post(COUNT, &request(MESSAGES, &change)).json();
    let events = bench.played(MESSAGES, &change, upstream::stream(&["Hi"])).events();
    assert_eq!(events[0]["message"]["usage"], json!({"input_tokens": 100, "output_tokens": 0}));
    assert_eq!(count["input_tokens"], 100);
}
