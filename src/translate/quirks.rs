//! A conversation as a family of upstreams wants it (openai-wire.md 3.7).
//!
//! Changes ids, reasoning and turns that hold nothing; never a word of what was said.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::api::openai::request::Message;
use crate::api::wire::digest::sha256_hex;
use crate::backends::profiles::{HistoryRules, Profile};

/// Stands for reasoning that the client did not keep; DeepSeek takes it.
const PLACEHOLDER_REASONING: &str = " ";

/// The length of an id that Mistral takes.
const SHORT_ID_LEN: usize = 9;

/// Makes the messages fit the family.
pub(super) fn apply(messages: &mut Vec<Message<'_>>, profile: &Profile) {
    for message in messages.iter_mut() {
        let wanted =
            profile.history == HistoryRules::ReasoningWithCalls && !message.tool_calls.is_empty();
        let reasoning = message.reasoning_content.take();
        if wanted {
            message.reasoning_content = reasoning.or(Some(Cow::Borrowed(PLACEHOLDER_REASONING)));
        }
    }
    if profile.history == HistoryRules::ShortCallIds {
        messages.retain(|message| message.role != "assistant" || has_content(message));
        shorten_ids(messages);
    }
}

fn has_content(message: &Message<'_>) -> bool {
    !message.tool_calls.is_empty() || message.has_media() || !message.as_text().is_empty()
}

/// Gives every call an id of nine letters and digits, the same for its result and each time it is
/// sent. Two calls never get one id.
fn shorten_ids(messages: &mut [Message<'_>]) {
    let mut given: HashMap<String, String> = HashMap::new();
    let mut short = |id: &mut Cow<'_, str>| {
        if id.len() == SHORT_ID_LEN && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            given.insert(id.to_string(), id.to_string());
            return;
        }
        if let Some(known) = given.get(id.as_ref()) {
            *id = Cow::Owned(known.clone());
            return;
        }
        let candidates = (0_u32..).map(|number| {
            let digest = sha256_hex(format!("{id}\n{number}").as_bytes());
            digest[..SHORT_ID_LEN].to_owned()
        });
        let taken = |candidate: &String| given.values().any(|known| known == candidate);
        let new = candidates.into_iter().find(|candidate| !taken(candidate)).unwrap_or_default();
        given.insert(id.to_string(), new.clone());
        *id = Cow::Owned(new);
    };
    for message in messages {
        message.tool_calls.iter_mut().for_each(|call| short(&mut call.id));
        message.tool_call_id.iter_mut().for_each(&mut short);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::backends::profiles;
    use crate::translate::history;

    fn sent(host: &str, history: &Value) -> Value {
        let profile = profiles::find_by_host(host).expect("known");
        let text = history.to_string();
        let history: Vec<_> = serde_json::from_str(&text).expect("valid");
        let mut messages = history::to_openai(&history).expect("valid");
        apply(&mut messages, profile);
        serde_json::to_value(messages).expect("JSON")
    }

    fn call(id: Option<&str>) -> Value {
        json!({"id": id, "function": {"name": "f", "arguments": {}}})
    }

    #[test]
    fn deepseek_gets_the_reasoning_of_calls_back_or_a_blank() {
        let history = json!([
            {"role": "assistant", "content": "a", "thinking": "hm", "tool_calls": [call(None)]},
            {"role": "tool", "content": "1"},
            {"role": "assistant", "content": "b", "tool_calls": [call(None)]},
            {"role": "tool", "content": "2"},
            {"role": "assistant", "content": "c", "thinking": "so"}]);
        let reasoning = |sent: Value| -> Vec<Value> {
            let list = sent.as_array().expect("a list").clone();
            list.iter().map(|message| message["reasoning_content"].clone()).collect()
        };
        let null = Value::Null;
        assert_eq!(
            reasoning(sent("api.deepseek.com", &history)),
            [json!("hm"), null.clone(), json!(" "), null.clone(), null.clone()]
        );
        let none = vec![null; 5];
        assert_eq!(reasoning(sent("api.groq.com", &history)), none, "which refuses it");
    }

    #[test]
    fn mistral_gets_short_ids_that_stay_linked_and_no_empty_turns() {
        let history = json!([
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": ""},
            {"role": "assistant", "tool_calls": [call(Some("call_1")), call(Some("Abc123xyz")), call(None)]},
            {"role": "tool", "content": "2", "tool_call_id": "Abc123xyz"},
            {"role": "tool", "content": "1", "tool_call_id": "call_1"},
            {"role": "tool", "content": "3"}]);
        let sent = sent("api.mistral.ai", &history);
        assert_eq!(sent.as_array().map(Vec::len), Some(5), "{sent}");
        let calls = sent[1]["tool_calls"].as_array().expect("calls");
        let ids: Vec<&str> = calls.iter().filter_map(|call| call["id"].as_str()).collect();
        assert!(
            ids.iter().all(|id| id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric()))
        );
        assert_eq!(ids[1], "Abc123xyz");
        assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
        for (place, id) in [(2, ids[1]), (3, ids[0]), (4, ids[2])] {
            assert_eq!(sent[place]["tool_call_id"], id);
        }
        assert_eq!(sent, self::sent("api.mistral.ai", &history), "the same each time");
    }
}
