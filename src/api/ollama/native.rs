//! Ollama's own bodies as they pass: the model's name in them, whole lines, and the last line's counts.
//!
//! A body is never parsed further than to the member that names the model, and no other byte of it changes.
//! [`find_name`] reads a request, which is in memory; [`NameReplacer`] and [`LineSplitter`] read a response as
//! it arrives, cut anywhere, in bounded memory. Member names in requests match in any case, and the last of
//! several counts, as in Go's decoder.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

use memchr::{memchr, memchr2, memmem};

use crate::api::openai::raw_object::{self, quote_json};
use crate::api::wire::small_sort;

/// The longest name that is replaced, in bytes as it is written in JSON.
const MAX_NAME_BYTES: usize = 8 * 1024;

/// The longest key that is looked at, with its quotes.
const MAX_KEY_BYTES: usize = 64;

/// The longest line that is held until it is complete; a longer one passes in pieces.
const MAX_LINE_BYTES: usize = 1024 * 1024;

/// The member that names a request's model: its text, and where its value stands.
///
/// `keys` are the members' names in order of precedence; an empty text counts as absent. `None` also if the
/// member's value is no text, which the server itself rejects.
pub fn find_name(body: &[u8], keys: &[&str]) -> Option<(String, Range<usize>)> {
    let members = raw_object::collect_members(body);
    keys.iter().find_map(|key| {
        let (_, value) = find_member(&members, key)?;
        let name: String = serde_json::from_str(value).ok()?;
        let place = raw_object::subslice_range(body, value);
        (!name.trim().is_empty()).then_some((name, place))
    })
}

/// The member of a request that counts under this name: the last one that is not `null`.
pub fn find_member<'m, 'a>(
    members: &'m [(Cow<'a, str>, Cow<'a, str>)],
    key: &str,
) -> Option<&'m (Cow<'a, str>, Cow<'a, str>)> {
    let counts = |(known, value): &&(Cow<'_, str>, Cow<'_, str>)| {
        known.eq_ignore_ascii_case(key) && value != "null"
    };
    members.iter().rfind(counts)
}

/// A body with other texts at these places, which do not overlap.
pub fn replace_names(body: &[u8], mut names: Vec<(Range<usize>, &str)>) -> Vec<u8> {
    small_sort::sort_by_key(&mut names, |(place, _)| place.start);
    let mut out = Vec::with_capacity(body.len() + 64);
    let mut done = 0;
    for (place, name) in names {
        out.extend_from_slice(&body[done..place.start]);
        out.extend_from_slice(quote_json(name).as_bytes());
        done = place.end;
    }
    out.extend_from_slice(&body[done..]);
    out
}

/// Replaces the text of one top-level member in each object of a body that arrives in pieces.
#[derive(Debug)]
pub struct NameReplacer {
    /// The member's key, in quotes.
    key: String,
    /// The new value, in quotes.
    value: String,
    /// Whether a line break ends an object, also a broken one.
    has_lines: bool,
    state: State,
    depth: usize,
    /// Whether the value at depth 1 is an object's member.
    in_object: bool,
    is_escaped: bool,
    /// The key or the name that is being read.
    held: Vec<u8>,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing, or white space between objects.
    Outside,
    /// What precedes a key.
    BeforeKey,
    /// A key; its text is kept.
    Key,
    /// What precedes the value of the member.
    BeforeName,
    /// The value of the member; it is held back.
    Name,
    /// A value, or what follows a key that is not the member's.
    Value,
    /// A text in a value.
    Text,
}

impl NameReplacer {
    /// Replaces the texts of the member `key` by `name`. In a body with lines, a line break ends an object.
    pub fn new(key: &str, name: &str, has_lines: bool) -> Self {
        Self {
            key: quote_json(key),
            value: quote_json(name),
            has_lines,
            state: State::Outside,
            depth: 0,
            in_object: false,
            is_escaped: false,
            held: Vec::new(),
        }
    }

    /// Appends what follows of the changed body.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            // Most of a body are texts and numbers.
            let same = match self.state {
                State::Text if !self.is_escaped => self.find_text_end(bytes),
                State::Value if self.depth > 1 => find_structure(bytes, self.has_lines),
                _ => 0,
            };
            out.extend_from_slice(&bytes[..same]);
            bytes = &bytes[same..];
            let Some((byte, rest)) = bytes.split_first() else { return };
            self.push_byte(*byte, out);
            bytes = rest;
        }
    }

    /// Appends what was held back.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if self.state == State::Name {
            out.append(&mut self.held);
        }
        self.reset();
    }

    fn find_text_end(&self, bytes: &[u8]) -> usize {
        let end = memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len());
        // Only a broken text has a line break.
        let line = if self.has_lines { memchr(b'\n', &bytes[..end]) } else { None };
        line.unwrap_or(end)
    }

    fn push_byte(&mut self, byte: u8, out: &mut Vec<u8>) {
        if byte == b'\n' && self.has_lines {
            self.finish(out);
            out.push(byte);
            return;
        }
        if self.state == State::Name {
            return self.push_name_byte(byte, out);
        }
        if self.state == State::BeforeName && byte == b'"' {
            self.state = State::Name;
            self.held.clear();
            self.held.push(byte);
            return;
        }
        out.push(byte);
        match self.state {
            State::Key => self.push_key_byte(byte),
            State::Text => {
                if self.ends_text(byte) {
                    self.state = State::Value;
                }
            }
            State::BeforeName if byte.is_ascii_whitespace() || byte == b':' => {}
            State::BeforeKey if byte == b'"' => {
                self.state = State::Key;
                self.held.clear();
                self.held.push(byte);
            }
            State::Outside | State::BeforeKey | State::BeforeName | State::Value => {
                self.push_structure(byte);
            }
            State::Name => {}
        }
    }

    fn push_key_byte(&mut self, byte: u8) {
        if self.held.len() <= MAX_KEY_BYTES {
            self.held.push(byte);
        }
        if self.ends_text(byte) {
            let is_member = self.held == self.key.as_bytes() || self.is_escaped_key();
            self.state = if is_member { State::BeforeName } else { State::Value };
        }
    }

    /// True if the key is the member's, written with escapes.
    fn is_escaped_key(&self) -> bool {
        let parse = |json: &[u8]| serde_json::from_slice::<String>(json).ok();
        self.held.contains(&b'\\') && parse(&self.held) == parse(self.key.as_bytes())
    }

    fn push_name_byte(&mut self, byte: u8, out: &mut Vec<u8>) {
        self.held.push(byte);
        if self.ends_text(byte) {
            out.extend_from_slice(self.value.as_bytes());
            self.state = State::Value;
        } else if self.held.len() > MAX_NAME_BYTES {
            out.append(&mut self.held);
            self.state = State::Text;
        }
    }

    /// Whether this byte of a text is its last one.
    fn ends_text(&mut self, byte: u8) -> bool {
        let is_escaped = std::mem::take(&mut self.is_escaped);
        self.is_escaped = byte == b'\\' && !is_escaped;
        byte == b'"' && !is_escaped
    }

    fn push_structure(&mut self, byte: u8) {
        match byte {
            b'"' => self.state = State::Text,
            b'{' | b'[' => {
                self.depth += 1;
                if self.depth == 1 {
                    self.in_object = byte == b'{';
                }
                let begins = self.depth == 1 && self.in_object;
                self.state = if begins { State::BeforeKey } else { State::Value };
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.state = if self.depth == 0 { State::Outside } else { State::Value };
            }
            b',' if self.depth == 1 && self.in_object => self.state = State::BeforeKey,
            _ if self.state == State::BeforeName => self.state = State::Value,
            _ => {}
        }
    }

    fn reset(&mut self) {
        (self.state, self.depth, self.is_escaped) = (State::Outside, 0, false);
        self.held.clear();
    }
}

/// The place of the first byte that begins or ends something in nested values.
fn find_structure(bytes: &[u8], has_lines: bool) -> usize {
    let is_structure = |byte: &u8| {
        matches!(byte, b'"' | b'{' | b'}' | b'[' | b']') || (has_lines && *byte == b'\n')
    };
    bytes.iter().position(is_structure).unwrap_or(bytes.len())
}

/// Puts the pieces of a body together to lines: HTTP libraries of some clients take a chunk for a line.
#[derive(Debug, Default)]
pub struct LineSplitter {
    held: Vec<u8>,
    /// Whether a line was longer than what is held, so that its end stands alone.
    is_cut: bool,
}

impl LineSplitter {
    /// Calls `on_line` for each line that is complete now, with its line break.
    pub fn push(&mut self, mut bytes: &[u8], on_line: &mut dyn FnMut(&[u8])) {
        while let Some(end) = memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end + 1);
            if self.held.is_empty() {
                on_line(line);
            } else {
                self.held.extend_from_slice(line);
                on_line(&self.held);
                self.held.clear();
            }
            self.is_cut = false;
            bytes = rest;
        }
        self.held.extend_from_slice(bytes);
        if self.held.len() > MAX_LINE_BYTES {
            self.is_cut = true;
            on_line(&self.held);
            self.held = Vec::new();
        }
    }

    /// Calls `on_line` for a last line without a line break.
    pub fn finish(&mut self, on_line: &mut dyn FnMut(&[u8])) {
        if !self.held.is_empty() {
            on_line(&self.held);
            self.held.clear();
        }
    }

    /// Whether a part of a line has passed without its end.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }
}

/// The tokens of prompt and response that the last object of a response, or its end, tells; 0 for what it
/// does not tell. Quotes inside of texts are escaped, so that no text looks like a member.
pub fn read_counts(end: &[u8]) -> Option<(u64, u64)> {
    static COUNT: LazyLock<memmem::Finder<'_>> =
        LazyLock::new(|| memmem::Finder::new(br#"eval_count":"#));
    COUNT.find(end)?;
    let read = |member: &[u8]| {
        let value = end[memmem::rfind(end, member)? + member.len()..].trim_ascii_start();
        let digits = value.iter().take_while(|byte| byte.is_ascii_digit());
        Some(digits.fold(0, |number: u64, digit| {
            number.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
        }))
    };
    let counts = (read(br#""prompt_eval_count":"#), read(br#""eval_count":"#));
    (counts != (None, None)).then(|| (counts.0.unwrap_or(0), counts.1.unwrap_or(0)))
}

/// The text of an error that a line is: `{"error":"..."}` and nothing more.
pub fn read_error(line: &[u8]) -> Option<String> {
    if !line.trim_ascii_start().starts_with(br#"{"error""#) {
        return None;
    }
    let value: serde_json::Value = serde_json::from_slice(line).ok()?;
    value["error"].as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body with the name `up` instead of `model`'s, whatever its pieces.
    fn renamed(body: &str, has_lines: bool) -> String {
        let mut results: Vec<Vec<u8>> = Vec::new();
        for size in [1, 2, 3, 5, 7, 64, body.len().max(1)] {
            let (mut replacer, mut out) =
                (NameReplacer::new("model", "my \"m\"", has_lines), Vec::new());
            body.as_bytes().chunks(size).for_each(|piece| replacer.push(piece, &mut out));
            replacer.finish(&mut out);
            results.push(out);
        }
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{body}");
        String::from_utf8(results.remove(0)).expect("UTF-8")
    }

    #[test]
    fn only_the_top_level_member_of_an_answer_is_replaced() {
        const NAME: &str = r#""my \"m\"""#;
        let check = |body: &str| {
            let expected = body.replace("@", NAME);
            assert_eq!(renamed(&body.replace("@", "\"up\""), false), expected, "{body}");
        };
        check(
            r#"{"model":@,"created_at":"x","message":{"model":"up","content":"\"model\":\"up\""}}"#,
        );
        check("{ \"a\" : [ {\"model\":\"up\"} ] ,\n \"model\" : @ ,\r\n\"b\":1e5}\r\n");
        check(r#"{"model":@,"model":@}"#);
        check(r#"{"m\u006fdel":@,"Model":"up","mode":"up","models":"up"}"#);
        check(r#"{"x":"\\","model":@,"y":"\\\"","z":"model"}"#);
        check(r#"{"x":"a\nb","model":@,"y":"\u00e9 c"}"#);
        check(r#"{"x":"{","model":@}"#);
        check(r#"{"model":null,"x":1}{"model":@}"#);
        check(r#"{"model":5,"y":{"model":"up"}}"#);
        check(r#"{"model":["up"],"y":"model"}"#);
        check(r#"{"model":{"model":"up"},"model":@}"#);
        check(r#"["model","up",{"model":"up"}]"#);
        check(r#"{"model":@"#);
        check("\"model\":\"up\"");
        check("404 page not found");
        check("");
        let escaped = r#"{"model":"u\"p\\","x":"\ud83d\ude00"}"#;
        assert_eq!(renamed(escaped, false), escaped.replace(r#""u\"p\\""#, NAME));
        // A name without an end is none.
        assert_eq!(renamed(r#"{"model":"up"#, false), r#"{"model":"up"#);
        let long = format!(r#"{{"model":"{}","b":1}}"#, "x".repeat(3 * MAX_NAME_BYTES));
        assert_eq!(renamed(&long, false), long);
    }

    #[test]
    fn a_broken_line_does_not_change_what_is_replaced_in_the_next_one() {
        let line = r#"{"model":"up","x":{"model":"up"}}"#;
        let expected = line.replacen("\"up\"", r#""my \"m\"""#, 1);
        for broken in [r#"{"model"#, r#"{"a":"b"#, r#"{"a":{"b":[1"#, r#"{"a":"\"#, "}]", "", "\r"]
        {
            let text = format!("{broken}\n{line}\r\n{line}");
            assert_eq!(renamed(&text, true), format!("{broken}\n{expected}\r\n{expected}"));
        }
        let cut = format!("{{\"model\":\"u\n{line}");
        assert_eq!(renamed(&cut, true), format!("{{\"model\":\"u\n{expected}"));
    }

    /// Texts of pieces of JSON, from a fixed seed; few are valid.
    fn random_texts() -> impl Iterator<Item = String> {
        const PIECES: [&str; 20] = [
            "{",
            "}",
            "[",
            "]",
            "\"",
            ":",
            ",",
            "\\",
            "\n",
            " ",
            "\"model\"",
            "\"model\":",
            "\"up\"",
            "1",
            "{\"model\":\"up\",",
            "\"x\":",
            "\\\"",
            "\u{e9}",
            "null",
            "\\u006d",
        ];
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = move |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).expect("31 bits") % below
        };
        (0..20_000).map(move |_| (0..next(16)).map(|_| PIECES[next(PIECES.len())]).collect())
    }

    #[test]
    fn any_text_is_changed_alike_whatever_its_pieces_and_as_a_parser_sees_it() {
        let mut valid = 0;
        for text in random_texts() {
            // Compares all sizes of pieces.
            let (lines, changed) = (renamed(&text, true), renamed(&text, false));
            assert!(lines.matches('\n').eq(text.matches('\n')), "{text}");
            let Ok(mut value) = serde_json::from_str::<serde_json::Value>(&text) else { continue };
            valid += 1;
            if let Some(name) = value.get_mut("model").filter(|name| name.is_string()) {
                *name = "my \"m\"".into();
            }
            let seen: serde_json::Value = serde_json::from_str(&changed).expect("still JSON");
            assert_eq!(seen, value, "{text}");
        }
        assert!(valid > 100, "{valid}");
    }

    #[test]
    fn nothing_waits_but_a_name() {
        let (mut replacer, mut out) = (NameReplacer::new("model", "m", true), Vec::new());
        for (piece, expected) in [
            (r#"{"mod"#, r#"{"mod"#),
            (r#"el": "#, r#"el": "#),
            (r#""u"#, ""),
            (r#"p","response":"a"#, r#""m","response":"a"#),
            ("b", "b"),
        ] {
            out.clear();
            replacer.push(piece.as_bytes(), &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
    }

    #[test]
    fn the_name_in_a_request_is_found_as_go_finds_it() {
        let check = |body: &str, keys: &[&str], expected: Option<&str>| {
            let found = find_name(body.as_bytes(), keys);
            assert_eq!(found.as_ref().map(|(name, _)| name.as_str()), expected, "{body}");
            if let Some((name, place)) = found {
                let value = &body[place];
                assert_eq!(serde_json::from_str::<String>(value).ok(), Some(name), "{value}");
            }
        };
        let model: &[&str] = &["model"];
        check(r#"{"model":"m"}"#, model, Some("m"));
        check(r#" {"messages":[{"model":"x"}],"MODEL" : "m" } trailing {"#, model, Some("m"));
        check(r#"{"model":"a","Model":"b"}"#, model, Some("b"));
        check(r#"{"model":"a","model":null}"#, model, Some("a"));
        check(r#"{"m\u006fdel":"\u006d"}"#, model, Some("m"));
        check(r#"{"model":5}"#, model, None);
        check(r#"{"model":"a","model":5}"#, model, None);
        check(r#"{"model":" "}"#, model, None);
        check(r#"{"options":{"model":"m"}}"#, model, None);
        check(r#"{"model":"a","x":"#, model, Some("a"));
        check("null", model, None);
        check("", model, None);
        check("[{\"model\":\"m\"}]", model, None);
        let both: &[&str] = &["model", "name"];
        check(r#"{"name":"n","model":""}"#, both, Some("n"));
        check(r#"{"name":"n","model":"m"}"#, both, Some("m"));
        check(r#"{"Name":"n"}"#, both, Some("n"));
    }

    #[test]
    fn names_change_in_their_places_and_nothing_else_does() {
        let body = br#"{ "source":"a/x" , "destination" : "a/\u0079", "z":1.50}"#;
        let (_, source) = find_name(body, &["source"]).expect("a source");
        let (_, destination) = find_name(body, &["destination"]).expect("a destination");
        let out = replace_names(body, vec![(destination, "y\""), (source, "x")]);
        let expected = r#"{ "source":"x" , "destination" : "y\"", "z":1.50}"#;
        assert_eq!(String::from_utf8_lossy(&out), expected);
        assert_eq!(replace_names(body, Vec::new()), body);
    }

    #[test]
    fn lines_stay_whole_whatever_the_pieces() {
        let text = "{\"a\":1}\n\n{\"b\":2}\r\nlast";
        for size in 1..=text.len() {
            let (mut splitter, mut lines) = (LineSplitter::default(), Vec::new());
            let mut on_line = |line: &[u8]| lines.push(String::from_utf8_lossy(line).into_owned());
            for piece in text.as_bytes().chunks(size) {
                splitter.push(piece, &mut on_line);
            }
            splitter.finish(&mut on_line);
            assert_eq!(lines, ["{\"a\":1}\n", "\n", "{\"b\":2}\r\n", "last"], "{size}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_passes_in_pieces() {
        let (mut splitter, mut sizes) = (LineSplitter::default(), Vec::new());
        for _ in 0..40 {
            splitter.push(&vec![b'x'; 64 * 1024], &mut |part| sizes.push(part.len()));
            assert!(splitter.held.len() <= MAX_LINE_BYTES);
        }
        assert!(splitter.is_cut());
        splitter.push(b"x\n{}\n", &mut |part| sizes.push(part.len()));
        assert!(!splitter.is_cut());
        assert_eq!(sizes.iter().sum::<usize>(), 40 * 64 * 1024 + 5);
        assert!(sizes.len() <= 5, "{sizes:?}");
    }

    #[test]
    fn the_last_line_tells_the_counts() {
        let check = |line: &str, expected| assert_eq!(read_counts(line.as_bytes()), expected);
        check(r#"{"done":true,"prompt_eval_count":11,"eval_count": 3,"x":1}"#, Some((11, 3)));
        check(r#"{"embeddings":[[1]],"prompt_eval_count":12}"#, Some((12, 0)));
        check(r#"{"done":true,"eval_count":3}"#, Some((0, 3)));
        check(r#"{"response":"\"eval_count\":7","done":false}"#, None);
        check(r#"{"done":true}"#, None);
        check("", None);
    }

    #[test]
    fn a_line_that_is_an_error_is_known() {
        let check = |line: &str, expected: Option<&str>| {
            assert_eq!(read_error(line.as_bytes()).as_deref(), expected, "{line}");
        };
        check("{\"error\":\"it broke\"}\n", Some("it broke"));
        check(r#" {"error" : "it broke"}"#, Some("it broke"));
        check(r#"{"error":""}"#, None);
        check(r#"{"model":"m","error":"x"}"#, None);
        check(r#"{"response":"{\"error\":\"x\"}"}"#, None);
        check("{\"error\":", None);
    }
}
