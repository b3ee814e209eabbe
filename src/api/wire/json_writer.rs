//! Writes one JSON value member by member, without types of its own for it.
//!
//! Pure. The caller opens and closes objects and lists in order; commas are set here.

use std::fmt::Display;
use std::io::Write;

use super::ndjson;

/// A value that is being written.
#[derive(Debug, Default)]
pub struct JsonWriter {
    out: Vec<u8>,
}

impl JsonWriter {
    /// The value.
    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    /// Begins an object in a list, or the whole value.
    pub fn open_object(&mut self) {
        self.separate();
        self.out.push(b'{');
    }

    /// Begins a member that is an object.
    pub fn open_member(&mut self, name: &str) {
        self.name(name);
        self.out.push(b'{');
    }

    /// Begins a member that is a list.
    pub fn open_list(&mut self, name: &str) {
        self.name(name);
        self.out.push(b'[');
    }

    /// Ends an object.
    pub fn close_object(&mut self) {
        self.out.push(b'}');
    }

    /// Ends a list.
    pub fn close_list(&mut self) {
        self.out.push(b']');
    }

    /// A text in a list.
    pub fn item(&mut self, text: &str) {
        self.separate();
        ndjson::append_text(&mut self.out, text);
    }

    /// A member that is a text.
    pub fn text(&mut self, name: &str, text: &str) {
        self.name(name);
        ndjson::append_text(&mut self.out, text);
    }

    /// A member that is a text, or `null` if it is empty.
    pub fn text_or_null(&mut self, name: &str, text: &str) {
        if text.is_empty() { self.raw(name, &"null") } else { self.text(name, text) }
    }

    /// A member that is a number.
    pub fn number(&mut self, name: &str, number: u64) {
        self.raw(name, &number);
    }

    /// A member that is a number, or `null`.
    pub fn number_or_null(&mut self, name: &str, number: Option<u64>) {
        match number {
            Some(number) => self.number(name, number),
            None => self.raw(name, &"null"),
        }
    }

    /// A member that is a number of thousandths, with its fraction.
    pub fn thousandths(&mut self, name: &str, number: u64) {
        self.raw(name, &format_args!("{}.{:03}", number / 1000, number % 1000));
    }

    /// A member whose value is written as it is shown.
    pub fn raw(&mut self, name: &str, value: &dyn Display) {
        self.name(name);
        // Writing to a Vec cannot fail.
        let _ = write!(self.out, "{value}");
    }

    fn name(&mut self, name: &str) {
        self.separate();
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn separate(&mut self) {
        if !matches!(self.out.last(), None | Some(b'{' | b'[' | b':')) {
            self.out.push(b',');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_items_are_separated_and_texts_are_quoted() {
        let mut json = JsonWriter::default();
        json.open_object();
        json.text("a", "\"\n:");
        json.text_or_null("b", "");
        json.open_list("c");
        json.item("x:");
        json.item("[");
        json.close_list();
        json.open_list("d");
        for number in [1, 2] {
            json.open_object();
            json.number("e", number);
            json.number_or_null("f", None);
            json.close_object();
        }
        json.close_list();
        json.open_member("g");
        json.close_object();
        json.thousandths("h", 12_034);
        json.raw("i", &true);
        json.close_object();
        let expected = r#"{"a":"\"\n:","b":null,"c":["x:","["],"d":[{"e":1,"f":null},{"e":2,"f":null}],"g":{},"h":12.034,"i":true}"#;
        assert_eq!(String::from_utf8(json.into_bytes()).expect("UTF-8"), expected);
    }
}
