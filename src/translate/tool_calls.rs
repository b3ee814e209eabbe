//! Assembles tool calls from the pieces in which upstreams send them.
//!
//! Ollama shows a call once, whole. A piece belongs to the call with its index, else with its id, else
//! to the last call; a new id at a known index begins a new call, because some servers give every call
//! the index 0, and so does a name behind a whole call. Arguments that are no object are handed on as the
//! model wrote them: the client tells the model, which then mends its call.
//! Invariant: every call that began is returned once, and no two have the same id. Calls are never lost
//! or invented.

use std::borrow::Cow;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::api::openai::chunk::{FunctionCallDelta, ToolCallDelta};
use crate::translate::lenient_json;

/// A complete call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompleteToolCall {
    /// The upstream's id, or a generated one.
    pub id: String,
    /// The place among the calls of the response, from 0.
    pub index: usize,
    /// The function's name.
    pub name: String,
    /// A JSON object on one line, with the keys in the upstream's order; or what the model wrote instead.
    pub arguments: String,
    /// The object that stands for arguments that are none.
    pub substitute: Option<String>,
    /// JSON that the upstream expects back with the call; clients do not see it.
    pub extra_content: Option<String>,
}

impl CompleteToolCall {
    /// The arguments as a JSON object: as they are read leniently, if they are none, else their text.
    pub fn arguments_object(&self) -> &str {
        self.substitute.as_deref().unwrap_or(&self.arguments)
    }
}

/// The member of an object that holds what cannot be read as one.
const RAW_MEMBER: &str = "_raw";

/// The calls of one response.
#[derive(Debug, Default)]
pub struct ToolCallAssembler {
    /// Calls that were not returned yet.
    pending: Vec<PartialToolCall>,
    /// The calls that were returned.
    emitted: Vec<EmittedCall>,
    /// Makes generated ids differ from response to response.
    id_seed: u64,
    /// Bytes of all pieces.
    received_bytes: usize,
}

/// What is remembered of a call that was returned.
#[derive(Debug)]
struct EmittedCall {
    index: Option<u64>,
    /// The upstream's id.
    id: String,
    /// A hash of its name and its arguments.
    content: u64,
}

#[derive(Debug, Default)]
struct PartialToolCall {
    index: Option<u64>,
    id: String,
    name: String,
    arguments: String,
    extra_content: Option<String>,
}

impl ToolCallAssembler {
    /// An empty assembler. `seed` should differ from response to response.
    pub fn new(seed: &str) -> Self {
        Self { id_seed: fnv1a(seed.as_bytes(), 0), ..Self::default() }
    }

    /// Bytes of arguments and extras so far.
    pub fn received_bytes(&self) -> usize {
        self.received_bytes
    }

    /// True once a call has begun.
    pub fn has_calls(&self) -> bool {
        !self.emitted.is_empty() || !self.pending.is_empty()
    }

    /// True if there are calls that were not returned, all with complete arguments.
    pub fn are_whole(&self) -> bool {
        !self.pending.is_empty() && self.pending.iter().all(PartialToolCall::is_complete)
    }

    /// Adds a piece. A piece without a function begins no call, but may add to an open one.
    pub fn push(&mut self, fragment: ToolCallDelta<'_>) {
        let id = fragment.id.as_deref().unwrap_or_default();
        // Mistral sends "null" for an absent id.
        let id = if id == "null" { "" } else { id };
        let extra = fragment.extra_content.map(RawValue::get).filter(|extra| *extra != "null");
        let is_bare = fragment.function.is_none();
        let function = fragment.function.unwrap_or_default();
        let place = match self.find_pending(fragment.index, id, &function) {
            Some(place) => place,
            None if function.is_blank() && (id.is_empty() || is_bare) => return,
            None => {
                self.pending
                    .push(PartialToolCall { index: fragment.index, ..PartialToolCall::default() });
                self.pending.len() - 1
            }
        };
        self.received_bytes +=
            function.arguments.map_or(0, |raw| raw.get().len()) + extra.map_or(0, str::len);
        self.pending[place].append(id, &function);
        if let Some(extra) = extra {
            self.pending[place].extra_content = Some(extra.to_owned());
        }
    }

    /// The open call that a piece belongs to; `None` if it begins a new one. After a complete call,
    /// some servers mark a new one by a name only. With an index, a name alone is no mark, because some
    /// servers repeat it on each piece: arguments must come with it.
    fn find_pending(
        &self,
        index: Option<u64>,
        id: &str,
        function: &FunctionCallDelta<'_>,
    ) -> Option<usize> {
        let known = |call: &PartialToolCall| !id.is_empty() && call.id == id;
        let find_known = || {
            let place = self.pending.iter().rposition(known)?;
            (!self.pending[place].is_followed_by(function)).then_some(place)
        };
        let is_other = |call: &PartialToolCall| {
            !id.is_empty() && !call.id.is_empty() && call.id != id && !call.name.is_empty()
        };
        match index {
            Some(_) => {
                let same = self.pending.iter().rposition(|call| call.index == index)?;
                let call = &self.pending[same];
                if is_other(call) {
                    return find_known();
                }
                let has_more = function.has_arguments() && function.has_name();
                let begins_unnamed = has_more && id.is_empty() && call.is_complete();
                let begins_anew = begins_unnamed || known(call) && call.is_followed_by(function);
                (!begins_anew).then_some(same)
            }
            None if id.is_empty() => {
                let last = self.pending.len().checked_sub(1)?;
                let begins_anew = function.has_name() && self.pending[last].is_complete();
                (!begins_anew).then_some(last)
            }
            None => find_known(),
        }
    }

    /// Drops the incomplete calls, because nothing more will be read.
    pub fn drop_incomplete(&mut self) {
        self.pending.retain(PartialToolCall::is_complete);
    }

    /// Drops the calls that the token limit cut off. A call without arguments is one of them only if it
    /// is the last: those of a tool without parameters may be empty. Returns whether there were some.
    pub fn drop_cut_off(&mut self) -> bool {
        let count = self.pending.len();
        let last = count.saturating_sub(1);
        let mut place = 0..;
        self.pending.retain(|call| {
            let is_last = place.next() == Some(last);
            call.is_complete() || call.arguments.is_empty() && !is_last
        });
        self.pending.len() < count
    }

    /// Takes out complete calls, in order: all if the response `has_ended`, otherwise those before the
    /// last with complete arguments.
    pub fn take_complete(&mut self, has_ended: bool) -> Vec<CompleteToolCall> {
        let before_last = &self.pending[..self.pending.len().saturating_sub(1)];
        let count = match has_ended {
            true => self.pending.len(),
            // Pieces of an earlier call may still follow, though few servers send any.
            false => before_last.iter().take_while(|call| call.is_complete()).count(),
        };
        let partials: Vec<PartialToolCall> = self.pending.drain(..count).collect();
        partials.into_iter().filter_map(|partial| self.complete(partial)).collect()
    }

    /// The call; `None` for one that was returned before. Some servers repeat whole calls at the end.
    fn complete(&mut self, partial: PartialToolCall) -> Option<CompleteToolCall> {
        let PartialToolCall { index, id, name, arguments, extra_content } = partial;
        let object = normalize_arguments(&arguments)
            .or_else(|| normalize_arguments(extract_object(&arguments)?));
        let substitute = object.is_none().then(|| substitute_object(&arguments));
        let arguments = object.unwrap_or(arguments);
        let content = fnv1a(arguments.as_bytes(), fnv1a(name.as_bytes(), 0));
        let has_id = |call: &&EmittedCall| !id.is_empty() && call.id == id;
        let is_same_place =
            |other: Option<u64>| other.is_none() || index.is_none() || other == index;
        let mut same_id = self.emitted.iter().filter(has_id).peekable();
        let is_known = same_id.peek().is_some();
        if same_id.any(|call| call.content == content && is_same_place(call.index)) {
            return None;
        }
        let place = self.emitted.len();
        self.emitted.push(EmittedCall { index, id: id.clone(), content });
        // A result names its call by the id.
        let id = if id.is_empty() || is_known { self.generate_id(place) } else { id };
        Some(CompleteToolCall { id, index: place, name, arguments, substitute, extra_content })
    }

    /// An id in Ollama's form: `call_` and 8 lower-case letters or digits.
    fn generate_id(&self, index: usize) -> String {
        const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        let mut number = fnv1a(&index.to_le_bytes(), self.id_seed);
        let mut id = String::from("call_");
        for _ in 0..8 {
            // The remainder, below 36, fits into usize.
            id.push(char::from(DIGITS[(number % 36) as usize]));
            number /= 36;
        }
        id
    }
}

impl PartialToolCall {
    fn is_complete(&self) -> bool {
        // Parsing each of many pieces would take long.
        let may_be_whole = self.arguments.trim_end().ends_with(['}', '"', 'l']);
        may_be_whole && normalize_arguments(&self.arguments).is_some()
    }

    /// True if a piece with the id of this call is a call of its own: it has a name and arguments, and
    /// does not only repeat this one, which is complete.
    fn is_followed_by(&self, function: &FunctionCallDelta<'_>) -> bool {
        let Some(raw) = function.arguments.filter(|_| function.has_name()) else { return false };
        if !function.has_arguments() || !self.is_complete() {
            return false;
        }
        let is_same = || normalize_arguments(raw.get()) == normalize_arguments(&self.arguments);
        function.name.as_deref() != Some(self.name.as_str()) || !is_same()
    }

    fn append(&mut self, id: &str, function: &FunctionCallDelta<'_>) {
        if self.id.is_empty() {
            id.clone_into(&mut self.id);
        }
        let name = function.name.as_deref().unwrap_or_default();
        // Some servers repeat the name on every piece; few send the name itself in pieces.
        if self.name.is_empty() {
            name.clone_into(&mut self.name);
        } else if self.arguments.is_empty() && name != self.name {
            self.name.push_str(name);
        }
        match function.arguments {
            Some(raw) if raw.get().starts_with('"') => {
                let text: Cow<'_, str> = serde_json::from_str(raw.get()).unwrap_or_default();
                self.arguments.push_str(&text);
            }
            Some(raw) if raw.get() != "null" => self.arguments.push_str(raw.get()),
            _ => {}
        }
    }
}

impl FunctionCallDelta<'_> {
    fn has_name(&self) -> bool {
        self.name.as_ref().is_some_and(|name| !name.is_empty())
    }

    fn has_arguments(&self) -> bool {
        self.arguments.is_some_and(|raw| !matches!(raw.get(), "null" | "\"\""))
    }

    /// True if it holds no part of a call.
    fn is_blank(&self) -> bool {
        !self.has_name() && !self.has_arguments()
    }
}

/// The JSON object at the beginning of `text`: weak models write something else behind it.
fn extract_object(text: &str) -> Option<&str> {
    let text = text.trim_start();
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    if text.starts_with('{') { values.next()?.ok().map(RawValue::get) } else { None }
}

/// The object for the arguments of an earlier call that are none; `None` if they are one.
pub(crate) fn mend_arguments(text: &str) -> Option<String> {
    if serde_json::from_str::<Value>(text).is_ok_and(|it| it.is_object()) {
        return None;
    }
    // An object that was quoted twice.
    let inner = serde_json::from_str::<String>(text).ok();
    let text = inner.as_deref().unwrap_or(text);
    Some(normalize_arguments(text).unwrap_or_else(|| substitute_object(text)))
}

/// An object for arguments that are none: what a lenient reader finds, else one that keeps the text.
fn substitute_object(text: &str) -> String {
    let repaired = lenient_json::repair_object(text);
    repaired.unwrap_or_else(|| serde_json::json!({ RAW_MEMBER: text }).to_string())
}

/// The arguments as an object on one line. Empty ones are an empty object, and a string that holds an
/// object was encoded once too often.
fn normalize_arguments(text: &str) -> Option<String> {
    let text = text.trim();
    if text.is_empty() || text == "null" {
        return Some("{}".to_owned());
    }
    if text.starts_with('"') {
        return normalize_arguments(&serde_json::from_str::<String>(text).ok()?);
    }
    let raw: &RawValue = serde_json::from_str(text).ok()?;
    // Parsing also refuses an object that is nested deeper than clients can read.
    let is_object = serde_json::from_str::<Value>(raw.get()).is_ok_and(|it| it.is_object());
    is_object.then(|| compact_json(raw.get()))
}

/// Valid JSON without white space between its tokens, and without the characters at which some clients
/// split lines (U+0085, U+2028, U+2029).
pub(super) fn compact_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for character in json.chars() {
        match character {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            ' ' | '\n' | '\r' | '\t' if !in_string => continue,
            '\u{85}' | '\u{2028}' | '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(character)));
                continue;
            }
            _ => {}
        }
        out.push(character);
    }
    out
}

/// The FNV-1a hash, which is not cryptographic.
fn fnv1a(bytes: &[u8], seed: u64) -> u64 {
    bytes.iter().fold(seed ^ 0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds the pieces and shows the complete calls after each; `|` stands before those that came with
    /// the end.
    fn assemble(pieces: &[&str]) -> String {
        let mut assembler = ToolCallAssembler::new("seed");
        let mut out = String::new();
        let show = |calls: Vec<CompleteToolCall>, out: &mut String| {
            for call in calls {
                let CompleteToolCall { id, index, name, arguments, .. } = call;
                out.push_str(&format!("{index}:{id}:{name}({arguments}) "));
            }
        };
        for piece in pieces {
            assembler.push(serde_json::from_str(piece).expect("valid"));
            show(assembler.take_complete(false), &mut out);
        }
        out.push('|');
        show(assembler.take_complete(true), &mut out);
        out.trim_end().to_owned()
    }

    fn check(pieces: &[&str], expected: &str) {
        assert_eq!(assemble(pieces), expected, "{pieces:?}");
    }

    /// The same for one piece with these arguments, as JSON.
    fn one(arguments: &str) -> String {
        let function = format!(r#"{{"name":"f","arguments":{arguments}}}"#);
        assemble(&[&format!(r#"{{"index":0,"id":"a","function":{function}}}"#)])
    }

    #[test]
    fn pieces_are_assembled_by_index() {
        check(
            &[
                r#"{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":""}}"#,
                r#"{"index":0,"function":{"arguments":"{\"x\""}}"#,
                r#"{"index":0,"function":{"arguments":": 1}"}}"#,
                r#"{"index":1,"id":"b","function":{"name":"g","arguments":"{}"}}"#,
            ],
            r#"0:a:f({"x":1}) |1:b:g({})"#,
        );
    }

    #[test]
    fn pieces_of_two_calls_may_be_mixed() {
        check(
            &[
                r#"{"index":0,"id":"a","function":{"name":"f","arguments":"{\"x\""}}"#,
                r#"{"index":1,"id":"b","function":{"name":"g","arguments":"{\"y\""}}"#,
                r#"{"index":0,"function":{"arguments":":1}"}}"#,
                r#"{"index":1,"function":{"arguments":":2}"}}"#,
            ],
            r#"0:a:f({"x":1}) |1:b:g({"y":2})"#,
        );
    }

    #[test]
    fn without_an_index_ids_tell_calls_apart() {
        check(
            &[
                r#"{"id":"a","function":{"name":"f","arguments":"{\"x\":"}}"#,
                r#"{"function":{"arguments":"1}"}}"#,
                r#"{"id":"b","function":{"name":"f","arguments":"{}"}}"#,
            ],
            r#"0:a:f({"x":1}) |1:b:f({})"#,
        );
    }

    #[test]
    fn without_index_and_id_a_name_behind_a_whole_call_begins_a_new_one() {
        let pieces = [
            r#"{"function":{"name":"f","arguments":"{\"x\":1}"}}"#,
            r#"{"function":{"name":"f","arguments":"{\"x\":2}"}}"#,
        ];
        let found = assemble(&pieces);
        assert_eq!(found.matches("f({\"x\":").count(), 2, "{found}");
    }

    #[test]
    fn calls_that_all_have_index_0_are_told_apart_by_their_ids() {
        check(
            &[
                r#"{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}"#,
                r#"{"index":0,"id":"b","function":{"name":"f","arguments":"{}"}}"#,
            ],
            "0:a:f({}) |1:b:f({})",
        );
    }

    #[test]
    fn arguments_come_in_every_form() {
        let check = |arguments: &str, expected: &str| {
            let expected = format!("|0:a:f({expected})");
            assert_eq!(one(arguments), expected, "{arguments}");
        };
        check(r#"{"b":1,"a":[ 2 ]}"#, r#"{"b":1,"a":[2]}"#);
        check(r#""""#, "{}");
        check("null", "{}");
        check(r#""null""#, "{}");
        check(r#""\"{\\\"x\\\":1}\"""#, r#"{"x":1}"#);
        let odd = "\"{\\n \\\"x\\\" : \\\"a  b\u{2028}\\\\\\\"\\\"\\n}\"";
        check(odd, "{\"x\":\"a  b\\u2028\\\"\"}");
        // What is no object is handed on.
        check(r#""{\"x\":""#, "{\"x\":");
        check(r#""[1]""#, "[1]");
        check(r#""x""#, "x");
        check("5", "5");
    }

    #[test]
    fn what_follows_a_whole_object_is_left_out() {
        let check_one = |arguments: &str, expected: Option<&str>| {
            let found = one(&serde_json::to_string(arguments).expect("a text"));
            let expected = expected.unwrap_or(arguments);
            assert_eq!(found, format!("|0:a:f({expected})"), "{arguments}");
        };
        check_one(r#"{"x":1}}"#, Some(r#"{"x":1}"#));
        check_one(r#"{"x":{"y":"}\""}} and more"#, Some(r#"{"x":{"y":"}\""}}"#));
        check_one(r#"{"x":1}{"x":1}"#, Some(r#"{"x":1}"#));
        check_one(r#"{"x":1"#, None);
        check_one(r#"{"x":"}"#, None);
        check_one(r#"{x}"#, None);
        check_one(r#"x{}"#, None);
    }

    #[test]
    fn an_object_stands_for_arguments_that_are_none() {
        let object = |arguments: &str| {
            let mut assembler = ToolCallAssembler::new("seed");
            let piece = serde_json::json!({"function": {"name": "f", "arguments": arguments}});
            assembler.push(serde_json::from_str(&piece.to_string()).expect("valid"));
            let calls = assembler.take_complete(true);
            assert_eq!(calls.len(), 1, "{arguments}");
            (calls[0].arguments.clone(), calls[0].arguments_object().to_owned())
        };
        let good = r#"{"x":1}"#;
        assert_eq!(object(good), (good.to_owned(), good.to_owned()));
        for (bad, expected) in [
            ("{\"x\":\"a\nb\"}", r#"{"x":"a\nb"}"#),
            (r#"{"x":"say "hi" now"}"#, r#"{"x":"say \"hi\" now"}"#),
            (r#"{"x":"#, r#"{"_raw":"{\"x\":"}"#),
            ("ls -l", r#"{"_raw":"ls -l"}"#),
            ("[1]", r#"{"_raw":"[1]"}"#),
        ] {
            assert_eq!(object(bad), (bad.to_owned(), expected.to_owned()));
        }
    }

    #[test]
    fn a_second_call_with_the_same_id_is_a_call_and_gets_an_id_of_its_own() {
        let found = |pieces: &[&str], expected: &[&str]| {
            let mut assembler = ToolCallAssembler::new("seed");
            let mut calls = Vec::new();
            for piece in pieces {
                assembler.push(serde_json::from_str(piece).expect("valid"));
                calls.extend(assembler.take_complete(false));
            }
            calls.extend(assembler.take_complete(true));
            let shown: Vec<_> =
                calls.iter().map(|it| format!("{}({})", it.name, it.arguments)).collect();
            assert_eq!(shown, expected, "{pieces:?}");
            let ids: std::collections::HashSet<_> = calls.iter().map(|it| &it.id).collect();
            assert_eq!((ids.len(), calls[0].id.as_str()), (calls.len(), "a"), "{pieces:?}");
            assert!(calls.iter().enumerate().all(|(place, call)| call.index == place));
        };
        let call = |index: &str, name: &str, arguments: &str| {
            let arguments = serde_json::Value::from(arguments);
            format!(r#"{{{index}"id":"a","function":{{"name":"{name}","arguments":{arguments}}}}}"#)
        };
        let (zero, one) = (r#""index":0,"#, r#""index":1,"#);
        let both = ["f({\"x\":1})", "g({})"];
        // A new index, also for the same call.
        found(&[&call(zero, "f", r#"{"x":1}"#), &call(one, "g", "{}")], &both);
        found(&[&call(zero, "g", "{}"), &call(one, "g", "{}")], &["g({})", "g({})"]);
        // Named anew behind a whole call.
        for index in [zero, ""] {
            let first = call(index, "f", r#"{"x":1}"#);
            found(&[&first, &call(index, "g", "{}")], &both);
            let other = ["f({\"x\":1})", "f({\"x\":2})"];
            found(&[&first, &call(index, "f", r#"{"x":2}"#)], &other);
            // Repeated, it is the same call.
            found(&[&first, &first], &both[..1]);
            found(&[&first, &call(one, "g", "{}"), &first], &both);
        }
        // A piece that goes on, though its server repeats the name.
        let begun = call(zero, "f", r#"{"x""#);
        found(&[&begun, &call(zero, "f", ":1}")], &both[..1]);
    }

    #[test]
    fn calls_that_all_have_index_0_and_no_ids_are_told_apart_by_their_names() {
        let pieces = [
            r#"{"index":0,"function":{"name":"f","arguments":"{\"x\":1}"}}"#,
            r#"{"index":0,"function":{"name":"g","arguments":"{}"}}"#,
        ];
        let found = assemble(&pieces);
        assert!(found.contains(r#":f({"x":1})"#) && found.contains(":g({})"), "{found}");
    }

    #[test]
    fn a_piece_behind_a_whole_call_that_holds_nothing_begins_none() {
        check(
            &[
                r#"{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}"#,
                r#"{"index":1,"id":"b","function":{"name":"g","arguments":"{}"}}"#,
                r#"{"index":0,"function":{"name":"","arguments":""}}"#,
            ],
            "0:a:f({}) |1:b:g({})",
        );
    }

    #[test]
    fn a_name_in_pieces_is_put_together() {
        check(
            &[
                r#"{"index":0,"id":"a","function":{"name":"get_"}}"#,
                r#"{"index":0,"function":{"name":"time","arguments":"{"}}"#,
                r#"{"index":0,"function":{"name":"get_time","arguments":"}"}}"#,
            ],
            "|0:a:get_time({})",
        );
    }

    #[test]
    fn calls_that_are_unfinished_can_be_forgotten() {
        let mut assembler = ToolCallAssembler::new("seed");
        for piece in [
            r#"{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}"#,
            r#"{"index":1,"id":"b","function":{"name":"g","arguments":"{"}}"#,
        ] {
            assembler.push(serde_json::from_str(piece).expect("valid"));
        }
        assembler.drop_incomplete();
        let names: Vec<_> = assembler.take_complete(true).into_iter().map(|it| it.name).collect();
        assert_eq!(names, ["f"]);
    }

    #[test]
    fn missing_ids_are_made_up_and_differ() {
        let mut seen = std::collections::HashSet::new();
        for seed in ["a", "b"] {
            let mut assembler = ToolCallAssembler::new(seed);
            for _ in 0..3 {
                for id in ["", "null"] {
                    let piece = format!(r#"{{"id":"{id}","function":{{"name":"f"}}}}"#);
                    assembler.push(serde_json::from_str(&piece).expect("valid"));
                    for call in assembler.take_complete(true) {
                        let digits = call.id.strip_prefix("call_").expect("the prefix");
                        let known = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit();
                        assert!(digits.len() == 8 && digits.bytes().all(known));
                        seen.insert(call.id);
                    }
                }
            }
        }
        assert_eq!(seen.len(), 12);
    }

    #[test]
    fn a_name_that_is_repeated_is_not_doubled() {
        check(
            &[
                r#"{"index":0,"id":"a","function":{"name":"f","arguments":"{"}}"#,
                r#"{"index":0,"id":"a","function":{"name":"f","arguments":"}"}}"#,
                r#"{"index":0,"id":"","function":{"name":null,"arguments":null}}"#,
            ],
            "|0:a:f({})",
        );
    }

    #[test]
    fn pieces_of_metadata_are_no_calls() {
        check(&[r#"{"index":0,"extra_content":{"x":1}}"#, "{}"], "|");
    }
}
