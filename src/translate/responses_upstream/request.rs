//! The request: from `chat/completions` to `responses` (OpenAI API reference, both routes).
//!
//! Never parses the schemas, texts and images: they keep the text that they have.

use std::collections::HashSet;

use crate::api::openai::raw_object::{RawObject, join_items, parse_items, quote_json};

/// Members that both routes have.
const SHARED_MEMBERS: &[&str] = &[
    "model",
    "stream",
    "temperature",
    "top_p",
    "top_logprobs",
    "parallel_tool_calls",
    "metadata",
    "user",
    "service_tier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
];

/// The two names of the token limit, the newer one first.
const LIMITS: [&str; 2] = ["max_completion_tokens", "max_tokens"];

/// The parameters of a function that has none.
const NO_PARAMETERS: &str = r#"{"type":"object","properties":{}}"#;

/// The request for `responses`; `None` if it is no request for `chat/completions`.
pub fn from_chat(body: &str) -> Option<String> {
    let chat = RawObject::parse(body)?;
    let mut out = RawObject::default();
    for member in SHARED_MEMBERS.iter().filter(|member| chat.has_value(member)) {
        out.set(member, chat.get(member)?);
    }
    let Conversation { instructions, input, .. } =
        Conversation::from_messages(chat.get("messages")?)?;
    if !instructions.is_empty() {
        out.set("instructions", quote_json(&instructions.join("\n\n")));
    }
    out.set("input", join_items(&input));
    let tools = convert_tools(&chat);
    if !tools.is_empty() {
        out.set("tools", join_items(&tools));
        if let Some(choice) = convert_choice(&chat) {
            out.set("tool_choice", choice);
        }
    }
    if let Some(limit) = LIMITS.iter().find(|limit| chat.has_value(limit)) {
        out.set("max_output_tokens", chat.get(limit)?);
    }
    if chat.has_value("reasoning_effort") {
        out.set("reasoning", object(&[("effort", chat.get("reasoning_effort"))]));
    }
    let format = convert_format(&chat);
    let verbosity = chat.get("verbosity").filter(|it| *it != "null");
    if format.is_some() || verbosity.is_some() {
        out.set("text", object(&[("format", format.as_deref()), ("verbosity", verbosity)]));
    }
    if chat.get("logprobs") == Some("true") {
        out.set("include", r#"["message.output_text.logprobs"]"#);
    }
    out.set("store", "false");
    Some(out.to_json())
}

/// The same request for a stream.
pub fn as_stream(body: &str) -> String {
    let Some(mut object) = RawObject::parse(body) else { return body.to_owned() };
    object.set("stream", "true");
    object.to_json()
}

/// An object of those members that have a value.
fn object(members: &[(&str, Option<&str>)]) -> String {
    let mut out = RawObject::default();
    for (name, value) in members {
        if let Some(value) = value.filter(|value| *value != "null") {
            out.set(name, value);
        }
    }
    out.to_json()
}

/// The messages of a request.
#[derive(Default)]
struct Conversation {
    /// The texts of system messages in front.
    instructions: Vec<String>,
    /// Items, as JSON.
    input: Vec<String>,
    /// Ids of calls of free-form tools, whose results are items of another type.
    custom_calls: HashSet<String>,
}

impl Conversation {
    fn from_messages(messages: &str) -> Option<Self> {
        let mut out = Self::default();
        let messages: Vec<RawObject<'_>> =
            parse_items(messages)?.into_iter().filter_map(RawObject::parse).collect();
        // Instructions alone are no input.
        let has_others = messages.iter().any(|message| !is_system(message));
        for message in &messages {
            if has_others && out.input.is_empty() && is_system(message) {
                out.instructions.extend(content_text(message));
            } else {
                out.push(message);
            }
        }
        Some(out)
    }

    fn push(&mut self, message: &RawObject<'_>) {
        let role = message.get_string("role").unwrap_or_default();
        match role.as_str() {
            "assistant" => self.push_assistant(message),
            "tool" | "function" => self.push_result(message),
            _ => {
                let parts = convert_content(message, "input_text");
                self.push_message(&role, &parts);
            }
        }
    }

    fn push_message(&mut self, role: &str, parts: &[String]) {
        if !parts.is_empty() {
            let (role, content) = (quote_json(role), join_items(parts));
            self.input.push(object(&[("role", Some(&role)), ("content", Some(&content))]));
        }
    }

    fn push_assistant(&mut self, message: &RawObject<'_>) {
        let mut parts = convert_content(message, "output_text");
        if message.has_value("refusal") {
            let refusal = message.get("refusal");
            parts.push(object(&[("type", Some(r#""refusal""#)), ("refusal", refusal)]));
        }
        self.push_message("assistant", &parts);
        let calls = message.get("tool_calls").and_then(parse_items).unwrap_or_default();
        for call in calls.into_iter().filter_map(RawObject::parse) {
            self.push_call(&call);
        }
        if let Some(call) = message.get("function_call").and_then(RawObject::parse) {
            // The deprecated form has no ids.
            let (name, arguments) = (call.get("name"), call.get("arguments"));
            self.push_item(
                "function_call",
                &[("call_id", name), ("name", name), ("arguments", arguments)],
            );
        }
    }

    fn push_call(&mut self, call: &RawObject<'_>) {
        let id = call.get("id");
        if let Some(custom) = call.get("custom").and_then(RawObject::parse) {
            self.custom_calls.extend(id.map(str::to_owned));
            let members =
                [("call_id", id), ("name", custom.get("name")), ("input", custom.get("input"))];
            self.push_item("custom_tool_call", &members);
        } else if let Some(function) = call.get("function").and_then(RawObject::parse) {
            let arguments = function.get("arguments").unwrap_or(r#""{}""#);
            let name = function.get("name");
            let members = [("call_id", id), ("name", name), ("arguments", Some(arguments))];
            self.push_item("function_call", &members);
        }
    }

    fn push_result(&mut self, message: &RawObject<'_>) {
        let id = message.get("tool_call_id").or(message.get("name"));
        let is_custom = id.is_some_and(|id| self.custom_calls.contains(id));
        let kind = if is_custom { "custom_tool_call_output" } else { "function_call_output" };
        let parts = convert_content(message, "input_text");
        let has_media = parts.iter().any(|part| !part.starts_with(r#"{"type":"input_text""#));
        let output = if has_media {
            join_items(&parts)
        } else {
            quote_json(&content_text(message).unwrap_or_default())
        };
        self.push_item(kind, &[("call_id", id), ("output", Some(&output))]);
    }

    fn push_item(&mut self, kind: &str, members: &[(&str, Option<&str>)]) {
        let kind = quote_json(kind);
        let kind = ("type", Some(kind.as_str()));
        let members: Vec<_> = std::iter::once(kind).chain(members.iter().copied()).collect();
        self.input.push(object(&members));
    }
}

fn is_system(message: &RawObject<'_>) -> bool {
    matches!(message.get("role"), Some(r#""system""# | r#""developer""#))
}

/// The text of a message; `None` if it has none.
fn content_text(message: &RawObject<'_>) -> Option<String> {
    let content = message.get("content")?;
    let Some(parts) = parse_items(content) else {
        return serde_json::from_str(content).ok().filter(|text: &String| !text.is_empty());
    };
    let texts = parts.into_iter().filter_map(|part| RawObject::parse(part)?.get_string("text"));
    Some(texts.collect::<String>()).filter(|text| !text.is_empty())
}

/// The parts of a message's content; `text_type` is the type of a text.
fn convert_content(message: &RawObject<'_>, text_type: &str) -> Vec<String> {
    let Some(content) = message.get("content") else { return Vec::new() };
    match parse_items(content) {
        Some(parts) => parts.into_iter().filter_map(|part| convert_part(part, text_type)).collect(),
        None if content.starts_with('"') && content != r#""""# => {
            vec![convert_text(text_type, Some(content))]
        }
        None => Vec::new(),
    }
}

fn convert_text(text_type: &str, text: Option<&str>) -> String {
    object(&[("type", Some(&quote_json(text_type))), ("text", text)])
}

fn convert_part(part: &str, text_type: &str) -> Option<String> {
    let object_of = |kind: &str, members: &[(&str, Option<&str>)]| {
        let kind = quote_json(kind);
        object(&[&[("type", Some(kind.as_str()))], members].concat())
    };
    let read = RawObject::parse(part)?;
    Some(match read.get_string("type").as_deref() {
        Some("text") | None => convert_text(text_type, read.get("text")),
        Some("refusal") => object_of("refusal", &[("refusal", read.get("refusal"))]),
        Some("image_url") => {
            let image = read.get("image_url")?;
            match RawObject::parse(image) {
                Some(image) => {
                    let members =
                        [("image_url", image.get("url")), ("detail", image.get("detail"))];
                    object_of("input_image", &members)
                }
                None => object_of("input_image", &[("image_url", Some(image))]),
            }
        }
        Some("input_audio") => {
            object_of("input_audio", &[("input_audio", read.get("input_audio"))])
        }
        Some("file") => {
            let file = RawObject::parse(read.get("file")?)?;
            let members = ["file_id", "filename", "file_data"].map(|name| (name, file.get(name)));
            object_of("input_file", &members)
        }
        Some(_) => part.to_owned(),
    })
}

fn convert_tools(chat: &RawObject<'_>) -> Vec<String> {
    if let Some(functions) = chat.get("functions").and_then(parse_items) {
        return functions.into_iter().filter_map(convert_function).collect();
    }
    let tools = chat.get("tools").and_then(parse_items).unwrap_or_default();
    let convert = |tool: &str| {
        let read = RawObject::parse(tool)?;
        if let Some(function) = read.get("function") {
            convert_function(function)
        } else if let Some(custom) = read.get("custom").and_then(RawObject::parse) {
            let format = custom.get("format").map(flatten_grammar);
            let names = ["name", "description"].map(|name| (name, custom.get(name)));
            let ends = [("type", Some(r#""custom""#)), ("format", format.as_deref())];
            Some(object(&[&ends[..1], &names[..], &ends[1..]].concat()))
        } else {
            Some(tool.to_owned())
        }
    };
    tools.into_iter().filter_map(convert).collect()
}

fn convert_function(function: &str) -> Option<String> {
    let function = RawObject::parse(function)?;
    let or = |name: &str, default| function.get(name).filter(|it| *it != "null").or(Some(default));
    Some(object(&[
        ("type", Some(r#""function""#)),
        ("name", function.get("name")),
        ("description", function.get("description")),
        ("parameters", or("parameters", NO_PARAMETERS)),
        // This route takes functions for strict otherwise.
        ("strict", or("strict", "false")),
    ]))
}

/// The format of a free-form tool.
fn flatten_grammar(format: &str) -> String {
    let read = RawObject::parse(format);
    let grammar = read.as_ref().and_then(|it| RawObject::parse(it.get("grammar")?));
    grammar.map_or_else(
        || format.to_owned(),
        |grammar| {
            let members = ["syntax", "definition"].map(|name| (name, grammar.get(name)));
            object(&[&[("type", Some(r#""grammar""#))], &members[..]].concat())
        },
    )
}

fn convert_choice(chat: &RawObject<'_>) -> Option<String> {
    let text = chat.get("tool_choice").or(chat.get("function_call"))?;
    let Some(choice) = RawObject::parse(text) else { return Some(text.to_owned()) };
    let kind = choice.get("type").unwrap_or(r#""function""#);
    if let Some(allowed) = choice.get("allowed_tools").and_then(RawObject::parse) {
        let tools = allowed.get("tools").and_then(parse_items).unwrap_or_default();
        let tools = tools.into_iter().filter_map(|tool| flatten_name(&RawObject::parse(tool)?));
        let tools = join_items(&tools.collect::<Vec<_>>());
        let mode = allowed.get("mode");
        return Some(object(&[("type", Some(kind)), ("mode", mode), ("tools", Some(&tools))]));
    }
    flatten_name(&choice)
}

/// A tool by its type and name.
fn flatten_name(tool: &RawObject<'_>) -> Option<String> {
    let kind = tool.get("type").unwrap_or(r#""function""#);
    let inner = tool.get("function").or(tool.get("custom")).and_then(RawObject::parse);
    let name = inner.as_ref().unwrap_or(tool).get("name");
    Some(object(&[("type", Some(kind)), ("name", name)]))
}

fn convert_format(chat: &RawObject<'_>) -> Option<String> {
    let text = chat.get("response_format")?;
    let format = RawObject::parse(text)?;
    let Some(schema) = format.get("json_schema").and_then(RawObject::parse) else {
        return Some(text.to_owned());
    };
    let members = ["name", "description", "schema", "strict"].map(|name| (name, schema.get(name)));
    Some(object(&[&[("type", Some(r#""json_schema""#))], &members[..]].concat()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn converted(chat: &Value) -> Value {
        let body = from_chat(&chat.to_string()).expect("a request");
        serde_json::from_str(&body).expect("JSON")
    }

    #[test]
    fn a_whole_conversation_goes_over() {
        let chat = json!({"model": "m", "stream": true, "stream_options": {"include_usage": true},
            "max_tokens": 9, "temperature": 0.5, "seed": 1, "stop": ["x"], "presence_penalty": 1,
            "reasoning_effort": "low", "logprobs": true, "top_logprobs": 2, "store": true,
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "developer", "content": [{"type": "text", "text": "And kind."}]},
                {"role": "user", "content": [{"type": "text", "text": "Look:"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
                    {"type": "image_url", "image_url": "https://x/y.png"},
                    {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
                    {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:x"}}]},
                {"role": "assistant", "content": "Hm.", "reasoning_content": "secret", "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}}]},
                {"role": "tool", "tool_call_id": "c1", "content": "42"},
                {"role": "system", "content": "Late."},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"id": "c2", "type": "custom", "custom": {"name": "g", "input": "free"}}]},
                {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "user", "content": "Go on."}]});
        let expected = json!({"model": "m", "stream": true, "temperature": 0.5, "top_logprobs": 2,
            "instructions": "Be brief.\n\nAnd kind.",
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "Look:"},
                    {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
                    {"type": "input_image", "image_url": "https://x/y.png"},
                    {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
                    {"type": "input_file", "filename": "a.pdf", "file_data": "data:x"}]},
                {"role": "assistant", "content": [{"type": "output_text", "text": "Hm."}]},
                {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{\"x\":1}"},
                {"type": "function_call_output", "call_id": "c1", "output": "42"},
                {"role": "system", "content": [{"type": "input_text", "text": "Late."}]},
                {"type": "custom_tool_call", "call_id": "c2", "name": "g", "input": "free"},
                {"type": "custom_tool_call_output", "call_id": "c2", "output": "ab"},
                {"role": "user", "content": [{"type": "input_text", "text": "Go on."}]}],
            "max_output_tokens": 9, "reasoning": {"effort": "low"},
            "include": ["message.output_text.logprobs"], "store": false});
        assert_eq!(converted(&chat), expected);
    }

    #[test]
    fn tools_and_choices_become_flat_and_schemas_keep_their_text() {
        let body = r#"{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[
            {"type":"function","function":{"name":"f","description":"d","parameters":{"z":1.0,"a":[ 2 ]},"strict":true}},
            {"type":"function","function":{"name":"g"}},
            {"type":"custom","custom":{"name":"h","format":{"type":"grammar","grammar":{"syntax":"lark","definition":"s"}}}},
            {"type":"web_search"}],"tool_choice":{"type":"function","function":{"name":"f"}}}"#;
        let out = from_chat(body).expect("a request");
        for expected in [
            r#"{"type":"function","name":"f","description":"d","parameters":{"z":1.0,"a":[ 2 ]},"strict":true}"#,
            r#"{"type":"function","name":"g","parameters":{"type":"object","properties":{}},"strict":false}"#,
            r#"{"type":"custom","name":"h","format":{"type":"grammar","syntax":"lark","definition":"s"}}"#,
            r#"{"type":"web_search"}"#,
            r#""tool_choice":{"type":"function","name":"f"}"#,
        ] {
            assert!(out.contains(expected), "{expected}\n{out}");
        }
        let choice = |choice: &Value| {
            let tool = json!({"type": "function", "function": {"name": "f"}});
            let chat = json!({"model": "m", "messages": [{"role": "user", "content": "x"}],
                "tools": [tool], "tool_choice": choice});
            converted(&chat)["tool_choice"].clone()
        };
        assert_eq!(choice(&json!("required")), "required");
        let tools = json!([{"type": "function", "function": {"name": "f"}}]);
        let allowed =
            json!({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": tools}});
        let flat = json!({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]});
        assert_eq!(choice(&allowed), flat);
    }

    #[test]
    fn formats_go_into_text() {
        let text = |format: Value, more: Value| {
            let mut chat = json!({"model": "m", "messages": [{"role": "user", "content": "x"}],
                "response_format": format});
            chat["verbosity"] = more;
            converted(&chat)["text"].clone()
        };
        let schema = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": true}});
        let flat = json!({"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": true});
        assert_eq!(text(schema, Value::Null), json!({ "format": flat }));
        let object = json!({"type": "json_object"});
        assert_eq!(
            text(object.clone(), json!("low")),
            json!({"format": object, "verbosity": "low"})
        );
        assert_eq!(text(Value::Null, Value::Null), Value::Null);
    }

    #[test]
    fn the_deprecated_form_and_results_with_images_go_over() {
        let image = json!({"type": "image_url", "image_url": {"url": "data:x"}});
        let chat = json!({"model": "m", "functions": [{"name": "f", "parameters": {}}],
            "function_call": {"name": "f"}, "max_completion_tokens": 5,
            "messages": [
                {"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": "{}"}},
                {"role": "function", "name": "f", "content": "1"},
                {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "see"}, image]},
                {"role": "assistant", "content": null, "refusal": "no"}]});
        let out = converted(&chat);
        assert_eq!(
            out["input"],
            json!([
            {"type": "function_call", "call_id": "f", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "f", "output": "1"},
            {"type": "function_call_output", "call_id": "c", "output": [
                {"type": "input_text", "text": "see"}, {"type": "input_image", "image_url": "data:x"}]},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}])
        );
        assert_eq!(out["tool_choice"], json!({"type": "function", "name": "f"}));
        assert_eq!(out["max_output_tokens"], 5);
    }

    #[test]
    fn instructions_alone_are_the_input() {
        let chat = json!({"model": "m", "messages": [{"role": "system", "content": "Say hi."}]});
        let out = converted(&chat);
        let item =
            json!({"role": "system", "content": [{"type": "input_text", "text": "Say hi."}]});
        assert_eq!((&out["input"], out.get("instructions")), (&json!([item]), None));
        assert_eq!(from_chat("[]"), None);
        assert_eq!(from_chat(r#"{"model":"m"}"#), None);
    }

    #[test]
    fn members_of_any_type_do_no_harm() {
        let whole = json!({"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url",
            "image_url": {"url": "x"}}], "tool_calls": [{"id": "c", "function": {"name": "f"}}]}],
            "tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto",
            "response_format": {"type": "json_schema", "json_schema": {}}, "max_tokens": 1});
        let odd = [
            json!(null),
            json!(-7),
            json!("x"),
            json!([1]),
            json!([[]]),
            json!([{}]),
            json!({"type": 5}),
        ];
        for value in &odd {
            for member in whole.as_object().expect("an object").keys() {
                let mut changed = whole.clone();
                changed[member] = value.clone();
                from_chat(&changed.to_string());
            }
            for member in
                ["role", "content", "tool_calls", "tool_call_id", "function_call", "refusal"]
            {
                for role in ["user", "assistant", "tool", "system"] {
                    let mut changed = whole.clone();
                    changed["messages"][0]["role"] = role.into();
                    changed["messages"][0][member] = value.clone();
                    from_chat(&changed.to_string());
                }
            }
        }
    }
}
