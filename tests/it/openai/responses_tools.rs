//! The tools of `/v1/responses` over chat completions: every type of them, under names that every upstream
//! takes, wherever they are declared; and what a client reads of their calls (openai/codex,
//! `tools/src/tool_spec.rs`).

use crate::support::program::{Running, program};
use crate::support::*;

const PATH: &str = "/v1/responses";

fn no_route(request: &Recorded) -> Option<Vec<Step>> {
    let is_responses = request.path.ends_with("/responses");
    is_responses.then(|| vec![status(404, &[], r#"{"detail":"Not Found"}"#)])
}

/// What goes upstream of a request with these members, and the output that a client reads of a call.
fn called(change: Value, call: Option<(&str, &str)>) -> (Value, Vec<Value>) {
    let (upstream, proxy) = pair_with(|config| config.retry.max_retries = 0);
    upstream.judge(no_route);
    let function = call.map(|(name, arguments)| json!({"name": name, "arguments": arguments}));
    let calls = function.map(|it| json!([{"id": "call_1", "type": "function", "function": it}]));
    let message = json!({"role": "assistant", "content": "ok", "tool_calls": calls});
    let body = json!({"choices": [{"message": message, "finish_reason": "stop"}]});
    upstream.script(vec![upstream::json(&body.to_string())]);
    let answer = proxy.post(PATH, &with(json!({"model": "m", "input": "Hi"}), &change));
    assert_eq!(answer.status(), 200, "{change}: {}", answer.body);
    assert_eq!(upstream.request().path, PATH);
    let output = answer.json()["output"].as_array().expect("a list").clone();
    (upstream.request().json(), output)
}

fn sent_of(change: Value) -> Value {
    called(change, None).0
}

/// The functions that go upstream of these tools.
fn functions(tools: Value) -> Vec<Value> {
    let sent = sent_of(json!({ "tools": tools }));
    let tools = sent["tools"].as_array().into_iter().flatten();
    tools.map(|tool| tool["function"].clone()).collect()
}

fn names(functions: &[Value]) -> Vec<&str> {
    functions.iter().map(|function| function["name"].as_str().expect("a name")).collect()
}

fn function(name: &str) -> Value {
    json!({"type": "function", "name": name, "description": "d", "strict": false,
        "parameters": {"type": "object", "properties": {"x": {"type": "string"}}}})
}

fn namespace() -> Value {
    json!({"type": "namespace", "name": "mcp__fs", "description": "Files.", "tools":
        [function("read"), {"type": "custom", "name": "edit", "description": "Edits."}]})
}

#[test]
fn tools_that_only_openai_s_servers_run_are_left_out() {
    let hosted = [
        "web_search", "web_search_preview", "web_search_2025_08_26", "image_generation",
        "file_search", "code_interpreter", "computer", "computer_use_preview", "mcp", "shell",
        "apply_patch", "new_thing",
    ];
    let mut tools: Vec<Value> = hosted.iter().map(|kind| json!({ "type": kind })).collect();
    assert!(functions(json!(tools)).is_empty());
    tools.extend([function("a"), json!(5), Value::Null, json!("x"), json!({}), json!([])]);
    assert_eq!(names(&functions(json!(tools))), ["a"]);
}

#[test]
fn members_of_a_namespace_have_legal_names_upstream_and_their_own_below() {
    let tools = json!({"tools": [namespace()]});
    let (sent, output) = called(tools.clone(), Some(("mcp__fs__read", r#"{"x":"1"}"#)));
    let functions: Vec<&Value> = (0..2).map(|place| &sent["tools"][place]["function"]).collect();
    assert_eq!(
        (&functions[0]["name"], &functions[1]["name"]),
        (&json!("mcp__fs__read"), &json!("mcp__fs__edit"))
    );
    let call = output.last().expect("a call");
    assert_eq!(
        (&call["type"], &call["namespace"], &call["name"], &call["arguments"]),
        (&json!("function_call"), &json!("mcp__fs"), &json!("read"), &json!(r#"{"x":"1"}"#))
    );
    let (_, output) = called(tools, Some(("mcp__fs__edit", r#"{"input":"raw"}"#)));
    let call = output.last().expect("a call");
    assert_eq!(
        (&call["type"], &call["namespace"], &call["name"], &call["input"]),
        (&json!("custom_tool_call"), &json!("mcp__fs"), &json!("edit"), &json!("raw"))
    );
}

#[test]
fn earlier_calls_have_the_name_under_which_their_tool_is_declared() {
    let input = |name: &str, namespace: Value| {
        json!([{"role": "user", "content": "q"},
            {"type": "function_call", "name": name, "namespace": namespace, "arguments": "{}", "call_id": "a"},
            {"type": "function_call_output", "call_id": "a", "output": "res"}])
    };
    let sent = |name: &str, ns: Value| {
        let sent = sent_of(json!({"tools": [namespace()], "input": input(name, ns)}));
        sent["messages"][1]["tool_calls"][0]["function"]["name"].clone()
    };
    assert_eq!(sent("read", json!("mcp__fs")), "mcp__fs__read");
    assert_eq!(
        sent("mcp__fs.read", Value::Null),
        "mcp__fs__read",
        "as an earlier version answered"
    );
    assert_eq!(
        sent("read", json!("mcp__gone")),
        "mcp__gone__read",
        "its tool is declared no longer"
    );
    assert_eq!(sent("exec.it", json!("functions")), "exec_it", "the namespace that means none");
}

#[test]
fn a_tool_of_free_text_is_a_function_with_the_text_and_tells_its_grammar() {
    let format = json!({"type": "grammar", "syntax": "lark", "definition": "start: LINE+"});
    let tool =
        json!({"type": "custom", "name": "apply_patch", "description": "Edits.", "format": format});
    let found = functions(json!([tool]));
    let text = found[0]["description"].as_str().expect("a text");
    assert!(
        text.starts_with("Edits.") && text.ends_with("start: LINE+") && text.contains("`input`"),
        "{text}"
    );
    assert_eq!(
        found[0]["parameters"],
        json!({"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"],
            "additionalProperties": false})
    );
}

#[test]
fn a_patch_tool_has_the_form_in_which_it_is_declared() {
    let patch = "*** Begin Patch\n*** End Patch";
    let arguments = json!({ "patch": patch }).to_string();
    let custom = json!({"type": "custom", "name": "apply_patch"});
    let (_, output) = called(json!({"tools": [custom]}), Some(("apply_patch", &arguments)));
    let call = output.last().expect("a call");
    assert_eq!((&call["type"], &call["input"]), (&json!("custom_tool_call"), &json!(patch)));
    let (_, output) =
        called(json!({"tools": [function("apply_patch")]}), Some(("apply_patch", &arguments)));
    let call = output.last().expect("a call");
    assert_eq!((&call["type"], &call["arguments"]), (&json!("function_call"), &json!(arguments)));
}

#[test]
fn a_search_for_tools_and_the_shell_are_functions() {
    let search = json!({"type": "tool_search", "execution": "client", "description": "Finds.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}}});
    let found = functions(json!([search, {"type": "local_shell"}]));
    assert_eq!(names(&found), ["tool_search", "local_shell"]);
    assert_eq!(found[0]["parameters"]["properties"], json!({"query": {"type": "string"}}));
    assert_eq!(found[1]["parameters"]["required"], json!(["command"]));
    let hosted = json!({"type": "tool_search", "execution": "server"});
    assert!(functions(json!([hosted])).is_empty(), "nobody runs it");
}

#[test]
fn tools_are_declared_by_items_too() {
    let input = json!([
        {"type": "additional_tools", "role": "developer", "tools": [function("added"), namespace()]},
        {"role": "user", "content": "q"},
        {"type": "tool_search_call", "call_id": "c", "execution": "client", "arguments": {"query": "x"}},
        {"type": "tool_search_output", "call_id": "c", "status": "completed", "execution": "client",
            "tools": [{"type": "namespace", "name": "mcp__mail", "tools": [function("send")]}]},
    ]);
    let (sent, output) = called(json!({ "input": input }), Some(("mcp__mail__send", "{}")));
    let tools = sent["tools"].as_array().expect("tools");
    let found: Vec<Value> = tools.iter().map(|tool| tool["function"].clone()).collect();
    assert_eq!(names(&found), ["added", "mcp__fs__read", "mcp__fs__edit", "mcp__mail__send"]);
    let list = sent["messages"][2]["content"].as_str().expect("a text");
    assert_eq!(
        (&sent["messages"][2]["role"], serde_json::from_str::<Value>(list).expect("JSON")),
        (&json!("tool"), json!([{"name": "mcp__mail__send", "description": "d"}]))
    );
    let call = output.last().expect("a call");
    assert_eq!((&call["namespace"], &call["name"]), (&json!("mcp__mail"), &json!("send")));
}

#[test]
fn a_tool_that_waits_for_a_search_is_declared_once_it_is_found() {
    let deferred = with(function("send"), &json!({"defer_loading": true}));
    let search = json!({"type": "tool_search", "execution": "client"});
    let tools = json!([search, deferred, function("a")]);
    let found = functions(tools.clone());
    assert_eq!(names(&found), ["tool_search", "a"]);
    assert!(!json!(found).to_string().contains("defer_loading"));
    let input = json!([{"role": "user", "content": "q"},
        {"type": "function_call", "name": "send", "arguments": "{}", "call_id": "a"}]);
    let sent = sent_of(json!({"tools": tools, "input": input}));
    assert_eq!(sent["tools"][1]["function"]["name"], "send", "it was called, so it is known");
    assert_eq!(names(&functions(json!([deferred]))), ["send"], "there is no search");
}

#[test]
fn long_and_odd_names_are_legal_upstream_and_whole_below() {
    let long = format!("mcp__server__{}", "t".repeat(87));
    for name in [long.as_str(), "a.b c", "é", "files/read"] {
        let (sent, _) = called(json!({"tools": [function(name)]}), None);
        let upstream = sent["tools"][0]["function"]["name"].as_str().expect("a name").to_owned();
        let is_legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        assert!(upstream.len() <= 64 && upstream.chars().all(is_legal), "{upstream}");
        let (_, output) = called(json!({"tools": [function(name)]}), Some((&upstream, "{}")));
        assert_eq!(output.last().expect("a call")["name"], name);
    }
    let found = functions(json!([function("a.b"), function("a_b"), function("a.b")]));
    assert_eq!(names(&found), ["a_b", "a_b_2"]);
}

#[test]
fn a_choice_names_the_tool_as_the_upstream_knows_it() {
    let choice = |choice: Value| {
        let sent = sent_of(json!({"tools": [namespace(), function("a.b")], "tool_choice": choice}));
        let tools = sent["tools"].as_array().map_or(0, Vec::len);
        (sent.get("tool_choice").cloned(), tools)
    };
    let named = |name: &str| Some(json!({"type": "function", "function": {"name": name}}));
    assert_eq!(choice(json!({"type": "function", "name": "a.b"})), (named("a_b"), 3));
    let member = json!({"type": "custom", "name": "edit", "namespace": "mcp__fs"});
    assert_eq!(choice(member.clone()), (named("mcp__fs__edit"), 3));
    assert_eq!(choice(json!("required")), (Some(json!("required")), 3));
    let allowed = json!({"type": "allowed_tools", "mode": "required", "tools": [member]});
    assert_eq!(choice(allowed), (Some(json!("required")), 1));
    for odd in [
        json!("auto"),
        json!(null),
        json!(5),
        json!({}),
        json!({"type": "web_search"}),
        json!({"type": "function", "name": "gone"}),
        json!({"type": "allowed_tools", "tools": 5}),
    ] {
        assert_eq!(choice(odd.clone()), (None, 3), "{odd}");
    }
}

#[test]
fn one_call_at_a_time_is_passed_on_if_there_are_tools() {
    let sent = sent_of(json!({"tools": [function("f")], "parallel_tool_calls": false}));
    assert_eq!(sent["parallel_tool_calls"], false);
    for parallel in [json!(true), json!(null), json!("no")] {
        let sent = sent_of(json!({"tools": [function("f")], "parallel_tool_calls": parallel}));
        assert_eq!(sent.get("parallel_tool_calls"), None);
    }
}

#[test]
fn a_format_is_asked_for_where_it_can_be_read() {
    let schema = json!({"type": "object", "properties": {}});
    let format =
        |format: Value| sent_of(json!({"text": {"format": format}}))["response_format"].clone();
    let own = format(
        json!({"type": "json_schema", "name": "codex_output_schema", "strict": true, "schema": schema}),
    );
    assert_eq!((&own["type"], &own["json_schema"]["schema"]), (&json!("json_schema"), &schema));
    for odd in [
        json!("json"),
        json!(5),
        json!({"type": "text"}),
        json!({"type": "json_schema"}),
        json!({"type": "json_schema", "schema": 5}),
        json!({"type": "from_the_future"}),
    ] {
        assert_eq!(format(odd.clone()), Value::Null, "{odd}");
    }
}

#[test]
fn hundreds_of_large_tools_are_taken() {
    let tool = |number: u32| {
        with(function(&format!("tool.{number}")), &json!({"description": "d".repeat(4096)}))
    };
    let tools: Vec<Value> = (0..200).map(tool).collect();
    let found = functions(json!(tools));
    assert_eq!((found.len(), names(&found)[199]), (200, "tool_199"));
}

#[test]
fn no_member_of_a_tool_can_be_wrong_enough_to_end_a_session() {
    let kinds = [
        "function", "custom", "namespace", "tool_search", "local_shell", "web_search", "mcp",
        "from_the_future",
    ];
    let members = [
        "type", "name", "description", "parameters", "strict", "tools", "format", "execution",
        "defer_loading", "function",
    ];
    let values = [
        Value::Null,
        json!(5),
        json!(true),
        json!(""),
        json!("x"),
        json!([]),
        json!({}),
        json!([[]]),
        json!([null, 5, "x", {}]),
        json!({"type": 5, "definition": []}),
    ];
    let (upstream, proxy) = pair_with(|config| config.retry.max_retries = 0);
    upstream.judge(|request| Some(no_route(request).unwrap_or_else(|| vec![answer("ok")])));
    let mut client = proxy.client();
    for (kind, member) in kinds.iter().flat_map(|kind| members.map(|member| (kind, member))) {
        let changed = |value| with(json!({"type": kind, "name": "n"}), &json!({ member: value }));
        let tools: Vec<Value> = values.iter().map(changed).collect();
        let nested = json!([{"type": "namespace", "name": "ns", "tools": tools}]);
        let items = json!([{"role": "user", "content": "q"},
            {"type": "additional_tools", "tools": tools},
            {"type": "tool_search_output", "call_id": "c", "tools": nested}]);
        let body = json!({"model": "m", "input": items, "tools": tools});
        // A choice has the members of a tool, and all that can be wrong with them.
        for choice in [&tools[0], &tools[values.len() - 1]] {
            let body = with(body.clone(), &json!({ "tool_choice": choice })).to_string();
            let answer = client.post(PATH, &body).answer();
            assert_eq!(answer.status(), 200, "{body}: {}", answer.body);
            while !upstream.is_idle() {
                upstream.request();
            }
        }
    }
}

#[test]
fn the_log_names_each_type_that_is_left_out_once() {
    let upstream = Upstream::start();
    upstream.judge(|request| Some(no_route(request).unwrap_or_else(|| vec![answer("ok")])));
    let mut command = program();
    let running = Running::start(command.env("OPENAI_BASE_URL", upstream.base_url()));
    let part = json!({"type": "new_part", "text": "a secret"});
    let input = json!([{"role": "user", "content": ["q", part]}, {"type": "new_item", "id": "x"},
        {"type": "Dear diary", "id": "x"}]);
    let body = json!({"model": "m", "input": input, "tools": [{"type": "new_tool"}, {"type": "web_search"}]});
    let mut client = Client::connect(running.addr);
    for _ in 0..3 {
        assert_eq!(client.post(PATH, body.to_string()).answer().status(), 200);
    }
    let log = running.stop();
    for name in ["new_part", "new_item", "new_tool"] {
        assert_eq!(log.matches(name).count(), 1, "{log}");
    }
    for text in ["secret", "diary", "web_search"] {
        assert!(!log.contains(text), "{log}");
    }
}
