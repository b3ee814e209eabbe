//! Applies the defaults of a virtual model to a request before the request is translated.
//!
//! The result is an ordinary request, so translation does not know about virtual models. Invariant:
//! the request's own options, system prompt and continued conversation win.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::VirtualModel;
use crate::api::ollama::decode::{self, GoString};
use crate::api::ollama::request::{ChatRequest, GenerateRequest, Message};
use crate::translate::context_codec;

impl VirtualModel {
    /// Inserts the stored messages before those of the request, and the system prompt before all of
    /// them unless the request starts with a system message; adds the default options.
    pub fn apply_to_chat<'a>(&'a self, request: &mut ChatRequest<'a>) {
        self.apply_to_options(&mut request.options);
        let own = request.messages.take().unwrap_or_default();
        let role = own.first().and_then(|message| message.role.as_deref()).unwrap_or_default();
        let has_system = role.eq_ignore_ascii_case("system");
        let mut messages = Vec::with_capacity(own.len() + self.messages.len() + 1);
        if !self.system.is_empty() && !has_system {
            messages.push(Message {
                role: Some(GoString(Cow::Borrowed("system"))),
                content: Some(GoString(Cow::Borrowed(&self.system))),
                ..Message::default()
            });
        }
        messages.extend(self.stored_messages());
        messages.extend(own);
        request.messages = Some(messages);
    }

    /// Adds the default options, and the system prompt unless the request is raw, has a system prompt
    /// or continues a conversation. Callers add [`VirtualModel::stored_messages`] themselves.
    pub fn apply_to_generate<'a>(&'a self, request: &mut GenerateRequest<'a>) {
        self.apply_to_options(&mut request.options);
        let has_system = request.system.as_deref().is_some_and(|system| !system.is_empty());
        if request.raw == Some(true) || has_system || self.system.is_empty() {
            return;
        }
        let context = request.context.as_deref().unwrap_or_default();
        let numbers: Vec<i64> = context.iter().map(|number| number.0).collect();
        if context_codec::decode(&numbers).is_empty() {
            request.system = Some(GoString(Cow::Borrowed(&self.system)));
        }
    }

    /// Adds the default options for those that are absent or null.
    pub fn apply_to_options(&self, options: &mut Option<Map<String, Value>>) {
        if self.parameters.is_empty() {
            return;
        }
        let options = options.get_or_insert_default();
        for (name, value) in &self.parameters {
            if options.get(name).is_none_or(Value::is_null) {
                options.insert(name.clone(), value.clone());
            }
        }
    }

    /// The stored messages as messages of a chat request. They were checked when they were stored.
    pub fn stored_messages(&self) -> Vec<Message<'_>> {
        self.messages
            .iter()
            .filter_map(|message| decode::parse(message.get(), "Message").ok())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::json;

    use super::*;
    use crate::api::ollama::manage::CreateRequest;
    use crate::api::openai::request::Message as Turn;
    use crate::backends::profiles::GENERIC;
    use crate::translate::{chat, generate};

    fn mario() -> VirtualModel {
        let body = r#"{"system":"You are Mario.","parameters":{"temperature":1,"seed":7},
            "messages":[{"role":"user","content":"Who?"},{"role":"assistant","content":"Me!"}]}"#;
        let request: CreateRequest<'_> = decode::parse(body, "CreateRequest").expect("valid");
        VirtualModel::alias("mario", "base", SystemTime::UNIX_EPOCH)
            .apply_request(&request)
            .expect("ok")
    }

    /// Role and content of every message sent to the upstream, and two options.
    fn chatted(body: &str) -> (String, Value) {
        let model = mario();
        let mut request: ChatRequest<'_> = decode::parse(body, "ChatRequest").expect("valid");
        model.apply_to_chat(&mut request);
        sent(&serde_json::to_value(chat::to_openai(&request, "base", &GENERIC).expect("valid")))
    }

    fn generated(body: &str) -> (String, Value) {
        let model = mario();
        let mut request: GenerateRequest<'_> = decode::parse(body, "G").expect("valid");
        model.apply_to_generate(&mut request);
        let stored = model.stored_messages();
        match generate::to_openai(&request, &stored, ("base", None), &GENERIC).expect("valid") {
            generate::UpstreamRequest::Chat(it) => sent(&serde_json::to_value(it)),
            generate::UpstreamRequest::Completion(it) => {
                let it = serde_json::to_value(it).expect("JSON");
                (it["prompt"].to_string(), json!([it["temperature"], it["seed"]]))
            }
            other => panic!("nothing is filled in here: {other:?}"),
        }
    }

    fn sent(request: &serde_json::Result<Value>) -> (String, Value) {
        let request = request.as_ref().expect("JSON");
        let messages = request["messages"].as_array().expect("messages").iter();
        let text = |name: &str, message: &Value| message[name].as_str().unwrap_or("?").to_owned();
        let messages: Vec<String> =
            messages.map(|it| format!("{}:{}", text("role", it), text("content", it))).collect();
        (messages.join(" "), json!([request["temperature"], request["seed"]]))
    }

    #[test]
    fn a_chat_gets_what_the_model_brings_and_wins_where_both_say_something() {
        let check = |body: &str, messages: &str, options: Value| {
            assert_eq!(chatted(body), (messages.to_owned(), options), "{body}");
        };
        let hi = r#"{"messages":[{"role":"user","content":"Hi"}]}"#;
        check(hi, "system:You are Mario. user:Who? assistant:Me! user:Hi", json!([1, 7]));
        let own = r#"{"messages":[{"role":"System","content":"Be Luigi."},
            {"role":"user","content":"Hi"}],"options":{"temperature":0,"seed":null}}"#;
        check(own, "user:Who? assistant:Me! system:Be Luigi. user:Hi", json!([0, 7]));
    }

    #[test]
    fn a_prompt_gets_what_the_model_brings_and_wins_where_both_say_something() {
        let check = |body: &str, messages: &str, options: Value| {
            assert_eq!(generated(body), (messages.to_owned(), options), "{body}");
        };
        let told = |system: &str| format!("system:{system} user:Who? assistant:Me! user:Hi");
        let empty = r#"{"prompt":"Hi","system":"","template":"","context":null}"#;
        check(empty, &told("You are Mario."), json!([1, 7]));
        let own = r#"{"prompt":"Hi","system":"Be Luigi.","options":{"seed":8}}"#;
        check(own, &told("Be Luigi."), json!([1, 8]));
        check(r#"{"prompt":"Hi","context":[1,2]}"#, "system:You are Mario. user:Hi", json!([1, 7]));
        check(r#"{"prompt":"Hi","raw":true}"#, "\"Hi\"", json!([1, 7]));
    }

    #[test]
    fn a_continued_conversation_is_left_as_it_was() {
        let first = [Turn::text("system", "Be Luigi."), Turn::text("user", "One")];
        let context = json!(context_codec::Conversation::from_messages(&first).encode());
        let body = json!({"prompt": "Two", "context": context}).to_string();
        assert_eq!(generated(&body).0, "system:Be Luigi. user:One user:Two");
    }
}
