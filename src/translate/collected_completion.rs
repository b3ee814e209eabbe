//! Collects the chunks of a stream into one completion, for clients that asked for a whole response of a
//! model that only streams.
//!
//! Members that this program does not know are kept, too. Never reads an event that is not JSON.
//! Invariant: each text is the concatenation of its pieces, in the order in which they came.

use std::collections::BTreeMap;

use serde_json::map::Entry;
use serde_json::{Map, Value, json};

/// Members of a chunk that the first chunk with a value decides; of others the last value counts.
const HEAD_MEMBERS: &[&str] = &["id", "created", "model", "system_fingerprint"];

/// Members of a message, or of a call, that come once.
const SINGLE_MEMBERS: &[&str] = &["role", "id", "type", "name", "format"];

/// A completion so far.
#[derive(Debug, Default)]
pub struct CompletionCollector {
    members: Map<String, Value>,
    choices: BTreeMap<u64, Choice>,
    /// True for `completions`, whose choices have a text and no message.
    is_text: bool,
}

#[derive(Debug, Default)]
struct Choice {
    message: Map<String, Value>,
    calls: Vec<Call>,
    /// All other members.
    members: Map<String, Value>,
}

/// A call so far.
#[derive(Debug)]
struct Call {
    index: Option<u64>,
    members: Map<String, Value>,
}

impl CompletionCollector {
    /// Takes a chunk.
    pub fn push(&mut self, chunk: Value) {
        let Value::Object(mut chunk) = chunk else { return };
        for choice in take_list(&mut chunk, "choices") {
            self.push_choice(choice);
        }
        for (name, value) in chunk.into_iter().filter(|(_, value)| !is_blank(value)) {
            let is_first = !self.members.contains_key(&name);
            if is_first || !HEAD_MEMBERS.contains(&name.as_str()) {
                self.members.insert(name, value);
            }
        }
    }

    /// True if each choice has told why it ended.
    pub fn is_complete(&self) -> bool {
        let has_reason = |choice: &Choice| choice.members.contains_key("finish_reason");
        !self.choices.is_empty() && self.choices.values().all(has_reason)
    }

    /// True if no choice has come.
    pub fn is_empty(&self) -> bool {
        self.choices.is_empty()
    }

    /// The completion.
    pub fn finish(mut self) -> Value {
        let is_text = self.is_text;
        let choices = self.choices.into_iter();
        let choices: Vec<Value> =
            choices.map(|(index, choice)| choice.finish(index, is_text)).collect();
        let object = if is_text { "text_completion" } else { "chat.completion" };
        self.members.insert("object".to_owned(), object.into());
        self.members.insert("choices".to_owned(), choices.into());
        Value::Object(self.members)
    }

    fn push_choice(&mut self, choice: Value) {
        let Value::Object(mut choice) = choice else { return };
        let index = choice.remove("index").and_then(|index| index.as_u64()).unwrap_or(0);
        let own = self.choices.entry(index).or_default();
        let delta = [choice.remove("delta"), choice.remove("message")].into_iter().flatten();
        if let Some(mut delta) = delta.filter_map(into_object).next() {
            for call in take_list(&mut delta, "tool_calls") {
                own.push_call(call);
            }
            merge(&mut own.message, delta);
        } else {
            self.is_text |= choice.contains_key("text");
        }
        merge(&mut own.members, choice);
    }
}

impl Choice {
    fn push_call(&mut self, call: Value) {
        let Some(mut call) = into_object(call) else { return };
        let index = call.remove("index").and_then(|index| index.as_u64());
        let id = call.get("id").filter(|id| !is_blank(id));
        // Some servers number no call, or all of them alike.
        let is_same = |known: &Call| {
            let known_id = known.members.get("id");
            index == known.index && (id.is_none() || known_id.is_none() || id == known_id)
        };
        let place = self.calls.iter().rposition(is_same).unwrap_or_else(|| {
            self.calls.push(Call { index, members: Map::new() });
            self.calls.len() - 1
        });
        merge(&mut self.calls[place].members, call);
    }

    fn finish(mut self, index: u64, is_text: bool) -> Value {
        self.members.insert("index".to_owned(), index.into());
        self.members.entry("finish_reason").or_insert(Value::Null);
        if is_text {
            self.members.entry("text").or_insert_with(|| "".into());
            return Value::Object(self.members);
        }
        self.message.entry("role").or_insert_with(|| "assistant".into());
        self.message.entry("content").or_insert(Value::Null);
        if !self.calls.is_empty() {
            let calls = self.calls.into_iter().map(|call| Value::Object(call.members));
            self.message.insert("tool_calls".to_owned(), calls.collect());
        }
        self.members.insert("message".to_owned(), json!(self.message));
        Value::Object(self.members)
    }
}

/// Adds a piece: texts and lists grow, objects grow member by member, and of other values the last counts.
fn merge(whole: &mut Map<String, Value>, piece: Map<String, Value>) {
    for (name, value) in piece.into_iter().filter(|(_, value)| !value.is_null()) {
        let is_single = SINGLE_MEMBERS.contains(&name.as_str()) || name == "finish_reason";
        match whole.entry(name) {
            Entry::Vacant(entry) if is_single && is_blank(&value) => drop(entry),
            Entry::Vacant(entry) => drop(entry.insert(value)),
            Entry::Occupied(mut entry) => match (entry.get_mut(), value) {
                (own, value) if is_single && !is_blank(&value) => *own = value,
                (_, _) if is_single => {}
                (Value::String(own), Value::String(more)) => own.push_str(&more),
                (Value::Array(own), Value::Array(more)) => own.extend(more),
                (Value::Object(own), Value::Object(more)) => merge(own, more),
                (own, value) => *own = value,
            },
        }
    }
}

fn into_object(value: Value) -> Option<Map<String, Value>> {
    if let Value::Object(object) = value { Some(object) } else { None }
}

fn take_list(object: &mut Map<String, Value>, member: &str) -> Vec<Value> {
    match object.remove(member) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

fn is_blank(value: &Value) -> bool {
    value.is_null() || value == ""
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collected(chunks: &[Value]) -> CompletionCollector {
        let mut collector = CompletionCollector::default();
        chunks.iter().for_each(|chunk| collector.push(chunk.clone()));
        collector
    }

    fn chunk(choices: &Value) -> Value {
        json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "system_fingerprint": "fp", "choices": choices})
    }

    fn delta(delta: &Value) -> Value {
        chunk(&json!([{"index": 0, "delta": delta, "finish_reason": null, "logprobs": null}]))
    }

    #[test]
    fn all_kinds_of_pieces_are_joined() {
        let logprobs = |token: &str| json!([{"index": 0, "delta": {"content": token}, "logprobs": {"content": [{"token": token, "logprob": -0.1}]}}]);
        let call = |call: &Value| delta(&json!({ "tool_calls": [call] }));
        let collector = collected(&[
            json!({"id": "", "model": "", "choices": [], "prompt_filter_results": []}),
            delta(&json!({"role": "assistant", "content": ""})),
            delta(&json!({"reasoning_content": "h"})),
            delta(&json!({"reasoning_content": "m", "reasoning_details": [{"text": "hm"}]})),
            chunk(&logprobs("a")),
            chunk(&logprobs("b")),
            call(
                &json!({"index": 0, "id": "x", "type": "function", "function": {"name": "f", "arguments": ""}}),
            ),
            call(&json!({"index": 0, "function": {"arguments": "{\"a\""}})),
            call(&json!({"index": 0, "id": "", "function": {"name": "", "arguments": ":1}"}})),
            call(
                &json!({"index": 1, "id": "y", "type": "function", "function": {"name": "g", "arguments": "{}"}}),
            ),
            chunk(&json!([{"index": 0, "delta": {}, "finish_reason": "tool_calls"}])),
            json!({"id": "later", "choices": [], "usage": {"prompt_tokens": 5}}),
        ]);
        assert!(collector.is_complete());
        let calls = json!([
            {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}},
            {"id": "y", "type": "function", "function": {"name": "g", "arguments": "{}"}}]);
        let message = json!({"role": "assistant", "content": "ab", "reasoning_content": "hm",
            "reasoning_details": [{"text": "hm"}], "tool_calls": calls});
        let tokens = json!([{"token": "a", "logprob": -0.1}, {"token": "b", "logprob": -0.1}]);
        let choice = json!({"index": 0, "message": message, "finish_reason": "tool_calls",
            "logprobs": {"content": tokens}});
        let expected = json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m",
            "system_fingerprint": "fp", "choices": [choice], "usage": {"prompt_tokens": 5},
            "prompt_filter_results": []});
        assert_eq!(collector.finish(), expected);
    }

    #[test]
    fn choices_are_told_apart_by_their_index() {
        let at = |index: u64, text: &str, reason: &Value| json!([{"index": index, "delta": {"content": text}, "finish_reason": reason}]);
        let mut chunks = vec![chunk(&at(1, "b", &Value::Null)), chunk(&at(0, "a", &"stop".into()))];
        assert!(!collected(&chunks).is_complete());
        chunks.push(chunk(&at(1, "c", &"length".into())));
        let collector = collected(&chunks);
        assert!(collector.is_complete());
        let choices = collector.finish()["choices"].take();
        let of = |index: usize| {
            (&choices[index]["message"]["content"], &choices[index]["finish_reason"])
        };
        assert_eq!(of(0), (&json!("a"), &json!("stop")));
        assert_eq!(of(1), (&json!("bc"), &json!("length")));
    }

    #[test]
    fn texts_of_completions_and_their_log_probabilities_grow() {
        let text = |text: &str, reason: &Value| {
            json!({"id": "c", "object": "text_completion", "model": "m", "choices": [{"index": 0,
                "text": text, "finish_reason": reason,
                "logprobs": {"tokens": [text], "token_logprobs": [-1.5]}}]})
        };
        let found = collected(&[text("a", &Value::Null), text("b", &"stop".into())]).finish();
        let logprobs = json!({"tokens": ["a", "b"], "token_logprobs": [-1.5, -1.5]});
        let choice =
            json!({"index": 0, "text": "ab", "finish_reason": "stop", "logprobs": logprobs});
        assert_eq!(
            found,
            json!({"id": "c", "object": "text_completion", "model": "m", "choices": [choice]})
        );
    }

    #[test]
    fn odd_calls_stay_apart_and_refusals_and_gaps_are_kept() {
        let same =
            |id: &str| json!({"index": 0, "id": id, "function": {"name": "f", "arguments": "{}"}});
        let found = collected(&[
            delta(&json!({"tool_calls": [same("x"), same("y")], "refusal": "n"})),
            delta(&json!({"refusal": "o"})),
        ]);
        assert!(!found.is_complete() && !found.is_empty());
        let message = found.finish()["choices"][0]["message"].take();
        assert_eq!((&message["refusal"], &message["content"]), (&json!("no"), &Value::Null));
        let ids: Vec<_> = message["tool_calls"]
            .as_array()
            .expect("calls")
            .iter()
            .map(|it| it["id"].clone())
            .collect();
        assert_eq!(ids, ["x", "y"]);
        assert!(collected(&[json!(null), json!({"usage": {}})]).is_empty());
    }
}
