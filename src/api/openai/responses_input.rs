//! The items, parts and tools of a request of `POST /v1/responses`.
//!
//! Agents send what they were sent, by this server, by another or by an older version, and one item that
//! cannot be read must not end their session. So all members are raw JSON, of any type, and
//! [`text`] reads one as a text as far as it is one. `type` decides what the others mean.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::api::ollama::decode::{GoString, request};

request! {
    in "openai";
    /// An item of the input, of any type (OpenAI API reference, Responses, input; openai/codex,
    /// `ResponseItem`).
    pub struct InputItem<'a> {
        /// `message`, `function_call` and so on; a message may have none.
        pub kind as "type": &'a RawValue,
        /// The item's own id.
        pub id: &'a RawValue,
        /// The role of a message's author.
        pub role: &'a RawValue,
        /// A message's content, or reasoning: a text, or a list of parts.
        pub content: &'a RawValue,
        /// Who wrote a message of one agent to another.
        pub author: &'a RawValue,
        /// To whom it was written.
        pub recipient: &'a RawValue,
        /// The id of a call; its output has the same.
        pub call_id: &'a RawValue,
        /// The same in a message of chat completions.
        pub tool_call_id: &'a RawValue,
        /// The name of the tool that was called.
        pub name: &'a RawValue,
        /// The namespace that the tool is a member of.
        pub namespace: &'a RawValue,
        /// The arguments of a call: JSON in a string, or an object.
        pub arguments: &'a RawValue,
        /// The text of a call of a custom tool.
        pub input: &'a RawValue,
        /// What the local shell is to run.
        pub action: &'a RawValue,
        /// The output of a call: a text, or a list of parts.
        pub output: &'a RawValue,
        /// Tools that were found, or that are declared from here on.
        pub tools: &'a RawValue,
        /// Reasoning as parts of type `summary_text`.
        pub summary: &'a RawValue,
        /// Reasoning as this server sent it, or what only another can read.
        pub encrypted_content: &'a RawValue,
    }

    /// A part of a message or of an output.
    pub struct InputPart<'a> {
        /// `input_text`, `input_image` and so on.
        pub kind as "type": &'a RawValue,
        /// The text of a text part.
        pub text: &'a RawValue,
        /// The text of a refusal.
        pub refusal: &'a RawValue,
        /// The URL of an image; in chat completions an object with the URL.
        pub image_url: &'a RawValue,
        /// How closely the model looks at an image.
        pub detail: &'a RawValue,
        /// The URL of a sound.
        pub audio_url: &'a RawValue,
        /// A sound, as in chat completions.
        pub input_audio: &'a RawValue,
        /// A file, as in chat completions.
        pub file: &'a RawValue,
        /// The id of a file in OpenAI's storage.
        pub file_id: &'a RawValue,
        /// The name of a file.
        pub filename: &'a RawValue,
        /// A file as a data URL.
        pub file_data: &'a RawValue,
        /// The URL of a file.
        pub file_url: &'a RawValue,
    }

    /// A medium, as in chat completions.
    pub struct ChatMedium<'a> {
        /// The URL of an image.
        pub url: &'a RawValue,
        /// How closely the model looks at it.
        pub detail: &'a RawValue,
        /// The base64 of a sound.
        pub data: &'a RawValue,
    }

    /// A tool, or a namespace of tools.
    pub struct ToolDefinition<'a> {
        /// `function`, `custom`, `namespace` and so on.
        pub kind as "type": &'a RawValue,
        /// Its name.
        pub name: &'a RawValue,
        /// What it is for.
        pub description: &'a RawValue,
        /// A function's parameters.
        pub parameters: &'a RawValue,
        /// A function, as in chat completions.
        pub function: &'a RawValue,
        /// A namespace's members.
        pub tools: &'a RawValue,
        /// The format of a custom tool's text.
        pub format: &'a RawValue,
        /// True if the model learns of it only by a search.
        pub defer_loading: &'a RawValue,
        /// Who runs a search: `client` or `server`.
        pub execution: &'a RawValue,
    }

    /// The format of a custom tool's text.
    pub struct CustomFormat<'a> {
        /// `grammar` or `text`.
        pub kind as "type": &'a RawValue,
        /// The language of the grammar: `lark` or `regex`.
        pub syntax: &'a RawValue,
        /// The grammar.
        pub definition: &'a RawValue,
    }

    /// What the local shell is to run.
    pub struct ShellAction<'a> {
        /// The program and its arguments.
        pub command: &'a RawValue,
        /// The most time that it may take.
        pub timeout_ms: &'a RawValue,
        /// Where it runs.
        pub working_directory: &'a RawValue,
        /// Variables of its environment.
        pub env: &'a RawValue,
    }

    /// Which tools the model may or must call.
    pub struct ToolChoice<'a> {
        /// `function`, `custom`, `allowed_tools` and so on.
        pub kind as "type": &'a RawValue,
        /// The name of a tool.
        pub name: &'a RawValue,
        /// Its namespace.
        pub namespace: &'a RawValue,
        /// The same, as in chat completions.
        pub function: &'a RawValue,
        /// `auto` or `required`.
        pub mode: &'a RawValue,
        /// The tools that may be called.
        pub tools: &'a RawValue,
    }
}

/// A value as a text: a string, or the digits of a number. `None` for `null`, lists and objects, and if
/// it is absent.
pub fn text<'a>(member: Option<&'a RawValue>) -> Option<Cow<'a, str>> {
    let json = member?.get();
    match json.as_bytes().first()? {
        b'"' => serde_json::from_str::<GoString<'a>>(json).ok().map(|text| text.0),
        b'[' | b'{' | b'n' => None,
        _ => Some(Cow::Borrowed(json)),
    }
}

/// A text that is not empty.
pub fn non_empty_text<'a>(member: Option<&'a RawValue>) -> Option<Cow<'a, str>> {
    text(member).filter(|text| !text.is_empty())
}

/// An object of this type; `None` for other values.
pub fn object<'a, T: serde::Deserialize<'a>>(member: Option<&'a RawValue>) -> Option<T> {
    let json = member?.get();
    json.starts_with('{').then(|| serde_json::from_str(json).ok()).flatten()
}

/// The elements of a list; an object counts as its only element, and other values as none.
pub fn elements(member: Option<&RawValue>) -> Vec<&RawValue> {
    let Some(raw) = member else { return Vec::new() };
    match raw.get().as_bytes().first() {
        Some(b'[') => serde_json::from_str(raw.get()).unwrap_or_default(),
        Some(b'{') => vec![raw],
        _ => Vec::new(),
    }
}

/// True for the value `true`.
pub fn is_true(member: Option<&RawValue>) -> bool {
    member.is_some_and(|raw| raw.get() == "true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_any_type_are_read_as_far_as_they_go() {
        let raw = |json: &str| RawValue::from_string(json.to_owned()).expect("valid");
        let cases = [
            (r#""a\n""#, Some("a\n"), 0),
            ("5.0", Some("5.0"), 0),
            ("true", Some("true"), 0),
            ("null", None, 0),
            ("[1,[2]]", None, 2),
            (r#"{"a":1}"#, None, 1),
            (r#""""#, Some(""), 0),
        ];
        for (json, as_text, count) in cases {
            let value = raw(json);
            assert_eq!(text(Some(&value)).as_deref(), as_text, "{json}");
            assert_eq!(elements(Some(&value)).len(), count, "{json}");
            assert_eq!(is_true(Some(&value)), json == "true");
            let item: Option<InputItem<'_>> = object(Some(&value));
            assert_eq!(item.is_some(), json.starts_with('{'), "{json}");
        }
        assert_eq!((text(None), elements(None).len()), (None, 0));
        assert_eq!(non_empty_text(Some(&raw(r#""""#))), None);
    }

    #[test]
    fn an_item_keeps_its_members_whatever_their_types() {
        let json = r#"{"TYPE":5,"role":null,"content":[{}],"call_id":{"a":1},"unknown":[[]]}"#;
        let item: InputItem<'_> = serde_json::from_str(json).expect("valid");
        assert_eq!(item.kind.map(RawValue::get), Some("5"));
        assert!(item.role.is_none());
        assert_eq!(item.content.map(RawValue::get), Some("[{}]"));
        assert_eq!(item.call_id.map(RawValue::get), Some(r#"{"a":1}"#));
    }
}
