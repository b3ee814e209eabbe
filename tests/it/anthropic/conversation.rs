//! What a conversation of Anthropic's API becomes: system messages, documents, results of tools, and
//! blocks of every kind.

use crate::support::program::{Running, program};
use crate::support::*;
use ollama_openai_proxy::backends::profiles;

/// The messages that go upstream for these.
fn messages(bench: &Bench, messages: &Value) -> Value {
    bench.sent(MESSAGES, &json!({ "messages": messages }))["messages"].clone()
}

/// What a user's turn of one block becomes.
fn user(bench: &Bench, block: &Value) -> Value {
    let sent = messages(bench, &json!([{"role": "user", "content": [block]}]));
    assert_eq!(sent[0]["role"], "user", "{block}: {sent}");
    sent[0]["content"].clone()
}

/// What a tool's result becomes: its text, and what follows it.
fn result(bench: &Bench, content: &Value) -> (Value, Value) {
    let call = json!({"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}});
    let result = json!({"type": "tool_result", "tool_use_id": "t", "content": content});
    let sent = messages(
        bench,
        &json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result]}]),
    );
    assert_eq!((&sent[2]["role"], &sent[2]["tool_call_id"]), (&"tool".into(), &"t".into()));
    (sent[2]["content"].clone(), sent[3].clone())
}

const PNG: &str = "iVBORw0KGgo=";

fn text_document() -> Value {
    json!({"type": "document", "title": "Notes", "context": "Of May.",
        "source": {"type": "text", "media_type": "text/plain", "data": "Buy milk."}})
}

fn search_result() -> Value {
    json!({"type": "search_result", "title": "Milk", "source": "https://x.test/m",
        "content": [{"type": "text", "text": "White."}, {"type": "text", "text": "Wet."}]})
}

#[test]
fn the_system_prompt_is_one_message_without_the_line_that_tells_the_version() {
    let bench = Bench::new();
    let billing = "x-anthropic-billing-header: cc_version=2.1.332.abc; cc_entrypoint=cli;";
    let system = json!([{"type": "text", "text": billing}, {"type": "text", "text": "You are terse."},
        {"type": "text", "text": "Be kind."}]);
    let leading = json!({"role": "system", "content": "From the start."});
    let user = json!({"role": "user", "content": "Hi"});
    let change = json!({"system": system, "messages": [leading, user]});
    let expected = "You are terse.\n\nBe kind.\n\nFrom the start.";
    let sent = bench.sent(MESSAGES, &change);
    assert_eq!(sent["messages"], json!([{"role": "system", "content": expected}, user]));
    let one = format!("{billing}\nYou are terse.");
    let sent = bench.sent(MESSAGES, &json!({"system": one}));
    assert_eq!(sent["messages"][0]["content"], "You are terse.");
    let sent = bench.sent(MESSAGES, &json!({"system": [{"type": "text", "text": billing}]}));
    assert_eq!(sent["messages"], json!([user]));
}

#[test]
fn a_late_system_message_stays_at_its_place_and_is_the_user_s_where_a_template_refuses_it() {
    let late = json!([{"role": "user", "content": "Hi"}, {"role": "system", "content": "Skills: none."},
        {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Go on."}]);
    let bench = Bench::new();
    assert_eq!(messages(&bench, &late), late);
    for code in [400, 500] {
        let bench = Bench::new();
        bench.upstream.judge(move |request| {
            let body = request.json();
            let roles = body["messages"].as_array()?.iter().map(|it| it["role"] == "system");
            let is_late = roles.skip(1).any(|is_system| is_system);
            let text = "Jinja Exception: System message must be at the beginning.";
            let error = json!({"error": {"code": code, "message": text}}).to_string();
            Some(vec![if is_late { status(code, &[], &error) } else { upstream::answer("ok") }])
        });
        let change = json!({"system": "Be brief.", "messages": late});
        assert_eq!(bench.ask(MESSAGES, &change).status(), 200, "{code}");
        bench.upstream.request();
        let sent = bench.upstream.request().json()["messages"].to_string();
        assert!(sent.contains(r#"{"content":"Hi\n\nSkills: none.","role":"user"}"#), "{sent}");
        // The model is known now: it is asked once.
        assert_eq!(bench.ask(MESSAGES, &change).status(), 200, "{code}");
        bench.upstream.request();
        assert!(bench.upstream.is_idle(), "{code}");
    }
}

#[test]
fn where_system_messages_are_refused_in_any_form_clients_are_told_to_leave_them_out() {
    for code in [400, 500] {
        let bench = Bench::new();
        let text = "System message must be at the beginning.";
        bench.upstream.judge(move |_| {
            Some(vec![status(code, &[], &json!({"error": {"message": text}}).to_string())])
        });
        let late =
            json!([{"role": "user", "content": "Hi"}, {"role": "system", "content": "Skills."}]);
        let told = super::messages::error(&bench.ask(MESSAGES, &json!({ "messages": late })));
        let expected = "messages: role 'system' is not supported";
        assert_eq!(told, (400, "invalid_request_error".into(), expected.into()), "{code}");
    }
}

#[test]
fn documents_of_a_user_s_turn_are_text_or_files_or_named_in_a_line() {
    let bench = Bench::new();
    let document = |source: Value| json!({"type": "document", "title": "my.pdf", "source": source});
    assert_eq!(user(&bench, &text_document()), "Document: Notes\nOf May.\n\nBuy milk.");
    let blocks = json!([{"type": "text", "text": "One."}, {"type": "text", "text": " Two."}]);
    let content = document(json!({"type": "content", "content": blocks}));
    assert_eq!(user(&bench, &content), "Document: my.pdf\n\nOne. Two.");
    let pdf =
        document(json!({"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}));
    assert_eq!(user(&bench, &pdf), "[document not available: my.pdf (application/pdf)]");
    let url = document(json!({"type": "url", "url": "https://x.test/d.pdf"}));
    assert_eq!(user(&bench, &url), "[document not available: my.pdf (https://x.test/d.pdf)]");
    let stored = document(json!({"type": "file", "file_id": "file_1"}));
    assert_eq!(user(&bench, &stored), "[document not available: my.pdf]");
    assert_eq!(user(&bench, &json!({"type": "document"})), "[document not available]");
    // Files for the families that take them: the golden pairs `request-document-...`.
}

#[test]
fn images_go_up_as_data_or_as_their_address() {
    let bench = Bench::new();
    let part = |url: &str| json!([{"type": "image_url", "image_url": {"url": url}}]);
    let source = json!({"type": "base64", "media_type": "image/png", "data": PNG});
    let image = json!({"type": "image", "source": source});
    assert_eq!(user(&bench, &image), part(&format!("data:image/png;base64,{PNG}")));
    let image = json!({"type": "image", "source": {"type": "url", "url": "https://x.test/i.png"}});
    assert_eq!(user(&bench, &image), part("https://x.test/i.png"));
    let image = json!({"type": "image", "source": {"type": "file", "file_id": "file_1"}});
    assert_eq!(user(&bench, &image), "[image not available]");
}

#[test]
fn documents_and_search_results_of_a_tool_arrive_as_its_text() {
    let bench = Bench::new();
    let plain = json!({"type": "text", "text": "Plain."});
    let (text, next) = result(&bench, &json!([text_document(), search_result(), plain]));
    let found = "Search result: Milk\nSource: https://x.test/m\nWhite.\nWet.";
    assert_eq!(text, format!("Document: Notes\nOf May.\n\nBuy milk.\n\n{found}\n\nPlain."));
    assert_eq!(next, Value::Null);
    assert_eq!(user(&bench, &search_result()), found);
    assert_eq!(result(&bench, &json!("just text")).0, "just text");
    assert_eq!(result(&bench, &Value::Null).0, "");
    assert_eq!(result(&bench, &json!([{"type": "of_tomorrow", "a": 1}])).0, "");
}

#[test]
fn an_image_of_a_result_follows_in_a_message_of_the_user() {
    let bench = Bench::new();
    let source = json!({"type": "base64", "media_type": "image/png", "data": PNG});
    let content = json!([{"type": "text", "text": "Seen."}, {"type": "image", "source": source}]);
    let (text, next) = result(&bench, &content);
    assert_eq!((text, &next["role"]), ("Seen.".into(), &"user".into()));
    assert!(next["content"].to_string().contains(PNG), "{next}");
}

#[test]
fn results_follow_their_calls_whatever_the_order_and_orphans_are_told_by_the_user() {
    let bench = Bench::new();
    let call = |id: &str| json!({"type": "tool_use", "id": id, "name": "f", "input": {}});
    let result =
        |id: &str, text: &str| json!({"type": "tool_result", "tool_use_id": id, "content": text});
    let text = json!({"type": "text", "text": "And now?"});
    let sent = messages(
        &bench,
        &json!([{"role": "user", "content": "Hi"},
            {"role": "assistant", "content": [call("a"), call("b"), call("a"), call("c")]},
            {"role": "user", "content": [text, result("b", "B"), result("a", "A1"), result("a", "A2"),
                result("gone", "Orphan.")]}]),
    );
    let calls = sent[1]["tool_calls"].as_array().expect("calls");
    let ids: Vec<&str> = calls.iter().map(|call| call["id"].as_str().expect("an id")).collect();
    assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), 4, "{ids:?}");
    let mut answers: Vec<(&str, &str)> = Vec::new();
    let all = sent.as_array().expect("messages");
    for message in all[2..].iter().take_while(|message| message["role"] == "tool") {
        let text = |name: &str| message[name].as_str().expect("a text");
        answers.push((text("tool_call_id"), text("content")));
    }
    answers.sort_unstable();
    let mut expected = vec![(ids[0], "A1"), (ids[1], "B"), (ids[2], "A2")];
    expected.sort_unstable();
    let answered = answers.iter().filter(|(id, _)| *id != ids[3]).copied();
    assert_eq!(answered.collect::<Vec<_>>(), expected);
    assert!(answers.iter().any(|(id, _)| *id == ids[3]), "a call without a result gets one");
    let last = &all[all.len() - 1];
    assert_eq!(last["role"], "user");
    let last = last["content"].to_string();
    assert!(last.contains("And now?") && last.contains("Orphan."), "{last}");
}

#[test]
fn tools_that_a_server_ran_are_calls_with_their_results() {
    let bench = Bench::new();
    let call =
        |kind: &str, id: &str| json!({"type": kind, "id": id, "name": "n", "input": {"q": 1}});
    let result = |kind: &str, id: &str, content: Value| json!({"type": kind, "tool_use_id": id, "content": content});
    let rows = [
        (
            "server_tool_use",
            "web_search_tool_result",
            json!([{"type": "web_search_result",
            "title": "T", "url": "https://x.test"}]),
            "- T: https://x.test\n",
        ),
        (
            "server_tool_use",
            "web_fetch_tool_result",
            json!({"type": "web_fetch_result",
            "url": "https://x.test", "content": text_document()}),
            "https://x.test\nDocument: Notes\nOf May.\n\nBuy milk.",
        ),
        (
            "server_tool_use",
            "bash_code_execution_tool_result",
            json!({"type": "bash_code_execution_result", "stdout": "out", "stderr": "", "return_code": 2}),
            "out\nexit code 2",
        ),
        (
            "server_tool_use",
            "tool_search_tool_result",
            json!({"type": "tool_search_tool_search_result", "tool_references": [
                {"type": "tool_reference", "tool_name": "f"}]}),
            "Tool f is now available.",
        ),
        (
            "server_tool_use",
            "of_tomorrow_tool_result",
            json!([{"type": "x", "text": "New."}]),
            "New.",
        ),
        (
            "mcp_tool_use",
            "mcp_tool_result",
            json!([{"type": "text", "text": "Of MCP."}]),
            "Of MCP.",
        ),
    ];
    for (used, resulted, content, expected) in rows {
        let turn = json!([{"type": "text", "text": "Before."}, call(used, "s1"),
            result(resulted, "s1", content), {"type": "text", "text": "After."}]);
        let sent = messages(
            &bench,
            &json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": turn},
                {"role": "user", "content": "Go on."}]),
        );
        let roles: Vec<_> =
            sent.as_array().expect("messages").iter().map(|it| &it["role"]).collect();
        assert_eq!(roles, ["user", "assistant", "tool", "assistant", "user"], "{resulted}: {sent}");
        assert_eq!(sent[1]["tool_calls"][0]["id"], "s1");
        assert_eq!(sent[2]["content"], expected, "{resulted}");
        assert_eq!(
            (&sent[1]["content"], &sent[3]["content"]),
            (&"Before.".into(), &"After.".into())
        );
    }
    // A call whose result is not there is none.
    let turn = json!([{"type": "text", "text": "Hm."}, call("server_tool_use", "s1")]);
    let sent = messages(
        &bench,
        &json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": turn}]),
    );
    assert_eq!(sent[1], json!({"role": "assistant", "content": "Hm."}));
}

#[test]
fn summaries_and_system_texts_inside_of_turns_are_messages_of_their_own() {
    let bench = Bench::new();
    let text = json!({"type": "text", "text": "Hi"});
    let sent = messages(
        &bench,
        &json!([{"role": "assistant", "content": [{"type": "compaction", "content": "So far: tea."}]},
            {"role": "user", "content": [text, {"type": "mid_conv_system", "content": [
                {"type": "text", "text": "Be calm."},
                {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "f"}}]}]}]),
    );
    assert_eq!(
        sent,
        json!([{"role": "user", "content": "So far: tea."},
        {"role": "user", "content": "Hi"}, {"role": "system", "content": "Be calm."}])
    );
    let silent =
        ["redacted_thinking", "fallback", "container_upload", "tool_removal", "of_tomorrow"];
    let mut blocks: Vec<_> = silent.iter().map(|kind| json!({"type": kind, "data": "x"})).collect();
    blocks.push(json!({"type": "compaction", "content": null}));
    blocks.push(text);
    let sent = messages(&bench, &json!([{"role": "user", "content": blocks}]));
    assert_eq!(sent, json!([{"role": "user", "content": "Hi"}]));
}

#[test]
fn reasoning_goes_back_to_the_families_that_want_it_whatever_its_signature() {
    let turns = |signature: Value| {
        json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Look first.", "signature": signature},
            {"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "x"}]}])
    };
    for signature in [json!("b2xsYW1h"), json!(""), Value::Null, json!(5)] {
        let (upstream, proxy) =
            pair_with(|config| config.upstream.profile = profiles::find_by_name("deepseek"));
        let sent = messages(&Bench { upstream, proxy }, &turns(signature));
        assert_eq!(sent[1]["reasoning_content"], "Look first.", "{sent}");
    }
}

#[test]
fn a_format_is_sent_as_a_schema_for_the_answer() {
    let bench = Bench::new();
    let schema = json!({"type": "object", "properties": {"title": {"type": "string"}},
        "required": ["title"], "additionalProperties": false});
    let format = json!({"type": "json_schema", "schema": schema});
    for change in [json!({"output_config": {"format": format}}), json!({"output_format": format})] {
        let sent = bench.sent(MESSAGES, &change);
        assert_eq!(sent["response_format"]["type"], "json_schema", "{sent}");
        assert_eq!(sent["response_format"]["json_schema"]["schema"], schema, "{sent}");
    }
    for format in [json!({"type": "of_tomorrow"}), json!(5), json!({"type": "json_schema"})] {
        let sent = bench.sent(MESSAGES, &json!({"output_config": {"format": format}}));
        assert_eq!(sent.get("response_format"), None, "{format}");
    }
}

#[test]
fn no_effort_no_type_of_thinking_and_no_beta_member_is_refused() {
    let bench = Bench::over(r#"{"data":[{"id":"m","owned_by":"openai"}]}"#);
    let effort = |change: Value| bench.sent(MESSAGES, &change)["reasoning_effort"].clone();
    for (name, sent) in [("low", "low"), ("medium", "medium"), ("high", "high"), ("xhigh", "high")]
    {
        let change = json!({"output_config": {"effort": name}, "thinking": {"type": "adaptive"}});
        assert_eq!(effort(change), sent, "{name}");
    }
    // A server may know a level that this program does not.
    assert_eq!(effort(json!({"output_config": {"effort": "galactic"}})), "galactic");
    for thinking in [
        json!({"type": "adaptive", "display": "omitted"}),
        json!({"type": "quantum"}),
        json!("on"),
        json!({"type": 5}),
        json!({}),
    ] {
        assert_eq!(effort(json!({ "thinking": thinking })), Value::Null, "{thinking}");
    }
    bench.sent(MESSAGES, &json!({"thinking": {"type": "enabled", "budget_tokens": 1024}}));
    let beta = json!({"context_management": {"edits": [{"type": "compact_20260112"}]},
        "metadata": {"user_id": "u"}, "service_tier": "auto", "speed": "fast", "betas": ["x"],
        "thread": {"type": "create"}, "container": "c", "mcp_servers": [], "inference_geo": "eu",
        "cache_control": {"type": "ephemeral"}, "diagnostics": {}, "fallbacks": [], "of_tomorrow": 1,
        "output_config": {"task_budget": {"type": "tokens", "total": 9}}});
    assert_eq!(bench.added(MESSAGES, &beta), json!({"max_tokens": 64}));
}

#[test]
fn a_thread_that_is_to_be_continued_is_not_found() {
    let bench = Bench::new();
    let answer = bench.ask(MESSAGES, &json!({"thread": {"type": "continue", "id": "th_1"}}));
    let told = super::messages::error(&answer);
    assert_eq!((told.0, &*told.1), (400, "invalid_request_error"), "{}", told.2);
    assert_eq!(answer.json()["error"]["details"]["error_code"], "thread_not_found");
    assert!(bench.upstream.is_idle());
}

#[test]
fn the_log_names_each_type_that_is_left_out_once() {
    let upstream = Upstream::start();
    upstream.judge(|_| Some(vec![answer("ok")]));
    let mut command = program();
    let running = Running::start(command.env("OPENAI_BASE_URL", upstream.base_url()));
    let content = json!([{"type": "text", "text": "q"}, {"type": "new_block", "text": "a secret"},
        {"type": "Dear diary"}, {"type": "redacted_thinking", "data": "x"}]);
    let tools =
        json!([{"type": "new_tool", "name": "t"}, {"type": "web_search_20250305", "name": "w"}]);
    let body = json!({"model": "m", "max_tokens": 9, "tools": tools,
        "messages": [{"role": "user", "content": content}]});
    let mut client = Client::connect(running.addr);
    for _ in 0..3 {
        assert_eq!(client.post("/v1/messages", body.to_string()).answer().status(), 200);
    }
    let log = running.stop();
    for name in ["new_block", "new_tool", "cannot be read"] {
        assert_eq!(log.matches(name).count(), 1, "{log}");
    }
    for text in ["secret", "diary", "redacted", "web_search"] {
        assert!(!log.contains(text), "{log}");
    }
}
