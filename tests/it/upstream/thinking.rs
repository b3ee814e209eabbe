//! Thinking on each route that is translated: the switch that the server and the model take, answers
//! that are nothing but reasoning, tags inside the text, and reasoning that goes up again.

use crate::support::*;

const RESPONSES: &str = "/v1/responses";

/// The routes whose answers are translated.
const ROUTES: [&str; 4] = [CHAT, GENERATE, MESSAGES, RESPONSES];

/// A list with one model of a family that is known by its owner.
fn list(id: &str, owner: &str) -> String {
    json!({"data": [{"id": id, "object": "model", "owned_by": owner}]}).to_string()
}

/// A proxy that knows that its upstream has no `/v1/responses`.
fn bench(list: &str) -> Bench {
    let bench = Bench::over(list);
    bench.upstream.script(vec![status(404, &[], r#"{"detail":"Not Found"}"#)]);
    bench.upstream.script(vec![answer("ok")]);
    let first = bench.post(RESPONSES, &json!({"model": "m", "input": "Hi"}));
    assert_eq!(first.status(), 200, "{}", first.body);
    bench.upstream.request();
    bench.upstream.request();
    bench
}

/// A request in the form of its route, with `think` as the route has it.
fn body(route: &str, model: &str, think: Option<bool>, stream: bool) -> Value {
    let body = match route {
        RESPONSES => json!({"input": "Hi"}),
        _ => request(route, &json!({})),
    };
    let thinking = match (route, think) {
        (_, None) => json!({}),
        (MESSAGES, Some(true)) => json!({"thinking": {"type": "enabled", "budget_tokens": 1024}}),
        (MESSAGES, Some(false)) => json!({"thinking": {"type": "disabled"}}),
        (RESPONSES, Some(true)) => json!({"reasoning": {"effort": "medium"}}),
        (RESPONSES, Some(false)) => json!({"reasoning": {"effort": "none"}}),
        (_, Some(think)) => json!({ "think": think }),
    };
    with(with(body, &thinking), &json!({"model": model, "stream": stream}))
}

#[test]
fn the_switch_is_the_one_that_the_server_and_the_model_take() {
    let typed = |kind: &str| json!({"thinking": {"type": kind}});
    let kwargs = |on: bool| json!({"chat_template_kwargs": {"enable_thinking": on}});
    let both = |on: bool| json!({"chat_template_kwargs": {"enable_thinking": on, "thinking": on}});
    let enable = |on: bool| json!({ "enable_thinking": on });
    let rows = [
        ("deepseek-ai/DeepSeek-V3.1", "vllm", both(false), both(true)),
        ("deepseek-ai/DeepSeek-V3.2", "sglang", both(false), both(true)),
        ("DeepSeek-V4-GGUF", "llamacpp", both(false), both(true)),
        ("Qwen/Qwen3-8B", "vllm", kwargs(false), kwargs(true)),
        ("kimi-k2.5", "somebody", typed("disabled"), typed("enabled")),
        ("zai-org/GLM-4.6", "somebody", typed("disabled"), typed("enabled")),
        ("Qwen/Qwen3-8B", "somebody", enable(false), enable(true)),
        ("m", "somebody", json!({}), json!({})),
    ];
    for (model, owner, off, on) in rows {
        let bench = bench(&list(model, owner));
        for route in ROUTES {
            for (think, expected) in
                [(None, json!({})), (Some(false), off.clone()), (Some(true), on.clone())]
            {
                bench.upstream.script(vec![answer("ok")]);
                let sent = body(route, model, think, false);
                assert_eq!(bench.post(route, &sent).status(), 200, "{route}");
                let mut sent = bench.upstream.request().json();
                let mut expected = expected;
                if route == RESPONSES && think == Some(true) {
                    // A level is all that this route has for "on".
                    let place = if expected.get("chat_template_kwargs").is_some() {
                        &mut expected["chat_template_kwargs"]
                    } else {
                        &mut expected
                    };
                    place["reasoning_effort"] = "medium".into();
                }
                for name in ["model", "messages", "stream", "max_tokens"] {
                    sent.as_object_mut().expect("an object").remove(name);
                }
                assert_eq!(sent, expected, "{route} {model} {owner} {think:?}");
            }
        }
    }
}

#[test]
fn a_switch_that_is_refused_is_left_out_and_thinking_stays_hidden() {
    let bench = bench(&list("kimi-k2.5", "somebody"));
    let refusal = r#"{"error":{"message":"Unrecognized request argument supplied: thinking","type":"invalid_request_error","param":null,"code":null}}"#;
    bench.upstream.script(vec![status(400, &[], refusal)]);
    for round in 0..2 {
        bench
            .upstream
            .script(deltas(&[json!({"reasoning_content": "Hm."}), json!({"content": "Hi"})]));
        let answer = bench.post(CHAT, &body(CHAT, "kimi-k2.5", Some(false), true));
        let lines = answer.lines();
        let join = |name: &str| -> String {
            lines.iter().filter_map(|line| line["message"][name].as_str()).collect()
        };
        assert_eq!((join("content").as_str(), join("thinking").as_str()), ("Hi", ""), "{round}");
    }
    assert_eq!(bench.upstream.request().json()["thinking"], json!({"type": "disabled"}));
    for _ in 0..2 {
        assert!(bench.upstream.request().json().get("thinking").is_none(), "it is remembered");
    }
    assert!(bench.upstream.is_idle());
}
