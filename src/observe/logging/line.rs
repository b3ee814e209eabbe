//! What a line of the log says, as text or as one JSON object.
//!
//! Pure. Both forms are made of the same [`Line`], so neither can tell what the other one leaves out. Time
//! and level of a line of text are not written here: `text_lines` has simplelog write them. A
//! long line loses the ends of its longest texts, never a fact. Invariant: in JSON a line is one object
//! without a line break inside, whatever the texts hold and wherever they are cut.

use std::borrow::Cow;
use std::fmt::Write as _;

use log::Level;

use crate::observe::redact::Redactor;

/// The longest line, in bytes, but for those of bodies, which have a limit of their own.
pub(super) const MAX_LINE_BYTES: usize = 4096;

/// The first limit of each text of a line that is too long, in bytes; halved until the line fits.
const MAX_TEXT_BYTES: usize = 3600;

/// The longest part of a line of text that is not written here, in bytes: time, level and line feed.
const MAX_HEAD_BYTES: usize = 64;

/// A fact of a line: a member in JSON, `name=value` in text.
#[derive(Clone, Copy, Debug)]
pub struct Fact<'a> {
    name: &'static str,
    /// What stands before the value in text; ` name=` if nothing is said.
    prefix: Option<&'static str>,
    value: Value<'a>,
}

/// The value of a fact.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// A text of anyone: in quotes, also in text.
    Text(&'a str),
    /// A text of this program: no quotes in text.
    Word(&'a str),
    /// A number.
    Number(u64),
    /// `true`; a fact that does not apply is left out.
    Yes,
}

impl<'a> Fact<'a> {
    /// A fact that reads ` name=value` in text.
    pub fn new(name: &'static str, value: Value<'a>) -> Self {
        Self { name, prefix: None, value }
    }

    /// A fact with this before its value in text, in place of ` name=`.
    pub fn with_prefix(name: &'static str, prefix: &'static str, value: Value<'a>) -> Self {
        Self { name, prefix: Some(prefix), value }
    }
}

/// What a line says.
pub(super) struct Line<'a> {
    pub level: Level,
    /// In text, facts stand in its place where there are some.
    pub message: &'a str,
    pub facts: &'a [Fact<'a>],
}

impl Line<'_> {
    /// The object with its line feed and this time (RFC 3339), without keys, and not too long unless it logs a
    /// body.
    pub(super) fn to_json(&self, time: &str, redactor: &Redactor) -> String {
        self.fit(redactor, MAX_LINE_BYTES, &|writer| self.write_json(time, writer))
    }

    /// What stands behind time and level in a line of text, without a line feed, without keys, and not too
    /// long unless it logs a body.
    pub(super) fn to_text(&self, redactor: &Redactor) -> String {
        self.fit(redactor, MAX_LINE_BYTES - MAX_HEAD_BYTES, &|writer| {
            self.write_text(writer, redactor)
        })
    }

    /// Writes with ever shorter texts until the result has at most this many bytes.
    fn fit(
        &self,
        redactor: &Redactor,
        most: usize,
        write: &dyn Fn(Writer<'_>) -> String,
    ) -> String {
        let mut limit = usize::MAX;
        let redactor = self.has_keys(redactor).then_some(redactor);
        loop {
            let writer = Writer { redactor, limit, out: String::with_capacity(512) };
            let line = write(writer);
            if line.len() <= most || self.level == Level::Trace || limit < 8 {
                return line;
            }
            limit = limit.min(2 * MAX_TEXT_BYTES) / 2;
        }
    }

    /// Whether anything in the texts would be masked. One look at all of them costs less than one at each.
    fn has_keys(&self, redactor: &Redactor) -> bool {
        let mut texts = String::with_capacity(self.message.len() + 256);
        texts.extend([self.message, "\n"]);
        for fact in self.facts {
            if let Value::Text(text) | Value::Word(text) = fact.value {
                texts.extend([text, "\n"]);
            }
        }
        matches!(redactor.redact(&texts), Cow::Owned(_))
    }

    fn write_text(&self, mut writer: Writer<'_>, redactor: &Redactor) -> String {
        if self.facts.is_empty() {
            writer.push_plain(self.message);
        }
        for fact in self.facts {
            match fact.prefix {
                Some(prefix) => writer.out.push_str(prefix),
                None => writer.out.extend([" ", fact.name, "="]),
            }
            match fact.value {
                Value::Text(text) => writer.push_quoted(text),
                Value::Word(text) => writer.push_plain(text),
                // Writing to a String cannot fail.
                Value::Number(number) => drop(write!(writer.out, "{number}")),
                Value::Yes => writer.out.push_str("true"),
            }
        }
        if writer.redactor.is_none() && !redactor.has_short_keys() {
            return writer.out;
        }
        // A short key is known by the words before it, which may be in another fact.
        match redactor.redact(&writer.out) {
            Cow::Owned(masked) => masked,
            Cow::Borrowed(_) => writer.out,
        }
    }

    fn write_json(&self, time: &str, mut writer: Writer<'_>) -> String {
        let level = match self.level {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        };
        // Writing to a String cannot fail.
        let _ = write!(writer.out, r#"{{"time":"{time}","level":"{level}","message":"#);
        writer.push_json(self.message);
        for fact in self.facts {
            writer.out.extend([",\"", fact.name, "\":"]);
            match fact.value {
                Value::Text(text) | Value::Word(text) => writer.push_json(text),
                Value::Number(number) => drop(write!(writer.out, "{number}")),
                Value::Yes => writer.out.push_str("true"),
            }
        }
        writer.out.push_str("}\n");
        writer.out
    }
}

/// A text without the control characters that could change what a terminal shows.
pub(super) fn to_printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    text.chars().for_each(|c| push_printable(&mut out, c));
    out
}

fn push_printable(out: &mut String, c: char) {
    match c {
        '\n' | '\t' => out.push(c),
        c if c.is_control() => out.extend(c.escape_debug()),
        c => out.push(c),
    }
}

/// Appends texts without keys, each of at most `limit` bytes.
struct Writer<'r> {
    /// `None` if there is nothing to mask.
    redactor: Option<&'r Redactor>,
    limit: usize,
    out: String,
}

impl Writer<'_> {
    /// As it is, but for control characters: they could change what a terminal shows.
    fn push_plain(&mut self, text: &str) {
        self.push_cut(text, &push_printable);
    }

    /// As Rust's `Debug` writes it.
    fn push_quoted(&mut self, text: &str) {
        self.out.push('"');
        self.push_cut(text, &|out, c| match c {
            '\'' => out.push(c),
            c => out.extend(c.escape_debug()),
        });
        self.out.push('"');
    }

    /// As a string of JSON (RFC 8259 section 7). Characters that end a line for some readers, or change
    /// what a terminal shows, are escaped, too.
    fn push_json(&mut self, text: &str) {
        self.out.push('"');
        self.push_cut(text, &|out, c| match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // All of these have one unit in UTF-16.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        });
        self.out.push('"');
    }

    /// Appends each character by `push`, as far as there is room, and how much was cut off.
    fn push_cut(&mut self, text: &str, push: &dyn Fn(&mut String, char)) {
        let text = self.redactor.map_or(Cow::Borrowed(text), |redactor| redactor.redact(text));
        // No form escapes these; character by character they took a tenth of the time of a line.
        let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
        if text.len() <= self.limit && text.bytes().all(is_plain) {
            return self.out.push_str(&text);
        }
        let begin = self.out.len();
        for (at, c) in text.char_indices() {
            let before = self.out.len();
            push(&mut self.out, c);
            if self.out.len() - begin > self.limit {
                self.out.truncate(before);
                let _ = write!(self.out, " ... ({} bytes more)", text.len() - at);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::redact::Secret;

    const TIME: &str = "2026-11-30T18:00:00.5Z";

    fn to_text(level: Level, message: &str, facts: &[Fact<'_>]) -> String {
        Line { level, message, facts }.to_text(&Redactor::default())
    }

    fn to_json(level: Level, message: &str, facts: &[Fact<'_>]) -> String {
        Line { level, message, facts }.to_json(TIME, &Redactor::default())
    }

    /// The object that a line is.
    fn parse(line: &str) -> serde_json::Value {
        assert_eq!(line.find('\n'), Some(line.len() - 1), "{line}");
        let value: serde_json::Value = serde_json::from_str(line).expect(line);
        assert_eq!(value["time"], TIME);
        value
    }

    /// Texts that could break a line.
    fn hard_texts() -> Vec<String> {
        let controls: String = (0..0xa0).filter_map(char::from_u32).collect();
        let texts = ["", "plain", "\"quoted\" \\ back", "two\nlines\r\n", "\u{2028}\u{2029}\u{7f}"];
        let lossy = String::from_utf8_lossy(b"\xff\xfe broken \xc3").into_owned();
        let mut texts: Vec<String> = texts.map(str::to_owned).into();
        texts.extend([controls, lossy, "é\u{1f600}\u{10ffff}".to_owned()]);
        texts
    }

    #[test]
    fn a_message_is_one_line_of_text_or_one_object() {
        let text = to_text(Level::Warn, "upstream \"x\" is back", &[]);
        assert_eq!(text, "upstream \"x\" is back");
        let json = to_json(Level::Warn, "upstream \"x\" is back", &[]);
        assert_eq!(
            json,
            format!(
                "{{\"time\":\"{TIME}\",\"level\":\"warn\",\"message\":\"upstream \\\"x\\\" is back\"}}\n"
            )
        );
    }

    #[test]
    fn facts_are_pairs_in_text_and_members_in_json() {
        let facts = [
            Fact::with_prefix("request_id", "", Value::Word("req_1")),
            Fact::new("model", Value::Text("a \"b\"")),
            Fact::with_prefix("tokens_in", " tokens=", Value::Number(9)),
            Fact::with_prefix("tokens_out", "+", Value::Number(120)),
            Fact::new("client_left", Value::Yes),
            Fact::new("error", Value::Word("upstream_status: 503")),
        ];
        assert_eq!(
            to_text(Level::Info, "request", &facts),
            "req_1 model=\"a \\\"b\\\"\" tokens=9+120 client_left=true error=upstream_status: 503"
        );
        let value = parse(&to_json(Level::Info, "request", &facts));
        let expected = serde_json::json!({
            "time": TIME, "level": "info", "message": "request", "request_id": "req_1",
            "model": "a \"b\"", "tokens_in": 9, "tokens_out": 120, "client_left": true,
            "error": "upstream_status: 503",
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn any_text_comes_back_from_json_as_it_was() {
        for level in [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace] {
            for text in hard_texts() {
                let facts = [
                    Fact::new("quoted", Value::Text(&text)),
                    Fact::new("word", Value::Word(&text)),
                ];
                let value = parse(&to_json(level, &text, &facts));
                for name in ["message", "quoted", "word"] {
                    assert_eq!(value[name], text.as_str(), "{name}");
                }
                assert_eq!(value["level"], level.as_str().to_lowercase());
            }
        }
    }

    #[test]
    fn no_control_character_reaches_a_terminal() {
        let has_control =
            |line: &str| line.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t'));
        for text in hard_texts() {
            let facts = [Fact::new("quoted", Value::Text(&text))];
            assert!(!has_control(&to_text(Level::Warn, &text, &[])), "{text:?}");
            let line = to_text(Level::Warn, "", &facts);
            assert!(!has_control(&line) && line.lines().count() == 1, "{line:?}");
            assert!(line == format!(" quoted={text:?}"), "{line:?}");
            assert!(!has_control(&to_json(Level::Warn, &text, &facts)), "{text:?}");
        }
    }

    #[test]
    fn a_line_of_any_length_is_cut_without_losing_a_fact_and_one_with_a_body_is_not() {
        for unit in ["é", "x", "\u{1}", "\"", "\u{1f600}"] {
            let long = unit.repeat(9000);
            let facts: Vec<_> = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"]
                .map(|name| Fact::new(name, Value::Text(&long)))
                .into_iter()
                .chain([Fact::new("last", Value::Number(7))])
                .collect();
            for facts in [&[][..], &facts[..1], &facts] {
                let json = to_json(Level::Warn, &long, facts);
                assert!(json.len() <= MAX_LINE_BYTES, "{}", json.len());
                let value = parse(&json);
                let message = value["message"].as_str().expect("a text");
                assert!(
                    message.starts_with(unit) && message.ends_with(" bytes more)"),
                    "{message}"
                );
                let is_last = facts.len() > 1;
                assert_eq!(value.get("last").is_some(), is_last);
                let text = to_text(Level::Warn, &long, facts);
                assert!(text.len() <= MAX_LINE_BYTES - MAX_HEAD_BYTES, "{}", text.len());
                assert_eq!(text.ends_with(" last=7"), is_last, "{text}");
                assert!(text.contains(" bytes more)"), "{text}");
                let body = parse(&to_json(Level::Trace, &long, facts));
                assert_eq!(body["message"], long.as_str());
                assert!(to_text(Level::Trace, &long, &[]).len() >= long.len());
            }
        }
    }

    #[test]
    fn as_much_of_a_long_text_stays_as_fits() {
        let long = "é".repeat(9000);
        let text = to_text(Level::Warn, &long, &[]);
        assert!(text.len() > MAX_TEXT_BYTES, "{}", text.len());
        assert!(text.ends_with("é ... (14400 bytes more)"), "{}", &text[text.len() - 60..]);
    }

    #[test]
    fn keys_are_masked_in_every_form_also_where_quoting_would_hide_them() {
        let redactor = Redactor::new([Secret::new("top\"secret\\1"), Secret::new("other-key-22")]);
        for key in ["top\"secret\\1", "other-key-22"] {
            let long = format!("{} {key}", "x".repeat(5000));
            let facts = [
                Fact::new("model", Value::Text(key)),
                Fact::new("error", Value::Word(key)),
                Fact::new("long", Value::Text(&long)),
            ];
            for facts in [&[][..], &facts] {
                let message = format!("it is {key} again");
                let line = Line { level: Level::Info, message: &message, facts };
                for line in [line.to_text(&redactor), line.to_json(TIME, &redactor)] {
                    let is_hidden = ["secret", "other-key"].iter().all(|it| !line.contains(it));
                    assert!(is_hidden && line.contains("***"), "{line}");
                }
            }
        }
    }
}
