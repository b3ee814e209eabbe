//! Anthropic's tools as functions: which are sent, under which names, and how the calls come back.

use crate::support::*;

/// A tool of the client's own.
fn tool(name: &str, members: &Value) -> Value {
    let schema = json!({"type": "object", "properties": {"x": {"type": "string"}}});
    with(json!({"name": name, "description": "D.", "input_schema": schema}), members)
}

fn names(sent: &Value) -> Vec<&str> {
    let tools = sent["tools"].as_array().into_iter().flatten();
    tools.map(|tool| tool["function"]["name"].as_str().expect("a name")).collect()
}

#[test]
fn tools_that_a_server_runs_are_left_out_by_their_type() {
    let bench = Bench::new();
    let families = [
        ("web_search", &["20250305", "20260209", "20260318", "20300101"][..]),
        ("web_fetch", &["20250910", "20260209", "20260309", "20260318"]),
        ("code_execution", &["20250522", "20250825", "20260120", "20260521"]),
        ("tool_search_tool_regex", &["20251119"]),
        ("tool_search_tool_bm25", &["20251119"]),
        ("advisor", &["20260301"]),
    ];
    let mut tools = vec![json!({"type": "mcp_toolset", "mcp_server_name": "x"})];
    for (family, dates) in families {
        tools.push(json!({"type": family, "name": family}));
        let dated = dates.iter().map(|date| format!("{family}_{date}"));
        tools.extend(dated.map(|kind| json!({"type": kind, "name": family})));
    }
    tools.push(json!({"type": "shiny_20300101", "name": "shiny"}));
    let sent = bench.sent(MESSAGES, &json!({ "tools": tools }));
    assert_eq!(sent.get("tools"), None, "{sent}");
    // Tools of the same names that the client runs are sent.
    tools.extend([tool("web_search", &json!({})), tool("advisor", &json!({"type": "custom"}))]);
    tools.push(tool("shiny", &json!({"type": "shiny_20300101"})));
    let sent = bench.sent(MESSAGES, &json!({ "tools": tools }));
    assert_eq!(names(&sent), ["web_search", "advisor", "shiny"]);
}

#[test]
fn tools_of_fixed_types_that_the_client_runs_have_a_schema() {
    let bench = Bench::new();
    for (kind, name, member) in [
        ("bash_20241022", "bash", "command"),
        ("bash_20250124", "bash", "restart"),
        ("text_editor_20241022", "str_replace_editor", "old_str"),
        ("text_editor_20250124", "str_replace_editor", "view_range"),
        ("text_editor_20250429", "str_replace_based_edit_tool", "insert_line"),
        ("text_editor_20250728", "str_replace_based_edit_tool", "file_text"),
        ("memory_20250818", "memory", "new_path"),
        ("computer_20241022", "computer", "action"),
        ("computer_20250124", "computer", "coordinate"),
        ("computer_20251124", "computer", "region"),
    ] {
        for named in [json!({"type": kind, "name": name}), json!({"type": kind})] {
            let sent = bench.sent(MESSAGES, &json!({"tools": [named]}));
            assert_eq!(names(&sent), [name], "{kind}");
            let function = &sent["tools"][0]["function"];
            assert!(function["description"].is_string(), "{kind}");
            assert!(function["parameters"]["properties"][member].is_object(), "{kind}: {function}");
        }
    }
}

#[test]
fn of_its_own_tools_only_name_description_and_schema_are_sent() {
    let bench = Bench::new();
    let members = json!({"type": "custom", "defer_loading": true, "eager_input_streaming": true,
        "input_examples": [{"x": "1"}, {"x": "2"}], "strict": true, "cache_control": {"type": "ephemeral"},
        "allowed_callers": ["direct"], "of_tomorrow": {"a": 1}});
    let sent = bench.sent(MESSAGES, &json!({"tools": [tool("f", &members)]}));
    let schema = &tool("f", &json!({}))["input_schema"];
    let description = "D.\n\nExamples of input:\n{\"x\":\"1\"}\n{\"x\":\"2\"}";
    let function = json!({"name": "f", "description": description, "parameters": schema});
    assert_eq!(sent["tools"], json!([{"type": "function", "function": function}]));
}

/// A conversation in which the client's search for tools has found these.
fn searched(found: &[&str]) -> Value {
    let references: Vec<_> =
        found.iter().map(|name| json!({"type": "tool_reference", "tool_name": name})).collect();
    let call =
        json!({"type": "tool_use", "id": "t1", "name": "ToolSearch", "input": {"query": "x"}});
    let result = json!({"type": "tool_result", "tool_use_id": "t1", "content": references});
    json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]}])
}

#[test]
fn a_tool_is_declared_once_a_search_has_found_it_and_the_result_says_so() {
    let bench = Bench::new();
    let deferred = json!({"defer_loading": true});
    let tools = json!([
        tool("ToolSearch", &json!({})),
        tool("Read", &json!({})),
        tool("mcp__x__y", &deferred),
        tool("mcp__x__z", &deferred)
    ]);
    let sent = bench.sent(MESSAGES, &json!({"tools": tools}));
    assert_eq!(names(&sent), ["ToolSearch", "Read"]);
    let messages = searched(&["mcp__x__z"]);
    let sent = bench.sent(MESSAGES, &json!({"tools": tools, "messages": messages}));
    assert_eq!(names(&sent), ["ToolSearch", "Read", "mcp__x__z"]);
    assert_eq!(sent["messages"][2]["content"], "Tool mcp__x__z is now available.");
    let messages = searched(&["mcp__x__z", "mcp__x__y"]);
    let sent = bench.sent(MESSAGES, &json!({"tools": tools, "messages": messages}));
    let text = "Tool mcp__x__z is now available.\n\nTool mcp__x__y is now available.";
    assert_eq!(sent["messages"][2]["content"], text);
    assert!(!sent.to_string().contains("defer_loading"), "{sent}");
    // A tool that was called before is not taken away.
    let call = json!({"type": "tool_use", "id": "t2", "name": "mcp__x__y", "input": {}});
    let messages =
        json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [call]}]);
    let sent = bench.sent(MESSAGES, &json!({"tools": tools, "messages": messages}));
    assert_eq!(names(&sent), ["ToolSearch", "Read", "mcp__x__y"]);
}

#[test]
fn no_tool_is_deferred_where_the_search_would_run_on_a_server() {
    let bench = Bench::new();
    let search = json!({"type": "tool_search_tool_bm25_20251119", "name": "tool_search_tool_bm25"});
    let tools = json!([search, tool("f", &json!({"defer_loading": true}))]);
    assert_eq!(names(&bench.sent(MESSAGES, &json!({"tools": tools}))), ["f"]);
}

#[test]
fn a_choice_of_tools_is_openai_s_and_one_of_a_tool_that_was_left_out_is_none() {
    let bench = Bench::new();
    let tools = json!([tool("f", &json!({})), {"type": "advisor_20260301", "name": "advisor"}]);
    let chosen = |choice: Value| {
        let sent = bench.sent(MESSAGES, &json!({"tools": tools, "tool_choice": choice}));
        json!([sent["tool_choice"], sent["parallel_tool_calls"]])
    };
    assert_eq!(chosen(json!({"type": "auto"})), json!([null, null]));
    assert_eq!(chosen(json!({"type": "none"})), json!(["none", null]));
    let serial = json!({"type": "any", "disable_parallel_tool_use": true});
    assert_eq!(chosen(serial), json!(["required", false]));
    let serial = json!({"type": "auto", "disable_parallel_tool_use": true});
    assert_eq!(chosen(serial), json!([null, false]));
    let parallel = json!({"type": "any", "disable_parallel_tool_use": false});
    assert_eq!(chosen(parallel), json!(["required", null]));
    let one = json!({"type": "function", "function": {"name": "f"}});
    assert_eq!(chosen(json!({"type": "tool", "name": "f"})), json!([one, null]));
    assert_eq!(chosen(json!({"type": "tool", "name": "advisor"})), json!([null, null]));
    assert_eq!(chosen(json!({"type": "of_tomorrow"})), json!([null, null]));
    let alone = json!({"tool_choice": {"type": "any", "disable_parallel_tool_use": true}});
    assert_eq!(bench.added(MESSAGES, &alone), json!({"max_tokens": 64}), "without tools");
}

#[test]
fn a_long_name_is_short_upstream_and_whole_in_the_answer() {
    let bench = Bench::new();
    let long = format!("mcp__server__{}", "t".repeat(87));
    let call = json!({"type": "tool_use", "id": "c1", "name": long, "input": {}});
    let result = json!({"type": "tool_result", "tool_use_id": "c1", "content": "done"});
    let messages = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]}]);
    let change = json!({"tools": [tool(&long, &json!({}))], "messages": messages,
        "tool_choice": {"type": "tool", "name": long}});
    let sent = bench.sent(MESSAGES, &change);
    let short = names(&sent)[0].to_owned();
    assert_eq!(short.len(), 64, "{short}");
    assert_eq!(sent["messages"][1]["tool_calls"][0]["function"]["name"], *short);
    assert_eq!(sent["tool_choice"]["function"]["name"], *short);
    let call = json!({"index": 0, "id": "c2", "type": "function",
        "function": {"name": short, "arguments": "{\"x\":\"1\"}"}});
    let streamed = with(change.clone(), &json!({"stream": true}));
    let events =
        bench.played(MESSAGES, &streamed, deltas(&[json!({"tool_calls": [call]})])).events();
    assert_eq!(events[1]["content_block"]["name"], *long);
    let message = json!({"role": "assistant", "content": null, "tool_calls": [call]});
    let whole =
        json!({"choices": [{"message": message, "finish_reason": "tool_calls"}]}).to_string();
    let message = bench.played(MESSAGES, &change, vec![upstream::json(&whole)]).json();
    assert_eq!(message["content"][0]["name"], *long);
    assert_eq!(message["content"][0]["input"], json!({"x": "1"}));
}
