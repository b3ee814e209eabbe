//! The shape of a JSON text: its members in order, with the type of each instead of its value.

use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The shape of a JSON text: `{name:text,size:int}`, `[text]` for a list of any length above 0 and
/// `[int|text]` for one of several shapes. A text that is a time in any zone is a `time`, one of 64
/// hex digits a `digest`, an empty one `""`.
pub fn shape(json: &str) -> String {
    match json.trim_start().as_bytes().first() {
        Some(b'{') => {
            let Members(members) = serde_json::from_str(json).expect("an object");
            let members: Vec<String> = members
                .iter()
                .map(|(name, value)| format!("{name}:{}", shape(value.get())))
                .collect();
            format!("{{{}}}", members.join(","))
        }
        Some(b'[') => {
            let items: Vec<Box<RawValue>> = serde_json::from_str(json).expect("a list");
            let mut shapes: Vec<String> = items.iter().map(|item| shape(item.get())).collect();
            shapes.dedup();
            format!("[{}]", shapes.join("|"))
        }
        Some(b'"') => text(&serde_json::from_str::<String>(json).expect("a text")).to_owned(),
        Some(b't' | b'f') => "bool".to_owned(),
        Some(b'n') => "null".to_owned(),
        _ if json.contains(['.', 'e', 'E']) => "float".to_owned(),
        _ => "int".to_owned(),
    }
}

/// The items of the list `name` in an object, as they stand there.
pub fn items(json: &str, name: &str) -> Vec<String> {
    let Members(members) = serde_json::from_str(json).expect("an object");
    let (_, list) = members.iter().find(|(known, _)| known == name).expect(name);
    let items: Vec<Box<RawValue>> = serde_json::from_str(list.get()).expect("a list");
    items.iter().map(|item| item.get().to_owned()).collect()
}

fn text(text: &str) -> &'static str {
    if text.is_empty() {
        "\"\""
    } else if OffsetDateTime::parse(text, &Rfc3339).is_ok() {
        "time"
    } else if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        "digest"
    } else {
        "text"
    }
}

/// The members of an object, in order.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> serde::Deserialize<'de> for Members {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> serde::de::Visitor<'de> for InOrder {
            type Value = Members;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}
