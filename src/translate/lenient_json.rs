//! Reads what models write as JSON and what no strict parser takes.
//!
//! Weak models write the arguments of calls by hand: raw line feeds and unescaped quotes inside of
//! strings, commas behind the last member, single quotes, bare keys, Python's literals, a Markdown fence
//! around all. Never guesses at what is missing: a string without an end is no JSON.
//! Invariant: what is returned is a JSON object, with the members in the order in which they came.

use serde_json::Value;

/// The deepest nesting that is read, as of `serde_json`.
const MAX_DEPTH: usize = 120;

/// The longest key that is looked for behind a comma, so that a long text takes no longer for it.
const MAX_KEY_CHARS: usize = 256;

/// A JSON object on one line with what the text says; `None` if the text is none, even when it is read
/// leniently.
pub fn repair_object(text: &str) -> Option<String> {
    let text = strip_fence(text.trim());
    if !text.starts_with('{') {
        return None;
    }
    let mut reader = Reader { text, at: 0, out: String::with_capacity(text.len()) };
    reader.value(0, Place::Element)?;
    let is_object = serde_json::from_str::<Value>(&reader.out).is_ok_and(|it| it.is_object());
    is_object.then_some(reader.out)
}

/// The text inside of a Markdown fence that is around all of it.
fn strip_fence(text: &str) -> &str {
    let inside = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    let Some(inside) = inside else { return text };
    let language = inside.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(0);
    inside[language..].trim()
}

/// Where a string stands, which decides what may follow it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Key,
    Member,
    Element,
}

/// Reads a value, and writes it as JSON.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    out: String,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip_blanks(&mut self) {
        let blanks = self.rest().len() - self.rest().trim_start().len();
        self.at += blanks;
    }

    fn value(&mut self, depth: usize, place: Place) -> Option<()> {
        self.skip_blanks();
        match self.peek()? {
            _ if depth > MAX_DEPTH => None,
            '{' => self.members(depth, '{', '}'),
            '[' => self.members(depth, '[', ']'),
            quote @ ('"' | '\'') => self.string(quote, place),
            _ => self.literal(),
        }
    }

    /// The members of an object or of a list, and what ends them. At the end of the text, brackets that
    /// are open are closed: models forget the last one.
    fn members(&mut self, depth: usize, open: char, close: char) -> Option<()> {
        self.at += 1;
        self.out.push(open);
        let mut is_first = true;
        loop {
            self.skip_blanks();
            match self.peek() {
                Some(',') => {
                    self.at += 1;
                    continue;
                }
                Some(c) if c == close => {
                    self.at += 1;
                    break;
                }
                None => break,
                _ => {}
            }
            if !std::mem::take(&mut is_first) {
                self.out.push(',');
            }
            let mut place = Place::Element;
            if open == '{' {
                self.key()?;
                place = Place::Member;
            }
            self.value(depth + 1, place)?;
        }
        self.out.push(close);
        Some(())
    }

    /// A key and its colon.
    fn key(&mut self) -> Option<()> {
        match self.peek()? {
            quote @ ('"' | '\'') => self.string(quote, Place::Key)?,
            _ => {
                let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '$' | '.');
                let len = self.rest().find(|c| !is_part(c)).filter(|len| *len > 0)?;
                let name = self.rest()[..len].to_owned();
                self.at += len;
                self.out.push_str(&Value::from(name).to_string());
            }
        }
        self.skip_blanks();
        (self.peek() == Some(':')).then(|| {
            self.at += 1;
            self.out.push(':');
        })
    }

    /// A string, whose own quotes may be unescaped.
    fn string(&mut self, quote: char, place: Place) -> Option<()> {
        self.at += 1;
        self.out.push('"');
        loop {
            let c = self.peek()?;
            let before = self.at;
            self.at += c.len_utf8();
            match c {
                '\\' => self.escape(quote)?,
                _ if c == quote && self.ends_string(place) => break,
                '"' => self.out.push_str("\\\""),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                c if c < ' ' => self.out.push_str(&format!("\\u{:04x}", u32::from(c))),
                _ => self.out.push_str(&self.text[before..self.at]),
            }
        }
        self.out.push('"');
        Some(())
    }

    /// What follows a backslash. One that escapes nothing stands for itself.
    fn escape(&mut self, quote: char) -> Option<()> {
        let c = self.peek()?;
        let is_code = |digits: &str| digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        match c {
            'u' if self.rest().get(1..5).is_some_and(is_code) => {
                self.out.push('\\');
                return Some(());
            }
            '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't' => self.out.extend(['\\', c]),
            '\'' if quote == '\'' => self.out.push('\''),
            _ => {
                self.out.push_str("\\\\");
                return Some(());
            }
        }
        self.at += c.len_utf8();
        Some(())
    }

    /// True if the quote that was just read ends its string: what follows goes on with the object or list.
    fn ends_string(&self, place: Place) -> bool {
        let rest = self.rest().trim_start();
        let Some(next) = rest.chars().next() else { return true };
        let behind = rest[next.len_utf8()..].trim_start();
        match next {
            ':' => place == Place::Key,
            _ if place == Place::Key => false,
            '}' | ']' => behind.is_empty() || behind.starts_with(['}', ']', ',', '`']),
            ',' if place == Place::Member => begins_with_key(behind),
            ',' => begins_element(behind),
            _ => false,
        }
    }

    fn literal(&mut self) -> Option<()> {
        let is_end = |c: char| c.is_whitespace() || matches!(c, ',' | '}' | ']' | ':');
        let len = self.rest().find(is_end).unwrap_or(self.rest().len());
        let word = &self.text[self.at..self.at + len];
        let json = match word {
            "True" => "true",
            "False" => "false",
            "None" | "undefined" | "NaN" => "null",
            word => word,
        };
        serde_json::from_str::<Value>(json).ok()?;
        self.out.push_str(json);
        self.at += len;
        Some(())
    }
}

/// True if a key and its colon stand here, or nothing that could be a text: what may follow a comma in an
/// object.
fn begins_with_key(text: &str) -> bool {
    let text = text.char_indices().nth(MAX_KEY_CHARS).map_or(text, |(end, _)| &text[..end]);
    let (name, end) = match text.chars().next() {
        None | Some('}' | ']') => return true,
        Some(quote @ ('"' | '\'')) => (&text[1..], quote),
        Some(_) => (text, ':'),
    };
    let Some((name, rest)) = name.split_once(end) else { return false };
    match end {
        ':' => !name.contains(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '-' | '$')),
        _ => !name.contains('\n') && rest.trim_start().starts_with(':'),
    }
}

/// True if an element of a list may begin here, or the list ends.
fn begins_element(text: &str) -> bool {
    const LITERALS: [&str; 6] = ["true", "false", "null", "True", "False", "None"];
    text.is_empty()
        || text.starts_with(['"', '\'', '{', '[', '}', ']', '-'])
        || text.starts_with(|c: char| c.is_ascii_digit())
        || LITERALS.iter().any(|literal| text.starts_with(literal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(repair_object(text).as_deref(), Some(expected), "{text}");
    }

    #[test]
    fn valid_json_says_the_same() {
        check(
            r#" {"b": 1, "a": [true, null, {"x": -1.5e3}]} "#,
            r#"{"b":1,"a":[true,null,{"x":-1.5e3}]}"#,
        );
        check(r#"{"a":"\u00e9\n\"\\ é"}"#, r#"{"a":"\u00e9\n\"\\ é"}"#);
        check("{}", "{}");
    }

    #[test]
    fn raw_control_characters_are_escaped() {
        check("{\"a\":\"x\ny\tz\r\u{1}\"}", r#"{"a":"x\ny\tz\r\u0001"}"#);
    }

    #[test]
    fn quotes_inside_of_a_string_are_escaped() {
        check(r#"{"a":"say "hi" now","b":1}"#, r#"{"a":"say \"hi\" now","b":1}"#);
        check(r#"{"a":"print("x", y)"}"#, r#"{"a":"print(\"x\", y)"}"#);
        check(r#"{"a":"f("x", "y")","b":2}"#, r#"{"a":"f(\"x\", \"y\")","b":2}"#);
        check(r#"{"a":"<b class="c">"}"#, r#"{"a":"<b class=\"c\">"}"#);
        check(r#"{"a":"he said "no""}"#, r#"{"a":"he said \"no\""}"#);
        check(r#"{"l":["a "b" c","d"]}"#, r#"{"l":["a \"b\" c","d"]}"#);
    }

    #[test]
    fn commas_quotes_keys_and_words_of_other_languages_are_read() {
        check(r#"{"a":[1,2,],}"#, r#"{"a":[1,2]}"#);
        check(r#"{'a':'it\'s "x"', 'b': True}"#, r#"{"a":"it's \"x\"","b":true}"#);
        check(r#"{a: None, b-c: "x"}"#, r#"{"a":null,"b-c":"x"}"#);
        check(r#"{"a":1 "b":2}"#, r#"{"a":1,"b":2}"#);
        check(r#"{"p":"C:\dir\new \q"}"#, r#"{"p":"C:\\dir\new \\q"}"#);
        check("```json\n{\"a\":1}\n```", r#"{"a":1}"#);
        check(r#"{"a":{"b":"c"}"#, r#"{"a":{"b":"c"}}"#);
        check(r#"{"a":1} and more"#, r#"{"a":1}"#);
    }

    #[test]
    fn what_is_no_object_stays_none() {
        for text in ["", "x", "[1]", "5", r#""x""#, r#"{"a":"x"#, r#"{"a""#, "{x}", r#"{"a":x}"#] {
            assert_eq!(repair_object(text), None, "{text}");
        }
        assert_eq!(repair_object(&"{\"a\":".repeat(100_000)), None, "too deep");
    }
}
