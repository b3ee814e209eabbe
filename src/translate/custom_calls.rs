//! Gives the calls of tools that take free text their form back, in responses that are passed on.
//!
//! A client of `chat/completions` may declare a tool of the type `custom` (OpenAI API reference, chat
//! completions), which few other upstreams know: they get a function with the one text `input`. A call of
//! it is held until it is whole, because its text is JSON within JSON. Pure.
//! Invariant: all other parts of a response stay as they are, and no call is lost, unless the token limit
//! cut it off.

use serde_json::{Value, json};

use super::responses::read_input;

/// The calls of one response.
#[derive(Debug, Default)]
pub struct CustomCalls {
    /// The names of the tools.
    names: Vec<String>,
    held: Vec<HeldCall>,
}

/// A call of which more may come.
#[derive(Debug)]
struct HeldCall {
    choice: Value,
    /// The first piece, with all arguments so far.
    piece: Value,
}

impl CustomCalls {
    /// For a response to a request in which these tools were sent as functions; `None` without any.
    pub fn new(names: &[String]) -> Option<Self> {
        (!names.is_empty()).then(|| Self { names: names.to_vec(), held: Vec::new() })
    }

    /// Changes a whole response.
    pub fn map_whole(&self, response: &mut Value) {
        for choice in choices_mut(response) {
            let is_cut = choice["finish_reason"] == "length";
            let Some(calls) = calls_mut(choice, "message") else { continue };
            let is_custom = |call: &Value| self.names_call(call);
            calls.retain(|call| !(is_cut && is_custom(call) && !is_complete(call)));
            calls.iter_mut().filter(|call| is_custom(call)).for_each(to_custom);
        }
    }

    /// Changes a chunk, whose pieces of such calls are held; returns whether anything changed.
    pub fn map_chunk(&mut self, chunk: &mut Value) -> bool {
        let mut changed = false;
        for choice in choices_mut(chunk) {
            let place = choice["index"].clone();
            changed |= self.hold(&place, choice);
            let reason = &choice["finish_reason"];
            if reason.is_null() || self.held.is_empty() {
                continue;
            }
            let is_cut = reason == "length";
            let calls = self.release(&place, is_cut);
            changed |= !calls.is_empty();
            add_calls(choice, calls);
        }
        changed
    }

    /// A chunk with the calls that are still held, in the form of `like`; for the end of a stream without a
    /// reason.
    pub fn finish(&mut self, like: &Value) -> Option<Value> {
        let place = self.held.first()?.choice.clone();
        let calls = self.release(&place, false);
        let mut chunk = like.as_object().cloned().unwrap_or_default();
        let choices = json!([{"index": place, "delta": {"tool_calls": calls},
            "finish_reason": null}]);
        chunk.insert("choices".to_owned(), choices);
        Some(chunk.into())
    }

    fn names_call(&self, call: &Value) -> bool {
        let name = call["function"]["name"].as_str().unwrap_or_default();
        self.names.iter().any(|known| known == name)
    }

    /// Takes the pieces of such calls out of a choice.
    fn hold(&mut self, place: &Value, choice: &mut Value) -> bool {
        let Some(pieces) = calls_mut(choice, "delta") else { return false };
        let before = pieces.len();
        let mut others = Vec::new();
        for piece in pieces.drain(..) {
            let is_same = |held: &&mut HeldCall| {
                held.choice == *place && held.piece["index"] == piece["index"]
            };
            let is_begun = self.names_call(&piece);
            match self.held.iter_mut().rev().find(is_same) {
                Some(held) if !is_begun || !is_other_call(&held.piece, &piece) => {
                    append_arguments(&mut held.piece, &piece);
                }
                _ if is_begun => self.held.push(HeldCall { choice: place.clone(), piece }),
                _ => others.push(piece),
            }
        }
        let changed = others.len() < before;
        let is_empty = changed && others.is_empty();
        *pieces = others;
        if is_empty {
            choice["delta"].as_object_mut().map(|delta| delta.remove("tool_calls"));
        }
        changed
    }

    /// The calls of a choice, whole.
    fn release(&mut self, place: &Value, is_cut: bool) -> Vec<Value> {
        let (own, others) =
            std::mem::take(&mut self.held).into_iter().partition(|held| held.choice == *place);
        self.held = others;
        let own: Vec<HeldCall> = own;
        let whole = own.into_iter().map(|held| held.piece);
        let whole = whole.filter(|call| !is_cut || is_complete(call));
        whole
            .map(|mut call| {
                to_custom(&mut call);
                call
            })
            .collect()
    }
}

/// True for a chunk of which nothing is left to be sent.
pub fn is_spent(chunk: &Value) -> bool {
    let adds = |choice: &Value| {
        let delta = choice["delta"].as_object();
        !choice["finish_reason"].is_null() || delta.is_none_or(|delta| !delta.is_empty())
    };
    let choices = chunk["choices"].as_array();
    chunk["usage"].is_null() && choices.is_some_and(|it| !it.is_empty() && !it.iter().any(adds))
}

fn add_calls(choice: &mut Value, mut calls: Vec<Value>) {
    if calls.is_empty() {
        return;
    }
    if let Some(others) = calls_mut(choice, "delta") {
        calls.append(others);
    }
    if let Some(choice) = choice.as_object_mut() {
        let delta = choice.entry("delta").or_insert(Value::Null);
        match delta.as_object_mut() {
            Some(delta) => drop(delta.insert("tool_calls".to_owned(), calls.into())),
            None => *delta = json!({ "tool_calls": calls }),
        }
    }
}

/// The choices of a response or of a chunk. Any member may have any type: the upstream wrote it.
fn choices_mut(response: &mut Value) -> impl Iterator<Item = &mut Value> {
    response.get_mut("choices").and_then(Value::as_array_mut).into_iter().flatten()
}

/// The calls of a choice, in its `message` or its `delta`.
fn calls_mut<'v>(choice: &'v mut Value, member: &str) -> Option<&'v mut Vec<Value>> {
    choice.get_mut(member)?.get_mut("tool_calls")?.as_array_mut()
}

fn is_other_call(held: &Value, piece: &Value) -> bool {
    let id = piece["id"].as_str().unwrap_or_default();
    !id.is_empty() && held["id"] != id
}

fn arguments(call: &Value) -> &str {
    call["function"]["arguments"].as_str().unwrap_or_default()
}

fn append_arguments(held: &mut Value, piece: &Value) {
    let Some(function) = held["function"].as_object_mut() else { return };
    match function.get_mut("arguments") {
        // In place, because there are many pieces.
        Some(Value::String(all)) => all.push_str(arguments(piece)),
        _ => drop(function.insert("arguments".to_owned(), arguments(piece).into())),
    }
}

fn is_complete(call: &Value) -> bool {
    serde_json::from_str::<Value>(arguments(call)).is_ok()
}

fn to_custom(call: &mut Value) {
    let input = read_input(arguments(call));
    let custom = json!({"name": call["function"]["name"], "input": input});
    if let Some(call) = call.as_object_mut() {
        call.remove("function");
        call.insert("type".to_owned(), "custom".into());
        call.insert("custom".to_owned(), custom);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(index: u64, id: &str, name: &str, arguments: &str) -> Value {
        json!({"index": index, "id": id, "type": "function",
            "function": {"name": name, "arguments": arguments}})
    }

    fn more(index: u64, arguments: &str) -> Value {
        json!({"index": index, "function": {"arguments": arguments}})
    }

    fn chunk(delta: Value, reason: &str) -> Value {
        let reason = if reason.is_empty() { Value::Null } else { reason.into() };
        json!({"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})
    }

    fn custom(index: u64, id: &str, input: &str) -> Value {
        json!({"index": index, "id": id, "type": "custom",
            "custom": {"name": "patch", "input": input}})
    }

    fn new() -> CustomCalls {
        CustomCalls::new(&["patch".to_owned()]).expect("a tool")
    }

    #[test]
    fn a_whole_response_gets_the_form_of_the_tools() {
        let message = json!({"content": "x", "tool_calls": [
            call(0, "a", "patch", r#"{"input":"*** Begin"}"#), call(1, "b", "read", "{}")]});
        let mut response =
            json!({"choices": [{"message": message, "finish_reason": "tool_calls"}]});
        new().map_whole(&mut response);
        let calls = &response["choices"][0]["message"]["tool_calls"];
        assert_eq!(*calls, json!([custom(0, "a", "*** Begin"), call(1, "b", "read", "{}")]));
    }

    #[test]
    fn a_stream_holds_a_call_until_it_is_whole_and_nothing_else() {
        let mut calls = new();
        let mut text = chunk(json!({"content": "So"}), "");
        assert!(!calls.map_chunk(&mut text));
        let mut other = chunk(json!({"tool_calls": [call(0, "b", "read", "{")]}), "");
        assert!(!calls.map_chunk(&mut other));
        let mut begun = chunk(json!({"tool_calls": [call(1, "a", "patch", "{\"inp")]}), "");
        assert!(calls.map_chunk(&mut begun) && is_spent(&begun), "{begun}");
        let mut both = chunk(json!({"tool_calls": [more(1, "ut\":\"*** "), more(0, "}")]}), "");
        assert!(calls.map_chunk(&mut both) && !is_spent(&both));
        assert_eq!(both["choices"][0]["delta"]["tool_calls"], json!([more(0, "}")]));
        let mut rest = chunk(json!({"content": "x", "tool_calls": [more(1, "Begin\"}")]}), "");
        assert!(calls.map_chunk(&mut rest) && !is_spent(&rest));
        let mut end = chunk(json!({}), "tool_calls");
        assert!(calls.map_chunk(&mut end));
        let found = &end["choices"][0];
        assert_eq!(found["delta"]["tool_calls"], json!([custom(1, "a", "*** Begin")]));
        assert_eq!(found["finish_reason"], "tool_calls");
        assert!(calls.finish(&end).is_none());
    }

    #[test]
    fn a_call_is_not_lost_without_a_reason_and_not_invented_behind_a_limit() {
        let begun =
            || chunk(json!({"tool_calls": [call(0, "a", "patch", "{\"input\":\"x\"}")]}), "");
        let mut calls = new();
        calls.map_chunk(&mut begun());
        let last = calls.finish(&begun()).expect("a call");
        assert_eq!(last["choices"][0]["delta"]["tool_calls"], json!([custom(0, "a", "x")]));
        let mut cut =
            chunk(json!({"tool_calls": [call(0, "a", "patch", "{\"input\":\"x")]}), "length");
        new().map_chunk(&mut cut);
        assert!(cut["choices"][0]["delta"].get("tool_calls").is_none(), "{cut}");
        assert_eq!(cut["choices"][0]["finish_reason"], "length");
    }

    #[test]
    fn members_of_any_type_are_passed_over() {
        for odd in [json!(null), json!(5), json!("x"), json!([1]), json!({}), json!({"a": 1})] {
            let choice = json!({"index": odd, "message": odd, "delta": odd, "finish_reason": odd});
            let calls = json!({"delta": {"tool_calls": [odd]}, "message": {"tool_calls": [odd]}});
            let lists = [odd.clone(), json!([odd]), json!([choice]), json!([calls])];
            for response in
                lists.into_iter().map(|it| json!({ "choices": it })).chain([odd.clone()])
            {
                let (mut whole, mut chunk) = (response.clone(), response.clone());
                new().map_whole(&mut whole);
                assert!(!new().map_chunk(&mut chunk));
                assert_eq!((&whole, &chunk), (&response, &response));
            }
            // A call is held, and the rest of the stream is odd.
            let mut begun =
                chunk(json!({"tool_calls": [call(0, "a", "patch", "{\"input\":\"x\"}")]}), "");
            let mut calls = new();
            calls.map_chunk(&mut begun);
            let expected = json!([custom(0, "a", "x")]);
            if odd.is_object() {
                let mut end = chunk(odd.clone(), "stop");
                calls.map_chunk(&mut end);
                assert_eq!(end["choices"][0]["delta"]["tool_calls"], expected);
            } else {
                let last = calls.finish(&odd).expect("a call");
                assert_eq!(last["choices"][0]["delta"]["tool_calls"], expected);
            }
            let mut calls = new();
            calls.map_chunk(&mut chunk(
                json!({"tool_calls": [call(0, "a", "patch", "{\"input\":\"x\"}")]}),
                "",
            ));
            let mut end = chunk(odd, "stop");
            assert!(calls.map_chunk(&mut end));
            assert_eq!(end["choices"][0]["delta"]["tool_calls"], expected);
        }
    }

    #[test]
    fn two_calls_at_one_index_are_two() {
        let both = json!({"tool_calls": [call(0, "a", "patch", "{\"input\":\"x\"}"),
            call(0, "b", "patch", "{\"input\":\"y\"}")]});
        let mut end = chunk(both, "tool_calls");
        new().map_chunk(&mut end);
        let found = &end["choices"][0]["delta"]["tool_calls"];
        assert_eq!(*found, json!([custom(0, "a", "x"), custom(0, "b", "y")]));
    }
}
