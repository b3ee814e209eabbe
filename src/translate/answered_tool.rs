//! Guesses which of a request's tools gave a result that does not say it.
//!
//! Pure. The time for a result is bounded: only the first [`MAX_TOOLS`] tools and the beginning of each
//! text count. Invariant: the answer is the name of one of the tools.

use std::cell::OnceCell;
use std::collections::BTreeSet;

use crate::api::ollama::decode::non_empty;
use crate::api::ollama::request::Tool;

/// The tools that are compared.
const MAX_TOOLS: usize = 256;
/// The bytes of a text that are compared.
const MAX_TEXT_BYTES: usize = 2048;
/// The letters of the shortest word that counts.
const MIN_WORD_CHARS: usize = 4;

/// The tools of a request, and the words of each.
pub(super) struct AnsweredTool<'a> {
    tools: &'a [Tool<'a>],
    /// Name and words; made when they are first needed.
    named: OnceCell<Vec<(&'a str, BTreeSet<String>)>>,
}

impl<'a> AnsweredTool<'a> {
    pub(super) fn new(tools: &'a [Tool<'a>]) -> Self {
        Self { tools, named: OnceCell::new() }
    }

    /// The only tool, or else the one whose name the result holds, or that has most words in common
    /// with the result and the question before it. Of equals, the first that was not `called` yet.
    /// `None` without tools.
    pub(super) fn find(
        &self,
        result: &str,
        question: &str,
        called: impl Fn(&str) -> bool,
    ) -> Option<&'a str> {
        let named = self.named.get_or_init(|| name_tools(self.tools));
        if let [(only, _)] = named[..] {
            return Some(only);
        }
        let result = beginning(result);
        let (in_result, in_question) = (words(result), words(question));
        let score = |(name, own): &(&str, BTreeSet<String>)| {
            let common = |others: &BTreeSet<String>| own.intersection(others).count();
            (result.contains(name), 2 * common(&in_result) + common(&in_question), !called(name))
        };
        // `max_by_key` returns the last of equals.
        named.iter().rev().max_by_key(|tool| score(tool)).map(|(name, _)| *name)
    }
}

fn name_tools<'a>(tools: &'a [Tool<'a>]) -> Vec<(&'a str, BTreeSet<String>)> {
    let functions = tools.iter().filter_map(|tool| tool.function.as_ref());
    let named = functions.filter_map(|function| {
        let name = non_empty(function.name.as_deref())?;
        let mut own = words(name);
        own.extend(words(function.description.as_deref().unwrap_or_default()));
        Some((name, own))
    });
    named.take(MAX_TOOLS).collect()
}

/// The words of a text in lower case; `getWeather` and `get_weather` have two.
fn words(text: &str) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    let mut word = String::new();
    let mut after_lowercase = false;
    for c in beginning(text).chars().chain([' ']) {
        if !c.is_alphanumeric() || (c.is_uppercase() && after_lowercase) {
            let ended = std::mem::take(&mut word);
            if ended.chars().count() >= MIN_WORD_CHARS {
                out.insert(ended);
            }
        }
        if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        }
        after_lowercase = c.is_lowercase();
    }
    out
}

fn beginning(text: &str) -> &str {
    let mut ends = (0..=MAX_TEXT_BYTES.min(text.len())).rev();
    ends.find_map(|end| text.get(..end)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The tool that is found; `tools` are `name: description`.
    #[track_caller]
    fn check(
        tools: &[&str],
        called: &[&str],
        question: &str,
        result: &str,
        expected: Option<&str>,
    ) {
        let tool = |text: &&str| {
            let (name, description) = text.split_once(": ").unwrap_or((*text, ""));
            json!({"function": {"name": name, "description": description}})
        };
        let text = Value::from_iter(tools.iter().map(tool)).to_string();
        let tools: Vec<Tool<'_>> = serde_json::from_str(&text).expect("valid");
        let found = AnsweredTool::new(&tools).find(result, question, |it| called.contains(&it));
        assert_eq!(found, expected, "{question} {result}");
    }

    const TOOLS: &[&str] =
        &["calculator: Evaluates an expression.", "getWeather: The weather in a city."];

    #[test]
    fn words_in_common_tell_the_tool() {
        check(&[], &[], "", "1", None);
        check(&["", "only"], &[], "", "1", Some("only"));
        let weather = "What is the weather in Bergen?";
        check(TOOLS, &[], weather, "Rain, 7 degrees", Some("getWeather"));
        check(TOOLS, &[], "Hm", "Weather: rain", Some("getWeather"));
        let named = r#"{"tool":"getWeather","value":7}"#;
        check(TOOLS, &[], "Calculator: evaluates an expression", named, Some("getWeather"));
    }

    #[test]
    fn of_equals_the_first_that_was_not_called_is_found() {
        check(TOOLS, &[], "Hm", "7", Some("calculator"));
        check(TOOLS, &["calculator"], "Hm", "7", Some("getWeather"));
        check(TOOLS, &["calculator", "getWeather"], "Hm", "7", Some("calculator"));
        let long = format!("{} weather", "é".repeat(MAX_TEXT_BYTES));
        check(TOOLS, &[], &long, &long, Some("calculator"));
    }
}
