//! The response: from events of `responses`, or its whole object, to chunks of `chat/completions`, or a
//! completion (OpenAI API reference, responses streaming events).
//!
//! What a server sends only at the end of an item, or of the response, is taken from there. Invariant:
//! each text and each call is told once, and the indices of calls have no gap.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::translate::options;

/// Makes an event of `completions` or `chat/completions` out of one of another endpoint; `None` leaves the
/// event as it is.
pub type EventMapper = Box<dyn FnMut(&str) -> Option<String> + Send>;

/// What an event is.
#[derive(Clone, Debug, PartialEq)]
pub enum Mapped {
    /// A chunk, perhaps one without anything new. The last one has the token counts, too.
    Chunk(Value),
    /// An object with `error`.
    Error(Value),
    /// No event of this route.
    Other,
}

/// The state of a stream.
#[derive(Debug, Default)]
pub struct ChunkMapper {
    id: Value,
    model: Value,
    created: Value,
    has_role: bool,
    calls: Vec<Call>,
    /// Places of the output whose text, refusal or reasoning was told.
    told: BTreeSet<u64>,
    /// The event whose deltas are the reasoning; some servers send the reasoning and its summary.
    reasoning: Option<String>,
    is_finished: bool,
}

/// A call so far.
#[derive(Debug)]
struct Call {
    /// Its place in the output.
    place: u64,
    has_arguments: bool,
}

impl ChunkMapper {
    /// True once the last chunk was made.
    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Takes an event's data.
    pub fn map(&mut self, data: &str) -> Mapped {
        let Ok(Value::Object(event)) = serde_json::from_str(data) else { return Mapped::Other };
        let event = Value::Object(event);
        let Some(kind) = event["type"].as_str() else { return Mapped::Other };
        if kind == "error" {
            return Mapped::Error(error_object(&event));
        }
        let Some(kind) = kind.strip_prefix("response.") else { return Mapped::Other };
        if event["response"].is_object() {
            self.read_head(&event["response"]);
        }
        let place = event["output_index"].as_u64().unwrap_or(0);
        let delta = match kind {
            "output_text.delta" => self.text("content", place, &event["delta"]),
            "refusal.delta" => self.text("refusal", place, &event["delta"]),
            "reasoning_text.delta" | "reasoning_summary_text.delta" => {
                self.reasoning(kind, place, &event["delta"])
            }
            "reasoning_summary_part.added" if event["summary_index"].as_u64() > Some(0) => {
                self.reasoning("reasoning_summary_text.delta", place, &"\n\n".into())
            }
            "output_item.added" => self.begin_item(place, &event["item"]),
            "output_item.done" => self.end_item(place, &event["item"]),
            "function_call_arguments.delta" => self.arguments(place, &event["delta"], true),
            "function_call_arguments.done" => self.arguments(place, &event["arguments"], false),
            "completed" | "incomplete" | "done" => return self.finish(&event["response"]),
            "failed" | "cancelled" => return Mapped::Error(error_object(&event["response"])),
            _ => Map::new(),
        };
        Mapped::Chunk(self.chunk(delta, &event["logprobs"]))
    }

    fn read_head(&mut self, response: &Value) {
        let members = [(&mut self.id, "id"), (&mut self.model, "model")];
        for (own, name) in members.into_iter().chain([(&mut self.created, "created_at")]) {
            if own.is_null() {
                *own = response[name].clone();
            }
        }
    }

    fn text(&mut self, member: &str, place: u64, text: &Value) -> Map<String, Value> {
        self.told.insert(place);
        one(member, text.clone())
    }

    fn reasoning(&mut self, kind: &str, place: u64, text: &Value) -> Map<String, Value> {
        if self.reasoning.get_or_insert_with(|| kind.to_owned()) != kind {
            return Map::new();
        }
        self.text("reasoning_content", place, text)
    }

    fn begin_item(&mut self, place: u64, item: &Value) -> Map<String, Value> {
        if item["type"] != "function_call" {
            return Map::new();
        }
        let index = self.calls.len();
        self.calls.push(Call { place, has_arguments: false });
        one_call(index, call_object(item, ""))
    }

    fn arguments(&mut self, place: u64, text: &Value, is_delta: bool) -> Map<String, Value> {
        let Some(index) = self.calls.iter().rposition(|call| call.place == place) else {
            return Map::new();
        };
        let call = &mut self.calls[index];
        if (call.has_arguments && !is_delta) || text.as_str().is_none_or(str::is_empty) {
            return Map::new();
        }
        call.has_arguments = true;
        one_call(index, json!({"function": {"arguments": text}}))
    }

    /// What an item has that no event before told.
    fn end_item(&mut self, place: u64, item: &Value) -> Map<String, Value> {
        match item["type"].as_str() {
            Some("function_call") => {
                if self.calls.iter().all(|call| call.place != place) {
                    let index = self.calls.len();
                    self.calls.push(Call { place, has_arguments: true });
                    return one_call(index, whole_call(item));
                }
                self.arguments(place, &item["arguments"], false)
            }
            Some("custom_tool_call") => {
                let index = self.calls.len();
                self.calls.push(Call { place, has_arguments: true });
                one_call(index, whole_call(item))
            }
            Some("message" | "reasoning") if !self.told.contains(&place) => {
                self.told.insert(place);
                Texts::of(std::slice::from_ref(item)).into_delta()
            }
            _ => Map::new(),
        }
    }

    fn finish(&mut self, response: &Value) -> Mapped {
        if response["status"] == "failed" {
            return Mapped::Error(error_object(response));
        }
        let mut delta = Map::new();
        let output = response["output"].as_array().map_or(&[][..], Vec::as_slice);
        if self.told.is_empty() && self.calls.is_empty() && !output.is_empty() {
            delta = Texts::of(output).into_delta();
            let calls: Vec<Value> = output.iter().filter(is_call).map(whole_call).collect();
            let indexed = calls.iter().enumerate().map(|(index, call)| with_index(index, call));
            if !calls.is_empty() {
                delta.insert("tool_calls".to_owned(), indexed.collect());
            }
            self.calls.extend(calls.iter().map(|_| Call { place: 0, has_arguments: true }));
        }
        self.is_finished = true;
        let mut chunk = self.chunk(delta, &Value::Null);
        chunk["choices"][0]["finish_reason"] =
            finish_reason(response, !self.calls.is_empty()).into();
        if response["usage"].is_object() {
            chunk["usage"] = convert_usage(&response["usage"]);
        }
        Mapped::Chunk(chunk)
    }

    fn chunk(&mut self, mut delta: Map<String, Value>, logprobs: &Value) -> Value {
        let has_news = !delta.is_empty() || self.is_finished;
        let choices = if has_news {
            if !std::mem::replace(&mut self.has_role, true) {
                delta.insert("role".to_owned(), "assistant".into());
            }
            let mut choice = json!({"index": 0, "delta": delta, "finish_reason": null});
            if logprobs.as_array().is_some_and(|tokens| !tokens.is_empty()) {
                choice["logprobs"] = json!({ "content": logprobs });
            }
            json!([choice])
        } else {
            json!([])
        };
        json!({"id": self.id, "object": "chat.completion.chunk", "created": self.created,
            "model": self.model, "choices": choices})
    }
}

/// An event, or a whole response, for the translated routes: a chunk or a completion; `None` for what is
/// none of this route.
pub fn event_mapper() -> EventMapper {
    let mut mapper = ChunkMapper::default();
    Box::new(move |data| match mapper.map(data) {
        Mapped::Chunk(value) | Mapped::Error(value) => Some(value.to_string()),
        Mapped::Other => to_completion(data).map(|value| value.to_string()),
    })
}

/// A whole response as a completion, or as an object with `error`; `None` if it is none.
pub fn to_completion(body: &str) -> Option<Value> {
    let response: Value = serde_json::from_str(body.trim_start_matches('\u{feff}').trim()).ok()?;
    let output = response.get("output")?.as_array()?;
    if matches!(response["status"].as_str(), Some("failed" | "cancelled")) {
        return Some(error_object(&response));
    }
    let calls: Vec<Value> = output.iter().filter(is_call).map(whole_call).collect();
    let texts = Texts::of(output);
    let logprobs = texts.logprobs.clone();
    let mut message = texts.into_delta();
    message.insert("role".to_owned(), "assistant".into());
    message.entry("content").or_insert(Value::Null);
    let reason = finish_reason(&response, !calls.is_empty());
    if !calls.is_empty() {
        message.insert("tool_calls".to_owned(), calls.into());
    }
    let mut choice = json!({"index": 0, "message": message, "finish_reason": reason});
    if !logprobs.is_empty() {
        choice["logprobs"] = json!({ "content": logprobs });
    }
    let mut out = json!({"id": response["id"], "object": "chat.completion",
        "created": response["created_at"], "model": response["model"], "choices": [choice]});
    if response["usage"].is_object() {
        out["usage"] = convert_usage(&response["usage"]);
    }
    Some(out)
}

/// The texts of items.
#[derive(Default)]
struct Texts {
    content: String,
    refusal: String,
    reasoning: String,
    logprobs: Vec<Value>,
}

impl Texts {
    fn of(items: &[Value]) -> Self {
        let mut out = Self::default();
        for item in items {
            let list = |name: &str| item[name].as_array().map_or(&[][..], Vec::as_slice);
            if item["type"] == "reasoning" {
                let summary = join(list("summary"), "\n\n");
                let text = if summary.is_empty() { join(list("content"), "") } else { summary };
                out.reasoning.push_str(&text);
            }
            for part in list("content").iter().filter(|_| item["type"] == "message") {
                out.content.push_str(part["text"].as_str().unwrap_or_default());
                out.refusal.push_str(part["refusal"].as_str().unwrap_or_default());
                out.logprobs.extend(part["logprobs"].as_array().into_iter().flatten().cloned());
            }
        }
        out
    }

    /// The members of a message that have text.
    fn into_delta(self) -> Map<String, Value> {
        let filled = |text: String| Some(text).filter(|text| !text.is_empty()).map(Value::from);
        options::from_members([
            ("content", filled(self.content)),
            ("refusal", filled(self.refusal)),
            ("reasoning_content", filled(self.reasoning)),
        ])
    }
}

fn join(parts: &[Value], separator: &str) -> String {
    let texts: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
    texts.join(separator)
}

fn one(member: &str, value: Value) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert(member.to_owned(), value);
    object
}

fn one_call(index: usize, call: Value) -> Map<String, Value> {
    one("tool_calls", json!([with_index(index, &call)]))
}

fn with_index(index: usize, call: &Value) -> Value {
    let mut call = call.clone();
    call["index"] = index.into();
    call
}

fn is_call(item: &&Value) -> bool {
    matches!(item["type"].as_str(), Some("function_call" | "custom_tool_call"))
}

fn whole_call(item: &Value) -> Value {
    call_object(item, item["arguments"].as_str().unwrap_or_default())
}

/// A call with these arguments. Servers that store nothing may have no `call_id`.
fn call_object(item: &Value, arguments: &str) -> Value {
    let id = item["call_id"].as_str().or(item["id"].as_str());
    if item["type"] == "custom_tool_call" {
        let custom = json!({"name": item["name"], "input": item["input"]});
        return json!({"id": id, "type": "custom", "custom": custom});
    }
    let function = json!({"name": item["name"], "arguments": arguments});
    json!({"id": id, "type": "function", "function": function})
}

fn finish_reason(response: &Value, has_calls: bool) -> &'static str {
    match response["incomplete_details"]["reason"].as_str() {
        Some("content_filter") => "content_filter",
        Some(_) => "length",
        None if response["status"] == "incomplete" => "length",
        None if has_calls => "tool_calls",
        None => "stop",
    }
}

fn convert_usage(usage: &Value) -> Value {
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    let (input, output) = (count(&usage["input_tokens"]), count(&usage["output_tokens"]));
    let total = usage["total_tokens"].as_u64().unwrap_or(input + output);
    let mut out =
        json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": total});
    for (from, to) in [
        ("input_tokens_details", "prompt_tokens_details"),
        ("output_tokens_details", "completion_tokens_details"),
    ] {
        if usage[from].is_object() {
            out[to] = usage[from].clone();
        }
    }
    out
}

/// The error of an event or of a response, as other routes send it.
fn error_object(source: &Value) -> Value {
    let error = if source["error"].is_object() { &source["error"] } else { source };
    let message = error["message"].as_str().filter(|text| !text.is_empty());
    let kind = error["type"].as_str().filter(|kind| *kind != "error").unwrap_or("server_error");
    json!({"error": {"message": message.unwrap_or("the upstream failed to answer"), "type": kind,
        "code": error["code"], "param": error["param"]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The chunks with something new, without what all have.
    fn mapped(events: &[Value]) -> Vec<Value> {
        let mut mapper = ChunkMapper::default();
        let mut out = Vec::new();
        for event in events {
            match mapper.map(&event.to_string()) {
                Mapped::Chunk(chunk) if chunk["choices"] == json!([]) => {}
                Mapped::Chunk(mut chunk) => {
                    let usage = chunk["usage"].take();
                    let choice = chunk["choices"][0].take();
                    out.push(json!([choice["delta"], choice["finish_reason"], usage]));
                }
                Mapped::Error(error) => out.push(error),
                Mapped::Other => out.push(Value::Null),
            }
        }
        out
    }

    fn event(kind: &str, place: u64, more: &Value) -> Value {
        let mut event = json!({"type": format!("response.{kind}"), "output_index": place});
        for (name, value) in more.as_object().expect("an object") {
            event[name] = value.clone();
        }
        event
    }

    fn usage() -> Value {
        json!({"input_tokens": 5, "input_tokens_details": {"cached_tokens": 3}, "output_tokens": 2,
            "output_tokens_details": {"reasoning_tokens": 1}, "total_tokens": 7})
    }

    fn counts() -> Value {
        json!({"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 3},
            "completion_tokens_details": {"reasoning_tokens": 1}})
    }

    #[test]
    fn a_stream_of_all_kinds_of_output_is_mapped() {
        let call = |id: &str, name: &str| json!({"type": "function_call", "id": "fc", "call_id": id, "name": name, "arguments": ""});
        let found = mapped(&[
            event("created", 0, &json!({"response": {"id": "r", "model": "m", "created_at": 9}})),
            event("output_item.added", 0, &json!({"item": {"type": "reasoning"}})),
            event("reasoning_summary_text.delta", 0, &json!({"delta": "hm"})),
            event("reasoning_text.delta", 0, &json!({"delta": "the same at length"})),
            event("reasoning_summary_part.added", 0, &json!({"summary_index": 1})),
            event(
                "output_item.done",
                0,
                &json!({"item": {"type": "reasoning", "summary": [{"text": "hm"}]}}),
            ),
            event("output_text.delta", 1, &json!({"delta": "a"})),
            event("output_text.done", 1, &json!({"text": "a"})),
            event("output_item.added", 3, &json!({"item": call("c1", "f")})),
            event("function_call_arguments.delta", 3, &json!({"delta": "{\"x\""})),
            event("function_call_arguments.delta", 3, &json!({"delta": ":1}"})),
            event("function_call_arguments.done", 3, &json!({"arguments": "{\"x\":1}"})),
            event("output_item.added", 5, &json!({"item": call("c2", "g")})),
            event("function_call_arguments.done", 5, &json!({"arguments": "{}"})),
            event(
                "completed",
                0,
                &json!({"response": {"status": "completed", "usage": usage(),
                "output": [{"type": "message", "content": [{"text": "a"}]}]}}),
            ),
        ]);
        let function = |index: u64, id: &str, name: &str| {
            json!([{"tool_calls": [{"index": index, "id": id, "type": "function",
                "function": {"name": name, "arguments": ""}}]}, null, null])
        };
        let arguments = |index: u64, text: &str| json!([{"tool_calls": [{"index": index, "function": {"arguments": text}}]}, null, null]);
        assert_eq!(
            found,
            [
                json!([{"role": "assistant", "reasoning_content": "hm"}, null, null]),
                json!([{"reasoning_content": "\n\n"}, null, null]),
                json!([{"content": "a"}, null, null]),
                function(0, "c1", "f"),
                arguments(0, "{\"x\""),
                arguments(0, ":1}"),
                function(1, "c2", "g"),
                arguments(1, "{}"),
                json!([{}, "tool_calls", counts()]),
            ]
        );
    }

    #[test]
    fn what_comes_only_at_the_end_is_not_lost() {
        let message = json!({"type": "message", "content": [{"type": "output_text", "text": "a"}]});
        let call = json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"});
        let done = event(
            "completed",
            0,
            &json!({"response": {"status": "completed", "output": [message, call]}}),
        );
        let whole = json!([{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
        assert_eq!(
            mapped(&[done]),
            [
                json!([{"role": "assistant", "content": "a", "tool_calls": whole}, "tool_calls", null])
            ]
        );
        let found = mapped(&[
            event("output_item.done", 0, &json!({"item": message})),
            event("output_item.done", 1, &json!({"item": call})),
            event(
                "incomplete",
                0,
                &json!({"response": {"status": "incomplete",
                "incomplete_details": {"reason": "max_output_tokens"}, "output": [message]}}),
            ),
        ]);
        assert_eq!(
            found,
            [
                json!([{"role": "assistant", "content": "a"}, null, null]),
                json!([{"tool_calls": whole}, null, null]),
                json!([{}, "length", null]),
            ]
        );
    }

    #[test]
    fn failures_and_what_is_no_event_are_told_apart() {
        let error = |message: &str, code: &str| json!({"error": {"message": message, "type": "server_error", "code": code, "param": null}});
        let found = mapped(&[
            event(
                "failed",
                0,
                &json!({"response": {"status": "failed", "error": {"code": "server_error", "message": "x"}}}),
            ),
            json!({"type": "error", "code": "rate_limit_exceeded", "message": "slow", "param": null}),
            json!({"error": {"message": "y"}}),
            json!([1]),
        ]);
        assert_eq!(
            found,
            [
                error("x", "server_error"),
                error("slow", "rate_limit_exceeded"),
                Value::Null,
                Value::Null
            ]
        );
        assert_eq!(ChunkMapper::default().map("[DONE]"), Mapped::Other);
    }

    #[test]
    fn log_probabilities_and_refusals_go_over() {
        let logprobs = json!([{"token": "a", "logprob": -0.5, "top_logprobs": []}]);
        let mut mapper = ChunkMapper::default();
        let text = event("output_text.delta", 0, &json!({"delta": "a", "logprobs": logprobs}));
        let Mapped::Chunk(chunk) = mapper.map(&text.to_string()) else { panic!("a chunk") };
        assert_eq!(chunk["choices"][0]["logprobs"]["content"], logprobs);
        let found = mapped(&[event("refusal.delta", 0, &json!({"delta": "no"}))]);
        assert_eq!(found, [json!([{"role": "assistant", "refusal": "no"}, null, null])]);
    }

    #[test]
    fn a_whole_response_is_a_completion() {
        let body = json!({"id": "r", "object": "response", "created_at": 9, "model": "m", "status": "completed",
            "output": [
                {"type": "reasoning", "summary": [{"text": "h"}, {"text": "m"}]},
                {"type": "message", "content": [{"type": "output_text", "text": "a", "logprobs": []},
                    {"type": "refusal", "refusal": "no"}]},
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "custom_tool_call", "call_id": "d", "name": "g", "input": "free"}],
            "usage": usage()});
        let expected = json!({"id": "r", "object": "chat.completion", "created": 9, "model": "m",
            "choices": [{"index": 0, "finish_reason": "tool_calls", "message": {"role": "assistant",
                "content": "a", "refusal": "no", "reasoning_content": "h\n\nm", "tool_calls": [
                    {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                    {"id": "d", "type": "custom", "custom": {"name": "g", "input": "free"}}]}}],
            "usage": counts()});
        assert_eq!(to_completion(&body.to_string()), Some(expected));
        let failed =
            json!({"status": "failed", "output": [], "error": {"message": "x", "code": "c"}});
        assert_eq!(to_completion(&failed.to_string()).expect("an error")["error"]["message"], "x");
        assert_eq!(to_completion(r#"{"choices":[]}"#), None);
    }

    #[test]
    fn members_of_any_type_do_no_harm() {
        let item = json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"});
        let kinds = [
            "created",
            "output_text.delta",
            "refusal.delta",
            "reasoning_text.delta",
            "output_item.added",
            "output_item.done",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "reasoning_summary_part.added",
            "completed",
            "incomplete",
            "failed",
        ];
        let odd = [
            json!(null),
            json!(-7),
            json!("x"),
            json!([1]),
            json!({"type": 5}),
            json!({"output": [3]}),
        ];
        for kind in kinds {
            let whole = json!({"item": item, "delta": "a", "arguments": "b", "summary_index": 1,
                "logprobs": [], "response": {"output": [item], "usage": usage(), "status": "completed"}});
            let whole = event(kind, 1, &whole);
            for member in whole.as_object().expect("an object").keys() {
                for value in &odd {
                    let mut changed = whole.clone();
                    changed[member] = value.clone();
                    let mut mapper = ChunkMapper::default();
                    for event in [&changed, &whole, &changed] {
                        mapper.map(&event.to_string());
                    }
                    to_completion(&changed.to_string());
                    to_completion(&json!({"output": [value, item], "status": value}).to_string());
                }
            }
        }
    }
}
