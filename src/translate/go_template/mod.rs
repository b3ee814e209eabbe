//! Whether a text is a template that Ollama would take: the syntax of Go's `text/template`, and
//! Go's words for what is wrong (ollama-api.md 9.1, 12.3).
//!
//! Nothing is ever rendered here: that is the upstream's work. What counts is that no template is
//! refused which Go accepts; where a rule of Go's is not worth its code (complex constants, letters
//! of far alphabets, exponents of hexadecimal floats), a text that Go refuses may pass.
//!
//! `lexer` cuts a text into tokens, `literal` knows Go's constants, `pipeline` what may stand in an
//! action and `parser` how actions may follow each other. Invariant: every text has an answer, in
//! time and memory that grow with its length alone. What nests is kept in lists that are bounded,
//! never in calls.

mod lexer;
mod literal;
mod parser;
mod pipeline;
#[cfg(test)]
mod tests;

/// Whether a template can be parsed.
///
/// # Errors
/// The text of Go's error, such as `template: :1: unexpected "}" in operand`.
pub fn check(text: &str) -> Result<(), String> {
    parser::Parser::new(text).check()
}
