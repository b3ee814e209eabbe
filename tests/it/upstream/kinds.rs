//! Each kind of refusal on each route that can lead to it: the upstream refuses for exactly one reason,
//! and accepts the repaired request. The texts are those of real servers and others that say the same.

use super::refusing::{
    CHATS, Complaint, TRANSLATED, ask, calling, on, refusing, result, roles, said, words,
};
use crate::support::*;
use ollama_openai_proxy::backends::profiles;

/// Sends a conversation over these routes to an upstream that says each of `texts` of what `is_wrong`;
/// the second request must be accepted, and the third is right at once.
#[track_caller]
fn check(
    routes: &[&str],
    (messages, tools, more): (&Value, &Value, &Value),
    texts: &[&str],
    is_wrong: fn(&Value) -> bool,
    is_right: fn(&Value),
) {
    for route in routes {
        for text in texts {
            let complaint = (*text).to_owned();
            let complain = move |body: &Value| is_wrong(body).then(|| (400, complaint.clone()));
            let pair = refusing(complain);
            let body = on(route, messages, tools, more);
            let (told, sent) = ask(&pair, route, &body);
            assert_eq!(told.status(), 200, "{route} {text}: {} {sent:?}", told.body);
            assert!(told.body.contains("ok"), "{route} {text}: {}", told.body);
            assert_eq!(sent.len(), 2, "{route} {text}: {sent:?}");
            is_right(&sent[1]);
            let (told, again) = ask(&pair, route, &body);
            assert_eq!(told.status(), 200, "{route} {text}: {}", told.body);
            assert_eq!(again, sent[1..], "{route} {text}: learnt");
        }
    }
}

const NOTHING: Value = Value::Null;

fn weather(name: &str, schema: Value) -> Value {
    json!([{"type": "function", "function": {"name": name, "parameters": schema}}])
}

fn plain() -> Value {
    json!({"type": "object", "properties": {"x": {"type": "integer"}}})
}

#[test]
fn a_late_system_message_is_told_by_the_user() {
    let messages = json!([
        said("system", "S"),
        said("user", "A"),
        said("assistant", "B"),
        said("system", "R"),
        said("user", "C")
    ]);
    let routes = ["/api/chat", "/v1/chat/completions", "/v1/responses"];
    check(
        &routes,
        (&messages, &NOTHING, &json!({})),
        &[
            "System message must be at the beginning.",
            "Only one system message is allowed",
            "a system prompt may only appear at the start of a conversation",
        ],
        |body| roles(body)[1..].contains(&"system".to_owned()),
        |body| {
            assert_eq!(roles(body), ["system", "user", "assistant", "user"]);
            assert_eq!(words(body), "S | A | B | R\n\nC");
        },
    );
}

#[test]
fn roles_alternate_where_they_must() {
    let messages = json!([
        said("system", "S"),
        said("assistant", "Hello"),
        said("user", "A"),
        said("user", "B"),
        said("assistant", "C"),
        said("user", "D")
    ]);
    check(
        &CHATS,
        (&messages, &NOTHING, &json!({})),
        &[
            "Conversation roles must alternate user/assistant/user/assistant/...",
            "consecutive messages of one role are not accepted",
        ],
        |body| {
            let roles = roles(body);
            roles[1] == "assistant" || roles.windows(2).any(|pair| pair[0] == pair[1])
        },
        |body| assert_eq!(words(body), "S | Hi. | Hello | A\n\nB | C | D"),
    );
}

#[test]
fn an_assistant_stands_between_a_result_and_the_user() {
    let messages = json!([
        said("user", "A"),
        calling("a12345678", "f"),
        result("a12345678"),
        said("user", "B")
    ]);
    check(
        &CHATS,
        (&messages, &weather("f", plain()), &json!({})),
        &[
            "Unexpected role 'user' after role 'tool'",
            "a tool message must be followed by an assistant message",
        ],
        |body| roles(body).windows(2).any(|pair| pair[0] == "tool" && pair[1] == "user"),
        |body| assert_eq!(words(body), "A |  | 22 degrees | OK. | B"),
    );
}

#[test]
fn a_user_asks_where_only_the_system_speaks() {
    check(
        &["/api/chat", "/v1/chat/completions"],
        (&json!([said("system", "S"), said("system", "Make a title")]), &NOTHING, &json!({})),
        &[
            "Error rendering prompt with jinja template: \"No user query found in messages.\"",
            "messages must include at least one user turn",
        ],
        |body| !roles(body).contains(&"user".to_owned()),
        |body| assert_eq!(words(body), "S | Make a title"),
    );
}

#[test]
fn a_turn_that_says_nothing_is_left_out() {
    let messages = json!([said("user", "A"), said("assistant", ""), said("user", "B")]);
    check(
        &["/v1/chat/completions"],
        (&messages, &NOTHING, &json!({})),
        &[
            "Assistant message must have either content or tool_calls, but not none.",
            "messages.1: all messages must have non-empty content",
        ],
        |body| body["messages"][1]["content"] == "",
        |body| assert_eq!(words(body), "A | B"),
    );
    // Elsewhere it does not come so far.
    for route in TRANSLATED {
        let pair = refusing(|_| None);
        let (_, sent) = ask(&pair, route, &on(route, &messages, &NOTHING, &json!({})));
        assert_eq!(words(&sent[0]), "A | B", "{route}");
    }
}

#[test]
fn ids_of_calls_become_short() {
    let id = "toolu_01A09q90qw90lq917835lq9_and_much_more_than_forty_characters";
    let messages = json!([said("user", "A"), calling(id, "f"), result(id)]);
    check(
        &CHATS,
        (&messages, &weather("f", plain()), &json!({})),
        &[
            "Invalid 'messages[1].tool_calls[0].id': string too long. Expected a string with maximum \
             length 40, but got a string with length 63 instead.",
            "Tool call id was toolu_x but must be a-z, A-Z, 0-9, with a length of 9.",
        ],
        |body| body["messages"][1]["tool_calls"][0]["id"].as_str().map(str::len) != Some(9),
        |body| {
            let id = &body["messages"][1]["tool_calls"][0]["id"];
            assert!(id.as_str().expect("an id").bytes().all(|byte| byte.is_ascii_alphanumeric()));
            assert_eq!(body["messages"][2]["tool_call_id"], *id);
        },
    );
}

/// True for a request with a name that is not legal.
fn has_odd_name(body: &Value) -> bool {
    let tools =
        body["tools"].as_array().into_iter().flatten().map(|tool| &tool["function"]["name"]);
    let messages = body["messages"].as_array().into_iter().flatten();
    let calls = messages.flat_map(|it| it["tool_calls"].as_array().into_iter().flatten());
    let names = tools.chain(calls.map(|call| &call["function"]["name"]));
    names.filter_map(Value::as_str).any(|name| name.contains(['.', '/']))
}

const ODD_NAME: &str = "mcp.home/get_weather";

fn odd_name_complaint(body: &Value) -> Complaint {
    let text = "Invalid 'tools[0].function.name': string does not match pattern. Expected a string \
                that matches the pattern '^[a-zA-Z0-9_-]+$'.";
    has_odd_name(body).then(|| (400, text.to_owned()))
}

#[test]
fn names_of_tools_are_mapped_there_and_back() {
    let messages = json!([
        said("user", "A"),
        calling("a12345678", ODD_NAME),
        result("a12345678"),
        said("user", "B")
    ]);
    for (route, is_stream) in TRANSLATED.into_iter().flat_map(|it| [(it, false), (it, true)]) {
        let (upstream, proxy) = pair();
        upstream.judge(|request| {
            if request.path.ends_with("/responses") {
                return Some(vec![status(404, &[], "{}")]);
            }
            let body = request.json();
            if let Some((code, text)) = odd_name_complaint(&body) {
                return Some(vec![status(code, &[], &json!({ "error": text }).to_string())]);
            }
            let name = body["tools"][0]["function"]["name"].clone();
            let call = json!({"index": 0, "id": "c1", "type": "function",
                "function": {"name": name, "arguments": "{}"}});
            Some(if body["stream"] == true {
                deltas(&[json!({ "tool_calls": [call] })])
            } else {
                let message = json!({"role": "assistant", "content": null, "tool_calls": [call]});
                let choice = json!({"index": 0, "message": message, "finish_reason": "tool_calls"});
                vec![upstream::json(&json!({ "choices": [choice] }).to_string())]
            })
        });
        let body = on(route, &messages, &weather(ODD_NAME, plain()), &json!({"stream": is_stream}));
        let pair = (upstream, proxy);
        let (told, sent) = ask(&pair, route, &body);
        // The routes of OpenAI and Anthropic send legal names only.
        let requests = if route.starts_with("/v1/") { 1 } else { 2 };
        assert_eq!((told.status(), sent.len()), (200, requests), "{route}: {}", told.body);
        assert!(told.body.contains(ODD_NAME), "{route}: {}", told.body);
        assert!(!told.body.contains("mcp_home"), "{route}: {}", told.body);
        assert_eq!(
            sent[requests - 1]["messages"][1]["tool_calls"][0]["function"]["name"],
            "mcp_home_get_weather"
        );
    }
    // Nothing gives a name back in a response that is passed on.
    let pair = refusing(odd_name_complaint);
    let body = on(CHATS[1], &messages, &weather(ODD_NAME, plain()), &json!({}));
    let (told, _) = ask(&pair, CHATS[1], &body);
    assert_eq!(told.status(), 400, "{}", told.body);
}

#[test]
fn calls_without_results_get_one() {
    let messages = json!([said("user", "A"), calling("a12345678", "f"), said("user", "B")]);
    let text = "An assistant message with 'tool_calls' must be followed by tool messages responding \
                to each 'tool_call_id'. The following tool_call_ids did not have response messages: \
                a12345678";
    let expected = "A |  | (no result: the call was cancelled) | B";
    for route in CHATS {
        let complain = move |body: &Value| {
            let is_torn = !roles(body).contains(&"tool".to_owned());
            is_torn.then(|| (400, text.to_owned()))
        };
        let pair = refusing(complain);
        let body = on(route, &messages, &weather("f", plain()), &json!({}));
        let (told, sent) = ask(&pair, route, &body);
        assert_eq!(told.status(), 200, "{route}: {}", told.body);
        assert_eq!(words(sent.last().expect("sent")), expected, "{route}");
        let first = if route == CHATS[1] { 2 } else { 1 };
        assert_eq!(sent.len(), first, "{route}: before it is sent, unless it is passed on");
    }
}

fn rich() -> Value {
    json!({"$schema": "http://json-schema.org/draft-07/schema#", "type": "object",
        "additionalProperties": false, "required": ["city"], "properties": {
            "city": {"type": "string", "description": "Where", "minLength": 1},
            "unit": {"$ref": "#/$defs/Unit"}},
        "$defs": {"Unit": {"type": "string", "enum": ["C", "F"]}}})
}

#[test]
fn schemas_are_reduced_to_what_ollama_keeps() {
    check(
        &CHATS,
        (&json!([said("user", "A")]), &weather("f", rich()), &json!({})),
        &[
            "Invalid JSON payload received. Unknown name \"$schema\" at \
             'tools[0].function_declarations[0].parameters': Cannot find field.",
            "Invalid request: tools.function.parameters is not a valid moonshot flavored json schema",
            "Failed to initialize samplers: failed to parse grammar",
            "Unable to generate parser for this template. Automatic parser generation failed: JSON \
             schema error at #/properties/city: cannot resolve $ref #/$defs/City, $defs not found",
            "this tool has a schema that we cannot compile",
        ],
        |body| body["tools"][0].to_string().contains("$schema"),
        |body| {
            let expected = json!({"type": "object", "required": ["city"], "properties": {
                "city": {"type": "string", "description": "Where"},
                "unit": {"type": "string", "enum": ["C", "F"]}}});
            assert_eq!(body["tools"][0]["function"]["parameters"], expected);
        },
    );
}

#[test]
fn reasoning_comes_back_with_its_calls() {
    let mut call = calling("a12345678", "f");
    call["reasoning_content"] = "I need the weather.".into();
    let messages = json!([said("user", "A"), call, result("a12345678")]);
    check(
        &TRANSLATED,
        (&messages, &weather("f", plain()), &json!({})),
        &[
            "The reasoning_content in the thinking mode must be passed back to the API.",
            "missing reasoning for an assistant message with tool calls",
        ],
        |body| body["messages"][1]["reasoning_content"] != "I need the weather.",
        |_| {},
    );
    let messages = json!([said("user", "A"), calling("a12345678", "f"), result("a12345678")]);
    check(
        &CHATS,
        (&messages, &weather("f", plain()), &json!({})),
        &["The `reasoning_content` in the thinking mode must be passed back to the API."],
        |body| body["messages"][1].get("reasoning_content").is_none(),
        |body| assert_eq!(body["messages"][1]["reasoning_content"], " "),
    );
}

#[test]
fn a_missing_signature_is_replaced() {
    let messages = json!([said("user", "A"), calling("a12345678", "f"), result("a12345678")]);
    check(
        &CHATS,
        (&messages, &weather("f", plain()), &json!({})),
        &["Function call is missing a thought_signature in functionCall parts. This is required."],
        |body| body["messages"][1]["tool_calls"][0].get("extra_content").is_none(),
        |body| {
            let signature = &body["messages"][1]["tool_calls"][0]["extra_content"]["google"];
            assert_eq!(signature["thought_signature"], "skip_thought_signature_validator");
        },
    );
}

#[test]
fn of_two_parameters_that_exclude_each_other_the_temperature_stays() {
    for route in CHATS {
        let both = json!({"temperature": 0.7, "top_p": 0.9});
        let more = if route == "/api/chat" { json!({ "options": both }) } else { both };
        check(
            &[route],
            (&json!([said("user", "A")]), &NOTHING, &more),
            &[
                "`temperature` and `top_p` cannot both be specified for this model. Please use only one.",
                "top_p is not supported together with temperature",
            ],
            |body| body.get("temperature").is_some() && body.get("top_p").is_some(),
            |body| assert_eq!(body["temperature"], 0.7),
        );
        let one = json!({"temperature": 0.7});
        let more = if route == "/api/chat" { json!({ "options": one }) } else { one };
        check(
            &[route],
            (&json!([said("user", "A")]), &NOTHING, &more),
            &[
                "invalid temperature: only 1 is allowed for this model",
                "the temperature of a reasoning model is fixed, it cannot be set",
            ],
            |body| body.get("temperature").is_some(),
            |_| {},
        );
    }
}

#[test]
fn a_forced_choice_is_left_out() {
    for (route, choice) in [
        ("/v1/chat/completions", json!("required")),
        ("/v1/messages", json!({"type": "any"})),
        ("/v1/responses", json!("required")),
    ] {
        check(
            &[route],
            (&json!([said("user", "A")]), &weather("f", plain()), &json!({"tool_choice": choice})),
            &["Thinking mode does not support this tool_choice"],
            |body| body.get("tool_choice").is_some(),
            |body| assert!(body["tools"].is_array()),
        );
    }
}

#[test]
fn a_format_beside_tools_is_told_in_words() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    for (route, more) in [
        ("/api/chat", json!({ "format": schema })),
        (
            "/v1/chat/completions",
            json!({"response_format": {"type": "json_schema",
            "json_schema": {"name": "n", "schema": schema}}}),
        ),
        (
            "/v1/responses",
            json!({"text": {"format": {"type": "json_schema", "name": "n",
            "schema": schema}}}),
        ),
    ] {
        check(
            &[route],
            (&json!([said("user", "A")]), &weather("f", plain()), &more),
            &[
                "Function calling with a response mime type: 'application/json' is unsupported",
                "tools and response_format cannot be used together",
            ],
            |body| body.get("response_format").is_some() && body["tools"].is_array(),
            |body| assert!(words(body).contains(r#""properties""#), "{body}"),
        );
    }
}

#[test]
fn a_schema_whose_root_is_a_list_is_wrapped_and_unwrapped() {
    let list = json!({"type": "array", "items": {"type": "string"}});
    let text = "Invalid schema for response_format 'schema': schema must be a JSON Schema of 'type: \
                \"object\"', got 'type: \"array\"'.";
    for (route, is_stream) in [
        ("/api/chat", false),
        ("/api/chat", true),
        ("/api/generate", false),
        ("/api/generate", true),
        ("/v1/responses", false),
    ] {
        let (upstream, proxy) = pair();
        upstream.judge(move |request| {
            if request.path.ends_with("/responses") {
                return Some(vec![status(404, &[], "{}")]);
            }
            let body = request.json();
            let root = &body["response_format"]["json_schema"]["schema"]["type"];
            Some(if *root != "object" {
                vec![status(400, &[], &json!({"error": {"message": text}}).to_string())]
            } else if body["stream"] == true {
                stream(&["{\"val", "ue\": [\"a\",", " \"}\"]", " }"])
            } else {
                vec![answer(r#"{"value": ["a", "}"] }"#)]
            })
        });
        let body = match route {
            "/v1/responses" => json!({"model": "m", "input": "x", "text": {"format": {
                "type": "json_schema", "name": "n", "schema": list}}}),
            _ => json!({"model": "m", "prompt": "x", "messages": [said("user", "x")],
                "format": list, "stream": is_stream}),
        };
        let told = proxy.post(route, &body);
        assert_eq!(told.status(), 200, "{route}: {}", told.body);
        let text = if is_stream {
            let text = |line: &Value| {
                let text = line["message"]["content"].as_str().or(line["response"].as_str());
                text.unwrap_or_default().to_owned()
            };
            told.lines().iter().map(text).collect::<String>()
        } else {
            let told = told.json();
            let places = ["/message/content", "/response", "/output/0/content/0/text"].iter();
            let text = places.filter_map(|it| told.pointer(it)?.as_str()).next();
            text.expect("a text").to_owned()
        };
        assert_eq!(text, r#"["a", "}"]"#, "{route}");
    }
}

#[test]
fn a_model_that_only_streams_is_asked_for_a_stream() {
    for route in ["/api/chat", "/api/generate", "/v1/messages", "/v1/responses"] {
        for text in [
            "This model only support stream mode, please enable the stream parameter to access the model.",
            "non-streaming calls are not available for this model",
        ] {
            let complain =
                move |body: &Value| (body["stream"] != true).then(|| (400, text.to_owned()));
            let pair = refusing(complain);
            let mut body = on(route, &json!([said("user", "A")]), &NOTHING, &json!({}));
            body["prompt"] = "A".into();
            for expected in [2, 1] {
                let (told, sent) = ask(&pair, route, &body);
                assert_eq!((told.status(), sent.len()), (200, expected), "{route}: {}", told.body);
                assert!(
                    told.json().is_object() && told.body.contains("ok"),
                    "{route}: {}",
                    told.body
                );
            }
        }
    }
}

#[test]
fn members_of_ollama_below_v1_are_left_out_all_at_once() {
    for route in ["/v1/chat/completions", "/v1/completions"] {
        for text in ["property 'options' is unsupported", "options: Extra inputs are not permitted"]
        {
            let has =
                |body: &Value| body.get("options").is_some() || body.get("keep_alive").is_some();
            let complain = move |body: &Value| has(body).then(|| (400, text.to_owned()));
            let pair = refusing(complain);
            let body = json!({"model": "m", "messages": [said("user", "A")], "prompt": "A",
                "options": {"num_ctx": 1}, "keep_alive": "5m", "seed": 1});
            let (told, sent) = ask(&pair, route, &body);
            assert_eq!((told.status(), sent.len()), (200, 2), "{route}: {}", told.body);
            assert_eq!(sent[1]["seed"], 1);
        }
    }
}

#[test]
fn a_template_that_fails_is_a_refusal_and_not_retried() {
    let texts = [
        (500, "Error: Jinja Exception: System message must be at the beginning."),
        (404, "System message must be at the beginning. (TemplateError)"),
    ];
    let messages = json!([said("user", "A"), said("system", "R")]);
    for ((code, text), route) in
        texts.into_iter().flat_map(|it| CHATS[..2].iter().map(move |route| (it, *route)))
    {
        let complain = move |body: &Value| {
            roles(body).contains(&"system".to_owned()).then(|| (code, text.to_owned()))
        };
        let pair = refusing(complain);
        let (told, sent) = ask(&pair, route, &on(route, &messages, &NOTHING, &json!({})));
        assert_eq!((told.status(), sent.len()), (200, 2), "{route}: {}", told.body);
        assert!(pair.1.sleeps.is_empty(), "no delay");
        // One that nothing helps ends at once, too, as the client's fault.
        let pair = refusing(move |_| Some((code, "failed to parse grammar".to_owned())));
        let (told, _) = ask(&pair, route, &on(route, &messages, &NOTHING, &json!({})));
        assert_eq!(told.status(), 400, "{route}: {}", told.body);
        assert!(pair.1.sleeps.is_empty(), "no delay");
    }
}

#[test]
fn the_oldest_turns_go_where_the_context_is_exceeded() {
    let turns = (0..12).flat_map(|turn| {
        [said("user", &format!("question {turn} {}", "x".repeat(200))), said("assistant", "answer")]
    });
    let mut messages = vec![said("system", "Be brief.")];
    messages.extend(turns);
    messages.push(said("user", "the last one"));
    let messages = Value::from(messages);
    let complain = |body: &Value| {
        let tokens = words(body).len() / 4;
        let text = format!(
            "request ({tokens} tokens) exceeds the available context size (300 tokens), try increasing it"
        );
        (tokens > 300).then_some((400, text))
    };
    let pair = refusing(complain);
    let (told, sent) = ask(&pair, "/api/chat", &on("/api/chat", &messages, &NOTHING, &json!({})));
    assert_eq!(told.status(), 200, "{}", told.body);
    let last = sent.last().expect("sent");
    assert!(sent.len() <= 5 && words(last).starts_with("Be brief. | question"), "{}", words(last));
    assert!(words(last).ends_with("the last one"));
    // The window is remembered: a conversation that is clearly longer is cut before it is sent.
    let (told, sent) = ask(&pair, "/api/chat", &on("/api/chat", &messages, &NOTHING, &json!({})));
    assert_eq!((told.status(), sent.len()), (200, 1), "{}", told.body);
    let short = json!([said("system", "S"), said("user", "A")]);
    let (_, sent) = ask(&pair, "/api/chat", &on("/api/chat", &short, &NOTHING, &json!({})));
    assert_eq!(words(&sent[0]), "S | A");
    // Only where Ollama does it, and not against the client's will.
    let off = json!({"truncate": false});
    for (route, more) in
        [("/api/chat", off), (CHATS[1], json!({})), (CHATS[2], json!({})), (CHATS[3], json!({}))]
    {
        let pair = refusing(complain);
        let (told, sent) = ask(&pair, route, &on(route, &messages, &NOTHING, &more));
        assert_eq!((told.status(), sent.len()), (400, 1), "{route}: {}", told.body);
    }
}

#[test]
fn one_client_s_mistake_changes_nothing_for_others() {
    let mistakes = [
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema":
            {"type": "objekt"}}}}),
            "Invalid schema for response_format 'n': 'objekt' is not valid",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema":
            {"type": "object", "properties": {"a": 5}}}}}),
            "json_schema.schema.properties.a: expected an object",
        ),
        (
            json!({"tools": weather("f", json!({"type": "objekt"}))}),
            "Invalid schema for function 'f': 'objekt' is not valid under any of the given schemas",
        ),
        (json!({"temperature": "hot"}), "temperature must be a number"),
        (json!({"temperature": 9}), "temperature must be between 0 and 2"),
        (json!({"max_tokens": 0}), "max_tokens must be at least 1"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}),
            "Invalid image URL: 'x'",
        ),
    ];
    let good = json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": true,
        "schema": {"type": "object", "properties": {"a": {"type": "string", "pattern": "x"}}}}},
        "tools": weather("f", rich()), "temperature": 0.5, "max_tokens": 5});
    for (mistake, text) in mistakes {
        let bad = on(CHATS[1], &json!([said("user", "A")]), &NOTHING, &mistake);
        let known = mistake.clone();
        // It accepts whatever no longer has the mistake, so that each repair seems to have helped.
        let complain = move |body: &Value| {
            let has = known
                .as_object()
                .expect("an object")
                .iter()
                .all(|(name, value)| body[name] == *value);
            has.then(|| (400, text.to_owned()))
        };
        let pair = refusing(complain);
        ask(&pair, CHATS[1], &bad);
        let others = on(CHATS[1], &json!([said("user", "B")]), &NOTHING, &good);
        let (told, sent) = ask(&pair, CHATS[1], &others);
        assert_eq!(told.status(), 200, "{text}");
        assert_eq!(sent, [others], "{text}");
    }
}

#[test]
fn cache_marks_that_are_refused_go() {
    let marked = json!([{"role": "user", "content": [
        {"type": "text", "text": "A", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "B"}]}]);
    check(
        &["/v1/chat/completions"],
        (&marked, &NOTHING, &json!({})),
        &["messages.0.content.0.cache_control: unknown field", "cache_control is not supported"],
        |body| body.to_string().contains("cache_control"),
        |body| assert_eq!(body["messages"][0]["content"], "A\n\nB"),
    );
    // On Anthropic's route they go up where the family is known to take them.
    let (upstream, proxy) =
        pair_with(|config| config.upstream.profile = profiles::find_by_name("openrouter"));
    upstream.judge(|request| {
        let is_marked = request.body.contains("cache_control");
        let refusal = r#"{"error":{"message":"cache_control is not supported by this provider"}}"#;
        Some(vec![if is_marked { status(400, &[], refusal) } else { answer("ok") }])
    });
    let mark = json!({"type": "ephemeral"});
    let body = json!({"model": "m", "max_tokens": 5,
        "system": [{"type": "text", "text": "S", "cache_control": mark}],
        "tools": [{"name": "f", "input_schema": plain(), "cache_control": mark}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "A", "cache_control": mark}]}]});
    let (told, sent) = ask(&(upstream, proxy), "/v1/messages", &body);
    assert_eq!((told.status(), sent.len()), (200, 2), "{}", told.body);
    assert!(sent[0]["tools"].to_string().contains("cache_control"));
    assert_eq!(words(&sent[1]), "S | A");
}

#[test]
fn what_is_changed_is_counted_by_its_kind() {
    let complain = |body: &Value| {
        let text = if body.get("seed").is_some() {
            "Unrecognized request argument supplied: seed"
        } else if roles(body).windows(2).any(|pair| pair[0] == pair[1]) {
            "Conversation roles must alternate user/assistant/user/assistant/..."
        } else {
            return None;
        };
        Some((400, text.to_owned()))
    };
    let pair = refusing(complain);
    let messages = json!([said("user", "A"), said("user", "B")]);
    let body = on("/api/chat", &messages, &NOTHING, &json!({"options": {"seed": 1}}));
    let (told, sent) = ask(&pair, "/api/chat", &body);
    assert_eq!((told.status(), sent.len()), (200, 3), "{}", told.body);
    let metrics = pair.1.fetch("/metrics").body;
    for kind in ["parameter", "messages"] {
        let line = format!("ollama_proxy_repairs_total{{upstream=\"default\",kind=\"{kind}\"}} 1");
        assert!(metrics.lines().any(|known| known == line), "{metrics}");
    }
}

#[test]
fn a_refusal_that_nothing_helps_ends_with_its_first_text() {
    for route in CHATS {
        let count = std::sync::atomic::AtomicUsize::new(0);
        let complain = move |_: &Value| {
            let number = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Some((400, format!("complaint number {number}")))
        };
        let pair = refusing(complain);
        let body = on(route, &json!([said("user", "A")]), &NOTHING, &json!({}));
        let (told, sent) = ask(&pair, route, &body);
        assert_eq!(told.status(), 400, "{route}");
        assert!(told.body.contains("complaint number 0"), "{route}: {}", told.body);
        assert!(sent.len() <= 6, "{route}: {}", sent.len());
    }
}
