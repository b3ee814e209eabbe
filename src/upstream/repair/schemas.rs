//! Reduces the schemas of a request to the keywords that Ollama itself keeps (`api/types.go`, `ToolFunction`
//! and `ToolProperty`, v0.32.15), which every upstream takes.
//!
//! References into the schema itself are replaced by what they point to. Invariant: tools, properties,
//! their order, types, descriptions, `enum` and `required` stay; depth and size are bounded.

use std::borrow::Cow;

use super::document::{Document, RESPONSE_FORMAT, TOOLS};
use crate::api::openai::raw_object;
use crate::api::openai::raw_object::RawObject;

/// Levels of a schema; deeper ones become any object.
const MAX_DEPTH: usize = 32;
/// The most bytes of a reduced schema beyond twice its own length, since references may multiply it.
const MAX_EXTRA_BYTES: usize = 64 * 1024;
/// What stands for a schema that refers to itself, or that is too deep.
const ANY_OBJECT: &str = r#"{"type":"object"}"#;

/// Reduces the schemas of all tools and of the response format; returns whether one changed.
pub(super) fn reduce_all(document: &mut Document<'_>) -> bool {
    let tools = document.get(TOOLS).and_then(reduce_tools);
    let format = document.get(RESPONSE_FORMAT).and_then(reduce_format);
    let changed = tools.is_some() || format.is_some();
    if let Some(tools) = tools {
        document.set(TOOLS, tools);
    }
    if let Some(format) = format {
        document.set(RESPONSE_FORMAT, format);
    }
    changed
}

fn reduce_tools(tools: &str) -> Option<String> {
    let mut changed = false;
    let tools = raw_object::parse_items(tools)?.into_iter().map(|tool| {
        let reduced = reduce_member(tool, &["function", "parameters"]);
        changed |= reduced.is_some();
        reduced.unwrap_or_else(|| tool.to_owned())
    });
    let tools: Vec<String> = tools.collect();
    changed.then(|| raw_object::join_items(&tools))
}

fn reduce_format(format: &str) -> Option<String> {
    reduce_member(format, &["json_schema", "schema"])
}

/// Reduces the schema at a path within an object, and removes `strict` beside it, which asks for keywords
/// that go; `None` if nothing changes.
fn reduce_member(object: &str, path: &[&str]) -> Option<String> {
    let mut object = RawObject::parse(object)?;
    let (member, rest) = path.split_first()?;
    let value = object.get(member)?;
    if !rest.is_empty() {
        let inner = reduce_member(value, rest)?;
        object.set(member, inner);
        return Some(object.to_json());
    }
    let reduced = reduce(value)?;
    if equals(&reduced, value) {
        return None;
    }
    object.set(member, reduced);
    object.remove("strict");
    Some(object.to_json())
}

/// True if two JSON texts are the same value.
fn equals(a: &str, b: &str) -> bool {
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    a == b || (parse(a).is_some() && parse(a) == parse(b))
}

/// A schema with Ollama's keywords only; `None` if it is no object.
pub(super) fn reduce(text: &str) -> Option<String> {
    let root = RawObject::parse(text)?;
    let mut reducer =
        Reducer { root: &root, open: Vec::new(), room: 2 * text.len() + MAX_EXTRA_BYTES };
    let mut schema = reducer.resolve(root.clone(), 0)?;
    merge_alternatives(&mut schema);
    let mut out = RawObject::default();
    out.set("type", correct_type(schema.get("type").unwrap_or("\"object\"")));
    for keyword in ["items", "required", "properties"] {
        if let Some(value) = schema.get(keyword) {
            out.set(keyword, reducer.keyword(keyword, value, 0));
        }
    }
    Some(out.to_json())
}

struct Reducer<'r, 'a> {
    root: &'r RawObject<'a>,
    /// The references that are being replaced.
    open: Vec<String>,
    /// Bytes that may still be written.
    room: usize,
}

impl Reducer<'_, '_> {
    /// The reduced form of a schema below the root.
    fn schema(&mut self, text: &str, depth: usize) -> String {
        if depth >= MAX_DEPTH || self.room < text.len().min(64) {
            return ANY_OBJECT.to_owned();
        }
        let opened = self.open.len();
        let Some(schema) =
            RawObject::parse(text).and_then(|it| self.resolve(it.into_owned(), depth))
        else {
            // `true`, `false`, or a reference to itself.
            return ANY_OBJECT.to_owned();
        };
        let mut out = RawObject::default();
        for keyword in ["anyOf", "type", "items", "description", "enum", "properties", "required"] {
            if let Some(value) = schema.get(keyword) {
                let value = self.keyword(keyword, value, depth);
                out.set(keyword, value);
            }
        }
        self.open.truncate(opened);
        let text = out.to_json();
        self.room = self.room.saturating_sub(text.len());
        text
    }

    fn keyword(&mut self, keyword: &str, value: &str, depth: usize) -> String {
        let mut inner = |text: &str| self.schema(text, depth + 1);
        match keyword {
            "items" if value.starts_with('{') => inner(value),
            "items" => ANY_OBJECT.to_owned(),
            "anyOf" => {
                let list = raw_object::parse_items(value).unwrap_or_default();
                raw_object::join_items(&list.into_iter().map(inner).collect::<Vec<_>>())
            }
            "properties" => {
                let Some(properties) = RawObject::parse(value) else { return "{}".to_owned() };
                let mut out = RawObject::default();
                for (name, schema) in properties.members() {
                    out.set(name, inner(schema));
                }
                out.to_json()
            }
            "type" => correct_type(value),
            _ => value.to_owned(),
        }
    }

    /// A schema without `$ref`, `const`, `oneOf` and `allOf`; `None` where a reference is one to itself.
    fn resolve<'s>(&mut self, mut schema: RawObject<'s>, depth: usize) -> Option<RawObject<'s>> {
        for _ in 0..MAX_DEPTH {
            let Some(reference) = schema.get_string("$ref") else { break };
            if self.open.contains(&reference) {
                return None;
            }
            let target = self.find(&reference)?.into_owned();
            self.open.push(reference);
            let own = schema.get("description").map(str::to_owned);
            schema = target;
            if let Some(description) = own {
                schema.set("description", description);
            }
        }
        if let Some(value) = schema.get("const").map(|value| format!("[{value}]")) {
            schema.remove("const");
            schema.set("enum", value);
        }
        if !schema.has_value("anyOf") {
            schema.rename("oneOf", "anyOf");
        }
        if let Some(parts) = schema.get("allOf").map(str::to_owned) {
            schema.remove("allOf");
            for part in raw_object::parse_items(&parts)? {
                let part = RawObject::parse(part)?.into_owned();
                if depth < MAX_DEPTH {
                    merge_into(&mut schema, &self.resolve(part, depth + 1)?);
                }
            }
        }
        move_type_into_alternatives(&mut schema);
        Some(schema)
    }

    /// What a reference into the schema points to.
    fn find(&self, reference: &str) -> Option<RawObject<'_>> {
        let path = reference.strip_prefix('#')?;
        let mut found = Cow::Borrowed(self.root);
        for step in path.split('/').filter(|step| !step.is_empty()) {
            let step = step.replace("~1", "/").replace("~0", "~");
            let next = RawObject::parse(found.get(&step)?)?.into_owned();
            found = Cow::Owned(next);
        }
        Some(found.into_owned())
    }
}

/// A type that JSON Schema has: its own, the one that another language means, or else a string. Ollama
/// takes any.
fn correct_type(value: &str) -> String {
    let Some(name) = serde_json::from_str::<String>(value).ok() else { return value.to_owned() };
    let known = match name.to_ascii_lowercase().as_str() {
        "object" | "dict" | "map" => "object",
        "array" | "list" | "tuple" => "array",
        "number" | "float" | "double" => "number",
        "integer" | "int" | "long" => "integer",
        "boolean" | "bool" => "boolean",
        "null" | "none" => "null",
        _ => "string",
    };
    raw_object::quote_json(known)
}

/// A `type` beside `anyOf` moves into the alternatives that have none.
fn move_type_into_alternatives(schema: &mut RawObject<'_>) {
    let (Some(kind), Some(list)) = (schema.get("type"), schema.get("anyOf")) else { return };
    let kind = kind.to_owned();
    let alternatives = raw_object::parse_items(list).unwrap_or_default().into_iter().map(|text| {
        let Some(mut alternative) = RawObject::parse(text) else { return text.to_owned() };
        let says =
            ["type", "$ref", "anyOf", "oneOf"].iter().any(|word| alternative.has_value(word));
        if !says {
            alternative.set("type", kind.clone());
        }
        alternative.to_json()
    });
    let alternatives = raw_object::join_items(&alternatives.collect::<Vec<_>>());
    schema.set("anyOf", alternatives);
    schema.remove("type");
}

/// Adds the properties and requirements of a part to a schema; the schema's own keywords win.
fn merge_into(schema: &mut RawObject<'_>, part: &RawObject<'_>) {
    for (name, value) in part.members() {
        let merged = match (name, schema.get(name)) {
            ("properties", Some(own)) => {
                let (Some(mut own), Some(more)) = (RawObject::parse(own), RawObject::parse(value))
                else {
                    continue;
                };
                for (name, value) in more.members() {
                    if own.get(name).is_none() {
                        own.set(name, value.to_string());
                    }
                }
                own.to_json()
            }
            ("required", Some(own)) => {
                let mut all = raw_object::parse_items(own).unwrap_or_default();
                let more = raw_object::parse_items(value).unwrap_or_default();
                all.extend(more.into_iter().filter(|name| !own.contains(name)));
                raw_object::join_items(&all)
            }
            (_, Some(_)) => continue,
            (_, None) => value.to_string(),
        };
        schema.set(name, merged);
    }
}

/// At the root, where Ollama knows no alternatives, the properties of all of them are offered.
fn merge_alternatives(schema: &mut RawObject<'_>) {
    let Some(list) = schema.get("anyOf").map(str::to_owned) else { return };
    for alternative in raw_object::parse_items(&list).unwrap_or_default() {
        if let Some(mut alternative) = RawObject::parse(alternative) {
            // Not all of them ask for it.
            alternative.remove("required");
            merge_into(schema, &alternative);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(schema: Value, expected: Value) {
        let found = reduce(&schema.to_string()).expect("an object");
        assert_eq!(serde_json::from_str::<Value>(&found).expect("JSON"), expected, "{schema}");
        let again = reduce(&found).expect("an object");
        assert_eq!(
            serde_json::from_str::<Value>(&again).expect("JSON"),
            expected,
            "once is enough"
        );
    }

    #[test]
    fn the_keywords_of_ollama_stay() {
        check(
            json!({"$schema": "x", "title": "T", "description": "d", "additionalProperties": false,
                "type": "object", "required": ["a"], "properties": {
                    "a": {"type": "string", "description": "A", "pattern": "^x", "minLength": 1,
                        "format": "date", "default": "y", "title": "A"},
                    "b": {"type": "array", "items": {"type": "object", "additionalProperties": true,
                        "properties": {"c": {"const": 5}}, "required": ["c"]}}}}),
            json!({"type": "object", "required": ["a"], "properties": {
                "a": {"type": "string", "description": "A"},
                "b": {"type": "array", "items": {"type": "object",
                    "properties": {"c": {"enum": [5]}}, "required": ["c"]}}}}),
        );
        check(json!({"properties": {}}), json!({"type": "object", "properties": {}}));
    }

    #[test]
    fn types_of_other_languages_become_those_of_json() {
        check(
            json!({"type": "dict", "properties": {"a": {"type": "float"}, "b": {"type": "Integer"},
                "c": {"type": "city"}, "d": {"type": ["string", "null"]}}}),
            json!({"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "integer"},
                "c": {"type": "string"}, "d": {"type": ["string", "null"]}}}),
        );
    }

    #[test]
    fn references_are_replaced_and_circles_end() {
        let node = json!({"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"},
            "kind": {"$ref": "#/$defs/Kind", "description": "own"}}});
        check(
            json!({"type": "object", "$defs": {"Node": node, "Kind": {"type": "string", "enum": ["a"],
                "description": "theirs"}}, "properties": {"root": {"$ref": "#/$defs/Node"}}}),
            json!({"type": "object", "properties": {"root": {"type": "object", "properties": {
                "next": {"type": "object"},
                "kind": {"type": "string", "enum": ["a"], "description": "own"}}}}}),
        );
        check(
            json!({"properties": {"x": {"$ref": "https://elsewhere"}}}),
            json!({"type": "object", "properties": {"x": {"type": "object"}}}),
        );
    }

    #[test]
    fn alternatives_become_any_of_and_have_the_type() {
        check(
            json!({"type": "object", "properties": {
                "a": {"type": "string", "oneOf": [{"enum": ["x"]}, {"type": "null"}]},
                "b": {"allOf": [{"properties": {"c": {"type": "string"}}, "required": ["c"]},
                    {"properties": {"d": {"type": "number"}}, "required": ["d"]}], "type": "object"}}}),
            json!({"type": "object", "properties": {
                "a": {"anyOf": [{"type": "string", "enum": ["x"]}, {"type": "null"}]},
                "b": {"type": "object", "properties": {"c": {"type": "string"}, "d": {"type": "number"}},
                    "required": ["c", "d"]}}}),
        );
        check(
            json!({"oneOf": [{"properties": {"a": {"type": "string"}}, "required": ["a"]},
                {"properties": {"b": {"type": "string"}}}]}),
            json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}),
        );
    }

    #[test]
    fn the_order_of_properties_is_kept() {
        let text =
            r#"{"type":"object","properties":{"z":{"type":"string"},"a":{"type":"string","x":1}}}"#;
        let reduced = reduce(text).expect("an object");
        assert!(reduced.find("\"z\"") < reduced.find("\"a\""), "{reduced}");
    }

    #[test]
    fn depth_and_size_are_bounded() {
        let mut deep = json!({"type": "string"});
        for _ in 0..100 {
            deep = json!({"type": "object", "properties": {"x": deep}});
        }
        assert!(reduce(&deep.to_string()).expect("an object").len() < 3000);
        // Each level refers twice to the next: 2^40 without a bound.
        let mut defs = serde_json::Map::new();
        for level in 0..30 {
            let next = json!({"$ref": format!("#/$defs/d{}", level + 1)});
            defs.insert(format!("d{level}"), json!({"properties": {"a": next, "b": next}}));
        }
        defs.insert("d30".into(), json!({"type": "string"}));
        let schema =
            json!({"$defs": defs, "properties": {"r": {"$ref": "#/$defs/d0"}}}).to_string();
        let reduced = reduce(&schema).expect("an object");
        assert!(reduced.len() < 4 * (2 * schema.len() + MAX_EXTRA_BYTES), "{}", reduced.len());
    }

    #[test]
    fn only_tools_and_formats_that_need_it_are_changed() {
        let tool = |schema: Value| json!({"type": "function", "function": {"name": "f", "parameters": schema}});
        let plain = json!({"type": "object", "properties": {}});
        let tools = json!([tool(plain.clone()), tool(json!({"type": "object", "title": "x"}))]);
        let reduced = reduce_tools(&tools.to_string()).expect("changed");
        let reduced: Value = serde_json::from_str(&reduced).expect("JSON");
        assert_eq!(reduced[0], tools[0]);
        assert_eq!(reduced[1]["function"]["parameters"], json!({"type": "object"}));
        assert_eq!(reduce_tools(&json!([tool(plain)]).to_string()), None);
        assert_eq!(reduce_format(r#"{"type":"json_object"}"#), None);
    }
}
