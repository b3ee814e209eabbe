//! Adds the defaults of a virtual model to a request of Ollama's own API that is passed to an Ollama.
//!
//! What is missing is inserted as text; every byte that the client wrote stays, and the request wins. Pure.

use std::ops::Range;

use super::VirtualModel;
use crate::api::ollama::decode::GoString;
use crate::api::ollama::native::find_member;
use crate::api::openai::raw_object::{self, collect_members, quote_json};
use crate::api::wire::small_sort;

/// A route of Ollama's whose requests have defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NativeRoute {
    /// `/api/chat`.
    Chat,
    /// `/api/generate`.
    Generate,
    /// `/api/embed` and `/api/embeddings`.
    Embed,
}

impl VirtualModel {
    /// True if it is nothing but another name.
    pub fn is_alias(&self) -> bool {
        let texts = [&self.system, &self.template, &self.renderer, &self.parser, &self.requires];
        texts.iter().all(|text| text.is_empty())
            && self.license.is_empty()
            && self.parameters.is_empty()
            && self.messages.is_empty()
    }

    /// The request with the model's defaults where it says nothing: options, the system prompt, and first
    /// messages. `None` where the route has no member for them, or the body is no request.
    pub fn apply_to_native(&self, body: &str, route: NativeRoute) -> Option<String> {
        let members = collect_members(body.as_bytes());
        let get = |key: &str| find_member(&members, key).map(|(_, value)| value.as_ref());
        let mut insertions: Vec<(usize, String)> = Vec::new();
        let mut additions = String::new();
        match route {
            NativeRoute::Chat => {
                if let Some(messages) = get("messages") {
                    let place = raw_object::subslice_range(body.as_bytes(), messages);
                    insertions
                        .extend(self.first_messages(messages).map(|it| (place.start + 1, it)));
                }
            }
            NativeRoute::Generate => {
                let is_raw = get("raw") == Some("true");
                let continues = get("context").is_some();
                if !self.messages.is_empty() && !is_raw && !continues {
                    return None;
                }
                let is_empty = |text: &str| matches!(serde_json::from_str(text), Ok(""));
                if !self.system.is_empty() && !is_raw && get("system").is_none_or(is_empty) {
                    additions += &format!(",\"system\":{}", quote_json(&self.system));
                }
            }
            NativeRoute::Embed => {}
        }
        match get("options") {
            Some(options) => {
                let place = raw_object::subslice_range(body.as_bytes(), options);
                insertions.extend(self.missing_options(options, &place));
            }
            None if self.parameters.is_empty() => {}
            None => {
                let options = serde_json::to_string(&self.parameters).ok()?;
                additions += &format!(",\"options\":{options}");
            }
        }
        if !additions.is_empty() {
            // Without a member there is no model.
            let (_, last) = members.last()?;
            let end = raw_object::subslice_range(body.as_bytes(), last).end;
            insertions.push((end, additions));
        }
        Some(insert_all(body, insertions))
    }

    /// What is inserted before the messages of a chat, with a comma; nothing where the request has none,
    /// because it loads the model.
    fn first_messages(&self, messages: &str) -> Option<String> {
        let own = raw_object::parse_items(messages).filter(|own| !own.is_empty())?;
        let first = collect_members(own[0].as_bytes());
        let role = find_member(&first, "role").map(|(_, role)| role.as_ref()).unwrap_or_default();
        let role: GoString<'_> = serde_json::from_str(role).unwrap_or_default();
        let mut out = String::new();
        if !self.system.is_empty() && !role.eq_ignore_ascii_case("system") {
            let system = quote_json(&self.system);
            out += &format!("{{\"role\":\"system\",\"content\":{system}}},");
        }
        self.messages.iter().for_each(|message| out += &format!("{},", message.get()));
        (!out.is_empty()).then_some(out)
    }

    /// What is inserted into the options of a request: those that it lacks, or that are null.
    fn missing_options(&self, options: &str, place: &Range<usize>) -> Option<(usize, String)> {
        if !options.starts_with('{') {
            return None;
        }
        let own = collect_members(options.as_bytes());
        let is_set = |name: &str| own.iter().any(|(key, value)| key == name && value != "null");
        let missing = self.parameters.iter().filter(|(name, _)| !is_set(name));
        let mut out: String =
            missing.map(|(name, value)| format!(",{}:{value}", quote_json(name))).collect();
        if own.is_empty() && !out.is_empty() {
            out.remove(0);
        }
        let end = own.last().map_or(place.start + 1, |(_, value)| {
            place.start + raw_object::subslice_range(options.as_bytes(), value).end
        });
        (!out.is_empty()).then_some((end, out))
    }
}

/// A text with others inserted at these places.
fn insert_all(text: &str, mut insertions: Vec<(usize, String)>) -> String {
    small_sort::sort_by_key(&mut insertions, |(place, _)| *place);
    let mut out = String::with_capacity(text.len() + 256);
    let mut done = 0;
    for (place, insertion) in insertions {
        out.push_str(&text[done..place]);
        out.push_str(&insertion);
        done = place;
    }
    out.push_str(&text[done..]);
    out
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::json;
    use serde_json::value::RawValue;

    use super::*;

    fn mario() -> VirtualModel {
        let mut model = VirtualModel::alias("mario", "m", SystemTime::UNIX_EPOCH);
        model.system = "You are \"Mario\".".into();
        model.parameters = json!({"num_ctx": 9, "seed": 7}).as_object().expect("an object").clone();
        model
    }

    fn with_messages() -> VirtualModel {
        let stored = RawValue::from_string(r#"{"role":"user","content":"Who?"}"#.to_owned());
        VirtualModel { messages: vec![stored.expect("JSON")], ..mario() }
    }

    #[test]
    fn a_chat_gets_what_it_lacks_and_keeps_its_bytes() {
        let system = r#"{"role":"system","content":"You are \"Mario\"."},"#;
        let stored = r#"{"role":"user","content":"Who?"},"#;
        let check = |body: &str, expected: &str| {
            let expected = expected.replace("SYSTEM", system).replace("STORED", stored);
            let changed = with_messages().apply_to_native(body, NativeRoute::Chat);
            assert_eq!(changed, Some(expected), "{body}");
        };
        check(
            r#"{ "model":"m", "messages" : [ {"role":"user","x":1.50} ], "new":[ 1 ] } rest"#,
            r#"{ "model":"m", "messages" : [SYSTEMSTORED {"role":"user","x":1.50} ], "new":[ 1 ],"options":{"num_ctx":9,"seed":7} } rest"#,
        );
        check(
            r#"{"model":"m","Options":{ "seed" : 1 , "num_ctx":null },"messages":[{"Role":"System"}]}"#,
            r#"{"model":"m","Options":{ "seed" : 1 , "num_ctx":null,"num_ctx":9 },"messages":[STORED{"Role":"System"}]}"#,
        );
        check(
            r#"{"model":"m","options":{ },"messages":[],"keep_alive":0}"#,
            r#"{"model":"m","options":{"num_ctx":9,"seed":7 },"messages":[],"keep_alive":0}"#,
        );
        check(
            r#"{"model":"m","options":null}"#,
            r#"{"model":"m","options":null,"options":{"num_ctx":9,"seed":7}}"#,
        );
        // What is no request is the server's to refuse.
        check(
            r#"{"model":"m","messages":5,"options":5}"#,
            r#"{"model":"m","messages":5,"options":5}"#,
        );
    }

    #[test]
    fn a_prompt_gets_what_it_lacks() {
        let check = |body: &str, expected: &str| {
            let options = r#""options":{"num_ctx":9,"seed":7}"#;
            let expected = expected
                .replace("SYSTEM", r#""system":"You are \"Mario\".""#)
                .replace("OPTIONS", options);
            let changed = mario().apply_to_native(body, NativeRoute::Generate);
            assert_eq!(changed, Some(expected), "{body}");
        };
        check(r#"{"model":"m","prompt":"x"}"#, r#"{"model":"m","prompt":"x",SYSTEM,OPTIONS}"#);
        check(
            r#"{"model":"m","system":"","context":[1]}"#,
            r#"{"model":"m","system":"","context":[1],SYSTEM,OPTIONS}"#,
        );
        check(
            r#"{"model":"m","system":"Luigi","options":{"seed":1,"num_ctx":2}}"#,
            r#"{"model":"m","system":"Luigi","options":{"seed":1,"num_ctx":2}}"#,
        );
        check(r#"{"model":"m","raw":true}"#, r#"{"model":"m","raw":true,OPTIONS}"#);
    }

    #[test]
    fn first_messages_have_no_place_in_a_prompt() {
        let native = |body: &str| with_messages().apply_to_native(body, NativeRoute::Generate);
        assert_eq!(native(r#"{"model":"m","prompt":"x"}"#), None);
        assert!(native(r#"{"model":"m","prompt":"x","raw":true}"#).is_some());
        assert!(native(r#"{"model":"m","prompt":"x","context":[1]}"#).is_some());
    }

    #[test]
    fn embeddings_get_the_options_and_an_alias_gives_nothing() {
        let body = r#"{"model":"m","input":"x"}"#;
        let embed = mario().apply_to_native(body, NativeRoute::Embed);
        let expected = r#"{"model":"m","input":"x","options":{"num_ctx":9,"seed":7}}"#;
        assert_eq!(embed.as_deref(), Some(expected));
        let alias = VirtualModel::alias("a", "m", SystemTime::UNIX_EPOCH);
        assert!(alias.is_alias() && !mario().is_alias());
        for route in [NativeRoute::Chat, NativeRoute::Generate, NativeRoute::Embed] {
            assert_eq!(alias.apply_to_native(body, route).as_deref(), Some(body));
        }
    }
}
