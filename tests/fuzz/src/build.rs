//! JSON that bytes decide: requests of the right outline whose members are of any type.
//!
//! Bytes that are JSON already are taken as they are, so that seeds say what they mean. All others are a
//! row of choices, since hardly a mutation of a text stays JSON.

use serde_json::{Map, Value, json};

/// The deepest value that is made.
const MAX_DEPTH: usize = 3;

/// The most elements of a list that is made.
const MAX_ITEMS: usize = 12;

/// Texts that are common or odd.
const TEXTS: &[&str] = &[
    "",
    " ",
    "a",
    "word",
    "call_1",
    "call_2",
    "call_3",
    "f",
    "g",
    "get_weather",
    "user",
    "assistant",
    "system",
    "developer",
    "tool",
    "{}",
    "{\"a\":1}",
    "{\"a\":",
    "[1]",
    "null",
    "text/plain",
    "image/png",
    "auto",
    "https://h.test/a.png",
    "data:image/png;base64,iVBORw0KGgo=",
    "iVBORw0KGgo=",
    "e\u{301}",
    "\u{0}",
    "\u{2028}",
    "<think>",
    "</think>",
    "completed",
    "high",
    "tool name with blanks \u{e9}",
];

/// A row of choices; 0 for ever behind the last byte.
pub struct Choices<'a> {
    bytes: &'a [u8],
}

impl<'a> Choices<'a> {
    /// The choices of these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// A number below another one.
    pub fn below(&mut self, end: usize) -> usize {
        let Some((first, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        usize::from(*first) % end.max(1)
    }

    /// One of these.
    pub fn one<'v, T>(&mut self, values: &'v [T]) -> &'v T {
        &values[self.below(values.len())]
    }

    /// Whether bytes are left.
    pub fn has_more(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// A text.
    pub fn text(&mut self) -> String {
        (*self.one(TEXTS)).to_owned()
    }

    /// Any value.
    pub fn any(&mut self, depth: usize) -> Value {
        match self.below(if depth < MAX_DEPTH { 9 } else { 6 }) {
            0 => Value::Null,
            1 => (self.below(2) == 0).into(),
            2 => json!(self.below(256) as i64 - 3),
            3 => json!(1.5),
            4 | 5 => self.text().into(),
            6 => (0..self.below(3)).map(|_| self.any(depth + 1)).collect(),
            _ => {
                let mut object = Map::new();
                for _ in 0..self.below(3) {
                    let name =
                        (*self.one(&["type", "text", "content", "name", "id", "a"])).to_owned();
                    object.insert(name, self.any(depth + 1));
                }
                Value::Object(object)
            }
        }
    }

    /// An object of one of these kinds: its type, and its members, each with the way to make it. A member is
    /// as it should be, missing, or anything.
    pub fn object(&mut self, kinds: &[Kind]) -> Value {
        let kind = self.below(kinds.len());
        let Kind { name, members } = &kinds[kind];
        let mut object = Map::new();
        if !name.is_empty() {
            object.insert("type".into(), (*name).into());
        }
        for (member, make) in *members {
            match self.below(8) {
                0 => {}
                1 => drop(object.insert((*member).into(), self.any(1))),
                _ => drop(object.insert((*member).into(), make(self))),
            }
        }
        if self.below(16) == 0 {
            object.insert("unheard_of".into(), self.any(1));
        }
        Value::Object(object)
    }

    /// A list of such objects.
    pub fn objects(&mut self, kinds: &[Kind]) -> Value {
        let count = 1 + self.below(4);
        (0..count).map(|_| self.object(kinds)).collect()
    }
}

/// A type of objects.
pub struct Kind {
    /// The value of `type`; empty where it is left out.
    pub name: &'static str,
    /// The members beside it.
    pub members: &'static [(&'static str, Make)],
}

/// Makes the value of a member.
pub type Make = fn(&mut Choices<'_>) -> Value;

/// The bytes as a list of JSON values, or objects that they decide.
#[must_use]
pub fn list(data: &[u8], kinds: &[Kind]) -> Vec<Value> {
    if let Ok(Value::Array(items)) = serde_json::from_slice(data) {
        return items;
    }
    let mut choices = Choices::new(data);
    let mut items = Vec::new();
    while choices.has_more() && items.len() < MAX_ITEMS {
        items.push(choices.object(kinds));
    }
    items
}

/// A text.
pub fn text(choices: &mut Choices<'_>) -> Value {
    choices.text().into()
}

/// One of few ids, so that calls and results meet.
pub fn id(choices: &mut Choices<'_>) -> Value {
    (*choices.one(&["call_1", "call_2", "call_3", "fc_1", "toolu_01"])).into()
}

/// The name of a tool.
pub fn name(choices: &mut Choices<'_>) -> Value {
    (*choices.one(&["f", "g", "get_weather", "shell", "mcp__files__read"])).into()
}

/// The text of an object.
pub fn arguments(choices: &mut Choices<'_>) -> Value {
    (*choices.one(&["{}", "{\"a\":1}", "{\"a\":{\"b\":[1,\"\\u00e9\"]}}", "{\"a\":", "", "5"]))
        .into()
}

/// Any value.
pub fn any(choices: &mut Choices<'_>) -> Value {
    choices.any(0)
}
