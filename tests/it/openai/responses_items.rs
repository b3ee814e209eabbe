//! What goes upstream of the input of `/v1/responses` over chat completions: every type of item and part,
//! pairs of calls and outputs, and all that can be wrong with them (openai/codex, `protocol/src/models.rs`).

use crate::support::*;

const PATH: &str = "/v1/responses";

/// A proxy in front of an upstream without `/v1/responses`, which answers all chats.
fn chat_only() -> (Upstream, Proxy) {
    let (upstream, proxy) = pair_with(|config| config.retry.max_retries = 0);
    upstream.judge(|request| {
        let is_responses = request.path.ends_with("/responses");
        let step = match is_responses {
            true => status(404, &[], r#"{"detail":"Not Found"}"#),
            false => answer("ok"),
        };
        Some(vec![step])
    });
    (upstream, proxy)
}

/// What goes upstream of a request with these members.
fn sent_of(change: Value) -> Value {
    let (upstream, proxy) = chat_only();
    let answer = proxy.post(PATH, &with(json!({"model": "m", "input": "Hi"}), &change));
    assert_eq!(answer.status(), 200, "{change}: {}", answer.body);
    assert_eq!(upstream.request().path, PATH);
    upstream.request().json()
}

/// The messages that go upstream of these items.
fn messages(input: Value) -> Vec<Value> {
    sent_of(json!({ "input": input }))["messages"].as_array().expect("messages").clone()
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn call(id: &str) -> Value {
    json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"})
}

fn output(id: &str, output: impl Into<Value>) -> Value {
    json!({"type": "function_call_output", "call_id": id, "output": output.into()})
}

/// Role, text, ids of calls, and the id of the call that is answered.
fn shown(messages: &[Value]) -> Vec<String> {
    let show = |message: &Value| {
        let calls = message["tool_calls"].as_array().into_iter().flatten();
        let ids: Vec<&str> = calls.filter_map(|call| call["id"].as_str()).collect();
        let answered = message["tool_call_id"].as_str().unwrap_or_default();
        let text = message["content"].as_str().unwrap_or("parts");
        format!("{} {text} {}{answered}", message["role"].as_str().unwrap_or("?"), ids.join(","))
    };
    messages.iter().map(|message| show(message).trim_end().to_owned()).collect()
}

#[test]
fn what_only_openai_s_servers_read_stays_behind() {
    let sent =
        sent_of(json!({"client_metadata": {"a": "b"}, "store": false, "service_tier": "flex",
        "include": ["reasoning.encrypted_content"], "prompt_cache_key": "key", "reasoning": {},
        "stream_options": {"reasoning_summary_delivery": "x"}, "text": {"verbosity": "low"},
        "tools": [], "tool_choice": "auto", "parallel_tool_calls": false, "metadata": {},
        "user": "u", "safety_identifier": "s", "top_logprobs": 3, "max_tool_calls": 2}));
    assert_eq!(sent, json!({"model": "m", "messages": [user("Hi")], "stream": false}));
}

#[test]
fn any_effort_is_taken() {
    for reasoning in [
        json!({}),
        json!({"effort": null}),
        json!({"effort": ""}),
        json!({"effort": "hyper"}),
        json!({"effort": "xhigh", "context": "all_turns"}),
        json!({"effort": "minimal", "summary": "auto"}),
        json!({"effort": "ultra", "summary": null}),
    ] {
        sent_of(json!({ "reasoning": reasoning }));
    }
}

#[test]
fn system_texts_in_front_are_one_message_and_later_ones_stay_where_they_are() {
    let said = |role: &str, text: &str| json!({"type": "message", "role": role, "content": text});
    let change = json!({"instructions": "I", "input": [said("developer", "D"), said("system", "S"),
        user("a"), said("assistant", "b"), said("developer", "later"), user("c")]});
    let sent = sent_of(change)["messages"].as_array().expect("messages").clone();
    assert_eq!(
        shown(&sent),
        ["system I\n\nD\n\nS", "user a", "assistant b", "system later", "user c"]
    );
}

#[test]
fn items_that_mean_nothing_to_an_upstream_are_passed_over() {
    let items = [
        json!({"type": "from_the_future", "content": "x"}),
        json!({"type": "reasoning", "summary": [], "encrypted_content": null}),
        json!({"type": "reasoning", "summary": []}),
        json!({"type": "web_search_call", "id": "ws_1", "status": "completed"}),
        json!({"type": "image_generation_call", "id": "ig_1", "result": "x"}),
        json!({"type": "computer_call", "call_id": "c", "action": {}}),
        json!({"type": "mcp_list_tools", "tools": []}),
        json!({"type": "code_interpreter_call", "code": "x"}),
        json!({"type": "additional_tools", "role": "developer", "tools": []}),
    ];
    for item in items {
        assert_eq!(messages(json!([user("q"), item, user("z")])), [user("q"), user("z")], "{item}");
        assert_eq!(messages(json!([item])), [user("")], "{item}");
    }
}

#[test]
fn the_output_of_a_call_that_openai_s_servers_ran_goes_with_its_call() {
    let input = json!([user("q"), {"type": "mcp_call", "id": "x", "call_id": "c"}, output("c", "O"),
        {"type": "computer_call", "call_id": "d"}, {"type": "computer_call_output", "call_id": "d"}]);
    assert_eq!(messages(input), [user("q")]);
}

#[test]
fn a_message_of_one_agent_to_another_names_both() {
    let message = json!({"type": "agent_message", "author": "/root", "recipient": "/root/a",
        "content": [{"type": "input_text", "text": "Help."}, {"type": "encrypted_content"}]});
    let found = messages(json!([user("q"), message]));
    assert_eq!(found[1], user("Message from /root to /root/a:\nHelp."));
}

#[test]
fn the_text_of_a_custom_call_is_the_argument_input_and_its_output_a_result() {
    let patch = "*** Begin Patch\n+\"x\"\n*** End Patch";
    let parts =
        json!([{"type": "input_text", "text": "one"}, {"type": "input_text", "text": "two"}]);
    let found = messages(json!([
        user("q"),
        {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": patch},
        {"type": "custom_tool_call_output", "call_id": "c1", "output": parts},
    ]));
    let function = &found[1]["tool_calls"][0]["function"];
    let arguments: Value =
        serde_json::from_str(function["arguments"].as_str().expect("a text")).expect("JSON");
    assert_eq!((&function["name"], arguments), (&json!("apply_patch"), json!({"input": patch})));
    assert_eq!(found[2], json!({"role": "tool", "tool_call_id": "c1", "content": "one\ntwo"}));
}

#[test]
fn the_client_s_shell_is_called_by_its_action_and_answered_in_both_forms() {
    let action =
        json!({"type": "exec", "command": ["ls", "-l"], "working_directory": "/a", "env": {}});
    for (id, kind) in [("call_id", "function_call_output"), ("id", "local_shell_call_output")] {
        let found = messages(json!([
            user("q"),
            {"type": "local_shell_call", id: "l1", "status": "completed", "action": action},
            {"type": kind, id: "l1", "output": "total 0"},
        ]));
        let function = &found[1]["tool_calls"][0]["function"];
        assert_eq!(function["name"], "local_shell");
        assert_eq!(function["arguments"], r#"{"command":["ls","-l"],"workdir":"/a"}"#);
        assert_eq!(found[2], json!({"role": "tool", "tool_call_id": "l1", "content": "total 0"}));
    }
}

#[test]
fn images_of_outputs_come_from_the_user_behind_all_results() {
    let image = "data:image/png;base64,iVBORw0KGgo=";
    let parts = json!([{"type": "input_text", "text": "TXT"},
        {"type": "input_image", "image_url": image, "detail": "original"}]);
    let found =
        messages(json!([user("q"), call("a"), call("b"), output("a", parts), output("b", "B")]));
    assert_eq!(shown(&found), ["user q", "assistant  a,b", "tool TXT a", "tool B b", "user parts"]);
    let url = json!({"url": image, "detail": "high"});
    assert_eq!(found[4]["content"], json!([{"type": "image_url", "image_url": url}]));
}

#[test]
fn files_and_images_reach_the_model_or_are_named() {
    let content =
        |part: Value| messages(json!([{"role": "user", "content": [part]}]))[0]["content"].clone();
    let file = |members: Value| content(with(json!({"type": "input_file"}), &members));
    let text = file(json!({"filename": "a.txt", "file_data": "data:text/plain;base64,aGVsbG8="}));
    assert!(text.as_str().is_some_and(|it| it.contains("a.txt") && it.contains("hello")), "{text}");
    for members in [
        json!({"filename": "a.bin", "file_id": "file-1"}),
        json!({"filename": "a.bin", "file_data": "data:application/x-thing;base64,aGk="}),
    ] {
        let text = file(members);
        assert!(text.as_str().is_some_and(|it| it.contains("a.bin")), "{text}");
    }
    for url in ["https://example.com/a.png", "data:image/png;base64,iVBORw0KGgo="] {
        let part = content(json!({"type": "input_image", "image_url": url}));
        assert_eq!(part, json!([{"type": "image_url", "image_url": {"url": url}}]));
    }
    for image in [json!({"file_id": "file-1"}), json!({"image_url": "data:image/png;base64,*"})] {
        let text = content(with(json!({"type": "input_image"}), &image));
        assert_eq!(text, "[image not available]");
    }
    assert_eq!(content(json!({"type": "refusal", "refusal": "No."})), "No.");
}

#[test]
fn an_output_without_its_call_is_told_by_the_user() {
    for orphan in [
        output("gone", "O"),
        json!({"type": "function_call_output", "output": "O"}),
        json!({"type": "custom_tool_call_output", "call_id": null, "output": "O"}),
    ] {
        assert_eq!(messages(json!([user("q"), orphan])), [user("q"), user("O")], "{orphan}");
        let found = messages(json!([user("q"), call("a"), orphan, output("a", "A")]));
        assert_eq!(shown(&found), ["user q", "assistant  a", "tool A a", "user O"], "{orphan}");
    }
}

#[test]
fn a_call_without_its_output_gets_one() {
    let found = messages(json!([user("q"), call("a"), call("b"), output("b", "B"), user("next")]));
    let roles: Vec<&Value> = found.iter().map(|message| &message["role"]).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "tool", "user"]);
    let answered: Vec<&Value> =
        found[2..4].iter().map(|message| &message["tool_call_id"]).collect();
    assert!(answered.contains(&&json!("a")) && answered.contains(&&json!("b")), "{found:?}");
}

#[test]
fn outputs_stand_in_the_order_of_their_calls_and_calls_in_the_message_before_them() {
    let text = json!({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "T"}]});
    let found = messages(json!([
        user("q"),
        text,
        call("a"),
        call("b"),
        output("b", "B"),
        output("a", "A")
    ]));
    assert_eq!(shown(&found), ["user q", "assistant T a,b", "tool A a", "tool B b"]);
}

#[test]
fn arguments_of_earlier_calls_are_mended_and_never_refused() {
    let arguments = |given: Value| {
        let call = with(call("a"), &json!({ "arguments": given }));
        let found = messages(json!([user("q"), call, output("a", "A")]));
        let text = found[1]["tool_calls"][0]["function"]["arguments"].clone();
        serde_json::from_str::<Value>(text.as_str().expect("a text")).expect("JSON")
    };
    let mended = arguments(json!("{\"path\": \"a\nb\", \"text\": \"say \"hi\"\"}"));
    assert_eq!(mended, json!({"path": "a\nb", "text": "say \"hi\""}));
    assert_eq!(arguments(json!({"a": 1})), json!({"a": 1}));
    assert_eq!(arguments(json!(null)), json!({}));
    assert_eq!(arguments(json!("")), json!({}));
    for lost in ["rm -rf", "{\"a\":\"cut", "[1]"] {
        assert_eq!(arguments(json!(lost)), json!({ "_raw": lost }));
    }
}

#[test]
fn reasoning_goes_up_again_where_a_family_wants_it() {
    let reasoning = |members: Value| {
        let (upstream, proxy) = chat_only();
        upstream.list(&LLAMA.replace("\"m\"", "\"gpt-oss:20b\""));
        let item = with(json!({"type": "reasoning", "summary": []}), &members);
        let input = json!([user("q"), item, call("a"), output("a", "A")]);
        let answer = proxy.post(PATH, &json!({"model": "gpt-oss:20b", "input": input}));
        assert_eq!(answer.status(), 200, "{}", answer.body);
        assert_eq!(upstream.request().path, PATH);
        upstream.request().json()["messages"][1]["reasoning_content"].clone()
    };
    let summary = json!([{"type": "summary_text", "text": "S"}]);
    let content = json!([{"type": "reasoning_text", "text": "C"}]);
    let foreign = "gAAAAABm".repeat(20);
    assert_eq!(reasoning(json!({"encrypted_content": "our own", "summary": summary})), "our own");
    assert_eq!(reasoning(json!({"encrypted_content": foreign, "summary": summary})), "S");
    assert_eq!(reasoning(json!({"content": content, "summary": summary})), "C");
    assert_eq!(reasoning(json!({"encrypted_content": foreign})), Value::Null);
    assert_eq!(reasoning(json!({"encrypted_content": "gAAAAABm", "summary": summary})), "S");
    assert_eq!(reasoning(json!({"encrypted_content": "Hm."})), "Hm.");
}

/// All types of items, and one that nobody knows.
const ITEMS: &[&str] = &[
    "message", "agent_message", "reasoning", "function_call", "function_call_output",
    "custom_tool_call", "custom_tool_call_output", "tool_search_call", "tool_search_output",
    "additional_tools", "local_shell_call", "local_shell_call_output", "web_search_call",
    "image_generation_call", "computer_call", "computer_call_output", "mcp_call", "compaction",
    "context_compaction", "from_the_future",
];

const ITEM_MEMBERS: &[&str] = &[
    "type", "id", "role", "content", "author", "recipient", "call_id", "name", "namespace",
    "arguments", "input", "action", "output", "tools", "summary", "encrypted_content", "status",
    "execution", "phase",
];

const PARTS: &[&str] = &[
    "input_text", "output_text", "input_image", "input_file", "input_audio", "refusal",
    "encrypted_content", "summary_text", "from_the_future",
];

const PART_MEMBERS: &[&str] = &[
    "type", "text", "refusal", "image_url", "detail", "audio_url", "input_audio", "file",
    "file_id", "filename", "file_data", "file_url", "annotations",
];

/// Values of each type.
fn values() -> Vec<Value> {
    vec![
        Value::Null,
        json!(5),
        json!(-1.5),
        json!(true),
        json!(""),
        json!("x"),
        json!([]),
        json!({}),
        json!([[]]),
        json!([null, 5, "x", {}]),
        json!({"type": 5}),
        json!([{"type": []}]),
        json!([{"type": "input_text", "text": {}}]),
    ]
}

/// Sends many requests on one connection; each must be answered by a 200.
fn all_are_taken(inputs: impl Iterator<Item = Value>) {
    let (upstream, proxy) = chat_only();
    let mut client = proxy.client();
    for input in inputs {
        let answer = client.post(PATH, json!({"model": "m", "input": input}).to_string()).answer();
        assert_eq!(answer.status(), 200, "{input}: {}", answer.body);
        while !upstream.is_idle() {
            upstream.request();
        }
    }
}

/// For each type and member, that member with a value of each type.
fn wrong(kinds: &[&str], members: &[&str]) -> Vec<Vec<Value>> {
    let changed = |kind: &str, member: &str| {
        let values = values().into_iter();
        values.map(|value| with(json!({ "type": kind }), &json!({ member: value }))).collect()
    };
    let all = kinds.iter().flat_map(|kind| members.iter().map(move |member| (kind, member)));
    all.map(|(kind, member)| changed(kind, member)).collect()
}

#[test]
fn no_member_of_an_item_can_be_wrong_enough_to_end_a_session() {
    let least = ITEMS.iter().map(|kind| vec![json!({ "type": kind })]);
    let inputs = least.chain(wrong(ITEMS, ITEM_MEMBERS)).chain([values()]);
    all_are_taken(inputs.map(|items| [vec![user("q")], items, vec![user("z")]].concat().into()));
}

#[test]
fn no_member_of_a_part_can_be_wrong_enough_to_end_a_session() {
    let least = PARTS.iter().map(|kind| vec![json!({ "type": kind })]);
    let inputs = least.chain(wrong(PARTS, PART_MEMBERS)).chain([values()]);
    all_are_taken(inputs.map(|parts| {
        let message = json!({"role": "user", "content": parts});
        json!([user("q"), message, call("a"), output("a", parts)])
    }));
}

#[test]
fn sessions_of_thousands_of_items_are_taken() {
    let turns = (0..1_000).flat_map(|number| {
        let id = format!("call_{number}");
        [call(&id), output(&id, "x".repeat(200))]
    });
    let input: Vec<Value> = std::iter::once(user("q")).chain(turns).collect();
    let found = messages(json!(input));
    assert_eq!(found.len(), 2_001);
    assert_eq!(found[2_000]["tool_call_id"], "call_999");
}
