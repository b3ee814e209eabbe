//! Adds the defaults of a virtual model to an OpenAI request that is passed through.
//!
//! The request wins over the model: a member that it sets, and a conversation that begins with
//! instructions of its own, stay. Everything else in the body stays as the client wrote it. Pure.

use super::VirtualModel;
use crate::api::openai::raw_object::{self, RawObject};
use crate::backends::profiles::Profile;
use crate::error::{Error, Result};
use crate::translate::pass_through::{Endpoint, PassBody, encode_message};
use crate::translate::{history, options};

/// The names of the limit on generated tokens, one per OpenAI endpoint and generation.
const TOKEN_LIMITS: [&str; 3] = ["max_tokens", "max_completion_tokens", "max_output_tokens"];

impl VirtualModel {
    /// Adds what the request does not set: for a chat the system prompt, the stored messages and the
    /// options; for a response the system prompt as `instructions` and the options; for a completion
    /// the options; for embeddings and a compaction nothing.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] and [`Error::InvalidRequest`] for parameters and messages that the
    /// model store would have refused.
    pub fn apply_to_body(
        &self,
        body: &mut PassBody<'_>,
        endpoint: Endpoint,
        profile: &Profile,
    ) -> Result<()> {
        match endpoint {
            Endpoint::Embeddings | Endpoint::ResponsesCompact => return Ok(()),
            Endpoint::Chat => self.add_messages(body)?,
            Endpoint::Responses => {
                if !self.system.is_empty() && !body.object.has_value("instructions") {
                    body.object_mut().set("instructions", raw_object::quote_json(&self.system));
                }
            }
            Endpoint::Completions => {}
        }
        for (option, value) in options::parse(Some(&self.parameters))?.for_chat(profile) {
            let is_limit = TOKEN_LIMITS.contains(&option.as_str());
            let name = match endpoint {
                Endpoint::Completions if is_limit => "max_tokens",
                Endpoint::Responses if is_limit => "max_output_tokens",
                // `/v1/responses` takes no other sampling parameters.
                Endpoint::Responses if !["temperature", "top_p"].contains(&option.as_str()) => {
                    continue;
                }
                _ => option.as_str(),
            };
            let is_set = |name: &&str| body.object.has_value(name);
            if !(is_set(&name) || is_limit && TOKEN_LIMITS.iter().any(is_set)) {
                body.object_mut().set(name, value.to_string());
            }
        }
        Ok(())
    }

    /// Puts the system prompt and the stored messages before the conversation. A body without a list
    /// of messages stays as it is: the upstream refuses it.
    fn add_messages(&self, body: &mut PassBody<'_>) -> Result<()> {
        let Some(own) = body.object.get("messages").and_then(raw_object::parse_items) else {
            return Ok(());
        };
        let first = own.first().and_then(|message| RawObject::parse(message));
        let role = first.and_then(|message| message.get_string("role")).unwrap_or_default();
        let has_system = ["system", "developer"].iter().any(|it| role.eq_ignore_ascii_case(it));
        let mut messages = Vec::with_capacity(own.len() + self.messages.len() + 1);
        if !self.system.is_empty() && !has_system {
            messages.push(encode_message("system", &self.system));
        }
        for message in history::to_openai(&self.stored_messages())? {
            let json = serde_json::to_string(&message);
            messages.push(json.map_err(|_| Error::Internal("a stored message is not valid JSON"))?);
        }
        if messages.is_empty() {
            return Ok(());
        }
        messages.extend(own.into_iter().map(str::to_owned));
        let messages = raw_object::join_items(&messages);
        body.object_mut().set("messages", messages);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::value::RawValue;
    use serde_json::{Value, json};

    use super::*;
    use crate::backends::profiles::{self, GENERIC};

    fn mario(parameters: Value) -> VirtualModel {
        let mut model = VirtualModel::alias("mario", "m", SystemTime::UNIX_EPOCH);
        model.system = "You are Mario.".into();
        let stored = r#"{"role":"user","content":"Who?"}"#.to_owned();
        model.messages = vec![RawValue::from_string(stored).expect("JSON")];
        model.parameters = parameters.as_object().expect("an object").clone();
        model
    }

    fn with_defaults(
        text: &str,
        parameters: Value,
        endpoint: Endpoint,
        profile: &Profile,
    ) -> String {
        let mut body = PassBody::parse(text, endpoint).expect("a body");
        body.set_model("m");
        mario(parameters).apply_to_body(&mut body, endpoint, profile).expect("valid");
        String::from_utf8(body.to_bytes().into_owned()).expect("UTF-8")
    }

    #[test]
    fn a_chat_gets_prompt_messages_and_options_where_it_says_none() {
        let options = || json!({"temperature": 0.5, "num_predict": 9});
        let chat = |text: &str| with_defaults(text, options(), Endpoint::Chat, &GENERIC);
        let stored = r#"{"role":"user","content":"Who?"}"#;
        let system = r#"{"role":"system","content":"You are Mario."}"#;
        let around = |model: &str, messages: &str, more: &str| {
            let tools = r#""tools":[{"z":1,"a":2}]"#;
            format!(
                r#"{{"model":"{model}",{tools},"messages":[{messages}],"temperature":1{more}}}"#
            )
        };
        let own = r#"{"content":"Hi","role":"user"}"#;
        let all = format!("{system},{stored},{own}");
        assert_eq!(chat(&around("mario", own, "")), around("m", &all, r#","max_tokens":9"#));
        for (role, limit) in [("system", "max_tokens"), ("developer", "max_completion_tokens")] {
            let own = format!(r#"{{"role":"{role}","content":"Be Luigi."}}"#);
            let text =
                format!(r#"{{"model":"mario","messages":[{own}],"{limit}":1,"temperature":null}}"#);
            let expected = format!(
                r#"{{"model":"m","messages":[{stored},{own}],"{limit}":1,"temperature":0.5}}"#
            );
            assert_eq!(chat(&text), expected);
        }
        // What is no conversation is the upstream's to refuse.
        let none = r#"{"model":"m","messages":5,"max_tokens":1,"temperature":0}"#;
        assert_eq!(chat(none), none);
    }

    #[test]
    fn other_endpoints_get_what_they_know() {
        let all = json!({"temperature": 0.5, "num_predict": 9, "seed": 3});
        let openai = profiles::find_by_host("api.openai.com").expect("known");
        let check = |text: &str, endpoint, profile, expected: &str| {
            assert_eq!(with_defaults(text, all.clone(), endpoint, profile), expected);
        };
        let told = r#"{"model":"m","prompt":"x","max_tokens":9,"seed":3,"temperature":0.5}"#;
        check(r#"{"model":"m","prompt":"x"}"#, Endpoint::Completions, openai, told);
        let input = r#"{"model":"m","input":"x"}"#;
        let told = r#"{"model":"m","input":"x","instructions":"You are Mario.","max_output_tokens":9,"temperature":0.5}"#;
        check(input, Endpoint::Responses, openai, told);
        let own = r#"{"model":"m","input":"x","instructions":"Be Luigi.","max_output_tokens":1,"temperature":0}"#;
        check(own, Endpoint::Responses, openai, own);
        check(input, Endpoint::Embeddings, &GENERIC, input);
    }
}
