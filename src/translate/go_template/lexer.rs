//! Cuts a template into tokens.
//!
//! Outside of actions there is text; inside of `{{` and `}}` there are names, constants and signs,
//! and blanks count, because they part the arguments of a command. Comments are gone here already.
//! A token knows the line that it begins in. After an error there is nothing more to be had.

use std::fmt;

use super::literal;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Something that is no token; [`Lexer::fault`] says why.
    Error,
    /// The end of the template.
    Eof,
    /// What stands outside of actions.
    Text,
    /// `{{`, with its trim marker if it has one.
    LeftDelim,
    /// `}}`, with its trim marker if it has one.
    RightDelim,
    /// A run of blanks and line breaks.
    Space,
    LeftParen,
    RightParen,
    Pipe,
    /// `:=`
    Declare,
    /// `=`
    Assign,
    /// Any other sign; a comma is the only one of use.
    Sign,
    Bool,
    CharConstant,
    Number,
    /// A number with a real and an imaginary part.
    Complex,
    /// A text in double quotes.
    String,
    /// A text in back quotes.
    RawString,
    /// The name of a function.
    Identifier,
    /// A name behind a dot.
    Field,
    /// A name behind a dollar sign, or that alone.
    Variable,
    /// A dot alone.
    Dot,
    Nil,
    Block,
    Break,
    Continue,
    Define,
    Else,
    End,
    If,
    Range,
    Template,
    With,
}

/// The words that are not names of functions.
const KEYWORDS: &[(&str, Kind)] = &[
    ("true", Kind::Bool),
    ("false", Kind::Bool),
    ("nil", Kind::Nil),
    ("block", Kind::Block),
    ("break", Kind::Break),
    ("continue", Kind::Continue),
    ("define", Kind::Define),
    ("else", Kind::Else),
    ("end", Kind::End),
    ("if", Kind::If),
    ("range", Kind::Range),
    ("template", Kind::Template),
    ("with", Kind::With),
];

/// What counts as blank, inside of actions and where a trim marker cuts.
const BLANKS: &[char] = &[' ', '\t', '\r', '\n'];

/// The length of a trim marker: a minus and a blank.
const MARKER: usize = 2;

/// A piece of a template.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    /// As it stands in the template; empty for an error.
    pub(super) text: &'a str,
    /// Where it begins, from 1.
    pub(super) line: usize,
}

/// As errors show it: keywords in angle brackets, all else quoted and cut.
impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keyword = || KEYWORDS.iter().any(|(_, keyword)| *keyword == self.kind);
        match self.kind {
            Kind::Eof => f.write_str("EOF"),
            Kind::Bool => f.write_str(&literal::quote(self.text)),
            Kind::Dot => f.write_str("<.>"),
            _ if keyword() => write!(f, "<{}>", self.text),
            _ if self.text.len() > 10 => {
                let start: String = self.text.chars().take(10).collect();
                write!(f, "{}...", literal::quote(&start))
            }
            _ => f.write_str(&literal::quote(self.text)),
        }
    }
}

/// Where in a template the next token begins.
#[derive(Debug)]
pub(super) struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    in_action: bool,
    /// Parentheses that are open in this action.
    parens: usize,
    /// What is wrong, once an error was met.
    pub(super) fault: String,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { rest: text, line: 1, in_action: false, parens: 0, fault: String::new() }
    }

    /// The next token.
    pub(super) fn next(&mut self) -> Token<'a> {
        if self.in_action { self.inside() } else { self.outside() }
    }

    /// The text before the next action, or the beginning of that.
    fn outside(&mut self) -> Token<'a> {
        loop {
            let Some(length) = self.rest.find("{{") else {
                let kind = if self.rest.is_empty() { Kind::Eof } else { Kind::Text };
                return self.token(kind, self.rest.len());
            };
            let (text, action) = self.rest.split_at(length);
            let trims = matches!(action.as_bytes(), [_, _, b'-', blank, ..] if is_blank(*blank));
            let kept = if trims { text.trim_end_matches(BLANKS).len() } else { length };
            let text = (kept > 0).then(|| self.token(Kind::Text, kept));
            self.skip(length - kept);
            if let Some(text) = text {
                return text;
            }
            let opening = if trims { 2 + MARKER } else { 2 };
            if !action[opening..].starts_with("/*") {
                let token = self.token(Kind::LeftDelim, 2);
                self.skip(opening - 2);
                (self.in_action, self.parens) = (true, 0);
                return token;
            }
            self.skip(opening);
            if let Err(fault) = self.comment() {
                return self.error(fault);
            }
        }
    }

    /// Skips a comment and the end of its action, which must follow at once.
    fn comment(&mut self) -> Result<(), &'static str> {
        let length = self.rest[2..].find("*/").ok_or("unclosed comment")? + 4;
        let trims =
            right_delim(&self.rest[length..]).ok_or("comment ends before closing delimiter")?;
        self.skip(length);
        self.close(trims);
        Ok(())
    }

    /// A token of an action.
    fn inside(&mut self) -> Token<'a> {
        if let Some(trims) = right_delim(self.rest) {
            if self.parens > 0 {
                return self.error("unclosed left paren");
            }
            self.in_action = false;
            return self.close(trims);
        }
        let Some(first) = self.rest.chars().next() else { return self.error("unclosed action") };
        match first {
            ' ' | '\t' | '\r' | '\n' => self.space(),
            '=' => self.token(Kind::Assign, 1),
            ':' if self.rest.starts_with(":=") => self.token(Kind::Declare, 2),
            ':' => self.error("expected :="),
            '|' => self.token(Kind::Pipe, 1),
            '"' => self.quoted(Kind::String, "unterminated quoted string"),
            '\'' => self.quoted(Kind::CharConstant, "unterminated character constant"),
            '`' => match self.rest[1..].find('`') {
                Some(length) => self.token(Kind::RawString, length + 2),
                None => self.error("unterminated raw quoted string"),
            },
            '$' => self.name(Kind::Variable, 1),
            // At the very end, a dot is taken for the beginning of a number.
            '.' if matches!(self.rest.as_bytes().get(1), Some(byte) if !byte.is_ascii_digit()) => {
                self.name(Kind::Field, 1)
            }
            '.' | '+' | '-' | '0'..='9' => self.number(),
            '(' | ')' => self.parenthesis(first == '('),
            letter if is_alphanumeric(letter) => self.name(Kind::Identifier, 0),
            sign if sign.is_ascii_graphic() => self.token(Kind::Sign, 1),
            other => {
                let fault = literal::code_point(other);
                self.error(format!("unrecognized character in action: {fault}"))
            }
        }
    }

    fn parenthesis(&mut self, opens: bool) -> Token<'a> {
        if opens {
            self.parens += 1;
            return self.token(Kind::LeftParen, 1);
        }
        if self.parens == 0 {
            return self.error("unexpected right paren");
        }
        self.parens -= 1;
        self.token(Kind::RightParen, 1)
    }

    /// The end of an action; with a trim marker, the blanks behind it are gone, too.
    fn close(&mut self, trims: bool) -> Token<'a> {
        self.skip(if trims { MARKER } else { 0 });
        let token = self.token(Kind::RightDelim, 2);
        if trims {
            self.skip(self.rest.len() - self.rest.trim_start_matches(BLANKS).len());
        }
        token
    }

    /// A run of blanks, but for the one that belongs to the trim marker behind it.
    fn space(&mut self) -> Token<'a> {
        let length = self.rest.len() - self.rest.trim_start_matches(BLANKS).len();
        let marker = right_delim(&self.rest[length - 1..]) == Some(true);
        self.token(Kind::Space, if marker { length - 1 } else { length })
    }

    /// A constant between two quotes of its first character, in one line.
    fn quoted(&mut self, kind: Kind, unterminated: &str) -> Token<'a> {
        let bytes = self.rest.as_bytes();
        let mut at = 1;
        loop {
            match (bytes.get(at), bytes.get(at + 1)) {
                (None | Some(b'\n'), _) | (Some(b'\\'), None | Some(b'\n')) => {
                    return self.error(unterminated);
                }
                (Some(b'\\'), Some(_)) => at += 2,
                (Some(byte), _) if *byte == bytes[0] => return self.token(kind, at + 1),
                (Some(_), _) => at += 1,
            }
        }
    }

    /// A word behind `prefix` bytes: a field, a variable, a keyword or a function.
    fn name(&mut self, kind: Kind, prefix: usize) -> Token<'a> {
        let word = &self.rest[prefix..];
        let length = prefix + word.find(|c| !is_alphanumeric(c)).unwrap_or(word.len());
        if let Some(bad) = unterminated(&self.rest[length..]) {
            return self.error(format!("bad character {}", literal::code_point(bad)));
        }
        let word = &self.rest[..length];
        let kind = match kind {
            Kind::Field if length == prefix => Kind::Dot,
            Kind::Identifier => {
                let keyword = KEYWORDS.iter().find(|(keyword, _)| *keyword == word);
                keyword.map_or(Kind::Identifier, |(_, keyword)| *keyword)
            }
            other => other,
        };
        self.token(kind, length)
    }

    /// A number, or two with a sign between them of which the second is imaginary. Whether it is
    /// one that Go can read is for the parser to find out.
    fn number(&mut self) -> Token<'a> {
        let real = literal::number_length(self.rest);
        let sign = real.ok().filter(|end| self.rest[*end..].starts_with(['+', '-']));
        let (kind, length) = match sign {
            None => (Kind::Number, real),
            Some(end) => {
                let whole = literal::number_length(&self.rest[end..]);
                let whole = whole.map(|length| end + length).map_err(|length| end + length);
                let imaginary = |length: &usize| self.rest[..*length].ends_with('i');
                let whole = whole.and_then(|it| if imaginary(&it) { Ok(it) } else { Err(it) });
                (Kind::Complex, whole)
            }
        };
        match length {
            Ok(length) => self.token(kind, length),
            Err(length) => {
                let text = literal::quote(&self.rest[..length]);
                self.error(format!("bad number syntax: {text}"))
            }
        }
    }

    /// The next `length` bytes as a token.
    fn token(&mut self, kind: Kind, length: usize) -> Token<'a> {
        let token = Token { kind, text: &self.rest[..length], line: self.line };
        self.skip(length);
        token
    }

    fn skip(&mut self, length: usize) {
        let (skipped, rest) = self.rest.split_at(length);
        self.line += skipped.bytes().filter(|byte| *byte == b'\n').count();
        self.rest = rest;
    }

    fn error(&mut self, fault: impl Into<String>) -> Token<'a> {
        self.fault = fault.into();
        Token { kind: Kind::Error, text: "", line: self.line }
    }
}

/// Whether an action ends here, and if so, whether it trims what follows.
fn right_delim(rest: &str) -> Option<bool> {
    match rest.as_bytes() {
        [b'}', b'}', ..] => Some(false),
        [blank, b'-', b'}', b'}', ..] if is_blank(*blank) => Some(true),
        _ => None,
    }
}

/// The character that cannot follow a name, where one does.
fn unterminated(rest: &str) -> Option<char> {
    let next = rest.chars().next()?;
    let ends = BLANKS.contains(&next)
        || matches!(next, '.' | ',' | '|' | ':' | ')' | '(')
        || rest.starts_with("}}");
    (!ends).then_some(next)
}

fn is_blank(byte: u8) -> bool {
    BLANKS.contains(&char::from(byte))
}

/// A little more than Go's letters and digits.
pub(super) fn is_alphanumeric(character: char) -> bool {
    character == '_' || character.is_alphanumeric()
}
