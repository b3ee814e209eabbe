//! Adapts a conversation to the rules of one family of upstreams.
//!
//! Changes ids of calls, reasoning, and assistant turns without content; never a text. gpt-oss, MiniMax
//! M2, Kimi K2 Thinking, GLM 4.5 and later models were trained to see their reasoning since the last
//! question, so the servers whose templates render it get it back (gpt-oss model card; vLLM, SGLang and
//! llama.cpp chat templates; OpenRouter documentation, reasoning tokens).

use std::borrow::Cow;

use crate::api::openai::request::Message;
use crate::api::wire::digest::sha256_hex;
use crate::backends::model_families;
use crate::backends::profiles::{HistoryRules, Profile};

/// Stands for reasoning that the client did not keep: DeepSeek requires some with every call.
pub const PLACEHOLDER_REASONING: &str = " ";

/// Stands between a result and a user's message.
pub const ACKNOWLEDGEMENT: &str = "OK.";

/// Mistral's ids have nine letters and digits.
const SHORT_ID_LEN: usize = 9;

/// Makes the messages fit the upstream; `model` is its id.
pub(super) fn apply(messages: &mut Vec<Message<'_>>, profile: &Profile, model: &str) {
    let is_wanted = profile.history == HistoryRules::ReasoningOfLoop
        && messages.iter().any(|message| message.reasoning_content.is_some())
        && model_families::wants_reasoning_back(model);
    let first = if is_wanted { find_running_loop(messages) } else { messages.len() };
    for message in &mut messages[..first] {
        let reasoning = message.reasoning_content.take();
        if profile.history == HistoryRules::ReasoningWithCalls && !message.tool_calls.is_empty() {
            message.reasoning_content = reasoning.or(Some(Cow::Borrowed(PLACEHOLDER_REASONING)));
        } else {
            message.thinking = reasoning;
        }
    }
    drop_empty_turns(messages);
    if profile.history == HistoryRules::ShortCallIds {
        separate_results(messages);
        for message in messages {
            message.tool_calls.iter_mut().for_each(|call| shorten_id(&mut call.id));
            message.tool_call_id.iter_mut().for_each(shorten_id);
        }
    }
}

/// Leaves out messages of the assistant that say nothing, such as a response that was stopped at once:
/// many upstreams reject them. One whose reasoning goes up says that.
fn drop_empty_turns(messages: &mut Vec<Message<'_>>) {
    messages.retain(|message| {
        let says_something = has_content(message) || message.reasoning_content.is_some();
        message.role != "assistant" || says_something
    });
}

/// The place behind the last question. Media of a tool's result are sent as a user's turn and are none.
fn find_running_loop(messages: &[Message<'_>]) -> usize {
    let is_question = |at: &usize| {
        let message = &messages[*at];
        let is_of_result = message.has_media()
            && message.as_text().is_empty()
            && at.checked_sub(1).is_some_and(|before| messages[before].role == "tool");
        message.role == "user" && !is_of_result
    };
    (0..messages.len()).rev().find(is_question).map_or(0, |at| at + 1)
}

fn has_content(message: &Message<'_>) -> bool {
    !message.tool_calls.is_empty() || message.has_media() || !message.as_text().trim().is_empty()
}

/// Mistral rejects a user's message right behind a result.
fn separate_results(messages: &mut Vec<Message<'_>>) {
    let is_user_behind_result =
        |pair: &[Message<'_>]| pair[0].role == "tool" && pair[1].role == "user";
    let places: Vec<usize> = messages
        .windows(2)
        .enumerate()
        .filter(|(_, pair)| is_user_behind_result(pair))
        .map(|(place, _)| place + 1)
        .collect();
    for place in places.into_iter().rev() {
        messages.insert(place, Message::text("assistant", ACKNOWLEDGEMENT));
    }
}

/// Replaces an id by nine digits of its hash, unless Mistral takes it as it is. Depends on the id
/// alone, so that a result keeps the id of its call and a conversation is sent the same each time.
fn shorten_id(id: &mut Cow<'_, str>) {
    if !is_short_id(id) {
        *id = Cow::Owned(short_id(id));
    }
}

/// An id of nine letters and digits, which every upstream takes: the id itself if it is one, else a part
/// of its hash.
pub fn short_id(id: &str) -> String {
    if is_short_id(id) {
        return id.to_owned();
    }
    let mut digest = sha256_hex(format!("{id}\n0").as_bytes());
    digest.truncate(SHORT_ID_LEN);
    digest
}

fn is_short_id(id: &str) -> bool {
    id.len() == SHORT_ID_LEN && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
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
        apply(&mut messages, profile, "m");
        serde_json::to_value(messages).expect("JSON")
    }

    #[test]
    fn models_that_want_it_get_the_reasoning_since_the_last_question_back() {
        let png = "iVBORw0KGgo=";
        let asked = |thinking: &str| {
            json!({"role": "assistant", "content": "", "thinking": thinking,
                "tool_calls": [call(None)]})
        };
        let result = json!({"role": "tool", "content": "1", "images": [png]});
        let history = json!([
            {"role": "user", "content": "Hi"}, asked("a"), result,
            {"role": "assistant", "content": "One.", "thinking": "b"},
            {"role": "user", "content": "And?"}, asked("c"), result, asked("d"), result,
            {"role": "assistant", "thinking": "e"}])
        .to_string();
        let history: Vec<_> = serde_json::from_str(&history).expect("valid");
        let sent = |family: &str, model: &str| -> Vec<String> {
            let profile = profiles::find_by_name(family).expect("known");
            let mut messages = history::to_openai(&history).expect("valid");
            apply(&mut messages, profile, model);
            let texts = messages.into_iter().filter_map(|message| message.reasoning_content);
            texts.map(Cow::into_owned).collect()
        };
        for family in ["vllm", "sglang", "llamacpp", "openrouter"] {
            for model in ["gpt-oss-20b", "MiniMaxAI/MiniMax-M2", "kimi-k2-thinking", "glm-4.6"] {
                assert_eq!(sent(family, model), ["c", "d", "e"], "{family} {model}");
            }
            assert!(sent(family, "Qwen/Qwen3-8B").is_empty(), "{family}");
        }
        for family in ["generic", "openai", "azure", "groq", "mistral", "together", "litellm"] {
            assert!(sent(family, "gpt-oss-20b").is_empty(), "{family}");
        }
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
