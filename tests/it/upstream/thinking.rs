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
                    let level = if model.contains("V4") { "high" } else { "medium" };
                    place["reasoning_effort"] = level.into();
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

/// What a client reads of an answer: reasoning and text.
fn texts(route: &str, answer: &Answer, stream: bool) -> (String, String) {
    assert_eq!(answer.status(), 200, "{route}: {}", answer.body);
    let (mut thinking, mut content) = (String::new(), String::new());
    let mut add = |thought: &Value, text: &Value| {
        thinking += thought.as_str().unwrap_or_default();
        content += text.as_str().unwrap_or_default();
    };
    let lines = || if stream { answer.lines() } else { vec![answer.json()] };
    match (route, stream) {
        (CHAT, _) => lines().iter().for_each(|line| {
            add(&line["message"]["thinking"], &line["message"]["content"]);
        }),
        (GENERATE, _) => {
            lines().iter().for_each(|line| add(&line["thinking"], &line["response"]));
        }
        (MESSAGES, true) => answer.events().iter().for_each(|event| {
            add(&event["delta"]["thinking"], &event["delta"]["text"]);
        }),
        (MESSAGES, false) => answer.json()["content"]
            .as_array()
            .expect("blocks")
            .iter()
            .for_each(|block| add(&block["thinking"], &block["text"])),
        (_, true) => answer.events().iter().for_each(|event| {
            match event["type"].as_str().unwrap_or_default() {
                "response.reasoning_summary_text.delta" => add(&event["delta"], &Value::Null),
                "response.output_text.delta" => add(&Value::Null, &event["delta"]),
                _ => {}
            }
        }),
        (_, false) => answer.json()["output"].as_array().expect("items").iter().for_each(|item| {
            add(&item["summary"][0]["text"], &item["content"][0]["text"]);
        }),
    }
    (thinking, content)
}

/// The upstream's answer with these deltas, as a stream or in one message.
fn upstream_answer(said: &[Value], reason: &str, stream: bool) -> Vec<Step> {
    if stream {
        let chunk = |delta: &Value| json!({"choices": [{"index": 0, "delta": delta}]});
        let mut all: Vec<Value> = said.iter().map(chunk).collect();
        all.push(json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}));
        let events = all.iter().map(|chunk| frame(&format!("data: {chunk}\n\n")));
        let end = [frame("data: [DONE]\n\n"), last_frame()];
        return [stream_head()].into_iter().chain(events).chain(end).collect();
    }
    let mut message = json!({"role": "assistant", "content": null});
    for delta in said {
        for (name, value) in delta.as_object().expect("an object") {
            let before = message[name].as_str().map(str::to_owned);
            message[name] = match (before, value.as_str()) {
                (Some(before), Some(more)) => (before + more).into(),
                _ => value.clone(),
            };
        }
    }
    let choice = json!({"index": 0, "message": message, "finish_reason": reason});
    vec![upstream::json(&json!({"choices": [choice]}).to_string())]
}

/// Asks for an answer of these deltas, and returns what the client reads.
fn ask(
    bench: &Bench,
    (route, think, stream): (&str, Option<bool>, bool),
    change: &Value,
    (said, reason): (&[Value], &str),
) -> (String, String) {
    bench.upstream.script(upstream_answer(said, reason, stream));
    let answer = bench.post(route, &with(body(route, "m", think, stream), change));
    bench.upstream.request();
    texts(route, &answer, stream)
}

fn thought(text: &str) -> Value {
    json!({ "reasoning_content": text })
}

fn said(text: &str) -> Value {
    json!({ "content": text })
}

#[test]
fn reasoning_is_the_answer_where_none_was_wanted_and_nothing_else_came() {
    let bench = bench(MODELS);
    let call = json!({"tool_calls": [{"index": 0, "id": "c", "type": "function",
        "function": {"name": "f", "arguments": "{}"}}]});
    let hm = [thought("H"), thought("m.")];
    let blank = [json!({"content": ""}), thought("Hm."), said("\n")];
    let with_text = [thought("Hm."), said("Yes")];
    let with_call = [thought("Hm."), call];
    let field = [json!({"reasoning": "Hm."})];
    for route in ROUTES {
        for stream in [true, false] {
            let ask = |think, said: &[Value], reason| {
                ask(&bench, (route, think, stream), &json!({}), (said, reason))
            };
            let context = format!("{route} {stream}");
            let both = |thinking: &str, content: &str| (thinking.to_owned(), content.to_owned());
            let off = Some(false);
            assert_eq!(ask(off, &hm, "stop"), both("", "Hm."), "{context}");
            assert_eq!(ask(off, &field, "stop"), both("", "Hm."), "{context}");
            assert_eq!(ask(off, &blank, "stop").1.trim(), "Hm.", "{context}");
            assert_eq!(ask(off, &hm, "length"), both("", ""), "{context}: it was cut off");
            assert_eq!(ask(off, &hm, "content_filter"), both("", ""), "{context}");
            assert_eq!(ask(off, &with_text, "stop"), both("", "Yes"), "{context}");
            assert_eq!(ask(None, &hm, "stop"), both("Hm.", ""), "{context}: not asked for");
            assert_eq!(ask(Some(true), &hm, "stop"), both("Hm.", ""), "{context}");
            if route != GENERATE {
                assert_eq!(ask(off, &with_call, "tool_calls"), both("", ""), "{context}");
            }
        }
    }
}

#[test]
fn json_that_came_as_reasoning_is_the_answer_where_json_was_wanted() {
    let bench = bench(MODELS);
    let json_text = "{\"a\":1}";
    let format = json!({"type": "json_schema", "name": "f", "schema": {"type": "object"}});
    for route in [CHAT, GENERATE, RESPONSES] {
        let change = match route {
            RESPONSES => json!({"text": {"format": format}}),
            _ => json!({"format": {"type": "object"}}),
        };
        for stream in [true, false] {
            let ask = |said: &[Value], reason| {
                ask(&bench, (route, None, stream), &change, (said, reason))
            };
            let (thinking, content) = ask(&[thought("{\"a\":"), thought("1}")], "stop");
            assert_eq!(content, json_text, "{route} {stream}");
            // A stream has shown it before it could be known.
            assert_eq!(thinking, if stream { json_text } else { "" }, "{route}");
            assert_eq!(ask(&[thought("Hm.")], "stop").1, "", "{route}: no JSON");
            assert_eq!(ask(&[thought(json_text)], "length").1, "", "{route}: cut off");
            assert_eq!(ask(&[thought(json_text), said("{}")], "stop").1, "{}", "{route}");
        }
    }
}

#[test]
fn the_channel_of_gemma_is_reasoning_wherever_it_is_cut() {
    let bench = bench(MODELS);
    let pieces = [
        said("<|chan"),
        said("nel>tho"),
        said("ught\nHm"),
        said(".\n<chan"),
        said("nel|>Y"),
        said("es"),
    ];
    let empty = [said("<|channel>thought\n<channel|>Yes")];
    for route in ROUTES {
        for stream in [true, false] {
            for (think, shown) in [(None, "Hm."), (Some(false), "")] {
                let ask = |said: &[Value]| {
                    ask(&bench, (route, think, stream), &json!({}), (said, "stop"))
                };
                assert_eq!(ask(&pieces), (shown.into(), "Yes".into()), "{route} {stream}");
                assert_eq!(ask(&empty), (String::new(), "Yes".into()), "{route} {stream}");
            }
        }
    }
}

#[test]
fn a_model_with_a_lone_closing_tag_begins_inside_reasoning_from_then_on() {
    let lone = [said("Hm."), said("</th"), said("ink>\n\nYes")];
    let plain = [said("So it"), said(" is.")];
    let both = |thinking: &str, content: &str| (thinking.to_owned(), content.to_owned());
    for route in ROUTES {
        for whole_first in [true, false] {
            let bench = bench(MODELS);
            let ask = |think, stream, said: &[Value], reason| {
                ask(&bench, (route, think, stream), &json!({}), (said, reason))
            };
            if whole_first {
                assert_eq!(ask(None, false, &lone, "stop"), both("Hm.", "Yes"), "{route}");
            } else {
                assert_eq!(ask(None, true, &lone, "stop").0, "", "{route}: too late");
            }
            for stream in [true, false, true] {
                assert_eq!(ask(None, stream, &lone, "stop"), both("Hm.", "Yes"), "{route}");
                assert_eq!(ask(Some(false), stream, &lone, "stop"), both("", "Yes"), "{route}");
            }
            // Cut off inside reasoning, which says nothing of the next one.
            assert_eq!(ask(None, true, &plain, "length"), both("So it is.", ""), "{route}");
            assert_eq!(ask(None, true, &plain, "stop"), both("So it is.", "So it is."), "{route}");
            assert_eq!(ask(None, true, &plain, "stop"), both("", "So it is."), "taken back");
            ask(None, false, &lone, "stop");
            assert_eq!(ask(Some(false), true, &plain, "stop"), both("", "So it is."), "{route}");
        }
    }
}

#[test]
fn text_that_speaks_of_tags_teaches_nothing() {
    let bench = bench(MODELS);
    let both = [said("The tags are <think> and </think>.")];
    let plain = [said("Yes")];
    for stream in [true, false] {
        let ask = |said: &[Value]| ask(&bench, (CHAT, None, stream), &json!({}), (said, "stop"));
        assert_eq!(ask(&both), (String::new(), "The tags are <think> and </think>.".into()));
        assert_eq!(ask(&plain), (String::new(), "Yes".into()));
    }
}

#[test]
fn a_raw_prompt_is_answered_as_it_is() {
    let bench = bench(MODELS);
    ask(&bench, (CHAT, None, false), &json!({}), (&[said("Hm.</think>Yes")], "stop"));
    let chunk = json!({"choices": [{"index": 0, "text": "Yes", "finish_reason": "stop"}]});
    bench.upstream.script(chunks(&[chunk]));
    let answer = bench.post(GENERATE, &json!({"model": "m", "prompt": "Hi", "raw": true}));
    assert_eq!(texts(GENERATE, &answer, true), (String::new(), "Yes".into()));
}

/// A conversation in a tool loop, whose turns carry reasoning, in the form of its route.
fn tool_loop(route: &str, model: &str) -> Value {
    let turns = match route {
        CHAT => {
            let call = json!([{"id": "call_1", "function": {"name": "f", "arguments": {}}}]);
            json!({"messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Yes", "thinking": "old"},
                {"role": "user", "content": "And?"},
                {"role": "assistant", "content": "", "thinking": "new", "tool_calls": call},
                {"role": "tool", "content": "1", "tool_call_id": "call_1"}]})
        }
        MESSAGES => json!({"max_tokens": 64, "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "old", "signature": ""},
                {"type": "text", "text": "Yes"}]},
            {"role": "user", "content": "And?"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "new", "signature": ""},
                {"type": "tool_use", "id": "call_1", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "1"}]}]}),
        _ => json!({"input": [
            {"role": "user", "content": "Hi"},
            {"type": "reasoning", "id": "r1", "summary": [], "encrypted_content": "old"},
            {"role": "assistant", "content": "Yes"},
            {"role": "user", "content": "And?"},
            {"type": "reasoning", "id": "r2", "summary": [], "encrypted_content": "new"},
            {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "1"}]}),
    };
    with(turns, &json!({"model": model, "stream": false}))
}

#[test]
fn the_reasoning_of_a_running_loop_goes_up_where_the_model_wants_it() {
    // Each member of a message that holds reasoning, with its place.
    let sent = |bench: &Bench, route: &str, model: &str| -> Vec<(usize, String, Value)> {
        bench.upstream.script(vec![answer("ok")]);
        let answer = bench.post(route, &tool_loop(route, model));
        assert_eq!(answer.status(), 200, "{route}: {}", answer.body);
        let request = bench.upstream.request().json();
        let messages = request["messages"].as_array().expect("a list").iter().enumerate();
        let members = messages.flat_map(|(at, message)| {
            let members = message.as_object().expect("an object").clone();
            members.into_iter().map(move |(name, value)| (at, name, value))
        });
        members.filter(|(_, name, _)| name.starts_with("reasoning")).collect()
    };
    let models =
        ["openai/gpt-oss-20b", "MiniMaxAI/MiniMax-M2", "Kimi-K2-Thinking", "zai-org/GLM-4.6"];
    for owner in ["vllm", "sglang", "llamacpp"] {
        for model in models {
            let bench = bench(&list(model, owner));
            for route in [CHAT, MESSAGES, RESPONSES] {
                let expected = vec![(3, "reasoning_content".to_owned(), json!("new"))];
                assert_eq!(sent(&bench, route, model), expected, "{route} {owner} {model}");
            }
        }
    }
    let routed = json!({"data": [{"id": models[3], "architecture": {}, "top_provider": {},
        "pricing": {}, "supported_parameters": ["tools", "reasoning"]}]});
    let router = bench(&routed.to_string());
    for route in [CHAT, MESSAGES, RESPONSES] {
        let expected = vec![(3, "reasoning_content".to_owned(), json!("new"))];
        assert_eq!(sent(&router, route, models[3]), expected, "{route}");
    }
    let rest =
        [("Qwen/Qwen3-8B", "vllm"), ("m", "vllm"), (models[0], "somebody"), (models[0], "library")];
    for (model, owner) in rest {
        let bench = bench(&list(model, owner));
        for route in [CHAT, MESSAGES, RESPONSES] {
            assert_eq!(sent(&bench, route, model), [], "{route} {owner} {model}");
        }
    }
}

#[test]
fn reasoning_goes_up_in_the_member_in_which_the_upstream_sends_it() {
    let model = "openai/gpt-oss-20b";
    let bench = bench(&list(model, "vllm"));
    for (name, stream) in [
        ("reasoning", true),
        ("reasoning_content", false),
        ("reasoning", false),
        ("reasoning_content", true),
    ] {
        let steps = upstream_answer(&[json!({ name: "Hm." }), said("Yes")], "stop", stream);
        bench.upstream.script(steps).script(vec![answer("ok")]);
        assert_eq!(bench.post(CHAT, &body(CHAT, model, None, stream)).status(), 200);
        bench.upstream.request();
        assert_eq!(bench.post(CHAT, &tool_loop(CHAT, model)).status(), 200);
        let turn = bench.upstream.request().json()["messages"][3].clone();
        assert_eq!(turn[name], "new", "{turn}");
        let other = if name == "reasoning" { "reasoning_content" } else { "reasoning" };
        assert!(turn.get(other).is_none(), "{turn}");
    }
}
