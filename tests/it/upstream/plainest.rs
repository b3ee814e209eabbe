//! Refusals in words that nobody has seen: the request is sent once more in its plainest form, what was
//! needed is remembered and narrowed down, and nothing of what was said is lost.

use std::time::Duration;

use super::refusing::{CHATS, ask, calling, on, refusing, result, roles, said, words};
use crate::support::*;
use ollama_openai_proxy::api::openai::raw_object::RawObject;
use ollama_openai_proxy::upstream::repair::document::{Document, RouteTraits};
use ollama_openai_proxy::upstream::repair::plainest;

/// Words that stand in no table.
const UNHEARD_OF: [&str; 3] = [
    "E4711: das geht so nicht",
    "request shape mismatch (see the manual, chapter 9)",
    "computer says no",
];

fn tools() -> Value {
    json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object",
        "properties": {"x": {"type": ["string", "null"], "format": "date"}}}}}])
}

#[test]
fn a_refusal_in_unheard_of_words_is_answered_in_the_plainest_form() {
    type Case = (Value, Value, fn(&Value) -> bool);
    let cases: [Case; 6] = [
        (json!([said("user", "A"), said("user", "B")]), json!({}), |body| {
            roles(body).windows(2).any(|pair| pair[0] == pair[1])
        }),
        (
            json!([
                said("system", "S"),
                said("user", "A"),
                said("assistant", "B"),
                said("user", "C")
            ]),
            json!({"temperature": 0.5}),
            |body| body.get("temperature").is_some(),
        ),
        (
            json!([said("user", "A"), calling("functions.f:0", "f"), result("functions.f:0")]),
            json!({}),
            |body| {
                body["messages"][1]["tool_calls"][0]["id"]
                    .as_str()
                    .is_some_and(|id| id.contains(':'))
            },
        ),
        (json!([said("user", "A"), said("assistant", "begun")]), json!({}), |body| {
            roles(body).last().is_some_and(|last| last == "assistant")
        }),
        (json!([said("user", "A")]), json!({"tool_choice": "required"}), |body| {
            body["tools"].to_string().contains("\"null\"")
        }),
        (
            json!([said("user", "A"), said("assistant", "B"), said("user", "C")]),
            json!({"max_tokens": 9}),
            |body| body.get("max_tokens").is_some(),
        ),
    ];
    for (messages, more, is_wrong) in cases {
        for (route, text) in
            CHATS.into_iter().flat_map(|route| UNHEARD_OF.map(|text| (route, text)))
        {
            let pair = refusing(move |body| is_wrong(body).then(|| (400, text.to_owned())));
            let more = match route {
                "/api/chat" => json!({"options": {"temperature": more["temperature"],
                    "num_predict": more["max_tokens"]}}),
                "/v1/messages" if more.get("tool_choice").is_some() => {
                    json!({"tool_choice": {"type": "any"}})
                }
                "/v1/responses" if more.get("max_tokens").is_some() => {
                    json!({"max_output_tokens": 9})
                }
                _ => more.clone(),
            };
            let body = on(route, &messages, &tools(), &more);
            for expected in [2, 1] {
                let (told, sent) = ask(&pair, route, &body);
                assert_eq!(told.status(), 200, "{route} {messages} {sent:?}: {}", told.body);
                let wrong = sent.iter().filter(|body| is_wrong(body)).count();
                assert!(sent.len() <= expected && wrong < expected, "{route} {messages}: {sent:?}");
                let spoken = words(sent.last().expect("sent"));
                for message in messages.as_array().expect("a list") {
                    let text = message["content"].as_str().expect("a text");
                    assert!(spoken.contains(text), "{text} in {spoken}");
                }
            }
        }
    }
}

#[test]
fn a_small_limit_and_stops_are_applied_to_the_response() {
    let (upstream, proxy) = pair();
    upstream.judge(|request| {
        let body = request.json();
        let is_wrong = body.get("max_tokens").is_some() || body.get("stop").is_some();
        Some(if is_wrong {
            vec![status(400, &[], r#"{"error":"computer says no"}"#)]
        } else {
            stream(&["one ", "two ", "three ", "four ", "five"])
        })
    });
    let ask = |options: Value| {
        let body = json!({"model": "m", "stream": false, "messages": [said("user", "x")],
            "options": options});
        let told = proxy.post("/api/chat", &body).json();
        (told["message"]["content"].clone(), told["done_reason"].clone())
    };
    assert_eq!(ask(json!({"num_predict": 2})), (json!("one two "), json!("length")));
    assert_eq!(ask(json!({"stop": ["three"]})), (json!("one two "), json!("stop")));
    assert_eq!(ask(json!({})).1, "stop");
}

#[test]
fn what_is_final_is_not_tried_again() {
    for (code, text) in [
        (400, "Incorrect API key provided"),
        (400, "Your credit balance is too low"),
        (400, "The model `m` does not exist"),
        (400, "blocked by our content management policy"),
        (400, "m does not support image input is not supported"),
        (400, "Could not process image"),
        (400, "tools are fine, but this model does not support tools"),
        (422, "rate limit reached: 5 per minute"),
    ] {
        for route in CHATS {
            let pair = refusing(move |_| Some((code, text.to_owned())));
            let messages = json!([said("user", "A"), said("user", "B")]);
            let (told, sent) = ask(&pair, route, &on(route, &messages, &Value::Null, &json!({})));
            assert!(told.status() >= 400, "{route} {text}");
            assert_eq!(sent.len(), 1, "{route} {text}");
        }
    }
}

#[test]
fn a_mistake_that_the_plainest_form_does_not_help_costs_one_more_call_in_ten_minutes() {
    let pair = refusing(|_| Some((400, "computer says no".to_owned())));
    let body = on("/api/chat", &json!([said("user", "A")]), &Value::Null, &json!({}));
    let counts = [(); 3].map(|()| ask(&pair, "/api/chat", &body).1.len());
    assert_eq!(counts, [2, 1, 1]);
}

#[test]
fn later_requests_try_to_do_without_each_group_until_only_the_needed_one_is_left() {
    let (upstream, proxy) = pair_with(|config| config.experiment_interval = Duration::ZERO);
    upstream.judge(|request| {
        let roles = roles(&request.json());
        let is_wrong = roles.windows(2).any(|pair| pair[0] == pair[1]);
        let refusal = status(400, &[], r#"{"error":"computer says no"}"#);
        Some(vec![if is_wrong { refusal } else { answer("ok") }])
    });
    let pair = (upstream, proxy);
    let body = json!({"model": "m", "stream": false, "options": {"temperature": 0.5, "seed": 1,
        "num_predict": 9}, "messages": [said("user", "A"), said("user", "B")]});
    let (mut last, mut counts) = (Value::Null, Vec::new());
    for _ in 0..12 {
        let (told, sent) = ask(&pair, "/api/chat", &body);
        assert_eq!(told.status(), 200, "{}", told.body);
        counts.push(sent.len());
        last = sent.last().cloned().expect("sent");
    }
    assert_eq!(counts[0], 2, "{counts:?}");
    assert!(counts[1..].iter().all(|count| *count <= 2), "one experiment at a time: {counts:?}");
    assert_eq!(counts[10..], [1, 1], "nothing is left to try: {counts:?}");
    assert_eq!((&last["temperature"], &last["seed"]), (&json!(0.5), &json!(1)));
    assert_eq!((&last["max_tokens"], roles(&last)), (&json!(9), vec!["user".to_owned()]));
}

#[test]
fn nothing_that_an_upstream_says_costs_more_than_six_attempts() {
    let html = format!("<html><body>{}</body></html>", "no ".repeat(35_000));
    let alternating = |number: usize| {
        let texts = ["Unrecognized request argument supplied: seed", "roles must alternate"];
        texts[number % 2].to_owned()
    };
    type Say = Box<dyn Fn(usize) -> String + Send>;
    let sayings: [Say; 4] = [
        Box::new(move |_| html.clone()),
        Box::new(alternating),
        Box::new(|number| format!("unsupported parameter: {number}")),
        Box::new(|_| String::new()),
    ];
    for say in sayings {
        let (upstream, proxy) = pair();
        let count = std::sync::atomic::AtomicUsize::new(0);
        upstream.judge(move |_| {
            let number = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let text = say(number);
            let body =
                if text.starts_with('<') { text } else { json!({ "error": text }).to_string() };
            Some(vec![status(400, &[], &body)])
        });
        let body = json!({"model": "m", "stream": false, "options": {"seed": 1, "temperature": 1,
            "top_p": 0.5, "num_predict": 9, "stop": ["x"]}, "format": "json",
            "messages": [said("user", "A"), said("user", "B")]});
        let pair = (upstream, proxy);
        let (told, sent) = ask(&pair, "/api/chat", &body);
        assert_eq!(told.status(), 400, "{}", told.body);
        assert!(sent.len() <= 6, "{}", sent.len());
        let distinct: std::collections::BTreeSet<String> =
            sent.iter().map(Value::to_string).collect();
        assert_eq!(distinct.len(), sent.len(), "no body is sent twice");
        assert!(pair.1.sleeps.is_empty(), "no delay");
        // The worker is free again.
        assert_eq!(pair.1.fetch("/api/version").status(), 200);
    }
}

#[test]
fn a_thousand_bad_schemas_change_nothing_for_a_good_one() {
    let (upstream, proxy) = pair();
    upstream.judge(|request| {
        let body = request.json();
        let is_bad = body.to_string().contains("pattern");
        Some(if is_bad {
            vec![status(400, &[], r#"{"error":{"message":"failed to parse grammar"}}"#)]
        } else {
            vec![answer("ok")]
        })
    });
    let tool = |schema: Value| {
        json!({"model": "m", "stream": false, "messages": [said("user", "x")], "tools":
            [{"type": "function", "function": {"name": "f", "parameters": schema}}]})
    };
    let pair = (upstream, proxy);
    for number in 0..1000 {
        let bad = json!({"type": "object", "properties": {"x": {"type": "string",
            "pattern": format!("^{number}$")}}});
        assert_eq!(ask(&pair, "/api/chat", &tool(bad)).0.status(), 200);
    }
    let good = json!({"type": "object", "title": "T", "properties": {}});
    let (told, sent) = ask(&pair, "/api/chat", &tool(good.clone()));
    assert_eq!((told.status(), sent.len()), (200, 1));
    assert_eq!(sent[0]["tools"][0]["function"]["parameters"], good);
}

/// Small random choices, the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// A conversation of any kind.
fn conversation(dice: &mut Dice) -> (Value, Vec<String>) {
    let mut said = Vec::new();
    let mut messages = Vec::new();
    for number in 0..1 + dice.roll(8) {
        let text = format!("text number {number}");
        match dice.roll(8) {
            0 => messages.push(json!({"role": "system", "content": text})),
            1 => messages.push(json!({"role": "developer", "content": text})),
            2 => messages.push(json!({"role": "assistant", "content": text, "name": "n"})),
            3 => {
                messages.push(json!({"role": "assistant", "content": null, "tool_calls": [
                    {"id": format!("id:{number}"), "type": "function", "function":
                        {"name": "odd.name", "arguments": format!("{{\"a\":{number}}}")}}]}));
                if dice.roll(2) == 0 {
                    messages.push(json!({"role": "tool", "tool_call_id": format!("id:{number}"),
                        "content": text}));
                    said.push(text);
                }
                continue;
            }
            4 => messages.push(json!({"role": "user", "content": [
                {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}},
                {"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{number}")}}]})),
            5 => {
                messages.push(json!({"role": "assistant", "content": ""}));
                continue;
            }
            6 => messages.push(json!({"role": "tool", "tool_call_id": "gone", "content": text})),
            _ => messages.push(json!({"role": "user", "content": text})),
        }
        said.push(text);
    }
    (messages.into(), said)
}

#[test]
fn the_plainest_form_loses_no_word_no_image_no_tool_and_no_wish_for_json() {
    let mut dice = Dice(42);
    for round in 0..2000 {
        let (messages, said) = conversation(&mut dice);
        let images = messages.to_string().matches("image_url\":{").count();
        let calls = messages.to_string().matches("\"arguments\"").count();
        let mut body = json!({"model": "m", "messages": messages, "stream": false, "temperature": 1,
            "seed": 1, "max_tokens": 5, "stop": ["x"], "user": "u", "unknown": {"a": 1}});
        let has_tools = dice.roll(2) == 0;
        if has_tools {
            body["tools"] = json!([{"type": "function", "function": {"name": "odd.name",
                "description": "D", "parameters": {"type": "object", "required": ["p"], "properties":
                    {"p": {"type": ["null", "string"], "description": "P", "enum": ["e"], "pattern": "x"}}}}}]);
        }
        let has_format = dice.roll(2) == 0;
        if has_format {
            body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "n",
                "strict": true, "schema": {"type": "array", "items": {"type": "string"}}}});
        }
        let rewrites_response = dice.roll(2) == 0;
        let route = RouteTraits { is_chat: true, rewrites_response, ..RouteTraits::default() };
        let text = body.to_string();
        let object = RawObject::parse(&text).expect("an object");
        let mut document = Document::new(object, route);
        let refusal = ["computer says no", "the system role", "json", "stream"][round % 4];
        plainest::apply_all(&mut document, refusal);
        let plain: Value = serde_json::from_str(&document.to_json()).expect("JSON");
        let spoken = words(&plain);
        // System messages may come first, and the others stay in their order.
        let mut others = Vec::new();
        for text in &said {
            assert!(spoken.contains(text.as_str()), "{text} is lost: {body} {plain}");
            let by_system = messages.as_array().expect("a list").iter().any(|message| {
                message["content"] == text.as_str()
                    && ["system", "developer"].iter().any(|role| message["role"] == *role)
            });
            if !by_system {
                others.push(spoken.find(text.as_str()));
            }
        }
        let has_results =
            spoken.contains("(no result") || messages.to_string().contains("\"tool\"");
        assert!(has_results || others.is_sorted(), "the order is lost: {body} {plain}");
        let sent = plain["messages"].to_string();
        assert_eq!(sent.matches("image_url\":{").count(), images, "{plain}");
        assert_eq!(sent.matches("\"arguments\"").count(), calls, "{plain}");
        if has_tools {
            let function = &plain["tools"][0]["function"];
            let property = &function["parameters"]["properties"]["p"];
            assert_eq!(
                (&function["description"], &property["type"]),
                (&json!("D"), &json!("string"))
            );
            assert_eq!((&property["enum"], &property["description"]), (&json!(["e"]), &json!("P")));
            assert_eq!(function["parameters"]["required"], json!(["p"]));
        }
        let is_wanted = plain.get("response_format").is_some() || spoken.contains("JSON");
        assert!(!has_format || is_wanted, "{plain}");
        let allowed = ["model", "messages", "tools", "stream", "response_format", "stop"];
        assert!(
            plain.as_object().expect("an object").keys().all(|key| allowed.contains(&key.as_str())),
            "{plain}"
        );
        assert!(rewrites_response || plain["stop"] == json!(["x"]), "nothing would watch for it");
        // A second time changes nothing.
        let before = document.to_json();
        plainest::apply_all(&mut document, refusal);
        assert_eq!(document.to_json(), before);
    }
}
