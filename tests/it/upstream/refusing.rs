//! An upstream that refuses for one reason, and the routes that lead to it.
//!
//! A conversation is written once, in OpenAI's form; each route gets it in its own.

use crate::support::*;

/// The routes of a chat.
pub(super) const CHATS: [&str; 4] =
    ["/api/chat", "/v1/chat/completions", "/v1/messages", "/v1/responses"];

/// Those whose responses are translated.
pub(super) const TRANSLATED: [&str; 3] = ["/api/chat", "/v1/messages", "/v1/responses"];

/// What an upstream has against a request: status and text of the refusal.
pub(super) type Complaint = Option<(u16, String)>;

/// An upstream that refuses what `complain` says, and a proxy before it. What it accepts takes the next
/// script, or the answer "ok". It has no `/responses`.
pub(super) fn refusing(
    complain: impl Fn(&Value) -> Complaint + Send + 'static,
) -> (Upstream, Proxy) {
    let (upstream, proxy) = pair();
    upstream.judge(move |request| {
        if request.path.ends_with("/responses") {
            return Some(vec![status(404, &[], r#"{"detail":"Not Found"}"#)]);
        }
        let body = request.json();
        if let Some((code, text)) = complain(&body) {
            let error = json!({"error": {"message": text, "type": "BadRequestError", "param": null,
                "code": code}});
            return Some(vec![status(code, &[], &error.to_string())]);
        }
        Some(accepted(&body))
    });
    (upstream, proxy)
}

/// The answer "ok" in the form that a request asks for.
pub(super) fn accepted(body: &Value) -> Vec<Step> {
    if body["stream"] == true { stream(&["ok"]) } else { vec![answer("ok")] }
}

/// Asks, and returns the response and the bodies that the upstream got, without those at `/responses`.
pub(super) fn ask(
    (upstream, proxy): &(Upstream, Proxy),
    route: &str,
    body: &Value,
) -> (Answer, Vec<Value>) {
    let told = proxy.post(route, body);
    let mut sent = Vec::new();
    while !upstream.is_idle() {
        let request = upstream.request();
        if !request.path.ends_with("/responses") {
            sent.push(request.json());
        }
    }
    (told, sent)
}

/// A conversation for a route; `more` are members of the route's own.
pub(super) fn on(route: &str, messages: &Value, tools: &Value, more: &Value) -> Value {
    let list = messages.as_array().expect("a list");
    let mut body = json!({"model": "m", "stream": false});
    match route {
        "/v1/messages" => {
            let system = list.iter().find(|message| message["role"] == "system");
            system.iter().for_each(|system| body["system"] = system["content"].clone());
            let others = list.iter().filter(|message| message["role"] != "system");
            body["messages"] = others.map(anthropic_message).collect();
            body["max_tokens"] = 64.into();
        }
        "/v1/responses" => body["input"] = list.iter().flat_map(response_items).collect(),
        "/api/chat" => body["messages"] = list.iter().map(ollama_message).collect(),
        _ => body["messages"] = messages.clone(),
    }
    if tools.as_array().is_some_and(|tools| !tools.is_empty()) {
        body["tools"] =
            tools.as_array().expect("a list").iter().map(|it| tool(route, it)).collect();
    }
    with(body, more)
}

fn tool(route: &str, tool: &Value) -> Value {
    let function = &tool["function"];
    match route {
        "/v1/messages" => json!({"name": function["name"], "input_schema": function["parameters"]}),
        "/v1/responses" => json!({"type": "function", "name": function["name"],
            "parameters": function["parameters"]}),
        _ => tool.clone(),
    }
}

fn arguments(call: &Value) -> Value {
    let text = call["function"]["arguments"].as_str().expect("a text");
    serde_json::from_str(text).expect("JSON")
}

fn calls(message: &Value) -> impl Iterator<Item = &Value> {
    message["tool_calls"].as_array().into_iter().flatten()
}

fn ollama_message(message: &Value) -> Value {
    let mut message = message.clone();
    if let Some(calls) = message["tool_calls"].as_array_mut() {
        for call in calls {
            call["function"]["arguments"] = arguments(call);
        }
    } else {
        message.as_object_mut().expect("an object").remove("tool_calls");
    }
    if let Some(thinking) = message.as_object_mut().and_then(|it| it.remove("reasoning_content")) {
        message["thinking"] = thinking;
    }
    message
}

fn anthropic_message(message: &Value) -> Value {
    if message["role"] == "tool" {
        return json!({"role": "user", "content": [{"type": "tool_result",
            "tool_use_id": message["tool_call_id"], "content": message["content"]}]});
    }
    let thinking = message["reasoning_content"]
        .as_str()
        .map(|text| json!({"type": "thinking", "thinking": text, "signature": ""}));
    let text = message["content"].as_str().filter(|text| !text.is_empty());
    let text = text.map(|text| json!({"type": "text", "text": text}));
    let calls = calls(message).map(|call| {
        json!({"type": "tool_use", "id": call["id"], "name": call["function"]["name"],
            "input": arguments(call)})
    });
    let blocks: Vec<Value> = thinking.into_iter().chain(text).chain(calls).collect();
    json!({"role": message["role"], "content": blocks})
}

fn response_items(message: &Value) -> Vec<Value> {
    if message["role"] == "tool" {
        return vec![json!({"type": "function_call_output", "call_id": message["tool_call_id"],
            "output": message["content"]})];
    }
    let mut items = Vec::new();
    if let Some(text) = message["reasoning_content"].as_str() {
        items.push(json!({"type": "reasoning", "encrypted_content": text}));
    }
    if message["content"].as_str().is_some_and(|text| !text.is_empty()) {
        items.push(
            json!({"type": "message", "role": message["role"], "content": message["content"]}),
        );
    }
    items.extend(calls(message).map(|call| {
        json!({"type": "function_call", "call_id": call["id"], "name": call["function"]["name"],
            "arguments": call["function"]["arguments"]})
    }));
    items
}

/// A call of the assistant.
pub(super) fn calling(id: &str, name: &str) -> Value {
    json!({"role": "assistant", "content": "", "tool_calls": [{"id": id, "type": "function",
        "function": {"name": name, "arguments": "{\"x\":1}"}}]})
}

/// Its result.
pub(super) fn result(id: &str) -> Value {
    json!({"role": "tool", "tool_call_id": id, "content": "22 degrees"})
}

pub(super) fn said(role: &str, text: &str) -> Value {
    json!({"role": role, "content": text})
}

/// The roles of a request's messages.
pub(super) fn roles(body: &Value) -> Vec<String> {
    let messages = body["messages"].as_array().into_iter().flatten();
    messages.map(|message| message["role"].as_str().unwrap_or_default().to_owned()).collect()
}

/// All words of a request's messages, in their order.
pub(super) fn words(body: &Value) -> String {
    fn text(value: &Value) -> String {
        match value {
            Value::String(text) => text.clone(),
            Value::Array(parts) => {
                parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join(" ")
            }
            _ => String::new(),
        }
    }
    let messages = body["messages"].as_array().into_iter().flatten();
    messages.map(|message| text(&message["content"])).collect::<Vec<_>>().join(" | ")
}
