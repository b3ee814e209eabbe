//! Takes off what a changed request puts around a response's text: a Markdown fence, or an object with
//! the client's value in the member `value`.
//!
//! Works on text in any pieces, and holds back only what may be part of the wrapping. Invariant: what
//! does not look like the wrapping comes out as it went in.

/// The filter of one response.
#[derive(Clone, Debug)]
pub struct TextFilter {
    kind: Kind,
    state: State,
    pending: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fence,
    Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The beginning may still be the wrapping's.
    Begin,
    /// Within a fence.
    Fenced,
    /// Within the member `value`, at this depth.
    Inside { depth: usize, in_text: bool, is_escaped: bool },
    /// Behind the value.
    Behind,
    /// There is no wrapping.
    Plain,
}

const FENCE: &str = "```";

impl TextFilter {
    /// Takes off a fence around the whole text.
    pub fn fence() -> Self {
        Self { kind: Kind::Fence, state: State::Begin, pending: String::new() }
    }

    /// Takes the member `value` out of an object.
    pub fn value() -> Self {
        Self { kind: Kind::Value, ..Self::fence() }
    }

    /// Takes a piece of text and returns what can be shown now.
    pub fn push(&mut self, text: &str) -> String {
        self.pending.push_str(text);
        if self.state == State::Begin {
            self.begin();
        }
        match self.state {
            State::Begin => String::new(),
            State::Plain => std::mem::take(&mut self.pending),
            State::Fenced => self.within_fence(),
            State::Inside { .. } | State::Behind => self.within_value(),
        }
    }

    /// Ends the text and returns what was held back.
    pub fn finish(&mut self) -> String {
        let rest = std::mem::take(&mut self.pending);
        match self.state {
            State::Fenced => {
                let body = rest.trim_end();
                let body = body.strip_suffix(FENCE).unwrap_or(body);
                body.trim_end_matches(['\r', '\n', ' ', '\t']).to_owned()
            }
            State::Behind => String::new(),
            // White space before the end of a value that was cut off.
            State::Begin | State::Plain | State::Inside { .. } => rest,
        }
    }

    /// Looks for the beginning of the wrapping.
    fn begin(&mut self) {
        let text = self.pending.trim_start();
        let found = match self.kind {
            Kind::Fence => find_fence_end(text),
            Kind::Value => find_value_start(text),
        };
        match found {
            Begin::More => {}
            Begin::None => self.state = State::Plain,
            Begin::At(end) => {
                self.pending = text[end..].to_owned();
                self.state = match self.kind {
                    Kind::Fence => State::Fenced,
                    Kind::Value => State::Inside { depth: 0, in_text: false, is_escaped: false },
                };
            }
        }
    }

    /// All but an end that may be the closing fence.
    fn within_fence(&mut self) -> String {
        let is_held = |c: char| c == '`' || c.is_whitespace();
        let shown = self.pending.trim_end_matches(is_held).len();
        let rest = self.pending.split_off(shown);
        std::mem::replace(&mut self.pending, rest)
    }

    /// The value up to its end, without white space behind it.
    fn within_value(&mut self) -> String {
        let State::Inside { mut depth, mut in_text, mut is_escaped } = self.state else {
            self.pending.clear();
            return String::new();
        };
        let mut end = None;
        for (at, c) in self.pending.char_indices() {
            match c {
                _ if is_escaped => is_escaped = false,
                '\\' if in_text => is_escaped = true,
                '"' => in_text = !in_text,
                _ if in_text => {}
                '{' | '[' => depth += 1,
                '}' if depth == 0 => {
                    end = Some(at);
                    break;
                }
                '}' | ']' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        if let Some(end) = end {
            self.state = State::Behind;
            let value = self.pending[..end].trim_end().to_owned();
            self.pending.clear();
            return value;
        }
        // White space may be the last thing of the value.
        let held = if in_text { self.pending.len() } else { self.pending.trim_end().len() };
        let rest = self.pending.split_off(held);
        // What is held back is looked at again, and changes no state.
        self.state = State::Inside { depth, in_text, is_escaped };
        std::mem::replace(&mut self.pending, rest)
    }
}

/// What the beginning of a text is.
enum Begin {
    /// More of it is needed.
    More,
    /// Not the wrapping.
    None,
    /// The wrapping, up to here.
    At(usize),
}

/// The end of a line such as "```json".
fn find_fence_end(text: &str) -> Begin {
    if FENCE.starts_with(text) {
        return Begin::More;
    }
    let Some(rest) = text.strip_prefix(FENCE) else { return Begin::None };
    match rest.find('\n') {
        Some(end) => Begin::At(FENCE.len() + end + 1),
        None if rest.len() > 32 => Begin::None,
        None => Begin::More,
    }
}

/// The place behind `{"value":` and white space.
fn find_value_start(text: &str) -> Begin {
    let mut rest = text;
    for token in ["{", "\"value\"", ":"] {
        rest = rest.trim_start();
        if rest.len() < token.len() && token.starts_with(rest) {
            return Begin::More;
        }
        let Some(next) = rest.strip_prefix(token) else { return Begin::None };
        rest = next;
    }
    let rest = rest.trim_start();
    if rest.is_empty() { Begin::More } else { Begin::At(text.len() - rest.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out, the text in pieces of each size.
    #[track_caller]
    fn check(filter: &TextFilter, text: &str, expected: &str) {
        for size in [1, 2, 3, 5, 8, text.len().max(1)] {
            let mut filter = filter.clone();
            let chars: Vec<char> = text.chars().collect();
            let mut out = String::new();
            for piece in chars.chunks(size) {
                out.push_str(&filter.push(&piece.iter().collect::<String>()));
            }
            out.push_str(&filter.finish());
            assert_eq!(out, expected, "{text:?} in pieces of {size}");
        }
    }

    #[test]
    fn a_fence_around_the_text_goes() {
        let fence = TextFilter::fence();
        check(&fence, "```json\n{\"a\": 1}\n```", "{\"a\": 1}");
        check(&fence, " \n```\n[1,\n2]\n```\n ", "[1,\n2]");
        check(&fence, "```json\n{\"a\":\"``` x\"}\n```", "{\"a\":\"``` x\"}");
        check(&fence, "{\"a\": 1}\n", "{\"a\": 1}\n");
        check(&fence, "``x", "``x");
        check(&fence, "", "");
        check(&fence, "```json\n{\"cut", "{\"cut");
    }

    #[test]
    fn the_value_comes_out_of_its_object() {
        let value = TextFilter::value();
        check(&value, r#"{"value":[1,{"value":"}"}]}"#, r#"[1,{"value":"}"}]"#);
        check(&value, "{ \"value\" : [ 1 ] \n}\n", "[ 1 ]");
        check(&value, r#"{"value":"a \" } b"}"#, r#""a \" } b""#);
        check(&value, r#"{"value":42}"#, "42");
        check(&value, r#"{"value":"é😀"}"#, r#""é😀""#);
        check(&value, r#"{"value":[1, 2"#, "[1, 2");
        check(&value, r#"[{"value":1}]"#, r#"[{"value":1}]"#);
        check(&value, r#"{"other":1}"#, r#"{"other":1}"#);
        check(&value, "no JSON", "no JSON");
        check(&value, "{\"val", "{\"val");
    }
}
