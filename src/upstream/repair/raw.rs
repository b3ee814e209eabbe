//! Makes repairs to a body that is passed on.
//!
//! The same repairs as to our own requests, made to members as the client wrote them. Never removes a stop
//! sequence: the response is passed on as it arrives, and nothing could watch for it.
//! Invariant: members that no repair names keep their text and their place.

use std::borrow::Cow;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::plan::prefill::{GO_ON, TEMPLATE_KWARGS};
use super::plan::{EFFORT_FIELD, Repair, Repairable, TOKEN_LIMIT_FIELDS, is_at_edge};
use crate::api::openai::raw_object;
use crate::api::openai::raw_object::RawObject;
use crate::api::openai::request::{CONTINUE_FINAL_MESSAGE, JsonSchema, ResponseFormat};
use crate::translate::format;
use crate::translate::pass_through::{PassBody, encode_message};

const RESPONSE_FORMAT: &str = "response_format";
const MESSAGES: &str = "messages";

/// Members that are never parameters, and may be long.
const LONG_FIELDS: &[&str] =
    &[MESSAGES, "tools", "input", "prompt", "suffix", "functions", RESPONSE_FORMAT];

impl Repairable for PassBody<'_> {
    fn model(&self) -> &str {
        PassBody::model(self)
    }

    fn sampling(&self) -> Option<&Map<String, Value>> {
        let short = || self.object.members().filter(|(key, _)| !LONG_FIELDS.contains(key));
        let read = |(key, value): (&str, &Cow<'_, str>)| {
            Some((key.to_owned(), serde_json::from_str(value).ok()?))
        };
        let all = || {
            let mut members = Map::new();
            members.extend(short().filter_map(read));
            members
        };
        Some(self.sampling.get_or_init(all))
    }

    fn has_fixed_field(&self, member: &str) -> bool {
        match member {
            "tools" => self
                .object
                .get("tools")
                .and_then(raw_object::parse_items)
                .is_some_and(|it| !it.is_empty()),
            _ => self.object.get(member).is_some(),
        }
    }

    fn ends_with_assistant(&self) -> bool {
        self.object.get(MESSAGES).is_some_and(ends_with_assistant)
    }

    fn has_role(&self, role: &str) -> bool {
        let messages =
            self.object.get(MESSAGES).and_then(raw_object::parse_items).unwrap_or_default();
        messages.iter().any(|message| role_of(message).as_deref() == Some(role))
    }

    fn response_format(&self) -> Option<&ResponseFormat<'_>> {
        let read = || self.object.get(RESPONSE_FORMAT).and_then(parse_response_format);
        self.format.get_or_init(read).as_ref()
    }

    fn apply(&mut self, repair: &Repair) -> bool {
        match repair {
            Repair::Omit("stop") | Repair::LimitStops(_) => false,
            Repair::Omit("logprobs") => {
                let top = self.omit("top_logprobs");
                self.omit("logprobs") || top
            }
            Repair::Omit("continue_final_message" | "add_generation_prompt") => {
                CONTINUE_FINAL_MESSAGE.map(|(name, _)| self.omit(name)).contains(&true)
            }
            Repair::Omit(member) => self.omit(member),
            Repair::LowerLimit { to, .. } => {
                let lowered = TOKEN_LIMIT_FIELDS.map(|name| {
                    let is_higher =
                        self.read_number(name).is_some_and(|it| it.as_u64() > Some(*to));
                    is_higher && self.set(name, to.to_string())
                });
                lowered.contains(&true)
            }
            Repair::SetToNearest { member, value } => {
                let is_edge =
                    self.read_number(member).is_some_and(|sent| is_at_edge(member, &sent));
                is_edge && self.set(member, (*value).to_owned())
            }
            Repair::ContinueFinalMessage => self.continue_final_message(),
            Repair::DisableThinkingForPrefill => self.disable_thinking(),
            Repair::AskToGoOn => {
                let is_asked = self.change_messages(ask_to_go_on);
                if is_asked {
                    for (name, _) in CONTINUE_FINAL_MESSAGE {
                        self.omit(name);
                    }
                }
                is_asked
            }
            Repair::Rename { from, to } => {
                self.object.get(from).is_some() && self.object_mut().rename(from, to)
            }
            Repair::SetEffort { from, to } => {
                let refused = self.object.get_string(EFFORT_FIELD).as_ref() == Some(from);
                if refused {
                    self.object_mut().set(EFFORT_FIELD, raw_object::quote_json(to));
                }
                refused
            }
            Repair::DisableEffortWithTools => {
                let none = self.object.get_string(EFFORT_FIELD).as_deref() == Some("none");
                let changes = self.has_fixed_field("tools") && !none;
                if changes {
                    self.object_mut().set(EFFORT_FIELD, raw_object::quote_json("none"));
                }
                changes
            }
            Repair::UseDeveloperRole => self.change_messages(use_developer_role),
            Repair::FoldSystemIntoUser => self.change_messages(fold_system_into_user),
            Repair::DropStrict => self.change_schema(|schema| schema.remove("strict")),
            Repair::ObjectToSchema => self.object_to_schema(),
            Repair::SchemaToPrompt => self.schema_to_prompt(),
            Repair::MentionJson => self.change_messages(mention_json),
        }
    }
}

impl PassBody<'_> {
    fn omit(&mut self, member: &str) -> bool {
        self.object.get(member).is_some() && self.object_mut().remove(member)
    }

    fn set(&mut self, member: &str, value: String) -> bool {
        self.object_mut().set(member, value);
        true
    }

    /// A member that is a number.
    fn read_number(&self, member: &str) -> Option<Value> {
        serde_json::from_str(self.object.get(member)?).ok().filter(Value::is_number)
    }

    fn continue_final_message(&mut self) -> bool {
        let is_prefill = self.object.get(MESSAGES).is_some_and(ends_with_assistant);
        is_prefill
            && CONTINUE_FINAL_MESSAGE
                .map(|(name, value)| {
                    let value = value.to_string();
                    self.object.get(name) != Some(&value) && self.set(name, value)
                })
                .contains(&true)
    }

    fn disable_thinking(&mut self) -> bool {
        if !self.object.get(MESSAGES).is_some_and(ends_with_assistant) {
            return false;
        }
        let kwargs = self.object.get(TEMPLATE_KWARGS).unwrap_or("{}");
        let Some(mut kwargs) = RawObject::parse(kwargs) else { return false };
        if kwargs.get("enable_thinking") == Some("false") {
            return false;
        }
        kwargs.set("enable_thinking", "false");
        let kwargs = kwargs.to_json();
        self.set(TEMPLATE_KWARGS, kwargs)
    }

    /// Replaces all messages, if `change` returns others.
    fn change_messages(&mut self, change: fn(&[&str]) -> Option<Vec<String>>) -> bool {
        let messages = self.object.get(MESSAGES).and_then(raw_object::parse_items);
        let Some(changed) = messages.and_then(|messages| change(&messages)) else { return false };
        self.object_mut().set(MESSAGES, raw_object::join_items(&changed));
        true
    }

    fn change_schema(&mut self, change: fn(&mut RawObject<'_>) -> bool) -> bool {
        let changed =
            self.object.get(RESPONSE_FORMAT).and_then(RawObject::parse).and_then(|mut format| {
                let mut schema = RawObject::parse(format.get("json_schema")?)?;
                let text = change(&mut schema).then(|| schema.to_json())?;
                format.set("json_schema", text);
                Some(format.to_json())
            });
        changed.map(|format| self.object_mut().set(RESPONSE_FORMAT, format)).is_some()
    }

    fn object_to_schema(&mut self) -> bool {
        let is_object = matches!(self.response_format(), Some(ResponseFormat::JsonObject));
        let schema = format::any_object_format().filter(|_| is_object);
        let text = schema.and_then(|schema| serde_json::to_string(&schema).ok());
        text.map(|text| self.object_mut().set(RESPONSE_FORMAT, text)).is_some()
    }

    fn schema_to_prompt(&mut self) -> bool {
        let words =
            self.object.get(RESPONSE_FORMAT).and_then(RawObject::parse).and_then(|format| {
                let schema = RawObject::parse(format.get("json_schema")?)?;
                Some(format::schema_to_instruction(schema.get("schema")?))
            });
        let messages = self.object.get(MESSAGES).and_then(raw_object::parse_items);
        let (Some(words), Some(messages)) = (words, messages) else { return false };
        let words = encode_message("system", &words);
        let all: Vec<&str> = std::iter::once(words.as_str()).chain(messages).collect();
        let all = raw_object::join_items(&all);
        let object = self.object_mut();
        object.set(MESSAGES, all);
        object.set(RESPONSE_FORMAT, r#"{"type":"json_object"}"#);
        true
    }
}

/// Whether a list of messages ends with words of the assistant.
fn ends_with_assistant(messages: &str) -> bool {
    let last = raw_object::parse_items(messages).and_then(|messages| messages.last().copied());
    last.and_then(RawObject::parse).is_some_and(|message| {
        let calls = message.get("tool_calls").and_then(raw_object::parse_items);
        is_role(&message, "assistant")
            && calls.is_none_or(|calls| calls.is_empty())
            && message_text(last.unwrap_or_default()).is_some_and(|text| !text.trim().is_empty())
    })
}

fn ask_to_go_on(messages: &[&str]) -> Option<Vec<String>> {
    let all = raw_object::join_items(messages);
    ends_with_assistant(&all).then(|| {
        let question = encode_message("user", GO_ON);
        messages.iter().map(|message| (*message).to_owned()).chain([question]).collect()
    })
}

fn role_of(message: &str) -> Option<String> {
    RawObject::parse(message)?.get_string("role")
}

/// The kind of format. The schema itself does not matter for a repair.
fn parse_response_format(text: &str) -> Option<ResponseFormat<'static>> {
    let format = RawObject::parse(text)?;
    match format.get_string("type")?.as_str() {
        "json_object" => Some(ResponseFormat::JsonObject),
        "json_schema" => {
            let schema = RawObject::parse(format.get("json_schema")?)?;
            let strict = schema.get("strict").and_then(|strict| serde_json::from_str(strict).ok());
            let json_schema = JsonSchema { name: "schema", schema: RawValue::NULL, strict };
            Some(ResponseFormat::JsonSchema { json_schema })
        }
        _ => None,
    }
}

fn use_developer_role(messages: &[&str]) -> Option<Vec<String>> {
    let changed = |message: &&str| {
        let mut object = RawObject::parse(message).filter(|it| is_role(it, "system"))?;
        object.set("role", raw_object::quote_json("developer"));
        Some(object.to_json())
    };
    let any = messages.iter().any(|message| role_of(message).as_deref() == Some("system"));
    let all = messages.iter().map(|message| changed(message).unwrap_or_else(|| (*message).into()));
    any.then(|| all.collect())
}

fn is_role(message: &RawObject<'_>, role: &str) -> bool {
    message.get_string("role").as_deref() == Some(role)
}

/// Moves instructions to the beginning of the first user message.
fn fold_system_into_user(messages: &[&str]) -> Option<Vec<String>> {
    let is_system =
        |message: &&str| matches!(role_of(message).as_deref(), Some("system" | "developer"));
    let (instructions, rest): (Vec<&str>, Vec<&str>) =
        messages.iter().partition(|it| is_system(it));
    let texts: Option<Vec<String>> = instructions.iter().map(|it| message_text(it)).collect();
    let text = texts.filter(|texts| !texts.is_empty())?.join("\n\n");
    let mut rest: Vec<String> = rest.into_iter().map(str::to_owned).collect();
    match rest.iter_mut().find(|message| role_of(message).as_deref() == Some("user")) {
        Some(user) => *user = prepend_text(user, &text)?,
        None => rest.insert(0, encode_message("user", &text)),
    }
    Some(rest)
}

/// The text of a message that has nothing but text.
fn message_text(message: &str) -> Option<String> {
    let object = RawObject::parse(message)?;
    let content = object.get("content")?;
    if content.starts_with('"') {
        return serde_json::from_str(content).ok();
    }
    let parts = raw_object::parse_items(content)?;
    let texts: Option<Vec<String>> =
        parts.iter().map(|part| RawObject::parse(part)?.get_string("text")).collect();
    texts.map(|texts| texts.concat())
}

fn prepend_text(message: &str, text: &str) -> Option<String> {
    let mut object = RawObject::parse(message)?;
    let content = object.get("content")?;
    let content = if content.starts_with('"') {
        let said: String = serde_json::from_str(content).ok()?;
        raw_object::quote_json(&if said.is_empty() {
            text.to_owned()
        } else {
            format!("{text}\n\n{said}")
        })
    } else {
        let part = format!("{{\"type\":\"text\",\"text\":{}}}", raw_object::quote_json(text));
        let parts: Vec<&str> =
            std::iter::once(part.as_str()).chain(raw_object::parse_items(content)?).collect();
        raw_object::join_items(&parts)
    };
    object.set("content", content);
    Some(object.to_json())
}

fn mention_json(messages: &[&str]) -> Option<Vec<String>> {
    if messages.iter().any(|it| message_text(it).is_some_and(|text| text.contains("JSON"))) {
        return None;
    }
    let word = encode_message("system", format::JSON_INSTRUCTION);
    Some(std::iter::once(word).chain(messages.iter().map(|it| (*it).to_owned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::pass_through::Endpoint;

    /// What a repair makes of a body; `None` where there is nothing to do.
    fn repaired(repair: &Repair, text: &str) -> Option<String> {
        let mut body = PassBody::parse(text, Endpoint::Chat).expect("a body");
        body.set_model(body.requested_model().unwrap_or_default().to_owned().as_str());
        let changed = body.apply(repair);
        let bytes = String::from_utf8(body.to_bytes().into_owned()).expect("UTF-8");
        assert_eq!(changed, bytes != text, "{repair:?} {text}");
        changed.then_some(bytes)
    }

    #[track_caller]
    fn check(repair: Repair, text: &str, expected: &str) {
        assert_eq!(repaired(&repair, text).as_deref(), Some(expected), "{repair:?}");
        assert_eq!(repaired(&repair, expected), None, "{repair:?} twice");
    }

    #[test]
    fn parameters_are_left_out_renamed_and_lowered() {
        let (sent, left) = (r#"{"model":"m","seed":7, "x":[1, 2]}"#, r#"{"model":"m","x":[1, 2]}"#);
        check(Repair::Omit("seed"), sent, left);
        let both = r#"{"logprobs":true,"model":"m","top_logprobs":2}"#;
        check(Repair::Omit("logprobs"), both, r#"{"model":"m"}"#);
        let limit = |name: &str| format!(r#"{{"{name}":7,"model":"m"}}"#);
        let rename = Repair::Rename { from: "max_tokens", to: "max_completion_tokens" };
        check(rename, &limit("max_tokens"), &limit("max_completion_tokens"));
        let effort = |level: &str| format!(r#"{{"reasoning_effort":"{level}","model":"m"}}"#);
        let lower = Repair::SetEffort { from: "xhigh".into(), to: "high".into() };
        check(lower, &effort("xhigh"), &effort("high"));
        let tools = |more: &str| format!(r#"{{"tools":[{{"z":1,"a":2}}],"model":"m"{more}}}"#);
        let none = tools(r#","reasoning_effort":"none""#);
        check(Repair::DisableEffortWithTools, &tools(""), &none);
        assert_eq!(repaired(&Repair::DisableEffortWithTools, r#"{"model":"m","tools":[]}"#), None);
    }

    #[test]
    fn a_stop_sequence_is_never_taken_out() {
        assert_eq!(repaired(&Repair::Omit("stop"), r#"{"model":"m","stop":["a"]}"#), None);
    }

    #[test]
    fn instructions_move_where_the_upstream_takes_them() {
        let check = |repair: Repair, sent: &str, expected: &str| {
            let around = |messages: &str| format!(r#"{{"model":"m","messages":[{messages}]}}"#);
            check(repair, &around(sent), &around(expected));
        };
        let (system, user) =
            (r#"{"role":"system","content":"A"}"#, r#"{"role":"user","content":"Hi"}"#);
        let by = |role: &str| format!(r#"{{"content":"Be","role":"{role}"}},{user}"#);
        check(Repair::UseDeveloperRole, &by("system"), &by("developer"));
        let fold = || Repair::FoldSystemIntoUser;
        let several = format!(
            r#"{system},{{"role":"developer","content":[{{"type":"text","text":"B"}}]}},{{"role":"user","content":"Hi","name":"n"}}"#
        );
        check(fold(), &several, r#"{"role":"user","content":"A\n\nB\n\nHi","name":"n"}"#);
        let parts = |text: &str| {
            format!(
                r#"{{"role":"user","content":[{text}{{"type":"image_url","image_url":{{"url":"u"}}}}]}}"#
            )
        };
        let image = format!("{system},{}", parts(""));
        check(fold(), &image, &parts(r#"{"type":"text","text":"A"},"#));
        check(fold(), system, r#"{"role":"user","content":"A"}"#);
        let told = format!(r#"{{"role":"system","content":"Answer in JSON."}},{user}"#);
        check(Repair::MentionJson, user, &told);
        assert_eq!(repaired(&Repair::FoldSystemIntoUser, r#"{"model":"m","messages":5}"#), None);
    }

    #[test]
    fn a_wanted_form_is_asked_for_in_another_way() {
        let around =
            |format: &str| format!(r#"{{"response_format":{format},"model":"m","messages":[]}}"#);
        let schema = |strict: &str| {
            around(&format!(
                r#"{{"type":"json_schema","json_schema":{{"name":"n"{strict},"schema":{{"z":1,"a":2}}}}}}"#
            ))
        };
        check(Repair::DropStrict, &schema(r#","strict":true"#), &schema(""));
        let words = r#"{"role":"system","content":"Answer with JSON that this JSON Schema allows, and with nothing else: {\"z\":1,\"a\":2}"}"#;
        let told = format!(
            r#"{{"response_format":{{"type":"json_object"}},"model":"m","messages":[{words}]}}"#
        );
        check(Repair::SchemaToPrompt, &schema(""), &told);
        let changed = repaired(&Repair::ObjectToSchema, &around(r#"{"type":"json_object"}"#));
        assert!(changed.expect("changed").contains(r#""type":"json_schema""#));
        assert_eq!(repaired(&Repair::ObjectToSchema, &around(r#"{"type":"text"}"#)), None);
    }

    #[test]
    fn what_a_refusal_can_be_about_is_found() {
        let text = r#"{"model":"m","messages":[{"role":"system"}],"tools":[],"seed":7,
            "response_format":{"type":"json_schema","json_schema":{"strict":true}}}"#;
        let body = PassBody::parse(text, Endpoint::Chat).expect("a body");
        assert!(body.has_role("system") && !body.has_role("user"));
        assert!(
            body.has_fixed_field("messages")
                && body.has_fixed_field("seed")
                && !body.has_fixed_field("tools")
        );
        assert_eq!(body.sampling().expect("some")["seed"], 7);
        let format = body.response_format().expect("a form");
        assert!(
            matches!(format, ResponseFormat::JsonSchema { json_schema } if json_schema.strict == Some(true))
        );
    }
}
